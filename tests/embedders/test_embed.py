"""Embeddings of a dataset: right, kept batch by batch, and repaired."""

from __future__ import annotations

import gc
import io
import multiprocessing.reduction
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from qmoe_core.audio.decode import SAMPLE_RATE, WINDOW_SAMPLES
from qmoe_core.datasets import Manifest, open_dataset
from qmoe_core.embedders import embed
from qmoe_core.embedders.embed import KIND, embed_dataset
from qmoe_core.errors import Cancelled, DatasetError, StoreError
from qmoe_core.runtime import executor
from qmoe_core.runtime.executor import Context
from qmoe_core.runtime.store import Store


class MeanAndEnd:
    """Mean, last sample and length (in thousands) of each window; counts what it is asked."""

    sample_rate = SAMPLE_RATE

    def __init__(self, version: int = 1) -> None:
        self.id = f"mean-and-end-{version}"
        self.dim = 3
        self.asked: list[int] = []

    def embed(self, waveforms: np.ndarray) -> np.ndarray:
        self.asked.append(len(waveforms))
        assert waveforms.dtype == np.float32
        last = waveforms[:, -1]
        return np.stack([waveforms.mean(1), last, np.full_like(last, waveforms.shape[1] / 1000)], axis=1)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Ten clips of constant value 0.00, 0.05, … 0.45, two seconds each."""
    for index in range(10):
        path = tmp_path / "sounds" / ("even" if index % 2 == 0 else "odd") / f"{index}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.full(2 * SAMPLE_RATE, index / 20, dtype=np.float32), SAMPLE_RATE, "FLOAT")
    return open_dataset(tmp_path / "sounds")


def expected(manifest: Manifest) -> np.ndarray:
    level = np.array([int(Path(name).stem) / 20 for name in manifest.names])
    return np.stack([level * 2 / 5, np.zeros(10), np.full(10, WINDOW_SAMPLES / 1000)], axis=1)


def test_every_clip_in_the_manifests_order(manifest: Manifest, store: Store) -> None:
    embedder = MeanAndEnd()
    embeddings = embed_dataset(manifest, embedder, Context(store), batch=4)
    assert embeddings.shape == (10, 3)
    assert embeddings.dtype == np.float16
    np.testing.assert_allclose(embeddings, expected(manifest), rtol=1e-3, atol=1e-7)
    assert embedder.asked == [4, 4, 2]


def test_nothing_is_computed_twice(manifest: Manifest, store: Store) -> None:
    first = embed_dataset(manifest, MeanAndEnd(), Context(store), batch=4)
    again, told = MeanAndEnd(), []
    watched = Context(store, progress=lambda title: lambda *args: told.append(args[:2]))
    second = embed_dataset(manifest, again, watched, batch=4)
    np.testing.assert_array_equal(first, second)
    assert again.asked == []
    assert told == [(10, 10)]


def test_another_embedder_is_another_result(manifest: Manifest, store: Store) -> None:
    embed_dataset(manifest, MeanAndEnd(1), Context(store), batch=4)
    other = MeanAndEnd(2)
    embed_dataset(manifest, other, Context(store), batch=4)
    assert sum(other.asked) == 10


def test_only_batches_with_changed_files_are_redone(manifest: Manifest, store: Store, tmp_path: Path) -> None:
    embed_dataset(manifest, MeanAndEnd(), Context(store), batch=4)
    path = manifest.entries[0].path
    soundfile.write(path, np.full(SAMPLE_RATE, 0.5, dtype=np.float32), SAMPLE_RATE, "FLOAT")
    embedder = MeanAndEnd()
    embeddings = embed_dataset(open_dataset(tmp_path / "sounds"), embedder, Context(store), batch=4)
    assert embedder.asked == [4]
    assert embeddings[0, 0] == pytest.approx(0.1, rel=1e-3)


def test_a_dataset_that_moved_is_known_again(manifest: Manifest, store: Store, tmp_path: Path) -> None:
    embed_dataset(manifest, MeanAndEnd(), Context(store), batch=4)
    embedder = MeanAndEnd()
    moved = open_dataset((tmp_path / "sounds").rename(tmp_path / "elsewhere"))
    embed_dataset(moved, embedder, Context(store), batch=4)
    assert embedder.asked == []


def test_it_goes_on_where_it_was_cancelled(manifest: Manifest, store: Store) -> None:
    embedder, told = MeanAndEnd(), []
    with pytest.raises(Cancelled):
        embed_dataset(
            manifest,
            embedder,
            Context(
                store,
                progress=lambda title: lambda *args: told.append(args),
                cancelled=lambda: sum(embedder.asked) >= 8,
            ),
            batch=4,
        )
    assert [done for done, _, _ in told] == [0, 4, 8]
    embedder.asked.clear()
    embeddings = embed_dataset(manifest, embedder, Context(store), batch=4)
    assert embedder.asked == [2]
    np.testing.assert_allclose(embeddings, expected(manifest), rtol=1e-3, atol=1e-7)


def test_a_damaged_batch_is_redone(manifest: Manifest, store: Store) -> None:
    first = embed_dataset(manifest, MeanAndEnd(), Context(store), batch=4)
    path = store.list(KIND)[1].path / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    embedder = MeanAndEnd()
    np.testing.assert_array_equal(embed_dataset(manifest, embedder, Context(store), batch=4), first)
    assert len(embedder.asked) == 1
    assert len(store.reports()) == 1
    assert store.verify().damaged == ()


def test_a_long_clip_is_the_mean_of_its_windows(tmp_path: Path, store: Store) -> None:
    class Magnitude(MeanAndEnd):
        def embed(self, waveforms: np.ndarray) -> np.ndarray:
            return super().embed(np.abs(waveforms))

    # No constant value, which would be an offset of the recorder and silence.
    signs = np.where(np.arange(2 * WINDOW_SAMPLES) % 2, 1.0, -1.0)
    long = (signs * np.repeat([0.2, 0.5], WINDOW_SAMPLES)).astype(np.float32)
    for name, samples in {
        "a/1": long,
        "a/2": long[-10:],
        "b/1": long[:10],
        "b/2": long[-WINDOW_SAMPLES:],
    }.items():
        path = tmp_path / "sounds" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, SAMPLE_RATE, "FLOAT")
    embedder = Magnitude()
    embeddings = embed_dataset(open_dataset(tmp_path / "sounds"), embedder, Context(store), batch=2)
    # Windows at 0, 2.5 and 5 s, two at a time, and with the third the short clip.
    assert embedder.asked == [2, 2, 2]
    np.testing.assert_allclose(embeddings[0], [0.35, (0.2 + 0.5 + 0.5) / 3, WINDOW_SAMPLES / 1000], rtol=1e-3)
    np.testing.assert_allclose(embeddings[1, 0], 0.5 * 10 / WINDOW_SAMPLES, rtol=1e-3)
    np.testing.assert_allclose(embeddings[3, 0], 0.5, rtol=1e-3)


def test_windows_come_at_the_embedders_sample_rate(manifest: Manifest, store: Store) -> None:
    class Finer(MeanAndEnd):
        sample_rate = 32_000

    embed_dataset(manifest, MeanAndEnd(), Context(store), batch=4)
    embeddings = embed_dataset(manifest, finer := Finer(), Context(store), batch=4)
    assert finer.asked == [4, 4, 2]  # what was kept is of another rate, though the embedder's id is the same
    np.testing.assert_allclose(embeddings[:, 2], 160, rtol=1e-3)


def test_what_cannot_be_read_is_named_and_the_rest_kept(manifest: Manifest, store: Store) -> None:
    bad = manifest.entries[5].path
    bad.write_bytes(b"not a sound")
    with pytest.raises(DatasetError, match=str(bad)):
        embed_dataset(manifest, MeanAndEnd(), Context(store), batch=4)
    assert len(store.list(KIND)) == 1
    bad.unlink()
    with pytest.raises(DatasetError, match=f"{bad}: cannot be read"):
        embed_dataset(manifest, MeanAndEnd(), Context(store), batch=4)


def test_numbers_that_are_none_are_not_kept(manifest: Manifest, store: Store) -> None:
    class Broken(MeanAndEnd):
        def embed(self, waveforms: np.ndarray) -> np.ndarray:
            return np.where(np.arange(len(waveforms))[:, None] == 2, np.nan, super().embed(waveforms))

    with pytest.raises(DatasetError, match=f"{manifest.entries[2].path}.*not finite"):
        embed_dataset(manifest, Broken(), Context(store), batch=4)
    assert store.list() == []


def test_a_store_that_cannot_be_written(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError):
        embed_dataset(manifest, MeanAndEnd(), Context(Store(tmp_path / "file")))


def test_a_batch_of_none_is_an_error(manifest: Manifest, store: Store) -> None:
    with pytest.raises(ValueError, match="batch is 0"):
        embed_dataset(manifest, MeanAndEnd(), Context(store), batch=0)


@pytest.mark.parametrize(("extra_s", "windows"), [(0.0, 1), (0.001, 1), (0.2, 2), (2.501, 2), (2.7, 3)])
def test_a_few_milliseconds_more_are_no_window(
    tmp_path: Path, store: Store, extra_s: float, windows: int
) -> None:
    for name in ("a/1", "a/2", "b/1", "b/2"):
        path = tmp_path / "sounds" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(WINDOW_SAMPLES + round(extra_s * SAMPLE_RATE)), SAMPLE_RATE)
    embedder = MeanAndEnd()
    embed_dataset(open_dataset(tmp_path / "sounds"), embedder, Context(store))
    assert sum(embedder.asked) == 4 * windows


def test_the_array_lies_on_disk_and_goes_with_its_owner(manifest: Manifest, store: Store) -> None:
    embeddings = embed_dataset(manifest, MeanAndEnd(), Context(store), batch=4)
    file = Path(embeddings.filename)  # pyright: ignore[reportAttributeAccessIssue]
    assert file.is_file()
    assert file.is_relative_to(store.root / "tmp")
    part = embeddings[2:5]
    del embeddings
    assert file.is_file()
    np.testing.assert_allclose(part, expected(manifest)[2:5], rtol=1e-3)
    del part
    gc.collect()
    assert not file.parent.exists()


def test_another_process_gets_the_name_of_the_file(manifest: Manifest, store: Store) -> None:
    embeddings = embed_dataset(manifest, MeanAndEnd(), Context(store), batch=4)
    sent = io.BytesIO()
    multiprocessing.reduction.ForkingPickler(sent).dump(embeddings)
    assert len(sent.getvalue()) < 400
    rebuild, arguments = embeddings.__reduce__()
    there = rebuild(*arguments)
    np.testing.assert_array_equal(there, embeddings)
    assert not there.flags.writeable
    del there
    gc.collect()
    assert Path(embeddings.filename).is_file()  # pyright: ignore[reportAttributeAccessIssue]
    for part in (embeddings[1:4], embeddings[[1, 3]], embeddings[1:][1:]):
        rebuild, arguments, *state = part.__reduce__()
        copy = rebuild(*arguments)
        copy.__setstate__(*state)
        assert type(copy) is np.ndarray
        np.testing.assert_array_equal(copy, part)


def test_numbers_that_half_precision_cannot_hold_are_refused(manifest: Manifest, store: Store) -> None:
    class Large(MeanAndEnd):
        def embed(self, waveforms: np.ndarray) -> np.ndarray:
            return 1e6 + super().embed(waveforms)

    with pytest.raises(DatasetError, match=r"not finite in half precision \(up to 65,504\)"):
        embed_dataset(manifest, Large(), Context(store))


@pytest.mark.recordings
def test_real_recordings(shared_data: Path, store: Store) -> None:
    from dataclasses import replace

    from qmoe_core import embedders
    from qmoe_core.audio import decode

    manifest = open_dataset(shared_data / "esc10")
    few = replace(manifest, entries=manifest.entries[::50])
    embedder = embedders.create("logmel-stats")
    embeddings = embed_dataset(few, embedder, Context(store), batch=3)
    assert embeddings.shape == (8, embedder.dim)
    assert np.isfinite(embeddings).all()
    window = decode.windows(decode.load(few.entries[4].path))[0]
    np.testing.assert_allclose(embeddings[4], embedder.embed(window.samples[None])[0], rtol=1e-3, atol=1e-4)


def test_embeddings_reach_a_machine_that_sees_the_bucket_only(
    bucket: str, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    store = Store(bucket)
    monkeypatch.setattr(embed, "PART_BYTES", 4 * 3 * 2)
    made = embed_dataset(manifest, MeanAndEnd(), Context(store))
    assert pickle.loads(pickle.dumps(made)).filename == made.filename
    assert store.list(embed.PART_KIND) == []  # processes of this machine see the file
    with executor.on(lambda *_: iter(())):  # type: ignore[arg-type, return-value]
        sent = [pickle.dumps(made), pickle.dumps(made)]
    kept = store.list(embed.PART_KIND)
    assert [entry.tensors["embeddings"].shape for entry in kept] == [(4, 3), (4, 3), (2, 3)]
    shutil.rmtree(Path(made.filename).parent)
    there = [pickle.loads(one) for one in sent]
    assert there[0] is there[1]  # fetched once
    np.testing.assert_array_equal(there[0], made, strict=True)
    store.delete(kept[1].key)
    embed._fetched.cache_clear()
    with pytest.raises(StoreError, match=f"{bucket}: embeddings that were put there are gone"):
        pickle.loads(sent[0])
