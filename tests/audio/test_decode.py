from __future__ import annotations

import contextlib
import io
import os
import struct
import sys
import tracemalloc

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from qmoe_core.audio import decode
from qmoe_core.errors import AudioError

FORMATS = {"wav": "WAV", "flac": "FLAC", "ogg": "OGG", "mp3": "MP3"}


def tone(seconds: float = 5.0, rate: int = 44_100, hz: float = 440.0, gain: float = 0.5) -> np.ndarray:
    return (gain * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encoded(
    samples: np.ndarray, rate: int = 44_100, format: str = "WAV", subtype: str | None = None
) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype)
    return file.getvalue()


def loudest_hz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * decode.SAMPLE_RATE / len(samples))


class TestFormats:
    @pytest.mark.parametrize("ending", FORMATS)
    def test_every_accepted_format_becomes_the_same_waveform(self, tmp_path, ending):
        path = tmp_path / f"a tone.{ending}"
        soundfile.write(path, tone(), 44_100, format=FORMATS[ending])

        clip = decode.load(path)

        assert clip.name == f"a tone.{ending}"
        assert clip.samples.dtype == np.float32
        assert len(clip.samples) == decode.WINDOW_SAMPLES
        assert (clip.source_rate_hz, clip.source_channels, clip.notes) == (44_100, 1, ())
        assert clip.duration_s == pytest.approx(5.0)
        middle = slice(20_000, 90_000)
        np.testing.assert_allclose(clip.samples[middle], tone(rate=22_050)[middle], atol=0.03)

    @pytest.mark.parametrize("ending", FORMATS)
    def test_blocks_of_a_longer_recording_join_without_a_seam(self, ending):
        rng = np.random.default_rng(0)
        data = encoded(0.1 * rng.standard_normal(100_000), 22_050, FORMATS[ending])
        whole, _ = soundfile.read(io.BytesIO(data), dtype="float32")

        np.testing.assert_allclose(decode.load(data).samples, whole, atol=1e-6)

    def test_a_path_its_text_its_bytes_and_a_stream_give_the_same(self, tmp_path):
        data = encoded(tone())
        path = tmp_path / "tone.wav"
        path.write_bytes(data)
        stream = io.BytesIO(data)
        stream.read()  # as a widget leaves it that has been read before

        with path.open("rb") as file:
            clips = [decode.load(source) for source in (path, str(path), data, stream, file)]

        assert [clip.name for clip in clips] == ["tone.wav", "tone.wav", "recording", "recording", "tone.wav"]
        for clip in clips:
            np.testing.assert_array_equal(clip.samples, clips[0].samples)

    def test_a_stream_that_cannot_be_rewound_is_read_as_it_comes(self):
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb") as source:
            with os.fdopen(writing, "wb") as sink:
                sink.write(encoded(tone(0.2)))
            assert decode.load(source, name="pipe").duration_s == pytest.approx(0.2)

    def test_the_content_decides_and_not_the_ending(self, tmp_path):
        path = tmp_path / "misnamed.mp3"
        path.write_bytes(encoded(tone(), format="FLAC"))
        assert decode.load(path).duration_s == pytest.approx(5.0)

    @pytest.mark.recordings
    def test_real_recordings_of_many_kinds_are_read(self, shared_data):
        paths = sorted(shared_data.glob("urbansound8k-sample/audio/*/*.wav"))
        clips = [decode.load(path) for path in paths]
        assert len(clips) == 10
        for clip in clips:
            assert len(clip.samples) == pytest.approx(clip.duration_s * decode.SAMPLE_RATE, abs=1)
            assert 0 < np.abs(clip.samples).max() <= 1


class TestRatesAndChannels:
    @pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000])
    def test_any_rate_becomes_22050(self, rate):
        clip = decode.load(encoded(tone(2.0, rate), rate, subtype="FLOAT"))
        assert clip.source_rate_hz == rate
        assert len(clip.samples) == pytest.approx(2 * decode.SAMPLE_RATE, abs=1)
        assert loudest_hz(clip.samples) == pytest.approx(440, abs=1)
        np.testing.assert_allclose(
            clip.samples[5000:-5000], tone(2.0, 22_050)[5000:][: len(clip.samples) - 10_000], atol=1e-3
        )

    @pytest.mark.parametrize("rate", [1, 999, 768_001, 2_000_000])
    def test_a_rate_no_recording_has_is_refused(self, rate):
        with pytest.raises(AudioError, match=r"odd has a sample rate of .* 1,000 to 768,000 Hz are accepted"):
            decode.from_samples(tone(), rate, name="odd")

    def test_eight_channels_are_mixed_by_their_mean_and_it_is_said(self):
        channels = np.zeros((22_050, 8), dtype=np.float32)
        channels[:, 3] = tone(1.0, 22_050, gain=0.8)
        clip = decode.load(encoded(channels, 22_050, subtype="FLOAT"))
        assert clip.source_channels == 8
        np.testing.assert_allclose(clip.samples, channels[:, 3] / 8, atol=1e-6)
        assert clip.notes[0] == "8 channels were mixed to one (their mean)."


class TestNotes:
    def test_a_short_recording_says_that_it_is_padded(self):
        assert decode.load(encoded(tone(1.5))).notes == ("Shorter than 5 s (1.5 s): padded with silence.",)

    def test_digital_silence_is_accepted_with_a_note(self):
        clip = decode.from_samples(np.zeros(110_250), 22_050)
        assert clip.notes == ("Digital silence: every sample is zero.",)
        assert not clip.samples.any()

    def test_near_silence_is_told_from_silence(self):
        (note,) = decode.from_samples(np.full(110_250, 1e-5), 22_050).notes
        assert note == "Nearly silent: the peak is at -100 dBFS."

    def test_a_clipped_recording_says_how_much_of_it_is(self):
        square = np.sign(tone(gain=1.0) + 1e-6)
        (note,) = decode.load(encoded(square)).notes
        assert note == "100.0% of the samples are at full scale (clipped)."

    def test_a_single_sample_at_full_scale_is_not_called_clipped(self):
        samples = tone(rate=22_050)
        samples[1000] = 1.0
        assert decode.from_samples(samples, 22_050).notes == ()

    def test_floats_beyond_full_scale_are_clipped_and_it_is_said(self):
        clip = decode.load(encoded(tone(rate=22_050, gain=4.0), 22_050, subtype="FLOAT"))
        assert np.abs(clip.samples).max() == 1.0
        assert "were beyond full scale (up to 4) and were clipped" in clip.notes[0]


class TestSamples:
    @pytest.mark.parametrize(
        ("samples", "expected"),
        [
            (np.array([-32768, 0, 16384], dtype=np.int16), [-1.0, 0.0, 0.5]),
            (np.array([-(2**31), 0, 2**30], dtype=np.int32), [-1.0, 0.0, 0.5]),
            (np.array([0, 128, 192], dtype=np.uint8), [-1.0, 0.0, 0.5]),
            (np.array([-1.0, 0.0, 0.5]), [-1.0, 0.0, 0.5]),
            (np.array([[-1.0, -1.0], [0.25, -0.25], [1.0, 0.0]], dtype=np.float16), [-1.0, 0.0, 0.5]),
        ],
    )
    def test_integers_and_floats_are_scaled_by_their_type(self, samples, expected):
        np.testing.assert_array_equal(decode.from_samples(samples, 22_050).samples, np.float32(expected))

    @pytest.mark.parametrize(
        ("samples", "message"),
        [
            (np.zeros((2, 2, 2)), r"samples of shape \(2, 2, 2\)"),
            (np.zeros(9, dtype=complex), "samples of type complex128"),
            (np.zeros(0), "holds no samples"),
            (np.zeros((0, 2)), "holds no samples"),
            (np.zeros((9, 0)), "holds no channels"),
        ],
    )
    def test_what_is_no_sound_is_refused(self, samples, message):
        with pytest.raises(AudioError, match=f"mine .*{message}"):
            decode.from_samples(samples, 22_050, name="mine")

    def test_fewer_samples_than_one_at_the_target_rate_are_refused(self):
        with pytest.raises(AudioError, match="holds only 1 samples at 768,000 Hz"):
            decode.from_samples(np.ones(1), 768_000)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
    def test_samples_that_are_not_finite_are_refused_with_count_and_position(self, bad):
        samples = np.zeros((60_000, 2))
        samples[30_000, 1] = bad
        samples[50_000, :] = bad
        with pytest.raises(AudioError, match=r"^field\.wav has 3 samples .* the first at 3\.000 s"):
            decode.from_samples(samples, 10_000, name="field.wav")

    def test_not_finite_samples_in_a_file_are_refused_too(self):
        samples = tone()
        samples[44_100] = np.nan
        with pytest.raises(AudioError, match=r"^nan\.wav has 1 samples .* the first at 1\.000 s"):
            decode.load(encoded(samples, subtype="FLOAT"), name="nan.wav")


def wav_announcing(data_bytes: int, held: bytes) -> bytes:
    """An 8-bit, 8 kHz WAV file whose header promises more data than follow."""
    return (
        b"RIFF"
        + struct.pack("<I", min(36 + data_bytes, 0xFFFFFFFF))
        + b"WAVEfmt "
        + struct.pack("<IHHIIHH", 16, 1, 1, 8_000, 8_000, 1, 8)
        + b"data"
        + struct.pack("<I", data_bytes)
        + held
    )


def flac_announcing(frames: int, seconds: float) -> bytes:
    data = bytearray(encoded(tone(seconds), format="FLAC"))
    data[21] = (data[21] & 0xF0) | (frames >> 32)  # STREAMINFO: 36 bits of total samples
    data[22:26] = struct.pack(">I", frames & 0xFFFFFFFF)
    return bytes(data)


def clip_or_sentence(data: bytes, name: str) -> tuple[decode.Clip | None, str]:
    try:
        return decode.load(data, name=name), ""
    except AudioError as error:
        return None, str(error)


class TestBadFiles:
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", r"is empty \(0 bytes\)"),
            (b"RIFF", "is not a sound file"),
            (b"A poem about a bird.\n" * 200, "is not a sound file"),
            (b"\x00" * 10_000, "is not a sound file"),
            (b"\xff\xfb\x90\x64" + b"\x00" * 300, "is not a sound file|holds no samples"),
            (b"\x89PNG\r\n\x1a\n" + b"\x00" * 3_000, "is not a sound file"),
            (encoded(np.zeros(0)), "holds no samples"),
        ],
    )
    def test_what_holds_no_sound_is_refused_by_name_and_says_what_is_accepted(self, data, message):
        with pytest.raises(
            AudioError, match=rf"^it\.wav ({message}).*WAV, FLAC, Ogg and MP3 are accepted\.$"
        ):
            decode.load(data, name="it.wav")

    @pytest.mark.parametrize("ending", FORMATS)
    @pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.999])
    def test_a_truncated_file_gives_what_it_holds_or_a_sentence(self, ending, share):
        data = encoded(tone(), format=FORMATS[ending])
        clip, sentence = clip_or_sentence(data[: int(share * len(data))], f"cut.{ending}")
        if clip:
            assert 0 < clip.duration_s < 5
            assert np.isfinite(clip.samples).all()
            if ending in ("wav", "flac"):
                assert clip.notes[0].startswith("The header announces 5 s, the file holds ")
        else:
            assert ending != "wav"  # has no frames that a cut could break
            assert sentence.startswith(f"cut.{ending} ")

    @pytest.mark.parametrize("ending", FORMATS)
    def test_a_damaged_file_gives_what_it_holds_or_a_sentence(self, ending):
        data = bytearray(encoded(tone(), format=FORMATS[ending]))
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
        clip, sentence = clip_or_sentence(bytes(data), "hurt")
        assert np.isfinite(clip.samples).all() if clip else sentence.startswith("hurt ")

    @given(
        data=st.binary(max_size=400),
        prefix=st.sampled_from([b"", b"RIFF", b"fLaC", b"OggS", b"ID3", b"\xff\xfb"]),
    )
    def test_any_bytes_give_a_clip_or_a_sentence(self, data, prefix):
        clip, sentence = clip_or_sentence(prefix + data, "fuzz")
        assert len(clip.samples) if clip else "\n" not in sentence

    @pytest.mark.parametrize(
        "data",
        [
            wav_announcing(24 * 3600 * 8_000, b"\x90" * 800),
            flac_announcing(24 * 3600 * 44_100, 0.1),
        ],
    )
    def test_a_header_of_24_hours_on_a_tiny_file_costs_nothing(self, data):
        tracemalloc.start()
        clip = decode.load(data)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert clip.duration_s == pytest.approx(0.1)
        assert peak < 8 * 2**20
        assert clip.notes[0] == "The header announces 24 h, the file holds 0.1 s: it may have been cut off."

    def test_a_streamed_wav_with_an_open_length_is_no_reason_for_a_note(self):
        clip = decode.load(wav_announcing(0xFFFFFFFF, b"\x90" * 40_000))
        assert clip.duration_s == 5.0
        assert clip.notes == ()

    def test_a_recording_that_really_is_too_long_is_refused(self):
        data = encoded(np.zeros(1000 * 3600 + 1, dtype=np.float32), 1000, subtype="PCM_U8")
        with pytest.raises(AudioError, match=r"^night\.wav is longer than 1 h"):
            decode.load(data, name="night.wav")

    def test_a_recording_of_exactly_the_longest_duration_is_accepted(self, monkeypatch):
        monkeypatch.setattr(decode, "MAX_DURATION_S", 2.0)
        assert decode.load(encoded(tone(2.0))).duration_s == 2.0
        with pytest.raises(AudioError, match="longer than 2 s"):
            decode.from_samples(tone(2.1), 44_100)

    @pytest.mark.parametrize("wrap", [lambda data: data, io.BytesIO])
    def test_uploads_over_the_limit_are_refused(self, monkeypatch, wrap):
        data = encoded(tone())
        monkeypatch.setattr(decode, "MAX_BYTES", len(data) - 1)
        with pytest.raises(AudioError, match=r"^big\.wav is larger than 0 MB"):
            decode.load(wrap(data), name="big.wav")
        monkeypatch.setattr(decode, "MAX_BYTES", len(data))
        assert decode.load(wrap(data)).duration_s == 5.0

    def test_paths_that_are_no_files_are_refused(self, tmp_path):
        with pytest.raises(AudioError, match=r"^gone\.wav does not exist in "):
            decode.load(tmp_path / "gone.wav")
        with pytest.raises(AudioError, match=" is a folder"):
            decode.load(tmp_path)
        if hasattr(os, "mkfifo"):
            os.mkfifo(tmp_path / "pipe.wav")
            with pytest.raises(AudioError, match=r"^pipe\.wav is not a regular file"):
                decode.load(tmp_path / "pipe.wav")

    def test_a_headerless_file_is_refused(self, tmp_path):
        path = tmp_path / "noise.raw"
        path.write_bytes(bytes(range(256)) * 40)
        with pytest.raises(AudioError, match=r"^noise\.raw is not a sound file"):
            decode.load(path)

    def test_the_decoder_keeps_quiet_about_a_broken_mp3(self, capfd):
        data = encoded(tone(), format="MP3")
        for size in (100, len(data) // 2):
            with contextlib.suppress(AudioError):
                decode.load(data[:size])
        print("still here", file=sys.stderr)
        assert capfd.readouterr().err == "still here\n"


class TestNames:
    @pytest.mark.parametrize(
        ("name", "shown"),
        [
            ("dog.wav", "dog.wav"),
            ("../../etc/passwd", "passwd"),
            (r"C:\sounds\dog.wav", "dog.wav"),
            ("a\x00b\x1b[31m\nc.wav", "ab[31mc.wav"),
            ("\u202egnp.wav", "gnp.wav"),
            ("Käuzchen 鳥.ogg", "Käuzchen 鳥.ogg"),
            ("..", "recording"),
            ("", "recording"),
            ("folder/", "recording"),
            ("\udcff.wav", "wav"),
        ],
    )
    def test_a_name_is_bare_and_printable(self, name, shown):
        assert decode.display_name(name) == shown
        assert decode.from_samples(tone(), 44_100, name=name).name == shown
        assert decode.load(encoded(tone()), name=name).name == shown

    @given(st.text(max_size=400))
    def test_any_name_is_safe_to_print_and_to_save_under(self, name):
        shown = decode.display_name(name)
        assert 1 <= len(shown) <= 120
        assert shown.isprintable()
        assert "/" not in shown
        assert "\\" not in shown
        assert not shown.startswith(".")
        assert decode.display_name(shown) == shown

    def test_a_long_name_keeps_its_ending(self):
        assert decode.display_name("a" * 500 + ".flac").endswith("a.flac")


class TestResample:
    @given(
        n=st.integers(1, 5_000),
        rate=st.sampled_from([8_000, 16_000, 22_050, 44_100, 48_000]),
        to=st.sampled_from([8_000, 22_050, 44_100]),
    )
    def test_the_length_follows_the_rates_and_the_samples_stay_finite(self, n, rate, to):
        out = decode.resample(np.ones(n), rate, to)
        assert out.dtype == np.float32
        assert abs(len(out) - n * to / rate) <= 1
        assert np.isfinite(out).all()

    @given(seed=st.integers(0, 1000), gain=st.floats(-2, 2))
    def test_resampling_is_linear(self, seed, gain):
        x = np.random.default_rng(seed).standard_normal(600).astype(np.float32)
        np.testing.assert_allclose(
            decode.resample(np.float32(gain) * x, 44_100, 22_050),
            np.float32(gain) * decode.resample(x, 44_100, 22_050),
            atol=1e-5,
        )

    @given(
        n=st.integers(40, 60_000),
        rate=st.sampled_from([8_000, 44_100, 44_101, 48_000]),
    )
    def test_a_clip_resampled_in_blocks_equals_one_resampled_at_once(self, n, rate):
        x = 0.1 * np.random.default_rng(n).standard_normal(n).astype(np.float32)
        clip = decode.from_samples(x, rate)
        np.testing.assert_allclose(clip.samples, decode.resample(x, rate, decode.SAMPLE_RATE), atol=1e-5)

    def test_what_the_lower_rate_cannot_hold_is_gone(self):
        assert np.abs(decode.resample(tone(1.0, hz=15_000), 44_100, 22_050)[500:-500]).max() < 1e-3


def clip_of(n: int) -> decode.Clip:
    return decode.Clip("x", np.arange(n, dtype=np.float32), n / decode.SAMPLE_RATE, decode.SAMPLE_RATE, 1)


class TestWindows:
    def test_a_short_clip_is_one_window_padded_with_zeros(self):
        (window,) = decode.windows(clip_of(22_050))
        assert (window.start_s, window.end_s) == (0.0, 1.0)
        assert window.samples.shape == (decode.WINDOW_SAMPLES,)
        np.testing.assert_array_equal(window.samples[:22_050], np.arange(22_050))
        assert not window.samples[22_050:].any()

    def test_a_clip_of_one_window_is_that_window(self):
        (window,) = decode.windows(clip_of(decode.WINDOW_SAMPLES))
        assert (window.start_s, window.end_s) == (0.0, 5.0)

    def test_a_codecs_padding_makes_no_second_window(self):
        assert len(decode.windows(clip_of(decode.WINDOW_SAMPLES + 2204))) == 1
        assert len(decode.windows(clip_of(decode.WINDOW_SAMPLES + 2205))) == 2

    def test_a_long_clip_slides_and_ends_with_its_end(self):
        found = decode.windows(clip_of(22_050 * 11))
        assert [(window.start_s, window.end_s) for window in found] == [(0, 5), (2.5, 7.5), (5, 10), (6, 11)]

    @given(n=st.integers(1, 600_000), hop_s=st.floats(0.5, 5.0))
    def test_every_sample_but_a_codecs_padding_is_in_a_window_in_its_place(self, n, hop_s):
        clip = clip_of(n)
        found = decode.windows(clip, hop_s)
        covered = np.zeros(n, dtype=bool)
        for window in found:
            start = round(window.start_s * decode.SAMPLE_RATE)
            stop = min(n, start + decode.WINDOW_SAMPLES)
            covered[start:stop] = True
            assert window.samples.shape == (decode.WINDOW_SAMPLES,)
            assert window.samples[0] == start
            assert window.samples[stop - start - 1] == stop - 1
            assert window.end_s == pytest.approx(stop / decode.SAMPLE_RATE)
        assert covered[: n - round(decode.TAIL_S * decode.SAMPLE_RATE)].all()
        starts = [window.start_s for window in found]
        assert starts == sorted(set(starts))

    @pytest.mark.parametrize("hop_s", [0.0, -1.0, 1e-6])
    def test_a_hop_of_nothing_is_an_error(self, hop_s):
        with pytest.raises(ValueError, match="at least one sample"):
            decode.windows(clip_of(10), hop_s)
