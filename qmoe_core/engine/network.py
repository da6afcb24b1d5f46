"""One convolutional network's numbers, before any packing: layers, blocks, and how a spectrogram becomes an
embedding.

    spectrogram float32 [bands, frames] → block → block → … → mean (and maximum) of each channel → embedding

A *float network* keeps its activations in float32; its weights may be levels all the same, which are then
worth level · scale. In a *quantized network* every tensor of activations is uint8 with one static scale and
zero point (`Levels`), and every layer has levels for weights (Jacob et al. 2018, arXiv:1712.05877):

    sum     = Σ (x − zero of x) · level                           exactly, in integers
    y       = sum · (scale of x · scale of the output channel) + bias
    output  = round(activation(y) / scale of the output) + zero, clipped to 0 … 255

`network_reference.py` computes exactly that, in float32 and in the order that
`ConvLayer.rescaling` gives; kernels must reproduce its integers. Batch norms are folded into scale and bias.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from qmoe_core.engine.weights import MAX_WIDTH, checked_floats, checked_levels
from qmoe_core.errors import BundleError
from qmoe_core.experts import spec

Kind = Literal["full", "depthwise", "pointwise", "dense"]
"""`dense` is a pointwise convolution of a squeeze-excite, where each clip has one pixel."""
Activation = Literal["none", "relu", "hardswish", "sigmoid", "hardsigmoid"]
Pool = Literal["mean", "mean+max"]
FORMATS = tuple(name for name in spec.FORMATS if name != "sign")
"""Weight formats of a layer; `sign` is one of heads only."""

MAX_KERNEL = 7
MAX_STRIDE = 4
MAX_CHANNELS = 4096
MAX_BANDS = 1024
MAX_BLOCKS = 64
MAX_LAYERS = 4
MAX_NUMBERS_A_FRAME = 65_536
"""Of one tensor of activations, for each frame of the spectrogram: what bounds the memory of a network."""
_LARGEST = 2.0**30
"""No activation may be able to lie further from its zero than this many steps: kernels round to int32."""


@dataclass(frozen=True)
class Levels:
    """How a tensor of activations is stored: uint8 q is worth scale · (q − zero).

    Raises:
        BundleError: a scale that is not a positive float32, or a zero point outside 0 … 255.
    """

    scale: float
    zero: int

    def __post_init__(self) -> None:
        with np.errstate(over="ignore"):
            scale = float(np.float32(self.scale))
        if not (math.isfinite(scale) and scale >= np.finfo(np.float32).tiny):
            raise BundleError(f"scale: expected a positive float32, got {self.scale}")
        if self.zero not in range(256):
            raise BundleError(f"zero: expected a whole number of 0 to 255, got {self.zero}")
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "zero", int(self.zero))


@dataclass(frozen=True, eq=False, kw_only=True)
class ConvLayer:
    """One convolution with its bias and activation: O output channels, I input channels, kernel h × w.

    Shape:
        codes: integers [O, I, h, w], levels of the format (not for `float`); I is 1 for `depthwise`, h and w
            are 1 for `pointwise` and `dense`
        weight: float32 [O, I, h, w] (`float` only)
        scale: float32 [O], what one step of the levels is worth (ones for `float`)
        bias: float32 [O]

    Raises:
        BundleError: an array of another shape or kind, a value that is not finite or out of range.
    """

    name: str
    kind: Kind
    format: str = "float"
    codes: np.ndarray | None = None
    weight: np.ndarray | None = None
    scale: np.ndarray | None = None
    bias: np.ndarray
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    activation: Activation = "none"
    output: Levels | None = None
    """Of the layer's output in a quantized network. Padding is the zero point of the layer's input."""

    def __post_init__(self) -> None:
        try:
            self._check_choices()
            matrix = self._check_matrix()
            self._check_window(*matrix.shape[2:])
            outputs = matrix.shape[:1]
            scale = np.ones(outputs, np.float32) if self.format == "float" else self.scale
            object.__setattr__(self, "scale", checked_floats("scale", scale, outputs))
            object.__setattr__(self, "bias", checked_floats("bias", self.bias, outputs))
        except BundleError as error:
            raise BundleError(f"layer {self.name}: {error}") from None

    def _check_choices(self) -> None:
        if not (isinstance(self.name, str) and self.name.isprintable() and 1 <= len(self.name) <= 64):
            raise BundleError("the name of a layer must have 1 to 64 printable characters")
        for field, choices in (
            ("kind", get_args(Kind)),
            ("format", FORMATS),
            ("activation", get_args(Activation)),
        ):
            if getattr(self, field) not in choices:
                raise BundleError(f"{field}: {getattr(self, field)!r} is none of {', '.join(choices)}")

    def _check_matrix(self) -> np.ndarray:
        name, other = ("weight", self.codes) if self.format == "float" else ("codes", self.weight)
        matrix = getattr(self, name)
        if matrix is None or other is not None:
            raise BundleError(f"a {self.format} layer has {name}, and nothing else, for its weights")
        matrix = np.asarray(matrix)
        shape = matrix.shape
        if len(shape) != 4 or not all(1 <= size <= MAX_CHANNELS for size in shape):
            raise BundleError(
                f"{name}: expected [outputs, inputs, height, width] of at most {MAX_CHANNELS} each, "
                f"got {list(shape)}"
            )
        if math.prod(shape[1:]) > MAX_WIDTH:
            raise BundleError(f"{name}: an output may have at most {MAX_WIDTH} weights")
        if self.kind == "depthwise" and shape[1] != 1:
            raise BundleError(f"{name}: a depthwise layer has one input channel an output, got {shape[1]}")
        if self.format == "float":
            matrix = checked_floats(name, matrix, shape)
        else:
            matrix = checked_levels(matrix.reshape(shape[0], -1), self.format).reshape(shape)
        object.__setattr__(self, name, matrix)
        return matrix

    def _check_window(self, *kernel: int) -> None:
        largest = 1 if self.kind in ("pointwise", "dense") else MAX_KERNEL
        if max(kernel) > largest:
            raise BundleError(
                f"kernel: a {self.kind} layer has at most {largest} × {largest}, "
                f"got {' × '.join(map(str, kernel))}"
            )
        object.__setattr__(self, "stride", _pair("stride", self.stride, 1, MAX_STRIDE))
        object.__setattr__(self, "padding", _pair("padding", self.padding, 0, max(kernel) - 1))
        if self.kind == "dense" and self.stride != (1, 1):
            raise BundleError("stride: a dense layer has none")
        if self.kind != "dense" and self.activation in ("sigmoid", "hardsigmoid"):
            raise BundleError(f"activation: {self.activation} is for the dense layers of a squeeze-excite")

    @property
    def matrix(self) -> np.ndarray:
        """The levels, or the float weights: [O, I, h, w]."""
        matrix = self.weight if self.codes is None else self.codes
        assert matrix is not None
        return matrix

    @property
    def outputs(self) -> int:
        return self.matrix.shape[0]

    @property
    def inputs(self) -> int:
        """Input channels."""
        return self.outputs if self.kind == "depthwise" else self.matrix.shape[1]

    @property
    def kernel(self) -> tuple[int, int]:
        return self.matrix.shape[2], self.matrix.shape[3]

    @property
    def weights(self) -> np.ndarray:
        """What the weights are worth: float32 [O, I, h, w]."""
        assert self.scale is not None
        return self.matrix.astype(np.float32) * self.scale[:, None, None, None]

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output for an input of a height and width; 0 or less where it is none."""
        sizes = zip((height, width), self.padding, self.kernel, self.stride, strict=True)
        height, width = ((n + 2 * padding - kernel) // stride + 1 for n, padding, kernel, stride in sizes)
        return height, width

    def rescaling(self, x: Levels) -> tuple[np.ndarray, np.ndarray]:
        """Of a quantized layer whose input has levels x: factor and offset, float32 [O].

        Without an activation or with ReLU, sum · factor + offset is the output already, before it is rounded
        and clipped; otherwise it is what the activation takes.
        """
        assert self.output is not None
        assert self.scale is not None
        factor, offset = self.scale.astype(np.float64) * x.scale, self.bias.astype(np.float64)
        if self.activation in ("none", "relu"):
            factor, offset = factor / self.output.scale, offset / self.output.scale + self.output.zero
        with np.errstate(over="ignore"):
            return factor.astype(np.float32), offset.astype(np.float32)

    def _check_rescaling(self, x: Levels, rest: float = 0) -> None:
        """`rest`: how many steps of the output something else can add."""
        assert self.output is not None
        factor, offset = self.rescaling(x)
        sums = 255.0 * np.abs(self.matrix.astype(np.float64)).sum(axis=(1, 2, 3))
        most = (sums * np.abs(factor) + np.abs(offset)).max()
        if self.activation not in ("none", "relu"):
            most /= self.output.scale
        if not most + rest < _LARGEST:
            raise BundleError(f"layer {self.name}: its scales do not fit one another, outputs could overflow")


@dataclass(frozen=True, eq=False)
class SqueezeExcite:
    """Channels weighted by what all pixels of them say together (Hu et al. 2018, arXiv:1709.01507):
    y = x · expand(reduce(mean of x over pixels)), a weight a channel.
    """

    reduce: ConvLayer
    expand: ConvLayer
    pooled: Levels | None = None
    """Of the means, in a quantized network."""
    output: Levels | None = None
    """Of the weighted channels, in a quantized network."""


@dataclass(frozen=True, eq=False)
class Block:
    """Layers in a row. A squeeze-excite stands before the last of them; a residual block adds its input to
    what the last layer gives, in float32, before that is rounded to the layer's `output`."""

    layers: tuple[ConvLayer, ...]
    squeeze: SqueezeExcite | None = None
    residual: bool = False


@dataclass(frozen=True, eq=False)
class Network:
    """A whole convolutional embedder, one channel in.

    Attributes:
        name: of the embedder, such as `mn04`.
        bands: height of the spectrogram; any number of frames is accepted.
        blocks: in order.
        pool: what becomes of the last tensor, over all its pixels: `mean`, [D] for D channels, or `mean+max`,
            [2 D], the means first. Float32, also in a quantized network.
        input: levels of the spectrogram in a quantized network, None in a float one.

    Raises:
        BundleError: layers that do not follow on one another, or that are neither all float nor all
            quantized; more than the limits above.
    """

    name: str
    bands: int
    blocks: tuple[Block, ...]
    pool: Pool
    input: Levels | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name.isprintable() and 1 <= len(self.name) <= 64):
            raise BundleError("the name of a network must have 1 to 64 printable characters")
        if self.bands not in range(1, MAX_BANDS + 1):
            raise BundleError(f"bands: expected 1 to {MAX_BANDS}, got {self.bands}")
        if self.pool not in get_args(Pool):
            raise BundleError(f"pool: {self.pool!r} is none of {', '.join(get_args(Pool))}")
        if not 1 <= len(self.blocks) <= MAX_BLOCKS:
            raise BundleError(f"expected 1 to {MAX_BLOCKS} blocks, got {len(self.blocks)}")
        names = [layer.name for layer in self.layers]
        if twice := {name for name in names if names.count(name) > 1}:
            raise BundleError(f"two layers are called {min(twice)}")
        # A tensor's width in frames: a stride divides it.
        channels, height, width, levels = 1, self.bands, 1.0, self.input
        for block in self.blocks:
            channels, height, width, levels = self._check(block, channels, height, width, levels)

    def _check(
        self, block: Block, channels: int, height: int, width: float, levels: Levels | None
    ) -> tuple[int, int, float, Levels | None]:
        """What a block makes of channels, height, width and levels."""
        if not 1 <= len(block.layers) <= MAX_LAYERS:
            raise BundleError(f"a block has 1 to {MAX_LAYERS} layers, got {len(block.layers)}")
        before = channels, height, levels
        for layer in block.layers:
            last = layer is block.layers[-1]
            if layer.kind == "dense":
                raise BundleError(f"layer {layer.name}: only a squeeze-excite has dense layers")
            if last and block.squeeze is not None:
                levels = self._check_squeeze(block.squeeze, channels, levels)
            rest = 0.0
            if last and block.residual and before[2] is not None and layer.output is not None:
                rest = 255 * before[2].scale / layer.output.scale
            self._check_layer(layer, channels, levels, rest)
            channels, levels = layer.outputs, layer.output
            height, width = layer.size(height, 1)[0], width / layer.stride[1]
            if height < 1:
                raise BundleError(f"layer {layer.name}: nothing of {self.bands} bands is left for it")
            if channels * height * width > MAX_NUMBERS_A_FRAME:
                raise BundleError(
                    f"layer {layer.name}: gives more than {MAX_NUMBERS_A_FRAME} numbers a frame"
                )
        if block.residual:
            same = all(
                layer.stride == (1, 1) and layer.kernel == tuple(2 * p + 1 for p in layer.padding)
                for layer in block.layers
            )
            if (channels, height) != before[:2] or not same or block.layers[-1].activation != "none":
                raise BundleError(
                    f"layer {block.layers[-1].name}: a residual sum needs an output of the same size as the "
                    "block's input, and no activation"
                )
        return channels, height, width, levels

    def _check_layer(self, layer: ConvLayer, channels: int, x: Levels | None, rest: float = 0) -> None:
        if layer.inputs != channels:
            raise BundleError(f"layer {layer.name}: takes {layer.inputs} channels but gets {channels}")
        if (layer.output is None) != (self.input is None):
            raise BundleError(
                f"layer {layer.name}: a quantized network has levels for its input and for every output, "
                "a float one for none"
            )
        if x is not None:
            if layer.format == "float":
                raise BundleError(f"layer {layer.name}: float weights do not fit a quantized network")
            layer._check_rescaling(x, rest)

    def _check_squeeze(self, squeeze: SqueezeExcite, channels: int, x: Levels | None) -> Levels | None:
        reduce, expand = squeeze.reduce, squeeze.expand
        if (reduce.kind, expand.kind) != ("dense", "dense") or expand.outputs != channels:
            raise BundleError(f"layer {expand.name}: a squeeze-excite has two dense layers, and ends with as "
                              f"many channels as it begins with, {channels}")  # fmt: skip
        if any((levels is None) != (self.input is None) for levels in (squeeze.pooled, squeeze.output)):
            raise BundleError(
                f"layer {expand.name}: levels of the means and the output belong to a quantized network"
            )
        self._check_layer(reduce, channels, squeeze.pooled)
        self._check_layer(expand, reduce.outputs, reduce.output)
        if x and squeeze.pooled and squeeze.output and expand.output:
            steps = 255 * max(x.scale / squeeze.pooled.scale, 255 * self.gating(x, squeeze))
            if not steps < _LARGEST:
                raise BundleError(f"layer {expand.name}: scales do not fit one another")
        return squeeze.output

    @staticmethod
    def gating(x: Levels, squeeze: SqueezeExcite) -> float:
        """What a product of two levels, of x and of a channel's weight, is worth in steps of the output."""
        assert squeeze.expand.output is not None
        assert squeeze.output is not None
        return x.scale * squeeze.expand.output.scale / squeeze.output.scale

    @property
    def layers(self) -> Iterator[ConvLayer]:
        """All layers in the order in which they run, those of squeeze-excites among them."""
        for block in self.blocks:
            yield from block.layers[:-1]
            if block.squeeze is not None:
                yield from (block.squeeze.reduce, block.squeeze.expand)
            yield block.layers[-1]

    @property
    def dim(self) -> int:
        """Numbers of the embedding, D."""
        return self.blocks[-1].layers[-1].outputs * (2 if self.pool == "mean+max" else 1)

    @property
    def parameters(self) -> int:
        """Trained numbers: weights and biases."""
        return sum(layer.matrix.size + layer.bias.size for layer in self.layers)

    def size(self, frames: int) -> tuple[int, int]:
        """Height and width of the last tensor for a spectrogram of so many frames.

        Raises:
            ValueError: the spectrogram is too short for the network.
        """
        height, width = self.bands, frames
        for block in self.blocks:
            for layer in block.layers:
                height, width = layer.size(height, width)
                if width < 1:
                    raise ValueError(f"{self.name}: {frames} frames are too few")
        return height, width


def _pair(name: str, pair: tuple[int, int], low: int, high: int) -> tuple[int, int]:
    if len(pair) != 2 or not all(isinstance(n, int) and low <= n <= high for n in pair):
        raise BundleError(f"{name}: expected two whole numbers of {low} to {high}, got {list(pair)}")
    return pair[0], pair[1]
