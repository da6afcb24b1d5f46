"""What a file is by its first bytes, headers reconciled with what is there, and decoding through FFmpeg.

libsndfile reads WAV, FLAC, Ogg (Vorbis, Opus) and MP3. Two of its headers announce a length that may be
wrong; they
are presented to it with the length that the file really has. What phones and browsers record (AAC, ALAC,
WebM, AMR,
WMA, …) is decoded by PyAV, FFmpeg in a wheel, where that is installed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np

SUFFIXES = frozenset((
    ".wav", ".flac", ".ogg", ".oga", ".mp3", ".opus", ".m4a", ".mp4", ".aac", ".3gp", ".amr", ".caf", ".webm",
    ".mka", ".wma", ".aif", ".aiff",
))  # fmt: skip
"""Endings of the names of recordings, in lower case; a file's content decides how it is read."""
_HEAD = 1 << 16
_ADTS = (b"\xff\xf1", b"\xff\xf9")


@dataclass(frozen=True)
class Kind:
    """What a file is: its name in words, and FFmpeg's demuxer for it, empty where there is none."""

    name: str
    demuxer: str


_WAVE = Kind("a WAV file", "wav")
_KINDS = (
    (4, b"ftyp", Kind("an MPEG-4 recording (M4A, MP4, 3GP)", "mov")),
    (0, b"\x1a\x45\xdf\xa3", Kind("a WebM or Matroska recording", "matroska")),
    (0, b"OggS", Kind("an Ogg recording", "ogg")),
    (0, b"caff", Kind("a Core Audio recording (CAF)", "caf")),
    (0, b"#!AMR", Kind("an AMR recording", "amr")),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", Kind("a Windows Media recording (WMA)", "asf")),
    (0, b"fLaC", Kind("a FLAC file", "flac")),
    (0, b"RIFF", _WAVE),
    (0, b"RF64", _WAVE),
    (0, b"ID3", Kind("an MP3 file", "mp3")),
    (0, b"wvpk", Kind("a WavPack file", "wv")),
    (0, b"MAC ", Kind("a Monkey's Audio file", "ape")),
    (0, b"FORM", Kind("an AIFF file", "aiff")),
    (0, b"#!SILK", Kind("a SILK voice message", "")),
    (0, b"PK\x03\x04", Kind("a ZIP archive", "")),
    (0, b"%PDF", Kind("a PDF document", "")),
    (0, b"\x89PNG", Kind("a picture (PNG)", "")),
    (0, b"\xff\xd8\xff", Kind("a picture (JPEG)", "")),
)


def kind_of(head: bytes) -> Kind | None:
    """What a file is that begins with these bytes (a few thousand are enough); None where nothing is
    known."""
    for offset, magic, kind in _KINDS:
        if head[offset : offset + len(magic)] == magic:
            return kind
    if head[:2] in _ADTS:
        return Kind("an AAC stream", "aac")
    if any(_is_mpeg_frame(head, i) for i in range(min(len(head) - 4, 4096))):
        return Kind("an MP3 stream", "mp3")
    return None


def _is_mpeg_frame(data: bytes, at: int) -> bool:
    """Whether two MPEG layer III frames follow each other here."""
    length = _mpeg_frame_length(data[at : at + 4])
    return bool(length) and bool(_mpeg_frame_length(data[at + length : at + length + 4]))


def _mpeg_frame_length(header: bytes) -> int:
    """Bytes of the layer III frame with this header (ISO 11172-3, §2.4.1.3); 0 where it is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    newest = header[1] & 0x18 == 0x18  # MPEG-1; else MPEG-2 or 2.5
    rates = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0)
    lower = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0)
    kbps = (rates if newest else lower)[header[2] >> 4]
    divisor = {0x18: 1, 0x10: 2, 0x00: 4}.get(header[1] & 0x18, 0)
    place = header[2] >> 2 & 3
    if not kbps or place == 3 or not divisor:
        return 0
    rate = (44_100, 48_000, 32_000)[place] // divisor
    return (144 if newest else 72) * kbps * 1000 // rate + (header[2] >> 1 & 1)


@dataclass(frozen=True)
class Reconciled:
    """A file as libsndfile is to read it.

    Attributes:
        file: with the header corrected.
        announced: frames that the header announced, None where it announced nothing (or what is in the file).
        notes: what was corrected.
    """

    file: BinaryIO
    announced: int | None
    notes: tuple[str, ...] = ()
    corrected: bool = False


def reconcile(file: BinaryIO) -> Reconciled:
    """Correct the length in the header of a FLAC or WAV file where it differs from what follows."""
    start = file.tell()
    head = file.read(_HEAD)
    size = file.seek(0, io.SEEK_END)
    file.seek(start)
    if head[:4] == b"fLaC" and len(head) > 26 and head[4] & 0x7F == 0:
        fields = int.from_bytes(head[18:26], "big")
        total = fields & (1 << 36) - 1
        unknown = (fields >> 36 << 36).to_bytes(8, "big")
        return Reconciled(cast(BinaryIO, Patched(file, {18: unknown})), total or None, corrected=True)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return _reconcile_wave(file, head, size)
    return Reconciled(file, None)


def _reconcile_wave(file: BinaryIO, head: bytes, size: int) -> Reconciled:
    at, frame = 12, 0
    while at + 8 <= len(head):
        name, length = head[at : at + 4], int.from_bytes(head[at + 4 : at + 8], "little")
        if name == b"fmt ":
            frame = int.from_bytes(head[at + 20 : at + 22], "little")
        if name == b"data":
            break
        at += 8 + length + length % 2
    else:
        return Reconciled(file, None)
    there = size - at - 8
    if not frame or there <= 0 or length >= there or _chunks_follow(file, at + 8 + length + length % 2, size):
        return Reconciled(file, None)
    patches = {4: (size - 8).to_bytes(4, "little"), at + 4: there.to_bytes(4, "little")}
    note = (
        "The header announces no sound, as after a loss of power: all that follows was read."
        if not length
        else "The file goes on behind the end that its header announces: all of it was read."
    )
    return Reconciled(cast(BinaryIO, Patched(file, patches)), None, (note,), corrected=True)


def _chunks_follow(file: BinaryIO, at: int, size: int) -> bool:
    """Whether the rest of a WAV file is chunks up to its end, or only a few bytes of padding."""
    start = file.tell()
    try:
        while at + 8 <= size:
            file.seek(at)
            header = file.read(8)
            if not all(32 <= c < 127 for c in header[:4]):
                return False
            length = int.from_bytes(header[4:], "little")
            if at + 8 + length > size + 1:
                return False
            at += 8 + length + length % 2
        return True
    finally:
        file.seek(start)


class Patched(io.RawIOBase):
    """A file in which a few bytes read differently.

    Args:
        file: seekable; patches: what stands at which offset.
    """

    def __init__(self, file: BinaryIO, patches: dict[int, bytes]) -> None:
        super().__init__()
        self._file, self._patches = file, patches

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        at = self._file.tell()
        data = bytearray(self._file.read(len(buffer)))
        for offset, patch in self._patches.items():
            for i, byte in enumerate(patch, start=offset - at):
                if 0 <= i < len(data):
                    data[i] = byte
        buffer[: len(data)] = data
        return len(data)


class FFmpeg:
    """A recording decoded by PyAV, read from its start to its end; a context manager.

    Args:
        file: the recording; kind: what it is. The demuxer is named, so that no playlist or script of
            FFmpeg's, which could name other files, is ever taken for a recording.

    Raises:
        ModuleNotFoundError: PyAV is not installed. ValueError: it holds no sound that FFmpeg can read.
    """

    def __init__(self, file: BinaryIO, kind: Kind) -> None:
        import av
        from av.error import FFmpegError

        self._errors: tuple[type[Exception], ...] = (FFmpegError, ValueError, EOFError)
        try:
            self._container: Any = av.open(file, format=kind.demuxer, options={"protocol_whitelist": "file"})
        except self._errors:
            raise ValueError("no sound that FFmpeg can read") from None
        streams = self._container.streams.audio
        if not streams or not streams[0].codec_context or not streams[0].codec_context.sample_rate:
            self._container.close()
            raise ValueError("no sound that FFmpeg can read")
        self._stream = streams[0]
        self.samplerate: int = self._stream.codec_context.sample_rate
        self.channels: int = self._stream.codec_context.channels
        self.damaged = 0

    def __enter__(self) -> FFmpeg:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def blocks(self) -> Iterator[np.ndarray]:
        """Blocks float32 [m, channels]; a part in another rate or layout is converted to the first's."""
        import av

        layout = self._stream.codec_context.layout.name
        resampler = av.AudioResampler(format="fltp", layout=layout, rate=self.samplerate)
        form: tuple[object, ...] | None = None
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                frames = [] if packet is None else packet.decode()
            except self._errors:
                self.damaged += 1
                if self.damaged > 1000:
                    return
                continue
            for frame in frames:
                shape = (frame.sample_rate, frame.layout.name, frame.format.name)
                if form not in (None, shape):
                    for rest in resampler.resample(None):
                        yield rest.to_ndarray().T
                    resampler = av.AudioResampler(format="fltp", layout=layout, rate=self.samplerate)
                form = shape
                frame.pts = None
                for part in resampler.resample(frame):
                    yield np.ascontiguousarray(part.to_ndarray().T)
            if packet is None:
                break
        for rest in resampler.resample(None):
            yield rest.to_ndarray().T
