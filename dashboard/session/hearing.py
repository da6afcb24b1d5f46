"""From a sound that a person gave to what the experts say of it, once per content.

Decoding, embedding and the experts' answers are the heavy part, and cached by the sound's content; mixing is
light and follows every control. The caches are bounded, and a session's own: they go with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import time
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, cast

import numpy as np
import soundfile
import streamlit as st

from dashboard.components.microphone import Recording
from dashboard.session import public
from qmoe_core import serve
from qmoe_core.audio import decode, mel, recorded, synth
from qmoe_core.bundles import Bundle
from qmoe_core.decision import Classification, Decision
from qmoe_core.errors import UserError
from qmoe_core.evaluation import conformal, selective
from qmoe_core.evaluation.conformal import Kept, Limits, Promise
from qmoe_core.evaluation.selective import Auroc
from qmoe_core.measure import steps
from qmoe_core.measure.steps import Way
from qmoe_core.routing.mixing import Settings
from qmoe_core.serve import Observation

ENVELOPE_SLICES = 900
FINE = 64
RECORDED = "recorded here"
"""Where a recording comes from, in words for the page."""


@dataclass(frozen=True)
class Sound:
    """A sound that a person chose, not yet decoded."""

    key: str
    """Identity of the content."""
    name: str
    origin: str
    """Where it comes from, in words for the page."""
    load: Callable[[], decode.Clip | decode.Recording]
    playable: Any
    """What `st.audio` takes."""


@dataclass(frozen=True)
class Heard:
    """A decoded sound with all that the page needs of it; the samples themselves are let go."""

    envelope: np.ndarray
    """Lowest and highest sample of each slice, float32 [2, n]."""
    spectrogram: np.ndarray
    """Log-mel, whole dB, int8 [128, frames]."""
    observation: Observation
    channels: int
    decode_s: float
    observe_s: float


@dataclass(frozen=True)
class Example:
    """The sound judged last, for pages that explain with its numbers."""

    name: str
    decision: Decision
    frames: tuple[int, ...]
    """Mel bands and frames of its spectrogram."""
    embeddings: tuple[tuple[str, int], ...]
    """Each embedder of the bundle, and how many numbers it gives."""

    @staticmethod
    def of(name: str, decision: Decision, heard: Heard, bundle: Bundle) -> Example:
        """The example that a judged sound is."""
        given = tuple((one.name, one.dim) for one in bundle.embedders)
        return Example(name, decision, heard.spectrogram.shape, given)


def from_gallery(name: str) -> Sound:
    """A sound that the project synthesises."""
    samples = _rendered(name)
    title = (synth.DISPUTED if name == synth.DISPUTED.name else synth.GALLERY[name]).title
    return Sound(
        key=f"gallery:{name}",
        name=title,
        origin="synthesised by this project",
        load=lambda: decode.from_samples(samples, decode.SAMPLE_RATE, name=title),
        playable=as_flac(samples),
    )


@lru_cache(maxsize=16)
def _rendered(name: str) -> np.ndarray:
    return synth.render(name)


def from_upload(file: Any) -> Sound:
    """A file that the browser sent."""
    name = decode.display_name(file.name)
    return Sound(
        key=_content_key(file.file_id, file),
        name=name,
        origin="uploaded",
        load=partial(opened, file, name),
        playable=file,
    )


def opened(source: Any, name: str) -> decode.Recording:
    """A recording that a person gave, as bytes or a file, to be read; of visitors, one that is not too long.

    Raises:
        AudioError: it cannot be read, or is too long.
    """
    longest_s = float("inf") if public.LIMITS is None else public.LIMITS.duration_s
    return decode.open_recording(source, name=name, longest_s=longest_s)


def from_recording(recording: Recording) -> Sound:
    """What the microphone component recorded."""
    return Sound(
        key=hashlib.sha256(recording.wav).hexdigest(),
        name=recording.name,
        origin=RECORDED,
        load=partial(opened, recording.wav, recording.name),
        playable=recording.wav,
    )


@st.cache_data(max_entries=512, scope="session", show_spinner=False)
def _content_key(file_id: str, _file: Any) -> str:
    return hashlib.sha256(_file.getvalue()).hexdigest()  # getbuffer would copy the file


def hear(sound: Sound, bundle: Bundle) -> Heard:
    """Decode a sound, and ask every expert and the router about each of its windows.

    Raises:
        AudioError: it cannot be decoded, or is not fit to be judged.
    """
    # A name may tell when the recording began.
    key = f"{sound.key}:{recorded.in_name(sound.name)}"
    heard = _hear(key, bundle.digest, sound, bundle)
    # The same content may come under two names, and the cache knows one.
    return replace(heard, observation=replace(heard.observation, file=sound.name))


@st.cache_data(max_entries=64, max_size="256 MB", scope="session", show_spinner=False)
def _hear(key: str, digest: str, _sound: Sound, _bundle: Bundle) -> Heard:
    start = time.perf_counter()
    with contextlib.ExitStack() as held:
        clip = _sound.load()
        if isinstance(clip, decode.Recording):
            held.enter_context(clip)
        drawn = _Drawn(clip)
        observation = serve.observe(
            cast(decode.Readable, drawn), _bundle, run_all=True
        )  # the page shows every expert
    return Heard(
        envelope=envelope(np.concatenate([*drawn.extremes, drawn.rest])),
        spectrogram=np.concatenate([*drawn.levels, whole_db(drawn.stream.finish())], axis=1),
        observation=observation,
        channels=clip.source_channels,
        decode_s=drawn.seconds,
        observe_s=time.perf_counter() - start - drawn.seconds,
    )


class _Drawn:
    """A recording of any length that is drawn while it is read; see `decode.Readable`.

    Attributes:
        extremes: lowest and highest of every `FINE` samples, one after the other; levels: columns of the
            spectrogram, whole dB; seconds: spent on decoding and drawing.
    """

    def __init__(self, clip: decode.Readable) -> None:
        self._clip = clip
        self.extremes: list[np.ndarray] = []
        self.rest = np.empty(0, dtype=np.float32)
        self.levels: list[np.ndarray] = []
        self.stream = mel.LogMelStream()
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clip, name)

    def blocks(self) -> Iterator[np.ndarray]:
        blocks = self._clip.blocks()
        while True:
            start = time.perf_counter()
            block = next(blocks, None)
            if block is not None:
                self._draw(block)
            self.seconds += time.perf_counter() - start
            if block is None:
                return
            yield block

    def _draw(self, block: np.ndarray) -> None:
        self.levels.append(whole_db(self.stream.push(block)))
        samples = np.concatenate([self.rest, block])
        whole = len(samples) // FINE * FINE
        groups, self.rest = samples[:whole].reshape(-1, FINE), samples[whole:]
        self.extremes.append(np.stack([groups.min(axis=1), groups.max(axis=1)], axis=1).ravel())


def whole_db(levels: np.ndarray) -> np.ndarray:
    """Levels in dB, rounded to int8."""
    return np.rint(np.clip(levels, -127, 127)).astype(np.int8)


def judge(sound: Sound, heard: Heard, bundle: Bundle, settings: Settings) -> Classification:
    """Mix what was heard; only this runs when a control moves."""
    result = _judge(sound.key, bundle.digest, settings, heard.observation, bundle)
    return replace(result, file=sound.name, recorded=heard.observation.recorded)


@st.cache_data(max_entries=256, max_size="64 MB", scope="session", show_spinner=False)
def _judge(
    key: str, digest: str, settings: Settings, _observation: Observation, _bundle: Bundle
) -> Classification:
    return serve.decide(_observation, _bundle, settings)


def way(bundle: Bundle, settings: Settings) -> Way:
    """What each step of a window's way costs on this machine; measured once for a mixture of a bundle."""
    timed = bundle.settings(
        experts=settings.experts,
        top_k=settings.top_k,
        mc_samples=settings.mc_samples,
        curiosity="disagreement",
    )
    return _way(bundle.digest, timed, bundle)


@st.cache_data(max_entries=32, show_spinner=False)
def _way(digest: str, settings: Settings, _bundle: Bundle) -> Way:
    return steps.way(_bundle, settings)


def reference(bundle: Bundle, settings: Settings) -> dict[str, np.ndarray]:
    """The default set's uncertainties under the same settings, out of fold: sorted [n] by name, or none."""
    return _reference(bundle.digest, settings, bundle)


@st.cache_data(max_entries=128, show_spinner=False)
def _reference(digest: str, settings: Settings, _bundle: Bundle) -> dict[str, np.ndarray]:
    mixed = _bundle.reference(settings)
    if mixed is None:
        return {}
    return {name: np.sort(values) for name, values in selective.uncertainties(mixed).items()}


@dataclass(frozen=True)
class Trust:
    """What out-of-fold predictions tell of a mixture's answers.

    Attributes:
        limits: of doubt, and of prediction sets; None where nothing can be set.
        kept: what they keep on clips of other folds; finds: how well each uncertainty finds errors.
        problem: why what is asked for cannot be promised; empty where it can.
    """

    limits: Limits | None
    kept: Kept | None
    finds: dict[str, Auroc]
    problem: str = ""


def known(bundle: Bundle, settings: Settings, promise: Promise) -> Trust:
    """What answers under these settings can promise, and how well their uncertainties find errors.

    Where the promise cannot be kept, all is answered and a sentence says so.
    """
    return _known(bundle.digest, settings, promise, bundle)


@st.cache_data(max_entries=128, show_spinner=False)
def _known(digest: str, settings: Settings, promise: Promise, _bundle: Bundle) -> Trust:
    problem = ""
    try:
        limits = conformal.limits(_bundle, settings, promise)
    except UserError as error:
        limits, problem = None, str(error)
    return Trust(
        limits, conformal.kept(_bundle, settings, promise), selective.finds(_bundle, settings) or {}, problem
    )


def envelope(samples: np.ndarray) -> np.ndarray:
    """Lowest and highest sample of each of at most 900 slices: waveform [n] to float32 [2, slices]."""
    starts = np.linspace(0, len(samples), min(ENVELOPE_SLICES, len(samples)), endpoint=False).astype(int)
    return np.stack([np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)])


def as_flac(samples: np.ndarray) -> bytes:
    """A FLAC file, 16 bits, 22,050 Hz, mono, of a waveform in [−1, 1]: the same samples in half the bytes."""
    file = io.BytesIO()
    soundfile.write(file, np.clip(samples, -1, 1), decode.SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def as_wav(samples: np.ndarray) -> bytes:
    """A WAV file, 16 bits, 22,050 Hz, mono, of a waveform in [−1, 1]."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(decode.SAMPLE_RATE)
        out.writeframes(np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return file.getvalue()
