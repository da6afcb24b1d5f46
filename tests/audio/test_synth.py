from __future__ import annotations

import numpy as np
import pytest

from qmoe_core.audio import decode, synth

ESC10 = {
    "dog",
    "rooster",
    "rain",
    "sea_waves",
    "crackling_fire",
    "crying_baby",
    "sneezing",
    "clock_tick",
    "helicopter",
    "chainsaw",
}


@pytest.mark.parametrize("name", synth.GALLERY)
def test_a_sound_is_a_window_of_finite_samples_at_minus_three_decibels(name):
    waveform = synth.render(name)

    assert waveform.shape == (decode.WINDOW_SAMPLES,)
    assert waveform.dtype == np.float32
    assert np.abs(waveform).max() == pytest.approx(10 ** (-3 / 20), rel=1e-6)
    assert abs(waveform[0]) < 1e-3
    assert abs(waveform[-1]) < 1e-3


@pytest.mark.parametrize("name", synth.GALLERY)
def test_a_seed_is_a_take(name):
    first = synth.render(name, seed=1)

    np.testing.assert_array_equal(first, synth.render(name, seed=1))
    assert not np.array_equal(first, synth.render(name, seed=2))


def test_every_class_of_esc10_has_its_sound_and_every_sound_says_what_it_is():
    assert {sound.suggested_class for sound in synth.GALLERY.values()} == ESC10
    for name, sound in synth.GALLERY.items():
        assert sound.name == name
        assert sound.title
        assert sound.description.endswith(".")


def test_an_unknown_sound_is_a_key_error():
    with pytest.raises(KeyError):
        synth.render("violin")


def rhythm_hz(name: str, low: float, high: float) -> float:
    """The strongest rate at which the level of a sound goes up and down, between two rates."""
    level = np.abs(synth.render(name)).reshape(-1, 225).mean(axis=1)  # 98 a second
    spectrum = np.abs(np.fft.rfft(level - level.mean()))
    rates = np.fft.rfftfreq(len(level), 225 / decode.SAMPLE_RATE)
    inside = (rates >= low) & (rates <= high)
    return float(rates[inside][spectrum[inside].argmax()])


def test_the_clock_beats_twice_a_second_and_the_rotor_eleven_times():
    assert rhythm_hz("clock-tick", 1, 3) == pytest.approx(2.0, abs=0.2)
    assert rhythm_hz("helicopter", 5, 20) == pytest.approx(11.5, abs=0.5)


def test_rain_is_brighter_than_the_sea_and_a_sneeze_is_over_in_two_seconds():
    def centre(name: str) -> float:
        power = np.square(np.abs(np.fft.rfft(synth.render(name))))
        hz = np.fft.rfftfreq(2 * len(power) - 2, 1 / decode.SAMPLE_RATE)
        return float((power * hz).sum() / power.sum())

    assert centre("rain") > 1.5 * centre("sea-waves")
    sneeze = synth.render("sneeze")
    half = len(sneeze) // 2
    assert np.abs(sneeze[half:]).max() < 0.05 * np.abs(sneeze[:half]).max()
