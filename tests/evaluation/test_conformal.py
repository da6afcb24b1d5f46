"""Prediction sets hold the true label as often as they say, and limits keep the risk that they promise."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from qmoe_core import bundles, cli
from qmoe_core.errors import BundleError, ConfigError
from qmoe_core.evaluation.conformal import limits, quantile, risk_limit, scores


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

    answered = 1.0 - p.max(axis=-1) <= limits(loaded, settings, risk=0.05).doubt
    most = 1.0 - p.max(axis=-1) <= limits(loaded, settings, coverage=0.9).doubt

    assert 0.7 < answered.mean() < 1.0
    assert wrong[answered].mean() < 0.05 < wrong.mean()
    assert 0.9 <= most.mean() <= 0.905
    plain = limits(loaded, settings)
    assert (plain.doubt, plain.coverage) == (1.0, 0.9)
    held = [
        loaded.classes[y] in plain.labels(row, loaded.classes) for row, y in zip(p, data.labels, strict=True)
    ]
    assert 0.9 <= np.mean(held) <= 0.905


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"coverage": 1.0}, "--coverage is 1; accepted is more than 0 and less than 1"),
        ({"risk": 0.0}, "--risk is 0; accepted"),
        ({"risk": 0.1, "coverage": 0.9}, "give one of them"),
    ],
)
def test_limits_that_make_no_sense_are_refused(asked, says) -> None:
    loaded = bundles.load()
    with pytest.raises(ConfigError, match=says):
        limits(loaded, loaded.settings(), **asked)


def test_without_out_of_fold_predictions_nothing_can_be_promised() -> None:
    bare = replace(bundles.load())
    bare.__dict__["dataset"] = None

    assert limits(bare, bare.settings()) is None
    with pytest.raises(BundleError, match="carries no out-of-fold predictions"):
        limits(bare, bare.settings(), risk=0.05)


def test_the_command_withholds_an_answer_in_doubt(tmp_path, capfd) -> None:
    sound = str(tmp_path / "noise.wav")
    soundfile.write(sound, 0.1 * np.random.default_rng(0).normal(size=22_050 * 5), 22_050)

    def classify(*options: str) -> str:
        assert cli.main(["classify", sound, *options]) == 0
        return capfd.readouterr().out

    plain = json.loads(classify("--json"))
    asked = json.loads(classify("--coverage", "0.05", "--json"))

    assert (plain["abstained"], plain["reason"], plain["prediction_set"]["coverage"]) == (False, None, 0.9)
    assert plain["doubt"] == pytest.approx(1.0 - plain["prediction"]["probability"])
    assert asked["prediction"] == plain["prediction"]
    assert asked["abstained"]
    assert asked["reason"].startswith("The doubt, ")
    assert len(asked["prediction_set"]["labels"]) <= len(plain["prediction_set"]["labels"])
    assert "no answer; " in classify("--coverage", "0.05")
