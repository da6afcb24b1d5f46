"""The short training that several claims share: a float network of one hidden layer on the default bundle.

It stands in for a full run where a claim needs one: what folds, seeds and the choice of an epoch do to F1
shows in seconds, and each finding says that this is what was trained.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qmoe_core.config import ExpertConfig, Protocol
from qmoe_core.datasets import splits
from qmoe_core.datasets.splits import Fold
from qmoe_core.paper.claim import Materials
from qmoe_core.runtime.system import processor

if TYPE_CHECKING:
    from qmoe_core.experts.network import ExpertNetwork
    from qmoe_core.training.fit import Fit

SEED = 42
"""The seed of the code's folds."""
EPOCHS = 12
SHORT = ExpertConfig(hidden=(96,), epochs=EPOCHS, learning_rate=2e-3, patience=EPOCHS)


def basis() -> str:
    """What was trained, for a finding's basis."""
    return f"one hidden layer of {SHORT.hidden[0]}, {EPOCHS} epochs, 1 thread, {processor()}"


def folds(m: Materials, protocol: Protocol) -> list[Fold]:
    """Five folds of the bundle's clips."""
    return splits.folds(m.data.labels, m.sources, m.data.folds, protocol, 5, SEED)


class LearningCurve(NamedTuple):
    """What a training says of its test clips after each epoch.

    Attributes:
        f1: weighted F1; lowest: the epoch of their lowest loss, from 1.
        right: which of them it named rightly, bool [epochs, n].
    """

    f1: list[float]
    lowest: int
    right: np.ndarray


def by_epoch(
    m: Materials, train: np.ndarray, test: np.ndarray, seed: int = 0, *, pre_norm: bool = False
) -> LearningCurve:
    """Train once for these clips and this seed.

    Args:
        train, test: indices of clips.
        pre_norm: with the LayerNorm before the hidden layer that the code's quantized experts have.
    """

    def trained() -> LearningCurve:
        from qmoe_core.paper.reference_networks import PreNormNetwork

        right: list[np.ndarray] = []
        done = train_anew(m, train, test, seed, PreNormNetwork if pre_norm else None, right=right)
        return LearningCurve([epoch.f1 or 0.0 for epoch in done.history], done.epochs, np.array(right))

    return m.once(("short", seed, pre_norm, train.tobytes(), test.tobytes()), trained)


def train_anew(
    m: Materials,
    train: np.ndarray,
    test: np.ndarray,
    seed: int = 0,
    kind: Callable[[str, int, int, ExpertConfig], ExpertNetwork] | None = None,
    name: str = "fp32",
    *,
    last_bit: bool = False,
    right: list[np.ndarray] | None = None,
) -> Fit:
    """The training itself.

    Args:
        kind: builds another network than the lab's own of that format.
        last_bit: whether every input is the next larger float32, as if another processor had rounded it.
        right: takes after each epoch which test clips are named rightly, bool [n].
    """
    from qmoe_core.experts.network import ExpertNetwork
    from qmoe_core.training.fit import Scaler, fit, predict
    from qmoe_core.training.loop import reproducible

    z, y = m.data.embeddings.astype(np.float32), m.data.labels
    scaler = Scaler.of(z[train])
    with reproducible(seed):
        network = (kind or ExpertNetwork)(name, z.shape[1], len(m.bundle.classes), SHORT)
    z = scaler(z)
    if last_bit:
        z = np.nextafter(z, np.float32(np.inf))

    def look(*_: object) -> None:
        if right is not None:
            right.append(predict(network, z[test]).argmax(axis=1) == y[test])

    watched = z[test], y[test]
    return fit(network, z[train], y[train], SHORT, seed=seed, epochs=EPOCHS, held_out=watched, on_epoch=look)
