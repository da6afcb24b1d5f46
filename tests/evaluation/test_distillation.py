"""`distilled` beside the other strategies: what the issue asks of it, on clips that nothing had seen."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from scipy.stats import spearmanr

from qmoe_core import bundles
from qmoe_core.cli import main
from qmoe_core.evaluation import distillation
from qmoe_core.evaluation.distillation import Comparison, compare, rank_correlation, spearman
from qmoe_core.routing import mixing
from tests.tiny import FROZEN


@pytest.fixture(scope="module")
def found() -> Comparison:
    """Of the bundle on log-mel statistics, for which it was asked."""
    kept = bundles.load(FROZEN / bundles.DEFAULT_NAME)
    return compare(kept, kept.settings())


def test_it_is_scipys_rank_correlation_with_ties_and_repetitions() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 40).astype(float), rng.normal(size=40).round(1)
    counts = rng.integers(0, 3, (5, 40))

    expected = [spearmanr(np.repeat(x, c), np.repeat(y, c)).statistic for c in counts]

    np.testing.assert_allclose(spearman(x, y, counts.astype(float)), expected)
    assert np.isnan(spearman(np.ones(4), np.arange(4.0), np.ones(4)))


def test_ranks_are_compared_within_folds() -> None:
    """Perfect in each of two folds, whose levels are the wrong way round."""
    true = np.array([1.0, 2.0, 3.0, 11.0, 12.0, 13.0])[:, None]
    predicted = np.array([21.0, 22.0, 23.0, 1.0, 2.0, 3.0])[:, None]

    ranks = rank_correlation(predicted, true, np.repeat([1, 2], 3), list("abcdef"), ["q4"], resamples=1)

    assert (ranks.within, ranks.experts) == (1.0, {"q4": 1.0})
    assert ranks.pooled < 0.0


def test_the_default_mixture_reaches_what_was_asked_for(found: Comparison) -> None:
    rows = {row.name: row for row in found.rows}
    assert list(rows) == ["disagreement", "distilled (bitnet)", "distilled (q1)", "router-mc", "none"]
    assert (found.clips, found.folds, found.alphas[found.at]) == (400, 5, 0.3)

    for name in ("distilled (bitnet)", "distilled (q1)"):
        row = rows[name]
        assert row.rank is not None
        assert row.rank.low <= row.rank.within <= row.rank.high
        assert row.rank.low >= 0.7
        assert min(row.rank.experts.values()) >= 0.7
        assert row.runs[found.at] <= 1.3
        assert row.agreement[found.at] >= 0.99
    bitnet = rows["distilled (bitnet)"]
    assert bitnet.rank is not None
    assert bitnet.rank.pooled >= 0.7
    assert bitnet.agreement[-1] > rows["router-mc"].agreement[-1]


def test_the_other_strategies_are_what_they_are(found: Comparison) -> None:
    disagreement, *_, router, none = found.rows

    assert disagreement.rank is not None
    assert disagreement.rank.within == pytest.approx(1.0)
    assert set(disagreement.runs) == {3.0}
    assert set(disagreement.agreement) == {1.0}
    assert set(router.runs) == set(none.runs) == {1.0}
    assert none.rank is None
    assert len({*none.f1}) == 1


def test_figures_are_those_of_the_mixture(found: Comparison) -> None:
    shipped = bundles.load(FROZEN / bundles.DEFAULT_NAME)
    data = shipped.dataset
    assert data is not None
    way = shipped.settings(curiosity="distilled", cheap="q1", alpha=100.0)
    at = found.alphas.index(100.0)
    row = next(row for row in found.rows if row.cheap == "q1")

    mixed = mixing.mix(data.outputs, way, predicted=shipped.predict_out_of_fold(way))
    true = mixing.mix(data.outputs, replace(way, curiosity="disagreement"))

    assert row.runs[at] == mixed.runs.mean() == 1.0 + mixed.asked.mean()
    assert row.agreement[at] == (mixed.weights.argmax(-1) == true.weights.argmax(-1)).mean()
    assert row.rank is not None
    assert row.rank.pooled == pytest.approx(
        spearmanr(mixed.predicted.mean(-1), true.disagreement.mean(-1)).statistic
    )


def test_the_command_measures_and_says_how(monkeypatch: pytest.MonkeyPatch, capfdbinary) -> None:
    monkeypatch.setattr(distillation, "CALLS", 50)
    monkeypatch.setattr(distillation.latency, "WARM_UP_S", 0.0)

    assert main(["sweep", "curiosity", "--cheap", "q1", "--alpha", "100", "--top-k", "2", "--json"]) == 0
    document = msgspec.json.decode(capfdbinary.readouterr().out)

    assert [row["name"] for row in document["rows"]] == [
        "disagreement",
        "distilled (q1)",
        "router-mc",
        "none",
    ]
    assert document["rows"][0]["latency"]["runs"] == 3.0
    assert document["rows"][1]["latency"]["runs"] == 3.0  # the cheap one, to weigh the two that answer
    assert document["rows"][3]["latency"]["runs"] == 2.0
    assert document["environment"]["threads"] == 1
    assert main(["sweep", "curiosity", "--alpha", "10"]) == 0
    text = capfdbinary.readouterr().out.decode()
    assert "distilled (bitnet)" in text
    assert "each judged by experts, router and head that had not seen it" in text
