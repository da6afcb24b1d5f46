"""Random networks of every format, with everything that a network can have, for tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from qmoe_core.engine import LEVELS
from qmoe_core.engine.network import Activation, Block, ConvLayer, Kind, Levels, Network, Pool, SqueezeExcite
from qmoe_core.engine.network_reference import forward


def float_network(
    seed: int = 0, *, bands: int = 12, channels: int = 5, kernel: int = 3, pool: Pool = "mean+max"
) -> Network:
    """A stem, a residual block, one with a squeeze-excite and strides, and a last pointwise layer."""
    rng = np.random.default_rng(seed)

    def layer(
        name: str, kind: Kind, outputs: int, inputs: int, size: int = 1, stride: int = 1,
        activation: Activation = "none",
    ) -> ConvLayer:  # fmt: skip
        weight = rng.normal(size=(outputs, inputs, size, size)) / np.sqrt(inputs * size * size)
        return ConvLayer(
            name=name,
            kind=kind,
            weight=weight.astype(np.float32),
            bias=rng.normal(scale=0.3, size=outputs).astype(np.float32),
            stride=(stride, stride),
            padding=(size // 2, size // 2),
            activation=activation,
        )

    few, many = channels, 2 * channels + 1
    squeeze = SqueezeExcite(
        layer("reduce", "dense", 4, many, activation="relu"),
        layer("expand", "dense", many, 4, activation="sigmoid"),
    )
    blocks = (
        Block((layer("stem", "full", few, 1, 3, 2, "hardswish"),)),
        Block(
            (
                layer("dw1", "depthwise", few, 1, kernel, activation="relu"),
                layer("pw1", "pointwise", few, few),
            ),
            residual=True,
        ),
        Block(
            (
                layer("grow", "pointwise", many, few, activation="hardswish"),
                layer("dw2", "depthwise", many, 1, kernel, 2, "hardswish"),
                layer("pw2", "pointwise", few, many),
            ),
            squeeze,
        ),
        Block((layer("last", "pointwise", 2 * many, few, activation="relu"),)),
    )
    return Network("random", bands, blocks, pool)


def spectrograms(network: Network, count: int = 2, frames: int = 17, seed: int = 1) -> np.ndarray:
    """float32 [count, bands, frames]."""
    return np.random.default_rng(seed).normal(size=(count, network.bands, frames)).astype(np.float32)


def with_layers(network: Network, change: Callable[[ConvLayer], ConvLayer]) -> tuple[Block, ...]:
    """The blocks, each layer changed."""

    def changed(squeeze: SqueezeExcite | None) -> SqueezeExcite | None:
        if squeeze is None:
            return None
        return replace(squeeze, reduce=change(squeeze.reduce), expand=change(squeeze.expand))

    return tuple(
        replace(block, layers=tuple(map(change, block.layers)), squeeze=changed(block.squeeze))
        for block in network.blocks
    )


def in_levels(layer: ConvLayer, layer_format: str) -> ConvLayer:
    """Weights rounded to a format's levels, the extreme ones among them."""
    width, low, high = LEVELS[layer_format]
    assert layer.weight is not None
    rows = layer.weight.reshape(layer.outputs, -1)
    if width == 1:
        scale = np.abs(rows).mean(1)
        codes = np.where(rows > 0, 1, -1)
    else:
        scale = np.abs(rows).max(1) / -low
        codes = np.clip(np.rint(rows / scale[:, None]), low, high)
    return replace(
        layer,
        format=layer_format,
        weight=None,
        codes=codes.reshape(layer.weight.shape).astype(np.int16 if width == 16 else np.int8),
        scale=scale.astype(np.float32),
    )


def quantized(network: Network, layer_format: str = "int8", x: np.ndarray | None = None) -> Network:
    """The float network with levels everywhere, calibrated on spectrograms."""
    rounded = replace(network, blocks=with_layers(network, lambda layer: in_levels(layer, layer_format)))
    seen: dict[str, Levels] = {}

    def calibrate(name: str, values: np.ndarray) -> None:
        low, high = min(float(values.min()), 0.0), max(float(values.max()), 1e-3)
        scale = (high - low) / 255
        seen[name] = Levels(scale, round(-low / scale))

    forward(rounded, spectrograms(network) if x is None else x, calibrate)
    blocks = with_layers(rounded, lambda layer: replace(layer, output=seen[layer.name]))
    blocks = tuple(
        replace(block, squeeze=replace(
            block.squeeze,
            pooled=seen[block.squeeze.expand.name + ".pooled"],
            output=seen[block.squeeze.expand.name + ".output"],
        )) if block.squeeze else block
        for block in blocks
    )  # fmt: skip
    return replace(rounded, blocks=blocks, input=seen["input"])
