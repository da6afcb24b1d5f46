"""Entries in a bucket (S3, Google Cloud Storage, Azure, …), through fsspec.

A bucket has no folders to rename, but an object is there completely or not at all. So an entry's files are
written first, each under a name that begins with its own checksum, and its header last: an entry is there
when its header is, and whatever header is read, the files that it lists are those that were written with it.

    <prefix>/<kind>/<first two of key>/<key>/<16 digits of SHA-256>.tensors.safetensors
    <prefix>/<kind>/<first two of key>/<key>/entry.json

A header is written only where there is none, as far as the service can tell (S3 and others can).
"""

from __future__ import annotations

import contextlib
import random
import re
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from qmoe_core.errors import StoreError, safe
from qmoe_core.runtime.ahead import ahead
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
    OtherVersion,
    decode,
)
from qmoe_core.runtime.store.folder import name_of_work

AT_ONCE = 16
"""Headers, or entries, that are fetched at once."""
KNOWN_BYTES = 64 << 20
"""Of headers that are remembered: a listing that is asked for again fetches the new ones only."""
ATTEMPTS = 6
TIMES = ("LastModified", "last_modified", "mtime", "updated", "created")
"""What services call the time at which an object was written."""
PLACES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
"""Which package understands an address."""


class Objects:
    """A place (see `entry.Place`) in a bucket. Locations are addresses without their protocol."""

    def __init__(self, address: str) -> None:
        """
        Args:
            address: `s3://bucket/prefix`, or another that fsspec understands; how to get there (endpoint,
                credentials) is what fsspec and the service's own package read from the environment.

        Raises:
            StoreError: that is no address, or a package is missing.
        """
        self.address = address.rstrip("/")
        protocol, _, path = self.address.partition("://")
        if protocol in ("file", "local"):
            raise StoreError(f"{address}: a folder is named without {protocol}://")
        if "::" in address or "@" in address or re.search(r"[\s*?\[\]{}]", address) or not path.strip("/"):
            raise StoreError(
                f"{safe(address)!r} is no store; accepted is a folder, or a bucket such as s3://name/prefix "
                "(no credentials in it: they belong in the environment)"
            )
        try:
            import fsspec

            # A listing is asked for because others write too.
            self._fs, root = fsspec.url_to_fs(self.address, use_listings_cache=False)
        except ImportError:
            package = PLACES.get(protocol, protocol)
            extra = "'qmoe-lab[objects]'" if package == "s3fs" else f"fsspec {package}"
            raise StoreError(f"{address}: this needs a package; pip install {extra}") from None
        except ValueError as error:
            raise StoreError(
                f"{address}: {' '.join(str(error).split())}; accepted are {', '.join(PLACES)}"
            ) from None
        except Exception as error:  # of a place that is none for a store
            raise self._because("opened", error) from error
        self._root = str(root).rstrip("/")

    def __reduce__(self) -> Any:
        """Another process, perhaps on another machine, goes there in its own way."""
        return Objects, (self.address,)

    def location(self, kind: str, key: str) -> str:
        return f"{self._root}/{kind}/{key[:2]}/{key}"

    def keys(self, kind: str | None) -> Iterator[tuple[str, str]]:
        for name, key, _, _ in self._listed(kind):
            yield name, key

    def headers(self, kind: str | None, prefix: str = "") -> Iterator[tuple[str, str, Callable[[], bytes]]]:
        listed = (found for found in self._listed(kind) if found[1].startswith(prefix))

        def read(found: tuple[str, str, str, str]) -> tuple[str, str, bytes | None]:
            name, key, path, version = found
            try:
                return name, key, _remembered((self.address, path, version), self._header, path)
            except FileNotFoundError:
                return name, key, None  # removed meanwhile

        for name, key, header in ahead(read, listed, AT_ONCE):
            if header is not None:
                yield name, key, partial(bytes, header)

    def _listed(self, kind: str | None) -> Iterator[tuple[str, str, str, str]]:
        """Kind, key and header's path of every entry, and what tells this header from a later one."""
        for path, info in self._find(kind or "").items():
            match path[len(self._root) + 1 :].split("/"):
                case [name, group, key, last] if (
                    last == HEADER and KIND.fullmatch(name) and KEY.fullmatch(key) and key[:2] == group
                ):
                    if name not in RESERVED:
                        yield name, key, path, _version(info)

    def _find(self, below: str) -> dict[str, dict[str, Any]]:
        """Every object below a part of the prefix."""
        with self._said("read"):
            try:
                found = self._fs.find(f"{self._root}/{below}".rstrip("/"), detail=True)
            except FileNotFoundError:
                return {}
        # A "folder" may be listed as an empty object of its own name.
        return {path: info for path, info in sorted(found.items()) if path.startswith(f"{self._root}/")}

    def header(self, kind: str, key: str) -> bytes:
        return self._header(f"{self.location(kind, key)}/{HEADER}")

    def _header(self, path: str) -> bytes:
        with self._said("read"):
            return self._fs.cat_file(path)

    def read(self, kind: str, key: str, name: str, record: FileRecord) -> bytes:
        with self._said("read"):
            return self._fs.cat_file(f"{self.location(kind, key)}/{_stored(name, record.sha256)}")

    def write(self, kind: str, key: str, contents: Mapping[str, bytes]) -> bool:
        where = self.location(kind, key)
        with self._said("written"):
            for name, data in contents.items():
                if name != HEADER:
                    self._fs.pipe_file(f"{where}/{_stored(name, FileRecord.of(data).sha256)}", data)
            for attempt in range(ATTEMPTS):
                try:
                    self._fs.pipe_file(f"{where}/{HEADER}", contents[HEADER], mode="create")
                    return True
                except FileExistsError:
                    return False
                except Exception as error:
                    # Somebody else creates or removes it at this moment: to be asked again, S3 says.
                    if not _is_conflict(error):
                        raise
                    time.sleep(0.05 * (attempt + random.random()))
        return False

    def set_aside(self, kind: str, key: str, reason: str, judged: bytes) -> str | None:
        """As `Place.set_aside`; the entry goes with its header.

        Its files stay until `gc`: whoever writes the entry again is perhaps writing them just now.
        """
        where = self.location(kind, key)
        aside = f"{self._root}/quarantine/{kind}.{key}.{uuid.uuid4().hex[:8]}"
        with self._said("written"):
            if self._still(where) != judged:
                return None
            self._fs.pipe_file(f"{aside}/{REASON}", f"{reason}\n".encode())
            for path in self._fs.find(where):
                with contextlib.suppress(FileNotFoundError):
                    self._fs.cp_file(path, aside + path[len(where) :])
            if self._still(where) != judged:
                self._remove(self._fs.find(aside))
                return None
            self._remove([f"{where}/{HEADER}"])
        return aside

    def _still(self, where: str) -> bytes | None:
        """The header that an entry has now."""
        try:
            return self._header(f"{where}/{HEADER}")
        except FileNotFoundError:
            return None

    def aside(self, before: float | None = None) -> list[DamagedEntry]:
        folders: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
        for path, info in self._find("quarantine").items():
            where = "/".join(path.split("/")[: self._root.count("/") + 3])
            folders.setdefault(where, []).append((path, info))
        found = []
        for where, objects in folders.items():
            if before is not None and any(self._modified(*one) > before for one in objects):
                continue
            kind, _, rest = where.rpartition("/")[2].partition(".")
            try:
                reason = self._header(f"{where}/{REASON}").decode("utf-8", errors="replace").strip()
            except FileNotFoundError:
                reason = "not recorded"
            found.append(DamagedEntry(kind, rest.partition(".")[0], reason, where))
        return found

    def abandoned(self, now: float) -> list[tuple[tuple[str, ...], int]]:
        """Objects a day old that nobody will miss.

        They are marks, files whose header nobody wrote, and files that a header does not list (of somebody
        who wrote the same entry with other bytes, and was second).
        """
        entries: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
        for path, info in self._find("").items():
            kind, _, rest = path[len(self._root) + 1 :].partition("/")
            if kind == "tmp":
                entries[path] = [(path, info)]
            elif kind not in RESERVED and KIND.fullmatch(kind) and rest.count("/") == 2:
                entries.setdefault(path.rpartition("/")[0], []).append((path, info))
        found = []
        for where, objects in entries.items():
            names = [path[len(where) + 1 :] for path, _ in objects]
            meant = set()
            if HEADER in names:
                if len({name.partition(".")[2] for name in names}) == len(names):
                    continue  # no two of a kind: the usual case, for which no header is read
                meant = {HEADER} | self._meant(where)
            old = [
                (path, info)
                for path, info in objects
                if path[len(where) + 1 :] not in meant and now - self._modified(path, info) > STALE_TMP_S
            ]
            if old and (meant or len(old) == len(objects)):
                found.append((tuple(path for path, _ in old), sum(info.get("size") or 0 for _, info in old)))
        return found

    def _meant(self, where: str) -> set[str]:
        """The objects that a header lists; all there are if it cannot be read."""
        *_, kind, _, key = where.split("/")
        try:
            entry = decode(self.header(kind, key), kind, key, self)
        except (FileNotFoundError, Damaged, OtherVersion):
            return {path[len(where) + 1 :] for path in self._find(where[len(self._root) + 1 :])}
        return {_stored(name, record.sha256) for name, record in entry.files.items()}

    def forget(self, work: tuple[str, ...]) -> None:
        where = work[0].rpartition("/")[0]
        if not where.endswith("/tmp"):
            meant = set() if self._still(where) is None else self._meant(where)
            work = tuple(path for path in work if path[len(where) + 1 :] not in meant)
        with self._said("written"):
            self._remove(work)

    def size(self, location: str) -> int:
        found = self._find(location[len(self._root) + 1 :])
        return sum(info.get("size") or 0 for info in found.values())

    def discard(self, location: str) -> None:
        with self._said("written"):
            self._remove([f"{location}/{HEADER}"])
            paths = self._fs.find(location)
            if location.startswith(f"{self._root}/quarantine/") or f"{location}/{HEADER}" not in paths:
                self._remove(paths)  # else somebody wrote it again

    def _remove(self, paths: Iterable[str]) -> None:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(path)

    def mark(self, mark: str = "") -> str:
        name = mark or name_of_work()
        with self._said("written"):
            self._fs.pipe_file(f"{self._root}/tmp/{name}", b"1")
        return name

    def marked(self, mark: str) -> bool:
        with self._said("read"):
            return self._fs.exists(f"{self._root}/tmp/{mark}")

    def unmark(self, mark: str) -> None:
        with self._said("written"):
            self._remove([f"{self._root}/tmp/{mark}"])

    def _modified(self, path: str, info: Mapping[str, Any]) -> float:
        """When an object was written, Unix time; now, if it is there no more."""
        when = next((info[name] for name in TIMES if isinstance(info.get(name), datetime)), None)
        if when is None:
            try:
                with self._said("read"):
                    when = self._fs.modified(path)
            except FileNotFoundError:
                return time.time()
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()

    @contextlib.contextmanager
    def _said(self, verb: str) -> Iterator[None]:
        """
        Raises:
            FileNotFoundError: there is no such object.
            StoreError: whatever else the service, or the way there, has against it.
        """
        try:
            yield
        except StoreError:
            raise
        except FileNotFoundError as error:
            if verb == "read":
                raise
            raise self._because(verb, error) from error
        except (IsADirectoryError, NotADirectoryError) as error:
            raise FileNotFoundError(*error.args) from None
        except Exception as error:  # every service has its own
            raise self._because(verb, error) from error

    def _because(self, verb: str, error: Exception) -> StoreError:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return StoreError(
            f"{self.address}: the store cannot be {verb} ({reason}); set QMOE_STORE to a folder or a bucket "
            "that can, and see that address and credentials of the service are in the environment"
        )


def _stored(name: str, sha256: str) -> str:
    return f"{sha256[:16]}.{name}"


def _version(info: Mapping[str, Any]) -> str:
    tag = next((info[name] for name in ("ETag", "etag", *TIMES) if name in info), "")
    return f"{tag} {info.get('size')}"


def _is_conflict(error: BaseException) -> bool:
    """Whether a service asks for another try, because somebody was at the same object (S3's 409)."""
    said = f"{error} {error.__cause__ or error.__context__ or ''}"
    return "ConditionalRequestConflict" in said or "(409)" in said


class _Headers:
    """Headers that were read, up to so many bytes; those that were not asked for the longest go first."""

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0
        self.known: OrderedDict[tuple[str, str, str], bytes] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, name: tuple[str, str, str]) -> bytes | None:
        with self.lock:
            if name in self.known:
                self.known.move_to_end(name)
            return self.known.get(name)

    def put(self, name: tuple[str, str, str], header: bytes) -> None:
        with self.lock:
            self.held += len(header) - len(self.known.pop(name, b""))
            self.known[name] = header
            while self.held > self.most:
                self.held -= len(self.known.popitem(last=False)[1])


_headers = _Headers(KNOWN_BYTES)


def _remembered(name: tuple[str, str, str], fetch: Callable[[str], bytes], path: str) -> bytes:
    """A header; what was listed under this name before is not fetched again."""
    header = _headers.get(name)
    if header is None:
        header = fetch(path)
        _headers.put(name, header)
    return header
