"""A small network with every kind of block, and spectrograms for it."""

from __future__ import annotations

from typing import Any

import numpy as np

from qmoe_core.engine.network import Activation, Block, ConvLayer, Kind, Network, SqueezeExcite
from qmoe_core.runtime.store import Store


def network(seed: int = 0) -> Network:
    """16 bands, 24 channels at the end: 48 numbers."""
    rng = np.random.default_rng(seed)

    def layer(name: str, kind: Kind, shape: tuple[int, int, int], activation: Activation, stride: int = 1):
        outputs, inputs, kernel = shape
        weight = rng.normal(0.0, (2.0 / (inputs * kernel**2)) ** 0.5, (outputs, inputs, kernel, kernel))
        return ConvLayer(
            name=name,
            kind=kind,
            weight=weight.astype(np.float32),
            bias=rng.normal(0.0, 0.1, outputs).astype(np.float32),
            stride=(stride, stride),
            padding=(kernel // 2, kernel // 2),
            activation=activation,
        )

    squeeze = SqueezeExcite(
        layer("gate.in", "dense", (4, 16, 1), "relu"), layer("gate.out", "dense", (16, 4, 1), "sigmoid")
    )
    inner = (
        layer("wide", "pointwise", (16, 8, 1), "hardswish"),
        layer("each", "depthwise", (16, 1, 3), "relu"),
        layer("narrow", "pointwise", (8, 16, 1), "none"),
    )
    stem, end = (
        layer("stem", "full", (8, 1, 3), "hardswish", 2),
        layer("end", "pointwise", (24, 8, 1), "relu"),
    )
    return Network("tiny", 16, (Block((stem,)), Block(inner, squeeze, True), Block((end,))), "mean+max")


def inputs(clips: int, seed: int = 0) -> np.ndarray:
    """int8 [clips, 16, 20], sixty times the input: a pattern of bands that changes its level in time."""
    rng = np.random.default_rng(seed)
    bands, level = rng.normal(0.0, 0.4, (clips, 16, 1)), rng.normal(0.0, 0.4, (clips, 1, 20))
    return np.clip(np.round(60 * (bands + level)), -127, 127).astype(np.int8)


def kept(store: Store, shards: int, clips: int) -> list[dict[str, Any]]:
    """Puts so many shards of inputs into the store; gives their keys."""
    from qmoe_core.embedders.quantization import inputs as kept_inputs

    keys = [{"tiny": number, "clips": clips} for number in range(shards)]
    for number, key in enumerate(keys):
        store.put(kept_inputs.INPUTS, key, {"levels": inputs(clips, number)})
    return keys
