"""Fitting one expert: class-weighted cross-entropy, AdamW, gradient clipping (§4.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from qmoe_core.config import ExpertConfig
from qmoe_core.engine import ExpertWeights
from qmoe_core.evaluation.classification import weighted_f1
from qmoe_core.experts.network import ExpertNetwork
from qmoe_core.training.loop import (
    Epoch,
    EpochObserver,
    HeldOut,
    as_tensor,
    class_weights,
    minimise,
    one_thread,
    reproducible,
)

STD_FLOOR = 1e-6
ROWS_AT_ONCE = 4096
"""Embeddings may lie on disk: no more rows than these are ever in double precision."""


@dataclass(frozen=True)
class Scaler:
    """Standardises embeddings with the mean and deviation of the training clips; float32 [D] each."""

    mean: np.ndarray
    std: np.ndarray

    @staticmethod
    def of(embeddings: np.ndarray) -> Scaler:
        """From training embeddings [n, D]; a number that never varies is divided by 1."""
        mean = embeddings.mean(axis=0, dtype=np.float64)
        blocks = np.array_split(embeddings, range(ROWS_AT_ONCE, len(embeddings), ROWS_AT_ONCE))
        squares = sum(np.square(block - mean).sum(axis=0) for block in blocks)
        std = np.sqrt(squares / len(embeddings))
        std[std < STD_FLOOR] = 1.0
        return Scaler(mean.astype(np.float32), std.astype(np.float32))

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """float [n, D] → standardised float32 [n, D]."""
        z = embeddings.astype(np.float32)
        z -= self.mean
        z /= self.std
        return z


@dataclass(frozen=True)
class Fit:
    """A fitted network, in evaluation mode.

    Attributes:
        network: with the weights of the chosen epoch.
        history: every epoch that ran.
        epochs: the chosen epoch, counted from 1; 0 when nothing was trained.
    """

    network: ExpertNetwork
    history: tuple[Epoch, ...]
    epochs: int


@torch.no_grad()
def predict(network: ExpertNetwork, z: np.ndarray) -> np.ndarray:
    """Logits of standardised embeddings: float32 [n, D] → float32 [n, C]."""
    network.eval()
    with one_thread():
        return network(as_tensor(z, torch.float32)).numpy()


def fit(
    network: ExpertNetwork,
    z: np.ndarray,
    labels: np.ndarray,
    config: ExpertConfig,
    *,
    seed: int,
    epochs: int,
    held_out: HeldOut | None = None,
    monitor: str = "loss",
    on_epoch: EpochObserver | None = None,
) -> Fit:
    """Train a network.

    Args:
        network: changed in place.
        z: standardised embeddings, float32 [n, D]; labels: int64 [n].
        config: learning rate, batch size and so on.
        seed: of the order of batches and of dropout.
        epochs: how many at most.
        held_out: embeddings and labels to choose the epoch on; None trains for exactly `epochs`.
        monitor, on_epoch: see `loop.minimise`.

    Returns:
        The network at the chosen epoch (the last one when nothing is held out).

    Raises:
        ConfigError: the loss on the held-out clips was never a finite number.
    """
    inputs, targets = as_tensor(z, torch.float32), as_tensor(labels, torch.int64)
    weight = class_weights(labels, network.head.out_features) if config.class_weights else None

    def loss(batch: Tensor) -> Tensor:
        logits = network(inputs[batch])
        return F.cross_entropy(logits, targets[batch], weight, label_smoothing=config.label_smoothing)

    def score() -> tuple[float, float]:
        assert held_out is not None
        z, labels = held_out
        logits = predict(network, z)
        mean = F.cross_entropy(torch.from_numpy(logits), as_tensor(labels, torch.int64)).item()
        return mean, weighted_f1(labels, logits.argmax(axis=1))

    with reproducible(seed):
        groups: list[dict[str, Any]] = network.decay_groups(config.weight_decay)
        optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
        history, chosen = minimise(
            network,
            optimiser,
            loss,
            len(inputs),
            config,
            name=network.spec.name,
            epochs=epochs,
            score=None if held_out is None else score,
            monitor=monitor,
            on_epoch=on_epoch,
        )
    return Fit(network, history, chosen)


def fit_expert(
    name: str,
    z: np.ndarray,
    labels: np.ndarray,
    classes: int,
    config: ExpertConfig,
    *,
    seed: int,
    epochs: int | None = None,
    source: ExpertWeights | None = None,
    held_out: HeldOut | None = None,
    monitor: str = "loss",
    on_epoch: EpochObserver | None = None,
) -> Fit:
    """Build an expert of a format and train it; other arguments as `fit`.

    Args:
        epochs: how many; None for as many as the configuration has.
        source: the trained float expert that a post-training format is made from.
    """
    with reproducible(seed):
        network = ExpertNetwork(name, z.shape[1], classes, config)
    limit = config.epochs
    if source is not None:
        network.take_over(source)
        limit = config.popcount_finetune_epochs if name == "popcount" else 0
    if limit == 0 or epochs == 0:
        network.eval()
        return Fit(network, (), 0)
    return fit(
        network,
        z,
        labels,
        config,
        seed=seed,
        epochs=limit if epochs is None else epochs,
        held_out=held_out,
        monitor=monitor,
        on_epoch=on_epoch,
    )
