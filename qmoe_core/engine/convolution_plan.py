"""The memory of a packed network, and the program that a kernel runs: what is computed when, from where to
where.

The *arena* holds, for each layer, weights in the order in which loops meet them, parameters of the lanes
(where sums begin, factor, offset) and a few constants. The *program*, int64 [steps, NUMBERS], is made for a
number of frames; it names places in the arena and in the *workspace*, where activations lie.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qmoe_core.engine.arena import ALIGNMENT, aligned, round_up
from qmoe_core.engine.network import Block, ConvLayer, Levels, Network, SqueezeExcite
from qmoe_core.engine.weights import LEVELS

VECTOR_BYTES = {"avx512": 64, "vnni": 32, "avx2": 32, "portable": 32}
"""Of each kernel's vectors."""
TILE = 16
"""No tile has more pixels."""
WIDEST = 3
"""Vectors of output channels that a tile can have."""

# What a step does.
INPUT, PRODUCT, DEPTHWISE, MEAN, DENSE, SCALE, POOL = range(7)

# The numbers of a step. Places of activations and sizes, then places in the arena.
(
    OP, X, OUT, ADDED, HEIGHT, WIDTH, CHANNELS, OUT_HEIGHT, OUT_WIDTH, OUTPUTS, ROWS, COLUMNS, DOWN, ACROSS,
    ABOVE, LEFT, ZERO, WEIGHTS, PARAMETER, CONSTANT, ACTIVATION, VECTORS, FIELDS, LOWEST_LEVEL, PHASES,
    PERIOD, REPEATS, FLAT,
) = range(28)  # fmt: skip
NUMBERS = 28

# Places in the workspace that all steps share, and the bytes of a line.
SUMS, TABLE, BORDER, LINES, LEVELS_HERE, CHANNEL_SUMS, FIRST_VECTOR, SECOND_VECTOR, LINE = range(9)
PLACES = 8

# Of a layer's constants, float32.
LOWEST, SIXTH, ZERO_OUT, RATIO, ADDED_ZERO, STEP = range(6)
CONSTANTS = 6
PARAMETERS = 3
"""Vectors for each vector of output channels: first sums, factors, offsets."""

NONE, RELU, HARDSWISH, SIGMOID, HARDSIGMOID = range(5)
ACTIVATIONS = {
    "none": NONE,
    "relu": RELU,
    "hardswish": HARDSWISH,
    "sigmoid": SIGMOID,
    "hardsigmoid": HARDSIGMOID,
}


@dataclass(frozen=True, eq=False)
class Packed:
    """A network in the order of a kernel.

    Attributes:
        name: of the network.
        bands: height of its input.
        dim: numbers of its embedding.
        size: bytes of the kernel's vectors.
        element: bytes of an activation: 1 in a quantized network, 4 in a float one.
        arena: uint8, weights and what belongs to them.
        steps: int64 [steps, NUMBERS], the program without sizes; a place of activations is a buffer's number.
    """

    name: str
    bands: int
    dim: int
    size: int
    element: int
    arena: np.ndarray
    steps: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.arena.nbytes + self.steps.nbytes


def pack(network: Network, size: int) -> Packed:
    """A network for kernels with vectors of `size` bytes."""
    packer = _Packer(size, quantized=network.input is not None)
    packer.network(network)
    arena = aligned(packer.end)
    for at, piece in packer.pieces:
        arena[at : at + piece.size] = piece
    element = 4 if network.input is None else 1
    steps = np.array(packer.steps, np.int64)
    return Packed(network.name, network.bands, network.dim, size, element, arena, steps)


class _Packer:
    """Collects the pieces of an arena and the steps that use them."""

    def __init__(self, size: int, *, quantized: bool) -> None:
        self.size, self.quantized, self.lanes = size, quantized, size // 4
        self.pieces: list[tuple[int, np.ndarray]] = []
        self.end = 0
        self.steps: list[list[int]] = []
        self.at = 0
        """The buffer that holds the current tensor; there are three."""

    def place(self, piece: np.ndarray) -> int:
        """Add bytes to the arena; where they lie."""
        at = self.end
        self.pieces.append((at, np.ascontiguousarray(piece).view(np.uint8).reshape(-1)))
        self.end = round_up(at + piece.nbytes, ALIGNMENT)
        return at

    def step(self, op: int, numbers: dict[int, int], keep: int = -1) -> None:
        """Add a step from the current buffer to one that is neither that nor the one to keep."""
        out = next(i for i in range(3) if i not in (self.at, keep))
        row = [0] * NUMBERS
        row[OP], row[X], row[OUT], row[ADDED] = op, self.at, out, -1
        for name, number in numbers.items():
            row[name] = number
        self.steps.append(row)
        if op in (INPUT, PRODUCT, DEPTHWISE, SCALE):
            self.at = out

    def network(self, network: Network) -> None:
        levels = network.input
        scale, zero = (1.0, 0) if levels is None else (levels.scale, levels.zero)
        constants = self.constants({STEP: 1 / scale, ZERO_OUT: zero})
        self.step(INPUT, {CHANNELS: 1, OUTPUTS: 1, CONSTANT: constants})
        for block in network.blocks:
            levels = self.block(block, levels)
        last = network.blocks[-1].layers[-1]
        scale, zero = (1.0, 0) if levels is None else (levels.scale, levels.zero)
        constants = self.constants({STEP: scale})
        self.step(POOL, {CHANNELS: last.outputs, OUTPUTS: network.dim, ZERO: zero, CONSTANT: constants})

    def block(self, block: Block, x: Levels | None) -> Levels | None:
        shortcut, before = (self.at, x) if block.residual else (-1, None)
        for layer in block.layers:
            last = layer is block.layers[-1]
            if last and block.squeeze is not None:
                x = self.squeeze(block.squeeze, block.squeeze.expand.outputs, x, shortcut)
            self.layer(layer, x, shortcut, (shortcut, before) if last and block.residual else None)
            x = layer.output
        return x

    def layer(
        self, layer: ConvLayer, x: Levels | None, keep: int, added: tuple[int, Levels | None] | None
    ) -> None:
        numbers = self.matrix(layer, x)
        numbers[CONSTANT] = self.constants_of(layer, None if added is None else added[1])
        op = DEPTHWISE if layer.kind == "depthwise" else PRODUCT
        self.step(op, numbers, keep)
        if added is not None:
            self.steps[-1][ADDED] = added[0]

    def squeeze(self, squeeze: SqueezeExcite, channels: int, x: Levels | None, keep: int) -> Levels | None:
        pooled, out = squeeze.pooled, squeeze.output
        if x is None or pooled is None or out is None:
            mean, scale, zero, gate_zero = self.constants({STEP: 1}), self.constants({}), 0, 0
        else:
            gate = squeeze.expand.output
            assert gate is not None
            mean = self.constants({STEP: x.scale, SIXTH: 1 / pooled.scale, ZERO_OUT: pooled.zero})
            scale = self.constants({RATIO: Network.gating(x, squeeze), ZERO_OUT: out.zero})
            zero, gate_zero = x.zero, gate.zero
        self.step(MEAN, {CHANNELS: channels, ZERO: zero, CONSTANT: mean})
        for layer, levels in ((squeeze.reduce, pooled), (squeeze.expand, squeeze.reduce.output)):
            self.step(DENSE, {**self.matrix(layer, levels), CONSTANT: self.constants_of(layer, None)})
        numbers = {
            CHANNELS: channels,
            OUTPUTS: channels,
            ZERO: zero,
            LOWEST_LEVEL: gate_zero,
            CONSTANT: scale,
        }
        self.step(SCALE, numbers, keep)
        return out

    def constants(self, values: dict[int, float]) -> int:
        """Place a layer's constants; those that are not given are zero."""
        constants = np.zeros(CONSTANTS, np.float32)
        constants[list(values)] = list(values.values())
        return self.place(constants)

    def constants_of(self, layer: ConvLayer, added: Levels | None) -> int:
        out = layer.output
        if out is None:
            lowest = 0.0 if layer.activation == "relu" else -np.inf
            return self.constants({LOWEST: lowest, SIXTH: 1 / 6, STEP: 1})
        constants = {
            LOWEST: out.zero if layer.activation == "relu" else 0,
            SIXTH: 1 / 6 / out.scale,
            ZERO_OUT: out.zero,
            STEP: out.scale,
        }
        if added is not None:
            constants |= {RATIO: added.scale / out.scale, ADDED_ZERO: added.zero}
        return self.constants(constants)

    def matrix(self, layer: ConvLayer, x: Levels | None) -> dict[int, int]:
        """Place weights and parameters of a layer; the numbers of its step."""
        lanes, depthwise = self.lanes, layer.kind == "depthwise"
        channels, period, phases = np.arange(layer.outputs), layer.outputs, -(-layer.outputs // lanes)
        if depthwise and layer.stride[1] == 1 and layer.outputs < 4 * lanes:
            # Neighbouring pixels share vectors; after `phases` of them, channels meet the same lanes again.
            period = math.lcm(layer.outputs, lanes)
            channels, phases = np.arange(period) % layer.outputs, period // lanes
        rows = np.pad(channels, (0, phases * lanes - len(channels)), constant_values=-1)
        vectors, fields, lowest = self.weights(layer, rows)
        zero = 0 if x is None else x.zero
        return {
            CHANNELS: layer.inputs, OUTPUTS: layer.outputs, ROWS: layer.kernel[0],
            COLUMNS: layer.kernel[1], DOWN: layer.stride[0], ACROSS: layer.stride[1],
            ABOVE: layer.padding[0], LEFT: layer.padding[1], ZERO: zero,
            ACTIVATION: ACTIVATIONS[layer.activation], PHASES: phases, PERIOD: period,
            VECTORS: len(vectors), FIELDS: fields, LOWEST_LEVEL: lowest,
            WEIGHTS: self.place(_fields(vectors, fields, lowest)),
            PARAMETER: self.place(self.parameters(layer, x, rows)), FLAT: _is_flat(layer),
        }  # fmt: skip

    def weights(self, layer: ConvLayer, rows: np.ndarray) -> tuple[np.ndarray, int, int]:
        """Vectors of levels (or floats) in the order of the loops, uint8 [n, size]; levels of a byte in the
        arena; the lowest level."""
        bits, lowest, _ = LEVELS[layer.format] if self.quantized else (8, 0, 0)
        matrix = layer.matrix if self.quantized else layer.weights
        matrix = np.concatenate([matrix, np.full_like(matrix[:1], lowest)])[rows]  # row −1 is of no channel
        outputs, inputs, height, width = matrix.shape
        four = 4 if self.quantized else 1
        if _is_flat(layer):
            fours = np.pad(matrix[:, :, 0, 0], ((0, 0), (0, -inputs % four)))
            fours = fours.reshape(outputs, 1, -1, four)
        else:  # Of rows below one another; then columns, and the channels of each.
            fours = np.pad(matrix, ((0, 0), (0, 0), (0, -height % four), (0, 0)))
            fours = fours.reshape(outputs, inputs, -1, four, width).transpose(0, 2, 4, 1, 3)
            fours = fours.reshape(outputs, -(-height // four), -1, four)
        fours = fours.reshape(-1, self.lanes, *fours.shape[1:]).transpose(0, 2, 3, 1, 4)
        ordered = [
            fours[first : first + count].transpose(1, 2, 0, 3, 4).reshape(-1, self.size // fours.itemsize)
            for first, count in groups(len(fours), 1 if layer.kind in ("depthwise", "dense") else WIDEST)
        ]
        vectors = np.ascontiguousarray(np.concatenate(ordered))
        if not self.quantized:
            return vectors.view(np.uint8), 1, 0
        if bits == 1 and not vectors.all():
            bits = 2  # fours that were filled up have zeros
        fields = {1: 8, 2: 4, 3: 2, 4: 2, 8: 1}[bits]
        vectors = np.pad(vectors, ((0, -len(vectors) % fields), (0, 0)), constant_values=lowest)
        return vectors.view(np.uint8), fields, lowest

    def parameters(self, layer: ConvLayer, x: Levels | None, rows: np.ndarray) -> np.ndarray:
        """int32 or float32 [phases, PARAMETERS, lanes]."""
        parameters = np.zeros((PARAMETERS, layer.outputs + 1), np.float32)
        if x is None:
            parameters[0, :-1] = layer.bias
        else:
            first = -x.zero * layer.matrix.astype(np.int64).sum(axis=(1, 2, 3))
            parameters[0, :-1] = first.astype(np.int32).view(np.float32)
            parameters[1, :-1], parameters[2, :-1] = layer.rescaling(x)
        return parameters[:, rows].reshape(PARAMETERS, -1, self.lanes).transpose(1, 0, 2)


def _is_flat(layer: ConvLayer) -> bool:
    """Whether the pixels of the output are those of the input, one for one."""
    alone = (layer.kernel, layer.stride, layer.padding) == ((1, 1), (1, 1), (0, 0))
    return alone and layer.kind != "depthwise"


def groups(blocks: int, widest: int) -> Iterator[tuple[int, int]]:
    """First block and number of blocks of each group: as many of the widest as leave no group of one.

    >>> list(groups(7, 3))
    [(0, 3), (3, 2), (5, 2)]
    """
    first = 0
    while blocks:
        count = widest if blocks >= widest and blocks != widest + 1 else min(blocks, max(widest - 1, 1))
        yield first, count
        first, blocks = first + count, blocks - count


def _fields(vectors: np.ndarray, fields: int, lowest: int) -> np.ndarray:
    """Several vectors of levels in one, counted from the lowest; the first is in the lowest bits."""
    if fields == 1:
        return vectors
    spacing = 2 if fields == 8 else 1
    counted = (
        ((vectors.view(np.int8) - lowest) // spacing).astype(np.uint8).reshape(-1, fields, vectors.shape[1])
    )
    shifts = np.arange(fields, dtype=np.uint8) * np.uint8(8 // fields)
    return np.bitwise_or.reduce(counted << shifts[:, None], axis=1)


@dataclass(frozen=True, eq=False)
class Program:
    """What a kernel runs for spectrograms of one length.

    Attributes:
        steps: int64 [steps, NUMBERS].
        places: int64 [PLACES], in the workspace.
        workspace: bytes that it needs.
        frames: of a spectrogram.
    """

    steps: np.ndarray
    places: np.ndarray
    workspace: int
    frames: int


def program(packed: Packed, frames: int) -> Program:
    """The program for spectrograms of a number of frames.

    Raises:
        ValueError: they are too few for the network.
    """
    steps = packed.steps.copy()
    lanes, element = packed.size // 4, packed.element
    height, width = packed.bands, frames
    buffers, line, border, vectors, channels = [0, 0, 0], 0, 0, 0, 0
    for row in steps:
        row[HEIGHT], row[WIDTH] = height, width
        if row[OP] in (PRODUCT, DEPTHWISE):
            height = (height + 2 * row[ABOVE] - row[ROWS]) // row[DOWN] + 1
            width = (width + 2 * row[LEFT] - row[COLUMNS]) // row[ACROSS] + 1
            if width < 1:
                raise ValueError(f"{packed.name}: {frames} frames are too few")
            row[REPEATS] = width if row[PERIOD] == row[OUTPUTS] else -(-width * row[OUTPUTS] // row[PERIOD])
            reach = TILE * (row[CHANNELS] * row[ACROSS] + row[PERIOD]) + 4 * lanes
            line = max(line, 4 * ((row[WIDTH] + 2 * row[LEFT]) * row[CHANNELS] + reach))
            border = max(border, element * (row[WIDTH] * row[CHANNELS] + lanes))
        row[OUT_HEIGHT], row[OUT_WIDTH] = height, width
        if row[FIELDS] > 1:
            vectors = max(vectors, row[VECTORS] * packed.size)
        channels = max(channels, row[CHANNELS], row[OUTPUTS])
        reach = TILE * max(row[OUTPUTS], row[PERIOD]) + lanes
        buffers[row[OUT]] = max(buffers[row[OUT]], element * (height * width * row[OUTPUTS] + reach))
    lines = 7 if element == 4 else 2
    sizes = (
        TILE * WIDEST * packed.size, 32, border, lines * round_up(int(line), ALIGNMENT), vectors,
        *[4 * round_up(int(channels), lanes)] * 3, *buffers, 64,
    )  # fmt: skip
    places = np.cumsum([0, *(round_up(int(size), ALIGNMENT) for size in sizes)])
    for name in (X, OUT):
        steps[:, name] = places[PLACES + steps[:, name]]
    has = steps[:, ADDED] >= 0
    steps[has, ADDED] = places[PLACES + steps[has, ADDED]]
    return Program(steps, np.append(places[:PLACES], round_up(int(line), ALIGNMENT)), int(places[-1]), frames)
