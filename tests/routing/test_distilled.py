"""Heads learn what is to be learned, never see what they are asked, and are asked only where it matters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qmoe_core import bundles
from qmoe_core.errors import BundleError, ConfigError
from qmoe_core.routing import mixing
from qmoe_core.routing.curiosity import curious_routing
from qmoe_core.routing.distilled import (
    CHEAPEST_FIRST,
    Head,
    Lessons,
    cheapest,
    features,
    fit,
    groups,
    out_of_fold,
    worth_asking,
)
from qmoe_core.routing.mixing import Settings
from qmoe_core.routing.uncertainty import softmax

PAIR = ("q4", "q8")


def lessons(n: int = 60, seed: int = 0) -> Lessons:
    """d_1 = 0.1 · exp(−margin), d_2 three times that; four groups, whose experts differ in level."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.0, 3.0, (n, 4))
    top = np.sort(logits, axis=-1)
    group = np.arange(n) % 4
    d = 0.1 * np.exp(-(top[:, -1] - top[:, -2]) + np.array([0.0, 1.0, -1.0, 0.5])[group])
    r = softmax(rng.normal(size=(n, 2)))
    return Lessons("bitnet", PAIR, logits, r, np.stack([d, 3 * d], axis=1), group)


def test_features_of_a_literal() -> None:
    found = features(np.log([0.5, 0.25, 0.25]), np.array([0.9, 0.1]))

    expected = [np.log(2.0), np.log(0.5), np.log(1.5 * np.log(2.0)), 0.9, 0.1]
    np.testing.assert_allclose(found, expected)


def test_features_of_an_expert_that_is_dead_sure_are_finite() -> None:
    assert np.isfinite(features(np.array([[9e3, 0.0, 0.0], [0.0, 0.0, 0.0]]), np.full((2, 2), 0.5))).all()


def test_every_expert_has_a_price() -> None:
    from qmoe_core.experts.spec import NAMES

    assert sorted(CHEAPEST_FIRST) == sorted(NAMES)
    assert cheapest(("fp32", "q16", "q1", "q4")) == "q1"
    assert Settings(("q8", "bitnet", "q4")).cheap_expert == "bitnet"
    assert Settings(("q8", "bitnet"), cheap="q1").cheap_expert == "q1"
    with pytest.raises(ConfigError, match="the cheap expert: there is no expert 'q5'"):
        Settings(("q8",), cheap="q5")


def test_it_learns_a_law_and_the_levels_of_the_experts() -> None:
    learned = lessons(400)
    head = fit(learned)
    new = lessons(100, seed=1)

    found = head(new.logits, new.r)

    ratio = found.d[:, 1] / found.d[:, 0]
    below = (found.d < head.ceiling).all(axis=1)
    np.testing.assert_allclose(ratio[below], 3.0, rtol=0.1)
    assert np.corrcoef(np.log(found.d[below].mean(axis=1)), np.log(new.d[below].mean(axis=1)))[0, 1] > 0.9
    np.testing.assert_array_equal(head.ceiling, learned.d.max(axis=0))
    assert (found.d <= head.ceiling).all()


def test_levels_that_the_groups_contradict_are_not_believed() -> None:
    learned = lessons(400)
    swapped = np.where((learned.group % 2 == 0)[:, None], learned.d, learned.d[:, ::-1])

    found = fit(replace(learned, d=swapped))(learned.logits, learned.r).d

    np.testing.assert_allclose(np.median(found[:, 1] / found[:, 0]), 1.0, rtol=0.1)


def test_experts_that_never_disagree_are_predicted_to_agree() -> None:
    learned = lessons()

    found = fit(replace(learned, d=np.zeros_like(learned.d)))(learned.logits, learned.r)

    assert not found.d.any()


def test_it_is_the_same_head_twice() -> None:
    np.testing.assert_array_equal(fit(lessons()).weights, fit(lessons()).weights)


def test_out_of_fold_a_clips_own_disagreement_changes_nothing_of_its_prediction() -> None:
    learned = lessons()
    held = learned.group == 2
    changed = replace(learned, d=np.where(held[:, None], 100.0 * learned.d, learned.d))

    before, after = out_of_fold(learned), out_of_fold(changed)

    np.testing.assert_array_equal(before.d[held], after.d[held])
    np.testing.assert_array_equal(before.ceiling[held], after.ceiling[held])
    assert (before.d[~held] != after.d[~held]).any()


def test_one_group_cannot_be_held_out() -> None:
    with pytest.raises(BundleError, match="at least two folds or recordings"):
        out_of_fold(replace(lessons(), group=np.zeros(60, int)))


def test_without_folds_whole_recordings_are_held_out() -> None:
    sources = [f"r{i % 7}" for i in range(20)]
    made = groups(np.zeros(20, int), sources)

    assert len(np.unique(made)) == 5
    assert all(len(np.unique(made[np.array(sources) == name])) == 1 for name in set(sources))
    np.testing.assert_array_equal(groups(np.arange(20) % 3, sources), np.arange(20) % 3)


def test_when_the_cheap_expert_is_worth_asking() -> None:
    """r = (0.6, 0.4): the second needs a bonus of 1.5, which is exp(α · 0.1) from α = 4.05 on."""
    r, ceiling = np.array([0.6, 0.4]), np.array([9.0, 0.1])

    assert [bool(worth_asking(r, ceiling, alpha, 1)) for alpha in (0.0, 4.0, 4.1)] == [False, False, True]
    assert [bool(worth_asking(r, ceiling, alpha, 2)) for alpha in (0.0, 1e-9)] == [False, True]
    assert not worth_asking(np.ones(1), np.ones(1), 1000.0, 1)
    # A tie can change who answers, too: the second expert may come first where both have the same share.
    assert worth_asking(np.array([0.5, 0.5]), np.zeros(2), 1.0, 1)
    assert worth_asking(np.array([0.5, 0.25]), np.full(2, np.log(0.5) - np.log(0.25)), 1.0, 1)
    found = worth_asking(np.array([[0.6, 0.4], [0.5, 0.5]]), ceiling, np.array([0.0, 1.0])[:, None], 1)
    assert found.tolist() == [[False, False], [False, True]]


r_and_d = st.integers(1, 4).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float64, (3, n), elements=st.floats(-20, 20)).map(softmax),
        hnp.arrays(np.float64, (3, n), elements=st.floats(0, 2)),
        hnp.arrays(np.float64, n, elements=st.floats(0, 2)),
    )
)


@given(r_and_d, st.floats(0, 1000))
def test_where_it_is_not_worth_asking_no_prediction_changes_who_answers(given_, alpha) -> None:
    r, d, ceiling = given_
    asked = worth_asking(r, ceiling, alpha, 1)

    curious = curious_routing(r, np.minimum(d, ceiling), alpha)

    assert ((curious.argmax(axis=-1) == r.argmax(axis=-1)) | asked).all()


@given(r_and_d, st.floats(0, 1000), st.floats(1, 10), st.integers(1, 3))
def test_more_curiosity_never_asks_less(given_, alpha, more, k) -> None:
    r, _, ceiling = given_

    assert (worth_asking(r, ceiling, alpha, k) <= worth_asking(r, ceiling, alpha * more, k)).all()


@given(hnp.arrays(np.float64, (2, 3), elements=st.floats(-500, 500)), st.integers(0, 100))
def test_whatever_is_asked_the_prediction_is_between_zero_and_the_ceiling(logits, seed) -> None:
    rng = np.random.default_rng(seed)
    head = Head("q1", PAIR, rng.normal(0, 20, (5, 2)), rng.normal(size=2), np.array([0.1, 0.0]))

    found = head(logits, np.full((2, 2), 0.5)).d

    assert ((found >= 0.0) & (found <= head.ceiling)).all()


# on the bundle that ships


@pytest.fixture(scope="module")
def shipped() -> bundles.Bundle:
    return bundles.load()


def test_a_bundles_clips_are_predicted_in_and_out_of_its_mixture(shipped) -> None:
    settings = shipped.settings(curiosity="distilled", alpha=100.0, cheap="q1")
    z = shipped.dataset.embeddings[:5].astype(np.float32)
    outputs = shipped.outputs(z).all()

    head = shipped.head(settings)
    mixed = shipped.mix(outputs, settings)

    r = outputs.of(settings.experts).router
    expected = head(outputs.of(("q1",)).logits[:, 0], softmax(r)).d
    assert expected.shape == (5, 3)
    np.testing.assert_array_equal(mixed.predicted, expected)
    assert shipped.head(settings) is shipped.head(replace(settings, alpha=1.0))
    np.testing.assert_array_equal(mixed.runs, 1 + mixed.asked)
    one = shipped.decide(outputs.at(0), settings)
    said = {e.name: e.predicted_kl for e in one.experts}
    assert [said[name] for name in settings.experts] == pytest.approx(expected[0].tolist())
    assert set(one.needed) == {e.name for e in one.experts if e.selected} | (
        {"q1"} if mixed.asked[0] else set()
    )
    assert all(e.predicted_kl is None for e in one.experts if not e.in_mixture)


def test_other_strategies_predict_nothing(shipped) -> None:
    settings = shipped.settings()

    assert shipped.predict_out_of_fold(settings) is None
    assert np.isnan(shipped.mix(shipped.dataset.outputs, settings).predicted).all()


def test_normalised_predictions_are_in_units_of_their_mean(shipped) -> None:
    settings = shipped.settings(curiosity="distilled", normalise=True)

    mean = shipped.mean_interest(settings)

    assert mean == pytest.approx(shipped.predict_out_of_fold(settings).d.mean())
    assert shipped.reference(settings).interest.mean() == pytest.approx(1.0)


def test_without_out_of_fold_outputs_it_says_what_would_do(shipped) -> None:
    bare = replace(shipped, _heads={})
    bare.__dict__["dataset"] = None

    with pytest.raises(BundleError, match="accepted is another curiosity, or a bundle made with: qmoe train"):
        bare.mix(shipped.dataset.outputs, shipped.settings(curiosity="distilled"))


def test_mixing_without_predictions_is_refused(shipped) -> None:
    with pytest.raises(ConfigError, match="accepted here is disagreement, router-mc, none"):
        mixing.mix(shipped.dataset.outputs, shipped.settings(curiosity="distilled"))
