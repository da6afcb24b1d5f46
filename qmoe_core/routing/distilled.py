"""Distilled curiosity: the bonus of Eq. 8 without running every expert.

Eq. 8 needs every expert's output, which is what a mixture was meant to save. Here one cheap expert runs,
and a small head predicts from what it says, and from the router's distribution r, the disagreement d_i of
every expert of the mixture. The routing is r_i^c ∝ r_i · exp(α · d̂_i); only the experts that it chooses
run besides.

The head is a ridge regression of log d_i on five kinds of numbers (`features`), in closed form, so that any
mixture and any cheap expert has its own in milliseconds. It learns from out-of-fold outputs: what experts
said of clips that they had not seen. Folds have experts of their own, trained for longer or shorter, whose
disagreement is larger or smaller as a whole; slopes are therefore learned within folds, the level over all.

A prediction never exceeds the largest d_i that was learned from. So there are clips on which no prediction
could change who answers, because the router prefers one expert by more than α times that (`worth_asking`):
there even the cheap expert need not run, and the routing stays the router's. At the paper's α those are
nearly all clips (claims 31).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qmoe_core.errors import BundleError
from qmoe_core.experts.spec import CHEAPEST_FIRST, head_of
from qmoe_core.routing.uncertainty import TINY
from qmoe_core.runtime import machine_code

FLOOR = 1e-12
"""Probabilities and entropies below this are alike to the head."""
SMALLEST = 1e-5
"""Nats; smaller disagreement is no disagreement, so that log d_i has an end."""
RIDGE = 10.0
"""Penalty on the slopes of standardised features, as if ten clips had said that there is none."""
RIDGE_APART = 1000.0
"""The same on differences between experts, which are small, uncertain, and all that moves a routing."""
GROUPS = 5
"""Parts that clips without folds are divided into, to hold one out after the other."""


def cheapest(experts: tuple[str, ...]) -> str:
    """The expert with the fastest head.

    >>> cheapest(("q8", "bitnet", "q4"))
    'bitnet'
    """
    return min(experts, key=lambda name: CHEAPEST_FIRST.index(head_of(name)))


@machine_code.broadcasting("(c)->(),(),()")
def _confidence(logits, margin, doubt, uncertainty):
    """The largest logit minus the second, log(1 − max q), log H(q): [..., C] → three of [...]; NaN of NaN."""
    if np.isnan(logits[0]):
        margin[0], doubt[0], uncertainty[0] = np.nan, np.nan, np.nan
        return
    best, second = -np.inf, -np.inf
    for c in range(logits.size):
        second = max(second, min(logits[c], best))
        best = max(best, logits[c])
    total = 0.0
    for c in range(logits.size):
        total += np.exp(logits[c] - best)
    entropy = 0.0
    for c in range(logits.size):
        q = np.exp(logits[c] - best) / total
        entropy -= q * np.log(max(q, FLOOR))
    margin[0] = best - second
    doubt[0] = np.log(max(1.0 - 1.0 / total, FLOOR))
    uncertainty[0] = np.log(max(entropy, FLOOR))


def features(logits: np.ndarray, r: np.ndarray) -> np.ndarray:
    """What the head looks at: how sure the cheap expert is, in three ways, and where the router would go.

    Args:
        logits: the cheap expert's, [..., C].
        r: the router's distribution over the mixture, [..., N].

    Returns:
        [..., 3 + N]: the largest logit minus the second, log(1 − max q), log H(q), and r.
    """
    found = np.empty((*r.shape[:-1], 3 + r.shape[-1]))
    found[..., 0], found[..., 1], found[..., 2] = _confidence(logits)
    found[..., 3:] = r
    return found


def _log(x: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(x, FLOOR))


@dataclass(frozen=True)
class Predicted:
    """Predicted disagreement of some clips.

    Attributes:
        d: d̂_i, nats [..., N].
        ceiling: what no prediction exceeds, [N] or one for every clip [..., N].
    """

    d: np.ndarray
    ceiling: np.ndarray


@dataclass(frozen=True)
class Head:
    """Predicts every expert's disagreement: log d̂_i = w_i · features + b_i, at most log ceiling_i.

    Attributes:
        cheap: the expert whose output it reads; experts: the N of the mixture that it predicts.
        weights: float64 [F, N]; intercept, ceiling: float64 [N].
    """

    cheap: str
    experts: tuple[str, ...]
    weights: np.ndarray
    intercept: np.ndarray
    ceiling: np.ndarray

    def __call__(self, logits: np.ndarray, r: np.ndarray) -> Predicted:
        """Predict from the cheap expert's logits [..., C] and the router's distribution [..., N]."""
        level = features(logits, r) @ self.weights + self.intercept
        return Predicted(np.minimum(np.exp(np.minimum(level, 700.0)), self.ceiling), self.ceiling)


@dataclass(frozen=True)
class Lessons:
    """What a head learns from: n clips, each judged by experts that had not seen it.

    Attributes:
        cheap: the expert that is to run; experts: the N of the mixture.
        logits: the cheap expert's, [n, C].
        r: the router's distribution, [n, N]; d: the true disagreement, nats [n, N].
        group: int [n], the fold whose experts judged the clip.
    """

    cheap: str
    experts: tuple[str, ...]
    logits: np.ndarray
    r: np.ndarray
    d: np.ndarray
    group: np.ndarray

    def of(self, clips: np.ndarray) -> Lessons:
        """Only these clips, bool [n]."""
        return Lessons(
            self.cheap, self.experts, self.logits[clips], self.r[clips], self.d[clips], self.group[clips]
        )


def fit(lessons: Lessons) -> Head:
    """Learn a head: what the experts have in common first, then what tells them apart."""
    d, x = lessons.d, features(lessons.logits, lessons.r)
    mean, std = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-9)
    x = (x - mean) / std
    within_x, within_y = (_centred(values, lessons.group) for values in (x, np.log(d + SMALLEST)))
    common = within_y.mean(axis=1, keepdims=True)
    slopes = _ridge(within_x, common, RIDGE) + _ridge(within_x, within_y - common, RIDGE_APART)
    weights = np.ascontiguousarray(slopes / std[:, None])
    level = _level(np.exp(x @ slopes), d, lessons.group)
    return Head(lessons.cheap, lessons.experts, weights, level - mean @ weights, d.max(axis=0))


def _ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    return np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)


def _level(shape: np.ndarray, d: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The factor from `shape` to d, both [n, N], as logarithms [N].

    exp of a mean logarithm is too small a mean, so it is the means that are made to agree (Duan 1983). An
    expert's factor differs from the others' only as far as the groups agree that it does: differences are
    shrunk by the part of their size that their scatter over groups explains (James & Stein 1961).
    """
    level = _log(d.mean(axis=0)) - np.log(shape.mean(axis=0))
    numbers = np.unique(group)
    if len(numbers) == 1:
        return level
    each = np.stack(
        [_log(d[group == g].mean(axis=0)) - np.log(shape[group == g].mean(axis=0)) for g in numbers]
    )
    apart = each - each.mean(axis=1, keepdims=True)
    noise = apart.var(axis=0, ddof=1).mean() / len(numbers)
    size = np.square(apart.mean(axis=0)).sum() / max(d.shape[1] - 1, 1)
    kept = max(1.0 - noise / max(size, TINY), 0.0)
    return level.mean() + kept * (level - level.mean())


def _centred(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Each group's values minus their mean: [n, F] → [n, F]."""
    number = np.unique(group, return_inverse=True)[1]
    sums = np.zeros((number.max() + 1, values.shape[1]))
    np.add.at(sums, number, values)
    return values - (sums / np.bincount(number)[:, None])[number]


def out_of_fold(lessons: Lessons) -> Predicted:
    """What heads say of clips that they did not learn from: one for each group, learned from the others.

    Returns:
        d and ceiling [n, N].

    Raises:
        BundleError: fewer than two groups.
    """
    numbers = np.unique(lessons.group)
    if len(numbers) < 2:
        raise BundleError(
            "distilled curiosity needs clips of at least two folds or recordings, to learn from one and "
            "predict the other; here there is one"
        )
    predicted, ceiling = np.empty_like(lessons.d), np.empty_like(lessons.d)
    for number in numbers:
        held = lessons.group == number
        head = fit(lessons.of(~held))
        predicted[held] = head(lessons.logits[held], lessons.r[held]).d
        ceiling[held] = head.ceiling
    return Predicted(predicted, ceiling)


def groups(folds: np.ndarray, sources: Sequence[str]) -> np.ndarray:
    """What to hold out together: the folds, or five parts of whole recordings where there are no folds.

    Args:
        folds: int [n]; sources: the recording that each clip was cut from, n names.

    Returns:
        int [n].

    >>> groups(np.array([0, 0, 0]), ["a", "b", "a"]).tolist()
    [0, 1, 0]
    """
    if len(np.unique(folds)) > 1:
        return folds
    return np.unique(sources, return_inverse=True)[1] % GROUPS


def worth_asking(r: np.ndarray, ceiling: np.ndarray, alpha: float | np.ndarray, k: int) -> np.ndarray:
    """Whether a prediction could change who answers, so that the cheap expert has to run.

    With k = 1 it could where another expert may overtake the router's choice: log r_j + α · ceiling_j is at
    least the choice's log r. With more than one, their shares follow the prediction, so it always can.

    Args:
        r: the router's distribution, [..., N]; ceiling: what no d̂_i exceeds, [N] or [..., N].
        alpha: α, one number or an array that broadcasts against the axes before N; k: how many answer.

    Returns:
        bool [...].
    """
    return _may_change(r, ceiling, alpha, k) > 0.0


@machine_code.broadcasting("(n),(n),(),()->()")
def _may_change(r, ceiling, alpha, k, out):
    best = 0
    for i in range(1, r.size):
        if r[i] > r[best]:
            best = i
    rival = -np.inf
    for i in range(r.size):
        if i != best:
            rival = max(rival, np.log(max(r[i], TINY)) + alpha * ceiling[i])
    open_ = k > 1.0 or rival >= np.log(max(r[best], TINY))
    out[0] = 1.0 if open_ and alpha > 0.0 and r.size > 1 else 0.0
