"""Kernels of convolutional networks: one compiled call from spectrograms to embeddings.

Activations lie channels last, [H, W, C] without gaps. Everything is made of one product: *lanes* are output
channels, a tile of pixels shares each vector of weights, and what is multiplied at a time is a *four*: four
bytes of activations, the same for all lanes or one four for each, with four levels of every lane (`vpdpbusd`
where there is VNNI). In a float network a single number takes the place of a four, and all else is the same.

- *pointwise*: the fours of a pixel are its channels.
- *depthwise*: lanes are channels, on either side. Four rows of the input are interleaved, so that a four is
  four pixels that lie below one another.
- *full*: of the same interleaved rows, the fours of neighbouring columns lie together as channels do.

Sums begin with −zero · Σ level, so that padding is nothing but the zero point. They go through a small buffer
to the *finish*: scale and bias, residual sum, activation, rounding. Stores may reach beyond the last channel
or pixel; what comes there is written later. `convolution_plan.py` says where everything lies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from qmoe_core.engine import convolution_plan as plan
from qmoe_core.engine.vectors import BYTE, INT, Emitter, Value, address, i32, named, nothing, operation

_jit: Any = njit
_OPTIONS: dict[str, Any] = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
compiled: Any = _jit(**_OPTIONS)
inline: Any = _jit(**_OPTIONS, forceinline=True)

_ROUNDER = 3 * 2.0**22
"""Added to 0 … 255 in float32, it leaves the nearest whole number, halves to even, in the lowest byte."""


class Product(NamedTuple):
    """How a vector of fours is multiplied with one of levels."""

    spread: Callable[[Emitter, Value], Value]
    """The four (or the float) at an address, in every lane."""
    take: Callable[[Emitter, Value], Any]
    """What `add` takes of a vector of activations."""
    take_levels: Callable[[Emitter, Value], Any]
    add: Callable[[Emitter, Value, Any, Any], Value]
    """(emitter, sums, activations, levels) → sums."""


def _as_it_is(_: Emitter, x: Value) -> Value:
    return x


def _spread_four(e: Emitter, at: Value) -> Value:
    return e.splat(e.load_i32(at))


def _add_halves(multiply: Callable[[Emitter, Value, Value, Value], Value]) -> Callable:
    """A product of bytes by two of 16 bits, which cannot overflow: `vpmaddubsw` could."""

    def add(e: Emitter, total: Value, x: Sequence[Value], w: Sequence[Value]) -> Value:
        for half, levels in zip(x, w, strict=True):
            total = multiply(e, total, half, levels)
        return total

    return add


def _unsigned_halves(e: Emitter, x: Value) -> Sequence[Value]:
    return e.halves(x, signed=False)


def _signed_halves(e: Emitter, x: Value) -> Sequence[Value]:
    return e.halves(x, signed=True)


VNNI = Product(_spread_four, _as_it_is, _as_it_is, Emitter.dot8_vnni)
AVX2 = Product(
    _spread_four,
    _unsigned_halves,
    _signed_halves,
    _add_halves(lambda e, total, x, w: e.add32(total, e.multiply_add16(x, w))),
)
PORTABLE = Product(_spread_four, _unsigned_halves, _signed_halves, _add_halves(Emitter.add_products16))
FLOAT = Product(
    lambda e, at: e.splat(e.load_f32(at)),
    _as_it_is,
    _as_it_is,
    lambda e, total, x, w: e.fused_f32(x, w, total),
)


class Target(NamedTuple):
    """What a processor gets."""

    product: Product
    tiles: tuple[int, int, int]
    """Pixels of a tile that is one, two or three vectors of output channels wide."""
    abreast: int
    """Pixels of a depthwise tile."""


TARGETS = {
    "avx512": Target(VNNI, (16, 12, 8), 8),
    "vnni": Target(VNNI, (8, 4, 4), 4),
    "avx2": Target(AVX2, (8, 4, 2), 4),
    "portable": Target(PORTABLE, (4, 2, 2), 4),
}


class _Emitting:
    """The vector code of one target, for float or for quantized networks: what `operation` is given."""

    def __init__(self, target: Target, size: int, *, quantized: bool) -> None:
        self.quantized, self.size, self.abreast = quantized, size, target.abreast
        self.product = target.product if quantized else FLOAT

    def tile(self, pixels: int, wide: int) -> Callable:
        """Sums of a tile of pixels, `wide` vectors of output channels, to the buffer of sums.

        (x, bytes from pixel to pixel, segments, bytes from segment to segment, fours of a segment, weights,
        parameters, sums)
        """
        size, product = self.size, self.product

        def emit(
            e: Emitter, x: Value, stride: Value, segments: Value, far: Value, depth: Value, weights: Value,
            parameters: Value, sums: Value,
        ) -> None:  # fmt: skip
            def segment(s: Value, totals: list[Value]) -> list[Value]:
                start = e.step(x, far, s)
                at = [e.step(start, stride, p) for p in range(pixels)]

                def step(k: Value, totals: list[Value]) -> list[Value]:
                    here = e.step(weights, wide * size, e.step(k, depth, s))
                    levels = [product.take_levels(e, e.load(here, n * size)) for n in range(wide)]
                    fours = (product.take(e, product.spread(e, e.step(a, 4, k))) for a in at)
                    pairs = ((four, level) for four in fours for level in levels)
                    return [product.add(e, t, *pair) for t, pair in zip(totals, pairs, strict=True)]

                return e.loop(depth, totals, step)

            first = [e.load(parameters, plan.PARAMETERS * size * n) for n in range(wide)]
            totals = e.loop(segments, first * pixels, segment)
            for i, total in enumerate(totals):
                e.store(sums, total, (i % wide * pixels + i // wide) * size)

        return emit

    def depthwise(self) -> Callable:
        """Sums of a tile of pixels, one vector of channels wide, to the buffer of sums.

        (x, bytes from pixel to pixel, groups of rows, bytes from group to group, columns, bytes from column
        to column, weights, parameters, sums)
        """
        size, product, pixels = self.size, self.product, self.abreast

        def emit(
            e: Emitter, x: Value, stride: Value, groups: Value, far: Value, columns: Value, near: Value,
            weights: Value, parameters: Value, sums: Value,
        ) -> None:  # fmt: skip
            def group(g: Value, totals: list[Value]) -> list[Value]:
                at = [e.step(e.step(x, far, g), stride, p) for p in range(pixels)]

                def column(j: Value, totals: list[Value]) -> list[Value]:
                    here = e.step(weights, size, e.step(j, columns, g))
                    levels = product.take_levels(e, e.load(here))
                    fours = (product.take(e, e.load(e.step(a, near, j))) for a in at)
                    return [product.add(e, t, four, levels) for t, four in zip(totals, fours, strict=True)]

                return e.loop(columns, totals, column)

            for p, total in enumerate(e.loop(groups, [e.load(parameters)] * pixels, group)):
                e.store(sums, total, p * size)

        return emit

    def finish(self, *, hardswish: bool = False, added: bool = False) -> Callable:
        """From sums, one vector of channels wide, to activations.

        (sums, pixels, parameters, constants, out, bytes from pixel to pixel, what is added)
        """
        size, quantized = self.size, self.quantized

        def emit(
            e: Emitter, sums: Value, pixels: Value, parameters: Value, constants: Value, out: Value,
            stride: Value, other: Value,
        ) -> None:  # fmt: skip
            constant = [e.splat(e.load_f32(constants, 4 * i)) for i in range(plan.CONSTANTS)]
            factor, offset = e.load(parameters, size), e.load(parameters, 2 * size)

            def pixel(p: Value, _: list[Value]) -> list[Value]:
                y = e.load(e.step(sums, size, p))
                if quantized:
                    y = e.add_f32(e.multiply_f32(e.i32_to_f32(y), factor), offset)
                if added:
                    x = self._load(e, e.step(other, stride, p))
                    if quantized:
                        x = e.sub_f32(e.i32_to_f32(x), constant[plan.ADDED_ZERO])
                        x = e.multiply_f32(x, constant[plan.RATIO])
                    y = e.add_f32(y, x)
                if hardswish:
                    six = e.larger_f32(e.add_f32(y, e.fill_f32(3)), e.zero())
                    y = e.multiply_f32(y, e.smaller_f32(six, e.fill_f32(6)))
                    y = e.multiply_f32(y, constant[plan.SIXTH])
                    if quantized:
                        y = e.add_f32(y, constant[plan.ZERO_OUT])
                self._store(e, e.step(out, stride, p), e.larger_f32(y, constant[plan.LOWEST]))
                return []

            e.loop(pixels, [], pixel)

        return emit

    def _load(self, e: Emitter, at: Value) -> Value:
        """Activations, 32 bits each: integers or floats."""
        return e.widen8(e.load_bytes(at)) if self.quantized else e.load(at)

    def _store(self, e: Emitter, at: Value, y: Value) -> None:
        """Activations from float32; of bytes, those that are above zero."""
        if self.quantized:
            y = e.lowest8(e.add_f32(e.smaller_f32(y, e.fill_f32(255)), e.fill_f32(_ROUNDER)))
        e.store(at, y)

    def interleave(self) -> Callable:
        """Four rows side by side; of floats, a copy of one: (table of their addresses, vectors, to)."""
        size, rows = self.size, 4 if self.quantized else 1

        def emit(e: Emitter, table: Value, count: Value, to: Value) -> None:
            at = [e.load_i64(table, 8 * r) for r in range(rows)]

            def vector(i: Value, _: list[Value]) -> list[Value]:
                if self.quantized:
                    zipped = e.zip8([e.load_bytes(e.step(a, size // 4, i)) for a in at])
                else:
                    zipped = e.load(e.step(at[0], size, i))
                e.store(e.step(to, size, i), zipped)
                return []

            e.loop(count, [], vector)

        return emit

    def over_pixels(self, *, largest: bool) -> Callable:
        """Sum or maximum over pixels of a vector of channels: (x, pixels, bytes from pixel to pixel, to)."""

        def emit(e: Emitter, x: Value, pixels: Value, stride: Value, to: Value) -> None:
            if largest:
                combine = e.max32 if self.quantized else e.larger_f32
            else:
                combine = e.add32 if self.quantized else e.add_f32
            first = self._load(e, x) if largest else e.zero()
            (total,) = e.loop(
                pixels, [first], lambda p, t: [combine(t[0], self._load(e, e.step(x, stride, p)))]
            )
            e.store(to, total)

        return emit

    def scale(self) -> Callable:
        """Channels times their weights, one vector of them: (x, pixels, bytes from pixel to pixel, weights,
        zero of x, constants, out)."""

        def emit(
            e: Emitter, x: Value, pixels: Value, stride: Value, weights: Value, zero: Value, constants: Value,
            out: Value,
        ) -> None:  # fmt: skip
            weight, zeros = e.load(weights), e.splat(e.builder.trunc(zero, INT))
            factor, offset = (e.splat(e.load_f32(constants, 4 * i)) for i in (plan.RATIO, plan.ZERO_OUT))

            def pixel(p: Value, _: list[Value]) -> list[Value]:
                y = self._load(e, e.step(x, stride, p))
                if self.quantized:
                    y = e.i32_to_f32(e.multiply32(e.sub32(y, zeros), weight))
                    y = e.larger_f32(e.add_f32(e.multiply_f32(y, factor), offset), e.zero())
                else:
                    y = e.multiply_f32(y, weight)
                self._store(e, e.step(out, stride, p), y)
                return []

            e.loop(pixels, [], pixel)

        return emit

    def take_input(self) -> Callable:
        """The spectrogram as activations: (x float32, vectors, constants, out)."""

        def emit(e: Emitter, x: Value, count: Value, constants: Value, out: Value) -> None:
            factor, offset = (e.splat(e.load_f32(constants, 4 * i)) for i in (plan.STEP, plan.ZERO_OUT))

            def vector(i: Value, _: list[Value]) -> list[Value]:
                y = e.load(e.step(x, self.size, i))
                if self.quantized:
                    y = e.larger_f32(e.add_f32(e.multiply_f32(y, factor), offset), e.zero())
                self._store(e, e.step(out, self.size // 4 if self.quantized else self.size, i), y)
                return []

            e.loop(count, [], vector)

        return emit

    def unpack(self, bits: int) -> Callable:
        """Levels of fields: (vectors with several, how many, lowest level, to)."""
        size, fields = self.size, 8 // bits

        def emit(e: Emitter, packed: Value, count: Value, lowest: Value, to: Value) -> None:
            lowest = e.splat(e.builder.trunc(lowest, BYTE))

            def vector(i: Value, _: list[Value]) -> list[Value]:
                x = e.load(e.step(packed, size, i))
                for f in range(fields):
                    level = e.and_(e.shift_right16(x, bits * f), e.fill8((1 << bits) - 1))
                    level = e.add8(level, level) if bits == 1 else level
                    e.store(e.step(to, fields * size, i), e.add8(level, lowest), f * size)
                return []

            e.loop(count, [], vector)

        return emit


# --- The loops ------------------------------------------------------------------------------------


def _run_of(name: str, *, quantized: bool) -> Any:
    """The compiled function that runs a program for one spectrogram."""
    target, size = TARGETS[name], plan.VECTOR_BYTES[name]
    emitting = _Emitting(target, size, quantized=quantized)
    lanes, element, four = size // 4, 1 if quantized else 4, 4 if quantized else 1
    abreast = target.abreast
    label = f"{name}_{'quantized' if quantized else 'float'}"

    def made(emit: Callable, count: int) -> Any:
        return operation(nothing, *[address] * count, size=size)(emit)

    def function(python: Callable) -> Any:
        return compiled(named(label, python))

    def small(python: Callable) -> Any:
        return inline(named(label, python))

    finish_plain = made(emitting.finish(), 7)
    finish_hardswish = made(emitting.finish(hardswish=True), 7)
    finish_added = made(emitting.finish(added=True), 7)
    depthwise_tile, dense_tile = made(emitting.depthwise(), 9), made(emitting.tile(1, 1), 8)
    interleave, take_input, scale = (
        made(emitting.interleave(), 3),
        made(emitting.take_input(), 4),
        made(emitting.scale(), 7),
    )
    add_pixels, largest_pixel = (made(emitting.over_pixels(largest=flag), 4) for flag in (False, True))
    unpack_4, unpack_2, unpack_1 = (made(emitting.unpack(bits), 4) for bits in (4, 2, 1))
    splat = operation(nothing, address, i32, size=size)(lambda e, at, x: e.store(at, e.splat(x)))
    store_address = operation(nothing, address, address)(Emitter.store)

    @function
    def finish(
        activation: int, sums: int, pixels: int, parameters: int, constants: int, out: int, stride: int,
        other: int,
    ) -> None:  # fmt: skip
        if other:
            finish_added(sums, pixels, parameters, constants, out, stride, other)
        elif activation == plan.HARDSWISH:
            finish_hardswish(sums, pixels, parameters, constants, out, stride, 0)
        else:
            finish_plain(sums, pixels, parameters, constants, out, stride, 0)

    def group_of(wide: int) -> Any:
        pixels = target.tiles[wide - 1]
        tile = made(emitting.tile(pixels, wide), 8)

        def group(
            x: int, stride: int, count: int, segments: int, far: int, depth: int, weights: int,
            parameters: int, constants: int, activation: int, out: int, out_stride: int, other: int,
            sums: int,
        ) -> None:  # fmt: skip
            for p in range(0, count, pixels):
                tile(x + p * stride, stride, segments, far, depth, weights, parameters, sums)
                for n in range(wide - 1, -1, -1):
                    at = p * out_stride + n * lanes * element
                    finish(
                        activation, sums + n * pixels * size, pixels, parameters + n * plan.PARAMETERS * size,
                        constants, out + at, out_stride, other + at if other else 0,
                    )  # fmt: skip

        return compiled(named(f"{label}_{wide}", group))

    group_1, group_2, group_3 = (group_of(wide) for wide in (1, 2, 3))

    @function
    def product(
        row: np.ndarray, x: int, stride: int, count: int, segments: int, far: int, depth: int, weights: int,
        arena: int, out: int, other: int, sums: int,
    ) -> None:  # fmt: skip
        """All output channels of some pixels; the last first, because stores reach into the next pixel."""
        constants, activation = arena + row[plan.CONSTANT], row[plan.ACTIVATION]
        out_stride, blocks = row[plan.OUTPUTS] * element, row[plan.PHASES]
        while blocks > 0:
            wide = 3 if blocks % 3 == 0 else 1 if blocks == 1 else 2
            blocks -= wide
            w = weights + blocks * segments * depth * size
            parameters = arena + row[plan.PARAMETER] + blocks * plan.PARAMETERS * size
            at = blocks * lanes * element
            to, also = out + at, other + at if other else 0
            if wide == 3:
                group_3(
                    x, stride, count, segments, far, depth, w, parameters, constants, activation, to,
                    out_stride, also, sums,
                )  # fmt: skip
            elif wide == 2:
                group_2(
                    x, stride, count, segments, far, depth, w, parameters, constants, activation, to,
                    out_stride, also, sums,
                )  # fmt: skip
            else:
                group_1(
                    x, stride, count, segments, far, depth, w, parameters, constants, activation, to,
                    out_stride, also, sums,
                )  # fmt: skip

    @function
    def fill(to: int, count: int, value: int) -> None:
        """Bytes of one value; whole vectors."""
        for at in range(to, to + count, size):
            splat(at, np.int32(value * 0x01010101))

    @function
    def lines(row: np.ndarray, i: int, x: int, work: int, places: np.ndarray) -> None:
        """The rows that output row i takes, padded, fours of them interleaved."""
        height, width, channels = row[plan.HEIGHT], row[plan.WIDTH], row[plan.CHANNELS]
        zero, margin, table = row[plan.ZERO], 4 * row[plan.LEFT] * channels, work + places[plan.TABLE]
        for g in range((row[plan.ROWS] + four - 1) // four):
            to = work + places[plan.LINES] + g * places[plan.LINE]
            fill(to, margin, zero)
            for r in range(four):
                y = i * row[plan.DOWN] - row[plan.ABOVE] + four * g + r
                inside = 0 <= y < height
                at = x + y * width * channels * element if inside else work + places[plan.BORDER]
                store_address(table + 8 * r, at)
            interleave(table, (width * channels + lanes - 1) // lanes, to + margin)
            fill(to + margin + 4 * width * channels, margin, zero)

    @function
    def convolve(
        row: np.ndarray, x: int, weights: int, arena: int, out: int, other: int, work: int, places: np.ndarray
    ) -> None:
        sums, channels, columns = work + places[plan.SUMS], row[plan.CHANNELS], row[plan.COLUMNS]
        if row[plan.FLAT]:
            depth, pixels = (channels + four - 1) // four, row[plan.HEIGHT] * row[plan.WIDTH]
            product(row, x, channels * element, pixels, 1, 0, depth, weights, arena, out, other, sums)
            return
        fill(work + places[plan.BORDER], row[plan.WIDTH] * channels * element + size, row[plan.ZERO])
        groups, line = (row[plan.ROWS] + four - 1) // four, work + places[plan.LINES]
        far, across = places[plan.LINE], row[plan.ACROSS]
        period, phases = row[plan.PERIOD], row[plan.PHASES]
        parameters, constants = arena + row[plan.PARAMETER], arena + row[plan.CONSTANT]
        for i in range(row[plan.OUT_HEIGHT]):
            lines(row, i, x, work, places)
            at = i * row[plan.OUT_WIDTH] * row[plan.OUTPUTS] * element
            to, also = out + at, other + at if other else 0
            if row[plan.OP] == plan.PRODUCT:
                product(
                    row, line, 4 * across * channels, row[plan.OUT_WIDTH], groups, far, columns * channels,
                    weights, arena, to, also, sums,
                )  # fmt: skip
                continue
            for phase in range(phases - 1, -1, -1):
                w = weights + phase * groups * columns * size
                here, p = phase * lanes * element, parameters + phase * plan.PARAMETERS * size
                for t in range(0, row[plan.REPEATS], abreast):
                    first = line + phase * size + t * 4 * across * period
                    depthwise_tile(first, 4 * across * period, groups, far, columns, 4 * channels, w, p, sums)
                    onto = here + t * period * element
                    finish(
                        row[plan.ACTIVATION], sums, abreast, p, constants, to + onto, period * element,
                        also + onto if also else 0,
                    )  # fmt: skip

    @function
    def unpack(row: np.ndarray, arena: int, to: int) -> int:
        """The address of a layer's levels, a byte each."""
        fields, packed = row[plan.FIELDS], arena + row[plan.WEIGHTS]
        if fields <= 1:
            return packed
        count, lowest = row[plan.VECTORS] // fields, row[plan.LOWEST_LEVEL]
        if fields == 2:
            unpack_4(packed, count, lowest, to)
        elif fields == 4:
            unpack_2(packed, count, lowest, to)
        else:
            unpack_1(packed, count, lowest, to)
        return to

    @small
    def floats(memory: np.ndarray, at: int, count: int) -> np.ndarray:
        return memory[at : at + 4 * count].view(np.float32)

    @small
    def integers(memory: np.ndarray, at: int, count: int) -> np.ndarray:
        return memory[at : at + 4 * count].view(np.int32)

    @small
    def to_level(y: Any, lowest: Any) -> Any:
        return np.uint8(min(max(np.rint(y), lowest), 255))

    @function
    def channel_sums(row: np.ndarray, x: int, work: int, places: np.ndarray, largest: bool) -> None:
        pixels, channels = row[plan.HEIGHT] * row[plan.WIDTH], row[plan.CHANNELS]
        for c in range(0, channels, lanes):
            to = work + places[plan.CHANNEL_SUMS] + 4 * c
            if largest:
                largest_pixel(x + c * element, pixels, channels * element, to)
            else:
                add_pixels(x + c * element, pixels, channels * element, to)

    @function
    def mean(row: np.ndarray, step: Any, workspace: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
        """Means of channels, float32, from their sums."""
        pixels, place = row[plan.HEIGHT] * row[plan.WIDTH], places[plan.CHANNEL_SUMS]
        step = step / np.float32(pixels)
        for c in range(row[plan.CHANNELS]):
            if quantized:
                total = integers(workspace, place, row[plan.CHANNELS])[c] - pixels * row[plan.ZERO]
                out[c] = np.float32(total) * step
            else:
                out[c] = floats(workspace, place, row[plan.CHANNELS])[c] * step

    @function
    def pool(
        row: np.ndarray, x: int, arena: np.ndarray, workspace: np.ndarray, places: np.ndarray, out: np.ndarray
    ) -> None:
        work, channels = workspace.ctypes.data, row[plan.CHANNELS]
        step = floats(arena, row[plan.CONSTANT], plan.CONSTANTS)[plan.STEP]
        channel_sums(row, x, work, places, False)
        mean(row, step, workspace, places, out[:channels])
        if row[plan.OUTPUTS] > channels:
            channel_sums(row, x, work, places, True)
            for c in range(channels):
                if quantized:
                    most = integers(workspace, places[plan.CHANNEL_SUMS], channels)[c]
                    out[channels + c] = (np.float32(most) - np.float32(row[plan.ZERO])) * step
                else:
                    out[channels + c] = floats(workspace, places[plan.CHANNEL_SUMS], channels)[c]

    @function
    def squeeze(
        row: np.ndarray, x: int, arena: np.ndarray, workspace: np.ndarray, places: np.ndarray
    ) -> None:
        """Means of channels as activations, to the first vector."""
        constants, channels = floats(arena, row[plan.CONSTANT], plan.CONSTANTS), row[plan.CHANNELS]
        channel_sums(row, x, workspace.ctypes.data, places, False)
        means = floats(workspace, places[plan.SECOND_VECTOR], channels)
        mean(row, constants[plan.STEP], workspace, places, means)
        for c in range(channels):
            if quantized:
                y = means[c] * constants[plan.SIXTH] + constants[plan.ZERO_OUT]
                workspace[places[plan.FIRST_VECTOR] + c] = to_level(y, 0)
            else:
                floats(workspace, places[plan.FIRST_VECTOR], channels)[c] = means[c]

    @function
    def dense(
        row: np.ndarray, weights: int, arena: np.ndarray, workspace: np.ndarray, places: np.ndarray,
        take: int, give: int,
    ) -> None:  # fmt: skip
        """A layer of a squeeze-excite, from one vector to the other."""
        work, outputs, sums = workspace.ctypes.data, row[plan.OUTPUTS], places[plan.SUMS]
        depth = (row[plan.CHANNELS] + four - 1) // four
        constants = floats(arena, row[plan.CONSTANT], plan.CONSTANTS)
        activation, step, zero = row[plan.ACTIVATION], constants[plan.STEP], constants[plan.ZERO_OUT]
        for block in range(row[plan.PHASES]):
            w, at = weights + block * depth * size, row[plan.PARAMETER] + block * plan.PARAMETERS * size
            dense_tile(work + take, 0, 1, 0, depth, w, arena.ctypes.data + at, work + sums)
            parameters = floats(arena, at, plan.PARAMETERS * lanes)
            for lane in range(min(lanes, outputs - block * lanes)):
                if quantized:
                    y = np.float32(integers(workspace, sums, lanes)[lane])
                    y = y * parameters[lanes + lane] + parameters[2 * lanes + lane]
                else:
                    y = floats(workspace, sums, lanes)[lane]
                if activation == plan.SIGMOID:
                    exact = 1 / (1 + np.exp(-np.float64(y)))
                    y = exact / np.float64(step) + zero if quantized else np.float32(exact)
                elif activation == plan.HARDSWISH or activation == plan.HARDSIGMOID:
                    six = min(max(y + np.float32(3), np.float32(0)), np.float32(6))
                    y = (y * six if activation == plan.HARDSWISH else six) * constants[plan.SIXTH] + zero
                to = block * lanes + lane
                if quantized:
                    workspace[give + to] = to_level(y, constants[plan.LOWEST])
                else:
                    floats(workspace, give, outputs)[to] = max(y, constants[plan.LOWEST])

    @function
    def excite(
        row: np.ndarray, x: int, arena: np.ndarray, workspace: np.ndarray, places: np.ndarray, out: int
    ) -> None:
        """Channels times their weights, which are in the first vector."""
        pixels, channels, work = row[plan.HEIGHT] * row[plan.WIDTH], row[plan.CHANNELS], workspace.ctypes.data
        place, constants = places[plan.CHANNEL_SUMS], arena.ctypes.data + row[plan.CONSTANT]
        if quantized:
            weights = integers(workspace, place, channels)
            for c in range(channels):
                weights[c] = np.int32(workspace[places[plan.FIRST_VECTOR] + c]) - row[plan.LOWEST_LEVEL]
        else:
            place = places[plan.FIRST_VECTOR]
        for c in range((channels - 1) // lanes * lanes, -1, -lanes):
            scale(
                x + c * element, pixels, channels * element, work + place + 4 * c, row[plan.ZERO], constants,
                out + c * element,
            )  # fmt: skip

    @function
    def run(
        x: int,
        arena: np.ndarray,
        steps: np.ndarray,
        places: np.ndarray,
        workspace: np.ndarray,
        out: np.ndarray,
    ) -> None:
        base, work = arena.ctypes.data, workspace.ctypes.data
        take, give = places[plan.FIRST_VECTOR], places[plan.SECOND_VECTOR]
        for s in range(len(steps)):
            row = steps[s]
            op, here, to = row[plan.OP], work + row[plan.X], work + row[plan.OUT]
            if op == plan.INPUT:
                count = (row[plan.HEIGHT] * row[plan.WIDTH] + lanes - 1) // lanes
                take_input(x, count, base + row[plan.CONSTANT], to)
            elif op == plan.PRODUCT or op == plan.DEPTHWISE:
                weights = unpack(row, base, work + places[plan.LEVELS_HERE])
                other = work + row[plan.ADDED] if row[plan.ADDED] >= 0 else 0
                convolve(row, here, weights, base, to, other, work, places)
            elif op == plan.MEAN:
                squeeze(row, here, arena, workspace, places)
            elif op == plan.DENSE:
                weights = unpack(row, base, work + places[plan.LEVELS_HERE])
                dense(row, weights, arena, workspace, places, take, give)
                take, give = give, take
            elif op == plan.SCALE:
                excite(row, here, arena, workspace, places, to)
            else:
                pool(row, here, arena, workspace, places, out)

    return run


def entry(name: str, *, quantized: bool) -> Callable[[int], Callable]:
    """What `kernels.py` compiles: whole networks on one target; see there for the fingerprint.

    The function takes x, float32 [B · bands · frames]; arena, steps and places of `convolution_plan.py`; a
    workspace of the size that the program says, one caller at a time; out, float32 [B · D], which gets the
    embeddings; and the number of clips, B.
    """
    # As a global, not in the closure: numba's cache has the closure in its key, and there a compiled function
    # has another name in every process.
    around = globals() | {"run": _run_of(name, quantized=quantized)}

    def make(fingerprint: int) -> Callable:
        def forward(
            x: np.ndarray, arena: np.ndarray, steps: np.ndarray, places: np.ndarray, workspace: np.ndarray,
            out: np.ndarray, clips: int,
        ) -> int:  # fmt: skip
            if clips == 0:
                return fingerprint
            each, dim = x.size // clips, out.size // clips
            for clip in range(clips):
                at = x.ctypes.data + 4 * each * clip
                run(at, arena, steps, places, workspace, out[dim * clip : dim * (clip + 1)])
            return 0

        made = FunctionType(forward.__code__, around, forward.__name__, None, forward.__closure__)
        return named(f"{name}_{quantized}", made)

    return make


run: Any = None
"""A network on one target: what `entry` puts here for the function that it makes."""
