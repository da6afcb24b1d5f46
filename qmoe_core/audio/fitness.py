"""Fitness: whether a window of sound can be judged at all, and how it is prepared for the embedder.

One check for everything that is judged: files, pages, `qmoe listen`, training. A window of silence gets no
label; a quiet one is scaled up; a constant offset is removed; a band-limited one, in which the upper part of
the spectrum that the classifier learned from is missing, is named and, below `MIN_BANDWIDTH_HZ`, refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from qmoe_core.errors import AudioError

SILENT_AMPLITUDE = 1e-4
"""A block whose samples stay within ± this is silent: -80 dBFS, some three steps of 16 bits."""
SILENT_SHARE = 0.99
"""A window with at least this share of silent blocks is silent."""
QUIET_PEAK, FULL_PEAK = 0.1, 0.8
"""A window whose peak is below the first is scaled to the second; clips of ESC-10 have -19 to 0 dBFS."""
OFFSET = 0.01
"""A mean of the samples beyond ± this is a constant offset of the recorder, and is removed."""
MIN_BANDWIDTH_HZ = 7_500.0
"""Below, a verdict of a classifier that learned from 11,025 Hz is refused. Measured on ESC-10 with the
default bundle: of clips limited to 8 kHz 1 % are judged wrong with a probability over .9, to 7 kHz 5 %, to
4 kHz 19 %."""
NOTED_BANDWIDTH_HZ = 10_000.0
GAP_S = 2.0
"""Silence of at least this length parts a recording."""
_BLOCK_S = 0.02
_FRAME, _FRAMES = 2_048, 16
_EDGE_POWER = 1e-8  # -80 dB: what is below, relative to the strongest frequency, counts as absent
_OCCUPIED = 0.8
_LEAST_EDGE_HZ = 1_500.0
"""No telephone cuts lower: what ends below is a low sound, not one whose upper part was lost."""


class NothingToJudge(AudioError):
    """A recording that was read, but holds nothing that can be judged: silence, or too narrow a band.

    Attributes:
        fitness: what is known of it; duration_s: how long it is.
    """

    def __init__(self, message: str, fitness: Fitness, duration_s: float) -> None:
        super().__init__(message)
        self.fitness, self.duration_s = fitness, duration_s

    def __reduce__(self) -> tuple[type[NothingToJudge], tuple[str, Fitness, float]]:
        return type(self), (str(self), self.fitness, self.duration_s)


@dataclass(frozen=True)
class Fitness:
    """What is known of a window, or of a whole recording, before it is judged.

    Attributes:
        peak_dbfs: largest magnitude, and rms_dbfs: root mean square, both without a constant offset, in dB
            relative to full scale; -inf for digital silence.
        silent_share: share of blocks of 20 ms in which nothing moves, 0 to 1.
        bandwidth_hz: highest frequency whose power is within 80 dB of the strongest; 0 for silence.
        band_limited: the spectrum is filled up to `bandwidth_hz` and empty above it, as after a low-pass
            filter or a lower sample rate; not so for a tone, which has no upper part by its nature.
        offset: mean of the samples, 1 is full scale.
    """

    peak_dbfs: float
    rms_dbfs: float
    silent_share: float
    bandwidth_hz: float
    band_limited: bool
    offset: float

    @property
    def silent(self) -> bool:
        return self.silent_share >= SILENT_SHARE

    @property
    def too_narrow(self) -> bool:
        return self.band_limited and self.bandwidth_hz < MIN_BANDWIDTH_HZ

    def notes(self) -> tuple[str, ...]:
        """What the user should know, a sentence each."""
        found = []
        if abs(self.offset) > OFFSET:
            found.append(f"A constant offset of {self.offset:+.2g} of full scale was removed.")
        if self.peak_dbfs < 20 * math.log10(QUIET_PEAK) and not self.silent:
            found.append(f"Quiet (peak {self.peak_dbfs:.0f} dBFS): judged as at full level.")
        if self.band_limited and self.bandwidth_hz < NOTED_BANDWIDTH_HZ:
            found.append(f"T{nothing_above(self.bandwidth_hz)[1:]}.")
        return tuple(found)

    def to_json(self) -> dict[str, float | bool | list[str] | None]:
        """The object `fitness` of `qmoe classify --json`; null stands for minus infinity."""
        return {
            "peak_dbfs": self.peak_dbfs if math.isfinite(self.peak_dbfs) else None,
            "rms_dbfs": self.rms_dbfs if math.isfinite(self.rms_dbfs) else None,
            "silent_share": self.silent_share,
            "bandwidth_hz": self.bandwidth_hz,
            "notes": list(self.notes()),
        }


def measure(samples: np.ndarray, rate: int) -> Fitness:
    """Measure a window.

    Args:
        samples: waveform, float32 [n], n ≥ 1, 1 is full scale.
        rate: Hz.
    """
    moves = moving(samples, rate)
    silent = 1.0 - float(moves.mean() if len(moves) else np.ptp(samples) > 2 * SILENT_AMPLITUDE)
    offset = float(np.mean(samples, dtype=np.float64))
    centred = samples - np.float32(offset)
    peak = float(np.abs(centred).max())
    rms = math.sqrt(float(np.mean(np.square(centred, dtype=np.float64))))
    bandwidth, limited = _bandwidth(centred, rate)
    return Fitness(_db(peak), _db(rms), silent, bandwidth, limited, offset)


def block_samples(rate: int) -> int:
    """Samples of a block of 20 ms, at least one."""
    return max(1, round(_BLOCK_S * rate))


def moving(samples: np.ndarray, rate: int) -> np.ndarray:
    """Whether anything moves in each whole block of 20 ms: waveform [n] to bool [n // block]."""
    block = block_samples(rate)
    blocks = samples[: len(samples) // block * block].reshape(-1, block)
    return np.ptp(blocks, axis=1) > 2 * SILENT_AMPLITUDE


def combine(windows: Sequence[Fitness]) -> Fitness:
    """The fitness of a recording from that of its windows: largest peak and bandwidth, the mean of the rest.

    Level, bandwidth and offset are those of the windows that are not silent, where there are any.
    """
    heard = [fitness for fitness in windows if not fitness.silent] or list(windows)
    widest = max(heard, key=lambda fitness: fitness.bandwidth_hz)
    power = float(np.mean([10 ** (fitness.rms_dbfs / 10) for fitness in heard]))
    return replace(
        widest,
        peak_dbfs=max(fitness.peak_dbfs for fitness in heard),
        rms_dbfs=_db(math.sqrt(power)),
        silent_share=float(np.mean([fitness.silent_share for fitness in windows])),
        offset=float(np.mean([fitness.offset for fitness in heard])),
    )


def refuse_unfit(name: str, fitness: Fitness, duration_s: float) -> None:
    """Refuse a recording in which there is nothing to judge.

    Raises:
        NothingToJudge: it is silent, or its band is too narrow for a verdict that can be trusted.
    """
    if fitness.silent:
        rms = fitness.rms_dbfs
        level = "every sample is zero" if rms == -math.inf else f"{rms:.0f} dBFS on average"
        sentence = f"nothing to judge, it is silent ({level}); give a recording with a sound in it."
    elif fitness.too_narrow:
        sentence = (
            f"not judged, {nothing_above(fitness.bandwidth_hz)}; give a recording of at least "
            f"{2 * MIN_BANDWIDTH_HZ / 1000:.0f} kHz sample rate that was not limited before."
        )
    else:
        return
    raise NothingToJudge(f"{name}: {sentence}", fitness, duration_s)


def nothing_above(hz: float) -> str:
    """What a narrow band means, as part of a sentence: the same words for files and microphones.

    >>> nothing_above(4_000.0)
    'there is nothing above 4 kHz and the classifier learned from sounds up to 11 kHz'
    """
    khz = round(hz / 1000, 1)
    return f"there is nothing above {khz:g} kHz and the classifier learned from sounds up to 11 kHz"


def prepare(samples: np.ndarray) -> np.ndarray:
    """A window as the embedder takes it, without a constant offset, and not quiet: float32 [n] to [n].

    A window that needs neither, or in which nothing moves, is returned as it is.
    """
    if not len(samples) or np.ptp(samples) <= 2 * SILENT_AMPLITUDE:
        return samples
    offset = np.float32(np.mean(samples, dtype=np.float64))
    if abs(offset) > OFFSET:
        samples = samples - offset
    peak = np.float32(np.abs(samples).max())
    if peak < QUIET_PEAK:
        samples = samples * (np.float32(FULL_PEAK) / peak)
    return samples


def _bandwidth(samples: np.ndarray, rate: int) -> tuple[float, bool]:
    """Upper edge of the spectrum, Hz, and whether it is filled up to that edge."""
    if len(samples) < _FRAME:
        samples = np.pad(samples, (0, _FRAME - len(samples)))
    starts = np.linspace(0, len(samples) - _FRAME, _FRAMES).astype(int)
    frames = samples[starts[:, None] + np.arange(_FRAME)] * np.hanning(_FRAME).astype(np.float32)
    power = np.square(np.abs(np.fft.rfft(frames, axis=1))).sum(axis=0)
    power = np.convolve(power, np.full(8, 1 / 8), "same")
    strongest = power.max()
    if strongest <= 0.0:
        return 0.0, False
    present = power > _EDGE_POWER * strongest
    edge = int(np.flatnonzero(present)[-1]) + 1
    filled = edge * rate / _FRAME > _LEAST_EDGE_HZ and bool(present[edge // 10 : edge].mean() > _OCCUPIED)
    return min(edge * rate / _FRAME, rate / 2), filled


def _db(amplitude: float) -> float:
    return 20 * math.log10(amplitude) if amplitude > 0.0 else -math.inf
