"""What was computed, kept under the address of what it was computed from: in a folder, or in a bucket.

An entry is a header, `entry.json` (the key's fields, metadata, and size and SHA-256 of every file, itself
under a checksum), `tensors.safetensors`, and optional small files. It is there completely or not at all,
whoever is killed and however many write the same key: `folder` and `objects` say how. What is read is checked
first: a damaged entry is set aside in `quarantine`, and counts as not there, so that it is computed again.

An entry that another version of this program wrote, and this one cannot read, is no damage: it stays where it
is, is named in a warning, and counts as not there. What is computed in its stead lies in `versions`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from qmoe_core.config import fingerprint
from qmoe_core.errors import StoreError
from qmoe_core.runtime.ahead import ahead
from qmoe_core.runtime.store.entry import (
    KIND,
    RESERVED,
    SCHEMA,
    VERSIONS,
    Damaged,
    DamagedEntry,
    OtherVersion,
    Place,
    StoreEntry,
    decode,
    encode,
)
from qmoe_core.runtime.store.folder import Folder, unfinished

__all__ = [
    "Collected",
    "DamagedEntry",
    "Store",
    "StoreEntry",
    "Verification",
    "default_address",
    "default_root",
    "keep_apart",
    "lab_root",
    "published",
    "unfinished",
]

log = logging.getLogger(__name__)

DAY_S = 24 * 3600.0
ATTEMPTS = 10
"""To write an entry that others write or set aside at the same moment."""
VISITORS = ".visitors"
"""Folder of the root with visitors' stores, where the lab is open to the public; see `published`."""

BESIDE = f"{VERSIONS}/schema-{SCHEMA}"
"""Folder with entries whose own place is taken by what another version wrote."""

_visitor: Callable[[], Path | None] | None = None


def keep_apart(visitor: Callable[[], Path | None]) -> None:
    """From now on, `default_root` is what this gives, the asking visitor's store, unless that is None."""
    global _visitor
    _visitor = visitor


def default_address() -> str:
    """Where runs are kept: the visitor's store (see `keep_apart`), $QMOE_STORE, or the user's data folder."""
    visitor = _visitor() if _visitor else None
    return str(visitor or _lab())


def default_root() -> Path:
    """The folder of the store at `default_address`, for all that is no entry; see `Store.root`."""
    return root_of(default_address())


def lab_root() -> Path:
    """The folder of the store of who runs the lab: $QMOE_STORE, or the user's data folder."""
    return root_of(_lab())


def _lab() -> str:
    return os.environ.get("QMOE_STORE") or str(platformdirs.user_data_path("qmoe-lab"))


def is_remote(address: str) -> bool:
    """Whether this names a bucket (`s3://…`), not a folder."""
    return re.match(r"[a-z0-9+.:-]+://", address, re.IGNORECASE) is not None


def root_of(address: str) -> Path:
    """The folder of a store: itself, or for one in a bucket, a folder of this user's that goes with it.

    >>> root_of("runs"), root_of("s3://lab/runs").name
    (PosixPath('runs'), 's3-lab-runs-a473b9d7')
    """
    if not is_remote(address):
        return Path(address).expanduser()
    address = address.rstrip("/")
    readable = re.sub(r"[^A-Za-z0-9]+", "-", address)[:60].strip("-")
    name = f"{readable}-{hashlib.sha256(address.encode()).hexdigest()[:8]}"
    return platformdirs.user_data_path("qmoe-lab") / "elsewhere" / name


def published(root: Path) -> Path:
    """What the owner of a store may read beside it: the lab's store for a visitor's, else the store itself.

    >>> published(Path("lab/.visitors/0a1b")), published(Path("lab"))
    (PosixPath('lab'), PosixPath('lab'))
    """
    return root.parent.parent if root.parent.name == VISITORS else root


@dataclass(frozen=True)
class Verification:
    """What checking all entries gave."""

    checked: int
    damaged: tuple[DamagedEntry, ...]
    others: tuple[DamagedEntry, ...] = ()
    """Entries of another version, which were left as they are; not among those checked."""


@dataclass(frozen=True)
class Collected:
    """What `gc` removed, or with `dry_run` would remove."""

    entries: tuple[StoreEntry, ...]
    quarantined: int
    unfinished: int
    bytes: int


class Store:
    """A place full of results; any number of processes, on any number of machines, may use it at once.

    A visitor's store (see `published`) also finds what is in the lab's, and adds nothing there.

    Attributes:
        address: names it: `Store(store.address)` is the same store, on every machine that sees it.
        root: the folder; of a store in a bucket, a folder of this machine's for what is no entry (work in
            progress, jobs, logs, downloads).
    """

    def __init__(self, address: str | Path | None = None) -> None:
        """
        Args:
            address: a folder, made when something is first written, or a bucket such as `s3://name/prefix`;
                None is `default_address()`.

        Raises:
            StoreError: the address is none, or nothing is installed that understands it.
        """
        named = default_address() if address is None else str(address)
        self.root = root_of(named).absolute()
        self._here = Folder(self.root)
        self._place: Place = self._here
        self._beside: Place = Folder(self.root / BESIDE)
        if is_remote(named):
            from qmoe_core.runtime.store.objects import Objects

            self._place = Objects(named)
            self._beside = Objects(f"{self._place.address.rstrip('/')}/{BESIDE}")
        self.address = self._place.address

    @property
    def remote(self) -> bool:
        """Whether the entries lie in a bucket."""
        return self._place is not self._here

    def put(
        self,
        kind: str,
        key: Mapping[str, Any],
        tensors: Mapping[str, np.ndarray],
        metadata: Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> StoreEntry:
        """Keeps a result. A sound entry that is already there stays: the same key means the same result.

        Args:
            kind: what it is, such as `experts`: lower-case letters, digits and hyphens.
            key: all that the result depends on, JSON-able; its fingerprint is the address.
            tensors: numeric arrays by name.
            metadata: small JSON-able facts (metrics, seconds); NaN becomes null, tuples become lists.
            files: small files by plain lower-case name.

        Returns:
            The entry as it can be read back.

        Raises:
            StoreError: the disk is full, or the store cannot be written.
        """
        _check(kind)
        address, contents = encode(kind, key, tensors, metadata or {}, files or {})
        place = self._place
        for attempt in range(ATTEMPTS):
            written = place.write(kind, address, contents)
            # If somebody was first: theirs is as good as ours if it is sound; if not, it is moved away now.
            try:
                return _open(place, kind, address, verify=not written)
            except FileNotFoundError:
                time.sleep(0.01 * attempt**2)  # it was removed meanwhile, or is seen only in a moment
            except Damaged as damage:
                self._set_aside(place, kind, address, damage)
            except OtherVersion:
                place = self._beside
        raise StoreError(f"{self.address}: {kind}/{address[:12]} was written, and cannot be read")

    def get(self, kind: str, key: Mapping[str, Any]) -> StoreEntry | None:
        """The entry of a key, every file checked.

        Returns:
            None if there is none, if it was damaged and set aside, or if another version wrote it.

        Raises:
            StoreError: the store cannot be read.
        """
        _check(kind)
        address = fingerprint(key)
        place = self._place
        try:
            try:
                return _open(place, kind, address, verify=True)
            except OtherVersion as other:
                path, place = place.location(kind, address), self._beside
                try:
                    return _open(place, kind, address, verify=True)
                except FileNotFoundError:
                    log.warning("%s: %s; it is left as it is", path, other)
                    raise
        except FileNotFoundError:
            below = self._below()
            return below.get(kind, key) if below else None
        except Damaged as damage:
            self._try_set_aside(place, kind, address, damage)
            return None

    def get_each(self, kind: str, keys: Iterable[Mapping[str, Any]]) -> Iterator[StoreEntry | None]:
        """As `get`, of many keys in their order; from a bucket, some are fetched at once."""
        if not self.remote:
            yield from (self.get(kind, key) for key in keys)
            return
        from qmoe_core.runtime.store.objects import AT_ONCE

        yield from ahead(partial(self.get, kind), keys, AT_ONCE)

    def has(self, kind: str, key: Mapping[str, Any]) -> bool:
        """Whether an entry of a key is there; its files are not looked at.

        Raises:
            StoreError: the store cannot be read.
        """
        _check(kind)
        for place in (self._place, self._beside):
            try:
                _open(place, kind, fingerprint(key), verify=False)
            except OtherVersion:
                continue
            except (FileNotFoundError, Damaged):
                return False
            return True
        return False

    def list(self, kind: str | None = None) -> list[StoreEntry]:
        """All entries, oldest first, none of their tensors read.

        Those with a damaged header, and those that only another version can read, are left out, and named in
        a warning.

        Raises:
            StoreError: the store cannot be read.
        """
        return sorted(self._found(kind), key=lambda entry: (entry.created, entry.key))

    def _found(self, kind: str | None, prefix: str = "") -> Collection[StoreEntry]:
        """Entries of keys that begin so, one a key: this store's own before those that are published."""
        below = self._below()
        found = {(entry.kind, entry.key): entry for entry in (below._found(kind, prefix) if below else ())}
        return (found | {(entry.kind, entry.key): entry for entry in self._own(kind, prefix)}).values()

    def _own(self, kind: str | None = None, prefix: str = "") -> Iterator[StoreEntry]:
        """As `list`, without what is published, of keys that begin so."""
        others: Counter[str] = Counter()
        for place in (self._place, self._beside):
            for name, key, header in place.headers(kind, prefix):
                try:
                    yield decode(header(), name, key, place)
                except FileNotFoundError:
                    continue  # removed meanwhile
                except OtherVersion as other:
                    others[f"{name}: {other}"] += 1
                except Damaged as damage:
                    log.warning("%s: left out of the list: %s", place.location(name, key), damage)
        for what, count in others.items():
            log.warning("%s: %d × %s; left as they are", self.address, count, what)

    def _below(self) -> Store | None:
        """The store that this one lies above, if it is a visitor's."""
        below = published(self.root)
        return None if below == self.root else Store(below)

    def resolve(self, prefix: str) -> StoreEntry:
        """The entry whose key begins with `prefix` (or `kind/prefix`), at least four characters.

        Raises:
            StoreError: there is none, or more than one; the message says which.
        """
        kind, _, start = prefix.rpartition("/")
        if not re.fullmatch(r"[0-9a-f]{4,64}", start):
            raise StoreError(
                f"{prefix!r} is not a key; expected its first 4 or more of 64 hexadecimal digits"
            )
        found = [*self._found(kind or None, start)]
        if not found:
            raise StoreError(f"{self.address}: no entry begins with {prefix}; qmoe runs list shows all")
        if len(found) > 1:
            names = ", ".join(f"{entry.kind}/{entry.key[:12]}" for entry in found[:5])
            raise StoreError(f"{prefix} could be {len(found)} entries ({names}); give more of the key")
        return found[0]

    def delete(self, prefix: str) -> StoreEntry:
        """Removes one entry of this store's own; else as `resolve`. Returns the entry that was."""
        entry = self.resolve(prefix)
        if entry.place not in (self._place, self._beside):
            raise StoreError(f"{self.address}: {entry.kind}/{entry.key[:12]} belongs to the lab, and stays")
        entry.place.discard(entry.path)
        return entry

    def verify(self) -> Verification:
        """Checks every file of every entry; damaged entries are set aside and reported, others left.

        Raises:
            StoreError: the store cannot be read.
        """
        checked, damaged, others = 0, [], []
        for place in (self._place, self._beside):
            for kind, key in place.keys(None):
                try:
                    _open(place, kind, key, verify=True)
                except FileNotFoundError:
                    continue  # removed meanwhile
                except OtherVersion as other:
                    others.append(DamagedEntry(kind, key, str(other), place.location(kind, key)))
                    continue
                except Damaged as damage:
                    if report := self._try_set_aside(place, kind, key, damage):
                        damaged.append(report)
                checked += 1
        return Verification(checked, tuple(damaged), tuple(others))

    def reports(self) -> list[DamagedEntry]:
        """Damaged entries that were set aside, by this or any process, and not yet removed by `gc`."""
        return [*self._place.aside(), *self._beside.aside()]

    def gc(
        self, older_than_days: float | None = None, *, keep: Collection[str] = (), dry_run: bool = False
    ) -> Collected:
        """Removes what killed processes left unfinished, and with an age, older entries and damaged ones.

        Args:
            older_than_days: entries and set-aside damage of at least this age are removed; None keeps all.
            keep: keys of entries that stay whatever their age.
            dry_run: only say what would be removed.

        Raises:
            StoreError: the store cannot be read or written.
        """
        now = time.time()
        places = [self._here, *([self._place] if self.remote else []), self._beside]
        left = [(place, *found) for place in places for found in place.abandoned(now)]
        entries, quarantined = [], []
        if older_than_days is not None:
            limit = now - older_than_days * DAY_S
            entries = [e for e in self._own() if e.created <= limit and e.key not in keep]
            quarantined = [*self._place.aside(before=limit), *self._beside.aside(before=limit)]
        doomed = [one.path for one in (*quarantined, *entries)]
        size = sum(size for _, _, size in left) + sum(map(self._place.size, doomed))
        if not dry_run:
            for place, work, _ in left:
                place.forget(work)
            for location in doomed:
                self._place.discard(location)
        return Collected(tuple(entries), len(quarantined), len(left), size)

    def scratch(self) -> Path:
        """A new folder for work in progress; what is left of it when its process is gone is `gc`'s to remove.

        Raises:
            StoreError: the folder cannot be written.
        """
        return self._here.scratch()

    def tidy(self) -> None:
        """Removes what killed processes of this machine left unfinished on it."""
        for work, _ in self._here.abandoned(time.time()):
            self._here.forget(work)

    @contextlib.contextmanager
    def marked(self) -> Iterator[str]:
        """A mark that is in the store for a while, by which others show that theirs is the same; see `sees`.

        Raises:
            StoreError: the store cannot be written.
        """
        mark = self._place.mark()
        try:
            yield mark
        finally:
            with contextlib.suppress(StoreError):  # gc removes it some day
                self._place.unmark(mark)

    def renew(self, mark: str) -> None:
        """Keeps a mark from looking abandoned, which it does after a day."""
        with contextlib.suppress(StoreError):
            self._place.mark(mark)

    def sees(self, mark: str) -> bool:
        """Whether a mark that somebody left is in this store."""
        return self._place.marked(mark)

    def _try_set_aside(self, place: Place, kind: str, key: str, damage: Damaged) -> DamagedEntry | None:
        """As `_set_aside`; in a store that cannot be written, the damage is reported where it lies."""
        try:
            return self._set_aside(place, kind, key, damage)
        except StoreError as error:
            path = place.location(kind, key)
            log.warning("%s: damaged (%s), and cannot be set aside (%s)", path, damage, error)
            return DamagedEntry(kind, key, str(damage), path)

    def _set_aside(self, place: Place, kind: str, key: str, damage: Damaged) -> DamagedEntry | None:
        """Moves a damaged entry away; None if another process did so first."""
        reason = str(damage)
        aside = place.set_aside(kind, key, reason, damage.header)
        if aside is None:
            return None
        path = place.location(kind, key)
        log.warning("%s: damaged (%s); set aside in %s, to be computed again", path, reason, aside)
        return DamagedEntry(kind, key, reason, aside)


def _open(place: Place, kind: str, key: str, *, verify: bool) -> StoreEntry:
    """
    Raises:
        FileNotFoundError: there is no such entry.
        Damaged: it is not as it was written.
        OtherVersion: another version of this program wrote it.
    """
    header = place.header(kind, key)
    try:
        entry = decode(header, kind, key, place)
        if verify:
            entry.verify()
    except Damaged as damage:
        damage.header = header
        raise
    return entry


def _check(kind: str) -> None:
    if not KIND.fullmatch(kind) or kind in RESERVED:
        raise ValueError(f"{kind!r} is not a kind of entry: lower-case letters, digits and hyphens")
