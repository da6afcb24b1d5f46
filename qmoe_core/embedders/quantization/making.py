"""An embedder in number formats: calibration, and training that follows the float network's own features.

A format is trained in stages, each a pure task that continues the state that the stage before it left in the
store: formats are trained beside one another, one in each process, and what is stopped goes on where it was.
The float network gives the targets, its last tensor and its embedding, both relative to their deviations, for
the same clips; nothing else is learned from, so no label and no recording of a data set can leak.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qmoe_core.embedders.quantization.inputs import INPUTS, STEP
from qmoe_core.embedders.quantization.network import QuantizedNetwork, formats_of
from qmoe_core.engine import network_reference, network_storage
from qmoe_core.engine.network import Network
from qmoe_core.errors import ConfigError, UserError
from qmoe_core.experts.spec import EXPERTS
from qmoe_core.runtime.executor import Context
from qmoe_core.runtime.identity import identity
from qmoe_core.runtime.store import Store
from qmoe_core.training.loop import reproducible

KIND, STATES = "quantized-embedders", "quantization-stages"
FORMATS = tuple(name for name, spec in EXPERTS.items() if spec.levels and spec.rule != "popcount")
"""What an embedder can be made in, beside the `fp32` that it is."""
STAGES = {1: 8, 2: 6, 3: 4, 4: 3, 8: 1}
"""Stages of training by bits of a weight; other widths, and formats made from a trained one, have none."""
CALIBRATION = 512
"""Clips that the levels of activations are set on, the first of a stage."""


@dataclass(frozen=True)
class Recipe:
    """What a format's weights depend on beside the float network and the clips.

    Attributes:
        effort: times the stages of `STAGES`.
        shards: of a stage, 256 clips each; batch: clips of a step.
        learning_rate: the highest; it rises over the first twentieth and falls as a cosine.
        seed: of the order of clips and of their rotation in time.
    """

    effort: float = 1.0
    shards: int = 12
    batch: int = 64
    learning_rate: float = 6e-3
    seed: int = 1

    def stages(self, format: str) -> int:
        """How many a format has."""
        spec = EXPERTS[format]
        return 0 if spec.derived_from else math.ceil(self.effort * STAGES.get(spec.bits, 0))


@dataclass(frozen=True)
class Stage:
    """A part of a format's training.

    Attributes:
        network: bytes of the float network; shards: keys of all `INPUTS`; number: from 0.
    """

    network: bytes
    format: str
    recipe: Recipe
    shards: tuple[Mapping[str, Any], ...]
    number: int

    def __str__(self) -> str:
        return f"{self.format}, part {self.number + 1} of {max(self.recipe.stages(self.format), 1)}"

    @property
    def last(self) -> bool:
        return self.number + 1 >= self.recipe.stages(self.format)

    @property
    def key(self) -> dict[str, Any]:
        """Its address in the store, a `KIND` for the last one."""
        return {
            "network": hashlib.sha256(self.network).hexdigest(),
            "format": self.format,
            "recipe": asdict(self.recipe),
            "shards": list(self.shards),
            "number": self.number,
            "code": identity(KIND),
        }

    @property
    def kind(self) -> str:
        return KIND if self.last else STATES


def parse(text: str | None) -> tuple[str, ...]:
    """Formats from a comma-separated list; None stands for all of `FORMATS`.

    Raises:
        ConfigError: one that an embedder is not made in.
    """
    names = FORMATS if text is None else tuple(part.strip() for part in text.split(",") if part.strip())
    wrong = [name for name in names if name not in FORMATS]
    if wrong or not names:
        said = wrong[0] if wrong else text
        raise ConfigError(f"--formats: an embedder has no format '{said}'; accepted are {', '.join(FORMATS)}")
    return tuple(dict.fromkeys(names))


def make(
    context: Context,
    network: Network,
    formats: Sequence[str],
    shards: Sequence[Mapping[str, Any]],
    recipe: Recipe,
) -> dict[str, tuple[Network, dict[str, Any]]]:
    """The network in formats, trained or only calibrated; stages that are in the store are not run again.

    Args:
        network: the float one.
        formats: of `FORMATS`.
        shards: keys of entries of `INPUTS`, whose `levels` are int8 [256, bands, frames]; the last is not
            trained on.

    Returns:
        By format the quantized network, and facts: `explained`, the share of the variance of the float
        embedding that it keeps on the clips held out, and seconds.

    Raises:
        UserError: the store lost clips or a stage.
        Cancelled: finished stages are kept.
    """
    data = network_storage.dumps(network)
    last = {
        format: Stage(data, format, recipe, tuple(shards), max(recipe.stages(format), 1) - 1)
        for format in formats
    }
    total = sum(stage.number + 1 for stage in last.values())
    show, started, ran = context.progress(f"quantizing {network.name}"), time.monotonic(), 0
    run = partial(_run, store=context.store.address)
    done = 0
    for number in range(max((stage.number for stage in last.values()), default=-1) + 1):
        stages = [replace(stage, number=number) for stage in last.values() if number <= stage.number]
        missing = [stage for stage in stages if not context.store.has(stage.kind, stage.key)]
        done += len(stages) - len(missing)
        for index, _ in context.run(run, missing):
            done, ran = done + 1, ran + 1
            left = (time.monotonic() - started) / ran * (total - done)
            show(done, total, f"{missing[index]}, about {math.ceil(left / 60)} min left")
    found = {}
    for format, stage in last.items():
        entry = context.store.get(KIND, stage.key)
        if entry is None:
            raise UserError(f"{stage} was damaged in the store; start again to make it anew")
        found[format] = network_storage.from_tensors(entry.tensors), dict(entry.metadata)
    return found


def _run(stage: Stage, *, store: str) -> None:
    """Train or calibrate for a stage, and keep what comes of it."""
    started, place = time.monotonic(), Store(store)
    network = network_storage.loads(stage.network)
    with reproducible(1000 * stage.recipe.seed + stage.number):
        training = _Training(stage, network, place)
        loss = training.train() if stage.recipe.stages(stage.format) else None
        facts = {"loss": loss, "seconds": time.monotonic() - started}
        if not stage.last:
            place.put(STATES, stage.key, training.state(), facts)
            return
        made = training.student.described()
    levels = _inputs(place, stage.shards[-1:])
    wanted, given = (network_reference.forward(of, _floats(levels[:128]).numpy()) for of in (network, made))
    facts["explained"] = 1.0 - float(((given - wanted) ** 2).mean(0).sum() / wanted.var(0).sum())
    place.put(KIND, stage.key, network_storage.to_tensors(made), facts)


class _Training:
    """One stage of one format; inside `reproducible`."""

    def __init__(self, stage: Stage, network: Network, store: Store) -> None:
        self.stage, self.recipe = stage, stage.recipe
        count = len(stage.shards) - 1 or 1  # the last is held out
        first = stage.number * self.recipe.shards
        numbers = [number % count for number in range(first, first + min(self.recipe.shards, count))]
        self.inputs = _inputs(store, [stage.shards[number] for number in numbers])
        self.teacher = QuantizedNetwork(network).eval().requires_grad_(False)
        self.student = QuantizedNetwork(network, formats_of(network, EXPERTS[stage.format]))
        self.optimiser = torch.optim.Adam(self.student.parameters(), self.recipe.learning_rate)
        if stage.number:
            self._take_up(store)
        calibration = list(self._batches(torch.arange(min(CALIBRATION, len(self.inputs)))))
        self.student.calibrate(calibration)
        with torch.inference_mode():
            maps, embeddings = zip(*(self.teacher(batch) for batch in calibration), strict=True)
        self.scales = tuple(_deviation(torch.cat(parts)) for parts in (maps, embeddings))

    def train(self) -> float:
        """Mean loss over the stage's steps."""
        order = torch.randperm(len(self.inputs))
        steps, losses = len(order) // self.recipe.batch or 1, []
        stages = self.recipe.stages(self.stage.format)
        for step, batch in zip(range(steps), self._batches(order), strict=False):
            share = (self.stage.number + step / steps) / stages
            for group in self.optimiser.param_groups:
                group["lr"] = self.recipe.learning_rate * _schedule(share)
            x = torch.roll(batch, int(torch.randint(batch.shape[2], ())), 2)
            with torch.no_grad():
                wanted = self.teacher(x)
            parts = zip(self.student(x), wanted, self.scales, strict=True)
            loss = sum((((given - aim) / scale) ** 2).mean() for given, aim, scale in parts)
            assert isinstance(loss, Tensor)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            losses.append(loss.item())
        return float(np.mean(losses))

    def _batches(self, order: Tensor) -> Iterator[Tensor]:
        for rows in order.split(self.recipe.batch):
            yield _floats(self.inputs[rows.numpy()])

    def state(self) -> dict[str, np.ndarray]:
        """Parameters and the optimiser's moments, which the next stage continues."""
        tensors = {f"network.{i}": parameter for i, parameter in enumerate(self.student.parameters())}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in state.items()}
        return {name: tensor.detach().contiguous().numpy() for name, tensor in tensors.items()}

    @torch.no_grad()
    def _take_up(self, store: Store) -> None:
        before = replace(self.stage, number=self.stage.number - 1)
        entry = store.get(STATES, before.key)
        if entry is None:
            raise UserError(f"{before} was damaged in the store; start again to make it anew")
        for index, parameter in enumerate(self.student.parameters()):
            parameter.copy_(torch.tensor(entry.tensors[f"network.{index}"]))
        state: dict[int, dict[str, Tensor]] = {}
        for key, array in entry.tensors.items():
            if key.startswith("optimiser."):
                _, index, name = key.split(".")
                state.setdefault(int(index), {})[name] = torch.tensor(array)
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})


def _inputs(store: Store, shards: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """int8 [n, bands, frames]."""
    entries = list(store.get_each(INPUTS, shards))
    if any(entry is None for entry in entries):
        raise UserError("clips were damaged in the store; start again to make them anew")
    return np.concatenate([entry.tensors["levels"] for entry in entries if entry is not None])


def _floats(levels: np.ndarray) -> Tensor:
    return torch.from_numpy(levels.astype(np.float32)) / STEP


def _deviation(values: Tensor) -> Tensor:
    """Of each channel or number over clips and pixels, that of all together at least a tenth."""
    over = [axis for axis in range(values.ndim) if axis != 1]
    each = values.std(over, keepdim=True)
    return each.clamp_min(0.1 * float(each.mean()) + 1e-12)


def _schedule(share: float) -> float:
    """The learning rate at a share of the training, relative to the highest."""
    return min(share / 0.05, 1.0) * (0.5 + 0.5 * math.cos(math.pi * share)) + 1e-3
