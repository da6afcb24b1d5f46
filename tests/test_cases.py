"""Inputs that went wrong in other people's hands, made by `../shared/cases/make_cases.py`: a row, a test.

Each stands for a kind; other members of the kinds, which need no program beside the lab, are in the tests of
`audio`, `datasets` and `test_batch.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from streamlit.testing.v1 import AppTest

from qmoe_core import cli
from qmoe_core.datasets import open_dataset

ROOT = Path(__file__).resolve().parent.parent
MAKE = ROOT.parent / "shared" / "cases" / "make_cases.py"
WITHIN = 0.02
"""Of the probability of the same hiss without the fault, where another codec carries it."""

HISS = {
    "hiss_then_25s_zeros.wav": ["25 s of silence were left out"],
    "hiss_minus_40_db.wav": ["Quiet (peak -49 dBFS): judged as at full level"],
    "antiphase.wav": ["2 channels were mixed", "opposite polarity"],
    "antiphase_98.wav": ["2 channels were mixed", "opposite polarity"],
    "float_scaled_as_int16.wav": ["divided by 32,768"],
    "piped.flac": [],
    "total_too_small.flac": ["announces 1.13 s, the file holds 5 s: all of it was read"],
    "power_lost_size_0.wav": ["announces no sound, as after a loss of power"],
    "size_counts_the_header.wav": [],
    "bit_rot.mp3": [],
    "starts_mid_frame.mp3": ["Shorter than 5 s"],
    "flac_in.ogg": [],
    "voice_memo.m4a": [],
    "message.opus": [],
    "browser.webm": [],
    "clip.mp4": [],
}
"""Where there is nothing but five seconds of hiss, and what is noted."""
JOINED = ("chained.ogg", "rate_changes.mp3", "channels_change.mp3")
"""Five seconds of hiss, then five of a tone."""
UNFIT = {
    "silence.wav": "nothing to judge, it is silent",
    "dead_microphone.wav": "nothing to judge, it is silent",
    "hiss_8_khz.wav": "nothing above 4 kHz and the classifier learned from sounds up to 11 kHz",
}
SAME = ("same_names/site_A/20240501_201500.WAV", "gone.wav", "same_names/site_B/20240501_201500.WAV")


class Judged(NamedTuple):
    """What `qmoe classify … --json` gave of all: entries by the path that was given, the list, stderr."""

    entries: dict[str, dict[str, Any]]
    order: list[str]
    code: int
    errors: str


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not MAKE.is_file():
        pytest.skip(f"needs {MAKE.parent.name}/{MAKE.name} beside the repository")
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg, which makes the cases, is not installed")
    home = tmp_path_factory.mktemp("cases")
    subprocess.run([sys.executable, str(MAKE), str(home)], check=True)
    return home


@pytest.fixture(scope="module")
def judged(cases: Path, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """All single recordings, judged by one process."""
    names = [*sorted(path.name for path in cases.iterdir() if path.is_file()), *SAME]
    ended = subprocess.run(
        [sys.executable, "-m", "qmoe_core", "classify", *names, "--json"],
        cwd=cases,
        env=os.environ | {"PYTHONPATH": str(ROOT), "QMOE_STORE": str(tmp_path_factory.mktemp("store"))},
        capture_output=True,
        text=True,
        check=False,
    )
    documents = json.loads(ended.stdout)
    return Judged(
        {document["path"]: document for document in documents},
        [document["path"] for document in documents],
        ended.returncode,
        ended.stderr,
    )


def test_every_case_is_looked_at(cases: Path, judged: Judged) -> None:
    """A case that is new in the other folder needs a row here; nothing but the lab writes to stderr."""
    single = {path.name for path in cases.iterdir() if path.is_file()}
    assert single == {*HISS, *JOINED, *UNFIT, "ok_hiss.wav", "tone.wav"}
    assert {path.name for path in cases.iterdir()} - single == {
        "urbansound8k_as_unpacked", "parts", "a_class_of_m4a", "same_names",
    }  # fmt: skip
    assert judged.order == [*sorted(single), *SAME]
    assert judged.code == 2
    (line,) = judged.errors.splitlines()
    assert line == "qmoe: gone.wav does not exist in the current folder."


def _noted(notes: list[str], expected: list[str]) -> bool:
    return len(notes) == len(expected) and all(map(str.__contains__, notes, expected))


@pytest.mark.parametrize("name", HISS)
def test_all_of_the_sound_is_judged_and_what_is_odd_is_noted(judged: Judged, name: str) -> None:
    alone, found = judged.entries["ok_hiss.wav"], judged.entries[name]
    assert found["error"] is None
    assert found["prediction"]["label"] == alone["prediction"]["label"] == "rain"
    least = 0.25 if name == "starts_mid_frame.mp3" else 0.05  # its first quarter of a second is lost
    assert found["duration_s"] == pytest.approx(30.0 if "zeros" in name else 5.0, abs=least)
    within = 0.1 if name == "starts_mid_frame.mp3" else WITHIN
    assert found["prediction"]["probability"] == pytest.approx(alone["prediction"]["probability"], abs=within)
    assert _noted(found["notes"], HISS[name])


@pytest.mark.parametrize("name", JOINED)
def test_a_stream_that_changes_is_judged_to_its_end(judged: Judged, name: str) -> None:
    found = judged.entries[name]
    assert found["duration_s"] == pytest.approx(10.0, abs=0.2)
    first, last = found["windows"][0], found["windows"][-1]
    assert (first["start_s"], last["end_s"]) == (0.0, pytest.approx(10.0, abs=0.2))
    tone = judged.entries["tone.wav"]["prediction"]["label"]
    assert (first["prediction"]["label"], last["prediction"]["label"]) == ("rain", tone)
    assert _noted(found["notes"], ["2 streams one after the other"])


@pytest.mark.parametrize("name", UNFIT)
def test_what_cannot_be_judged_gets_no_label(judged: Judged, name: str) -> None:
    found = judged.entries[name]
    assert (found["error"], found["prediction"]) == (None, None)
    assert found["abstained"] is True
    assert UNFIT[name] in found["reason"]


def test_every_input_has_an_entry_with_its_path(judged: Judged) -> None:
    first, gone, second = (judged.entries[name] for name in SAME)
    assert first["file"] == second["file"]
    assert first["prediction"]["label"] != second["prediction"]["label"]
    assert gone["error"].startswith("gone.wav does not exist")
    assert gone["prediction"] is None


def test_the_page_judges_what_phones_record(cases: Path) -> None:
    """The same files as uploads, two of them unfit."""
    names = ["voice_memo.m4a", "message.opus", "browser.webm", "clip.mp4", "silence.wav", "hiss_8_khz.wav"]
    app = AppTest.from_file(str(ROOT / "dashboard" / "app.py"), default_timeout=120).run()
    app.session_state.source = "Upload"
    app.file_uploader(key="files").set_value([(name, (cases / name).read_bytes(), "") for name in names])
    app.run()
    assert not app.exception
    table = next(frame.value for frame in app.dataframe if "answer" in frame.value.columns)
    assert list(table["file"]) == names
    assert list(table["answer"]) == ["rain"] * 4 + ["not judged: see above"] * 2


@pytest.mark.parametrize(
    ("folder", "classes", "clips", "folds", "note"),
    [
        ("urbansound8k_as_unpacked", ("dog_bark", "siren"), 6, {1, 2, 3}, ""),
        ("parts", ("cat", "dog"), 12, {1, 3}, "notes: left out: it lies beside Test and Train"),
        ("a_class_of_m4a", ("cat", "dog", "phone"), 9, None, ""),
    ],
)
def test_data_sets_as_people_have_them(
    cases: Path,
    capfd: pytest.CaptureFixture[str],
    folder: str,
    classes: tuple[str, ...],
    clips: int,
    folds: set[int] | None,
    note: str,
) -> None:
    found = open_dataset(cases / folder)
    assert (found.classes, len(found)) == (classes, clips)
    assert (None if found.folds is None else set(found.folds.tolist())) == folds
    assert cli.main(["embed", str(cases / folder), "--json"]) == 0
    told = capfd.readouterr()
    assert json.loads(told.out)["clips"] == clips
    assert note in told.err
