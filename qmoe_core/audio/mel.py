"""Log-mel spectrograms as in §3.1 of the paper.

    waveform [n] → STFT (2,048 samples, hop 512) → power [1025, T] → mel bands [M, T] → dB

The mel scale is the paper's Eq. 1, M(f) = 1125 · ln(1 + f / 700), known as HTK's. Its constant (1125 there,
1127.01 in 2595 · log10) cancels: filters are placed evenly between two mel values. Filters are triangles with
unit peak. Levels are 10 · log10 of power, floored at −100 dB and without a reference per clip, so that a loud
and a quiet recording of one sound stay different. All of it equals librosa's
`melspectrogram(htk=True, norm=None, pad_mode="reflect")` and `power_to_db(ref=1, top_db=None)`.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from qmoe_core.audio.decode import SAMPLE_RATE
from qmoe_core.audio.mel_kernel import mel_power_of_frames

N_FFT = 2048
HOP = 512
N_BINS = N_FFT // 2 + 1
FLOOR_POWER = 1e-10


def hz_to_mel(hz: float) -> float:
    """Eq. 1: pitch in mel of a frequency in Hz."""
    return 1125.0 * math.log1p(hz / 700.0)


def frame_count(n_samples: int) -> int:
    """Number of frames of a waveform: one centred on every `HOP`-th sample, the first included."""
    return 1 + n_samples // HOP


@lru_cache(maxsize=8)
def mel_filterbank(n_mels: int = 128) -> np.ndarray:
    """Triangular filters with unit peak, evenly spaced in mel (Eq. 1) from 0 to 11,025 Hz.

    Gives float32 [n_mels, 1025], read-only.

    Raises:
        ValueError: there are no bands, or so many that one has no frequency bin.
    """
    interval, rising = _filter_edges(n_mels)
    filters = np.zeros((n_mels + 2, N_BINS), dtype=np.float32)  # with a half filter at either end
    bins = np.arange(N_BINS)
    filters[interval, bins] = 1 - rising
    filters[interval + 1, bins] += rising
    filters = filters[1:-1]
    filters.flags.writeable = False
    return filters


def mel_power(waveform: np.ndarray, n_mels: int = 128) -> np.ndarray:
    """Power in each mel band: waveform [n] to float32 [n_mels, 1 + n // 512].

    Equals `mel_filterbank(n_mels)` times the power spectrogram (periodic Hann window, frames centred, edges
    reflected), at a quarter of the time and without a spectrogram in between: an hour costs no more memory
    than its result.
    """
    waveform, half = np.asarray(waveform, dtype=np.float32), N_FFT // 2
    if len(waveform) > half:  # as np.pad does, in a third of its time
        samples = np.concatenate([waveform[half:0:-1], waveform, waveform[-2 : -2 - half : -1]])
    else:
        samples = np.pad(waveform, half, mode="reflect")
    frames = frame_count(len(waveform))
    return mel_power_of_frames(samples, HOP, frames, _window(), *_filter_edges(n_mels), n_mels)


def to_db(power: np.ndarray) -> np.ndarray:
    """10 · log10(max(power, 1e-10)): decibels re 1, float32, at least −100."""
    decibels = np.maximum(power, np.float32(FLOOR_POWER))
    np.log10(decibels, out=decibels)
    decibels *= np.float32(10.0)
    return decibels


def log_mel(waveform: np.ndarray, n_mels: int = 128) -> np.ndarray:
    """The paper's log-mel spectrogram: waveform [n] to float32 [n_mels, 1 + n // 512] in dB.

    >>> log_mel(np.zeros(22_050, dtype=np.float32)).shape
    (128, 44)
    """
    return to_db(mel_power(waveform, n_mels))


class LogMelStream:
    """`log_mel` of a waveform that comes in blocks: the columns of all pushes and of the end together.

    >>> stream, waveform = LogMelStream(), np.linspace(-1, 1, 10_000, dtype=np.float32)
    >>> columns = [stream.push(waveform[:3_000]), stream.push(waveform[3_000:]), stream.finish()]
    >>> bool(np.array_equal(np.concatenate(columns, axis=1), log_mel(waveform)))
    True
    """

    def __init__(self, n_mels: int = 128) -> None:
        self.n_mels = n_mels
        self._held = np.empty(0, dtype=np.float32)
        self._samples = self._frames = 0

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Takes samples [n]; gives the columns that are certain, float32 [n_mels, T]."""
        before, self._samples = self._samples, self._samples + len(samples)
        self._held = np.concatenate([self._held, samples])
        if self._samples <= N_FFT:  # too few for a frame, and for their reflection
            return np.empty((self.n_mels, 0), dtype=np.float32)
        if before <= N_FFT:
            self._held = np.pad(self._held, (N_FFT // 2, 0), mode="reflect")
        return self._columns(1 + (len(self._held) - N_FFT) // HOP)

    def finish(self) -> np.ndarray:
        """The waveform is over: gives the last columns."""
        if self._samples <= N_FFT:
            return log_mel(self._held, self.n_mels)
        self._held = np.pad(self._held, (0, N_FFT // 2), mode="reflect")
        return self._columns(frame_count(self._samples) - self._frames)

    def _columns(self, frames: int) -> np.ndarray:
        edges = _filter_edges(self.n_mels)
        power = mel_power_of_frames(self._held, HOP, frames, _window(), *edges, self.n_mels)
        self._held = self._held[HOP * frames :]
        self._frames += frames
        return to_db(power)


@lru_cache(maxsize=1)
def _window() -> np.ndarray:
    """Periodic Hann, float32 [2048]."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)).astype(np.float32)


@lru_cache(maxsize=8)
def _filter_edges(n_mels: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each bin lies between the edges of the filters, as `mel_power_of_frames` takes it."""
    if n_mels < 1:
        raise ValueError(f"at least one mel band is needed, got {n_mels}")
    edges = 700.0 * np.expm1(np.linspace(0.0, hz_to_mel(SAMPLE_RATE / 2), n_mels + 2) / 1125.0)
    bins = np.arange(N_BINS) * (SAMPLE_RATE / N_FFT)
    interval = np.clip(np.searchsorted(edges, bins, side="right") - 1, 0, n_mels)
    if not np.isin(np.arange(n_mels), [interval, interval - 1]).all():
        raise ValueError(f"{n_mels} mel bands are too many: some would hold no frequency bin")
    rising = (bins - edges[interval]) / (edges[interval + 1] - edges[interval])
    return interval, rising.astype(np.float32)
