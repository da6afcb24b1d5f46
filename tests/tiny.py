"""A dataset so small that all of it trains in seconds, settings for it, and meters that take no time."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile

from qmoe_core.measure import bench, energy, latency, memory, size
from qmoe_core.runtime.executor import Context, Observer, Progress
from qmoe_core.runtime.requests import Train
from qmoe_core.runtime.store import Store
from qmoe_core.training.run import TrainingReport

if TYPE_CHECKING:
    from torch import nn

FROZEN = Path(__file__).with_name("frozen")
"""What shipped with version 0.1.0, a bundle of version 1 on log-mel statistics, under today's name; for tests
that say figures, which those of the bundle that ships today change with its embedder's weights."""
SETTINGS = (
    "expert.hidden=[24, 16]",
    "expert.learning_rate=0.01",
    "expert.epochs=6",
    "expert.batch_size=8",
    "expert.popcount_finetune_epochs=2",
    "router.hidden=[8, 4]",
    "router.epochs=5",
    "router.mc_samples=4",
)
"""Small enough that an expert trains in a tenth of a second; for `--set`, or `config.load`."""


def dataset(root: Path) -> Path:
    """Write thirty clips of a second in ESC layout: three classes, five folds, two clips of a recording."""
    (root / "audio").mkdir(parents=True)
    (root / "meta").mkdir()
    rng, rate = np.random.default_rng(1), 16_000
    time = np.arange(rate) / rate
    rows = []
    for target, category in enumerate(("hum", "whistle", "hiss")):
        for fold in range(1, 6):
            for take in "AB":
                noise = rng.normal(size=rate)
                pitch = (120.0, 3000.0, 0.0)[target] * rng.uniform(0.8, 1.25)
                sound = noise if category == "hiss" else np.sin(2 * np.pi * pitch * time) + 0.3 * noise
                source = f"{category}{fold}"
                name = f"{fold}-{source}-{take}-{target}.wav"
                soundfile.write(root / "audio" / name, 0.1 * rng.uniform(0.5, 1.5) * sound, rate)
                rows.append(
                    {
                        "filename": name,
                        "fold": fold,
                        "target": target,
                        "category": category,
                        "esc10": True,
                        "src_file": source,
                        "take": take,
                    }
                )
    with (root / "meta" / "esc50.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root


def train(
    dataset: Path | str,
    *,
    store: Store | None = None,
    progress: Callable[[str], Progress] | None = None,
    cancelled: Callable[[], bool] | None = None,
    observe: Observer | None = None,
    **fields: Any,
) -> TrainingReport:
    """Run `requests.Train` with these fields here, on log-mel statistics unless another embedder is named."""
    context = Context(store or Store(), cancelled=cancelled, observe=observe)
    context = replace(context, progress=progress) if progress else context
    return Train(**{"dataset": str(dataset), "embedder": "logmel-stats", **fields}).run(context)


@contextmanager
def quick_meters() -> Iterator[None]:
    """Meanwhile, nothing that is measured takes ten seconds or another process."""

    def track(name: str, country: str, work: object) -> energy.EnergyBlock:
        return energy.EnergyBlock(name, 1000, 1.0, 1.0, 2e-6, 1e-6, 56.0, "modelled")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(energy, "track", track)
        patch.setattr(bench, "training_block", lambda block_s, country: track("training", country, None))
        patch.setattr(memory, "peaks_of_experts", lambda w, runs: memory.Peaks([90_000_000] * runs, 1000))
        patch.setattr(latency, "WARM_UP_S", 0.0)
        patch.setattr(size, "PAPER_SHAPE", (48, 24, 16, 3))
        yield


def untrained(network: nn.Module) -> dict[str, np.ndarray]:
    """Weights and batch norms of a network that is not trained, none of them trivial; it gets them too."""
    import torch

    rng = np.random.default_rng(4)
    state = {key: tensor.numpy() for key, tensor in network.state_dict().items()}
    for key, array in state.items():
        if key.endswith("running_var"):
            state[key] = rng.uniform(0.5, 2, array.shape).astype(np.float32)
        elif key.endswith(("bias", "running_mean")):
            state[key] = rng.normal(0, 0.2, array.shape).astype(np.float32)
    network.load_state_dict({key: torch.tensor(array) for key, array in state.items()})
    return state
