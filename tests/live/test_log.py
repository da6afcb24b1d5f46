"""The log: bounded, exported, and readable after whatever happened to the disk."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from qmoe_core.audio.decode import SAMPLE_RATE
from qmoe_core.errors import StoreError
from qmoe_core.live import log as logs
from qmoe_core.live.detections import Detection
from qmoe_core.live.log import Log, LoggedDetection

DAY = 1_700_000_000.0


def detection(number: int = 0, **changes: object) -> Detection:
    noise = np.random.default_rng(number).uniform(-0.5, 0.5, SAMPLE_RATE // 10).astype(np.float32)
    made = Detection(
        start_s=float(number),
        end_s=number + 0.5,
        start=DAY + number,
        end=DAY + number + 0.5,
        label="rain",
        probability=0.9,
        epistemic=0.01,
        expert="q4",
        routed={"q4": 1.0},
        agreeing={"q4": 1.0, "q8": 0.5},
        accepted=True,
        reason="",
        windows=3,
        best=noise,
        best_start=DAY + number,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def add(log: Log, number: int = 0, **changes: object) -> LoggedDetection:
    return log.add(detection(number, **changes), source="here", bundle="default")


def test_the_oldest_makes_room() -> None:
    log = Log(capacity=3)
    added = [add(log, i) for i in range(5)]
    assert log.entries() == added[2:]
    assert (log.dropped, log.sound(added[0].id)) == (2, None)


def test_the_oldest_sounds_make_room_first() -> None:
    size = len(logs.flac(detection().best))
    log = Log(sounds_bytes=2 * size + size // 2)
    added = [add(log, i) for i in range(4)]
    assert [log.sound(entry.id) is not None for entry in added] == [False, False, True, True]
    assert len(log.entries()) == 4


def test_a_sound_is_what_was_heard() -> None:
    log = Log()
    loud = detection(best=np.array([0.0, 0.5, -0.5, 1.5, -1.5], np.float32))
    sound = log.sound(log.add(loud, source="", bundle="").id)
    assert sound is not None
    samples, rate = soundfile.read(io.BytesIO(sound), dtype="float32")
    assert rate == SAMPLE_RATE
    np.testing.assert_allclose(samples, [0, 0.5, -0.5, 1, -1], atol=1e-4)


def test_marks() -> None:
    log = Log()
    entry = add(log)
    log.mark(entry.id, "wrong")
    assert log.entries()[0].mark == "wrong"
    log.mark("not there", "right")
    log.clear()
    assert (log.entries(), log.sound(entry.id)) == ([], None)


def test_it_is_there_again_after_a_restart(tmp_path: Path) -> None:
    log = Log(folder=tmp_path)
    first, second = add(log, 1), add(log, 2)
    log.mark(first.id, "right")
    again = Log(folder=tmp_path)
    assert [(e.id, e.mark) for e in again.entries()] == [(first.id, "right"), (second.id, "")]
    assert again.sound(second.id) == log.sound(second.id)
    assert again.sound("../../etc/passwd") is None


def test_what_was_heard_before_it_was_kept_is_kept_too(tmp_path: Path) -> None:
    kept = add(Log(folder=tmp_path), 1)
    log = Log()
    mine = add(log, 2)
    log.keep(tmp_path)
    assert [e.id for e in log.entries()] == [kept.id, mine.id]
    assert [e.id for e in Log(folder=tmp_path).entries()] == [kept.id, mine.id]
    log.keep(None)
    later = add(log, 3)
    assert later.id not in [e.id for e in Log(folder=tmp_path).entries()]


def test_two_pages_keep_into_one_file(tmp_path: Path) -> None:
    one, two = Log(folder=tmp_path), Log(folder=tmp_path)
    ids = [add(log, i).id for i, log in enumerate([one, two, one])]
    assert [e.id for e in Log(folder=tmp_path).entries()] == ids


def test_a_torn_line_costs_itself_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = add(Log(folder=tmp_path), 1)
    file = tmp_path / logs.FILE
    torn = file.read_bytes() + b'{"id": "ab'
    file.write_bytes(torn)
    log = Log(folder=tmp_path)
    second = add(log, 2)
    assert [e.id for e in Log(folder=tmp_path).entries()] == [first.id, second.id]
    assert "damaged" in caplog.text


@pytest.mark.parametrize(
    "damage", [b"\xff\xfe\n", b"[]\n", b"null\n", b'{"id": "../x", "mark": "right"}\n', b"\n\n"]
)
def test_nonsense_in_the_file(tmp_path: Path, damage: bytes) -> None:
    entry = add(Log(folder=tmp_path))
    file = tmp_path / logs.FILE
    file.write_bytes(damage + file.read_bytes() + damage)
    assert [e.id for e in Log(folder=tmp_path).entries()] == [entry.id]


def test_lines_of_another_version_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = add(Log(capacity=2, folder=tmp_path), 1)
    file = tmp_path / logs.FILE
    known = json.loads(file.read_bytes())
    fields = {"distance_m": 12.5, "doubt": [1, {"a": None}]}
    foreign = [
        b'{"id": "%s", "mark": "wrong", "by": "Anna"}' % first.id.encode(),
        b'{"id": "%s", "note": "close to the door"}' % first.id.encode(),
        b'{"kind": "calibration","level_db":3}',
        b'{"id": "%s", "mark": "unsure"}' % first.id.encode(),
    ]
    file.write_bytes(b"\n".join([json.dumps(known | fields).encode(), *foreign, b""]))

    log = Log(capacity=2, folder=tmp_path)
    assert [(e.id, e.mark) for e in log.entries()] == [(first.id, "wrong")]
    assert "4 lines of another version" in caplog.text
    log.mark(first.id, "right")
    for _ in range(20):
        log.mark(first.id, "wrong")
        log.mark(first.id, "right")
    again = Log(capacity=2, folder=tmp_path)  # written anew
    written = file.read_bytes().splitlines()
    assert written[:-1] == foreign
    assert json.loads(written[-1]) == known | fields | {"mark": "right"}
    assert [(e.id, e.mark) for e in again.entries()] == [(first.id, "right")]
    assert [(e.id, e.mark) for e in Log(folder=tmp_path).entries()] == [(first.id, "right")]
    again.clear()
    assert file.read_bytes() == b""


def test_the_file_stays_small(tmp_path: Path) -> None:
    log = Log(capacity=3, folder=tmp_path)
    for i in range(20):
        add(log, i)
    assert len(list((tmp_path / logs.SOUNDS).iterdir())) == 3
    again = Log(capacity=3, folder=tmp_path)
    assert [e.start_s for e in again.entries()] == [17.0, 18.0, 19.0]
    assert len((tmp_path / logs.FILE).read_bytes().splitlines()) == 3
    again.clear()
    assert Log(folder=tmp_path).entries() == []
    assert list((tmp_path / logs.SOUNDS).iterdir()) == []


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    log = Log()
    with pytest.raises(StoreError, match="cannot be kept there"):
        log.keep(tmp_path / "file" / "live")
    add(log)
    assert len(log.entries()) == 1


def test_exports(tmp_path: Path) -> None:
    log = Log()
    entries = [add(log, 1), add(log, 2, label="=cmd()", accepted=False, reason="gap")]
    rows = list(csv.DictReader(io.StringIO(logs.as_csv(entries))))
    assert [row["label"] for row in rows] == ["rain", "'=cmd()"]
    assert json.loads(rows[0]["agreeing"]) == {"q4": 1.0, "q8": 0.5}
    assert (rows[1]["accepted"], rows[1]["reason"]) == ("False", "gap")
    documents = json.loads(logs.as_json(entries))
    assert documents[1]["label"] == "=cmd()"
    assert documents[0]["start"].startswith("2023-11-1")
    with zipfile.ZipFile(io.BytesIO(logs.as_zip(log, entries))) as archive:
        names = archive.namelist()
        assert set(names) == {*(d["sound"] for d in documents), "detections.csv", "detections.json"}
        assert all("/" not in name and "=" not in name for name in names)
        assert archive.read(documents[0]["sound"])[:4] == b"fLaC"
    assert logs.as_csv([]).count("\n") == 1
    assert json.loads(logs.as_json([])) == []
