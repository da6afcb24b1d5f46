"""What a network in a format is trained on: spectrograms of synthetic sounds, in shards in the store.

Only the sounds are needed, no teacher: the float network gives the targets. The sounds are those that
`ds-cnn` is trained on (`embedders.distil`); a larger set begins with the clips of a smaller one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import soxr

from qmoe_core.embedders.distil import bank, clips, sounds
from qmoe_core.embedders.learned import FRONT_ENDS
from qmoe_core.errors import UserError
from qmoe_core.runtime.executor import Context
from qmoe_core.runtime.identity import identity
from qmoe_core.runtime.store import Store

INPUTS = "embedder-inputs"
STEP = clips.STEP
"""Whole numbers that an input of 1 is kept as, int8: steps of two thirds of a decibel or less."""


@dataclass(frozen=True)
class Shard:
    """The `number`-th 256 of the clips that a seed gives, for the front end of an embedder."""

    embedder: str
    seed: int
    number: int

    @property
    def key(self) -> dict[str, object]:
        """Its address in the store."""
        return {
            "embedder": self.embedder,
            "bank": bank.key(self.seed),
            "seed": self.seed,
            "shard": self.number,
            "code": identity(INPUTS),
        }

    def __str__(self) -> str:
        return f"clips {self.number * clips.SHARD + 1}–{(self.number + 1) * clips.SHARD}"


def make(context: Context, embedder: str, shards: int, seed: int = 1) -> list[dict[str, object]]:
    """Makes as many shards of 256 clips; those in the store are not made again.

    Args:
        embedder: `ds-cnn` or `mn04`.

    Returns:
        The keys of the shards, whose `levels` are int8 [256, bands, frames].

    Raises:
        UserError: packages that the sounds need are missing.
        Cancelled: finished shards are kept.
    """
    wanted = [Shard(embedder, seed, number) for number in range(shards)]
    missing = [shard for shard in wanted if not context.store.has(INPUTS, shard.key)]
    if missing:
        bank.make(context, seed)
        for _ in context.run(partial(_make, store=context.store.address), missing, "making sounds"):
            pass
    return [shard.key for shard in wanted]


def _make(shard: Shard, *, store: str) -> None:
    samples = bank.load(Store(store), shard.seed)
    if samples is None:
        raise UserError("the bank of samples is gone from the store; start again")
    maker = sounds.Maker(np.random.default_rng([shard.seed, shard.number]), samples)
    front_end = FRONT_ENDS[shard.embedder]
    levels = []
    for _ in range(clips.SHARD):
        waveform = soxr.resample(maker.clip(), sounds.SAMPLE_RATE, front_end.sample_rate)
        levels.append(np.clip(np.round(front_end.levels(waveform) * STEP), -127, 127).astype(np.int8))
    Store(store).put(INPUTS, shard.key, {"levels": np.stack(levels)})
