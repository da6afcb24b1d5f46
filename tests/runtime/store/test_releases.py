"""Stores that earlier releases wrote (`tests/releases/VERSION`), opened by this one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from qmoe_core import bundles as bundle
from qmoe_core import cli, datasets
from qmoe_core.errors import BundleError
from qmoe_core.live.log import Log
from qmoe_core.runtime.store import Store

RELEASES = Path(__file__).parents[2] / "releases"
KINDS = {"0.1.0": ["embeddings", "experts", "final-experts", "routers"]}


@pytest.fixture(params=sorted(KINDS))
def release(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what a release left: `store`, with a bundle and a dataset, and `log`."""
    folder = Path(shutil.copytree(RELEASES / request.param, tmp_path / request.param))
    for sound in (folder / "log" / "sounds").glob("*.sound"):  # no recording may be in the repository
        sound.rename(sound.with_suffix(".flac"))
    monkeypatch.setenv("QMOE_STORE", str(folder / "store"))
    return folder


def test_every_release_is_listed() -> None:
    assert sorted(path.name for path in RELEASES.iterdir()) == sorted(KINDS)


def test_its_entries(release: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    assert sorted(entry.kind for entry in store.list()) == KINDS[release.name]
    found = store.verify()
    assert (found.checked, found.damaged, found.others) == (len(KINDS[release.name]), (), ())
    for entry in store.list():
        got = store.get(entry.kind, entry.fields)
        assert got == entry
        assert got is not None
        assert all(np.isfinite(tensor).all() for tensor in got.tensors.values())
    (embeddings,) = store.list("embeddings")
    assert embeddings.tensors["embeddings"].shape == (4, 744)
    assert caplog.text == ""


def test_its_bundle_and_dataset(release: Path) -> None:
    assert "small-release" in bundle.names()
    loaded = bundle.load("small-release")
    loaded.verify()
    manifest = datasets.open_dataset("small")
    assert (len(manifest), manifest.classes) == (30, loaded.classes)
    assert loaded.dataset is not None
    outputs = loaded.outputs(loaded.dataset.embeddings.astype(np.float32)).all()
    assert outputs.logits.shape == (30, 3, 3)
    assert loaded.reference(loaded.settings()) is not None


def test_its_log(release: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = Log(folder=release / "log")
    assert [(e.label, e.mark) for e in log.entries()] == [("rain", "right"), ("dog", "wrong"), ("rain", "")]
    assert all(log.sound(entry.id) for entry in log.entries())
    assert caplog.text == ""


def test_the_command_line(release: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runs", "list", "--json"]) == 0
    assert len(json.loads(capfd.readouterr().out)) == len(KINDS[release.name])
    assert cli.main(["runs", "verify", "--json"]) == 0


def test_a_bundle_of_a_later_version_is_left_as_it_is(release: Path) -> None:
    folder = release / "store" / "bundles" / "small-release"
    path = folder / "bundle.json"
    manifest = json.loads(path.read_bytes())
    path.write_text(json.dumps(manifest | {"colour": "red"}))
    with pytest.raises(BundleError, match=r"bundle\.json: written by another version of qmoe.*colour"):
        bundle.load("small-release")
    path.write_text(json.dumps(manifest | {"version": 9}))
    later = path.read_bytes()
    with pytest.raises(BundleError, match="written by a newer qmoe"):
        bundle.load("small-release")
    with pytest.raises(BundleError, match="is not replaced; give another name"):
        bundle.destination("small-release")
    assert path.read_bytes() == later
