"""The training loop that experts, routers and joint mixtures share: minimise a loss, choose an epoch.

A fit is determined by its arguments and its seed: it runs on one thread with a generator of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from qmoe_core.config import ExpertConfig, RouterConfig
from qmoe_core.errors import ConfigError


@dataclass(frozen=True)
class Epoch:
    """One epoch's figures; those of the held-out clips are None where they were not computed."""

    train_loss: float
    loss: float | None
    f1: float | None


EpochObserver = Callable[[int, Epoch], None]
"""Called after every epoch with its number, from 1; what it raises ends the training."""
HeldOut = tuple[np.ndarray, np.ndarray]
"""Standardised embeddings [n, D] and labels [n] that the epoch is chosen on."""


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread inside, so that sums are taken in the same order on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """One thread and a seeded generator inside; both as they were afterwards."""
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(seed)
        yield


def as_tensor(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    """A tensor of its own; the array may be read-only."""
    return torch.tensor(array, dtype=dtype)


def class_weights(labels: np.ndarray, classes: int) -> Tensor:
    """n / (C · count) of each class, float32 [C]; 0 for a class that does not occur."""
    counts = np.bincount(labels, minlength=classes)
    weights = np.divide(len(labels), classes * counts, out=np.zeros(classes), where=counts > 0)
    return torch.from_numpy(weights.astype(np.float32))


def _step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    loss: Callable[[Tensor], Tensor],
    batch: Tensor,
    clip_norm: float,
) -> float:
    """One step of the optimiser; the loss summed over the batch."""
    value = loss(batch)
    optimiser.zero_grad()
    value.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimiser.step()
    return value.item() * len(batch)


def minimise(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    loss: Callable[[Tensor], Tensor],
    clips: int,
    settings: ExpertConfig | RouterConfig,
    *,
    name: str,
    epochs: int,
    score: Callable[[], tuple[float | None, float]] | None = None,
    monitor: str = "loss",
    on_epoch: EpochObserver | None = None,
) -> tuple[tuple[Epoch, ...], int]:
    """Train a model, inside `reproducible`; it ends with the weights of the chosen epoch, in evaluation mode.

    Args:
        model: changed in place; optimiser: of its parameters.
        loss: from the indices of a batch's clips, int64 [B], to the mean loss over them.
        clips: how many there are to train on.
        settings: batch size, largest norm of a gradient, patience.
        name: of the model, for errors.
        epochs: how many at most.
        score: loss (or None) and weighted F1 on held-out clips; None trains for exactly `epochs`.
        monitor: what chooses the epoch: `loss` (lowest) or `f1` (highest); of equals the earlier.

    Returns:
        Every epoch that ran, and the number of the chosen one, from 1: the last where nothing is held out.

    Raises:
        ConfigError: the monitored figure was never a finite number.
    """
    history: list[Epoch] = []
    best, chosen, state = np.inf, 0, None
    for number in range(1, epochs + 1):
        model.train()
        batches = torch.randperm(clips).split(settings.batch_size)
        total = sum(_step(model, optimiser, loss, batch, settings.clip_norm) for batch in batches)
        epoch = Epoch(total / clips, *((None, None) if score is None else score()))
        history.append(epoch)
        if on_epoch is not None:
            on_epoch(number, epoch)
        figure = epoch.loss if monitor == "loss" else None if epoch.f1 is None else -epoch.f1
        if figure is None:
            continue
        if figure < best:
            best, chosen = figure, number
            state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        elif number - chosen >= settings.patience:
            break
    model.eval()
    if score is None:
        return tuple(history), len(history)
    if state is None:
        part = "expert" if isinstance(settings, ExpertConfig) else "router"
        raise ConfigError(f"{name}: training diverged; lower {part}.learning_rate")
    model.load_state_dict(state)
    return tuple(history), chosen
