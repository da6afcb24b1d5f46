"""Does the uncertainty know? Abstaining, finding errors, and the clips worth listening to.

An uncertainty is any number that is larger the less a clip's answer should be trusted. It is judged by
what happens when the clips where it is large are left unanswered (risk against coverage; Geifman & El-Yaniv
2017), and by how well it tells wrong answers from right ones (area under the ROC curve).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qmoe_core.bundles import Bundle
from qmoe_core.evaluation.significance import resample_groups
from qmoe_core.routing.mixing import Mixed, Settings

MEASURES = {
    "total": "H(q̄): entropy of the experts' mean distribution",
    "aleatoric": "mean H(q_i): how unsure the experts are on average",
    "epistemic": "H(q̄) − mean H(q_i): how much the experts disagree",
    "router_variance": "mean over experts of the variance of r over the MC-dropout passes",
    "router_mutual_information": "H(r̄) − mean H(r⁽ˢ⁾): how much the router's passes disagree",
    "doubt": "1 − the mixture's largest probability",
}


def uncertainties(mixed: Mixed) -> dict[str, np.ndarray]:
    """Every uncertainty of `MEASURES` for every clip, float64 [n] each."""
    return {
        "total": mixed.total,
        "aleatoric": mixed.aleatoric,
        "epistemic": mixed.epistemic,
        "router_variance": mixed.router_variance,
        "router_mutual_information": mixed.router_mutual_information,
        "doubt": 1.0 - mixed.probabilities.max(axis=-1),
    }


@dataclass(frozen=True)
class RiskCoverage:
    """What is left wrong when only the k surest clips are answered, k = 1 … n; float64 [n] each.

    Clips that are equally sure cannot be told apart: within such a group the errors are spread evenly,
    so that the curve does not depend on the order of the clips.

    Attributes:
        coverage: k / n; risk: expected share of errors among the k.
        threshold: uncertainty of the k-th surest clip: answer what is at most this.
    """

    coverage: np.ndarray
    risk: np.ndarray
    threshold: np.ndarray

    @property
    def aurc(self) -> float:
        """Area under the curve, the mean risk; lower is better."""
        return float(self.risk.mean())

    @property
    def excess_aurc(self) -> float:
        """AURC above that of the best curve there could be (Geifman et al. 2019); 0 is perfect."""
        return self.aurc - float(self.best.mean())

    @property
    def errors(self) -> int:
        """Clips that are wrong when all are answered."""
        return round(float(self.risk[-1]) * len(self.risk))

    @property
    def best(self) -> np.ndarray:
        """Risk of an uncertainty that puts every error last, float64 [n]: what no curve can beat."""
        n = len(self.risk)
        k = np.arange(1, n + 1)
        return np.maximum(k - (n - self.errors), 0) / k

    def at(self, threshold: float) -> Answered:
        """What happens when clips of at most this uncertainty are answered."""
        answered = int(np.searchsorted(self.threshold, threshold, side="right"))
        risk = float(self.risk[answered - 1]) if answered else None
        return Answered(threshold, answered, answered / len(self.risk), risk)

    def within(self, risk: float) -> Answered | None:
        """The most clips that can be answered with at most this share of errors; None if not even one."""
        last_of_group = np.append(self.threshold[1:] > self.threshold[:-1], True)
        allowed = np.flatnonzero(last_of_group & (self.risk <= risk + 1e-12))
        return self.at(float(self.threshold[allowed[-1]])) if len(allowed) else None


@dataclass(frozen=True)
class Answered:
    """An abstain threshold and what it does.

    Attributes:
        threshold: clips of at most this uncertainty are answered.
        clips: how many; coverage: their share.
        risk: share of errors among them; None when none is answered.
    """

    threshold: float
    clips: int
    coverage: float
    risk: float | None


def risk_coverage(uncertainty: np.ndarray, correct: np.ndarray) -> RiskCoverage:
    """The risk–coverage curve.

    Args:
        uncertainty: [n], larger is less sure; correct: bool [n]; n at least 1.
    """
    order = np.argsort(uncertainty, kind="stable")
    threshold = np.asarray(uncertainty, np.float64)[order]
    wrong = ~correct[order]
    _, group, sizes = np.unique(threshold, return_inverse=True, return_counts=True)
    expected = np.bincount(group, wrong)[group] / sizes[group]
    k = np.arange(1, len(order) + 1)
    return RiskCoverage(k / len(order), np.cumsum(expected) / k, threshold)


@dataclass(frozen=True)
class Auroc:
    """How well an uncertainty tells positives (errors, or strange clips) from negatives.

    Attributes:
        auroc: chance that a random positive is more uncertain than a random negative; 0.5 knows nothing.
        low, high: 95 % bootstrap interval over recordings.
        positives, negatives: how many clips.
    """

    auroc: float
    low: float
    high: float
    positives: int
    negatives: int


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: P(score of a positive > of a negative), equal ones counting half.

    Args:
        score: [n]; positive: bool [n], some of each.

    >>> auroc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]))
    0.875
    """
    return float(_auroc(score, positive, np.ones((1, len(score))))[0])


def _auroc(score: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUROC of each row of weights [R, n] (how often a clip was drawn) → [R]."""
    _, group = np.unique(score, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    drawn = weights[:, order]
    of_positives = np.add.reduceat(drawn * positive[order], starts, axis=1)
    of_negatives = np.add.reduceat(drawn * ~positive[order], starts, axis=1)
    below = np.cumsum(of_negatives, axis=1) - 0.5 * of_negatives
    return (of_positives * below).sum(axis=1) / (of_positives.sum(axis=1) * of_negatives.sum(axis=1))


RESAMPLES = 1000


def drawn(sources: Sequence[str] | np.ndarray, *, seed: int = 0) -> np.ndarray:
    """How often each clip is drawn when whole recordings are, with replacement: float64 [RESAMPLES, n].

    Clips that were cut from one recording are alike, so that clips are not drawn apart.

    Args:
        sources: the recording that each clip was cut from, n of them.
    """
    draws, recording = resample_groups(sources, RESAMPLES, seed)
    return draws[:, recording]


def interval(resampled: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a bootstrap's values [R], those that are not numbers left out."""
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def resampled(
    values: np.ndarray, sources: Sequence[str] | np.ndarray, among: np.ndarray | None = None
) -> tuple[float, tuple[float, float]]:
    """A mean over clips with its 95 % interval over recordings; NaN where there are no clips.

    Args:
        values: [n]; sources: recordings [n]; among: the clips to take, bool [n], all when None.
    """
    taken = np.ones(len(values), bool) if among is None else among
    if not taken.any():
        return float("nan"), (float("nan"), float("nan"))
    weights = drawn(sources) * taken
    there = weights.sum(axis=1)
    means = (weights * values).sum(axis=1) / np.where(there, there, np.nan)
    return float(values[taken].mean()), interval(means)


def detection(
    scores: dict[str, np.ndarray],
    positive: np.ndarray,
    sources: Sequence[str] | np.ndarray | None = None,
    *,
    seed: int = 0,
) -> dict[str, Auroc] | None:
    """How well each uncertainty finds the positives, with intervals.

    Args:
        scores: uncertainties by name, [n] each; positive: bool [n].
        sources: the recording that each clip was cut from: they are resampled, alike for all scores. None
            takes each clip for a recording.

    Returns:
        By name; None when there are no positives, or nothing else.
    """
    there, n = int(positive.sum()), len(positive)
    if there in (0, n):
        return None
    weights = drawn(np.arange(n) if sources is None else sources, seed=seed)
    some = (weights[:, positive].sum(axis=1) > 0) & (weights[:, ~positive].sum(axis=1) > 0)
    weights = weights[some]
    found = {}
    for name, score in scores.items():
        low, high = interval(_auroc(score, positive, weights))
        found[name] = Auroc(auroc(score, positive), low, high, there, n - there)
    return found


def finds(bundle: Bundle, settings: Settings) -> dict[str, Auroc] | None:
    """How well each uncertainty of a mixture finds its errors on a bundle's clips, out of fold.

    Returns:
        By name; None without out-of-fold predictions, or where all are right, or none.
    """
    data, mixed = bundle.dataset, bundle.reference(settings)
    if data is None or mixed is None:
        return None
    wrong = mixed.probabilities.argmax(axis=-1) != data.labels
    return detection(uncertainties(mixed), wrong, [clip.source for clip in data.clips])


@dataclass(frozen=True)
class Notable:
    """Clips worth a look, as indices, the most notable first; int64 [at most k] each.

    Attributes:
        uncertain: largest total uncertainty.
        disputed: the experts name the most different classes; of equals the larger epistemic uncertainty.
        confidently_wrong: wrong answers, by the probability that was given them.
    """

    uncertain: np.ndarray
    disputed: np.ndarray
    confidently_wrong: np.ndarray


def notable(mixed: Mixed, labels: np.ndarray, k: int = 20) -> Notable:
    """The most uncertain, the most disputed and the most confidently wrong of some clips.

    Args:
        mixed: leading axis n; labels: int [n].
        k: at most how many of each.
    """
    named = np.sort(mixed.q.argmax(axis=-1), axis=-1)
    opinions = 1 + (np.diff(named, axis=-1) != 0).sum(axis=-1)
    disputed = np.lexsort((-mixed.epistemic, -opinions))
    disputed = disputed[opinions[disputed] > 1]
    sure = np.argsort(-mixed.probabilities.max(axis=-1), kind="stable")
    wrong = mixed.probabilities.argmax(axis=-1) != labels
    return Notable(np.argsort(-mixed.total, kind="stable")[:k], disputed[:k], sure[wrong[sure]][:k])
