"""What an answer promises, set on clips that were judged out of fold: limits of doubt, and prediction sets.

All bounds are of finite samples and need only that new clips are like the ones that set them. Doubt is
1 − max p, p the mixture's class probabilities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Literal

import numpy as np

from qmoe_core.bundles import Bundle
from qmoe_core.decision import Classification
from qmoe_core.errors import BundleError, ConfigError
from qmoe_core.routing.mixing import Settings

Score = Literal["threshold", "adaptive"]
COVERAGE = 0.9
"""Of prediction sets, where nothing else is asked for."""
CONFIDENCE = 0.95
"""That a risk is kept."""


@dataclass(frozen=True)
class Limits:
    """What is answered, and which labels a prediction set holds.

    Attributes:
        doubt: an answer whose doubt is above it is withheld; 1 withholds none.
        score: the largest conformal score of a label in a prediction set; coverage: how often sets hold the
            true label, at least.
        promise: what the limit of doubt was set for, in words; empty where it withholds none.
    """

    doubt: float
    score: float
    coverage: float
    promise: str = ""

    def applied(self, result: Classification) -> Classification:
        """A recording's result with its prediction set, and the reason where its answer is withheld."""
        whole, reason = result.whole, ""
        if whole.doubt > self.doubt:
            reason = f"The doubt, {whole.doubt:.3f}, is above {self.doubt:.3f}: {self.promise}."
        found = tuple(self.labels(whole.probabilities, whole.classes))
        return replace(result, reason=reason, prediction_set=found, coverage=self.coverage)

    def labels(self, probabilities: np.ndarray, classes: tuple[str, ...]) -> list[str]:
        """The prediction set of one clip, the most probable label first."""
        held = scores(probabilities) <= self.score
        return [classes[i] for i in np.argsort(-probabilities, kind="stable") if held[i]]


def limits(
    bundle: Bundle, settings: Settings, *, coverage: float | None = None, risk: float | None = None
) -> Limits | None:
    """Limits from a bundle's out-of-fold predictions, mixed by these settings.

    Args:
        coverage: the share of clips to answer, at least; of prediction sets, too (default 0.9).
        risk: the share of errors among the answers, at most, with 95 % confidence.

    Returns:
        None where the bundle carries no such predictions, and nothing is asked for.

    Raises:
        ConfigError: both are asked for, or one is not between 0 and 1, or no limit keeps the risk.
        BundleError: something is asked for, and the bundle carries no out-of-fold predictions.
    """
    for name, value in (("coverage", coverage), ("risk", risk)):
        if value is not None and not 0.0 < value < 1.0:
            raise ConfigError(f"--{name} is {value:g}; accepted is more than 0 and less than 1")
    if coverage is not None and risk is not None:
        raise ConfigError("--coverage and --risk are two limits; give one of them")
    data = bundle.dataset
    mixed = bundle.reference(settings)
    if data is None or mixed is None:
        if coverage is None and risk is None:
            return None
        raise BundleError(
            f"bundle {bundle.name} carries no out-of-fold predictions, which --coverage and --risk are set "
            "from; take one that was made with: qmoe train DATASET --bundle NAME"
        )
    p, labels = mixed.probabilities, data.labels
    doubt, promise = 1.0, ""
    if coverage is not None:
        doubt = quantile(1.0 - p.max(axis=-1), coverage)
        promise = f"{coverage:.0%} of clips like those of {bundle.provenance.dataset} are answered"
    elif risk is not None:
        doubt = risk_limit(1.0 - p.max(axis=-1), p.argmax(axis=-1) != labels, risk)
        promise = (
            f"at most {risk:.1%} of the answers on clips like those of {bundle.provenance.dataset} are wrong"
        )
    sets = COVERAGE if coverage is None else coverage
    own = np.take_along_axis(scores(p), labels[:, None], axis=-1)[:, 0]
    return Limits(doubt, quantile(own, sets), sets, promise)


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
