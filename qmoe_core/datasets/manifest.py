"""The one form of every dataset: clips with a label, an official fold if there is one, and a source.

Two clips have the same *source* when they were cut from the same recording. Folds that put them on
different sides let a model recognise the recording rather than the sound, so the source travels with
every clip (see `splits.leaking_sources`).
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from qmoe_core.audio import containers, pictures
from qmoe_core.config import fingerprint
from qmoe_core.errors import DatasetError

AUDIO_SUFFIXES = containers.SUFFIXES
PICTURE_SUFFIXES = pictures.SUFFIXES

Media = Literal["audio", "pictures", "embeddings"]
"""What a dataset holds: recordings, pictures of Mel spectrograms, or embeddings that are ready."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with a dataset: an `error` makes it unusable, a `warning` its figures doubtful."""

    severity: Literal["error", "warning"]
    file: str
    """The file, and the row where there is one, such as `meta/esc50.csv:17`."""
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"


@dataclass(frozen=True, slots=True)
class DatasetClip:
    """One clip of a dataset."""

    path: Path
    """Its file; of embeddings that are ready, the file with all of them."""
    name: str
    """Path relative to the dataset's audio, with forward slashes; unique within the manifest."""
    label: int
    fold: int | None
    """Number of the official fold, from 1; None where the dataset has none."""
    source: str
    """The recording that the clip was cut from."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the file's content.

        Raises:
            DatasetError: the file cannot be read.
        """
        try:
            stat = self.path.stat()
            return _sha256(self.path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        except OSError as error:
            raise DatasetError(f"{self.path}: cannot be read ({error.strerror or error})") from None


@functools.lru_cache(maxsize=100_000)
def _sha256(path: Path, *_identity: int) -> str:
    # The identity (size, times, inode) is there to miss the cache when a file changes.
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Ready:
    """Embeddings that a dataset came with: a row for each entry, in their order."""

    path: Path
    """A .npy file, float16 or float32 [n, D]."""
    sha256: str
    """Of its content."""
    dim: int

    @property
    def id(self) -> str:
        """What stands where the embedder's id would."""
        return f"imported-{self.sha256[:12]}"


@dataclass(frozen=True)
class Manifest:
    """A dataset: its classes and its clips, in an order that does not depend on the file system."""

    name: str
    """As `open_dataset` takes it, with the target behind a colon where that is not the usual one."""
    root: Path
    classes: tuple[str, ...]
    entries: tuple[DatasetClip, ...]
    licence: str = ""
    citation: str = ""
    media: Media = "audio"
    ready: Ready | None = None
    """Where `media` is `embeddings`."""
    notes: tuple[str, ...] = ()
    """What was left out or guessed, or makes figures doubtful: for whoever trains on it, a sentence each."""

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def labels(self) -> np.ndarray:
        """int64 [n]: index into `classes`."""
        return _constant([entry.label for entry in self.entries])

    @cached_property
    def folds(self) -> np.ndarray | None:
        """int64 [n]: official fold of each clip; None unless every clip has one."""
        folds = [entry.fold for entry in self.entries if entry.fold is not None]
        return _constant(folds) if len(folds) == len(self.entries) else None

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each clip."""
        return tuple(entry.name for entry in self.entries)

    @property
    def sources(self) -> tuple[str, ...]:
        """Source recording of each clip."""
        return tuple(entry.source for entry in self.entries)

    def fingerprint(self) -> str:
        """Address of the dataset's content: the same clips, labels, folds and sources, wherever they lie.

        Raises:
            DatasetError: a file cannot be read.
        """
        if self.ready is not None:
            rows = [(e.name, e.label, e.fold, e.source) for e in self.entries]
            return fingerprint({"classes": self.classes, "rows": rows, "embeddings": self.ready.sha256})
        clips = [(e.name, e.label, e.fold, e.source, e.sha256) for e in self.entries]
        return fingerprint({"classes": self.classes, "clips": clips})


def _constant(values: Sequence[int]) -> np.ndarray:
    array = np.array(values, dtype=np.int64)
    array.flags.writeable = False
    return array


@dataclass(frozen=True)
class Scan:
    """What reading a dataset's folder gave: all that is wrong, and the manifest, usable if no error is."""

    manifest: Manifest
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that make the dataset unusable."""
        return tuple(problem for problem in self.problems if problem.severity == "error")


_VARYING = re.compile(r"'[^']*'|\S+\.\w{2,4}\b(?::\d+)?|\d[\d.,]*")
"""What differs between two messages of one kind: quoted values, names of files, numbers."""
_MANY = 4


def gathered(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """One problem for each kind of which there are many, with their number and examples of where.

    >>> rows = [Problem("error", f"t.csv:{n}", f"fold is '{n}'; expected 1 to 10") for n in range(11, 17)]
    >>> print(*gathered(rows))
    t.csv:11: fold is '11'; expected 1 to 10 (and 5 more of this kind: t.csv:12, t.csv:13, t.csv:14, …)
    >>> len(gathered(rows[:4]))
    4
    """
    kinds: dict[tuple[str, ...], list[Problem]] = {}
    for problem in problems:
        table, _, line = problem.file.rpartition(":")
        row = bool(table) and line.isdigit()
        kind = (problem.severity, table if row else "", _VARYING.sub("…", problem.message))
        kinds.setdefault(kind, []).append(problem)
    found = []
    for one, *more in kinds.values():
        if len(more) < _MANY:
            found += [one, *more]
        else:
            where = f" (and {len(more)} more of this kind: {first([p.file for p in more])})"
            found.append(replace(one, message=one.message + where))
    return tuple(found)


def check(entries: Sequence[DatasetClip], classes: Sequence[str], where: str) -> list[Problem]:
    """Problems that any layout can have: too few classes, clips or folds, and recordings that cross folds.

    Args:
        entries: the clips found.
        classes: class names; `DatasetClip.label` counts from 0 in them.
        where: file or folder to name in the messages.
    """

    problems = []
    counts = Counter(entry.label for entry in entries)
    if not entries:
        return [Problem("error", where, "no clips; at least two classes of two clips each are needed")]
    if len(counts) == 1:
        only = classes[next(iter(counts))]
        problems.append(Problem("error", where, f"one class only ({only}); at least two are needed"))
    problems += [
        Problem(
            "warning" if counts[label] else "error",  # one can still be embedded
            where,
            f"class {name} has too few clips ({counts[label]}); training needs at least two of every class",
        )
        for label, name in enumerate(classes)
        if counts[label] < 2
    ]
    numbered = {entry.fold for entry in entries if entry.fold is not None}
    if len(numbered) == 1:
        message = f"all clips are in fold {numbered.pop()}; the protocol `official` needs at least two folds"
        problems.append(Problem("warning", where, message))
    homes: dict[str, set[int]] = {}
    for entry in entries:
        if entry.fold is not None:
            homes.setdefault(entry.source, set()).add(entry.fold)
    crossing = sorted(source for source, folds in homes.items() if len(folds) > 1)
    if crossing:
        message = (
            f"source recordings in more than one fold: {len(crossing)} ({first(crossing)}); scores under "
            "official folds will be too high, the protocol `grouped` keeps recordings together"
        )
        problems.append(Problem("warning", where, message))
    return problems


def printable(text: object) -> str:
    """A path or name as it may be shown in a message: control characters and stray bytes are escaped.

    >>> print(printable("line" + chr(10) + "feed.wav"))
    line\\nfeed.wav
    """
    return str(text) if str(text).isprintable() else ascii(str(text))[1:-1]


def first(names: Sequence[str], count: int = 3) -> str:
    """The first few of a list, for a message."""
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")
