"""When a recording began: what field recorders write into a file's header or its name.

Read are, in this order: GUANO's timestamp (github.com/riggsd/guano-spec), the comment of an AudioMoth, the
origination of a Broadcast Wave file (EBU Tech 3285) and the file's name. A time without a zone is the
recorder's own clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from typing import BinaryIO

from qmoe_core.audio import containers

_MOST_BYTES = 1 << 16
"""Of a chunk of text."""
_EARLIEST, _LATEST = 1990, 2100
"""Years; what is outside is another number than a date."""
_COMMENT = re.compile(
    r"Recorded at (\d\d):(\d\d):(\d\d)(?:\.\d+)? (\d\d)/(\d\d)/(\d{4}) \(UTC(?:([+-]\d{1,2})(?::?(\d\d))?)?\)"
)
_STAMP = re.compile(r"^Timestamp:\s*(\S.*?)\s*$", re.MULTILINE)
_NAME = re.compile(
    r"(?<!\d)(\d{4})([-_.]?)(\d\d)\2(\d\d)[T_ $-]{1,2}(\d\d)([-_.:h]?)(\d\d)\6(\d\d)(?!\d)"
    r"(Z|[+-]\d\d:?(?:00|15|30|45)(?!\d))?"
)
_HEX = re.compile(r"(?=.*[A-F])[0-9A-F]{8}")
"""Seconds since 1970: names that an AudioMoth's first firmware gave."""


def began(file: BinaryIO, name: str, comment: str = "") -> datetime | None:
    """When a recording began, with a time zone where that is known; None where nothing tells.

    Args:
        file: seekable; name: of the file; comment: what its decoder gives as the recording's comment.

    Raises:
        OSError: the file cannot be read.
    """
    texts = _texts(file)
    for found in (_stamp(texts.get(b"guan", b"")), _comment(comment), _origination(texts.get(b"bext", b""))):
        if found is not None:
            return found
    return in_name(name)


def in_name(name: str) -> datetime | None:
    """The time of day that a file's name tells.

    >>> in_name("site_A_20240501_201500.WAV").isoformat(), in_name("2024-05-01T20-15-00Z.flac").isoformat()
    ('2024-05-01T20:15:00', '2024-05-01T20:15:00+00:00')
    """
    stem = name.rpartition(".")[0] or name
    if found := _NAME.search(stem):
        year, _, month, day, hour, _, minute, second, zone = found.groups()
        iso = f"{year}-{month}-{day}T{hour}:{minute}:{second}{zone or ''}"
        return _iso(iso)
    if _HEX.fullmatch(stem):
        return _plausible(datetime.fromtimestamp(int(stem, 16), UTC))
    return None


def _texts(file: BinaryIO) -> dict[bytes, bytes]:
    """Content of the chunks of a RIFF file in which a time may stand."""
    file.seek(0)
    head = file.read(12)
    if head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
        return {}
    found = {}
    for name, at, length in containers.chunks(file):
        if name in (b"guan", b"bext"):
            file.seek(at)
            found[name] = file.read(min(length, _MOST_BYTES))
    return found


def _stamp(text: bytes) -> datetime | None:
    found = _STAMP.search(text.decode("utf-8", "replace"))
    return _iso(found[1]) if found else None


def _comment(text: str) -> datetime | None:
    found = _COMMENT.search(text)
    if not found:
        return None
    hour, minute, second, day, month, year, zone_hours, zone_minutes = found.groups()
    sign = -1 if (zone_hours or "").startswith("-") else 1
    offset = timedelta(hours=int(zone_hours or 0), minutes=sign * int(zone_minutes or 0))
    return _made((year, month, day, hour, minute, second), timezone(offset) if offset else UTC)


def _origination(chunk: bytes) -> datetime | None:
    """Date and time at bytes 320 and 330 of the chunk `bext`; recorders put various characters between."""
    date, time = chunk[320:330].decode("latin-1"), chunk[330:338].decode("latin-1")
    return _made(re.findall("[0-9]+", f"{date} {time}"))


def _iso(text: str) -> datetime | None:
    try:
        return _plausible(datetime.fromisoformat(text))
    except ValueError:
        return None


def _made(numbers: Iterable[str], zone: timezone | None = None) -> datetime | None:
    try:
        year, month, day, hour, minute, second = map(int, numbers)
        return _plausible(datetime(year, month, day, hour, minute, second, tzinfo=zone))
    except ValueError:
        return None


def _plausible(at: datetime) -> datetime | None:
    return at if _EARLIEST <= at.year < _LATEST else None
