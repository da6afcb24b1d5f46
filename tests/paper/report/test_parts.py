"""Parts of the report against inputs made by hand: each verdict and figure comes out either way."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from qmoe_core.config import RouterConfig
from qmoe_core.errors import ConfigError
from qmoe_core.paper import tables as paper
from qmoe_core.paper.report import mixtures, operations, printed, roc
from qmoe_core.paper.report.printed import MISMATCH, OK, Band
from qmoe_core.paper.report.progress import WholeRun
from qmoe_core.paper.report.protocols import Scores
from qmoe_core.paper.report.study import Model
from qmoe_core.routing.mixing import Outputs
from qmoe_core.training.crossval import FOUND

RNG = np.random.default_rng(3)
CLIPS = 120
LABELS = RNG.integers(0, 3, CLIPS)
FOLDS = np.tile(np.arange(3), CLIPS // 3)[None]
SOURCES = tuple(str(i // 2) for i in range(CLIPS))
MIXTURE = Model("bitnet+ptq8", "BitNet-Q8PTQ-QMoE", ("bitnet", "ptq8"))


def said(right: float) -> np.ndarray:
    """Labels of a classifier that is right so often."""
    return np.where(RNG.random(CLIPS) < right, LABELS, (LABELS + 1) % 3)


def scores(predicted: dict[str, np.ndarray] | None = None, **more: Any) -> Scores:
    return Scores(
        "sound", "official folds", "d", ("a", "b", "c"), LABELS, SOURCES, (1,),
        {name: labels[None] for name, labels in (predicted or {}).items()}, FOLDS, {}, {}, (), {}, {}, 0, 0.5,
        **more,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("of_mixture", "verdict"), [(0.98, "better"), (0.3, "worse"), (0.7, "no difference shown")]
)
def test_a_mixture_may_beat_its_experts_or_not(monkeypatch, of_mixture: float, verdict: str) -> None:
    models = [Model(name, name, (name,)) for name in MIXTURE.experts]
    monkeypatch.setattr(mixtures, "of_all", lambda studies: [*models, MIXTURE])
    same = said(0.7)
    studies = [
        SimpleNamespace(
            name=name,
            tables=scores(
                {
                    "bitnet": said(0.5),
                    "ptq8": same,
                    MIXTURE.ours: same if of_mixture == 0.7 else said(of_mixture),
                }
            ),
        )
        for name in ("one", "other")
    ]
    found = mixtures.compare(studies, resamples=300)  # pyright: ignore[reportArgumentType]
    assert [one.dataset for one in found] == ["one", "other", mixtures.EVERY]
    assert [one.verdict for one in found] == [verdict] * 3
    for one in found:
        assert one.best in ("ptq8", "")
        assert one.over_best.value == pytest.approx(one.f1 - one.best_f1)
    single, other, both = (one.over_best for one in found)
    assert both.value == pytest.approx((single.value + other.value) / 2)
    assert both.high - both.low <= max(single.high - single.low, other.high - other.low)
    assert verdict == "no difference shown" or both.low * both.high > 0


def test_larger_alpha_moves_more_clips() -> None:
    outputs = Outputs(
        ("bitnet", "ptq8"),
        RNG.normal(0.0, 3.0, (1, CLIPS, 2, 3)),
        RNG.normal(size=(1, CLIPS, 2)),
        np.zeros((1, 1, CLIPS, 2)),
    )
    made = scores(mixed={"bitnet+ptq8": outputs}, router=RouterConfig(alpha=7.0))
    plain, *curious = mixtures.by_alpha(made, "bitnet+ptq8", (0.0, 10.0, 300.0))
    assert (plain.routing == plain.r).all()
    moved = [(mixed.routing.argmax(-1) != plain.routing.argmax(-1)).mean() for mixed in curious]
    assert 0.0 < moved[0] < moved[1]


def test_areas_are_those_of_scikit_learn() -> None:
    q = RNG.dirichlet(np.ones(3), (1, CLIPS))
    found = roc.areas(scores(), q)
    own = FOLDS[0] == 2
    expected = [roc_auc_score(LABELS[own] == label, q[0, own, label]) for label in range(3)]
    assert found.shape == (3, 3)
    assert found[2] == pytest.approx(expected)
    wrong, right = roc.curve(scores(), np.eye(3)[LABELS][None])
    assert (wrong[0], right[0], right[-1]) == (0.0, 1.0, 1.0)


def test_operations_are_those_of_the_shapes() -> None:
    single, plain, curious = (
        operations.of_model(Model("", "", names, curious), 1000, 10)
        for names, curious in (
            (("q4",), False),
            (("bitnet", "q4", "q8"), False),
            (("bitnet", "q4", "q8"), True),
        )
    )
    assert (single, plain, curious) == (1000, 1010, 3010)
    front, network = operations.before_the_head("ds-cnn:q8")
    statistics = operations.before_the_head("logmel-stats")
    assert front == statistics[0]  # the same spectrogram
    assert network is not None
    assert statistics[1] is not None
    assert network > 10 * statistics[1]
    assert operations.before_the_head(None) == (None, None)


@pytest.mark.parametrize(
    ("number", "text", "changed"),
    [(1, "0.859±0.012", "0.862±0.012"), (2, "95.5", "95.9"), (3, "3.87", "3.95"), (7, "7.03×", "7.05×")],
)
def test_a_changed_value_is_a_mismatch(monkeypatch, number: int, text: str, changed: str) -> None:
    """The rules find what does not follow, and nothing in what does."""
    before = {(c.table, c.row, c.column): c.verdict for c in printed.arithmetic()}
    table = paper.table(number)
    cells = [(row, key) for row in table.rows for key in row if row[key].printed == text]
    monkeypatch.setitem(*cells[0], paper.PrintedCell.read(changed))
    after = {(c.table, c.row, c.column): c.verdict for c in printed.arithmetic()}
    turned = {place for place, verdict in after.items() if verdict != before[place]}
    assert turned
    assert {after[place] for place in turned} == {MISMATCH}


def test_what_rounds_to_the_printed_is_no_mismatch() -> None:
    assert Band.of("0.819").over(Band.of("0.819"), 100.0).verdict(Band.of("99.9")) == OK
    assert Band.of("0.783").over(Band.of("0.819"), 100.0).verdict(Band.of("95.8")) == MISMATCH
    found = [c for c in printed.arithmetic() if c.verdict == MISMATCH]
    assert {c.table for c in found} == {1, 3}
    assert ("BitNet-Q4/8-QMoE-C", "Avg F1") in {(c.row, c.column) for c in found}
    assert {c.row for c in found if c.table == 3} == {row["model"].printed for row in paper.table(3).rows}


def test_published_files_are_found_by_the_codes_tags(tmp_path: Path) -> None:
    places = {
        "esc_alpha_030/moe": ("BitNet-Q4/8-QMoE-C", "esc50"),
        "quinn_bitnet_8_16_qesc_curiosity": ("BitNet-Q8/16-PTQ-QMoE-C", "quinn"),
        "Urban8 Results/urban_individual_models_all_final/4": ("Q4-Base", "urban8k"),
        "somebody/else": None,
    }
    with pytest.raises(ConfigError, match="accepted is a folder"):
        printed.published(tmp_path)
    for number, place in enumerate(places):
        (tmp_path / place).mkdir(parents=True)
        text = json.dumps({"f1_mean": number / 10, "f1_std": 0.01, "folds": [1, 2]})
        (tmp_path / place / "summary.json").write_text(text)
    found = printed.published(tmp_path)
    assert set(found) == {place for place in places.values() if place}
    assert found["Q4-Base", "urban8k"].f1_mean == pytest.approx(0.2)
    (tmp_path / "esc_alpha_030" / "moe" / "summary.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"summary\.json: is no"):
        printed.published(tmp_path)


def test_the_time_left_is_that_of_the_work_left() -> None:
    now, shown = [0.0], []
    whole = WholeRun(
        lambda title: lambda done, total, message: shown.append(f"{title}: {message}"),
        {("a", "sound"): {"training": 100.0}, ("b", "sound"): {"training": 300.0}},
        0,
        clock=lambda: now[0],
    )
    assert whole.left() is None
    whole.begin("a", "sound")
    show = whole.progress("training")
    show(5, 10, FOUND)  # takes no time, and says nothing of how fast this machine is
    assert whole.left() is None
    now[0] = 10.0
    show(10, 10, "q4")
    assert whole.left() == pytest.approx(60.0)  # 50 took 10 s; 300 are left
    assert shown[-1].startswith("a, step 1 of 2: training: q4; about 1")
    whole.begin("b", "sound")
    whole.progress("training")(5, 10, "q4")
    assert whole.left() is not None
    assert whole.left() == pytest.approx(150.0 * 10.0 / 200.0)
    whole.begin("a", "costs")
    whole.progress("latency")(1, 2, "rounds")
    assert shown[-1] == "a: latency: rounds"
