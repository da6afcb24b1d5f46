"""A store as one file, to be kept elsewhere: written and read back with every checksum compared.

It is a ZIP, uncompressed, so that any tool opens it: the files of the store under their own paths, and at the
end `backup.json`, which lists size and SHA-256 of each. What only means something on the machine and at the
moment of the backup stays out: work in progress, jobs, unfinished downloads, what was set aside as damaged,
and visitors' stores.

Restoring compares everything first, and refuses an archive in which anything is not as it was written, or a
path leads out of the store. Then each entry, bundle and dataset takes its place in one step: whoever is
killed meanwhile leaves none of them half-written, and calling it again does the rest.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

import msgspec

from qmoe_core import __version__
from qmoe_core.errors import StoreError
from qmoe_core.runtime import system, typed
from qmoe_core.runtime.store import BESIDE, VISITORS, Store
from qmoe_core.runtime.store.entry import (
    HEADER,
    KEY,
    KIND,
    VERSIONS,
    Damaged,
    FileRecord,
    OtherVersion,
    Place,
    decode,
)
from qmoe_core.runtime.store.folder import Folder, unfinished

FORMAT, VERSION = "qmoe-store-backup", 1
MANIFEST = "backup.json"
LEFT_OUT = frozenset({"tmp", "elsewhere", "quarantine", "jobs", "downloads", VISITORS})
"""Folders of a store that are of one machine and one moment."""
MAX_MANIFEST_BYTES = 256 << 20
_TOGETHER = ("bundles", "datasets")
"""Folders of folders, each of which is one thing."""
_CHUNK = 1 << 20

Progress = Callable[[int, int, str], None]


class _BackupManifest(msgspec.Struct, frozen=True):
    format: str
    version: int
    qmoe: str
    created: float
    store: str
    files: dict[str, FileRecord]


@dataclass(frozen=True)
class Saved:
    """What `save` wrote.

    Attributes:
        entries, files, bytes: how many entries, files in all, and bytes of these.
        left_out: sentences about what is not in it: damaged entries, links.
    """

    path: Path
    entries: int
    files: int
    bytes: int
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Restored:
    """What `restore` wrote; entries, bundles and other things that were there already are `unchanged`.

    Attributes:
        written, unchanged: how many things.
        files, bytes: of the whole archive.
        qmoe, created: which version wrote the archive, and when (seconds since 1970).
    """

    written: int
    unchanged: int
    files: int
    bytes: int
    qmoe: str
    created: float


def save(store: Store, path: Path, progress: Progress | None = None) -> Saved:
    """Write a store's entries, bundles, datasets and logs into one file; an older backup there is replaced.

    Raises:
        StoreError: the store cannot be read, the file cannot be written, or something else is there.
    """
    path = path.absolute()
    if path.is_relative_to(store.root) or path.resolve().is_relative_to(store.root.resolve()):
        raise StoreError(f"{path}: lies in the store; give a file elsewhere")
    if path.exists() and not _is_backup(path):
        raise StoreError(f"{path}: is there, and no backup of a store; give a file that does not exist yet")
    left_out: list[str] = []
    things = list(_things(store, left_out))
    with _said(path, "written"):
        work = unfinished(path)
        try:
            with work.open("xb") as out:
                with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
                    entries, files = _copied(archive, things, progress)
                    now = time.time()
                    manifest = _BackupManifest(FORMAT, VERSION, __version__, now, store.address, files)
                    archive.writestr(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1))
                out.flush()
                os.fsync(out.fileno())
            work.replace(path)
        finally:
            work.unlink(missing_ok=True)
    if progress:
        progress(len(things), len(things), "written")
    return Saved(path, entries, len(files), sum(one.size for one in files.values()), tuple(left_out))


def _copied(
    archive: zipfile.ZipFile, things: Sequence[tuple[str, _Copy]], progress: Progress | None
) -> tuple[int, dict[str, FileRecord]]:
    """Copy all things into an archive; how many were entries, and every file."""
    entries, files = 0, {}
    for done, (name, copy) in enumerate(things):
        if progress:
            progress(done, len(things), name)
        written = copy(archive)
        files |= written
        entries += any(part.endswith(f"/{HEADER}") for part in written)
    return entries, files


def restore(store: Store, path: Path, progress: Progress | None = None) -> Restored:
    """Put a backup's contents into a store, which may have others already.

    Raises:
        StoreError: the archive is damaged, none, or leads out of the store, or the store has a file of that
            name with other contents: nothing was written. Or the store cannot be written.
    """
    with _archive(path) as archive:
        manifest = _checked(path, archive, progress)
        units: dict[str, list[str]] = {}
        for name in manifest.files:
            units.setdefault(_unit(name), []).append(name)
        new = []
        for unit, names in units.items():
            present = _present(store, unit, names, manifest)
            if present == "other":
                raise StoreError(
                    f"{store.address}: {unit} is there with other contents than in {path}; nothing was "
                    "restored: move it away, or give --store an empty folder"
                )
            if not present:
                new.append(unit)
        for done, unit in enumerate(new):
            if progress:
                progress(done, len(new), unit)
            _write(store, archive, unit, units[unit])
        if progress:
            progress(len(new), len(new), "restored")
    size = sum(record.size for record in manifest.files.values())
    return Restored(
        len(new), len(units) - len(new), len(manifest.files), size, manifest.qmoe, manifest.created
    )


# Reading a store

_Copy = Callable[[zipfile.ZipFile], dict[str, FileRecord]]


def _things(store: Store, left_out: list[str]) -> Iterator[tuple[str, _Copy]]:
    """Everything that belongs into a backup: a name, and what copies it into the archive."""
    for prefix, place in (("", store._place), (f"{BESIDE}/", store._beside)):
        for kind, key in place.keys(None):
            name = f"{prefix}{kind}/{key[:2]}/{key}"
            yield name, _entry(place, kind, key, name, left_out)
    if not store.root.is_dir():
        return
    for top in sorted(store.root.iterdir()):
        if top.name in LEFT_OUT or top.name.startswith("."):
            continue
        for file in _files(top, left_out):
            name = file.relative_to(store.root).as_posix()
            found = _entry_of(name)
            if found is None or found[0] not in ("", BESIDE):
                yield name, _file(file, name)


def _entry(place: Place, kind: str, key: str, name: str, left_out: list[str]) -> _Copy:
    """An entry, all of whose files are compared with its header."""

    def copy(archive: zipfile.ZipFile) -> dict[str, FileRecord]:
        try:
            contents = {HEADER: place.header(kind, key)}
            try:
                entry = decode(contents[HEADER], kind, key, place)
                contents |= {file: entry.checked(file) for file in entry.files}
            except OtherVersion as other:
                if not isinstance(place, Folder):
                    left_out.append(f"{name}: {other}")
                    return {}
                where = place.location(kind, key)
                contents |= {file.name: file.read_bytes() for file in _files(where, left_out)}
        except FileNotFoundError:
            return {}  # removed meanwhile
        except Damaged as damage:
            left_out.append(f"{name}: damaged ({damage})")
            return {}
        for file, data in contents.items():
            archive.writestr(_carried(f"{name}/{file}"), data)
        return {f"{name}/{file}": FileRecord.of(data) for file, data in contents.items()}

    return copy


def _file(file: Path, name: str) -> _Copy:
    """A file, whatever its size."""

    def copy(archive: zipfile.ZipFile) -> dict[str, FileRecord]:
        try:
            source = file.open("rb")
        except FileNotFoundError:
            return {}
        digest, size = hashlib.sha256(), 0
        with source, archive.open(_carried(name), "w", force_zip64=True) as member:
            while data := source.read(_CHUNK):
                member.write(data)
                digest.update(data)
                size += len(data)
        return {name: FileRecord(size, digest.hexdigest())}

    return copy


def _files(top: Path, left_out: list[str]) -> Iterator[Path]:
    """Plain files at and below a path; links are not followed, but named."""
    if top.is_symlink():
        left_out.append(f"{top}: a link, which is not followed")
    elif top.is_dir():
        for path in sorted(top.iterdir()):
            if not path.name.startswith("."):  # unfinished work
                yield from _files(path, left_out)
    elif top.is_file() and top.suffix != ".lock":
        yield top


def _carried(name: str) -> str:
    if problem := _strange(name):
        raise StoreError(f"{name}: {problem}, which no backup can carry; rename it")
    return name


# Reading an archive


def _is_backup(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return MANIFEST in archive.namelist()
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError):
        return False


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    none = "expected a file that qmoe store backup wrote"
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for, for ever
            raise StoreError(f"{path}: not a file; {none}")
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, ValueError) as error:
        raise StoreError(f"{path}: not a whole backup of a store ({error}); {none}") from None
    except OSError as error:
        where, reason = error.filename or path, error.strerror or error
        raise StoreError(f"{where}: cannot be read or written ({reason})") from None


def _checked(path: Path, archive: zipfile.ZipFile, progress: Progress | None) -> _BackupManifest:
    """The list of files, after every one of them was compared with it.

    Raises:
        StoreError: it is not so.
    """
    members = archive.infolist()
    by_name = {member.filename: member for member in members}
    if MANIFEST not in by_name or by_name[MANIFEST].file_size > MAX_MANIFEST_BYTES:
        raise StoreError(f"{path}: no backup of a store; it has no {MANIFEST}")
    if len(by_name) != len(members):
        raise StoreError(f"{path}: has two files of one name; the backup is damaged")
    for member in members:
        kind = stat.S_IFMT(member.external_attr >> 16)
        if problem := _strange(member.filename):
            raise StoreError(f"{path}: {member.filename!a}: {problem}; nothing was restored")
        if kind not in (0, stat.S_IFREG):
            raise StoreError(f"{path}: {member.filename!a} is a link, or no file; nothing was restored")
        if member.compress_type != zipfile.ZIP_STORED:  # a few bytes could become gigabytes
            raise StoreError(f"{path}: {member.filename!a} is compressed, which nothing in a backup is")
    try:
        manifest = typed.decode(archive.read(MANIFEST), _BackupManifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(f"{path}: its {MANIFEST} cannot be read ({error})") from None
    if manifest.format != FORMAT or manifest.version != VERSION:
        raise StoreError(
            f"{path}: written by another qmoe ({manifest.qmoe[:40]!a}, backup version {manifest.version}; "
            f"this one reads {VERSION})"
        )
    if odd := manifest.files.keys() ^ (by_name.keys() - {MANIFEST}):
        raise StoreError(f"{path}: {min(odd)!a} is not both listed and there; the backup is damaged")
    for name in manifest.files:
        if PurePosixPath(name).parts[0] in LEFT_OUT or name.startswith("."):
            raise StoreError(f"{path}: {name!a} is nothing that a backup holds; nothing was restored")
    for name in manifest.files.keys() & {
        str(up) for one in manifest.files for up in PurePosixPath(one).parents
    }:
        raise StoreError(f"{path}: {name!a} is both a file and a folder; nothing was restored")
    for done, (name, record) in enumerate(manifest.files.items()):
        if progress:
            progress(done, len(manifest.files), "checking")
        with archive.open(name) as member:
            if by_name[name].file_size != record.size or _digest(member) != record.sha256:
                raise StoreError(f"{path}: {name!a} does not match its checksum; the backup is damaged")
    return manifest


def _strange(name: str) -> str:
    """What is wrong with a path inside an archive, on this system or another; empty for nothing."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or PureWindowsPath(name).anchor or "\\" in name:
        return "not a path inside a store"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "not a path inside a store"
    return "" if name.isprintable() else "a name that cannot be shown"


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while data := file.read(_CHUNK):
        digest.update(data)
    return digest.hexdigest()


# Writing into a store


def _entry_of(name: str) -> tuple[str, str, str] | None:
    """Of which entry a file is: where it lies beside others (or empty), kind, and key."""
    beside = ""
    match PurePosixPath(name).parts:
        case [versions, schema, kind, group, key, _] if versions == VERSIONS:
            beside = f"{versions}/{schema}"
        case [kind, group, key, _]:
            pass
        case _:
            return None
    ours = KIND.fullmatch(kind) and KEY.fullmatch(key) and key.startswith(group) and len(group) == 2
    return (beside, kind, key) if ours and kind not in (*LEFT_OUT, *_TOGETHER) else None


def _unit(name: str) -> str:
    """What takes its place in one step: an entry's folder, that of a bundle or dataset, or a file."""
    parts = PurePosixPath(name).parts
    if _entry_of(name):
        return "/".join(parts[:-1])
    return "/".join(parts[:2]) if parts[0] in _TOGETHER and len(parts) > 2 else name


def _present(store: Store, unit: str, names: list[str], manifest: _BackupManifest) -> str:
    """Whether a unit is in a store: empty for no, `same`, or `other`."""
    found = _entry_of(names[0])
    if found and store.remote and not found[0]:
        with suppress(FileNotFoundError):
            store._place.header(found[1], found[2])
            return "same"  # an entry of the same key is the same result
        return ""
    where = store.root / unit
    if not (where.exists() or where.is_symlink()):
        return ""
    if found:
        return "same"
    for name in names:
        file = store.root / name
        record = manifest.files[name]
        if file.is_symlink() or not file.is_file() or file.stat().st_size != record.size:
            return "other"
        with file.open("rb") as opened:
            if _digest(opened) != record.sha256:
                return "other"
    return "same"


def _write(store: Store, archive: zipfile.ZipFile, unit: str, names: list[str]) -> None:
    found = _entry_of(names[0])
    if found and store.remote and not found[0]:
        contents = {PurePosixPath(name).name: archive.read(name) for name in names}
        store._place.write(found[1], found[2], contents)
        return
    where = store.root / unit
    for folder in [*where.parents][: len(Path(unit).parts) - 1]:
        if folder.is_symlink():
            raise StoreError(f"{folder}: a link, through which nothing is restored")
    scratch = store.scratch()
    try:
        for name in names:
            target = scratch / "new" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as member, target.open("xb") as file:
                shutil.copyfileobj(member, file, _CHUNK)
                file.flush()
                os.fsync(file.fileno())
        where.parent.mkdir(parents=True, exist_ok=True)
        os.rename(scratch / "new" / unit, where)  # noqa: PTH104 (Path.rename would say the same)
        system.flush_folder(where.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _said(path: Path, verb: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where, reason = error.filename or path, error.strerror or error
        raise StoreError(f"{where}: the backup cannot be {verb} ({reason})") from None
