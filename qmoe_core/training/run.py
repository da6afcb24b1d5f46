"""A whole training run: dataset → embeddings → experts on every fold → mixtures → report, and a bundle."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from qmoe_core import bundles
from qmoe_core.bundles import bundling
from qmoe_core.config import Config
from qmoe_core.datasets import splits
from qmoe_core.errors import ConfigError
from qmoe_core.runtime.executor import Context
from qmoe_core.runtime.requests import DEFAULT_MIXTURE, Train
from qmoe_core.training import crossval

LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True)
class ExpertScore:
    """One expert's or mixture's weighted F1 over folds × seeds (deviation with n − 1)."""

    name: str
    parameters: int
    f1_mean: float
    f1_std: float
    f1_folds: tuple[float, ...]


@dataclass(frozen=True)
class TrainingReport:
    """What `qmoe train` says."""

    dataset: str
    embedder: str
    protocol: str
    selection: str
    seeds: int
    seconds: float
    compose_seconds: float
    trained: int
    found: int
    leaking_sources: int
    bundle: str | None
    rows: tuple[ExpertScore, ...]

    def to_json(self) -> dict[str, Any]:
        """`qmoe train --json`."""
        return msgspec.json.decode(msgspec.json.encode(self))


def _row(name: str, parameters: int, f1: Sequence[float]) -> ExpertScore:
    figures = bundling.summary(f1)
    return ExpertScore(name, parameters, figures["mean"], figures["std"], tuple(f1))


def mixtures_of(
    experts: Sequence[str], mixtures: Sequence[Sequence[str]], bundle: bool
) -> list[tuple[str, ...]]:
    """The mixtures asked for; a bundle needs one, by default bitnet, q4 and q8 as far as they are there."""
    if bundle and not mixtures:
        return [tuple(name for name in DEFAULT_MIXTURE if name in experts) or tuple(experts)]
    return [tuple(names) for names in mixtures]


def needed_by(experts: Sequence[str], mixtures: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Every expert that is asked for, alone or in a mixture, once."""
    return tuple(dict.fromkeys([*experts, *(name for names in mixtures for name in names)]))


def seeds_of(config: Config, count: int) -> list[int]:
    """So many seeds, counted from the configuration's.

    Raises:
        ConfigError: none, or one too large.
    """
    if not 1 <= count <= LARGEST_SEED - config.seed + 1:
        raise ConfigError(f"--seeds is {count}; accepted is 1 or more, up to seed {LARGEST_SEED}")
    return [config.seed + i for i in range(count)]


def train(request: Train, context: Context) -> TrainingReport:
    """Train and evaluate; the context's observer gets epochs and folds.

    Raises:
        UserError: the request cannot work. Cancelled: finished tasks are kept.
    """
    started, config, experts = time.perf_counter(), request.config, request.experts
    numbers = seeds_of(config, request.seeds)
    folder = None if request.bundle is None else bundles.destination(request.bundle)
    subject, manifest, made = request.embedded(context)
    mixtures = mixtures_of(experts, request.mixtures, folder is not None)
    needed = needed_by(experts, mixtures)
    results = crossval.train_experts(subject, crossval.with_sources(needed), config, numbers, context)
    of_expert = {name: [result for result in results if result.expert == name] for name in needed}
    rows = [_row(name, of[0].parameters, [result.f1 for result in of]) for name, of in of_expert.items()]

    composing = time.perf_counter()
    mixed = []
    for names in mixtures:
        mixed += (outcome := crossval.mixtures(subject, results, names, config, numbers, context))
        rows += [
            _row("+".join(names) + suffix, outcome[0].parameters, [result.f1[i] for result in outcome])
            for i, suffix in enumerate(("", " curious"))
        ]
    compose_seconds = time.perf_counter() - composing

    if folder is not None:
        bundling.make(
            folder,
            title=f"{manifest.name}, {'imported embeddings' if manifest.ready else request.embedder}",
            manifest=manifest,
            subject=subject,
            embedder=made.name,
            results=results,
            mixtures=mixed,
            experts=needed,
            mixture=mixtures[0],
            config=config,
            seeds=numbers,
            context=context,
        )
    folds = [split.fold for split in crossval.splits_of(subject, config, numbers[:1])]
    found = sum(result.cached for result in results)
    return TrainingReport(
        dataset=manifest.name,
        embedder=made.id,
        protocol=config.evaluation.protocol,
        selection=config.evaluation.selection,
        seeds=request.seeds,
        seconds=time.perf_counter() - started,
        compose_seconds=compose_seconds,
        trained=len(results) - found,
        found=found,
        leaking_sources=splits.leaking_sources(folds, subject.sources),
        bundle=str(folder) if folder else None,
        rows=tuple(rows),
    )
