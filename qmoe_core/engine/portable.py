"""Kernels in plain numba for processors without AVX2: slower than `avx2.py`, the same integers.

The loops are written so that LLVM finds the vectors by itself, whatever the processor has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from qmoe_core.engine import arena as plan

_jit: Any = njit
inline: Any = _jit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)
reordered: Any = _jit(
    error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True,
    fastmath={"reassoc", "contract", "nsz"},
)  # fmt: skip
"""For sums of floats, whose order may change."""


# --- Activations ----------------------------------------------------------------------------------


@inline
def _quantise(x: np.ndarray, codes: np.ndarray) -> Any:
    """float32 [n] to int8 [n]; gives the step m / 127 and the sum of the codes."""
    largest = np.int32(0)
    for bits in x.view(np.int32):  # As integers, floats compare by magnitude, and NaN is the largest.
        largest = max(largest, bits & np.int32(0x7FFFFFFF))
    peak = np.int32(largest).view(np.float32)
    factor = np.float32(127) / peak
    if not factor < np.float32(np.inf):
        factor = np.float32(0)
    # In 32 bits, which hold it: LLVM 22 loses half of a sum of bytes in 64 where SVE has vectors longer
    # than 128 bits (llvm/llvm-project#204939; Neoverse V1 has).
    total = np.int32(0)
    for i in range(x.size):
        code = np.int8(np.rint(x[i] * factor))
        codes[i] = code
        total = np.int32(total + np.int32(code))
    return peak / np.float32(127), total


@inline
def _take_signs(x: np.ndarray, codes: np.ndarray, threshold: Any) -> None:
    """float32 [8 n] to a bit each, above the threshold or not, in uint8 [n]."""
    for i in range(codes.size):
        byte = np.uint8(0)
        for bit in range(8):
            byte |= np.uint8(x[8 * i + bit] > threshold) << np.uint8(bit)
        codes[i] = byte


@reordered
def _layer_norm_relu(y: np.ndarray, gamma: np.ndarray, beta: np.ndarray, out: np.ndarray) -> None:
    """float32 [N] to [N], population variance."""
    size = np.float32(y.size)
    total = np.float32(0)
    for value in y:
        total += value
    mean = total / size
    total = np.float32(0)
    for value in y:
        total += (value - mean) * (value - mean)
    factor = np.float32(1) / np.sqrt(total / size + np.float32(1e-5))
    for i in range(y.size):
        out[i] = max((y[i] - mean) * factor * gamma[i] + beta[i], np.float32(0))


# --- Products: a row with a sample's activations --------------------------------------------------


@inline
def _dot8(rows: np.ndarray, row: int, codes: np.ndarray, sample: int) -> Any:
    """int8 · int8 as float32, exact until it is rounded."""
    total = np.int32(0)
    for i in range(rows.shape[1]):
        # Numba's integer arithmetic is 64 bits wide; saying 32 keeps the loop's vectors full.
        total = np.int32(total + np.int32(np.int32(rows[row, i]) * np.int32(codes[sample, i])))
    return np.float32(total)


@inline
def _dot16(rows: np.ndarray, row: int, codes: np.ndarray, sample: int) -> Any:
    """int16 · int8 as float32, exact until it is rounded."""
    total = np.int64(0)
    for i in range(rows.shape[1]):
        total += np.int32(np.int32(rows[row, i]) * np.int32(codes[sample, i]))
    return np.float32(total)


@reordered
def _dot_f32(rows: np.ndarray, row: int, x: np.ndarray, sample: int) -> Any:
    total = np.float32(0)
    for i in range(rows.shape[1]):
        total += rows[row, i] * x[sample, i]
    return total


@inline
def _differing(rows: np.ndarray, row: int, words: np.ndarray, sample: int) -> Any:
    """Bits that differ; LLVM knows this way to count them and uses what the processor has."""
    total = np.uint64(0)
    for i in range(rows.shape[1]):
        word = rows[row, i] ^ words[sample, i]
        word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
        word = (word & np.uint64(0x3333333333333333)) + (
            (word >> np.uint64(2)) & np.uint64(0x3333333333333333)
        )
        word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
        total += (word * np.uint64(0x0101010101010101)) >> np.uint64(56)
    return np.int64(total)


@inline
def _dot_fields(rows: np.ndarray, row: int, codes: np.ndarray, sample: int, bits: int) -> Any:
    """Fields of `bits`, as `arena.row_order` packs them, · int8. A field is not shifted down, its sum is."""
    count, total = np.uint64(rows.shape[1]), 0
    for field in range(8 // bits):
        mask, start = np.uint8(((1 << bits) - 1) << field * bits), np.uint64(field) * count
        part = np.int32(0)
        for i in range(count):
            # An unsigned index spares numba the look whether it counts from the end.
            code = np.int32(rows[row, i] & mask)
            part = np.int32(part + np.int32(code * np.int32(codes[sample, start + np.uint64(i)])))
        total += np.int64(part) >> (field * bits)
    return total


@inline
def _multiply(
    number: np.ndarray, rows: np.ndarray, floats: np.ndarray, codes: np.ndarray, totals: np.ndarray,
    samples: int, sums: np.ndarray,
) -> None:  # fmt: skip
    """A layer's rows, uint8 [N, bytes], with every sample: float32 [N, TILE]."""
    kind, bits, lowest, inputs = (
        number[plan.KIND],
        number[plan.BITS],
        number[plan.LOWEST],
        number[plan.INPUTS],
    )
    spacing = 2 if bits == 1 else 1
    rows_f32, rows_16, rows_8 = rows.view(np.float32), rows.view(np.int16), rows.view(np.int8)
    rows_64, words, codes_8 = rows.view(np.uint64), codes.view(np.uint64), codes.view(np.int8)
    for row in range(rows.shape[0]):
        for sample in range(samples):
            if kind == plan.FIELDS:
                fields = _dot_fields(rows, row, codes_8, sample, bits)
                sums[row, sample] = np.float32(spacing * fields + lowest * totals[sample])
            elif kind == plan.INT8:
                sums[row, sample] = _dot8(rows_8, row, codes_8, sample)
            elif kind == plan.INT16:
                sums[row, sample] = _dot16(rows_16, row, codes_8, sample)
            elif kind == plan.SIGN:
                sums[row, sample] = np.float32(inputs - 2 * _differing(rows_64, row, words, sample))
            else:
                sums[row, sample] = _dot_f32(rows_f32, row, floats, sample)


# --- The expert -----------------------------------------------------------------------------------


@inline
def _forward(x: np.ndarray, arena: np.ndarray, workspace: np.ndarray, out: np.ndarray) -> None:
    """A whole expert.

    Args:
        x: float32 [B · D], finite.
        arena: as `arena.build` makes it in the row order.
        workspace: uint8, at least as large as the plan says; one caller at a time.
        out: float32 [B · C], the logits.
    """
    numbers = arena[: 8 * plan.EXPERT_NUMBERS].view(np.int64)
    dim, classes, layers = numbers[plan.DIM], numbers[plan.CLASSES], numbers[plan.LAYERS]
    if x.size % dim or out.size != x.size // dim * classes or workspace.size < numbers[plan.WORKSPACE]:
        raise ValueError("x, out and workspace must fit the expert")
    width = numbers[plan.FLOATS_STRIDE]
    all_floats = (
        workspace[numbers[plan.FLOATS] :][: plan.TILE * width].view(np.float32).reshape(plan.TILE, -1)
    )
    sums = workspace[numbers[plan.SUMS] :][: plan.TILE * width].view(np.float32).reshape(-1, plan.TILE)
    width = numbers[plan.CODES_STRIDE]
    all_codes = workspace[numbers[plan.CODES] :][: plan.TILE * width].reshape(plan.TILE, -1)
    steps = workspace[numbers[plan.STEPS] :][: 4 * plan.TILE].view(np.float32)
    totals = workspace[numbers[plan.CORRECTIONS] :][: 4 * plan.TILE].view(np.int32)

    for start in range(0, x.size // dim, plan.TILE):
        samples = min(x.size // dim - start, plan.TILE)
        for sample in range(samples):
            first = (start + sample) * dim
            all_floats[sample, :dim] = x[first : first + dim]
            all_floats[sample, dim:] = 0

        for layer in range(layers):
            at = 8 * (plan.EXPERT_NUMBERS + plan.LAYER_NUMBERS * layer)
            number = arena[at : at + 8 * plan.LAYER_NUMBERS].view(np.int64)
            kind, outputs = number[plan.KIND], number[plan.OUTPUTS]
            row_bytes, padded = number[plan.LENGTH], number[plan.PADDED]
            parameters = arena[number[plan.PARAMETERS] :][: 16 * padded].view(np.float32).reshape(4, -1)

            for sample in range(samples):
                steps[sample] = np.float32(1)
                floats = all_floats[sample]
                if kind == plan.SIGN:
                    threshold = np.int32(number[plan.THRESHOLD]).view(np.float32)
                    _take_signs(floats, all_codes[sample, : floats.size // 8], threshold)
                elif kind != plan.FLOAT:
                    codes = all_codes[sample].view(np.int8)[: floats.size]
                    steps[sample], totals[sample] = _quantise(floats, codes)

            rows = arena[number[plan.WEIGHTS] :][: outputs * row_bytes].reshape(outputs, row_bytes)
            _multiply(number, rows, all_floats, all_codes, totals, samples, sums)

            for sample in range(samples):
                y = all_floats[sample, :outputs]
                for n in range(outputs):
                    y[n] = sums[n, sample] * (parameters[0, n] * steps[sample]) + parameters[1, n]
                if layer < layers - 1:
                    _layer_norm_relu(y, parameters[2], parameters[3], y)
                    all_floats[sample, outputs:] = 0
                else:
                    first = (start + sample) * classes
                    out[first : first + classes] = y


def entry(fingerprint: int) -> Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], int]:
    """What `kernels.py` compiles; see there for the fingerprint, and `avx2.entry` for the function."""

    def forward(x: np.ndarray, arena: np.ndarray, workspace: np.ndarray, out: np.ndarray) -> int:
        if not (x.size or out.size):
            return fingerprint
        _forward(x, arena, workspace, out)
        return 0

    return forward
