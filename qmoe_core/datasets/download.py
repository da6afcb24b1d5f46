"""Datasets from where their authors keep them: fetched, checked, unpacked where nothing can go wrong.

Pooch compares the checksum, where there is one, and puts the archive in its place. It cannot resume, so the
downloader is ours: what has arrived lies in `<store>/downloads/NAME.part`, with what the server said of it in
`NAME.json` beside it. Whatever stops a download (a stalled server, Ctrl-C, a pulled cable), the next one asks
for the rest only, and only if the file there is still the same (`If-Range`); servers that cannot do that send
all of it again. Then the archive (`NAME.archive`) is unpacked into a folder beside its destination; that it
holds the dataset it should is checked; and it is renamed into place.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import shutil
import stat
import tarfile
import tempfile
import time
import urllib.parse
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, NoReturn, cast

import msgspec
import pooch
import requests
import urllib3

from qmoe_core import __version__, datasets
from qmoe_core.datasets import esc, folder, urbansound
from qmoe_core.datasets.manifest import printable
from qmoe_core.errors import Cancelled, DatasetError
from qmoe_core.runtime import system, typed
from qmoe_core.runtime.executor import Progress
from qmoe_core.runtime.store import default_root

pooch.get_logger().setLevel("WARNING")  # else it prints a hash after each download

GB = 10**9
BLOCK = 1 << 18
STALL_S = 30.0
"""Without a byte for so long, the connection is given up and another one made."""
ATTEMPTS = 6
"""Connections in a row that bring nothing, after which it is given up."""
MAX_FILES = 100_000
MAX_RATIO = 200
"""Most that an archive may grow by when it is unpacked: sounds and pictures are not that compressible."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A file that its authors offer.

    Attributes:
        bytes: about how many it has; unpacked: how many more it becomes at most.
        md5, sha256: of the file; None where it is not stable, or known otherwise.
    """

    name: str
    title: str
    url: str
    bytes: int
    licence: str
    citation: str
    unpacked: int = 0
    md5: str | None = None
    sha256: str | None = None

    @property
    def checksum(self) -> str | None:
        """As pooch takes it: `kind:digits`."""
        return f"sha256:{self.sha256}" if self.sha256 else f"md5:{self.md5}" if self.md5 else None


@dataclass(frozen=True, kw_only=True)
class DatasetSource(File):
    """Where a dataset comes from.

    Attributes:
        url: of the archive (.zip or .tar.gz), or of a Zenodo record's JSON, which names its files.
        clips, classes: what must be in it.
    """

    clips: int
    classes: int


SOURCES = {
    source.name: source
    for source in (
        DatasetSource(
            name="esc50",
            title="ESC-50: 2,000 recordings of 5 s, 50 classes",
            # GitHub packs it anew now and then, so that no checksum holds: what is in it is checked instead.
            url="https://github.com/karolpiczak/ESC-50/archive/refs/heads/master.zip",
            bytes=646_000_000,
            unpacked=2 * GB,
            md5=None,
            clips=2000,
            classes=50,
            licence="CC BY-NC 3.0",
            citation=esc.CITATION,
        ),
        DatasetSource(
            name="urbansound8k",
            title="UrbanSound8K: 8,732 recordings of up to 4 s, 10 classes",
            url="https://zenodo.org/records/1203745/files/UrbanSound8K.tar.gz?download=1",
            bytes=6_023_741_708,
            unpacked=9 * GB,
            md5="9aa69802bbf37fb986f71ec1483a196e",
            clips=8732,
            classes=10,
            licence=urbansound.LICENCE,
            citation=urbansound.CITATION,
        ),
        DatasetSource(
            name="quinn",
            title="ABGQI of Quinn et al.: Mel spectrograms of soundscapes as pictures, 5 classes",
            url="https://zenodo.org/api/records/6038459",
            bytes=5 * GB,
            unpacked=20 * GB,
            md5=None,
            clips=1000,
            classes=5,
            licence=folder.QUINN_LICENCE,
            citation=folder.QUINN_CITATION,
        ),
    )
}


def source(name: str) -> DatasetSource:
    """The source of that name.

    Raises:
        DatasetError: there is none.
    """
    if name not in SOURCES:
        raise DatasetError(f"{printable(name)}: not a dataset to download; accepted are {', '.join(SOURCES)}")
    return SOURCES[name]


_TROUBLE = (requests.RequestException, urllib3.exceptions.HTTPError)
"""What a connection may end with, and another one may not."""


class _Arrived(msgspec.Struct, frozen=True):
    """What the server said of the file that has partly arrived."""

    url: str
    validator: str = ""
    """Its ETag if that is a strong one, else its time of last change; empty if it has neither."""
    total: int | None = None


def download(
    wanted: DatasetSource,
    *,
    url: str | None = None,
    progress: Progress | None = None,
    unpacking: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    stall_s: float = STALL_S,
    pause_s: float = 1.0,
) -> Path:
    """Fetches a dataset, unless it is there.

    Args:
        wanted: one of `SOURCES`.
        url: another place that has the same archive.
        progress: told of bytes that have arrived; unpacking: of bytes unpacked.
        cancelled: asked all the time.
        stall_s: patience with a silent server; pause_s: between connections, doubled each time.

    Returns:
        Its folder.

    Raises:
        DatasetError: the server does not give it, it is not what it should be, or the disk is too small.
        Cancelled: what has arrived is kept, and the next call asks for the rest.
    """
    root = datasets.kept() / wanted.name
    if root.exists():
        return root
    with fetched(wanted, url, progress, cancelled, stall_s=stall_s, pause_s=pause_s) as (archive, found):
        _unpack(archive, cast(DatasetSource, found), root, unpacking, cancelled or (lambda: False))
    return root


@contextlib.contextmanager
def fetched(
    wanted: File,
    url: str | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    *,
    stall_s: float = STALL_S,
    pause_s: float = 1.0,
) -> Iterator[tuple[Path, File]]:
    """A file from the web, its checksum compared; removed in the end, unless what is done inside fails.

    Args: see `download`.

    Yields:
        Where it lies, and what it turned out to be.

    Raises:
        DatasetError: the server does not give it, it is not what it should be, or the disk is too small.
        Cancelled: what has arrived is kept, and the next call asks for the rest.
    """
    home = default_root() / "downloads"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with system.locked(home / f"{wanted.name}.lock"):
            fetch = _Fetch(wanted, home, progress, cancelled or (lambda: False), stall_s, pause_s)
            yield fetch.archive(url or wanted.url), fetch.wanted
            fetch.forget()
    except system.Taken:
        raise DatasetError(f"{wanted.name}: another process is downloading it") from None
    except OSError as error:
        place = printable(error.filename or home)
        raise DatasetError(f"{place}: cannot be written ({error.strerror or error})") from None


class _Fetch:
    """One download over as many connections as it takes: what pooch calls a downloader, that resumes."""

    def __init__(
        self,
        wanted: File,
        home: Path,
        progress: Progress | None,
        cancelled: Callable[[], bool],
        stall_s: float,
        pause_s: float,
    ) -> None:
        self.wanted = wanted
        self.whole = home / f"{wanted.name}.archive"
        self.part = home / f"{wanted.name}.part"
        self.note = home / f"{wanted.name}.json"
        self.progress, self.cancelled = progress, cancelled
        self.stall_s, self.pause_s = stall_s, pause_s
        self.session = _Session()

    def archive(self, url: str) -> Path:
        """Fetch the archive and compare its checksum.

        Raises:
            DatasetError: see `download`.
            Cancelled: what has arrived is kept.
        """
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise DatasetError(
                f"{printable(url)}: not an address to download from; http and https are accepted"
            )
        if re.search(r"/api/records/\d+$", url):
            url = self._of_record(url)
        if self._kept().url != url:
            self.forget()
        _room(self.wanted, self.whole if self.whole.exists() else self.part)
        checksum, downloader = self.wanted.checksum, cast(Any, self)  # pooch names the arguments otherwise
        try:
            pooch.retrieve(url, checksum, self.whole.name, self.whole.parent, None, downloader)
        except KeyboardInterrupt:
            self._stop()
        except ValueError as error:  # pooch: another checksum than expected; it removed the file
            self.forget()
            found = str(error).partition("but got ")[2].partition(".")[0]
            kind, _, digest = str(checksum).upper().partition(":")
            raise DatasetError(
                f"{url}: what came ({kind} {found}) is not {self.wanted.name} ({kind} {digest.lower()}); "
                "it was removed: try again, or another address (--url)"
            ) from None
        return self.whole

    def forget(self) -> None:
        """Remove what has arrived."""
        for path in (self.whole, self.part, self.note):
            path.unlink(missing_ok=True)

    def _of_record(self, url: str) -> str:
        """The one archive that a Zenodo record lists, whose size and checksum become those to expect."""
        try:
            with self._open(url) as response:
                record = msgspec.json.decode(response.raw.read(4 << 20))
            files = [f for f in record["files"] if f["key"].lower().endswith((".zip", ".tar.gz", ".tgz"))]
            chosen = files if len(files) == 1 else [f for f in files if "spec" in f["key"].lower()]
            if len(chosen) != 1:
                listed = ", ".join(printable(file["key"]) for file in files) or "none"
                raise DatasetError(
                    f"{url}: lists these archives: {listed}; say which with --url (its address there)"
                )
            kind, _, digest = chosen[0]["checksum"].partition(":")
            size, md5 = int(chosen[0]["size"]), digest if kind == "md5" else None
            self.wanted = replace(self.wanted, bytes=size, md5=md5)
            return chosen[0]["links"]["self"]
        except _TROUBLE as error:
            raise DatasetError(f"{url}: {self._reason(error, url)}; try again, or give --url") from None
        except (msgspec.DecodeError, KeyError, TypeError, ValueError):
            message = "does not answer with a Zenodo record; give the archive's address (--url)"
            raise DatasetError(f"{url}: {message}") from None

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Fetch until all bytes are there (pooch calls this)."""
        fruitless = 0
        while True:
            before = self._size()
            try:
                if self._one_connection(url):
                    self.part.replace(output_file)
                    return
                reason = "the connection ended early"
            except _TROUBLE as error:
                reason = self._reason(error, url)
            fruitless = 0 if self._size() > before else fruitless + 1
            if fruitless == ATTEMPTS:
                raise DatasetError(
                    f"{url}: {reason}, {ATTEMPTS} times in a row; {self._size():,} bytes are kept, "
                    "and the same command goes on from there"
                )
            wake = time.monotonic() + self.pause_s * (2.0**fruitless if fruitless else 0.0)
            while (left := wake - time.monotonic()) > 0:
                self._stop_if_asked()
                time.sleep(min(left, 0.1))

    def _one_connection(self, url: str) -> bool:
        """Whether everything is there, after one connection was used as long as it lasted."""
        kept = self._kept()
        have = self._size() if kept.validator else 0
        with self._open(url, have, kept.validator) as response:
            headers, length = response.headers, response.headers.get("Content-Length")
            if response.status_code == 206:
                said = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range") or "")
                if said is None or int(said[1]) != have:
                    self.forget()
                    return False
                total = int(said[2]) if said[2] != "*" else kept.total
            else:  # all of it: nothing is here, the file there has changed, or the server knows no better
                have, total = 0, int(length) if length else None
                kind = headers.get("Content-Type", "").partition(";")[0].strip()
                if kind in ("text/html", "application/json"):
                    raise DatasetError(
                        f"{url}: answers with a page ({kind}), not with the file; see it in a browser"
                    )
                etag = headers.get("ETag", "")
                validator = etag if etag.startswith('"') else headers.get("Last-Modified", "")
                validator = validator if total is not None else ""
                self.note.write_bytes(msgspec.json.encode(_Arrived(url, validator, total)))
            most = total or 2 * self.wanted.bytes + GB
            if most > 2 * self.wanted.bytes + GB:
                raise DatasetError(
                    f"{url}: offers {total:,} bytes, where {self.wanted.name} has about {self.wanted.bytes:,}"
                )
            _room(replace(self.wanted, bytes=total or self.wanted.bytes), self.part)
            with self.part.open("r+b" if have else "wb") as file:
                file.seek(have)
                while block := response.raw.read1(BLOCK):  # as it comes: a read of a whole block may lose it
                    file.write(block)
                    have += len(block)
                    if have > most:
                        raise DatasetError(f"{url}: sends more than it said ({total or 'no length'})")
                    if self.progress is not None:
                        self.progress(have, max(total or self.wanted.bytes, have), _size(have))
                    self._stop_if_asked()
                file.flush()
                os.fsync(file.fileno())
        return total is None or have == total

    def _open(self, url: str, have: int = 0, validator: str = "") -> requests.Response:
        headers = {"User-Agent": f"qmoe-lab/{__version__}", "Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": validator}
        response = self.session.get(url, headers=headers, timeout=self.stall_s, stream=True)
        code = response.status_code
        if code < 400:
            return response
        response.close()
        if code == 416:  # nothing behind what is here: a file that grew or shrank
            self.forget()
            raise requests.ConnectionError("the file there has changed")
        if code in (408, 425, 429) or code >= 500:
            response.raise_for_status()
        raise DatasetError(
            f"{url}: the server answers {code} {printable(response.reason)}; see what the dataset's "
            "page says, or give another address (--url)"
        )

    def _reason(self, error: Exception, url: str) -> str:
        if isinstance(error, requests.HTTPError) and error.response is not None:
            return f"the server answers {error.response.status_code} {printable(error.response.reason)}"
        if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError)):
            return f"nothing came for {self.stall_s:g} s"
        return f"no connection to {urllib.parse.urlsplit(url).hostname} ({printable(error)})"

    def _kept(self) -> _Arrived:
        try:
            return typed.decode(self.note.read_bytes(), _Arrived)
        except (OSError, msgspec.DecodeError):
            return _Arrived("")

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _stop_if_asked(self) -> None:
        if self.cancelled():
            self._stop()

    def _stop(self) -> NoReturn:
        here = f"{_size(self._size())} of {self.wanted.name}"
        raise Cancelled(f"stopped; {here} are kept, and the same command goes on from there")


class _Session(requests.Session):
    """Follows to the web only, and from an encrypted connection to encrypted ones only."""

    max_redirects = 10

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        old = urllib.parse.urlsplit(resp.url).scheme
        new = urllib.parse.urlsplit(urllib.parse.urljoin(resp.url, target or "")).scheme
        if target and new not in ("https", old):
            raise DatasetError(f"{resp.url}: leads to {printable(target)}, which is not followed")
        return target


def _room(wanted: File, part: Path) -> None:
    """Refuses what the disk cannot take.

    Raises:
        DatasetError: too little room for what is still to come and for what it unpacks to.
    """
    here = part.stat().st_size if part.exists() else 0
    needed = max(wanted.bytes - here, 0) + wanted.unpacked
    free = shutil.disk_usage(part.parent).free
    if free < needed:
        raise DatasetError(
            f"{part.parent}: {_size(free)} are free, and {wanted.name} needs {_size(needed)} (archive and "
            "files); free some space, or set QMOE_STORE to a folder elsewhere"
        )


def _size(number: float) -> str:
    return f"{number / GB:.2f} GB" if number >= GB else f"{number / 1e6:.1f} MB"


# Unpacking.


@dataclass(frozen=True)
class _Member:
    """A file in an archive."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def _unpacked(
    archive: Path, wanted: DatasetSource, work: Path, cancelled: Callable[[], bool]
) -> Iterator[tuple[int, int]]:
    """Unpack into a folder; yields the number of files and of bytes so far, after each file."""
    most, size = min(wanted.unpacked, MAX_RATIO * archive.stat().st_size), 0
    for count, member in enumerate(_members(archive, wanted), start=1):
        if count > MAX_FILES:
            raise DatasetError(f"{wanted.name}: its archive holds more than {MAX_FILES:,} files; refused")
        target = work.joinpath(*_parts(member.name, wanted))
        target.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as inside, target.open("xb") as file:
            while block := inside.read(BLOCK):
                size += len(block)  # what really comes out, whatever the archive says
                if size > most:
                    raise DatasetError(f"{wanted.name}: its archive unpacks to over {_size(most)}; refused")
                file.write(block)
                if cancelled():
                    raise Cancelled("stopped; the archive is kept, and the same command unpacks it")
        yield count, size


def _unpack(
    archive: Path, wanted: DatasetSource, root: Path, progress: Progress | None, cancelled: Callable[[], bool]
) -> None:
    """Unpacks beside the destination, checks what came out, and renames it into place.

    Raises:
        DatasetError: no archive, one that is not to be trusted, or not that dataset.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        count = 0
        for count, size in _unpacked(archive, wanted, work, cancelled):
            if progress is not None:
                progress(min(size, wanted.unpacked - 1), wanted.unpacked, f"{count} files")
        if progress is not None:
            progress(wanted.unpacked, wanted.unpacked, f"{count} files")
        found = _dataset_in(work, wanted)
        found.chmod(0o755)
        system.flush_all()  # thousands of files: one by one would take longer than to unpack them
        found.rename(root)
    except FileExistsError:
        raise DatasetError(f"{wanted.name}: its archive has two files of one name; refused") from None
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        EOFError,
        ValueError,
        NotImplementedError,
        RuntimeError,  # of encrypted ones
        gzip.BadGzipFile,
        zlib.error,
    ) as error:
        for path in (archive, archive.with_suffix(".json")):
            path.unlink(missing_ok=True)
        raise DatasetError(
            f"{wanted.name}: what came is no sound archive ({' '.join(str(error).split()) or 'damaged'}); it "
            "was removed: try again, or another address (--url)"
        ) from None
    except KeyboardInterrupt:
        raise Cancelled("stopped; the archive is kept, and the same command unpacks it") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _members(archive: Path, wanted: DatasetSource) -> Iterator[_Member]:
    """Regular files, in their order; folders are left out, and anything else is refused."""

    def refuse(name: str) -> NoReturn:
        raise DatasetError(f"{wanted.name}: its archive holds a link or device ({printable(name)}); refused")

    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    refuse(info.filename)
                if not info.is_dir():
                    yield _Member(info.filename, info.file_size, lambda info=info: packed.open(info))
        return
    with tarfile.open(archive, "r:gz") as packed:
        for entry in packed:
            if not (entry.isfile() or entry.isdir()):
                refuse(entry.name)
            if entry.isfile():
                inside = packed.extractfile(entry)
                assert inside is not None
                yield _Member(entry.name, entry.size, lambda inside=inside: inside)


def _parts(name: str, wanted: DatasetSource) -> tuple[str, ...]:
    """The parts of a member's path.

    Raises:
        DatasetError: it leads out of the folder, or is not a name to write.
    """
    parts = PurePosixPath(name).parts
    bad = not parts or not name.isprintable() or name.startswith("/") or ":" in name
    bad = bad or not all(map(system.is_plain_name, parts))
    if bad or max(len(part.encode()) for part in parts) > 255 or len(parts) > 20:
        raise DatasetError(
            f"{wanted.name}: its archive holds a path that is refused: {printable(name)[:100]}"
        )
    return parts


def _dataset_in(work: Path, wanted: DatasetSource) -> Path:
    """The folder of the dataset in what was unpacked.

    Raises:
        DatasetError: none is in it, or another one.
    """
    for path in sorted([work, *(p for p in work.rglob("*") if p.is_dir())], key=lambda p: len(p.parts)):
        if wanted.name == "quinn":
            names = {child.name.lower() for child in path.iterdir() if child.is_dir()}
            parts = names and names <= folder.PARTS.keys()
            if not parts and len(names & folder.QUINN_CLASSES) < wanted.classes:
                continue
        elif not (esc.matches(path) or urbansound.matches(path)):
            continue
        with contextlib.suppress(DatasetError):
            manifest = datasets.open_dataset(path)
            if len(manifest) >= wanted.clips and len(manifest.classes) == wanted.classes:
                return path
    raise DatasetError(
        f"{wanted.name}: the archive does not hold it (expected {wanted.clips:,} clips of {wanted.classes} "
        "classes); look at it in the store's downloads, and remove it there to fetch it again"
    )
