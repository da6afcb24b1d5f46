"""`qmoe listen` as a person calls it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from qmoe_core import cli
from qmoe_core.audio import decode, synth
from qmoe_core.live import log as logs
from qmoe_core.live import sources, terminal

KEYS = ["start_s", "end_s", "label", "probability", "doubt", "epistemic", "prediction_set"]
KEYS += ["expert", "accepted", "reason"]


@pytest.fixture
def rain(tmp_path: Path) -> str:
    """Eight seconds of rain."""
    path = tmp_path / "rain.wav"
    soundfile.write(path, np.resize(synth.render("rain"), 8 * decode.SAMPLE_RATE), decode.SAMPLE_RATE)
    return str(path)


def raw(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))


def lines(capfdbinary: pytest.CaptureFixture[bytes]) -> list[dict]:
    return [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]


def test_a_file(rain: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert cli.main(["listen", rain, "--json"]) == 0
    (found,) = lines(capfdbinary)
    assert list(found) == KEYS
    assert (found["label"], found["accepted"], found["reason"]) == ("rain", True, "")
    assert (found["start_s"], found["end_s"]) == (0.0, pytest.approx(8.0, abs=0.3))


def test_a_file_in_words(rain: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["listen", rain, "--threshold", "1"]) == 0
    said = capfd.readouterr()
    assert "rain" in said.out
    assert "not accepted: below class threshold" in said.out
    assert "windows judged" in said.err


def test_options_reach_the_pipeline(rain: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    options = ["--alpha", "0", "--experts", "popcount", "--class-threshold", "rain=1", "--abstain", "0.5"]
    assert cli.main(["listen", rain, "--json", *options]) == 0
    found = lines(capfdbinary)
    assert {line["expert"] for line in found} == {"popcount"}
    assert not any(line["accepted"] for line in found if line["label"] == "rain")


def test_at_the_speed_of_a_microphone(rain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(terminal, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    assert cli.main(["listen", rain, "--speed", "2"]) == 0
    assert now[0] - 100.0 == pytest.approx(8.0 / 2)
    assert max(slept) == pytest.approx(0.125, abs=1e-3)


@pytest.mark.parametrize(("kind", "dtype"), [("s16le", "<i2"), ("f32le", "<f4")])
def test_raw_samples(
    kind: str, dtype: str, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    samples = decode.resample(
        np.resize(synth.render("rain"), 7 * decode.SAMPLE_RATE), decode.SAMPLE_RATE, 44_100
    )
    scaled = samples * 32767 if kind == "s16le" else samples
    raw(monkeypatch, scaled.astype(dtype).tobytes() + b"\x00")  # a sample that was cut off
    assert cli.main(["listen", "-", "--rate", "44100", "--format", kind, "--json"]) == 0
    (found,) = lines(capfdbinary)
    assert found["label"] == "rain"
    assert found["end_s"] == pytest.approx(7.0, abs=0.3)


@pytest.mark.parametrize(
    ("data", "options", "sentence"),
    [
        (b"\0" * 999, [], "give their rate with --rate"),
        (b"\0" * 999, ["--rate", "7"], "out of range"),
        (b"RIFF" + b"\0" * 999, ["--rate", "44100"], "Standard input is a WAV file"),
        (np.full(99, np.nan, "<f4").tobytes(), ["--rate", "44100", "--format", "f32le"], "no numbers"),
        (b"", ["--rate", "8000", "--class-threshold", "unicorn=0.5"], "no such class"),
        (b"", ["--rate", "8000", "--class-threshold", "rain"], "LABEL=P"),
        (b"", ["--rate", "8000", "--threshold", "7"], "no probability"),
        (b"", ["--rate", "8000", "--abstain", "-1"], "0 to 1"),
    ],
)
def test_what_cannot_be_listened_to(
    data: bytes,
    options: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    raw(monkeypatch, data)
    assert cli.main(["listen", "-", *options]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert sentence in said.err
    assert said.err.count("\n") == 1


def test_nothing_to_listen_to(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    raw(monkeypatch, b"")
    assert cli.main(["listen", "-", "--rate", "8000"]) == 0
    said = capfd.readouterr()
    assert "4 kHz" in said.err
    assert "Nothing was judged" in said.err


@pytest.mark.parametrize("speed", ["0", "-1", "nan", "fast"])
def test_no_speed(rain: str, speed: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["listen", rain, "--speed", speed])
    assert ended.value.code == 2
    assert "no number above 0" in capfd.readouterr().err


def test_the_microphones(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(terminal, "devices", list)
    assert cli.main(["listen", "--devices"]) == 0
    monkeypatch.setattr(terminal, "devices", lambda: [sources.Device(2, "Desk", 48_000, 1, default=True)])
    assert cli.main(["listen", "--devices"]) == 0
    assert capfd.readouterr().out.splitlines() == [
        "no microphones",
        "  2  Desk  (48,000 Hz, 1 channels, default)",
    ]


def test_a_microphone_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sources, "devices", list)
    assert cli.main(["listen"]) == 2
    assert "has no microphone" in capfd.readouterr().err


MICROPHONE = """
import os, sys, time
import numpy as np
from qmoe_core import cli
from qmoe_core.audio import decode, synth
from qmoe_core.errors import UserError
from qmoe_core.live import log as logs
from qmoe_core.live import sources, terminal

asked = []

class Unplugged(sources.HeldSource):
    device = sources.Device(0, "Desk", decode.SAMPLE_RATE, 1, default=True)

    def __init__(self, *_):
        asked.append(1)
        if len(asked) == 2:
            raise UserError("This machine has no microphone")
        assert len(asked) < 4, "the signal was not heard"
        super().__init__("Desk", decode.SAMPLE_RATE)
        sound = synth.render("rain" if len(asked) == 1 else "dog-bark")
        self.stream.ring.write(np.resize(sound, 8 * decode.SAMPLE_RATE))
        self.seen = 0

    @property
    def state(self):
        self.seen += 1
        gone = self.seen > 5
        return sources.State("failed" if gone else "listening", "The microphone is gone." if gone else "")

    @state.setter
    def state(self, _):
        pass

terminal.HostSource, terminal._WAIT_S, terminal.AGAIN_S = Unplugged, 0.0, 0.0

class Time:
    monotonic = time.monotonic

    def sleep(seconds):
        if len(asked) == 3:
            os.kill(os.getpid(), int(sys.argv[1]))

terminal.time = Time
raise SystemExit(cli.main(["listen", "--json"]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_microphone_that_is_unplugged_is_waited_for(number: signal.Signals, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MICROPHONE, str(int(number))], capture_output=True, timeout=120, check=False
    )
    assert done.returncode == code, done.stderr
    # What was open is told each time, before the microphone is looked for.
    assert next(json.loads(line)["label"] for line in done.stdout.splitlines()) == "rain"
    assert len(done.stdout.splitlines()) >= 2
    said = done.stderr.decode()
    assert said.count("The microphone is gone. Until then, this waits for it.") == 2
    assert said.count("Listening to Desk") == 2
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, 130)], ids=lambda v: str(v)
)
def test_what_is_open_is_told_when_it_is_ended(number: signal.Signals, code: int, tmp_path: Path) -> None:
    samples = np.resize(synth.render("rain"), 9 * decode.SAMPLE_RATE)
    log = tmp_path / "heard.jsonl"
    log.write_bytes(b'{"torn')
    listening = subprocess.Popen(
        [sys.executable, "-m", "qmoe_core", "listen", "-", "--rate", "22050", "--json", "--log", str(log)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert listening.stdin is not None
    assert listening.stdout is not None
    assert listening.stderr is not None
    with listening:
        # A pipe holds 64 KiB: when this returns, more than five seconds were read.
        listening.stdin.write((samples * 32767).astype("<i2").tobytes())
        listening.stdin.flush()
        listening.send_signal(number)
        told, said = listening.stdout.read(), listening.stderr.read().decode()
    assert listening.returncode == code, said
    (found,) = map(json.loads, told.splitlines())
    assert found["label"] == "rain"
    assert "Traceback" not in said
    torn, kept = log.read_bytes().splitlines()
    assert torn == b'{"torn'
    kept = json.loads(kept)
    assert found.items() <= kept.items()
    assert kept["source"] == "standard input"
    assert kept.keys() - found.keys() == {"start", "end", "source", "bundle"}


def test_the_log_is_kept_when_nobody_reads_the_output(rain: str, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "qmoe_core", "listen", rain, "--log", str(tmp_path / "log")]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=120, check=False)
    os.close(write)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert json.loads((tmp_path / "log").read_bytes())["label"] == "rain"


def test_each_line_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(descriptor), fsync(descriptor))[1])
    logs.append(tmp_path / "log", b"one")
    logs.append(tmp_path / "log", b"two")
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"
    assert len(synced) == 2


def test_a_log_that_cannot_be_written(
    rain: str, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["listen", rain, "--log", str(tmp_path)]) == 2
    assert b"the log cannot be written" in capfdbinary.readouterr().err

    def full(path: Path, line: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(terminal, "append", full)
    assert cli.main(["listen", rain, "--json", "--log", str(tmp_path / "log")]) == 0
    captured = capfdbinary.readouterr()
    assert captured.err.count(b"No space left on device); listening goes on.") == 1
    assert json.loads(captured.out)["label"] == "rain"
