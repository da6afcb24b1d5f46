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
import logging
import re
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from qmoe_core.errors import StoreError
from qmoe_core.store.entry import (
    HEADER,
    KEY,
    KIND,
    REASON,
    RESERVED,
    STALE_TMP_S,
    Damaged,
    FileRecord,
    Report,
)
from qmoe_core.store.folder import name_of_work

log = logging.getLogger(__name__)

AT_ONCE = 16
"""Headers that are fetched at once."""
KNOWN = 4096
"""Headers that are remembered: a listing that is asked for again fetches the new ones only."""
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
                f"{address!r} is no store; accepted is a folder, or a bucket such as s3://name/prefix (no "
                "credentials in it: they belong in the environment)"
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
        self._root = str(root).rstrip("/")

    def __reduce__(self) -> Any:
        """Another process, perhaps on another machine, goes there in its own way."""
        return Objects, (self.address,)

    def location(self, kind: str, key: str) -> str:
        return f"{self._root}/{kind}/{key[:2]}/{key}"

    def keys(self, kind: str | None) -> Iterator[tuple[str, str]]:
        for name, key, _, _ in self._listed(kind):
            yield name, key

    def headers(self, kind: str | None) -> Iterator[tuple[str, str, Callable[[], bytes]]]:
        listed = list(self._listed(kind))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            waiting = [
                (name, key, pool.submit(_remembered, (self.address, path, version), self._header, path))
                for name, key, path, version in listed
            ]
            for name, key, header in waiting:
                yield name, key, header.result

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
            try:
                self._fs.pipe_file(f"{where}/{HEADER}", contents[HEADER], mode="create")
            except FileExistsError:
                return False
        return True

    def set_aside(self, kind: str, key: str, reason: str) -> str | None:
        where = self.location(kind, key)
        aside = f"{self._root}/quarantine/{kind}.{key}.{uuid.uuid4().hex[:8]}"
        with self._said("written"):
            paths = self._fs.find(where)
            if f"{where}/{HEADER}" not in paths:
                return None
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.cp_file(path, aside + path[len(where) :])
            self._fs.pipe_file(f"{aside}/{REASON}", f"{reason}\n".encode())
        self.discard(where)
        return aside

    def aside(self, before: float | None = None) -> list[Report]:
        found = []
        for path, info in self._find("quarantine").items():
            where, _, last = path.rpartition("/")
            if last != REASON or (before is not None and self._modified(path, info) > before):
                continue
            kind, _, rest = where.rpartition("/")[2].partition(".")
            with contextlib.suppress(FileNotFoundError), self._said("read"):
                reason = self._fs.cat_file(path).decode("utf-8", errors="replace").strip()
                found.append(Report(kind, rest.partition(".")[0], reason, where))
        return found

    def abandoned(self, now: float) -> list[str]:
        """Marks that are a day old, and files as old whose header nobody wrote."""
        entries: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        for path, info in self._find("").items():
            kind, _, rest = path[len(self._root) + 1 :].partition("/")
            if kind == "tmp":
                entries[path] = [(path, info)]
            elif kind not in RESERVED and KIND.fullmatch(kind) and rest.count("/") == 2:
                entries.setdefault(path.rpartition("/")[0], []).append((path, info))
        return [
            where
            for where, objects in entries.items()
            if not any(path.endswith(f"/{HEADER}") for path, _ in objects)
            and all(now - self._modified(path, info) > STALE_TMP_S for path, info in objects)
        ]

    def size(self, location: str) -> int:
        with self._said("read"):
            return sum(info["size"] or 0 for info in self._fs.find(location, detail=True).values())

    def discard(self, location: str) -> None:
        with self._said("written"):
            paths = self._fs.find(location)
            for path in sorted(paths, key=lambda path: not path.endswith(f"/{HEADER}")):
                with contextlib.suppress(FileNotFoundError):
                    self._fs.rm_file(path)

    def mark(self) -> str:
        name = name_of_work()
        with self._said("written"):
            self._fs.pipe_file(f"{self._root}/tmp/{name}", b"1")
        return name

    def marked(self, mark: str) -> bool:
        with self._said("read"):
            return self._fs.exists(f"{self._root}/tmp/{mark}")

    def unmark(self, mark: str) -> None:
        with self._said("written"), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/tmp/{mark}")

    def _modified(self, path: str, info: Mapping[str, Any]) -> float:
        """When an object was written, Unix time."""
        when = next((info[name] for name in ("LastModified", "mtime", "created") if info.get(name)), None)
        if not isinstance(when, datetime):
            when = self._fs.modified(path)
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
        except (StoreError, Damaged, FileExistsError):
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
    tag = next(
        (info[name] for name in ("ETag", "etag", "LastModified", "mtime", "created") if name in info), ""
    )
    return f"{tag} {info.get('size')}"


_headers: OrderedDict[tuple[str, str, str], bytes] = OrderedDict()
_lock = threading.Lock()


def _remembered(name: tuple[str, str, str], fetch: Callable[[str], bytes], path: str) -> bytes:
    """A header; what was listed under this name before is not fetched again."""
    with _lock:
        if name in _headers:
            _headers.move_to_end(name)
            return _headers[name]
    raw = fetch(path)
    with _lock:
        _headers[name] = raw
        while len(_headers) > KNOWN:
            _headers.popitem(last=False)
    return raw
