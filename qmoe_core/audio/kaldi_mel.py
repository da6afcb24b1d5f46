"""The front end of EfficientAT's networks (`mn04`): log-mel levels as Kaldi computes them, at 32,000 Hz.

    waveform [n] → pre-emphasis x[t] − 0.97 x[t−1] → STFT (1,024 points, Hann window of 800, hop 320)
                 → power → 128 mel bands, 0 to 15,000 Hz → log(power + 1e-5) → (level + 4.5) / 5

Frames are centred and the edges reflected; the mel scale is Kaldi's, 1127 · ln(1 + f / 700), with triangles
in mel. Source: github.com/fschmid56/EfficientAT, models/preprocess.py.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from qmoe_core.audio.mel_kernel import mel_power_of_frames

SAMPLE_RATE = 32_000
HOP = 320
N_FFT = 1024
WINDOW = 800
N_MELS = 128
MAX_HZ = 15_000.0


def frame_count(n_samples: int) -> int:
    """Number of frames of a waveform of so many samples."""
    return 1 + (n_samples - 1) // HOP


def log_mel(waveform: np.ndarray) -> np.ndarray:
    """A waveform float32 [n] at 32,000 Hz, n of at least 1,025, to levels float32 [128, 1 + (n − 1) // 320].

    >>> log_mel(np.zeros(160_000, np.float32)).shape
    (128, 500)
    """
    samples = np.empty(len(waveform) - 1 + N_FFT, np.float32)
    middle = samples[N_FFT // 2 : -N_FFT // 2]
    np.multiply(waveform[:-1], np.float32(-0.97), out=middle)
    middle += waveform[1:]
    samples[: N_FFT // 2] = middle[N_FFT // 2 : 0 : -1]
    samples[-N_FFT // 2 :] = middle[-2 : -2 - N_FFT // 2 : -1]
    levels = mel_power_of_frames(samples, HOP, frame_count(len(waveform)), *_edges(), N_MELS)
    levels += np.float32(1e-5)
    np.log(levels, out=levels)
    levels += np.float32(4.5)
    levels *= np.float32(0.2)
    return levels


@lru_cache(maxsize=1)
def _edges() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The window, float32 [1024], and where each of 513 bins lies between the edges of the filters, as
    `mel_power_of_frames` takes them."""
    mel = 1127.0 * np.log1p(np.arange(N_FFT // 2 + 1) * (SAMPLE_RATE / N_FFT) / 700.0)
    place = mel / (1127.0 * np.log1p(MAX_HZ / 700.0)) * (N_MELS + 1)
    place = np.minimum(place, N_MELS + 1)  # all that is above the last edge belongs to no filter
    interval = np.minimum(place.astype(np.int64), N_MELS)
    window = np.pad(constants()[0], (N_FFT - WINDOW) // 2)
    return window, interval, (place - interval).astype(np.float32)


@lru_cache(maxsize=1)
def constants() -> tuple[np.ndarray, np.ndarray]:
    """The window float32 [800], symmetric, and the filters float32 [128, 512], without the bin at 16 kHz."""
    mel = 1127.0 * np.log1p(np.arange(N_FFT // 2) * (SAMPLE_RATE / N_FFT) / 700.0)
    edges = np.linspace(0.0, 1127.0 * np.log1p(MAX_HZ / 700.0), N_MELS + 2)
    rising = (mel - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - mel) / (edges[2:] - edges[1:-1])[:, None]
    filters = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    return np.hanning(WINDOW).astype(np.float32), filters
