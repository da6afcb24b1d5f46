"""From judged windows to detections: from when to when, what, how sure, and if not accepted, why not.

Windows overlap by 95 %, and a window says what its five seconds hold, not when. So each stands for its
middle: a stretch of windows with one answer, from the middle of its first to the middle of its last, is one
detection. Where the stream begins or ends the outer window counts as a whole. Neighbouring windows are
averaged, and two stretches of one answer with little between them are one.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from qmoe_core.decision import Decision
from qmoe_core.errors import ConfigError
from qmoe_core.evaluation.conformal import Limits

GAP = "gap"
SILENCE = "silence"
CLIPPING = "clipping"
NARROW = "narrow band"
CHANGING = "neither half says so"
BELOW_THRESHOLD = "below class threshold"
IN_DOUBT = "in doubt"
TOO_SHORT = "too short"
REASONS = (GAP, SILENCE, CLIPPING, NARROW, CHANGING, BELOW_THRESHOLD, IN_DOUBT, TOO_SHORT)


@dataclass(frozen=True)
class Rules:
    """What makes a detection, and what makes it accepted.

    Attributes:
        threshold: the least probability, for classes without one of their own.
        thresholds: by class.
        limits: of doubt, above which an answer is not accepted, and of prediction sets; None for none.
        smooth: how many neighbouring windows are averaged, at least 1.
        merge_s: stretches of one answer that are at most this far apart are one.
        least_s: a shorter stretch is not accepted; an unaccepted one is not even logged, only counted.
        longest_s: a longer stretch is logged in parts, so that an hour of rain shows before it ends.
        halves: an answer must also be that of one half of the window, repeated to fill it: a window over the
            border between two sounds gets an answer that is neither's, and often a sure one.
        silence: the peak below which a window is silent (1e-4 is −80 dBFS).
        clipped: the share of samples at full scale from which on a window is not judged.
    """

    threshold: float = 0.5
    thresholds: Mapping[str, float] = field(default_factory=dict)
    limits: Limits | None = None
    smooth: int = 3
    merge_s: float = 1.0
    least_s: float = 0.75
    longest_s: float = 600.0
    halves: bool = True
    silence: float = 1e-4
    clipped: float = 0.01

    def __post_init__(self) -> None:
        for name, value in {"threshold": self.threshold, **self.thresholds}.items():
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"the threshold {value:g} ({name}) is no probability; accepted is 0 to 1")
        if self.limits is not None and not 0.0 <= self.limits.doubt <= 1.0:
            raise ConfigError(f"the limit of doubt is {self.limits.doubt:g}; accepted is 0 to 1")
        if self.smooth < 1:
            raise ConfigError(f"{self.smooth} windows cannot be averaged; accepted is 1 or more")
        for name in ("merge_s", "least_s", "longest_s"):
            if not getattr(self, name) >= 0.0:
                raise ConfigError(f"{name} is {getattr(self, name):g}; accepted is 0 or more seconds")

    def threshold_of(self, label: str) -> float:
        return self.thresholds.get(label, self.threshold)


@dataclass(frozen=True)
class JudgedWindow:
    """A window and what was said of it.

    Attributes:
        start_s, end_s: in the stream, seconds from its start.
        day: the time of day of the stream's start as it was known then, seconds since 1970.
        decision: of the experts, the router and the mixture.
        halves: what was said of each audible half; empty where nobody asked.
        peak, rms: of the waveform, 1 is full scale; clipped: share of samples at full scale.
        narrow: whether its band is too narrow to be judged (see `fitness.Fitness.too_narrow`).
        missing_s: seconds of it that never arrived.
        embed_s, experts_s: what the embedder took, and experts and mixture.
        waited_s: from its last sample's arrival to the answer.
        stale: windows that were left out before this one because it was newer.
    """

    start_s: float
    end_s: float
    day: float
    decision: Decision
    peak: float
    rms: float
    clipped: float
    halves: tuple[str, ...] = ()
    narrow: bool = False
    missing_s: float = 0.0
    embed_s: float = 0.0
    experts_s: float = 0.0
    waited_s: float = 0.0
    stale: int = 0

    @property
    def middle_s(self) -> float:
        return (self.start_s + self.end_s) / 2

    @property
    def judge_s(self) -> float:
        """What the paper calls latency: from samples to a decision."""
        return self.embed_s + self.experts_s


@dataclass(frozen=True)
class Detection:
    """A line of the log.

    Attributes:
        start_s, end_s: in the stream, seconds.
        start, end: times of day, seconds since 1970.
        label: the answer; probability: the mixture's, mean over the stretch.
        epistemic: mean over the stretch, nats.
        expert: the one that was given most of the answer.
        routed: each expert's share of the answer.
        agreeing: of the windows that it ran on, the share in which an expert said the same.
        accepted; reason: why not, one of `REASONS`, or empty.
        windows: how many it rests on.
        prediction_set: of the mean probabilities over the stretch; empty where none is set.
        best: the five seconds it was surest of, float32 [110250].
        best_start: the time of day at which those begin.
    """

    start_s: float
    end_s: float
    start: float
    end: float
    label: str
    probability: float
    epistemic: float
    expert: str
    routed: Mapping[str, float]
    agreeing: Mapping[str, float]
    accepted: bool
    reason: str
    windows: int
    best: np.ndarray = field(repr=False, compare=False)
    best_start: float = 0.0
    prediction_set: tuple[str, ...] = ()


@dataclass
class _Stretch:
    """Windows in a row with one answer and one verdict."""

    key: tuple[str, str]
    start_s: float
    end_s: float
    day: float
    windows: int = 0
    probability: float = 0.0
    probabilities: np.ndarray = field(default_factory=lambda: np.zeros(1))
    epistemic: float = 0.0
    best_probability: float = -1.0
    best: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.float32))
    best_start_s: float = 0.0
    labels: Counter[str] = field(default_factory=Counter)
    routed: dict[str, float] = field(default_factory=dict)
    said: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        return self.key[1]

    @property
    def length_s(self) -> float:
        return self.end_s - self.start_s

    def add(
        self,
        judged: JudgedWindow,
        label: str,
        probabilities: np.ndarray,
        epistemic: float,
        samples: np.ndarray,
    ) -> None:
        probability = float(probabilities.max())
        self.windows += 1
        self.probability += probability
        self.probabilities = self.probabilities + probabilities
        self.epistemic += epistemic
        self.labels[label] += 1
        for expert in judged.decision.experts:
            self.routed[expert.name] = self.routed.get(expert.name, 0.0) + expert.weight
            if expert.label:  # it was run
                self.said.setdefault(expert.name, Counter())[expert.label] += 1
        if probability > self.best_probability:
            self.best_probability, self.best, self.best_start_s = probability, samples, judged.start_s

    def detection(self, least_s: float, limits: Limits | None, classes: tuple[str, ...]) -> Detection:
        label = self.labels.most_common(1)[0][0]
        routed = {name: share / self.windows for name, share in self.routed.items() if share > 0.0}
        reason = self.reason or (TOO_SHORT if self.length_s < least_s else "")
        return Detection(
            start_s=self.start_s,
            end_s=self.end_s,
            start=self.day + self.start_s,
            end=self.day + self.end_s,
            label=label,
            probability=self.probability / self.windows,
            epistemic=self.epistemic / self.windows,
            expert=max(routed, key=routed.__getitem__, default=""),
            routed=MappingProxyType(routed),
            agreeing=MappingProxyType({n: said[label] / said.total() for n, said in self.said.items()}),
            accepted=not reason,
            reason=reason,
            windows=self.windows,
            best=self.best,
            best_start=self.day + self.best_start_s,
            prediction_set=limits.labels(self.probabilities / self.windows, classes)
            if limits is not None and limits.largest
            else (),
        )


class Tracker:
    """Follows one stream of windows and says when a detection is over.

    Attributes:
        rules: may be replaced at any time; the next window follows the new ones.
        flickers: stretches that were too short to be logged.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.flickers = 0
        self._recent: deque[JudgedWindow] = deque()  # averaged
        self._held: list[_Stretch] = []  # over, but the next may still be one with them
        self._current: _Stretch | None = None
        self._last: JudgedWindow | None = None
        self._classes: tuple[str, ...] = ()

    @property
    def current(self) -> Detection | None:
        """What is being heard now, as it would be logged if it ended here."""
        return None if self._current is None else self._detection(self._current, 0.0)

    def _detection(self, stretch: _Stretch, least_s: float) -> Detection:
        return stretch.detection(least_s, self.rules.limits, self._classes)

    def push(self, judged: JudgedWindow, samples: np.ndarray) -> list[Detection]:
        """Take the next window of the stream, with its waveform; gives the detections that are over."""
        rules = self.rules
        self._classes = judged.decision.classes
        reason = _unheard(judged, rules)
        # An average over a gap or over silence would speak of what is not there.
        if self._last is not None and bool(reason) != bool(_unheard(self._last, rules)):
            self._recent.clear()
        self._recent.append(judged)
        while len(self._recent) > rules.smooth:
            self._recent.popleft()
        probabilities = np.mean([w.decision.probabilities for w in self._recent], axis=0)
        epistemic = float(np.mean([w.decision.uncertainty.epistemic for w in self._recent]))
        best = int(probabilities.argmax())
        label, probability = judged.decision.classes[best], float(probabilities[best])
        asked = [label in w.halves for w in self._recent if w.halves]
        if not reason and rules.halves and sum(asked) < len(asked) / 2:
            reason = CHANGING
        if not reason and probability < rules.threshold_of(label):
            reason = BELOW_THRESHOLD
        if not reason and rules.limits is not None and 1.0 - probability > rules.limits.doubt:
            reason = IN_DOUBT
        middle = float(np.mean([w.middle_s for w in self._recent]))
        key = ("" if reason in (GAP, SILENCE, CLIPPING, NARROW) else label, reason)

        first = self._last is None
        self._last = judged
        if self._current is None or self._current.key != key or self._current.length_s > rules.longest_s:
            at = judged.start_s if first else middle
            if self._current is not None:
                at = self._current.end_s = max(self._current.end_s, (self._current.end_s + middle) / 2)
            self._open(key, at, judged.day)
        assert self._current is not None
        self._current.end_s = max(middle, self._current.start_s)
        self._current.add(judged, label, probabilities, epistemic, samples)
        return self._finished(middle - rules.merge_s)

    def flush(self) -> list[Detection]:
        """The stream is over, or broken: what was heard up to here."""
        if self._current is not None and self._last is not None:
            self._current.end_s = self._last.end_s
            self._held.append(self._current)
        self._current, self._last = None, None
        self._recent.clear()
        return self._finished(float("inf"))

    def _open(self, key: tuple[str, str], start_s: float, day: float) -> None:
        """Begin a stretch, or go on with one that has just been interrupted."""
        rules = self.rules
        if self._current is not None:
            self._held.append(self._current)
        for i in range(len(self._held) - 1, -1, -1):
            earlier = self._held[i]
            if start_s - earlier.end_s > rules.merge_s:
                break
            if earlier.key == key and earlier.length_s <= rules.longest_s:
                self.flickers += len(self._held) - i - 1
                del self._held[i:]
                self._current = earlier
                return
            if earlier.length_s >= rules.least_s and earlier.reason == "":
                break  # something else was really there
        self._current = _Stretch(key, start_s, start_s, day)

    def _finished(self, before_s: float) -> list[Detection]:
        over = []
        while self._held and self._held[0].end_s <= before_s:
            stretch = self._held.pop(0)
            if stretch.reason and stretch.length_s < self.rules.least_s:
                self.flickers += 1
            else:
                over.append(self._detection(stretch, self.rules.least_s))
        return over


def _unheard(judged: JudgedWindow, rules: Rules) -> str:
    """Why a window cannot be judged, whatever was said of it."""
    if judged.missing_s > 0.0:
        return GAP
    if judged.peak < rules.silence:
        return SILENCE
    if judged.clipped > rules.clipped:
        return CLIPPING
    return NARROW if judged.narrow else ""
