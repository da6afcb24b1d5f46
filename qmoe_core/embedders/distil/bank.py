"""The bank: speech, instruments and samples that synthetic sounds are made of, all of packages of Debian.

| what | made by or taken from | licence |
| --- | --- | --- |
| speech and babble in many voices | espeak-ng | GPL-3.0 program; what it speaks is free |
| phrases on all General MIDI instruments, effects and drums | fluidsynth, FluidR3_GM.sf2 | LGPL-2.1, MIT |
| samples of percussion, nature, machines, loops | sonic-pi-samples | CC0-1.0 |
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from qmoe_core.audio.kaldi_mel import SAMPLE_RATE
from qmoe_core.errors import UserError
from qmoe_core.runtime.executor import Context, stop_if
from qmoe_core.runtime.identity import identity
from qmoe_core.runtime.store import Store

KIND = "sound-bank"
SPEECH, INSTRUMENTS, DRUMS = 300, 256, 60
"""How many of each are made."""
SECONDS = 6.0
"""Longest stretch that is kept of each."""
SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
SAMPLES = Path("/usr/share/sonic-pi/samples")
LICENCES = (
    "speech: espeak-ng (GPL-3.0; the speech itself is free)",
    "instruments: fluidsynth (LGPL-2.1) with the soundfont FluidR3 (MIT)",
    "samples: sonic-pi-samples (CC0-1.0)",
)
_VOICES = "en-gb en-us en-gb-scotland de fr es it pl cs nl sv fi tr ru el hu id sw vi cmn"
_SPEAKERS = (
    "m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5 croak whisper whisperf klatt klatt4 steph grandma"  # variants
)
_CONSONANTS = "p b t d k g m n s S f v l r j w h tS"
_VOWELS = "a e i o u 0 I E A: i: u:"
_WORDS = (
    "the a an one two three seven ten now here there where why stop wait listen open close bring water "
    "bread house street river mountain summer winter morning evening train bicycle garden window "
    "children mother father brother teacher doctor music silence thunder letter number question answer "
    "laugh cry shout whisper run walk jump carry break quick slow heavy bright yellow green purple "
    "never always perhaps yes no oh ah hey hello goodbye please thanks every nothing because between "
    "under over after before hundred thousand "
)


def missing() -> list[str]:
    """Debian packages that the bank needs and this machine lacks."""
    needed = {
        "espeak-ng": shutil.which("espeak-ng"),
        "fluidsynth": shutil.which("fluidsynth"),
        "fluid-soundfont-gm": SOUNDFONT.is_file(),
        "sonic-pi-samples": SAMPLES.is_dir(),
    }
    return [package for package, found in needed.items() if not found]


def key(seed: int) -> dict[str, object]:
    """Address of a bank in the store."""
    sizes = [SPEECH, INSTRUMENTS, DRUMS, SECONDS]
    return {"seed": seed, "sizes": sizes, "code": identity(KIND)}


def load(store: Store, seed: int) -> list[np.ndarray] | None:
    """The bank, waveforms int16 [n] at 32,000 Hz; None where it was not made yet."""
    entry = store.get(KIND, key(seed))
    if entry is None:
        return None
    return np.split(entry.tensors["samples"], entry.tensors["ends"][:-1])


def make(context: Context, seed: int) -> list[np.ndarray]:
    """The bank; made and kept in the store if it is not there.

    Raises:
        UserError: packages that it needs are missing.
        Cancelled: nothing is kept of an unfinished bank, which takes about a minute.
    """
    if (kept := load(context.store, seed)) is not None:
        return kept
    if lacking := missing():
        raise UserError(
            f"The sounds are made with {', '.join(lacking)}, not on this machine; "
            f"on Debian and Ubuntu: apt install {' '.join(lacking)}"
        )
    rng = np.random.default_rng(seed)
    files = sorted(SAMPLES.glob("*.flac"))
    total, show = SPEECH + INSTRUMENTS + DRUMS + len(files), context.progress("bank of samples")
    sounds = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (what, path) in enumerate(_recorded(rng, Path(folder), files), start=1):
            stop_if(context.cancelled or (lambda: False))
            sounds.append(_read(path))
            show(number, total, what)
    sounds = [sound for sound in sounds if len(sound)]
    ends = np.cumsum([len(sound) for sound in sounds])
    context.store.put(
        KIND, key(seed), {"samples": np.concatenate(sounds), "ends": ends}, {"licences": LICENCES}
    )
    return sounds


def _recorded(rng: np.random.Generator, folder: Path, samples: list[Path]) -> Iterator[tuple[str, Path]]:
    """Makes one file after another: what it is, and where."""
    path = folder / "sound.wav"
    for _ in range(SPEECH):
        _speak(rng, path)
        yield "speech", path
    for number in range(INSTRUMENTS + DRUMS):
        program = number % 128 if number < INSTRUMENTS else None
        (folder / "phrase.mid").write_bytes(_phrase(rng, program))
        command = ["fluidsynth", "-niq", "-F", str(path), "-r", str(SAMPLE_RATE), "-g", "0.7"]
        _run([*command, str(SOUNDFONT), str(folder / "phrase.mid")])
        yield "instrument" if program is not None else "drums", path
    for sample in samples:
        yield "sample", sample


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        problem = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise UserError(f"{command[0]} failed: {problem[-1]}")


def _speak(rng: np.random.Generator, path: Path) -> None:
    """A sentence, a shout or syllables without meaning, in a random voice."""
    if rng.random() < 0.35:
        syllables = [
            str(rng.choice(_CONSONANTS.split())) + str(rng.choice(_VOWELS.split()))
            for _ in range(rng.integers(2, 9))
        ]
        text = f"[[{''.join(syllables)}]]"
    else:
        text = " ".join(rng.choice(_WORDS.split(), rng.integers(1, 12)))
    voice = f"{rng.choice(_VOICES.split())}+{rng.choice(_SPEAKERS.split())}"
    pitch, speed = str(rng.integers(0, 100)), str(rng.integers(90, 300))
    _run(["espeak-ng", "-v", voice, "-p", pitch, "-s", speed, "-w", str(path), text])


def _phrase(rng: np.random.Generator, program: int | None) -> bytes:
    """A short phrase as a MIDI file: notes and chords on one instrument, or on drums where that is None."""
    channel = 9 if program is None else 0
    events = bytearray() if program is None else bytearray([0, 0xC0, program])
    centre, step = rng.integers(36, 84), rng.choice([60, 120, 240, 480])  # of 480 ticks a half second
    for _ in range(rng.integers(1, 17)):
        size = int(rng.choice([1, 1, 1, 2, 3]))
        low, high = (35, 82) if program is None else (centre - 12, centre + 13)
        notes = rng.choice(np.arange(low, high), size, replace=False).tolist()
        for note in notes:
            events += bytes([0, 0x90 | channel, note, int(rng.integers(40, 128))])
        for position, note in enumerate(notes):
            length = int(step * rng.choice([1, 1, 2])) if position == 0 else 0
            events += _variable(length) + bytes([0x80 | channel, note, 0])
    events += _variable(480) + bytes([0xFF, 0x2F, 0])
    return (
        struct.pack(">4sIHHH", b"MThd", 6, 0, 1, 480)
        + struct.pack(">4sI", b"MTrk", len(events))
        + bytes(events)
    )


def _variable(number: int) -> bytes:
    """A duration as MIDI writes it: seven bits a byte, the highest bit set in all but the last."""
    parts = [number & 127]
    while number := number >> 7:
        parts.insert(0, 128 | (number & 127))
    return bytes(parts)


def _read(path: Path) -> np.ndarray:
    """A file as int16 [n] at 32,000 Hz, mono, without silence around it, peak at full scale."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE)
    peak = np.abs(mono).max(initial=0.0)
    loud = np.flatnonzero(np.abs(mono) > 1e-3 * peak)
    if not peak or not len(loud):
        return np.empty(0, np.int16)
    kept = mono[loud[0] : loud[-1] + 1][: int(SECONDS * SAMPLE_RATE)]
    return np.clip(np.round(kept / peak * 32767), -32767, 32767).astype(np.int16)
