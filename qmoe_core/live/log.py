"""The log of detections: bounded, marked right or wrong, exported, and kept on disk if asked for.

On disk it is one file of JSON lines, appended to in single writes: a detection, or a mark on an earlier one.
Whatever kills the program, what was written before can be read; a torn last line is left out. When the file
has grown to several times its capacity it is written anew, atomically. Sounds lie beside it as FLAC.

Lines may be another version's: fields of a detection that this one does not know, and whole lines that it
does not know, stay in the file, also when that is written anew.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import threading
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import soundfile

from qmoe_core.audio.decode import SAMPLE_RATE
from qmoe_core.errors import StoreError
from qmoe_core.live.detections import Detection
from qmoe_core.runtime import system, typed
from qmoe_core.runtime.files import write_whole
from qmoe_core.runtime.spreadsheets import defused

CAPACITY = 500
SOUNDS_BYTES = 12 << 20
"""Of sounds held in memory; the oldest are let go first, their lines stay."""
FILE, SOUNDS = "detections.jsonl", "sounds"
_COMPACT = 4
"""The file is written anew when it has so many times as many lines as the log has room for."""
_ID = re.compile("[0-9a-f]{32}")

logger = logging.getLogger(__name__)

Mark = Literal["right", "wrong", ""]


class LoggedDetection(msgspec.Struct, frozen=True):
    """A detection in the log: what `Detection` says, where it came from, and what a person says of it."""

    id: str
    source: str
    bundle: str
    start: float
    end: float
    start_s: float
    end_s: float
    label: str
    probability: float
    epistemic: float
    expert: str
    routed: dict[str, float]
    agreeing: dict[str, float]
    accepted: bool
    reason: str
    windows: int
    sound_start: float
    mark: Mark = ""
    prediction_set: list[str] = []


class _Marked(msgspec.Struct, frozen=True):
    id: str
    mark: Mark


@dataclass
class _Kept:
    """What is in a file.

    Attributes:
        entries: with their newest marks.
        more: by id, fields of theirs that are another version's.
        foreign: whole lines that are another version's, as they are.
        lines: how many the file has of this version's.
    """

    entries: list[LoggedDetection] = field(default_factory=list)
    more: dict[str, dict[str, Any]] = field(default_factory=dict)
    foreign: list[bytes] = field(default_factory=list)
    lines: int = 0


def iso(at: float) -> str:
    """A time of day with milliseconds and time zone.

    >>> iso(0.5)[-13:-3] in iso(0.5)
    True
    """
    return datetime.fromtimestamp(at).astimezone().isoformat(timespec="milliseconds")


def clock(at: float) -> str:
    """The time of day to a tenth of a second, in this machine's time zone."""
    text = datetime.fromtimestamp(at).strftime("%H:%M:%S.%f")
    return text[:-5]


def day(at: float) -> str:
    """The date, in this machine's time zone.

    >>> len(day(0.0))
    10
    """
    return datetime.fromtimestamp(at).date().isoformat()


def zone() -> str:
    """This machine's time zone, as its offset.

    >>> zone()[:3]
    'UTC'
    """
    offset = datetime.now().astimezone().strftime("%z")
    return f"UTC{offset[:3]}:{offset[3:5]}"


def flac(samples: np.ndarray) -> bytes:
    """A waveform [n] at 22,050 Hz as a FLAC file of 16 bits."""
    file = io.BytesIO()
    soundfile.write(file, np.clip(samples, -1.0, 1.0), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


class Log:
    """The newest detections, oldest first.

    Args:
        capacity: lines kept; sounds_bytes: of sounds kept in memory.
        folder: where to keep them over restarts; None for memory alone.

    Attributes:
        dropped: lines that had to make room.

    Raises:
        StoreError: the folder cannot be read or written.
    """

    def __init__(
        self, capacity: int = CAPACITY, sounds_bytes: int = SOUNDS_BYTES, folder: Path | None = None
    ) -> None:
        self.capacity, self.sounds_bytes, self.folder = capacity, sounds_bytes, None
        self.dropped = 0
        self._entries: dict[str, LoggedDetection] = {}
        self._sounds: dict[str, bytes] = {}
        self._held_bytes = 0
        self._lock = threading.RLock()
        if folder is not None:
            self.keep(folder)

    def keep(self, folder: Path | None) -> None:
        """Keep the log in a folder from now on, what is there already included; None: in memory alone.

        Raises:
            StoreError: the folder cannot be read or written.
        """
        with self._lock:
            if folder is None:
                self.folder = None
                return
            mine = list(self._entries.values())
            with _explained(folder):
                (folder / SOUNDS).mkdir(parents=True, exist_ok=True)
                kept = _read(folder / FILE)
                merged = {entry.id: entry for entry in [*kept.entries, *mine]}
                entries = sorted(merged.values(), key=lambda entry: entry.end)
                self.dropped += max(0, len(entries) - self.capacity)
                self._entries = {entry.id: entry for entry in entries[-self.capacity :]}
                if mine or kept.lines > _COMPACT * self.capacity:
                    self._rewrite(folder, kept)
                for entry_id, sound in self._sounds.items():
                    if entry_id in self._entries:
                        write_whole(folder / SOUNDS / f"{entry_id}.flac", sound)
            self.folder = folder

    def add(self, detection: Detection, *, source: str, bundle: str) -> LoggedDetection:
        """Take a detection in; the oldest makes room."""
        entry = LoggedDetection(
            id=uuid.uuid4().hex,
            source=source,
            bundle=bundle,
            start=detection.start,
            end=detection.end,
            start_s=detection.start_s,
            end_s=detection.end_s,
            label=detection.label,
            probability=detection.probability,
            epistemic=detection.epistemic,
            expert=detection.expert,
            routed=dict(detection.routed),
            agreeing=dict(detection.agreeing),
            accepted=detection.accepted,
            reason=detection.reason,
            windows=detection.windows,
            sound_start=detection.best_start,
            prediction_set=list(detection.prediction_set),
        )
        sound = flac(detection.best)
        with self._lock:
            self._entries[entry.id] = entry
            self._sounds[entry.id] = sound
            self._held_bytes += len(sound)
            if self.folder is not None:
                with _explained(self.folder):
                    write_whole(self.folder / SOUNDS / f"{entry.id}.flac", sound)
                    self._append(entry)
            while len(self._entries) > self.capacity:
                oldest = next(iter(self._entries))
                del self._entries[oldest]
                self.dropped += 1
                self._forget(oldest)
                if self.folder is not None:
                    with suppress(OSError):
                        (self.folder / SOUNDS / f"{oldest}.flac").unlink()
            while self._held_bytes > self.sounds_bytes:
                self._forget(next(iter(self._sounds)))
        return entry

    def entries(self) -> list[LoggedDetection]:
        """All lines, oldest first."""
        with self._lock:
            return list(self._entries.values())

    def sound(self, entry_id: str) -> bytes | None:
        """The five seconds a detection was surest of, as FLAC; None when it had to make room."""
        with self._lock:
            held = self._sounds.get(entry_id)
            folder = self.folder
        if held is None and folder is not None and _ID.fullmatch(entry_id):
            with suppress(OSError):
                return (folder / SOUNDS / f"{entry_id}.flac").read_bytes()
        return held

    def mark(self, entry_id: str, mark: Mark) -> None:
        """Say that a detection is right or wrong, or take that back."""
        with self._lock:
            if entry_id not in self._entries:
                return
            self._entries[entry_id] = msgspec.structs.replace(self._entries[entry_id], mark=mark)
            if self.folder is not None:
                with _explained(self.folder):
                    self._append(_Marked(entry_id, mark))

    def clear(self) -> None:
        """Empty the log, on disk too."""
        with self._lock:
            gone, self._entries = self._entries, {}
            self._sounds.clear()
            self._held_bytes = self.dropped = 0
            if self.folder is not None:
                with _explained(self.folder):
                    self._rewrite(self.folder, _Kept())
                for entry_id in gone:
                    with suppress(OSError):
                        (self.folder / SOUNDS / f"{entry_id}.flac").unlink()

    def _forget(self, entry_id: str) -> None:
        self._held_bytes -= len(self._sounds.pop(entry_id, b""))

    def _append(self, line: LoggedDetection | _Marked) -> None:
        assert self.folder is not None
        append(self.folder / FILE, msgspec.json.encode(line))

    def _rewrite(self, folder: Path, kept: _Kept) -> None:
        # What is another version's comes first: marks among it are on what was written before.
        known = [kept.more.get(id_, {}) | msgspec.to_builtins(e) for id_, e in self._entries.items()]
        lines = [*kept.foreign, *map(msgspec.json.encode, known)]
        write_whole(folder / FILE, b"".join(line + b"\n" for line in lines))


def append(path: Path, line: bytes) -> None:
    """Add a line to a file in one write, and wait until it is on the disk.

    Raises:
        OSError: it cannot be written.
    """
    # A line torn by a crash must not swallow this one.
    start = b"" if _ends_a_line(path) else b"\n"
    system.append(path, start + line + b"\n", flush=True)


def _ends_a_line(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return True
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
    except FileNotFoundError:
        return True


def _read(path: Path) -> _Kept:
    kept, entries, damaged = _Kept(), dict[str, LoggedDetection](), 0
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return kept
    for line in filter(None, raw.split(b"\n")):
        try:
            fields = typed.decode(line, dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            kept.lines += 1
            damaged += 1
            continue
        read = _known(fields)
        unknown = {name: fields[name] for name in fields.keys() - set(getattr(read, "__struct_fields__", ()))}
        if isinstance(read, LoggedDetection):
            entries[read.id] = read
            kept.more[read.id] = unknown
        elif isinstance(read, _Marked) and read.id in entries:
            entries[read.id] = msgspec.structs.replace(entries[read.id], mark=read.mark)
        if isinstance(read, LoggedDetection) or (isinstance(read, _Marked) and not unknown):
            kept.lines += 1
        else:
            kept.foreign.append(line)
    if damaged:
        logger.warning("%s: %d damaged lines were left out", path, damaged)
    if kept.foreign:
        logger.warning("%s: %d lines of another version are left as they are", path, len(kept.foreign))
    kept.entries = list(entries.values())
    return kept


def _known(fields: dict[str, Any]) -> LoggedDetection | _Marked | None:
    """What a line says, if this version knows."""
    with suppress(msgspec.ValidationError):
        entry = typed.convert(fields, LoggedDetection)
        if _ID.fullmatch(entry.id):
            return entry
    with suppress(msgspec.ValidationError):
        return typed.convert(fields, _Marked)
    return None


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Says a disk's refusal in a sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(
            f"{folder}: the log cannot be kept there ({reason}); it goes on in memory."
        ) from None


# Export

_COLUMNS = (
    *("id", "start", "end", "start_s", "end_s", "label", "probability", "epistemic", "expert", "routed"),
    *(
        "agreeing",
        "accepted",
        "reason",
        "windows",
        "mark",
        "source",
        "bundle",
        "sound",
        "sound_start",
        "prediction_set",
    ),
)


def as_rows(entries: Iterable[LoggedDetection]) -> Iterator[dict[str, Any]]:
    """Entries with their times of day in words and the name of their sound in `as_zip`."""
    for entry in entries:
        row = msgspec.structs.asdict(entry)
        row |= {"start": iso(entry.start), "end": iso(entry.end), "sound_start": iso(entry.sound_start)}
        yield {key: (row | {"sound": sound_name(entry)})[key] for key in _COLUMNS}


def sound_name(entry: LoggedDetection) -> str:
    """What an entry's sound is called in `as_zip`: safe on every system, and in order of time."""
    at = datetime.fromtimestamp(entry.start).strftime("%Y%m%d-%H%M%S")
    label = re.sub(r"[^\w-]+", "_", entry.label, flags=re.ASCII)[:40] or "sound"
    return f"{at}-{label}-{entry.id[:8]}.flac"


def as_json(entries: Iterable[LoggedDetection]) -> str:
    """A list with one object a detection."""
    return json.dumps(list(as_rows(entries)), indent=1, ensure_ascii=False)


def as_csv(entries: Iterable[LoggedDetection]) -> str:
    """A row a detection; what a spreadsheet would run as a formula is defused."""
    out = io.StringIO()
    writer = csv.DictWriter(out, _COLUMNS)
    writer.writeheader()
    for row in as_rows(entries):
        plain = {k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in row.items()}
        writer.writerow({key: defused(value) for key, value in plain.items()})
    return out.getvalue()


def as_zip(log: Log, entries: Sequence[LoggedDetection]) -> bytes:
    """The sounds that are still held, as FLAC, and the log beside them as CSV and JSON."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for entry in entries:
            if (sound := log.sound(entry.id)) is not None:
                archive.writestr(sound_name(entry), sound)
        archive.writestr("detections.csv", as_csv(entries))
        archive.writestr("detections.json", as_json(entries))
    return out.getvalue()
