"""What happens to sounds on their way: background, a room, distance, a narrow band, other pitch and speed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

LEVELS: dict[str, tuple[float, ...]] = {
    "background": (30.0, 20.0, 10.0, 5.0, 0.0, -5.0),
    "reverberation": (0.3, 0.6, 1.2),
    "gain": (-40.0, -20.0, 20.0),
    "low-pass": (8000.0, 4000.0, 2000.0),
    "pitch": (-4.0, -2.0, 2.0, 4.0),
    "speed": (0.7, 0.85, 1.2, 1.4),
}
"""What is tried of each kind: dB over the noise, seconds to −60 dB, dB, Hz, semitones, times as fast."""
UNITS = {
    "background": "dB",
    "reverberation": "s",
    "gain": "dB",
    "low-pass": "Hz",
    "pitch": "semitones",
    "speed": "×",
}


def perturb(
    samples: np.ndarray, rate: int, kind: str, level: float, background: np.ndarray, seed: int
) -> np.ndarray:
    """A waveform as it would arrive, float32 [n] to [n].

    Args:
        samples: in [−1, 1]; rate: Hz.
        kind, level: one of `LEVELS`.
        background: another waveform [n], for `background`; seed: of the room's echoes.
    """
    changed = _HOW[kind](samples.astype(np.float64), rate, level, background, seed)
    changed = np.pad(changed[: len(samples)], (0, max(0, len(samples) - len(changed))))
    return np.clip(changed, -1.0, 1.0).astype(np.float32)


def _background(samples: np.ndarray, rate: int, snr_db: float, other: np.ndarray, seed: int) -> np.ndarray:
    signal, noise = np.mean(np.square(samples)), np.mean(np.square(other, dtype=np.float64))
    if not noise > 0.0:
        return samples
    mixed = samples + other * np.sqrt(signal / noise / 10 ** (snr_db / 10))
    return mixed / max(1.0, np.abs(mixed).max())


def _reverberation(
    samples: np.ndarray, rate: int, seconds: float, other: np.ndarray, seed: int
) -> np.ndarray:
    """Convolved with noise that falls by 60 dB in so many seconds, behind the direct sound; equally loud."""
    from scipy.signal import fftconvolve

    t = np.arange(round(seconds * rate)) / rate
    echoes = np.random.default_rng(seed).normal(0.0, 1.0, len(t)) * 10 ** (-3.0 * t / seconds)
    echoes *= 1.0 / np.sqrt(np.square(echoes).sum())  # as much energy as the direct sound
    echoes[0] = 1.0
    wet = fftconvolve(samples, echoes)[: len(samples)]
    return wet * np.abs(samples).max() / max(np.abs(wet).max(), 1e-12)


def _gain(samples: np.ndarray, rate: int, db: float, other: np.ndarray, seed: int) -> np.ndarray:
    return samples * 10 ** (db / 20)


def _low_pass(samples: np.ndarray, rate: int, hz: float, other: np.ndarray, seed: int) -> np.ndarray:
    from scipy.signal import butter, sosfilt

    if hz >= rate / 2:
        return samples
    return np.asarray(sosfilt(butter(8, hz, fs=rate, output="sos"), samples))


def _pitch(samples: np.ndarray, rate: int, semitones: float, other: np.ndarray, seed: int) -> np.ndarray:
    from librosa.effects import pitch_shift

    return pitch_shift(samples, sr=rate, n_steps=semitones, res_type="soxr_hq")


def _speed(samples: np.ndarray, rate: int, times: float, other: np.ndarray, seed: int) -> np.ndarray:
    """At the same pitch; what is too short is repeated, so that no silence tells."""
    from librosa.effects import time_stretch

    return np.resize(time_stretch(samples, rate=times), len(samples))


_HOW: dict[str, Callable[[np.ndarray, int, float, np.ndarray, int], np.ndarray]] = {
    "background": _background,
    "reverberation": _reverberation,
    "gain": _gain,
    "low-pass": _low_pass,
    "pitch": _pitch,
    "speed": _speed,
}
