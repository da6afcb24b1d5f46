"""Listening in the terminal: a microphone, a file as if it were one, or raw samples from standard input."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import msgspec
import numpy as np

from qmoe_core.audio import decode
from qmoe_core.bundles import Bundle
from qmoe_core.errors import AudioError, UserError
from qmoe_core.live.detections import Rules
from qmoe_core.live.log import Entry, Log, clock
from qmoe_core.live.pipeline import HOP_S, Pipeline
from qmoe_core.live.sources import MAX_RATE_HZ, MIN_RATE_HZ, HeldSource, HostSource, Note, Source, devices
from qmoe_core.routing.mixing import Settings

FORMATS = {"s16le": ("<i2", 32768.0), "f32le": ("<f4", 1.0)}
"""Of raw samples: numpy's name, and full scale."""
_WAIT_S = 0.2
_HEADERS = {b"RIFF": "a WAV file", b"fLaC": "a FLAC file", b"OggS": "an Ogg file", b"ID3": "an MP3 file"}


@dataclass(frozen=True)
class Listening:
    """What listens, whatever to.

    Attributes:
        bundle, settings, rules: see `Pipeline`.
        tell: called with every detection that is over.
        remark: called with sentences about the sound.
    """

    bundle: Bundle
    settings: Settings
    rules: Rules
    tell: Callable[[Entry], None]
    remark: Callable[[str], None]

    def to_microphone(self, device: str | None, rate: int | None, seconds: float | None) -> Pipeline:
        """Listen to a microphone of this machine until it is gone, interrupted, or `seconds` are over.

        Raises:
            UserError: no PortAudio, no such microphone, or it was unplugged.
        """
        source = HostSource(device, rate)
        pipeline = self._pipeline(source)
        self.remark(f"Listening to {source.device.name} at {source.stream.rate:,} Hz; Ctrl-C ends.")
        if source.state.sentence:
            self.remark(source.state.sentence)
        ends = time.monotonic() + (seconds if seconds is not None else float("inf"))
        heard: list[Note] = []
        try:
            while time.monotonic() < ends:
                self._tell(pipeline.step())
                for note in [note for note in pipeline.view().notes if note not in heard]:
                    heard.append(note)
                    self.remark(f"{clock(note.at)}: {note.text}")
                if (state := source.state).condition == "failed":
                    raise UserError(state.sentence)
                pipeline.wait(_WAIT_S)
        finally:
            source.close()
            self._tell(pipeline.finish())
        return pipeline

    def to_file(self, path: str, speed: float | None) -> Pipeline:
        """Listen to a file as if it were a microphone.

        Args:
            speed: 1 is as it was recorded; None as fast as it goes.

        Raises:
            AudioError: see `decode.load`.
        """
        clip = decode.load(path)
        for note in clip.notes:
            self.remark(f"{clip.name}: {note}")
        size = math.ceil(HOP_S * decode.SAMPLE_RATE)
        blocks = (clip.samples[i : i + size] for i in range(0, len(clip.samples), size))
        return self._to_blocks(clip.name, decode.SAMPLE_RATE, _paced(blocks, decode.SAMPLE_RATE, speed))

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

    def _to_blocks(self, name: str, rate: int, blocks: Iterable[np.ndarray]) -> Pipeline:
        source = HeldSource(name, rate)
        if source.state.sentence:
            self.remark(source.state.sentence)
        pipeline = self._pipeline(source)
        for block in blocks:
            source.stream.ring.write(block)
            self._tell(pipeline.step())
        self._tell(pipeline.finish())
        return pipeline

    def _pipeline(self, source: Source) -> Pipeline:
        return Pipeline(source, self.bundle, self.settings, self.rules, Log(capacity=1))

    def _tell(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.tell(entry)


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
    while data := stream.read(frames * width):
        if first:
            for header, what in _HEADERS.items():
                if data.startswith(header):
                    raise AudioError(f"Standard input is {what}; give its name instead, or raw samples.")
            first = False
        block = np.frombuffer(data[: len(data) // width * width], dtype)
        if not np.isfinite(block).all():
            raise AudioError(f"Standard input has samples that are no numbers; is it really {kind}?")
        yield np.clip(block.astype(np.float32) / full_scale, -1.0, 1.0)


def text(entry: Entry, *, live: bool) -> str:
    """A detection as a line: times of day from a microphone, seconds from a file."""
    span = (
        f"{clock(entry.start)}–{clock(entry.end)}" if live else f"{entry.start_s:7.1f} –{entry.end_s:7.1f} s"
    )
    verdict = "accepted" if entry.accepted else f"not accepted: {entry.reason}"
    return (
        f"{span}  {entry.label:16} {entry.probability:4.0%}  epistemic {entry.epistemic:.3f}  "
        f"{entry.expert:8} {verdict}"
    )


def line(entry: Entry) -> bytes:
    """A detection as a line of JSON: what design.md promises."""
    return msgspec.json.encode(
        {
            "start_s": round(entry.start_s, 3),
            "end_s": round(entry.end_s, 3),
            "label": entry.label,
            "probability": entry.probability,
            "epistemic": entry.epistemic,
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
    median, late = np.percentile(1000 * view.judge_s, (50, 99))
    return (
        f"{view.judged:,} windows judged in {median:.1f} ms each (median; 99 % within {late:.1f} ms), "
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


def printing(as_json: bool, live: bool) -> Callable[[Entry], None]:
    """Prints detections as they come, on standard output."""

    def tell(entry: Entry) -> None:
        data = line(entry) if as_json else text(entry, live=live).encode()
        sys.stdout.buffer.write(data + b"\n")
        sys.stdout.buffer.flush()

    return tell
