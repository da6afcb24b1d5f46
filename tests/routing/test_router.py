from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmoe_core.errors import BundleError
from qmoe_core.routing.router import Router

EXPERTS = ("q4", "q8", "bitnet")


def make(dropout: float = 0.2, seed: int = 0) -> Router:
    """D = 6, hidden 8 and 4, three experts."""
    rng = np.random.default_rng(5)
    sizes = (6, 8, 4, 3)
    return Router(
        EXPERTS,
        tuple(rng.normal(size=(sizes[i + 1], sizes[i])).astype(np.float32) for i in range(3)),
        tuple(rng.normal(size=sizes[i + 1]).astype(np.float32) for i in range(3)),
        dropout,
        seed,
    )


def embeddings(count: int = 5) -> np.ndarray:
    return np.random.default_rng(9).normal(size=(count, 6)).astype(np.float32)


def test_a_router_by_hand():
    router = Router(
        ("q4", "q8"),
        (np.array([[1.0, -1.0], [2.0, 0.0]], np.float32), np.array([[1.0, 1.0], [0.0, -1.0]], np.float32)),
        (np.array([0.0, 0.5], np.float32), np.array([0.0, 10.0], np.float32)),
        dropout=0.5,
    )
    # hidden: relu(1 − 3) = 0 and relu(2 + 0.5) = 2.5; out: 2.5 and 10 − 2.5.

    np.testing.assert_array_equal(router.logits(np.array([[1.0, 3.0]], np.float32)), [[2.5, 7.5]])
    assert router.dim == 2


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_the_first_masks_of_many_are_those_of_few(few, more, seed):
    router = make(seed=seed)

    np.testing.assert_array_equal(router.masks(few + more)[:few], router.masks(few))


def test_a_mask_drops_as_many_as_it_should_and_keeps_the_mean():
    masks = make(dropout=0.2).masks(5000)

    assert masks.shape == (5000, 8)
    assert np.unique(masks).tolist() == [0.0, 1.25]
    assert masks.mean() == pytest.approx(1.0, abs=0.01)


def test_without_dropout_every_pass_is_the_plain_one():
    router = make(dropout=0.0)

    passes = router.mc_logits(embeddings(), 3)

    np.testing.assert_allclose(passes, np.stack([router.logits(embeddings())] * 3), rtol=1e-5, atol=1e-6)


def test_mc_passes_are_those_of_the_thinned_routers():
    router = make()
    z = embeddings()

    passes = router.mc_logits(z, 4)

    assert passes.shape == (4, 5, 3)
    for mask, logits in zip(router.masks(4), passes, strict=True):
        hidden = np.maximum(z @ router.weights[0].T + router.biases[0], 0) * mask
        thinned = Router(EXPERTS, (np.eye(8, dtype=np.float32), *router.weights[1:]), router.biases, 0.0)
        thinned = replace(thinned, biases=(np.zeros(8, np.float32), *router.biases[1:]))
        np.testing.assert_allclose(logits, thinned.logits(hidden), rtol=1e-5, atol=1e-5)


def test_a_seed_is_a_set_of_masks():
    z = embeddings()

    np.testing.assert_array_equal(make(seed=1).mc_logits(z, 4), make(seed=1).mc_logits(z, 4))
    assert not np.array_equal(make(seed=1).mc_logits(z, 4), make(seed=2).mc_logits(z, 4))


def test_a_clips_result_does_not_depend_on_its_batch():
    router, z = make(), embeddings(17)

    together, together_mc = router.logits(z), router.mc_logits(z, 6)

    for i in range(len(z)):
        np.testing.assert_allclose(router.logits(z[i : i + 1])[0], together[i], rtol=1e-5, atol=1e-6)
        alone = router.mc_logits(z[i : i + 1], 6)[:, 0]
        np.testing.assert_allclose(alone, together_mc[:, i], rtol=1e-5, atol=1e-6)


def test_it_comes_back_from_its_tensors():
    router, z = make(seed=3), embeddings()

    again = Router.from_tensors(router.to_tensors(), EXPERTS, router.dropout, router.seed)

    np.testing.assert_array_equal(again.logits(z), router.logits(z))
    np.testing.assert_array_equal(again.mc_logits(z, 5), router.mc_logits(z, 5))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w, b: (w[:1], b[:1]), "at least two layers"),
        (lambda w, b: (w, b[:2]), "at least two layers"),
        (lambda w, b: ([w[0], w[1][:, :7], w[2]], b), "layer 1 has shapes that do not fit"),
        (lambda w, b: (w, [b[0], b[1], b[2][:2]]), "layer 2 has shapes that do not fit"),
        (lambda w, b: ([w[0].ravel(), w[1], w[2]], b), "layer 0 has shapes that do not fit"),
        (lambda w, b: ([w[0], w[1][None], w[2]], b), "layer 1 has shapes that do not fit"),
        (lambda w, b: ([np.float32(1), w[1], w[2]], b), "layer 0 has shapes that do not fit"),
        (
            lambda w, b: ([w[0], w[1] * np.float32("nan"), w[2]], b),
            "layer 1 holds numbers that are not finite",
        ),
        (lambda w, b: (w, [b[0] + np.float32("inf"), b[1], b[2]]), "layer 0 holds numbers that are not"),
        (lambda w, b: ([w[0], w[1], w[2][:2]], [b[0], b[1], b[2][:2]]), "2 outputs for 3 experts"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, says):
    router = make()
    weights, biases = change(list(router.weights), list(router.biases))

    with pytest.raises(BundleError, match=says):
        Router(EXPERTS, tuple(weights), tuple(biases), 0.2)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_weights_that_say_nothing_finite_are_refused_when_they_speak(layer):
    router = make()
    weights = [np.sign(w) * np.float32(3e38) if i == layer else w for i, w in enumerate(router.weights)]
    router = Router(EXPERTS, tuple(weights), router.biases, 0.2)
    z = np.full((2, router.dim), 50.0, np.float32)

    for ask in (lambda: router.logits(z), lambda: router.mc_logits(z, 3)):
        with pytest.raises(BundleError, match="what it says is not finite"):
            ask()


@pytest.mark.parametrize("missing", ["weight1", "bias0"])
def test_a_missing_tensor_is_named(missing):
    tensors = make().to_tensors()
    del tensors[missing]

    with pytest.raises(BundleError, match="router: "):
        Router.from_tensors(tensors, EXPERTS, 0.2)
