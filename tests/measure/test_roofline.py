"""Operations and bytes of layers are those of their shapes; every layer is timed alone."""

from __future__ import annotations

import numpy as np

from qmoe_core.engine import network_storage
from qmoe_core.measure import path, roofline


def test_operations_and_bytes_follow_the_shapes() -> None:
    x = np.random.default_rng(0).normal(size=(64, 40)).astype(np.float32)
    network = path.random_network("ds-cnn")
    found = roofline.layers(network, x)
    assert [one["name"] for one in found] == [layer.name for layer in network.layers]
    stem, depthwise, pointwise = found[:3]
    inputs, outputs = (layer.outputs for layer in list(network.layers)[1:3])
    pixels = 32 * 20  # the stem takes every second one
    assert stem["operations"] == 2 * pixels * inputs * 9
    assert depthwise["operations"] == 2 * pixels * inputs * 9
    assert pointwise["operations"] == 2 * pixels * inputs * outputs
    assert pointwise["bytes"] == 4 * (inputs * outputs + outputs + pixels * (inputs + outputs))
    assert all(one["us"] > 0 for one in found)
    assert roofline.operations(network, x.shape) == sum(one["operations"] for one in found)


def test_stored_bytes_add_up_to_the_file() -> None:
    x = np.random.default_rng(0).normal(size=(64, 40)).astype(np.float32)
    quantized = path.rounded(path.random_network("ds-cnn"), "int4", x[None])
    stored = sum(map(roofline.stored_bytes, quantized.layers))
    assert 0 < len(network_storage.dumps(quantized)) - stored < 8_000  # description and header
