"""Does the uncertainty rise at sounds that nobody taught? Held-out classes as out-of-distribution.

Experts and a router are trained without some classes, fold by fold, through the same cross-validation as
everything else. In distribution are the test clips of the classes that stayed; out of distribution are the
test clips of those that were left out. An uncertainty that knows is larger on the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from qmoe_core import bundles, engine
from qmoe_core.config import Config, fingerprint, to_dict
from qmoe_core.errors import BundleError, DatasetError, StoreError
from qmoe_core.evaluation.classification import accuracy
from qmoe_core.evaluation.selective import Auroc, detection, uncertainties
from qmoe_core.routing import mixing
from qmoe_core.routing.mixing import Outputs, Settings
from qmoe_core.runtime import typed
from qmoe_core.runtime.executor import Context
from qmoe_core.runtime.identity import identity
from qmoe_core.runtime.store import Store
from qmoe_core.training import crossval
from qmoe_core.training.crossval import Subject

KIND = "held-out"
SHIPPED = "held-out.json"


@dataclass(frozen=True)
class HeldOut:
    """What experts that never heard some classes say of known and of strange clips.

    Attributes:
        dataset, embedder_id, protocol, selection, folds, seed: how it was made.
        held_out, classes: names of the classes left out, and of the C' that the experts know.
        known: outputs of the n in-distribution test clips; labels: int64 [n] of them, into `classes`;
            clips: int64 [n], their indices in the dataset.
        strange: outputs of the m held-out clips; strange_clips: int64 [m].
        recordings: which recording each was cut from, int64 [n + m], known ones first; None where that was
            not kept.
    """

    dataset: str
    embedder_id: str
    protocol: str
    selection: str
    folds: int
    seed: int
    held_out: tuple[str, ...]
    classes: tuple[str, ...]
    known: Outputs
    labels: np.ndarray
    clips: np.ndarray
    strange: Outputs
    strange_clips: np.ndarray
    recordings: np.ndarray | None = None


@dataclass(frozen=True)
class UnknownClassesResult:
    """How well each uncertainty tells strange clips from known ones, and what that was measured on.

    Attributes:
        held_out: classes left out; classes: those that stayed.
        n_known, n_strange: clips; folds: number of folds.
        accuracy: of the mixture on the known clips.
        detection: by name of the uncertainty (see `selective.MEASURES`).
    """

    dataset: str
    embedder_id: str
    protocol: str
    held_out: tuple[str, ...]
    classes: tuple[str, ...]
    folds: int
    seed: int
    n_known: int
    n_strange: int
    experts: tuple[str, ...]
    accuracy: float
    detection: dict[str, Auroc]

    def to_json(self) -> dict[str, Any]:
        """As `qmoe sweep ood --json` prints it."""
        return msgspec.to_builtins(self)


def without(subject: Subject, held_out: Sequence[str]) -> tuple[Subject, np.ndarray]:
    """A dataset without some classes.

    Args:
        held_out: names of classes, some but not all; two must remain.

    Returns:
        What remains, with labels counted anew, and the indices of its clips in the whole, int64 [n].

    Raises:
        DatasetError: a class that does not exist, is named twice, or too few remain.
    """
    unknown = [name for name in held_out if name not in subject.classes]
    if unknown or not held_out or len(set(held_out)) != len(held_out):
        what = f"there is no class {unknown[0]}" if unknown else "name one or more classes, each once"
        raise DatasetError(f"held-out classes: {what}; {subject.name} has {', '.join(subject.classes)}")
    classes = tuple(name for name in subject.classes if name not in held_out)
    if len(classes) < 2:
        raise DatasetError(
            f"held-out classes: two must remain, and {subject.name} has {len(subject.classes)}"
        )
    number = np.full(len(subject.classes), -1)
    number[[subject.classes.index(name) for name in classes]] = np.arange(len(classes))
    labels = number[subject.labels]
    kept = np.flatnonzero(labels >= 0)
    remaining = Subject(
        name=f"{subject.name} without {', '.join(held_out)}",
        fingerprint=fingerprint({"dataset": subject.fingerprint, "classes": classes}),
        embedder_id=subject.embedder_id,
        classes=classes,
        embeddings=subject.embeddings[kept],
        labels=labels[kept],
        sources=tuple(subject.sources[i] for i in kept),
        folds=None if subject.folds is None else subject.folds[kept],
        copies=None if subject.copies is None else subject.copies[:, kept],
    )
    return remaining, kept


def hold_out(
    subject: Subject,
    held_out: Sequence[str],
    experts: Sequence[str],
    config: Config,
    context: Context,
    title: str = "training",
) -> HeldOut:
    """Train without some classes on every fold (or find that in the store), and listen to all clips.

    A held-out clip is judged by the experts of one fold: with official folds the one that tests its own
    fold, so that it meets experts as far from it as the known clips do; else folds take turns.

    Args:
        subject: the whole dataset; held_out: names of the classes to leave out.
        experts: the mixture.
        context, title: see `crossval.train_experts`.

    Raises:
        DatasetError: classes that do not fit, or folds that cannot be made without them.
        Cancelled: finished folds are kept.
    """
    store = context.store
    remaining, kept = without(subject, held_out)
    results = crossval.train_experts(remaining, experts, config, [config.seed], context, title)
    mixtures = list(crossval.compose(remaining, results, experts, config, store))
    turns = _turns(subject, np.setdiff1d(np.arange(len(subject.labels)), kept), remaining, mixtures)
    known, strange = [], []
    for mixture, clips in zip(mixtures, turns, strict=True):
        both = np.concatenate([remaining.embeddings[mixture.test], subject.embeddings[clips]])
        outputs = _outputs(remaining, mixture, both, config, store)
        known.append(_part(outputs, slice(None, len(mixture.test))))
        strange.append(_part(outputs, slice(len(mixture.test), None)))
    tests = np.concatenate([mixture.test for mixture in mixtures])
    made = HeldOut(
        dataset=subject.name,
        embedder_id=subject.embedder_id,
        protocol=config.evaluation.protocol,
        selection=config.evaluation.selection,
        folds=len(mixtures),
        seed=config.seed,
        held_out=tuple(held_out),
        classes=remaining.classes,
        known=_joined(known),
        labels=remaining.labels[tests],
        clips=kept[tests],
        strange=_joined(strange),
        strange_clips=np.concatenate(turns),
        recordings=_recordings(subject, np.concatenate([kept[tests], *turns])),
    )
    _keep(made, subject, config, store)
    return made


def _recordings(subject: Subject, clips: np.ndarray) -> np.ndarray:
    return np.unique(np.asarray(subject.sources), return_inverse=True)[1][clips]


def _turns(
    subject: Subject, strange: np.ndarray, remaining: Subject, mixtures: Sequence[crossval.MixtureResult]
) -> list[np.ndarray]:
    """Which held-out clips each fold's experts judge."""
    if (
        subject.folds is None
        or remaining.folds is None
        or not mixtures[0].split.fold.name.startswith("official")
    ):
        return [strange[i :: len(mixtures)] for i in range(len(mixtures))]
    return [strange[subject.folds[strange] == remaining.folds[mixture.test[0]]] for mixture in mixtures]


def _outputs(
    subject: Subject,
    mixture: crossval.MixtureResult,
    embeddings: np.ndarray,
    config: Config,
    store: Store,
) -> Outputs:
    """What one fold's experts and router say of embeddings."""
    logits = []
    z = np.empty(0)
    for name in mixture.experts:
        entry = store.get(crossval.KIND, crossval.Task(subject, name, mixture.split, config).key)
        if entry is None:
            raise StoreError(
                f"{name} of {mixture.split.fold.name} was removed from the store meanwhile; start again"
            )
        z = (embeddings - entry.tensors["mean"]) / entry.tensors["std"]
        expert = engine.PackedExpert(engine.from_tensors(entry.tensors, {"name": name}, "refit."))
        logits.append(expert.logits(z))
    router = mixture.router
    return Outputs(
        mixture.experts,
        np.stack(logits, axis=1).astype(np.float64),
        router.logits(z).astype(np.float64),
        router.mc_logits(z, config.router.mc_samples).astype(np.float64),
    )


def _part(outputs: Outputs, clips: slice) -> Outputs:
    return Outputs(outputs.experts, outputs.logits[clips], outputs.router[clips], outputs.router_mc[:, clips])


def _joined(parts: Sequence[Outputs]) -> Outputs:
    return Outputs(
        parts[0].experts,
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.router for part in parts]),
        np.concatenate([part.router_mc for part in parts], axis=1),
    )


def report(held: HeldOut, settings: Settings | None = None) -> UnknownClassesResult:
    """Judge every uncertainty by how well it tells the strange clips from the known ones.

    Args:
        settings: how to mix; None is all experts, weighted by the plain router.

    Raises:
        ConfigError: an expert that did not speak.
    """
    if settings is None:
        settings = Settings(held.known.experts, top_k=len(held.known.experts), curiosity="none")
    scale = mixing.mean_interest(held.known, settings) if settings.normalise else 1.0
    known = mixing.mix(held.known, settings, mean_interest=scale)
    strange = mixing.mix(held.strange, settings, mean_interest=scale)
    there, here = uncertainties(strange), uncertainties(known)
    is_strange = np.repeat([False, True], [len(held.labels), len(held.strange_clips)])
    scores = {name: np.concatenate([here[name], there[name]]) for name in here}
    return UnknownClassesResult(
        dataset=held.dataset,
        embedder_id=held.embedder_id,
        protocol=held.protocol,
        held_out=held.held_out,
        classes=held.classes,
        folds=held.folds,
        seed=held.seed,
        n_known=len(held.labels),
        n_strange=len(held.strange_clips),
        experts=settings.experts,
        accuracy=accuracy(held.labels, known.probabilities.argmax(axis=-1)),
        detection=detection(scores, is_strange, held.recordings) or {},
    )


def _keep(held: HeldOut, subject: Subject, config: Config, store: Store) -> None:
    key = {
        "what": "held-out classes",
        "dataset": subject.fingerprint,
        "embedder": subject.embedder_id,
        "held_out": list(held.held_out),
        "experts": list(held.known.experts),
        "config": to_dict(config),
        "code": identity(KIND),
    }
    tensors = {"labels": held.labels, "clips": held.clips, "strange_clips": held.strange_clips}
    if held.recordings is not None:
        tensors["recordings"] = held.recordings
    for name, outputs in (("known", held.known), ("strange", held.strange)):
        tensors |= {f"{name}.logits": outputs.logits, f"{name}.router": outputs.router}
        tensors[f"{name}.router_mc"] = outputs.router_mc
    metadata = {
        "dataset": held.dataset,
        "embedder": held.embedder_id,
        "protocol": held.protocol,
        "selection": held.selection,
        "folds": held.folds,
        "seed": held.seed,
        "held_out": list(held.held_out),
        "classes": list(held.classes),
        "experts": list(held.known.experts),
    }
    store.put(KIND, key, tensors, metadata)


def shipped(embedder_id: str, classes: Sequence[str]) -> list[UnknownClassesResult]:
    """What the lab brings along of a dataset of these classes and this embedder.

    It was made with `qmoe sweep ood esc10 --held-out dog,rooster --held-out … --json > data/held-out.json`.

    Raises:
        BundleError: the file is damaged.
    """
    path = bundles.shipped() / SHIPPED
    try:
        reports = typed.decode(path.read_bytes(), list[UnknownClassesResult])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.DecodeError) as error:
        raise BundleError(f"{path}: cannot be read ({error}); install the lab again") from None
    return [r for r in reports if _is_of(r.embedder_id, r.held_out, r.classes, embedder_id, classes)]


def _is_of(
    made_with: str, held_out: Sequence[str], stayed: Sequence[str], embedder_id: str, classes: Sequence[str]
) -> bool:
    """Whether a result is of a dataset of these classes and this embedder."""
    return made_with == embedder_id and {*held_out, *stayed} == {*classes}


def kept(store: Store, embedder_id: str, classes: Sequence[str]) -> list[HeldOut]:
    """What `hold_out` left in the store for a dataset of these classes and this embedder, newest first.

    Args:
        classes: of the whole dataset, such as a bundle's.
    """
    found = []
    for entry in reversed(store.list(KIND)):
        facts = entry.metadata
        if not _is_of(facts["embedder"], facts["held_out"], facts["classes"], embedder_id, classes):
            continue
        tensors, experts = entry.tensors, tuple(facts["experts"])
        known, strange = (
            Outputs(
                experts, tensors[f"{name}.logits"], tensors[f"{name}.router"], tensors[f"{name}.router_mc"]
            )
            for name in ("known", "strange")
        )
        found.append(
            HeldOut(
                dataset=facts["dataset"],
                embedder_id=facts["embedder"],
                protocol=facts["protocol"],
                selection=facts["selection"],
                folds=facts["folds"],
                seed=facts["seed"],
                held_out=tuple(facts["held_out"]),
                classes=tuple(facts["classes"]),
                known=known,
                labels=tensors["labels"],
                clips=tensors["clips"],
                strange=strange,
                strange_clips=tensors["strange_clips"],
                recordings=tensors.get("recordings"),
            )
        )
    return found


def together(reports: Sequence[UnknownClassesResult]) -> dict[str, Auroc]:
    """Each uncertainty over several sets: mean, least and largest AUROC; of one set, its own interval."""
    if len(reports) == 1:
        return reports[0].detection
    found = {}
    for name in reports[0].detection:
        each = [one.detection[name] for one in reports if name in one.detection]
        values = [one.auroc for one in each]
        found[name] = Auroc(
            auroc=sum(values) / len(values),
            low=min(values),
            high=max(values),
            positives=sum(one.positives for one in each),
            negatives=sum(one.negatives for one in each),
        )
    return found
