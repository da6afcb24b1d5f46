"""The cascade over clips that were judged out of fold: what asking more costs, and what it is worth.

A cascade asks its experts in order, the next one while the doubt 1 − max q of the last answer is above a
threshold; the last one asked answers. Beside every threshold stand asking as many clips at random, an oracle
that asks only where it helps, and each expert alone. What is reported of a threshold
is of clips of other folds than those it was chosen on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from qmoe_core import serve
from qmoe_core.audio.decode import SAMPLE_RATE, WINDOW_SAMPLES
from qmoe_core.bundles import Bundle, BundleDataset
from qmoe_core.errors import BundleError, ConfigError
from qmoe_core.evaluation.classification import weighted_f1
from qmoe_core.evaluation.selective import resampled
from qmoe_core.evaluation.sweep import judged
from qmoe_core.routing import mixing
from qmoe_core.routing.distilled import groups
from qmoe_core.routing.mixing import Outputs, Settings
from qmoe_core.routing.uncertainty import softmax

MARGIN = 0.005
"""As good as the best: at most this much less accurate."""
CALLS = 30
"""Timed calls of an embedder; of a head, ten times as many."""
POINTS = 41
"""Thresholds on a curve."""


@dataclass(frozen=True)
class SingleExpert:
    """An expert alone: mean cost of its whole path, microseconds a clip, and accuracy."""

    name: str
    cost_us: float
    accuracy: float


@dataclass(frozen=True)
class CascadePoint:
    """The cascade at a threshold of doubt; asked: share of clips for which more than the first expert ran."""

    threshold: float
    asked: float
    accuracy: float
    f1: float
    cost_us: float


@dataclass(frozen=True)
class ReferencePoint:
    """Asking at random, or the oracle."""

    asked: float
    accuracy: float
    cost_us: float


@dataclass(frozen=True)
class EqualAccuracy:
    """The cascade at thresholds chosen on other folds to be as good as the best expert, held out.

    Attributes:
        margin: how much less accurate an expert may be to be as good; accuracy, cost_us: of the cascade.
        single: the cheapest expert that is as good.
        cost_ratio: the cascade's mean cost over that expert's; ci95: bootstrapped over recordings.
        difference: of accuracy from the best expert; difference_ci95: likewise.
        over_random: accuracy above asking as many at random; over_random_ci95: likewise.
    """

    margin: float
    accuracy: float
    cost_us: float
    single: str
    cost_ratio: float
    ci95: tuple[float, float]
    difference: float
    difference_ci95: tuple[float, float]
    over_random: float
    over_random_ci95: tuple[float, float]


@dataclass(frozen=True)
class FrontGain:
    """The cascade above the front of single experts, at thresholds chosen on other folds to be most above it.

    Attributes:
        accuracy, cost_us: of the cascade there; gain: its accuracy above the best single expert of at most
            its mean cost; ci95: over recordings.
    """

    accuracy: float
    cost_us: float
    gain: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class CascadeSweep:
    """`qmoe sweep cascade`: see the parts."""

    experts: tuple[SingleExpert, ...]
    curve: tuple[CascadePoint, ...]
    random: tuple[ReferencePoint, ...]
    oracle: ReferencePoint
    best_single: SingleExpert
    equal_accuracy: EqualAccuracy
    front_gain: FrontGain

    def to_json(self) -> dict[str, Any]:
        """The part of the document that the sweep determines."""
        return asdict(self)


@dataclass(frozen=True)
class PathCosts:
    """What a clip takes: microseconds of each embedder and of each expert's head, by name.

    >>> costs = PathCosts({"q1": "a", "q8": "a", "x": "b"}, {"a": 9, "b": 5, "q1": 1, "q8": 2, "x": 3})
    >>> costs.cumulative(("q1", "q8", "x")).tolist()
    [10.0, 12.0, 20.0]
    """

    embedder_of: Mapping[str, str]
    us: Mapping[str, float]

    def alone(self, expert: str) -> float:
        """Of an expert's whole path."""
        return float(self.us[self.embedder_of[expert]] + self.us[expert])

    def cumulative(self, experts: Sequence[str]) -> np.ndarray:
        """When the first 1 … N experts have run, [N]: an embedder that several share runs once."""
        used = [
            {*experts[: i + 1], *(self.embedder_of[name] for name in experts[: i + 1])}
            for i in range(len(experts))
        ]
        return np.array([sum(self.us[part] for part in parts) for parts in used], float)


def cascade_sweep(
    outputs: Outputs,
    labels: np.ndarray,
    settings: Settings,
    path: PathCosts,
    folds: np.ndarray,
    sources: Sequence[str],
) -> CascadeSweep:
    """The cascade at every threshold, and what stands beside it.

    Args:
        outputs: out of fold, leading axis n; labels: int [n].
        settings: the experts in the order in which they are asked; its threshold is not used.
        path: what each embedder and head takes.
        folds: int [n], thresholds are chosen on others (or on other recordings, where there is one).
        sources: the recording that each clip was cut from: intervals resample recordings.

    Raises:
        ConfigError: fewer than two experts.
    """
    experts = settings.experts
    if len(experts) < 2:
        raise ConfigError("a cascade has two or more experts; give --experts, the cheapest first")
    n, every = len(labels), np.arange(len(labels))
    q = softmax(outputs.of(experts).logits)
    alone = q.argmax(axis=-1) == labels[:, None]
    doubt = 1.0 - q[:, :-1].max(axis=-1)
    levels = np.unique([0.0, *np.quantile(doubt, np.linspace(0.0, 1.0, POINTS - 1))])[::-1]
    mixed = [mixing.mix(outputs, replace(settings, curiosity="cascade", ask_above=float(t))) for t in levels]
    runs = np.stack([one.runs for one in mixed])
    called = np.stack([one.probabilities.argmax(axis=-1) for one in mixed])
    right, cost = called == labels, path.cumulative(experts)
    # At random: as many clips end with each expert, whichever clips they are.
    share = np.stack([(runs == i + 1).mean(axis=1) for i in range(len(experts))], axis=1)
    by_chance = share @ alone.T
    singles = tuple(
        SingleExpert(name, path.alone(name), float(accuracy))
        for name, accuracy in zip(experts, alone.mean(axis=0), strict=True)
    )
    best = max(singles, key=lambda single: (single.accuracy, -single.cost_us))
    first = np.where(alone.any(axis=1), alone.argmax(axis=1), 0)
    # Thresholds are chosen on other folds than the one whose clips they judge.
    chosen = np.zeros(n, int)
    group = groups(folds, sources)
    above, rival = np.zeros(n, int), np.zeros(n, int)
    for number in np.unique(group):
        held, others = group == number, group != number
        chosen[held] = choose(right[:, others], alone[others])
        above[held], rival[held] = _most_above(
            right[:, others], cost[runs[:, others] - 1].mean(axis=1), alone[others], singles
        )
    gain, gain_ci95 = resampled(right[above, every] * 1.0 - alone[every, rival], sources)
    return CascadeSweep(
        experts=singles,
        curve=tuple(
            CascadePoint(
                threshold=float(level),
                asked=float((runs[t] > 1).mean()),
                accuracy=float(right[t].mean()),
                f1=weighted_f1(labels, called[t]),
                cost_us=float(cost[runs[t] - 1].mean()),
            )
            for t, level in enumerate(levels)
        ),
        random=tuple(
            ReferencePoint(
                float((runs[t] > 1).mean()), float(by_chance[t].mean()), float(cost[runs[t] - 1].mean())
            )
            for t in range(len(levels))
        ),
        oracle=ReferencePoint(
            float((first > 0).mean()), float(alone.any(axis=1).mean()), float(cost[first].mean())
        ),
        best_single=best,
        equal_accuracy=_equal_accuracy(
            singles,
            best,
            alone,
            right[chosen, every],
            by_chance[chosen, every],
            cost[runs[chosen, every] - 1],
            sources,
        ),
        front_gain=FrontGain(
            float(right[above, every].mean()),
            float(cost[runs[above, every] - 1].mean()),
            gain,
            gain_ci95,
        ),
    )


def _most_above(
    right: np.ndarray, cost: np.ndarray, alone: np.ndarray, singles: Sequence[SingleExpert]
) -> tuple[int, int]:
    """The threshold at which the cascade is most above the best expert of at most its cost, and that expert.

    Args:
        right: [T, n]; cost: mean of each threshold [T]; alone: [n, N].
    """
    accuracy, own = alone.mean(axis=0), np.array([single.cost_us for single in singles])
    allowed = own <= cost[:, None] + 1e-9
    best = np.where(allowed, accuracy, -1.0).argmax(axis=1)
    gains = np.where(allowed.any(axis=1), right.mean(axis=1) - accuracy[best], -1.0)
    most = int(gains.argmax())
    return most, int(best[most])


def choose(right: np.ndarray, alone: np.ndarray, margin: float = 0.0) -> int:
    """The threshold of least cost at which the cascade is as good as the best expert on some clips.

    On other clips it will be a little worse: that is what `MARGIN` has room for.

    Args:
        right: whether its answer is right at each of T thresholds, the largest first, [T, n].
        alone: whether each expert is right, [n, N].
    """
    good = right.mean(axis=1) >= alone.mean(axis=0).max() - margin - 1e-12
    return int(good.argmax()) if good.any() else len(right) - 1


def _equal_accuracy(
    singles: Sequence[SingleExpert],
    best: SingleExpert,
    alone: np.ndarray,
    right: np.ndarray,
    by_chance: np.ndarray,
    cost: np.ndarray,
    sources: Sequence[str],
) -> EqualAccuracy:
    """The held-out cascade against the best expert, the cheapest that is as good, and asking at random."""
    rival = min(
        (single for single in singles if single.accuracy >= best.accuracy - MARGIN - 1e-12),
        key=lambda single: single.cost_us,
    )
    of_best = alone[:, [single.name for single in singles].index(best.name)]
    figures = {
        "cost_ratio": cost / rival.cost_us,
        "difference": right * 1.0 - of_best,
        "over_random": right - by_chance,
    }
    found = {}
    for name, values in figures.items():
        found[name], found["ci95" if name == "cost_ratio" else f"{name}_ci95"] = resampled(values, sources)
    return EqualAccuracy(
        margin=MARGIN, accuracy=float(right.mean()), cost_us=float(cost.mean()), single=rival.name, **found
    )


def full_name(loaded: Sequence[Bundle], bundle: Bundle, expert: str) -> str:
    """An expert's name among those of several bundles: of all but the first, `EMBEDDER.EXPERT`."""
    return expert if bundle is loaded[0] else f"{bundle.embedder.partition('@')[0]}.{expert}"


def default_experts(loaded: Sequence[Bundle]) -> tuple[str, ...]:
    """The experts of a cascade when none are named: the mixture of one bundle, or q8 of each of several."""
    if len(loaded) == 1:
        return loaded[0].settings().experts
    return tuple(
        full_name(loaded, bundle, "q8" if "q8" in bundle.experts else bundle.experts[0]) for bundle in loaded
    )


def joined(loaded: Sequence[Bundle]) -> tuple[Outputs, BundleDataset]:
    """Out-of-fold outputs of the experts of several bundles, made from the same clips in the same folds.

    Returns:
        Outputs of all experts (see `full_name`), and the first bundle's dataset.

    Raises:
        BundleError: a bundle without out-of-fold outputs, or of other clips, classes or folds.
    """
    first = judged(loaded[0])
    order = {clip.name: i for i, clip in enumerate(first.clips)}
    names: list[str] = []
    logits = []
    for bundle in loaded:
        data = judged(bundle)
        try:
            place = np.argsort([order[clip.name] for clip in data.clips])
        except KeyError as error:
            raise BundleError(
                f"bundle {bundle.name}: the clip {error} is not one of {loaded[0].name}"
            ) from None
        same = len(place) == len(order) and bundle.classes == loaded[0].classes
        if not same or (data.labels[place] != first.labels).any() or (data.folds[place] != first.folds).any():
            raise BundleError(
                f"bundle {bundle.name}: was made from other clips, classes or folds than {loaded[0].name}; a "
                "cascade needs bundles of one dataset"
            )
        names += [full_name(loaded, bundle, name) for name in bundle.experts]
        logits.append(data.outputs.logits[place])
    if len({bundle.embedder for bundle in loaded}) != len(loaded):
        raise BundleError("two of the bundles have the same embedder; a cascade joins different ones")
    both = np.concatenate(logits, axis=1)
    unused = np.zeros(both.shape[:2])
    return Outputs(tuple(names), both, unused, unused[None]), first


def costs(loaded: Sequence[Bundle]) -> PathCosts:
    """Measure what every embedder and every head takes for a clip here; medians."""
    us, embedder_of = {}, {}
    for bundle in loaded:
        embedder = serve.embedder_of(bundle)
        seconds = WINDOW_SAMPLES / SAMPLE_RATE
        noise = np.random.default_rng(0).normal(0.0, 0.1, (1, round(seconds * embedder.sample_rate)))
        us[bundle.embedder] = _median_us(partial(embedder.embed, noise.astype(np.float32)), CALLS)
        z = np.zeros((1, bundle.manifest.dim), np.float32)
        for name in bundle.experts:
            full = full_name(loaded, bundle, name)
            embedder_of[full] = bundle.embedder
            us[full] = _median_us(partial(bundle.expert(name).logits, z), 10 * CALLS)
    return PathCosts(embedder_of, us)


def _median_us(call: Callable[[], object], n: int) -> float:
    taken = []
    for _ in range(n + 2):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return 1e6 * float(np.median(taken[2:]))  # the first calls also make room
