"""Bundles whose experts stand behind several embedders, and bundles of version 1, which have one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qmoe_core import bundles, serve
from qmoe_core.audio import decode, synth
from qmoe_core.bundles import Bundle, export
from qmoe_core.config import Config
from qmoe_core.embedders import learned, models
from qmoe_core.errors import ConfigError
from qmoe_core.measure import steps
from qmoe_core.runtime.store import Store
from qmoe_core.training.behind import resolve
from tests import tiny
from tests.tiny import FROZEN

EXPERTS = ("q1", "q8", "ds-cnn:q8.q1", "ds-cnn:q8.q8")


@pytest.fixture(scope="module")
def two(tiny_dataset: Path, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("two")
    tiny.train(
        tiny_dataset,
        embedder="logmel-stats",
        further=("ds-cnn:q8",),
        experts=("q1", "q8"),
        mixtures=[("q1", "ds-cnn:q8.q8")],
        config=tiny_config,
        workers=1,
        bundle=home / "two",
        store=Store(home / "store"),
    )
    return home / "two"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many windows the network was shown at a time."""
    counts: list[int] = []
    embed = learned.LearnedEmbedder.embed

    def counting(self: learned.LearnedEmbedder, waveforms: np.ndarray) -> np.ndarray:
        counts.append(len(waveforms))
        return embed(self, waveforms)

    monkeypatch.setattr(learned.LearnedEmbedder, "embed", counting)
    return counts


def clip(seconds: float) -> decode.Clip:
    rain = np.tile(synth.render("rain"), int(seconds / 5) + 1)
    return decode.from_samples(rain[: round(seconds * decode.SAMPLE_RATE)], decode.SAMPLE_RATE, name="rain")


def test_the_steps_of_both_ways_are_timed(two: Path) -> None:
    bundle = bundles.load(two)
    way = steps.way(bundle, bundle.settings())
    assert [(step.kind, step.name) for step in way.steps[:6]] == [
        ("front end", "logmel-stats"), ("embedder", "logmel-stats"),
        ("front end", "ds-cnn:q8"), ("embedder", "ds-cnn:q8"),
        ("expert", "q1"), ("expert", "ds-cnn:q8.q8"),
    ]  # fmt: skip
    assert [step.bytes > 0 for step in way.of("embedder")] == [False, True]


def test_an_expert_is_an_embedder_and_a_head() -> None:
    named = {
        path.name: (path.embedder, path.head)
        for path in resolve(["ds-cnn"], ["q4+q4", "fp32+q4", "q1+popcount"])
    }
    assert named["q4+q4"] == ("ds-cnn:q4", "q4")
    assert named["fp32+q4"] == ("ds-cnn", "q4")
    assert named["q1+popcount"] == ("ds-cnn:q1", "popcount")
    assert [path.name for path in resolve(["logmel-stats", "ds-cnn:q8"], ["q1", "q8"])] == [
        "q1", "ds-cnn:q8.q1", "q8", "ds-cnn:q8.q8",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="logmel-stats has no format to choose"):
        resolve(["logmel-stats"], ["fp32+q4"])
    with pytest.raises(ConfigError, match="no embedder mn04 here; there are logmel-stats"):
        resolve(["logmel-stats"], ["mn04.q4"])


def test_experts_name_their_embedders_and_the_network_comes_along(two: Path, monkeypatch) -> None:
    loaded = bundles.load(two)
    assert set(loaded.experts) == set(EXPERTS)
    assert [one.name for one in loaded.embedders] == ["logmel-stats", "ds-cnn:q8"]
    assert {name: loaded.behind(name) for name in EXPERTS} == dict(zip(EXPERTS, (0, 0, 1, 1), strict=True))
    assert loaded.dataset is not None
    assert [len(z[0]) for z in loaded.dataset.embedded] == [744, 576]
    monkeypatch.setattr(models, "network", None)  # weights that get better leave the bundle as it is
    serve._embedder.cache_clear()
    assert serve.classify(clip(5), loaded).whole.label in loaded.classes
    loaded.verify()


def test_a_window_is_shown_to_the_embedders_whose_experts_are_asked(two: Path, asked: list[int]) -> None:
    loaded = bundles.load(two)
    cascade = loaded.settings(experts=("ds-cnn:q8.q8", "q1"), curiosity="cascade", ask_above=1.0)
    assert cascade.experts == ("q1", "ds-cnn:q8.q8")  # in the order of what whole paths cost
    whole = serve.classify(clip(11), loaded, cascade).whole
    assert [one.name for one in whole.experts if one.needed] == ["q1"]
    assert asked == []

    both = loaded.settings(experts=cascade.experts, curiosity="cascade", ask_above=0.0)
    said = serve.classify(clip(11), loaded, both)
    assert asked == [len(said.windows)]
    everything = serve.observe(clip(11), loaded, run_all=True)
    assert serve.decide(everything, loaded, both).whole.label == said.whole.label


def test_a_long_recording_is_shown_to_all(
    two: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that its windows need not be kept."""
    loaded = bundles.load(two)
    monkeypatch.setattr(serve, "LAZY_WINDOWS", 16)
    none = loaded.settings(experts=("q1",), curiosity="none")
    windows = len(serve.classify(clip(100), loaded, none).windows)
    assert windows > 32
    assert sum(asked) == windows // 16 * 16


def test_it_is_exported_with_what_its_experts_need(two: Path, tmp_path: Path) -> None:
    loaded = bundles.load(two)
    only = bundles.load(export.export_packed(loaded, tmp_path / "one.qmoe", experts=("q1",)))
    assert [one.name for one in only.embedders] == ["logmel-stats"]
    carried = bundles.load(export.export_packed(loaded, tmp_path / "two.qmoe", experts=("ds-cnn:q8.q8",)))
    found, wanted = (
        serve.observe(clip(5), one, run_all=True).outputs.of(("ds-cnn:q8.q8",)).logits
        for one in (carried, loaded)
    )
    np.testing.assert_array_equal(found, wanted)


def test_both_are_in_one_graph(two: Path, tmp_path: Path) -> None:
    import onnxruntime

    loaded = bundles.load(two)
    session = onnxruntime.InferenceSession(export.export_onnx(loaded, tmp_path / "x.onnx"))
    waveform = clip(5).samples[None]
    (found,) = session.run(["expert_probabilities"], {"waveform": waveform})
    settings = loaded.settings()
    decision = serve.decide(serve.observe(clip(5), loaded), loaded, settings).whole
    wanted = [
        next(one for one in decision.experts if one.name == name).probabilities
        for name in loaded.experts
        if name in settings.experts
    ]
    np.testing.assert_allclose(found[0], wanted, atol=0.06)


def test_a_bundle_of_version_1_loads_and_serves() -> None:
    old: Bundle = bundles.load(FROZEN / bundles.DEFAULT_NAME)
    assert [one.name for one in old.embedders] == ["logmel-stats"]
    assert old.dataset is not None
    assert serve.classify(clip(5), old).whole.label == "rain"
