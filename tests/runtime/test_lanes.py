from __future__ import annotations

import numpy as np
from numba import njit

from qmoe_core.runtime.lanes import WIDTH, load, splat, store


@njit
def arithmetic(a, b, number, out):
    store(out, 3, splat(number) * load(a, 1) + load(b, 0) * load(b, 0) - load(a, 1))


def test_eight_floats_are_computed_in_their_places_and_nothing_else_is_written():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 16)).astype(np.float32)
    out = np.full(16, 7, dtype=np.float32)

    arithmetic(a, b, np.float32(2.5), out)

    expected = np.float32(2.5) * a[1 : 1 + WIDTH] + b[:WIDTH] ** 2 - a[1 : 1 + WIDTH]
    np.testing.assert_allclose(out[3 : 3 + WIDTH], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.delete(out, slice(3, 3 + WIDTH)), 7)
