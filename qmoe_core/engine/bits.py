"""Bit packing: integer levels to bytes and back, the canonical order that files use.

A level of k bits is a two's-complement field; 8/k fields share a byte, the first in the lowest bits; every
row starts on a byte of its own and its last byte is filled with zeros. One-bit levels are −1 (bit 0) and
+1 (bit 1). 16-bit levels are two bytes, low byte first. The same on every processor.
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
        bits: 1, 2, 4, 8 or 16.

    Returns:
        uint8 [N, row_bytes(K, bits)].

    >>> pack(np.array([[1, -1, 0, 1, -2]], np.int8), bits=2).tolist()
    [[77, 2]]
    """
    rows, inputs = levels.shape
    if bits == 16:
        return np.ascontiguousarray(levels, "<i2").view(np.uint8)
    if bits == 1:
        return np.packbits(levels > 0, axis=1, bitorder="little")
    per_byte = 8 // bits
    fields = np.zeros((rows, row_bytes(inputs, bits) * per_byte), np.uint8)
    fields[:, :inputs] = levels.astype(np.int8).view(np.uint8) & np.uint8((1 << bits) - 1)
    packed = np.zeros((rows, fields.shape[1] // per_byte), np.uint8)
    for i in range(per_byte):
        packed |= fields[:, i::per_byte] << np.uint8(i * bits)
    return packed


def unpack(packed: np.ndarray, inputs: int, bits: int) -> np.ndarray:
    """Bytes to levels; the inverse of `pack`.

    Args:
        packed: uint8 [N, row_bytes(inputs, bits)].
        inputs: K, levels in a row.
        bits: 1, 2, 4, 8 or 16.

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
    per_byte = 8 // bits
    levels = np.empty((packed.shape[0], packed.shape[1] * per_byte), np.int8)
    for i in range(per_byte):
        # To the top of the byte, then down again with the sign.
        levels[:, i::per_byte] = (packed << np.uint8(8 - bits * (i + 1))).view(np.int8) >> np.int8(8 - bits)
    return np.ascontiguousarray(levels[:, :inputs])
