"""What a file is by its first bytes, its chunks, and headers reconciled with what is there.

Headers of FLAC, WAV, RF64, W64, AIFF, AU and CAF files announce a length that may be wrong: libsndfile is
given them with the length that the file really has.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

SUFFIXES = frozenset((
    ".wav", ".flac", ".ogg", ".oga", ".mp3", ".opus", ".m4a", ".mp4", ".aac", ".3gp", ".amr", ".caf", ".webm",
    ".mka", ".mkv", ".mov", ".avi", ".flv", ".wma", ".wv", ".aif", ".aiff",
))  # fmt: skip
"""Endings of the names of recordings, in lower case; a file's content decides how it is read."""
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
    (8, b"AVI ", Kind("an AVI recording", "avi")),
    (0, b"FLV\1", Kind("a Flash video (FLV)", "flv")),
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
    """What a file is that begins with these bytes (a few thousand are enough); None if unknown."""
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
        announced: frames that the header announced; None where it announced nothing, or what is in the file.
        notes: what was corrected.
        corrected: whether the length that libsndfile is told is another than the header's.
        share: bytes of sound that the header announces, relative to those that are there, 1 or more.
        counted: False for an MP3 file that does not tell how many frames it has. libsndfile would estimate
            them from the file's size, and stop there: `file` is `LONGER` times as long for it.
    """

    file: FileView
    announced: int | None = None
    notes: tuple[str, ...] = ()
    corrected: bool = False
    share: float = 1.0
    counted: bool = True


def reconcile(file: BinaryIO) -> Reconciled:
    """Correct the length in the header of a file where it differs from what follows."""
    file.seek(0)
    head = file.read(26)
    if head[:4] == b"fLaC" and len(head) == 26 and head[4] & 0x7F == 0:
        fields = int.from_bytes(head[18:26], "big")
        unknown = (fields >> 36 << 36).to_bytes(8, "big")
        return Reconciled(
            FileView(file, patches={18: unknown}), fields & (1 << 36) - 1 or None, corrected=True
        )
    if head[:3] == b"ID3" or head[:1] == b"\xff":
        return _mp3(file, head)
    samples, size = _samples(file, head), file.seek(0, io.SEEK_END)
    if samples is None or samples.length is None or size <= samples.at:
        return Reconciled(FileView(file))
    there, form = size - samples.at, samples.form
    if form and _chunks_follow(file, samples.at + samples.length, size, form):
        return Reconciled(FileView(file))
    order = form.order if form else "big"
    told = min(there + (form.counted if form else 0), _MOST[samples.width])
    patches = {samples.field: told.to_bytes(samples.width, order)}
    if form in (_RIFF, _AIFF):
        patches[4] = min(size - 8, _MOST[4]).to_bytes(4, order)
    view = FileView(file, patches=patches)
    if samples.length >= there:
        return Reconciled(view, share=samples.length / there)
    note = (
        "The header announces no sound, as after a loss of power: all that follows was read."
        if not samples.length
        else "The file goes on behind the end that its header announces: all of it was read."
    )
    return Reconciled(view, None, (note,), corrected=True)


def _mp3(file: BinaryIO, head: bytes) -> Reconciled:
    """Of an MP3 file, whose first frame may tell how many there are (a tag Xing or Info, as LAME writes)."""
    at = 0
    if head[:3] == b"ID3":  # its length has 7 bits a byte
        at = 10 + sum(byte << 7 * i for i, byte in enumerate(reversed(head[6:10])))
    file.seek(at)
    frame = file.read(64)
    tag = max(frame.find(b"Xing"), frame.find(b"Info"))
    if tag >= 0 and len(frame) >= tag + 12 and frame[tag + 7] & 1 and any(frame[tag + 8 : tag + 12]):
        return Reconciled(FileView(file))
    return Reconciled(FileView(file, longer=LONGER), counted=False)


def further_file(file: BinaryIO) -> int | None:
    """Where another file of the same kind begins behind the end of this one, as after `cat a.m4a b.m4a`.

    In WAV, AIFF, CAF and MPEG-4 it is found by their chunks, of which at most `_MOST_CHUNKS` are followed;
    in FLAC, FLV, AMR, WMA and WavPack by the bytes that such a file begins with, in all of the file.
    A W64 file is always read to its end, and an AVI file may go on with a second RIFF.
    """
    file.seek(0)
    head = file.read(len(_WMA))
    for first, beginning in _BEGINNINGS.items():
        if head.startswith(first):
            return _second(file, beginning)
    form = _MPEG4 if head[4:8] == b"ftyp" else _FORMS.get(head[:4], (None,))[0]
    if form in (None, _W64) or head[8:12] == b"AVI ":
        return None
    first = head[4:8] if form is _MPEG4 else head[:4]
    for name, content, _ in chunks(file, form=form):
        at = content - form.name - form.width
        if at and name == first:
            return at
    return None


_WMA = b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c"
_BEGINNINGS = {
    b"fLaC": re.compile(rb"fLaC[\0\x80]\0\0\x22"),  # the length of STREAMINFO
    b"FLV\1": re.compile(rb"FLV\x01[\0\x01\x04\x05]\0\0\0\x09\0\0\0\0"),
    b"#!AMR": re.compile(rb"#!AMR(?:-WB)?\n"),
    _WMA: re.compile(re.escape(_WMA)),
    # length, version 4.2 to 4.16, all samples, the place of the block's first (0), their number, its flags
    b"wvpk": re.compile(rb"wvpk.{4}[\x02-\x10]\x04.{6}\0{4}(?!\0{4}).{4}.[\x08-\x0f\x18-\x1f]", re.DOTALL),
}
"""By a file's first bytes: what the header of every file of the kind looks like, with its constant parts."""
_LONGEST_BEGINNING = 32


def _second(file: BinaryIO, beginning: re.Pattern[bytes]) -> int | None:
    """Where a pattern is found for the second time."""
    file.seek(0)
    known, at, data, seen = -1, 0, b"", 0
    while block := file.read(1 << 20):
        data = data[-_LONGEST_BEGINNING:] + block
        at += len(block)
        for match in beginning.finditer(data):
            where = at - len(data) + match.start()
            if where > known:
                known, seen = where, seen + 1
            if seen == 2:
                return where
    return None


def promised_s(file: BinaryIO) -> float | None:
    """How long a WMA file says that it is, in seconds, which FFmpeg guesses from its size; None if unknown.

    ASF Specification, revision 1.20, §3.2: play duration in units of 100 ns, with the preroll in ms.
    """
    file.seek(0)
    head = file.read(1 << 13)
    at = head.find(_WMA_PROPERTIES)
    if at < 0 or len(head) < at + 92 or head[at + 88] & 1:  # a broadcast does not know it
        return None
    played, preroll = (int.from_bytes(head[at + i : at + i + 8], "little") for i in (64, 80))
    seconds = played / 1e7 - preroll / 1e3
    return seconds if 0.0 < seconds < 1 << 40 else None


_WMA_PROPERTIES = b"\xa1\xdc\xab\x8c\x47\xa9\xcf\x11\x8e\xe4\x00\xc0\x0c\x20\x53\x65"


@dataclass(frozen=True)
class _Form:
    """How the chunks of a file follow each other.

    Attributes:
        first: where the first one is; order: of the bytes of a length; width: bytes of a length.
        align: a chunk begins at a multiple of so many bytes.
        name: bytes of a chunk's name, of which the first four are taken.
        counted: bytes before the content that a length counts too.
        length_first: the length stands before the name.
    """

    first: int
    order: Literal["big", "little"]
    width: int = 4
    align: int = 2
    name: int = 4
    counted: int = 0
    length_first: bool = False


_RIFF, _AIFF, _CAF = _Form(12, "little"), _Form(12, "big"), _Form(8, "big", 8, align=1)
_W64 = _Form(40, "little", 8, align=8, name=16, counted=24)
_MPEG4 = _Form(0, "big", align=1, counted=8, length_first=True)
_FORMS = {
    b"RIFF": (_RIFF, b"data"),
    b"RF64": (_RIFF, b"data"),
    b"FORM": (_AIFF, b"SSND"),
    b"caff": (_CAF, b"data"),
    b"riff": (_W64, b"data"),
}
"""By a file's first bytes: how its chunks follow each other, and which one holds the samples."""
_STREAMED = {0xFFFFFFFF, 0x7FFFFFFF}
"""What programs write in a header while the length is unknown; one of 64 bits is then beyond `_MOST`."""
_MOST = {4: 0xFFFFFFFE, 8: 1 << 48}
"""The largest length, bytes, that a field of so many bytes is believed to tell."""
LONGER = 64
"""More than the ratio of the highest and the lowest bit rate of MP3, 320 and 8 kbit/s."""


@dataclass(frozen=True)
class _DataChunk:
    """The samples of a file: where they begin, announced bytes (None: unknown), and where these are told."""

    at: int
    length: int | None
    field: int
    width: int = 4
    form: _Form | None = None


def _samples(file: BinaryIO, head: bytes) -> _DataChunk | None:
    if head[:4] == b".snd":
        at, length = (int.from_bytes(head[i : i + 4], "big") for i in (4, 8))
        return _DataChunk(at, None if length in _STREAMED else length, 8)
    form, wanted = _FORMS.get(head[:4], (None, b""))
    if form is None:
        return None
    field, width, long = 0, form.width, None
    for name, at, length in chunks(file, form=form):
        if name == b"ds64" and head[:4] == b"RF64":  # lengths of 64 bits: of the file, of the samples
            file.seek(at + 8)
            field, width, long = at + 8, 8, int.from_bytes(file.read(8), "little")
        if name == wanted:
            told = length if long is None else long
            unknown = told > _MOST[width] or (width == 4 and told in _STREAMED)
            return _DataChunk(at, None if unknown else told, field or at - width, width, form)
    return None


def _chunks_follow(file: BinaryIO, at: int, size: int, form: _Form) -> bool:
    """Whether the rest of a file is chunks up to its end, or only a few bytes of padding."""
    at += -at % form.align
    for _, content, length in chunks(file, at, form):
        at = content + length + -length % form.align
    return -1 <= size - at < 8


_MOST_CHUNKS = 1000


def chunks(file: BinaryIO, at: int | None = None, form: _Form = _RIFF) -> Iterator[tuple[bytes, int, int]]:
    """Chunks of a file from a position on: name, where the content begins, and its announced length."""
    at = form.first if at is None else at
    size = form.name + form.width
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        header = file.read(size)
        split = form.width if form.length_first else form.name
        name, told = header[:split], header[split:]
        if form.length_first:
            name, told = told, name
        if len(header) < size or not all(32 <= character < 127 for character in name[:4]):
            return
        length, at = int.from_bytes(told, form.order), at + size
        if form.length_first and length == 1:  # 64 bits follow
            length = int.from_bytes(file.read(8), form.order)
        length = max(0, length - form.counted)
        yield name[:4], at, length
        at += length + -length % form.align
        if at > _MOST[8]:
            return


_ID3_BYTES = 128
"""Of the tag that libmpg123 reads at the end of a file (ID3v1), before it believes in the file's length."""


class FileView(io.RawIOBase):
    """A file from a position on, in which a few bytes may read differently.

    Decoders call it from C, where an exception would be printed and lost: a read that fails ends the file,
    and `error` keeps the reason.

    Args:
        file: seekable; start: where it begins for the reader; patches: what stands at which offset.
        longer: how many times as long as it is the file is said to be, up to 4 GB.

    Attributes:
        end: where it ends for the reader, in the file; None where that does.
    """

    def __init__(
        self, file: BinaryIO, start: int = 0, patches: Mapping[int, bytes] | None = None, longer: int = 1
    ) -> None:
        super().__init__()
        self.error: BaseException | None = None
        self.longer = longer
        self.end: int | None = None
        self._file, self._start, self._patches = file, start, patches or {}
        file.seek(start)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell() - self._start

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            if whence == io.SEEK_END:
                size = self._file.seek(0, io.SEEK_END)
                offset -= 0 if self.end is None else size - self.end
                offset += max(0, min(self.longer * size, _MOST[4]) - size)  # what any file system allows
            at = self._file.seek(offset + (self._start if whence == io.SEEK_SET else 0), whence)
        except (
            ValueError,
            OverflowError,
        ):  # a header that leads nowhere: where it was, which is a failure in C
            at = self._file.tell()
        except OSError as error:
            self.error, at = error, self._start
        return at - self._start

    def readinto(self, buffer: Any) -> int:
        try:
            at = self.tell()
            wanted = len(buffer)
            if self.end is not None:
                wanted = max(0, min(wanted, self.end - self._start - at))
            data = bytearray(self._file.read(wanted))
            if self.longer > 1 and not data and len(buffer) == _ID3_BYTES:  # there is no tag at the end
                data = bytearray(_ID3_BYTES)
        except BaseException as error:  # also Ctrl-C, which must not be lost in C
            self.error = error
            return 0
        for offset, patch in self._patches.items():
            for i, byte in enumerate(patch, start=offset - at):
                if 0 <= i < len(data):
                    data[i] = byte
        buffer[: len(data)] = data
        return len(data)

    def check(self) -> None:
        """Raise what reading failed with, if it did."""
        if self.error is not None:
            raise self.error
