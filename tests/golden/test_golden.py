"""The default bundle on known sounds: the whole path, from samples to a label, against kept values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qmoe_core import bundles, datasets
from qmoe_core.bundles import Bundle
from tests.golden import __main__ as golden

TOLERANCE = 2e-3
"""Of a probability: another processor or library may round a quantized activation the other way."""


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    return json.loads(golden.KEPT.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def bundle(kept) -> Bundle:
    loaded = bundles.load()
    assert loaded.digest == kept["bundle"], "the default bundle was made again: run python -m tests.golden"
    return loaded


def compare(now: dict[str, Any], then: dict[str, Any]) -> None:
    assert {name: said["label"] for name, said in now.items()} == {
        name: said["label"] for name, said in then.items()
    }
    for name, said in now.items():
        assert said["probability"] == pytest.approx(then[name]["probability"], abs=TOLERANCE), name


def test_the_synthesised_sounds_are_judged_as_before(kept, bundle):
    assert len(kept["gallery"]) >= 8

    compare(golden.gallery(bundle), kept["gallery"])


@pytest.mark.recordings
def test_real_recordings_are_judged_as_before(kept, bundle, shared_data: Path):
    assert len(kept["recordings"]) == 20

    compare(golden.recordings(bundle, datasets.open_dataset(shared_data / "esc10")), kept["recordings"])


@pytest.mark.recordings
def test_real_recordings_that_it_was_trained_on_are_named_rightly(kept, bundle, shared_data: Path):
    manifest = datasets.open_dataset(shared_data / "esc10")
    truth = {entry.name: manifest.classes[entry.label] for entry in manifest.entries}

    right = sum(said["label"] == truth[name] for name, said in kept["recordings"].items())

    assert right >= 18
