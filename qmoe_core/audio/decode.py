"""Recordings: from a file, bytes or samples to a checked mono waveform at 22,050 Hz, cut in 5 s windows.

Whatever comes in is decoded, checked, mixed to one channel and resampled block by block, so that memory
follows the sound that is really there and never what a header announces.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import soundfile
import soxr

from qmoe_core.audio import containers, fitness
from qmoe_core.errors import AudioError

SAMPLE_RATE = 22_050
"""Hz, of every waveform past this module (§3.1: twice the 11,025 Hz the spectrogram reaches up to)."""
WINDOW_S = 5.0
WINDOW_SAMPLES = round(SAMPLE_RATE * WINDOW_S)
TAIL_S = 0.1
"""A remainder shorter than this, seconds, gets no window of its own."""
MAX_DURATION_S = 3600.0
MAX_BYTES = 200 * 2**20
"""Of an upload, which is held in memory; a file on disk is streamed and bounded by its duration alone."""
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000

_ACCEPTED = "WAV, FLAC, Ogg and MP3 are accepted"
_BLOCK_FRAMES = 16_384
_FULL_SCALE = 0.9999  # just under the largest 16-bit sample, 32767 / 32768
_CLIPPED_SHARE = 0.001
_NEARLY_SILENT = 1e-4  # -80 dBFS
_INTEGER_SCALES = (2.0**7, 2.0**15, 2.0**23, 2.0**31)
_SURELY_INTEGERS = 16.0
"""A float recording that goes beyond this many times full scale holds samples scaled as integers."""
_OPPOSED = 0.3
"""Correlation with the first channel below minus this: the channel has the opposite polarity and is
inverted."""
_STREAMED_SIZES = {0xFFFFFFFF, 0x7FFFFFFF}  # what programs write in a WAV header while the length is unknown


@dataclass(frozen=True)
class Clip:
    """A recording, ready to be judged."""

    name: str
    """Safe to print and to use as a file name (see `display_name`)."""
    samples: np.ndarray
    """Waveform, float32 [n] in [-1, 1], mono, at 22,050 Hz."""
    duration_s: float
    source_rate_hz: int
    source_channels: int
    notes: tuple[str, ...] = ()
    """What was done to the recording, or is unusual about it: short sentences."""


@dataclass(frozen=True)
class Window:
    """Five seconds of a clip."""

    start_s: float
    end_s: float
    """At most the clip's duration: a short clip's window is longer than the sound in it."""
    samples: np.ndarray
    """Waveform, float32 [110250]."""

    @cached_property
    def fitness(self) -> fitness.Fitness:
        """Of the sound in it, without what a short clip is padded with; measured when first asked for."""
        n = round((self.end_s - self.start_s) * SAMPLE_RATE)
        return fitness.measure(self.samples[:n], SAMPLE_RATE)

    @property
    def prepared(self) -> np.ndarray:
        """The waveform as an embedder takes it, float32 [110250]: see `fitness.prepare`."""
        n = round((self.end_s - self.start_s) * SAMPLE_RATE)
        if n >= len(self.samples):
            return fitness.prepare(self.samples)
        return np.concatenate([fitness.prepare(self.samples[:n]), self.samples[n:]])


def load(source: str | Path | bytes | BinaryIO, *, name: str | None = None) -> Clip:
    """Read a recording from a path, from the bytes of a file, or from a binary stream.

    Args:
        source: where the recording is. A seekable stream is read from its start.
        name: what to call it; the file's own name by default.

    Raises:
        AudioError: it is missing, empty, too large, too long, no sound file, or has NaN or infinite samples.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        name = display_name(name or path.name)
        if path.is_dir():
            raise AudioError(f"{name} is a folder, not a recording; {_ACCEPTED}.")
        if not path.exists():
            raise AudioError(f"{name} does not exist in {path.parent}.")
        if not path.is_file():
            raise AudioError(f"{name} is not a regular file; {_ACCEPTED}.")
        try:
            with path.open("rb") as file:
                return _load_stream(file, name)
        except OSError as error:
            raise AudioError(f"{name} cannot be read: {error.strerror or error}.") from None
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
    return _load_stream(io.BytesIO(data), name)


def from_samples(samples: np.ndarray, rate: int, *, name: str = "recording") -> Clip:
    """Make a clip of samples already in memory, with the same checks as `load`.

    Args:
        samples: [n] or [n, channels]; floats with full scale 1, or integers with that of their type.
        rate: in Hz.

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
    blocks = (_as_float(frames[i : i + _BLOCK_FRAMES]) for i in range(0, len(frames), _BLOCK_FRAMES))
    return _assemble(blocks, rate, frames.shape[1], name, [])


def resample(x: np.ndarray, from_hz: float, to_hz: float) -> np.ndarray:
    """Change the sample rate of a waveform [n] (soxr, high quality, linear phase).

    Gives float32 of about n · to_hz / from_hz samples, aligned in time with x.
    """
    return soxr.resample(np.ascontiguousarray(x, dtype=np.float32), from_hz, to_hz)


def windows(clip: Clip, hop_s: float = 2.5) -> list[Window]:
    """Cut a clip into windows of 5 s that start every `hop_s` seconds.

    A shorter clip gives one window, padded with zeros at its end. In a longer one the last window ends where
    the clip ends, so that every sample is in a window; only a remainder below `TAIL_S`, such as a codec's
    padding, gets no window of its own. Silence of `fitness.GAP_S` and more parts a longer clip in pieces
    that are
    cut in windows each, so that no window of silence, nor one half of silence, takes part in its verdict;
    where
    there is nothing but silence, the whole clip is cut. Windows of a longer clip that need no preparation
    are views, not copies.
    """
    hop = round(hop_s * SAMPLE_RATE)
    if hop < 1:
        raise ValueError(f"hop_s must be at least one sample, is {hop_s}")
    n = len(clip.samples)
    tail = round(TAIL_S * SAMPLE_RATE)
    if n < WINDOW_SAMPLES:
        padded = np.zeros(WINDOW_SAMPLES, dtype=np.float32)
        padded[:n] = clip.samples
        return [Window(0.0, n / SAMPLE_RATE, padded)]
    found = []
    for begin, end in fitness.sounding(clip.samples, SAMPLE_RATE) if n > WINDOW_SAMPLES + tail else [(0, n)]:
        last = max(begin, end - WINDOW_SAMPLES)
        starts = list(range(begin, last + 1, hop))
        if last - starts[-1] >= tail:
            starts.append(last)
        found += [_window(clip.samples, start, min(end, start + WINDOW_SAMPLES)) for start in starts]
    return found


def _window(waveform: np.ndarray, start: int, end: int) -> Window:
    """The window of a longer clip from `start` to `end`, padded with zeros where that is less than 5 s."""
    samples = waveform[start:end]
    if len(samples) < WINDOW_SAMPLES:
        samples = np.concatenate([samples, np.zeros(WINDOW_SAMPLES - len(samples), dtype=np.float32)])
    return Window(start / SAMPLE_RATE, end / SAMPLE_RATE, samples)


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


# Decoding


class _ForwardOnly(soundfile.SoundFile):
    """A sound file that is only ever read from its start to its end.

    soundfile seeks to the new position after every block of a seekable file. In an MP3 that lands elsewhere,
    and the blocks together are no longer the recording.
    """

    def seekable(self) -> bool:
        return False


_quiet = threading.Lock()


@contextlib.contextmanager
def _without_decoder_chatter(header: bytes) -> Iterator[None]:
    """libmpg123 prints its opinion of a damaged MP3 on file descriptor 2; keep it off the terminal."""
    if not header.startswith((b"ID3", b"\xff")):
        yield
        return
    with _quiet:
        try:
            saved = os.dup(2)
        except OSError:  # there is no standard error to protect
            yield
            return
        try:
            with open(os.devnull, "wb") as sink:  # noqa: PTH123 - a device, not a path
                os.dup2(sink.fileno(), 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _load_stream(file: BinaryIO, name: str) -> Clip:
    head = file.read(1 << 13)
    file.seek(0)
    if not head:
        raise AudioError(f"{name} is empty (0 bytes); {_ACCEPTED}.")
    reconciled = containers.reconcile(file)
    notes = list(reconciled.notes)
    try:
        with _without_decoder_chatter(head):
            sound = _ForwardOnly(reconciled.file)
    except (soundfile.SoundFileError, TypeError):  # TypeError: a name ending in .raw, which needs no header
        return _load_with_ffmpeg(file, containers.kind_of(head), name)
    with sound:
        return _assemble(
            _decode(sound, reconciled, head, notes), sound.samplerate, sound.channels, name, notes
        )


def _load_with_ffmpeg(file: BinaryIO, kind: containers.Kind | None, name: str) -> Clip:
    """Decode what libsndfile does not read.

    Raises:
        AudioError: it is no sound file, a damaged one, or PyAV is not installed; the sentence says which.
    """
    if kind is None:
        raise AudioError(f"{name} is not a sound file that can be read; {_ACCEPTED}.")
    if not kind.demuxer:
        raise AudioError(f"{name} is not a sound file that can be read but {kind.name}; {_ACCEPTED}.")
    file.seek(0)
    try:
        sound = containers.FFmpeg(file, kind)
    except ModuleNotFoundError:
        raise AudioError(
            f"{name} is {kind.name}, which needs PyAV to be read: pip install av, or convert it with "
            "ffmpeg -i INPUT OUTPUT.wav."
        ) from None
    except ValueError:
        raise AudioError(
            f"{name} is not a sound file that can be read: it begins as {kind.name}; {_ACCEPTED}."
        ) from None
    with sound:
        notes: list[str] = []

        def blocks() -> Iterator[np.ndarray]:
            frames = 0
            for block in sound.blocks():
                frames += len(block)
                yield block
            if sound.damaged:
                read = _duration(frames / sound.samplerate)
                notes.append(f"{sound.damaged} damaged parts were left out; {read} were read.")

        return _assemble(blocks(), sound.samplerate, sound.channels, name, notes)


def _blocks(sound: soundfile.SoundFile, head: bytes) -> Iterator[np.ndarray]:
    """Blocks [m, channels] up to the end of the stream, or to where it is damaged."""
    buffer = np.empty((_BLOCK_FRAMES, sound.channels), dtype=np.float32)
    while True:
        with _without_decoder_chatter(head):
            block = sound.read(out=buffer, always_2d=True)
        if not len(block):
            return
        yield block


def _decode(
    sound: soundfile.SoundFile, reconciled: containers.Reconciled, head: bytes, notes: list[str]
) -> Iterator[np.ndarray]:
    """Blocks [m, channels] of what the file really holds; a note where that is not what its header says.

    An MP3 or Ogg file may hold several streams one after the other, also of different rates: all are
    decoded, and
    brought to the rate and the channels of the first.
    """
    frames = 0
    damaged = False
    try:
        for block in _blocks(sound, head):
            frames += len(block)
            yield block
    except soundfile.SoundFileError:
        damaged = True
    announced = reconciled.announced
    if announced is None:
        announced = frames if reconciled.corrected else _announced_frames(sound, frames)
    told, held = _duration(announced / sound.samplerate), _duration(frames / sound.samplerate)
    if announced > frames and told != held:
        notes.append(f"The header announces {told}, the file holds {held}: it may have been cut off.")
    elif announced < frames and told != held:
        notes.append(f"The header announces {told}, the file holds {held}: all of it was read.")
    elif damaged:
        notes.append(f"The file is damaged after {held}; the rest is missing.")
    if not damaged and sound.format in ("MP3", "OGG"):
        yield from _further_streams(sound, reconciled.file, frames, head, notes)


_STREAM_BYTES = 1024
"""A rest shorter than this is a tag or padding, and no further stream."""
_MAX_STREAMS = 1000


def _further_streams(
    first: soundfile.SoundFile, file: BinaryIO, frames: int, head: bytes, notes: list[str]
) -> Iterator[np.ndarray]:
    """What follows the first stream of a chained Ogg file, or of MP3 files that were joined."""
    position = file.tell()
    size = file.seek(0, io.SEEK_END)
    kinds: set[tuple[int, int]] = set()
    read = 0
    for _ in range(_MAX_STREAMS):
        if first.format == "OGG":
            position = _next_ogg_stream(
                file, max(1, position - 2 * _OGG_PAGE if not read else position), size
            )
        if size - position < _STREAM_BYTES:
            break
        rest = _Part(file, position)
        try:
            with _without_decoder_chatter(head):
                sound = _ForwardOnly(cast(BinaryIO, rest))
        except (soundfile.SoundFileError, TypeError):
            if not _is_tag(file, position):
                stopped = _duration(frames / first.samplerate)
                notes.append(
                    f"Judging stopped at {stopped}: {size - position:,} bytes follow that could not be read."
                )
            return
        with sound:
            converter = soxr.ResampleStream(sound.samplerate, first.samplerate, 1, dtype="float32")
            with contextlib.suppress(soundfile.SoundFileError):
                for block in _blocks(sound, head):
                    mono = converter.resample_chunk(block.mean(axis=1))
                    frames += len(mono)
                    yield np.repeat(mono[:, None], first.channels, axis=1)
            mono = converter.resample_chunk(np.empty(0, dtype=np.float32), last=True)
            frames += len(mono)
            yield np.repeat(mono[:, None], first.channels, axis=1)
            kinds.add((sound.samplerate, sound.channels))
        read += 1
        after = position + rest.tell()
        if after <= position:
            break
        position = after if first.format == "MP3" else position + 1
    if read:
        changed = "" if kinds <= {(first.samplerate, first.channels)} else " of different rates or channels"
        notes.append(f"The file holds {read + 1} streams one after the other{changed}: all were read.")


_OGG_PAGE = 65_307
"""Bytes of the largest page of an Ogg stream (RFC 3533)."""


def _next_ogg_stream(file: BinaryIO, position: int, size: int) -> int:
    """Where the next logical stream begins: a page with the flag "first page" (RFC 3533, §6); `size` if
    nowhere."""
    overlap = b""
    while position < size:
        file.seek(position)
        data = overlap + file.read(1 << 20)
        base = position - len(overlap)
        at = data.find(b"OggS\0")
        while at >= 0:
            if at + 5 < len(data) and data[at + 5] & 2 and base + at > 0:
                return base + at
            at = data.find(b"OggS\0", at + 1)
        position = base + len(data)
        overlap = data[-5:]
    return size


def _is_tag(file: BinaryIO, position: int) -> bool:
    """Whether what follows is a tag of a music player, and no sound."""
    file.seek(position)
    return file.read(8).startswith((b"TAG", b"APETAGEX", b"LYRICS", b"ID3", b"\0\0\0\0"))


class _Part(io.RawIOBase):
    """A file from a position on."""

    def __init__(self, file: BinaryIO, start: int) -> None:
        super().__init__()
        self._file, self._start = file, start
        file.seek(start)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell() - self._start

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset + (self._start if whence == io.SEEK_SET else 0), whence) - self._start

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _announced_frames(sound: soundfile.SoundFile, frames: int) -> int:
    """How many frames the header promises, where it is a promise and not an estimate."""
    if sound.format in ("MP3", "OGG"):
        return frames if sound.format == "MP3" else max(frames, sound.frames)
    size = re.search(r"^data : (\d+) \(should be (\d+)\)", sound.extra_info, re.MULTILINE)
    if size and int(size[1]) not in _STREAMED_SIZES and int(size[2]):
        return round(frames * int(size[1]) / int(size[2]))
    return sound.frames


def _as_float(block: np.ndarray) -> np.ndarray:
    """Integers to [-1, 1) by the full scale of their type; floats as they are. Gives float32."""
    if block.dtype.kind == "f":
        with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
            return block.astype(np.float32)
    scale = 2.0 ** (8 * block.dtype.itemsize - 1)
    offset = scale if block.dtype.kind == "u" else 0.0
    return ((block.astype(np.float64) - offset) / scale).astype(np.float32)


def _assemble(blocks: Iterable[np.ndarray], rate: int, channels: int, name: str, notes: list[str]) -> Clip:
    """Check, mix down and resample blocks [m, channels] float32, and say what was unusual.

    `notes` may grow while the blocks are drawn; what is found here is added behind.
    """
    if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
        raise AudioError(
            f"{name} has a sample rate of {rate} Hz; {MIN_RATE_HZ:,} to {MAX_RATE_HZ:,} Hz are accepted."
        )
    resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32") if rate != SAMPLE_RATE else None
    waveform = bytearray()  # grows in place, by what was really decoded
    frames = full_scale = beyond = not_finite = 0
    first_not_finite = 0
    peak = 0.0
    mixdown = _Mixdown(channels)

    for block in blocks:
        finite = np.isfinite(block)
        if not finite.all():
            if not not_finite:
                first_not_finite = frames + int(np.argmin(finite.all(axis=1)))
            not_finite += int(finite.size - np.count_nonzero(finite))
        frames += len(block)
        if frames > MAX_DURATION_S * rate:
            raise AudioError(
                f"{name} is longer than {_duration(MAX_DURATION_S)}; cut it into recordings of at most that."
            )
        if not_finite:  # only counting from here on
            continue
        magnitude = np.abs(block)
        block_peak = float(magnitude.max(initial=0.0))
        peak = max(peak, block_peak)
        if block_peak >= _FULL_SCALE:
            full_scale += int(np.count_nonzero(magnitude >= _FULL_SCALE))
            beyond += int(np.count_nonzero(magnitude > 1.0))
            if block_peak <= _SURELY_INTEGERS:
                block = np.clip(block, -1.0, 1.0)
        mono = mixdown(block)
        waveform.extend((resampler.resample_chunk(mono) if resampler else mono).tobytes())
    if not_finite:
        raise AudioError(
            f"{name} has {not_finite:,} samples that are NaN or infinite, the first at "
            f"{first_not_finite / rate:.3f} s; only finite samples are accepted."
        )
    if resampler and frames:
        waveform.extend(resampler.resample_chunk(np.empty(0, dtype=np.float32), last=True).tobytes())
    if not waveform:
        held = f"only {frames} samples at {rate:,} Hz" if frames else "no samples"
        cut_off = " (it may have been cut off)" if not frames else ""
        raise AudioError(f"{name} holds {held}{cut_off}; {_ACCEPTED}.")

    duration_s = frames / rate
    if channels > 1:
        notes.append(f"{channels} channels were mixed to one (their mean).")
    if mixdown.inverted:
        notes.append("Channels of opposite polarity, which would cancel each other, were inverted before.")
    if peak == 0:
        notes.append("Digital silence: every sample is zero.")
    elif peak < _NEARLY_SILENT:
        notes.append(f"Nearly silent: the peak is at {20 * np.log10(peak):.0f} dBFS.")
    scale = (
        next((s for s in _INTEGER_SCALES if peak <= s), _INTEGER_SCALES[-1])
        if peak > _SURELY_INTEGERS
        else 1.0
    )
    if scale > 1.0:
        notes.append(f"Samples go up to {peak:.3g}, as integers do: they were divided by {scale:,.0f}.")
    elif beyond:
        notes.append(f"{beyond:,} samples were beyond full scale (up to {peak:.3g}) and were clipped.")
    elif full_scale > _CLIPPED_SHARE * frames * channels:
        notes.append(f"{full_scale / (frames * channels):.1%} of the samples are at full scale (clipped).")
    if len(waveform) // 4 < WINDOW_SAMPLES:
        notes.append(f"Shorter than {WINDOW_S:g} s ({_duration(duration_s)}): padded with silence.")
    samples = np.frombuffer(waveform, dtype=np.float32)
    if scale > 1.0:
        samples *= np.float32(1 / scale)
    np.clip(samples, -1.0, 1.0, out=samples)
    return Clip(name, samples, duration_s, int(rate), channels, tuple(notes))


class _Mixdown:
    """Mean of channels, block by block, in which channels of opposite polarity do not cancel.

    A channel that goes against the reference (the loudest channel of the first block with a sound) is
    inverted
    from then on, until it goes with it again. Called with a block float32 [m, channels]; gives float32 [m].
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


def _duration(seconds: float) -> str:
    """A length of time in words: 0.05 s, 12.5 s, 3 min, 24 h."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200 and seconds != 3600:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h"
