"""The browser's microphone as it is: a component that turns the filters for speech off, and loses nothing.

`listen` hands what is heard to a `PushSource`, on and on; `clip` records some seconds. What the browser can
do, what it granted and what went wrong comes back as a `Status`, with sentences.
"""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import streamlit as st
from streamlit.components.v2 import component
from streamlit.runtime.uploaded_file_manager import UploadedFile

from qmoe_core.errors import UserError
from qmoe_core.live.sources import MAX_RATE_HZ, Chunk, Condition, Packet, PushSource, State, narrow_band
from qmoe_core.runtime import typed

_HERE = Path(__file__)
_component = component(
    "qmoe_microphone",
    html=_HERE.with_suffix(".html").read_text(encoding="utf-8"),
    css=_HERE.with_suffix(".css").read_text(encoding="utf-8"),
    js=_HERE.with_suffix(".js").read_text(encoding="utf-8"),
)

SENTENCES = {
    "idle": "The microphone is off.",
    "asking": "The browser asks whether it may listen.",
    "listening": "Listening.",
    "paused": "Paused: nothing leaves the browser.",
    "denied": "The browser may not use the microphone: allow it in the address bar, then start again.",
    "missing": "The browser finds no microphone; plug one in, then start again.",
    "busy": "Another program holds the microphone; close it, then start again.",
    "insecure": "Browsers give a microphone only to localhost and to https addresses; "
    "open the lab at one of those, or use the microphone of the machine that runs it.",
    "unsupported": "This browser cannot give sound unfiltered (it has no AudioWorklet).",
    "vanished": "The microphone is gone; plug it in, then start again.",
    "interrupted": "Something else took the microphone for now; listening goes on when it is given back.",
    "lost": "The connection to the lab is lost, and the microphone is off; reload the page.",
    "failed": "The microphone could not be started.",
}
_CONDITIONS: dict[str, Condition] = {
    "idle": "idle",
    "asking": "idle",
    "listening": "listening",
    "paused": "paused",
}
"""What the states mean to a source; all others are failures."""
FILTERED = "The browser filtered this recording for speech: steady sounds are weakened by 11–13 dB."
"""Said of what `st.audio_input` recorded."""
_FILTERS = ("echo cancellation", "noise suppression", "gain control")
_WORDS = {
    "start": "Start",
    "stop": "Stop",
    "record": "Record",
    "pause": "Pause",
    "resume": "Resume",
    "soon": "Recording in",
    "states": SENTENCES,
}
_FULL_SCALE = 32767.0
_MAX_CHUNK_BYTES = 4 * MAX_RATE_HZ  # base64 of a second of 16-bit samples would be less
_MAX_CHUNKS = 400
_MAX_PACKET_BYTES = 24 << 20  # base64 of 40 s at the highest rate
_MOST = 2**53  # what a browser can count to
_MAX_CLIP_BYTES = 64 << 20


class Granted(msgspec.Struct, frozen=True, rename="camel"):
    """What the browser says it really gave (`MediaStreamTrack.getSettings()`); None where it does not say."""

    echo_cancellation: bool | str | None = None
    noise_suppression: bool | None = None
    auto_gain_control: bool | None = None
    sample_rate: float | None = None
    channel_count: int | None = None
    label: Annotated[str, msgspec.Meta(max_length=500)] = ""

    @property
    def filters(self) -> dict[str, bool | str | None]:
        """Each of the filters for speech, and whether it is on; None where the browser does not say."""
        values = (self.echo_cancellation, self.noise_suppression, self.auto_gain_control)
        return dict(zip(_FILTERS, values, strict=True))

    @property
    def warning(self) -> str:
        """A sentence where a filter stayed on; else empty."""
        left_on = [name for name, on in self.filters.items() if on not in (False, None)]
        if not left_on:
            return ""
        named = left_on[0] if len(left_on) == 1 else f"{', '.join(left_on[:-1])} and {left_on[-1]}"
        return f"The browser left {named} on: steady sounds such as rain or engines are weakened."


@dataclass(frozen=True)
class Status:
    """How a browser's microphone is.

    Attributes:
        state: one of `SENTENCES`; sentence: it in words.
        granted: what the browser gave; None before it gave anything.
        rate: Hz, or 0.
        dropped: chunks that the browser had to drop, because nothing was acknowledged for half a minute.
        hidden: the tab cannot be seen.
        warnings: sentences about what was granted.
    """

    state: str = "idle"
    sentence: str = SENTENCES["idle"]
    granted: Granted | None = None
    rate: int = 0
    dropped: int = 0
    hidden: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def in_use(self) -> str:
        """Which microphone it is, and what the browser says that it gives; empty before it gave anything."""
        if self.granted is None:
            return ""
        on = self.granted.filters.values()
        filters = "no filters" if not any(on) else "filtered"
        if not any(on) and None in on:
            filters = "the browser does not say whether filtered"
        return f"{self.granted.label or 'Microphone'}: {self.rate:,} Hz, mono, {filters}."


@dataclass(frozen=True)
class Recording:
    """A clip that was recorded: the bytes of a WAV file, and what the browser granted."""

    name: str
    wav: bytes
    rate: int
    duration_s: float
    warnings: tuple[str, ...] = ()


# What the component sends; it comes over the network, and is checked.


class _Chunk(msgspec.Struct, frozen=True):
    sequence: Annotated[int, msgspec.Meta(ge=0, le=_MOST)]
    frame: Annotated[int, msgspec.Meta(ge=0, le=_MOST)]
    captured: float
    pcm: Annotated[str, msgspec.Meta(max_length=_MAX_CHUNK_BYTES)]


class _Packet(msgspec.Struct, frozen=True):
    packet: Annotated[int, msgspec.Meta(ge=0, le=_MOST)]
    stream: Annotated[str, msgspec.Meta(max_length=64)]
    rate: Annotated[float, msgspec.Meta(ge=0, le=MAX_RATE_HZ)]
    sent: float
    state: str
    detail: Annotated[str, msgspec.Meta(max_length=2000)] = ""
    hidden: bool = False
    dropped: Annotated[int, msgspec.Meta(ge=0, le=_MOST)] = 0
    granted: Granted = Granted()
    chunks: Annotated[tuple[_Chunk, ...], msgspec.Meta(max_length=_MAX_CHUNKS)] = ()


class _Clip(msgspec.Struct, frozen=True):
    name: Annotated[str, msgspec.Meta(max_length=64)]
    rate: Annotated[float, msgspec.Meta(ge=3000, le=MAX_RATE_HZ)]
    pcm: Annotated[str, msgspec.Meta(max_length=_MAX_CLIP_BYTES)]
    granted: Granted = Granted()


def samples_of(pcm: str) -> np.ndarray:
    """Samples in [−1, 1], float32 [n], of base64 of 16-bit little-endian integers.

    Raises:
        ValueError: it is not that.
    """
    data = np.frombuffer(base64.b64decode(pcm, validate=True), dtype="<i2")
    return data.astype(np.float32) / np.float32(_FULL_SCALE)


def parse(value: Any) -> tuple[int, Packet, Status]:
    """What the component sent: the packet's number, its content, and how the microphone is.

    Raises:
        ValueError: it is not what the component sends.
    """
    sent = typed.convert(value, _Packet)
    times = np.asarray([sent.rate, sent.sent, *(chunk.captured for chunk in sent.chunks)])
    if not (np.abs(times) <= _MOST).all():  # NaN neither
        raise ValueError("a time or a rate is no number")
    if sum(len(chunk.pcm) for chunk in sent.chunks) > _MAX_PACKET_BYTES:
        raise ValueError("it is too large")
    chunks = tuple(Chunk(c.sequence, c.frame, c.captured, samples_of(c.pcm)) for c in sent.chunks)
    rate = round(sent.rate)
    state = sent.state if sent.state in SENTENCES else "failed"
    sentence = SENTENCES[state] + (f" ({sent.detail})" if state == "failed" and sent.detail else "")
    warnings = (sent.granted.warning, narrow_band(rate) if rate else "")
    status = Status(
        state=state,
        sentence=sentence,
        granted=sent.granted if sent.stream else None,
        rate=rate,
        dropped=sent.dropped,
        hidden=sent.hidden,
        warnings=tuple(filter(None, warnings)),
    )
    source_state = State(_CONDITIONS.get(state, "failed"), sentence)
    return sent.packet, Packet(sent.stream, rate, sent.sent, source_state, chunks), status


@dataclass
class Mount:
    """What the session remembers of a mounted component."""

    ack: dict[str, Any] = field(default_factory=dict)
    status: Status = field(default_factory=Status)
    recording: Recording | None = None


def listen(
    source: PushSource, *, key: str = "microphone", received: Callable[[Status], None] | None = None
) -> Status:
    """The component: buttons, level, device. What it hears goes to `source`.

    Mount it in a fragment of its own: every packet, four a second, reruns that.

    Args:
        source: takes the sound.
        received: called with every packet, before anything is drawn.

    Returns:
        How the microphone is.
    """
    mount: Mount = st.session_state.setdefault(f"{key}:mount", Mount())

    def on_packet() -> None:
        try:
            number, packet, status = parse(st.session_state[key].packet)
            sequence = source.receive(packet)
        except (ValueError, UserError) as error:
            sentence = f"A packet could not be read: {error}"
            mount.status = Status(state="failed", sentence=sentence)
            return
        mount.ack = {"packet": number, "stream": packet.stream, "sequence": sequence}
        mount.status = status
        if received is not None:
            received(status)

    _component(
        key=key,
        data={"use": "listen", "seconds": 0, "ack": mount.ack, "words": _WORDS},
        on_packet_change=on_packet,
    )
    return mount.status


def presence(*, key: str = "presence", seen: Callable[[Status], None]) -> None:
    """Nothing to see; calls `seen` when the tab is hidden or shown."""

    def on_packet() -> None:
        try:
            number, _, status = parse(st.session_state[key].packet)
        except ValueError:
            return
        st.session_state[f"{key}:ack"] = {"packet": number, "stream": "", "sequence": -1}
        seen(status)

    ack = st.session_state.get(f"{key}:ack", {})
    _component(
        key=key,
        data={"use": "presence", "seconds": 0, "ack": ack, "words": _WORDS},
        on_packet_change=on_packet,
    )


def clip(seconds: float, *, key: str = "recorder", countdown: float = 0.0) -> tuple[Status, Recording | None]:
    """A recorder of at most `seconds`; unfiltered where the browser can, else `st.audio_input`.

    With a countdown, that many seconds pass between the button and the first sample.

    Mount it in a fragment: what it tells while it records redraws that.

    Returns:
        How the microphone is, and the newest recording.
    """
    mount: Mount = st.session_state.setdefault(f"{key}:mount", Mount())

    def on_packet() -> None:
        try:
            number, _, mount.status = parse(st.session_state[key].packet)
        except ValueError:
            return
        mount.ack |= {"packet": number, "stream": "", "sequence": -1}

    def on_clip() -> None:
        try:
            sent = typed.convert(st.session_state[key].clip, _Clip)
            if sent.name != mount.ack.get("clip"):
                mount.recording = _recording(sent)
        except ValueError as error:
            mount.status = Status(state="failed", sentence=f"The recording could not be read: {error}")
            return
        mount.ack |= {"clip": sent.name}

    _component(
        key=key,
        data={
            "use": "clip",
            "seconds": seconds,
            "countdown": countdown,
            "ack": mount.ack,
            "words": _WORDS,
        },
        on_packet_change=on_packet,
        on_clip_change=on_clip,
    )
    if mount.status.state == "unsupported":
        given = st.audio_input("The browser’s own recorder", sample_rate=44_100, key=f"{key}:fallback")
        return mount.status, _filtered(given) if given else None
    return mount.status, mount.recording


def _filtered(given: UploadedFile) -> Recording:
    """What `st.audio_input` recorded."""
    wav = given.getvalue()
    with wave.open(io.BytesIO(wav)) as file:
        rate, duration_s = file.getframerate(), file.getnframes() / file.getframerate()
    return Recording(f"recording-{given.file_id[:8]}.wav", wav, rate, duration_s, (FILTERED,))


def _recording(sent: _Clip) -> Recording:
    pcm = base64.b64decode(sent.pcm, validate=True)
    if len(pcm) % 2:
        raise ValueError("it ends in the middle of a sample")
    rate = round(sent.rate)
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(pcm)
    warnings = tuple(filter(None, (sent.granted.warning, narrow_band(rate))))
    return Recording(
        f"recording-{datetime.now():%Y%m%d-%H%M%S}.wav", file.getvalue(), rate, len(pcm) / 2 / rate, warnings
    )
