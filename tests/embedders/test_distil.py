"""How ds-cnn is made: sounds, their labels, and a training that goes on where it was stopped."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from qmoe_core import cli
from qmoe_core.embedders import networks
from qmoe_core.embedders.distil import bank, clips, sounds, training
from qmoe_core.errors import Cancelled
from qmoe_core.runtime.executor import Context
from qmoe_core.runtime.store import Store


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of mn04 and a classifier."""
    torch.manual_seed(6)
    state = {key: tensor.numpy() for key, tensor in networks.Mn04().state_dict().items()}
    rng = np.random.default_rng(1)
    for layer, shape in (("2", (16, 384)), ("5", (7, 16))):
        state[f"classifier.{layer}.weight"] = rng.normal(size=shape).astype(np.float32)
        state[f"classifier.{layer}.bias"] = np.zeros(shape[0], np.float32)
    path = tmp_path_factory.mktemp("teacher") / "mn04.safetensors"
    safetensors.numpy.save_file(state, path)
    return path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of four clips, and a bank that needs no program."""
    monkeypatch.setattr(clips, "SHARD", 4)
    monkeypatch.setattr(clips, "BATCH", 2)
    monkeypatch.setattr(training, "HELD_OUT", 4)
    tone = np.round(20_000 * np.sin(np.arange(20_000) / 9)).astype(np.int16)
    monkeypatch.setattr(bank, "make", lambda context, seed: [tone])
    monkeypatch.setattr(clips, "_bank", lambda address, seed: [tone])


def test_clips_are_of_every_kind_and_those_of_a_seed_are_the_same() -> None:
    tone = np.round(20_000 * np.sin(np.arange(20_000) / 9)).astype(np.int16)
    made = [sounds.Maker(np.random.default_rng(seed), [tone]).clip() for seed in range(12)]
    for clip in made:
        assert clip.dtype == np.float32
        assert clip.shape == (sounds.LENGTH,)
        assert 0 < np.abs(clip).max() <= 1
        assert np.isfinite(clip).all()
    again = sounds.Maker(np.random.default_rng(0), [tone]).clip()
    assert np.array_equal(made[0], again)
    centre = [np.argmax(np.abs(np.fft.rfft(clip))) / sounds.SECONDS for clip in made]
    assert max(centre) > 20 * min(centre)  # from deep to high


@pytest.mark.parametrize("kind", sounds.LAYERS)
def test_every_kind_of_layer_sounds(kind: str) -> None:
    maker = sounds.Maker(np.random.default_rng(2), [])
    layer = getattr(maker, f"_{kind}")()
    assert layer.shape == (sounds.LENGTH,)
    assert np.isfinite(layer).all()
    assert np.abs(layer).max() > 0


def test_more_clips_begin_with_the_ones_that_are_there(small: None, teacher: Path, store: Store) -> None:
    one = clips.make(Context(store), 4, teacher, seed=1)
    kept = store.list(clips.KIND)[0].created
    two = clips.make(Context(store), 7, teacher, seed=1)
    assert len(two.levels) == 8
    assert np.array_equal(two.levels[:4], one.levels)
    assert np.array_equal(two.features[:4], one.features)
    assert store.list(clips.KIND)[0].created == kept
    assert two.levels.max() == clips.STEP  # the loudest point of every clip
    assert not np.array_equal(two.levels[4:], one.levels)


@pytest.fixture(scope="module")
def labelled() -> clips.Clips:
    """Twelve clips of noise with made-up features."""
    rng = np.random.default_rng(8)
    levels = rng.integers(-60, 61, (12, clips.BANDS, clips.FRAMES)).astype(np.int8)
    features = rng.normal(size=(12, clips.TEACHER_DIM, clips.TEACHER_FRAMES)).astype(np.float16)
    return clips.Clips(levels, features)


@pytest.fixture(scope="module")
def classifier(teacher: Path) -> dict[str, np.ndarray]:
    tensors = safetensors.numpy.load_file(teacher)
    return {key: array for key, array in tensors.items() if key.startswith("classifier")}


def test_training_goes_on_after_the_epoch_that_was_kept(
    small: None, labelled: clips.Clips, classifier: dict[str, np.ndarray], store: Store
) -> None:
    recipe = training.Recipe(epochs=(1, 1), batch=4)
    epochs: list[dict] = []
    stopping = Context(store, cancelled=lambda: len(epochs) == 1, observe=epochs.append)
    with pytest.raises(Cancelled):
        training.fit(stopping, labelled, classifier, recipe, {})
    resumed = training.fit(Context(store, observe=epochs.append), labelled, classifier, recipe, {})
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    whole = training.fit(Context(Store(store.root / "other")), labelled, classifier, recipe, {})
    for one, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_the_teachers_features_rotate_with_the_clip(
    labelled: clips.Clips, classifier: dict[str, np.ndarray]
) -> None:
    tensors = {key: torch.tensor(array) for key, array in classifier.items()}
    targets = training.Targets(labelled.features, tensors)
    rows = torch.arange(4)
    whole, along = targets.of(rows, 0, clips.TEACHER_FRAMES)
    same, rotated = targets.of(rows, 3, clips.TEACHER_FRAMES)
    assert torch.equal(whole, same)  # what is told of the whole clip does not depend on where it begins
    assert torch.allclose(torch.roll(along, 6, 2), rotated, atol=1e-5)
    assert whole.shape == (4, clips.TEACHER_DIM + 7)


def test_a_phrase_is_a_midi_file() -> None:
    data = bank._phrase(np.random.default_rng(1), 5)
    kind, size, _, tracks, _ = struct.unpack(">4sIHHH", data[:14])
    assert (kind, size, tracks) == (b"MThd", 6, 1)
    assert struct.unpack(">4sI", data[14:22]) == (b"MTrk", len(data) - 22)
    assert data.endswith(bytes([0xFF, 0x2F, 0]))
    assert [list(bank._variable(n)) for n in (0, 127, 128, 480)] == [[0], [127], [129, 0], [131, 96]]


def test_what_is_missing_is_said_with_the_way_to_have_it(
    teacher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["models", "make", "ds-cnn"]) == 2
    assert "qmoe models download mn04 first" in capsys.readouterr().err
    assert cli.main(["models", "download", "mn04", "--from", str(teacher)]) == 0
    monkeypatch.setattr(bank.shutil, "which", lambda name: None)
    monkeypatch.setattr(bank, "SAMPLES", Path("/nowhere"))
    assert cli.main(["models", "make", "ds-cnn", "--clips", "1024"]) == 2
    said = capsys.readouterr().err
    assert "apt install espeak-ng fluidsynth" in said
    assert "sonic-pi-samples" in said
    assert "CC0" in said  # the licences
