"""From a stream to windows, answers and detections, one `step` at a time.

A step reads what has come, resamples it to 22,050 Hz, and judges the newest five seconds. If judging is
slower than the windows come, those in between are left out and counted, so that an answer is never about the
past.
A step does not wait: a worker thread, a command line or a test calls it when there may be something new.

The whole window is embedded each time: with the log-mel statistics that is half of a millisecond, and sharing
frames between windows would save 0.3 ms of it, 0.1 % of a core at four windows a second.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import soxr

from qmoe_core import serve
from qmoe_core.audio import fitness, mel
from qmoe_core.audio.decode import SAMPLE_RATE, WINDOW_S, WINDOW_SAMPLES, resample
from qmoe_core.bundles import Bundle
from qmoe_core.errors import StoreError
from qmoe_core.live.detections import Detection, JudgedWindow, Rules, Tracker
from qmoe_core.live.log import Log, LoggedDetection
from qmoe_core.live.ring import Ring
from qmoe_core.live.sources import MAX_NOTES, Note, Source, State, Stream
from qmoe_core.routing.mixing import Settings

HOP_S = 0.25
"""Between windows, at least; a source whose packets are as long gives one window a packet."""
SHOWN_S = 30.0
"""What a page can draw: windows and spectrogram."""
MELS = 64
"""Bands of the spectrogram that is drawn."""
LATENCIES = 4096
FULL_SCALE = 0.9999
_EARLY = 0.9
"""Share of a hop after which a window is due: packets are not exactly as long as a hop."""
_AT_ONCE = WINDOW_SAMPLES // mel.HOP  # frames of the spectrogram; the history is twice as long
_EDGE = mel.N_FFT // 2 // mel.HOP  # frames at each edge of a waveform that see its reflection


@dataclass(frozen=True)
class LiveView:
    """Everything a page draws, at one moment.

    Attributes:
        state: of the source; stream: its name, or empty; rate: Hz, or 0.
        heard_s: seconds of sound since the stream's start; day: the time of day of its start.
        windows: the newest, oldest first; judged: how many there were; stale: how many were left out.
        levels: log-mel spectrogram, whole dB, int8 [64, frames]; peaks: of every frame's 512 samples, float32
            [frames], 1 is full scale; shown_s: where in the stream they end, seconds.
        current: what is being heard, as the log would say it.
        judge_s: what judging took, of the newest windows, seconds, oldest first.
        waited_s: from a window's last sample to its answer, likewise.
        lost_s, gaps, overflows: of the stream's sound; notes: what happened to it.
        flickers: answers too short to be logged.
    """

    state: State
    stream: str
    rate: int
    heard_s: float
    day: float
    windows: tuple[JudgedWindow, ...]
    judged: int
    stale: int
    levels: np.ndarray
    peaks: np.ndarray
    shown_s: float
    current: Detection | None
    judge_s: np.ndarray
    waited_s: np.ndarray
    lost_s: float
    gaps: int
    overflows: int
    notes: tuple[Note, ...]
    flickers: int


class Pipeline:
    """Judges a source; `step` from one thread, everything else from any.

    Args:
        source: where the sound comes from.
        bundle: what answers.
        settings: how to mix; the bundle's own when None. May be replaced at any time.
        rules: what makes a detection. May be replaced at any time.
        log: where detections go.
        hop_s: seconds between windows.

    Raises:
        BundleError: this program's embedder is another one than the bundle's.
    """

    def __init__(
        self,
        source: Source,
        bundle: Bundle,
        settings: Settings | None = None,
        rules: Rules | None = None,
        log: Log | None = None,
        hop_s: float = HOP_S,
    ) -> None:
        self.source = source
        self.bundle = bundle
        self.settings = settings or bundle.settings()
        self.log = log or Log()
        self.hop_s = hop_s
        for one in bundle.embedders:
            serve.embedder_of(bundle, one.name)
        self._tracker = Tracker(rules or Rules())
        self._lock = threading.Lock()  # of what `view` reads
        self._answered = threading.Condition(self._lock)
        self._notes: deque[Note] = deque(maxlen=MAX_NOTES)
        self._judge_s: deque[float] = deque(maxlen=LATENCIES)
        self._waited_s: deque[float] = deque(maxlen=LATENCIES)
        self._judged = self._stale = 0
        self._stream: Stream | None = None
        self._reset()

    @property
    def rules(self) -> Rules:
        return self._tracker.rules

    @rules.setter
    def rules(self, rules: Rules) -> None:
        self._tracker.rules = rules

    def wait(self, timeout: float) -> None:
        """Until a step may find something, or `timeout` seconds have passed."""
        stream = self.source.stream
        if stream is None or (stream is self._stream and stream.ring.closed):
            time.sleep(timeout)
        elif stream is self._stream:
            stream.ring.wait(self._read, timeout)

    def settle(self, timeout: float) -> None:
        """Until the newest window that is due has its answer, or `timeout` seconds have passed.

        For a page that has just handed in sound, and draws anyway.
        """
        stream = self._stream
        if stream is None or stream is not self.source.stream:
            return
        with self._answered:
            if stream.ring.end >= self._due - (1 - _EARLY) * self.hop_s * stream.rate:
                judged = self._judged
                self._answered.wait_for(lambda: self._judged > judged, timeout)

    def step(self) -> list[LoggedDetection]:
        """Take in what has come, and judge the newest window if one is due.

        Returns:
            The detections that were over with it.
        """
        entries: list[LoggedDetection] = []
        stream = self.source.stream
        if stream is not self._stream:
            if self._stream is not None:
                entries += self._advance(self._stream)
            entries += self._flush()
            with self._lock:
                self._stream = stream
                self._reset()
        if stream is not None:
            entries += self._advance(stream)
            if stream.ring.closed and self._read >= stream.ring.end:
                entries += self._flush()
        return entries

    def pause(self) -> list[LoggedDetection]:
        """Log what is still open; a later `step` goes on with the sound that comes then."""
        return self._flush()

    def finish(self) -> list[LoggedDetection]:
        """The source is over: judge the rest, and close what is still open."""
        entries = self.step()
        if self._stream is not None and self._resampler is not None:
            self._push(self._resampler.resample_chunk(np.empty(0, dtype=np.float32), last=True))
            self._resampler = None
        return entries + self.pause()

    def view(self) -> LiveView:
        """What a page draws."""
        with self._lock:
            stream = self._stream
            heard_s = self._first_s + self._history.end / SAMPLE_RATE
            return LiveView(
                state=self.source.state,
                stream=stream.name if stream else "",
                rate=stream.rate if stream else 0,
                heard_s=heard_s,
                day=stream.timeline.at(0) if stream else time.time(),
                windows=tuple(self._windows),
                judged=self._judged,
                stale=self._stale,
                levels=self._levels,
                peaks=self._peaks,
                shown_s=self._first_s + self._shown * mel.HOP / SAMPLE_RATE,
                current=self._tracker.current,
                judge_s=np.array(self._judge_s),
                waited_s=np.array(self._waited_s),
                lost_s=stream.ring.lost / stream.rate if stream else 0.0,
                gaps=stream.ring.gaps if stream else 0,
                overflows=self.source.overflows,
                notes=tuple(sorted([*self.source.notes, *self._notes], key=lambda note: note.at)),
                flickers=self._tracker.flickers,
            )

    def _reset(self) -> None:
        """Begin with nothing heard; what was judged before stays in the statistics and the log."""
        self._read = 0  # the source's sample that is due
        self._windows: deque[JudgedWindow] = deque(maxlen=round(SHOWN_S / self.hop_s))
        self._shown = 0  # frames drawn
        self._levels = np.empty((MELS, 0), dtype=np.int8)
        self._peaks = np.empty(0, dtype=np.float32)
        self._restart(0)

    def _restart(self, position: int) -> None:
        """Go on from a sample of the source, with nothing before it: after its start, or a long gap."""
        rate = self._stream.rate if self._stream else SAMPLE_RATE
        self._read = position
        self._due = position + round(WINDOW_S * rate)  # when it has come, a window is due
        self._first_s = position / rate
        self._history = Ring(round(2 * WINDOW_SAMPLES))
        self._shown = 0
        self._resampler = (
            soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32") if rate != SAMPLE_RATE else None
        )

    def _advance(self, stream: Stream) -> list[LoggedDetection]:
        started = time.perf_counter()
        entries: list[LoggedDetection] = []
        first, samples = stream.ring.read(self._read)
        if not len(samples):
            return entries
        jumped = first - self._read
        if jumped:  # a long sleep, or this thread was half a minute late
            entries += self._flush()
            late = (jumped - stream.ring.missing(self._read, first)) / stream.rate
            with self._lock:
                if late > 0:
                    self._note(stream, f"{late:.1f} s were not judged: this machine was too slow.")
                self._restart(first)
        self._read = first + len(samples)
        self._push(self._resampler.resample_chunk(samples) if self._resampler else samples)
        if self._history.end < WINDOW_SAMPLES:  # the resampler is a little behind
            self._due = max(self._due, self._read + 1)
        hop = self.hop_s * stream.rate
        if self._read < self._due - (1 - _EARLY) * hop:
            return entries
        stale = max(0, int((self._read - self._due) // hop))
        self._due = self._read + round(hop)
        with self._lock:
            self._stale += stale
        judged, waveform = self._judge(stream, stale, started)
        with self._lock:
            self._windows.append(judged)
            self._judged += 1
            self._judge_s.append(judged.judge_s)
            self._waited_s.append(judged.waited_s)
            detections = self._tracker.push(judged, waveform)
            self._answered.notify_all()
        return entries + self._keep(detections)

    def _push(self, samples: np.ndarray) -> None:
        """Take samples at 22,050 Hz into the history and the spectrogram."""
        self._history.write(samples)
        frames = self._history.end // mel.HOP - _EDGE  # whose samples have all come
        shown = max(self._shown, frames - _AT_ONCE)
        if frames <= shown:
            return
        # Frame j is centred on sample j · HOP; what comes before it keeps the reflection out of sight.
        before = min(shown, _EDGE)
        _, waveform = self._history.read((shown - before) * mel.HOP)
        power = mel.mel_power(waveform, MELS)[:, before : before + frames - shown]
        levels = np.rint(np.clip(mel.to_db(power), -127, 127)).astype(np.int8)
        blocks = waveform[before * mel.HOP :][: (frames - shown) * mel.HOP].reshape(-1, mel.HOP)
        kept = round(SHOWN_S * SAMPLE_RATE / mel.HOP)
        with self._lock:
            self._shown = frames
            self._levels = np.concatenate([self._levels, levels], axis=1)[:, -kept:]
            self._peaks = np.concatenate([self._peaks, np.abs(blocks).max(axis=1)])[-kept:]

    def _judge(self, stream: Stream, stale: int, arrived: float) -> tuple[JudgedWindow, np.ndarray]:
        first, waveform = self._history.read(self._history.end - WINDOW_SAMPLES)
        start_s = self._first_s + first / SAMPLE_RATE
        end_s = start_s + WINDOW_S
        settings = self.settings
        started = time.perf_counter()

        def at_rate(rate: int) -> np.ndarray:
            return self._at_rate(stream, start_s, waveform, rate)

        embedded = serve.Embedded(self.bundle)
        embedded.add(lambda rate: fitness.prepare(at_rate(rate)))
        outputs = embedded.outputs(settings.mc_samples)
        decision = self.bundle.decide(outputs.at(0), settings, start_s, end_s)
        took = time.perf_counter() - started
        halves = self._halves(at_rate, settings) if self.rules.halves else ()
        magnitude = np.abs(waveform)
        missing = stream.ring.missing(round(start_s * stream.rate), round(end_s * stream.rate))
        judged = JudgedWindow(
            start_s=start_s,
            end_s=end_s,
            day=stream.timeline.at(0),
            decision=decision,
            peak=float(magnitude.max()),
            rms=float(np.sqrt(np.mean(np.square(waveform)))),
            clipped=float(np.mean(magnitude >= FULL_SCALE)),
            halves=halves,
            narrow=fitness.measure(waveform, SAMPLE_RATE).too_narrow,
            missing_s=missing / stream.rate,
            embed_s=embedded.seconds,
            experts_s=took - embedded.seconds,
            waited_s=time.perf_counter() - arrived,
            stale=stale,
        )
        return judged, waveform

    def _halves(self, at_rate: Callable[[int], np.ndarray], settings: Settings) -> tuple[str, ...]:
        """What the mixture says of each half of a window, repeated to fill it; a silent half says nothing."""

        def half(i: int, rate: int) -> np.ndarray:
            waveform = at_rate(rate)
            middle = len(waveform) // 2
            return np.resize(waveform[middle:] if i else waveform[:middle], len(waveform))

        audible = [i for i in (0, 1) if np.abs(half(i, SAMPLE_RATE)).max() >= self.rules.silence] or [0, 1]
        embedded = serve.Embedded(self.bundle)
        for i in audible:
            embedded.add(lambda rate, i=i: fitness.prepare(half(i, rate)))
        probabilities = self.bundle.mix(embedded.outputs(settings.mc_samples), settings).probabilities
        return tuple(self.bundle.classes[best] for best in probabilities.argmax(axis=-1))

    def _at_rate(self, stream: Stream, start_s: float, waveform: np.ndarray, rate: int) -> np.ndarray:
        """The window [5 · rate] at an embedder's sample rate; another than the history's from the source.

        Args:
            start_s: when the window begins; waveform: it, float32 [110250] at 22,050 Hz.
        """
        if rate == SAMPLE_RATE:
            return waveform
        first = round(start_s * stream.rate)
        at, samples = stream.ring.read(first, first + round(WINDOW_S * stream.rate))
        if at != first:  # so late that they are overwritten
            samples = resample(waveform, SAMPLE_RATE, stream.rate)
        heard, size = resample(samples, stream.rate, rate), round(WINDOW_S * rate)
        return np.pad(heard[:size], (0, max(0, size - len(heard))))

    def _flush(self) -> list[LoggedDetection]:
        with self._lock:
            detections = self._tracker.flush()
        return self._keep(detections)

    def _keep(self, detections: list[Detection]) -> list[LoggedDetection]:
        entries = []
        name = self._stream.name if self._stream else ""
        for detection in detections:
            try:
                entries.append(self.log.add(detection, source=name, bundle=self.bundle.name))
            except StoreError as error:
                self.log.keep(None)
                self._notes.append(Note(time.time(), str(error)))
        return entries

    def _note(self, stream: Stream, text: str) -> None:
        self._notes.append(Note(stream.timeline.at(self._read), text))
