"""Does it know in noise? Clips as they arrive: what formats and mixtures get right, and whether they know.

Every clip is changed, embedded again, and judged by the experts of the fold that left it out, for every seed.
Limits of doubt are set on unchanged clips of other folds: is the risk that they promise still kept?
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from typing import Any

import msgspec
import numpy as np

from qmoe_core import bundles, engine
from qmoe_core.audio import fitness, perturb
from qmoe_core.datasets import Manifest
from qmoe_core.embedders import Embedder
from qmoe_core.embedders.embed import address_of, first_window
from qmoe_core.errors import BundleError, ConfigError, DatasetError
from qmoe_core.evaluation.calibration import expected_ece, reliability
from qmoe_core.evaluation.conformal import Limits, Promise, limits_from
from qmoe_core.evaluation.selective import detection, uncertainties
from qmoe_core.routing import mixing
from qmoe_core.routing.mixing import Outputs, Settings
from qmoe_core.routing.uncertainty import softmax
from qmoe_core.runtime import typed
from qmoe_core.runtime.executor import Context
from qmoe_core.runtime.requests import Train
from qmoe_core.training import crossval, run

VERSION = 1
"""Of what happens to the clips; raised when it changes, so that kept embeddings are not taken."""
KIND = "embeddings"
SHIPPED = "noise.json"
HELD = 512
"""Windows of clips that are held in memory."""
CLEAN = ("clean", 0.0)
MEASURES = ("doubt", "total", "epistemic")


@dataclass(frozen=True)
class NoiseCell:
    """A format or mixture under one change of the clips.

    Attributes:
        kind, level: see `perturb.LEVELS`, or `clean`; expert: its name; runs: folds × seeds.
        accuracy, accuracy_std: over runs; ece: over all clips of all runs; ece_perfect: what perfect
            calibration would show with as many clips.
        auroc: of errors by measure: value, low, high (95 %, over recordings).
        answered: share of clips under the limit of doubt that was set on unchanged clips of other folds;
            risk_at_threshold: share of errors among these, None where none is.
        snr_db: of `background`; copies: changed ones of each clip that the expert was trained on too.
    """

    kind: str
    level: float
    expert: str
    runs: int
    accuracy: float
    accuracy_std: float
    ece: float
    ece_perfect: float
    auroc: dict[str, tuple[float, float, float]]
    answered: float
    risk_at_threshold: float | None
    snr_db: float | None = None
    copies: int = 0


@dataclass(frozen=True)
class NoiseSweep:
    """All cells, and what they are of; risk: what the limits promise on unchanged clips."""

    dataset: str
    embedder_id: str
    classes: tuple[str, ...]
    protocol: str
    seeds: int
    n: int
    risk: float
    rows: tuple[NoiseCell, ...]

    def to_json(self) -> dict[str, Any]:
        """As `qmoe sweep noise --json` prints it."""
        return asdict(self)


def noise_sweep(request: Train, risk: float, context: Context, clips: int | None = None) -> NoiseSweep:
    """Change the clips of a dataset in every way, and judge them.

    Args:
        request: what to train (or find): experts, seeds, one mixture. Where it asks for changed copies,
            experts are trained without and with them, and both are judged.
        risk: what limits of doubt promise on unchanged clips.
        clips: only so many, evenly spread; None is all.

    Raises:
        UserError: the request cannot work. DatasetError: it has no recordings.
    """
    subject, manifest, embedder = request.embedded(context)
    if manifest.ready is not None or manifest.media == "pictures":
        raise DatasetError(
            f"{manifest.name} holds no recordings, and so nothing that noise could be added to"
        )
    seeds = run.seeds_of(request.config, request.seeds)
    names = request.mixtures[0] if request.mixtures else run.DEFAULT_MIXTURE
    needed = run.needed_by(request.experts, [names])
    judges = [
        _Judge(one, request, names, needed, seeds, risk, context)
        for one in ([replace(subject, copies=None), subject] if request.perturb else [subject])
    ]
    chosen = np.unique(np.linspace(0, len(subject.labels) - 1, clips or len(subject.labels)).astype(int))
    cells = [CLEAN, *((kind, level) for kind, levels in perturb.LEVELS.items() for level in levels)]
    show = context.progress("listening")
    window = lru_cache(maxsize=HELD)(partial(_window, manifest, rate=embedder.sample_rate))
    rows: list[NoiseCell] = []
    for number, (kind, level) in enumerate(cells, start=1):
        embeddings = embedded(manifest, embedder, kind, level, chosen, context, window)
        for judge in judges:
            rows += judge.cells(kind, level, chosen, embeddings)
        show(number, len(cells), f"{kind} {level:g}")
    return NoiseSweep(
        dataset=manifest.name,
        embedder_id=embedder.id,
        classes=subject.classes,
        protocol=request.config.evaluation.protocol,
        seeds=len(seeds),
        n=len(chosen),
        risk=risk,
        rows=tuple(rows),
    )


def embedded(
    manifest: Manifest,
    embedder: Embedder,
    kind: str,
    level: float,
    chosen: np.ndarray,
    context: Context,
    window: Callable[[int], np.ndarray],
) -> np.ndarray:
    """Embeddings of changed clips (the first window of each), float32 [n, D], made once.

    The background of a clip is one of another class, the next in a shuffled order; `window` gives the first
    five seconds of a clip.
    """
    key = {
        **address_of(embedder),
        "dataset": manifest.fingerprint(),
        "changed": [VERSION, kind, level],
        "clips": chosen.tolist(),
    }
    if entry := context.store.get(KIND, key):
        return entry.tensors["embeddings"]
    order = np.random.default_rng(0).permutation(len(manifest))
    parts = []
    for clip in chosen:
        samples = window(int(clip))
        if kind != "clean":
            others = order[manifest.labels[order] != manifest.labels[clip]]
            other = window(int(others[clip % len(others)]))
            samples = perturb.perturb(samples, embedder.sample_rate, kind, level, other, int(clip))
        parts.append(embedder.embed(fitness.prepare(samples)[None])[0])
    embeddings = np.stack(parts)
    context.store.put(KIND, key, {"embeddings": embeddings}, {"embedder": embedder.id, "changed": kind})
    return embeddings


def _window(manifest: Manifest, clip: int, *, rate: int) -> np.ndarray:
    return first_window(manifest.entries[clip], rate)


class _Judge:
    """The experts and routers of every fold and seed, with limits from unchanged clips of other folds."""

    def __init__(
        self,
        subject: crossval.Subject,
        request: Train,
        mixture: Sequence[str],
        names: Sequence[str],
        seeds: Sequence[int],
        risk: float,
        context: Context,
    ) -> None:
        config = request.config
        results = crossval.train_experts(subject, crossval.with_sources(names), config, seeds, context)
        splits = list(crossval.compose(subject, results, mixture, config, context.store))
        self.subject, self.splits, self.names = subject, splits, names
        self.settings = Settings.of(request.config.router, splits[0].experts)
        self.mixture = "+".join(self.settings.experts)
        self.experts = [self._experts(split, request, context) for split in splits]
        self.limits = self._limits(risk)

    def _experts(
        self, split: crossval.MixtureResult, request: Train, context: Context
    ) -> tuple[dict[str, engine.PackedExpert], np.ndarray, np.ndarray]:
        found, mean, std = {}, np.empty(0), np.empty(0)
        for name in self.names:
            task = crossval.Task(self.subject, name, split.split, request.config)
            entry = context.store.get(crossval.KIND, task.key)
            assert entry is not None, "it was trained a moment ago"
            mean, std = entry.tensors["mean"], entry.tensors["std"]
            weights = engine.from_tensors(entry.tensors, {"name": name}, "refit.")
            found[name] = engine.PackedExpert(weights)
        return found, mean, std

    def _said(
        self, number: int, embeddings: np.ndarray
    ) -> Iterator[tuple[str, np.ndarray, dict[str, np.ndarray]]]:
        """Each expert and the mixture of a split: name, probabilities [n, C] and uncertainties."""
        experts, mean, std = self.experts[number]
        z = ((embeddings - mean) / std).astype(np.float32)
        logits = {name: expert.logits(z).astype(np.float64) for name, expert in experts.items()}
        for name, said in logits.items():
            p = softmax(said)
            entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=-1)
            yield name, p, {"doubt": 1.0 - p.max(axis=-1), "total": entropy}
        router, members = self.splits[number].router, self.settings.experts
        both = router.forward(z, self.settings.mc_samples).astype(np.float64)
        outputs = Outputs(members, np.stack([logits[name] for name in members], axis=1), both[0], both[1:])
        mixed = mixing.mix(outputs, self.settings)
        yield self.mixture, mixed.probabilities, uncertainties(mixed)

    def _limits(self, risk: float) -> dict[tuple[int, str], Limits | None]:
        """Of each split and voice, from the other splits of its seed; None where the risk cannot be kept."""
        said = {
            (i, name): p
            for i, split in enumerate(self.splits)
            for name, p, _ in self._said(i, self.subject.embeddings[split.test].astype(np.float32))
        }
        found: dict[tuple[int, str], Limits | None] = {}
        for i, name in said:
            others = [
                j
                for j, split in enumerate(self.splits)
                if j != i and split.split.seed == self.splits[i].split.seed
            ]
            labels = np.concatenate([self.subject.labels[self.splits[j].test] for j in others])
            p = np.concatenate([said[j, name] for j in others])
            try:
                found[i, name] = limits_from(p, labels, Promise(risk=risk))
            except ConfigError:
                found[i, name] = None
        return found

    def cells(self, kind: str, level: float, chosen: np.ndarray, embeddings: np.ndarray) -> list[NoiseCell]:
        """Every voice on changed clips: embeddings [n, D] of the clips `chosen`."""
        place = {int(clip): row for row, clip in enumerate(chosen)}
        gathered: dict[str, list[tuple[np.ndarray, ...]]] = {}
        measures: dict[str, list[dict[str, np.ndarray]]] = {}
        for i, split in enumerate(self.splits):
            clips = np.array([clip for clip in split.test if int(clip) in place], int)
            rows = embeddings[[place[int(clip)] for clip in clips]]
            for name, p, unsure in self._said(i, rows):
                limits = self.limits[i, name]
                doubt = 1.0 - p.max(axis=-1)
                answered = doubt <= (limits.doubt if limits else -1.0)
                correct = p.argmax(axis=-1) == self.subject.labels[clips]
                gathered.setdefault(name, []).append((correct, p.max(axis=-1), answered, clips))
                measures.setdefault(name, []).append(unsure)
        return [self._cell(kind, level, name, gathered[name], measures[name]) for name in gathered]

    def _cell(
        self,
        kind: str,
        level: float,
        name: str,
        runs: list[tuple[np.ndarray, ...]],
        measures: list[dict[str, np.ndarray]],
    ) -> NoiseCell:
        correct, stated, answered, clips = (np.concatenate(part) for part in zip(*runs, strict=True))
        each = [float(run[0].mean()) for run in runs]
        scores = {m: np.concatenate([one[m] for one in measures]) for m in MEASURES if m in measures[0]}
        sources = np.asarray(self.subject.sources)[clips]
        found = detection(scores, ~correct, sources) or {}
        return NoiseCell(
            kind=kind,
            level=level,
            expert=name,
            runs=len(runs),
            accuracy=float(np.mean(each)),
            accuracy_std=float(np.std(each, ddof=1)),
            ece=float(reliability(stated, correct).ece),
            ece_perfect=expected_ece(stated),
            auroc={measure: (one.auroc, one.low, one.high) for measure, one in found.items()},
            answered=float(answered.mean()),
            risk_at_threshold=float((~correct[answered]).mean()) if answered.any() else None,
            snr_db=level if kind == "background" else None,
            copies=0 if self.subject.copies is None else len(self.subject.copies),
        )


def shipped(embedder_id: str, classes: Sequence[str]) -> NoiseSweep | None:
    """The sweep that the lab brings along of a dataset of these classes and this embedder.

    Raises:
        BundleError: the file is damaged.
    """
    path = bundles.shipped() / SHIPPED
    try:
        found = typed.decode(path.read_bytes(), NoiseSweep)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise BundleError(f"{path}: cannot be read ({error}); install the lab again") from None
    return found if (found.embedder_id, set(found.classes)) == (embedder_id, set(classes)) else None
