"""Many recordings: found in folders, judged one after the other, and kept so that a stopped run goes on.

Beside the results lies a journal of JSON lines: first what the run is (bundle, settings, format), then a line
for every input that is done. A recording's own file is complete before its line is written, so whatever kills
the run, the next one goes on behind the last line: nothing is lost and nothing is there twice.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from qmoe_core.errors import StoreError, UserError, safe
from qmoe_core.runtime import system, typed
from qmoe_core.verdicts import Format, Verdict, shown

JOURNAL = "inputs.jsonl"
VERSION = 1


@dataclass(frozen=True)
class Source:
    """An input.

    Attributes:
        path: as it is shown and opened; place: of its results, relative to the folder of all.
        error: why it cannot be opened, where that is known already.
    """

    path: str
    place: Path
    error: str | None = None


def sources(paths: Sequence[str], suffixes: frozenset[str]) -> list[Source]:
    """The inputs that are named, and all recordings in the folders that are named, nested ones included.

    Hidden files and folders are left out; links are followed, each folder once.

    Args:
        paths: as they were given; suffixes: endings of the names of recordings, in lower case.
    """
    found: list[Source] = []
    folders = [path for path in paths if path != "-" and Path(path).is_dir()]
    for path in paths:
        if path in folders:
            home = Path(Path(path).resolve().name) if len(folders) > 1 else Path()
            inside = list(_inside(Path(path), home, suffixes))
            nothing = f"{safe(path)} holds no recordings; looked for names ending in {_listed(suffixes)}"
            found += inside or [Source(path, home, nothing)]
        else:
            found.append(Source(path, Path(Path(path).name)))
    return found


def _inside(folder: Path, home: Path, suffixes: frozenset[str]) -> Iterator[Source]:
    unreadable: list[OSError] = []
    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, onerror=unreadable.append, followlinks=True):
        place = Path(parent).stat()
        if (place.st_dev, place.st_ino) in seen:
            folders.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in suffixes:
                path = Path(parent, name)
                yield Source(str(path), home / path.relative_to(folder))
    for error in unreadable:
        yield Source(str(error.filename), home, f"{error.filename} cannot be read: {error.strerror}.")


def _listed(suffixes: frozenset[str]) -> str:
    return ", ".join(sorted(suffixes))


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What a journal is of: results of another bundle, other settings or another format do not mix."""

    version: int = VERSION
    format: str
    bundle: str
    settings: str


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """An input that is done: its verdict, how the file was, and the file of results with its size."""

    verdict: Verdict
    size: int = 0
    changed_ns: int = 0
    results: str = ""
    results_bytes: int = 0


class Kept:
    """Results in a folder, a file for every recording, or in one file; goes on where a stopped run was.

    Args:
        out: a folder, or a file with an ending.
        run: what the results are of; form: how they are written.

    Raises:
        UserError: the format does not fit, or what is there is of another run or still being made.
        StoreError: it cannot be written.
    """

    def __init__(self, out: Path, run: Run, form: Format) -> None:
        self.out, self.form = out, form
        self.together = bool(out.suffix) and not out.is_dir()
        if self.together and not form.several:
            raise UserError(f"{safe(str(out))}: a file of this format is of one recording; give a folder")
        self.journal = out.with_name(f"{out.name}.{JOURNAL}") if self.together else out / JOURNAL
        self._done: dict[str, _Line] = {}
        self._taken: dict[str, str] = {}  # places of results, and of which input they are
        with _explained(self.journal):
            self.journal.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.journal.with_name(f".{self.journal.name}.lock"))
        try:
            self._lock.acquire(timeout=0)
        except Timeout:  # an OSError too
            raise UserError(
                f"{safe(str(out))}: another qmoe classify writes there; wait for its end"
            ) from None
        try:
            self._begin(run)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _begin(self, run: Run) -> None:
        with _explained(self.journal):
            lines = self.journal.read_bytes().split(b"\n") if self.journal.exists() else [b""]
        whole = b"".join(line + b"\n" for line in lines[:-1])  # what is behind the last line end was torn off
        for number, line in enumerate(lines[:-1]):
            try:
                if number == 0:
                    there = typed.decode(line, Run)
                    if there != run:
                        raise UserError(
                            f"{safe(str(self.out))}: holds results of another bundle, of other settings or "
                            "in another format; give another name, or remove it"
                        )
                    continue
                done = typed.decode(line, _Line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                raise StoreError(
                    f"{self.journal}: line {number + 1} is damaged; remove it to begin anew"
                ) from None
            self._done[done.verdict.path] = done
            self._taken[done.results] = done.verdict.path
        with _explained(self.journal):
            if lines[-1] or not whole:
                _put(self.journal, whole or msgspec.json.encode(run) + b"\n")

    def has(self, source: Source) -> bool:
        """Whether an input was judged before, and neither it nor its results changed since."""
        done = self._done.get(shown(source.path))
        if done is None or done.verdict.error is not None or not done.changed_ns:
            return False
        if (done.size, done.changed_ns) != state(source):
            return False
        if self.together:
            return True
        with contextlib.suppress(OSError):
            return (self.out / done.results).stat().st_size == done.results_bytes
        return False

    def add(self, source: Source, verdict: Verdict, was: tuple[int, int]) -> None:
        """Keep a verdict: its file first, then its line. `was`: the input's `state` before it was read.

        Raises:
            StoreError: it cannot be written.
        """
        line = _Line(verdict, *was)
        with _explained(self.journal):
            if not self.together:
                results = self._place(source, verdict.path)
                data = "".join(self.form.written([verdict])).encode()
                (self.out / results).parent.mkdir(parents=True, exist_ok=True)
                _put(self.out / results, data)
                small = msgspec.structs.replace(verdict, parts=(), text="", document=Verdict("").document)
                line = _Line(small, line.size, line.changed_ns, results, len(data))
            system.append(self.journal, msgspec.json.encode(line) + b"\n")
        self._done[verdict.path] = line

    def finish(self, inputs: Sequence[Source]) -> None:
        """All inputs are done: write the one file, with their verdicts in that order.

        Raises:
            StoreError: it cannot be written.
        """
        if not self.together:
            return
        paths = dict.fromkeys(shown(source.path) for source in inputs)
        with _explained(self.out):
            work = self.out.with_name(f".{self.out.name}.part")
            with work.open("w", encoding="utf-8", newline="") as file:
                file.writelines(self.form.written(self._done[path].verdict for path in paths))
            work.replace(self.out)

    def _place(self, source: Source, path: str) -> str:
        """Where an input's results go: where they were before, or a name that is no other input's."""
        before = self._done.get(path)
        if before is not None and before.results:
            return before.results
        for number in itertools.count(1):
            again = f"-{number}" if number > 1 else ""
            bare = f"{source.place.name or 'folder'}{again}{self.form.suffix}"
            if self._taken.setdefault(name := (source.place.parent / bare).as_posix(), path) == path:
                return name
        raise AssertionError


def state(source: Source) -> tuple[int, int]:
    """Size and time of change of an input's file; 0 where there is none."""
    with contextlib.suppress(OSError, ValueError):
        found = Path(source.path).stat()
        return found.st_size, found.st_mtime_ns
    return 0, 0


def _put(path: Path, data: bytes) -> None:
    """A file, complete or not at all; what a killed run left is written over."""
    work = path.with_name(f".{path.name}.part")
    work.write_bytes(data)
    work.replace(path)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = safe(str(error.filename or path))
        raise StoreError(f"{where}: cannot be written ({error.strerror or error})") from None


def judge_each(
    inputs: Sequence[Source],
    judge: Callable[[Source], Verdict],
    kept: Kept | None,
    progress: Callable[[int, int, str], None],
) -> Iterator[Verdict]:
    """Judge inputs in their order, but for those that were kept before.

    Yields:
        Verdicts, each after it was kept.
    """
    for number, source in enumerate(inputs, start=1):
        if kept is None or not kept.has(source):
            was = state(source)
            verdict = judge(source)
            if kept is not None:
                kept.add(source, verdict, was)
            yield verdict
        progress(number, len(inputs), Path(source.path).name)
