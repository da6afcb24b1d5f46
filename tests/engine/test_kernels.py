"""Every kernel computes the same integers as plain int64 arithmetic, for any shape and any level."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from qmoe_core.engine import FORMATS, LEVELS, HiddenLayer, kernels, portable, reference

COMPILED = tuple(name for name in kernels.available() if name != "numpy")
INTEGER = tuple(sorted(LEVELS))


def linear(name: str, layer: HiddenLayer, x: np.ndarray) -> np.ndarray:
    """The layer's Linear alone: float32 [B, K] → [B, N], in a workspace full of rubbish."""
    kernel = kernels.load(name)
    packed = kernel.pack((layer,))
    scratch = kernel.scratch(packed)
    scratch[:] = 0xFF
    out = np.full(len(x) * layer.outputs, np.nan, np.float32)
    kernel.forward(np.ascontiguousarray(x.reshape(-1)), packed, scratch, out)
    return out.reshape(len(x), layer.outputs)


def integer_layer(layer_format: str, codes: np.ndarray, threshold: float = 0.0) -> HiddenLayer:
    """Scale one and bias zero: what comes out is the integer product."""
    rows = len(codes)
    ones, zeros = np.ones(rows, np.float32), np.zeros(rows, np.float32)
    return HiddenLayer(
        format=layer_format, codes=codes, scale=ones, bias=zeros, gamma=ones, beta=zeros, threshold=threshold
    )


def random_codes(rng: np.random.Generator, layer_format: str, rows: int, inputs: int) -> np.ndarray:
    """Levels of the whole range; some rows are all lowest or all highest."""
    bits, low, high = LEVELS[layer_format]
    codes = rng.integers(low, high, (rows, inputs), endpoint=True)
    codes[rng.random(rows) < 0.1], codes[rng.random(rows) < 0.1] = low, high
    return np.where((codes == 0) & (bits == 1), 1, codes)


def exact(layer: HiddenLayer, x: np.ndarray) -> np.ndarray:
    """The product in 64-bit integers, of activations that are integers with a largest magnitude of 127."""
    if layer.format == "sign":
        x = np.where(x > np.float32(layer.threshold), 1, -1)
    return x.astype(np.int64) @ layer.matrix.astype(np.int64).T


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("layer_format", INTEGER)
@settings(max_examples=60)
@given(
    rows=st.integers(1, 300),
    inputs=st.integers(1, 300),
    batch=st.integers(0, 5),
    amplitude=st.sampled_from([0, 1, 127]),
    threshold=st.sampled_from([-0.5, 0.0, 0.5]),
    seed=st.integers(0, 2**32 - 1),
)
def test_integers_are_exact(
    name: str,
    layer_format: str,
    rows: int,
    inputs: int,
    batch: int,
    amplitude: int,
    threshold: float,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    layer = integer_layer(layer_format, random_codes(rng, layer_format, rows, inputs), threshold)
    x = rng.integers(-amplitude, amplitude, (batch, inputs), endpoint=True).astype(np.float32)
    x[:, rng.integers(inputs)] = rng.choice([-127, 127])  # So that a step of the activations is one.
    np.testing.assert_array_equal(linear(name, layer, x), exact(layer, x).astype(np.float32))


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("layer_format", INTEGER)
@pytest.mark.parametrize("inputs", [8_200, 65_536])
def test_no_sum_overflows(name: str, layer_format: str, inputs: int) -> None:
    """Largest levels against largest activations, of equal and of opposite sign, for the widest layers."""
    bits, low, high = LEVELS[layer_format]
    codes = np.repeat(np.array([low, high, low, 1 if bits == 1 else 0]), 9)[:, None].repeat(inputs, axis=1)
    codes[18:27, ::2] = high
    layer = integer_layer(layer_format, codes)
    x = np.full((3, inputs), 127, np.float32)
    x[1] = -127
    x[2, ::2] = -127
    np.testing.assert_array_equal(linear(name, layer, x), exact(layer, x).astype(np.float32))


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("layer_format", FORMATS)
@settings(max_examples=30)
@given(
    rows=st.integers(1, 70),
    inputs=st.integers(1, 300),
    magnitude=st.sampled_from([0.0, 1e-42, 1e-37, 1e-6, 1.0, 1e30]),
    seed=st.integers(0, 2**32 - 1),
)
def test_activations_round_as_in_numpy(
    name: str, layer_format: str, rows: int, inputs: int, magnitude: float, seed: int
) -> None:
    """Bit for bit the numpy kernel's Linear: the same 8-bit activations, steps, scales and biases."""
    rng = np.random.default_rng(seed)

    def floats(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    is_float = layer_format == "float"
    layer = HiddenLayer(
        format=layer_format,
        weight=floats(rows, inputs) if is_float else None,
        codes=None if is_float else random_codes(rng, layer_format, rows, inputs),
        scale=floats(rows),
        bias=floats(rows),
        gamma=floats(rows),
        beta=floats(rows),
    )
    x = floats(3, inputs) * np.float32(magnitude)
    x[1] = 0
    expected = reference.linear(layer, layer.matrix.astype(np.float64), x)
    if is_float:
        bound = 1e-5 * (np.abs(x) @ np.abs(layer.matrix.T) + np.abs(layer.bias))
        np.testing.assert_array_less(np.abs(linear(name, layer, x) - expected), bound + 1e-30)
    else:
        np.testing.assert_array_equal(linear(name, layer, x), expected)


@pytest.mark.parametrize("name", kernels.available())
def test_a_buffer_that_does_not_fit_is_refused(name: str) -> None:
    kernel = kernels.load(name)
    packed = kernel.pack((integer_layer("int8", np.ones((3, 5), np.int8)),))
    scratch, x, out = kernel.scratch(packed), np.zeros(10, np.float32), np.zeros(6, np.float32)
    kernel.forward(x, packed, scratch, out)
    for wrong_x, wrong_out in ((x[:9], out), (x, out[:5]), (x[:5], out)):
        with pytest.raises(ValueError, match="must fit the expert"):
            kernel.forward(wrong_x, packed, scratch, wrong_out)
    if name != "numpy":
        with pytest.raises(ValueError, match="must fit the expert"):
            kernel.forward(x, packed, scratch[:-1], out)


def test_activations_are_summed_in_32_bits() -> None:
    """In 64, LLVM 22 loses half of the sum on Arm processors with long vectors: llvm/llvm-project#204939."""

    @njit
    def quantise(x: np.ndarray, codes: np.ndarray) -> tuple[float, int]:
        return portable._quantise(x, codes)

    x = np.full(65_536, -127, np.float32)
    step, total = quantise(x, np.empty(x.size, np.int8))
    assert (step, total) == (1, -127 * x.size)
    (signature,) = quantise.nopython_signatures
    assert str(signature.return_type) == "Tuple(float32, int32)"
