"""The front end of EfficientAT's networks (`mn04`): log-mel levels as Kaldi computes them, at 32,000 Hz.

    waveform [n] → pre-emphasis x[t] − 0.97 x[t−1] → STFT (1,024 points, Hann window of 800, hop 320)
                 → power → 128 mel bands, 0 to 15,000 Hz → log(power + 1e-5) → (level + 4.5) / 5

Frames are centred and the edges reflected; the mel scale is Kaldi's, 1127 · ln(1 + f / 700), with triangles
in mel. Source: github.com/fschmid56/EfficientAT, models/preprocess.py.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

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
    window, filters = constants()
    emphasised = waveform[1:] - np.float32(0.97) * waveform[:-1]
    padded = np.pad(emphasised, N_FFT // 2, mode="reflect")
    first = (N_FFT - WINDOW) // 2  # outside of its window a frame is zero, and a shift changes no power
    frames = np.lib.stride_tricks.sliding_window_view(padded[first:], WINDOW)[::HOP]
    spectrum = np.fft.rfft(frames[: frame_count(len(waveform))] * window, N_FFT)[:, : filters.shape[1]]
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    return (np.log(filters @ power.T + np.float32(1e-5)) + np.float32(4.5)) / np.float32(5.0)


@lru_cache(maxsize=1)
def constants() -> tuple[np.ndarray, np.ndarray]:
    """The window float32 [800], symmetric, and the filters float32 [128, 512], without the bin at 16 kHz."""
    mel = 1127.0 * np.log1p(np.arange(N_FFT // 2) * (SAMPLE_RATE / N_FFT) / 700.0)
    edges = np.linspace(0.0, 1127.0 * np.log1p(MAX_HZ / 700.0), N_MELS + 2)
    rising = (mel - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - mel) / (edges[2:] - edges[1:-1])[:, None]
    filters = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    return np.hanning(WINDOW).astype(np.float32), filters
