"""Log-mel statistics: an embedding without learned weights, computed offline in under a millisecond.

What a band of the log-mel spectrogram does over five seconds is told by a few numbers: its mean, deviation,
percentiles and maximum, and the mean size and the deviation of its change from frame to frame. The same
numbers of the cepstral coefficients (MFCC) tell it of the spectrum's shape. Neither knows the order of
things, so a modulation spectrum adds the rhythm: how fast groups of bands go up and down (a clock ticks at
2 Hz, rotor blades beat at 12 Hz, rain does neither).

Levels are relative to the window's loudest point, as those of `ds-cnn` are, so that a recording gives the
same numbers at any level. They are clamped to 80 dB below it: recordings contain stretches of digital zeros,
whose −100 dB would otherwise decide every mean and deviation. 0 is the middle, 40 dB below the loudest point:
half precision, in which embeddings are kept, is finest around it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np

from qmoe_core.audio import mel
from qmoe_core.audio.decode import SAMPLE_RATE

NAME = "logmel-stats"
VERSION = 2
"""To be raised when the same parameters give other numbers, so that no cache mixes the two. Version 1 has
levels relative to full scale; bundles that were trained on it are still served."""


@dataclass(frozen=True)
class Parameters:
    """What the statistics are of."""

    n_mels: int = 64
    n_mfcc: int = 24
    range_db: float = 80.0
    """How far below the clip's loudest point levels are told apart."""
    percentiles: tuple[float, ...] = (10.0, 90.0)
    modulation_groups: int = 16
    """Groups of neighbouring mel bands whose envelopes are analysed."""
    modulation_bands: int = 8
    """Modulation frequencies, spaced logarithmically from 0.2 Hz (once in 5 s) to 21.5 Hz."""


class LogMelStats:
    """The embedder named "logmel-stats" (see `embedders.Embedder`).

    Args:
        version: of the numbers that it gives: 1 or 2, see `VERSION`.

    Raises:
        ValueError: the bands do not fall into equal groups.
    """

    name = NAME
    takes = "waveforms"
    sample_rate = SAMPLE_RATE

    def __init__(self, parameters: Parameters = Parameters(), version: int = VERSION) -> None:
        p, self.version = parameters, version
        self.parameters = p
        if p.n_mels % p.modulation_groups:
            raise ValueError(f"{p.n_mels} mel bands do not fall into {p.modulation_groups} equal groups")
        self._dct = dct_matrix(p.n_mfcc, p.n_mels)
        self.dim = (p.n_mels + p.n_mfcc) * (5 + len(p.percentiles)) + p.modulation_groups * p.modulation_bands
        description = json.dumps([asdict(p), version], sort_keys=True)
        self.id = f"{NAME}-{hashlib.sha256(description.encode()).hexdigest()[:8]}"

    def embed(self, waveforms: np.ndarray) -> np.ndarray:
        """Waveforms float32 [B, n] (22,050 Hz) to embeddings float32 [B, D]."""
        out = np.empty((len(waveforms), self.dim), dtype=np.float32)
        for row, waveform in zip(out, waveforms, strict=True):
            row[:] = self.statistics(mel.mel_power(waveform, self.parameters.n_mels))
        return out

    def statistics(self, power: np.ndarray) -> np.ndarray:
        """Embedding [D] of power in mel bands [n_mels, T], as `mel.mel_power` gives it."""
        p = self.parameters
        level = mel.to_db(power)
        loudest = level.max()
        level = np.maximum(level, loudest - np.float32(p.range_db))
        if self.version > 1:
            level -= loudest - np.float32(p.range_db / 2)
        rows = np.concatenate([level, self._dct @ level])
        ordered = np.sort(rows, axis=1)
        change = np.diff(rows, axis=1)
        return np.concatenate(
            [
                rows.mean(axis=1),
                _deviation(rows),
                *(_percentile(ordered, q) for q in p.percentiles),
                ordered[:, -1],
                np.abs(change).mean(axis=1),
                _deviation(change),
                modulation_spectrum(level, p.modulation_groups, p.modulation_bands).ravel(),
            ]
        ).astype(np.float32, copy=False)


def dct_matrix(n_out: int, n_in: int) -> np.ndarray:
    """The first rows of the orthonormal DCT-II: float32 [n_out, n_in]."""
    position = np.arange(n_in) + 0.5
    matrix = np.sqrt(2.0 / n_in) * np.cos(np.pi / n_in * np.arange(n_out)[:, None] * position)
    matrix[0] /= np.sqrt(2.0)
    return matrix.astype(np.float32)


def modulation_spectrum(level: np.ndarray, groups: int, bands: int) -> np.ndarray:
    """How strongly groups of bands go up and down at each rate.

    Takes levels [n_mels, T] in dB, gives log(1 + root mean square magnitude), float32 [groups, bands]: the
    Fourier transform over time of each group's mean level (Hann window, mean removed), pooled in bands of
    modulation frequency that are spaced logarithmically.
    """
    envelopes = level.reshape(groups, -1, level.shape[1]).mean(axis=1)
    envelopes = envelopes - envelopes.mean(axis=1, keepdims=True)
    window, edges = modulation_constants(envelopes.shape[1], bands)
    magnitude = np.abs(np.fft.rfft(envelopes * window))[:, 1:]
    power = np.add.reduceat(np.square(magnitude), edges[:-1], axis=1) / np.diff(edges)
    return np.log1p(np.sqrt(power)).astype(np.float32)


@lru_cache(maxsize=8)
def modulation_constants(frames: int, bands: int) -> tuple[np.ndarray, np.ndarray]:
    """A Hann window [frames] without its zeros, and the edges [bands + 1] of the modulation bands.

    The edges cut the frames // 2 bins above 0 Hz into bands of at least one bin and of about equal ratios.
    """
    window = np.hanning(frames + 2)[1:-1].astype(np.float32)
    steps = np.arange(bands + 1)
    edges = np.round(np.geomspace(1, frames // 2 + 1, bands + 1)).astype(int) - 1
    return window, np.maximum.accumulate(edges - steps) + steps


def _deviation(rows: np.ndarray) -> np.ndarray:
    """Standard deviation of each row, without the temporary arrays of `np.std`."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    return np.sqrt(np.einsum("ij,ij->i", centred, centred) / np.float32(rows.shape[1]))


def _percentile(ordered: np.ndarray, q: float) -> np.ndarray:
    """The q-th percentile of each sorted row, interpolated linearly as `np.percentile` does."""
    position = (ordered.shape[1] - 1) * q / 100.0
    below = int(position)
    above = min(below + 1, ordered.shape[1] - 1)
    share = np.float32(position - below)
    return ordered[:, below] + share * (ordered[:, above] - ordered[:, below])
