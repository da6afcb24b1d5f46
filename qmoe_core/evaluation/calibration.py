"""Does 80 % mean eight times in ten? Reliability, and scores of the whole distribution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 15
"""As many as Guo et al. (2017) use."""


@dataclass(frozen=True)
class Reliability:
    """Stated probability against how often it was right, in B bins of equal width; [..., B] each.

    Attributes:
        edges: [B + 1], 0 to 1; a bin has its lower edge and lacks its upper one, the last has both.
        count: clips in the bin.
        confidence: their mean stated probability; accuracy: share of them that was right. NaN in empty bins.
    """

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def gap(self) -> np.ndarray:
        """|accuracy − confidence| of each bin, 0 in empty ones."""
        return np.nan_to_num(np.abs(self.accuracy - self.confidence))

    @property
    def ece(self) -> np.ndarray:
        """Expected calibration error [...]: the mean gap, weighted with the clips; 0 to 1."""
        return (self.gap * self.count).sum(axis=-1) / self.count.sum(axis=-1)

    @property
    def mce(self) -> np.ndarray:
        """Maximum calibration error [...]: the widest gap of a bin."""
        return self.gap.max(axis=-1)


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Reliability:
    """Sort clips by how sure the classifier said it was.

    Args:
        confidence: probability of the predicted class, [..., n], 0 to 1.
        correct: whether the prediction was right, bool [..., n].
        bins: B.

    Returns:
        [..., B]; leading axes (values of α, say) are kept apart.
    """
    leading = confidence.shape[:-1]
    stated = confidence.reshape(-1, confidence.shape[-1])
    right = np.broadcast_to(correct, confidence.shape).reshape(stated.shape)
    place = np.minimum((stated * bins).astype(np.int64), bins - 1)
    place += bins * np.arange(len(stated))[:, None]

    def total(weights: np.ndarray | None) -> np.ndarray:
        weights = None if weights is None else weights.ravel()
        return np.bincount(place.ravel(), weights, bins * len(stated)).reshape(*leading, bins)

    count = total(None)
    with np.errstate(invalid="ignore"):
        return Reliability(
            edges=np.linspace(0.0, 1.0, bins + 1),
            count=count,
            confidence=total(stated) / count,
            accuracy=total(right.astype(np.float64)) / count,
        )


def expected_ece(confidence: np.ndarray, *, draws: int = 200, seed: int = 0) -> float:
    """The ECE that perfect calibration would show with these n clips: noise alone makes some.

    Args:
        confidence: probability of the predicted class [n]; each draw is right as often as it says.
    """
    generator = np.random.default_rng(seed)
    right = generator.random((draws, len(confidence))) < confidence
    return float(reliability(np.broadcast_to(confidence, right.shape), right).ece.mean())


def brier(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Brier score (1950): mean squared distance of the distribution from the truth, 0 to 2.

    Args:
        probabilities: [n, C]; labels: int [n].

    >>> brier(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([0, 0]))
    0.25
    """
    truth = np.eye(probabilities.shape[-1])[labels]
    return float(((probabilities - truth) ** 2).sum(axis=-1).mean())


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean −log probability of the true class, nats; a probability of 0 counts as the smallest float.

    Args:
        probabilities: [n, C]; labels: int [n].
    """
    stated = np.take_along_axis(probabilities, labels[:, None], axis=-1)
    return float(-np.log(np.maximum(stated, np.finfo(np.float64).tiny)).mean())
