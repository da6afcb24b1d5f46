"""From a cross-validated run to a bundle.

The folds give each expert's quality and its number of epochs; what is served is trained on all
clips, for the median of the folds' epochs. The router learns from the out-of-fold outputs: each
expert's logits of every clip, from the fold that did not train on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from qmoe_core import __version__, bundles
from qmoe_core.bundles import BundleDataset, ClipRecord, EmbedderRecord, Provenance
from qmoe_core.config import Config, to_dict
from qmoe_core.datasets.manifest import Manifest
from qmoe_core.embedders.learned import LearnedEmbedder
from qmoe_core.engine import ExpertWeights, from_tensors, network_storage, to_tensors
from qmoe_core.experts.spec import EXPERTS
from qmoe_core.routing.mixing import Outputs
from qmoe_core.runtime.executor import Context
from qmoe_core.runtime.identity import described, identity
from qmoe_core.runtime.store import Store
from qmoe_core.training.behind import EmbedderPart
from qmoe_core.training.crossval import FoldResult, MixtureResult, Subject, compose, with_sources

KIND = "final-experts"


@dataclass(frozen=True)
class FinalTask:
    """Train one expert on all clips."""

    subject: Subject
    expert: str
    epochs: int
    source_epochs: int
    config: Config

    def __str__(self) -> str:
        return f"{self.expert} on all clips, {self.epochs} epochs"

    @property
    def key(self) -> dict[str, object]:
        """Everything the result depends on."""
        return {
            "what": "final expert",
            **self.subject.address,
            "expert": self.expert,
            "epochs": [self.epochs, self.source_epochs],
            "seed": self.config.seed,
            "config": to_dict(self.config.expert),
            "code": identity(KIND),
        }


def run_final(task: FinalTask, root: str) -> ExpertWeights:
    """Train (or find) one expert on all clips."""
    from qmoe_core.experts.network import export
    from qmoe_core.training.fit import Scaler, fit_expert

    store = Store(root)
    entry = store.get(KIND, task.key)
    if entry is not None:
        return from_tensors(entry.tensors, {"name": task.expert})
    subject, config = task.subject, task.config
    source = EXPERTS[task.expert].derived_from
    made_from = source and run_final(FinalTask(subject, source, task.source_epochs, 0, config), root)
    shown, labels = subject.training_set(np.arange(len(subject.labels)))
    fitted = fit_expert(
        task.expert,
        Scaler.of(subject.embeddings)(shown),
        labels,
        len(subject.classes),
        config.expert,
        seed=config.seed,
        epochs=task.epochs,
        source=made_from or None,
    )
    weights = export(fitted.network)
    store.put(KIND, task.key, to_tensors(weights), {"expert": task.expert, "epochs": task.epochs})
    return weights


def summary(values: Sequence[float]) -> dict[str, float]:
    """Mean, deviation (n − 1) and number of some figures."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "std": deviation, "n": float(len(values))}


def make(
    folder: Path,
    *,
    title: str,
    manifest: Manifest,
    parts: Sequence[EmbedderPart],
    mixtures: Sequence[MixtureResult],
    experts: Sequence[str],
    mixture: Sequence[str],
    config: Config,
    seeds: Sequence[int],
    context: Context,
) -> Path:
    """Train on all clips and write a bundle.

    Args:
        folder: where to; its name is the bundle's.
        title: what pages call it.
        parts, mixtures: the cross-validated run; the first seed's predictions become the out-of-fold ones.
        experts: what the bundle holds, in order; mixture: which of them are mixed by default.

    Returns:
        The folder.

    Raises:
        Cancelled: nothing was written; experts that were finished are kept in the store.
    """
    from qmoe_core.training.fit import Scaler
    from qmoe_core.training.routers import fit_router

    names, first = tuple(experts), parts[0].subject
    trained = {name: weights for part in parts for name, weights in _final(part, config, context)}
    results = [result for part in parts for result in part.named]
    outputs = _out_of_fold(
        first, [result for result in results if result.split.seed == seeds[0]], names, config, context.store
    )
    scalers = [Scaler.of(part.subject.embeddings) for part in parts]
    router = fit_router(
        names,
        scalers[0](first.embeddings),
        outputs.logits,
        first.labels,
        config,
        seed=config.seed,
    )
    f1 = {name: summary([r.f1 for r in results if r.expert == name]) for name in names}
    for members in dict.fromkeys(result.experts for result in mixtures):
        chosen = [result.f1 for result in mixtures if result.experts == members]
        f1["+".join(members)] = summary([plain for plain, _ in chosen])
        f1["+".join(members) + " curious"] = summary([curious for _, curious in chosen])
    return bundles.save(
        folder,
        title=title,
        classes=first.classes,
        mixture=tuple(mixture),
        embedders=[EmbedderRecord(one.name, one.id, one.dim) for one in (part.embedder for part in parts)],
        networks={
            part.embedder.name: network_storage.dumps(part.embedder.network)
            for part in parts
            if isinstance(part.embedder, LearnedEmbedder)
        },
        behind={name: part.embedder.name for part in parts for name in part.heads},
        config=config,
        provenance=Provenance(
            dataset=manifest.name,
            dataset_fingerprint=first.fingerprint,
            clips=len(first.labels),
            protocol=config.evaluation.protocol,
            selection=config.evaluation.selection,
            seeds=list(seeds),
            code=described(KIND),
            qmoe=__version__,
            licence=manifest.licence,
            citation=manifest.citation,
            f1=f1,
            copies=0 if first.copies is None else len(first.copies),
        ),
        experts={name: trained[name] for name in names},
        router=router,
        scalers=[(scaler.mean, scaler.std) for scaler in scalers],
        dataset=BundleDataset(
            clips=tuple(
                ClipRecord(name, source)
                for name, source in zip(manifest.names, manifest.sources, strict=True)
            ),
            embedded=tuple(part.subject.embeddings for part in parts),
            labels=first.labels,
            folds=np.zeros_like(first.labels) if first.folds is None else first.folds,
            outputs=outputs,
        ),
    )


def _final(part: EmbedderPart, config: Config, context: Context) -> Iterator[tuple[str, ExpertWeights]]:
    """The experts behind one embedder, trained on all clips for the median of their epochs."""
    epochs = {
        head: round(float(np.median([r.epochs for r in part.results if r.expert == head])))
        for head in {result.expert for result in part.results}
    }
    tasks = [
        FinalTask(part.subject, head, epochs[head], epochs.get(EXPERTS[head].derived_from or "", 0), config)
        for head in with_sources(tuple(part.heads.values()))
    ]
    trained = {
        tasks[index].expert: weights
        for wave in (False, True)
        for index, weights in _wave(tasks, wave, context)
    }
    for name, head in part.heads.items():
        yield name, trained[head]


def _wave(tasks: list[FinalTask], derived: bool, context: Context) -> list[tuple[int, ExpertWeights]]:
    """One of two waves, because a derived expert waits for its source; indices are those of `tasks`."""
    chosen = [i for i, task in enumerate(tasks) if (EXPERTS[task.expert].derived_from is not None) == derived]
    final = partial(run_final, root=context.store.address)
    run = context.run(final, [tasks[i] for i in chosen], "training on all clips")
    return [(chosen[index], weights) for index, weights in run]


def _out_of_fold(
    subject: Subject, results: Sequence[FoldResult], experts: Sequence[str], config: Config, store: Store
) -> Outputs:
    """What the fold that left a clip out said of it: axes [n, N, C], [n, N] and [S, n, N]."""
    n, width = len(subject.labels), len(experts)
    logits = np.zeros((n, width, len(subject.classes)))
    router = np.zeros((n, width))
    router_mc = np.zeros((config.router.mc_samples, n, width))
    for result in compose(subject, results, experts, config, store):
        logits[result.test] = result.outputs.logits
        router[result.test] = result.outputs.router
        router_mc[:, result.test] = result.outputs.router_mc
    return Outputs(tuple(experts), logits, router, router_mc)
