"""pack → unpack is the identity, and the byte order is the one that the format promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmoe_core.engine import LEVELS, bits


@given(
    layer_format=st.sampled_from(sorted(LEVELS)),
    rows=st.integers(1, 5),
    inputs=st.integers(1, 70),
    seed=st.integers(0, 2**32 - 1),
)
def test_unpack_gives_back_what_was_packed(layer_format: str, rows: int, inputs: int, seed: int) -> None:
    width, low, high = LEVELS[layer_format]
    levels = np.random.default_rng(seed).integers(low, high, (rows, inputs), endpoint=True)
    levels = np.where((levels == 0) & (width == 1), 1, levels).astype(np.int16 if width == 16 else np.int8)
    packed = bits.pack(levels, width)
    assert packed.dtype == np.uint8
    assert packed.shape == (rows, bits.row_bytes(inputs, width))
    unpacked = bits.unpack(packed, inputs, width)
    assert unpacked.dtype == levels.dtype
    np.testing.assert_array_equal(unpacked, levels)


@pytest.mark.parametrize(
    ("width", "levels", "packed"),
    [
        (1, [1, -1, -1, 1, -1, -1, -1, -1, 1], [0b1001, 0b1]),
        (2, [-2, -1, 0, 1, 1], [0b01_00_11_10, 0b01]),
        (3, [-4, -1, 0, 1, 3, -3, 2, -2, 3], [0b00_111_100, 0b1_011_001_0, 0b110_010_10, 0b011]),
        (4, [-8, 7, -1], [0x78, 0x0F]),
        (8, [-128, 127], [0x80, 0x7F]),
        (16, [-32768, 258], [0x00, 0x80, 0x02, 0x01]),
    ],
)
def test_byte_order(width: int, levels: list[int], packed: list[int]) -> None:
    assert bits.pack(np.array([levels], np.int16), width).tolist() == [packed]
