"""The packed network in plain numpy: no compiler, any processor, the integers every kernel must reproduce.

Products are taken in float64, where they are exact: |level · x̂| < 2²², and 65,536 of them stay below 2⁵³.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qmoe_core.engine.weights import HiddenLayer

EPSILON = np.float32(1e-5)


def quantise(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Activations to 8 bits, each sample with its own step.

    Args:
        x: float32 [B, K].

    Returns:
        Whole numbers in −127 … 127 as float32 [B, K], and the step m / 127 as float32 [B, 1]. A sample whose
        largest magnitude m is zero (or so small that 127 / m overflows) is all zeros.
    """
    largest = np.abs(x).max(axis=1, keepdims=True)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        factor = np.float32(127) / largest
        factor[np.isinf(factor)] = 0
        return np.rint(x * factor), largest / np.float32(127)


def linear(layer: HiddenLayer, matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
    """One hidden layer's Linear: float32 [B, K] to [B, N]. `matrix` is its levels as float64, or weights."""
    if layer.format == "float":
        return x @ matrix.T + layer.bias
    if layer.format == "sign":
        signs = np.where(x > np.float32(layer.threshold), 1.0, -1.0)
        return (signs @ matrix.T).astype(np.float32) * layer.scale + layer.bias
    levels, step = quantise(x)
    return (levels.astype(np.float64) @ matrix.T).astype(np.float32) * (layer.scale * step) + layer.bias


def layer_norm_relu(layer: HiddenLayer, y: np.ndarray) -> np.ndarray:
    """LayerNorm with the population variance, then ReLU: float32 [B, N]."""
    centred = y - y.mean(axis=1, keepdims=True)
    variance = (centred * centred).mean(axis=1, keepdims=True)
    return np.maximum(centred / np.sqrt(variance + EPSILON) * layer.gamma + layer.beta, np.float32(0))


@dataclass(frozen=True, eq=False)
class Stack:
    """Layers, each with its matrix in the type that its product is taken in; the last has no LayerNorm."""

    layers: tuple[HiddenLayer, ...]
    matrices: tuple[np.ndarray, ...]

    @property
    def nbytes(self) -> int:
        return sum(matrix.nbytes for matrix in self.matrices)


def pack(layers: tuple[HiddenLayer, ...]) -> Stack:
    """Ready to multiply."""
    exact = (layer.matrix.astype(np.float32 if layer.format == "float" else np.float64) for layer in layers)
    return Stack(layers, tuple(exact))


def forward(x: np.ndarray, stack: Stack, workspace: np.ndarray, out: np.ndarray) -> None:
    """The whole stack, called as compiled kernels are: x float32 [B · D], out float32 [B · C]."""
    *hidden, last = zip(stack.layers, stack.matrices, strict=True)
    rows, odd = divmod(x.size, stack.layers[0].inputs)
    if odd or out.size != rows * stack.layers[-1].outputs:
        raise ValueError("x, out and workspace must fit the expert")
    y = x.reshape(rows, -1) if rows else np.empty((0, stack.layers[0].inputs), np.float32)
    for layer, matrix in hidden:
        y = layer_norm_relu(layer, linear(layer, matrix, y))
    out[:] = linear(*last, y).reshape(-1)
