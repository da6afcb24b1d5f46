"""What a training would find in the store, and about how long the rest takes.

What that needs is imported when it is asked for: a job that waits for its turn holds little memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from qmoe_core.config import fingerprint
from qmoe_core.runtime import system
from qmoe_core.runtime.requests import HoldOut, Train
from qmoe_core.runtime.store import Store

if TYPE_CHECKING:
    from qmoe_core import datasets, embedders
    from qmoe_core.training import crossval


@dataclass(frozen=True)
class PlanRow:
    """How much of one expert's (or jointly trained mixture's) training is in the store already."""

    name: str
    cached: int
    total: int


@dataclass(frozen=True)
class Plan:
    """What a request would find in the store, and what it would have to do.

    Attributes:
        clips: in the dataset; embedded: those whose embedding is there.
        rows: experts, what they are made from, and jointly trained mixtures. Routers of composed mixtures
            and the last training on all clips for a bundle are not counted: they take seconds.
        seconds: about how long the missing folds take here, from what such folds took before; None when
            nothing like them was trained yet, or a cluster trains them.
    """

    clips: int
    embedded: int
    rows: tuple[PlanRow, ...]
    seconds: float | None

    @property
    def cached(self) -> int:
        """Folds that are there."""
        return sum(row.cached for row in self.rows)

    @property
    def total(self) -> int:
        """All folds."""
        return sum(row.total for row in self.rows)


def plan(request: Train | HoldOut, store: Store | None = None) -> Plan:
    """What is cached and what will run.

    Raises:
        UserError: the request cannot work; see `submit`.
    """
    from qmoe_core import embedders
    from qmoe_core.training import crossval

    store = store or Store()
    request = request.checked()
    subject, manifest = request.subject()
    keys: dict[str, list[str]] = {}
    embedded = []
    for name, heads, joint in _asked(request):
        embedder = embedders.for_dataset(manifest, name, weights=request.weights)
        embedded.append(_embedded(manifest, embedder, store))
        part = request.trained_on(replace(subject, embedder_id=embedder.id))
        for expert, made in _keys(request, part, heads, joint).items():
            keys.setdefault(expert, []).extend(made)
    there, took = set(), {}
    for entry in (*store.list(crossval.KIND), *store.list(crossval.JOINT_KIND)):
        there.add(entry.key)
        expert = entry.metadata.get("expert") or "+".join(entry.metadata["experts"])
        took.setdefault(expert, []).append(entry.metadata["seconds"])
    rows = tuple(PlanRow(name, sum(key in there for key in made), len(made)) for name, made in keys.items())
    elsewhere = isinstance(request, Train) and request.scheduler is not None
    return Plan(
        clips=len(manifest),
        embedded=min(embedded),
        rows=rows,
        seconds=None if elsewhere else _estimate(rows, took, request.workers),
    )


def _asked(request: Train | HoldOut) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Each embedder with the heads behind it, and the mixtures that are trained jointly."""
    from qmoe_core.training import run

    if isinstance(request, HoldOut):
        return [(request.embedder, request.experts, [])]
    needed, mixtures = run.experts_of(request)
    joint = mixtures if request.config.moe_training == "joint" else []
    names = dict.fromkeys(path.embedder for path in needed.values())
    return [(name, run.heads_of(needed, name), joint) for name in names]


def _keys(
    request: Train | HoldOut,
    subject: crossval.Subject,
    heads: Sequence[str],
    joint: Sequence[tuple[str, ...]],
) -> dict[str, list[str]]:
    """The store's keys of what is trained behind an embedder, by head or jointly trained mixture."""
    from qmoe_core.training import crossval

    config, seeds = request.config, request.seeds if isinstance(request, Train) else 1
    numbers = [config.seed + i for i in range(seeds)]
    keys: dict[str, list[str]] = {}
    for task in crossval.tasks_of(subject, heads, config, numbers):
        keys.setdefault(task.expert, []).append(fingerprint(task.key))
    for members in joint:
        tasks = crossval.joint_tasks_of(subject, members, config, numbers)
        keys["+".join(members)] = [fingerprint(task.key) for task in tasks]
    return keys


def _estimate(rows: Sequence[PlanRow], took: dict[str, list[float]], workers: int) -> float | None:
    """Seconds for what is missing: the median of the same expert's folds, else of all experts'."""
    missing = [row for row in rows if row.cached < row.total]
    if missing and not took:
        return None
    every = [seconds for of_one in took.values() for seconds in of_one]
    work = sum((row.total - row.cached) * float(np.median(took.get(row.name, every))) for row in missing)
    return work / (workers or system.cores())


def _embedded(manifest: datasets.Manifest, embedder: embedders.Embedder, store: Store) -> int:
    """Clips whose embedding is in the store, or came with the dataset."""
    from qmoe_core.embedders import embed

    if manifest.ready is not None:
        return len(manifest)
    there: set[str] = set()
    address = embed.address_of(embedder)
    for entry in store.list(embed.KIND):
        if {name: entry.fields.get(name) for name in address} == address:
            there.update(entry.fields["clips"])
    return sum(entry.sha256 in there for entry in manifest.entries)
