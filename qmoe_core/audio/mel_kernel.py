"""Samples to mel bands in one compiled call: window, real FFT, power and triangular filters together.

Sixteen frames are transformed side by side: number k of all of them lies together in memory, so that every
step is plain arithmetic on vectors (`lanes`). The FFT of 2,048 real samples is one of 1,024 complex numbers
(even samples real, odd ones imaginary) in five radix-4 passes (Stockham's order, so nothing is ever
permuted), and then untangled; that of 1,024 has four such passes and one of radix 2. The second-level cache
is read and written once for two passes (`_two_passes`), and the last pass goes with the untangling.
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
from qmoe_core.runtime.lanes import WIDTH, high, load, low, splat, store

_FRAMES = 2 * WIDTH
"""Transformed together: the buffers fit a second-level cache."""
_HOPS = 24
"""What so many frames reach over, in hops, at least: a window is at most five hops long."""
_LAST = 256
"""How far apart the numbers of the last pass are: after four passes of radix 4."""

_OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True}
_compiled: Any = njit(**_OPTIONS, forceinline=True)


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
def _transpose(samples, first, hop, turned):
    """Sample j of hop i after `first`, for all frames' hops, to turned[j · _HOPS + i]; 0 beyond the end."""
    for i in range(0, _HOPS, WIDTH):
        start = first + hop * i
        inside = hop // WIDTH * WIDTH if start + hop * WIDTH <= samples.size else 0
        for j in range(0, inside, WIDTH):
            at, to = start + j, j * _HOPS + i
            a, e = load(samples, at), load(samples, at + 4 * hop)
            b, f = load(samples, at + hop), load(samples, at + 5 * hop)
            c, g = load(samples, at + 2 * hop), load(samples, at + 6 * hop)
            d, h = load(samples, at + 3 * hop), load(samples, at + 7 * hop)
            for _ in range(3):
                a, b, c, d, e, f, g, h = (
                    low(a, e), high(a, e), low(b, f), high(b, f), low(c, g), high(c, g), low(d, h), high(d, h)
                )  # fmt: skip
            store(turned, to, a)
            store(turned, to + _HOPS, b)
            store(turned, to + 2 * _HOPS, c)
            store(turned, to + 3 * _HOPS, d)
            store(turned, to + 4 * _HOPS, e)
            store(turned, to + 5 * _HOPS, f)
            store(turned, to + 6 * _HOPS, g)
            store(turned, to + 7 * _HOPS, h)
        for row in range(i, i + WIDTH):
            at = first + hop * row
            for j in range(inside, hop):
                turned[j * _HOPS + row] = samples[at + j] if at + j < samples.size else 0


@_compiled
def _row(k):
    """Where number k stands. A row is left out after every 64, or numbers that are taken together would all
    fall on the same few lines of the first-level cache."""
    return (k + (k >> 6)) * _FRAMES


@_compiled
def _gather(turned, hop, window, x):
    """Windowed frames as complex numbers: even samples real, odd ones imaginary."""
    mid = x.size // 2
    j, i = 0, 0
    for at in range(window.size):
        by, to = splat(window[at]), (at & 1) * mid + _row(at >> 1)
        for frame in range(0, _FRAMES, WIDTH):
            store(x, to + frame, load(turned, j * _HOPS + i + frame) * by)
        j += 1
        if j == hop:
            j, i = 0, i + 1


@_compiled
def _radix_4(x, mid, at, step, y, far, to, apart, twiddles, w):
    """Four numbers of x, `step` apart, of all frames, to four of y, `apart`; w: where their twiddles stand.

    Imaginary parts start at `mid` of x and at `far` of y.
    """
    w1r, w1i = splat(twiddles[0, 0, w]), splat(twiddles[0, 1, w])
    w2r, w2i = splat(twiddles[1, 0, w]), splat(twiddles[1, 1, w])
    w3r, w3i = splat(twiddles[2, 0, w]), splat(twiddles[2, 1, w])
    for frame in range(0, _FRAMES, WIDTH):
        a, e = at + frame, to + frame
        c = a + 2 * step
        sum_ac_r, dif_ac_r = load(x, a) + load(x, c), load(x, a) - load(x, c)
        sum_ac_i, dif_ac_i = load(x, mid + a) + load(x, mid + c), load(x, mid + a) - load(x, mid + c)
        b = a + step
        d = c + step
        sum_bd_r, dif_bd_r = load(x, b) + load(x, d), load(x, b) - load(x, d)
        sum_bd_i, dif_bd_i = load(x, mid + b) + load(x, mid + d), load(x, mid + b) - load(x, mid + d)
        store(y, e, sum_ac_r + sum_bd_r)
        store(y, far + e, sum_ac_i + sum_bd_i)
        re, im = dif_ac_r + dif_bd_i, dif_ac_i - dif_bd_r
        store(y, e + apart, w1r * re - w1i * im)
        store(y, far + e + apart, w1r * im + w1i * re)
        re, im = sum_ac_r - sum_bd_r, sum_ac_i - sum_bd_i
        store(y, e + 2 * apart, w2r * re - w2i * im)
        store(y, far + e + 2 * apart, w2r * im + w2i * re)
        re, im = dif_ac_r - dif_bd_i, dif_ac_i + dif_bd_r
        store(y, e + 3 * apart, w3r * re - w3i * im)
        store(y, far + e + 3 * apart, w3r * im + w3i * re)


@_compiled
def _two_passes(x, y, near, twiddles, first, m, s):
    """Two passes from x to y, the first with m different twiddles from `first` on, each for s numbers in a
    row: sixteen numbers at a time go through both, by way of `near`, which stays in the first-level cache."""
    mid, beyond = x.size // 2, near.size // 2
    quarter, second, step = m // 4, first + m, _row(s * m)
    for p in range(quarter):
        for q in range(s):
            for r in range(4):
                at, w = _row(s * (p + quarter * r) + q), first + p + quarter * r
                _radix_4(x, mid, at, step, near, beyond, 4 * _FRAMES * r, _FRAMES, twiddles, w)
            for r in range(4):
                to = _row(16 * s * p + q + s * r)
                _radix_4(
                    near, beyond, _FRAMES * r, 4 * _FRAMES, y, mid, to, _row(4 * s), twiddles, second + p
                )


@_compiled
def _last_pass(x, k, radix, near, to, twiddles):
    """What the last pass makes of the numbers k, k + 256, …, to `near`; it has no twiddles but 1."""
    mid, far, at, step = x.size // 2, near.size // 2, _row(k), _row(_LAST)
    if radix == 4:
        _radix_4(x, mid, at, step, near, far, to, _FRAMES, twiddles, twiddles.shape[2] - 1)
        return
    for frame in range(0, _FRAMES, WIDTH):
        a, e = at + frame, to + frame
        store(near, e, load(x, a) + load(x, a + step))
        store(near, e + _FRAMES, load(x, a) - load(x, a + step))
        store(near, far + e, load(x, mid + a) + load(x, mid + a + step))
        store(near, far + e + _FRAMES, load(x, mid + a) - load(x, mid + a + step))


@_compiled
def _bins(near, a, b, twiddles, k, power, n):
    """The power of bins k and n − k of the real transform, of the complex one's numbers a and b there.

    With Z the complex transform, E = (Z[k] + Z*[−k]) / 2 is that of the even samples and
    O = (Z[k] − Z*[−k]) / 2i that of the odd ones. The real one is E + wO at bin k and E − wO at its mirror.
    """
    far, half = near.size // 2, splat(np.float32(0.5))
    wr, wi = splat(twiddles[0, k]), splat(twiddles[1, k])
    for frame in range(0, _FRAMES, WIDTH):
        i, j = a * _FRAMES + frame, b * _FRAMES + frame
        ar, ai, br, bi = load(near, i), load(near, far + i), load(near, j), load(near, far + j)
        er, ei = half * (ar + br), half * (ai - bi)
        or_, oi = half * (ai + bi), half * (br - ar)
        tr, ti = wr * or_ - wi * oi, wr * oi + wi * or_
        store(power, _row(k) + frame, (er + tr) * (er + tr) + (ei + ti) * (ei + ti))
        store(power, _row(n - k) + frame, (er - tr) * (er - tr) + (ei - ti) * (ei - ti))


@_compiled
def _last_and_untangle(x, near, radix, passes, twiddles, power):
    """The last pass, and the power [(n + 1) · frames] of the real transform from the complex one.

    Numbers k and n − k are needed together: those of q, q + 256, … and of 256 − q, 512 − q, …
    """
    far = near.size // 2
    n = radix * _LAST
    _last_pass(x, 0, radix, near, 0, passes)
    for frame in range(0, _FRAMES, WIDTH):
        even, odd = load(near, frame), load(near, far + frame)
        store(power, frame, (even + odd) * (even + odd))
        store(power, _row(n) + frame, (even - odd) * (even - odd))
    for r in range(1, radix // 2 + 1):
        _bins(near, r, radix - r, twiddles, _LAST * r, power, n)
    for q in range(1, _LAST // 2 + 1):
        _last_pass(x, q, radix, near, 0, passes)
        _last_pass(x, _LAST - q, radix, near, radix * _FRAMES, passes)
        for r in range(radix // 2):
            _bins(near, r, 2 * radix - 1 - r, twiddles, q + _LAST * r, power, n)
            _bins(near, radix + r, radix - 1 - r, twiddles, _LAST - q + _LAST * r, power, n)


@_compiled
def _filter(power, interval, rising, sums):
    """Sums [(n_mels + 2) · frames]: row j is filter j − 1; the first and the last row are of no filter."""
    k, none = 0, splat(np.float32(0))
    rises, rises_too = none, none
    for j in range(sums.size // _FRAMES):
        falls, falls_too, rises, rises_too = rises, rises_too, none, none
        while k < interval.size and interval[k] == j:
            up, p, p_too = splat(rising[k]), load(power, _row(k)), load(power, _row(k) + WIDTH)
            falls, falls_too = falls + (p - up * p), falls_too + (p_too - up * p_too)
            rises, rises_too = rises + up * p, rises_too + up * p_too
            k += 1
        store(sums, j * _FRAMES, falls)
        store(sums, j * _FRAMES + WIDTH, falls_too)


@_cached
def _transform(samples, hop, window, passes, untangling, interval, rising, out):
    n_mels, n = out.shape
    x = np.empty(2 * _row(window.size // 2), np.float32)
    y = np.empty(2 * _row(window.size // 2), np.float32)
    near = np.empty(2 * 16 * _FRAMES, np.float32)
    turned = np.empty(hop * _HOPS, np.float32)
    power = np.empty(_row(window.size // 2 + 1), np.float32)
    sums = np.empty((n_mels + 2) * _FRAMES, np.float32)
    for first in range(0, n, _FRAMES):
        _transpose(samples, first * hop, hop, turned)
        _gather(turned, hop, window, x)
        m = window.size // 8
        _two_passes(x, y, near, passes, 0, m, 1)
        _two_passes(y, x, near, passes, m + m // 4, m // 16, 16)
        _last_and_untangle(x, near, window.size // 2 // _LAST, passes, untangling, power)
        _filter(power, interval, rising, sums)
        for band in range(n_mels):
            for frame in range(min(_FRAMES, n - first)):
                out[band, first + frame] = sums[(band + 1) * _FRAMES + frame]


def mel_power_of_frames(
    samples: np.ndarray,
    hop: int,
    count: int,
    window: np.ndarray,
    interval: np.ndarray,
    rising: np.ndarray,
    n_mels: int,
) -> np.ndarray:
    """Power in mel bands of frames that start a hop apart.

    Args:
        samples: float32 [n].
        hop: from the start of one frame to that of the next, in samples; a fifth of a window or more.
        count: how many frames there are, the first at the start.
        window: float32 [2048] or [1024].
        interval: int64 [1025] or [513], between which two of the n_mels + 2 filter edges a bin lies: i when
            it is above edge i and not above edge i + 1.
        rising: float32, as many, how far it is on the way from one to the other, 0 … 1. Filter i − 1 falls
            there and weighs the bin with 1 − rising, filter i rises and weighs it with rising.

    Returns:
        float32 [n_mels, count].

    Raises:
        ConfigError: numba is told not to compile, and the kernel is vector code that Python cannot run.
    """
    if getattr(config, "DISABLE_JIT", False):
        raise ConfigError(
            "NUMBA_DISABLE_JIT is set, but the spectrogram's kernel has to be compiled; unset it, "
            "or set it to 0"
        )
    if count and not 0 <= (count - 1) * hop <= len(samples) - len(window):
        raise ValueError("a frame reaches beyond the samples")
    out = np.empty((n_mels, count), dtype=np.float32)
    _transform(np.ascontiguousarray(samples), hop, window, *_constants(len(window)), interval, rising, out)
    return out
