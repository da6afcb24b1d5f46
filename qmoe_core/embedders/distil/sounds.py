"""Five-second sounds of every kind, by arithmetic and from a bank of samples: what a student is trained on.

    maker = Maker(np.random.default_rng(1), bank)
    waveform = maker.clip()  # float32 [160000] at 32,000 Hz

A clip is one to three layers (noise, events, impacts, voices, crackle, motors, tones, samples), perhaps in a
room, for a part of the time only, over noise, through a poor microphone. Nothing imitates a class of any
dataset: parameters are drawn over the ranges in which sounds of the world lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
import scipy.fft
import scipy.signal

from qmoe_core.audio.kaldi_mel import SAMPLE_RATE

SECONDS = 5
LENGTH = SECONDS * SAMPLE_RATE
LAYERS = ("noise", "events", "impacts", "voices", "chirps", "crackle", "motor", "tones")
SAMPLE_SHARE = 0.35
"""Of the layers, those that come from the bank."""
TABLE = 2048

T = TypeVar("T")

# scipy's transforms keep float32, and their types say nothing.
_fast: Callable[[int], int] = partial(cast(Any, scipy.fft.next_fast_len), real=True)
_rfft = cast(Callable[[np.ndarray, int], np.ndarray], scipy.fft.rfft)
_irfft = cast(Callable[[np.ndarray, int], np.ndarray], scipy.fft.irfft)


class Maker:
    """Makes clips; all that is random comes from one generator.

    Args:
        rng: decides every clip: the same generator gives the same clips.
        bank: waveforms int16 [n] at 32,000 Hz; may be empty.
    """

    def __init__(self, rng: np.random.Generator, bank: Sequence[np.ndarray]) -> None:
        self.rng, self.bank = rng, bank
        self.time = np.arange(LENGTH) / SAMPLE_RATE

    def clip(self) -> np.ndarray:
        """A clip float32 [160000], peak between 0.06 and 1."""
        rng = self.rng
        x = self._layer()
        for _ in range(self._one_of([0, 0, 1, 1, 2])):
            x = x + self._layer() * self._power_of_ten(-1.5, 0)
        if rng.random() < 0.4:
            x = self._in_a_room(x)
        if rng.random() < 0.3:  # it is heard for a part of the time only
            first, last = np.sort(rng.integers(0, LENGTH, 2))
            x[:first] = x[last:] = 0
        x += self._white(LENGTH) * self._power_of_ten(-5, -1.5) * (np.abs(x).max() + 1e-9)
        if rng.random() < 0.2:  # a microphone without high frequencies
            x = self._filtered(x, 4, self._power_of_ten(3.2, 4.15), "lowpass")
        return (x / (np.abs(x).max() + 1e-9) * self._power_of_ten(-1.2, 0)).astype(np.float32)

    def _layer(self) -> np.ndarray:
        """One kind of sound over the whole clip, peak 1."""
        if len(self.bank) and self.rng.random() < SAMPLE_SHARE:
            x = self._samples()
        else:
            x = getattr(self, f"_{self._one_of(LAYERS)}")()
        return x / (np.abs(x).max() + 1e-9)

    # Layers, each float [160000].

    def _noise(self) -> np.ndarray:
        noise = self._coloured(LENGTH)
        return self._modulated(self._band(noise) if self.rng.random() < 0.7 else noise)

    def _events(self) -> np.ndarray:
        def burst(n: int) -> np.ndarray:
            made = self._harmonic(n) if self.rng.random() < 0.6 else self._band(self._coloured(n))
            return made * self._envelope(n)

        return self._repeated(burst)

    def _impacts(self) -> np.ndarray:
        return self._repeated(self._impact)

    def _voices(self) -> np.ndarray:
        return self._repeated(self._voice, rates=(-0.5, 0.7))

    def _chirps(self) -> np.ndarray:
        return self._repeated(self._chirp, rates=(-0.3, 1.2))

    def _tones(self) -> np.ndarray:
        return self._modulated(self._harmonic(LENGTH))

    def _crackle(self) -> np.ndarray:
        x = np.zeros(LENGTH)
        at = self.rng.integers(0, LENGTH, self.rng.poisson(self._power_of_ten(0.5, 3.5)))
        x[at] = self.rng.standard_normal(len(at)) * self.rng.pareto(2, len(at))
        if self.rng.random() < 0.7:
            return self._band(x)
        return np.asarray(scipy.signal.lfilter([1], [1, -self.rng.uniform(0.5, 0.95)], x))

    def _motor(self) -> np.ndarray:
        """Strokes of noise and a sawtooth at a wandering rate of 10 to 200 Hz."""
        wobble = np.sin(2 * np.pi * self.rng.uniform(0.1, 1) * self.time + self.rng.uniform(0, 6))
        turns = np.cumsum(self._power_of_ten(1, 2.3) * (1 + self.rng.uniform(0, 0.2) * wobble)) / SAMPLE_RATE
        phase = turns % 1
        x = np.exp(-phase * self.rng.uniform(3, 20)) * self._white(LENGTH) * self.rng.uniform(0.2, 1)
        x += (2 * phase - 1) * self.rng.uniform(0, 1)
        return self._band(x) + 0.3 * x

    def _samples(self) -> np.ndarray:
        """One to four waveforms of the bank, some played faster or slower, some backwards or repeated."""
        x = np.zeros(LENGTH)
        for _ in range(self._one_of([1, 1, 2, 4])):
            y = self._one_of(self.bank).astype(np.float32) / 32767
            if self.rng.random() < 0.7:
                y = np.interp(
                    np.arange(0, len(y) - 1, 2 ** self.rng.uniform(-0.8, 0.8)), np.arange(len(y)), y
                )
            if self.rng.random() < 0.1:
                y = y[::-1]
            if self.rng.random() < 0.2:
                y = np.tile(y, 1 + min(8, LENGTH // (len(y) + 1)))
            start = int(self.rng.uniform(0, 0.8) * LENGTH)
            n = min(len(y), LENGTH - start)
            first = self.rng.integers(0, len(y) - n + 1)
            x[start : start + n] += y[first : first + n]
        return x

    # Events, each float [n].

    def _impact(self, n: int) -> np.ndarray:
        """A struck object: decaying partials and a burst of noise."""
        x, t = np.zeros(n), np.arange(n) / SAMPLE_RATE
        for _ in range(self._one_of([1, 2, 4, 8])):
            partial = np.sin(2 * np.pi * self._power_of_ten(1.8, 4) * t) * self.rng.uniform(0.2, 1)
            x += np.exp(-t / self._power_of_ten(-2.5, -0.2)) * partial
        return x + self._envelope(n) * self._white(n) * self.rng.uniform(0, 1)

    def _voice(self, n: int) -> np.ndarray:
        """A call of a throat: a source rich in harmonics, or breath, through three resonances that move."""
        source = self._wave(self._glide(self._power_of_ten(1.8, 3.1), n), self._table(30, 0.5))
        breath = self.rng.uniform(0, 0.4) if self.rng.random() < 0.8 else 2.0
        source = source + breath * self._white(n)
        x, scale = np.zeros(n), self._power_of_ten(-0.1, 0.5)
        for low, high in ((250, 1000), (800, 2500), (2200, 4000)):
            centre = min(self.rng.uniform(low, high) * scale, 14_000)
            x += self._filtered(source, 1, [0.85 * centre, min(1.15 * centre, 15_500)], "bandpass")
        return x * self._envelope(n) * (1 + self.rng.uniform(0, 1) * self._slow(n))

    def _chirp(self, n: int) -> np.ndarray:
        """A tone whose pitch moves fast, as of birds, insects, drops and sirens."""
        n = min(n, int(SAMPLE_RATE * self._power_of_ten(-1.7, 0.2)))
        t = np.arange(n) / n
        start, shape = self._power_of_ten(2.6, 3.9), self.rng.normal(0, 1, 3)
        trill = self.rng.uniform(0, 0.3) * np.sin(2 * np.pi * self._one_of([0, 2, 6, 15]) * t)
        octaves = shape[0] * t + shape[1] * t * (1 - t) * 2 + trill
        return (
            self._wave(np.clip(start * 2**octaves, 20, 14_000), self._table(4, 1.0))
            * np.sin(np.pi * t) ** 0.5
        )

    def _harmonic(self, n: int) -> np.ndarray:
        x = self._wave(
            self._glide(self._power_of_ten(1.6, 3.6), n), self._table(30, self.rng.uniform(0.3, 2))
        )
        if self.rng.random() < 0.4:
            x = np.tanh(x * self.rng.uniform(1, 6))
        return self._band(x) if self.rng.random() < 0.4 else x

    # Parts of them.

    def _repeated(
        self, make: Callable[[int], np.ndarray], rates: tuple[float, float] = (-0.5, 1.2)
    ) -> np.ndarray:
        """An event again and again, regularly, at random or in a burst; it changes now and then.

        Args:
            rates: of events a second, as powers of ten.
        """
        rng, rate = self.rng, self._power_of_ten(*rates)
        mode = self._one_of(["regular", "random", "burst"])
        if mode == "regular":
            times = np.arange(rng.uniform(0, 1), SECONDS, 1 / rate)
        elif mode == "random":
            times = np.sort(rng.uniform(0, SECONDS, rng.poisson(SECONDS * rate) + 1))
        else:
            times = rng.uniform(0, 4) + np.arange(self._one_of([2, 3, 5])) * rng.uniform(0.1, 0.6)
        x, event = np.zeros(LENGTH), np.empty(0)
        for time in times[:60]:
            if not len(event) or rng.random() < 0.1:
                event = make(int(SAMPLE_RATE * self._power_of_ten(-1.5, 0.2)))
            start = int(time * SAMPLE_RATE)
            n = max(0, min(len(event), LENGTH - start))
            x[start : start + n] += event[:n] * rng.uniform(0.5, 1)
        return x

    def _envelope(self, n: int) -> np.ndarray:
        attack, decay = self._power_of_ten(-3, -1), self._power_of_ten(-2, 0)
        t = np.arange(n, dtype=np.float32) / SAMPLE_RATE
        return np.minimum(t / attack, 1) * np.exp(-np.maximum(t - attack, 0) / decay)

    def _glide(self, hz: float, n: int) -> np.ndarray:
        """A pitch [n] around `hz`, with vibrato, and half of the time gliding by octaves."""
        t = np.arange(n) / SAMPLE_RATE
        pitch = hz * (1 + self.rng.uniform(0, 0.05) * np.sin(2 * np.pi * self.rng.uniform(2, 12) * t))
        if self.rng.random() < 0.5:
            at = np.sort(self.rng.uniform(0, max(t[-1], 1e-3), 4))
            pitch = pitch * 2 ** np.interp(t, at, self.rng.normal(0, 0.6, 4))
        return np.clip(pitch, 20, 14_000)

    def _table(self, most: int, fall: float) -> np.ndarray:
        """One period [2048] of a wave of up to `most` harmonics that fall with their number to this power."""
        spectrum = np.zeros(TABLE // 2 + 1, complex)
        order = np.arange(1, self.rng.integers(1, most + 1) + 1)
        phases = np.exp(1j * self.rng.uniform(0, 2 * np.pi, len(order)))
        spectrum[order] = phases * order**-fall * (self.rng.random(len(order)) < 0.9)
        return np.fft.irfft(spectrum) * TABLE

    def _wave(self, pitch: np.ndarray, table: np.ndarray) -> np.ndarray:
        """A wave [n] of this pitch [n] in Hz."""
        phase = np.cumsum(pitch) * (TABLE / SAMPLE_RATE)
        return table[phase.astype(np.int64) & (TABLE - 1)]

    def _modulated(self, x: np.ndarray) -> np.ndarray:
        curve = 0.5 + 0.5 * np.sin(
            2 * np.pi * self._power_of_ten(-0.7, 1.6) * self.time + self.rng.uniform(0, 6)
        )
        if self.rng.random() < 0.4:
            curve **= self.rng.uniform(1, 8)
        return x * (1 - self.rng.uniform(0, 1) * (1 - curve))

    def _slow(self, n: int) -> np.ndarray:
        """A curve [n] that wanders at random, some twenty times a second."""
        knots = self.rng.standard_normal(max(3, 20 * n // SAMPLE_RATE))
        return np.interp(np.linspace(0, len(knots) - 1, n), np.arange(len(knots)), knots)

    def _in_a_room(self, x: np.ndarray) -> np.ndarray:
        n = int(SAMPLE_RATE * self.rng.uniform(0.05, 1))
        room = self._white(n) * np.exp(-np.arange(n, dtype=np.float32) / n * self.rng.uniform(3, 9))
        size = _fast(LENGTH + n)
        spectrum = _rfft(x.astype(np.float32), size) * _rfft(room, size)
        return _irfft(spectrum, size)[:LENGTH] * 0.05 + x * self.rng.uniform(0, 1)

    def _white(self, n: int) -> np.ndarray:
        return self.rng.standard_normal(n, dtype=np.float32)

    def _coloured(self, n: int) -> np.ndarray:
        """Noise whose power falls with frequency to a power of 0 to 2.2."""
        size = _fast(n)
        spectrum = _rfft(self._white(size), size)
        fall = np.arange(1, len(spectrum) + 1, dtype=np.float32) ** np.float32(-self.rng.uniform(0, 1.1))
        return _irfft(spectrum * fall, size)[:n]

    def _band(self, x: np.ndarray) -> np.ndarray:
        low = self._power_of_ten(1.5, 3.8)
        high = min(low * self._power_of_ten(0.2, 1.5), 15_500)
        return self._filtered(x, self._one_of([1, 2, 4]), [low, high], "bandpass")

    def _filtered(self, x: np.ndarray, order: int, hz: float | list[float], kind: str) -> np.ndarray:
        sections = scipy.signal.butter(order, hz, kind, fs=SAMPLE_RATE, output="sos")
        return np.asarray(scipy.signal.sosfilt(sections, x))

    def _one_of(self, options: Sequence[T]) -> T:
        return options[int(self.rng.integers(len(options)))]

    def _power_of_ten(self, low: float, high: float) -> float:
        return 10 ** self.rng.uniform(low, high)
