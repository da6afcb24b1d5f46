"""Changed copies of clips: the same for a clip wherever it is, trained on, and never scored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from qmoe_core import bundles, datasets, embedders
from qmoe_core.audio import perturb
from qmoe_core.bundles.export import card
from qmoe_core.errors import ConfigError, DatasetError
from qmoe_core.runtime import jobs
from qmoe_core.runtime.executor import Context
from qmoe_core.runtime.requests import Train
from qmoe_core.runtime.store import Store
from qmoe_core.training import crossval, perturbed
from qmoe_core.training.fit import Scaler
from tests import tiny
from tests.golden.identity import settings, subject


@pytest.fixture
def changing_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is quick to compute."""
    monkeypatch.setattr(perturb, "LEVELS", {"background": (30.0, -5.0), "low-pass": (8000.0, 2000.0)})


@pytest.mark.usefixtures("changing_gain")
def test_copies_are_those_of_the_clip(tmp_path: Path) -> None:
    manifest = datasets.open_dataset(tiny.dataset(tmp_path / "tiny"))
    embedder = embedders.create("logmel-stats")
    found = perturbed.copies(manifest, embedder, 2, Context(Store(tmp_path / "store")))
    assert (found.shape, found.dtype) == ((2, len(manifest), embedder.dim), np.float16)
    assert len(np.unique(found.reshape(-1, embedder.dim), axis=0)) == 2 * len(manifest)
    fewer = replace(manifest, entries=manifest.entries[::-1][:3])
    for store in (Store(tmp_path / "store"), Store(tmp_path / "other")):  # in another order, in other batches
        again = perturbed.copies(fewer, embedder, 2, Context(store))
        np.testing.assert_array_equal(again, found[:, ::-1][:, :3])


@pytest.mark.usefixtures("changing_gain")
def test_each_copy_is_under_a_change_of_its_own() -> None:
    tone = (0.5 * np.sin(2 * np.pi * 3000.0 * np.arange(22_050) / 22_050)).astype(np.float32)
    changed = [perturbed.change(tone, 22_050, seed) for seed in range(8)]
    assert all(np.abs(one).max() <= 1.0 and not np.array_equal(one, tone) for one in changed)
    assert len({one.tobytes() for one in changed}) == 8
    np.testing.assert_array_equal(perturbed.change(tone, 22_050, 3), changed[3])


def test_copies_are_trained_on_and_never_scored() -> None:
    plain = subject()
    rng = np.random.default_rng(0)
    copies = (plain.embeddings + rng.normal(size=(2, *plain.embeddings.shape))).astype(np.float16)
    taught = replace(plain, copies=copies)
    split = crossval.splits_of(taught, settings(), [0])[0]
    parts: list[crossval.FoldFit] = []

    def fit(part: crossval.FoldFit) -> tuple[str, int]:
        parts.append(part)
        return "model", 1

    crossval.fit_on(taught, split, settings(), fit)
    assert split.inner is not None
    for part, clips in zip(parts, (split.inner[0], split.fold.train), strict=True):
        scaler = Scaler.of(plain.embeddings[clips])
        np.testing.assert_array_equal(part.z[: len(clips)], scaler(plain.embeddings[clips]))
        np.testing.assert_array_equal(part.z[len(clips) : 2 * len(clips)], scaler(copies[0][clips]))
        np.testing.assert_array_equal(part.labels, np.tile(plain.labels[clips], 3))
    assert parts[0].held_out is not None
    assert len(parts[0].held_out[0]) == len(split.inner[1])
    tasks = [crossval.Task(one, "q4", split, settings()) for one in (plain, taught)]
    assert tasks[0].key != tasks[1].key
    assert "copies" not in tasks[0].key  # what was trained before they were there is still found


def test_what_cannot_be_changed_is_refused(tmp_path: Path) -> None:
    manifest = datasets.open_dataset(tiny.dataset(tmp_path / "tiny"))
    with pytest.raises(ConfigError, match="--perturb is 21; accepted is 0 to 20"):
        perturbed.check(manifest, 21)
    with pytest.raises(DatasetError, match="holds no recordings"):
        perturbed.check(replace(manifest, media="pictures"), 1)
    perturbed.check(replace(manifest, media="pictures"), 0)


@pytest.mark.usefixtures("changing_gain")
def test_a_bundle_is_trained_on_copies_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QMOE_STORE", str(tmp_path / "store"))
    asked = Train(
        dataset=str(tiny.dataset(tmp_path / "tiny")),
        embedder="logmel-stats",
        experts=("q4",),
        config=settings(),
        perturb=2,
        bundle="perturbed",
        workers=1,
    )
    asked.run(Context(Store()))
    found = bundles.load("perturbed")
    assert found.provenance.copies == 2
    assert "30 clips and 2 changed copies of each." in card.card(found)
    assert jobs.plan(asked).cached == 5
    plain = msgspec.structs.replace(asked, perturb=0)
    assert jobs.plan(plain).cached == 0
    plain.run(Context(Store()))
    of_plain = bundles.load("perturbed")
    assert of_plain.provenance.copies == 0
    # Versions from before can read it.
    assert b"copies" not in (bundles.find("perturbed") / bundles.MANIFEST).read_bytes()
    z = np.zeros((1, of_plain.manifest.dim), np.float32)
    assert not np.array_equal(of_plain.expert("q4").logits(z), found.expert("q4").logits(z))
