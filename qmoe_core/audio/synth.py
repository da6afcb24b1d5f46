"""Gallery sounds that the project makes itself: ten everyday sounds from noise, pulses and resonances.

They need no recording, so they ship as code, and the same seed gives the same sound. Each is a
model of how its sound comes about: drops are short bursts of noise, a rotor chops its own noise, a bark is a
throat (harmonics of a gliding pitch) behind a mouth (formants). They were made to sound right and are never
trained on: what the classifiers make of them is an honest answer to a sound of another kind.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qmoe_core.audio.decode import SAMPLE_RATE, WINDOW_SAMPLES

PEAK = 10 ** (-3 / 20)
"""Every sound's largest sample: −3 dBFS."""
_FADE_S = 0.01


@dataclass(frozen=True)
class GallerySound:
    """A synthesised sound: what to call it, and which ESC-10 class it imitates."""

    name: str
    title: str
    description: str
    suggested_class: str
    make: Callable[[np.random.Generator], np.ndarray]


def render(name: str, seed: int = 0) -> np.ndarray:
    """Synthesise the gallery sound `name`: waveform float32 [110250] at 22,050 Hz, peak −3 dBFS.

    Another seed is another take of the same sound.

    Raises:
        KeyError: there is no such sound in `GALLERY`.
    """
    sound = DISPUTED if name == DISPUTED.name else GALLERY[name]
    waveform = sound.make(np.random.default_rng([seed, zlib.crc32(name.encode())]))
    fade = np.minimum(1.0, np.arange(WINDOW_SAMPLES) / (_FADE_S * SAMPLE_RATE))
    waveform = waveform * fade * fade[::-1]
    return (waveform * (PEAK / np.abs(waveform).max())).astype(np.float32)


# Building blocks. Times are in seconds, frequencies in Hz.

_TIME = np.arange(WINDOW_SAMPLES) / SAMPLE_RATE


def _samples(seconds: float) -> int:
    return max(1, round(seconds * SAMPLE_RATE))


def _filtered(x: np.ndarray, gain: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """x with each frequency multiplied by gain(frequency); its ends are joined, which noise does not mind."""
    frequencies = np.fft.rfftfreq(len(x), 1 / SAMPLE_RATE)
    return np.fft.irfft(np.fft.rfft(x) * gain(frequencies), len(x))


def _noise(rng: np.random.Generator, n: int, low: float, high: float, tilt: float = 0.0) -> np.ndarray:
    """Noise between two frequencies (12 dB an octave), tilted by `tilt` dB an octave; deviation 1."""

    def gain(f: np.ndarray) -> np.ndarray:
        f = np.maximum(f, 1.0)
        return (f / 1000.0) ** (tilt / 6.02) / np.sqrt((1 + (low / f) ** 4) * (1 + (f / high) ** 4))

    x = _filtered(rng.standard_normal(n), gain)
    return x / x.std()


def _slow(rng: np.random.Generator, rate_hz: float, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """A random curve over the whole sound that wanders between two values, about `rate_hz` times a second."""
    knots = rng.uniform(low, high, max(3, int(rate_hz * 5) + 2))
    return np.interp(_TIME, np.linspace(0, 5, len(knots)), knots)


def _curve(points: list[tuple[float, float]], n: int) -> np.ndarray:
    """Values through (time, value) points, smoothed a little so that no corner is heard."""
    times, values = zip(*points, strict=True)
    line = np.interp(np.arange(n) / SAMPLE_RATE, times, values)
    width = min(_samples(0.012), n)
    padded = np.pad(line, width, mode="edge")
    return np.convolve(padded, np.ones(width) / width, mode="same")[width:-width]


def _add(out: np.ndarray, event: np.ndarray, at_s: float) -> None:
    """Add an event to a sound from a moment on; what would hang over the end is left out."""
    start = int(at_s * SAMPLE_RATE)
    stop = min(len(out), start + len(event))
    if start < stop:
        out[start:stop] += event[: stop - start]


def _moments(rng: np.random.Generator, per_second: float) -> np.ndarray:
    """Random moments of the five seconds, `per_second` on average, none foreseeable from another."""
    return rng.uniform(0, 5, rng.poisson(5 * per_second))


def _ring(modes: list[tuple[float, float, float]], seconds: float) -> np.ndarray:
    """What a struck object does: decaying sines, one for each mode (frequency, decay time, gain)."""
    t = np.arange(_samples(seconds)) / SAMPLE_RATE
    decaying = [gain * np.exp(-t / decay) * np.sin(2 * np.pi * hz * t) for hz, decay, gain in modes]
    return np.sum(decaying, axis=0)


def _voice(
    rng: np.random.Generator,
    pitch: np.ndarray,
    formants: list[tuple[float, float, float]],
    *,
    slope_db: float = -9.0,
    jitter: float = 0.01,
    breath: float = 0.05,
) -> np.ndarray:
    """A throat behind a mouth: harmonics of `pitch` [n], shaped by formants (frequency, bandwidth, gain).

    `slope_db` is how much louder a harmonic an octave up is, before the formants; `jitter` a random
    unsteadiness of the pitch; `breath` the share of noise that goes through the same mouth.
    """
    n = len(pitch)
    wander = np.interp(np.arange(n), np.arange(0, n + 80, 80), rng.standard_normal(len(range(0, n + 80, 80))))
    phase = 2 * np.pi * np.cumsum(pitch * (1 + jitter * wander)) / SAMPLE_RATE

    def mouth(f: np.ndarray) -> np.ndarray:
        return 0.03 + np.sum([g / (1 + ((f - hz) / (width / 2)) ** 2) for hz, width, g in formants], axis=0)

    out = np.zeros(n)
    for harmonic in range(1, int(0.47 * SAMPLE_RATE / pitch.min()) + 1):
        frequency = harmonic * pitch
        audible = np.clip((0.49 * SAMPLE_RATE - frequency) / 500.0, 0.0, 1.0)
        out += harmonic ** (slope_db / 6.02) * audible * mouth(frequency) * np.sin(harmonic * phase)
    hiss = _filtered(rng.standard_normal(n), mouth)
    return out / out.std() + breath * hiss / hiss.std()


def _room(rng: np.random.Generator, x: np.ndarray, seconds: float, gain: float) -> np.ndarray:
    """x and its echo from a room: a tail of noise that decays by 60 dB in `seconds`."""
    n = _samples(seconds)
    tail = rng.standard_normal(n) * 10 ** (-3 * np.arange(n) / n)
    tail = _filtered(tail, lambda f: 1 / (1 + f / 2500))
    tail *= gain / np.sqrt(np.square(tail).sum())
    size = len(x) + n
    return x + np.fft.irfft(np.fft.rfft(x, size) * np.fft.rfft(tail, size), size)[: len(x)]


# The sounds


def _rain(rng: np.random.Generator) -> np.ndarray:
    out = 0.5 * _noise(rng, WINDOW_SAMPLES, 400, 9000, -2) * _slow(rng, 1, 0.9, 1.0)
    for at in _moments(rng, 700):  # drops on leaves and stone
        length = _samples(rng.uniform(0.001, 0.004))
        drop = rng.standard_normal(length) * np.exp(-4 * np.arange(length) / length)
        _add(out, rng.exponential(0.45) * drop, at)
    for at in _moments(rng, 18):  # drops in puddles: a bubble rings, its pitch rising as it closes
        length = _samples(0.03)
        t = np.arange(length) / SAMPLE_RATE
        pitch = rng.uniform(900, 3500) * (1 + 6 * t)
        bubble = np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE) * np.exp(-t / 0.006)
        _add(out, rng.exponential(0.35) * bubble, at)
    return out


def _sea_waves(rng: np.random.Generator) -> np.ndarray:
    swell = np.zeros(WINDOW_SAMPLES)
    foam = np.zeros(WINDOW_SAMPLES)
    for at in (0.9, 3.3):
        at += rng.uniform(-0.2, 0.2)
        strength = rng.uniform(0.8, 1.0)
        rise = np.exp(-np.square(np.minimum(_TIME - at, 0) / 0.45))
        swell += strength * rise * np.exp(-np.maximum(_TIME - at, 0) / 0.7)
        late = at + 0.25  # the crest breaks after the water has piled up, and the foam runs out slowly
        foam += (
            strength
            * np.exp(-np.square(np.minimum(_TIME - late, 0) / 0.35))
            * np.exp(-np.maximum(_TIME - late, 0) / 1.0)
        )
    deep = _noise(rng, WINDOW_SAMPLES, 50, 700, -5)
    bright = _noise(rng, WINDOW_SAMPLES, 400, 6000, -4)
    grain = _slow(rng, 25, 0.8, 1.2)
    return deep * (0.12 + 0.8 * swell) + bright * grain * (0.08 + 0.75 * foam)


def _clock_tick(rng: np.random.Generator) -> np.ndarray:
    out = 0.0008 * _noise(rng, WINDOW_SAMPLES, 60, 3000, -4)
    tick = [(2350.0, 0.006, 0.5), (3900.0, 0.004, 0.9), (5700.0, 0.003, 0.7), (8100.0, 0.002, 0.5)]
    tock = [(1900.0, 0.007, 0.6), (3300.0, 0.005, 0.9), (4900.0, 0.003, 0.6), (7300.0, 0.002, 0.4)]
    for beat in range(10):
        at = 0.2 + 0.5 * beat + rng.normal(0, 0.001)
        modes = tick if beat % 2 == 0 else tock
        for delay, gain in (
            (0.0, 0.35),
            (0.011, 1.0),
            (0.019, 0.5),
        ):  # unlock, impulse, drop of the escapement
            hit = _ring(modes, 0.05)
            hit[:20] += 0.6 * rng.standard_normal(20)
            _add(out, gain * rng.uniform(0.9, 1.1) * hit, at + delay)
    return _room(rng, out, 0.25, 0.25)


def _helicopter(rng: np.random.Generator) -> np.ndarray:
    rate = 11.5 * (1 + 0.01 * _slow(rng, 0.6, -1, 1))  # blades that pass, each second
    turn = np.cumsum(rate) / SAMPLE_RATE
    phase = turn % 1.0
    chop = np.exp(-phase / 0.22) * np.minimum(1.0, phase / 0.04)
    thump = np.sin(2 * np.pi * 5.5 * np.minimum(phase, 0.6)) * np.exp(-phase / 0.18)
    near = 0.75 + 0.25 * np.sin(2 * np.pi * _TIME / 9 + 0.5)
    wash = _noise(rng, WINDOW_SAMPLES, 80, 2200, -5)
    engine = _noise(rng, WINDOW_SAMPLES, 60, 500, -4)
    whine = sum(
        a * np.sin(2 * np.pi * f * _TIME + 3 * np.sin(2 * np.pi * 0.3 * _TIME))
        for f, a in ((620.0, 0.03), (1240.0, 0.02), (2480.0, 0.012))
    )
    return near * (0.9 * thump + wash * (0.12 + 0.95 * chop) + 0.35 * engine + whine)


def _chainsaw(rng: np.random.Generator) -> np.ndarray:
    throttle = [(0, 95), (0.5, 100), (0.9, 165), (2.2, 172), (2.5, 150), (3.6, 158), (4.2, 176), (5, 170)]
    pitch = _curve(throttle, WINDOW_SAMPLES) * (1 + 0.015 * _slow(rng, 30, -1, 1))
    turn = np.cumsum(pitch) / SAMPLE_RATE
    stroke = np.floor(turn).astype(int)
    strength = rng.uniform(0.6, 1.0, stroke[-1] + 1)[
        stroke
    ]  # no two strokes of a two-stroke engine are alike
    phase = turn % 1.0
    bang = strength * np.exp(-phase / 0.12)
    growl = _filtered(bang - bang.mean(), lambda f: 1 / (1 + (f / 2800) ** 2))
    rasp = _noise(rng, WINDOW_SAMPLES, 900, 8000, -2) * (0.25 + bang)
    load = np.interp(pitch, [95, 170], [0.55, 1.0])
    mix = load * (1.6 * growl / growl.std() + 0.9 * rasp)
    return np.tanh(0.6 * mix)


def _crackling_fire(rng: np.random.Generator) -> np.ndarray:
    out = 0.05 * _noise(rng, WINDOW_SAMPLES, 80, 900, -4) * _slow(rng, 4, 0.6, 1.3)
    out += 0.012 * _noise(rng, WINDOW_SAMPLES, 1500, 8000)

    def crack(seconds: float, low: float, high: float) -> np.ndarray:
        n = _samples(seconds)
        return _noise(rng, n + 32, low, high)[:n] * np.exp(-5 * np.arange(n) / n)

    for at in _moments(rng, 45):  # the fine crackle
        low = rng.uniform(800, 3500)
        _add(out, min(0.5, 0.04 * rng.pareto(1.6)) * crack(rng.uniform(0.002, 0.006), low, 3 * low), at)
    for at in _moments(rng, 3.5):  # wood that splits: a volley of pops
        for offset in np.cumsum(rng.exponential(0.018, rng.integers(1, 6))):
            _add(out, rng.uniform(0.25, 1.0) * crack(rng.uniform(0.004, 0.014), 400, 5000), at + offset)
    return out


def _dog_bark(rng: np.random.Generator) -> np.ndarray:
    out = np.zeros(WINDOW_SAMPLES)
    for at in (0.25, 0.75, 2.3, 2.8):
        length = rng.uniform(0.17, 0.22)
        n = _samples(length)
        top = rng.uniform(520, 600)
        pitch = _curve(
            [(0, 0.55 * top), (0.25 * length, top), (0.5 * length, 0.9 * top), (length, 0.5 * top)], n
        )
        bark = _voice(
            rng,
            pitch,
            [(650, 400, 1.0), (1250, 500, 0.9), (2600, 900, 0.35), (4200, 1200, 0.12)],
            slope_db=-4,
            jitter=0.03,
            breath=0.35,
        )
        envelope = _curve([(0, 0), (0.02, 1), (0.45 * length, 0.75), (length, 0)], n)
        _add(out, rng.uniform(0.85, 1.0) * np.tanh(1.2 * bark * envelope), at)
    return _room(rng, out, 0.35, 0.3) + 0.001 * _noise(rng, WINDOW_SAMPLES, 60, 2000, -5)


def _rooster(rng: np.random.Generator) -> np.ndarray:
    out = np.zeros(WINDOW_SAMPLES)
    syllables = [  # cock – a – doodle – doo: start, pitch curve, loudness
        (0.5, [(0, 480), (0.05, 700), (0.18, 740), (0.24, 600)], 0.7),
        (0.80, [(0, 640), (0.05, 850), (0.14, 830), (0.18, 700)], 0.8),
        (1.04, [(0, 760), (0.08, 960), (0.40, 1010), (0.46, 900)], 1.0),
        (1.52, [(0, 850), (0.10, 1000), (0.55, 960), (1.0, 780), (1.3, 520)], 0.95),
    ]
    for at, points, gain in syllables:
        length = points[-1][0]
        n = _samples(length)
        t = np.arange(n) / SAMPLE_RATE
        pitch = _curve(points, n) * (1 + 0.012 * np.sin(2 * np.pi * 14 * t))
        crow = _voice(
            rng,
            pitch,
            [(950, 500, 0.7), (2100, 900, 1.0), (3400, 1000, 0.7), (5200, 1500, 0.25)],
            slope_db=-3,
            jitter=0.012,
            breath=0.12,
        )
        envelope = _curve([(0, 0), (0.03, 1), (0.7 * length, 0.9), (length, 0)], n)
        _add(out, gain * crow * envelope, at)
    return _room(rng, out, 0.6, 0.3) + 0.004 * _noise(rng, WINDOW_SAMPLES, 100, 4000, -4)


def _sneeze(rng: np.random.Generator) -> np.ndarray:
    out = np.zeros(WINDOW_SAMPLES)
    open_mouth = [(750.0, 250.0, 1.0), (1250.0, 300.0, 0.6), (2600.0, 500.0, 0.2)]
    for at, length, gain in ((0.35, 0.30, 0.12), (0.80, 0.38, 0.18)):  # ah … ah …: drawn in, half voiced
        n = _samples(length)
        gasp = _voice(rng, _curve([(0, 230), (length, 330)], n), open_mouth, breath=2.5)
        _add(out, gain * gasp * _curve([(0, 0), (0.6 * length, 1), (length, 0)], n) / 2, at)
    at, length = 1.35, 0.42
    n = _samples(length)
    burst = _noise(rng, n, 1800, 8000) * _curve(
        [(0, 0), (0.015, 1), (0.10, 0.8), (0.25, 0.25), (length, 0)], n
    )
    _add(out, 1.1 * burst, at)
    shout = _voice(
        rng,
        _curve([(0, 420), (0.06, 460), (0.2, 330), (length, 190)], n),
        [(450, 200, 1.0), (1000, 300, 0.6), (2500, 600, 0.25)],
        jitter=0.02,
        breath=0.5,
    )
    _add(out, 0.9 * shout * _curve([(0, 0), (0.05, 0.6), (0.12, 1), (0.25, 0.5), (length, 0)], n), at)
    return _room(rng, out, 0.4, 0.25) + 0.0008 * _noise(rng, WINDOW_SAMPLES, 60, 3000, -5)


def _crying_baby(rng: np.random.Generator) -> np.ndarray:
    out = np.zeros(WINDOW_SAMPLES)
    mouth = [(1050.0, 350.0, 1.0), (1750.0, 400.0, 0.6), (3300.0, 700.0, 0.5), (5000.0, 900.0, 0.2)]
    at = 0.1
    while at < 4.7:
        length = rng.uniform(0.8, 1.15)
        n = _samples(length)
        t = np.arange(n) / SAMPLE_RATE
        top = rng.uniform(470, 530)
        pitch = _curve([(0, 0.75 * top), (0.12, top), (0.6 * length, 0.96 * top), (length, 0.7 * top)], n)
        pitch = pitch * (1 + 0.015 * np.sin(2 * np.pi * rng.uniform(5, 7) * t))
        cry = _voice(rng, pitch, mouth, slope_db=-3, jitter=0.015, breath=0.15)
        _add(
            out,
            cry * _curve([(0, 0), (0.08, 0.9), (0.5 * length, 1), (0.9 * length, 0.6), (length, 0)], n),
            at,
        )
        at += length + 0.06
        breath = _samples(0.22)  # air drawn in between two cries
        gasp = _noise(rng, breath, 900, 5000) * np.sin(np.pi * np.arange(breath) / breath) ** 2
        _add(out, 0.12 * gasp, at)
        at += 0.28
    return _room(rng, out, 0.3, 0.25)


GALLERY: dict[str, GallerySound] = {
    sound.name: sound
    for sound in (
        GallerySound("rain", "Rain", "Dense drops on leaves, a few in puddles.", "rain", _rain),
        GallerySound(
            "sea-waves", "Sea waves", "Two waves pile up, break and run out.", "sea_waves", _sea_waves
        ),
        GallerySound("clock-tick", "Clock", "An escapement, two beats a second.", "clock_tick", _clock_tick),
        GallerySound("helicopter", "Helicopter", "Blades that chop noise.", "helicopter", _helicopter),
        GallerySound("chainsaw", "Chainsaw", "A two-stroke engine that revs up.", "chainsaw", _chainsaw),
        GallerySound(
            "fire", "Crackling fire", "Splitting wood over a low roar.", "crackling_fire", _crackling_fire
        ),
        GallerySound("dog-bark", "Dog", "Four barks in a small room.", "dog", _dog_bark),
        GallerySound("rooster", "Rooster", "Cock-a-doodle-doo, once.", "rooster", _rooster),
        GallerySound("sneeze", "Sneeze", "Two gasps and the sneeze.", "sneezing", _sneeze),
        GallerySound(
            "crying-baby", "Crying baby", "Cries with gasps between them.", "crying_baby", _crying_baby
        ),
    )
}


def _helicopter_over_fire(rng: np.random.Generator) -> np.ndarray:
    return 0.8 * render("helicopter") + 0.2 * render("fire")


DISPUTED = GallerySound(
    "helicopter-fire",
    "Helicopter over a fire",
    "Two sounds at once, of which the experts know each: what do they make of both?",
    "helicopter",
    _helicopter_over_fire,
)
"""A sound on which formats disagree; the gallery's others are one sound each."""
