"""Learned embedders: `mn04` is what its authors' code is, and the engine's network is torch's."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from qmoe_core import embedders
from qmoe_core.audio import decode, kaldi_mel, synth
from qmoe_core.embedders import architectures, ds_cnn, models, networks
from qmoe_core.embedders.learned import LearnedEmbedder
from qmoe_core.embedders.quantization import making
from qmoe_core.engine import network_reference
from qmoe_core.errors import UserError
from qmoe_core.experts.spec import EXPERTS
from tests.tiny import untrained


@pytest.fixture(scope="session")
def mn04_weights(shared_data: Path) -> Path:
    """The authors' weights; skips where they are missing."""
    path = shared_data.parent / "weights" / "mn04_as.safetensors"
    if not path.is_file():
        pytest.skip(
            "../shared/weights lacks mn04_as.safetensors: mn04 is not compared with its authors' code"
        )
    return path


def test_mn04_gives_what_its_authors_code_gives(mn04_weights: Path, shared_data: Path) -> None:
    reference = np.load(mn04_weights.with_name("mn04_as_reference.npz"))
    embedder = embedders.create("mn04", weights=mn04_weights)
    assert (embedder.dim, embedder.sample_rate) == (384, 32_000)
    for row in range(0, 400, 50):
        clip = decode.load(shared_data / "esc10" / "audio" / str(reference["files"][row]), rate=32_000)
        waveform = np.zeros(160_000, np.float32)
        waveform[: len(clip.samples)] = clip.samples[:160_000]
        found = embedder.embed(waveform[None])[0]
        assert np.abs(found - reference["embeddings"][row]).max() < 1e-4


@pytest.mark.parametrize(
    ("name", "module", "bands", "frames"),
    [("mn04", networks.Mn04, 128, 70), ("ds-cnn", networks.DsCnn, 64, 50)],
)
def test_the_engine_runs_the_network_that_torch_trains(name: str, module, bands: int, frames: int) -> None:
    network = module().eval()
    made = models.ARCHITECTURES[name](untrained(network))
    levels = np.random.default_rng(1).normal(0, 0.7, (2, bands, frames)).astype(np.float32)
    with torch.inference_mode():
        wanted = network(torch.from_numpy(levels)).numpy()
    assert made.dim == wanted.shape[1]
    assert np.abs(network_reference.forward(made, levels) - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_a_wrong_or_missing_tensor_is_named() -> None:
    tensors = untrained(networks.DsCnn())
    missing = {key: array for key, array in tensors.items() if key != "features.3.1.bias"}
    with pytest.raises(UserError, match=r"not the weights of ds-cnn: features\.3\.1\.bias is missing"):
        architectures.ds_cnn(missing)
    with pytest.raises(UserError, match=r"features\.0\.0\.weight has shape \[16, 1, 5, 5\]"):
        architectures.ds_cnn(tensors | {"features.0.0.weight": np.zeros((16, 1, 5, 5), np.float32)})


def test_other_weights_are_another_embedder(tmp_path: Path) -> None:
    tensors = untrained(networks.DsCnn())
    one = LearnedEmbedder("ds-cnn", architectures.ds_cnn(tensors))
    tensors["features.16.1.bias"] = tensors["features.16.1.bias"] + np.float32(0.3)
    safetensors.numpy.save_file(tensors, file := tmp_path / "other.safetensors")
    other = embedders.create("ds-cnn", weights=file)
    assert other.name == f"ds-cnn@{file}"
    assert other.id != one.id
    sound = np.random.default_rng(2).normal(0, 0.1, (2, 30_000)).astype(np.float32)
    elsewhere = pickle.loads(pickle.dumps(other))
    np.testing.assert_array_equal(elsewhere.embed(sound), other.embed(sound))
    assert not np.allclose(one.embed(sound), other.embed(sound), atol=1e-4)
    assert embedders.create(other.name).id == other.id


def test_levels_of_a_tone_lie_in_its_band() -> None:
    """An independent look at the front end: a tone of 1 kHz is loudest where its mel band is."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(64_000) / 32_000).astype(np.float32)
    levels = kaldi_mel.log_mel(tone)
    assert levels.shape == (128, kaldi_mel.frame_count(64_000))
    mel = 1127 * np.log1p(np.array([1000, 15_000]) / 700)
    assert abs(levels.mean(1).argmax() + 1 - mel[0] / mel[1] * 129) < 1


def test_mn04_without_its_weights_says_how_to_have_them() -> None:
    with pytest.raises(UserError, match="qmoe models download mn04, or --from FILE"):
        embedders.create("mn04")


@pytest.mark.parametrize("name", sorted(set(making.FORMATS) - {"q1", "bitnet"}))
def test_the_formats_that_ship_follow_the_network_that_ships(name: str) -> None:
    """They are made anew whenever its weights are: the same features, and no more bytes than their bits."""
    file = models.SHIPPED / models.file_of(f"ds-cnn:{name}")
    whole, rounded = models.network("ds-cnn"), models.network(f"ds-cnn:{name}", file)
    levels = [ds_cnn.levels(synth.render(sound)) for sound in list(synth.GALLERY)[:3]]

    found = np.stack([network_reference.forward(rounded, x[None])[0] for x in levels])

    wanted = np.stack([network_reference.forward(whole, x[None])[0] for x in levels])
    cosines = (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    least = {"q1": 0.8, "bitnet": 0.85, "q2": 0.88, "q3": 0.92, "q4": 0.95}.get(name, 0.99)
    assert cosines.min() > least
    assert file.stat().st_size < EXPERTS[name].bits / 8 * whole.parameters + 45_000
