"""One expert's numbers, before any packing: integer levels, scales, LayerNorm and the float head.

This is what training hands over and what every kernel and file format is made from. A hidden layer is
Linear → LayerNorm → ReLU; only the Linear differs between formats:

- `float`: y = W x + b.
- `int1` to `int16` and `ternary`: activations are quantized per sample to 8 bits, x̂ = round(127 x / m)
  with m = max|x|, and y = (Σ levels · x̂) · (scale · m / 127) + bias.
- `sign` (the paper's Eq. 4): activations become bits x > τ, y = (K − 2 popcount(x XOR w)) · scale + bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from qmoe_core.errors import BundleError
from qmoe_core.experts.spec import FORMATS, LEVELS

MAX_LAYERS = 4
MAX_WIDTH = 65_536
"""Inputs or outputs of one layer; sums of 8-bit products stay within 32 bits up to twice this."""


def checked_floats(name: str, array: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """The array as float32; BundleError unless it has that shape and is finite."""
    array = np.asarray(array)
    if array.shape != shape or array.dtype.kind != "f":
        raise BundleError(
            f"{name}: expected float32 {list(shape)}, got {array.dtype} {list(array.shape)}",
        )
    array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(array).all():
        raise BundleError(f"{name}: holds a value that is not finite; weights must be finite numbers")
    return array


def checked_levels(array: np.ndarray, layer_format: str) -> np.ndarray:
    """The matrix [N, K] as int8 or int16; BundleError unless it holds levels of the format only."""
    array = np.asarray(array)
    bits, low, high = LEVELS[layer_format]
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise BundleError(
            f"codes: expected integers [outputs, inputs], got {array.dtype} {list(array.shape)}"
        )
    wrong = (array < low) | (array > high)
    if bits == 1:
        wrong |= array == 0
    if wrong.any():
        accepted = "−1 and 1" if bits == 1 else f"{low} to {high}"
        raise BundleError(f"codes: {array[wrong][0]} is not a level of {layer_format}, which has {accepted}")
    return np.ascontiguousarray(array, np.int16 if bits == 16 else np.int8)


@dataclass(frozen=True, eq=False, kw_only=True)
class HiddenLayer:
    """Linear → LayerNorm(ε = 1e-5) → ReLU of one format; N outputs, K inputs.

    Shape:
        codes: integers [N, K], the levels (not for `float`); kept as int8, or int16 for `int16`
        weight: float32 [N, K] (`float` only)
        scale: float32 [N], what one step of the levels is worth (always ones for `float`)
        bias, gamma, beta: float32 [N]

    Raises:
        BundleError: an array of another shape or kind, a value that is not finite, a level out of range.
    """

    format: str
    codes: np.ndarray | None = None
    weight: np.ndarray | None = None
    scale: np.ndarray
    bias: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    threshold: float = 0.0
    """τ of a `sign` layer: an activation above it is +1, any other −1. Kept to float32 precision; 0
    elsewhere."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise BundleError(f"format: {self.format!r} is none of {', '.join(FORMATS)}")
        is_float = self.format == "float"
        name, matrix, other = (
            ("weight", self.weight, self.codes) if is_float else ("codes", self.codes, self.weight)
        )
        if matrix is None or other is not None:
            raise BundleError(f"{name}: a {self.format} layer has {name}, and nothing else, for its matrix")
        matrix = np.asarray(matrix)
        matrix = (
            checked_floats(name, matrix, matrix.shape) if is_float else checked_levels(matrix, self.format)
        )
        if matrix.ndim != 2 or not all(1 <= size <= MAX_WIDTH for size in matrix.shape):
            raise BundleError(
                f"{name}: expected [outputs, inputs] of 1 to {MAX_WIDTH}, got {list(matrix.shape)}"
            )
        object.__setattr__(self, name, matrix)
        for name in ("scale", "bias", "gamma", "beta"):
            object.__setattr__(self, name, checked_floats(name, getattr(self, name), matrix.shape[:1]))
        if not math.isfinite(self.threshold):
            raise BundleError("threshold: must be a finite number")
        if is_float:
            object.__setattr__(self, "scale", np.ones(matrix.shape[0], np.float32))
        threshold = float(np.float32(self.threshold)) if self.format == "sign" else 0.0
        object.__setattr__(self, "threshold", threshold)

    @property
    def matrix(self) -> np.ndarray:
        """The levels, or the float weights: [N, K]."""
        matrix = self.weight if self.codes is None else self.codes
        assert matrix is not None
        return matrix

    @property
    def outputs(self) -> int:
        return self.matrix.shape[0]

    @property
    def inputs(self) -> int:
        return self.matrix.shape[1]


@dataclass(frozen=True, eq=False)
class ExpertWeights:
    """A whole expert: its hidden layers and the head, which the paper keeps in float32 (Table 7).

    Shape:
        head_weight: float32 [C, K]
        head_bias: float32 [C]

    Raises:
        BundleError: sizes that do not follow on one another, or a head that is not finite.
    """

    name: str
    layers: tuple[HiddenLayer, ...]
    head_weight: np.ndarray
    head_bias: np.ndarray

    def __post_init__(self) -> None:
        if not 1 <= len(self.layers) <= MAX_LAYERS:
            raise BundleError(
                f"{self.name}: expected 1 to {MAX_LAYERS} hidden layers, got {len(self.layers)}"
            )
        width = self.layers[0].inputs
        for i, layer in enumerate(self.layers):
            if layer.inputs != width:
                raise BundleError(f"{self.name}: layer {i} takes {layer.inputs} inputs but gets {width}")
            width = layer.outputs
        classes = np.shape(self.head_weight)[0] if np.ndim(self.head_weight) else 0
        if not 1 <= classes <= MAX_WIDTH:
            raise BundleError(f"{self.name}: the head must have 1 to {MAX_WIDTH} classes, got {classes}")
        object.__setattr__(
            self, "head_weight", checked_floats("head.weight", self.head_weight, (classes, width))
        )
        object.__setattr__(self, "head_bias", checked_floats("head.bias", self.head_bias, (classes,)))

    @property
    def dim(self) -> int:
        """Inputs, D."""
        return self.layers[0].inputs

    @property
    def classes(self) -> int:
        """Outputs, C."""
        return self.head_weight.shape[0]

    @property
    def parameters(self) -> int:
        """Trained numbers: matrices, biases, LayerNorm and head, as the paper's Table 7 counts them."""
        hidden = sum(layer.matrix.size + 3 * layer.outputs for layer in self.layers)
        return hidden + self.head_weight.size + self.head_bias.size
