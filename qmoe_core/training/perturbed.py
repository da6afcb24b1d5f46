"""Changed copies of training clips: experts learn sounds as they arrive, in noise, in rooms, from afar.

A copy is a clip's first five seconds under one change of `audio.perturb`, its kind and level drawn at random.
Backgrounds are made-up sounds (`embedders.distil.sounds`), never other clips, so that nothing of a test fold
is heard in training. Copies are trained on beside their clip; they neither choose the epoch nor are scored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from qmoe_core.audio import decode, fitness, perturb
from qmoe_core.datasets.manifest import DatasetClip, Manifest
from qmoe_core.embedders import Embedder
from qmoe_core.embedders.embed import KIND, address_of, first_window
from qmoe_core.errors import ConfigError, DatasetError
from qmoe_core.runtime.executor import Context, stop_if
from qmoe_core.runtime.store import Store

VERSION = 1
"""Of how copies are made; raised when they change, so that kept ones are not taken."""
MOST = 20
BATCH = 16


def check(manifest: Manifest, count: int) -> None:
    """Whether copies can be made.

    Raises:
        ConfigError: a count out of range. DatasetError: no recordings.
    """
    if not 0 <= count <= MOST:
        raise ConfigError(f"--perturb is {count}; accepted is 0 to {MOST} copies of each clip")
    if count and (manifest.ready is not None or manifest.media == "pictures"):
        raise DatasetError(f"{manifest.name} holds no recordings, and so nothing that --perturb could change")


def copies(manifest: Manifest, embedder: Embedder, count: int, context: Context) -> np.ndarray:
    """Embeddings of changed copies of every clip, made once and kept in the store.

    Args:
        count: copies of each clip, 1 to `MOST`.
        context: its progress is told of clips done.

    Returns:
        float16 [count, n, D].

    Raises:
        UserError: see `check`; a recording that cannot be read. Cancelled: finished batches are kept.
    """
    check(manifest, count)
    show = context.progress("changed copies")
    found = []
    for start in range(0, len(manifest), BATCH):
        stop_if(context.cancelled or (lambda: False))
        found.append(_batch(manifest.entries[start : start + BATCH], embedder, count, context.store))
        done = min(start + BATCH, len(manifest))
        show(done, len(manifest), f"{count} copies of each clip")
    return np.concatenate(found, axis=1)


def _batch(entries: Sequence[DatasetClip], embedder: Embedder, count: int, store: Store) -> np.ndarray:
    """A batch's copies from the store, or made and put there."""
    key = {**address_of(embedder), "clips": [one.sha256 for one in entries], "copies": [VERSION, count]}
    if entry := store.get(KIND, key):
        return entry.tensors["embeddings"]
    values = np.stack([_embed(entry, embedder, count) for entry in entries], axis=1)
    store.put(KIND, key, {"embeddings": values}, {"embedder": embedder.id, "copies": count})
    return values


def _embed(entry: DatasetClip, embedder: Embedder, count: int) -> np.ndarray:
    """One clip's copies, float16 [count, D]."""
    samples = first_window(entry, embedder.sample_rate)
    seed = int.from_bytes(hashlib.sha256(entry.sha256.encode()).digest()[:8])
    changed = [change(samples, embedder.sample_rate, seed + number) for number in range(count)]
    prepared = [fitness.prepare(one) for one in changed]
    return np.concatenate([embedder.embed(one[None]) for one in prepared]).astype(np.float16)


def change(samples: np.ndarray, rate: int, seed: int) -> np.ndarray:
    """A waveform under one change, drawn evenly among the kinds and the range of each kind's levels.

    Args:
        samples: float32 [n], in [−1, 1]; rate: Hz.
    """
    from qmoe_core.embedders.distil.sounds import SAMPLE_RATE, Maker

    rng = np.random.default_rng(seed)
    kind = list(perturb.LEVELS)[rng.integers(len(perturb.LEVELS))]
    low, high = min(perturb.LEVELS[kind]), max(perturb.LEVELS[kind])
    # Bands, rooms and speeds by ratio; decibels and semitones are ratios already.
    even = low <= 0.0 or kind == "background"
    level = rng.uniform(low, high) if even else low * (high / low) ** rng.uniform()
    background = np.zeros_like(samples)
    if kind == "background":
        background = np.resize(decode.resample(Maker(rng, ()).clip(), SAMPLE_RATE, rate), len(samples))
    return perturb.perturb(samples, rate, kind, float(level), background, int(rng.integers(2**31)))
