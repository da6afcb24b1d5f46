"""Tables of metadata: a row a clip, checked before they are believed; and where the clips lie that they list.

Tables are separated by commas, semicolons or tabs, and UTF-8; those that spreadsheets write otherwise
(UTF-16, Windows-1252, whole numbers as `3.0`) are read too. Names of columns count without regard to case.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from qmoe_core.datasets.manifest import AUDIO_SUFFIXES, Problem, first
from qmoe_core.runtime import system

MAX_BYTES = 64 * 2**20  # ESC-50's is 100 kB, UrbanSound8K's 600 kB
_DELIMITERS = ",;\t"
_WHOLE = re.compile(r"(\d{1,9})[.,]0+", re.ASCII)
"""A whole number as spreadsheets and pandas write it where a column has gaps."""


def table_in(root: Path, names: Sequence[str]) -> str | None:
    """The first of these tables that a folder has, as a path relative to it."""
    return next((name for name in names if (root / name).is_file()), None)


def read(
    root: Path, table: str, columns: Sequence[str]
) -> tuple[list[tuple[str, dict[str, str]]], list[Problem]]:
    """Reads a table.

    Args:
        root: folder of the dataset; table: the file in it; columns: those that are needed.

    Returns:
        For each row where it is (`table:line`) and its needed values without spaces around them; and what is
        wrong with the table as a whole: after an error there are no rows.
    """

    def refuse(message: str) -> tuple[list[tuple[str, dict[str, str]]], list[Problem]]:
        return [], [Problem("error", table, message)]

    try:
        if (root / table).stat().st_size > MAX_BYTES:
            return refuse(f"larger than {MAX_BYTES // 2**20} MiB; one row a clip is expected")
        text, encoding = _decoded(system.content(root / table, MAX_BYTES))
        header = text.partition("\n")[0].lower()
        delimiter = max(_DELIMITERS, key=lambda mark: len({*columns} & {*_split(header, mark)}))
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        names = {name.strip().lower(): name for name in reversed(reader.fieldnames or ())}
        lacking = [column for column in columns if column.lower() not in names]
        if lacking:
            return refuse(f"lacks the columns {', '.join(lacking)}; expected {', '.join(columns)}")
        rows = [
            (f"{table}:{reader.line_num}", {c: _plain(row[names[c.lower()]]) for c in columns})
            for row in reader
        ]
    except UnicodeDecodeError:
        return refuse("not UTF-8 text; a comma-separated table is expected")
    except csv.Error as error:
        return refuse(f"not a comma-separated table ({error})")
    except OSError as error:
        return refuse(f"cannot be read ({error.strerror or error})")
    guessed = [] if encoding is None else [Problem("warning", table, f"not UTF-8, read as {encoding}")]
    return rows, guessed


def _decoded(data: bytes) -> tuple[str, str | None]:
    """The text, and its encoding where that was guessed.

    Raises:
        UnicodeDecodeError: it has an encoding that it does not keep to.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16"), None
    try:
        return data.decode("utf-8-sig"), None
    except UnicodeDecodeError:
        return data.decode("windows-1252"), "Windows-1252"


def _split(line: str, delimiter: str) -> list[str]:
    return [name.strip().strip('"') for name in line.split(delimiter)]


def _plain(value: str | None) -> str:
    text = (value or "").strip()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


class Clips:
    """Where the clips lie that a table lists: in one of several folders, with the listed suffix or another.

    Args:
        root: of the dataset; homes: folders in it where clips may lie, the first that has any is taken;
            places: listed paths below that folder, with or without the folder of their fold.

    Attributes:
        home: the folder that was taken, relative to `root`.
    """

    def __init__(self, root: Path, homes: Sequence[str], places: Iterable[str]) -> None:
        self.root = root
        self._listings: dict[Path, dict[str, str]] = {}
        self._renamed: dict[str, str] = {}
        places = list(places)
        ways = [(home, flat) for flat in (False, True) for home in homes]
        self.home, self._flat = next(
            (way for way in ways if any(self._found(*way, place) for place in places)), ways[0]
        )
        self._renamed.clear()

    def find(self, place: str) -> Path | None:
        """The file of a listed clip, or None where it is missing."""
        return self._found(self.home, self._flat, place)

    def expected(self, place: str) -> Path:
        """Where the file of a listed clip should be."""
        return self.root / self.home / place

    def unlisted(self, places: Iterable[str]) -> list[str]:
        """Audio files beside those of the listed clips, by their path below the folder of the clips."""
        used = {path for place in places if (path := self.find(place)) is not None}
        home = self.root / self.home
        there = [home, *(path for path in home.glob("*") if path.is_dir() and not self._flat)]
        files = [folder / name for folder in there for name in self._listing(folder).values()]
        return sorted({path.relative_to(home).as_posix() for path in files if path not in used})

    def problems(self, table: str) -> list[Problem]:
        """What was guessed."""
        if not self._renamed:
            return []
        examples = first([f"{name} is {found}" for name, found in sorted(self._renamed.items())])
        message = f"files found under another suffix than listed: {len(self._renamed)} ({examples})"
        return [Problem("warning", table, message)]

    def _found(self, home: str, flat: bool, place: str) -> Path | None:
        parts = PurePosixPath(place)
        folder = self.root / home if flat else self.root / home / parts.parent
        listing = self._listing(folder)
        exact = folder / parts.name
        if exact.name in listing.values():
            return exact
        other = listing.get(parts.stem if parts.suffix.lower() in AUDIO_SUFFIXES else parts.name)
        if other is None:
            return None
        self._renamed[parts.name] = other
        return folder / other

    def _listing(self, folder: Path) -> dict[str, str]:
        """Names of audio files in a folder, by their stem and by themselves."""
        if folder not in self._listings:
            try:
                with os.scandir(folder) as entries:
                    names = sorted(e.name for e in entries if e.is_file() and not e.name.startswith("."))
            except OSError:
                names = []
            names = [name for name in names if Path(name).suffix.lower() in AUDIO_SUFFIXES]
            by_stem = {Path(name).stem: name for name in reversed(names)}
            self._listings[folder] = by_stem | {name: name for name in names}
        return self._listings[folder]


def wrong_filename(column: str, name: str) -> list[str]:
    """What is wrong with the name of an audio file, if anything."""
    # Separators and leading dots could lead out of audio/, control characters into a terminal.
    if (
        not 0 < len(name.encode()) < 256
        or name.startswith(".")
        or not system.is_plain_name(name)
        or not name.isprintable()
    ):
        return [f"{column} is {name!r}; expected the plain name of a file in audio/"]
    if Path(name).suffix.lower() not in AUDIO_SUFFIXES | {""}:
        return [f"{column} is {name!r}; expected one that ends in {', '.join(sorted(AUDIO_SUFFIXES))}"]
    return []


def wrong_text(column: str, text: str) -> list[str]:
    """What is wrong with a name, if anything."""
    return [] if text and text.isprintable() else [f"{column} is {text!r}; expected printable text"]


def is_count(text: str) -> bool:
    """Whether it is a whole number from 0."""
    return text.isascii() and text.isdigit() and len(text) <= 9
