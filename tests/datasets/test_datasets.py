"""Finding a dataset: by path, by name, and what is said when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from qmoe_core import datasets
from qmoe_core.datasets import available, open_dataset, validate
from qmoe_core.errors import DatasetError


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("QMOE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("QMOE_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


def test_the_layout_is_found_out_or_given(make_esc) -> None:
    root = make_esc()
    assert open_dataset(root).fingerprint() == open_dataset(str(root), layout="esc").fingerprint()
    with pytest.raises(DatasetError, match=r"one class only \(audio\)"):
        open_dataset(root, layout="folder")
    with pytest.raises(
        DatasetError, match="layout 'csv' does not exist; expected esc, urbansound, imported, takes, folder"
    ):
        open_dataset(root, layout="csv")  # pyright: ignore[reportArgumentType]


def test_by_name(make_esc, tmp_path: Path) -> None:
    root = make_esc()
    (tmp_path / "data").mkdir()
    root.rename(tmp_path / "data" / "mine")
    dataset = open_dataset("mine")
    assert dataset.root == tmp_path / "data" / "mine"
    assert available()["mine"] == dataset.root
    before = dataset.fingerprint()
    (tmp_path / "store" / "datasets").mkdir(parents=True)
    dataset.root.rename(tmp_path / "store" / "datasets" / "mine")
    assert open_dataset("mine").fingerprint() == before
    assert available()["mine"] == tmp_path / "store" / "datasets" / "mine"


def test_a_folder_here_comes_before_a_name(make_esc, tmp_path: Path) -> None:
    root = make_esc()
    assert open_dataset("esc").root == root
    assert "esc" not in available()


def test_nothing_to_be_found(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=rf"esc51: no such dataset; looked for it in {tmp_path}/store/datasets, "
    ):
        open_dataset("esc51")
    for spec in ("../esc", "/nowhere/esc", Path("esc51")):
        with pytest.raises(DatasetError, match="no such dataset; give the path of its folder"):
            open_dataset(spec)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DatasetError, match="file: is a file; expected the folder of a dataset"):
        open_dataset("file")
    (tmp_path / "empty").mkdir()
    for action in (open_dataset, validate):
        with pytest.raises(
            DatasetError, match=r"empty: no dataset; expected meta/esc50\.csv or metadata/Urb"
        ):
            action("empty")


@pytest.mark.parametrize(
    "spec", ["", ".", "a\x00b", "a" * 5000, "~nobody-of-this-name/x", "x\x1b[2J", "a\nb", "\udcff"]
)
def test_names_that_are_none(spec: str) -> None:
    with pytest.raises(DatasetError) as caught:
        open_dataset(spec)
    assert str(caught.value).isprintable()


def test_a_folder_that_cannot_be_read(make_folder, monkeypatch) -> None:
    root = make_folder("dog/a.wav", "dog/b.wav", "cat/a.wav", "cat/b.wav")

    def denied(_root: Path) -> None:
        raise PermissionError(13, "Permission denied", str(root / "dog"))

    monkeypatch.setattr(datasets.folder, "scan", denied)
    with pytest.raises(DatasetError, match=r"dog: cannot be read \(Permission denied\)"):
        open_dataset(root)
