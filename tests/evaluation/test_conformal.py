"""Prediction sets hold the true label as often as they say, and limits keep the risk that they promise."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import soundfile

from qmoe_core import bundles, cli
from qmoe_core.errors import BundleError, ConfigError
from qmoe_core.evaluation.conformal import (
    Promise,
    kept,
    kept_by,
    limits,
    limits_from,
    quantile,
    risk_limit,
    scores,
)
from qmoe_core.routing.uncertainty import softmax


def test_scores_by_hand() -> None:
    p = np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])

    np.testing.assert_allclose(scores(p), 1.0 - p)
    np.testing.assert_allclose(scores(p, "adaptive"), [[1.0, 0.5, 0.8], [0.6, 0.9, 1.0]])


@pytest.mark.parametrize("kind", ["threshold", "adaptive"])
@pytest.mark.parametrize("coverage", [0.9, 0.95])
def test_sets_of_new_clips_hold_the_true_label_as_often_as_they_say(kind, coverage) -> None:
    """Over 400 draws of 99 clips to set them and 50 new ones; ± 1 % is five standard errors."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(6, 0.4), size=(400, 149))
    labels = (p.cumsum(axis=-1) < rng.random((400, 149, 1))).sum(axis=-1).clip(0, 5)
    own = np.take_along_axis(scores(p, kind), labels[..., None], axis=-1)[..., 0]

    held = [
        (new <= quantile(old, coverage)).mean() for old, new in zip(own[:, :99], own[:, 99:], strict=True)
    ]

    assert np.mean(held) == pytest.approx(coverage, abs=0.01)


def test_too_few_clips_promise_nothing() -> None:
    assert quantile(np.arange(18.0), 0.95) == math.inf
    assert quantile(np.arange(19.0), 0.95) == 18.0


def test_a_risk_is_kept_in_nineteen_draws_of_twenty() -> None:
    """Errors are as likely as the doubt says: the true risk of a limit is the mean doubt below it."""
    rng, broken, refused = np.random.default_rng(1), 0, 0
    many = np.sort(rng.beta(0.5, 2.0, 100_000))
    for _ in range(300):
        doubt = rng.beta(0.5, 2.0, 300)
        try:
            limit = risk_limit(doubt, rng.random(300) < doubt, 0.1)
        except ConfigError:
            refused += 1
            continue
        broken += many[many <= limit].mean() > 0.1
    assert refused < 15
    assert broken <= 0.05 * 300 + 3 * math.sqrt(0.05 * 0.95 * 300)


def test_a_risk_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(ConfigError, match="no limit keeps with 95% confidence"):
        risk_limit(np.linspace(0, 1, 100), np.ones(100, bool), 0.1)
    with pytest.raises(ConfigError, match="no limit keeps"):
        risk_limit(np.zeros(20), np.zeros(20, bool), 0.01)  # too few clips to know


def test_limits_of_the_shipped_bundle_do_what_they_promise_on_its_clips() -> None:
    loaded = bundles.load()
    settings, data = loaded.settings(), loaded.dataset
    p = loaded.reference(settings).probabilities
    wrong = p.argmax(axis=-1) != data.labels

    answered = 1.0 - p.max(axis=-1) <= limits(loaded, settings, Promise(risk=0.05)).doubt
    most = 1.0 - p.max(axis=-1) <= limits(loaded, settings, Promise(coverage=0.9)).doubt

    assert 0.7 < answered.mean() < 1.0
    assert wrong[answered].mean() < 0.05 < wrong.mean()
    assert 0.9 <= most.mean() <= 0.905
    plain = limits(loaded, settings)
    assert plain == limits(loaded, settings, Promise(coverage=0.95))  # when nothing is asked for
    few = limits(loaded, settings, Promise(coverage=0.3))
    assert (few.largest, few.coverage) == (plain.largest, 0.95)  # sets do not follow how many are answered
    assert limits(loaded, settings, Promise(of_sets=0.5)).largest < plain.largest
    assert limits(loaded, settings, Promise(coverage=1.0)).doubt == 1.0
    held = [
        loaded.classes[y] in plain.labels(row, loaded.classes) for row, y in zip(p, data.labels, strict=True)
    ]
    assert 0.95 <= np.mean(held) <= 0.955


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"coverage": 1.1}, "--coverage is 1.1; accepted is more than 0, and 1 at most"),
        ({"risk": 0.0}, "--risk is 0; accepted"),
        ({"risk": 0.1, "coverage": 0.9}, "give one of them"),
        ({"score": "small"}, "--sets is 'small'; accepted is threshold or adaptive"),
        ({"of_sets": 1.0}, "--sets is 1; accepted is a share between 0 and 1"),
    ],
)
def test_limits_that_make_no_sense_are_refused(asked, says) -> None:
    with pytest.raises(ConfigError, match=says):
        Promise(**asked)


@pytest.mark.parametrize(("kind", "called"), [("threshold", "lac"), ("adaptive", "aps")])
def test_sets_are_those_of_mapie(kind, called) -> None:
    from mapie.classification import SplitConformalClassifier
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Said(ClassifierMixin, BaseEstimator):
        """Answers with the probabilities that it is given."""

        classes_, fitted_ = np.arange(10), True

        def predict_proba(self, p):
            return p

        def predict(self, p):
            return p.argmax(axis=-1)

    class NoChance(np.random.RandomState):
        """Theirs draws how much of the true label’s probability counts; ours counts all of it."""

        def uniform(self, size):
            return np.zeros(size)

    loaded = bundles.load()
    data = loaded.dataset
    more = {} if kind == "threshold" else {"conformity_score_params": {"include_last_label": False}}
    said = [
        *np.moveaxis(softmax(data.outputs.logits), 1, 0),
        loaded.reference(loaded.settings()).probabilities,
    ]
    new, equal = data.folds > 3, []
    for p, level in product(said, (0.9, 0.95)):
        mapie = SplitConformalClassifier(
            Said(), confidence_level=level, conformity_score=called, random_state=NoChance()
        )
        mapie.conformalize(p[~new], data.labels[~new])
        theirs = mapie.predict_set(p[new], **more)[1][..., 0]
        ours = limits_from(p[~new], data.labels[~new], Promise(of_sets=level, score=kind)).held(p[new])
        if kind == "adaptive":  # theirs are never empty
            ours[np.arange(len(ours)), p[new].argmax(axis=-1)] |= ~ours.any(axis=-1)
        equal.append((ours == theirs).all(axis=-1))

    assert np.mean(equal) >= 0.999  # theirs take labels for equal that are less than 1e-8 apart


def test_each_class_keeps_its_coverage_where_that_is_asked() -> None:
    """One class is much harder: for all together its sets hold too little."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 3000)
    logits = rng.normal(size=(3000, 3))
    logits[np.arange(3000), labels] += np.array([3.0, 3.0, 0.5])[labels]
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)

    def covered(per_class: bool) -> float:
        set_on = limits_from(p[:1500], labels[:1500], Promise(per_class=per_class))
        held = set_on.held(p[1500:])[np.arange(1500), labels[1500:]]
        return float(held[labels[1500:] == 2].mean())

    assert covered(False) < 0.9
    assert covered(True) == pytest.approx(0.95, abs=0.03)


def test_what_is_kept_is_told_of_folds_that_did_not_set_it() -> None:
    """The one fold that is different is judged by limits that never saw it."""
    p = np.tile([[0.9, 0.1]], (40, 1))
    p[30:] = [0.6, 0.4]
    labels, folds = np.zeros(40, int), np.repeat([1, 2, 3, 4], 10)

    found = kept_by(p, labels, folds, [str(i // 2) for i in range(40)], Promise(coverage=0.9))

    assert (found.n, found.answered, found.covered) == (40, 0.75, 0.75)
    assert found.covered_ci95[0] < 0.75 < found.covered_ci95[1]
    assert kept(bundles.load(), bundles.load().settings()).answered > 0.8


def test_without_out_of_fold_predictions_nothing_can_be_promised() -> None:
    bare = replace(bundles.load())
    bare.__dict__["dataset"] = None

    assert limits(bare, bare.settings()) is None
    with pytest.raises(BundleError, match="carries no out-of-fold predictions"):
        limits(bare, bare.settings(), Promise(risk=0.05))


def test_the_command_withholds_an_answer_in_doubt(tmp_path, capfd) -> None:
    sound = str(tmp_path / "noise.wav")
    soundfile.write(sound, 0.1 * np.random.default_rng(0).normal(size=22_050 * 5), 22_050)

    def classify(*options: str) -> str:
        assert cli.main(["classify", sound, *options]) == 0
        return capfd.readouterr().out

    plain = json.loads(classify("--json"))
    asked = json.loads(classify("--coverage", "0.05", "--json"))
    wide = json.loads(classify("--sets", "adaptive:0.99", "--json"))

    all_ = json.loads(classify("--risk", "1", "--json"))
    assert plain["prediction_set"]["coverage"] == 0.95
    assert (all_["abstained"], all_["reason"]) == (False, None)
    assert plain["doubt"] == pytest.approx(1.0 - plain["prediction"]["probability"])
    assert asked["prediction"] == plain["prediction"]
    assert asked["abstained"]
    assert asked["reason"].startswith("The doubt, ")
    assert asked["prediction_set"] == plain["prediction_set"]
    assert wide["prediction_set"]["coverage"] == 0.99
    assert len(wide["prediction_set"]["labels"]) > len(plain["prediction_set"]["labels"])
    assert cli.main(["classify", sound, "--sets", "adaptive:much"]) == 2
    assert "a coverage such as 0.9, or both, such as adaptive:0.9" in capfd.readouterr().err
    assert "no answer; " in classify("--coverage", "0.05")
