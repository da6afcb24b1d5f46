"""How well few takes do, with a data set in their place: five a class, labels chosen, and a sixth class.

    python -m tests.campaigns takes --embedder ds-cnn

- Shots: five takes a class, each of another recording, train the formats with the settings of Your sounds; F1
  on all clips of other recordings.
- Labels: a pool is labelled three at a time, at random or by `evaluation.labelling`, until the F1
  on the held-out fold is 95 % of what the whole pool gives; how many labels each way needs.
- Sixth: weighted F1 of five classes, on their own test clips, before and after one more class is added.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from qmoe_core import datasets, embedders
from qmoe_core.datasets.takes import EXPERT
from qmoe_core.embedders.embed import embed_dataset
from qmoe_core.evaluation import labelling
from qmoe_core.evaluation.classification import weighted_f1
from qmoe_core.experts.spec import NAMES
from qmoe_core.runtime.executor import Context
from qmoe_core.runtime.store import Store

SHOTS, CLASSES, FIRST, STEP, ENOUGH = 5, 5, 10, 3, 0.95


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be set."""
    parser.add_argument("--dataset", default="esc10")
    parser.add_argument("--embedder", default="ds-cnn", help="such as mn04@FILE.safetensors")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--experts", default="fp32,q8,q4,q2,q1,bitnet")


def main(chosen: argparse.Namespace) -> int:
    """Measure and print."""
    manifest = datasets.open_dataset(chosen.dataset)
    made = embedders.create(chosen.embedder)
    z = np.asarray(embed_dataset(manifest, made, Context(Store())), dtype=np.float32)
    labels, sources = manifest.labels, np.array(manifest.sources)
    folds = np.arange(len(labels)) % 5 if manifest.folds is None else manifest.folds
    names = [name for name in NAMES if name in chosen.experts.split(",")]
    print(f"{manifest.name}, {made.id}, {chosen.runs} runs; mean and 95 % interval over runs")
    shot = np.array([shots(z, labels, sources, names, seed) for seed in range(chosen.runs)])
    for name, values in zip(names, shot.T, strict=True):
        print(f"  {SHOTS} takes a class, {name}: F1 {_interval(values)}")
    needed = np.array([_needed(z, labels, folds, run) for run in range(chosen.runs)])
    ratio = [_ratio(needed[_drawn(len(needed), i)]) for i in range(2000)]
    low, high = np.quantile(ratio, [0.025, 0.975])
    print(
        f"  labels to {ENOUGH:.0%} of the full F1: random {needed[:, 0].mean():.1f}, by uncertainty", end=" "
    )
    print(f"{needed[:, 1].mean():.1f}: {_ratio(needed):.2f} [{low:.2f}, {high:.2f}]")
    for few in (False, True):
        cost = np.array([sixth(z, labels, sources, folds, few, seed) for seed in range(chosen.runs)])
        what = f"{SHOTS} takes a class" if few else "all clips of four folds"
        print(f"  a sixth class, {what}: the five lose {_interval(100 * cost)} points of F1")
    return 0


def shots(
    z: np.ndarray, labels: np.ndarray, sources: np.ndarray, experts: Sequence[str], seed: int
) -> list[float]:
    """F1 of each expert on the clips of other recordings than the takes it was trained on."""
    takes, rest = _few(labels, sources, np.unique(labels), seed)
    return [_f1(z, labels, takes, rest, expert, seed) for expert in experts]


def sixth(
    z: np.ndarray, labels: np.ndarray, sources: np.ndarray, folds: np.ndarray, few: bool, seed: int
) -> float:
    """What five classes drawn at random lose in F1 when a sixth is added."""
    drawn = np.random.default_rng(seed).permutation(np.unique(labels))[: CLASSES + 1]
    both = []
    for classes in (drawn[:CLASSES], drawn):
        ours = np.isin(labels, classes)
        if few:
            train, rest = _few(labels, sources, drawn, seed)
            train = train[ours[train]]
        else:
            held = folds == np.unique(folds)[seed % len(np.unique(folds))]
            train, rest = np.flatnonzero(ours & ~held), np.flatnonzero(held)
        old = rest[np.isin(labels[rest], drawn[:CLASSES])]
        both.append(_f1(z, labels, train, old, "q8", seed))
    return both[0] - both[1]


def _few(
    labels: np.ndarray, sources: np.ndarray, classes: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Takes of each class, each of another recording, and the clips of these classes' other recordings."""
    rng = np.random.default_rng(seed)
    takes = np.array(
        [
            rng.choice(np.flatnonzero((labels == c) & (sources == source)))
            for c in classes
            for source in rng.permutation(np.unique(sources[labels == c]))[:SHOTS]
        ]
    )
    return takes, np.flatnonzero(~np.isin(sources, sources[takes]) & np.isin(labels, classes))


def _f1(
    z: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray, expert: str, seed: int
) -> float:
    from qmoe_core.training.fit import Scaler, fit_expert, predict

    classes, places = np.unique(labels[train], return_inverse=True)
    scaler = Scaler.of(z[train])
    fitted = fit_expert(expert, scaler(z[train]), places, len(classes), EXPERT, seed=seed)
    return weighted_f1(labels[test], classes[predict(fitted.network, scaler(z[test])).argmax(axis=1)])


def _needed(z: np.ndarray, labels: np.ndarray, folds: np.ndarray, run: int) -> tuple[int, int]:
    """Labels that random choice and choice by uncertainty need, from the same first ones."""
    numbers = np.unique(folds)
    held = folds == numbers[run % len(numbers)]
    return (labels_to(z, labels, held, run, by_margin=False), labels_to(z, labels, held, run, by_margin=True))


def labels_to(z: np.ndarray, labels: np.ndarray, held: np.ndarray, seed: int, *, by_margin: bool) -> int:
    """Labels of the pool until the held-out clips are classified nearly as well as with all of them."""
    test, order = np.flatnonzero(held), np.random.default_rng(seed).permutation(np.flatnonzero(~held))

    def f1(known: np.ndarray) -> float:
        classes = np.unique(labels[known])
        said = labelling.probabilities(z[known], labels[known], z[test]).argmax(axis=1)
        return weighted_f1(labels[test], classes[said])

    full, known, pool = f1(order), order[:FIRST], order[FIRST:]
    while f1(known) < ENOUGH * full:
        if by_margin:
            pool = pool[labelling.next_ones(z[known], labels[known], z[pool])[0]]
        known, pool = np.concatenate([known, pool[:STEP]]), pool[STEP:]
    return len(known)


def _ratio(needed: np.ndarray) -> float:
    return float(needed[:, 1].mean() / needed[:, 0].mean())


def _drawn(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, n, n)


def _interval(values: np.ndarray) -> str:
    means = [values[_drawn(len(values), i)].mean() for i in range(2000)]
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"
