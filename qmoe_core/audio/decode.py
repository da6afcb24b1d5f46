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
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

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
    padding, gets no window of its own. Windows of a longer clip are views, not copies.
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
    last = n - WINDOW_SAMPLES
    starts = list(range(0, last + 1, hop))
    if last - starts[-1] >= tail:
        starts.append(last)
    return [
        Window(s / SAMPLE_RATE, (s + WINDOW_SAMPLES) / SAMPLE_RATE, clip.samples[s : s + WINDOW_SAMPLES])
        for s in starts
    ]


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
    header = file.read(4)
    file.seek(0)
    if not header:
        raise AudioError(f"{name} is empty (0 bytes); {_ACCEPTED}.")
    try:
        with _without_decoder_chatter(header):
            sound = _ForwardOnly(file)
    except (soundfile.SoundFileError, TypeError):  # TypeError: a name ending in .raw, which needs no header
        raise AudioError(f"{name} is not a sound file that can be read; {_ACCEPTED}.") from None
    with sound:
        notes: list[str] = []
        return _assemble(_decode(sound, notes), sound.samplerate, sound.channels, name, notes)


def _decode(sound: soundfile.SoundFile, notes: list[str]) -> Iterator[np.ndarray]:
    """Blocks [m, channels] of what the file really holds; a note when that is less than its header says."""
    buffer = np.empty((_BLOCK_FRAMES, sound.channels), dtype=np.float32)
    frames = 0
    damaged = False
    while True:
        try:
            block = sound.read(out=buffer, always_2d=True)
        except soundfile.SoundFileError:
            damaged = True
            break
        if not len(block):
            break
        frames += len(block)
        yield block
    announced = _announced_frames(sound, frames)
    if announced > frames:
        notes.append(
            f"The header announces {_duration(announced / sound.samplerate)}, the file holds "
            f"{_duration(frames / sound.samplerate)}: it may have been cut off."
        )
    elif damaged:
        notes.append(
            f"The file is damaged after {_duration(frames / sound.samplerate)}; the rest is missing."
        )


def _announced_frames(sound: soundfile.SoundFile, frames: int) -> int:
    """How many frames the header promises, where it is a promise and not an estimate."""
    if sound.format == "MP3":
        return frames
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

    def keep(mono: np.ndarray) -> None:
        waveform.extend(np.clip(mono, -1.0, 1.0).tobytes())

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
            block = np.clip(block, -1.0, 1.0)
        mono = block.mean(axis=1)
        keep(resampler.resample_chunk(mono) if resampler else mono)
    if not_finite:
        raise AudioError(
            f"{name} has {not_finite:,} samples that are NaN or infinite, the first at "
            f"{first_not_finite / rate:.3f} s; only finite samples are accepted."
        )
    if resampler and frames:
        keep(resampler.resample_chunk(np.empty(0, dtype=np.float32), last=True))
    if not waveform:
        held = f"only {frames} samples at {rate:,} Hz" if frames else "no samples"
        cut_off = " (it may have been cut off)" if not frames else ""
        raise AudioError(f"{name} holds {held}{cut_off}; {_ACCEPTED}.")

    duration_s = frames / rate
    if channels > 1:
        notes.append(f"{channels} channels were mixed to one (their mean).")
    if peak == 0:
        notes.append("Digital silence: every sample is zero.")
    elif peak < _NEARLY_SILENT:
        notes.append(f"Nearly silent: the peak is at {20 * np.log10(peak):.0f} dBFS.")
    if beyond:
        notes.append(f"{beyond:,} samples were beyond full scale (up to {peak:.3g}) and were clipped.")
    elif full_scale > _CLIPPED_SHARE * frames * channels:
        notes.append(f"{full_scale / (frames * channels):.1%} of the samples are at full scale (clipped).")
    if len(waveform) // 4 < WINDOW_SAMPLES:
        notes.append(f"Shorter than {WINDOW_S:g} s ({_duration(duration_s)}): padded with silence.")
    samples = np.frombuffer(waveform, dtype=np.float32)
    return Clip(name, samples, duration_s, int(rate), channels, tuple(notes))


def _duration(seconds: float) -> str:
    """A length of time in words: 0.05 s, 12.5 s, 3 min, 24 h."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200 and seconds != 3600:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h"
