"""Abstention by hand, curves that do not depend on the clips' order, and AUROC equal to scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qmoe_core.evaluation.selective import (
    MEASURES,
    auroc,
    detection,
    notable,
    risk_coverage,
    uncertainties,
)
from qmoe_core.routing import mixing
from qmoe_core.routing.mixing import Outputs, Settings

# Few different values, so that ties are common.
clips = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40)


def _split(given_clips: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([u for u, _ in given_clips], float), np.array([c for _, c in given_clips])


def test_risk_and_coverage_of_literals() -> None:
    curve = risk_coverage(np.array([0.3, 0.1, 0.9, 0.5]), np.array([False, True, False, True]))

    np.testing.assert_allclose(curve.coverage, [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(curve.risk, [0, 1 / 2, 1 / 3, 2 / 4])
    assert curve.threshold.tolist() == [0.1, 0.3, 0.5, 0.9]
    assert curve.aurc == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    np.testing.assert_allclose(curve.best, [0, 0, 1 / 3, 1 / 2])
    assert curve.excess_aurc == pytest.approx(1 / 8)
    assert curve.errors == 2


def test_equally_sure_clips_share_their_errors() -> None:
    curve = risk_coverage(np.array([1.0, 1.0, 0.0]), np.array([False, True, True]))

    np.testing.assert_allclose(curve.risk, [0, 0.5 / 2, 1 / 3])


def test_thresholds() -> None:
    curve = risk_coverage(np.array([0.1, 0.2, 0.2, 0.4, 0.8]), np.array([True, True, False, True, False]))

    assert curve.at(0.05).clips == 0
    assert curve.at(0.05).risk is None
    answered = curve.at(0.3)
    assert (answered.clips, answered.coverage, answered.risk) == (3, 0.6, pytest.approx(1 / 3))
    assert curve.at(9.0).risk == pytest.approx(2 / 5)
    np.testing.assert_allclose(curve.risk[[0, 3, 4]], [0, 1 / 4, 2 / 5])


def test_the_most_clips_within_a_target_error() -> None:
    curve = risk_coverage(np.array([0.1, 0.2, 0.2, 0.4, 0.8]), np.array([True, True, False, True, False]))

    within = curve.within(0.25)
    assert within is not None
    assert (within.threshold, within.clips, within.risk) == (0.4, 4, 0.25)
    nothing_wrong = curve.within(0.0)
    assert nothing_wrong is not None
    assert nothing_wrong.clips == 1  # not two: the second and third cannot be told apart
    assert risk_coverage(np.array([0.1]), np.array([False])).within(0.5) is None


@given(clips)
def test_the_curve_ends_at_the_error_rate_and_lies_between_best_and_worst(
    given_clips: list[tuple[int, bool]],
) -> None:
    uncertainty, correct = _split(given_clips)

    curve = risk_coverage(uncertainty, correct)
    worst = risk_coverage(correct.astype(float), correct)

    assert curve.risk[-1] == pytest.approx(1.0 - correct.mean())
    assert curve.errors == (~correct).sum()
    assert (curve.risk >= curve.best - 1e-12).all()
    assert (curve.risk <= worst.risk + 1e-12).all()
    assert curve.excess_aurc >= -1e-12
    assert risk_coverage(1.0 - correct, correct).excess_aurc == pytest.approx(0.0, abs=1e-12)
    assert (np.diff(curve.coverage) > 0.0).all()
    assert (np.diff(curve.threshold) >= 0.0).all()


@given(clips, st.randoms())
def test_the_order_of_the_clips_does_not_matter(given_clips: list[tuple[int, bool]], random) -> None:
    shuffled = list(given_clips)
    random.shuffle(shuffled)

    one, other = risk_coverage(*_split(given_clips)), risk_coverage(*_split(shuffled))

    np.testing.assert_allclose(one.risk, other.risk)


@given(clips, st.floats(0.0, 1.0))
def test_what_is_promised_within_a_risk_is_kept(given_clips: list[tuple[int, bool]], risk: float) -> None:
    uncertainty, correct = _split(given_clips)

    answered = risk_coverage(uncertainty, correct).within(risk)

    if answered is not None:
        chosen = uncertainty <= answered.threshold
        assert chosen.sum() == answered.clips
        assert (~correct[chosen]).mean() <= risk + 1e-9


def test_auroc_of_a_literal() -> None:
    # Of 2 × 2 pairs: 0.4 beats 0.1 and ties with 0.4, 0.8 beats both.
    assert auroc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True])) == 3.5 / 4


@given(clips)
def test_auroc_is_scikit_learns(given_clips: list[tuple[int, bool]]) -> None:
    from sklearn.metrics import roc_auc_score

    score, positive = _split(given_clips)
    assume(0 < positive.sum() < len(positive))

    assert auroc(score, positive) == pytest.approx(roc_auc_score(positive, score))
    assert auroc(-score, positive) == pytest.approx(1.0 - auroc(score, positive))


def test_detection_gives_an_interval_around_the_figure() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(300) < 0.3
    scores = {"good": positive + rng.normal(size=300), "blind": rng.normal(size=300)}

    found = detection(scores, positive)

    assert found is not None
    good, blind = found["good"], found["blind"]
    assert good.auroc == auroc(scores["good"], positive)
    assert (good.positives, good.negatives) == (positive.sum(), 300 - positive.sum())
    assert 0.6 < good.low < good.auroc < good.high < 0.9
    assert blind.low < 0.5 < blind.high
    assert detection(scores, positive) == found  # seeded
    assert detection(scores, positive, seed=1) != found


def test_the_interval_is_that_of_a_plain_bootstrap_of_recordings() -> None:
    """Clips of one recording are alike: resampling clips would make the interval too narrow."""
    rng = np.random.default_rng(5)
    positive = np.repeat(np.arange(30) < 10, 4)
    score = np.round(positive + np.repeat(rng.normal(size=30), 4), 1)
    recording = np.repeat(np.arange(30), 4)
    plain = [
        auroc(score[clips], positive[clips])
        for drawn in rng.integers(0, 30, (2000, 30))
        if 0 < positive[clips := (4 * drawn[:, None] + np.arange(4)).ravel()].sum() < 120
    ]

    found, of_clips = detection({"it": score}, positive, recording), detection({"it": score}, positive)

    assert found is not None
    assert of_clips is not None
    low, high = np.quantile(plain, [0.025, 0.975])
    assert found["it"].low == pytest.approx(low, abs=0.02)
    assert found["it"].high == pytest.approx(high, abs=0.02)
    assert of_clips["it"].high - of_clips["it"].low < 0.7 * (high - low)


@pytest.mark.parametrize("positive", [[True, True], [False, False]])
def test_nothing_to_detect(positive: list[bool]) -> None:
    assert detection({"it": np.array([0.0, 1.0])}, np.array(positive)) is None


def _outputs(q: list[list[list[float]]]) -> Outputs:
    logits = np.log(np.array(q))
    n, experts, _ = logits.shape
    return Outputs(("q4", "q8"), logits, np.zeros((n, experts)), np.zeros((3, n, experts)))


def test_every_uncertainty_is_named_and_is_the_mixtures() -> None:
    way = Settings(("q4", "q8"), top_k=2, curiosity="none")
    mixed = mixing.mix(_outputs([[[0.9, 0.1], [0.5, 0.5]]]), way)

    found = uncertainties(mixed)

    assert found.keys() == MEASURES.keys()
    assert found["total"] is mixed.total
    assert found["doubt"][0] == pytest.approx(0.3)


def test_notable_clips() -> None:
    outputs = _outputs(
        [
            [[0.9, 0.1], [0.9, 0.1]],  # sure
            [[0.5, 0.5], [0.5, 0.5]],  # unsure, not disputed
            [[0.8, 0.2], [0.2, 0.8]],  # disputed
            [[0.95, 0.05], [0.05, 0.95]],  # disputed more
            [[0.99, 0.01], [0.98, 0.02]],  # sure, and wrong
        ]
    )
    mixed = mixing.mix(outputs, Settings(("q4", "q8"), top_k=2))

    found = notable(mixed, np.array([0, 0, 0, 0, 1]), k=4)

    assert set(found.uncertain[:3].tolist()) == {1, 2, 3}
    assert found.disputed.tolist() == [3, 2]
    assert found.confidently_wrong.tolist() == [4]
    assert len(notable(mixed, np.array([1, 1, 1, 1, 1]), k=1).confidently_wrong) == 1
