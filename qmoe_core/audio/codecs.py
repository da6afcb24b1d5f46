"""Decoders: blocks of samples of all that a file holds, whatever its header says.

libsndfile reads WAV, FLAC, Ogg (Vorbis, Opus), MP3 and their like. What phones and browsers record (AAC,
ALAC, WebM, AMR, WMA, …) is decoded by PyAV, FFmpeg in a wheel, where that is installed.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
import soundfile
import soxr

from qmoe_core.audio import containers
from qmoe_core.audio.containers import FileView, Kind
from qmoe_core.errors import AudioError

ACCEPTED = "WAV, FLAC, Ogg and MP3 are accepted"
BLOCK_FRAMES = 65_536
_STREAM_BYTES = 1024
"""A rest shorter than this is a tag or padding, and no further stream."""
_MAX_STREAMS = 1000
_OGG_PAGE = 65_307
"""Bytes of the largest page of an Ogg stream (RFC 3533)."""
_MAX_DAMAGED = 1000
"""Parts that FFmpeg cannot decode, after which it is given up."""
_PADDING_S = 0.5
"""Less than this, a difference from the announced length is what encoders add and leave out."""
_PADDED = ("MPEG", "GSM", "IMA", "MS_", "G72", "NMS")
"""Codecs in a WAV file whose blocks have many samples each, of which the last ones are padding."""


class Decoder(Protocol):
    """A file that is decoded once, from its start to its end.

    Attributes:
        rate: Hz; channels; announced_s: how long the header says that it is, None where that is not known.
        floats: samples are stored as floating point numbers, which may be anything.
        comment: what the recorder wrote into it.
        notes: what is unusual; more are added while it is read.
    """

    rate: int
    channels: int
    announced_s: float | None
    floats: bool
    comment: str
    notes: list[str]

    def blocks(self) -> Iterator[np.ndarray]:
        """Blocks float32 [m, channels] up to the end, or to where the file is damaged.

        Raises:
            OSError: the file cannot be read.
        """
        ...

    def close(self) -> None: ...


def open_decoder(file: BinaryIO, name: str) -> Decoder:
    """The decoder of a recording.

    Args:
        file: seekable; name: what to call it in errors.

    Raises:
        AudioError: it is empty, no sound file, or PyAV is needed and not installed; the sentence says which.
        OSError: it cannot be read.
    """
    file.seek(0)
    head = file.read(1 << 13)
    if not head:
        raise AudioError(f"{name} is empty (0 bytes); {ACCEPTED}.")
    reconciled = containers.reconcile(file)
    try:
        return SoundFile(reconciled, head)
    except (soundfile.SoundFileError, TypeError):  # TypeError: a name ending in .raw, which needs no header
        reconciled.file.check()
    kind = containers.kind_of(head)
    if kind is None:
        raise AudioError(f"{name} is not a sound file that can be read; {ACCEPTED}.")
    if not kind.demuxer:
        raise AudioError(f"{name} is not a sound file that can be read but {kind.name}; {ACCEPTED}.")
    try:
        return FFmpeg(FileView(file), kind)
    except ModuleNotFoundError:
        raise AudioError(
            f"{name} is {kind.name}, which needs PyAV to be read: pip install av, or convert it with "
            "ffmpeg -i INPUT OUTPUT.wav."
        ) from None
    except ValueError:
        raise AudioError(
            f"{name} is not a sound file that can be read: it begins as {kind.name}, and may have been cut "
            f"off; {ACCEPTED}."
        ) from None


class SoundFile:
    """A recording decoded by libsndfile; see `Decoder`.

    An MP3 or Ogg file may hold several streams one after the other, also of different rates: all are decoded,
    and brought to the rate and the channels of the first.

    Args:
        reconciled: the file; head: its first bytes.

    Raises:
        SoundFileError, TypeError: libsndfile cannot read it.
    """

    def __init__(self, reconciled: containers.Reconciled, head: bytes) -> None:
        self._file, self._reconciled, self._head = reconciled.file, reconciled, head
        self._sound = self._open(self._file)
        self.rate, self.channels = self._sound.samplerate, self._sound.channels
        self.floats = self._sound.subtype in ("FLOAT", "DOUBLE")
        self.comment: str = self._sound.comment
        self.notes = list(reconciled.notes)
        frames = self._sound.frames if not reconciled.corrected else reconciled.announced or 0
        frames //= 1 if reconciled.counted else containers.LONGER
        self.announced_s = frames / self.rate if frames and 0 < frames < 1 << 40 else None

    def close(self) -> None:
        self._sound.close()

    def blocks(self) -> Iterator[np.ndarray]:
        """See `Decoder`."""
        frames, damaged = 0, False
        if self._sound.format == "FLAC":
            _end_with_the_first(self._file)
        try:
            for block in self._read(self._sound):
                frames += len(block)
                yield block
        except soundfile.SoundFileError:
            damaged = True
        self._file.longer = 1
        announced = self._reconciled.announced
        if announced is None:
            announced = frames if self._reconciled.corrected else self._announced(frames)
        told, held = duration(announced / self.rate), duration(frames / self.rate)
        padding = _PADDING_S * self.rate if self._sound.subtype.startswith(_PADDED) else 0
        if abs(announced - frames) > padding and told != held:
            self.notes.append(_unlike(told, held, announced > frames))
        elif damaged:
            self.notes.append(f"The file is damaged after {held}; the rest is missing.")
        if not damaged and self._sound.format in ("MP3", "OGG"):
            yield from self._further_streams(frames)
        if self._sound.format == "OGG" and not _ends(cast(BinaryIO, self._file)):
            self.notes.append("The file ends within its stream: it may have been cut off.")
        if self._file.end is not None:
            self.notes.append(_stopped(self._file, self._file.end, held))

    def _open(self, file: FileView) -> soundfile.SoundFile:
        with _without_chatter(self._head):
            return _ForwardOnly(cast(BinaryIO, file))

    def _read(self, sound: soundfile.SoundFile) -> Iterator[np.ndarray]:
        """Blocks up to the end of one stream."""
        buffer = np.empty((BLOCK_FRAMES, sound.channels), dtype=np.float32)
        while True:
            buffer.fill(np.nan)
            try:
                with _without_chatter(self._head):
                    block = sound.read(out=buffer, always_2d=True)
            except soundfile.SoundFileError:  # what was decoded before the damage lies in the buffer
                whole = np.isfinite(buffer).all(axis=1)
                decoded = BLOCK_FRAMES if np.all(whole) else int(np.argmin(whole))
                if decoded:
                    yield buffer[:decoded]
                raise
            self._file.check()
            if not len(block):
                return
            yield block

    def _announced(self, frames: int) -> int:
        """How many frames the header promises, where it is a promise and not an estimate."""
        if self._sound.format == "MP3" and not self._reconciled.counted:
            return frames
        if self._sound.format in ("MP3", "OGG"):
            return max(frames, self._sound.frames)
        if self._reconciled.share > 1.0:
            return round(frames * self._reconciled.share)
        return self._sound.frames

    def _further_streams(self, frames: int) -> Iterator[np.ndarray]:
        """What follows the first stream of a chained Ogg file, or of MP3 files that were joined."""
        file, ogg = cast(BinaryIO, self._file), self._sound.format == "OGG"
        position = file.tell()
        size = file.seek(0, io.SEEK_END)
        kinds: set[tuple[int, int]] = set()
        read = 0
        for _ in range(_MAX_STREAMS):
            if ogg:
                position = _next_ogg_stream(
                    file, position if read else max(1, position - 2 * _OGG_PAGE), size
                )
            if size - position < _STREAM_BYTES:
                break
            rest = containers.reconcile(cast(BinaryIO, FileView(file, position))).file
            try:
                sound = self._open(rest)
            except (soundfile.SoundFileError, TypeError):
                if not _is_tag(file, position):
                    stopped, left = duration(frames / self.rate), size - position
                    self.notes.append(
                        f"Judging stopped at {stopped}: {left:,} bytes follow that could not be read."
                    )
                return
            with sound:
                for mono in self._converted(sound):
                    frames += len(mono)
                    yield np.repeat(mono[:, None], self.channels, axis=1)
                kinds.add((sound.samplerate, sound.channels))
            read += 1
            after = position + rest.tell()
            if after <= position:
                break
            position = position + 1 if ogg else after
        if read:
            changed = "" if kinds <= {(self.rate, self.channels)} else " of different rates or channels"
            self.notes.append(
                f"The file holds {read + 1} streams one after the other{changed}: all were read."
            )

    def _converted(self, sound: soundfile.SoundFile) -> Iterator[np.ndarray]:
        """Blocks float32 [m] of another stream, at this one's rate."""
        converter = soxr.ResampleStream(sound.samplerate, self.rate, 1, dtype="float32")
        with contextlib.suppress(soundfile.SoundFileError):
            for block in self._read(sound):
                yield converter.resample_chunk(block.mean(axis=1))
        yield converter.resample_chunk(np.empty(0, dtype=np.float32), last=True)


class _ForwardOnly(soundfile.SoundFile):
    """A sound file that is only ever read from its start to its end.

    soundfile seeks to the new position after every block of a seekable file. In an MP3 that lands elsewhere,
    and the blocks together are no longer the recording.
    """

    def seekable(self) -> bool:
        return False


_quiet = threading.Lock()
_MPEG_TAGS = (b"P\0", b"U\0")  # of a WAV file with MPEG layers I and II, or III, in it


@contextlib.contextmanager
def _without_chatter(header: bytes) -> Iterator[None]:
    """libmpg123 prints its opinion of damaged MPEG audio on file descriptor 2; keep it off the terminal."""
    at = header.find(b"fmt ") + 8
    in_wave = header.startswith(b"RI") and header[at : at + 2] in _MPEG_TAGS
    if not in_wave and not header.startswith((b"ID3", b"\xff")):
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


def _next_ogg_stream(file: BinaryIO, position: int, size: int) -> int:
    """Where the next logical stream begins: a page with the flag "first page" (RFC 3533, §6), or `size`."""
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
        if len(data) == len(overlap):  # cannot be read any further
            break
        position = base + len(data)
        overlap = data[-5:]
    return size


def _ends(file: BinaryIO) -> bool:
    """Whether the last page of an Ogg file has the flag "last page" (RFC 3533, §6)."""
    file.seek(max(0, file.seek(0, io.SEEK_END) - _OGG_PAGE))
    tail = file.read(_OGG_PAGE)
    at = tail.rfind(b"OggS\0")
    return 0 <= at < len(tail) - 5 and bool(tail[at + 5] & 4)


def _is_tag(file: BinaryIO, position: int) -> bool:
    """Whether what follows is a tag of a music player, and no sound."""
    file.seek(position)
    return file.read(8).startswith((b"TAG", b"APETAGEX", b"LYRICS", b"ID3", b"\0\0\0\0"))


class FFmpeg:
    """A recording decoded by PyAV; see `Decoder`. A part in another rate or layout is brought to the first's.

    Args:
        file: the recording; kind: what it is. The demuxer is named, so that no playlist or script of
            FFmpeg's, which could name other files, is ever taken for a recording.

    Raises:
        ModuleNotFoundError: PyAV is not installed. ValueError: it holds no sound that FFmpeg can read.
    """

    def __init__(self, file: FileView, kind: Kind) -> None:
        import av
        import av.logging
        from av.error import FFmpegError

        av.logging.set_level(None)  # what FFmpeg says of a file is not for the terminal
        self._file = file
        _end_with_the_first(file)  # now, since FFmpeg reads ahead
        self._errors: tuple[type[Exception], ...] = (FFmpegError, ValueError, EOFError)
        try:
            self._container: Any = av.open(file, format=kind.demuxer, options={"protocol_whitelist": "file"})
        except self._errors:
            file.check()
            raise ValueError("no sound that FFmpeg can read") from None
        streams = self._container.streams.audio
        context = streams[0].codec_context if streams else None
        if context is None or not context.sample_rate or not context.channels:
            self._container.close()
            raise ValueError("no sound that FFmpeg can read")
        self._stream, self._layout = streams[0], context.layout.name
        self.rate: int = context.sample_rate
        self.channels: int = context.channels
        self.floats = str(context.name).startswith("pcm_f")
        self.comment = str(self._container.metadata.get("comment", ""))
        self.notes: list[str] = []
        told = self._told(kind.demuxer)
        self.announced_s = told if told and told > 0 else None
        self._promises = kind.demuxer in _PROMISING  # elsewhere it is an estimate

    def close(self) -> None:
        self._container.close()

    def blocks(self) -> Iterator[np.ndarray]:
        """See `Decoder`."""
        frames = damaged = 0
        packets = self._container.demux(self._stream)
        resampler, form = self._resampler(), None
        packet: Any = True
        while packet is not None and damaged <= _MAX_DAMAGED:
            try:
                packet = next(packets, None)
                decoded = [] if packet is None else packet.decode()
            except self._errors:
                damaged += 1
                continue
            finally:
                self._file.check()
            parts = []
            for frame in decoded:
                shape = (frame.sample_rate, frame.layout.name, frame.format.name)
                if form not in (None, shape):
                    parts += resampler.resample(None)
                    resampler = self._resampler()
                form = shape
                frame.pts = None
                parts += resampler.resample(frame)
            for part in parts if packet is not None else resampler.resample(None):
                block = np.ascontiguousarray(part.to_ndarray().T)
                frames += len(block)
                yield block
        held = frames / self.rate
        if damaged:
            parts = "1 damaged part was" if damaged == 1 else f"{damaged} damaged parts were"
            self.notes.append(f"{parts} left out; {duration(held)} were read.")
        if self._promises and self.announced_s is not None and abs(self.announced_s - held) > _PADDING_S:
            told = duration(self.announced_s)
            self.notes.append(_unlike(told, duration(held), self.announced_s > held))
        if self._file.end is not None:
            self.notes.append(_stopped(self._file, self._file.end, duration(held)))

    def _told(self, demuxer: str) -> float | None:
        """How long it is by its header, seconds."""
        if demuxer == "asf":
            position = self._file.tell()
            told = containers.promised_s(cast(BinaryIO, self._file))
            self._file.seek(position)
            return told
        if demuxer == "avi":  # durations follow the size of the file
            return float(self._stream.frames * self._stream.time_base)
        return self._container.duration and self._container.duration / 1e6

    def _resampler(self) -> Any:
        import av

        return av.AudioResampler(format="fltp", layout=self._layout, rate=self.rate, frame_size=BLOCK_FRAMES)


_PROMISING = ("mov", "matroska", "asf", "avi", "flv", "wv")
"""Demuxers of files whose header says how long they are."""


def _end_with_the_first(file: FileView) -> None:
    """Where another file was joined to one, let its decoder know of the first alone."""
    position = file.tell()
    file.end = containers.further_file(cast(BinaryIO, file))
    file.seek(position)


def _stopped(file: FileView, further: int, held: str) -> str:
    file.end = None
    left = file.seek(0, io.SEEK_END) - further
    return f"Judging stopped at {held}: another file of {left:,} bytes follows in it, which was not read."


def _unlike(told: str, held: str, less: bool) -> str:
    what = "it may have been cut off" if less else "all of it was read"
    return f"The header announces {told}, the file holds {held}: {what}."


def duration(seconds: float) -> str:
    """A length of time in words: 0.05 s, 12.5 s, 3 min, 24 h.

    >>> duration(180), duration(86_400)
    ('3 min', '24 h')
    """
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200 and seconds != 3600:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h"
