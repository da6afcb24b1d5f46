"""What an answer promises, set on clips that were judged out of fold: limits of doubt, and prediction sets.

All bounds are of finite samples and need only that new clips are like the ones that set them. Doubt is
1 − max p, p the mixture's class probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Literal, get_args

import numpy as np

from qmoe_core.bundles import Bundle
from qmoe_core.decision import Classification
from qmoe_core.errors import BundleError, ConfigError
from qmoe_core.evaluation.selective import resampled
from qmoe_core.routing.distilled import groups
from qmoe_core.routing.mixing import Settings

Score = Literal["threshold", "adaptive"]
SCORES: tuple[Score, ...] = get_args(Score)
COVERAGE = 0.95
"""Where nothing is asked for: the share of clips that are answered, and of sets that hold the true label."""
CONFIDENCE = 0.95
"""That a risk is kept."""
_SETS = f"{' or '.join(SCORES)}, a coverage such as 0.9, or both, such as {SCORES[1]}:0.9"


@dataclass(frozen=True)
class Promise:
    """What answers and prediction sets are to keep; with neither risk nor coverage, `COVERAGE` is.

    Attributes:
        risk: the share of errors among the answers, at most, with 95 % confidence; 1 answers everything.
        coverage: the share of clips that are answered, at least; 1 answers everything.
        score: of the labels of a prediction set, see `scores`.
        per_class: sets keep their coverage for the clips of every class apart.
        of_sets: the share of sets that hold the true label, at least, whatever is answered.

    Raises:
        ConfigError: a value that is not accepted, or both risk and coverage.
    """

    risk: float | None = None
    coverage: float | None = None
    score: Score = "threshold"
    per_class: bool = False
    of_sets: float = COVERAGE

    def __post_init__(self) -> None:
        for name, value in (("coverage", self.coverage), ("risk", self.risk)):
            if value is not None and not 0.0 < value <= 1.0:
                raise ConfigError(f"--{name} is {value:g}; accepted is more than 0, and 1 at most")
        if self.coverage is not None and self.risk is not None:
            raise ConfigError("--coverage and --risk are two limits; give one of them")
        if self.score not in SCORES:
            raise ConfigError(f"--sets is '{self.score}'; accepted is {_SETS}")
        if not 0.0 < self.of_sets < 1.0:
            raise ConfigError(f"--sets is {self.of_sets:g}; accepted is a share between 0 and 1")


def sets_asked(text: str) -> tuple[Score, float]:
    """Score and coverage of prediction sets, as `--sets` says them.

    Raises:
        ConfigError: it says something else.

    >>> sets_asked("adaptive:0.9"), sets_asked("0.9"), sets_asked("adaptive")
    (('adaptive', 0.9), ('threshold', 0.9), ('adaptive', 0.95))
    """
    first, _, share = text.partition(":")
    score: Score | None = "threshold" if first == "threshold" else "adaptive" if first == "adaptive" else None
    if score is None and not share:
        score, share = "threshold", first
    try:
        coverage = float(share) if share else COVERAGE
    except ValueError:
        score, coverage = None, 0.0
    if score is None:
        raise ConfigError(f"--sets is '{text}'; accepted is {_SETS}")
    return score, coverage


@dataclass(frozen=True)
class Limits:
    """What is answered, and which labels a prediction set holds.

    Attributes:
        doubt: an answer whose doubt is above it is withheld; 1 withholds none.
        promise: what the limit of doubt was set for, in words; empty where it withholds none.
        largest: the largest conformal score of a label in a prediction set: one for all classes, or one each;
            empty where there are no sets.
        score: which; coverage: how often sets hold the true label, at least.
    """

    doubt: float = 1.0
    promise: str = ""
    largest: tuple[float, ...] = ()
    score: Score = "threshold"
    coverage: float = COVERAGE

    def reason(self, doubt: float) -> str:
        """Why an answer of this doubt is withheld; empty where it is given."""
        if doubt <= self.doubt:
            return ""
        why = f", the limit for which {self.promise}" if self.promise else ", the limit"
        return f"the doubt, {doubt:.3f}, is above {self.doubt:.3f}{why}"

    def applied(self, result: Classification) -> Classification:
        """A recording's result with its prediction set, and the reason where its answer is withheld."""
        whole = result.whole
        reason = self.reason(whole.doubt)
        return replace(
            result,
            reason=f"{reason[0].upper()}{reason[1:]}." if reason else "",
            prediction_set=self.labels(whole.probabilities, whole.classes) if self.largest else None,
            coverage=self.coverage if self.largest else None,
        )

    def held(self, probabilities: np.ndarray) -> np.ndarray:
        """Which labels are in the sets of some clips, [..., C] → bool [..., C]."""
        return scores(probabilities, self.score) <= np.array(self.largest)

    def labels(self, probabilities: np.ndarray, classes: tuple[str, ...]) -> tuple[str, ...]:
        """The prediction set of one clip, the most probable label first."""
        held = self.held(probabilities)
        return tuple(classes[i] for i in np.argsort(-probabilities, kind="stable") if held[i])


def limits(bundle: Bundle, settings: Settings, promise: Promise | None = None) -> Limits | None:
    """Limits from a bundle's out-of-fold predictions, mixed by these settings.

    Returns:
        None where the bundle carries no such predictions, and nothing is asked for.

    Raises:
        ConfigError: no limit keeps the risk that is asked for.
        BundleError: something is asked for, and the bundle carries no out-of-fold predictions.
    """
    data, mixed = bundle.dataset, bundle.reference(settings)
    if data is None or mixed is None:
        if promise is None or promise == Promise():
            return None
        raise BundleError(
            f"bundle {bundle.name} carries no out-of-fold predictions, which limits and prediction sets are "
            "set from; take one that was made with: qmoe train DATASET --bundle NAME"
        )
    like = f"clips like those of {bundle.provenance.dataset}"
    return limits_from(mixed.probabilities, data.labels, promise or Promise(), like)


def limits_from(p: np.ndarray, labels: np.ndarray, promise: Promise, like: str = "such clips") -> Limits:
    """Limits from clips that nobody learned from.

    Args:
        p: class probabilities [n, C]; labels: int [n].
        like: what new clips have to be like, in words.

    Raises:
        ConfigError: no limit keeps the risk that is asked for.
    """
    own = np.take_along_axis(scores(p, promise.score), labels[:, None], axis=-1)[:, 0]
    kept = [own[labels == c] for c in range(p.shape[1])] if promise.per_class else [own]
    doubt, words = _limit_of_doubt(1.0 - p.max(axis=-1), p.argmax(axis=-1) != labels, promise, like)
    sets = promise.of_sets
    return Limits(doubt, words, tuple(quantile(values, sets) for values in kept), promise.score, sets)


def _limit_of_doubt(doubt: np.ndarray, wrong: np.ndarray, promise: Promise, like: str) -> tuple[float, str]:
    """The limit, and what it was set for in words."""
    if 1.0 in (promise.risk, promise.coverage):
        return 1.0, ""
    if promise.risk is not None:
        limit = risk_limit(doubt, wrong, promise.risk)
        return limit, f"at most {100 * promise.risk:g} % of the answers on {like} are wrong"
    coverage = promise.coverage or COVERAGE
    return min(1.0, quantile(doubt, coverage)), f"{100 * coverage:g} % of {like} are answered"


@dataclass(frozen=True)
class Kept:
    """What became of a promise on clips of other folds than those that set the limits.

    Attributes:
        n: clips; answered: share of them; risk: errors among the answered, NaN where none is.
        covered: share of sets that hold the true label; size: mean number of labels in a set.
        risk_ci95, covered_ci95: bootstrapped over recordings.
    """

    n: int
    answered: float
    risk: float
    risk_ci95: tuple[float, float]
    covered: float
    covered_ci95: tuple[float, float]
    size: float


def kept(bundle: Bundle, settings: Settings, promise: Promise | None = None) -> Kept | None:
    """What becomes of a promise: each fold's clips under limits that were set on the others.

    Returns:
        None where the bundle carries no out-of-fold predictions.
    """
    data, mixed = bundle.dataset, bundle.reference(settings)
    if data is None or mixed is None:
        return None
    sources = [clip.source for clip in data.clips]
    return kept_by(mixed.probabilities, data.labels, data.folds, sources, promise or Promise())


def kept_by(
    p: np.ndarray, labels: np.ndarray, folds: np.ndarray, sources: Sequence[str], promise: Promise
) -> Kept:
    """What becomes of a promise; see `kept`.

    Args:
        p: class probabilities [n, C], out of fold; labels, folds: int [n]; sources: recordings [n].
    """
    return kept_over([p], labels, folds, sources, promise)


def kept_over(
    seeds: Sequence[np.ndarray],
    labels: np.ndarray,
    folds: np.ndarray,
    sources: Sequence[str],
    promise: Promise,
) -> Kept:
    """The same over several seeds, each with limits of its own: p [n, C] of each."""
    group, n = groups(folds, sources), len(labels)
    answered, held = zip(*(_judged(p, labels, group, promise) for p in seeds), strict=True)
    wrong = np.concatenate([p.argmax(axis=-1) != labels for p in seeds])
    covered = np.concatenate([sets[np.arange(n), labels] for sets in held])
    recordings = np.tile(np.asarray(sources), len(seeds))
    risk, risk_ci95 = resampled(wrong, recordings, np.concatenate(answered))
    share, share_ci95 = resampled(covered, recordings)
    size = float(np.mean([sets.sum(axis=-1).mean() for sets in held]))
    return Kept(n, float(np.mean(answered)), risk, risk_ci95, share, share_ci95, size)


def _judged(
    p: np.ndarray, labels: np.ndarray, group: np.ndarray, promise: Promise
) -> tuple[np.ndarray, np.ndarray]:
    """Which clips are answered, bool [n], and their sets, bool [n, C], under limits of the other groups."""
    answered, held = np.zeros(len(labels), bool), np.zeros(p.shape, bool)
    for number in np.unique(group):
        new = group == number
        try:
            set_on = limits_from(p[~new], labels[~new], promise)
        except ConfigError:  # no limit keeps the risk: nothing is answered, and sets are what they are
            set_on = replace(limits_from(p[~new], labels[~new], replace(promise, risk=1.0)), doubt=-1.0)
        answered[new] = 1.0 - p[new].max(axis=-1) <= set_on.doubt
        held[new] = set_on.held(p[new])
    return answered, held


def scores(p: np.ndarray, kind: Score = "threshold") -> np.ndarray:
    """Conformal scores of every label, [..., C] → [..., C]: labels of a small score are in the set.

    `threshold` is 1 − p (Sadinle et al. 2019); `adaptive` the mass of all labels that are at least as
    probable (Romano et al. 2020, without randomisation).

    >>> scores(np.array([0.5, 0.3, 0.2]), "adaptive").round(3).tolist()
    [0.5, 0.8, 1.0]
    """
    if kind == "threshold":
        return 1.0 - p
    order = np.argsort(-p, axis=-1, kind="stable")
    mass = np.cumsum(np.take_along_axis(p, order, axis=-1), axis=-1)
    found = np.empty_like(mass)
    np.put_along_axis(found, order, mass, axis=-1)
    return found


def quantile(values: np.ndarray, coverage: float) -> float:
    """What a new value is at most, with at least this probability: the ⌈(n + 1) · coverage⌉-th smallest.

    Infinite where n values are too few (Vovk et al. 2005).

    >>> quantile(np.arange(1.0, 10.0), 0.9), quantile(np.arange(1.0, 9.0), 0.9)
    (9.0, inf)
    """
    rank = math.ceil((len(values) + 1) * coverage - 1e-9)
    return float(np.sort(values)[rank - 1]) if rank <= len(values) else math.inf


def risk_limit(doubt: np.ndarray, wrong: np.ndarray, risk: float, confidence: float = CONFIDENCE) -> float:
    """The largest doubt up to which clips may be answered so that at most `risk` of the answers are wrong.

    Numbers of answered clips are tested in fixed orders, from a quarter, half and three quarters of the clips
    on, until one fails: the binomial tail of its errors is above a third of 1 − confidence (fixed-sequence
    testing with several starts; Angelopoulos et al. 2021).

    Args:
        doubt: [n]; wrong: bool [n].

    Raises:
        ConfigError: not even the surest clips keep it.
    """
    order = np.argsort(doubt, kind="stable")
    errors, sorted_doubt = np.cumsum(wrong[order]), doubt[order]
    level = (1.0 - confidence) / 3
    passed = [
        k
        for start in (0.25, 0.5, 0.75)
        for k in takewhile(
            lambda k: _tail(int(errors[k - 1]), k, risk) <= level,
            range(math.ceil(start * len(doubt)), len(doubt) + 1),
        )
    ]
    # Equal doubts are answered together: a limit in the middle of some is the one before them.
    ends = [k for k in passed if k == len(doubt) or sorted_doubt[k] > sorted_doubt[k - 1]]
    limit = float(sorted_doubt[max(ends) - 1]) if ends else None
    if limit is None:
        raise ConfigError(
            f"--risk is {risk:g}, which no limit keeps with {confidence:.0%} confidence on the {len(doubt)} "
            "clips that it is set on; accepted is a larger one"
        )
    return limit


def _tail(errors: int, n: int, p: float) -> float:
    """P(Binomial(n, p) ≤ errors)."""
    terms = (
        math.lgamma(n + 1)
        - math.lgamma(i + 1)
        - math.lgamma(n - i + 1)
        + i * math.log(p)
        + (n - i) * math.log(1 - p)
        for i in range(errors + 1)
    )
    return min(1.0, sum(math.exp(term) for term in terms))
