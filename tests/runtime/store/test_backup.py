"""`qmoe store backup` and `restore`: everything comes back, and nothing else ever gets in."""

from __future__ import annotations

import json
import os
import shutil
import stat
import zipfile
from pathlib import Path

import pytest

from qmoe_core import __version__, cli
from qmoe_core.runtime.store import Store, backup
from tests.runtime.store.test_releases import RELEASES
from tests.runtime.store.test_store import KEY, flip, of_version, put, tree


@pytest.fixture
def lab(tmp_path: Path) -> Store:
    """A store with entries, a bundle, a dataset, and what stays out of a backup."""
    root = tmp_path / "lab"
    shutil.copytree(RELEASES / "0.1.0" / "store", root)
    for name in (
        "tmp/x/half",
        "jobs/1/record.json",
        "quarantine/a/b",
        "downloads/esc50.part",
        ".visitors/1/a",
    ):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("of this machine")
    (root / "datasets" / "mine").mkdir()
    (root / "datasets" / "mine" / "ä b.wav").write_bytes(os.urandom(3 << 20))
    return Store(root)


def kept(store: Store) -> dict[str, bytes]:
    left_out = ("tmp", "jobs", "quarantine", "downloads", ".visitors")
    return {
        name: (store.root / name).read_bytes()
        for name in tree(store.root)
        if name.split("/")[0] not in left_out
    }


def run(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict, str]:
    code = cli.main(["store", *map(str, arguments)])
    said = capfd.readouterr()
    return code, json.loads(said.out) if said.out else {}, said.err


def test_everything_comes_back(lab: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file, other = tmp_path / "lab.backup", tmp_path / "other"
    code, saved, _ = run(capfd, "--store", lab.root, "backup", file, "--json")
    assert (code, saved["entries"], saved["files"]) == (0, 4, len(kept(lab)))
    assert saved["bytes"] == sum(map(len, kept(lab).values()))
    code, restored, _ = run(capfd, "--store", other, "restore", file, "--json")
    assert (code, restored["unchanged"], restored["qmoe"]) == (0, 0, "0.1.0")
    assert kept(Store(other)) == kept(lab)
    assert tree(other) == kept(lab).keys()  # no leftovers
    assert Store(other).verify().checked == 4
    again = run(capfd, "--store", other, "restore", file, "--json")[1]
    assert (again["written"], again["unchanged"]) == (0, restored["written"])


def test_an_older_backup_is_replaced_and_nothing_else(lab: Store, tmp_path: Path) -> None:
    file = tmp_path / "lab.backup"
    first = backup.save(lab, file).entries
    put(lab)
    assert backup.save(lab, file).entries == first + 1
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["lab.backup"]
    for there in (tmp_path / "letter.txt", lab.root / "lab.backup"):
        there.write_text("dear Anna")
        with pytest.raises(backup.StoreError):
            backup.save(lab, there)
        assert there.read_text() == "dear Anna"


def test_damage_is_left_out_and_named(lab: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flip(put(lab).path / "tensors.safetensors")
    (lab.root / "datasets" / "elsewhere").symlink_to(tmp_path)
    code, saved, err = run(capfd, "--store", lab.root, "backup", tmp_path / "b", "--json")
    assert (code, saved["entries"], len(saved["left_out"])) == (0, 4, 2)
    assert "damaged (tensors.safetensors" in err
    assert "a link" in err


def test_entries_of_another_version_travel(lab: Store, tmp_path: Path) -> None:
    theirs = of_version(2, put(lab))
    mine = put(lab)
    backup.save(lab, tmp_path / "b")
    other = Store(tmp_path / "other")
    backup.restore(other, tmp_path / "b")
    assert kept(other) == kept(lab)
    assert theirs in kept(other).values()
    assert other.get("experts", KEY) == mine


def test_the_version(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert (ended.value.code, capfd.readouterr().out) == (0, f"qmoe {__version__}\n")
    assert __version__ in (Path(__file__).parents[3] / "CHANGELOG.md").read_text(encoding="utf-8")


def test_what_was_there_stays(lab: Store, tmp_path: Path) -> None:
    backup.save(lab, tmp_path / "b")
    other = Store(tmp_path / "other")
    own = put(other)
    bundle = other.root / "bundles" / "small-release" / "bundle.json"
    bundle.parent.mkdir(parents=True)
    bundle.write_text("mine")
    before = kept(other)
    with pytest.raises(backup.StoreError, match="bundles/small-release is there with other contents"):
        backup.restore(other, tmp_path / "b")
    assert kept(other) == before
    shutil.rmtree(other.root / "bundles")
    backup.restore(other, tmp_path / "b")
    assert kept(other).keys() == kept(lab).keys() | {n for n in before if own.key in n}


def doctored(file: Path, change: str) -> None:
    """An archive with something in it that no backup has, listed with its checksum all the same."""
    with zipfile.ZipFile(file) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    manifest = json.loads(files.pop("backup.json"))
    evil, attributes, compression = b"evil", 0o600 << 16, zipfile.ZIP_STORED
    name = {
        "traversal": "datasets/../../evil",
        "absolute": "/evil",
        "backslash": "datasets\\..\\evil",
        "drive": "C:/evil",
        "empty part": "datasets//evil",
        "visitors": ".visitors/evil/a",
        "jobs": "jobs/evil/record.json",
        "escape": "datasets/\x1b[2Jevil",
        "file and folder": "datasets/mine",
    }.get(change, "datasets/evil")
    if change == "link":
        attributes = (stat.S_IFLNK | 0o777) << 16
    if change == "compressed":
        evil, compression = bytes(1 << 20), zipfile.ZIP_DEFLATED
    manifest["files"][name] = {"size": len(evil), "sha256": backup.FileRecord.of(evil).sha256}
    if change == "not there":
        del files[next(iter(files))]
    if change == "newer":
        manifest["version"] = 2
    if change == "flipped":
        evil = b"EVIL"
    if change == "not listed":
        del manifest["files"][name]
    with zipfile.ZipFile(file, "w") as archive:
        for one, data in files.items():
            archive.writestr(one, data)
        info = zipfile.ZipInfo(name)
        info.external_attr, info.compress_type = attributes, compression
        archive.writestr(info, evil)
        archive.writestr("backup.json", json.dumps(manifest))
    if change == "cut off":
        file.write_bytes(file.read_bytes()[:-100])


CHANGES = ["traversal", "absolute", "backslash", "drive", "empty part", "visitors", "jobs", "escape", "link"]
CHANGES += ["file and folder", "compressed", "not there", "not listed", "newer", "flipped", "cut off"]


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_strange_is_restored(
    lab: Store, tmp_path: Path, change: str, capfd: pytest.CaptureFixture[str]
) -> None:
    file, other = tmp_path / "b", tmp_path / "deep" / "other"
    backup.save(lab, file)
    doctored(file, change)
    before = tree(tmp_path)
    code, _, err = run(capfd, "--store", other, "restore", file)
    assert code == 2
    (sentence,) = [line for line in err.splitlines() if not line.startswith("reading:")]
    assert sentence.startswith(f"qmoe: {file}: ")
    assert "\x1b" not in sentence
    assert tree(tmp_path) == before
    assert not other.exists()


@pytest.mark.parametrize("made", ["nothing", "folder", "pipe", "text"])
def test_what_is_no_backup(tmp_path: Path, made: str, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "b"
    if made == "folder":
        file.mkdir()
    elif made == "pipe":
        os.mkfifo(file)
    elif made == "text":
        file.write_text("hello")
    code, _, err = run(capfd, "--store", tmp_path / "s", "restore", file)
    assert (code, err.count("\n")) == (2, 1)
    assert str(file) in err


def test_a_restore_that_was_cut_short_is_finished(
    lab: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup.save(lab, tmp_path / "b")
    other, rename, left = Store(tmp_path / "other"), os.rename, [3]

    def failing(source: object, target: object) -> None:
        if not left[0]:
            raise OSError(28, "No space left on device", str(target))
        left[0] -= 1
        rename(source, target)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", failing)
        with pytest.raises(backup.StoreError, match="No space left"):
            backup.restore(other, tmp_path / "b")
    assert other.verify().damaged == ()
    assert kept(other).items() <= kept(lab).items()
    assert backup.restore(other, tmp_path / "b").unchanged == 3
    assert kept(other) == kept(lab)


def test_a_visitors_store_is_not_the_labs(lab: Store, tmp_path: Path) -> None:
    visitor = Store(lab.root / ".visitors" / "0a1b")
    assert backup.save(visitor, tmp_path / "b").files == 0
