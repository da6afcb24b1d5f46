"""Convolutional networks: what a description must hold, its file, and the reference that computes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as from_safetensors
from torch.nn import functional

from qmoe_core.engine import storage
from qmoe_core.engine.network import FORMATS, Block, ConvLayer, Levels, Network
from qmoe_core.engine.network_reference import forward
from qmoe_core.engine.network_storage import KIND, dumps, from_tensors, loads, to_tensors
from qmoe_core.errors import BundleError
from tests.engine.networks import float_network, quantized, spectrograms, with_layers


def of_format(layer_format: str, seed: int = 0) -> Network:
    network = float_network(seed)
    return network if layer_format == "float" else quantized(network, layer_format)


@pytest.mark.parametrize("layer_format", FORMATS)
def test_file_gives_back_the_network(layer_format: str) -> None:
    network = of_format(layer_format)
    data = dumps(network)
    assert data == dumps(network)
    found = loads(data)
    assert dumps(found) == data
    assert found.input == network.input
    for a, b in zip(found.layers, network.layers, strict=True):
        np.testing.assert_array_equal(a.matrix, b.matrix)
        np.testing.assert_array_equal(a.weights, b.weights)
        np.testing.assert_array_equal(a.bias, b.bias)
        assert (a.name, a.kind, a.format, a.output) == (b.name, b.kind, b.format, b.output)
    x = spectrograms(network)
    np.testing.assert_array_equal(forward(found, x), forward(network, x))


def test_packed_weights_are_as_small_as_they_say() -> None:
    count = sum(layer.matrix.size for layer in float_network(channels=40).layers)
    sizes = {}
    for layer_format in ("int8", "int4", "int2", "int1"):
        network = quantized(float_network(channels=40), layer_format)
        sizes[layer_format] = to_tensors(network)["codes"].nbytes
    assert sizes["int8"] == count
    for layer_format, bits in (("int4", 4), ("int2", 2), ("int1", 1)):
        assert sizes[layer_format] < count * bits / 8 + 400  # a row ends with its byte


def torch_forward(network: Network, x: np.ndarray) -> np.ndarray:
    """The float network as PyTorch computes it."""
    activations = {
        "none": lambda y: y,
        "relu": functional.relu,
        "hardswish": functional.hardswish,
        "sigmoid": torch.sigmoid,
        "hardsigmoid": functional.hardsigmoid,
    }

    def convolve(layer: ConvLayer, y: torch.Tensor) -> torch.Tensor:
        groups = layer.outputs if layer.kind == "depthwise" else 1
        weight, bias = torch.from_numpy(layer.weights), torch.from_numpy(layer.bias)
        y = functional.conv2d(y, weight, bias, layer.stride, layer.padding, 1, groups)
        return activations[layer.activation](y)

    y = torch.from_numpy(x)[:, None]
    for block in network.blocks:
        shortcut = y
        for layer in block.layers:
            if layer is block.layers[-1] and block.squeeze is not None:
                mean = y.mean((2, 3), keepdim=True)
                y = y * convolve(block.squeeze.expand, convolve(block.squeeze.reduce, mean))
            y = convolve(layer, y)
        if block.residual:
            y = y + shortcut
    parts = [y.mean((2, 3))] + ([y.amax((2, 3))] if network.pool == "mean+max" else [])
    return torch.cat(parts, 1).numpy()


@pytest.mark.parametrize("layer_format", ["float", "int8"])
def test_reference_of_float_networks_is_pytorchs(layer_format: str) -> None:
    network = of_format(layer_format)
    floats = replace(
        network,
        input=None,
        blocks=tuple(
            replace(block, squeeze=block.squeeze and replace(block.squeeze, pooled=None, output=None))
            for block in with_layers(network, lambda layer: replace(layer, output=None))
        ),
    )
    x = spectrograms(network, frames=30)
    np.testing.assert_allclose(forward(floats, x), torch_forward(floats, x), rtol=1e-4, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), frames=st.integers(4, 40))
def test_eight_bits_stay_close_to_float(seed: int, frames: int) -> None:
    network = float_network(seed)
    x = spectrograms(network, frames=frames, seed=seed)
    wanted = forward(network, x)
    found = forward(quantized(network, "int8", x), x)
    assert np.abs(found - wanted).max() < 0.12 * np.abs(wanted).max()
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.99


def test_integers_of_a_pointwise_layer_by_hand() -> None:
    layer = ConvLayer(
        name="one",
        kind="pointwise",
        format="int4",
        codes=np.array([[[[3]], [[-8]]]]),
        scale=np.array([0.5], np.float32),
        bias=np.array([1.0], np.float32),
        output=Levels(0.25, 100),
    )
    from qmoe_core.engine.network_reference import convolve

    x = np.array([[[[14, 9], [10, 0]]]], np.uint8)  # less 10: (4, −1) → 20, (0, −10) → 80
    # 20 · 0.5 · 0.125 + 1 = 2.25 → 9 + 100; 80 · 0.0625 + 1 = 6 → 24 + 100
    assert convolve(layer, x, Levels(0.125, 10)).ravel().tolist() == [109, 124]


# --- What does not fit is refused in words ----------------------------------------------------------


def changed(change: Callable[[dict], object], network: Network | None = None) -> bytes:
    """A file whose description was changed, with a checksum that fits."""
    tensors = to_tensors(network or of_format("int4"))
    structure = json.loads(tensors["structure"].tobytes())
    change(structure)
    text = json.dumps(structure).encode()
    return storage.dump(KIND, "random", tensors | {"structure": np.frombuffer(text, np.uint8)})


def first_layer(**fields: object) -> Callable[[dict], object]:
    return lambda structure: structure["blocks"][0]["layers"][0].update(fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(bands=0), "bands: expected 1 to 1024"),
        (lambda s: s.update(bands=True), "bands: expected a whole number"),
        (lambda s: (s.update(bands=2), first_layer(padding=[0, 1])(s)), "stem: nothing of 2 bands is left"),
        (lambda s: s.update(pool="median"), "pool: 'median' is none of mean, mean"),
        (lambda s: s.update(more=1), "a network is described by"),
        (lambda s: s.update(blocks=[]), "blocks: expected a list of 1 to 64"),
        (lambda s: s.update(blocks=s["blocks"] * 20), "blocks: expected a list of 1 to 64"),
        (lambda s: s.update(blocks=s["blocks"][:-1]), "codes: is longer than its layers need"),
        (lambda s: s.update(blocks=s["blocks"] * 2), "shorter than its layers need"),
        (lambda s: s.update(input=None), "a quantized network has levels for its input"),
        (lambda s: s.update(input=[1e-45, 0]), "scale: expected a positive float32"),
        (lambda s: s.update(input=[float("nan"), 0]), "scale: expected a positive float32"),
        (lambda s: s.update(input=[0.1, 256]), "zero: expected a whole number of 0 to 255"),
        (lambda s: s.update(input=[0.1, 0.0]), "zero point: expected a whole number"),
        (first_layer(kind="dense"), "at most 1 × 1"),
        (first_layer(kind="grouped"), "'grouped' is none of full"),
        (first_layer(kind=[]), "kind of a layer: expected a text"),
        (first_layer(name="pw1"), "two layers are called pw1"),
        (first_layer(name="a\x1b[2J"), "printable"),
        (first_layer(format="sign"), "expected one of float"),
        (first_layer(shape=[5, 1, 3]), "expected 4 whole numbers"),
        (first_layer(shape=[5, 1, 3, -3]), "expected 1 to 4096 each"),
        (first_layer(shape=[4096, 4096, 4096, 4096]), "shorter than its layers need"),
        (first_layer(stride=[9, 1]), "stride: expected two whole numbers of 1 to 4"),
        (first_layer(padding=[3, 1]), "padding: expected two whole numbers of 0 to 2"),
        (first_layer(activation="gelu"), "'gelu' is none of none, relu"),
        (first_layer(output=[1e-30, 3]), "scales do not fit"),
        (lambda s: s["blocks"][1]["layers"][1].update(activation="relu"), "residual sum"),
        (lambda s: s["blocks"][2]["squeeze"].update(pooled=None), "belong to a quantized network"),
        (lambda s: s["blocks"][2].update(residual=1), "residual: expected true or false"),
        (lambda s: s["blocks"][2].update(residual=True), "residual sum"),
        (lambda s: s["blocks"][2].update(layers=[1]), "a layer is described by"),
    ],
)
def test_description_that_does_not_fit(change: Callable[[dict], object], message: str) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        loads(changed(change), "net.safetensors")
    assert str(caught.value).startswith("net.safetensors: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("structure", np.frombuffer(b"[" * 100_000, np.uint8)),
        ("structure", np.frombuffer(b"\xff", np.uint8)),
        ("structure", np.zeros(1 << 21, np.uint8)),
        ("codes", np.zeros(3, np.int8)),
        ("numbers", np.full(4, np.nan, np.float32)),
        ("numbers", None),
    ],
)
def test_tensors_that_do_not_fit(name: str, array: np.ndarray | None) -> None:
    tensors = to_tensors(of_format("int4"))
    tensors.pop(name)
    if array is not None:
        tensors[name] = array
    with pytest.raises(BundleError, match=name):
        from_tensors(tensors)


def test_numbers_that_are_not_finite_and_bits_that_are_not_zero() -> None:
    tensors = to_tensors(of_format("int4"))
    tensors["numbers"][3] = np.inf
    with pytest.raises(BundleError, match="layer stem: scale: holds a value that is not finite"):
        from_tensors(tensors)
    tensors = to_tensors(of_format("int4"))
    tensors["codes"][4] |= 0xF0  # the stem's nine levels end in the middle of a byte
    with pytest.raises(BundleError, match="bits after a row's last level must be zero, in layer stem"):
        from_tensors(tensors)


def test_other_files_and_damaged_ones() -> None:
    data = dumps(of_format("int2"))
    with pytest.raises(BundleError, match="x: is not a packed expert"):
        storage.loads(data, "x")
    with pytest.raises(BundleError, match="x: is not a packed network"):
        loads(storage.dump("qmoe-expert", "e", from_safetensors(data)), "x")
    flipped = bytearray(data)
    flipped[-1] ^= 1
    with pytest.raises(BundleError, match="x: is damaged"):
        loads(bytes(flipped), "x")
    with pytest.raises(BundleError, match="x: cannot be read"):
        loads(data[:100], "x")


def test_float_weights_do_not_fit_a_quantized_network() -> None:
    network, floats = of_format("int8"), float_network()
    stem = replace(floats.blocks[0].layers[0], output=network.blocks[0].layers[0].output)
    with pytest.raises(BundleError, match="layer stem: float weights do not fit a quantized network"):
        replace(network, blocks=(Block((stem,)), *network.blocks[1:]))


def test_spectrograms_that_do_not_fit() -> None:
    network = float_network()
    with pytest.raises(ValueError, match=r"expected \[B, 12, frames\]"):
        forward(network, np.zeros((1, 13, 9), np.float32))
    short = Network("short", 12, (Block((replace(network.blocks[0].layers[0], padding=(1, 0)),)),), "mean")
    with pytest.raises(ValueError, match="2 frames are too few"):
        forward(short, np.zeros((1, 12, 2), np.float32))
