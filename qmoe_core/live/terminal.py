"""Listening in the terminal: a microphone, a file as if it were one, or raw samples from standard input.

Whatever ends it (Ctrl-C, SIGTERM, the terminal closed, no more samples), the detection that is still open is
told first. A microphone that was unplugged is waited for.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import BinaryIO

import msgspec
import numpy as np

from qmoe_core.audio import decode
from qmoe_core.bundles import Bundle
from qmoe_core.errors import AudioError, StoreError, UserError
from qmoe_core.live.detections import Rules
from qmoe_core.live.log import Log, LoggedDetection, append, clock, iso
from qmoe_core.live.pipeline import HOP_S, Pipeline
from qmoe_core.live.sources import MAX_RATE_HZ, MIN_RATE_HZ, HeldSource, HostSource, Note, Source, devices
from qmoe_core.routing.mixing import Settings

FORMATS = {"s16le": ("<i2", 32768.0), "f32le": ("<f4", 1.0)}
"""Of raw samples: numpy's name, and full scale."""
_WAIT_S = 0.2
AGAIN_S = 2.0
"""Between two looks for a microphone that was unplugged."""
_HEADERS = {b"RIFF": "a WAV file", b"fLaC": "a FLAC file", b"OggS": "an Ogg file", b"ID3": "an MP3 file"}


class _Asked(Exception):
    """Somebody asked for the end while the program was waiting."""


class Ending:
    """Hears when somebody asks the program to end: a signal interrupts what waits, and never what works.

    Attributes:
        asked: the signal, or None.
    """

    SIGNALS = tuple(
        getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
    )

    def __init__(self) -> None:
        self.asked: int | None = None
        self._waiting = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """While this lasts; where signals cannot be heard (in a thread), nothing changes."""
        before = {}
        with suppress(ValueError):
            for number in self.SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
                    before[number] = signal.signal(number, self._hear)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what waits; a signal ends it.

        Raises:
            _Asked: somebody has asked for the end.
        """
        self._waiting = True
        try:
            if self.asked is not None:
                raise _Asked
            yield
        finally:
            self._waiting = False

    def _hear(self, number: int, frame: FrameType | None) -> None:
        again, self.asked = self.asked is not None, number
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt  # whoever asks twice does not want to wait
        if self._waiting:
            raise _Asked

    def settle(self) -> None:
        """What was open is told: now Ctrl-C is what it is everywhere.

        Raises:
            KeyboardInterrupt: that is how the end was asked for.
        """
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Listening:
    """What listens, whatever to.

    Attributes:
        bundle, settings, rules: see `Pipeline`.
        tell: called with every detection that is over.
        remark: called with sentences about the sound.
        ending: how somebody asks for the end.
    """

    bundle: Bundle
    settings: Settings
    rules: Rules
    tell: Callable[[LoggedDetection], None]
    remark: Callable[[str], None]
    ending: Ending = field(default_factory=Ending)

    def to_microphone(self, device: str | None, rate: int | None, seconds: float | None) -> Pipeline:
        """Listen to a microphone of this machine until somebody asks for the end or `seconds` are over.

        One that is unplugged is waited for.

        Raises:
            UserError: no PortAudio, or no such microphone at the start.
            KeyboardInterrupt: Ctrl-C was pressed; what was open is told.
        """
        ends = time.monotonic() + (seconds if seconds is not None else float("inf"))
        with self.ending.heard():
            source = HostSource(device, rate)
            pipeline = self._pipeline(source)
            heard: list[Note] = []
            try:
                while True:
                    self._introduce(source)
                    gone = self._follow(source, pipeline, heard, ends)
                    if not gone:
                        break
                    source.close()
                    self._tell(pipeline.step())
                    self._tell(pipeline.pause())
                    self.remark(f"{gone} Until then, this waits for it.")
                    found = self._again(device, rate, ends)
                    if found is None:
                        break
                    source = pipeline.source = found
            except _Asked:
                pass
            finally:
                source.close()
                self._tell(pipeline.finish())
        self.ending.settle()
        return pipeline

    def _introduce(self, source: HostSource) -> None:
        self.remark(f"Listening to {source.device.name} at {source.stream.rate:,} Hz; Ctrl-C ends.")
        if source.state.sentence:
            self.remark(source.state.sentence)

    def _follow(self, source: HostSource, pipeline: Pipeline, heard: list[Note], ends: float) -> str:
        """Judge what a microphone gives; the sentence about its end, or nothing when the time is over."""
        while time.monotonic() < ends:
            self._tell(pipeline.step())
            for note in [note for note in pipeline.view().notes if note not in heard]:
                heard.append(note)
                self.remark(f"{clock(note.at)}: {note.text}")
            if (state := source.state).condition == "failed":
                return state.sentence
            with self.ending.waiting():
                pipeline.wait(_WAIT_S)
        return ""

    def _again(self, device: str | None, rate: int | None, ends: float) -> HostSource | None:
        """The microphone, once it is there again; None when the time is over."""
        while time.monotonic() < ends:
            with self.ending.waiting():
                time.sleep(AGAIN_S)
            with suppress(UserError):
                return HostSource(device, rate)
        return None

    def to_file(self, source: str | bytes, speed: float | None, *, name: str | None = None) -> Pipeline:
        """Listen to a file as if it were a microphone, one of any length.

        Times of day are the recording's, where its header or its name tells when it began; a time without a
        zone counts as this machine's.

        Args:
            source: its path, or its bytes; name: what to call it, by default as the path says.
            speed: 1 is as it was recorded; None as fast as it goes.

        Raises:
            AudioError: see `decode.open_recording`; also in the middle.
        """
        size = math.ceil(HOP_S * decode.SAMPLE_RATE)
        with decode.open_recording(source, name=name) as recording:
            blocks = _paced(_even(recording.blocks(), size), decode.SAMPLE_RATE, speed)
            began = recording.recorded.timestamp() if recording.recorded else None
            pipeline = self._to_blocks(recording.name, decode.SAMPLE_RATE, blocks, began)
            for note in recording.notes:
                self.remark(f"{recording.name}: {note}")
        return pipeline

    def to_stream(self, stream: BinaryIO, rate: int | None, kind: str) -> Pipeline:
        """Listen to raw mono samples until there are no more.

        Args:
            stream: such as standard input.
            rate: Hz.
            kind: one of `FORMATS`.

        Raises:
            AudioError: no rate, a rate out of range, samples that are no numbers, or a file with a header.
        """
        if rate is None:
            raise AudioError("Standard input is taken as raw samples; give their rate with --rate.")
        if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
            raise AudioError(
                f"--rate {rate} is out of range; {MIN_RATE_HZ:,} to {MAX_RATE_HZ:,} are accepted."
            )
        return self._to_blocks("standard input", rate, _raw(stream, round(HOP_S * rate), kind))

    def _to_blocks(
        self, name: str, rate: int, blocks: Iterable[np.ndarray], began: float | None = None
    ) -> Pipeline:
        source = HeldSource(name, rate, began)
        if source.state.sentence:
            self.remark(source.state.sentence)
        pipeline = self._pipeline(source)
        waits = iter(blocks)
        with self.ending.heard():
            try:
                while True:
                    with self.ending.waiting():
                        block = next(waits, None)
                    if block is None:
                        break
                    source.stream.ring.write(block)
                    self._tell(pipeline.step())
            except _Asked:
                pass
            self._tell(pipeline.finish())
        self.ending.settle()
        return pipeline

    def _pipeline(self, source: Source) -> Pipeline:
        return Pipeline(source, self.bundle, self.settings, self.rules, Log(capacity=1))

    def _tell(self, entries: Iterable[LoggedDetection]) -> None:
        for entry in entries:
            self.tell(entry)


def _even(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same samples in blocks of `size`, the last one shorter."""
    rest = np.empty(0, np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block])
        whole = len(rest) // size * size
        yield from rest[:whole].reshape(-1, size)
        rest = rest[whole:]
    if len(rest):
        yield rest


def _paced(blocks: Iterable[np.ndarray], rate: int, speed: float | None) -> Iterator[np.ndarray]:
    """The blocks at the times at which a microphone would give them."""
    started, samples = time.monotonic(), 0
    for block in blocks:
        samples += len(block)
        if speed is not None:
            time.sleep(max(0.0, started + samples / (rate * speed) - time.monotonic()))
        yield block


def _raw(stream: BinaryIO, frames: int, kind: str) -> Iterator[np.ndarray]:
    """Blocks of raw samples, float32 with full scale 1; a last sample that is cut off is left out."""
    dtype, full_scale = FORMATS[kind]
    width = np.dtype(dtype).itemsize
    first = True
    while data := _next(stream, frames * width):
        if first:
            for header, what in _HEADERS.items():
                if data.startswith(header):
                    raise AudioError(f"Standard input is {what}; give its name instead, or raw samples.")
            first = False
        block = np.frombuffer(data[: len(data) // width * width], dtype)
        if not np.isfinite(block).all():
            raise AudioError(f"Standard input has samples that are no numbers; is it really {kind}?")
        yield np.clip(block.astype(np.float32) / full_scale, -1.0, 1.0)


def _next(stream: BinaryIO, size: int) -> bytes:
    """So many bytes, or what is there until the end."""
    parts: list[bytes] = []
    while size > 0 and (part := stream.read1(size) if hasattr(stream, "read1") else stream.read(size)):  # type: ignore[attr-defined]
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def text(entry: LoggedDetection, *, live: bool) -> str:
    """A detection as a line: times of day from a microphone, seconds from a file."""
    span = (
        f"{clock(entry.start)}–{clock(entry.end)}" if live else f"{entry.start_s:7.1f} –{entry.end_s:7.1f} s"
    )
    verdict = "accepted" if entry.accepted else f"not accepted: {entry.reason}"
    return f"{span}  {entry.label:16} {entry.probability:4.0%}  {entry.expert:8} {verdict}" + (
        f"; set: {', '.join(entry.prediction_set)}" if len(entry.prediction_set) > 1 else ""
    )


def line(entry: LoggedDetection) -> bytes:
    """A detection as a line of JSON."""
    return msgspec.json.encode(
        {
            "start_s": round(entry.start_s, 3),
            "end_s": round(entry.end_s, 3),
            "label": entry.label,
            "probability": entry.probability,
            "doubt": 1.0 - entry.probability,
            "epistemic": entry.epistemic,
            "prediction_set": entry.prediction_set,
            "expert": entry.expert,
            "accepted": entry.accepted,
            "reason": entry.reason,
        }
    )


def summary(pipeline: Pipeline) -> str:
    """How judging kept up."""
    view = pipeline.view()
    if not view.judged:
        return f"Nothing was judged: less than {decode.WINDOW_S:g} s of sound came."
    took_ms = 1000 * view.judge_s
    median, late = np.percentile(took_ms, (50, 99))
    return (
        f"{view.judged:,} windows judged in {median:.1f} ms each (median; mean {took_ms.mean():.2f} ms, 99 % "
        f"within {late:.1f} ms), "
        f"{view.stale:,} left out; {view.lost_s:.2f} s lost in {view.gaps} gaps, {view.overflows} overflows."
    )


def device_list() -> str:
    """The microphones of this machine, one a line.

    Raises:
        UserError: PortAudio is not installed.
    """
    found = devices()
    if not found:
        return "no microphones"
    return "\n".join(
        f"{d.index:3}  {d.name}  ({d.rate:,} Hz, {d.channels} channels{', default' if d.default else ''})"
        for d in found
    )


def parse_thresholds(texts: Iterable[str], classes: tuple[str, ...]) -> dict[str, float]:
    """Thresholds by class from LABEL=P.

    Raises:
        UserError: not of that form, or no such class.
    """
    found = {}
    for given in texts:
        label, _, number = given.partition("=")
        try:
            found[label] = float(number)
        except ValueError:
            raise UserError(f"--class-threshold {given}: accepted is LABEL=P, such as rain=0.8") from None
        if label not in classes:
            raise UserError(f"--class-threshold {given}: no such class; there are {', '.join(classes)}")
    return found


def logging_to(path: Path, remark: Callable[[str], None]) -> Callable[[LoggedDetection], None]:
    """Adds detections to a file of JSON lines as they come; each is on the disk before the next.

    A line has what `line` has, and `start` and `end` (times of day, ISO 8601), `source` and `bundle`. The
    file is opened for each, so that it may be moved away meanwhile, as log rotation does.

    Raises:
        StoreError: the file cannot be written.
    """
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise StoreError(f"{path}: the log cannot be written ({error.strerror or error})") from None
    said: list[str] = []

    def tell(entry: LoggedDetection) -> None:
        more = {"start": iso(entry.start), "end": iso(entry.end)}
        more |= {"source": entry.source, "bundle": entry.bundle}
        try:
            append(path, msgspec.json.encode(msgspec.json.decode(line(entry)) | more))
        except OSError as error:
            sentence = f"{path}: the log cannot be written ({error.strerror or error}); listening goes on."
            if sentence not in said:
                said.append(sentence)
                remark(sentence)

    return tell


def printing(as_json: bool, live: bool) -> Callable[[LoggedDetection], None]:
    """Prints detections as they come, on standard output."""

    def tell(entry: LoggedDetection) -> None:
        data = line(entry) if as_json else text(entry, live=live).encode()
        sys.stdout.buffer.write(data + b"\n")
        sys.stdout.buffer.flush()

    return tell
