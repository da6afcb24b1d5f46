"""Recordings: from a file, bytes or samples to a checked mono waveform at 22,050 Hz, cut in 5 s windows.

Whatever comes in is decoded, checked, mixed to one channel and resampled block by block, so that memory
follows the sound that is really there and never what a header announces. `open_recording` gives a recording
of any length as such blocks, in bounded memory; `load` and `from_samples` give the whole as one waveform.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol

import numpy as np
import soxr

from qmoe_core.audio import fitness, recorded
from qmoe_core.audio.codecs import ACCEPTED, BLOCK_FRAMES, Decoder, duration, open_decoder
from qmoe_core.errors import AudioError

SAMPLE_RATE = 22_050
"""Hz, of every waveform past this module (§3.1: twice the 11,025 Hz the spectrogram reaches up to)."""
WINDOW_S = 5.0
WINDOW_SAMPLES = round(SAMPLE_RATE * WINDOW_S)
TAIL_S = 0.1
"""A remainder shorter than this, seconds, gets no window of its own."""
MAX_DURATION_S = 3600.0
"""Of a recording that is held in memory as one waveform; one that is read in blocks may have any length."""
MAX_BYTES = 200 * 2**20
"""Of an upload, which is held in memory; a file on disk is read in blocks."""
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000

_LEAST_BYTES_A_SECOND = 100
"""A file with fewer bytes for each second that its header announces does not hold what it announces."""
_CUT_S = 20.0
"""Windows are cut from so many seconds at a time."""
_FULL_SCALE = 0.9999  # just under the largest 16-bit sample, 32767 / 32768
_CLIPPED_SHARE = 0.001
_NEARLY_SILENT = 1e-4  # -80 dBFS
_INTEGER_SCALES = (2.0**7, 2.0**15, 2.0**23, 2.0**31)
_SURELY_INTEGERS = 16.0
"""A float recording that goes beyond this many times full scale holds samples scaled as integers."""
_OPPOSED = 0.3
"""A channel whose correlation with the first is below minus this has opposite polarity, and is inverted."""


@dataclass(frozen=True)
class Clip:
    """A recording in memory, ready to be judged."""

    name: str
    """Safe to print and to use as a file name (see `display_name`)."""
    samples: np.ndarray
    """Waveform, float32 [n] in [-1, 1], mono, at `rate`."""
    duration_s: float
    source_rate_hz: int
    source_channels: int
    notes: tuple[str, ...] = ()
    """What was done to the recording, or is unusual about it: short sentences."""
    recorded: datetime | None = None
    """When it began, by its header or its name; without a time zone where that is not known."""
    rate: int = SAMPLE_RATE

    def blocks(self) -> Iterator[np.ndarray]:
        """The whole waveform, as one block."""
        yield self.samples


class Readable(Protocol):
    """A recording that is read block by block: a `Clip`, or a `Recording`, whose end tells some of it."""

    @property
    def name(self) -> str: ...
    @property
    def rate(self) -> int: ...
    @property
    def source_rate_hz(self) -> int: ...
    @property
    def source_channels(self) -> int: ...
    @property
    def recorded(self) -> datetime | None: ...
    @property
    def duration_s(self) -> float: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    def blocks(self) -> Iterator[np.ndarray]: ...


@dataclass(frozen=True)
class Window:
    """Five seconds of a clip."""

    start_s: float
    end_s: float
    """At most the clip's duration: a short clip's window is longer than the sound in it."""
    samples: np.ndarray
    """Waveform, float32 [5 · rate]."""
    rate: int = SAMPLE_RATE

    @property
    def _sounding(self) -> int:
        return round((self.end_s - self.start_s) * self.rate)

    @cached_property
    def fitness(self) -> fitness.Fitness:
        """Of the sound in it, without what a short clip is padded with; measured when first asked for."""
        return fitness.measure(self.samples[: self._sounding], self.rate)

    @property
    def prepared(self) -> np.ndarray:
        """The waveform as an embedder takes it, float32 [5 · rate]: see `fitness.prepare`."""
        n = self._sounding
        if n >= len(self.samples):
            return fitness.prepare(self.samples)
        return np.concatenate([fitness.prepare(self.samples[:n]), self.samples[n:]])


def open_recording(
    source: str | Path | bytes | BinaryIO,
    *,
    name: str | None = None,
    rate: int = SAMPLE_RATE,
    longest_s: float = float("inf"),
) -> Recording:
    """Open a recording of any length, to be read block by block; close it, or use it with `with`.

    Args:
        source: where it is: a path, the bytes of a file, or a binary stream, which is read from its start.
        name: what to call it; the file's own name by default.
        rate: Hz, of the waveform that it gives.
        longest_s: a longer one is refused, by what its header says or while it is read.

    Raises:
        AudioError: it is missing, empty, too large, too long, no sound file, or has NaN or infinite samples.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        name = display_name(name or path.name)
        if path.is_dir():
            raise AudioError(f"{name} is a folder, not a recording; {ACCEPTED}.")
        if not path.exists():
            where = "the current folder" if path.parent == Path() else path.parent
            raise AudioError(f"{name} does not exist in {where}.")
        if not path.is_file():
            raise AudioError(f"{name} is not a regular file; {ACCEPTED}.")
        with _explained(name):
            return _opened(path.open("rb"), name, rate, longest_s)
    if isinstance(source, bytes):
        data = source
    else:
        name = name or getattr(source, "name", None)
        if source.seekable():
            source.seek(0)
        data = source.read(MAX_BYTES + 1)
    name = display_name(str(name or "recording"))
    if len(data) > MAX_BYTES:
        raise AudioError(
            f"{name} is larger than {MAX_BYTES >> 20} MB; give a shorter recording, or FLAC or MP3."
        )
    with _explained(name):
        return _opened(io.BytesIO(data), name, rate, longest_s)


def load(
    source: str | Path | bytes | BinaryIO,
    *,
    name: str | None = None,
    rate: int = SAMPLE_RATE,
    longest_s: float | None = None,
) -> Clip:
    """Read a whole recording into memory; for the arguments and errors see `open_recording`.

    Args:
        longest_s: `MAX_DURATION_S` by default.
    """
    longest_s = MAX_DURATION_S if longest_s is None else longest_s
    with open_recording(source, name=name, rate=rate, longest_s=longest_s) as recording:
        return _whole(recording)


def from_samples(
    samples: np.ndarray, source_rate: int, *, name: str = "recording", rate: int = SAMPLE_RATE
) -> Clip:
    """Make a clip of samples already in memory, with the same checks as `load`.

    Args:
        samples: [n] or [n, channels]; floats with full scale 1, or integers with that of their type.
        source_rate: of the samples, Hz; rate: of the clip, Hz.

    Raises:
        AudioError: the samples are none, not real numbers, not finite, too many, or of an unusable rate.
    """
    name = display_name(name)
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2):
        raise AudioError(f"{name} has samples of shape {samples.shape}; [n] and [n, channels] are accepted.")
    if samples.dtype.kind not in "iuf":
        raise AudioError(f"{name} has samples of type {samples.dtype}; floats and integers are accepted.")
    frames = samples[:, None] if samples.ndim == 1 else samples
    if not frames.shape[1]:
        raise AudioError(f"{name} holds no channels; [n] and [n, channels] are accepted.")
    held = _Samples(frames, source_rate)
    return _whole(Recording(held, lambda: held, name, rate=rate, longest_s=MAX_DURATION_S))


def resample(x: np.ndarray, from_hz: float, to_hz: float) -> np.ndarray:
    """Change the sample rate of a waveform [n] (soxr, high quality, linear phase).

    Gives float32 of about n · to_hz / from_hz samples, aligned in time with x.
    """
    x = np.ascontiguousarray(x, dtype=np.float32)
    return x if from_hz == to_hz else soxr.resample(x, from_hz, to_hz)


def windows(clip: Readable, hop_s: float = 2.5) -> list[Window]:
    """All windows of a clip at once: see `cut`."""
    return list(cut(clip, hop_s))


def cut(clip: Readable, hop_s: float = 2.5) -> Iterator[Window]:
    """Cut a clip into windows of 5 s that start every `hop_s` seconds, in bounded memory.

    A shorter clip gives one window, padded with zeros at its end. In a longer one the last window ends where
    the clip ends, so that every sample is in a window; only a remainder below `TAIL_S`, such as a codec's
    padding, gets no window of its own. Silence of `fitness.GAP_S` and more parts a longer clip in pieces that
    are cut in windows each, so that no window of silence, nor one half of silence, takes part in its verdict;
    where there is nothing but silence, the whole is cut. Windows of a longer clip are views, not copies.

    Raises:
        ValueError: `hop_s` is less than a sample. AudioError: while a recording is read, see `Recording`.
    """
    hop = round(hop_s * clip.rate)
    if hop < 1:
        raise ValueError(f"hop_s must be at least one sample, is {hop_s}")
    cutter = _Cutter(clip.rate, hop)
    waiting: list[np.ndarray] = []
    for block in clip.blocks():
        waiting.append(block)
        if sum(map(len, waiting)) >= _CUT_S * clip.rate:
            yield from cutter.push(waiting)
            waiting = []
    yield from cutter.push(waiting)
    yield from cutter.finish()


class _Cutter:
    """Cuts what comes in blocks: a window is given as soon as its piece is known to last so long."""

    def __init__(self, rate: int, hop: int) -> None:
        self.rate, self.hop = rate, hop
        self.size, self.tail = round(WINDOW_S * rate), round(TAIL_S * rate)
        self.block = fitness.block_samples(rate)
        self.gap = round(fitness.GAP_S * rate / self.block)
        self.kept, self.base = np.empty(0, np.float32), 0  # what may still be needed, and where it begins
        self.first = self.kept  # the first window, of which all are copies where nothing ever moves
        self.checked = 0  # blocks that were looked at
        self.last: int | None = None  # the last of them with a sound
        self.begin: int | None = None  # of the piece that is open
        self.next = 0  # where its next window begins

    def push(self, blocks: list[np.ndarray]) -> Iterator[Window]:
        """Take blocks float32 [m]; gives the windows that are certain."""
        blocks = [self.kept, *blocks] if len(self.kept) else blocks
        self.kept = np.concatenate(blocks) if len(blocks) > 1 else blocks[0] if blocks else self.kept
        if self.base == 0 and len(self.kept) <= self.size + self.tail:  # if this is all, it is one piece
            return
        if not len(self.first):
            self.first = self.kept[: self.size]
        moves = fitness.moving(self.kept[self.checked * self.block - self.base :], self.rate)
        places = np.flatnonzero(moves) + self.checked
        self.checked += len(moves)
        for run in np.split(places, np.flatnonzero(np.diff(places) > self.gap) + 1) if len(places) else ():
            begin, last = int(run[0]), int(run[-1])
            if self.last is not None and self.begin is not None and begin - self.last > self.gap:
                yield from self._close((self.last + 1) * self.block)
            if self.begin is None:
                at_start = self.last is None and begin < self.gap
                self.begin = self.next = 0 if at_start else begin * self.block
            self.last = last
            while self.next + self.size <= (last + 1) * self.block:
                yield self._window(self.next, self.next + self.size)
                self.next += self.hop
        if self.last is not None and self.begin is not None and self.checked - 1 - self.last >= self.gap:
            yield from self._close((self.last + 1) * self.block)
        needed = self.checked * self.block
        if self.last is not None and self.begin is not None:
            needed = max(self.begin, (self.last + 1) * self.block - self.size)
        self.kept, self.base = self.kept[needed - self.base :], needed

    def finish(self) -> Iterator[Window]:
        """The recording is over."""
        end = self.base + len(self.kept)
        if self.last is None:  # so short that it is one piece, or nothing but silence
            self.begin = 0
        if self.begin is not None:
            yield from self._close(end)

    def _close(self, end: int) -> Iterator[Window]:
        """The piece that is open ends there."""
        assert self.begin is not None
        last = max(self.begin, end - self.size)
        while self.next <= last:
            yield self._window(self.next, min(end, self.next + self.size))
            self.next += self.hop
        if last - (self.next - self.hop) >= self.tail:
            yield self._window(last, end)
        self.begin = None

    def _window(self, start: int, end: int) -> Window:
        """The samples from `start` to `end`, padded with zeros where that is less than 5 s."""
        samples = self.kept[start - self.base : end - self.base]
        if self.last is None and len(self.first):  # one window of silence is like another
            samples = self.first
        if len(samples) < self.size:
            samples = np.concatenate([samples, np.zeros(self.size - len(samples), dtype=np.float32)])
        return Window(start / self.rate, end / self.rate, samples, self.rate)


def display_name(name: str) -> str:
    """The part of a name that is safe to show and to save under: no folders, no control characters.

    >>> display_name("../../etc/pass\\x1bwd.wav")
    'passwd.wav'
    """
    bare = re.split(r"[/\\]", name)[-1]
    printable = "".join(c for c in bare if c.isprintable()).strip(" .")
    if len(printable) > 120:  # keep the ending, which tells the format
        printable = printable[:100] + "…" + printable[-19:]
    return printable or "recording"


# Reading


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """What the system says of a file that cannot be read, in a sentence."""
    try:
        yield
    except OSError as error:
        raise AudioError(f"{name} cannot be read: {error.strerror or error}.") from None


def _opened(file: BinaryIO, name: str, rate: int, longest_s: float) -> Recording:
    try:
        size = file.seek(0, io.SEEK_END)
        decoder = open_decoder(file, name)
        try:
            told = decoder.announced_s
            if told is not None and told > longest_s and size > _LEAST_BYTES_A_SECOND * told:
                raise _too_long(name, longest_s)
            position = file.tell()  # where the decoder goes on
            began = recorded.began(file, name, decoder.comment)
            file.seek(position)
            again = partial(open_decoder, file, name)
            return Recording(
                decoder, again, name, rate=rate, longest_s=longest_s, recorded=began, close=file.close
            )
        except BaseException:
            decoder.close()
            raise
    except BaseException:
        file.close()
        raise


def _whole(recording: Recording) -> Clip:
    waveform = bytearray()  # grows in place, by what was really decoded
    for block in recording.blocks():
        waveform.extend(block.tobytes())
    return Clip(
        recording.name,
        np.frombuffer(waveform, dtype=np.float32),
        recording.duration_s,
        recording.source_rate_hz,
        recording.source_channels,
        recording.notes,
        recording.recorded,
        recording.rate,
    )


def _too_long(name: str, longest_s: float) -> AudioError:
    return AudioError(f"{name} is longer than {duration(longest_s)}; cut it into recordings of at most that.")


class Recording:
    """A recording that is read once, from its start to its end, in bounded memory; a context manager.

    Args:
        decoder: of its content; again: opens it once more. Where samples may be anything (floats), what their
            full scale is, and whether all are finite, is known after all were seen.
        name: what to call it; rate: Hz, of the waveform that it gives; longest_s: a longer one is refused.
        recorded: when it began; close: called when it was read.

    Attributes:
        source_rate_hz, source_channels: as it came.
        duration_s, notes: as far as it was read; see `Clip`.

    Raises:
        AudioError: the rate is no recording's.
    """

    def __init__(
        self,
        decoder: Decoder,
        again: Callable[[], Decoder],
        name: str,
        *,
        rate: int = SAMPLE_RATE,
        longest_s: float = float("inf"),
        recorded: datetime | None = None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.name, self.rate, self.recorded = name, rate, recorded
        self._decoder, self._again, self._close, self._longest_s = decoder, again, close, longest_s
        self.source_rate_hz, self.source_channels = int(self._decoder.rate), self._decoder.channels
        self._tally = _Tally()
        if not MIN_RATE_HZ <= self.source_rate_hz <= MAX_RATE_HZ:
            raise AudioError(
                f"{name} has a sample rate of {self.source_rate_hz} Hz; "
                f"{MIN_RATE_HZ:,} to {MAX_RATE_HZ:,} Hz are accepted."
            )

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the file; what was read stays known."""
        self._decoder.close()
        self._close()

    @property
    def announced_s(self) -> float | None:
        """How long the header says that it is; None where that is not known."""
        return self._decoder.announced_s

    @property
    def duration_s(self) -> float:
        return self._tally.frames / self.source_rate_hz

    @property
    def notes(self) -> tuple[str, ...]:
        found = self._tally.notes(self.source_channels)
        if self.duration_s * self.rate < WINDOW_S * self.rate - 1:
            found.append(f"Shorter than {WINDOW_S:g} s ({duration(self.duration_s)}): padded with silence.")
        return (*self._decoder.notes, *found)

    def blocks(self) -> Iterator[np.ndarray]:
        """The waveform, float32 [m] in [-1, 1], mono, at `rate`; can be read once.

        Raises:
            AudioError: it is too long, holds no samples or such as are not finite, or cannot be read.
        """
        with _explained(self.name):
            try:
                yield from self._waveform()
            finally:
                self.close()

    def _waveform(self) -> Iterator[np.ndarray]:
        tally = self._tally
        if self._decoder.floats:
            tally.scale = self._full_scale()
            self._decoder.close()
            self._decoder = self._again()
        resampler = (
            soxr.ResampleStream(self.source_rate_hz, self.rate, 1, dtype="float32")
            if self.source_rate_hz != self.rate
            else None
        )
        mixdown = _Mixdown(self.source_channels)
        given = 0
        for block in self._bounded():
            mono = mixdown(tally.take(block))
            tally.inverted = mixdown.inverted
            waveform = resampler.resample_chunk(mono) if resampler else mono
            given += len(waveform)
            yield np.clip(waveform, -1.0, 1.0)
        if resampler and tally.frames:
            rest = resampler.resample_chunk(np.empty(0, dtype=np.float32), last=True)
            given += len(rest)
            yield np.clip(rest, -1.0, 1.0)
        if not given:
            held = "no samples (it may have been cut off)"
            if tally.frames:
                held = f"only {tally.frames} samples at {self.source_rate_hz:,} Hz"
            raise AudioError(f"{self.name} holds {held}; {ACCEPTED}.")

    def _bounded(self) -> Iterator[np.ndarray]:
        """Blocks [m, channels] of finite samples, until it is too long."""
        frames = not_finite = first = 0
        for block in self._decoder.blocks():
            finite = np.isfinite(block)
            if not finite.all():
                if not not_finite:
                    first = frames + int(np.argmin(finite.all(axis=1)))
                not_finite += int(finite.size - np.count_nonzero(finite))
            frames += len(block)
            if frames > self._longest_s * self.source_rate_hz:
                raise _too_long(self.name, self._longest_s)
            if not not_finite:  # only counting from here on
                yield block
        if not_finite:
            raise AudioError(
                f"{self.name} has {not_finite:,} samples that are NaN or infinite, the first at "
                f"{first / self.source_rate_hz:.3f} s; only finite samples are accepted."
            )

    def _full_scale(self) -> float:
        """What the samples are to be divided by: 1, or the full scale of the integers that they are."""
        peak = max((float(np.abs(block).max(initial=0.0)) for block in self._bounded()), default=0.0)
        if peak <= _SURELY_INTEGERS:
            return 1.0
        return next((scale for scale in _INTEGER_SCALES if peak <= scale), _INTEGER_SCALES[-1])


@dataclass
class _Tally:
    """What was unusual about the samples of a recording so far."""

    frames: int = 0
    full_scale: int = 0
    beyond: int = 0
    peak: float = 0.0
    scale: float = 1.0
    inverted: bool = False

    def take(self, block: np.ndarray) -> np.ndarray:
        """A block [m, channels] as it goes on: with full scale 1, and clipped at it."""
        self.frames += len(block)
        if self.scale > 1.0:
            block = block * np.float32(1 / self.scale)
        magnitude = np.abs(block)
        peak = float(magnitude.max(initial=0.0))
        self.peak = max(self.peak, peak)
        if peak >= _FULL_SCALE:
            self.full_scale += int(np.count_nonzero(magnitude >= _FULL_SCALE))
            self.beyond += int(np.count_nonzero(magnitude > 1.0))
            block = np.clip(block, -1.0, 1.0)
        return block

    def notes(self, channels: int) -> list[str]:
        """A sentence for each."""
        found, samples = [], max(1, self.frames * channels)
        if channels > 1:
            found.append(f"{channels} channels were mixed to one (their mean).")
        if self.inverted:
            found.append("Channels of opposite polarity, which would cancel each other, were inverted.")
        if self.peak == 0:
            found.append("Digital silence: every sample is zero.")
        elif self.peak < _NEARLY_SILENT:
            found.append(f"Nearly silent: the peak is at {20 * np.log10(self.peak):.0f} dBFS.")
        if self.scale > 1.0:
            found.append(
                f"Samples go up to {self.peak * self.scale:.3g}, as integers do: they were divided by "
                f"{self.scale:,.0f}."
            )
        elif self.beyond:
            found.append(
                f"{self.beyond:,} samples were beyond full scale (up to {self.peak:.3g}) and were clipped."
            )
        elif self.full_scale > _CLIPPED_SHARE * samples:
            found.append(f"{self.full_scale / samples:.1%} of the samples are at full scale (clipped).")
        return found


class _Samples:
    """Samples in memory, [n, channels], as a decoder gives them."""

    comment = ""
    announced_s: float | None = None

    def __init__(self, frames: np.ndarray, rate: int) -> None:
        self._frames, self.rate, self.channels = frames, rate, frames.shape[1]
        self.floats = frames.dtype.kind == "f"
        self.notes: list[str] = []

    def blocks(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self._frames), BLOCK_FRAMES):
            yield _as_float(self._frames[start : start + BLOCK_FRAMES])

    def close(self) -> None:
        pass


def _as_float(block: np.ndarray) -> np.ndarray:
    """Integers to [-1, 1) by the full scale of their type; floats as they are. Gives float32."""
    if block.dtype.kind == "f":
        with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
            return block.astype(np.float32)
    scale = 2.0 ** (8 * block.dtype.itemsize - 1)
    offset = scale if block.dtype.kind == "u" else 0.0
    return ((block.astype(np.float64) - offset) / scale).astype(np.float32)


class _Mixdown:
    """Mean of channels, block by block, in which channels of opposite polarity do not cancel.

    A channel that goes against the reference (the loudest channel of the first block with a sound) is
    inverted until it goes with it again. Called with a block float32 [m, channels]; gives float32 [m].
    """

    def __init__(self, channels: int) -> None:
        self.inverted = False
        self._signs = np.ones(channels, dtype=np.float32)
        self._reference: int | None = None

    def __call__(self, block: np.ndarray) -> np.ndarray:
        if block.shape[1] == 1:
            return block.mean(axis=1)
        centred = block - block.mean(axis=0)
        energy = np.einsum("ij,ij->j", centred, centred)
        if self._reference is None and energy.max() > 0.0:
            self._reference = int(energy.argmax())
        if self._reference is not None:
            reference = centred[:, self._reference]
            against = reference @ centred
            size = np.sqrt(energy * energy[self._reference])
            self._signs[against < -_OPPOSED * size] = -1.0
            self._signs[against > _OPPOSED * size] = 1.0
        if (self._signs > 0).all():
            return block.mean(axis=1)
        self.inverted = True
        return (block * self._signs).mean(axis=1)
