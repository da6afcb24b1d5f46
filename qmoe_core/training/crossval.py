"""Cross-validation: every expert on every fold and seed, then routers over the experts' logits.

A task (expert × fold × seed) is pure and kept in the store under everything it depends on, so an
interrupted run goes on where it stopped and a finished one is free. With `inner-validation` a task

1. holds out part of the fold's training clips and chooses the epoch on them,
2. trains again on all training clips for that many epochs, and
3. predicts the test clips, once.

With `best-on-test` (what the paper's code does) the epoch is chosen on the test clips themselves; with
`setting` there is no choice: every fit takes as many epochs as the configuration says.

The observer of a context is told of every epoch as it happens (`event` is "epoch"; which expert, fold, seed
and part; losses and F1) and of every finished task ("fold").
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from qmoe_core.config import Config, fingerprint, to_dict
from qmoe_core.datasets import splits
from qmoe_core.datasets.manifest import Manifest
from qmoe_core.engine import ExpertWeights, from_tensors, to_tensors
from qmoe_core.errors import ConfigError, DatasetError
from qmoe_core.evaluation.classification import accuracy, weighted_f1
from qmoe_core.experts.spec import EXPERTS
from qmoe_core.routing import mixing
from qmoe_core.routing.mixing import Outputs, Settings
from qmoe_core.routing.router import Router
from qmoe_core.runtime import system
from qmoe_core.runtime.executor import Context, Observer
from qmoe_core.runtime.identity import identity
from qmoe_core.runtime.store import Store, StoreEntry
from qmoe_core.training import perturbed

if TYPE_CHECKING:
    from qmoe_core.experts.network import ExpertNetwork
    from qmoe_core.training.fit import Scaler
    from qmoe_core.training.loop import Epoch

KIND = "experts"
ROUTER_KIND = "routers"
JOINT_KIND = "joint-mixtures"
FOUND = "found in the store"
"""What progress says of tasks that were finished before."""
Model = TypeVar("Model")


@dataclass(frozen=True)
class Subject:
    """What is trained on: a dataset's embeddings, labels and what its folds are made from.

    Attributes:
        name: of the dataset; fingerprint: of its content; embedder_id: what made the embeddings.
        embeddings: float16 or float32 [n, D], perhaps on disk;
        labels: int64 [n]; sources: n names; folds: int64 [n] or None.
        copies: float16 [copies, n, D], of changed copies of the clips that are trained on too, or None.
    """

    name: str
    fingerprint: str
    embedder_id: str
    classes: tuple[str, ...]
    embeddings: np.ndarray
    labels: np.ndarray
    sources: tuple[str, ...]
    folds: np.ndarray | None
    copies: np.ndarray | None = None

    @property
    def address(self) -> dict[str, Any]:
        """Its part of the key of what is trained on it."""
        changed = {} if self.copies is None else {"copies": [perturbed.VERSION, len(self.copies)]}
        return {"dataset": self.fingerprint, "embedder": self.embedder_id, **changed}

    def training_set(self, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Clips and their changed copies: embeddings [m, D] and labels int64 [m]."""
        if self.copies is None:
            return self.embeddings[clips], self.labels[clips]
        every = np.concatenate([self.embeddings[clips], *(copy[clips] for copy in self.copies)])
        return every, np.tile(self.labels[clips], 1 + len(self.copies))

    @staticmethod
    def of(manifest: Manifest, embedder_id: str, embeddings: np.ndarray) -> Subject:
        """A dataset that was embedded."""
        return Subject(
            manifest.name,
            manifest.fingerprint(),
            embedder_id,
            manifest.classes,
            embeddings,
            manifest.labels,
            manifest.sources,
            manifest.folds,
        )


@dataclass(frozen=True)
class Split:
    """One fold of one seed: indices of clips. `inner` is what the epoch is chosen on, or None."""

    fold: splits.Fold
    seed: int
    inner: tuple[np.ndarray, np.ndarray] | None

    @property
    def address(self) -> dict[str, Any]:
        """The split's part of a key."""
        inner = None if self.inner is None else [part.tolist() for part in self.inner]
        return {
            "fold": self.fold.name,
            "seed": self.seed,
            "clips": fingerprint([self.fold.train.tolist(), self.fold.test.tolist(), inner]),
        }


@dataclass(frozen=True)
class Task:
    """Train one expert on one split."""

    subject: Subject
    expert: str
    split: Split
    config: Config

    def __str__(self) -> str:
        return f"{self.expert}, {self.split.fold.name}, seed {self.split.seed}"

    @property
    def key(self) -> dict[str, Any]:
        """Everything the result depends on."""
        return {
            "what": "expert",
            **self.subject.address,
            "expert": self.expert,
            "selection": self.config.evaluation.selection,
            "config": to_dict(self.config.expert),
            "code": identity(KIND),
            **self.split.address,
        }


@dataclass(frozen=True)
class FoldResult:
    """What a task gives; n test clips.

    Attributes:
        test: indices of the test clips; logits: float32 [n, C] of them.
        routing_clips, routing_logits: the clips a router may learn from, and what this expert says of
            them without having seen them (inner validation); with `best-on-test` the training clips.
        f1, accuracy: on the test clips; epochs: chosen; seconds: the task took, on that processor.
    """

    expert: str
    split: Split
    test: np.ndarray
    logits: np.ndarray
    routing_clips: np.ndarray
    routing_logits: np.ndarray
    f1: float
    accuracy: float
    epochs: int
    seconds: float
    processor: str
    parameters: int
    key: str
    cached: bool


@dataclass(frozen=True)
class MixtureResult:
    """A mixture on one split, test clips as in `FoldResult`.

    Attributes:
        outputs: what its experts and router say of the test clips; router: the one trained on this split.
        f1: weighted F1 without and with curiosity, at the configuration's α and strategy.
    """

    experts: tuple[str, ...]
    split: Split
    test: np.ndarray
    outputs: Outputs
    router: Router
    f1: tuple[float, float]
    parameters: int
    seconds: float


def splits_of(subject: Subject, config: Config, seeds: Sequence[int]) -> list[Split]:
    """Every fold for every seed, with the inner validation that the configuration asks for.

    Raises:
        DatasetError: the dataset does not allow such folds.
    """
    protocol, labels = config.evaluation.protocol, subject.labels
    made = []
    for seed in seeds:
        arguments = (labels, subject.sources, subject.folds, protocol)
        for fold in splits.folds(*arguments, config.evaluation.folds, seed, classes=subject.classes):
            inner = None
            if config.evaluation.selection == "inner-validation":
                inner = splits.inner(fold, *arguments, seed)
            made.append(Split(fold, seed, inner))
    return made


def with_sources(experts: Sequence[str]) -> tuple[str, ...]:
    """The experts, and those that they are made from, which come first."""
    needed = {source for name in experts if (source := EXPERTS[name].derived_from)}
    first = tuple(name for name in EXPERTS if name in needed)
    return first + tuple(name for name in experts if name not in needed)


def tasks_of(subject: Subject, experts: Sequence[str], config: Config, seeds: Sequence[int]) -> list[Task]:
    """What `train_experts` does, in its order: every expert, and what it is made from, on every split.

    Raises:
        DatasetError: folds that cannot be made. ConfigError: an expert of another embedder or format of it.
    """
    if strange := [name for name in experts if name not in EXPERTS]:
        raise ConfigError(f"{strange[0]}: only formats of heads are accepted here: {', '.join(EXPERTS)}")
    made = splits_of(subject, config, seeds)
    # Derived experts come last: by then what they are made from is in the store (else they train it).
    names = sorted(with_sources(experts), key=lambda name: EXPERTS[name].derived_from is not None)
    return [Task(subject, name, split, config) for name in names for split in made]


def train_experts(
    subject: Subject,
    experts: Sequence[str],
    config: Config,
    seeds: Sequence[int],
    context: Context,
    title: str = "training",
) -> list[FoldResult]:
    """Train (or find) every expert on every fold and seed.

    Args:
        experts: names; experts that one of them is made from are trained too, and not returned.
        context: its observer is told of epochs and folds; title: of its progress display.

    Returns:
        Results in the order expert, seed, fold.

    Raises:
        DatasetError: folds that cannot be made. Cancelled: finished tasks are kept.
    """
    store, show = context.store, context.progress(title)
    found: dict[tuple[str, int, str], FoldResult] = {}
    missing: list[Task] = []

    def keep(task: Task, result: FoldResult) -> None:
        found[_place(task)] = result
        told = {"f1": result.f1, "seconds": result.seconds, "epochs": result.epochs}
        context.tell({"event": "fold", **_named(task), **told, "cached": result.cached})

    tasks = tasks_of(subject, experts, config, seeds)
    for task in tasks:
        entry = store.get(KIND, task.key)
        if entry is None:
            missing.append(task)
        else:
            keep(task, _result(task, entry, cached=True))
    done, total = len(found), len(found) + len(missing)
    if done:
        show(done, total, FOUND)
    for index, result in context.run(partial(run_task, root=store.address), missing, observed=True):
        keep(missing[index], result)
        done += 1
        show(done, total, f"{missing[index]}: F1 {result.f1:.3f}")
    return [found[_place(task)] for name in experts for task in tasks if task.expert == name]


def _place(task: Task) -> tuple[str, int, str]:
    return task.expert, task.split.seed, task.split.fold.name


def _named(task: Task | JointTask) -> dict[str, Any]:
    """A task's part of what an observer is told."""
    expert = task.expert if isinstance(task, Task) else "+".join(task.experts)
    return {"expert": expert, "fold": task.split.fold.name, "seed": task.split.seed}


def run_task(task: Task, root: str, observe: Observer | None = None) -> FoldResult:
    """Train one expert on one split and keep the result (runs in a worker process).

    Raises:
        DatasetError: a loss that is not finite.
    """
    from qmoe_core.experts.network import export
    from qmoe_core.training.fit import fit_expert, predict

    history, store, started = [], Store(root), time.perf_counter()
    subject, split, z = task.subject, task.split, task.subject.embeddings
    sources = _float_sources(task, store)

    def fit(part: FoldFit) -> tuple[ExpertNetwork, int]:
        fitted = fit_expert(
            task.expert,
            part.z,
            part.labels,
            len(subject.classes),
            task.config.expert,
            seed=split.seed,
            epochs=part.epochs,
            source=sources.get(part.name),
            held_out=part.held_out,
            monitor=part.monitor,
            on_epoch=_reporter(observe, {**_named(task), "part": part.name}),
        )
        history.extend({"part": part.name, **asdict(epoch)} for epoch in fitted.history)
        return fitted.network, fitted.epochs

    first, last = fit_on(subject, split, task.config, fit)
    routing_clips = split.fold.train if split.inner is None else split.inner[1]
    logits = last.on(predict, z[split.fold.test])
    if not np.isfinite(logits).all():
        raise DatasetError(f"{task}: training diverged; lower expert.learning_rate")
    weights = export(last.model)
    tensors = to_tensors(weights, "refit.") | {
        "mean": last.scaler.mean,
        "std": last.scaler.std,
        "logits": logits,
        "routing_clips": routing_clips,
        "routing_logits": first.on(predict, z[routing_clips]),
    }
    if first is not last and task.expert in _SOURCES:
        tensors |= to_tensors(export(first.model), "inner.")
    labels, predicted = subject.labels[split.fold.test], logits.argmax(axis=1)
    metadata = {
        **_named(task),
        "dataset": subject.name,
        "protocol": task.config.evaluation.protocol,
        "f1": weighted_f1(labels, predicted),
        "accuracy": accuracy(labels, predicted),
        "epochs": first.epochs,
        "parameters": weights.parameters,
        "seconds": time.perf_counter() - started,
        "processor": system.processor(),
        "history": history,
        "config": to_dict(task.config),
    }
    return _result(task, store.put(KIND, task.key, tensors, metadata), cached=False)


@dataclass(frozen=True)
class FoldFit:
    """One fit that the protocol asks for.

    Attributes:
        name: `inner` (only chooses the epoch) or `refit`.
        z: standardised embeddings, float32 [n, D]; labels: int64 [n].
        held_out: what the epoch is chosen on, or None; monitor: by which figure, `loss` or `f1`.
        epochs: how many; None for as many as the configuration has.
    """

    name: str
    z: np.ndarray
    labels: np.ndarray
    held_out: tuple[np.ndarray, np.ndarray] | None
    monitor: str
    epochs: int | None


@dataclass(frozen=True)
class Trained(Generic[Model]):
    """What a fit gives: the model, the scaler of the clips that it was trained on, and the chosen epoch."""

    model: Model
    scaler: Scaler
    epochs: int

    def on(self, predict: Callable[[Model, np.ndarray], np.ndarray], embeddings: np.ndarray) -> np.ndarray:
        """The model's logits of embeddings as they came."""
        return predict(self.model, self.scaler(embeddings))


def fit_on(
    subject: Subject, split: Split, config: Config, fit: Callable[[FoldFit], tuple[Model, int]]
) -> tuple[Trained[Model], Trained[Model]]:
    """Fit as the selection of the epoch asks for.

    With an inner validation the first fit chooses the epoch on it, and the second is trained on all training
    clips for as long; else there is one fit, returned twice, which with `best-on-test` stops where it does
    best on the test clips. Changed copies are trained on only; the scaler is that of the clips as they are.

    Args:
        fit: trains one part; gives the model and its number of epochs.
    """
    from qmoe_core.training.fit import Scaler

    z, y = subject.embeddings, subject.labels

    def trained(name: str, clips: np.ndarray, held: np.ndarray | None, monitor: str, epochs: int | None):
        scaler = Scaler.of(z[clips])
        held_out = None if held is None else (scaler(z[held]), y[held])
        shown, labels = subject.training_set(clips)
        model, chosen = fit(FoldFit(name, scaler(shown), labels, held_out, monitor, epochs))
        return Trained(model, scaler, chosen)

    train = split.fold.train
    if split.inner is None:
        held = split.fold.test if config.evaluation.selection == "best-on-test" else None
        only = trained("refit", train, held, "f1", None)
        return only, only
    first = trained("inner", *split.inner, "loss", None)
    return first, trained("refit", train, None, "loss", first.epochs)


def _reporter(observe: Observer | None, named: dict[str, Any]) -> Callable[[int, Epoch], None] | None:
    """An observer as a fit calls it."""
    if observe is None:
        return None

    def report(number: int, epoch: Epoch) -> None:
        figures = {"epoch": number, "train_loss": epoch.train_loss, "loss": epoch.loss, "f1": epoch.f1}
        observe({"event": "epoch", **named, **figures})

    return report


_SOURCES = frozenset(spec.derived_from for spec in EXPERTS.values() if spec.derived_from)


def _float_sources(task: Task, store: Store) -> dict[str, ExpertWeights]:
    """The trained float experts that this one is made from, by part of the protocol."""
    name = EXPERTS[task.expert].derived_from
    if name is None:
        return {}
    source = Task(task.subject, name, task.split, task.config)
    entry = store.get(KIND, source.key)
    if entry is None:  # not trained yet, or damaged and set aside a moment ago
        run_task(source, store.address)
        entry = store.get(KIND, source.key)
        assert entry is not None
    parts = ("refit",) if task.split.inner is None else ("inner", "refit")
    return {part: from_tensors(entry.tensors, {"name": name}, f"{part}.") for part in parts}


def _result(task: Task, entry: StoreEntry, *, cached: bool) -> FoldResult:
    tensors, metadata = entry.tensors, entry.metadata
    return FoldResult(
        expert=task.expert,
        split=task.split,
        test=task.split.fold.test,
        logits=tensors["logits"],
        routing_clips=tensors["routing_clips"],
        routing_logits=tensors["routing_logits"],
        f1=metadata["f1"],
        accuracy=metadata["accuracy"],
        epochs=metadata["epochs"],
        seconds=metadata["seconds"],
        processor=metadata["processor"],
        parameters=metadata["parameters"],
        key=entry.key,
        cached=cached,
    )


def _router_key(subject: Subject, members: Sequence[FoldResult], config: Config) -> dict[str, Any]:
    """What the router of a mixture on one split depends on."""
    return {
        "what": "router",
        "embedder": subject.embedder_id,
        "dataset": subject.fingerprint,
        "members": [member.key for member in members],
        "config": to_dict(config.router),
        "class_weights": config.expert.class_weights,
        "code": identity(ROUTER_KIND),
        **members[0].split.address,
    }


def mixtures(
    subject: Subject,
    results: Sequence[FoldResult],
    experts: Sequence[str],
    config: Config,
    seeds: Sequence[int],
    context: Context,
) -> list[MixtureResult]:
    """A mixture on every split, trained as the configuration says: `compose` or `train_joint`."""
    if config.moe_training == "joint":
        return train_joint(subject, experts, config, seeds, context)
    return list(compose(subject, results, experts, config, context.store))


def compose(
    subject: Subject, results: Sequence[FoldResult], experts: Sequence[str], config: Config, store: Store
) -> Iterator[MixtureResult]:
    """Mixtures of trained experts: on every split, only a router is trained (or found).

    Args:
        results: of `train_experts`, with every expert of the mixture.
        experts: the mixture, in order.

    Yields:
        A result for each split.
    """
    from qmoe_core.training.fit import Scaler

    by_split = defaultdict(dict)
    for result in results:
        by_split[result.split.seed, result.split.fold.name][result.expert] = result
    for group in by_split.values():
        members: list[FoldResult] = [group[name] for name in experts]
        split, test, started = members[0].split, members[0].test, time.perf_counter()
        scaler = Scaler.of(subject.embeddings[split.fold.train])
        clips = members[0].routing_clips
        logits = np.stack([member.logits for member in members], axis=1).astype(np.float64)
        z_test = scaler(subject.embeddings[test])

        def outputs(
            router: Router,
            samples: int = config.router.mc_samples,
            logits: np.ndarray = logits,
            z: np.ndarray = z_test,
        ) -> Outputs:
            routing = router.logits(z).astype(np.float64)
            return Outputs(tuple(experts), logits, routing, router.mc_logits(z, samples).astype(np.float64))

        def score(router: Router, said: Callable[..., Outputs] = outputs, clips: np.ndarray = test) -> float:
            plain = Settings.of(config.router, tuple(experts)).without_curiosity()
            return _f1(said(router, samples=1), plain, subject.labels[clips])

        router = _cached_router(
            store,
            _router_key(subject, members, config),
            experts,
            config,
            z=scaler(subject.embeddings[clips]),
            logits=np.stack([member.routing_logits for member in members], axis=1),
            labels=subject.labels[clips],
            seed=split.seed,
            score=score if config.evaluation.selection == "best-on-test" else None,
        )
        said = outputs(router)
        yield MixtureResult(
            experts=tuple(experts),
            split=split,
            test=test,
            outputs=said,
            router=router,
            f1=_f1_pair(said, config, subject.labels[test]),
            parameters=sum(member.parameters for member in members) + _parameters(router),
            seconds=time.perf_counter() - started,
        )


def _cached_router(
    store: Store, key: dict[str, Any], experts: Sequence[str], config: Config, **fitting: Any
) -> Router:
    from qmoe_core.training.routers import fit_router

    entry = store.get(ROUTER_KIND, key)
    if entry is not None:
        return Router.from_tensors(dict(entry.tensors), tuple(experts), config.router.dropout, config.seed)
    router = fit_router(experts, config=config, **fitting)
    store.put(ROUTER_KIND, key, router.to_tensors(), {"experts": list(experts)})
    return router


def _parameters(router: Router) -> int:
    return sum(w.size for w in router.weights) + sum(b.size for b in router.biases)


def _f1(outputs: Outputs, settings: Settings, labels: np.ndarray) -> float:
    """Weighted F1 of a mixture."""
    scale = mixing.mean_interest(outputs, settings) if settings.normalise else 1.0
    return weighted_f1(
        labels, mixing.mix(outputs, settings, mean_interest=scale).probabilities.argmax(axis=-1)
    )


def _f1_pair(outputs: Outputs, config: Config, labels: np.ndarray) -> tuple[float, float]:
    """Weighted F1 of a mixture without and with curiosity."""
    settings = Settings.of(config.router, outputs.experts)
    return _f1(outputs, settings.without_curiosity(), labels), _f1(outputs, settings, labels)


@dataclass(frozen=True)
class JointTask:
    """Train a mixture with its experts on one split (the paper's way)."""

    subject: Subject
    experts: tuple[str, ...]
    split: Split
    config: Config

    def __str__(self) -> str:
        return f"{'+'.join(self.experts)}, {self.split.fold.name}, seed {self.split.seed}"

    @property
    def key(self) -> dict[str, Any]:
        """Everything the result depends on."""
        return {
            "what": "joint mixture",
            **self.subject.address,
            "experts": list(self.experts),
            "selection": self.config.evaluation.selection,
            "config": to_dict(self.config),
            "code": identity(JOINT_KIND),
            **self.split.address,
        }


def joint_tasks_of(
    subject: Subject, experts: Sequence[str], config: Config, seeds: Sequence[int]
) -> list[JointTask]:
    """What `train_joint` does, in its order."""
    return [JointTask(subject, tuple(experts), split, config) for split in splits_of(subject, config, seeds)]


def joint_title(experts: Sequence[str]) -> str:
    """Title of the progress of a mixture's joint training."""
    return "joint " + "+".join(experts)


def train_joint(
    subject: Subject, experts: Sequence[str], config: Config, seeds: Sequence[int], context: Context
) -> list[MixtureResult]:
    """Mixtures whose experts and router learn together; arguments as `train_experts`."""
    tasks = joint_tasks_of(subject, experts, config, seeds)
    found: dict[int, MixtureResult] = {}
    work = partial(run_joint, root=context.store.address)
    run = context.run(work, tasks, joint_title(experts), observed=True)
    for index, result in run:
        found[index] = result
        told = {"f1": result.f1[0], "seconds": result.seconds}
        context.tell({"event": "fold", **_named(tasks[index]), **told})
    return [found[index] for index in range(len(tasks))]


def run_joint(task: JointTask, root: str, observe: Observer | None = None) -> MixtureResult:
    """Train one joint mixture and keep what it says of the test clips (runs in a worker process)."""
    store = Store(root)
    entry = store.get(JOINT_KIND, task.key)
    if entry is None:
        entry = _train_joint(task, store, observe)
    subject, tensors = task.subject, entry.tensors
    test = task.split.fold.test
    said = Outputs(
        task.experts,
        tensors["logits"].astype(np.float64),
        tensors["router"].astype(np.float64),
        tensors["router_mc"].astype(np.float64),
    )
    router = {name: tensor for name, tensor in tensors.items() if name.startswith(("weight", "bias"))}
    return MixtureResult(
        experts=task.experts,
        split=task.split,
        test=test,
        outputs=said,
        router=Router.from_tensors(router, task.experts, task.config.router.dropout, task.config.seed),
        f1=_f1_pair(said, task.config, subject.labels[test]),
        parameters=entry.metadata["parameters"],
        seconds=entry.metadata["seconds"],
    )


def _train_joint(task: JointTask, store: Store, observe: Observer | None) -> StoreEntry:
    from qmoe_core.experts.network import export
    from qmoe_core.training.fit import predict
    from qmoe_core.training.routers import JointMixture, fit_joint, freeze

    started = time.perf_counter()
    subject, split, config = task.subject, task.split, task.config

    def fit(part: FoldFit) -> tuple[JointMixture, int]:
        return fit_joint(
            task.experts,
            part.z,
            part.labels,
            len(subject.classes),
            config,
            seed=split.seed,
            epochs=config.router.epochs if part.epochs is None else part.epochs,
            held_out=part.held_out,
            monitor=part.monitor,
            on_epoch=_reporter(observe, {**_named(task), "part": part.name}),
        )

    first, last = fit_on(subject, split, config, fit)
    router = freeze(last.model.router, task.experts, config)
    weights = [export(expert) for expert in last.model.members]
    z_test = last.scaler(subject.embeddings[split.fold.test])
    tensors = router.to_tensors() | {
        "mean": last.scaler.mean,
        "std": last.scaler.std,
        "logits": np.stack([predict(expert, z_test) for expert in last.model.members], axis=1),
        "router": router.logits(z_test),
        "router_mc": router.mc_logits(z_test, config.router.mc_samples),
    }
    for name, weight in zip(task.experts, weights, strict=True):
        tensors |= to_tensors(weight, f"{name}.")
    metadata = {
        "experts": list(task.experts),
        "dataset": subject.name,
        "fold": split.fold.name,
        "seed": split.seed,
        "epochs": first.epochs,
        "parameters": sum(weight.parameters for weight in weights) + _parameters(router),
        "seconds": time.perf_counter() - started,
        "config": to_dict(config),
    }
    return store.put(JOINT_KIND, task.key, tensors, metadata)
