"""Kernels for processors with AVX2, and with VNNI or AVX-512 as well: a whole expert in one call, batches
included.

A layer's integer product takes one of three ways.

*Rows side by side*: eight rows' partial sums live in eight registers, a step multiplies a vector of weights
of each row with the same activations. 4-bit and 16-bit products and bit counts are summed in narrow lanes
for as long as those cannot overflow, and only then widened.

*A row in each lane* (up to 8 bits, with VNNI, which sums four products of bytes into 32 bits at once): four
activations meet four levels of as many rows as a vector has lanes, so that no sum goes across a vector.

*Tables* (1 bit without AVX-512, 2 bits without VNNI; after T-MAC, Wei et al. 2024): the weights of a row are
looked up four at a time, in a table of the 16 sums that four activations can give. `pshufb` looks up 32 rows
at once, but bytes are too small for sums up to ±508, so a sum travels as two digits,
(v + 512) = low + 32 · high; each stays below 32, and eight of them still fit a byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
from numba import njit

from qmoe_core.engine import arena as plan
from qmoe_core.engine.vectors import (
    BYTES,
    Emitter,
    Value,
    Vectors,
    address,
    f32,
    i32,
    i64,
    named,
    nothing,
    operation,
)

_jit: Any = njit
compiled: Any = _jit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
inline: Any = _jit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)

one, two, eight = Vectors(1), Vectors(2), Vectors(8)


def _zeros(kind: Vectors) -> Any:
    return operation(kind, size=kind.size)(lambda e: [e.zero()] * kind.count)


_AHEAD = 2048
"""Bytes from the weights at hand to those asked for: the processor's own prefetching ends with each page."""


def _prefetch(e: Emitter, at: Value, size: int) -> None:
    for offset in range(0, size, plan.ALIGNMENT):
        e.prefetch(at, _AHEAD + offset)


# --- A group of rows at a time --------------------------------------------------------------------


def _product_of(
    name: str,
    kind: Vectors,
    rows: int,
    step: Callable,
    block: int,
    stride: int,
    chunk: int,
    settle: Callable,
    write: Callable,
) -> Any:
    """The product of a layer.

    Args:
        name: of the product.
        kind: the sums of a group.
        rows: of a group.
        step: (emitter, sums, address of weights, address of activations) → sums.
        block: bytes of weights that a step takes.
        stride: bytes of activations that a step takes.
        chunk: steps after which the narrow sums must settle.
        settle: (emitter, total, sum) → total.
        write: (emitter, address, totals, address of the correction): stores `rows` float32.
    """
    zeros = _zeros(kind)
    add_step = operation(kind, kind, address, address, size=kind.size)(step)

    @operation(nothing, address)
    def prefetch(e: Emitter, at: Value) -> None:
        _prefetch(e, at, block)

    @operation(kind, kind, kind, size=kind.size)
    def settle_each(e: Emitter, totals: Sequence[Value], sums: Sequence[Value]) -> list[Value]:
        return [settle(e, t, s) for t, s in zip(totals, sums, strict=True)]

    write_rows = operation(nothing, address, kind, address, size=kind.size)(write)

    def product(
        weights: int, blocks: int, length: int, x: int, x_stride: int, out: int, out_stride: int,
        corrections: int, samples: int, backwards: int,
    ) -> None:  # fmt: skip
        for turn in range(blocks):
            group = blocks - 1 - turn if backwards else turn
            # Samples go in pairs, which share the loads and the taking apart of weights.
            for sample in range(0, samples - 1, 2):
                at, first = weights + group * length * block, x + sample * x_stride
                second = first + x_stride
                total, other_total = zeros(), zeros()
                for begin in range(0, length, chunk):
                    part, other_part = zeros(), zeros()
                    for _ in range(min(length - begin, chunk)):
                        prefetch(at)
                        part, other_part = add_step(part, at, first), add_step(other_part, at, second)
                        at += block
                        first += stride
                        second += stride
                    total, other_total = settle_each(total, part), settle_each(other_total, other_part)
                to, correction = out + 4 * rows * group + sample * out_stride, corrections + 4 * sample
                write_rows(to, total, correction)
                write_rows(to + out_stride, other_total, correction + 4)
            for sample in range(samples & -2, samples):
                at, first = weights + group * length * block, x + sample * x_stride
                total = zeros()
                for begin in range(0, length, chunk):
                    part = zeros()
                    for _ in range(min(length - begin, chunk)):
                        prefetch(at)
                        part = add_step(part, at, first)
                        at += block
                        first += stride
                    total = settle_each(total, part)
                write_rows(out + 4 * rows * group + sample * out_stride, total, corrections + 4 * sample)

    return compiled(named(name, product))


def _each_row(step: Callable) -> Callable:
    """For eight rows what `step`, (emitter, sum, weights, address of activations) → sum, is for one."""

    def step_eight(e: Emitter, sums: Sequence[Value], at: Value, x: Value) -> list[Value]:
        return [step(e, s, e.load(at, i * BYTES), x) for i, s in enumerate(sums)]

    return step_eight


def _step_int8(e: Emitter, s: Value, w: Value, x: Value) -> Value:
    return e.dot8(s, e.abs8(e.load(x)), e.apply_sign8(w, e.load(x)))


def _step_int8_full(e: Emitter, s: Value, w: Value, x: Value) -> Value:
    return e.dot8(s, e.abs8(w), e.apply_sign8(e.load(x), w))


def _step_int4(e: Emitter, s: Value, w: Value, x: Value) -> Value:
    low = e.multiply_add8(e.and_(w, e.fill8(15)), e.load(x))
    high = e.multiply_add8(e.and_(e.shift_right16(w, 4), e.fill8(15)), e.load(x, BYTES))
    return e.add16(e.add16(s, low), high)


def _step_int16(e: Emitter, s: Value, w: Value, x: Value) -> Value:
    return e.add32(s, e.multiply_add16(w, e.load(x)))


def _step_sign(e: Emitter, s: Value, w: Value, x: Value) -> Value:
    return e.add8(s, e.count_bits8(e.xor(w, e.load(x))))


def _step_float(e: Emitter, s: Value, w: Value, x: Value) -> Value:
    return e.multiply_add_f32(w, e.load(x), s)


def _settle_i16(e: Emitter, total: Value, part: Value) -> Value:
    return e.add32(total, e.multiply_add16(part, e.fill16(1)))


def _settle_counts(e: Emitter, total: Value, part: Value) -> Value:
    differing = e.sum_bytes(part)
    return e.sub32(e.sub32(total, differing), differing)


def _correct(e: Emitter, sums: Value, correction: Value) -> Value:
    """32-bit sums less the correction of their sample, as float32."""
    return e.i32_to_f32(e.sub32(sums, e.splat(e.load_i32(correction))))


def _write_i32(e: Emitter, out: Value, totals: Sequence[Value], correction: Value) -> None:
    e.store(out, _correct(e, e.sums_of_eight32(totals), correction))


def _write_i64(e: Emitter, out: Value, totals: Sequence[Value], _: Value) -> None:
    for i, total in enumerate(totals):
        e.store(out, e.sum64_as_f32(total), 4 * i)


def _write_f32(e: Emitter, out: Value, totals: Sequence[Value], _: Value) -> None:
    e.store(out, e.sums_of_eight_f32(totals))


_UNLIMITED = 1 << 30


def _product(name: str, step: Callable, stride: int, *more: Any) -> Any:
    """Of a step for one row."""
    return _product_of(name, eight, 8, _each_row(step), 8 * BYTES, stride, *more)


_unsettled = (_UNLIMITED, Emitter.add32, _write_i32)
_int8 = _product("int8", _step_int8, 32, *_unsettled)
_int8_full = _product("int8_full", _step_int8_full, 32, *_unsettled)
# A step adds at most 2 · 2 · 15 · 127 = 7,620 to 16 bits, 2 · 32,768 · 127 to 32 bits, 8 to a byte.
_int4 = _product("int4", _step_int4, 64, 4, _settle_i16, _write_i32)
_int16 = _product("int16", _step_int16, 32, 256, Emitter.add_pairs64, _write_i64)
_sign = _product("sign", _step_sign, 32, 31, _settle_counts, _write_i32)
_float = _product("float", _step_float, 32, _UNLIMITED, Emitter.add_f32, _write_f32)


# The same with a row in each lane


def _in_lanes(bits: int, size: int) -> Any:
    """The product of levels of 1, 2, 4 or 8 bits, in vectors of `size` bytes; see `arena.lane_order`.

    A vector is multiplied as often as its bytes have fields, under a mask that leaves one field more each
    time: of the sums, the first is the lowest field's row, and each other less the one before it is its
    field's, shifted.
    """
    lanes = plan.LaneLayout.of(bits, size)
    kind = Vectors(lanes.strands * lanes.vectors * lanes.fields, size)

    def step(e: Emitter, sums: Sequence[Value], at: Value, x: Value) -> list[Value]:
        before, result = iter(sums), []
        for strand in range(lanes.strands):
            activations = e.splat(e.load_i32(x, 4 * strand))
            for vector in range(lanes.vectors):
                w = e.load(at, (strand * lanes.vectors + vector) * size)
                for field in range(1, lanes.fields + 1):
                    levels = e.and_(w, e.fill8((1 << bits * field) - 1)) if field < lanes.fields else w
                    result.append(e.dot8_vnni(next(before), levels, activations))
        return result

    def write(e: Emitter, out: Value, totals: Sequence[Value], correction: Value) -> None:
        count, below = lanes.vectors * lanes.fields, e.zero()
        for i in range(count):
            total, field = reduce(e.add32, totals[i::count]), i % lanes.fields
            rows = e.shift_right32(e.sub32(total, below), bits * field) if field else total
            below = total
            if bits == 1:  # Levels ±1 are twice the sum over the set ones, less the sum over all.
                rows = e.add32(rows, rows)
            e.store(out, _correct(e, rows, correction), i * size)

    block, stride = lanes.strands * lanes.vectors * size, 4 * lanes.strands
    return _product_of(
        f"lanes_{bits}_{size}", kind, lanes.rows, step, block, stride, _UNLIMITED, Emitter.add32, write
    )


# --- Tables ---------------------------------------------------------------------------------------

_TABLES = 2 * BYTES
"""Bytes of the tables of eight activations: low digits of the first and second four, then high digits."""
_SPLIT = 4
"""Columns whose digits a byte can add up: 4 · 2 · 31 < 256."""


@operation(nothing, address, address)
def _make_tables(e: Emitter, codes: Value, tables: Value) -> None:
    """The tables of eight int8 activations: entry n is the sum of those whose bit is set in n."""

    def pattern(byte: Callable[[int, int, int], int]) -> Value:
        """A byte for each half, each entry (16 bits) of a table in it, and each byte of that."""
        return e.constant8([byte(i // 16, i % 16 // 2, i % 2) for i in range(BYTES)])

    activations = e.splat(e.load_i64(codes))
    first_two = e.lookup8(activations, pattern(lambda half, _, byte: 4 * half + byte))
    last_two = e.lookup8(activations, pattern(lambda half, _, byte: 4 * half + byte + 2))
    sums = e.add16(e.multiply_add8(pattern(lambda _, n, byte: n >> byte & 1), first_two), e.fill16(512))
    entries = (
        e.add16(sums, e.multiply_add8(pattern(lambda _, n, byte: n >> (2 + byte) & 1), last_two)),
        e.add16(sums, e.multiply_add8(pattern(lambda _, n, byte: (8 + n) >> (2 + byte) & 1), last_two)),
    )
    e.store(tables, e.narrow16_unsigned(*(e.and_(x, e.fill16(31)) for x in entries)))
    e.store(tables, e.narrow16_unsigned(*(e.shift_right16(x, 5) for x in entries)), BYTES)


def _table_product(
    name: str, chunk: int, sums_each: int, gather: Callable, widen: Callable, write: Callable
) -> Any:
    """The product of a layer by tables, several vectors of rows at a time.

    Args:
        name: of the product.
        chunk: columns after which sums of 16 bits must be widened.
        sums_each: vectors that hold the sums of one vector of rows.
        gather: (emitter, sums of 16 bits, low digits, high digits) → sums.
        widen: (emitter, sums of 16 bits) → sums of 32 bits, `sums_each` · 8 rows in order.
        write: (emitter, sum of 32 bits) → the same for true levels, less the correction.
    """
    everyone = Vectors(plan.ABREAST * sums_each)
    zeros = _zeros(everyone)
    step = plan.COLUMNS * plan.ABREAST * BYTES

    def by_vector(sums: Sequence[Value]) -> list[Sequence[Value]]:
        return [sums[i : i + sums_each] for i in range(0, len(sums), sums_each)]

    @operation(everyone, everyone, address, address)
    def look_up(e: Emitter, sums: Sequence[Value], at: Value, tables: Value) -> Sequence[Value]:
        """Adds the sums of the activations of COLUMNS columns."""
        _prefetch(e, at, step)
        for begin in range(0, plan.COLUMNS, _SPLIT):
            digits = [[e.zero(), e.zero()] for _ in range(plan.ABREAST)]
            for column in range(begin, begin + _SPLIT):
                weights = [e.load(at, (plan.ABREAST * column + i) * BYTES) for i in range(plan.ABREAST)]
                for four in (0, 1):
                    indices = [e.and_(e.shift_right16(w, 4 * four), e.fill8(15)) for w in weights]
                    for digit in (0, 1):
                        table = e.load_half_twice(
                            tables, _TABLES * column + BYTES * digit + BYTES // 2 * four
                        )
                        for pair, index in zip(digits, indices, strict=True):
                            pair[digit] = e.add8(pair[digit], e.lookup8(table, index))
            gathered = (gather(e, s, *pair) for s, pair in zip(by_vector(sums), digits, strict=True))
            sums = [s for part in gathered for s in part]
        return sums

    @operation(everyone, everyone, everyone)
    def settle(e: Emitter, totals: Sequence[Value], sums: Sequence[Value]) -> list[Value]:
        wide = [x for part in by_vector(sums) for x in widen(e, part)]
        return [e.add32(t, x) for t, x in zip(totals, wide, strict=True)]

    @operation(nothing, address, everyone, address)
    def store(e: Emitter, out: Value, totals: Sequence[Value], correction: Value) -> None:
        for i, total in enumerate(totals):
            e.store(out, _correct(e, write(e, total), correction), i * BYTES)

    def product(
        weights: int, blocks: int, length: int, x: int, x_stride: int, out: int, out_stride: int,
        corrections: int, samples: int, backwards: int,
    ) -> None:  # fmt: skip
        for turn in range(blocks):
            block = blocks - 1 - turn if backwards else turn
            for sample in range(samples):
                at = weights + plan.ABREAST * block * length * BYTES
                tables = x + sample * x_stride
                totals = zeros()
                for begin in range(0, length, chunk):
                    sums = zeros()
                    for _ in range(min(length - begin, chunk) // plan.COLUMNS):
                        sums = look_up(sums, at, tables)
                        at += step
                        tables += plan.COLUMNS * _TABLES
                    totals = settle(totals, sums)
                to = out + sample * out_stride + plan.ABREAST * block * sums_each * BYTES
                store(to, totals, corrections + 4 * sample)

    return compiled(named(name, product))


def _widen(e: Emitter, low: Value, high: Value) -> list[Value]:
    """low + 32 · high of 16 lanes, as two vectors of 32 bits."""
    return [e.multiply_add16(x, e.fill32(1 + (32 << 16))) for x in e.interleave16(low, high)]


def _gather_one_plane(e: Emitter, sums: Sequence[Value], *digits: Value) -> list[Value]:
    """Bytes of an even and an odd row share a lane: the sums of both, 256 times the odd one's, and the odd
    one's."""
    parts = (part for digit in digits for part in (digit, e.shift_right16(digit, 8)))
    return [e.add16(s, part) for s, part in zip(sums, parts, strict=True)]


def _widen_one_plane(e: Emitter, sums: Sequence[Value]) -> list[Value]:
    both_low, odd_low, both_high, odd_high = sums
    even_low = e.sub16(both_low, e.shift_left16(odd_low, 8))
    even_high = e.sub16(both_high, e.shift_left16(odd_high, 8))
    return _widen(e, even_low, even_high) + _widen(e, odd_low, odd_high)


def _gather_two_planes(e: Emitter, sums: Sequence[Value], *digits: Value) -> list[Value]:
    """A lane holds the two planes of a row, in two's complement: the first less twice the second."""
    planes = e.constant8([1, -2] * 16)
    return [e.add16(s, e.multiply_add8(digit, planes)) for s, digit in zip(sums, digits, strict=True)]


def _widen_two_planes(e: Emitter, sums: Sequence[Value]) -> list[Value]:
    return _widen(e, *sums)


# A split adds at most 8 · 31 to a lane of 16 bits (one plane), or takes 2 · 8 · 31 from it (two).
# Levels ±1 are twice the sum over the set ones, less (in the correction) the sum over all.
_one_plane = _table_product(
    "one_plane", 512, 4, _gather_one_plane, _widen_one_plane, lambda e, x: e.add32(x, x)
)
_two_planes = _table_product("two_planes", 256, 2, _gather_two_planes, _widen_two_planes, lambda e, x: x)


# --- Activations ----------------------------------------------------------------------------------

_zeros_one, _zeros_two = _zeros(one), _zeros(two)


@operation(two, two, address)
def _larger(e: Emitter, largest: Sequence[Value], x: Value) -> list[Value]:
    """The magnitudes of 16 float32, compared as integers; a NaN is the largest of all."""
    magnitudes = (e.and_(e.load(x, i * BYTES), e.fill32(0x7FFFFFFF)) for i in (0, 1))
    return [e.max32(y, magnitude) for y, magnitude in zip(largest, magnitudes, strict=True)]


@operation(f32, two)
def _largest(e: Emitter, largest: Sequence[Value]) -> Value:
    return e.bits_to_f32(e.max_of32(e.max32(*largest)))


@operation(f32, two)
def _sum_f32(e: Emitter, totals: Sequence[Value]) -> Value:
    return e.sum_f32(e.add_f32(*totals))


@operation(i32, one)
def _sum_i32(e: Emitter, total: Sequence[Value]) -> Value:
    return e.sum32(total[0])


def _rounded(e: Emitter, x: Value, factor: Value, offset: int) -> Value:
    """Sixteen float32 times the factor, as 16-bit integers in the order of one narrowing."""
    products = (e.multiply_f32(e.load(x, offset + i * BYTES), e.splat(factor)) for i in (0, 1))
    return e.narrow32(*(e.round_to_i32(product) for product in products))


@operation(one, one, address, address, f32)
def _quantise8(e: Emitter, total: Sequence[Value], x: Value, codes: Value, factor: Value) -> list[Value]:
    """32 float32 to int8; adds them to the total."""
    first, last = (_rounded(e, x, factor, offset) for offset in (0, 2 * BYTES))
    e.store(codes, e.order_after_two_narrowings(e.narrow16(first, last)))
    return [e.add32(total[0], e.multiply_add16(e.add16(first, last), e.fill16(1)))]


@operation(nothing, address, address, f32)
def _quantise16(e: Emitter, x: Value, codes: Value, factor: Value) -> None:
    """16 float32 to int8 values in 16 bits."""
    e.store(codes, e.swap_middle64(_rounded(e, x, factor, 0)))


@operation(nothing, address, address, i32)
def _take_signs(e: Emitter, x: Value, codes: Value, threshold: Value) -> None:
    """A bit for each of 32 float32: whether it is above the threshold, a float32 given by its bits."""
    level = e.splat(e.bits_to_f32(threshold))
    above = [e.greater_f32(e.load(x, i * BYTES), level) for i in range(4)]
    bytes_ = e.narrow16(e.narrow32(*above[:2]), e.narrow32(*above[2:]))
    e.store(codes, e.top_bits8(e.order_after_two_narrowings(bytes_)))


@operation(two, two, address, address, address, f32)
def _scale_and_add(
    e: Emitter, totals: Sequence[Value], y: Value, scale: Value, bias: Value, step: Value
) -> list[Value]:
    """y · (scale · step) + bias of 16 float32, in place; adds them to the totals."""
    scaled = []
    for at in (0, BYTES):
        scales = e.multiply_f32(e.load(scale, at), e.splat(step))
        scaled.append(e.add_f32(e.multiply_f32(e.load(y, at), scales), e.load(bias, at)))
        e.store(y, scaled[-1], at)
    return [e.add_f32(t, x) for t, x in zip(totals, scaled, strict=True)]


@operation(two, two, address, f32)
def _add_squares(e: Emitter, totals: Sequence[Value], y: Value, mean: Value) -> list[Value]:
    """Adds (y − mean)² of 16 float32."""
    centred = [e.sub_f32(e.load(y, at), e.splat(mean)) for at in (0, BYTES)]
    return [e.multiply_add_f32(c, c, t) for t, c in zip(totals, centred, strict=True)]


@operation(nothing, address, address, address, f32, f32, address)
def _normalise(
    e: Emitter, y: Value, gamma: Value, beta: Value, mean: Value, factor: Value, to: Value
) -> None:
    """ReLU of (y − mean) · factor · gamma + beta, 8 float32."""
    centred = e.multiply_f32(e.sub_f32(e.load(y), e.splat(mean)), e.splat(factor))
    e.store(to, e.max_f32(e.zero(), e.multiply_add_f32(centred, e.load(gamma), e.load(beta))))


# --- The expert -----------------------------------------------------------------------------------


_load_i64 = operation(i64, address)(Emitter.load_i64)
_load_f32 = operation(f32, address)(Emitter.load_f32)
_store_f32 = operation(nothing, address, f32)(Emitter.store)
_store_i64 = operation(nothing, address, i64)(Emitter.store)
_store_i32 = operation(nothing, address, i32)(Emitter.store)
_clear_vector = operation(nothing, address)(lambda e, at: e.store(at, e.zero()))
_copy_vector = operation(nothing, address, address)(lambda e, to, at: e.store(to, e.load(at)))


@inline
def _of_expert(arena: int, which: int) -> int:
    """A number of the plan: of the whole expert."""
    return _load_i64(arena + 8 * which)


@inline
def _of_layer(arena: int, layer: int, which: int) -> int:
    """A number of the plan: of a layer."""
    return _load_i64(arena + 8 * (plan.EXPERT_NUMBERS + plan.LAYER_NUMBERS * layer + which))


@inline
def _clear(start: int, end: int) -> None:
    """Zeros, a vector at a time."""
    for at in range(start, end, BYTES):
        _clear_vector(at)


@inline
def _copy(x: int, count: int, to: int, room: int) -> None:
    """`count` float32 into `room` bytes, zeros after them; reads no byte too many."""
    whole = 4 * (count & -8)
    _clear(to + whole, to + room)
    for i in range(0, whole, BYTES):
        _copy_vector(to + i, x + i)
    for i in range(whole, 4 * count, 4):
        _store_f32(to + i, _load_f32(x + i))


@inline
def _prepare(arena: int, layer: int, work: int, sample: int) -> None:
    """What the product of a layer takes of one sample's activations: codes or tables, step, correction."""
    kind, count = _of_layer(arena, layer, plan.KIND), _of_layer(arena, layer, plan.INPUTS)
    x = work + _of_expert(arena, plan.FLOATS) + sample * _of_expert(arena, plan.FLOATS_STRIDE)
    codes = work + _of_expert(arena, plan.CODES) + sample * _of_expert(arena, plan.CODES_STRIDE)
    step, correction = np.float32(1), 0
    if kind == plan.SIGN:
        threshold = np.int32(_of_layer(arena, layer, plan.THRESHOLD))
        for i in range(0, (count + 255) & -256, 32):
            _take_signs(x + 4 * i, codes + i // 8, threshold)
        correction = -count
    elif kind != plan.FLOAT:
        magnitudes = _zeros_two()
        for i in range(0, count, 16):
            magnitudes = _larger(magnitudes, x + 4 * i)
        peak = _largest(magnitudes)
        step, factor = peak / np.float32(127), np.float32(127) / peak
        if not factor < np.float32(np.inf):
            factor = np.float32(0)
        if kind == plan.INT16:
            for i in range(0, count, 16):
                _quantise16(x + 4 * i, codes + 2 * i, factor)
        else:
            sums = _zeros_one()
            for i in range(0, (count + 127) & -128, 32):
                sums = _quantise8(sums, x + 4 * i, codes + i, factor)
            total = np.int64(_sum_i32(sums))
            if kind == plan.FIELDS:
                correction = -_of_layer(arena, layer, plan.LOWEST) * total
            elif kind == plan.ONE_PLANE or kind == plan.TWO_PLANES:
                tables = (
                    work + _of_expert(arena, plan.TABLES) + sample * _of_expert(arena, plan.TABLES_STRIDE)
                )
                padded = (count + 63) & -64
                for i in range(0, padded, 8):
                    _make_tables(codes + i, tables + _TABLES // 8 * i)
                offset = 512 * (padded // 4)
                correction = 2 * offset + total if kind == plan.ONE_PLANE else -offset
    _store_f32(work + _of_expert(arena, plan.STEPS) + 4 * sample, step)
    _store_i32(work + _of_expert(arena, plan.CORRECTIONS) + 4 * sample, np.int32(correction))


@inline
def _scale(arena: int, layer: int, work: int, sample: int) -> Any:
    """Scale and bias of one sample's products, in place; gives their sum."""
    size = 4 * _of_layer(arena, layer, plan.PADDED)
    scale = arena + _of_layer(arena, layer, plan.PARAMETERS)
    y = work + _of_expert(arena, plan.SUMS) + sample * _of_expert(arena, plan.SUMS_STRIDE)
    step = _load_f32(work + _of_expert(arena, plan.STEPS) + 4 * sample)
    totals = _zeros_two()
    for i in range(0, size, 2 * BYTES):
        totals = _scale_and_add(totals, y + i, scale + i, scale + size + i, step)
    return _sum_f32(totals)


@inline
def _layer_norm_relu(arena: int, layer: int, work: int, sample: int, total: Any) -> None:
    """From one sample's results, whose sum is `total`, the activations that the next layer takes."""
    count, padded = _of_layer(arena, layer, plan.OUTPUTS), _of_layer(arena, layer, plan.PADDED)
    outputs, size = np.float32(count), 4 * padded
    gamma = arena + _of_layer(arena, layer, plan.PARAMETERS) + 2 * size
    y = work + _of_expert(arena, plan.SUMS) + sample * _of_expert(arena, plan.SUMS_STRIDE)
    to = work + _of_expert(arena, plan.FLOATS) + sample * _of_expert(arena, plan.FLOATS_STRIDE)
    # What follows the last output was zero, no part of the sum; as the mean it is no part of the variance.
    mean = total / outputs
    for i in range(4 * count, size, 4):
        _store_f32(y + i, mean)
    totals = _zeros_two()
    for i in range(0, size, 2 * BYTES):
        totals = _add_squares(totals, y + i, mean)
    factor = np.float32(1) / np.sqrt(_sum_f32(totals) / outputs + np.float32(1e-5))
    for i in range(0, size, BYTES):
        _normalise(y + i, gamma + i, gamma + size + i, mean, factor, to + i)
    _clear(to + size, to + 4 * ((count + 255) & -256))


def _forward_with(name: str, int8: Any, int4: Any, int2: Any, int1: Any) -> Any:
    """A whole expert, given the products that differ with and without VNNI."""

    def multiply(arena: int, layer: int, work: int, samples: int, turn: int) -> None:
        """The products of a layer with all samples, as float32."""
        kind, bits = _of_layer(arena, layer, plan.KIND), _of_layer(arena, layer, plan.BITS)
        weights = arena + _of_layer(arena, layer, plan.WEIGHTS)
        blocks, length = _of_layer(arena, layer, plan.BLOCKS), _of_layer(arena, layer, plan.LENGTH)
        x, x_stride = work + _of_expert(arena, plan.CODES), _of_expert(arena, plan.CODES_STRIDE)
        y, y_stride = work + _of_expert(arena, plan.SUMS), _of_expert(arena, plan.SUMS_STRIDE)
        corrections = work + _of_expert(arena, plan.CORRECTIONS)
        # 8-bit layers are a little too large for a core's own cache, which keeps what was read last: read to
        # and fro, most of it is found there.
        backwards = turn if kind == plan.FIELDS and bits == 8 else 0
        if kind == plan.ONE_PLANE or kind == plan.TWO_PLANES:
            x, x_stride = work + _of_expert(arena, plan.TABLES), _of_expert(arena, plan.TABLES_STRIDE)
        if kind == plan.FLOAT:
            x, x_stride = work + _of_expert(arena, plan.FLOATS), _of_expert(arena, plan.FLOATS_STRIDE)
            _float(weights, blocks, length, x, x_stride, y, y_stride, corrections, samples, backwards)
        elif kind == plan.SIGN:
            _sign(weights, blocks, length, x, x_stride, y, y_stride, corrections, samples, backwards)
        elif kind == plan.INT8_FULL:
            _int8_full(weights, blocks, length, x, x_stride, y, y_stride, corrections, samples, backwards)
        elif bits == 16:
            _int16(weights, blocks, length, x, x_stride, y, y_stride, corrections, samples, backwards)
        elif bits == 8:
            int8(weights, blocks, length, x, x_stride, y, y_stride, corrections, samples, backwards)
        elif bits == 4:
            int4(weights, blocks, length, x, x_stride, y, y_stride, corrections, samples, backwards)
        elif bits == 2:
            int2(weights, blocks, length, x, x_stride, y, y_stride, corrections, samples, backwards)
        elif bits == 1:
            int1(weights, blocks, length, x, x_stride, y, y_stride, corrections, samples, backwards)

    multiply = inline(named(name, multiply))

    def forward(x: np.ndarray, arena: np.ndarray, workspace: np.ndarray, out: np.ndarray) -> None:
        base, work = arena.ctypes.data, workspace.ctypes.data
        dim, classes = _of_expert(base, plan.DIM), _of_expert(base, plan.CLASSES)
        batch, layers = x.size // dim, _of_expert(base, plan.LAYERS)
        if x.size % dim or out.size != batch * classes or workspace.size < _of_expert(base, plan.WORKSPACE):
            raise ValueError("x, out and workspace must fit the expert")
        room, y_stride = _of_expert(base, plan.FLOATS_STRIDE), _of_expert(base, plan.SUMS_STRIDE)
        floats, y = work + _of_expert(base, plan.FLOATS), work + _of_expert(base, plan.SUMS)

        for start in range(0, batch, plan.TILE):
            samples = min(batch - start, plan.TILE)
            turn = _load_i64(work + _of_expert(base, plan.TURN)) & 1
            _store_i64(work + _of_expert(base, plan.TURN), turn ^ 1)
            for sample in range(samples):
                _copy(x.ctypes.data + 4 * dim * (start + sample), dim, floats + sample * room, room)
            for layer in range(layers):
                padded = _of_layer(base, layer, plan.PADDED)
                for sample in range(samples):
                    _prepare(base, layer, work, sample)
                    _clear(y + sample * y_stride + 4 * padded - 128, y + sample * y_stride + 4 * padded)
                multiply(base, layer, work, samples, turn)
                for sample in range(samples):
                    total = _scale(base, layer, work, sample)
                    if layer < layers - 1:
                        _layer_norm_relu(base, layer, work, sample, total)
            for sample in range(samples):
                to = out.ctypes.data + 4 * classes * (start + sample)
                for i in range(0, 4 * classes, 4):
                    _store_f32(to + i, _load_f32(y + sample * y_stride + i))

    return compiled(named(name, forward))


_forward = _forward_with("avx2", _int8, _int4, _two_planes, _one_plane)
_forward_vnni = _forward_with(
    "vnni", _in_lanes(8, BYTES), _in_lanes(4, BYTES), _in_lanes(2, BYTES), _one_plane
)
_forward_avx512 = _forward_with(
    "avx512",
    _in_lanes(8, 2 * BYTES),
    _in_lanes(4, 2 * BYTES),
    _in_lanes(2, 2 * BYTES),
    _in_lanes(1, 2 * BYTES),
)


def entry(fingerprint: int) -> Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], int]:
    """A whole expert, for `kernels.py` to compile; see there for the fingerprint.

    The function it gives takes x, float32 [B · D]; an arena in `vector_order`; a workspace of at least the
    size that the plan says, uint8, one caller at a time; out, float32 [B · C], which gets the logits.
    """

    def forward(x: np.ndarray, arena: np.ndarray, workspace: np.ndarray, out: np.ndarray) -> int:
        if not (x.size or out.size):
            return fingerprint
        _forward(x, arena, workspace, out)
        return 0

    return forward


def entry_vnni(fingerprint: int) -> Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], int]:
    """As `entry`, for processors with VNNI and arenas in `lane_order`."""

    def forward_vnni(x: np.ndarray, arena: np.ndarray, workspace: np.ndarray, out: np.ndarray) -> int:
        if not (x.size or out.size):
            return fingerprint
        _forward_vnni(x, arena, workspace, out)
        return 0

    return forward_vnni


def entry_avx512(fingerprint: int) -> Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], int]:
    """As `entry_vnni`, for those with AVX-512."""

    def forward_avx512(x: np.ndarray, arena: np.ndarray, workspace: np.ndarray, out: np.ndarray) -> int:
        if not (x.size or out.size):
            return fingerprint
        _forward_avx512(x, arena, workspace, out)
        return 0

    return forward_avx512
