from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qmoe_core.routing.uncertainty import disagreement, divergence, entropy, mutual_information, softmax

# Logits of some clips: [clips, N experts, C classes]; ±800 makes probabilities underflow to zero.
outputs = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(2, 6)),
    elements=st.floats(-800, 800),
)


def test_softmax_of_literals():
    np.testing.assert_allclose(softmax(np.log([1.0, 2.0, 5.0])), [0.125, 0.25, 0.625], rtol=1e-15)
    np.testing.assert_array_equal(softmax(np.array([1e4, 0.0])), [1.0, 0.0])
    assert softmax(np.zeros(3, np.float32)).dtype == np.float64


@given(outputs, st.floats(-100, 100))
def test_softmax_gives_distributions_and_does_not_mind_a_constant(logits, constant):
    p = softmax(logits)

    assert (p >= 0).all()
    np.testing.assert_allclose(p.sum(axis=-1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(softmax(logits + constant), p, rtol=1e-9, atol=1e-12)


def test_softmax_along_another_axis():
    logits = np.array([[0.0, 1.0], [0.0, 3.0]])

    np.testing.assert_array_equal(softmax(logits, axis=0), softmax(logits.T).T)


def test_entropy_of_literals():
    distributions = np.array([[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])

    np.testing.assert_allclose(entropy(distributions), [0.0, np.log(2), np.log(4)], rtol=1e-15)
    assert not np.signbit(entropy(distributions)[0])  # 0, not -0: people read it


def test_divergence_of_literals():
    p, q = np.array([0.5, 0.5]), np.array([0.75, 0.25])

    assert divergence(p, q) == pytest.approx(0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25))
    assert divergence(q, p) == pytest.approx(0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5))
    assert divergence(np.array([1.0, 0.0]), p) == pytest.approx(np.log(2))
    assert divergence(p, p) == 0.0


def test_two_experts_sure_of_different_classes_disagree_by_ln_2():
    q = np.array([[1.0, 0.0], [0.0, 1.0]])

    np.testing.assert_allclose(disagreement(q), [np.log(2), np.log(2)])
    assert mutual_information(q) == pytest.approx(np.log(2))


def test_experts_that_agree_do_not_disagree_however_unsure_they_are():
    q = np.full((4, 5), 0.2)

    np.testing.assert_allclose(disagreement(q), 0.0, atol=1e-15)
    assert mutual_information(q) == pytest.approx(0.0, abs=1e-15)
    assert entropy(q.mean(axis=0)) == pytest.approx(np.log(5))


@given(outputs)
def test_mean_kl_from_the_mean_is_the_mutual_information(logits):
    q = softmax(logits)

    np.testing.assert_allclose(disagreement(q).mean(axis=-1), mutual_information(q), atol=1e-9)


@given(outputs)
def test_everything_lies_in_its_range(logits):
    q = softmax(logits)
    experts, classes = q.shape[1:]
    total, aleatoric, epistemic = entropy(q.mean(axis=1)), entropy(q).mean(axis=1), mutual_information(q)

    for value, most in ((total, np.log(classes)), (aleatoric, np.log(classes)), (epistemic, np.log(experts))):
        assert (value >= 0).all()
        assert (value <= most + 1e-9).all()
    assert (aleatoric <= total + 1e-9).all()
    assert (disagreement(q) <= np.log(experts) + 1e-9).all()
    assert np.isfinite(disagreement(q)).all()


@given(outputs)
def test_one_clip_is_what_it_is_among_others(logits):
    q = softmax(logits)

    np.testing.assert_array_equal(disagreement(q)[0], disagreement(q[0]))
    np.testing.assert_array_equal(mutual_information(q)[0], mutual_information(q[0]))
