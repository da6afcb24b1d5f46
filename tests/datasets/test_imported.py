"""The paper's CSV: imported as it is, and refused or mended row by row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmoe_core import bundles, cli, datasets, serve
from qmoe_core.audio import decode
from qmoe_core.datasets import imported, open_dataset, validate
from qmoe_core.datasets.imported import import_csv
from qmoe_core.embedders import for_dataset
from qmoe_core.embedders.embed import embed_dataset
from qmoe_core.errors import DatasetError, UserError
from qmoe_core.runtime.executor import Context

HEAD = "folder,name,label,category,class_id,0,1,2"
GOOD = [
    "1,1-100-A-0.png,0,Animals,0,0.5,1.5,-2",
    "1,1-101-A-36.png,36,Human,1,0.25,1,2e-1",
    "2,2-102-A-0.png,0,Animals,0,1,2,3",
    "2,2-102-B-36.png,36,Human,1,4,5,6",
    "2,2-103-A-7.png,7,Animals,0,4,5,6",
    "1,1-104-A-7.png,7,Animals,0,4,5,6",
]


def written(tmp_path: Path, *rows: str, head: str = HEAD) -> Path:
    path = tmp_path / "features.csv"
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return path


def imported_from(path: Path, **arguments: bool) -> imported.ImportResult:
    return import_csv(path, datasets.kept(), **arguments)


def test_it_is_taken_as_it_is(tmp_path: Path, store) -> None:
    made = imported_from(written(tmp_path, *GOOD))
    assert (made.rows, made.dim, made.dtype, made.skipped) == (6, 3, "float16", {})
    manifest = open_dataset("features")
    assert manifest.media == "embeddings"
    assert manifest.classes == ("Animals", "Human")
    assert manifest.labels.tolist() == [0, 1, 0, 1, 0, 0]
    assert manifest.folds is not None
    assert manifest.folds.tolist() == [1, 1, 2, 2, 2, 1]
    assert manifest.sources == ("100", "101", "102", "102", "103", "104")
    assert manifest.names[0] == "1/1-100-A-0.png"
    embedder = for_dataset(manifest, "logmel-stats")
    assert embedder.id.startswith("imported-")
    array = embed_dataset(manifest, embedder, Context(store))
    np.testing.assert_allclose(array[:2], [[0.5, 1.5, -2], [0.25, 1, 0.2]], rtol=1e-3)
    assert validate("features").problems == ()


def test_both_targets(tmp_path: Path) -> None:
    imported_from(written(tmp_path, *GOOD))
    assert open_dataset("features:categories").classes == ("Animals", "Human")
    labels = open_dataset("features:labels")
    assert labels.classes == (
        "dog",
        "insects",
        "vacuum_cleaner",
    )  # the numbers are ESC-50's, as its names show
    assert labels.name == "features:labels"
    assert labels.fingerprint() != open_dataset("features").fingerprint()
    with pytest.raises(DatasetError, match="two targets; give one"):
        open_dataset("features:labels,categories")
    with pytest.raises(DatasetError, match="has no esc10"):
        open_dataset("features:esc10")


def test_columns_in_any_order_and_some_not_needed(tmp_path: Path) -> None:
    # Quinn's, as the paper's code writes it, with the index column of a table that was saved carelessly.
    head = ",category,name,1,0,class_id"
    rows = [f"{i},{'quiet' if i % 2 else 'biophony'},clip{i}.png,{i},{10 * i},{i % 2}" for i in range(6)]
    made = imported_from(written(tmp_path, *rows, head=head))
    assert made.unused == ("(no name)",)
    manifest = open_dataset("features")
    assert manifest.classes == ("biophony", "quiet")
    assert manifest.folds is None
    assert manifest.sources[1] == "clip1.png"
    assert np.load(made.root / "embeddings.npy").tolist()[3] == [30, 3]


@pytest.mark.parametrize(
    ("head", "lacking"),
    [
        ("folder,name,label,category,0,1,2", "class_id"),
        ("folder,label,category,class_id,0,1", "name"),
        ("folder,name,class_id,0,1", r"category \(or label\)"),
        ("folder,name,label,category,class_id", "0 … D−1"),
        ("folder,name,label,category,class_id,0,1,3,6", "2, 4, 5"),
        ("a,b", r"name, class_id, category \(or label\), 0 … D−1"),
    ],
)
def test_missing_columns(tmp_path: Path, head: str, lacking: str) -> None:
    with pytest.raises(DatasetError, match=rf"features\.csv: lacks the columns {lacking}; expected folder"):
        imported_from(written(tmp_path, head=head))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (HEAD.encode() + b"\n", "has no rows"),
        (HEAD.encode() + b",0\n", "columns 0 more than once"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (HEAD.encode() + b'\n"a', "line 2 is not comma-separated"),
        (b"PK\x03\x04" + b"\x00" * 90, "is empty|lacks the columns|not comma-separated"),
    ],
)
def test_files_that_are_no_such_table(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "features.csv"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        imported_from(path)
    assert list(datasets.kept().iterdir()) == []


BAD = [
    "1,a.png,0,Animals,0,1,2",
    "1,b.png,0,Animals,0,1,2,3,4",
    "1,c.png,0,Animals,0,nan,2,3",
    "1,d.png,0,Animals,0,1,-inf,3",
    "1,d2.png,0,Animals,0,1,1e300,3",
    "1,e.png,0,Animals,0,1,two,3",
    "1,f.png,0,Animals,0,1,,3",
    "1,1-100-A-0.png,0,Animals,0,1,2,3",
    "1,,0,Animals,0,1,2,3",
    "1,g.png,0,Animals,x,1,2,3",
    "1,h.png,0,Animals,-1,1,2,3",
    "1,i.png,0,Animals,0,1_0,2,3",
]


def test_every_bad_row_is_counted_and_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        imported_from(written(tmp_path, *GOOD, *BAD))
    message = str(caught.value)
    for part in (
        "2 rows with another number of columns than the header's 8 (line 8: 7, line 9: 9)",
        "3 rows with NaN, infinity or a number too large (line 10, column 0: 'nan', line 11, ",
        "2 rows with text where a number is expected (line 13, column 1: 'two', line 19, ",
        "1 row with an empty number (line 14, column 1: '')",
        "1 row with a name that was there before (line 15: '1/1-100-A-0.png')",
        "1 row with no printable name",
        "2 rows with a class_id that is no whole number from 0 (line 17: 'x', line 18: '-1')",
        "nothing was imported: mend them, or leave them out with --skip-bad",
    ):
        assert part in message
    assert list(datasets.kept().iterdir()) == []


def test_bad_rows_are_left_out_when_asked(tmp_path: Path) -> None:
    made = imported_from(written(tmp_path, *BAD[:6], *GOOD), skip_bad=True)
    assert made.rows == 6
    assert sum(made.skipped.values()) == 6
    with pytest.raises(DatasetError, match="none of its rows can be used: 2 rows with another number"):
        imported_from(written(tmp_path, *BAD[:2]), skip_bad=True)
    assert len(open_dataset("features")) == 6  # what was there stays


def test_names_that_are_taken_or_none(tmp_path: Path) -> None:
    path = written(tmp_path, *GOOD)
    (datasets.kept() / "mine").mkdir(parents=True)
    with pytest.raises(DatasetError, match="mine: is another dataset"):
        import_csv(path, datasets.kept(), "mine")
    with pytest.raises(DatasetError, match="not a name for a dataset"):
        import_csv(path, datasets.kept(), "../mine")
    with pytest.raises(DatasetError, match="No such file"):
        imported_from(tmp_path / "gone.csv")
    with pytest.raises(DatasetError, match="Is a directory"):
        imported_from(tmp_path)


def test_an_import_that_was_damaged_is_named(tmp_path: Path) -> None:
    root = imported_from(written(tmp_path, *GOOD)).root
    array = root / "embeddings.npy"
    array.write_bytes(array.read_bytes()[:-1] + b"\x7f")
    assert [str(p) for p in validate(root).errors] == [
        "embeddings.npy: does not match its checksum; import the CSV again"
    ]
    array.write_bytes(array.read_bytes()[:-3])
    with pytest.raises(DatasetError, match=r"imported\.json: damaged .*; import the CSV again"):
        open_dataset(root)


@settings(max_examples=15)
@given(
    scale=st.sampled_from([1e-6, 1e-3, 1.0, 100.0, 1e5]),
    offset=st.sampled_from([0.0, 1.0, 1000.0]),
    seed=st.integers(0, 99),
)
def test_half_precision_only_where_it_is_enough(tmp_path_factory, scale, offset, seed) -> None:
    values = (np.random.default_rng(seed).normal(size=(40, 3)) * scale + offset).astype(np.float32)
    rows = [f"1,{i},a,b,{i % 2},{','.join(map(repr, row.tolist()))}" for i, row in enumerate(values)]
    home = tmp_path_factory.mktemp("half")
    made = import_csv(written(home, *rows), home / "datasets")
    kept = np.load(made.root / "embeddings.npy").astype(np.float64)
    change = np.sqrt(np.mean((kept - values) ** 2, axis=0))
    assert (change <= 0.011 * values.std(axis=0, dtype=np.float64)).all()
    if scale in (1.0, 100.0) and not offset:
        assert made.dtype == "float16"


def test_many_rows_do_not_fill_the_memory(tmp_path: Path) -> None:
    import tracemalloc

    numbers = ",".join(["0.123456"] * 200)
    path = tmp_path / "many.csv"
    with path.open("w") as file:
        file.write("folder,name,label,category,class_id," + ",".join(map(str, range(200))) + "\n")
        file.writelines(f"1,clip{i},{i % 2},c{i % 2},{i % 2},{numbers}\n" for i in range(3000))
    tracemalloc.start()
    made = import_csv(path, tmp_path / "datasets")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert made.rows == 3000
    # 2.4 MB of numbers and 5 MB of text went through; a block of 1,024 rows takes 7 MB as Python's floats.
    assert peak < 3000 * 150 + 12_000_000


def test_the_commands(tmp_path: Path, capsys, tiny_settings) -> None:
    rng = np.random.default_rng(0)
    rows = [
        f"{1 + i // 6 % 3},clip{i}.png,{i % 6},c{i % 2},{i % 2},"
        + ",".join(f"{v:.4f}" for v in rng.normal(size=8) + 2 * (i % 2))
        for i in range(36)
    ]
    head = "folder,name,label,category,class_id," + ",".join(map(str, range(8)))
    path = written(tmp_path, *rows, "1,odd.png,0,c0,0,1", head=head)
    assert cli.main(["data", "import", str(path)]) == 2
    assert "1 row with another number of columns" in capsys.readouterr().err
    assert cli.main(["data", "import", str(path), "--name", "mine", "--skip-bad", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["name"], document["rows"], document["dim"]) == ("mine", 36, 8)
    small = [part for setting in tiny_settings for part in ("--set", setting)]
    train = ["train", "--experts", "fp32", "--workers", "1", "--json", *small]
    for spec, bundle in (("mine", ["--bundle", "mine"]), ("mine:labels", [])):
        assert cli.main([*train, spec, *bundle]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["dataset"] == spec
        assert report["embedder"].startswith("imported-")
        assert len(report["rows"][0]["f1_folds"]) == 3  # the folders are the folds
    assert cli.main(["train", "mine", "--embedder", "efficientnet_b3"]) == 2
    assert "came with embeddings" in capsys.readouterr().err
    assert cli.main(["classify", str(path), "--bundle", "mine"]) == 2
    with pytest.raises(UserError, match="embeddings that were imported"):
        serve.classify(decode.from_samples(0.1 * rng.normal(size=22_050), 22_050), bundles.load("mine"))
