from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from qmoe_core import bundles, serve
from qmoe_core.audio import decode, synth
from qmoe_core.audio.decode import SAMPLE_RATE, WINDOW_SAMPLES
from qmoe_core.audio.fitness import NothingToJudge
from qmoe_core.bundles import Bundle
from qmoe_core.errors import ConfigError
from qmoe_core.routing import mixing
from qmoe_core.routing.uncertainty import softmax


@pytest.fixture(scope="module")
def bundle(tiny_run) -> Bundle:
    return bundles.load(tiny_run.bundle)


def clip(seconds: float, sound: str = "rain", name: str = "rain.wav") -> decode.Clip:
    samples = np.resize(synth.render(sound), round(seconds * SAMPLE_RATE))
    return decode.from_samples(samples, SAMPLE_RATE, name=name)


def test_a_window_is_judged_by_every_expert_that_the_mixture_needs(bundle):
    result = serve.classify(clip(5), bundle)

    assert (result.file, result.bundle, result.duration_s, result.sample_rate_hz) == (
        "rain.wav",
        "tiny",
        5,
        22050,
    )
    assert len(result.windows) == 1
    assert result.whole is result.windows[0]
    assert [expert.name for expert in result.whole.experts] == ["q4", "q8", "bitnet"]
    assert result.whole.needed == ("q4", "q8", "bitnet")
    assert result.whole.label in bundle.classes
    for expert in result.whole.experts:
        assert expert.probabilities.sum() == pytest.approx(1.0)
        assert expert.label == bundle.classes[expert.probabilities.argmax()]


def test_it_is_the_same_path_as_the_datasets(bundle, tiny_dataset, tiny_subject):
    name = sorted(path.name for path in (tiny_dataset / "audio").iterdir())[7]
    observation = serve.observe(decode.load(tiny_dataset / "audio" / name), bundle)
    position = [record.name for record in bundle.dataset.clips].index(name)

    wanted = bundle.outputs(tiny_subject.embeddings[position][None].astype(np.float32)).all()

    np.testing.assert_allclose(observation.outputs.router, wanted.router, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(observation.outputs.all().logits, wanted.logits, rtol=5e-2, atol=5e-2)


def test_a_long_recording_has_a_result_a_window_and_one_for_the_whole(bundle):
    result = serve.classify(clip(11.3), bundle)

    assert [(w.start_s, w.end_s) for w in result.windows] == [
        (0.0, 5.0),
        (2.5, 7.5),
        (5.0, 10.0),
        (pytest.approx(6.3, abs=1e-3), pytest.approx(11.3, abs=1e-3)),
    ]
    assert (result.whole.start_s, result.whole.end_s) == (0.0, pytest.approx(11.3, abs=1e-3))


def test_the_whole_is_the_mean_of_what_everybody_said_of_the_windows(bundle):
    observation = serve.observe(clip(11.3), bundle)
    settings = bundle.settings(experts=("q4", "bitnet"), curiosity="none", top_k=2)

    whole = serve.decide(observation, bundle, settings).whole

    q = softmax(observation.outputs.of(("q4", "bitnet")).logits).mean(axis=0)
    np.testing.assert_allclose(whole.mean, q.mean(axis=0), rtol=1e-9)
    named = {expert.name: expert for expert in whole.experts}
    np.testing.assert_allclose(named["q4"].probabilities, q[0], rtol=1e-9)


def test_a_window_of_a_long_recording_is_judged_as_if_it_were_alone(bundle):
    long = clip(12.5)
    settings = bundle.settings(alpha=10.0, top_k=2)

    windows = serve.classify(long, bundle, settings).windows
    cut = decode.from_samples(long.samples[SAMPLE_RATE * 5 :][:WINDOW_SAMPLES], SAMPLE_RATE)
    alone = serve.classify(cut, bundle, settings).whole

    np.testing.assert_allclose(windows[2].probabilities, alone.probabilities, atol=1e-4)
    assert windows[2].label == alone.label
    for mine, theirs in zip(windows[2].experts, alone.experts, strict=True):
        assert mine.routing_probability == pytest.approx(theirs.routing_probability, abs=1e-4)


def test_many_windows_are_embedded_in_batches_without_a_trace(bundle, monkeypatch):
    expected = serve.classify(clip(26), bundle).windows
    monkeypatch.setattr(serve, "EMBED_BATCH", 4)

    windows = serve.classify(clip(26), bundle).windows

    assert len(windows) == 10  # 0, 2.5, … 20 and the end
    for mine, theirs in zip(windows, expected, strict=True):
        np.testing.assert_allclose(mine.probabilities, theirs.probabilities, atol=1e-5)


def test_the_same_sound_gets_the_same_answer_twice(bundle):
    first, second = (serve.classify(clip(5), bundle).to_json() for _ in range(2))

    assert first == second


def test_deciding_again_needs_no_hearing_again(bundle):
    observation = serve.observe(clip(5), bundle, mc_samples=20)

    for changes in (
        {"alpha": 100.0},
        {"curiosity": "router-mc"},
        {"curiosity": "distilled"},
        {"top_k": 9},
        {"experts": ("q1",)},
    ):
        settings = bundle.settings(mc_samples=20, **changes)
        direct = serve.classify(clip(5), bundle, settings)
        assert serve.decide(observation, bundle, settings).to_json() == direct.to_json()


def test_normalised_curiosity_is_in_units_of_the_bundles_own_mean(bundle):
    settings = bundle.settings(normalise=True, alpha=1.0)
    expected = mixing.mean_interest(bundle.dataset.outputs, settings)

    whole = serve.classify(clip(5), bundle, settings).whole

    for expert in whole.experts:
        if expert.in_mixture:
            assert expert.bonus == pytest.approx(np.exp(expert.disagreement_kl / expected))


def test_an_expert_that_did_not_speak_is_named(bundle):
    observation = serve.observe(clip(5), bundle)
    only_q8 = replace(observation, outputs=observation.outputs.of(("q8",)))

    with pytest.raises(ConfigError, match="no expert q4 here; there are q8"):
        serve.decide(only_q8, bundle, bundle.settings(experts=("q4",)))


@pytest.mark.parametrize("samples", [np.zeros(WINDOW_SAMPLES), np.array([0.5])], ids=["silence", "click"])
def test_silence_and_a_single_sample_get_no_label(bundle, samples):
    with pytest.raises(NothingToJudge, match=r"^x\.wav: nothing to judge, it is silent"):
        serve.classify(decode.from_samples(samples, SAMPLE_RATE, name="x.wav"), bundle)


def test_the_document_holds_only_what_json_can_say(bundle):
    document = serve.classify(clip(11.3), bundle).to_json()

    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert len(document["windows"]) == 4
    assert serve.classify(clip(5), bundle).to_json()["windows"] == []
