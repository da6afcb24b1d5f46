"""A network's forward pass in plain numpy: what its numbers mean, and the integers every kernel must
reproduce.

Sums of a quantized network are taken in float64, where they are exact: 65,536 products of a byte and 16 bits
stay below 2⁴⁰. Everything after a sum is float32, one operation at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qmoe_core.engine.network import Activation, Block, ConvLayer, Levels, Network, SqueezeExcite

Observer = Callable[[str, np.ndarray], object]
"""Is told of every tensor: its name (a layer's, or that of a squeeze-excite's `expand` with `.pooled` or
`.output`) and its values, [B, H, W, C]: float32, or uint8 in a quantized network."""

SIXTH = np.float32(1 / 6)


def forward(network: Network, x: np.ndarray, observe: Observer | None = None) -> np.ndarray:
    """Embeddings of spectrograms.

    Args:
        network: float or quantized.
        x: finite float32 [B, bands, frames].
        observe: is told of every tensor on the way, for calibration and tests.

    Returns:
        float32 [B, D].

    Raises:
        ValueError: a spectrogram of another height, or too short.
    """
    if x.ndim != 3 or x.shape[1] != network.bands:
        raise ValueError(f"{network.name}: expected [B, {network.bands}, frames], got {list(x.shape)}")
    network.size(x.shape[2])
    observe = observe or (lambda name, values: None)
    y = np.ascontiguousarray(x, np.float32)[..., None]
    levels = network.input
    if levels is not None:
        y = to_levels(y, levels)
    observe("input", y)
    for block in network.blocks:
        y, levels = _block(block, y, levels, observe)
    return pool(network, y, levels)


def to_levels(x: np.ndarray, levels: Levels) -> np.ndarray:
    """float32 to the nearest levels, uint8, with the reciprocal of the scale."""
    return _round(x * np.float32(1 / levels.scale) + np.float32(levels.zero))


def _round(x: np.ndarray, lowest: int = 0) -> np.ndarray:
    return np.clip(np.rint(x), lowest, 255).astype(np.uint8)


def _block(
    block: Block, x: np.ndarray, levels: Levels | None, observe: Observer
) -> tuple[np.ndarray, Levels | None]:
    shortcut, shortcut_levels = x, levels
    for layer in block.layers:
        last = layer is block.layers[-1]
        if last and block.squeeze is not None:
            x, levels = _squeeze(block.squeeze, x, levels, observe), block.squeeze.output
        added = (shortcut, shortcut_levels) if last and block.residual else None
        x, levels = convolve(layer, x, levels, added), layer.output
        observe(layer.name, x)
    return x, levels


def convolve(
    layer: ConvLayer,
    x: np.ndarray,
    levels: Levels | None,
    added: tuple[np.ndarray, Levels | None] | None = None,
) -> np.ndarray:
    """One layer: [B, H, W, I] to [B, H', W', O], float32 or uint8.

    Args:
        layer: of a float or a quantized network.
        x: its input; of these levels in a quantized network.
        levels: None in a float network.
        added: tensor, and its levels, that is added to a residual block's last layer.
    """
    if levels is None or layer.output is None:
        y = activate(layer.activation, sums(layer, x, layer.weights) + layer.bias)
        return y if added is None else y + added[0]
    exact = sums(layer, x.astype(np.float64) - levels.zero, layer.matrix.astype(np.float64))
    factor, offset = layer.rescaling(levels)
    y = exact.astype(np.float32) * factor + offset
    if added is not None:
        assert added[1] is not None
        ratio, zero = np.float32(added[1].scale / layer.output.scale), added[1].zero
        y = y + (added[0].astype(np.float32) - np.float32(zero)) * ratio
    return activate_to_levels(layer.activation, y, layer.output)


def sums(layer: ConvLayer, x: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The convolution alone, in the type of its arguments: x [B, H, W, I], padded with 0, and matrix
    [O, I, h, w]."""
    height, width = layer.size(*x.shape[1:3])
    (rows, columns), (down, across) = layer.kernel, layer.stride
    x = np.pad(x, ((0, 0), *((p, p) for p in layer.padding), (0, 0)))
    total = np.zeros((len(x), height, width, layer.outputs), x.dtype)
    for i in range(rows):
        for j in range(columns):
            part = x[:, i : i + down * (height - 1) + 1 : down, j : j + across * (width - 1) + 1 : across]
            if layer.kind == "depthwise":
                total += part * matrix[:, 0, i, j]
            else:
                pixels = np.ascontiguousarray(part).reshape(-1, layer.inputs)
                total += (pixels @ matrix[:, :, i, j].T).reshape(total.shape)
    return total


def activate(activation: Activation, y: np.ndarray) -> np.ndarray:
    """float32 to float32."""
    match activation:
        case "relu":
            return np.maximum(y, np.float32(0))
        case "hardswish":
            return y * _six(y) * SIXTH
        case "hardsigmoid":
            return _six(y) * SIXTH
        case "sigmoid":
            return _sigmoid(y).astype(np.float32)
    return y


def activate_to_levels(activation: Activation, y: np.ndarray, levels: Levels) -> np.ndarray:
    """Rescaled sums (see `ConvLayer.rescaling`) to the levels of a layer's output, uint8."""
    zero = np.float32(levels.zero)
    match activation:
        case "relu":
            return _round(y, levels.zero)
        case "hardswish":
            return _round(y * _six(y) * np.float32(1 / 6 / levels.scale) + zero)
        case "hardsigmoid":
            return _round(_six(y) * np.float32(1 / 6 / levels.scale) + zero)
        case "sigmoid":  # In float64, so that all ways to compute it round to the same level.
            return _round(_sigmoid(y) / levels.scale + levels.zero)
    return _round(y)


def _six(y: np.ndarray) -> np.ndarray:
    return np.clip(y + np.float32(3), np.float32(0), np.float32(6))


def _sigmoid(y: np.ndarray) -> np.ndarray:
    """float64."""
    return 0.5 + 0.5 * np.tanh(0.5 * y.astype(np.float64))


def _squeeze(squeeze: SqueezeExcite, x: np.ndarray, levels: Levels | None, observe: Observer) -> np.ndarray:
    pooled = mean(x, levels)[:, None, None]
    if squeeze.pooled is not None:
        pooled = to_levels(pooled, squeeze.pooled)
    observe(f"{squeeze.expand.name}.pooled", pooled)
    gate = convolve(squeeze.reduce, pooled, squeeze.pooled)
    observe(squeeze.reduce.name, gate)
    gate = convolve(squeeze.expand, gate, squeeze.reduce.output)
    observe(squeeze.expand.name, gate)
    if levels is None or squeeze.output is None:
        y = x * gate
    else:
        assert squeeze.expand.output is not None
        product = (x.astype(np.int32) - levels.zero) * (gate.astype(np.int32) - squeeze.expand.output.zero)
        factor = np.float32(Network.gating(levels, squeeze))
        y = _round(product.astype(np.float32) * factor + np.float32(squeeze.output.zero))
    observe(f"{squeeze.expand.name}.output", y)
    return y


def mean(x: np.ndarray, levels: Levels | None) -> np.ndarray:
    """Over the pixels: [B, H, W, C] to float32 [B, C]."""
    if levels is None:
        return x.mean(axis=(1, 2), dtype=np.float32)
    pixels = x.shape[1] * x.shape[2]
    total = x.sum(axis=(1, 2), dtype=np.int64) - pixels * levels.zero
    return total.astype(np.float32) * (np.float32(levels.scale) / np.float32(pixels))


def pool(network: Network, x: np.ndarray, levels: Levels | None) -> np.ndarray:
    """The embedding: the last tensor, [B, H, W, C], to float32 [B, D]."""
    if network.pool == "mean":
        return mean(x, levels)
    largest = x.max(axis=(1, 2))
    if levels is not None:
        largest = (largest.astype(np.float32) - np.float32(levels.zero)) * np.float32(levels.scale)
    return np.concatenate([mean(x, levels), largest], axis=1)
