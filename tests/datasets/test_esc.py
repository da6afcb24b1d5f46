"""The ESC layout: what is read, and every way a table can be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qmoe_core.datasets import esc, open_dataset, validate
from qmoe_core.datasets import metadata as table
from qmoe_core.errors import DatasetError

TABLE = "meta/esc50.csv"


def test_labels_follow_the_targets(make_esc) -> None:
    dataset = open_dataset(make_esc())
    assert dataset.name == "esc"
    assert dataset.classes == ("dog", "rooster")
    assert dataset.names == tuple(sorted(dataset.names))
    first = dataset.entries[0]
    assert (first.name, first.label, first.fold, first.source) == ("1-30-A-3.wav", 0, 1, "30")
    assert first.path == dataset.root / "audio" / first.name
    assert dataset.labels.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert dataset.folds is not None
    assert dataset.folds.tolist() == [1, 1, 1, 1, 2, 2, 2, 2]
    assert (dataset.licence, dataset.citation) == ("", "")
    assert validate(dataset.root).problems == ()


def test_the_order_of_rows_does_not_matter(make_esc) -> None:
    dataset = open_dataset(make_esc())
    before = dataset.fingerprint()
    table = dataset.root / TABLE
    head, *rows = table.read_text().splitlines()
    table.write_text("\ufeff" + "\r\n".join([head, *reversed(rows), "", ""]))
    assert open_dataset(dataset.root).fingerprint() == before


def test_the_subset(make_esc) -> None:
    def change(rows) -> None:
        for row in rows[::2]:
            row["esc10"] = "False"

    root = make_esc(change)
    assert len(open_dataset(root)) == 8
    assert len(open_dataset(root, esc10=True)) == 4


def test_columns_that_are_not_needed(make_esc) -> None:
    root = make_esc(lacking=("take", "esc10"))
    assert len(open_dataset(root)) == 8
    with pytest.raises(DatasetError, match=r"esc50\.csv: lacks the columns esc10; expected filename, fold"):
        open_dataset(root, esc10=True)


def test_columns_that_are(make_esc) -> None:
    root = make_esc(lacking=("fold", "src_file"))
    message = "lacks the columns fold, src_file; expected filename, fold, target, category, src_file"
    assert [str(problem) for problem in validate(root).problems] == [f"{TABLE}: {message}"]
    with pytest.raises(DatasetError, match=message):
        open_dataset(root)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("fold", "0", "fold is '0'; expected a whole number from 1"),
        ("fold", "-1", "fold is '-1'; expected a whole number from 1"),
        ("fold", "1.5", "fold is '1.5'; expected a whole number from 1"),
        ("fold", "", "fold is ''; expected a whole number from 1"),
        ("fold", "²", "fold is '²'; expected a whole number from 1"),
        ("fold", "9" * 5000, "expected a whole number from 1"),
        ("target", "dog", "target is 'dog'; expected a whole number from 0"),
        ("category", " ", "category is ''; expected printable text"),
        ("category", "dog\x1b[2J", r"category is 'dog\x1b[2J'; expected printable text"),
        ("src_file", "", "src_file is ''; expected printable text"),
        ("filename", "", "filename is ''; expected the plain name of a file in audio/"),
        ("filename", "../../etc/passwd", "expected the plain name of a file in audio/"),
        ("filename", "/etc/passwd", "expected the plain name of a file in audio/"),
        ("filename", "a\\b.wav", "expected the plain name of a file in audio/"),
        ("filename", ".hidden.wav", "expected the plain name of a file in audio/"),
        ("filename", "a\x00.wav", "expected the plain name of a file in audio/"),
        ("filename", "a" * 300 + ".wav", "expected the plain name of a file in audio/"),
        ("filename", "readme.txt", "expected one that ends in .3gp, .aac,"),
    ],
)
def test_a_wrong_value_is_named_with_its_row(make_esc, column: str, value: str, message: str) -> None:
    root = make_esc(lambda rows: rows[2].update({column: value}))
    with pytest.raises(DatasetError) as caught:
        open_dataset(root)
    assert f"{TABLE}:4: " in str(caught.value)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()
    assert [problem.file for problem in validate(root).problems if problem.severity == "error"] == [
        f"{TABLE}:4"
    ]


def test_all_that_is_wrong_at_once(make_esc) -> None:
    def change(rows) -> None:
        rows[0]["fold"] = "none"
        rows[1]["target"] = "x"
        rows[3]["filename"] = rows[2]["filename"]
        rows[4]["category"] = "wolf"
        rows[5]["src_file"] = "32"

    root = make_esc(change)
    (root / "audio" / "1-32-A-3.wav").unlink()
    (root / "audio" / "2-33-A-3.wav").write_bytes(b"not a sound")
    assert [f"{problem.severity} {problem}" for problem in validate(root).problems] == [
        f"error {TABLE}:2: fold is 'none'; expected a whole number from 1",
        f"error {TABLE}:3: target is 'x'; expected a whole number from 0",
        f"error {TABLE}:5: 1-72-A-7.wav is listed twice, first in {TABLE}:4",
        "error audio: missing files: 1 of 5 (1-32-A-3.wav); put them back, "
        "or leave them out with :skip-missing behind the dataset's name",
        f"error {TABLE}:7: target 3 is wolf elsewhere, not dog",
        f"error {TABLE}:8: target 3 is wolf elsewhere, not dog",
        f"error {TABLE}:9: target 3 is wolf elsewhere, not dog",
        f"warning {TABLE}: class rooster has too few clips (1); training needs at least two of every class",
        f"warning {TABLE}: source recordings in more than one fold: 1 (32); scores under official folds "
        "will be too high, the protocol `grouped` keeps recordings together",
        "error audio/2-33-A-3.wav: cannot be read as audio; WAV, FLAC, Ogg Vorbis and MP3 are accepted",
    ]
    with pytest.raises(
        DatasetError, match=r"esc50\.csv:2: fold is 'none'.* \(the first of 7 problems: qmoe data"
    ):
        open_dataset(root)


def test_one_category_of_two_targets(make_esc) -> None:
    root = make_esc(lambda rows: [row.update(category="dog") for row in rows])
    with pytest.raises(DatasetError, match="category dog has more than one target"):
        open_dataset(root)


def test_one_class(make_esc) -> None:
    root = make_esc(lambda rows: rows.__delitem__(slice(4, None)))
    with pytest.raises(DatasetError, match=r"one class only \(rooster\); at least two are needed"):
        open_dataset(root)


def test_one_clip_a_class(make_esc) -> None:
    root = make_esc(lambda rows: [rows.pop(index) for index in (7, 6, 5, 3, 2, 1)])
    problems = validate(root).problems
    assert [problem.severity for problem in problems] == ["warning"] * 4  # one fold only, files not listed
    assert "class dog has too few clips (1); training needs" in problems[0].message
    assert len(open_dataset(root)) == 2  # enough to embed


def test_a_recording_that_crosses_folds_is_a_warning(make_esc) -> None:
    root = make_esc(lambda rows: [row.update(src_file="same") for row in rows[:2]])
    (problem,) = validate(root).problems
    assert problem.severity == "warning"
    assert "source recordings in more than one fold: 1 (same)" in problem.message
    assert len(open_dataset(root)) == 8


def test_missing_files(make_esc) -> None:
    root = make_esc()
    for name in ("1-30-A-3.wav", "1-32-A-3.wav", "2-31-A-3.wav", "2-71-A-7.wav"):
        (root / "audio" / name).unlink()
    message = (
        r"audio: missing files: 4 of 8 \((\S+, ){3}…\); put them back, or leave them out with :skip-missing "
        "behind the dataset's name"
    )
    with pytest.raises(DatasetError, match=message):
        open_dataset(root)
    assert len(open_dataset(root, skip_missing=True)) == len(open_dataset(f"{root}:skip-missing")) == 4
    (root / "audio" / "1-30-A-3.wav").write_bytes((root / "audio" / "2-33-A-3.wav").read_bytes())
    assert len(open_dataset(root, skip_missing=True)) == 5
    problems = validate(root, skip_missing=True).problems
    assert [problem.severity for problem in problems] == ["warning", "warning"]
    assert "left out" in problems[0].message
    assert "2 files with one content (1-30-A-3.wav, 2-33-A-3.wav) differ in source" in problems[1].message


def test_no_audio_folder(make_esc) -> None:
    root = make_esc()
    (root / "audio").rename(root / "sounds")
    with pytest.raises(DatasetError, match="missing files: 8 of 8"):
        open_dataset(root)


def test_a_folder_named_as_a_clip_is_missing(make_esc) -> None:
    root = make_esc()
    (root / "audio" / "1-30-A-3.wav").unlink()
    (root / "audio" / "1-30-A-3.wav").mkdir()
    with pytest.raises(DatasetError, match="missing files: 1 of 8"):
        open_dataset(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "lacks the columns filename, fold"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b"\x00" * 100, "lacks the columns"),
        (b'filename,fold,target,category,src_file\n"a', "not a comma-separated table"),
        (b"filename,fold,target,category,src_file\n" + b"a" * 200_000, "not a comma-separated table"),
        (b"filename,fold,target,category,src_file\n", "no clips; one row a clip is expected"),
        (b"filename,fold,target,category,src_file\na.wav,1\n", "esc50.csv:2: target is ''"),
        (b"filename,fold,target,category,src_file\na.wav,1,2,dog,3,4,5\n", "missing files: 1 of 1"),
    ],
)
def test_tables_that_are_none(make_esc, content: bytes, message: str) -> None:
    root = make_esc()
    (root / TABLE).write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        open_dataset(root)
    assert validate(root).problems[0].severity == "error"


def test_a_table_is_not_read_without_bound(make_esc, monkeypatch) -> None:
    monkeypatch.setattr(table, "MAX_BYTES", 100)
    with pytest.raises(DatasetError, match="larger than"):
        open_dataset(make_esc())


def test_files_that_are_not_listed(make_esc) -> None:
    root = make_esc()
    (root / "audio" / "extra.WAV").write_bytes(b"")
    (root / "audio" / "notes.txt").write_bytes(b"")
    (problem,) = validate(root).problems
    assert problem.severity == "warning"
    assert problem.message.endswith("does not list, and are not used: 1 (extra.WAV)")


def test_a_file_without_samples(make_esc, tmp_path: Path) -> None:
    import numpy as np
    import soundfile

    root = make_esc()
    soundfile.write(root / "audio" / "1-30-A-3.wav", np.zeros(0), 8000)
    assert [str(problem) for problem in validate(root).problems] == ["audio/1-30-A-3.wav: holds no samples"]


@pytest.mark.recordings
def test_esc10(shared_data: Path) -> None:
    dataset = open_dataset(shared_data / "esc10")
    assert len(dataset) == 400
    assert dataset.classes == tuple(esc.ESC10_CLASSES.values())
    assert dataset.licence == "CC BY 3.0"
    assert "Piczak" in dataset.citation
    assert validate(shared_data / "esc10").problems == ()
    subset = open_dataset(shared_data / "esc10", esc10=True)
    assert subset.fingerprint() == dataset.fingerprint()
    assert subset.name == "esc10"


def test_super_categories(make_esc) -> None:
    def change(rows) -> None:
        for row in rows[:2]:
            row.update(target="40", category="helicopter")
        for row in rows[2:4]:
            row.update(target="1")

    dataset = open_dataset(f"{make_esc(change_back(change))}:categories")
    assert dataset.classes == ("animals", "exterior and urban")
    assert dataset.name == "esc:categories"
    assert sorted(dataset.labels.tolist()) == [0] * 6 + [1] * 2


def change_back(change):
    """As `change`, with the dogs' number as it is in ESC-50."""

    def both(rows) -> None:
        for row in rows:
            row["target"] = {"7": "1", "3": "0"}[row["target"]]
        change(rows)

    return both


def test_super_categories_are_those_of_esc_50(make_esc) -> None:
    with pytest.raises(DatasetError, match="these are none of its classes: dog, rooster"):
        open_dataset(f"{make_esc()}:categories")


def test_the_classes_of_esc_50() -> None:
    assert len(set(esc.CLASSES)) == 50
    assert esc.ESC10_CLASSES[21] == "sneezing"


@pytest.mark.recordings
def test_esc10_falls_into_five_categories(shared_data: Path) -> None:
    dataset = open_dataset(f"{shared_data / 'esc10'}:categories,esc10")
    assert dataset.classes == esc.CATEGORIES
    assert np.bincount(dataset.labels).tolist() == [80, 120, 80, 40, 80]
    with pytest.raises(
        DatasetError, match="no option 'colour'; accepted are categories, labels, esc10, skip"
    ):
        open_dataset(f"{shared_data / 'esc10'}:colour")
