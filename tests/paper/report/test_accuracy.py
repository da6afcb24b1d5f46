"""The leak and its interval against counts made by hand, and steadiness of latency."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from qmoe_core.paper.report.accuracy import difference
from qmoe_core.paper.report.protocols import Scores

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 60)
FOLDS = np.tile(np.arange(3), 20)[None]


def scores(predicted: np.ndarray) -> Scores:
    return Scores(
        "sound", "official folds", "d", ("a", "b", "c"), LABELS, tuple(str(i // 2) for i in range(60)), (1,),
        {"fp32": predicted[None]}, FOLDS, {}, {}, (), {}, {}, 0, 0.5,
    )  # fmt: skip


def test_the_difference_is_that_of_the_mean_weighted_f1() -> None:
    good, bad = np.where(RNG.random(60) < 0.9, LABELS, 0), np.where(RNG.random(60) < 0.5, LABELS, 0)
    found = difference(scores(good), scores(bad), "fp32", resamples=200)

    def mean(said: np.ndarray) -> float:
        parts = [FOLDS[0] == fold for fold in range(3)]
        return float(
            np.mean([f1_score(LABELS[p], said[p], average="weighted", zero_division=0) for p in parts])
        )

    assert found.value == pytest.approx(mean(good) - mean(bad))
    assert 0.0 < found.low < found.value < found.high


def test_the_same_predictions_leak_nothing() -> None:
    said = np.where(RNG.random(60) < 0.7, LABELS, 0)
    assert difference(scores(said), scores(said), "fp32", resamples=20) == (0.0, 0.0, 0.0)
