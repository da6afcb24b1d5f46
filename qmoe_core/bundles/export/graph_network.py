"""The front ends and networks of learned embedders (`mn04`, `ds-cnn`) as nodes of an ONNX graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qmoe_core.audio import kaldi_mel, mel
from qmoe_core.embedders import ds_cnn
from qmoe_core.embedders.learned import LearnedEmbedder
from qmoe_core.engine.network import Block, ConvLayer, Levels, Network, SqueezeExcite

if TYPE_CHECKING:
    from qmoe_core.bundles.export.graph import Graph


def learned(g: Graph, embedder: LearnedEmbedder, waveform: str) -> str:
    """[B, n] at the embedder's sample rate → `embedding` [B, D]."""
    network = embedder.network
    levels = _kaldi_levels(g, waveform) if network.name == "mn04" else _relative_levels(g, waveform)
    return network_nodes(g, network, g.node("Unsqueeze", levels, g.integers(1)))


def decibels(g: Graph, waveform: str, n_mels: int, range_db: float) -> tuple[str, str]:
    """Log-mel levels (`audio.mel`) down to `range_db` below the loudest: [B, frames, n_mels]; and that."""
    edge = mel.N_FFT // 2
    padded = g.node("Pad", waveform, g.integers(0, edge, 0, edge), mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(mel.N_FFT) / mel.N_FFT)
    bands = g.node("MatMul", _power(g, padded, mel.HOP, window), g.constant(mel.mel_filterbank(n_mels).T))
    audible = g.node("Log", g.node("Max", bands, g.constant(mel.FLOOR_POWER)))
    level = g.node("Mul", audible, g.constant(10.0 / np.log(10.0)))
    top = g.node("ReduceMax", level, g.integers(1, 2), keepdims=1)
    return g.node("Max", level, g.node("Sub", top, g.constant(range_db))), top


def _power(g: Graph, padded: str, hop: int, window: np.ndarray) -> str:
    """Power spectra [B, frames, bins] of a padded waveform, frames as long as the window."""
    spectrum = g.node(
        "STFT",
        g.node("Unsqueeze", padded, g.integers(2)),
        g.constant(hop, np.int64),
        g.constant(window),
        g.constant(len(window), np.int64),
        onesided=1,
    )
    return g.node("ReduceSumSquare", spectrum, g.integers(3), keepdims=0)


def _relative_levels(g: Graph, waveform: str) -> str:
    """See `ds_cnn.levels`: [B, 64, frames]."""
    level, top = decibels(g, waveform, ds_cnn.N_MELS, ds_cnn.RANGE_DB)
    scaled = g.node("Div", g.node("Sub", level, top), g.constant(ds_cnn.RANGE_DB / 2))
    return g.node("Transpose", g.node("Add", scaled, g.constant(1.0)), perm=[0, 2, 1])


def _kaldi_levels(g: Graph, waveform: str) -> str:
    """See `kaldi_mel.log_mel`: [B, 128, frames]."""
    length = round(5 * kaldi_mel.SAMPLE_RATE)
    after = g.node("Slice", waveform, g.integers(1), g.integers(length), g.integers(1))
    before = g.node("Slice", waveform, g.integers(0), g.integers(length - 1), g.integers(1))
    emphasised = g.node("Sub", after, g.node("Mul", before, g.constant(0.97)))
    edge = kaldi_mel.N_FFT // 2
    padded = g.node("Pad", emphasised, g.integers(0, edge, 0, edge), mode="reflect")
    window, filters = kaldi_mel.constants()
    around = (kaldi_mel.N_FFT - kaldi_mel.WINDOW) // 2
    power = _power(g, padded, kaldi_mel.HOP, np.pad(window, around))
    banks = np.pad(filters, ((0, 0), (0, 1)))  # the bin at half the sample rate is in none
    energies = g.node("Add", g.node("MatMul", power, g.constant(banks.T)), g.constant(1e-5))
    level = g.node("Div", g.node("Add", g.node("Log", energies), g.constant(4.5)), g.constant(5.0))
    return g.node("Transpose", level, perm=[0, 2, 1])


def network_nodes(g: Graph, network: Network, x: str) -> str:
    """[B, 1, bands, frames] → `embedding` [B, D].

    In a quantized network every tensor holds the whole numbers q − zero as float32, whose sums of products
    are exact up to 2²⁴; weights are kept as the integers that they are.
    """
    levels = network.input
    if levels is not None:
        x = _to_levels(g, x, levels)
    for block in network.blocks:
        x, levels = _block(g, block, x, levels)
    mean = _mean(g, x, levels, keep=False)
    if network.pool == "mean":
        return g.node("Identity", mean, to="embedding")
    largest = _worth(g, g.node("ReduceMax", x, g.integers(2, 3), keepdims=0), levels)
    return g.node("Concat", mean, largest, axis=1, to="embedding")


def _block(g: Graph, block: Block, x: str, levels: Levels | None) -> tuple[str, Levels | None]:
    shortcut = (x, levels)
    for layer in block.layers[:-1]:
        x, levels = _convolution(g, layer, x, levels), layer.output
    if block.squeeze is not None:
        x, levels = _gated(g, block.squeeze, x, levels), block.squeeze.output
    last = block.layers[-1]
    return _convolution(g, last, x, levels, shortcut if block.residual else None), last.output


def _gated(g: Graph, squeeze: SqueezeExcite, x: str, levels: Levels | None) -> str:
    pooled = _mean(g, x, levels, keep=True)
    if squeeze.pooled is not None:
        pooled = _to_levels(g, pooled, squeeze.pooled)
    hidden = _convolution(g, squeeze.reduce, pooled, squeeze.pooled)
    product = g.node("Mul", x, _convolution(g, squeeze.expand, hidden, squeeze.reduce.output))
    if levels is None or squeeze.output is None:
        return product
    steps = g.node("Mul", product, g.constant(Network.gating(levels, squeeze)))
    return _rounded(g, g.node("Add", steps, g.constant(squeeze.output.zero)), squeeze.output)


def _convolution(
    g: Graph, layer: ConvLayer, x: str, levels: Levels | None, added: tuple[str, Levels | None] | None = None
) -> str:
    """One layer, of a quantized network where its input has levels (see `network_reference.convolve`)."""
    down, across = layer.padding
    if levels is None:
        weights = g.constant(layer.weights)
    else:
        weights = g.cast(g.constant(layer.matrix, np.int16 if layer.format == "int16" else np.int8), "FLOAT")
    y = g.node(
        "Conv",
        x,
        weights,
        *([g.constant(layer.bias)] if levels is None else []),
        strides=layer.stride,
        pads=[down, across, down, across],
        group=layer.outputs if layer.kind == "depthwise" else 1,
    )
    if levels is None or layer.output is None:
        y = _activation(g, layer, y)
        return y if added is None else g.node("Add", y, added[0])
    factor, offset = (g.constant(part[:, None, None]) for part in layer.rescaling(levels))
    y = g.node("Add", g.node("Mul", y, factor), offset)
    if added is not None and added[1] is not None:
        y = g.node("Add", y, g.node("Mul", added[0], g.constant(added[1].scale / layer.output.scale)))
    if layer.activation in ("none", "relu"):
        return _rounded(g, y, layer.output, layer.output.zero if layer.activation == "relu" else 0)
    return _to_levels(g, _activation(g, layer, y), layer.output)


def _activation(g: Graph, layer: ConvLayer, y: str) -> str:
    match layer.activation:
        case "relu":
            return g.node("Relu", y)
        case "hardswish":
            return g.node("HardSwish", y)
        case "sigmoid":
            return g.node("Sigmoid", y)
        case "hardsigmoid":
            return g.node("HardSigmoid", y, alpha=1 / 6, beta=0.5)
    return y


def _mean(g: Graph, x: str, levels: Levels | None, *, keep: bool) -> str:
    return _worth(g, g.node("ReduceMean", x, g.integers(2, 3), keepdims=int(keep)), levels)


def _worth(g: Graph, x: str, levels: Levels | None) -> str:
    return x if levels is None else g.node("Mul", x, g.constant(levels.scale))


def _to_levels(g: Graph, x: str, levels: Levels) -> str:
    steps = g.node("Mul", x, g.constant(1 / levels.scale))
    return _rounded(g, g.node("Add", steps, g.constant(levels.zero)), levels)


def _rounded(g: Graph, x: str, levels: Levels, lowest: int = 0) -> str:
    """Steps to the nearest level, less its zero."""
    level = g.node("Clip", g.node("Round", x), g.constant(lowest), g.constant(255))
    return g.node("Sub", level, g.constant(levels.zero))
