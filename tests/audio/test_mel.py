from __future__ import annotations

import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmoe_core.audio import decode, mel, mel_kernel, synth


def noise(n: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def spectrogram(waveform: np.ndarray) -> np.ndarray:
    """Power, float32 [1025, T], by numpy's own Fourier transform."""
    padded = np.pad(waveform, mel.N_FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, mel.N_FFT)[:: mel.HOP]
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(mel.N_FFT) / mel.N_FFT)).astype(np.float32)
    return np.square(np.abs(np.fft.rfft(frames * window))).T


class TestLogMel:
    @pytest.mark.parametrize("n_mels", [40, 64, 128])
    @pytest.mark.parametrize("sound", ["noise", "rooster", "clock-tick"])
    def test_it_equals_librosa(self, sound, n_mels):
        librosa = pytest.importorskip("librosa")
        waveform = noise(decode.WINDOW_SAMPLES) if sound == "noise" else synth.render(sound)
        power = librosa.feature.melspectrogram(
            y=waveform, sr=22050, n_fft=2048, hop_length=512, n_mels=n_mels, htk=True, norm=None,
            power=2.0, center=True, pad_mode="reflect",
        )  # fmt: skip
        expected = librosa.power_to_db(power, ref=1, amin=1e-10, top_db=None)

        actual = mel.log_mel(waveform, n_mels)

        assert actual.dtype == np.float32
        assert actual.shape == (n_mels, 216)
        loud = power > 1e-6  # below, both are the rounding of 32-bit arithmetic
        np.testing.assert_allclose(actual[loud], expected[loud], rtol=1e-4, atol=1e-4)

    def test_the_filters_equal_those_of_librosa(self):
        librosa = pytest.importorskip("librosa")
        expected = librosa.filters.mel(sr=22050, n_fft=2048, n_mels=128, htk=True, norm=None)
        np.testing.assert_allclose(mel.mel_filterbank(128), expected, atol=1e-5)

    def test_a_tone_lights_the_band_that_holds_it(self):
        waveform = np.sin(2 * np.pi * 1000 * np.arange(22_050) / 22_050).astype(np.float32)
        band = int(mel.log_mel(waveform, 64)[:, 20].argmax())
        centres = 700 * np.expm1(np.linspace(0, mel.hz_to_mel(11_025), 66)[1:-1] / 1125)
        assert abs(centres[band] - 1000) == np.abs(centres - 1000).min()

    def test_ten_times_the_amplitude_is_twenty_decibels(self):
        quiet = noise(22_050)
        np.testing.assert_allclose(mel.log_mel(10 * quiet) - mel.log_mel(quiet), 20, atol=1e-3)

    def test_silence_lies_on_the_floor(self):
        np.testing.assert_allclose(mel.log_mel(np.zeros(5_000, dtype=np.float32)), -100, rtol=1e-6)

    @settings(deadline=None)
    @given(n=st.integers(1, 20_000), n_mels=st.sampled_from([1, 3, 40, 64, 128]))
    def test_the_kernel_equals_the_filterbank_times_the_spectrogram(self, n, n_mels):
        waveform = noise(n, seed=n)
        expected = mel.mel_filterbank(n_mels) @ spectrogram(waveform)
        actual = mel.mel_power(waveform, n_mels)
        assert actual.shape == (n_mels, mel.frame_count(n))
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6 * expected.max())

    @settings(deadline=None, max_examples=20)
    @given(gain=st.floats(1e-3, 1e3), shift=st.integers(1, 8))
    def test_power_is_quadratic_and_frames_follow_the_hops(self, gain, shift):
        waveform = noise(12_000)
        power = mel.mel_power(waveform, 16)
        np.testing.assert_allclose(mel.mel_power(np.float32(gain) * waveform, 16), gain**2 * power, rtol=1e-4)
        later = mel.mel_power(waveform[shift * mel.HOP :], 16)
        np.testing.assert_allclose(
            later[:, 2:-2], power[:, shift + 2 : shift + later.shape[1] - 2], rtol=1e-4
        )


class TestFilterbank:
    def test_eq_1_maps_frequencies_to_pitch(self):
        assert mel.hz_to_mel(0) == 0
        assert mel.hz_to_mel(700) == pytest.approx(1125 * np.log(2))

    @pytest.mark.parametrize("n_mels", [1, 40, 64, 128])
    def test_neighbouring_triangles_add_up_to_one_between_the_outer_peaks(self, n_mels):
        filters = mel.mel_filterbank(n_mels)
        assert filters.shape == (n_mels, 1025)
        assert filters.min() == 0
        assert filters.max() <= 1
        total = filters.sum(axis=0)
        between = slice(filters[0].argmax() + 1, filters[-1].argmax())
        np.testing.assert_allclose(total[between], 1, atol=1e-6)

    def test_it_cannot_be_changed(self):
        with pytest.raises(ValueError, match="read-only"):
            mel.mel_filterbank(64)[0, 0] = 1

    @pytest.mark.parametrize(
        ("n_mels", "message"), [(0, "at least one"), (-3, "at least one"), (2000, "too many")]
    )
    def test_impossible_numbers_of_bands_are_refused(self, n_mels, message):
        with pytest.raises(ValueError, match=message):
            mel.mel_filterbank(n_mels)


class TestKernel:
    def test_frames_beyond_the_samples_are_refused(self):
        edges = mel._filter_edges(8)
        with pytest.raises(ValueError, match="beyond the samples"):
            mel_kernel.mel_power_of_frames(noise(2048 + 511), 512, 2, mel._window(), *edges, 8)

    def test_no_frames_give_no_columns(self):
        edges = mel._filter_edges(8)
        assert mel_kernel.mel_power_of_frames(noise(2048), 512, 0, mel._window(), *edges, 8).shape == (8, 0)

    def test_without_a_place_for_its_cache_it_compiles_all_the_same(self):
        def double(x):
            return 2 * x

        nowhere = double.__code__.replace(co_filename="<nowhere>")
        assert mel_kernel._cached(types.FunctionType(nowhere, {}))(21) == 42
