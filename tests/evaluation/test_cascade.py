"""The cascade's sweep: curve, chance and oracle by hand; thresholds from other folds; bundles joined."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from qmoe_core import bundles, cli
from qmoe_core.errors import BundleError, ConfigError
from qmoe_core.evaluation import cascade
from qmoe_core.evaluation.cascade import PathCosts, cascade_sweep, choose, joined
from qmoe_core.routing.mixing import Outputs, Settings

PATH = PathCosts({"q1": "a", "mn04.q8": "b"}, {"a": 10.0, "b": 100.0, "q1": 1.0, "mn04.q8": 2.0})
EXPERTS = ("q1", "mn04.q8")


def outputs(first: list[tuple[int, float]], second: list[tuple[int, float]]) -> Outputs:
    """Of two experts and two classes: the label that each names, and its probability, clip by clip."""
    q = np.array(
        [
            [[p, 1 - p] if label == 0 else [1 - p, p] for label, p in pair]
            for pair in zip(first, second, strict=True)
        ]
    )
    unused = np.zeros(q.shape[:2])
    return Outputs(EXPERTS, np.log(q), unused, unused[None])


def test_curve_chance_oracle_and_costs_by_hand() -> None:
    """The first is wrong on clips 2 and 3, of which it is least sure; the second on none but clip 3."""
    said = outputs([(0, 0.99), (0, 0.9), (0, 0.6), (0, 0.7)], [(0, 0.9), (0, 0.9), (1, 0.9), (0, 0.9)])
    labels, folds = np.array([0, 0, 1, 1]), np.array([1, 2, 1, 2])

    found = cascade_sweep(said, labels, Settings(EXPERTS), PATH, folds, ["a", "b", "c", "d"])

    assert [(one.name, one.accuracy, one.cost_us) for one in found.experts] == [
        ("q1", 0.5, 11.0),
        ("mn04.q8", 0.75, 102.0),
    ]
    assert found.best_single.name == "mn04.q8"
    nobody, one = found.curve[0], next(point for point in found.curve if point.asked == 0.25)
    assert (nobody.asked, nobody.accuracy, nobody.cost_us) == (0.0, 0.5, 11.0)
    assert (one.accuracy, one.cost_us) == (0.75, 11.0 + 102.0 / 4)
    chance = found.random[found.curve.index(one)]
    assert (chance.asked, chance.accuracy, chance.cost_us) == (0.25, 0.75 * 0.5 + 0.25 * 0.75, one.cost_us)
    assert (found.curve[-1].asked, found.curve[-1].accuracy) == (1.0, 0.75)
    assert (found.oracle.asked, found.oracle.accuracy, found.oracle.cost_us) == (0.25, 0.75, one.cost_us)
    assert found.equal_accuracy.single == "mn04.q8"


def test_the_threshold_of_a_clip_comes_from_other_folds() -> None:
    """In fold 1 the first expert is wrong when in doubt, in fold 2 when sure: neither teaches the other."""
    first = [(0, 0.9), (1, 0.6)] * 10 + [(1, 0.9), (0, 0.6)] * 10
    said, labels = outputs(first, [(0, 0.8)] * 40), np.zeros(40, int)
    folds = np.repeat([1, 2], 20)

    equal = cascade_sweep(
        said, labels, Settings(EXPERTS), PATH, folds, [str(i) for i in range(40)]
    ).equal_accuracy

    # Fold 2 teaches to ask on all; fold 1 teaches to ask where in doubt, which leaves fold 2's sure errors.
    assert equal.accuracy == 0.75
    assert equal.difference == -0.25
    assert equal.difference_ci95[0] < -0.25 < equal.difference_ci95[1]
    assert equal.cost_ratio == pytest.approx((0.5 * 113.0 + 0.5 * (0.5 * 11.0 + 0.5 * 113.0)) / 102.0)


def test_choosing_takes_the_cheapest_that_is_good_enough() -> None:
    right = np.array([[1, 0, 0, 0], [1, 1, 0, 1], [1, 1, 1, 1]], bool)

    assert choose(right, np.array([[1, 1], [0, 1], [0, 0], [0, 1]], bool)) == 1
    assert choose(right[:1], np.ones((4, 2), bool)) == 0  # none is good enough: asking all


def test_one_expert_is_no_cascade() -> None:
    with pytest.raises(ConfigError, match="two or more experts"):
        cascade_sweep(
            outputs([(0, 0.9)], [(0, 0.9)]), np.zeros(1, int), Settings(("q1",)), PATH, np.ones(1), ["a"]
        )


def test_bundles_of_one_dataset_are_joined_and_others_refused() -> None:
    one = bundles.load()
    other = replace(one, manifest=msgspec.structs.replace(one.manifest, embedder="ds-cnn"))
    other.__dict__["dataset"] = one.dataset
    strange = replace(other)
    clips = tuple(msgspec.structs.replace(clip, name=f"x{clip.name}") for clip in one.dataset.clips)
    strange.__dict__["dataset"] = replace(one.dataset, clips=clips)

    both, data = joined([one, other])

    assert both.experts == (*one.experts, *(f"ds-cnn.{name}" for name in one.experts))
    np.testing.assert_array_equal(both.of(("ds-cnn.q8",)).logits, data.outputs.of(("q8",)).logits)
    with pytest.raises(BundleError, match="same embedder"):
        joined([one, replace(one)])
    with pytest.raises(BundleError, match="is not one of"):
        joined([one, strange])


def test_the_command_gives_the_documented_object(monkeypatch, capfd) -> None:
    monkeypatch.setattr(cascade, "CALLS", 2)
    options = ["sweep", "cascade", "--experts", "popcount,q8"]

    assert cli.main([*options, "--json"]) == 0
    document = json.loads(capfd.readouterr().out)

    assert {
        "dataset",
        "protocol",
        "n",
        "seeds",
        "experts",
        "curve",
        "random",
        "best_single",
    } < document.keys()
    assert [one["name"] for one in document["experts"]] == ["popcount", "q8"]
    assert document["experts"][0].keys() == {"name", "cost_us", "accuracy"}
    assert document["curve"][0].keys() == {"threshold", "asked", "accuracy", "f1", "cost_us"}
    assert document["random"][0].keys() == document["oracle"].keys() == {"asked", "accuracy", "cost_us"}
    assert {"margin", "cost_ratio", "ci95"} < document["equal_accuracy"].keys()
    assert document["curve"][-1]["asked"] == 1.0
    assert document["curve"][-1]["accuracy"] == pytest.approx(document["experts"][1]["accuracy"])
    assert cli.main(options) == 0
    assert "above asking as many at random" in capfd.readouterr().out
    assert cli.main([*options[:3], "popcount,q99"]) == 2
    assert "there is no expert 'q99'" in capfd.readouterr().err


def test_the_front_of_single_experts_is_left_behind_where_doubt_tells() -> None:
    """A quarter of the first's answers are wrong, all in doubt; the second errs elsewhere."""
    n = 80
    first = [(1, 0.6) if i % 4 == 0 else (0, 0.9) for i in range(n)]
    second = [(1, 0.9) if i % 4 == 1 else (0, 0.9) for i in range(n)]
    said, labels = outputs(first, second), np.zeros(n, int)

    found = cascade_sweep(
        said, labels, Settings(EXPERTS), PATH, np.repeat([1, 2], n // 2), [str(i) for i in range(n)]
    ).front_gain

    assert (found.accuracy, found.gain) == (1.0, 0.25)
    assert found.cost_us == pytest.approx(11.0 + 102.0 / 4)
    assert 0.1 < found.ci95[0] < 0.25 < found.ci95[1] < 0.4
