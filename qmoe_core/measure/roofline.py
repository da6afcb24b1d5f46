"""Operations, bytes and time of each layer, and what the machine was measured to give at most.

A layer that does p operations a byte cannot be faster than min(operations a second, p · bytes a second)
(Williams et al. 2009, "Roofline"). Operations are multiplications and additions; bytes are packed weights,
and activations in and out, each once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from qmoe_core.engine.bits import row_bytes
from qmoe_core.engine.network import ConvLayer, Network
from qmoe_core.engine.packed_network import PackedNetwork
from qmoe_core.engine.weights import LEVELS

CALLS = 60
CACHES = {"second-level cache": 256 << 10, "memory": 64 << 20}
"""Bytes that are copied for the bandwidth of each."""
SQUARE = 384
"""Rows of the matrices that are multiplied for the rate of the vector units."""


def _us(call: Callable[[], object], calls: int = CALLS) -> np.ndarray:
    """Times of calls."""
    taken = np.empty(calls)
    for i in range(-3, calls):
        started = time.perf_counter_ns()
        call()
        taken[i] = time.perf_counter_ns() - started
    return taken / 1e3


def median_us(call: Callable[[], object]) -> float:
    """Median time of a call."""
    return float(np.median(_us(call)))


def roofs() -> dict[str, float]:
    """What this machine gives one thread at best: bytes a second of copying, and operations a second of
    multiplying matrices of float32 and, where it multiplies four of them in a float's place, of bytes."""
    import torch

    found = {}
    for name, size in CACHES.items():
        source, target = np.ones(size // 8), np.empty(size // 8)
        us = _us(lambda source=source, target=target: np.copyto(target, source)).min()
        found[name] = float(2 * size / us * 1e6)
    a, b, product = torch.rand(3, SQUARE, SQUARE).unbind()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    us = _us(lambda: torch.mm(a, b, out=product)).min()
    torch.set_num_threads(threads)
    found["float32"] = float(2 * SQUARE**3 / us * 1e6)
    found["bytes"] = 4 * found["float32"]
    return found


def layers(network: Network, x: np.ndarray) -> list[dict[str, Any]]:
    """What each layer does and takes.

    Args:
        network: float or quantized, of formats that kernels run.
        x: float32 [bands, frames].

    Returns:
        For each layer its name, kind, format, operations, bytes and µs.
    """
    nothing, *calls = map(median_us, PackedNetwork(network).layer_calls(x))
    element = 4 if network.input is None else 1
    found, sizes = [], dict(_sizes(network, x.shape))
    for layer, us in zip(network.layers, calls, strict=True):
        before, after = sizes[layer.name]
        weights = stored_bytes(layer)
        found.append(
            {
                "name": layer.name,
                "kind": layer.kind,
                "format": layer.format,
                "operations": 2 * after * layer.matrix.size,
                "weight_bytes": weights,
                "bytes": weights + element * (before * layer.inputs + after * layer.outputs),
                "us": max(us - nothing, 0.01),
            }
        )
    return found


def operations(network: Network, shape: tuple[int, ...]) -> int:
    """Multiplications and additions of a whole network for a spectrogram of [bands, frames]."""
    sizes = dict(_sizes(network, shape))
    return sum(2 * sizes[layer.name][1] * layer.matrix.size for layer in network.layers)


def stored_bytes(layer: ConvLayer) -> int:
    """Of a layer in a file: packed weights, scales and biases."""
    if layer.format == "float":
        return layer.weights.nbytes + layer.bias.nbytes
    rows = layer.matrix.reshape(layer.outputs, -1)
    return layer.outputs * row_bytes(rows.shape[1], LEVELS[layer.format].bits) + 2 * layer.bias.nbytes


def _sizes(network: Network, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Pixels of each layer's input and output."""
    height, width = shape
    for block in network.blocks:
        for layer in block.layers:
            if layer is block.layers[-1] and block.squeeze is not None:
                for dense in (block.squeeze.reduce, block.squeeze.expand):
                    yield dense.name, (1, 1)
            before = height * width
            height, width = layer.size(height, width)
            yield layer.name, (before, height * width)
