from __future__ import annotations

import numpy as np
import pytest

from qmoe_core import embedders
from qmoe_core.audio import mel, synth
from qmoe_core.embedders import timm_backbone
from qmoe_core.errors import UserError

timm = pytest.importorskip("timm")
torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

SMALL = "test_resnet"


@pytest.fixture(scope="module")
def waveforms() -> np.ndarray:
    return np.stack([synth.render(name) for name in ("rain", "dog-bark", "clock-tick")])


def saved(path, model) -> str:
    safetensors_torch.save_file(
        {key: tensor.contiguous() for key, tensor in model.state_dict().items()}, path
    )
    return str(path)


class TestEmbedding:
    def test_a_batch_is_its_clips_one_by_one(self, waveforms):
        embedder = embedders.create(SMALL, weights="random")
        together = embedder.embed(waveforms)
        assert together.dtype == np.float32
        assert together.shape == (3, embedder.dim) == (3, 96)
        one_by_one = np.concatenate([embedder.embed(waveform[None]) for waveform in waveforms])
        np.testing.assert_allclose(together, one_by_one, rtol=1e-3, atol=1e-4)
        assert embedder.embed(waveforms[:0]).shape == (0, 96)

    @pytest.mark.slow
    @pytest.mark.parametrize(("name", "dim"), [("mobilenetv3_small_100", 1024), ("efficientnet_b3", 1536)])
    def test_the_papers_backbones_have_the_papers_dimensions(self, waveforms, name, dim):
        embedder = embedders.create(name, weights="random")
        assert embedder.dim == dim
        embedding = embedder.embed(waveforms[:2])
        assert embedding.shape == (2, dim)
        assert np.isfinite(embedding).all()

    def test_silence_gives_finite_numbers(self):
        embedder = embedders.create(SMALL, weights="random")
        assert np.isfinite(embedder.embed(np.zeros((1, 110_250), dtype=np.float32))).all()

    def test_the_picture_reaches_from_the_loudest_point_to_eighty_decibels_below(self):
        level = np.array([[-100, -70, -30], [-50, 10, -71]], dtype=np.float32)
        picture = timm_backbone.grey_picture(level)
        np.testing.assert_allclose(picture, [[0, 0, 0.5], [0.25, 1, 0]], atol=1e-6)
        assert picture.dtype == np.float32

    def test_the_network_sees_grey_in_its_own_size_and_scale(self, waveforms):
        embedder = timm_backbone.TimmBackbone("test_efficientnet", weights="random")
        grey = torch.from_numpy(timm_backbone.grey_picture(mel.log_mel(waveforms[0]))[None, None])
        picture = embedder._dress(grey)
        assert picture.shape == (1, 3, 160, 160)
        mean, std = (
            torch.tensor(timm.data.IMAGENET_DEFAULT_MEAN),
            torch.tensor(timm.data.IMAGENET_DEFAULT_STD),
        )
        back = picture * std.view(1, 3, 1, 1) + mean.view(1, 3, 1, 1)
        torch.testing.assert_close(back[:, 0], back[:, 2])
        assert back.min() >= -1e-4
        assert back.max() <= 1 + 1e-4


class TestVariants:
    def test_the_papers_missing_normalisation_is_another_embedder(self, waveforms):
        plain, other = (
            embedders.create(f"{SMALL}@random"),
            embedders.create(f"{SMALL}@random@no-normalisation"),
        )
        assert plain.id == embedders.create(SMALL, weights="random").id
        assert other.id.startswith(f"{SMALL}@no-normalisation-")
        grey = torch.rand(1, 1, 8, 8)
        assert other._dress(grey).min() >= 0.0 > plain._dress(grey).min()
        assert not np.allclose(plain.embed(waveforms), other.embed(waveforms))

    def test_an_unseeded_projection_is_drawn_anew_and_its_name_makes_it_again(self, waveforms):
        first, second = (embedders.create(f"{SMALL}@random@unseeded-projection") for _ in range(2))
        assert first.id != second.id
        assert first.name.startswith(f"{SMALL}@random=0@unseeded-projection=")
        again = embedders.create(first.name)
        assert (again.id, again.name) == (first.id, first.name)
        np.testing.assert_array_equal(again.embed(waveforms), first.embed(waveforms))
        assert first.dim == 96
        # A linear layer as torch makes one: of the plain features, at most 1 / √D a weight.
        plain = embedders.create(f"{SMALL}@random").embed(waveforms)
        layer = first._model[1]
        assert layer.weight.abs().max() <= 96**-0.5
        expected = plain @ layer.weight.numpy().T + layer.bias.numpy()
        np.testing.assert_allclose(first.embed(waveforms), expected, rtol=1e-3, atol=1e-4)

    def test_pictures_keep_their_colours(self):
        embedder = embedders.create(f"{SMALL}@random@pictures")
        assert embedder.takes == "pictures"
        assert embedder.id.startswith(f"{SMALL}@pictures-")
        rng = np.random.default_rng(0)
        shown = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((20, 300), (432, 432))]
        made = embedder.embed(shown)
        assert made.shape == (2, 96)
        np.testing.assert_allclose(made[1], embedder.embed(shown[1:])[0], rtol=1e-3, atol=1e-4)
        assert not np.allclose(made[0], embedder.embed([shown[0][..., ::-1].copy()])[0], atol=1e-3)

    def test_a_file_of_weights_becomes_part_of_the_name(self, tmp_path):
        path = saved(tmp_path / "mine.safetensors", timm.create_model(SMALL, num_classes=0))
        made = embedders.create(SMALL, weights=path)
        assert made.name == f"{SMALL}@{path}"
        assert embedders.create(made.name).id == made.id

    def test_without_cuda_it_runs_here(self):
        assert embedders.create(f"{SMALL}@random")._device.type == (
            "cuda" if torch.cuda.is_available() else "cpu"
        )

    @pytest.mark.parametrize(
        "variant", ["colour", "random=x", "unseeded-projection=xyz", "", "no-normalisation=1"]
    )
    def test_other_variants_do_not_exist(self, variant):
        with pytest.raises(
            UserError, match=f"^@{variant} is nothing that an embedder can be made with; accepted"
        ):
            embedders.create(f"{SMALL}@{variant}")


class TestWeights:
    def test_a_seed_decides_random_weights_and_disturbs_nobody_elses(self, waveforms):
        torch.manual_seed(7)
        expected = torch.rand(1)
        torch.manual_seed(7)
        first = embedders.create(SMALL, weights="random", seed=1)
        assert torch.rand(1) == expected
        again = embedders.create(SMALL, weights="random", seed=1)
        other = embedders.create(SMALL, weights="random", seed=2)
        assert first.id == again.id != other.id
        assert first.id.startswith(f"{SMALL}-")
        np.testing.assert_array_equal(first.embed(waveforms), again.embed(waveforms))

    def test_a_local_file_gives_what_it_was_saved_from(self, waveforms, tmp_path):
        original = timm_backbone.TimmBackbone(SMALL, weights="random", seed=3)
        path = saved(tmp_path / "mine.safetensors", original._model)
        loaded = embedders.create(SMALL, weights=path)
        assert loaded.id == original.id
        np.testing.assert_array_equal(loaded.embed(waveforms), original.embed(waveforms))

    def test_the_classifier_that_a_file_has_as_well_is_left_out(self, tmp_path):
        whole = timm.create_model(SMALL, pretrained=False)
        assert embedders.create(SMALL, weights=saved(tmp_path / "whole.safetensors", whole)).dim == 96

    def test_a_file_of_another_model_is_refused_with_its_keys(self, tmp_path):
        path = saved(tmp_path / "other.safetensors", timm.create_model("test_efficientnet", num_classes=0))
        with pytest.raises(
            UserError, match=rf"^other\.safetensors does not hold the weights of {SMALL}: .* is missing"
        ):
            embedders.create(SMALL, weights=path)

    def test_a_file_of_other_shapes_is_refused_with_them(self, tmp_path):
        model = timm.create_model(SMALL, num_classes=0)
        state = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
        state["conv1.0.weight"] = state["conv1.0.weight"][:, :1].contiguous()
        state["more"] = torch.zeros(1)
        safetensors_torch.save_file(state, tmp_path / "odd.safetensors")
        with pytest.raises(
            UserError, match=r"more is unknown to it, conv1\.0\.weight has shape \(.*, 1, 3, 3\) instead of"
        ):
            embedders.create(SMALL, weights=tmp_path / "odd.safetensors")

    def test_files_that_are_none_or_no_safetensors_are_refused(self, tmp_path):
        with pytest.raises(UserError, match="does not exist; a local safetensors file"):
            embedders.create(SMALL, weights=tmp_path / "gone.safetensors")
        (tmp_path / "pickle.pt").write_bytes(b"\x80\x04 anything")
        with pytest.raises(UserError, match=r"pickle\.pt is not a readable safetensors file"):
            embedders.create(SMALL, weights=tmp_path / "pickle.pt")

    def test_no_network_is_a_sentence_that_names_the_ways_out(self, monkeypatch):
        import huggingface_hub

        def offline(*_, **__):
            raise ConnectionError("no route to host")

        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
        monkeypatch.setattr(huggingface_hub, "model_info", offline)
        with pytest.raises(
            UserError, match=r'could not be had .* \(ConnectionError\); .* or "random" is accepted'
        ):
            embedders.create(SMALL)


class TestNames:
    def test_an_unknown_name_says_what_is_accepted_and_what_may_be_meant(self):
        with pytest.raises(
            UserError,
            match=r"no embedder efficientnet_b33; logmel-stats, .* Did you mean .*efficientnet_b3",
        ):
            embedders.create("efficientnet_b33", weights="random")
        with pytest.raises(UserError, match=r"Did you mean logmel-stats"):
            embedders.create("logmel_stats")

    def test_a_name_like_nothing_gets_no_suggestion(self):
        with pytest.raises(UserError, match=r"models of timm are accepted\.$"):
            embedders.create("§§§")

    def test_weights_may_be_named_behind_a_dot_and_must_exist(self):
        assert embedders.create("test_resnet.r160_in1k", weights="random").dim == 96
        with pytest.raises(UserError, match=r"no embedder test_resnet\.nonsense"):
            embedders.create("test_resnet.nonsense", weights="random")

    def test_without_timm_the_statistics_still_serve(self, monkeypatch):
        def missing():
            raise ImportError("no timm")

        monkeypatch.setattr(timm_backbone, "names", missing)
        with pytest.raises(UserError, match=r"needs torch and timm, .* or use logmel-stats"):
            embedders.create("efficientnet_b3")
        assert embedders.create("logmel-stats").dim
