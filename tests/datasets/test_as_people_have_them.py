"""Data sets as they lie on people's disks: other places, separators, suffixes, parts and links."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from qmoe_core import cli
from qmoe_core.datasets import Manifest, open_dataset, validate
from qmoe_core.errors import DatasetError

ESC, URBAN = "meta/esc50.csv", "metadata/UrbanSound8K.csv"


def beep(path: Path, level: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(100, level), 8000)


@pytest.fixture
def urban(tmp_path: Path) -> Path:
    """As its archive unpacks: UrbanSound8K/ with audio/fold1 … and metadata/."""
    root = tmp_path / "UrbanSound8K"
    rows = [["slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class"]]
    for fold in (1, 2, 3):
        for number, name in ((3, "dog_bark"), (8, "siren")):
            for take in (0, 1):
                file = f"{fold}{number}-{number}-0-{take}.wav"
                beep(root / "audio" / f"fold{fold}" / file, (fold * 10 + number + take) / 100)
                rows.append([file, f"{fold}{number}", "0", "2", "1", str(fold), str(number), name])
    (root / "metadata").mkdir()
    write(root / URBAN, rows)
    return root


def write(path: Path, rows: list[list[str]], delimiter: str = ",", encoding: str = "utf-8") -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    path.write_bytes(text.getvalue().encode(encoding))


def rows_of(path: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(path.read_text())))


def contents(manifest: Manifest) -> list[tuple[str, str, int | None, str]]:
    return [(c.name, manifest.classes[c.label], c.fold, c.source) for c in manifest.entries]


def beside(root: Path) -> Path:
    """The folders of the folds and the table in one folder."""
    for fold in (root / "audio").iterdir():
        fold.rename(root / fold.name)
    (root / URBAN).rename(root / "UrbanSound8K.csv")
    (root / "audio").rmdir()
    return root


def flat(root: Path) -> Path:
    for path in list((root / "audio").glob("*/*")):
        path.rename(root / "audio" / path.name)
    return root


@pytest.mark.parametrize(
    "change",
    [lambda root: root, beside, flat, lambda root: root.parent],
    ids=["as unpacked", "table beside folds", "no folders of folds", "the folder around it"],
)
def test_urbansound_wherever_its_parts_lie(urban: Path, change: Callable[[Path], Path]) -> None:
    expected = contents(open_dataset(urban))
    assert {name for _, name, _, _ in expected} == {"dog_bark", "siren"}
    root = change(urban)
    found = open_dataset(root)
    assert contents(found) == expected
    assert found.folds is not None
    assert validate(root).errors == ()


def test_folds_without_their_table_are_no_classes(urban: Path) -> None:
    (urban / URBAN).unlink()
    with pytest.raises(DatasetError, match=r"fold1, fold2, fold3 are names of folds.*put UrbanSound8K\.csv"):
        open_dataset(urban / "audio")
    with pytest.raises(DatasetError, match="one class only"):
        open_dataset(urban)


def test_a_part_of_a_dataset_is_told_from_the_whole(urban: Path) -> None:
    with pytest.raises(DatasetError, match=r"is a part of a dataset; give \S+UrbanSound8K$"):
        open_dataset(urban / "audio")
    archive = urban.parent / "x.zip"
    archive.write_bytes(b"PK")
    with pytest.raises(DatasetError, match="unpack it first"):
        open_dataset(archive)


@pytest.mark.parametrize("place", ["esc50.csv", "audio/esc50.csv"])
def test_esc_with_its_table_elsewhere(make_esc: Callable[..., Path], place: str) -> None:
    root = make_esc()
    expected = contents(open_dataset(root))
    (root / ESC).rename(root / place)
    assert contents(open_dataset(root)) == expected
    for path in list((root / "audio").iterdir()):
        path.rename(root / path.name)
    assert contents(open_dataset(root)) == expected


@pytest.mark.parametrize("delimiter", [";", "\t"])
@pytest.mark.parametrize("decimals", ["", ".0", ",00"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_as_spreadsheets_write_them(
    make_esc: Callable[..., Path], delimiter: str, decimals: str, encoding: str
) -> None:
    root = make_esc()
    expected = contents(open_dataset(root))
    head, *rows = rows_of(root / ESC)
    numbers = [head.index(name) for name in ("fold", "target", "src_file")]
    rows = [[cell + decimals if i in numbers else cell for i, cell in enumerate(row)] for row in rows]
    write(root / ESC, [[name.title() for name in head], *rows], delimiter, encoding)
    found = open_dataset(root)
    assert contents(found) == expected
    assert found.notes == ()


def test_an_encoding_that_was_guessed_is_said(make_esc: Callable[..., Path]) -> None:
    root = make_esc()
    rows = [["Möwe" if cell == "dog" else cell for cell in row] for row in rows_of(root / ESC)]
    write(root / ESC, rows, encoding="windows-1252")
    found = open_dataset(root)
    assert "Möwe" in found.classes
    assert found.notes == (f"{ESC}: not UTF-8, read as Windows-1252",)


@pytest.mark.parametrize("listed", [".wav", ".WAV", ""])
def test_names_whose_suffix_differs(make_esc: Callable[..., Path], listed: str) -> None:
    root = make_esc()
    for path in list((root / "audio").iterdir()):
        path.rename(path.with_suffix(".Flac"))  # the content decides how it is read
    head, *rows = rows_of(root / ESC)
    write(root / ESC, [head, *([row[0].removesuffix(".wav") + listed, *row[1:]] for row in rows)])
    found = open_dataset(root)
    assert all(entry.path.is_file() and entry.path.suffix == ".Flac" for entry in found.entries)
    (note,) = found.notes
    assert note.startswith(f"{ESC}: files found under another suffix than listed: 8 (1-30-A-3")
    assert validate(root).errors == ()


def parts(root: Path, *names: str) -> Path:
    for number, part in enumerate(names):
        for name in ("cat", "dog"):
            for k in range(3):
                beep(root / part / name / f"{k}.wav", (number * 10 + k) / 100)
    (root / "notes").mkdir()
    (root / "notes" / "x.csv").write_text("a\n")
    return root


@pytest.mark.parametrize(
    ("names", "folds"),
    [(("Train", "Test"), {1, 3}), (("train", "validation", "test"), {1, 2, 3}), (("dev", "eval"), {1, 2})],
)
def test_parts_are_official_folds(tmp_path: Path, names: tuple[str, ...], folds: set[int]) -> None:
    found = open_dataset(parts(tmp_path / "set", *names))
    assert found.classes == ("cat", "dog")
    assert found.folds is not None
    assert set(found.folds.tolist()) == folds
    (note,) = found.notes
    assert note.startswith("notes: left out: it lies beside ")


def test_classes_named_as_parts_are_classes(tmp_path: Path) -> None:
    for name in ("train", "test", "dog"):
        for k in range(2):
            beep(tmp_path / "set" / name / f"{k}.wav", k / 10)
    assert open_dataset(tmp_path / "set").classes == ("dog", "test", "train")


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
def test_linked_folders_are_classes_and_other_links_are_said(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for k in range(2):
            beep(tmp_path / "elsewhere" / name / f"{k}.wav", k / 10)
    root = tmp_path / "set"
    root.mkdir()
    (root / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    shutil.copytree(tmp_path / "elsewhere" / "dog", root / "dog")
    (root / "dog" / "more.wav").symlink_to(tmp_path / "elsewhere" / "cat" / "0.wav")
    found = open_dataset(root)
    assert contents(found) == [
        ("cat/0.wav", "cat", None, "cat/0"),
        ("cat/1.wav", "cat", None, "cat/1"),
        ("dog/0.wav", "dog", None, "dog/0"),
        ("dog/1.wav", "dog", None, "dog/1"),
    ]
    assert found.notes == (".: links to elsewhere are left out: 1 (dog/more.wav)",)
    (tmp_path / "link").symlink_to(root)
    assert contents(open_dataset(tmp_path / "link")) == contents(found)


def test_a_kind_of_fault_is_one_error_with_a_count(make_esc: Callable[..., Path]) -> None:
    def change(rows: list[dict[str, str]]) -> None:
        for number, row in enumerate(rows):
            row["fold"] = f"{number}.5"

    root = make_esc(change)
    message = rf"{ESC}:2: fold is '0\.5'; expected a whole number from 1 \(and 7 more of this kind: {ESC}:3, "
    with pytest.raises(DatasetError, match=message):
        open_dataset(root)
    assert len(validate(root).errors) == 1


def test_whoever_trains_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = parts(tmp_path / "set", "Train", "Test")
    assert cli.main(["embed", str(root)]) == 0
    assert "qmoe: set: notes: left out: it lies beside Test and Train" in capfd.readouterr().err
