"""Samples to mel bands in one compiled call: window, real FFT, power and triangular filters together.

Sixteen frames are transformed side by side: number k of all of them lies together in memory, so that every
step is plain arithmetic on vectors (`lanes`). The FFT of 2,048 real samples is one of 1,024 complex numbers
(even samples real, odd ones imaginary) in five radix-4 passes from one buffer to the other (Stockham's order,
so nothing is ever permuted), and then untangled; that of 1,024 has four such passes and one of radix 2.
The power of a frequency bin belongs to at most two filters,
the one that falls and the one that rises there: the sparse mel matrix is two numbers a bin.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numba import config, njit

from qmoe_core.errors import ConfigError
from qmoe_core.runtime import machine_code
from qmoe_core.runtime.lanes import WIDTH, load, splat, store

_FRAMES = 16
"""Transformed together: the buffers just fit a second-level cache."""

_OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True}
_compiled: Any = njit(**_OPTIONS)


def _cached(function: Callable) -> Any:
    """Compile, and keep the machine code for the next process where there is a place to write it."""
    return machine_code.cached(function, **_OPTIONS)


@lru_cache(maxsize=2)
def _constants(n_fft: int) -> tuple[np.ndarray, np.ndarray]:
    """Twiddles [3, 2, n] of all passes, one after the other, and [2, n_fft / 4 + 1] of the untangling."""

    def pair(angles: np.ndarray) -> list[np.ndarray]:
        return [np.cos(angles), -np.sin(angles)]

    different = []
    while (m := n_fft // 2 // 4 ** (len(different) + 1)) >= 1:
        different.append(m)
    angles = np.concatenate([2 * np.pi * np.arange(m) / (4 * m) for m in different])
    passes = np.array([pair(power * angles) for power in (1, 2, 3)])
    untangling = np.array(pair(2 * np.pi * np.arange(n_fft // 4 + 1) / n_fft))
    return passes.astype(np.float32), untangling.astype(np.float32)


@_compiled
def _gather(samples, starts, window, x):
    half = window.size // 2
    for k in range(half):
        even, odd = window[2 * k], window[2 * k + 1]
        for frame in range(_FRAMES):
            at = starts[frame] + 2 * k
            x[k * _FRAMES + frame] = samples[at] * even
            x[(half + k) * _FRAMES + frame] = samples[at + 1] * odd


@_compiled
def _radix_4_pass(x, y, twiddles, first, m):
    """One pass from x to y: the one with m different twiddles, which start at `first`."""
    mid = x.size // 2  # where the imaginary parts start
    s = mid // (4 * m)  # numbers that share a twiddle, and lie together
    for p in range(m):
        w1r, w1i = splat(twiddles[0, 0, first + p]), splat(twiddles[0, 1, first + p])
        w2r, w2i = splat(twiddles[1, 0, first + p]), splat(twiddles[1, 1, first + p])
        w3r, w3i = splat(twiddles[2, 0, first + p]), splat(twiddles[2, 1, first + p])
        for q in range(0, s, WIDTH):
            a = s * p + q
            c = a + 2 * s * m
            sum_ac_r, dif_ac_r = load(x, a) + load(x, c), load(x, a) - load(x, c)
            sum_ac_i, dif_ac_i = load(x, mid + a) + load(x, mid + c), load(x, mid + a) - load(x, mid + c)
            b = a + s * m
            d = c + s * m
            sum_bd_r, dif_bd_r = load(x, b) + load(x, d), load(x, b) - load(x, d)
            sum_bd_i, dif_bd_i = load(x, mid + b) + load(x, mid + d), load(x, mid + b) - load(x, mid + d)
            to = 4 * s * p + q
            store(y, to, sum_ac_r + sum_bd_r)
            store(y, mid + to, sum_ac_i + sum_bd_i)
            re, im = dif_ac_r + dif_bd_i, dif_ac_i - dif_bd_r
            store(y, to + s, w1r * re - w1i * im)
            store(y, mid + to + s, w1r * im + w1i * re)
            re, im = sum_ac_r - sum_bd_r, sum_ac_i - sum_bd_i
            store(y, to + 2 * s, w2r * re - w2i * im)
            store(y, mid + to + 2 * s, w2r * im + w2i * re)
            re, im = dif_ac_r - dif_bd_i, dif_ac_i + dif_bd_r
            store(y, to + 3 * s, w3r * re - w3i * im)
            store(y, mid + to + 3 * s, w3r * im + w3i * re)


@_compiled
def _radix_2_pass(x, y):
    """The last pass where the number is no power of four; it has no twiddles."""
    mid = x.size // 2
    s = mid // 2
    for start in (0, mid):
        for q in range(start, start + s, WIDTH):
            store(y, q, load(x, q) + load(x, q + s))
            store(y, q + s, load(x, q) - load(x, q + s))


@_compiled
def _untangle(x, twiddles, power):
    """The power [(half + 1) · frames] of the real transform from the complex one of half its length.

    With Z the complex transform, E = (Z[k] + Z*[−k]) / 2 is that of the even samples and
    O = (Z[k] − Z*[−k]) / 2i that of the odd ones. The real one is E + wO at bin k and E − wO at its mirror.
    """
    mid = x.size // 2
    n, half = mid // _FRAMES, splat(np.float32(0.5))
    for frame in range(0, _FRAMES, WIDTH):
        even, odd = load(x, frame), load(x, mid + frame)
        store(power, frame, (even + odd) * (even + odd))
        store(power, mid + frame, (even - odd) * (even - odd))
    for k in range(1, n // 2 + 1):
        wr, wi = splat(twiddles[0, k]), splat(twiddles[1, k])
        for frame in range(0, _FRAMES, WIDTH):
            a = k * _FRAMES + frame
            b = (n - k) * _FRAMES + frame
            ar, ai, br, bi = load(x, a), load(x, mid + a), load(x, b), load(x, mid + b)
            er, ei = half * (ar + br), half * (ai - bi)
            or_, oi = half * (ai + bi), half * (br - ar)
            tr, ti = wr * or_ - wi * oi, wr * oi + wi * or_
            store(power, a, (er + tr) * (er + tr) + (ei + ti) * (ei + ti))
            store(power, b, (er - tr) * (er - tr) + (ei - ti) * (ei - ti))


@_compiled
def _filter(power, interval, rising, sums):
    """Sums [(n_mels + 2) · frames]: row j is filter j − 1; the first and the last row are of no filter."""
    sums[:] = 0
    for k in range(interval.size):
        up = splat(rising[k])
        for frame in range(0, _FRAMES, WIDTH):
            p = load(power, k * _FRAMES + frame)
            falls = interval[k] * _FRAMES + frame
            store(sums, falls, load(sums, falls) + (p - up * p))
            store(sums, falls + _FRAMES, load(sums, falls + _FRAMES) + up * p)


@_cached
def _transform(samples, starts, window, passes, untangling, interval, rising, out):
    n_mels, n = out.shape
    x = np.empty(window.size * _FRAMES, np.float32)
    y = np.empty(window.size * _FRAMES, np.float32)
    power = np.empty((window.size // 2 + 1) * _FRAMES, np.float32)
    sums = np.empty((n_mels + 2) * _FRAMES, np.float32)
    together = np.empty(_FRAMES, np.int64)
    for first in range(0, n, _FRAMES):
        count = min(_FRAMES, n - first)
        for frame in range(_FRAMES):  # where there are no more, the last one is repeated
            together[frame] = starts[first + min(frame, count - 1)]
        _gather(samples, together, window, x)
        begin, m = 0, window.size // 8
        while m >= 1:
            _radix_4_pass(x, y, passes, begin, m)
            begin, m = begin + m, m // 4
            x, y = y, x
        if window.size == 1024:
            _radix_2_pass(x, y)
            x, y = y, x
        _untangle(x, untangling, power)
        _filter(power, interval, rising, sums)
        for band in range(n_mels):
            for frame in range(count):
                out[band, first + frame] = sums[(band + 1) * _FRAMES + frame]


def mel_power_of_frames(
    samples: np.ndarray,
    starts: np.ndarray,
    window: np.ndarray,
    interval: np.ndarray,
    rising: np.ndarray,
    n_mels: int,
) -> np.ndarray:
    """Power in mel bands of the frames that start at given samples.

    Args:
        samples: float32 [n].
        starts: int64 [T], where in `samples` the frames start.
        window: float32 [2048] or [1024].
        interval: int64 [1025] or [513], between which two of the n_mels + 2 filter edges a bin lies: i when
            it is above edge i and not above edge i + 1.
        rising: float32, as many, how far it is on the way from one to the other, 0 … 1. Filter i − 1 falls
            there and weighs the bin with 1 − rising, filter i rises and weighs it with rising.

    Returns:
        float32 [n_mels, T].

    Raises:
        ConfigError: numba is told not to compile, and the kernel is vector code that Python cannot run.
    """
    if getattr(config, "DISABLE_JIT", False):
        raise ConfigError(
            "NUMBA_DISABLE_JIT is set, but the spectrogram's kernel has to be compiled; unset it, "
            "or set it to 0"
        )
    if len(starts) and not 0 <= starts.min() <= starts.max() <= len(samples) - len(window):
        raise ValueError("a frame reaches beyond the samples")
    out = np.empty((n_mels, len(starts)), dtype=np.float32)
    _transform(np.ascontiguousarray(samples), starts, window, *_constants(len(window)), interval, rising, out)
    return out
