"""Each check, given an input of which the statement is true (or, where it holds, untrue), comes out so.

`test_claims` changes figures and asks for the verdict; here tables, code and outputs are changed instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from qmoe_core import embedders
from qmoe_core.bundles import BundleDataset
from qmoe_core.paper import (
    latency,
    protocol,
    quantisation,
    reference,
    reference_networks,
    routing,
    short,
    tables,
)
from qmoe_core.paper import statistics as from_tables
from qmoe_core.paper.claim import Materials
from qmoe_core.paper.claims import BY_ID
from qmoe_core.paper.tables import PrintedCell, full_name
from qmoe_core.routing.uncertainty import softmax
from qmoe_core.runtime.store import Store

Patch = pytest.MonkeyPatch
Change = Callable[[Patch, Materials], object]


def print_instead(
    patch: Patch, number: int, change: Callable[[dict[str, PrintedCell]], dict[str, str]]
) -> None:
    """Tables with other cells: `change` gives the new text of a row's cells, by key."""
    rows = []
    for row in tables.table(number).rows:
        new = {key: PrintedCell.read(text) for key, text in change(row).items()}
        rows.append({**row, **new})
    changed = replace(tables.table(number), rows=tuple(rows))
    all_tables = tuple(changed if one.number == number else one for one in tables.tables())
    patch.setattr(tables, "tables", lambda: all_tables)


def name(row: dict[str, PrintedCell]) -> str:
    return full_name(row["model"].printed)


def only(model: str, **cells: str) -> Callable[[dict[str, PrintedCell]], dict[str, str]]:
    """A change of one model's row."""
    return lambda row: cells if name(row) == model else {}


def with_outputs(m: Materials, change: Callable[[BundleDataset], np.ndarray]) -> None:
    """The bundle's clips with other logits of the experts, float64 [n, N, C]."""
    data = m.data
    outputs = replace(data.outputs, logits=change(data))
    m.__dict__["data"] = replace(data, outputs=outputs)


def sharp_and_different(data: BundleDataset) -> np.ndarray:
    """Experts that are each sure of another class, but for every fifth clip."""
    n, experts, classes = data.outputs.logits.shape
    named = np.arange(experts) % classes * (np.arange(n) % 5 > 0)[:, None]
    return 60.0 * np.eye(classes)[named]


def one_deviates(_: Patch, m: Materials) -> None:
    """One expert of the mixture is sure of another class than the rest; the router has no preference."""
    outputs, mixture = m.data.outputs, m.bundle.settings().experts
    logits = np.zeros_like(outputs.logits)
    logits[..., 0] = 60.0
    deviant = outputs.experts.index(mixture[-1])
    logits[:, deviant] = np.roll(logits[:, deviant], 1, axis=-1)
    plain = {"router": np.zeros_like(outputs.router), "router_mc": np.zeros_like(outputs.router_mc)}
    m.__dict__["data"] = replace(m.data, outputs=replace(outputs, logits=logits, **plain))


def one_in_ten_wrong(data: BundleDataset, name: str = "q4") -> np.ndarray:
    """The float expert's logits for all, with every tenth clip's classes rolled in the one of that name."""
    logits = np.repeat(data.outputs.of(("fp32",)).logits, data.outputs.logits.shape[1], axis=1)
    row = data.outputs.experts.index(name)
    logits[::10, row] = np.roll(logits[::10, row], 1, axis=-1)
    return logits


def normalised_mixture(logits: np.ndarray, r: np.ndarray, k: int) -> np.ndarray:
    """Eq. 6 of distributions, in place of the code's."""
    weights = np.where(r >= np.sort(r, axis=-1)[:, -k][:, None], r, 0.0)
    return ((weights / weights.sum(axis=-1, keepdims=True))[..., None] * softmax(logits)).sum(axis=-2)


def flat_curve(
    _m: Materials, _train: np.ndarray, test: np.ndarray, *_: object, **__: object
) -> short.LearningCurve:
    """Of a training that is as good after every epoch."""
    return short.LearningCurve([0.9] * short.EPOCHS, short.EPOCHS, np.ones((short.EPOCHS, len(test)), bool))


def phases(whole: float, profiled: float, work: float) -> Change:
    def change(_: Patch, m: Materials) -> None:
        m.once("phases", lambda: [reference.Phase(whole, profiled, work, 1)] * 3)

    return change


def of_a_fast_network(patch: Patch, _: Materials) -> None:
    from torch import nn

    patch.setattr(reference_networks, "requantising", lambda *_: nn.Linear(1536, 50))
    patch.setattr(quantisation, "SIMULATED_CALLS", 20)


def that_learns(patch: Patch, _: Materials) -> None:
    from qmoe_core.experts.network import ExpertNetwork

    patch.setattr(short, "EPOCHS", 2)
    patch.setattr(
        reference_networks,
        "ComputedTernaryNetwork",
        lambda _, dim, classes, config: ExpertNetwork("bitnet", dim, classes, config),
    )


def with_equal_parameters(patch: Patch, _: Materials) -> None:
    patch.setattr(short, "by_epoch", flat_curve)
    print_instead(patch, 7, only("Q16-Base", params="1,206,770"))


def that_do_not_correlate(patch: Patch, _: Materials) -> None:
    energies = tables.table(3).values("energy")
    block = SimpleNamespace(ram_kwh=0.0, gross_kwh=1.0, calls=1)
    patch.setattr(latency.energy, "track", lambda *_: block)
    print_instead(
        patch, 3, lambda row: {"co2": f"{abs((row['energy'].value or 0.0) - energies.mean()) * 1e3:.0f}"}
    )


def counts(classes: int, *, router: bool) -> Change:
    """Table 1 with the parameters of heads of so many classes."""

    def millions(row: dict[str, PrintedCell]) -> dict[str, str]:
        return {"params": f"{reference.millions(name(row), classes, router=router):.2f}"}

    return lambda patch, _: print_instead(patch, 1, millions)


def other_levels(patch: Patch, _: Materials) -> None:
    patch.setattr(reference, "symmetric_top_level", lambda bits: 2**bits)
    print_instead(patch, 2, lambda row: {"f1": "0.500"} if row["bits"].printed == "1" else {})


def compressing(patch: Patch, _: Materials) -> None:
    kilobytes = {"Q4-Base": "617.2", "BitNet-Base": "80.06"}
    print_instead(patch, 7, lambda row: {"kilobytes": kilobytes[name(row)]} if name(row) in kilobytes else {})


def counting(patch: Patch, _: Materials) -> None:
    patch.setattr(reference, "value_summing_popcount", reference.bit_counting_popcount)
    print_instead(patch, 7, only("Q8-Base-PTQ", params="1,206,770"))


def cheaper(row: dict[str, PrintedCell]) -> dict[str, str]:
    return {"energy": "0.028"} if (row["bits"].printed, row["dataset"].printed) == ("4", "ESC-50") else {}


def longer(row: dict[str, PrintedCell]) -> dict[str, str]:
    latencies = {"BitNet-Q4/8/16-QMoE-C": "1299.13±34.55", "BitNet-Q4/8-QMoE-C": "1287.43±29.36"}
    return {"latency": latencies[name(row)]} if name(row) in latencies else {}


def more_with_curiosity(row: dict[str, PrintedCell]) -> dict[str, str]:
    return {"co2": "116" if name(row).endswith("-C") else "100"}


def as_the_other_table(row: dict[str, PrintedCell]) -> dict[str, str]:
    third = {name(one): one["co2"].printed for one in tables.table(3).rows}
    return {"co2": third[name(row)]} if name(row) in third else {}


def of_the_slowest(row: dict[str, PrintedCell]) -> dict[str, str]:
    return {"speedup": f"{tables.table(4).values('latency').max() / (row['latency'].value or 1.0):.2f}"}


def mean_of_the_row(row: dict[str, PrintedCell]) -> dict[str, str]:
    return {"mean": f"{np.mean([row[key].value or 0.0 for key in tables.DATASETS]):.3f}"}


HOLDING = (22, 36, 37, 39, 40, 41, 42)
SAME_FOLDS = short.folds
CHANGES: dict[int, Change] = {
    1: lambda patch, _: patch.setattr(routing, "as_coded", routing.as_printed),
    2: lambda patch, _: patch.setattr(reference, "tempered_curiosity", lambda r, alpha: r[:, ::-1]),
    3: counts(5, router=False),
    4: lambda patch, _: patch.setattr(reference, "unnormalised_mixture", normalised_mixture),
    5: lambda _, m: with_outputs(m, sharp_and_different),
    7: lambda patch, _: patch.setattr(short, "by_epoch", flat_curve),
    8: counts(50, router=True),
    10: lambda patch, _: patch.setattr(
        "timm.create_model", lambda *_, **__: SimpleNamespace(head_hidden_size=None, num_features=1024)
    ),
    11: lambda patch, _: print_instead(patch, 7, only("FP32-Base", params="438,770")),
    12: with_equal_parameters,
    13: of_a_fast_network,
    14: other_levels,
    15: that_learns,
    16: counting,
    17: lambda patch, _: print_instead(patch, 7, only("MoE", params="5,049,740")),
    18: compressing,
    19: phases(500.0, 490.0, 480.0),
    20: phases(2.0, 1.1, 1.0),
    21: lambda patch, _: print_instead(
        patch, 3, lambda row: {"co2": f"{latency.MUG_PER_MJ * (row['energy'].value or 0.0):.4f}"}
    ),
    22: that_do_not_correlate,
    23: lambda patch, _: print_instead(patch, 2, cheaper),
    24: lambda patch, _: patch.setattr(latency, "YEARLY_G", 1e6),
    25: lambda patch, _: print_instead(patch, 4, only(from_tables.UNIFORM, latency="1335.48±163.11")),
    26: lambda patch, _: patch.setattr(from_tables, "CURIOUS", f"{from_tables.UNIFORM}-C"),
    27: lambda patch, _: print_instead(patch, 5, lambda row: {"p": "0.001"}),
    28: lambda patch, _: print_instead(patch, 1, mean_of_the_row),
    29: lambda patch, _: print_instead(patch, 4, only("Q8-Base", latency="1170.39±3.2")),
    30: lambda patch, _: print_instead(patch, 4, of_the_slowest),
    31: one_deviates,
    32: lambda patch, _: print_instead(patch, 4, longer),
    33: lambda patch, _: print_instead(patch, 3, more_with_curiosity),
    34: lambda patch, _: print_instead(patch, 6, as_the_other_table),
    35: lambda patch, _: patch.setattr(
        from_tables, "ADVICE", dict.fromkeys(from_tables.ADVICE, ("Q8-Base",) * 2)
    ),
    36: lambda patch, _: print_instead(patch, 1, only("Q4-Base", mean="0.840")),
    37: lambda patch, _: patch.setattr(latency, "YEARLY_G", 1e-3),
    38: lambda patch, _: patch.setattr(
        embedders, "create", lambda *_, **__: SimpleNamespace(embed=lambda _: None)
    ),
    39: lambda _, m: with_outputs(m, one_in_ten_wrong),
    40: lambda _, m: with_outputs(m, one_in_ten_wrong),
    41: lambda _, m: with_outputs(m, lambda data: one_in_ten_wrong(data, "q1")),
    42: lambda patch, _: print_instead(patch, 7, only("MoE", kilobytes="600000.0")),
}


@pytest.mark.parametrize("number", sorted(CHANGES))
def test_an_input_of_which_the_opposite_is_true_turns_the_verdict(monkeypatch, tmp_path, number):
    claim, materials = BY_ID[number], Materials(Store(tmp_path))
    usual = "holds" if number in HOLDING else "does-not-hold"
    CHANGES[number](monkeypatch, materials)
    verdict = claim.judge(claim.measure(materials).values).verdict
    assert {verdict, usual} == {"holds", "does-not-hold"}


def test_every_claim_is_turned():
    assert sorted({*CHANGES, 6, 9}) == sorted(BY_ID)


def test_the_predefined_folds_turn_claim_6(monkeypatch, tmp_path):
    monkeypatch.setattr(short, "folds", lambda m, _: SAME_FOLDS(m, "official"))
    monkeypatch.setattr(short, "by_epoch", flat_curve)
    claim = BY_ID[6]
    assert claim.judge(claim.measure(Materials(Store(tmp_path))).values).verdict == "holds"


def test_the_code_s_other_half_is_not_taken_from_one_seed(monkeypatch, tmp_path):
    """Claim 9 with networks whose seed does not matter."""
    monkeypatch.setattr(short, "by_epoch", flat_curve)
    monkeypatch.setattr(short, "EPOCHS", 1)
    claim = BY_ID[9]
    assert claim.judge(claim.measure(Materials(Store(tmp_path))).values).verdict == "holds"


def test_other_folds_that_keep_recordings_together_do_not_turn_claim_6(monkeypatch, tmp_path):
    """The sentence is about the predefined folds, not about any that are as clean."""

    def apart(m, asked):
        return SAME_FOLDS(m, "official" if asked == "official" else "grouped")

    monkeypatch.setattr(short, "folds", apart)
    monkeypatch.setattr(short, "by_epoch", flat_curve)
    claim = BY_ID[6]
    figures = claim.measure(Materials(Store(tmp_path)))
    assert figures.values["leaking_random"] == figures.values["leaking_official"] == 0.0
    assert claim.judge(figures.values).verdict == "does-not-hold"


def test_what_folds_add_is_an_interval_over_recordings(monkeypatch, tmp_path):
    """A network that errs on one clip in ten of the predefined folds and on none of the random ones."""
    materials = Materials(Store(tmp_path))
    wrong = set(range(0, len(materials.sources), 10))

    def curve(m, train, test, *_, **__):
        official = [set(fold.test) for fold in SAME_FOLDS(m, "official")]
        right = np.array([set(test) not in official or clip not in wrong for clip in test])
        return flat_curve(m, train, test)._replace(right=np.tile(right, (short.EPOCHS, 1)))

    monkeypatch.setattr(short, "by_epoch", curve)
    low, high = protocol._folds_alone(materials)
    assert 0.06 < low < 0.1 < high < 0.14
