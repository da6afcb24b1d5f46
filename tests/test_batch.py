"""`qmoe classify` of folders: what is found, what is written, and what a stopped run leaves."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from qmoe_core import batch, cli
from qmoe_core.audio import decode, synth
from qmoe_core.verdicts import FORMATS

SECONDS = 11
STARTS = (0.0, 2.5, 5.0, 6.0)


def sound(path: Path, seconds: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rain = np.tile(synth.render("rain"), 3)[: round(seconds * decode.SAMPLE_RATE)]
    soundfile.write(path, rain, decode.SAMPLE_RATE, format="WAV")
    return path


@pytest.fixture
def field(tmp_path: Path) -> Path:
    """Nested folders of a field season, with what does not belong there."""
    home = tmp_path / "field"
    sound(home / "a" / "20240501_201500.WAV", SECONDS)
    sound(home / "b" / "deep" / "20240501_201500.WAV", SECONDS)
    sound(home / "b" / "x.wav")
    sound(home / ".hidden" / "x.wav")
    sound(home / "b" / "._x.wav")
    (home / "b" / "notes.txt").write_text("no sound")
    (home / "b" / "broken.Flac").write_text("no sound")
    soundfile.write(home / "silent.wav", np.zeros(8000), 8000)
    (home / "b" / "loop").symlink_to(home)
    (home / "elsewhere").symlink_to(sound(tmp_path / "other" / "far.wav").parent)
    return home


FOUND = [
    "silent.wav", "a/20240501_201500.WAV", "b/broken.Flac", "b/x.wav", "b/deep/20240501_201500.WAV",
    "elsewhere/far.wav",
]  # fmt: skip


def test_every_recording_of_a_folder_has_an_entry(field: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["classify", str(field), "--json"]) == 2
    told = capfd.readouterr()
    documents = json.loads(told.out)
    assert [document["path"] for document in documents] == [str(field / name) for name in FOUND]
    assert [bool(document["error"]) for document in documents] == [name.endswith("Flac") for name in FOUND]
    assert [document["prediction"] is None for document in documents] == [1, 0, 1, 0, 0, 0]
    assert "nothing to judge" in documents[0]["reason"]
    assert "judging: 6/6" in told.err
    assert "broken.Flac is not a sound file" in told.err
    assert documents[1]["recorded"] == "2024-05-01T20:15:00"


def test_a_folder_without_recordings_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("no sound")
    assert cli.main(["classify", str(tmp_path), "--json"]) == 2
    told = capfd.readouterr()
    assert "holds no recordings; looked for names ending in .3gp" in told.err
    assert json.loads(told.out)[0]["path"] == str(tmp_path)


@pytest.mark.parametrize("kind", ["csv", "raven"])
@pytest.mark.parametrize("where", ["stdout", "together", "each"])
def test_tables_are_read_back(
    field: Path, tmp_path: Path, kind: str, where: str, capfd: pytest.CaptureFixture[str]
) -> None:
    out = {
        "stdout": [],
        "together": ["--out", str(tmp_path / "all.txt")],
        "each": ["--out", str(tmp_path / "o")],
    }
    assert cli.main(["classify", str(field), "--format", kind, *out[where]]) == 2
    if where == "stdout":
        (tmp_path / "all.txt").write_text(capfd.readouterr().out)
    files = [tmp_path / "all.txt"]
    if where == "each":
        files = [file for file in (tmp_path / "o").rglob("*") if file.suffix in (".csv", ".txt")]
    assert len(files) == (1 if where != "each" else 6)
    table = pd.concat(pd.read_csv(file, sep="\t" if kind == "raven" else ",") for file in files)
    path, start, label = (
        ("path", "start_s", "label") if kind == "csv" else ("Begin Path", "File Offset (s)", "Annotation")
    )
    judged = table[table[label].notna()]
    for name in FOUND:
        rows = judged[judged[path] == str(field / name)]
        expected = STARTS if "2024" in name else () if name in FOUND[0:3:2] else (0.0,)
        np.testing.assert_allclose(sorted(rows[start].astype(float)), expected, atol=1e-3)
    if kind == "csv":
        assert set(table[path]) == {str(field / name) for name in FOUND}
        assert "2024-05-01T20:15:02.500" in set(table["start"])
    else:
        begins = table[table[path] == str(field / FOUND[4])]["Begin Time (s)"].astype(float)
        before = 0.0 if where == "each" else 1 + SECONDS + 1  # of the recordings before, one of them silent
        np.testing.assert_allclose(begins, [before + start for start in STARTS], atol=1e-3)
        assert (table["High Freq (Hz)"].astype(float) > 0).all()


def test_labels_for_audacity(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    one, two = sound(tmp_path / "one.wav", SECONDS), sound(tmp_path / "two.wav")
    assert cli.main(["classify", str(one), "--format", "audacity"]) == 0
    rows = [line.split("\t") for line in capfd.readouterr().out.splitlines()]
    np.testing.assert_allclose([float(row[0]) for row in rows], STARTS, atol=1e-3)
    assert rows[0][2].startswith("rain ")
    assert cli.main(["classify", str(one), str(two), "--format", "audacity"]) == 2
    assert "is of one recording" in capfd.readouterr().err


KILLED = """
import os, signal, sys
from qmoe_core import batch, cli
at, how = int(sys.argv[1]), sys.argv[2]
append, put, calls = batch.system.append, batch._put, []
def dies(path, data):
    calls.append(path)
    if len(calls) == at:
        if how == "torn":
            append(path, data[: len(data) // 2])
        elif how == "written":
            append(path, data)
        os.kill(os.getpid(), signal.SIGKILL)
    append(path, data)
batch.system.append = dies
sys.exit(cli.main(sys.argv[3:]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that nothing survives")
@pytest.mark.parametrize("out", ["all.csv", "each"])
def test_a_killed_run_goes_on(
    field: Path, tmp_path: Path, out: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Killed before, within and after a line of the journal; then complete, and nothing is there twice."""
    arguments = ["classify", str(field), "--format", "csv", "--out", str(tmp_path / out)]
    for at, how in ((2, "before"), (1, "torn"), (2, "written")):
        script = [sys.executable, "-c", KILLED, str(at), how, *arguments]
        killed = subprocess.run(script, capture_output=True, check=False)
        assert killed.returncode == -signal.SIGKILL
    assert cli.main(arguments) == 2
    assert "6 inputs: 4 judged now, 2 before, 1 could not be read" in capfd.readouterr().err
    files = [tmp_path / out] if out == "all.csv" else sorted((tmp_path / out).rglob("*.csv"))
    table = pd.concat(map(pd.read_csv, files))
    assert not table.duplicated(["path", "start_s"]).any()
    assert table["path"].value_counts().to_dict() == {
        str(field / name): len(STARTS) if "2024" in name else 1 for name in FOUND
    }
    left = [path.name for path in tmp_path.rglob("*.part")]
    assert not left


def test_what_is_kept_is_not_judged_again(
    field: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["classify", str(field), "--out", str(tmp_path / "o"), "--format"]
    for _ in range(2):
        assert cli.main([*arguments, "csv"]) == 2
    assert (
        "1 judged now, 5 before, 1 could not be read" in capfd.readouterr().err
    )  # what failed is tried again
    sound(field / "b" / "x.wav", 2.0)  # another recording under the same name
    (tmp_path / "o" / "a" / "20240501_201500.WAV.csv").unlink()
    assert cli.main([*arguments, "csv"]) == 2
    assert "3 judged now, 3 before" in capfd.readouterr().err
    assert pd.read_csv(tmp_path / "o" / "b" / "x.wav.csv")["end_s"].tolist() == [2.0]
    for other in (["raven"], ["csv", "--alpha", "3"]):
        assert cli.main([*arguments, *other]) == 2
        assert (
            "holds results of another bundle, of other settings or in another format"
            in capfd.readouterr().err
        )


def test_two_at_once_are_told_apart(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = batch.Run(format="csv", bundle="x", settings="{}")

    with batch.Kept(tmp_path / "o", run, FORMATS["csv"]):
        arguments = [
            "classify",
            str(sound(tmp_path / "x.wav")),
            "--format",
            "csv",
            "--out",
            str(tmp_path / "o"),
        ]
        assert cli.main(arguments) == 2
    assert "another qmoe classify writes there" in capfd.readouterr().err


def test_inputs_of_one_name_have_their_own_files(tmp_path: Path) -> None:
    one, two = sound(tmp_path / "a" / "x.wav"), sound(tmp_path / "b" / "x.wav")
    assert cli.main(["classify", str(one), str(two), "--format", "csv", "--out", str(tmp_path / "o")]) == 0
    found = {pd.read_csv(path)["path"][0] for path in (tmp_path / "o").glob("*.csv")}
    assert found == {str(one), str(two)}
