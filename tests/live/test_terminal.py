"""`qmoe listen` as a person calls it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from qmoe_core import cli
from qmoe_core.audio import decode, synth
from qmoe_core.live import sources, terminal

KEYS = ["start_s", "end_s", "label", "probability", "epistemic", "expert", "accepted", "reason"]


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
        (b"", ["--rate", "8000", "--abstain", "-1"], "0 or more"),
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


def test_a_microphone_until_it_is_unplugged(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    class Unplugged(sources.HeldSource):
        device = sources.Device(0, "Desk", decode.SAMPLE_RATE, 1, default=True)

        def __init__(self, *_: object) -> None:
            super().__init__("Desk", decode.SAMPLE_RATE)
            self.stream.ring.write(np.resize(synth.render("rain"), 8 * decode.SAMPLE_RATE))
            self.asked = 0

        @property
        def state(self) -> sources.State:
            self.asked += 1
            gone = self.asked > 5
            return sources.State("failed" if gone else "listening", "The microphone is gone." if gone else "")

        @state.setter
        def state(self, _: sources.State) -> None:
            pass

    monkeypatch.setattr(terminal, "HostSource", Unplugged)
    monkeypatch.setattr(terminal, "_WAIT_S", 0.0)
    assert cli.main(["listen", "--json"]) == 2
    captured = capfdbinary.readouterr()
    assert b"The microphone is gone." in captured.err
    assert json.loads(captured.out)["label"] == "rain"  # what was open is told all the same
