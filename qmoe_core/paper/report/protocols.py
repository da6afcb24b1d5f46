"""What the tables are of: every expert and mixture, cross-validated under each protocol that is compared.

A *trial* is a protocol, a way to choose the epoch, and training settings. The sound one (official folds,
epoch on inner validation) is what the tables report; the leaky one (random folds, epoch on the test fold, as
the paper's code does) stands beside it with the same training, so that their difference is the leak and
nothing else; the preset `paper-code` also trains as the paper's code does.

A finished trial is one entry in the store (kind `trials`), under the addresses of all its tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qmoe_core.bundles import Bundle
from qmoe_core.config import Config, RouterConfig, fingerprint, to_dict
from qmoe_core.datasets import splits
from qmoe_core.evaluation.classification import weighted_f1
from qmoe_core.routing import mixing
from qmoe_core.routing.mixing import Outputs, Settings
from qmoe_core.runtime.executor import Context
from qmoe_core.runtime.identity import identity
from qmoe_core.runtime.store import Store
from qmoe_core.training import crossval
from qmoe_core.training.crossval import MixtureResult, Subject

KIND = "trials"
HOLDS = "what was said, and logits"
"""What an entry of a trial has; an entry that was kept with less is made again from its tasks."""


@dataclass(frozen=True)
class Trial:
    """What is trained: settings, experts and mixtures, and under which name."""

    name: str
    config: Config
    experts: tuple[str, ...]
    mixtures: tuple[tuple[str, ...], ...]
    seeds: tuple[int, ...]

    @property
    def protocol(self) -> str:
        """In words, such as `official folds, epoch by inner-validation`."""
        evaluation = self.config.evaluation
        return f"{evaluation.protocol} folds, epoch by {evaluation.selection}"

    @property
    def title(self) -> str:
        """Of the progress of its experts' training."""
        return f"training, {self.protocol}"


@dataclass(frozen=True)
class Curious:
    """What a mixture's curiosity sees of n clips, out of fold, for S seeds.

    Attributes:
        experts: N of them; disagreement: d_i, float64 [S, n, N]; epistemic: their mean, [S, n].
        router_variance: of the MC-dropout passes, [S, n].
    """

    experts: tuple[str, ...]
    disagreement: np.ndarray
    epistemic: np.ndarray
    router_variance: np.ndarray


@dataclass(frozen=True)
class Scores:
    """A finished trial on one dataset: what everybody said of clips of the fold that was held out.

    S seeds, n clips, F folds.

    Attributes:
        protocol: in words.
        predicted: class by name of expert or mixture (`bitnet+q4+q8`, `bitnet+q4+q8 curious`), int [S, n].
        folds: number of the fold in which a clip was tested, int [S, n].
        parameters: by name; seconds: that training took, each seed × fold, for experts trained here.
        processors: of the machines that trained them.
        last: F1 of the last epoch on the test fold by name, [S × F]: best-on-test trials only.
        curious: by mixture.
        logits: of every expert, float64 [S, n, C].
        mixed: what experts and router of a mixture said of every clip, [S, n, …], from which any α follows;
            without MC-dropout passes; router: the settings that it is mixed with.
        leaking: recordings with clips on both sides of a fold; test_share: test clips over training clips.
    """

    name: str
    protocol: str
    dataset: str
    classes: tuple[str, ...]
    labels: np.ndarray
    sources: tuple[str, ...]
    seeds: tuple[int, ...]
    predicted: Mapping[str, np.ndarray]
    folds: np.ndarray
    parameters: Mapping[str, int]
    seconds: Mapping[str, list[float]]
    processors: tuple[str, ...]
    last: Mapping[str, list[float]]
    curious: Mapping[str, Curious]
    leaking: int
    test_share: float
    logits: Mapping[str, np.ndarray] = field(default_factory=dict)
    router: RouterConfig = field(default_factory=RouterConfig)
    mixed: Mapping[str, Outputs] = field(default_factory=dict)

    def f1(self, name: str) -> np.ndarray:
        """Weighted F1 of each seed and fold, float64 [S, F]."""
        numbers = np.unique(self.folds)
        return np.array(
            [
                [weighted_f1(self.labels[own == k], said[own == k]) for k in numbers]
                for said, own in zip(self.predicted[name], self.folds, strict=True)
            ]
        )


def train(
    trial: Trial,
    subject: Subject,
    context: Context,
) -> Scores:
    """Train (or find) a trial.

    Raises:
        DatasetError: folds that cannot be made. Cancelled: finished tasks are kept.
    """
    store, tasks = context.store, crossval.tasks_of(subject, trial.experts, trial.config, trial.seeds)
    key = {
        "what": "trial",
        "holds": HOLDS,
        "tasks": fingerprint([task.key for task in tasks]),
        "mixtures": [list(names) for names in trial.mixtures],
        "config": to_dict(trial.config),
        "code": identity(KIND),
    }
    entry = store.get(KIND, key)
    if entry is None:
        results = crossval.train_experts(
            subject,
            crossval.with_sources(trial.experts),
            trial.config,
            trial.seeds,
            context,
            trial.title,
        )
        mixed: list[MixtureResult] = []
        for names in trial.mixtures:
            mixed += crossval.mixtures(subject, results, names, trial.config, trial.seeds, context)
        last = _last_epochs(tasks, store) if trial.config.evaluation.selection == "best-on-test" else {}
        tensors, metadata = _gather(trial, subject, results, mixed)
        entry = store.put(KIND, key, tensors, {**metadata, "last": last, "dataset": subject.name})
    return _scores(trial, subject, entry.tensors, entry.metadata)


def _last_epochs(tasks: Sequence[crossval.Task], store: Store) -> dict[str, list[float]]:
    """F1 on the test fold after the last epoch: what the paper's code reports for single models."""
    found: dict[str, list[float]] = {}
    for task in tasks:
        entry = store.get(crossval.KIND, task.key)
        if entry is not None and entry.metadata["history"]:  # nothing was trained for ptq8
            found.setdefault(task.expert, []).append(entry.metadata["history"][-1]["f1"])
    return found


def _gather(
    trial: Trial, subject: Subject, results: Sequence[crossval.FoldResult], mixed: Sequence[MixtureResult]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Everything as arrays over seeds and clips, and facts by name."""
    shape = len(trial.seeds), len(subject.labels)
    place = {seed: i for i, seed in enumerate(trial.seeds)}
    names = [*trial.experts]
    for members in trial.mixtures:
        names += ["+".join(members), "+".join(members) + " curious"]
    predicted = np.zeros((len(names), *shape), np.int16)
    folds = np.zeros(shape, np.int16)
    parameters: dict[str, int] = {}
    seconds: dict[str, list[float]] = {}
    numbers: dict[tuple[int, str], int] = {}
    for result in results:
        at = place[result.split.seed]
        fold = numbers.setdefault((at, result.split.fold.name), sum(seed == at for seed, _ in numbers))
        folds[at, result.test] = fold
        if result.expert in trial.experts:
            predicted[names.index(result.expert), at, result.test] = result.logits.argmax(axis=1)
            parameters[result.expert] = result.parameters
            seconds.setdefault(result.expert, []).append(result.seconds)
    tensors = {"predicted": predicted, "folds": folds} | _said(trial, subject, results, mixed)
    for result in mixed:
        at, title = place[result.split.seed], "+".join(result.experts)
        settings = Settings.of(trial.config.router, result.experts)
        plain, curious = (
            mixing.mix(result.outputs, settings.without_curiosity()),
            mixing.mix(result.outputs, settings),
        )
        for name, mixture in ((title, plain), (f"{title} curious", curious)):
            predicted[names.index(name), at, result.test] = mixture.probabilities.argmax(axis=-1)
            parameters[name] = result.parameters
            if trial.config.moe_training == "joint":
                seconds.setdefault(name, []).append(result.seconds)
        for part in ("disagreement", "epistemic", "router_variance"):
            value = getattr(curious, part)
            held = tensors.setdefault(f"{part}.{title}", np.zeros((*shape, *value.shape[1:])))
            held[at, result.test] = value
    made = [split.fold for split in crossval.splits_of(subject, trial.config, trial.seeds)]
    return tensors, {
        "names": names,
        "parameters": parameters,
        "seconds": seconds,
        "processors": sorted({result.processor for result in results}),
        "leaking": splits.leaking_sources(made, subject.sources),
        "test_share": float(np.mean([len(fold.test) / len(fold.train) for fold in made])),
    }


def _said(
    trial: Trial, subject: Subject, results: Sequence[crossval.FoldResult], mixed: Sequence[MixtureResult]
) -> dict[str, np.ndarray]:
    """Logits of every expert, and those of every mixture's experts and router, float32 [..., S, n, …]."""
    shape = len(trial.seeds), len(subject.labels)
    logits = np.zeros((len(trial.experts), *shape, len(subject.classes)), np.float32)
    for result in results:
        if result.expert in trial.experts:
            at = trial.seeds.index(result.split.seed)
            logits[trial.experts.index(result.expert), at, result.test] = result.logits
    tensors: dict[str, np.ndarray] = {"logits": logits}
    for result in mixed:
        at, title = trial.seeds.index(result.split.seed), "+".join(result.experts)
        for part, value in (("logits", result.outputs.logits), ("router", result.outputs.router)):
            empty = np.zeros((*shape, *value.shape[1:]), np.float32)
            tensors.setdefault(f"{part}.{title}", empty)[at, result.test] = value
    return tensors


def _scores(
    trial: Trial, subject: Subject, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
) -> Scores:
    titles = {"+".join(names): names for names in trial.mixtures}
    return Scores(
        name=trial.name,
        protocol=trial.protocol,
        dataset=subject.name,
        classes=subject.classes,
        labels=subject.labels,
        sources=subject.sources,
        seeds=trial.seeds,
        predicted=dict(zip(metadata["names"], tensors["predicted"].astype(np.int64), strict=True)),
        folds=tensors["folds"].astype(np.int64),
        parameters=metadata["parameters"],
        seconds=metadata["seconds"],
        processors=tuple(metadata["processors"]),
        last=metadata.get("last", {}),
        curious={
            title: Curious(
                names,
                tensors[f"disagreement.{title}"],
                tensors[f"epistemic.{title}"],
                tensors[f"router_variance.{title}"],
            )
            for title, names in titles.items()
        },
        leaking=metadata["leaking"],
        test_share=metadata["test_share"],
        logits=dict(zip(trial.experts, tensors["logits"].astype(np.float64), strict=True)),
        router=trial.config.router,
        mixed={title: _outputs(tensors, title, names) for title, names in titles.items()},
    )


def _outputs(tensors: Mapping[str, np.ndarray], title: str, names: tuple[str, ...]) -> Outputs:
    """What was kept of a mixture, as something to mix again."""
    router = tensors[f"router.{title}"].astype(np.float64)
    return Outputs(names, tensors[f"logits.{title}"].astype(np.float64), router, router[None])


def subject_of(bundle: Bundle) -> Subject:
    """A bundle's own clips as something to train on, as if its recordings had been embedded: an embedding is
    kept in half precision there too, so what is trained on either is found for the other.

    Raises:
        BundleError: the bundle carries none.
    """
    from qmoe_core.evaluation.sweep import judged

    data = judged(bundle)
    return Subject(
        name=bundle.provenance.dataset,
        fingerprint=bundle.provenance.dataset_fingerprint,
        embedder_id=bundle.manifest.embedder_id,
        classes=bundle.classes,
        embeddings=data.embeddings.astype(np.float32),
        labels=data.labels,
        sources=tuple(clip.source for clip in data.clips),
        folds=data.folds if data.folds.any() else None,
    )


def as_judged(trial: Trial, bundle: Bundle, subject: Subject) -> Scores:
    """A trial without training: what the bundle's experts said of each clip when they had not seen it.

    The bundle's one router knows all of its experts; a mixture takes its part of it.
    """
    from qmoe_core.evaluation.sweep import judged

    outputs = judged(bundle).outputs
    made = [split.fold for split in crossval.splits_of(subject, trial.config, trial.seeds)]
    folds = np.zeros((1, len(subject.labels)), np.int16)
    for number, fold in enumerate(made):
        folds[0, fold.test] = number
    tensors: dict[str, np.ndarray] = {"folds": folds}
    said = outputs.of(trial.experts).logits.argmax(axis=-1)
    predicted = dict(zip(trial.experts, said.T, strict=True))
    parameters = {name: bundle.expert(name).parameters for name in trial.experts}
    router = sum(array.size for array in (*bundle.router.weights, *bundle.router.biases))
    for names in trial.mixtures:
        title, settings = "+".join(names), Settings.of(trial.config.router, names)
        part: Outputs = outputs.of(names)
        curious = mixing.mix(part, settings)
        predicted[title] = mixing.mix(part, settings.without_curiosity()).probabilities.argmax(axis=-1)
        predicted[f"{title} curious"] = curious.probabilities.argmax(axis=-1)
        for name in (title, f"{title} curious"):
            parameters[name] = sum(parameters[expert] for expert in names) + router
        tensors |= {
            f"{part}.{title}": getattr(curious, part)[None]
            for part in ("disagreement", "epistemic", "router_variance")
        }
        tensors |= {f"logits.{title}": part.logits[None], f"router.{title}": part.router[None]}
    tensors["logits"] = np.moveaxis(outputs.of(trial.experts).logits, 1, 0)[:, None]
    tensors["predicted"] = np.stack(list(predicted.values()))[:, None]
    metadata = {
        "names": list(predicted),
        "parameters": parameters,
        "seconds": {},
        "processors": [],
        "leaking": splits.leaking_sources(made, subject.sources),
        "test_share": float(np.mean([len(fold.test) / len(fold.train) for fold in made])),
    }
    return _scores(trial, subject, tensors, metadata)
