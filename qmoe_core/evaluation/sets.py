"""Prediction sets of every format: how often they hold the right label on folds that did not set them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from qmoe_core.evaluation.conformal import Kept, Promise, kept_over
from qmoe_core.routing import mixing
from qmoe_core.routing.mixing import Settings
from qmoe_core.routing.uncertainty import softmax
from qmoe_core.runtime.executor import Context
from qmoe_core.runtime.requests import Train
from qmoe_core.training import crossval, run

LEVELS = (0.9, 0.95)


@dataclass(frozen=True)
class SetsOfOne:
    """What the sets of a format or a mixture keep.

    Attributes:
        level: the coverage that was asked for; kept: what came of it, over all seeds; inside: whether the
            level is in the 95 % interval of the coverage.
    """

    name: str
    level: float
    kept: Kept

    @property
    def inside(self) -> bool:
        low, high = self.kept.covered_ci95
        return low <= self.level <= high


def sets(request: Train, promise: Promise, context: Context) -> list[SetsOfOne]:
    """Train (or find) experts over folds × seeds, and set and check prediction sets of each at every level.

    Args:
        request: what to train; no bundle is written. promise: the score, and whether each class is apart.

    Raises:
        UserError: the request cannot work.
    """
    subject, _, _ = request.embedded(context)
    seeds = run.seeds_of(request.config, request.seeds)
    needed = run.needed_by(request.experts, request.mixtures)
    results = crossval.train_experts(subject, crossval.with_sources(needed), request.config, seeds, context)
    said: dict[str, list[np.ndarray]] = {
        name: [
            _put_together(subject, [r for r in results if (r.expert, r.split.seed) == (name, seed)])
            for seed in seeds
        ]
        for name in needed
    }
    for names in request.mixtures:
        mixtures = crossval.mixtures(subject, results, names, request.config, seeds, context)
        said["+".join(names)] = [
            _mixed(subject, [m for m in mixtures if m.split.seed == seed], request, names) for seed in seeds
        ]
    folds = np.zeros_like(subject.labels) if subject.folds is None else subject.folds
    return [
        SetsOfOne(
            name,
            level,
            kept_over(p, subject.labels, folds, subject.sources, replace(promise, of_sets=level)),
        )
        for name, p in said.items()
        for level in LEVELS
    ]


def _put_together(subject: crossval.Subject, results: Sequence[crossval.FoldResult]) -> np.ndarray:
    p = np.zeros((len(subject.labels), len(subject.classes)))
    for result in results:
        p[result.test] = softmax(result.logits.astype(np.float64))
    return p


def _mixed(
    subject: crossval.Subject, parts: Sequence[crossval.MixtureResult], request: Train, names: Sequence[str]
) -> np.ndarray:
    settings = Settings.of(request.config.router, tuple(names))
    p = np.zeros((len(subject.labels), len(subject.classes)))
    for part in parts:
        p[part.test] = mixing.mix(part.outputs, settings).probabilities
    return p
