"""Embeddings of a whole dataset: computed in batches, each kept in the store under its content.

They are kept in half precision, and given as one array that lies on disk: it is mapped into memory, whose
pages the system may drop, so that 100,000 clips do not fill it, and processes on this machine share them.

A clip's embedding is that of its 5 s window, padded with silence if it is shorter; a longer clip's is the
mean over windows that start every 2.5 s, the last one aligned to its end. Codecs leave many a "5 s" clip
a few milliseconds longer (all of ESC-10 as Ogg): a tail of less than 0.1 s gets no window of its own.
"""

from __future__ import annotations

import functools
import hashlib
import mmap
import shutil
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from qmoe_core.audio import decode, pictures
from qmoe_core.datasets.manifest import DatasetClip, Manifest, Media
from qmoe_core.embedders import Embedder
from qmoe_core.errors import AudioError, DatasetError, StoreError
from qmoe_core.runtime import executor
from qmoe_core.runtime.ahead import ahead
from qmoe_core.runtime.identity import identity
from qmoe_core.runtime.store import Store

KIND = "embeddings"
PART_KIND = "embedding-parts"
"""Rows of a dataset's embeddings, where those who train on them do not see the file that is mapped."""
PART_BYTES = 16 << 20
HOP_S = 2.5
AT_ONCE = 64
"""Windows of a clip that are decoded ahead."""
POLICY = "mean over 5 s windows, hop 2.5 s, no tail under 0.1 s; short clips padded"
"""Part of every key: what becomes of a file before the embedder sees it."""


def address_of(embedder: Embedder) -> dict[str, Any]:
    """What an embedding depends on beside the clip: part of the key of every kept batch."""
    libraries: tuple[str, ...] = getattr(embedder, "libraries", ())
    audio = f"mono {embedder.sample_rate} Hz; {POLICY}"
    return {"embedder": embedder.id, "audio": audio, "code": identity(KIND, libraries)}


class Mapped(np.memmap):
    """An array on disk that goes to another process as the name of its file.

    To other machines, where the store is a bucket, it goes by way of that, in parts of some megabytes.

    Attributes:
        store: address of the bucket; empty where others see the file.
        parts: what the parts are stored under, once they are there.
    """

    store = ""
    parts: tuple[str, ...] = ()

    def __reduce__(self) -> Any:
        if not isinstance(self.base, mmap.mmap):  # a part of it
            return np.asarray(self).__reduce__()
        self.flush()  # the other process may be on another machine, which sees what was written back
        if self.store and not self.parts and executor.elsewhere():
            self.parts = tuple(_publish(self, Store(self.store)))
        return _mapped, (self.filename, self.dtype.str, self.offset, self.shape, self.store, self.parts)


def _publish(array: np.ndarray, store: Store) -> Iterator[str]:
    """Puts an array into a store; gives the SHA-256 of each part, its address there."""
    for rows in _parts(array.shape):
        part = np.asarray(array[rows])
        digest = hashlib.sha256(part.tobytes()).hexdigest()
        if not store.has(PART_KIND, {"sha256": digest}):
            store.put(PART_KIND, {"sha256": digest}, {"embeddings": part})
        yield digest


def _parts(shape: tuple[int, ...]) -> list[slice]:
    rows = max(1, PART_BYTES // (2 * shape[1]))
    return [slice(start, start + rows) for start in range(0, shape[0], rows)]


def _mapped(
    filename: str, dtype: str, offset: int, shape: tuple[int, int], store: str, parts: tuple[str, ...]
) -> np.ndarray:
    """The array again, in another process.

    Raises:
        FileNotFoundError: this machine does not see the file.
        StoreError: the bucket cannot be read.
    """
    if parts and not Path(filename).exists():
        return _fetched(store, shape, parts)
    return Mapped(filename, dtype, "r", offset, shape)


@functools.lru_cache(maxsize=1)
def _fetched(address: str, shape: tuple[int, int], parts: tuple[str, ...]) -> np.ndarray:
    """The embeddings that another machine published, in a file of this one's, once a process."""
    store = Store(address)
    store.tidy()  # workers that were killed leave such files
    array = _on_disk(shape, store)
    for rows, digest in zip(_parts(shape), parts, strict=True):
        entry = store.get(PART_KIND, {"sha256": digest})
        if entry is None:
            raise StoreError(f"{address}: embeddings that were put there are gone; start again")
        array[rows] = entry.tensors["embeddings"]
    return array


@dataclass(frozen=True)
class _Batch:
    start: int
    """Position of the first clip in the dataset."""
    entries: tuple[DatasetClip, ...]
    media: Media
    key: dict[str, object]

    def __str__(self) -> str:
        return f"clips {self.start + 1}–{self.start + len(self.entries)}"


def embed_dataset(
    manifest: Manifest,
    embedder: Embedder,
    context: executor.Context,
    *,
    batch: int = 16,
    title: str = "embedding",
) -> np.ndarray:
    """Embeds every clip; batches that are in the store are not computed again.

    Args:
        manifest: the dataset. Embeddings that it came with are given as they are.
        embedder: what turns windows into numbers; its `id` is part of each batch's address.
        context: batches are kept in its store under the kind `embeddings`, and made in this process.
        batch: clips a batch, and windows that the embedder gets at once.
        title: of the progress display, which is told of clips done.

    Returns:
        float16 [n, D], in the manifest's order, mapped from a file that goes with the array. (Imported
        embeddings that half precision would distort are float32.)

    Raises:
        DatasetError: a file is missing or is not audio; the message names it.
        Cancelled: finished batches are kept, and the next call goes on from there.
        StoreError: the store cannot be read or written.
    """
    if batch < 1:
        raise ValueError(f"batch is {batch}; expected 1 or more")
    if manifest.ready is not None:
        given = np.load(manifest.ready.path, mmap_mode="r", allow_pickle=False)
        return Mapped(given.filename, given.dtype, "r", given.offset, given.shape)
    store, show = context.store, context.progress(title)
    embeddings = _on_disk((len(manifest), embedder.dim), store)
    if store.remote and isinstance(embeddings, Mapped):
        embeddings.store = store.address
    tasks, address = [], address_of(embedder)
    for start in range(0, len(manifest), batch):
        entries = manifest.entries[start : start + batch]
        content = [entry.sha256 for entry in entries]
        key = {**address, "clips": content}
        tasks.append(_Batch(start, entries, manifest.media, key))
    missing = []
    for task, kept in zip(tasks, store.get_each(KIND, (task.key for task in tasks)), strict=True):
        executor.stop_if(context.cancelled or (lambda: False))
        if kept is None:
            missing.append(task)
        else:
            embeddings[task.start : task.start + len(task.entries)] = kept.tensors["embeddings"]

    done = len(manifest) - sum(len(task.entries) for task in missing)
    show(done, len(manifest), f"{done} of {len(manifest)} clips were embedded before")
    embed = partial(_embed_batch, embedder=embedder, store=store, windows_at_once=batch)
    for index, values in executor.run(embed, missing, cancelled=context.cancelled):
        task = missing[index]
        embeddings[task.start : task.start + len(values)] = values
        done += len(values)
        show(done, len(manifest), str(task))
    return embeddings


def _on_disk(shape: tuple[int, int], store: Store) -> np.ndarray:
    """An empty float16 array in a file of the store's, which is removed with the array."""
    try:
        folder = store.scratch()
    except StoreError:  # it may be closed to us and hold every batch all the same
        return np.empty(shape, np.float16)
    array = Mapped(folder / "embeddings", np.float16, "w+", shape=shape)
    weakref.finalize(array, shutil.rmtree, folder, ignore_errors=True)
    return array


def _inputs(entry: DatasetClip, media: Media, rate: int, at_once: int = AT_ONCE) -> Iterator[np.ndarray]:
    """What the embedder gets of one clip: windows float32 [5 · rate], or a picture uint8 [height, width, 3].

    The first minutes of a clip are decoded at once (in another thread, see `ahead`), the rest when asked for.

    Raises:
        DatasetError: the file cannot be read.
    """

    def inputs() -> Iterator[np.ndarray]:
        try:
            if media == "pictures":
                yield pictures.load(entry.path).pixels
                return
            with decode.open_recording(entry.path, rate=rate) as recording:
                for window in decode.cut(recording, HOP_S):
                    yield window.prepared
        except AudioError as error:
            raise DatasetError(f"{entry.path}: {error}") from None

    every = inputs()
    return chain(list(islice(every, at_once)), every)


def first_window(clip: DatasetClip, rate: int) -> np.ndarray:
    """The first five seconds of a recording as an embedder takes them, float32 [5 · rate].

    Raises:
        DatasetError: the file cannot be read.
    """
    return next(_inputs(clip, "audio", rate, at_once=1))


def _embed_batch(task: _Batch, *, embedder: Embedder, store: Store, windows_at_once: int) -> np.ndarray:
    """Decodes, embeds and keeps one batch; gives float16 [b, D]."""
    waiting: list[np.ndarray] = []
    owners: list[int] = []
    sums = np.zeros((len(task.entries), embedder.dim), dtype=np.float64)
    counts = np.zeros(len(task.entries), dtype=np.int64)

    def flush() -> None:
        if waiting:
            together = waiting if task.media == "pictures" else np.stack(waiting)
            np.add.at(sums, owners, embedder.embed(together))
            waiting.clear()
            owners.clear()

    for position, inputs in enumerate(
        ahead(partial(_inputs, media=task.media, rate=embedder.sample_rate), task.entries)
    ):
        for one in inputs:
            waiting.append(one)
            owners.append(position)
            counts[position] += 1
            if len(waiting) == windows_at_once:
                flush()
    flush()
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
        values = (sums / counts[:, None]).astype(np.float32).astype(np.float16)
    if not np.isfinite(values).all():
        broken = task.entries[int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])]
        raise DatasetError(
            f"{broken.path}: {embedder.id} gives an embedding of it that is not finite in half precision "
            f"(up to {np.finfo(np.float16).max:,.0f})"
        )
    names = [entry.name for entry in task.entries]
    store.put(KIND, task.key, {"embeddings": values}, {"embedder": embedder.id, "names": names})
    return values
