"""What the public code does, on arrays small enough to check by hand, beside what it should have done."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmoe_core.paper import reference
from qmoe_core.routing.uncertainty import softmax

ROUTING = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])


@given(st.floats(0.0, 1000.0), st.lists(st.floats(0.0, 1.0), min_size=2, max_size=2))
def test_one_factor_for_all_experts_cancels(alpha, uncertainty):
    np.testing.assert_allclose(
        reference.scalar_curiosity(ROUTING, np.array(uncertainty), alpha), ROUTING, rtol=1e-12
    )


@given(st.floats(0.0, 50.0))
def test_its_fix_is_a_temperature_and_keeps_the_order(alpha):
    tempered = reference.tempered_curiosity(ROUTING, alpha)
    temperature = 1.0 / (1.0 + alpha)
    np.testing.assert_allclose(tempered, softmax(np.log(ROUTING) / temperature), atol=1e-12)
    assert (tempered.argmax(axis=1) == ROUTING.argmax(axis=1)).all()


def test_logged_curiosity_does_not_reach_the_routing():
    logits = np.log(ROUTING)
    noisy = np.stack([logits, logits[:, ::-1]])
    routing, logged = reference.logged_only_curiosity(logits, noisy)
    np.testing.assert_allclose(routing, ROUTING)
    assert (logged > 0.0).all()


def test_the_codes_mixture_divides_by_k_and_keeps_the_weights_as_they_are():
    logits = np.array([[[2.0, 0.0], [0.0, 2.0], [9.0, 9.0]]])
    r = np.array([[0.6, 0.3, 0.1]])
    expected = softmax(np.array([[0.6 * 2.0, 0.3 * 2.0]]) / 2.0)
    np.testing.assert_allclose(reference.unnormalised_mixture(logits, r, 2), expected)


def test_summing_values_is_not_counting_bits():
    x = np.array([[True, True, True, True, False, False, False, False]])
    w = np.zeros((1, 8), bool)
    assert reference.bit_counting_popcount(x, w).tolist() == [[8 - 4]]
    assert reference.value_summing_popcount(x, w).tolist() == [[8 - 0b11110000]]


@given(st.integers(0, 2**32 - 1))
def test_counting_bits_is_the_product_of_signs(seed):
    generator = np.random.default_rng(seed)
    x, w = generator.random((3, 16)) > 0.5, generator.random((4, 16)) > 0.5
    product = (2 * x.astype(int) - 1) @ (2 * w.astype(int) - 1).T
    # popcount(x ⊕ w) = (d − product) / 2, Eq. 4.
    np.testing.assert_array_equal(reference.bit_counting_popcount(x, w), 16 - (16 - product) // 2)


def test_random_bits_give_the_known_correlation():
    generator = np.random.default_rng(0)
    x, w = generator.random((40, 800)) > 0.5, generator.random((50, 800)) > 0.5
    product = (2.0 * x - 1.0) @ (2.0 * w - 1.0).T
    found = np.corrcoef(reference.value_summing_popcount(x, w).ravel(), product.ravel())[0, 1]
    # Σ 2^j / √(8 · Σ 4^j), j from 0 to 7.
    assert found == pytest.approx(255 / np.sqrt(8 * 21845), abs=0.05)


def test_ternary_levels_and_their_bits():
    levels = reference.ternary(np.array([[-1.0, 0.01, 0.05, -0.04]]))
    assert levels.tolist() == [[-1, 0, 1, 0]]
    assert reference.ternary_bits(levels).astype(int).tolist() == [[1, 0, 0, 0, 0, 1, 0, 0]]


def test_a_random_projection_is_another_one_each_time():
    generator = np.random.default_rng(0)
    z = np.ones((1, 8), np.float32)
    first, second = (reference.unseeded_projection(z, 4, generator) for _ in range(2))
    assert first.shape == (1, 4)
    assert not np.allclose(first, second)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_requantising_is_the_float_network_to_within_its_steps(bits):
    torch = pytest.importorskip("torch")
    from torch import nn

    from qmoe_core.paper.reference_networks import requantising

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(32, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 3))
    x = torch.randn(5, 32)
    simulated = requantising(network, bits)
    with torch.inference_mode():
        error = (simulated(x) - network(x)).abs().max().item()
    assert error < {2: 3.0, 4: 0.6, 8: 0.05}[bits]
    assert (
        len(torch.unique((simulated[0].weight - network[0].weight).detach())) == 1
    )  # its weights stay float


def test_the_codes_ternary_layer_is_signs_times_three_levels():
    torch = pytest.importorskip("torch")
    from qmoe_core.paper.reference_networks import ComputedTernaryLinear

    layer = ComputedTernaryLinear(4, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 5.02, 3.0, 3.02]]))  # mean 3.01: 1 and 5.02 are ±2.01 from it
        layer.bias.fill_(0.5)
    x = torch.tensor([[-7.0, 0.1, 3.0, 0.0]], requires_grad=True)
    y = layer(x)
    assert y.item() == pytest.approx(2.01 + 2.01 + 0.5, abs=1e-5)
    # Straight through: to the input by the ternary weight, to the weight by the signs.
    to_x, to_weight = torch.autograd.grad(y.sum(), [x, layer.weight])
    assert to_x.flatten().tolist() == pytest.approx([-2.01, 2.01, 0.0, 0.0], abs=1e-5)
    assert to_weight.flatten().tolist() == [-1.0, 1.0, 1.0, 0.0]
