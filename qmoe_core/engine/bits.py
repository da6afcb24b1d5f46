"""Bit packing: integer levels to bytes and back, the canonical order that files use.

A level of k bits is a two's-complement field; fields follow one another without a gap, the first in the
lowest bits of the first byte; every row starts on a byte of its own and its last byte is filled with zeros.
One-bit levels are −1 (bit 0) and +1 (bit 1). 16-bit levels are two bytes, low byte first. The same on every
processor.

    k = 3, levels a, b, c …     byte 0: c1 c0 b2 b1 b0 a2 a1 a0     byte 1: … c2
"""

from __future__ import annotations

import numpy as np


def row_bytes(inputs: int, bits: int) -> int:
    """Bytes of one packed row.

    >>> row_bytes(9, 1), row_bytes(3, 4), row_bytes(3, 16)
    (2, 2, 6)
    """
    return -(-inputs * bits // 8)


def pack(levels: np.ndarray, bits: int) -> np.ndarray:
    """Levels to bytes.

    Args:
        levels: int8 or int16 [N, K], each within the format's range.
        bits: 1 to 8, or 16.

    Returns:
        uint8 [N, row_bytes(K, bits)].

    >>> pack(np.array([[1, -1, 0, 1, -2]], np.int8), bits=2).tolist()
    [[77, 2]]
    """
    if bits == 16:
        return np.ascontiguousarray(levels, "<i2").view(np.uint8)
    if bits == 1:
        return np.packbits(levels > 0, axis=1, bitorder="little")
    # Eight levels are `bits` bytes: together they are the lowest of a 64-bit word.
    fields = np.zeros((len(levels), -(-levels.shape[1] // 8), 8), np.uint8)
    fields.reshape(len(levels), -1)[:, : levels.shape[1]] = levels.astype(np.int8).view(np.uint8)
    words = np.zeros(fields.shape[:2], "<u8")
    for i in range(8):
        words |= (fields[:, :, i] & np.uint8((1 << bits) - 1)).astype("<u8") << np.uint64(i * bits)
    packed = words.view(np.uint8).reshape(fields.shape)[:, :, :bits].reshape(len(levels), -1)
    return np.ascontiguousarray(packed[:, : row_bytes(levels.shape[1], bits)])


def unpack(packed: np.ndarray, inputs: int, bits: int) -> np.ndarray:
    """Bytes to levels; the inverse of `pack`.

    Args:
        packed: uint8 [N, row_bytes(inputs, bits)].
        inputs: K, levels in a row.
        bits: 1 to 8, or 16.

    Returns:
        int8 [N, K], or int16 for 16 bits.

    >>> unpack(np.array([[77, 2]], np.uint8), inputs=5, bits=2).tolist()
    [[1, -1, 0, 1, -2]]
    """
    packed = np.ascontiguousarray(packed)
    if bits == 16:
        return packed.view("<i2").astype(np.int16)
    if bits == 1:
        ones = np.unpackbits(packed, axis=1, count=inputs, bitorder="little")
        return (2 * ones.astype(np.int8) - 1).astype(np.int8)
    groups = -(-inputs // 8)
    given = np.zeros((len(packed), groups * bits), np.uint8)
    given[:, : packed.shape[1]] = packed
    words = np.zeros((len(packed), groups, 8), np.uint8)
    words[:, :, :bits] = given.reshape(len(packed), groups, bits)
    words = words.view("<u8")[:, :, 0]
    levels = np.empty((len(packed), groups, 8), np.int8)
    for i in range(8):
        # To the top of a byte, then down again with the sign.
        fields = (words >> np.uint64(i * bits)).astype(np.uint8) << np.uint8(8 - bits)
        levels[:, :, i] = fields.view(np.int8) >> np.int8(8 - bits)
    return np.ascontiguousarray(levels.reshape(len(packed), -1)[:, :inputs])
