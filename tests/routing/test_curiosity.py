from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qmoe_core.routing.curiosity import bonus, curious_routing, top_k
from qmoe_core.routing.uncertainty import softmax


@st.composite
def routings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A routing distribution of some clips, and an interest of every expert: both [clips, N]."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 9)))
    logits = draw(hnp.arrays(np.float64, shape, elements=st.floats(-30, 30)))
    interest = draw(hnp.arrays(np.float64, shape, elements=st.floats(0, np.log(9))))
    return softmax(logits), interest


def test_equation_8_by_hand():
    r, d = np.array([0.5, 0.3, 0.2]), np.array([0.0, 0.1, 0.2])
    # 0.5, 0.3 · e^0.2 = 0.366421, 0.2 · e^0.4 = 0.298365; their sum is 1.164786.

    np.testing.assert_allclose(curious_routing(r, d, 2.0), [0.429263, 0.314583, 0.256154], atol=1e-6)
    np.testing.assert_allclose(bonus(d, 2.0), [1.0, 1.221403, 1.491825], atol=1e-6)
    # 0.5, 0.3 · e^0.05 = 0.315381, 0.2 · e^0.1 = 0.221034; their sum is 1.036416.
    np.testing.assert_allclose(curious_routing(r, d, 0.5), [0.482432, 0.304300, 0.213268], atol=1e-6)


def test_curiosity_can_change_who_is_asked_first():
    r, d = np.array([0.6, 0.4]), np.array([0.0, 0.1])

    assert curious_routing(r, d, 4.0).argmax() == 0  # 0.4 · e^0.4 = 0.597
    assert curious_routing(r, d, 4.1).argmax() == 1  # 0.4 · e^0.41 = 0.603


def test_the_papers_alpha_does_next_to_nothing_to_good_experts():
    assert bonus(np.array(0.01), 0.3) == pytest.approx(1.003, abs=1e-4)  # claim 31


@given(routings())
def test_without_alpha_it_is_the_plain_router_bit_for_bit(given_):
    r, interest = given_

    np.testing.assert_array_equal(curious_routing(r, interest, 0.0), r)


@given(routings(), st.floats(0, 1000))
def test_it_stays_a_distribution_up_to_the_largest_alpha(given_, alpha):
    r, interest = given_

    curious = curious_routing(r, interest, alpha)

    assert np.isfinite(curious).all()
    assert (curious >= 0).all()
    np.testing.assert_allclose(curious.sum(axis=-1), 1.0, rtol=1e-12)
    assert np.isfinite(bonus(interest, alpha)).all()


@given(routings(), st.floats(0.01, 100))
def test_equal_interest_moves_nothing(given_, alpha):
    r, _ = given_

    np.testing.assert_allclose(curious_routing(r, np.full_like(r, 0.5), alpha), r, rtol=1e-9)


@given(routings(), st.floats(0.01, 100))
def test_the_most_interesting_expert_never_loses(given_, alpha):
    r, interest = given_
    most = interest.argmax(axis=-1)[:, None]

    before = np.take_along_axis(r, most, axis=-1)
    after = np.take_along_axis(curious_routing(r, interest, alpha), most, axis=-1)

    assert (after >= before * (1 - 1e-9)).all()


def test_an_alpha_for_each_clip():
    r, d = np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([[0.0, 1.0], [0.0, 1.0]])

    curious = curious_routing(r, d, np.array([0.0, np.log(3.0)]))

    np.testing.assert_allclose(curious, [[0.5, 0.5], [0.25, 0.75]])


@pytest.mark.parametrize(
    ("k", "weights"),
    [(1, [0, 1, 0, 0]), (2, [0, 0.625, 0.375, 0]), (4, [0.1, 0.5, 0.3, 0.1]), (99, [0.1, 0.5, 0.3, 0.1])],
)
def test_top_k_of_a_literal(k, weights):
    np.testing.assert_allclose(top_k(np.array([0.1, 0.5, 0.3, 0.1]), k), weights)


def test_of_equals_the_earlier_wins():
    np.testing.assert_array_equal(top_k(np.array([0.25, 0.25, 0.25, 0.25]), 2), [0.5, 0.5, 0, 0])
    np.testing.assert_array_equal(top_k(np.array([[0.2, 0.4, 0.4]]), 1), [[0, 1, 0]])


@given(routings(), st.integers(1, 12))
def test_top_k_keeps_the_k_largest_in_proportion(given_, k):
    r, _ = given_
    kept = min(k, r.shape[-1])

    weights = top_k(r, k)

    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-12)
    assert ((weights > 0).sum(axis=-1) == kept).all()
    smallest_kept = np.where(weights > 0, r, np.inf).min(axis=-1)
    assert (np.where(weights > 0, 0.0, r).max(axis=-1) <= smallest_kept).all()
    share = np.where(weights > 0, r, 0.0)
    np.testing.assert_allclose(weights * share.sum(axis=-1, keepdims=True), share, rtol=1e-12)
