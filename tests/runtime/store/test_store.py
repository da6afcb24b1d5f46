"""The store: what goes in comes out, whoever writes, dies or damages it meanwhile."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qmoe_core.config import fingerprint
from qmoe_core.errors import StoreError
from qmoe_core.runtime import store as store_module
from qmoe_core.runtime import system
from qmoe_core.runtime.store import Store, default_root, folder
from qmoe_core.runtime.store import entry as entry_module

KEY = {"expert": "q4", "fold": 1, "rate": 0.5, "hidden": (640, 320)}
WEIGHTS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([1, 2], dtype=np.int8)}


def put(store: Store, key: dict = KEY, **more):
    return store.put("experts", key, WEIGHTS, {"f1": 0.9}, **more)


def tree(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_what_was_put_is_got(store: Store) -> None:
    put(store, files={"card.json": b"{}"})
    entry = store.get("experts", KEY)
    assert entry is not None
    assert entry.key == fingerprint(KEY)
    assert entry.fields == {**KEY, "hidden": [640, 320]}
    assert entry.metadata == {"f1": 0.9}
    assert entry.read("card.json") == b"{}"
    assert entry.size == sum(
        path.stat().st_size for path in entry.path.iterdir() if path.name != "entry.json"
    )
    assert set(entry.tensors) == {"w", "b"}
    np.testing.assert_array_equal(entry.tensors["w"], WEIGHTS["w"])
    assert entry.tensors["b"].dtype == np.int8


def test_the_layout_is_the_documented_one(store: Store) -> None:
    key = put(store).key
    assert tree(store.root) == {
        f"experts/{key[:2]}/{key}/{name}" for name in ("entry.json", "tensors.safetensors")
    }


def test_nothing_is_there_before_it_is_put(store: Store) -> None:
    assert store.get("experts", KEY) is None
    assert store.list() == []
    assert store.verify() == store_module.Verification(0, ())
    assert store.reports() == []
    assert store.gc(0).bytes == 0
    assert not store.root.exists()


def test_kinds_are_kept_apart(store: Store) -> None:
    put(store)
    assert store.get("routers", KEY) is None


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    array=hnp.arrays(
        dtype=st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.int64, np.uint8, np.bool_]),
        shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    ),
    turn=st.booleans(),
)
def test_arrays_come_back_bit_for_bit(tmp_path: Path, array: np.ndarray, turn: bool) -> None:
    array = array.T if turn else array  # not contiguous
    store = Store(tmp_path)
    shutil.rmtree(tmp_path / "things", ignore_errors=True)
    store.put("things", {}, {"a": array})
    entry = store.get("things", {})
    assert entry is not None
    back = entry.tensors["a"]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    key=st.dictionaries(st.text(), JSON, max_size=4), metadata=st.dictionaries(st.text(), JSON, max_size=4)
)
def test_any_json_can_be_a_key_and_metadata(tmp_path: Path, key: dict, metadata: dict) -> None:
    store = Store(tmp_path)
    written = store.put("things", key, {}, metadata)
    read = store.get("things", key)
    assert read is not None
    assert read.key == written.key
    assert store.verify().damaged == ()


def test_numpy_scalars_are_metadata(store: Store) -> None:
    entry = store.put("things", {}, {}, {"f1": np.float64(0.5), "n": np.int64(3), "nan": float("nan")})
    assert entry.metadata == {"f1": 0.5, "n": 3, "nan": None}


@pytest.mark.parametrize(
    "kind", ["", "../x", "a/b", "Experts", "tmp", "quarantine", "datasets", "a" * 65, "a\n"]
)
def test_a_kind_cannot_lead_elsewhere(store: Store, kind: str) -> None:
    with pytest.raises(ValueError, match="kind"):
        store.put(kind, {}, {})
    with pytest.raises(ValueError, match="kind"):
        store.get(kind, {})


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "entry.json", "tensors.safetensors", "a\n"])
def test_a_file_cannot_lead_elsewhere(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="file name"):
        put(store, files={name: b""})


def test_objects_are_refused(store: Store) -> None:
    with pytest.raises(TypeError, match="'a' is of object"):
        store.put("things", {}, {"a": np.array([None])})
    with pytest.raises(TypeError, match="metadata"):
        store.put("things", {}, {}, {"a": object()})
    assert not store.root.exists()


def test_an_entry_is_not_replaced(store: Store) -> None:
    first = put(store)
    second = store.put("experts", KEY, {"other": np.zeros(1)}, {"f1": 0.1})
    assert second.metadata == first.metadata
    assert second.created == first.created
    assert tree(store.root / "tmp") == set()


def test_a_listing_reads_no_tensors(store: Store) -> None:
    path = put(store).path / "tensors.safetensors"
    path.write_bytes(b"damaged")
    (entry,) = store.list("experts")
    assert entry.metadata == {"f1": 0.9}
    with pytest.raises(StoreError, match="has 7 bytes"):
        _ = entry.tensors


def test_an_entry_read_while_it_is_removed(store: Store) -> None:
    put(store, files={"card.json": b"{}"})
    (entry,) = store.list()
    store.delete(entry.key)
    with pytest.raises(StoreError, match="missing"):
        _ = entry.tensors
    with pytest.raises(StoreError, match="missing"):
        entry.read("card.json")
    with pytest.raises(StoreError, match=r"has no file x; it has card\.json, tensors"):
        entry.read("x")


# Damage


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n]")


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(path.stat().st_size))


def other_json(path: Path) -> None:
    path.write_bytes(b'{"sha256": "", "body": {}}')


def remove(path: Path) -> None:
    path.unlink()


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("name", ["entry.json", "tensors.safetensors", "card.json"])
@pytest.mark.parametrize(
    "damage",
    [truncate, empty, flip, grow, garbage, other_json, remove, folder_instead],
    ids=lambda f: f.__name__,
)
def test_damage_is_set_aside_reported_and_written_again(store: Store, caplog, name: str, damage) -> None:
    entry = put(store, files={"card.json": b'{"title": "a card"}'})
    other = put(store, key={"sound": 1})
    damage(entry.path / name)

    assert store.get("experts", KEY) is None
    assert "set aside" in caplog.text
    (report,) = store.reports()
    assert (report.kind, report.key) == ("experts", entry.key)
    assert name in report.reason
    assert report.path.is_dir()
    assert not entry.path.exists()

    put(store)
    assert store.get("experts", KEY) is not None
    assert store.verify() == store_module.Verification(2, ())
    assert {e.key for e in store.list()} == {entry.key, other.key}


@pytest.mark.parametrize("position", range(0, 900, 25))
def test_no_flipped_byte_of_a_header_is_served(store: Store, position: int) -> None:
    path = put(store).path / "entry.json"
    before = store.list()[0]
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 4
    path.write_bytes(data)
    after = store.get("experts", KEY)
    # A flip in white space may leave the JSON as it was; nothing else may.
    assert after is None or after == before


def test_a_header_that_was_changed_is_damage(store: Store) -> None:
    path = put(store).path / "entry.json"
    header = json.loads(path.read_bytes())
    header["body"]["created"] += 1.0
    path.write_bytes(json.dumps(header).encode())
    assert store.get("experts", KEY) is None
    assert "checksum" in store.reports()[0].reason


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def nested(path: Path) -> None:
    path.write_bytes(b'{"sha256": "", "body": ' + b"[" * 100_000)


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes there")
@pytest.mark.parametrize("name", ["entry.json", "tensors.safetensors"])
@pytest.mark.parametrize("damage", [pipe, link, endless, nested], ids=lambda f: f.__name__)
def test_what_is_no_file_is_not_waited_for(store: Store, name: str, damage) -> None:
    entry = put(store)
    damage(entry.path / name)

    assert store.get("experts", KEY) is None
    assert name in store.reports()[0].reason


def test_a_link_is_no_entry(store: Store, tmp_path: Path) -> None:
    entry = put(store)
    elsewhere = tmp_path / "precious"
    entry.path.rename(elsewhere)
    before = sorted(elsewhere.iterdir())
    entry.path.symlink_to(elsewhere)

    assert store.get("experts", KEY) is None
    (aside,) = (store.root / "quarantine").iterdir()
    assert aside.is_symlink()
    store.gc(0)
    assert sorted(elsewhere.iterdir()) == before
    assert not aside.is_symlink()


def test_putting_replaces_damage(store: Store) -> None:
    entry = put(store)
    flip(entry.path / "tensors.safetensors")
    put(store)
    got = store.get("experts", KEY)
    assert got is not None
    np.testing.assert_array_equal(got.tensors["w"], WEIGHTS["w"])
    assert len(store.reports()) == 1


def test_verify_finds_all_damage(store: Store) -> None:
    entries = [put(store, key={"n": n}) for n in range(4)]
    flip(entries[0].path / "tensors.safetensors")
    garbage(entries[2].path / "entry.json")
    found = store.verify()
    assert found.checked == 4
    assert {report.key for report in found.damaged} == {entries[0].key, entries[2].key}
    assert set(store.reports()) == set(found.damaged)
    assert store.verify() == store_module.Verification(2, ())


def test_a_listing_leaves_damaged_headers_out(store: Store, caplog) -> None:
    entries = [put(store, key={"n": n}) for n in range(2)]
    garbage(entries[0].path / "entry.json")
    assert [entry.key for entry in store.list()] == [entries[1].key]
    assert "left out" in caplog.text


def test_an_entry_under_another_key_is_damage(store: Store) -> None:
    entry = put(store)
    elsewhere = store._place.location("experts", fingerprint({"other": 1}))
    elsewhere.parent.mkdir()
    shutil.copytree(entry.path, elsewhere)
    assert store.get("experts", {"other": 1}) is None
    assert "belongs to another key" in store.reports()[0].reason


def of_version(schema: int, entry: store_module.StoreEntry) -> bytes:
    """Make an entry one of another version, which has fields that this one does not know."""
    path = entry.path / "entry.json"
    header = json.loads(path.read_bytes())
    header["body"] |= {"schema": schema, "colour": "red"}
    header["sha256"] = entry_module.checksum(header["body"])
    path.write_bytes(json.dumps(header).encode())
    return path.read_bytes()


def test_an_entry_of_another_version_is_not_served(store: Store, caplog) -> None:
    entry = put(store)
    theirs = of_version(2, entry)
    assert store.get("experts", KEY) is None
    assert not store.has("experts", KEY)
    assert store.list() == []
    assert f"{entry.path}: written by a newer qmoe (schema 2, this one reads 1); it is left" in caplog.text
    assert "1 × experts: written by a newer qmoe (schema 2, this one reads 1); left" in caplog.text
    assert [(len(v.damaged), len(v.others), v.checked) for v in [store.verify()]] == [(0, 1, 0)]
    assert store.gc(older_than_days=0).entries == ()
    assert store.reports() == []
    assert (entry.path / "entry.json").read_bytes() == theirs


def test_work_goes_on_beside_an_entry_of_another_version(store: Store) -> None:
    entry = put(store)
    theirs = of_version(2, entry)
    mine = put(store)
    assert mine.path != entry.path
    assert mine.path.is_relative_to(store.root / "versions" / "schema-1")
    for asked in (store, Store(store.root)):
        got = asked.get("experts", KEY)
        assert got is not None
        np.testing.assert_array_equal(got.tensors["w"], WEIGHTS["w"])
        assert asked.has("experts", KEY)
        assert asked.list() == [mine] == [asked.resolve(mine.key[:8])]
    assert put(store).path == mine.path
    flip(mine.path / "tensors.safetensors")
    assert store.get("experts", KEY) is None
    assert len(store.reports()) == 1
    put(store)
    store.delete(mine.key)
    assert store.get("experts", KEY) is None
    assert (entry.path / "entry.json").read_bytes() == theirs


def test_a_header_with_fields_of_a_later_version_is_read(store: Store) -> None:
    entry = put(store)
    of_version(1, entry)
    assert store.get("experts", KEY) == entry
    assert store.verify() == store_module.Verification(1, ())


def test_an_entry_of_an_earlier_version_is_migrated(store: Store, monkeypatch) -> None:
    entry = put(store)
    monkeypatch.setattr(entry_module, "SCHEMA", 3)
    monkeypatch.setattr(entry_module, "MIGRATIONS", {1: lambda body: body | {"metadata": {"f1": 0.5}}})
    assert store.get("experts", KEY) is None  # the way from 2 to 3 is not known
    monkeypatch.setitem(entry_module.MIGRATIONS, 2, lambda body: body)
    got = store.get("experts", KEY)
    assert got is not None
    assert got.metadata == {"f1": 0.5}
    np.testing.assert_array_equal(got.tensors["w"], WEIGHTS["w"])
    flip(entry.path / "entry.json")  # what is migrated was checked before
    assert store.get("experts", KEY) is None
    assert len(store.reports()) == 1


def test_damage_that_cannot_be_moved_is_not_served(store: Store, monkeypatch, caplog) -> None:
    flip(put(store).path / "tensors.safetensors")
    monkeypatch.setattr(os, "rename", failing(errno.EROFS))
    assert store.get("experts", KEY) is None
    assert "cannot be set aside" in caplog.text
    assert len(store.verify().damaged) == 1


# Prefixes, deletion, collection


def test_prefixes(store: Store) -> None:
    entry = put(store)
    assert store.resolve(entry.key[:8]) == entry
    assert store.resolve(f"experts/{entry.key}") == entry
    for bad in ("", "abc", "zzzz", "../../etc", "experts/..", "experts/"):
        with pytest.raises(StoreError, match="is not a key"):
            store.resolve(bad)
    for unknown in ("0" * 12, f"routers/{entry.key}", f"../{entry.key}"):
        with pytest.raises(StoreError, match="no entry begins with"):
            store.resolve(unknown)
    store.put("routers", KEY, {})
    with pytest.raises(StoreError, match=r"could be 2 entries \(experts/\w+, routers/\w+\)"):
        store.resolve(entry.key[:8])


def test_deletion(store: Store) -> None:
    entry = put(store)
    store.put("routers", KEY, {})
    assert store.delete(f"experts/{entry.key[:8]}") == entry
    assert [left.kind for left in store.list()] == ["routers"]
    assert tree(store.root / "tmp") == set()


def at(monkeypatch, days_from_now: float) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + days_from_now * 86400)


def test_gc_removes_old_entries_and_damage_but_what_is_kept(store: Store, monkeypatch) -> None:
    old, kept, damaged = (put(store, key={"n": n}) for n in range(3))
    flip(damaged.path / "tensors.safetensors")
    store.verify()
    with monkeypatch.context() as later:
        at(later, 10)
        young = put(store, key={"n": 3})
        planned = store.gc(5, keep={kept.key}, dry_run=True)
        assert [entry.key for entry in planned.entries] == [old.key]
        assert (planned.quarantined, planned.unfinished) == (1, 0)
        assert planned.bytes > old.size
        assert len(store.list()) == 3
        assert store.gc(5, keep={kept.key}) == planned
    assert {entry.key for entry in store.list()} == {kept.key, young.key}
    assert store.reports() == []
    assert store.gc().bytes == 0


def test_gc_with_the_clock_set_back_removes_nothing(store: Store, monkeypatch) -> None:
    put(store)
    at(monkeypatch, -1000)
    assert store.gc(1).bytes == 0
    assert len(store.list()) == 1


def test_gc_removes_the_unfinished_work_of_the_dead_only(store: Store, monkeypatch) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = folder.host()
    for name in (f"{host}-{dead.pid}-a", f"{host}-{os.getpid()}-b", "otherhost-1-c", "nonsense"):
        (store.root / "tmp" / name).mkdir(parents=True)
        (store.root / "tmp" / name / "tensors.safetensors").write_bytes(b"half")
    assert store.gc().unfinished == 1
    assert {path.name for path in (store.root / "tmp").iterdir()} == {
        f"{host}-{os.getpid()}-b",
        "otherhost-1-c",
        "nonsense",
    }
    at(monkeypatch, 2)
    assert store.gc().unfinished == 3


def test_datasets_in_the_store_are_no_entries(store: Store) -> None:
    folder = store.root / "datasets" / "ab" / ("ab" * 32)
    folder.mkdir(parents=True)
    put(store)
    assert len(store.list()) == 1
    assert store.verify().checked == 1
    store.gc(0)
    assert folder.is_dir()


# A world that is not kind


def failing(code: int):
    def fail(*_args, **_kwargs):
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("function", ["fsync", "rename"])
@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "disk is full"),
        (errno.EROFS, "cannot be written"),
        (errno.EACCES, "cannot be written"),
        (errno.ESTALE, "cannot be written"),
    ],
)
def test_what_cannot_be_written_is_said_in_a_sentence(
    store: Store, monkeypatch, function, code, words
) -> None:
    kept = put(store)
    with monkeypatch.context() as broken:
        broken.setattr(os, function, failing(code))
        with pytest.raises(StoreError, match=words) as caught:
            put(store, key={"n": 2})
    assert str(store.root) in str(caught.value)
    assert "QMOE_STORE" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert store.list() == [kept]
    assert tree(store.root / "tmp") == set()


def test_what_cannot_be_read_is_said_in_a_sentence(store: Store, monkeypatch) -> None:
    put(store)
    monkeypatch.setattr(system, "content", failing(errno.EIO))
    for read in (store.list, store.verify, lambda: store.get("experts", KEY)):
        with pytest.raises(StoreError, match="cannot be read"):
            read()


def test_a_file_instead_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for root in (tmp_path / "file", tmp_path / "file" / "deeper"):
        for action in (put, lambda store: store.get("experts", KEY), Store.list, Store.gc):
            with pytest.raises(StoreError, match=r"file: a file where the store needs a folder"):
                action(Store(root))


def test_files_that_are_in_the_way(store: Store) -> None:
    store.root.mkdir()
    (store.root / "tmp").write_bytes(b"")
    with pytest.raises(StoreError, match="tmp: a file where"):
        put(store)
    (store.root / "tmp").unlink()
    (store.root / "experts").write_bytes(b"")
    with pytest.raises(StoreError, match="experts: a file where"):
        put(store)
    assert store.list() == []


def test_a_store_that_vanishes(store: Store) -> None:
    (entry,) = [put(store)]
    shutil.rmtree(store.root)
    assert store.get("experts", KEY) is None
    with pytest.raises(StoreError, match="no entry"):
        store.delete(entry.key)
    put(store)
    assert store.get("experts", KEY) is not None


def test_where_the_store_is(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QMOE_STORE", str(tmp_path / "here"))
    assert default_root() == tmp_path / "here"
    assert Store().root == tmp_path / "here"
    monkeypatch.setenv("QMOE_STORE", "")
    assert default_root().name == "qmoe-lab"


WRITER = """
import sys
import numpy as np
from qmoe_core.runtime.store import Store

store = Store(sys.argv[1])
rng = np.random.default_rng(0)
arrays = [rng.normal(size=20_000) for _ in range(int(sys.argv[2]))]
print("ready", flush=True)
sys.stdin.readline()
for n, array in enumerate(arrays):
    store.put("things", {"n": n}, {"a": array}, {"sum": float(array.sum())})
"""


def writer(root: Path, count: int) -> subprocess.Popen[str]:
    """A process that will write the same entries as every other, as soon as it is told to."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(root), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def start(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_two_processes_write_the_same_keys(store: Store) -> None:
    writers = [writer(store.root, 20), writer(store.root, 20)]
    for process in writers:
        start(process)
    for process in writers:
        _, errors = process.communicate()
        assert (process.returncode, errors) == (0, "")
    assert store.verify() == store_module.Verification(20, ())
    for n in range(20):
        entry = store.get("things", {"n": n})
        assert entry is not None
        assert entry.tensors["a"].sum() == entry.metadata["sum"]
    assert tree(store.root / "tmp") == set()
    assert store.reports() == []


def test_killed_writers_leave_nothing_damaged(store: Store) -> None:
    rng = random.Random(7)
    killed_early = 0
    for _trial in range(20):
        process = writer(store.root, 50)
        start(process)
        # Wait for some entries, rather than for some time, so that slow machines are hit in the middle too.
        enough = len(store.list()) + rng.randrange(3)
        while len(store.list()) < enough and process.poll() is None:
            pass
        for _ in range(rng.randrange(100_000)):
            pass
        process.kill()
        process.communicate()
        killed_early += process.returncode == -signal.SIGKILL
        for found in store.list():
            assert store.get("things", found.fields) is not None
    assert killed_early > 0
    assert store.reports() == []
    assert store.verify().damaged == ()

    process = writer(store.root, 50)
    start(process)
    assert process.communicate()[1] == ""
    assert len(store.list()) == 50
    store.gc()
    assert tree(store.root / "tmp") == set()


def test_a_visitor_cannot_remove_what_is_the_labs(tmp_path: Path) -> None:
    lab, visitor = Store(tmp_path), Store(tmp_path / store_module.VISITORS / "0a1b")
    theirs, own = put(lab), put(visitor, key={"n": 1})
    with pytest.raises(StoreError, match="belongs to the lab, and stays"):
        visitor.delete(theirs.key)
    visitor.delete(own.key)
    assert visitor.list() == lab.list() == [theirs]


def test_what_is_there(store: Store) -> None:
    assert not store.has("experts", KEY)
    entry = put(store)
    assert store.has("experts", KEY)
    flip(entry.path / "entry.json")
    assert not store.has("experts", KEY)
