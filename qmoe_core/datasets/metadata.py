"""Tables of metadata: comma-separated, UTF-8, a row a clip, checked before they are believed."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from qmoe_core.datasets.manifest import AUDIO_SUFFIXES, Problem
from qmoe_core.runtime import system

MAX_BYTES = 64 * 2**20  # ESC-50's is 100 kB, UrbanSound8K's 600 kB


def read(
    root: Path, table: str, columns: Sequence[str]
) -> tuple[list[tuple[str, dict[str, str]]], list[Problem]]:
    """Reads a table.

    Args:
        root: folder of the dataset; table: the file in it; columns: those that are needed.

    Returns:
        For each row where it is (`table:line`) and its needed values without spaces around them; and what is
        wrong with the table as a whole, in which case there are no rows.
    """

    def refuse(message: str) -> tuple[list[tuple[str, dict[str, str]]], list[Problem]]:
        return [], [Problem("error", table, message)]

    try:
        if (root / table).stat().st_size > MAX_BYTES:
            return refuse(f"larger than {MAX_BYTES // 2**20} MiB; one row a clip is expected")
        text = system.content(root / table, MAX_BYTES).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        lacking = [column for column in columns if column not in (reader.fieldnames or ())]
        if lacking:
            return refuse(f"lacks the columns {', '.join(lacking)}; expected {', '.join(columns)}")
        rows = [
            (f"{table}:{reader.line_num}", {column: (row[column] or "").strip() for column in columns})
            for row in reader
        ]
    except UnicodeDecodeError:
        return refuse("not UTF-8 text; a comma-separated table is expected")
    except csv.Error as error:
        return refuse(f"not a comma-separated table ({error})")
    except OSError as error:
        return refuse(f"cannot be read ({error.strerror or error})")
    return rows, []


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
    if Path(name).suffix.lower() not in AUDIO_SUFFIXES:
        return [f"{column} is {name!r}; expected one that ends in {', '.join(sorted(AUDIO_SUFFIXES))}"]
    return []


def wrong_text(column: str, text: str) -> list[str]:
    """What is wrong with a name, if anything."""
    return [] if text and text.isprintable() else [f"{column} is {text!r}; expected printable text"]


def is_count(text: str) -> bool:
    """Whether it is a whole number from 0."""
    return text.isascii() and text.isdigit() and len(text) <= 9
