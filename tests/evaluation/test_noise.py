"""What happens to sounds is what is said; clips in noise are judged by experts that never heard them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qmoe_core import cli
from qmoe_core.audio import perturb, synth
from qmoe_core.evaluation.calibration import expected_ece
from tests import tiny

RATE = 22_050


@pytest.fixture(scope="module")
def sounds() -> tuple[np.ndarray, np.ndarray]:
    return synth.render("dog-bark")[:RATE], synth.render("rain")[:RATE]


def changed(sounds: tuple[np.ndarray, np.ndarray], kind: str, level: float) -> np.ndarray:
    return perturb.perturb(sounds[0], RATE, kind, level, sounds[1], 0)


def test_background_has_the_ratio_that_is_asked_for(sounds) -> None:
    for level in (20.0, 0.0):
        noisy = changed(sounds, "background", level)
        gain = np.dot(noisy, sounds[0]) / np.dot(sounds[0], sounds[0])  # it may have been scaled to fit
        noise = noisy / gain - sounds[0]
        assert 10 * np.log10(np.square(sounds[0]).sum() / np.square(noise).sum()) == pytest.approx(
            level, abs=0.5
        )


def test_every_change_keeps_the_length_and_the_range(sounds) -> None:
    for kind, levels in perturb.LEVELS.items():
        found = changed(sounds, kind, levels[0])
        assert (found.shape, found.dtype) == (sounds[0].shape, np.float32)
        assert np.abs(found).max() <= 1.0
        assert not np.array_equal(found, sounds[0])


def test_a_narrow_band_has_nothing_above_and_pitch_moves() -> None:
    tone = np.sin(2 * np.pi * 1000.0 * np.arange(2 * RATE) / RATE).astype(np.float32) / 2

    def peak_hz(samples: np.ndarray) -> float:
        return float(np.fft.rfftfreq(len(samples), 1 / RATE)[np.abs(np.fft.rfft(samples)).argmax()])

    high = np.sin(2 * np.pi * 6000.0 * np.arange(2 * RATE) / RATE).astype(np.float32) / 2
    assert np.abs(perturb.perturb(high, RATE, "low-pass", 2000.0, high, 0)[RATE // 2 :]).max() < 1e-3
    assert np.abs(perturb.perturb(tone, RATE, "low-pass", 2000.0, tone, 0)).max() > 0.45
    assert peak_hz(perturb.perturb(tone, RATE, "pitch", 12.0, tone, 0)) == pytest.approx(2000.0, rel=0.02)
    assert peak_hz(perturb.perturb(tone, RATE, "speed", 1.4, tone, 0)) == pytest.approx(1000.0, rel=0.02)
    assert np.abs(perturb.perturb(tone, RATE, "gain", -20.0, tone, 0)).max() == pytest.approx(0.05, rel=0.01)


def test_perfect_calibration_shows_some_error_with_few_clips() -> None:
    few, many = expected_ece(np.full(50, 0.8)), expected_ece(np.full(5000, 0.8))
    assert 0.03 < few < 0.07
    assert many < 0.01


def test_clips_in_noise_and_their_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setenv("QMOE_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(perturb, "LEVELS", {"background": (60.0, -30.0)})
    folder = str(tiny.dataset(tmp_path / "tiny"))
    settings = [part for one in tiny.SETTINGS for part in ("--set", one)]
    options = [folder, "--experts", "q4,q8", "--moe", "q4,q8", "--seeds", "1", "--workers", "1", *settings]

    assert cli.main(["sweep", "noise", *options, "--perturb", "1", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert cli.main(["train", *options, "--json"]) == 0
    trained = {row["name"]: row for row in json.loads(capfd.readouterr().out)["rows"]}
    assert cli.main(["sweep", "sets", *options, "--json"]) == 0
    sets = json.loads(capfd.readouterr().out)

    both = {(row["copies"], row["kind"], row["level"], row["expert"]): row for row in found["rows"]}
    assert len(both) == 2 * 3 * 3
    assert len({both[copies, "clean", 0, "q4"]["ece"] for copies in (0, 1)}) == 2  # trained on other clips
    cells = {cell[1:]: row for cell, row in both.items() if cell[0] == 0}
    for name in ("q4", "q8", "q4+q8"):
        clean, faint, loud = (
            cells[kind, level, name]
            for kind, level in (("clean", 0), ("background", 60), ("background", -30))
        )
        assert clean["runs"] == 5
        assert clean["accuracy"] > 0.8
        assert abs(faint["accuracy"] - clean["accuracy"]) < 0.05
        assert loud["accuracy"] < 0.5
        assert loud["snr_db"] == -30
        # Clean clips are those of cross-validation.
        assert (clean["accuracy"] == 1.0) == (trained[name]["f1_mean"] == pytest.approx(1.0))
    assert {(one["name"], one["level"]) for one in sets} == {
        (name, level) for name in ("q4", "q8", "q4+q8") for level in (0.9, 0.95)
    }
    assert all(0.5 <= one["covered"] <= 1.0 and one["size"] > 0.5 for one in sets)
