"""A whole path in one file: what comes back is what went in, and it classifies as its parts do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qmoe_core import embedders
from qmoe_core.bundles.export import path_file
from qmoe_core.engine import PackedExpert
from qmoe_core.errors import BundleError
from qmoe_core.measure import size
from qmoe_core.routing.uncertainty import softmax


@pytest.fixture(scope="module")
def whole() -> path_file.PathFile:
    made = embedders.create("ds-cnn:q4")
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=(2, made.dim)).astype(np.float32)
    head = size.random_expert("q2", (made.dim, 32, 16, 3))
    return path_file.PathFile(made.network, head, mean, np.abs(std) + 1, ("Hund", "Türe", "Säge"))


def test_it_gives_what_embedder_and_head_give(whole: path_file.PathFile) -> None:
    back = path_file.loads(path_file.dumps(whole), "a.path")
    assert path_file.dumps(back) == path_file.dumps(whole)
    assert back.classes == whole.classes
    waveform = np.random.default_rng(1).normal(scale=0.1, size=110_250).astype(np.float32)
    embedding = embedders.create("ds-cnn:q4").embed(waveform[None])[0]
    wanted = softmax(PackedExpert(whole.head).logits((embedding - whole.mean) / whole.std))
    np.testing.assert_allclose(back.probabilities(waveform), wanted, atol=1e-6)


def test_what_is_no_whole_path_is_refused(whole: path_file.PathFile) -> None:
    data = bytearray(path_file.dumps(whole))
    data[-1] ^= 1
    with pytest.raises(BundleError, match=r"a\.path: is damaged"):
        path_file.loads(bytes(data), "a.path")
    other = path_file.PathFile(whole.network, whole.head, whole.mean, whole.std, ("one", "two"))
    with pytest.raises(BundleError, match=r"a\.path: its parts do not fit one another"):
        path_file.loads(path_file.dumps(other), "a.path")


def test_statistics_have_no_weights_to_carry() -> None:
    bundle: Any = SimpleNamespace(name="b", embedder="logmel-stats")
    with pytest.raises(BundleError, match="bundle b: logmel-stats has no weights of its own"):
        path_file.of_bundle(bundle, "q4")
