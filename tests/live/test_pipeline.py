"""The pipeline, step by step: real recordings in order, gaps, sleep, slow machines and changing settings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from qmoe_core import bundles, serve
from qmoe_core.audio import decode, mel, synth
from qmoe_core.audio.fitness import NothingToJudge
from qmoe_core.bundles import Bundle
from qmoe_core.embedders.logmel_stats import LogMelStats
from qmoe_core.errors import StoreError
from qmoe_core.live.detections import GAP, SILENCE, Rules
from qmoe_core.live.log import Log, LoggedDetection
from qmoe_core.live.pipeline import HOP_S, SHOWN_S, Pipeline
from qmoe_core.live.sources import HeldSource
from tests.live.recordings import Sequence, in_order
from tests.tiny import FROZEN

DAY = 1_700_000_000.0
PACKET_S = 0.25


def listen(
    bundle: Bundle, samples: np.ndarray, rate: int = decode.SAMPLE_RATE, **options: object
) -> tuple[Pipeline, list[LoggedDetection]]:
    """Play samples to a pipeline in packets, as a microphone would."""
    source = HeldSource("here", rate, started=DAY)
    pipeline = Pipeline(source, bundle, **options)  # type: ignore[arg-type]
    size = round(PACKET_S * rate)
    found = []
    for start in range(0, len(samples), size):
        source.stream.ring.write(samples[start : start + size])
        found += pipeline.step()
    return pipeline, found + pipeline.finish()


@pytest.mark.recordings
@pytest.mark.parametrize(("seed", "pause_s"), [(0, 0.0), (1, 0.0), (2, 2.0)])
def test_ten_recordings_are_told_in_order(
    bundle: Bundle, sequence: Callable[..., Sequence], seed: int, pause_s: float
) -> None:
    labels, samples = sequence(seed, pause_s)
    _, found = listen(bundle, samples)
    accepted = [entry for entry in found if entry.accepted]
    assert in_order([entry.label for entry in accepted], labels) >= 9
    # Each lies where its recording was played.
    for entry in accepted:
        if entry.label in labels:
            start_s = pause_s + labels.index(entry.label) * (5.0 + pause_s)
            if start_s < (entry.start_s + entry.end_s) / 2 < start_s + 5.0:
                labels.remove(entry.label)
                labels.insert(0, "")  # keeps the places of those that follow
    assert labels.count("") >= 9


@pytest.mark.recordings
@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_another_rate_is_resampled_on_the_way(
    bundle: Bundle, sequence: Callable[..., Sequence], rate: int
) -> None:
    labels, samples = sequence(0)
    _, found = listen(bundle, decode.resample(samples, decode.SAMPLE_RATE, rate), rate)
    assert in_order([entry.label for entry in found if entry.accepted], labels) >= 9


def test_an_embedder_of_a_higher_rate_gets_what_only_the_source_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tone of 14 kHz is not in the history's 22,050 Hz."""
    bundle = bundles.load(FROZEN / bundles.DEFAULT_NAME)
    asked: list[np.ndarray] = []

    class Finer(LogMelStats):
        sample_rate = 32_000

        def embed(self, waveforms: np.ndarray) -> np.ndarray:
            asked.append(waveforms)
            return super().embed(waveforms)

    monkeypatch.setattr(serve, "embedder_of", lambda bundle: Finer())
    time = np.arange(6 * 48_000) / 48_000
    listen(bundle, (0.1 * np.sin(2 * np.pi * 14_000 * time)).astype(np.float32), 48_000)
    assert asked
    for windows in asked:
        assert windows.shape[1] == 160_000
        spectrum = np.abs(np.fft.rfft(windows, axis=1))
        assert spectrum.argmax(axis=1) / 5 == pytest.approx(14_000, abs=2)


def test_a_window_is_judged_as_a_file_would_be(bundle: Bundle) -> None:
    samples = synth.render("rain")
    pipeline, _ = listen(bundle, samples)
    (judged,) = pipeline.view().windows
    whole = serve.classify(decode.from_samples(samples, decode.SAMPLE_RATE), bundle).whole
    assert judged.decision.label == whole.label
    np.testing.assert_allclose(judged.decision.probabilities, whole.probabilities, atol=0.02)
    assert (judged.start_s, judged.end_s) == (pytest.approx(0.0, abs=0.25), pytest.approx(5.0, abs=0.25))
    assert judged.day == DAY


def test_four_windows_a_second_and_a_half_minute_to_draw(bundle: Bundle) -> None:
    samples = np.resize(synth.render("rain"), 40 * decode.SAMPLE_RATE)
    pipeline, _ = listen(bundle, samples)
    view = pipeline.view()
    assert view.judged == pytest.approx((40 - 5) / HOP_S + 1, abs=2)
    assert (len(view.windows), view.stale) == (SHOWN_S / HOP_S, 0)
    ends = [w.end_s for w in view.windows]
    assert np.diff(ends) == pytest.approx(HOP_S, abs=0.03)
    assert view.levels.shape == (64, round(SHOWN_S * decode.SAMPLE_RATE / mel.HOP))
    assert len(view.peaks) == view.levels.shape[1]
    assert 0.0 <= view.heard_s - view.shown_s < 0.1


def test_the_spectrogram_is_that_of_the_file(bundle: Bundle) -> None:
    samples = synth.render("dog-bark")
    pipeline, _ = listen(bundle, samples)
    view = pipeline.view()
    whole = mel.log_mel(samples, 64)[:, : view.levels.shape[1]]
    np.testing.assert_allclose(view.levels, np.rint(whole), atol=1.01)
    blocks = np.abs(samples[: len(view.peaks) * mel.HOP]).reshape(-1, mel.HOP).max(axis=1)
    np.testing.assert_array_equal(view.peaks, blocks)


def test_a_slow_machine_judges_the_newest_and_counts_the_rest(bundle: Bundle) -> None:
    source = HeldSource("here", decode.SAMPLE_RATE, started=DAY)
    pipeline = Pipeline(source, bundle)
    samples = np.resize(synth.render("rain"), 9 * decode.SAMPLE_RATE)
    source.stream.ring.write(samples[: 6 * decode.SAMPLE_RATE])
    pipeline.step()
    source.stream.ring.write(samples[6 * decode.SAMPLE_RATE :])
    pipeline.step()
    view = pipeline.view()
    assert [round(w.end_s, 2) for w in view.windows] == [6.0, 9.0]
    assert [w.stale for w in view.windows] == [4, 11]
    assert view.stale == 15


def test_a_machine_slower_than_the_ring_says_what_was_not_judged(bundle: Bundle) -> None:
    source = HeldSource("here", decode.SAMPLE_RATE, started=DAY)
    pipeline = Pipeline(source, bundle)
    rain = np.resize(synth.render("rain"), 10 * decode.SAMPLE_RATE)
    for _ in range(5):
        source.stream.ring.write(rain)
    pipeline.step()
    view = pipeline.view()
    assert view.heard_s == pytest.approx(50.0, abs=0.01)
    assert [round(w.end_s, 2) for w in view.windows] == [50.0]
    assert "20.0 s were not judged" in view.notes[-1].text


def test_a_gap_rejects_what_it_touches_and_moves_nothing(bundle: Bundle) -> None:
    source = HeldSource("here", decode.SAMPLE_RATE, started=DAY)
    pipeline = Pipeline(source, bundle)
    rain = np.resize(synth.render("rain"), 30 * decode.SAMPLE_RATE)
    size = round(PACKET_S * decode.SAMPLE_RATE)
    found = []
    for i in range(80):
        if i != 40:  # a quarter of a second that never comes
            source.stream.ring.write(rain[i * size : (i + 1) * size], i * size)
        found += pipeline.step()
    found += pipeline.finish()
    assert (pipeline.view().gaps, pipeline.view().lost_s) == (1, pytest.approx(0.25, abs=1e-3))
    assert [entry.reason for entry in found] == ["", GAP, ""]
    assert found[1].start_s == pytest.approx(7.6, abs=0.3)
    assert found[1].end_s == pytest.approx(12.6, abs=0.3)
    assert found[-1].end_s == pytest.approx(20.0, abs=0.3)
    for entry in found:
        assert entry.start == pytest.approx(DAY + entry.start_s)


def test_an_hour_asleep(bundle: Bundle) -> None:
    source = HeldSource("here", decode.SAMPLE_RATE, started=DAY)
    pipeline = Pipeline(source, bundle)
    rain = np.resize(synth.render("rain"), 10 * decode.SAMPLE_RATE)
    source.stream.ring.write(rain)
    found = pipeline.step()
    later = len(rain) + 3600 * decode.SAMPLE_RATE
    size = round(PACKET_S * decode.SAMPLE_RATE)
    for start in range(0, len(rain), size):
        source.stream.ring.write(rain[start : start + size], later + start)
        found += pipeline.step()
    found += pipeline.finish()
    assert found[0].end_s == pytest.approx(10.0, abs=0.3)
    assert found[-1].end == pytest.approx(DAY + 10 + 3600 + 10, abs=0.3)
    assert all(e.end_s < 10.1 or e.start_s > 3600 for e in found)
    assert {e.reason for e in found} == {"", GAP}


def test_a_narrow_band_is_refused_as_a_file_would_be(bundle: Bundle) -> None:
    hiss = 0.1 * np.random.default_rng(0).standard_normal(6 * 8_000).astype(np.float32)
    with pytest.raises(NothingToJudge, match="there is nothing above 4 kHz and the classifier learned"):
        serve.classify(decode.from_samples(hiss, 8_000), bundle)
    source = HeldSource("telephone", 8_000)
    assert "there is nothing above 4 kHz and the classifier learned" in source.state.sentence
    pipeline = Pipeline(source, bundle)
    source.stream.ring.write(hiss)
    pipeline.step()
    (entry,) = pipeline.finish()
    assert (entry.accepted, entry.reason) == (False, "narrow band")


def test_digital_silence_is_no_sound(bundle: Bundle) -> None:
    _, found = listen(bundle, np.zeros(12 * decode.SAMPLE_RATE, np.float32))
    assert [(entry.accepted, entry.reason) for entry in found] == [(False, SILENCE)]


def test_settings_and_rules_change_while_it_runs(bundle: Bundle) -> None:
    source = HeldSource("here", decode.SAMPLE_RATE, started=DAY)
    pipeline = Pipeline(source, bundle)
    rain = np.resize(synth.render("rain"), 6 * decode.SAMPLE_RATE)
    source.stream.ring.write(rain)
    pipeline.step()
    pipeline.settings = bundle.settings(experts=("fp32", "popcount"), alpha=10.0, top_k=2, normalise=True)
    pipeline.rules = Rules(threshold=1.0, halves=False)
    source.stream.ring.write(rain)
    pipeline.step()
    before, after = pipeline.view().windows
    assert before.decision.alpha == bundle.settings().alpha
    assert (after.decision.alpha, after.decision.top_k, after.halves) == (10.0, 2, ())
    assert {e.name for e in after.decision.experts if e.in_mixture} == {"fp32", "popcount"}


def test_a_new_stream_begins_anew_and_the_log_goes_on(bundle: Bundle) -> None:
    pipeline, found = listen(bundle, np.resize(synth.render("rain"), 8 * decode.SAMPLE_RATE))
    assert len(found) == 1
    pipeline.source = HeldSource("elsewhere", 48_000, started=DAY + 100)
    pipeline.source.stream.ring.write(
        np.resize(decode.resample(synth.render("rain"), decode.SAMPLE_RATE, 48_000), 8 * 48_000)
    )
    pipeline.step()
    view = pipeline.view()
    assert (view.stream, view.rate, len(view.windows), view.judged) == ("elsewhere", 48_000, 1, 14)
    pipeline.finish()
    assert [e.source for e in pipeline.log.entries()] == ["here", "elsewhere"]
    assert pipeline.log.entries()[1].start > DAY + 100


def test_a_pause_closes_what_is_open_and_listening_goes_on(bundle: Bundle) -> None:
    source = HeldSource("here", 44_100, started=DAY)
    pipeline = Pipeline(source, bundle)
    rain = np.resize(decode.resample(synth.render("rain"), decode.SAMPLE_RATE, 44_100), 8 * 44_100)
    source.stream.ring.write(rain)
    pipeline.step()
    assert len(pipeline.pause()) == 1
    source.stream.ring.write(rain)
    pipeline.step()
    assert pipeline.view().heard_s == pytest.approx(16.0, abs=0.1)


def test_a_disk_that_is_full_is_said_and_the_log_goes_on(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log()

    def full(*_: object, **__: object) -> None:
        raise StoreError("/store: the log cannot be kept there (No space left on device)")

    monkeypatch.setattr(log, "add", full)
    pipeline, found = listen(bundle, np.resize(synth.render("rain"), 8 * decode.SAMPLE_RATE), log=log)
    assert found == []
    assert "No space left" in pipeline.view().notes[-1].text


def test_nothing_heard_yet(bundle: Bundle) -> None:
    view = Pipeline(HeldSource("here", decode.SAMPLE_RATE), bundle).view()
    assert (view.windows, view.current, view.heard_s, view.levels.shape) == ((), None, 0.0, (64, 0))
