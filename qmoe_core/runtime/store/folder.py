"""Entries in a folder: written beside it, flushed, and renamed into place.

An entry lies in `<root>/<kind>/<first two of key>/<key>/`. It is there completely or not at all, whoever is
killed and however many write the same key.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import hashlib
import os
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from qmoe_core.errors import StoreError
from qmoe_core.runtime import system
from qmoe_core.runtime.store.entry import (
    HEADER,
    KEY,
    KIND,
    REASON,
    RESERVED,
    STALE_TMP_S,
    Damaged,
    DamagedEntry,
    FileRecord,
)

HEADER_BYTES = 64 << 20
"""Of a header at most: it names all clips of a data set."""


class Folder:
    """A place (see `entry.Place`) on a file system; any number of processes may use it at once."""

    def __init__(self, root: Path) -> None:
        """
        Args:
            root: absolute; made when something is first written.
        """
        self.root = root

    @property
    def address(self) -> str:
        return str(self.root)

    def location(self, kind: str, key: str) -> Path:
        return self.root / kind / key[:2] / key

    def keys(self, kind: str | None) -> Iterator[tuple[str, str]]:
        kinds = [kind] if kind else [path.name for path in self._folders(self.root)]
        for name in kinds:
            if not KIND.fullmatch(name) or name in RESERVED:
                continue
            for group in self._folders(self.root / name):
                for path in self._folders(group):
                    if KEY.fullmatch(path.name) and path.name.startswith(group.name):
                        yield name, path.name

    def headers(self, kind: str | None, prefix: str = "") -> Iterator[tuple[str, str, Callable[[], bytes]]]:
        for name, key in self.keys(kind):
            if key.startswith(prefix):
                yield name, key, functools.partial(self.header, name, key)

    def header(self, kind: str, key: str) -> bytes:
        path = self.location(kind, key)
        self._refuse_links(path)
        try:
            return system.content(path / HEADER, HEADER_BYTES, links=False)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            if path.is_dir():
                raise Damaged(f"{HEADER} is missing") from None
            if isinstance(error, NotADirectoryError):
                self._explain(error, "read")
            raise
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise Damaged(f"{HEADER}: {error.strerror}") from None
            self._explain(error, "read")

    def _refuse_links(self, path: Path) -> None:
        """An entry is a folder of the store's own: what a link leads to is not the store's to keep or remove.

        Raises:
            Damaged: it is a link.
        """
        if path.is_symlink():
            raise Damaged("it is a link, and no entry")

    def read(self, kind: str, key: str, name: str, record: FileRecord) -> bytes:
        self._refuse_links(self.location(kind, key))
        path = self.location(kind, key) / name
        try:
            size = path.lstat().st_size
            if size != record.size and path.is_file():
                raise Damaged(f"{name} has {size} bytes, {record.size} were written")
            return system.content(path, record.size, links=False)
        except (NotADirectoryError, IsADirectoryError):
            raise FileNotFoundError(path) from None
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise Damaged(f"{name}: {error.strerror}") from None
            self._explain(error, "read")

    def write(self, kind: str, key: str, contents: Mapping[str, bytes]) -> bool:
        destination, scratch = self.location(kind, key), self._unfinished()
        try:
            scratch.mkdir(parents=True)
            for name, data in contents.items():
                with (scratch / name).open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            system.flush_folder(scratch)
            destination.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(scratch, destination)  # noqa: PTH104 (Path.rename would say the same)
            except OSError as error:
                if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                    return False  # somebody was first
                raise
            system.flush_folder(destination.parent)
            return True
        except OSError as error:
            self._explain(error, "written")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def set_aside(self, kind: str, key: str, reason: str, judged: bytes) -> Path | None:
        del judged  # a renaming is one step
        path = self.location(kind, key)
        aside = self.root / "quarantine" / f"{kind}.{key}.{uuid.uuid4().hex[:8]}"
        try:
            aside.parent.mkdir(exist_ok=True)
            os.rename(path, aside)  # noqa: PTH104
        except FileNotFoundError:
            return None
        except OSError as error:
            self._explain(error, "written")
        if aside.is_symlink():
            return aside  # where it leads to is not ours to write to
        with contextlib.suppress(OSError):  # a full disk is no reason to serve damage
            os.utime(aside)
            (aside / REASON).write_text(reason + "\n", encoding="utf-8")
        return aside

    def aside(self, before: float | None = None) -> list[DamagedEntry]:
        found, now = [], time.time()
        for path in self._folders(self.root / "quarantine"):
            if before is not None and _mtime(path, now) > before:
                continue
            kind, _, rest = path.name.partition(".")
            try:
                reason = (path / REASON).read_text(encoding="utf-8", errors="replace").strip()
            except OSError:
                reason = "not recorded"
            found.append(DamagedEntry(kind, rest.partition(".")[0], reason, path))
        return found

    def abandoned(self, now: float) -> list[tuple[Path, int]]:
        found = [path for path in self._folders(self.root / "tmp") if _abandoned(path.name, path, now)]
        return [(path, self.size(path)) for path in found]

    def forget(self, work: Path) -> None:
        self.discard(work)

    def size(self, location: Path) -> int:
        total = 0
        for file in location.rglob("*"):
            with contextlib.suppress(OSError):
                total += file.stat().st_size
        return total

    def discard(self, location: Path) -> None:
        """Takes a folder out of sight in one step before its files go, so that nobody finds half an entry."""
        doomed = self._unfinished()
        try:
            doomed.parent.mkdir(exist_ok=True)
            os.rename(location, doomed)  # noqa: PTH104
            if doomed.is_symlink():
                doomed.unlink()
            else:
                shutil.rmtree(doomed)
        except FileNotFoundError:
            pass  # somebody else removed it
        except OSError as error:
            self._explain(error, "written")

    def scratch(self) -> Path:
        """A new folder for work in progress; what is left of it when its process is gone is `gc`'s to remove.

        Raises:
            StoreError: the folder cannot be written.
        """
        folder = self._unfinished()
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            self._explain(error, "written")
        return folder

    def mark(self, mark: str = "") -> str:
        if mark:
            with contextlib.suppress(OSError):
                os.utime(self.root / "tmp" / mark)
            return mark
        return self.scratch().name

    def marked(self, mark: str) -> bool:
        return (self.root / "tmp" / mark).is_dir()

    def unmark(self, mark: str) -> None:
        shutil.rmtree(self.root / "tmp" / mark, ignore_errors=True)

    def _unfinished(self) -> Path:
        """A new place for work in progress."""
        return self.root / "tmp" / name_of_work()

    def _folders(self, parent: Path) -> list[Path]:
        try:
            return sorted(path for path in parent.iterdir() if path.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            self._explain(error, "read")

    def _explain(self, error: OSError, verb: str) -> NoReturn:
        where = Path(error.filename or self.root)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"{self.root}: the disk is full; free some space, or set QMOE_STORE to a folder elsewhere"
        elif error.errno in (errno.ENOTDIR, errno.EEXIST):
            where = next((path for path in (*reversed(where.parents), where) if path.is_file()), where)
            text = f"{where}: a file where the store needs a folder; set QMOE_STORE to a folder"
        else:
            reason = error.strerror or error
            text = f"{where}: the store cannot be {verb} ({reason}); set QMOE_STORE to a folder that can"
        raise StoreError(text) from error


@functools.cache
def host() -> str:
    """Tells this machine (and container) from others, where this one's process ids mean nothing."""
    return hashlib.sha256(f"{platform.node()} {system.namespace()}".encode()).hexdigest()[:8]


def unfinished(path: Path) -> Path:
    """A new place beside `path` for what will replace it; what killed processes left there is removed."""
    prefix, now = f".{path.name}-", time.time()
    for stale in path.parent.glob(f"{glob.escape(prefix)}*"):
        if _abandoned(stale.name.removeprefix(prefix), stale, now):
            if stale.is_dir():
                shutil.rmtree(stale, ignore_errors=True)
            else:
                stale.unlink(missing_ok=True)
    return path.with_name(prefix + name_of_work())


def name_of_work() -> str:
    """A new name for something unfinished, which tells `_abandoned` whose it is."""
    return f"{host()}-{os.getpid()}-{uuid.uuid4().hex}"


def _abandoned(name: str, path: Path, now: float) -> bool:
    """Whether unfinished work is nobody's any more: its process is gone, or it is a day old.

    Args:
        name: as `name_of_work` gave it; path: of the work; now: seconds since 1970.
    """
    if now - _mtime(path, now) > STALE_TMP_S:
        return True
    machine, _, rest = name.partition("-")
    pid = rest.partition("-")[0]
    if machine != host() or not pid.isdigit():
        return False
    return not system.exists(int(pid))


def _mtime(path: Path, default: float) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return default
