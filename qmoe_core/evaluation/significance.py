"""Is a difference real? Tests, corrections for many of them, and intervals without assumptions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


def bonferroni(p: Sequence[float]) -> list[float]:
    """p-values times their number, at most 1.

    >>> bonferroni([0.01, 0.04])
    [0.02, 0.08]
    """
    return [min(1.0, value * len(p)) for value in p]


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979): as safe as Bonferroni's, never weaker.

    >>> [round(value, 4) for value in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p)
    running = 0.0
    for rank, index in enumerate(np.argsort(p, kind="stable")):
        running = max(running, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = running
    return adjusted


def brown_forsythe(a: np.ndarray, b: np.ndarray) -> float:
    """p-value of equal variances: Levene's test around the medians (Brown & Forsythe 1974), two-sided."""
    from scipy.stats import levene

    return float(levene(a, b, center="median").pvalue)


def levene(a: np.ndarray, b: np.ndarray) -> float:
    """p-value of equal variances, Levene's own test (1960): around the means, two-sided.

    What scipy, and so the paper's code, does under this name by default is `brown_forsythe`.
    """
    from scipy.stats import levene as test

    return float(test(a, b, center="mean").pvalue)


@dataclass(frozen=True)
class Paired:
    """Two classifiers on the same J folds.

    Attributes:
        n: J.
        difference: mean of a − b.
        p: of the paired t-test, two-sided; it takes the folds for independent.
        p_corrected: the same with the variance of Nadeau & Bengio (2003), for folds that share training
            clips.
        low, high: 95 % interval of the difference, with the corrected variance.
        effect: Cohen's d of the pairs: the mean difference over the deviation of the differences.
    """

    n: int
    difference: float
    p: float
    p_corrected: float
    low: float
    high: float
    effect: float


def paired(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, *, test_share: float) -> Paired:
    """Paired t-test of two lists of scores, plain and corrected for overlapping training sets.

    The t of J differences is mean / √(s² / J). Folds of one cross-validation train on mostly the same clips,
    so their scores vary together and s² / J is too small; Nadeau & Bengio (2003, "Inference for the
    Generalization Error", Eq. 12) put s² · (1 / J + n_test / n_train) in its place.

    Args:
        a, b: J scores each, in the same order of folds; at least two.
        test_share: n_test / n_train, such as 0.25 for five folds; 0 corrects nothing.

    Raises:
        ValueError: other than two or more pairs.

    >>> test = paired([0.9, 0.8, 0.85], [0.8, 0.75, 0.85], test_share=0.5)
    >>> round(test.difference, 3), round(test.effect, 3), test.p < test.p_corrected
    (0.05, 1.0, True)
    """
    from scipy.stats import t as student

    differences = np.subtract(a, b, dtype=np.float64)
    count = len(differences)
    if differences.ndim != 1 or count < 2:
        raise ValueError("a paired test needs two lists of at least two scores each")
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
    if deviation <= 1e-15:  # the same on every fold: no doubt of it, and nothing to scale by
        certain = 1.0 if mean == 0.0 else 0.0
        effect = 0.0 if mean == 0.0 else math.copysign(math.inf, mean)
        return Paired(count, mean, certain, certain, mean, mean, effect)

    def two_sided(error: float) -> float:
        return float(2.0 * student.sf(abs(mean) / error, count - 1))

    corrected = deviation * math.sqrt(1.0 / count + test_share)
    half = float(student.ppf(0.975, count - 1) * corrected)
    plain = deviation / math.sqrt(count)
    return Paired(
        count, mean, two_sided(plain), two_sided(corrected), mean - half, mean + half, mean / deviation
    )


def spearman(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Rank correlation ρ and its two-sided p; NaN for both when a list has only one value.

    >>> spearman([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 40.0, 30.0])[0].__round__(6)
    0.8
    """
    from scipy.stats import spearmanr

    if len(a) < 3 or min(np.ptp(a), np.ptp(b)) == 0.0:
        return float("nan"), float("nan")
    found: Any = spearmanr(a, b)
    return float(found.statistic), float(found.pvalue)


def resample_groups(
    groups: Sequence[str] | np.ndarray, resamples: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap of whole groups: how often each is drawn when as many are drawn as there are.

    Clips of one recording are right or wrong together; an interval that draws them one by one is too narrow.

    Args:
        groups: of each of n clips, such as its source recording; G different ones.

    Returns:
        Draws of each group, float64 [resamples, G], and the group of each clip, int64 [n].
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    generator = np.random.default_rng(seed)
    share = np.full(len(names), 1.0 / len(names))
    return generator.multinomial(len(names), share, size=resamples).astype(np.float64), member


def bootstrap_interval(
    samples: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap of a statistic of independent samples (Efron 1979).

    Args:
        samples: [n, ...], resampled along the first axis.
        statistic: takes [resamples, n, ...] and gives [resamples].
        level: of confidence.

    Returns:
        Lower and upper end.
    """
    generator = np.random.default_rng(seed)
    index = generator.integers(0, len(samples), size=(resamples, len(samples)))
    values = statistic(samples[index])
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)
