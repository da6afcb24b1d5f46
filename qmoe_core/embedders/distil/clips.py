"""Clips to train on: the spectrogram of each synthetic sound, and the teacher's features of it, in shards.

A shard holds 256 clips and is one entry of the store, so that what is stopped goes on where it was, and a
larger set begins with the clips of a smaller one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import soxr

from qmoe_core.audio import kaldi_mel
from qmoe_core.audio.decode import SAMPLE_RATE
from qmoe_core.embedders import ds_cnn
from qmoe_core.embedders.distil import bank, sounds
from qmoe_core.errors import UserError
from qmoe_core.runtime.executor import Context
from qmoe_core.runtime.identity import identity
from qmoe_core.runtime.store import Store

KIND = "synthetic-clips"
SHARD = 256
BATCH = 16
BANDS, FRAMES = ds_cnn.N_MELS, 216
"""Of a clip's spectrogram."""
TEACHER_DIM, TEACHER_FRAMES = 384, 16
"""Of the teacher's features: its last feature map, averaged over frequency."""
STEP = 60
"""A level in −1 … 1 is kept as a whole number, so many to 1: two thirds of a decibel."""


@dataclass(frozen=True)
class Shard:
    """Which clips: the `number`-th 256 of those that a seed gives."""

    number: int
    key: dict[str, object]

    def __str__(self) -> str:
        return f"clips {self.number * SHARD + 1}–{(self.number + 1) * SHARD}"


@dataclass(frozen=True)
class Clips:
    """All that the student is trained on.

    Attributes:
        levels: int8 [n, 64, 216], 60 times the input of `ds-cnn`.
        features: the teacher's, float16 [n, 384, 16].
    """

    levels: np.ndarray
    features: np.ndarray


def make(context: Context, clips: int, teacher: Path, seed: int) -> Clips:
    """Makes as many clips; shards that are in the store are not made again.

    Args:
        clips: how many; rounded up to whole shards.
        teacher: safetensors file with the weights of `mn04`.
        seed: of sounds and bank.

    Raises:
        UserError: the bank's packages are missing, or the file holds no weights of `mn04`.
        Cancelled: finished shards are kept.
    """
    key = {
        "seed": seed,
        "bank": bank.key(seed),
        "teacher": hashlib.sha256(teacher.read_bytes()).hexdigest(),
        "code": identity(KIND),
    }
    shards = [Shard(number, {**key, "shard": number}) for number in range(-(-clips // SHARD))]
    missing = [shard for shard in shards if not context.store.has(KIND, shard.key)]
    if missing:
        bank.make(context, seed)
        make_one = partial(_make, store=context.store, seed=seed, teacher=teacher)
        for _ in context.run(make_one, missing, "making sounds"):
            pass
    n = len(shards) * SHARD
    levels = np.empty((n, BANDS, FRAMES), np.int8)
    features = np.empty((n, TEACHER_DIM, TEACHER_FRAMES), np.float16)
    for shard in shards:
        entry = context.store.get(KIND, shard.key)
        if entry is None:
            raise UserError(f"{shard} were damaged in the store and set aside; start again to make them anew")
        rows = slice(shard.number * SHARD, (shard.number + 1) * SHARD)
        levels[rows], features[rows] = entry.tensors["levels"], entry.tensors["features"]
    return Clips(levels, features)


def _make(shard: Shard, *, store: Store, seed: int, teacher: Path) -> None:
    """Makes, labels and keeps the clips of one shard."""
    maker = sounds.Maker(np.random.default_rng([seed, shard.number]), _bank(store.address, seed))
    levels = np.empty((SHARD, BANDS, FRAMES), np.int8)
    features = np.empty((SHARD, TEACHER_DIM, TEACHER_FRAMES), np.float16)
    for start in range(0, SHARD, BATCH):
        waveforms = [maker.clip() for _ in range(BATCH)]
        for row, waveform in enumerate(waveforms, start=start):
            heard = soxr.resample(waveform, sounds.SAMPLE_RATE, SAMPLE_RATE)
            levels[row] = np.round(ds_cnn.levels(heard) * STEP)
        seen = np.stack([kaldi_mel.log_mel(waveform) for waveform in waveforms])
        features[start : start + BATCH] = _features(teacher, seen)
    store.put(KIND, shard.key, {"levels": levels, "features": features})


@lru_cache(maxsize=1)
def _bank(address: str, seed: int) -> list[np.ndarray]:
    samples = bank.load(Store(address), seed)
    if samples is None:
        raise UserError("the bank of samples is gone from the store; start again")
    return samples


def _features(teacher: Path, levels: np.ndarray) -> np.ndarray:
    """The teacher's features [B, 384, 16] of its own spectrograms [B, 128, 500]."""
    import torch

    with torch.inference_mode():
        return _teacher(teacher).feature_map(torch.from_numpy(levels)).mean(2).numpy()


@lru_cache(maxsize=1)
def _teacher(path: Path):
    import torch

    from qmoe_core.embedders.networks import Mn04, load

    return load(Mn04(), path).to(memory_format=torch.channels_last)
