"""Headers against what is there, streams one after the other, and what phones record."""

from __future__ import annotations

import contextlib
import io
import struct
import sys
from collections.abc import Callable

import numpy as np
import pytest
import soundfile

from qmoe_core.audio import containers, decode
from qmoe_core.errors import AudioError
from tests.audio import phones

RATE = 44_100
SECONDS = 2
NOISE = (0.2 * np.random.default_rng(5).standard_normal(RATE * SECONDS)).clip(-1, 1).astype(np.float32)


def written(kind: str, samples: np.ndarray = NOISE, rate: int = RATE, **options: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, **options)
    return file.getvalue()


def wave(data_size: int, behind: bytes = b"") -> bytes:
    pcm = (NOISE * 32767).astype("<i2").tobytes()
    form = struct.pack("<HHIIHH", 1, 1, RATE, RATE * 2, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", min(36 + data_size, 0xFFFFFFFF))
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", data_size)
        + pcm
        + behind
    )


def flac_with_total(total: int) -> bytes:
    data = bytearray(written("FLAC"))
    data[18:26] = ((int.from_bytes(data[18:26], "big") >> 36 << 36) | total).to_bytes(8, "big")
    return bytes(data)


PCM = 2 * RATE * SECONDS


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (wave(0), "announces no sound"),
        (wave(PCM // 4), "goes on behind the end"),
        (wave(PCM), ""),
        (wave(PCM, b"LIST" + struct.pack("<I", 4) + b"INFO"), ""),
        (wave(PCM, b"\0" * 5), ""),
        (wave(PCM + 36), ""),
        (wave(2 * PCM), "may have been cut off"),
        (wave(0xFFFFFFFF), ""),
        (flac_with_total(0), ""),
        (flac_with_total(20_000), "all of it was read"),
        (flac_with_total(4 * RATE), "may have been cut off"),
        (flac_with_total(RATE * SECONDS), ""),
    ],
    ids=[
        "wav 0", "wav less", "wav", "wav and a chunk", "wav and padding", "wav counts its header", "wav more",
        "wav streamed", "flac streamed", "flac less", "flac more", "flac",
    ],
)  # fmt: skip
def test_all_of_the_sound_is_read_whatever_the_header_says(data: bytes, note: str) -> None:
    clip = decode.load(data, name="it")
    assert clip.duration_s == pytest.approx(SECONDS)
    notes = [text for text in clip.notes if not text.startswith("Shorter")]
    assert any(note in text for text in notes) if note else not notes


PLACES = {
    "AIFF": (b"SSND", 4, ">I"),
    "AU": (b".snd", 8, ">I"),
    "CAF": (b"data", 4, ">q"),
    "RF64": (b"ds64", 16, "<Q"),
    "W64": (b"data", 16, "<q"),
}
"""Of a file that libsndfile writes: where its length stands behind which name, and as what."""


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize(
    ("times", "note"),
    [(0.0, "announces no sound"), (0.5, "goes on behind the end"), (2.0, "cut off"), (1.0, "")],
)
def test_lengths_in_other_headers(kind: str, times: float, note: str) -> None:
    data, (name, offset, form) = bytearray(written(kind)), PLACES[kind]
    at = data.find(name) + offset
    (length,) = struct.unpack_from(form, data, at)
    struct.pack_into(form, data, at, int(times * length))
    clip = decode.load(bytes(data), name="it")
    assert clip.duration_s == pytest.approx(SECONDS)
    notes = [text for text in clip.notes if not text.startswith("Shorter")]
    assert len(notes) == bool(note)
    assert not notes or note in notes[0]


@pytest.mark.parametrize("kind", [*PLACES, "WAV", "FLAC", "OGG", "MP3"])
def test_what_was_cut_off_is_said(kind: str) -> None:
    data = written(kind)
    clip = decode.load(data[: len(data) // 2], name="it")
    assert 0.3 < clip.duration_s < 1.2  # whole blocks of the codec
    assert any("may have been cut off" in text for text in clip.notes)


@pytest.mark.parametrize(
    ("container", "codec"), [("avi", "libmp3lame"), ("flv", "aac"), ("asf", "wmav2"), ("wv", "wavpack")]
)
def test_what_a_phone_or_camera_cut_off_is_said(container: str, codec: str) -> None:
    """Also where FFmpeg guesses the length from the file's size, which is then short too."""
    data = encoded(container, codec)
    clip = decode.load(data[: len(data) // 2], name="it")
    assert 0.3 < clip.duration_s < 1.2
    assert any("The header announces 2" in text and "cut off" in text for text in clip.notes)


@pytest.mark.parametrize("kind", ["MP3", "OGG"])
@pytest.mark.parametrize("change", ["none", "rate", "channels"])
def test_streams_one_after_the_other(kind: str, change: str) -> None:
    second = np.repeat(NOISE[:, None], 2, axis=1) if change == "channels" else NOISE
    rate = RATE // 2 if change == "rate" else RATE
    data = written(kind) + written(kind, second, rate)
    clip = decode.load(data, name="it")
    assert clip.duration_s == pytest.approx(SECONDS + SECONDS * RATE / rate, abs=0.2)
    assert np.sqrt(np.mean(np.square(clip.samples[-10_000:-2_000]))) > 0.05
    assert any("2 streams one after the other" in text for text in clip.notes)


def test_a_tag_behind_an_mp3_is_no_stream() -> None:
    clip = decode.load(written("MP3") + b"TAG" + b"x" * 4000, name="it")
    assert not [text for text in clip.notes if not text.startswith("Shorter")]


def test_where_judging_stopped_is_said() -> None:
    noise = bytes(np.random.default_rng(0).integers(1, 200, 9000, dtype=np.uint8))
    clip = decode.load(written("MP3") + b"\x01" + noise, name="it")
    assert any(text.startswith("Judging stopped at 2") for text in clip.notes)


@pytest.mark.parametrize(("at", "bytes_there"), [(0, b"Xinf"), (8, bytes(4))], ids=["no tag", "0 frames"])
def test_all_of_an_mp3_is_read_that_does_not_tell_its_length(
    monkeypatch: pytest.MonkeyPatch, at: int, bytes_there: bytes
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    data = bytearray(written("MP3"))
    at += data.find(b"Xing")
    data[at : at + len(bytes_there)] = bytes_there
    clip = decode.load(bytes(data), name="it")
    assert SECONDS <= clip.duration_s < SECONDS + 0.1  # the encoder's padding
    assert not [text for text in clip.notes if not text.startswith("Shorter")]
    assert 0 <= decode.load(written("MP3") + data, name="it").duration_s - 2 * SECONDS < 0.1


def test_a_stream_that_starts_in_the_middle_of_a_frame() -> None:
    pytest.importorskip("av")
    assert decode.load(written("MP3")[3001:], name="it").duration_s == pytest.approx(SECONDS, abs=0.4)


def encoded(container: str, codec: str, rate: int = RATE) -> bytes:
    pytest.importorskip("av")
    try:
        return phones.encoded(NOISE, RATE, container, codec, rate)
    except ValueError:
        pytest.skip(f"this FFmpeg has no encoder {codec}")


@pytest.mark.parametrize(("container", "codec", "rate"), phones.CONTAINERS)
def test_what_phones_and_browsers_record(container: str, codec: str, rate: int) -> None:
    clip = decode.load(encoded(container, codec, rate), name="it")
    assert clip.duration_s == pytest.approx(SECONDS, abs=0.1)
    assert clip.source_rate_hz == rate
    assert np.sqrt(np.mean(np.square(clip.samples))) > 0.05
    assert len(clip.notes) == 1  # it is shorter than a window


@pytest.mark.parametrize(
    "make",
    [
        lambda: written("WAV"),
        lambda: written("AIFF"),
        lambda: written("FLAC"),
        lambda: encoded("flv", "aac"),
        lambda: encoded("asf", "wmav2"),
        lambda: encoded("wv", "wavpack"),
        lambda: encoded("amr", "amr_nb", 8_000),
        lambda: encoded("ipod", "aac"),
        lambda: encoded("ipod", "aac") + struct.pack(">I4sQ8x", 1, b"free", 24),
        lambda: encoded("caf", "alac"),
    ],
    ids=["wav", "aiff", "flac", "flv", "wma", "wv", "amr", "m4a", "m4a with a length of 64 bits", "caf"],
)
def test_a_file_joined_to_another_is_said(make: Callable[[], bytes]) -> None:
    data = make()
    clip = decode.load(data + data, name="it")
    assert clip.duration_s == pytest.approx(SECONDS, abs=0.1)
    notes = [text for text in clip.notes if not text.startswith("Shorter")]
    stopped = f"Judging stopped at {decode.duration(clip.duration_s)}: another file of {len(data):,} bytes"
    assert len(notes) == 1
    assert notes[0].startswith(stopped)


@pytest.mark.parametrize(("container", "codec"), [("ipod", "aac"), ("caf", "alac")])
def test_without_its_index_a_recording_is_refused(container: str, codec: str) -> None:
    data = encoded(container, codec)
    with pytest.raises(AudioError, match=r"^memo is not a sound file that can be read: .*have been cut off"):
        decode.load(data[: len(data) // 2], name="memo")


def test_without_pyav_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded("ipod", "aac")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=r"^memo\.m4a is an MPEG-4 recording .*pip install av.*ffmpeg"):
        decode.load(data, name="memo.m4a")


@pytest.mark.parametrize(("container", "codec", "rate"), phones.CONTAINERS)
def test_a_damaged_recording_is_read_as_far_as_it_goes_and_no_decoder_prints(
    capfd: pytest.CaptureFixture[str], container: str, codec: str, rate: int
) -> None:
    data = bytearray(encoded(container, codec, rate))
    for at in range(2000, len(data), 900):
        data[at : at + 4] = bytes(255 - byte for byte in data[at : at + 4])
    with contextlib.suppress(AudioError):
        seconds = decode.load(bytes(data), name="it").duration_s
        assert 0.0 < seconds < SECONDS + 0.2
        assert container != "adts" or seconds > 0.5
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "text", ["ffconcat version 1.0\nfile /etc/hostname\n", "#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n"]
)
def test_no_playlist_is_taken_for_a_recording(text: str) -> None:
    with pytest.raises(AudioError, match="not a sound file"):
        decode.load(text.encode() * 100, name="list.m4a")


@pytest.mark.parametrize("make", [lambda: written("WAV"), lambda: wave(0), lambda: flac_with_total(5)])
def test_a_corrected_file_reads_the_same_in_any_pieces(make: Callable[[], bytes]) -> None:
    data = make()
    file = containers.reconcile(io.BytesIO(data)).file
    whole = file.read()
    assert len(whole) == len(data)
    file.seek(0)
    assert b"".join(iter(lambda: file.read(7), b"")) == whole
