"""The training of `ds-cnn`: it learns to give the teacher's features of synthetic clips.

Three targets, each standardised, share one loss, the mean of squared errors: the teacher's embedding [384],
the logits [527] of its own classifier, and its features along time [384, 16]. The layers that lead there from
the student's embedding and its feature map are dropped afterwards. Clips are rotated in time at random.

Two threads compute the gradients of half a batch each and wait for each other once a step, not once a layer,
because other programs use the processor too.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from torch import Tensor, nn

from qmoe_core.embedders.distil import bank, clips
from qmoe_core.embedders.networks import DS_CNN_CHANNELS, DsCnn
from qmoe_core.runtime.executor import Context, stop_if
from qmoe_core.runtime.identity import identity

KIND = "students"
THREADS = 2
ROTATIONS = 8
"""Of a clip, by whole pairs of the teacher's frames; up to three frames of the spectrogram more or less."""
HELD_OUT = 512
"""Clips, the last ones, that the share of explained variance is measured on."""


@dataclass(frozen=True)
class Recipe:
    """What the student's weights depend on beside the clips.

    Attributes:
        clips, batch: how much it is trained on.
        epochs: of each cycle of the learning rate, which rises and falls to nothing (warm restarts:
            Loshchilov and Hutter 2017).
        learning_rate: the highest of the first cycle; each other one's is half of that before.
        seed: of sounds, first weights and order.
    """

    clips: int = 40_000
    epochs: tuple[int, ...] = (8, 5)
    batch: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 1e-3
    seed: int = 1


class Student(nn.Module):
    """`ds-cnn` and the layers that lead from it to the teacher's features."""

    def __init__(self, targets: int) -> None:
        super().__init__()
        self.network = DsCnn()
        self.to_targets = nn.Linear(DsCnn.dim, targets)
        self.to_frames = nn.Conv1d(DS_CNN_CHANNELS[-1], clips.TEACHER_DIM, 1)

    def forward(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Levels [B, 64, 216] to targets [B, 911] and features along time [B, 384, 14]."""
        maps = self.network.feature_map(levels)
        return self.to_targets(self.network.pooled(maps)), self.to_frames(maps.mean(2))


class Targets:
    """What the student has to give, standardised over all clips."""

    def __init__(self, features: np.ndarray, classifier: dict[str, Tensor]) -> None:
        """
        Args:
            features: the teacher's, float16 [n, 384, 16]; classifier: see `fit`.
        """
        self.frames = torch.from_numpy(features)
        self._classifier = classifier
        sample = self.frames[:: max(1, len(self.frames) // 4096)].float()
        self._frame_mean, self._frame_std = _moments(sample, (0, 2))
        self._mean, self._std = _moments(self._unscaled(sample), (0,))

    def _unscaled(self, frames: Tensor) -> Tensor:
        """Embeddings and logits [B, 911] of features [B, 384, 16]."""
        embedding, layers = frames.mean(2), self._classifier
        hidden = nn.functional.linear(embedding, layers["classifier.2.weight"], layers["classifier.2.bias"])
        hidden = nn.functional.hardswish(hidden)
        logits = nn.functional.linear(hidden, layers["classifier.5.weight"], layers["classifier.5.bias"])
        return torch.cat([embedding, logits], 1)

    def of(self, rows: Tensor, rotation: int, frames: int) -> tuple[Tensor, Tensor]:
        """Targets of clips that are rotated by so many pairs of frames: [B, 911] and [B, 384, frames]."""
        raw = self.frames[rows].float()
        along = (torch.roll(raw, 2 * rotation, 2) - self._frame_mean[:, None]) / self._frame_std[:, None]
        resized = nn.functional.interpolate(along, frames, mode="linear", align_corners=False)
        return (self._unscaled(raw) - self._mean) / self._std, resized


def _moments(values: Tensor, over: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    return values.mean(over), values.std(over) + 1e-6


def make(context: Context, teacher: Path, recipe: Recipe) -> DsCnn:
    """Makes the sounds that are missing, and trains; a finished epoch is not trained again.

    Args:
        teacher: safetensors file with the weights of `mn04` and its classifier.

    Raises:
        UserError: see `clips.make`.
        Cancelled: finished shards and epochs are kept.
    """
    made = clips.make(context, recipe.clips, teacher, recipe.seed)
    tensors = safetensors.numpy.load_file(teacher)
    classifier = {key: tensor for key, tensor in tensors.items() if key.startswith("classifier")}
    return fit(context, made, classifier, recipe, {"bank": bank.key(recipe.seed)})


def fit(
    context: Context,
    made: clips.Clips,
    classifier: Mapping[str, np.ndarray],
    recipe: Recipe,
    made_of: Mapping[str, object],
) -> DsCnn:
    """Trains on clips.

    Args:
        classifier: the teacher's, `classifier.2` and `classifier.5`, as its authors' file names them.
        made_of: what the clips are made of: part of the address of every epoch that is kept.
    """
    targets = Targets(made.features, {key: torch.tensor(array) for key, array in classifier.items()})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        student = Student(clips.TEACHER_DIM + len(classifier["classifier.5.bias"]))
    student = student.to(memory_format=torch.channels_last)
    run = _Run(context, student, made.levels, targets, recipe, made_of)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run.train()
    finally:
        torch.set_num_threads(threads)
    return student.network.eval()


class _Run:
    """One training, epoch by epoch."""

    def __init__(
        self,
        context: Context,
        student: Student,
        levels: np.ndarray,
        targets: Targets,
        recipe: Recipe,
        made_of: Mapping[str, object],
    ) -> None:
        self.context, self.student, self.targets, self.recipe = context, student, targets, recipe
        self.levels = torch.from_numpy(levels)
        self.key = {**asdict(recipe), **made_of, "code": identity(KIND)}
        self.clips = len(levels) - HELD_OUT
        self.steps = self.clips // recipe.batch
        self.optimiser = torch.optim.AdamW(
            student.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.replicas = [student, *(copy.deepcopy(student) for _ in range(THREADS - 1))]
        for replica in self.replicas[1:]:  # the same parameters, and running means of their own
            for theirs, ours in zip(replica.modules(), student.modules(), strict=True):
                theirs._parameters = ours._parameters

    def train(self) -> None:
        done = self._resume()
        show = self.context.progress("training ds-cnn")
        epochs = sum(self.recipe.epochs)
        total, started = epochs * self.steps, time.monotonic()
        first = done * self.steps
        with ThreadPoolExecutor(THREADS) as pool:
            for epoch in range(done, epochs):
                losses = []
                order = torch.randperm(self.clips, generator=self._generator(epoch))
                for step in range(self.steps):
                    stop_if(self.context.cancelled or (lambda: False))
                    at = epoch * self.steps + step
                    rows = order[step * self.recipe.batch : (step + 1) * self.recipe.batch]
                    losses.append(self._step(pool, rows, at / self.steps))
                    if step % 20 == 19 or step == self.steps - 1:
                        left = (time.monotonic() - started) / (at + 1 - first) * (total - at - 1)
                        recent = np.mean(losses[-20:])
                        show(at + 1, total, f"loss {recent:.3f}, about {math.ceil(left / 60)} min left")
                explained = self._explained()
                self._keep(epoch + 1, float(np.mean(losses)), explained)
                self.context.tell(
                    {"epoch": epoch + 1, "loss": float(np.mean(losses)), "explained": explained}
                )

    def _step(self, pool: ThreadPoolExecutor, rows: Tensor, epoch: float) -> float:
        """One step with the learning rate that belongs to this moment, in epochs; gives the loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate * _cyclic(epoch, self.recipe.epochs)
        parts = rows.chunk(THREADS)
        found = list(pool.map(self._gradients, self.replicas, parts))
        for parameter, *gradients in zip(
            self.student.parameters(), *(gradients for _, gradients in found), strict=True
        ):
            parameter.grad = torch.stack(gradients).mean(0)
        self.optimiser.step()
        return sum(loss for loss, _ in found) / len(found)

    def _gradients(self, replica: Student, rows: Tensor) -> tuple[float, Sequence[Tensor]]:
        replica.train()
        rotation = int(rows[0]) % ROTATIONS
        jitter = int(rows[1]) % 7 - 3
        levels = torch.roll(self._levels(rows), 27 * rotation + jitter, 2)
        given, along = replica(levels)
        wanted, wanted_along = self.targets.of(rows, rotation, along.shape[2])
        n = clips.TEACHER_DIM
        loss = (
            nn.functional.mse_loss(given[:, :n], wanted[:, :n])
            + nn.functional.mse_loss(given[:, n:], wanted[:, n:])
            + nn.functional.mse_loss(along, wanted_along)
        ) / 3
        return loss.item(), torch.autograd.grad(loss, list(replica.parameters()))

    def _levels(self, rows: Tensor) -> Tensor:
        return self.levels[rows].float() / clips.STEP

    @torch.inference_mode()
    def _explained(self) -> float:
        """Share of the variance of the teacher's embedding that the student explains, on held-out clips."""
        self.student.eval()
        rows = torch.arange(self.clips, self.clips + HELD_OUT)
        given = torch.cat([self.student(self._levels(part))[0] for part in rows.split(64)])
        wanted = self.targets.of(rows, 0, 1)[0]
        n = clips.TEACHER_DIM
        return 1 - float(nn.functional.mse_loss(given[:, :n], wanted[:, :n]) / wanted[:, :n].var())

    def _generator(self, epoch: int) -> torch.Generator:
        return torch.Generator().manual_seed(1000 * self.recipe.seed + epoch)

    def _keep(self, epoch: int, loss: float, explained: float) -> None:
        tensors = {f"student.{key}": tensor for key, tensor in self.student.state_dict().items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in state.items()}
        arrays = {key: tensor.detach().contiguous().numpy() for key, tensor in tensors.items()}
        self.context.store.put(
            KIND, {**self.key, "epoch": epoch}, arrays, {"loss": loss, "explained": explained}
        )

    def _resume(self) -> int:
        """Takes up the last epoch that the store holds; gives its number, 0 if there is none."""
        for epoch in range(sum(self.recipe.epochs), 0, -1):
            entry = self.context.store.get(KIND, {**self.key, "epoch": epoch})
            if entry is None:
                continue
            tensors = {key: torch.tensor(array) for key, array in entry.tensors.items()}
            weights = {k.removeprefix("student."): t for k, t in tensors.items() if k.startswith("student.")}
            for replica in self.replicas:
                replica.load_state_dict(weights)
            state: dict[int, dict[str, Tensor]] = {}
            for key, tensor in tensors.items():
                if key.startswith("optimiser."):
                    _, index, name = key.split(".")
                    state.setdefault(int(index), {})[name] = tensor
            self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})
            return epoch
        return 0


def _cyclic(epoch: float, cycles: Sequence[int]) -> float:
    """The learning rate at a moment, in epochs, as a share of the highest."""
    cycle = 0
    while epoch >= cycles[cycle]:
        epoch -= cycles[cycle]
        cycle += 1
    share = epoch / cycles[cycle]
    return 0.5**cycle * _one_cycle(share)


def _one_cycle(share: float) -> float:
    """Up in a tenth of a cycle, and down to nothing."""
    if share < 0.1:
        return 0.04 + 0.96 * share / 0.1
    return 0.5 + 0.5 * math.cos(math.pi * (share - 0.1) / 0.9)


def to_tensors(network: DsCnn) -> dict[str, np.ndarray]:
    """A network's tensors as they are kept: weights in half precision, batch norms in float32."""
    state = network.state_dict()
    return {
        key: tensor.contiguous().numpy().astype(np.float16 if tensor.ndim == 4 else np.float32)
        for key, tensor in state.items()
        if not key.endswith("num_batches_tracked")
    }


def about(recipe: Recipe) -> dict[str, object]:
    """How a network was made and of what: kept with its weights."""
    return {**asdict(recipe), **identity(KIND), "licences": list(bank.LICENCES)}
