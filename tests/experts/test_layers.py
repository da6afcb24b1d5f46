from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from qmoe_core.experts.layers import (
    BitLinear,
    IntegerLinear,
    PopcountLinear,
    RoundedLinear,
    TernaryLinear,
    quantise_activation,
)

INPUTS, OUTPUTS = 37, 11
LAYERS = {
    "q1": lambda: BitLinear(INPUTS, OUTPUTS, 1),
    "q2": lambda: BitLinear(INPUTS, OUTPUTS, 2),
    "q4": lambda: BitLinear(INPUTS, OUTPUTS, 4),
    "q8": lambda: BitLinear(INPUTS, OUTPUTS, 8),
    "q16": lambda: BitLinear(INPUTS, OUTPUTS, 16),
    "bitnet": lambda: TernaryLinear(INPUTS, OUTPUTS),
    "ptq8": lambda: RoundedLinear(INPUTS, OUTPUTS),
    "popcount": lambda: PopcountLinear(INPUTS, OUTPUTS, 0.05),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def make(name: str, seed: int = 0) -> IntegerLinear:
    torch.manual_seed(seed)
    return LAYERS[name]()


def inputs(rows: int = 6, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, INPUTS, generator=torch.Generator().manual_seed(seed))


def weights(layer: torch.nn.Linear) -> np.ndarray:
    return layer.weight.detach().numpy()


def set_weight(layer: torch.nn.Linear, value: object) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(value))


# Activations


def test_activations_of_literals():
    levels, step = quantise_activation(torch.tensor([[0.0, 0.5, -1.0, 0.004], [0.0, 0.0, 0.0, 0.0]]))

    assert levels.tolist() == [[0, 64, -127, 1], [0, 0, 0, 0]]  # 63.5 goes to the even neighbour
    assert step.ravel().tolist() == pytest.approx([1 / 127, 0.0])


@pytest.mark.parametrize("name", ["q1", "popcount"])
def test_one_bit_has_no_zero(name):
    layer = make(name)
    set_weight(layer, 0.0)
    codes, _ = layer.quantise()
    assert codes.unique().tolist() == [1.0]


@pytest.mark.parametrize("size", [1e-45, 1e-38, 1e-30, 1e-3, 1.0, 1e30])
def test_activations_are_within_half_a_step_whatever_their_size(size):
    x = inputs() * size

    levels, step = quantise_activation(x)

    assert torch.isfinite(levels).all()
    assert levels.abs().max() <= 127
    assert ((levels * step - x).abs() <= 0.5 * step * (1 + 1e-5) + 1e-37).all()


# The grids


@pytest.mark.parametrize(
    ("bits", "low", "high"), [(2, -1, 1), (4, -7, 7), (8, -127, 127), (16, -32767, 32767)]
)
def test_levels_lie_on_equation_2s_grid_and_reach_its_end(bits, low, high):
    layer = make(f"q{bits}")
    levels = layer.levels()

    assert levels.codes.min() >= low
    assert levels.codes.max() <= high
    assert np.abs(levels.codes).max() == high
    np.testing.assert_allclose(levels.scale, np.abs(weights(layer)).max() / high, rtol=1e-6)
    error = np.abs(levels.codes * levels.scale[:, None] - weights(layer))
    assert (error <= 0.5 * levels.scale[:, None] * (1 + 1e-3)).all()


def test_one_bit_is_the_sign_times_the_mean_of_the_channel():
    layer = make("q1")
    levels = layer.levels()

    assert set(np.unique(levels.codes)) == {-1, 1}
    np.testing.assert_array_equal(levels.codes, np.where(weights(layer) < 0, -1, 1))
    np.testing.assert_allclose(levels.scale, np.abs(weights(layer)).mean(axis=1), rtol=1e-6)


def test_two_bits_are_three_levels_half_of_them_zero():
    codes = make("q2").levels().codes

    assert set(np.unique(codes)) == {-1, 0, 1}
    assert 0.35 < (codes == 0).mean() < 0.65  # claim 14: a poor ternary


def test_equation_2_by_hand():
    layer = BitLinear(4, 1, 4)
    set_weight(layer, [[0.7, -0.34, 0.06, -0.7]])

    levels = layer.levels()

    assert levels.codes.tolist() == [[7, -3, 1, -7]]
    assert levels.scale == pytest.approx([0.1])


@pytest.mark.parametrize("bits", [0, 17, -1])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(ValueError, match="1 to 16 bits"):
        BitLinear(2, 2, bits)


def test_sixteen_bits_are_rounded_too():
    layer = make("q16")
    levels = layer.levels()

    assert levels.codes.dtype == np.int16
    assert not np.array_equal(levels.codes * levels.scale[:, None], weights(layer))


def test_eight_bits_after_training_err_by_half_a_step_of_their_channel():
    layer = make("ptq8")
    levels = layer.levels()

    step = np.abs(weights(layer)).max(axis=1) / 127
    np.testing.assert_allclose(levels.scale, step, rtol=1e-6)
    assert (np.abs(levels.codes).max(axis=1) == 127).all()
    error = np.abs(levels.codes * levels.scale[:, None] - weights(layer))
    assert (error <= 0.5 * step[:, None] * (1 + 1e-5)).all()


def test_ternary_by_hand():
    layer = TernaryLinear(4, 2)
    set_weight(layer, [[0.5, -0.5, 0.1, -0.1], [0.0, 0.2, 0.31, -0.31]])
    with torch.no_grad():
        layer.log_threshold.copy_(torch.tensor([[0.2], [0.3]]).log())
        layer.log_scale.copy_(torch.tensor([[2.0], [0.5]]).log())

    levels = layer.levels()

    assert levels.codes.tolist() == [[1, -1, 0, 0], [0, 0, 1, -1]]
    assert levels.scale == pytest.approx([2.0, 0.5])


def test_ternary_starts_from_the_ternary_weight_networks_rule():
    layer = make("bitnet")
    magnitude = np.abs(weights(layer))

    threshold = layer.log_threshold.exp().detach().numpy()
    np.testing.assert_allclose(threshold, 0.7 * magnitude.mean(axis=1, keepdims=True), rtol=1e-5)
    above = np.where(magnitude > threshold, magnitude, np.nan)
    np.testing.assert_allclose(layer.levels().scale, np.nanmean(above, axis=1), rtol=1e-5)


@every_layer
def test_a_layer_of_zeros_gives_its_bias(name):
    layer = make(name)
    set_weight(layer, torch.zeros(OUTPUTS, INPUTS))
    with torch.no_grad():
        zeros = layer(inputs())

    levels = layer.levels()

    assert np.isfinite(levels.scale).all()
    torch.testing.assert_close(zeros, layer.bias.expand(6, OUTPUTS), rtol=0, atol=1e-6)
    torch.testing.assert_close(layer(inputs()), layer.bias.expand(6, OUTPUTS), rtol=0, atol=1e-6)


@every_layer
def test_an_input_of_zeros_is_finite(name):
    layer = make(name)

    out = layer(torch.zeros(2, INPUTS))

    assert torch.isfinite(out).all()
    if name != "popcount":  # there, nothing above the threshold is a vector of −1
        torch.testing.assert_close(out, layer.bias.expand(2, OUTPUTS))


# Forward


@every_layer
def test_training_computes_what_serving_computes(name):
    layer = make(name)
    x = inputs(rows=40)

    training = layer(x)
    with torch.no_grad():
        serving = layer(x)

    assert training.requires_grad
    torch.testing.assert_close(training, serving, rtol=1e-4, atol=1e-5)


@every_layer
def test_the_output_is_levels_times_levels(name):
    layer = make(name)
    x = inputs()
    levels = layer.levels()
    if name == "popcount":
        activations, step = np.where(x.numpy() > 0.05, 1.0, -1.0), np.ones((len(x), 1))
    else:
        step = np.abs(x.numpy()).max(axis=1, keepdims=True) / 127
        activations = np.rint(x.numpy() / step)

    with torch.no_grad():
        out = layer(x).numpy()

    expected = activations @ levels.codes.T.astype(float) * step * levels.scale + layer.bias.detach().numpy()
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_the_popcount_product_is_d_minus_two_popcounts_of_the_xor():
    layer = make("popcount")
    x = inputs()
    levels = layer.levels()
    x_bits, w_bits = np.packbits(x.numpy() > 0.05, axis=1), np.packbits(levels.codes > 0, axis=1)
    different = np.bitwise_count(x_bits[:, None, :] ^ w_bits[None, :, :]).sum(axis=2, dtype=np.int64)

    with torch.no_grad():
        out = layer(x).numpy()

    np.testing.assert_allclose(
        out, (INPUTS - 2 * different) * levels.scale + layer.bias.detach().numpy(), rtol=1e-5, atol=1e-6
    )


# Backward


@every_layer
def test_gradients_pass_straight_through_the_rounding(name):
    layer = make(name)
    x = inputs().requires_grad_()
    levels = layer.levels()
    rounded_weight = torch.tensor(levels.codes * levels.scale[:, None])
    if name == "popcount":
        rounded_input, gate = torch.where(x.detach() > 0.05, 1.0, -1.0), (x.detach().abs() <= 1).float()
    else:
        codes, step = quantise_activation(x.detach())
        rounded_input, gate = codes * step, torch.ones_like(x)

    out = layer(x)
    towards = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    out.backward(towards)

    torch.testing.assert_close(x.grad, towards @ rounded_weight * gate, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.weight.grad, towards.T @ rounded_input, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.bias.grad, towards.sum(dim=0), rtol=1e-4, atol=1e-5)


def test_ternary_scale_and_threshold_have_the_gradients_of_equation_3():
    layer = TernaryLinear(4, 1)
    set_weight(layer, [[1.0, -0.25, 0.15, 0.05]])
    with torch.no_grad():
        layer.log_threshold.fill_(np.log(0.2))
        layer.log_scale.fill_(np.log(3.0))
    x = torch.tensor([[1.0, 0.5, -0.5, 0.25]])
    x_hat = torch.round(x * 127) / 127

    layer(x).sum().backward()

    # ∂y/∂log α = α Σ x̂ · code, the codes being 1, −1, 0, 0.
    assert layer.log_scale.grad.item() == pytest.approx(3.0 * (x_hat[0, 0] - x_hat[0, 1]).item(), rel=1e-5)
    # The ramp is between 0.1 and 0.3, where the second and third weight are; there it falls with log τ by 1.
    expected = -3.0 * (-x_hat[0, 1] + x_hat[0, 2]).item()
    assert layer.log_threshold.grad.item() == pytest.approx(expected, rel=1e-5)


def test_threshold_and_scale_of_every_channel_learn():
    layer = make("bitnet")
    before = layer.log_threshold.detach().clone(), layer.log_scale.detach().clone()
    target = torch.randn(200, OUTPUTS, generator=torch.Generator().manual_seed(4))
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)

    losses = []
    for _ in range(5):
        loss = F.mse_loss(layer(inputs(200)), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())

    assert losses[-1] < losses[0]
    for start, now in zip(before, (layer.log_threshold, layer.log_scale), strict=True):
        assert start.shape == (OUTPUTS, 1)
        assert ((now.detach() - start).abs() > 1e-6).all()


@every_layer
def test_every_format_can_fit_what_a_layer_of_its_kind_said(name):
    teacher, student = make(name, seed=1), make(name, seed=2)
    x = inputs(rows=256)
    with torch.no_grad():
        target = teacher(x)
    optimiser = torch.optim.Adam(student.parameters(), lr=0.01)
    start = F.mse_loss(student(x), target).item()

    for _ in range(60):
        loss = F.mse_loss(student(x), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    assert F.mse_loss(student(x), target).item() < 0.5 * start
