"""What an entry is, wherever it lies: a header under a checksum, and the files whose checksums it holds.

Every version of this program keeps to this much: a header is JSON with `body.schema`, a whole number. An
entry of another schema is not damage: it stays where it is, and is read if `MIGRATIONS` lead to this one's.
Fields that a header has beyond those known here are a later version's, and are passed over.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from qmoe_core.config import fingerprint
from qmoe_core.errors import StoreError
from qmoe_core.runtime import typed

SCHEMA = 1
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""By schema: makes the body of a header one of the next schema. There is none before 1."""
HEADER, TENSORS, REASON = "entry.json", "tensors.safetensors", "reason.txt"
VERSIONS = "versions"
"""Folder of a store with entries that could not lie in their own place; see `Store`."""
RESERVED = frozenset({"tmp", "quarantine", "datasets", "models", "elsewhere", VERSIONS})
"""Of a store, with no entries in them."""
STALE_TMP_S = 24 * 3600.0

KIND = re.compile(r"[a-z][a-z0-9-]{0,63}")
FILE = re.compile(r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9]+)*")
KEY = re.compile(r"[0-9a-f]{64}")


class Damaged(Exception):
    """An entry is there, but not as it was written; `header` is what was read of it."""

    header = b""


class OtherVersion(Exception):
    """An entry is there, of a schema that this version does not read; args: the schema."""

    @property
    def schema(self) -> int:
        return self.args[0]

    def __str__(self) -> str:
        whose = "a newer" if self.schema > SCHEMA else "another"
        return f"written by {whose} qmoe (schema {self.schema}, this one reads {SCHEMA})"


class FileRecord(msgspec.Struct, frozen=True):
    """What a file of an entry must be."""

    size: int
    sha256: str

    @staticmethod
    def of(data: bytes) -> FileRecord:
        return FileRecord(len(data), hashlib.sha256(data).hexdigest())


@dataclass(frozen=True)
class DamagedEntry:
    """A damaged entry that was set aside."""

    kind: str
    key: str
    reason: str
    path: Path | str
    """Where it lies now; in its own place still, if it could not be moved."""


class Place(Protocol):
    """Where entries lie: a folder, or a bucket. A location is a folder's path, or the prefix of objects.

    Methods raise StoreError where the place cannot be read or written; `header` and `read` FileNotFoundError
    where there is nothing, and Damaged where that may not be.
    """

    @property
    def address(self) -> str:
        """Names it, to people and to `Store`."""
        ...

    def location(self, kind: str, key: str) -> Any:
        """Where an entry would lie."""
        ...

    def keys(self, kind: str | None) -> Iterator[tuple[str, str]]:
        """Kind and key of every entry, whatever its state."""
        ...

    def headers(self, kind: str | None, prefix: str = "") -> Iterator[tuple[str, str, Callable[[], bytes]]]:
        """As `keys`, of those that begin so, each with what reads the header."""
        ...

    def header(self, kind: str, key: str) -> bytes:
        """The header, as it was written."""
        ...

    def read(self, kind: str, key: str, name: str, record: FileRecord) -> bytes:
        """One of the files, not checked yet."""
        ...

    def write(self, kind: str, key: str, contents: Mapping[str, bytes]) -> bool:
        """Keeps an entry, wholly or not at all; false if there is one."""
        ...

    def set_aside(self, kind: str, key: str, reason: str, judged: bytes) -> Any | None:
        """Moves a damaged entry out of the way; its new location, or None if another process did so first.

        Args:
            judged: the header that was found damaged, or whose files were; empty where it was missing.
        """
        ...

    def aside(self, before: float | None = None) -> list[DamagedEntry]:
        """What was set aside, before a Unix time."""
        ...

    def abandoned(self, now: float) -> list[tuple[Any, int]]:
        """Work that nobody will finish: what `forget` takes, and bytes."""
        ...

    def forget(self, work: Any) -> None:
        """Removes such work, unless somebody has finished it after all."""
        ...

    def size(self, location: Any) -> int:
        """Bytes at a location."""
        ...

    def discard(self, location: Any) -> None:
        """Removes what lies at a location, the entry first, then its files."""
        ...

    def mark(self, mark: str = "") -> str:
        """Leaves a mark that others who see this place can find, or renews it; gives its name."""
        ...

    def marked(self, mark: str) -> bool:
        """Whether the mark is here."""
        ...

    def unmark(self, mark: str) -> None:
        """Removes it."""
        ...


class _Body(msgspec.Struct, frozen=True):
    schema: int
    kind: str
    key: str
    fields: dict[str, Any]
    metadata: dict[str, Any]
    created: float
    files: dict[str, FileRecord]


class _Schema(msgspec.Struct, frozen=True):
    schema: int


class _Outline(msgspec.Struct, frozen=True):
    """What can be told of a header of any version."""

    body: _Schema


class _EntryHeader(msgspec.Struct, frozen=True):
    sha256: str
    """Fingerprint of the body: a flipped digit of a metric must not pass."""
    body: dict[str, Any]


@dataclass(frozen=True)
class StoreEntry:
    """One result in the store; its tensors are read, and checked, when they are first asked for."""

    kind: str
    key: str
    """SHA-256 of `fields`: the entry's address."""
    fields: dict[str, Any]
    """What the result was computed from."""
    metadata: dict[str, Any]
    created: float
    """Unix time, seconds."""
    files: Mapping[str, FileRecord]
    place: Place = field(repr=False, compare=False)

    @property
    def path(self) -> Any:
        """Where it lies: a folder's path, or an address."""
        return self.place.location(self.kind, self.key)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(record.size for record in self.files.values())

    @cached_property
    def tensors(self) -> dict[str, np.ndarray]:
        """The arrays, by name.

        Raises:
            StoreError: the entry was damaged or removed since it was opened.
        """
        with self._as_store_error():
            return self.checked_tensors()

    def read(self, name: str) -> bytes:
        """One of the small files, checked.

        Raises:
            StoreError: it does not exist, or was damaged or removed since the entry was opened.
        """
        if name not in self.files:
            raise StoreError(f"{self.path}: has no file {name}; it has {', '.join(sorted(self.files))}")
        with self._as_store_error():
            return self.checked(name)

    def checked(self, name: str) -> bytes:
        """
        Raises:
            Damaged: the file is not what was written.
        """
        record = self.files[name]
        try:
            data = self.place.read(self.kind, self.key, name, record)
        except FileNotFoundError:
            raise Damaged(f"{name} is missing") from None
        if len(data) != record.size:
            raise Damaged(f"{name} has {len(data)} bytes, {record.size} were written")
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise Damaged(f"{name} does not match its checksum")
        return data

    def checked_tensors(self) -> dict[str, np.ndarray]:
        """
        Raises:
            Damaged: they are not what was written.
        """
        try:
            return safetensors.numpy.load(self.checked(TENSORS))
        except SafetensorError as error:
            raise Damaged(f"{TENSORS} cannot be read: {error}") from None

    def verify(self) -> None:
        """Checks every file.

        Raises:
            Damaged: one is not what was written.
        """
        # The arrays that are served are made of the very bytes that were checked.
        self.__dict__["tensors"] = self.checked_tensors()
        for name in self.files.keys() - {TENSORS}:
            self.checked(name)

    @contextlib.contextmanager
    def _as_store_error(self) -> Iterator[None]:
        try:
            yield
        except Damaged as damage:
            raise StoreError(f"{self.path}: {damage}; qmoe runs verify sets damaged entries aside") from None


def encode(
    kind: str,
    key: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
    files: Mapping[str, bytes],
) -> tuple[str, dict[str, bytes]]:
    """The address of an entry, and its files with their contents, the header last."""
    contents = {TENSORS: safetensors.numpy.save({name: _plain(name, a) for name, a in tensors.items()})}
    for name, data in files.items():
        if not FILE.fullmatch(name) or name in (HEADER, TENSORS):
            raise ValueError(f"{name!r} is not a plain lower-case file name, or is reserved")
        contents[name] = data
    address = fingerprint(key)
    body = _Body(
        schema=SCHEMA,
        kind=kind,
        key=address,
        fields=dict(key),
        metadata=dict(metadata),
        created=time.time(),
        files={name: FileRecord.of(data) for name, data in contents.items()},
    )
    # What is read back is what JSON makes of it, so that is what the checksum is of.
    plain = msgspec.json.decode(msgspec.json.encode(body, enc_hook=_scalar))
    if fingerprint(plain["fields"]) != address:
        raise ValueError(f"a key must be the same after a passage through JSON, and this is not: {key}")
    header = _EntryHeader(checksum(plain), plain)
    contents[HEADER] = msgspec.json.format(msgspec.json.encode(header), indent=1)
    return address, contents


def decode(raw: bytes, kind: str, key: str, place: Place) -> StoreEntry:
    """The entry of a header.

    Raises:
        Damaged: it is not the header of this entry, as it was written.
        OtherVersion: it has a schema that cannot be read here.
    """
    try:
        schema = typed.decode(raw, _Outline).body.schema
        if schema != SCHEMA and schema not in MIGRATIONS:
            raise OtherVersion(schema)
        header = typed.decode(raw, _EntryHeader)
        if checksum(header.body) != header.sha256:
            raise Damaged(f"{HEADER} does not match its checksum")
        body = typed.convert(_migrated(header.body), _Body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Damaged(f"{HEADER} cannot be read: {error}") from None
    if body.key != key or fingerprint(body.fields) != key or body.kind != kind:
        raise Damaged(f"{HEADER} belongs to another key")
    if TENSORS not in body.files or not all(FILE.fullmatch(name) for name in body.files):
        raise Damaged(f"{HEADER} lists files that no entry has")
    return StoreEntry(body.kind, body.key, body.fields, body.metadata, body.created, body.files, place)


def checksum(body: Mapping[str, Any]) -> str:
    """SHA-256 of a header's body as JSON.

    Its fields, and those of `FileRecord`, come in the order in which they are there, the keys of every other
    object sorted.
    """

    def plain(value: Any) -> bytes:
        return msgspec.json.encode(value, order="deterministic")

    def ordered(fields: Mapping[str, Any], encode: Callable[[Any], bytes] = plain) -> bytes:
        return b"{%b}" % b",".join(plain(name) + b":" + encode(value) for name, value in fields.items())

    files = dict(sorted(body.get("files", {}).items())) if isinstance(body.get("files"), dict) else {}
    parts = {name: plain(value) for name, value in body.items()}
    if all(isinstance(record, dict) for record in files.values()):
        parts["files"] = ordered(files, ordered)
    return hashlib.sha256(ordered(parts, lambda part: part)).hexdigest()


def _migrated(body: dict[str, Any]) -> dict[str, Any]:
    """A header's body, of this schema.

    Raises:
        OtherVersion: the way there is not known.
    """
    while (schema := body["schema"]) != SCHEMA:
        if schema not in MIGRATIONS:
            raise OtherVersion(schema)
        body = MIGRATIONS[schema](body) | {"schema": schema + 1}
    return body


def _plain(name: str, array: np.ndarray) -> np.ndarray:
    """The array as safetensors writes it: contiguous, in the machine's byte order, numbers or booleans."""
    array = np.asarray(array)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"tensor {name!r} is of {array.dtype}; numbers and booleans can be stored")
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=None)


def _scalar(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be kept as metadata")
