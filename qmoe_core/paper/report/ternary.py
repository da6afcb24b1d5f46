"""The BitNet expert of the paper's code, cross-validated beside ours: no preset can ask for it (claim 15).

Ours learns its thresholds and scales and keeps 8-bit activations, as the text has it; the code's computes the
ones and takes the signs of the others. It is trained here for this comparison, and for nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qmoe_core.config import ExpertConfig, to_dict
from qmoe_core.paper.report.protocols import Trial
from qmoe_core.runtime.executor import Context
from qmoe_core.runtime.identity import identity
from qmoe_core.training import crossval
from qmoe_core.training.crossval import Split, Subject

KIND = "paper-code-ternary"


@dataclass(frozen=True)
class ByEpoch:
    """Weighted F1 on the test folds, float64 [seeds × folds]: at the last epoch, and at the best there."""

    last: np.ndarray
    best: np.ndarray


def train(
    trial: Trial,
    subject: Subject,
    context: Context,
) -> ByEpoch:
    """Train (or find) it with a trial's settings, on the trial's folds.

    Raises:
        DatasetError: folds that cannot be made. Cancelled: nothing is kept; it takes seconds.
    """
    made = crossval.splits_of(subject, trial.config, trial.seeds)
    key = {
        "what": KIND,
        "dataset": subject.fingerprint,
        "embedder": subject.embedder_id,
        "splits": [split.address for split in made],
        "config": to_dict(trial.config),
        "code": identity(KIND),
    }
    store = context.store
    entry = store.get(KIND, key)
    if entry is None:
        named = {f"{split.fold.name}, seed {split.seed}": split for split in made}
        found = dict(
            context.run(
                functools.partial(_last_and_best, named, subject=subject, config=trial.config.expert),
                list(named),
                "training the paper code's BitNet",
            )
        )
        f1 = np.array([found[index] for index in range(len(made))])
        entry = store.put(KIND, key, {"f1": f1}, {"dataset": subject.name})
    return ByEpoch(*entry.tensors["f1"].T)


def _last_and_best(
    splits: Mapping[str, Split], name: str, subject: Subject, config: ExpertConfig
) -> tuple[float, float]:
    from qmoe_core.paper.reference_networks import ComputedTernaryNetwork
    from qmoe_core.training.fit import Scaler, fit
    from qmoe_core.training.loop import reproducible

    split, z, y = splits[name], subject.embeddings, subject.labels
    fold = split.fold
    scaler = Scaler.of(z[fold.train])
    with reproducible(split.seed):
        network = ComputedTernaryNetwork("fp32", z.shape[1], len(subject.classes), config)
    done = fit(
        network,
        scaler(z[fold.train]),
        y[fold.train],
        config,
        seed=split.seed,
        epochs=config.epochs,
        held_out=(scaler(z[fold.test]), y[fold.test]),
        monitor="f1",
    )
    f1: list[Any] = [epoch.f1 for epoch in done.history]
    return f1[-1], max(f1)
