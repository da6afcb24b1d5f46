"""When a recording began: headers of field recorders and names of files."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from qmoe_core.audio import decode, recorded


def wave(*chunks: tuple[bytes, bytes], behind: bool = False) -> bytes:
    """0.1 s at 8 kHz, with further chunks before or behind the sound."""
    more = b"".join(
        name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
        for name, content in chunks
    )
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    data = b"data" + struct.pack("<I", 1600) + bytes(range(200)) * 8
    body = form + (data + more if behind else more + data)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def comment(text: str) -> tuple[bytes, bytes]:
    content = text.encode() + b"\0"
    return b"LIST", b"INFOICMT" + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def bext(date: str, time: str) -> tuple[bytes, bytes]:
    return b"bext", b"a recorder".ljust(320, b"\0") + date.encode() + time.encode() + bytes(300)


MOTH = "Recorded at 20:15:00 01/05/2024 ({}) by AudioMoth 24F3190361DA5A2E at medium gain."


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        ([comment(MOTH.format("UTC"))], "2024-05-01T20:15:00+00:00"),
        ([comment(MOTH.format("UTC+2"))], "2024-05-01T20:15:00+02:00"),
        ([comment(MOTH.format("UTC-3:30"))], "2024-05-01T20:15:00-03:30"),
        ([(b"guan", b"TE:1\nTimestamp: 2024-05-01T20:15:00+02:00\nX:1\n")], "2024-05-01T20:15:00+02:00"),
        ([(b"guan", b"Timestamp:2024-05-01 20:15:00\n")], "2024-05-01T20:15:00"),
        ([(b"guan", b"Timestamp:2024-05-01T20:15"), bext("2001-01-01", "00:00:00")], "2024-05-01T20:15:00"),
        ([bext("2024-05-01", "20:15:00")], "2024-05-01T20:15:00"),
        ([bext("2024_05_01", "20.15.00")], "2024-05-01T20:15:00"),
        ([bext("0000-00-00", "00:00:00")], None),
        ([(b"guan", b"Timestamp: yesterday\n")], None),
        ([(b"bext", b"short")], None),
        ([(b"guan", b"\xff\xfe" * 50)], None),
    ],
)  # fmt: skip
def test_what_recorders_write(chunks: list[tuple[bytes, bytes]], behind: bool, said: str | None) -> None:
    clip = decode.load(wave(*chunks, behind=behind), name="x.wav")
    assert (clip.recorded.isoformat() if clip.recorded else None) == said
    assert not [note for note in clip.notes if "header" in note]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("20240501_201500.WAV", "2024-05-01T20:15:00"),
        ("site_A_20240501_201500_003.wav", "2024-05-01T20:15:00"),
        ("20240501T201500Z.flac", "2024-05-01T20:15:00+00:00"),
        ("20240501_201500+0200_REC.wav", "2024-05-01T20:15:00+02:00"),
        ("2024-05-01 20-15-00.m4a", "2024-05-01T20:15:00"),
        ("S4A_2024.05.01_20.15.00.wav", "2024-05-01T20:15:00"),
        ("66324EF4.WAV", "2024-05-01T14:17:24+00:00"),
        ("20240501.wav", None),
        ("20241399_256199.wav", None),
        ("12345678901234567890.wav", None),
        ("1-100032-A-0.wav", None),
        ("rain.wav", None),
    ],
)
def test_names(name: str, said: str | None) -> None:
    found = recorded.in_name(name)
    assert (found.isoformat() if found else None) == said


def test_a_comment_survives_in_flac() -> None:
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 8000, 1, format="FLAC") as sound:
        sound.comment = MOTH.format("UTC")
        sound.write(np.zeros(800))
    clip = decode.load(file.getvalue(), name="20010101_000000.flac")
    assert clip.recorded is not None
    assert clip.recorded.isoformat() == "2024-05-01T20:15:00+00:00"
