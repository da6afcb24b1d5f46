"""The memory that kernels read: one aligned block with everything of an expert, and a plan of where it lies.

Files keep rows one after another; kernels want weights in the order their loops meet them. An arena begins
with the plan, int64 numbers that say what is where, and goes on with each layer's weights and float
parameters, the head being the last layer. A level has a field of 1, 2, 4, 8 or 16 bits there, the next that
holds it, so that none spans two bytes: a file's 3 bits take 4. There are two orders of weights,
`vector_order` for kernels on 32-byte vectors and `row_order` for the portable ones; all else is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qmoe_core.engine.weights import ExpertWeights, HiddenLayer
from qmoe_core.experts.spec import LEVELS

ALIGNMENT = 64
"""Bytes: a cache line."""
TILE = 16
"""Samples of a batch that pass a layer together, so that its weights are fetched once for all of them."""

# What a layer's product is made of.
FLOAT, SIGN, INT16, INT8, INT8_FULL, FIELDS, TWO_PLANES, ONE_PLANE = range(8)
"""`INT8_FULL` has a level of −128: no byte is its negative, so the quicker way to multiply is wrong."""

# The plan's first numbers, of the expert; offsets into the workspace, and strides there from sample to
# sample.
LAYERS, DIM, CLASSES, WORKSPACE = range(4)
FLOATS, FLOATS_STRIDE, CODES, CODES_STRIDE, TABLES, TABLES_STRIDE, SUMS, SUMS_STRIDE = range(4, 12)
STEPS, CORRECTIONS, TURN = range(12, 15)
"""`TURN` is a number whose last bit changes with every use."""
EXPERT_NUMBERS = 15
# Then as many for every layer, the head included; offsets into the arena.
KIND, OUTPUTS, INPUTS, PADDED, BLOCKS, LENGTH, WEIGHTS, PARAMETERS, THRESHOLD, BITS, LOWEST = range(11)
LAYER_NUMBERS = 11


@dataclass(frozen=True)
class Ordered:
    """A matrix in a kernel's order: `blocks` groups of rows, each `length` steps long."""

    kind: int
    data: np.ndarray
    blocks: int
    length: int


Order = Callable[[HiddenLayer], Ordered]


def round_up(size: int, multiple: int) -> int:
    """The next multiple.

    >>> round_up(1, 32), round_up(32, 32)
    (32, 32)
    """
    return -(-size // multiple) * multiple


def _padded(matrix: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The matrix with zeros to the next multiples of `rows` and `columns`."""
    n, k = matrix.shape
    return np.pad(matrix, ((0, round_up(n, rows) - n), (0, round_up(k, columns) - k)))


# --- Kernels on vectors ---------------------------------------------------------------------------

VECTOR = 32
"""Bytes of a vector."""
ABREAST = 4
"""Vectors of rows that share the loads of tables."""
COLUMNS = 8
"""The number of columns of eight weights is a multiple of this."""


def _eight_rows(kind: int, rows: np.ndarray) -> Ordered:
    """Bytes [N, n] → [N/8, n/32, 8, 32]: a vector of each of eight rows, then the next of each."""
    rows = _padded(rows, 8, VECTOR)
    blocks, length = rows.shape[0] // 8, rows.shape[1] // VECTOR
    return Ordered(kind, rows.reshape(blocks, 8, length, VECTOR).swapaxes(1, 2), blocks, length)


def _table_rows(kind: int, planes: list[np.ndarray], lanes: np.ndarray) -> Ordered:
    """Bits of one or two planes, [N, K] each, for kernels that look four weights up at a time.

    A byte holds eight weights of a row's plane. A block is ABREAST vectors of such bytes, then as many of the
    next eight weights, and so on; `lanes` says which (row, plane) each byte of a vector belongs to.
    """
    planes = [_padded(plane, ABREAST * VECTOR // len(planes), 8 * COLUMNS) for plane in planes]
    packed = np.stack([np.packbits(plane, axis=1, bitorder="little") for plane in planes], axis=1)
    length = packed.shape[2]
    columns = packed.reshape(-1, ABREAST, VECTOR, length)[:, :, lanes].transpose(0, 3, 1, 2)
    return Ordered(kind, columns, len(columns), length)


def _one_plane_lanes() -> np.ndarray:
    """Row of each byte: even bytes hold rows 0 … 15, odd ones 16 … 31, in the order the sums leave in."""
    lanes = np.empty(VECTOR, np.intp)
    lanes[0::2], lanes[1::2] = _WIDENED, _WIDENED + 16
    return lanes


_WIDENED = np.arange(16).reshape(2, 2, 4).swapaxes(0, 1).reshape(-1)
"""16-bit lanes widened half by half come out as 0–3, 8–11, 4–7, 12–15; its own inverse."""
_ONE_PLANE = _one_plane_lanes()
_TWO_PLANES = (2 * _WIDENED[:, None] + np.arange(2)).reshape(-1)


def _fields(layer: HiddenLayer, run: int) -> np.ndarray:
    """Levels counted from the lowest, in bytes of several: `run` levels, the next `run` above them, and so
    on."""
    width, lowest = LEVELS[layer.format].field, LEVELS[layer.format].lowest
    per_byte, spacing = 8 // width, 2 if width == 1 else 1
    codes = (_padded(layer.matrix, 1, per_byte * run) - lowest) // spacing
    codes = codes.astype(np.uint8).reshape(layer.outputs, -1, per_byte, run)
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(width)
    return np.bitwise_or.reduce(codes << shifts[:, None], axis=2).reshape(layer.outputs, -1)


def _field(layer: HiddenLayer) -> int:
    """Bits of a weight in memory."""
    return 32 if layer.format == "float" else LEVELS[layer.format].field


def vector_order(layer: HiddenLayer) -> Ordered:
    """Weights for `avx2.py`."""
    matrix = layer.matrix
    match _field(layer):
        case 32:
            return _eight_rows(FLOAT, np.ascontiguousarray(_padded(matrix, 1, 8)).view(np.uint8))
        case 1 if layer.format == "sign":
            # A padded activation is 0 and counts as 0 > τ; its weight agrees, so that it adds nothing.
            ones = _padded(matrix > 0, 1, 8 * VECTOR)
            ones[:, layer.inputs :] = layer.threshold < 0
            return _eight_rows(SIGN, np.packbits(ones, axis=1, bitorder="little"))
        case 16:
            return _eight_rows(INT16, np.ascontiguousarray(_padded(matrix, 1, 16)).view(np.uint8))
        case 8:
            kind = INT8_FULL if (matrix == -128).any() else INT8
            return _eight_rows(kind, np.ascontiguousarray(matrix).view(np.uint8))
        case 4:
            return _eight_rows(FIELDS, _fields(layer, VECTOR))
        case 2:
            return _table_rows(TWO_PLANES, [(matrix & 1) > 0, (matrix & 2) > 0], _TWO_PLANES)
        case _:
            return _table_rows(ONE_PLANE, [matrix > 0], _ONE_PLANE)


@dataclass(frozen=True)
class LaneLayout:
    """How levels of up to 8 bits lie in vectors whose 32-bit lanes are a row each.

    Attributes:
        fields: rows that share a byte.
        lanes: 32-bit lanes of a vector; a lane has four neighbouring levels of a row in each field.
        vectors: of the same four columns, lane after lane and field above field.
        strands: groups of four columns that a step takes, whose sums are kept apart so that more of them
            can be under way.
    """

    fields: int
    lanes: int
    vectors: int
    strands: int

    @classmethod
    def of(cls, bits: int, size: int) -> LaneLayout:
        """For levels of 1, 2, 4 or 8 bits in vectors of `size` bytes: 64 rows or more, 8 sums."""
        fields, lanes = 8 // bits, size // 4
        vectors = max(64 // (fields * lanes), 1)
        return cls(fields, lanes, vectors, max(8 // (fields * vectors), 1))

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return self.fields * self.lanes * self.vectors


def lane_order(layer: HiddenLayer, size: int) -> Ordered:
    """Weights for `avx2.py` on a processor with VNNI, in vectors of `size` bytes.

    Levels are counted from the lowest; see `LaneLayout`.
    """
    bits = _field(layer)
    if bits > 8 or layer.format == "sign" or (bits == 1 and size == VECTOR):
        return vector_order(layer)
    lowest = LEVELS[layer.format].lowest
    to = LaneLayout.of(bits, size)
    codes = _padded(layer.matrix, to.rows, 4 * to.strands).view(np.uint8)
    codes = codes >> np.uint8(7) ^ np.uint8(1) if bits == 1 else codes - np.uint8(lowest & 0xFF)
    codes = codes.reshape(-1, to.vectors, to.fields, to.lanes, codes.shape[1])
    packed = codes[:, :, 0]
    for field in range(1, to.fields):
        packed = packed | (codes[:, :, field] << np.uint8(bits * field))
    blocks, length = len(codes), codes.shape[4] // (4 * to.strands)
    fours = np.ascontiguousarray(packed).view(np.uint32).reshape(blocks, to.vectors, to.lanes, -1)
    steps = np.ascontiguousarray(fours.transpose(0, 3, 1, 2))
    return Ordered(FIELDS, steps, blocks, length)


# --- Portable kernels -----------------------------------------------------------------------------


def row_order(layer: HiddenLayer) -> Ordered:
    """Weights for `portable.py`: rows one after another, `length` bytes each.

    The fields of a byte are levels a whole row of bytes apart, so that a shift and a mask take `length`
    neighbouring levels out of a row at once.
    """
    matrix = layer.matrix
    field = _field(layer)
    if field >= 8:
        kind = {32: FLOAT, 16: INT16, 8: INT8}[field]
        rows = np.ascontiguousarray(_padded(matrix, 1, 32)).view(np.uint8)
    elif layer.format == "sign":
        ones = _padded(matrix > 0, 1, 64)
        ones[:, layer.inputs :] = layer.threshold < 0
        kind, rows = SIGN, np.packbits(ones, axis=1, bitorder="little")
    else:
        kind, rows = FIELDS, _fields(layer, round_up(layer.inputs * field, 256) // 8)
    return Ordered(kind, rows, *rows.shape)


# --- The whole ------------------------------------------------------------------------------------


def aligned(size: int) -> np.ndarray:
    """Zeros, uint8 [size], that begin with a cache line."""
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]


def stack(weights: ExpertWeights) -> tuple[HiddenLayer, ...]:
    """An expert as a stack of Linears: the hidden ones, then the float head."""
    size = weights.classes
    head = HiddenLayer(
        format="float",
        weight=weights.head_weight,
        scale=np.ones(size, np.float32),
        bias=weights.head_bias,
        gamma=np.zeros(size, np.float32),
        beta=np.zeros(size, np.float32),
    )
    return (*weights.layers, head)


def build(layers: tuple[HiddenLayer, ...], order: Order) -> np.ndarray:
    """A stack of layers in one block of memory.

    Args:
        layers: one or more that follow on one another; the last gives its Linear's results as they are,
            without LayerNorm and ReLU.
        order: `vector_order` or `row_order`.

    Returns:
        uint8 [n], aligned to a cache line; its first numbers are the plan.
    """
    ordered = [order(layer) for layer in layers]
    plan = np.zeros(EXPERT_NUMBERS + LAYER_NUMBERS * len(layers), np.int64)
    plan[[LAYERS, DIM, CLASSES]] = len(layers), layers[0].inputs, layers[-1].outputs

    pieces = [plan.view(np.uint8)]
    end = round_up(plan.nbytes, ALIGNMENT)
    for i, (layer, matrix) in enumerate(zip(layers, ordered, strict=True)):
        padded = round_up(layer.outputs, 32)
        parameters = np.zeros((4, padded), np.float32)
        parameters[:, : layer.outputs] = layer.scale, layer.bias, layer.gamma, layer.beta
        number = plan[EXPERT_NUMBERS + LAYER_NUMBERS * i :]
        number[[KIND, OUTPUTS, INPUTS, PADDED]] = matrix.kind, layer.outputs, layer.inputs, padded
        number[[BLOCKS, LENGTH]] = matrix.blocks, matrix.length
        number[THRESHOLD] = np.float32(layer.threshold).view(np.int32)
        if layer.format in LEVELS:
            number[[BITS, LOWEST]] = LEVELS[layer.format].field, LEVELS[layer.format].lowest
        for field, piece in ((WEIGHTS, matrix.data), (PARAMETERS, parameters)):
            number[field] = end
            pieces.append(np.ascontiguousarray(piece).view(np.uint8).reshape(-1))
            end = round_up(end + pieces[-1].size, ALIGNMENT)

    widest = round_up(max(max(layer.inputs, layer.outputs) for layer in layers), 256)
    at = 0
    for offset, stride, size in (
        (FLOATS, FLOATS_STRIDE, 4 * widest),
        (CODES, CODES_STRIDE, 2 * widest),
        (TABLES, TABLES_STRIDE, 8 * widest),
        (SUMS, SUMS_STRIDE, 4 * widest),
        (STEPS, None, 4),
        (CORRECTIONS, None, 4),
        (TURN, None, 1),
    ):
        plan[offset] = at
        if stride is not None:
            plan[stride] = size
        at = round_up(at + TILE * size, ALIGNMENT)
    plan[WORKSPACE] = at

    arena = aligned(end)
    at = 0
    for piece in pieces:
        arena[at : at + piece.size] = piece
        at = round_up(at + piece.size, ALIGNMENT)
    return arena


def plan_of(arena: np.ndarray) -> np.ndarray:
    """The expert's part of an arena's plan, int64 [EXPERT_NUMBERS]."""
    return arena[: 8 * EXPERT_NUMBERS].view(np.int64)


def workspace_for(arena: np.ndarray) -> np.ndarray:
    """Scratch memory that a kernel needs while it runs this arena, uint8; its content never matters."""
    return aligned(int(plan_of(arena)[WORKSPACE]))
