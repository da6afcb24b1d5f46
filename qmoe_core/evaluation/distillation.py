"""Is the disagreement that `distilled` predicts worth the experts it saves? Beside the other strategies.

Nothing is trained but heads, and none of them is asked about a clip that it learned from: experts, router
and head that judge a clip had not seen its fold. A head is served with one set of experts, while each fold
has a set of its own, trained for longer or shorter, that disagrees more or less as a whole. So ranks are
compared within folds, and their mean is the figure; the correlation over all folds at once is beside it,
lower because no head can know the level of experts that it never met.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qmoe_core.bundles import Bundle
from qmoe_core.config import Curiosity
from qmoe_core.evaluation import sweep
from qmoe_core.evaluation.classification import confusion, mean_f1
from qmoe_core.measure import environment, latency
from qmoe_core.measure.latency import Contestant
from qmoe_core.routing import mixing
from qmoe_core.routing.distilled import cheapest, groups
from qmoe_core.routing.mixing import Settings

ALPHAS = (1.0, 10.0, 100.0, 1000.0)
"""Compared besides the settings' own α, at which Eq. 8 moves next to nothing (claims 31)."""
RESAMPLES = 1000
CALLS = 2000


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's ρ of what a strategy rewards with the true disagreement.

    Attributes:
        within: mean over folds of ρ between the mean of the experts' rewards and the mutual information.
        low, high: 95 % interval, bootstrapped over the recordings of each fold.
        pooled: ρ over the clips of all folds at once.
        experts: `within` of each expert's own reward and d_i.
    """

    within: float
    low: float
    high: float
    pooled: float
    experts: dict[str, float]


@dataclass(frozen=True)
class Latency:
    """A decision on packed experts, one clip at a time, in microseconds; `runs`: experts run, mean."""

    n: int
    p50_us: float
    p95_us: float
    mean_us: float
    runs: float


@dataclass(frozen=True)
class StrategyCurve:
    """One strategy over n clips and A values of α.

    Attributes:
        strategy: its name; cheap: the expert that `distilled` asks, else None.
        rank: None where nothing is rewarded.
        f1: weighted, [A].
        agreement: [A], share of clips that the same experts answer as with `disagreement`, led by the same.
        runs: [A], experts that have to run for a clip, mean.
        asked: [A], share of clips for which the cheap expert has to run.
        latency: at the settings' α; None where it was not measured.
    """

    strategy: Curiosity
    cheap: str | None
    rank: RankCorrelation | None
    f1: tuple[float, ...]
    agreement: tuple[float, ...]
    runs: tuple[float, ...]
    asked: tuple[float, ...]
    latency: Latency | None = None

    @property
    def name(self) -> str:
        """What tables call it, such as `distilled (q1)`."""
        return f"{self.strategy} ({self.cheap})" if self.cheap else self.strategy


@dataclass(frozen=True)
class Comparison:
    """All strategies with the same experts, k and normalisation; `at` is the index of the settings' α."""

    bundle: str
    settings: Settings
    clips: int
    folds: int
    alphas: tuple[float, ...]
    at: int
    rows: tuple[StrategyCurve, ...]
    environment: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """`qmoe sweep curiosity --json`."""
        settings = self.settings
        rows = [
            {
                "name": row.name,
                "strategy": row.strategy,
                "cheap": row.cheap,
                "rank_correlation": None if row.rank is None else dict(row.rank.__dict__),
                "f1": list(row.f1),
                "agreement": list(row.agreement),
                "runs": list(row.runs),
                "asked": list(row.asked),
                "latency": None if row.latency is None else dict(row.latency.__dict__),
            }
            for row in self.rows
        ]
        return {
            "bundle": self.bundle,
            "experts": list(settings.experts),
            "alpha": settings.alpha,
            "top_k": settings.top_k,
            "normalise": settings.normalise,
            "clips": self.clips,
            "folds": self.folds,
            "alphas": list(self.alphas),
            "rows": rows,
            "environment": self.environment,
        }


def spearman(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spearman's ρ of clips that count several times or not at all, as in a bootstrap.

    Args:
        x, y: [n]; ties get their mean rank.
        weights: how often each clip counts, [..., n].

    Returns:
        [...]; NaN where x or y has only one value.

    >>> spearman(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 4.0, 3.0]), np.ones(4)).round(6).item()
    0.8
    """
    a, b = _ranks(x, weights), _ranks(y, weights)
    total = weights.sum(axis=-1, keepdims=True)
    a -= (weights * a).sum(axis=-1, keepdims=True) / total
    b -= (weights * b).sum(axis=-1, keepdims=True) / total
    variances = (weights * a * a).sum(axis=-1) * (weights * b * b).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights * a * b).sum(axis=-1) / np.sqrt(variances)


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weight of all that is smaller, and half of what is equal: [n], [..., n] → [..., n]."""
    place = np.unique(values, return_inverse=True)[1]
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    equal = np.add.reduceat(weights[..., order], starts, axis=-1)
    return (np.cumsum(equal, axis=-1) - 0.5 * equal)[..., place]


def rank_correlation(
    predicted: np.ndarray,
    true: np.ndarray,
    group: np.ndarray,
    sources: Sequence[str],
    experts: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> RankCorrelation:
    """Compare what a strategy rewards with the true disagreement.

    Args:
        predicted: d̂_i (or another reward), [n, N]; true: d_i, [n, N].
        group: int [n], the fold of each clip; sources: the recording of each; experts: N names.
    """
    generator = np.random.default_rng(seed)
    recordings = np.unique(sources, return_inverse=True)[1]
    means, truth = predicted.mean(axis=-1), true.mean(axis=-1)
    folds, resampled, alone = [], [], []
    for number in np.unique(group):
        held = group == number
        member = np.unique(recordings[held], return_inverse=True)[1]
        count = member.max() + 1
        draws = generator.multinomial(count, np.full(count, 1.0 / count), size=resamples)[:, member]
        ones = np.ones(held.sum())
        folds.append(float(spearman(means[held], truth[held], ones)))
        resampled.append(spearman(means[held], truth[held], draws.astype(np.float64)))
        alone.append([float(spearman(predicted[held, i], true[held, i], ones)) for i in range(len(experts))])
    low, high = np.quantile(np.mean(resampled, axis=0), [0.025, 0.975])
    return RankCorrelation(
        within=float(np.mean(folds)),
        low=float(low),
        high=float(high),
        pooled=float(spearman(means, truth, np.ones(len(means)))),
        experts=dict(zip(experts, np.mean(alone, axis=0).tolist(), strict=True)),
    )


def compare(
    bundle: Bundle, settings: Settings, *, alphas: Sequence[float] = ALPHAS, timed: bool = False
) -> Comparison:
    """Every strategy over the bundle's clips, each clip judged by what had not seen its fold.

    Args:
        settings: how to mix; its strategy is not used. Where it names no cheap expert, `distilled` is shown
            with the mixture's cheapest and with the 1-bit expert, if the bundle has one.
        alphas: values of α besides the settings' own.
        timed: also measure latency, one clip after another on packed experts.

    Raises:
        BundleError: the bundle carries no out-of-fold outputs. ConfigError: it lacks an expert.
    """
    data = sweep.judged(bundle)
    sources = [clip.source for clip in data.clips]
    group = groups(data.folds, sources)
    values = tuple(sorted({settings.alpha, *alphas}))
    ways = _ways(bundle, settings)
    swept = [_mixed(bundle, way, values) for way in ways]
    reference = swept[0]
    rows = []
    for way, mixed in zip(ways, swept, strict=True):
        same = (mixed.weights > 0.0) == (reference.weights > 0.0)
        led = mixed.weights.argmax(axis=-1) == reference.weights.argmax(axis=-1)
        rank = None
        if way.curiosity != "none":
            rank = rank_correlation(mixed.interest, mixed.disagreement, group, sources, settings.experts)
        called = mixed.probabilities.argmax(axis=-1)
        rows.append(
            StrategyCurve(
                strategy=way.curiosity,
                cheap=way.cheap,
                rank=rank,
                f1=tuple(mean_f1(confusion(data.labels, called, len(bundle.classes))).tolist()),
                agreement=tuple((same.all(axis=-1) & led).mean(axis=1).tolist()),
                runs=tuple(mixed.runs.mean(axis=1).tolist()),
                asked=tuple(mixed.asked.mean(axis=1).tolist()),
            )
        )
    where = None
    if timed:
        times = measure(bundle, ways, n=CALLS)
        rows = [replace(row, latency=one) for row, one in zip(rows, times, strict=True)]
        where = environment.describe(threads=1, batch=1, clips=len(data.labels))
    return Comparison(
        bundle=bundle.name,
        settings=settings,
        clips=len(data.labels),
        folds=len(np.unique(group)),
        alphas=values,
        at=values.index(settings.alpha),
        rows=tuple(rows),
        environment=where,
    )


def _ways(bundle: Bundle, settings: Settings) -> list[Settings]:
    """The strategies compared, `disagreement` first."""
    asked = [settings.cheap] if settings.cheap else [cheapest(settings.experts)]
    if settings.cheap is None and "q1" in bundle.experts:
        asked += ["q1"]
    return [
        replace(settings, curiosity="disagreement", cheap=None),
        *(replace(settings, curiosity="distilled", cheap=name) for name in dict.fromkeys(asked)),
        replace(settings, curiosity="router-mc", cheap=None),
        replace(settings, curiosity="none", cheap=None),
    ]


def _mixed(bundle: Bundle, way: Settings, alphas: Sequence[float]) -> mixing.Mixed:
    """The out-of-fold clips mixed for A values of α: leading axes A, n where α matters."""
    predicted = bundle.predict_out_of_fold(way)
    outputs = sweep.judged(bundle).outputs
    scale = mixing.mean_interest(outputs, way, predicted=predicted) if way.normalise else 1.0
    return mixing.mix(outputs, way, np.array(alphas)[:, None], mean_interest=scale, predicted=predicted)


def measure(bundle: Bundle, ways: Sequence[Settings], *, n: int) -> list[Latency]:
    """Time a decision of each strategy, interleaved, on one thread.

    The clips are the bundle's, in turn. It has learned from them, so its router is surer than of new sounds,
    and `distilled` may ask less often than out of fold; `Latency.runs` says what ran.

    Args:
        ways: top-k mixtures of one set of experts; n: timed calls of each.
    """
    clips = list(zip(*(z[:, None] for z in sweep.judged(bundle).embedded), strict=True))
    contestants, runs = [], []
    for number, way in enumerate(ways):
        samples = way.mc_samples if way.curiosity == "router-mc" else 0

        def call(clip: tuple[np.ndarray, ...], way: Settings = way, samples: int = samples) -> mixing.Mixed:
            return bundle.mix(bundle.outputs(*clip, mc_samples=samples), way)

        runs.append(float(np.mean([call(clip).runs for clip in clips])))
        turn = itertools.cycle(clips)
        contestants.append(Contestant(str(number), "mixture", lambda call=call, turn=turn: call(next(turn))))
    times = latency.race(contestants, n=n)
    made = []
    for contestant, mean_runs in zip(contestants, runs, strict=True):
        us = times[contestant.name].ravel() / 1e3
        p50, p95 = np.quantile(us, [0.5, 0.95])
        made.append(Latency(us.size, float(p50), float(p95), float(us.mean()), mean_runs))
    return made
