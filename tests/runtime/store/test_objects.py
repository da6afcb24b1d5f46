"""The store in a bucket: the promises of the one in a folder, kept where nothing can be renamed."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qmoe_core import cli
from qmoe_core.errors import StoreError
from qmoe_core.runtime.store import Store, default_root, objects, root_of
from qmoe_core.runtime.store.entry import STALE_TMP_S
from tests import buckets

KEY = {"expert": "q4", "fold": 1}
WEIGHTS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([1, 2], dtype=np.int8)}


@pytest.fixture
def remote(bucket: str) -> Store:
    return Store(f"{bucket}/some/where")


def put(store: Store, key: dict = KEY, **more):
    return store.put("experts", key, WEIGHTS, {"f1": 0.9}, **more)


def names(store: Store) -> list[str]:
    """Every object, as another client sees them."""
    bucket = store.address.removeprefix("s3://").split("/")[0]
    pages = buckets.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [item["Key"] for page in pages for item in page.get("Contents", ())]


def change(store: Store, ending: str, data: Callable[[bytes], bytes | None]) -> None:
    """Replace what an object holds, or remove it."""
    bucket = store.address.removeprefix("s3://").split("/")[0]
    (name,) = [name for name in names(store) if name.endswith(ending) and "/quarantine/" not in name]
    client = buckets.client()
    changed = data(client.get_object(Bucket=bucket, Key=name)["Body"].read())
    if changed is None:
        client.delete_object(Bucket=bucket, Key=name)
    else:
        client.put_object(Bucket=bucket, Key=name, Body=changed)


def test_what_was_put_is_got_from_anywhere(remote: Store) -> None:
    assert remote.get("experts", KEY) is None
    written = put(remote, files={"card.json": b"{}", "nothing": b""})
    got = Store(remote.address).get("experts", KEY)
    assert got == written
    assert got is not None
    assert got.metadata == {"f1": 0.9}
    assert (got.read("card.json"), got.read("nothing")) == (b"{}", b"")
    for name, tensor in WEIGHTS.items():
        np.testing.assert_array_equal(got.tensors[name], tensor, strict=True)
    assert Store(remote.address).list() == [got]
    assert remote.get("routers", KEY) is None
    assert not list(remote.root.rglob("*"))  # nothing of it is here


def test_the_layout_is_the_documented_one(remote: Store) -> None:
    entry = put(remote)
    where = f"some/where/experts/{entry.key[:2]}/{entry.key}"
    checksum = entry.files["tensors.safetensors"].sha256[:16]
    assert names(remote) == [f"{where}/{checksum}.tensors.safetensors", f"{where}/entry.json"]


def test_an_entry_is_not_replaced(remote: Store) -> None:
    first = put(remote)
    second = remote.put("experts", KEY, {"other": np.zeros(1)}, {"f1": 0.1})
    assert second == first
    got = remote.get("experts", KEY)
    assert got is not None
    assert set(got.tensors) == {"w", "b"}


def test_without_its_header_an_entry_is_not_there(remote: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(remote)
    change(
        remote, "entry.json", lambda _: None
    )  # as a writer leaves it that is killed before the last object
    assert remote.get("experts", KEY) is None
    assert remote.list() == []
    assert remote.verify().checked == 0
    assert remote.gc().unfinished == 0  # somebody may be about to write it
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + STALE_TMP_S + 60)
    planned = remote.gc(dry_run=True)
    assert planned.unfinished == 1
    assert planned.bytes > 0
    assert len(names(remote)) == 1
    assert remote.gc() == planned
    assert names(remote) == []
    put(remote)
    assert remote.gc().unfinished == 0


@pytest.mark.parametrize("ending", ["entry.json", "tensors.safetensors", "card.json"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data[:-10] + bytes([data[-10] ^ 1]) + data[-9:],
        lambda data: data + b"\n]",
        lambda data: None,
    ],
    ids=["truncated", "empty", "flipped", "grown", "removed"],
)
def test_damage_is_set_aside_and_written_again(remote: Store, caplog, ending: str, damage) -> None:
    entry = put(remote, files={"card.json": b'{"title": "a card"}'})
    other = put(remote, key={"sound": 1})
    gone = ending == "entry.json" and damage(b"x" * 20) is None
    for store in (remote, Store(remote.address)):
        stored = ending if ending == "entry.json" else f"{entry.files[ending].sha256[:16]}.{ending}"
        change(store, f"{entry.key}/{stored}", damage)
        assert store.get("experts", KEY) is None
        put(store, files={"card.json": b'{"title": "a card"}'})
        assert store.get("experts", KEY) is not None
    reports = remote.reports()
    if gone:  # never there, for all that can be known
        assert reports == []
    else:
        assert "set aside" in caplog.text
        assert [(report.kind, report.key) for report in reports] == [("experts", entry.key)] * 2
        assert all(ending in report.reason for report in reports)
    assert remote.verify().checked == 2
    assert {one.key for one in remote.list()} == {entry.key, other.key}


def test_verify_finds_all_damage_and_gc_removes_it(remote: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [put(remote, key={"n": n}) for n in range(4)]
    change(remote, f"{entries[0].key}/entry.json", lambda data: data.replace(b"0.9", b"0.8"))
    found = remote.verify()
    assert (found.checked, [one.key for one in found.damaged]) == (4, [entries[0].key])
    assert remote.reports() == list(found.damaged)
    assert remote.verify().damaged == ()
    assert remote.gc(1.0).bytes == 0
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * 86_400)
    removed = remote.gc(1.0, keep={entries[3].key})
    assert {one.key for one in removed.entries} == {entries[1].key, entries[2].key}
    assert removed.quarantined == 1
    assert [one.key for one in remote.list()] == [entries[3].key]
    assert remote.reports() == []
    assert len(names(remote)) == 2


def test_deletion_and_prefixes(remote: Store) -> None:
    entry, other = put(remote), put(remote, key={"n": 2})
    assert remote.delete(entry.key[:12]) == entry
    assert remote.list() == [other]
    with pytest.raises(StoreError, match=f"{remote.address}: no entry begins with"):
        remote.resolve(entry.key)


def test_many_are_got_in_their_order(remote: Store) -> None:
    keys = [{"n": n} for n in range(40)]
    for key in keys[::2]:
        put(remote, key)
    found = list(remote.get_each("experts", keys))
    assert [entry.fields if entry else None for entry in found] == [
        key if n % 2 == 0 else None for n, key in enumerate(keys)
    ]


def test_a_listing_fetches_what_is_new(remote: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(remote)
    fetched = []
    fetch = objects.Objects._header
    monkeypatch.setattr(
        objects.Objects, "_header", lambda self, path: fetched.append(path) or fetch(self, path)
    )
    assert len(remote.list()) == len(Store(remote.address).list()) == len(fetched) == 1
    put(remote, key={"n": 2})
    fetched.clear()
    assert len(remote.list()) == 2
    assert len(fetched) == 1


WRITER = """
import sys
import numpy as np
from qmoe_core.runtime.store import Store

store = Store(sys.argv[1])
for n in range(12):
    array = np.random.default_rng(n).normal(size=2_000)
    store.put("things", {"n": n}, {"a": array}, {"sum": float(array.sum()), "by": sys.argv[2]})
    print(n, flush=True)
"""


def writer(store: Store, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, store.address, name],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )


def test_processes_that_write_the_same_keys_and_one_that_is_killed(remote: Store) -> None:
    killed = writer(remote, "killed")
    assert killed.stdout is not None
    for _ in range(4):
        killed.stdout.readline()
    killed.kill()
    killed.communicate()
    before = {entry.key: entry for entry in remote.list()}
    assert 4 <= len(before) <= 12
    for process in [writer(remote, "one"), writer(remote, "other")]:
        process.communicate()
        assert process.returncode == 0
    assert (len(remote.list()), remote.verify().damaged, remote.reports()) == (12, (), [])
    for n in range(12):
        entry = remote.get("things", {"n": n})
        assert entry is not None
        assert entry.tensors["a"].sum() == entry.metadata["sum"]
        assert before.get(entry.key, entry) == entry  # what was finished stayed


def test_marks(remote: Store) -> None:
    with remote.marked() as mark:
        assert Store(remote.address).sees(mark)
        assert not Store(remote.address + "/other").sees(mark)
    assert not remote.sees(mark)


def test_no_credentials_travel(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec.config
    import s3fs

    monkeypatch.setitem(fsspec.config.conf, "s3", {"key": "testing", "secret": "a-secret"})
    s3fs.S3FileSystem.clear_instance_cache()
    store = Store(f"{bucket}/some/where")
    put(store)
    sent = pickle.dumps(store)
    assert b"a-secret" not in sent
    assert pickle.loads(sent).list() == store.list()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3://", "is no store; accepted is a folder, or a bucket"),
        ("s3://key:secret@bucket/x", "no credentials in it"),
        ("s3://bucket/*", "is no store"),
        ("simplecache::s3://bucket", "is no store"),
        ("file:///somewhere", "a folder is named without file://"),
        ("gopher://hole/x", r"not known: gopher; accepted are s3"),
        ("az://account/x", "pip install fsspec adlfs"),
    ],
)
def test_what_is_no_store(address: str, said: str) -> None:
    with pytest.raises(StoreError, match=said) as caught:
        Store(address)
    assert "\n" not in str(caught.value)


def test_a_bucket_that_is_not_there(remote: Store) -> None:
    nowhere = Store("s3://nobody-has-made-this/x")
    assert nowhere.get("experts", KEY) is None
    with pytest.raises(
        StoreError, match=r"s3://nobody-has-made-this/x: the store cannot be written \(The spec"
    ):
        put(nowhere)


def test_a_service_that_refuses(remote: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_more: object) -> None:
        raise PermissionError("Access Denied")

    put(remote)
    fs = remote._place._fs  # type: ignore[attr-defined]
    for method in ("cat_file", "find", "pipe_file"):
        monkeypatch.setattr(fs, method, refuse)
    for act in (
        lambda: remote.get("experts", KEY),
        remote.list,
        remote.verify,
        lambda: put(remote, {"n": 1}),
    ):
        with pytest.raises(StoreError, match=r"the store cannot be (read|written) \(Access Denied\)"):
            act()


def test_damage_in_a_bucket_that_cannot_be_written_is_not_served(
    remote: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(remote)
    change(remote, "tensors.safetensors", lambda data: data[:-1])

    def refuse(*_args: object, **_more: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(remote._place._fs, "cp_file", refuse)  # type: ignore[attr-defined]
    assert remote.get("experts", KEY) is None
    assert "cannot be set aside" in caplog.text


def test_from_the_command_line(
    remote: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    entry = put(remote)
    assert cli.main(["runs", "--store", remote.address, "list"]) == 0
    assert entry.key[:12] in capsys.readouterr().out
    monkeypatch.setenv("QMOE_STORE", remote.address)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    assert Store().address == remote.address
    assert default_root() == root_of(remote.address) == Store().root
    assert default_root().is_relative_to(tmp_path / "share")
    assert cli.main(["runs", "verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"checked": 1, "damaged": []}
    change(remote, "tensors.safetensors", lambda _: None)
    assert cli.main(["runs", "verify"]) == 2
    assert f"1 damaged and set aside, in {remote.address}" in capsys.readouterr().out


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(StoreError, match=r"pip install 'qmoe-lab\[objects\]'"):
        Store("s3://bucket/x")


def test_a_store_in_a_folder_needs_no_package() -> None:
    code = "import sys; from qmoe_core.runtime.store import Store; Store('x').list()"
    code += "; print('fsspec' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
        env=os.environ,
    )
    assert done.stdout == "False\n"


# Others at the same moment


def at_once(monkeypatch: pytest.MonkeyPatch, fs: object, method: str, act: Callable[[], object]) -> None:
    """When a method is next called, somebody else acts first."""
    usual = getattr(fs, method)

    def interrupted(*args: object, **more: object) -> object:
        monkeypatch.setattr(fs, method, usual)
        act()
        return usual(*args, **more)

    monkeypatch.setattr(fs, method, interrupted)


def test_gc_leaves_what_is_finished_meanwhile(remote: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(remote)
    change(remote, "entry.json", lambda _: None)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + STALE_TMP_S + 60)
    forget = objects.Objects.forget

    def late(self: objects.Objects, work: tuple[str, ...]) -> None:
        put(Store(remote.address))
        forget(self, work)

    monkeypatch.setattr(objects.Objects, "forget", late)
    assert remote.gc().unfinished == 1
    assert remote.get("experts", KEY) is not None


def test_damage_that_somebody_mended_meanwhile_stays(remote: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(remote)
    change(remote, "entry.json", lambda data: data.replace(b"0.9", b"0.8"))

    def mend() -> None:
        other = Store(remote.address)
        assert other.get("experts", KEY) is None
        put(other)

    set_aside = objects.Objects.set_aside

    def late(self: objects.Objects, *args: object) -> object:
        monkeypatch.setattr(objects.Objects, "set_aside", set_aside)
        mend()
        return set_aside(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(objects.Objects, "set_aside", late)
    assert remote.get("experts", KEY) is None
    assert remote.get("experts", KEY) is not None
    assert len(remote.reports()) == 1
    assert remote.verify().damaged == ()


def test_two_writers_of_one_header(remote: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 answers with 409 where two create one object at one moment, and wants to be asked again."""
    fs = remote._place._fs  # type: ignore[attr-defined]
    usual, asked = fs.pipe_file, []

    def conflicting(path: str, data: bytes, **more: str) -> None:
        if more and len(asked) < 2:
            asked.append(path)
            raise OSError("An error occurred (ConditionalRequestConflict) when calling PutObject")
        usual(path, data, **more)

    monkeypatch.setattr(fs, "pipe_file", conflicting)
    assert put(remote) == remote.get("experts", KEY)
    assert len(asked) == 2


def test_what_is_seen_late_is_waited_for_and_not_for_ever(
    remote: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(objects.Objects, "header", failing(FileNotFoundError("not yet")))
    with pytest.raises(StoreError, match="was written, and cannot be read"):
        put(remote)


def failing(error: Exception) -> Callable[..., object]:
    def fail(*_args: object, **_more: object) -> None:
        raise error

    return fail


def test_what_a_second_writer_left_goes_with_gc(remote: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = put(remote)
    remote.put("experts", KEY, {"other": np.zeros(3)})
    assert len(names(remote)) == 3
    assert remote.gc().unfinished == 0
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + STALE_TMP_S + 60)
    assert remote.gc().unfinished == 1
    assert len(names(remote)) == 2
    assert remote.get("experts", KEY) == first


def test_damage_whose_setting_aside_was_interrupted_is_reported(remote: Store, monkeypatch) -> None:
    put(remote)
    change(remote, "entry.json", lambda data: data.replace(b"0.9", b"0.8"))
    assert remote.get("experts", KEY) is None
    bucket = remote.address.removeprefix("s3://").split("/")[0]
    (reason,) = [name for name in names(remote) if name.endswith("reason.txt")]
    buckets.client().delete_object(Bucket=bucket, Key=reason)
    assert [report.reason for report in remote.reports()] == ["not recorded"]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * STALE_TMP_S)
    assert remote.gc(1.0).quarantined == 1
    assert names(remote) == []


def test_services_that_do_not_list_times(remote: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(remote)
    change(remote, "entry.json", lambda _: None)
    fs = remote._place._fs  # type: ignore[attr-defined]
    find = fs.find

    def without_times(*args: object, **more: object) -> object:
        found = find(*args, **more)
        return {name: {"size": info["size"]} for name, info in found.items()} if more else found

    monkeypatch.setattr(fs, "find", without_times)
    assert remote.gc().unfinished == 0
    monkeypatch.setattr(fs, "modified", failing(FileNotFoundError("gone")))
    assert remote.gc().unfinished == 0
    monkeypatch.setattr(fs, "modified", failing(PermissionError("Access Denied")))
    with pytest.raises(StoreError, match="Access Denied"):
        remote.gc()


def test_a_listing_that_fails_asks_no_further(remote: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(40):
        put(remote, {"n": n})
    asked = []

    def refuse(_self: object, path: str) -> bytes:
        asked.append(path)
        raise StoreError("no more")

    monkeypatch.setattr(objects.Objects, "_header", refuse)
    monkeypatch.setattr(objects, "_headers", objects._Headers(1000))
    monkeypatch.setattr(objects, "AT_ONCE", 2)
    with pytest.raises(StoreError, match="no more"):
        remote.list()
    assert len(asked) <= 8


def test_headers_that_are_remembered_have_a_bound() -> None:
    known = objects._Headers(10)
    for n in range(5):
        known.put(("a", str(n), ""), b"four")
        assert known.get(("a", "0", "")) == b"four"
    assert [name for _, name, _ in known.known] == ["4", "0"]
    assert known.held == 8


@pytest.mark.parametrize("address", ["ftp://127.0.0.1:1/x", "zip://x", "reference://x", "github://x/y"])
def test_places_that_are_no_store_are_said_to_be_none(address: str) -> None:
    with pytest.raises(StoreError):
        Store(address)
