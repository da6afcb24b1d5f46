"""Downloads against a server of our own that stalls, cuts off, redirects, forgets and lies."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from qmoe_core import cli, datasets
from qmoe_core.datasets import download
from qmoe_core.datasets.download import DatasetSource
from qmoe_core.errors import Cancelled, DatasetError
from tests.servers import Server


def zipped(root: Path, extra: Callable[[zipfile.ZipFile], object] = lambda archive: None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path in sorted(root.rglob("*")):
            if path.is_file():
                archive.write(path, f"ESC-50-master/{path.relative_to(root)}")
        extra(archive)
    return out.getvalue()


@pytest.fixture
def content(make_esc) -> bytes:
    return zipped(make_esc())


def small(**changes: object) -> DatasetSource:
    """ESC-50 as the tests have it: eight clips, two classes."""
    small = {"clips": 8, "classes": 2, "bytes": 100_000, "unpacked": 1_000_000}
    return replace(download.SOURCES["esc50"], **(small | changes))


def fetch(server: Server, source: DatasetSource | None = None, **arguments: object) -> Path:
    return download.download(source or small(), url=server.url, stall_s=1.0, pause_s=0.0, **arguments)


def leftovers() -> list[str]:
    home = datasets.kept().parent
    return sorted(
        p.name for p in (*home.glob("downloads/*"), *home.glob("datasets/*")) if p.suffix != ".lock"
    )


def test_a_download_is_on_the_disk_before_it_takes_its_place(serve, content, unflushed: list[str]) -> None:
    assert fetch(serve(content)).is_dir()
    assert unflushed == []


def test_a_dataset_arrives_and_is_not_fetched_twice(serve, content) -> None:
    server, told = serve(content), []
    path = fetch(server, progress=lambda *args: told.append(args), unpacking=lambda *args: told.append(args))
    assert path == datasets.kept() / "esc50"
    assert len(datasets.open_dataset("esc50")) == 8
    assert told[0][1] == len(content)
    assert told[-1][0] == told[-1][1]
    assert leftovers() == ["esc50"]
    assert fetch(server) == path
    assert len(server.asked) == 1


@pytest.mark.parametrize("way", ["cut", "stall"])
def test_a_broken_connection_is_taken_up_again(serve, content, way) -> None:
    server = serve(content)
    server.ways = [way, way, "status503", "fine"]
    fetch(server)
    assert len(server.asked) == 4
    starts = [int(re.sub(r"\D", "", asked or "0")) for asked in server.asked]
    assert 0 == starts[0] < starts[1] < starts[2] == starts[3]


def test_a_server_that_ignores_ranges_is_asked_for_all_of_it(serve, content) -> None:
    server = serve(content)
    server.ways = ["cut", "all"]
    fetch(server)
    assert server.asked[0] is None
    assert server.asked[1] is not None


def test_a_file_that_changes_meanwhile_is_fetched_anew(serve, content) -> None:
    server = serve(bytes(len(content)))
    server.ways = ["cut", "fine"]
    answer = server.answer

    def change(request: http.server.BaseHTTPRequestHandler, way: str) -> None:
        answer(request, way)
        server.content, server.etag = content, '"two"'

    server.answer = change
    fetch(server)
    assert len(datasets.open_dataset("esc50")) == 8


def test_without_a_validator_nothing_is_pieced_together(serve, content) -> None:
    server = serve(content)
    server.etag = None
    server.ways = ["cut", "fine"]
    fetch(server)
    assert server.asked == [None, None]


def test_a_length_that_is_not_told(serve, content) -> None:
    server = serve(content)
    server.ways = ["chunked"]
    fetch(server)


def test_it_is_given_up_after_some_fruitless_connections(serve, content) -> None:
    server = serve(content)
    server.ways = ["status503"]
    with pytest.raises(DatasetError, match=r"answers 503 .*, 6 times in a row; 0 bytes are kept"):
        fetch(server)
    assert len(server.asked) == download.ATTEMPTS
    server.http.server_close()
    with pytest.raises(DatasetError, match=r"no connection to 127\.0\.0\.1"):
        download.download(small(), url="http://127.0.0.1:9/archive.zip", stall_s=1.0, pause_s=0.0)


def test_cancelled_it_goes_on_where_it_was(serve, content) -> None:
    server = serve(content)
    server.ways = ["cut", "fine"]
    with pytest.raises(Cancelled, match="are kept, and the same command goes on"):
        fetch(server, cancelled=lambda: True)
    assert leftovers() == ["esc50.json", "esc50.part"]
    fetch(server)
    assert server.asked == [None, "bytes=400-"]


def test_cancelled_while_unpacking_it_does_not_fetch_again(serve, content, monkeypatch) -> None:
    server = serve(content)
    asked = iter([False] * (1 + len(content) // download.BLOCK) + [True])
    with pytest.raises(Cancelled, match="the archive is kept"):
        fetch(server, cancelled=lambda: next(asked))
    fetch(server)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("page", r"answers with a page \(text/html\)"),
        ("status404", "answers 404"),
        ("huge", r"offers 5,000,00\d,\d+ bytes, where esc50 has about"),
        ("to file:///etc/passwd", "is not allowed|is not followed"),
        ("to /archive.zip", "answers 302|no connection"),
    ],
)
def test_what_is_no_archive_is_refused_at_once(serve, content, way, message) -> None:
    server = serve(content)
    server.ways = [way]
    with pytest.raises(DatasetError, match=message):
        fetch(server)
    assert "esc50" not in leftovers()


def test_a_redirect_is_followed(serve, content) -> None:
    server, first = serve(content), serve(b"")
    first.ways = [f"to {server.url}"]
    fetch(first)
    assert len(server.asked) == 1


def test_garbage_is_removed(serve) -> None:
    server = serve(b"PK\x03\x04 but nothing else" * 40)
    with pytest.raises(DatasetError, match=r"what came is no sound archive .*; it was removed"):
        fetch(server)
    assert leftovers() == []


def test_another_checksum_is_refused(serve, content) -> None:
    server = serve(content)
    with pytest.raises(DatasetError, match=r"MD5 [0-9a-f]{32}\) is not esc50 \(MD5 00"):
        fetch(server, small(md5="00"))
    assert leftovers() == []
    fetch(server, small(md5=hashlib.md5(content).hexdigest()))


def test_too_small_a_disk_is_said_before(serve, content, monkeypatch) -> None:
    server = serve(content)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(DatasetError, match=r"0\.0 MB are free, and esc50 needs 1\.1 MB"):
        fetch(server)
    assert server.asked == []


def test_another_dataset_is_refused(serve, content) -> None:
    with pytest.raises(DatasetError, match=r"does not hold it \(expected 9 clips of 2 classes\)"):
        fetch(serve(content), small(clips=9))
    assert "esc50" not in leftovers()


def link(archive: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo("ESC-50-master/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(info, "/etc/passwd")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (lambda archive: archive.writestr("../out.txt", b"x"), "holds a path that is refused"),
        (lambda archive: archive.writestr("/out.txt", b"x"), "holds a path that is refused"),
        (lambda archive: archive.writestr("a\x1b[2J", b"x"), "holds a path that is refused"),
        (lambda archive: archive.writestr("n" * 300, b"x"), "holds a path that is refused"),
        (link, r"holds a link or device \(ESC-50-master/link\)"),
        (
            lambda archive: archive.writestr("bomb", bytes(2_000_000), zipfile.ZIP_DEFLATED),
            r"unpacks to over 1\.0 MB",
        ),
    ],
)
def test_archives_that_are_not_to_be_trusted(serve, make_esc, tmp_path, extra, message) -> None:
    with pytest.raises(DatasetError, match=message):
        fetch(serve(zipped(make_esc(), extra)))
    assert "esc50" not in leftovers()
    assert not (tmp_path / "out.txt").exists()
    assert not (datasets.kept() / "out.txt").exists()


def test_too_many_files(serve, content, monkeypatch) -> None:
    monkeypatch.setattr(download, "MAX_FILES", 5)
    with pytest.raises(DatasetError, match="more than 5 files"):
        fetch(serve(content))


@pytest.mark.parametrize("trap", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, None])
def test_tar_archives(serve, make_esc, trap) -> None:
    out, root = io.BytesIO(), make_esc()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        archive.add(root, "x")
        if trap:
            info = tarfile.TarInfo("x/trap")
            info.type, info.linkname = trap, "/etc/passwd"
            archive.addfile(info)
    server = serve(out.getvalue())
    if trap:
        with pytest.raises(DatasetError, match=r"a link or device \(x/trap\)"):
            fetch(server)
    else:
        assert len(datasets.open_dataset(fetch(server))) == 8


def test_a_record_names_its_archive(serve, make_esc) -> None:
    content = zipped(make_esc())
    server = serve(content)
    files = [
        {
            "key": "specs.zip",
            "size": len(content),
            "checksum": f"md5:{hashlib.md5(content).hexdigest()}",
            "links": {"self": server.url},
        },
        {"key": "code.zip", "size": 1, "checksum": "md5:0", "links": {"self": "file:///etc/passwd"}},
    ]
    record = serve(json.dumps({"files": files}).encode())
    record.ways = ["record"]
    address = record.url.replace("/archive.zip", "/api/records/6038459")
    path = download.download(small(), url=address, stall_s=1.0, pause_s=0.0)
    assert len(datasets.open_dataset(path)) == 8
    other = serve(b'{"files": []}')
    other.ways = ["record"]
    with pytest.raises(DatasetError, match="lists these archives: none"):
        download.download(
            small(name="other"), url=other.url.replace("/archive.zip", "/api/records/1"), pause_s=0.0
        )


def test_the_command(serve, content, monkeypatch, capsys) -> None:
    server = serve(content)
    monkeypatch.setitem(download.SOURCES, "esc50", small())
    assert cli.main(["data", "download", "esc50", "--url", server.url, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["clips"] == 8
    assert said.err.index("CC BY-NC 3.0") < said.err.index("downloading")
    assert cli.main(["data", "download", "esc51"]) == 2
    assert "accepted are esc50, urbansound8k, quinn" in capsys.readouterr().err
    assert cli.main(["data", "download", "quinn", "--url", "ftp://x/y.zip"]) == 2
    assert "http and https are accepted" in capsys.readouterr().err
