"""Embeddings that came as a table: the CSV of the paper's own code, imported once and used as it is.

Columns `folder, name, label, category, class_id, 0 … D−1`, a row a clip. Needed are `name`, `class_id`, one
of `category` and `label`, and the numbers; others are not used. The target is `class_id`, as in the paper's
code, with the names of whichever of `category` and `label` goes with it one to one; `NAME:categories` and
`NAME:labels` take another of the two. In the paper's ESC-50 these differ: `label` is one of 50 classes,
`class_id` numbers 5 categories.

`folder` gives the official fold where it is a number (or `fold7`). Where all names are those of ESC
(`1-100032-A-0`) or UrbanSound8K (`100032-3-0-0`), they tell the source recording; else each row is its own.

`import_csv` reads the text row by row and writes a folder (`imported.json`, `clips.csv`, `embeddings.npy`) in
a single pass, so that a million rows take no more memory than their names. The numbers are kept in half
precision where that changes no column by more than a hundredth of its deviation (root mean square), else in
single.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from qmoe_core.datasets.esc import CLASSES as ESC_CLASSES
from qmoe_core.datasets.manifest import DatasetClip, Manifest, Problem, Ready, Scan, check, first, printable
from qmoe_core.errors import DatasetError
from qmoe_core.runtime import typed
from qmoe_core.runtime.executor import Progress
from qmoe_core.runtime.files import FULL, put_in_place
from qmoe_core.runtime.store import unfinished

HEADER, CLIPS, ARRAY = "imported.json", "clips.csv", "embeddings.npy"
VERSION = 1
TEXTS = ("folder", "name", "label", "category", "class_id")
ACCEPTED = "folder, name, label, category, class_id, 0 … D−1"
MAX_LINE = 8 * 2**20
"""Characters of a row: 65,536 numbers need two million."""
MAX_DIM = 65_536
ROWS_AT_ONCE = 1024
ROUNDING = 0.01
"""Most that half precision may change a column, as a share of its standard deviation."""

_FOLD = re.compile(r"(?:fold[ _-]?)?(\d{1,3})(?:\.0)?", re.IGNORECASE)
_ESC = re.compile(r"\d-(\d+)-[A-Z]-(\d+)(?:\.\w+)?")
_URBAN = re.compile(r"(\d+)-\d+-\d+-\d+(?:\.\w+)?")


class _ImportHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    version: int
    source: str
    """Name of the CSV."""
    rows: int
    dim: int
    sha256: dict[str, str]


def matches(root: Path) -> bool:
    """Whether the folder is one that `import_csv` made."""
    return (root / HEADER).is_file()


def scan(root: Path, *, target: str = "class_id") -> Scan:
    """Opens an imported table; the numbers stay on disk.

    Args:
        root: folder that `import_csv` made.
        target: the column to classify: `class_id`, `label` or `category`.
    """
    nothing = Manifest(root.name, root, (), (), media="embeddings")
    try:
        header = typed.decode((root / HEADER).read_bytes(), _ImportHeader)
        array = np.load(root / ARRAY, mmap_mode="r", allow_pickle=False)
        texts = _texts(root / CLIPS)
    except (OSError, ValueError, EOFError, csv.Error, msgspec.DecodeError) as error:
        message = f"damaged ({' '.join(str(error).split())}); import the CSV again"
        return Scan(nothing, (Problem("error", HEADER, message),))
    names = texts["name"]
    if header.version != VERSION or not array.shape == (len(names), header.dim) == (header.rows, header.dim):
        return Scan(nothing, (Problem("error", HEADER, "does not fit its files; import the CSV again"),))
    try:
        labels, classes = _target(texts, target)
    except DatasetError as error:
        return Scan(nothing, (Problem("error", CLIPS, str(error)),))
    said = {folder: _FOLD.fullmatch(folder) for folder in set(texts["folder"])}
    numbers = {folder: int(match[1]) for folder, match in said.items() if match}
    numbered = len(numbers) == len(said) and all(numbers.values())
    path = root / ARRAY
    entries = tuple(
        DatasetClip(
            path, f"{folder}/{name}" if folder else name, label, numbers[folder] if numbered else None, source
        )
        for folder, name, label, source in zip(texts["folder"], names, labels, _sources(names), strict=True)
    )
    ready = Ready(path, header.sha256[ARRAY], header.dim)
    name = root.name + {"class_id": "", "label": ":labels", "category": ":categories"}[target]
    manifest = Manifest(name, root, classes, entries, media="embeddings", ready=ready)
    return Scan(manifest, tuple(check(entries, classes, CLIPS)))


def _texts(path: Path) -> dict[str, list[str]]:
    """The columns of `clips.csv`; what is said of many clips is there once."""
    known: dict[str, str] = {}
    columns: dict[str, list[str]] = {column: [] for column in TEXTS}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file, strict=True)
        if next(reader, None) != list(TEXTS):
            raise ValueError(f"{CLIPS} has other columns")
        for row in reader:
            for column, text in zip(TEXTS, row, strict=True):
                columns[column].append(text if column == "name" else known.setdefault(text, text))
    return columns


def damage(root: Path) -> list[Problem]:
    """Files that are not as they were written; reads all of them."""
    header = typed.decode((root / HEADER).read_bytes(), _ImportHeader)
    return [
        Problem("error", name, "does not match its checksum; import the CSV again")
        for name, expected in header.sha256.items()
        if _digest(root / name) != expected
    ]


def _target(texts: dict[str, list[str]], column: str) -> tuple[list[int], tuple[str, ...]]:
    """Each row's label from 0, and what the classes are called.

    Raises:
        DatasetError: rows without a value.
    """
    values = texts[column]
    empty = sum(not value for value in values)
    if empty:
        raise DatasetError(f"{empty} of {len(values)} rows have no {column}; give another target")
    different = sorted(set(values), key=lambda v: (0, int(v), v) if v.isdecimal() else (1, 0, v))
    names = {value: value for value in different}
    for other in ("category", "label") if column == "class_id" else ():
        pairs = set(zip(values, texts[other], strict=True))
        if "" not in texts[other] and len(pairs) == len(different) == len({name for _, name in pairs}):
            names = dict(pairs)
            break
    if column == "label":
        said = map(_ESC.fullmatch, texts["name"])
        if all(match and match[2] == value for match, value in zip(said, values, strict=True)):
            names = {value: (*ESC_CLASSES[int(value) :], value)[0] for value in different}
    index = {value: number for number, value in enumerate(different)}
    return [index[value] for value in values], tuple(names[value] for value in different)


def _sources(names: Sequence[str]) -> Sequence[str]:
    """The recording of each clip, where all names tell it."""
    for pattern in (_ESC, _URBAN):
        if all(map(pattern.fullmatch, names)):
            return [pattern.sub(r"\1", name) for name in names]
    return names


# Importing.


@dataclass
class _Bad:
    """Rows that cannot be used, by what is wrong with them: how many, and the first few."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if len(kept := self.examples.setdefault(kind, [])) < 3:
            kept.append(example)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def __str__(self) -> str:
        kinds = (
            f"{count} {'row' if count == 1 else 'rows'} with {kind} ({', '.join(self.examples[kind])}"
            f"{', …' if count > len(self.examples[kind]) else ''})"
            for kind, count in self.counts.items()
        )
        return "; ".join(kinds)


@dataclass(frozen=True)
class ImportResult:
    """What an import gave.

    Attributes:
        root: the dataset's folder; rows: imported; dim: numbers a row; dtype: `float16` or `float32`.
        skipped: rows left out, by what was wrong with them.
        unused: columns that were not used.
    """

    root: Path
    rows: int
    dim: int
    dtype: str
    skipped: dict[str, int]
    unused: tuple[str, ...]


def import_csv(
    path: Path,
    home: Path,
    name: str | None = None,
    *,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> ImportResult:
    """Imports a CSV as a dataset, completely or not at all.

    Args:
        path: the CSV.
        home: folder that the dataset's own is made in.
        name: of the dataset; that of the file, without its suffix, when None.
        skip_bad: leave out rows that cannot be used, rather than refuse all.
        progress: told of bytes read.

    Raises:
        DatasetError: no such file, not such a table, rows that cannot be used (all are counted first), or a
            dataset of that name that is something else.
    """
    name = path.stem if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise DatasetError(
            f"{printable(name)}: not a name for a dataset; letters, digits, . _ and - are accepted (--name)"
        )
    root = home / name
    if root.exists() and not matches(root):
        raise DatasetError(f"{root}: is another dataset; give the import a name of its own (--name)")
    try:
        home.mkdir(parents=True, exist_ok=True)
        work = unfinished(root)
        work.mkdir()
        try:
            with path.open("rb") as file:
                made = _write(file, path, work, skip_bad, progress)
            put_in_place(work, root)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        place = error.filename or (root if error.errno in FULL else path)
        raise DatasetError(
            f"{printable(place)}: cannot be read or written ({error.strerror or error})"
        ) from None
    return ImportResult(root, *made)


def _write(
    file: BinaryIO, path: Path, work: Path, skip_bad: bool, progress: Progress | None
) -> tuple[int, int, str, dict[str, int], tuple[str, ...]]:
    """One pass over the text; gives what `ImportResult` holds behind its folder."""
    shown, size = printable(path), os.fstat(file.fileno()).st_size
    reader = csv.reader(_lines(file, shown), strict=True)
    try:
        columns = [column.strip() for column in next(reader, [])]
        places, numbers, unused = _columns(columns, shown)
        dim, bad, seen = len(numbers), _Bad(), set[str]()
        rounding = _Rounding(dim)
        rows: list[list[float]] = []
        with (
            (work / CLIPS).open("x", encoding="utf-8", newline="") as clips,
            (work / "float32").open("xb") as values,
        ):
            writer = csv.writer(clips)
            writer.writerow(TEXTS)
            kept = 0

            def flush() -> None:
                array = np.array(rows, dtype=np.float32).reshape(-1, dim)
                rounding.add(array)
                values.write(array.tobytes())
                rows.clear()
                if progress is not None:
                    progress(file.tell(), size, f"{kept:,} rows")

            for row in reader:
                if not row:
                    continue
                texts, values_of_row = _row(
                    row, columns, places, numbers, seen, bad, f"line {reader.line_num}"
                )
                if values_of_row is None:
                    continue
                writer.writerow(texts)
                rows.append(values_of_row)
                kept += 1
                if len(rows) == ROWS_AT_ONCE:
                    flush()
            flush()
    except csv.Error as error:
        raise DatasetError(f"{shown}: line {reader.line_num} is not comma-separated ({error})") from None
    except UnicodeDecodeError:
        raise DatasetError(f"{shown}: not UTF-8 text; a CSV with {ACCEPTED} is expected") from None
    if bad.total and not skip_bad:
        raise DatasetError(
            f"{shown}: {bad}; nothing was imported: mend them, or leave them out with --skip-bad"
        )
    if not kept:
        why = f"none of its rows can be used: {bad}" if bad.total else "has no rows"
        raise DatasetError(f"{shown}: {why}; a row a clip is expected, with {ACCEPTED}")
    dtype = rounding.enough
    _as_npy(work / "float32", work / ARRAY, (kept, dim), dtype)
    _finish(work, path.name, kept, dim)
    return kept, dim, np.dtype(dtype).name, bad.counts, unused


def _finish(work: Path, source: str, rows: int, dim: int) -> None:
    """Write the header, with the checksums of the other files, and flush all of them."""
    digests = {name: _digest(work / name) for name in (CLIPS, ARRAY)}
    header = _ImportHeader("qmoe-embeddings", VERSION, source, rows, dim, digests)
    (work / HEADER).write_bytes(msgspec.json.format(msgspec.json.encode(header), indent=1))
    for name in (CLIPS, ARRAY, HEADER):
        with (work / name).open("rb") as written:
            os.fsync(written.fileno())


def _lines(file: BinaryIO, shown: str) -> Iterator[str]:
    """Lines of text, none of which can fill the memory."""
    encoding = "utf-8-sig"
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise DatasetError(
                f"{shown}: a line is longer than {MAX_LINE >> 20} MiB; one row a clip is expected"
            )
        yield line.decode(encoding)
        encoding = "utf-8"


def _columns(columns: Sequence[str], shown: str) -> tuple[dict[str, int], list[int], tuple[str, ...]]:
    """Where the texts and the numbers 0 … D−1 stand, and the names of all other columns.

    Raises:
        DatasetError: columns are missing, or there twice.
    """
    if not columns:
        raise DatasetError(f"{shown}: is empty; a CSV with {ACCEPTED} is expected")
    twice = sorted({column for column in columns if column and columns.count(column) > 1})
    if twice:
        raise DatasetError(f"{shown}: has the columns {first(twice)} more than once; expected {ACCEPTED}")
    places = {column: columns.index(column) for column in TEXTS if column in columns}
    numbered = {
        int(c): place for place, c in enumerate(columns) if c.isascii() and c.isdigit() and len(c) < 7
    }
    lacking = [column for column in ("name", "class_id") if column not in places]
    if not {"label", "category"} & places.keys():
        lacking.append("category (or label)")
    if not numbered:
        lacking.append("0 … D−1")
    gaps = [str(number) for number in range(max(numbered, default=-1) + 1) if number not in numbered]
    if lacking or gaps:
        raise DatasetError(f"{shown}: lacks the columns {first([*lacking, *gaps], 6)}; expected {ACCEPTED}")
    if len(numbered) > MAX_DIM:
        raise DatasetError(f"{shown}: has {len(numbered):,} numbers a row; at most {MAX_DIM:,} are accepted")
    numbers = [numbered[number] for number in range(len(numbered))]
    used = {*places.values(), *numbers}
    return places, numbers, tuple(c or "(no name)" for place, c in enumerate(columns) if place not in used)


def _row(
    row: Sequence[str],
    columns: Sequence[str],
    places: dict[str, int],
    numbers: Sequence[int],
    seen: set[str],
    bad: _Bad,
    line: str,
) -> tuple[list[str], list[float] | None]:
    """A row's texts, and its numbers unless something is wrong with it, which is then counted."""
    if len(row) != len(columns):
        bad.add(f"another number of columns than the header's {len(columns)}", f"{line}: {len(row)}")
        return [], None
    texts = {column: row[place].strip() for column, place in places.items()}
    unprintable = [column for column, text in texts.items() if not text.isprintable()]
    class_id = texts["class_id"].removesuffix(".0")
    name = "/".join(filter(None, (texts.get("folder"), texts["name"])))
    if not texts["name"] or unprintable or len(name) > 1000:
        bad.add("no printable name, folder, label or category", line)
        return [], None
    if not (class_id.isascii() and class_id.isdigit() and len(class_id) < 10):
        bad.add("a class_id that is no whole number from 0", f"{line}: {_short(class_id)}")
        return [], None
    try:
        values = [float(row[place]) for place in numbers]
        if any("_" in row[place] for place in numbers):  # Python reads 1_0 as 10
            raise ValueError
    except ValueError:
        place = next(place for place in numbers if not _is_number(row[place]))
        what = f"{line}, column {columns[place]}: {_short(row[place])}"
        bad.add("text where a number is expected" if row[place].strip() else "an empty number", what)
        return [], None
    array = np.array(values)
    if not (np.abs(array) <= np.finfo(np.float32).max).all():
        place = numbers[int(np.argmin(np.abs(array) <= np.finfo(np.float32).max))]
        bad.add(
            "NaN, infinity or a number too large", f"{line}, column {columns[place]}: {_short(row[place])}"
        )
        return [], None
    if name in seen:
        bad.add("a name that was there before", f"{line}: {_short(name)}")
        return [], None
    seen.add(name)
    return [class_id if column == "class_id" else texts.get(column, "") for column in TEXTS], values


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _short(text: str) -> str:
    text = printable(text)
    return repr(text if len(text) <= 24 else text[:23] + "…")


class _Rounding:
    """What half precision would do to each column, summed up block by block."""

    def __init__(self, dim: int) -> None:
        self.rows = 0
        self.largest = 0.0
        self.sums = np.zeros((3, dim))  # of values (from the first row), their squares, squared changes

    def add(self, values: np.ndarray) -> None:
        """Take a block, float32 [b, D]."""
        if not len(values):
            return
        if not self.rows:
            self.origin = values[0].astype(np.float64)
        self.rows += len(values)
        self.largest = max(self.largest, float(np.abs(values).max()))
        with np.errstate(over="ignore"):
            change = values.astype(np.float16) - values
        centred = values - self.origin
        self.sums += [
            centred.sum(axis=0),
            np.square(centred).sum(axis=0),
            np.square(change, dtype=np.float64).sum(axis=0),
        ]

    @property
    def enough(self) -> type[np.floating]:
        """The precision that is enough."""
        total, squares, changes = self.sums / max(self.rows, 1)
        variance = np.maximum(squares - np.square(total), 0.0)
        small = self.largest <= float(np.finfo(np.float16).max)
        fine = (changes <= ROUNDING**2 * variance) | (variance == 0)
        return np.float16 if small and fine.all() else np.float32


def _as_npy(raw: Path, path: Path, shape: tuple[int, int], dtype: type[np.floating]) -> None:
    """The numbers as a .npy file, block by block; `raw` is removed."""
    given = np.memmap(raw, np.float32, "r", shape=shape)
    made = np.lib.format.open_memmap(path, "w+", np.dtype(dtype), shape)
    for start in range(0, shape[0], ROWS_AT_ONCE):
        made[start : start + ROWS_AT_ONCE] = given[start : start + ROWS_AT_ONCE]
    made.flush()
    raw.unlink()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
