from __future__ import annotations

import csv
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmoe_core import embedders
from qmoe_core.audio import decode, mel, synth
from qmoe_core.embedders import logmel_stats
from qmoe_core.embedders.logmel_stats import LogMelStats, Parameters
from qmoe_core.errors import UserError

PARAMETERS = Parameters()
BANDS, COEFFICIENTS = PARAMETERS.n_mels, PARAMETERS.n_mfcc
ROWS = BANDS + COEFFICIENTS


@pytest.fixture(scope="module")
def embedder() -> LogMelStats:
    return LogMelStats()


def test_it_is_made_by_name_and_fits_the_bundle(embedder):
    made = embedders.create("logmel-stats")
    assert made.id == embedder.id
    assert made.dim <= 810
    with pytest.raises(UserError, match="has no weights"):
        embedders.create("logmel-stats", weights="random")


def test_a_batch_is_its_clips_one_by_one(embedder):
    waveforms = np.stack([synth.render(name) for name in ("rain", "dog-bark", "clock-tick")])
    together = embedder.embed(waveforms)
    assert together.dtype == np.float32
    assert together.shape == (3, embedder.dim)
    for row, waveform in zip(together, waveforms, strict=True):
        np.testing.assert_array_equal(row, embedder.embed(waveform[None])[0])
    assert embedder.embed(waveforms[:0]).shape == (0, embedder.dim)


def test_the_statistics_are_those_of_numpy_on_librosas_features(embedder):
    librosa = pytest.importorskip("librosa")
    waveform = synth.render("rooster")
    power = librosa.feature.melspectrogram(
        y=waveform,
        sr=22050,
        n_fft=2048,
        hop_length=512,
        n_mels=BANDS,
        htk=True,
        norm=None,
        pad_mode="reflect",
    )
    level = librosa.power_to_db(power, ref=np.max, amin=1e-10, top_db=80) + 40
    rows = np.concatenate([level, librosa.feature.mfcc(S=level, n_mfcc=COEFFICIENTS)])
    change = np.diff(rows, axis=1)
    expected = [
        rows.mean(axis=1),
        rows.std(axis=1),
        np.percentile(rows, 10, axis=1),
        np.percentile(rows, 90, axis=1),
        rows.max(axis=1),
        np.abs(change).mean(axis=1),
        change.std(axis=1),
    ]
    actual = embedder.embed(waveform[None])[0, : 7 * ROWS].reshape(7, ROWS)
    for values, reference in zip(actual, expected, strict=True):
        np.testing.assert_allclose(values, reference, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 0.5, -1.0])
def test_silence_and_constants_give_finite_numbers(embedder, value):
    assert np.isfinite(embedder.embed(np.full((1, decode.WINDOW_SAMPLES), value, dtype=np.float32))).all()


def test_one_loud_sample_gives_finite_numbers(embedder):
    waveform = np.zeros((1, decode.WINDOW_SAMPLES), dtype=np.float32)
    waveform[0, 60_000] = 1
    assert np.isfinite(embedder.embed(waveform)).all()


def test_a_recording_gives_the_same_numbers_at_any_level(embedder):
    waveform = 0.5 * synth.render("sea-waves")
    full, *others = embedder.embed(np.stack([waveform * 10 ** (db / 20) for db in (0, -20, -40, -60, 3)]))
    for other in others:
        np.testing.assert_allclose(other, full, atol=2e-2)


def test_in_version_1_loudness_moves_levels_and_nothing_else():
    waveform = 0.5 * synth.render("sea-waves")
    soft, loud = LogMelStats(version=1).embed(np.stack([waveform, 2 * waveform]))
    gain = 20 * np.log10(2)
    moved = loud - soft
    statistics = moved[: 7 * ROWS].reshape(7, ROWS)
    for index in (0, 2, 3, 4):  # mean, percentiles, maximum
        np.testing.assert_allclose(statistics[index, :BANDS], gain, atol=1e-2)
    for index in (1, 5, 6):  # deviation and change
        np.testing.assert_allclose(statistics[index], 0, atol=1e-2)
    np.testing.assert_allclose(moved[7 * ROWS :], 0, atol=1e-2)


def test_zeros_around_a_sound_count_as_eighty_decibels_down(embedder):
    waveform = synth.render("sneeze")
    waveform[60_000:] = 0
    level = mel.log_mel(waveform, BANDS)
    means = embedder.embed(waveform[None])[0, :BANDS]
    np.testing.assert_allclose(
        means, np.maximum(level - level.max() + 40, -40).mean(axis=1), rtol=1e-4, atol=1e-3
    )


def test_equal_parameters_are_equal_ids_and_others_are_not(embedder):
    assert LogMelStats(Parameters()).id == embedder.id
    ids = {embedder.id, LogMelStats(Parameters(range_db=60.0)).id, LogMelStats(Parameters(n_mfcc=20)).id}
    assert len(ids | {LogMelStats(version=1).id}) == 4
    assert embedder.id.startswith("logmel-stats-")


@settings(deadline=None, max_examples=20)
@given(
    n_mels=st.sampled_from([16, 32, 64]),
    n_mfcc=st.integers(1, 16),
    percentiles=st.lists(st.floats(0, 100), max_size=3),
    groups=st.sampled_from([1, 4, 16]),
    bands=st.integers(1, 12),
)
def test_any_parameters_give_as_many_finite_numbers_as_announced(n_mels, n_mfcc, percentiles, groups, bands):
    embedder = LogMelStats(Parameters(n_mels, n_mfcc, 80.0, tuple(percentiles), groups, bands))
    embedding = embedder.embed(synth.render("rain")[None, :30_000])
    assert embedding.shape == (1, embedder.dim)
    assert np.isfinite(embedding).all()


def test_groups_must_be_equal():
    with pytest.raises(ValueError, match="64 mel bands do not fall into 7 equal groups"):
        LogMelStats(Parameters(modulation_groups=7))


def test_the_dct_is_orthonormal():
    matrix = logmel_stats.dct_matrix(32, 32)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(32), atol=1e-6)


@given(
    values=st.lists(st.integers(-100, 100), min_size=1, max_size=40),
    q=st.floats(0, 100),
)
def test_percentiles_are_those_of_numpy(values, q):
    row = np.sort(np.float32(values))[None]
    np.testing.assert_allclose(logmel_stats._percentile(row, q), np.percentile(row, q, axis=1), atol=1e-3)


@pytest.mark.parametrize(("hz", "band"), [(0.4, 1), (1.2, 3), (4.1, 5), (14.0, 7)])
def test_a_rhythm_is_found_in_its_modulation_band(hz, band):
    frames = np.arange(216) * mel.HOP / decode.SAMPLE_RATE
    level = np.tile(10 * np.sin(2 * np.pi * hz * frames), (8, 1)).astype(np.float32)
    spectrum = logmel_stats.modulation_spectrum(level, groups=2, bands=8)
    assert spectrum.shape == (2, 8)
    assert (spectrum.argmax(axis=1) == band).all()


def test_serving_needs_no_laboratory():
    """No torch, timm, librosa, sklearn or pandas: they cost seconds and hundreds of megabytes.

    Numba looks at scipy's version, which costs nothing; its parts stay where they are.
    """
    heavy = {"torch", "timm", "librosa", "scipy.fft", "scipy.signal", "sklearn", "pandas", "streamlit"}
    code = (
        "import sys; from qmoe_core.audio import decode, synth; from qmoe_core import embedders;"
        "e = embedders.create('logmel-stats'); e.embed(synth.render('rain')[None]);"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.recordings
def test_a_plain_classifier_tells_esc10_apart_on_official_folds(shared_data, embedder):
    """Weighted F1 0.906 with a support vector machine, which has no seed and takes no time."""
    svm = pytest.importorskip("sklearn.svm")
    metrics = pytest.importorskip("sklearn.metrics")
    with (shared_data / "esc10" / "meta" / "esc50.csv").open() as file:
        rows = list(csv.DictReader(file))
    clips = [decode.load(shared_data / "esc10" / "audio" / row["filename"]) for row in rows]
    embeddings = embedder.embed(np.stack([decode.windows(clip)[0].samples for clip in clips]))
    labels = np.array([row["category"] for row in rows])
    folds = np.array([int(row["fold"]) for row in rows])
    scores = []
    for fold in range(1, 6):
        train = folds != fold
        mean, std = embeddings[train].mean(axis=0), embeddings[train].std(axis=0)
        scaled = np.clip((embeddings - mean) / np.maximum(std, 1e-6), -6, 6)
        model = svm.SVC(C=3, gamma=1 / 1500).fit(scaled[train], labels[train])
        scores.append(metrics.f1_score(labels[~train], model.predict(scaled[~train]), average="weighted"))
    assert np.mean(scores) > 0.89
