"""Formats, fronts, budgets and scenarios, from a small bundle and from literals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmoe_core import bundles
from qmoe_core.bundles import Bundle
from qmoe_core.errors import BundleError, ConfigError
from qmoe_core.evaluation.formats import (
    Format,
    formats,
    measured_on,
    weight_grid,
    weight_grids,
)
from qmoe_core.evaluation.pareto import Budget, cheapest, front, misfits
from qmoe_core.evaluation.scenarios import SCENARIOS, answer, answers
from qmoe_core.experts.spec import EXPERTS, NAMES
from qmoe_core.measure.bench import BenchReport


@pytest.fixture(scope="module")
def loaded(tiny_run) -> Bundle:
    return bundles.load(tiny_run.bundle)


def _one(name: str, f1: float, size: int = 100, p50: float | None = None, **more) -> Format:
    made = Format(
        name=name,
        kind="expert",
        bits=EXPERTS[name].bits,
        f1=f1,
        f1_std=0.015,
        n=5,
        f1_folds=(),
        share_of_16bit=f1 / 0.9,
        bytes=size,
        p50_us=p50,
        p99_us=None if p50 is None else 2.0 * p50,
    )
    return replace(made, **more)


CANDIDATES = (
    _one("fp32", 0.92, 2_900_000, 80.0),
    _one("q16", 0.90, 1_460_000, 30.0),
    _one("q4", 0.91, 388_000, 13.0),
    _one("q1", 0.895, 119_000, 12.0),
    _one("popcount", 0.86, 119_300, 7.0),
)


def test_every_expert_and_mixture_of_a_bundle(loaded: Bundle) -> None:
    rows = {one.name: one for one in formats(loaded)}

    assert set(NAMES) < rows.keys()
    assert rows.keys() - set(NAMES) == {
        "bitnet+q4+q8",
        "bitnet+q4+q8 curious",
        "fp32+popcount",
        "fp32+popcount curious",
    }
    q4, mixture = rows["q4"], rows["bitnet+q4+q8 curious"]
    assert (q4.kind, q4.bits, q4.p50_us, q4.energy_mj) == ("expert", 4, None, None)
    assert q4.bytes == loaded.expert_bytes("q4")
    assert q4.share_of_16bit == q4.f1 / rows["q16"].f1
    assert rows["q16"].share_of_16bit == 1.0
    assert (mixture.kind, mixture.bits, mixture.f1_folds) == ("mixture", None, ())
    router = (loaded.path / "router.safetensors").stat().st_size
    assert mixture.bytes == router + sum(rows[name].bytes for name in ("bitnet", "q4", "q8"))


def test_folds_are_those_of_the_run(loaded: Bundle, tiny_run) -> None:
    trained = {row.name: row for row in tiny_run.report.rows}

    for one in formats(loaded):
        if one.kind == "expert":
            assert one.f1 == pytest.approx(trained[one.name].f1_mean)
            assert one.f1_std == pytest.approx(trained[one.name].f1_std)
            np.testing.assert_allclose(one.f1_folds, trained[one.name].f1_folds)


def test_measurements_are_matched_by_name(loaded: Bundle) -> None:
    times = [{"name": "q4", "p50_us": 1.0, "p95_us": 2.0, "p99_us": 3.0, "std_us": 0.5}]
    energies = [{"name": "q4", "gross_mj": 0.2, "source": "modelled", "co2_ug": 7.0}]
    shape = [loaded.manifest.dim, *loaded.config.expert.hidden, len(loaded.classes)]
    where = {"processor": "Some CPU", "threads": 1, "shape": shape}

    latency = BenchReport("latency", where, times)
    rows = {one.name: one for one in formats(loaded, latency, BenchReport("energy", {}, energies))}

    assert (rows["q4"].p50_us, rows["q4"].p95_us, rows["q4"].p99_us, rows["q4"].std_us) == (
        1.0,
        2.0,
        3.0,
        0.5,
    )
    assert (rows["q4"].energy_mj, rows["q4"].energy_source, rows["q4"].co2_ug) == (0.2, "modelled", 7.0)
    assert rows["q8"].p50_us is None
    assert measured_on(latency, loaded).startswith("Some CPU, 1 thread, network")
    assert measured_on(latency, loaded).endswith("(as in this bundle)")
    other = BenchReport("latency", {**where, "shape": [1536, 640, 320, 50]}, times)
    assert "network 1536–640–320–50 (this bundle has" in measured_on(other, loaded)
    assert measured_on(BenchReport("energy", {"processor": "Some CPU", "threads": 2}, []), loaded) == (
        "Some CPU, 2 threads"
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layer", [0, 1])
def test_a_weight_grid_is_a_histogram_of_what_is_stored(loaded: Bundle, name: str, layer: int) -> None:
    held = loaded.weights(name).layers[layer]

    grid = weight_grid(loaded, name, layer)

    assert grid.share.sum() == pytest.approx(1.0)
    assert (np.diff(grid.values) > 0.0).all()
    assert grid.zeros == (held.matrix == 0).mean()
    assert grid.bits == EXPERTS[name].bits
    assert 0.0 <= grid.entropy_bits <= np.log2(len(grid.values)) + 1e-9
    if held.codes is not None and grid.levels is not None and grid.levels <= 256:
        scale = np.median(held.scale)
        for value, share in zip(grid.values, grid.share, strict=True):
            assert share == pytest.approx((held.codes == round(value / scale)).mean())


def test_one_bit_has_no_zero_and_two_bits_have_most_there(loaded: Bundle) -> None:
    grids = {grid.name: grid for grid in weight_grids(loaded)}

    assert list(grids) == list(loaded.experts)
    assert grids["q1"].zeros == grids["popcount"].zeros == 0.0
    assert (grids["q1"].levels, grids["q2"].levels, grids["bitnet"].levels) == (2, 4, 3)
    assert grids["fp32"].levels is None
    assert grids["q2"].zeros > grids["q4"].zeros > grids["q8"].zeros
    assert grids["q2"].entropy_bits < 2.0


def test_grids_that_are_not_there(loaded: Bundle) -> None:
    with pytest.raises(BundleError, match="no expert 'q5'; there are fp32"):
        weight_grid(loaded, "q5")
    with pytest.raises(BundleError, match="no hidden layer 2; accepted is 0 to 1"):
        weight_grid(loaded, "q4", 2)


def test_the_front_of_literals() -> None:
    assert front(CANDIDATES) == (True, False, True, True, True)
    # Without size, the 4-bit expert beats all but the float one and those that are faster still.
    assert front(CANDIDATES, ("p50_us",)) == (True, False, True, True, True)
    assert front(CANDIDATES, ("bytes",)) == (True, False, True, True, False)
    assert front([]) == ()


def test_what_was_not_measured_is_not_on_the_front() -> None:
    unknown = _one("q8", 0.99, 1)

    assert front([unknown, *CANDIDATES])[0] is False
    assert front([unknown, *CANDIDATES])[1:] == front(CANDIDATES)
    assert front([unknown], ("bytes",)) == (True,)


figures = st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(1, 4))


@given(st.lists(figures, max_size=12))
def test_nobody_on_the_front_is_beaten_and_everybody_else_is(rows: list[tuple[int, int, int]]) -> None:
    made = [_one("q4", f1 / 10.0, size, float(p50)) for f1, size, p50 in rows]

    def beats(a: tuple[int, int, int], b: tuple[int, int, int]) -> bool:
        return a != b and a[0] >= b[0] and a[1] <= b[1] and a[2] <= b[2]

    assert front(made) == tuple(not any(beats(a, b) for a in rows) for b in rows)


def test_the_cheapest_that_keeps_99_percent_and_answers_within_50_us() -> None:
    choice = cheapest(CANDIDATES, Budget(keep=0.99, deadline_us=50.0))

    assert choice.format is CANDIDATES[3]
    assert choice.fitting == ("q1", "q4")
    assert choice.sentence == (
        "q1 is the smallest of 2 that fit: F1 0.895 (99.4 % of 16-bit), 119 kB, 12 µs (p50)."
    )
    assert choice.misfits == {
        "fp32": ("160 µs (p99) is more than 50 µs (p99)",),
        "q16": ("60 µs (p99) is more than 50 µs (p99)",),
        "popcount": ("it keeps 95.6 % of the 16-bit F1, not 99 %",),
    }
    assert cheapest(CANDIDATES, Budget(deadline_us=50.0, quantile="p50_us"), "p50_us").fitting == (
        "popcount",
        "q1",
        "q4",
        "q16",
    )


def test_nothing_fits() -> None:
    choice = cheapest(CANDIDATES, Budget(keep=0.99, bytes=100_000))

    assert choice.format is None
    assert choice.sentence == "Nothing fits: nearest is q1, but 119 kB is more than 100 kB."
    assert cheapest([], Budget()).sentence == "Nothing fits: there are no formats."


def test_what_was_not_measured_does_not_fit() -> None:
    assert misfits(_one("q4", 0.9), Budget(deadline_us=50.0, energy_mj=1.0)) == (
        "its latency was not measured on this machine",
        "its energy was not measured on this machine",
    )
    assert cheapest([_one("q4", 0.9)], Budget(), "p99_us").format is None
    assert misfits(_one("q4", 0.9, share_of_16bit=None), Budget(keep=0.9)) == (
        "there is no 16-bit expert to compare with",
    )
    assert misfits(_one("q4", 0.9), Budget()) == ()


def test_a_cost_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="accepted is bytes, p50_us"):
        cheapest(CANDIDATES, Budget(), "price")  # pyright: ignore[reportArgumentType]


def test_the_scenarios_are_the_papers() -> None:
    assert {s.id: tuple(pick.ours for pick in s.picks) for s in SCENARIOS} == {
        "latency": ("q1", "q8"),
        "balanced": ("q4",),
        "accuracy": ("q16",),
        "memory": ("bitnet+q4+q8 curious",),
        "stable": ("q8",),
        "energy": ("bitnet+ptq8",),
        "mixture-accuracy": ("bitnet+q4+q8+q16",),
        "mixture-balanced": ("bitnet+q4+q8 curious",),
        "mixture-stable": ("bitnet+q8+q16+ptq8 curious",),
    }


def test_answers_from_literals() -> None:
    powered = [
        replace(one, energy_mj=(one.p50_us or 0.0) / 1e3, energy_source="modelled") for one in CANDIDATES
    ]
    found = {one.scenario.id: one for one in answers(powered)}

    picked = {name: one.format.name if one.format else None for name, one in found.items()}
    assert picked == {
        "latency": "popcount",
        "balanced": "q1",
        "accuracy": "fp32",
        "memory": "q1",
        "stable": "q1",
        "energy": "q1",
        "mixture-accuracy": None,
        "mixture-balanced": None,
        "mixture-stable": None,
    }
    assert found["latency"].reason == "popcount: F1 0.860 (95.6 % of 16-bit), 7 µs (p50), 119 kB."
    assert found["latency"].verdict == "The paper picks Q1-Base or Q8-Base; here q1: F1 0.895, 12 µs (p50)."
    assert "1 of 4 others lie within its fold deviation of 0.015" in found["accuracy"].reason
    assert "12 µs more than its median" in found["stable"].reason
    assert "0.012 mJ, modelled" in found["energy"].reason
    assert found["memory"].verdict.endswith("this bundle has no such model.")


def test_the_papers_pick_can_be_ours() -> None:
    best = replace(CANDIDATES[1], f1=0.95)

    assert answer(SCENARIOS[2], [best, *CANDIDATES[2:]]).verdict == "The paper picks Q16-Base too."


def test_no_measurement_no_answer_but_a_way_on() -> None:
    found = {one.scenario.id: one for one in answers([_one("q4", 0.91), _one("q16", 0.9)])}

    assert found["latency"].format is None
    assert "qmoe bench latency" in found["latency"].reason
    assert "qmoe bench energy" in found["energy"].reason
    assert found["accuracy"].format is not None
    assert answer(SCENARIOS[3], [_one("q1", 0.5)]).reason == "Nothing keeps 99 % of the 16-bit F1."
