"""A whole training run: dataset → embeddings → experts on every fold → mixtures → report, and a bundle."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from qmoe_core import bundles, datasets, embedders
from qmoe_core.bundles import bundling
from qmoe_core.config import Config
from qmoe_core.datasets import splits
from qmoe_core.errors import ConfigError
from qmoe_core.experts.spec import head_of
from qmoe_core.numbers import listed
from qmoe_core.runtime.executor import Context
from qmoe_core.runtime.requests import DEFAULT_MIXTURE, Train
from qmoe_core.training import behind, crossval

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
        usual = [name for name in experts if head_of(name) in DEFAULT_MIXTURE]
        return [tuple(sorted(usual, key=lambda name: DEFAULT_MIXTURE.index(head_of(name)))) or tuple(experts)]
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


def experts_of(request: Train) -> tuple[dict[str, behind.ExpertPath], list[tuple[str, ...]]]:
    """Every expert that a request trains, by its name, and its mixtures.

    Raises:
        ConfigError: an expert whose embedder is not asked for; a joint training of several embedders.
    """
    alone = {path.name: path for path in behind.resolve(request.embedders, request.experts)}
    asked = [
        tuple(path.name for path in behind.resolve(request.embedders, names, every=False))
        for names in request.mixtures
    ]
    mixtures = mixtures_of(tuple(alone), asked, request.bundle is not None)
    mixed = behind.resolve(request.embedders, (name for names in mixtures for name in names), every=False)
    needed = alone | {path.name: path for path in mixed}
    if request.config.moe_training == "joint" and len({path.embedder for path in needed.values()}) > 1:
        raise ConfigError("moe_training joint takes experts behind one embedder; accepted here is compose")
    if taken := {"+".join(names) for names in mixtures if len(names) > 1} & needed.keys():
        raise ConfigError(f"{min(taken)} is the name of an expert, and cannot be a mixture's beside it")
    return needed, mixtures


def heads_of(needed: Mapping[str, behind.ExpertPath], embedder: str | None = None) -> tuple[str, ...]:
    """The heads that are trained, behind all embedders or one."""
    return tuple(dict.fromkeys(one.head for one in needed.values() if embedder in (None, one.embedder)))


def _parts(
    request: Train,
    manifest: datasets.Manifest,
    needed: dict[str, behind.ExpertPath],
    seeds: Sequence[int],
    context: Context,
) -> list[behind.EmbedderPart]:
    """Embed the dataset with every embedder and train the heads behind it; the cheapest embedder first."""
    parts = []
    for name in dict.fromkeys(path.embedder for path in needed.values()):
        one = embedders.for_dataset(manifest, name, weights=request.weights)
        subject = request.embedded_by(one, manifest, context)
        heads = {path.name: path.head for path in needed.values() if path.embedder == name}
        trained = crossval.with_sources(heads_of(needed, name))
        results = crossval.train_experts(subject, trained, request.config, seeds, context)
        parts.append(behind.EmbedderPart(one, subject, heads, results))
    parts.sort(key=lambda part: embedders.cost(part.embedder))
    return parts


def train(request: Train, context: Context) -> TrainingReport:
    """Train and evaluate; the context's observer gets epochs and folds.

    Raises:
        UserError: the request cannot work. Cancelled: finished tasks are kept.
    """
    started, config = time.perf_counter(), request.config
    numbers = seeds_of(config, request.seeds)
    folder = None if request.bundle is None else bundles.destination(request.bundle)
    manifest = datasets.open_dataset(request.dataset)
    needed, mixtures = experts_of(request)
    parts = _parts(request, manifest, needed, numbers, context)
    subject = parts[0].subject
    results = [result for part in parts for result in part.named]
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
        source = "imported embeddings" if manifest.ready else listed(request.embedders)
        bundling.make(
            folder,
            title=f"{manifest.name}, {source}",
            manifest=manifest,
            parts=parts,
            mixtures=mixed,
            experts=tuple(needed),
            mixture=mixtures[0],
            config=config,
            seeds=numbers,
            context=context,
        )
    folds = [split.fold for split in crossval.splits_of(subject, config, numbers[:1])]
    tasks = [result for part in parts for result in part.results]
    found = sum(result.cached for result in tasks)
    return TrainingReport(
        dataset=manifest.name,
        embedder=", ".join(part.embedder.id for part in parts),
        protocol=config.evaluation.protocol,
        selection=config.evaluation.selection,
        seeds=request.seeds,
        seconds=time.perf_counter() - started,
        compose_seconds=compose_seconds,
        trained=len(tasks) - found,
        found=found,
        leaking_sources=splits.leaking_sources(folds, subject.sources),
        bundle=str(folder) if folder else None,
        rows=tuple(rows),
    )
