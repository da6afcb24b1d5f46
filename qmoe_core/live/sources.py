"""Where sound comes from: a browser that sends packets, a microphone of this machine, or samples at hand.

Every source gives a `Stream`: a rate, a `Ring` that is being written, and a `Timeline`. A new stream begins
when a microphone is started again or changes its rate; whoever reads notices that `stream` is another object.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from qmoe_core.audio import fitness
from qmoe_core.errors import UserError
from qmoe_core.live.ring import Ring
from qmoe_core.live.timeline import Timeline, uptime

KEPT_S = 30.0
"""Seconds that a ring keeps for a reader that is late."""
MIN_RATE_HZ, MAX_RATE_HZ = 3_000, 192_000
"""Of a microphone: what browsers and sound cards can do."""
VANISHED_S = 3.0
"""A host microphone that has not called for so long is gone."""
MAX_NOTES = 50

Condition = Literal["idle", "listening", "paused", "failed"]


@dataclass(frozen=True)
class State:
    """What a source does, and the sentence to show; empty when there is nothing to say."""

    condition: Condition
    sentence: str = ""


@dataclass(frozen=True)
class Note:
    """Something that happened to the sound, and when (seconds since 1970)."""

    at: float
    text: str


@dataclass(frozen=True)
class Stream:
    """One run of a microphone, from its start to its stop."""

    name: str
    rate: int
    ring: Ring
    timeline: Timeline

    @staticmethod
    def new(name: str, rate: int, timeline: Timeline | None = None) -> Stream:
        """A stream that nothing has come from yet."""
        return Stream(name, rate, Ring(round(KEPT_S * rate)), timeline or Timeline(rate))


class Source(Protocol):
    """Anything that sound comes from."""

    @property
    def notes(self) -> deque[Note]:
        """What happened to the sound."""
        ...

    @property
    def stream(self) -> Stream | None:
        """What is being written now or was written last; None before the first start."""
        ...

    @property
    def state(self) -> State: ...

    @property
    def overflows(self) -> int:
        """How often the device said that it lost samples."""
        ...

    def close(self) -> None:
        """Free the microphone; may be called more than once."""
        ...


def narrow_band(rate: int) -> str:
    """A warning where a microphone's rate is too low for the sounds to be told apart; else empty."""
    if rate / 2 >= fitness.MIN_BANDWIDTH_HZ:
        return ""
    return (
        f"This microphone gives {rate / 1000:g} kHz (a headset in telephone mode?): "
        f"{fitness.nothing_above(rate / 2)}; nothing is accepted."
    )


# A browser's microphone


@dataclass(frozen=True)
class Chunk:
    """Samples as a browser sends them.

    Attributes:
        sequence: counts chunks of a stream from 0.
        frame: number of the first sample, in the microphone's own count; a jump is a loss before the browser.
        captured: when the last sample was recorded, on the browser's clock, seconds.
        samples: float32 [n].
    """

    sequence: int
    frame: int
    captured: float
    samples: np.ndarray


@dataclass(frozen=True)
class Packet:
    """What a browser sends at once: its state, and every chunk that was not acknowledged.

    Attributes:
        stream: names the run of the microphone.
        rate: Hz; 0 where there is no stream.
        sent: on the browser's clock, seconds.
        state: of the microphone.
        chunks: may repeat what came before.
    """

    stream: str
    rate: int
    sent: float
    state: State
    chunks: tuple[Chunk, ...] = ()


class PushSource:
    """A microphone elsewhere whose chunks are handed in.

    Args:
        now, today: clocks, see `Timeline`.
    """

    overflows = 0

    def __init__(self, now: Callable[[], float] = uptime, today: Callable[[], float] | None = None) -> None:
        self.notes: deque[Note] = deque(maxlen=MAX_NOTES)
        self.state = State("idle")
        self.stream: Stream | None = None
        self._now, self._today = now, today
        self._lock = threading.Lock()
        self._next = 0  # sequence number that is due
        self._offset = (
            0  # from the microphone's own numbers to the stream's, which begin at 0 and know of sleep
        )
        self._delays: deque[float] = deque(maxlen=8)

    def receive(self, packet: Packet) -> int:
        """Take a packet.

        Returns:
            The sequence number up to which everything is here: the acknowledgement; -1 for nothing.

        Raises:
            UserError: a rate that no microphone has.
        """
        with self._lock:
            self.state = packet.state
            stream = self.stream
            if packet.chunks and (stream is None or stream.name != packet.stream):
                stream = self._begin(packet)
            if stream is None or stream.name != packet.stream:
                return -1
            # The quickest of the last packets shows how the two clocks stand to each other.
            self._delays.append(self._now() - packet.sent)
            clock = min(self._delays)
            for chunk in packet.chunks:
                if chunk.sequence >= self._next:
                    self._take(stream, chunk, chunk.captured + clock)
                    self._next = chunk.sequence + 1
            return self._next - 1

    def close(self) -> None:
        """Nobody listens; the browser frees its microphone by itself."""
        with self._lock:
            if self.state.condition in ("listening", "paused"):
                self.state = State("idle")

    def _begin(self, packet: Packet) -> Stream:
        if not MIN_RATE_HZ <= packet.rate <= MAX_RATE_HZ:
            raise UserError(
                f"The microphone has a sample rate of {packet.rate:,} Hz; "
                f"{MIN_RATE_HZ:,} to {MAX_RATE_HZ:,} Hz are accepted."
            )
        if self.stream:
            self.stream.ring.close()
        clocks = {"now": self._now} | ({"today": self._today} if self._today else {})
        self.stream = Stream.new(packet.stream, packet.rate, Timeline(packet.rate, **clocks))
        self._next, self._offset = 0, -packet.chunks[0].frame
        self._delays.clear()
        return self.stream

    def _take(self, stream: Stream, chunk: Chunk, captured: float) -> None:
        end = chunk.frame + self._offset + len(chunk.samples)
        lost, sentence = stream.timeline.heard(end, captured)
        self._offset += lost
        before = stream.ring.lost
        stream.ring.write(chunk.samples, chunk.frame + self._offset)
        missing = stream.ring.lost - before - lost
        if missing > 0:
            sentence = f"{sentence} {missing / stream.rate:.2g} s did not arrive.".strip()
        if sentence:
            self.notes.append(Note(stream.timeline.at(end), sentence))


# A microphone of this machine


@dataclass(frozen=True)
class Device:
    """A microphone of the machine that runs this program."""

    index: int
    name: str
    rate: int
    """Hz, as the device prefers it."""
    channels: int
    default: bool


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ImportError:
        raise UserError(
            "Microphones of this machine need the Python package sounddevice; install it with: "
            "pip install sounddevice"
        ) from None
    except OSError:
        raise UserError(
            "Microphones of this machine need the library PortAudio; install it "
            "(Debian and Ubuntu: apt install libportaudio2)."
        ) from None
    return sounddevice


def devices() -> list[Device]:
    """The microphones of this machine, those plugged in since the last call included; may be none.

    Raises:
        UserError: PortAudio is not installed.
    """
    sd = _sounddevice()
    with _opening:
        if not _open:  # PortAudio looks for devices only when it starts
            sd._terminate()
            sd._initialize()
        preferred = sd.default.device[0]
        return [
            Device(
                index=info["index"],
                name=info["name"],
                rate=round(info["default_samplerate"]),
                channels=info["max_input_channels"],
                default=info["index"] == preferred,
            )
            for info in sd.query_devices()
            if info["max_input_channels"] > 0
        ]


def find_device(wanted: str | int | None) -> Device:
    """A microphone by its number, its name or a part of it; the system's own when None.

    Raises:
        UserError: there is none, or more than one of that name.
    """
    found = devices()
    if not found:
        raise UserError("This machine has no microphone; plug one in, or use the browser’s or a file.")
    if wanted is None:
        return next((device for device in found if device.default), found[0])
    by_number = [device for device in found if str(device.index) == str(wanted)]
    exact = [device for device in found if device.name == wanted]
    part = [device for device in found if str(wanted).casefold() in device.name.casefold()]
    for matches in (by_number, exact, part):
        if len(matches) == 1:
            return matches[0]
    listed = ", ".join(f"{device.index} ({device.name})" for device in found)
    problem = "more than one microphone is called" if part else "there is no microphone"
    raise UserError(f"{wanted}: {problem} so; accepted is one of {listed}.")


class _HostStream:
    """An open device, shared by all that listen to it."""

    def __init__(self, device: Device, rate: int) -> None:
        sd = _sounddevice()
        self.device = device
        self.users = 0
        self.overflows = 0
        self.notes: deque[Note] = deque(maxlen=MAX_NOTES)
        self.stream = Stream.new(f"{device.name} at {rate} Hz", rate)
        self.called = uptime()
        self.finished = False
        self._frames = 0
        self._input = self._open(sd, device, rate)

    def _open(self, sd: Any, device: Device, rate: int) -> Any:
        problem: Exception | None = None
        for channels in dict.fromkeys((1, min(2, device.channels), device.channels)):
            try:
                opened = sd.InputStream(
                    samplerate=rate,
                    device=device.index,
                    channels=channels,
                    dtype="float32",
                    blocksize=max(1, rate // 20),
                    latency="high",
                    callback=self._callback,
                    finished_callback=self._finished,
                )
                opened.start()
                return opened
            except (sd.PortAudioError, ValueError) as error:
                problem = error
        reason = str(problem).splitlines()[0]
        raise UserError(
            f"The microphone {device.name} cannot be opened at {rate:,} Hz ({reason}); "
            f"it prefers {device.rate:,} Hz."
        )

    def _callback(self, data: np.ndarray, frames: int, clock: Any, status: Any) -> None:
        """Runs in PortAudio's thread: only copies."""
        self.called = uptime()
        waited = clock.currentTime - clock.inputBufferAdcTime - frames / self.stream.rate
        waited = waited if clock.inputBufferAdcTime and 0.0 <= waited < 1.0 else 0.0
        self.overflows += bool(status.input_overflow)
        position = self._frames
        lost, sentence = self.stream.timeline.heard(
            position + frames, self.called - waited, lossy=bool(status.input_overflow)
        )
        position += lost
        self.stream.ring.write(data[:, 0] if data.shape[1] == 1 else data.mean(axis=1), position)
        self._frames = position + frames
        if sentence:
            self.notes.append(Note(self.stream.timeline.at(position), sentence))

    def _finished(self) -> None:
        self.finished = True
        self.stream.ring.close()

    @property
    def state(self) -> State:
        if self.finished or uptime() - self.called > VANISHED_S:
            return State(
                "failed",
                f"The microphone {self.device.name} gives nothing any more; plug it in and start again.",
            )
        return State("listening", narrow_band(self.stream.rate))

    def close(self) -> None:
        with contextlib.suppress(Exception):  # PortAudio's errors about a device that is gone
            self._input.abort()
        with contextlib.suppress(Exception):
            self._input.close()
        self.stream.ring.close()


_opening = threading.RLock()
_open: dict[tuple[str, int], _HostStream] = {}


@dataclass
class HostSource:
    """A microphone of this machine; all sources of one device and rate share one stream.

    Raises:
        UserError: no PortAudio, no such device, or it cannot be opened.
    """

    wanted: str | int | None = None
    rate: int | None = None
    _shared: _HostStream | None = field(init=False, default=None, repr=False)
    _closed: bool = field(init=False, default=False, repr=False)

    def __post_init__(self) -> None:
        with _opening:
            device = find_device(self.wanted)
            rate = self.rate or device.rate
            if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
                raise UserError(
                    f"{rate:,} Hz is no rate of a microphone; "
                    f"{MIN_RATE_HZ:,} to {MAX_RATE_HZ:,} Hz are accepted."
                )
            key = (device.name, rate)
            shared = _open.get(key)
            if shared is None or shared.state.condition == "failed":
                shared = _open[key] = _HostStream(device, rate)
            shared.users += 1
            self._shared = shared

    @property
    def _host(self) -> _HostStream:
        assert self._shared is not None
        return self._shared

    @property
    def notes(self) -> deque[Note]:
        return self._host.notes

    @property
    def stream(self) -> Stream:
        return self._host.stream

    @property
    def state(self) -> State:
        return State("idle") if self._closed else self._host.state

    @property
    def overflows(self) -> int:
        return self._host.overflows

    @property
    def device(self) -> Device:
        """The microphone that was found."""
        return self._host.device

    def close(self) -> None:
        """Stop listening; the last one to do so frees the device."""
        with _opening:
            if self._closed:
                return
            self._closed = True
            self._host.users -= 1
            if self._host.users:
                return
            for key, shared in list(_open.items()):
                if shared is self._host:
                    del _open[key]
            self._host.close()


# Samples at hand


class HeldSource:
    """A source that its owner writes into: a file or standard input.

    Args:
        name: what to call it.
        rate: Hz.
        started: the time of day of the first sample, seconds since 1970; now when None.
    """

    overflows = 0

    def __init__(self, name: str, rate: int, started: float | None = None) -> None:
        self.notes: deque[Note] = deque(maxlen=MAX_NOTES)
        self.state = State("listening", narrow_band(rate))
        frozen = {} if started is None else {"now": lambda: 0.0, "today": lambda: started}
        self.stream = Stream.new(name, rate, Timeline(rate, **frozen))
        self.stream.timeline.heard(0, 0.0 if frozen else uptime())

    def close(self) -> None:
        self.stream.ring.close()
