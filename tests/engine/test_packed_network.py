"""Packed networks: every kernel computes the integers of the reference, for any shape and any format."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmoe_core.engine import kernels
from qmoe_core.engine.network import FORMATS, Network
from qmoe_core.engine.network_reference import forward
from qmoe_core.engine.packed_network import PackedNetwork
from tests.engine.networks import float_network, quantized, spectrograms

INTEGER = [name for name in FORMATS if name != "float"]
SHAPES = {
    "seed": st.integers(0, 2**32 - 1),
    "bands": st.integers(1, 30),
    "frames": st.integers(1, 60),
    "channels": st.integers(1, 70),
    "kernel": st.sampled_from([1, 3, 5, 7]),
    "count": st.integers(0, 3),
}


def network_of(seed: int, bands: int, channels: int, kernel: int) -> Network:
    return float_network(
        seed, bands=bands, channels=channels, kernel=kernel, pool="mean" if seed % 2 else "mean+max"
    )


@pytest.mark.parametrize("kernel_name", kernels.available())
@settings(max_examples=25, deadline=None)
@given(layer_format=st.sampled_from(INTEGER), **SHAPES)
def test_integers_are_those_of_the_reference(
    kernel_name: str,
    layer_format: str,
    seed: int,
    bands: int,
    frames: int,
    channels: int,
    kernel: int,
    count: int,
) -> None:
    network = quantized(network_of(seed, bands, channels, kernel), layer_format)
    x = spectrograms(network, count, frames, seed)
    np.testing.assert_array_equal(PackedNetwork(network, kernel_name).embed(x), forward(network, x))


@pytest.mark.parametrize("kernel_name", kernels.available())
@settings(max_examples=15, deadline=None)
@given(**SHAPES)
def test_floats_are_close_to_the_reference(
    kernel_name: str, seed: int, bands: int, frames: int, channels: int, kernel: int, count: int
) -> None:
    network = network_of(seed, bands, channels, kernel)
    x = spectrograms(network, count, frames, seed)
    found = PackedNetwork(network, kernel_name).embed(x)
    np.testing.assert_allclose(found, forward(network, x), rtol=1e-4, atol=1e-4)
