"""`qmoe sweep layers`: what a layer in few bits is, which mixes are on the front, and which one is chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qmoe_core.embedders import models
from qmoe_core.engine import network_storage
from qmoe_core.engine.packed_network import PackedNetwork
from qmoe_core.evaluation import layers
from qmoe_core.evaluation.layers import Judge, LayerMix
from qmoe_core.measure import size
from qmoe_core.runtime.executor import Context
from qmoe_core.runtime.store import Store


@pytest.fixture(scope="module")
def judge() -> Judge:
    """Twelve clips of noise; labels are what the float network and a random head say."""
    network = models.network("ds-cnn")
    rng = np.random.default_rng(0)
    levels = rng.normal(scale=0.3, size=(14, 64, 24)).astype(np.float32)
    owners = np.array([0, 0, 1, 1, *range(2, 12)])
    head = size.random_expert("fp32", (network.dim, 24, 16, 3))
    one, many = np.ones(network.dim, np.float32), np.arange(12)
    heads = [(many[::2], head, 0 * one, one), (many[1::2], head, 0 * one, one)]
    made = Judge(network, levels, owners, np.zeros(12, int), many, heads)
    return Judge(network, levels, owners, made.logits(made.float).argmax(1), many, heads)


def test_a_clip_is_the_mean_of_its_windows(judge: Judge) -> None:
    assert judge.right.mean() == 1.0
    each = PackedNetwork(judge.network).embed(judge.levels)
    np.testing.assert_allclose(judge.float[0], each[:2].mean(0), rtol=1e-6)
    np.testing.assert_array_equal(judge.float[2], each[4])


def test_one_layer_is_rounded_and_the_others_stay(judge: Judge) -> None:
    name = "features.2"
    layer = next(one for one in judge.network.layers if one.name == name)
    made = layers.changed(judge.network, {name: layers.rounded(layer, "int2")})
    for before, after in zip(judge.network.layers, made.layers, strict=True):
        assert (before is after) == (before.name != name)
    assert layers.cosine(judge.embedded(made), judge.float) < 0.999
    fine = layers.changed(judge.network, {name: layers.rounded(layer, "int8")})
    assert layers.cosine(judge.embedded(fine), judge.float) > 0.9999


def test_every_point_is_measured_and_the_chosen_mix_is_a_network(judge: Judge, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(models, "path", lambda _: None)  # formats are made by rounding
    monkeypatch.setattr(layers, "LADDER", ("q8", "q2"))
    monkeypatch.setattr(layers, "BITS", {8: "int8", 2: "int2"})
    monkeypatch.setattr(layers, "HEAD_FORMATS", ("float", "ternary"))
    found, network = layers.sweep(judge, "noise", Context(Store(tmp_path)), most_bytes=200_000)
    names = [layer.name for layer in judge.network.layers]
    assert [(row.layer, row.bits) for row in found.rows] == [
        (name, bits) for name in [*names, "head.0", "head.1"] for bits in layers.BITS
    ]
    assert len(found.heads) == len(layers.HEAD_FORMATS) ** 2
    assert {mix.uniform for mix in found.mixes} >= set(layers.LADDER)
    assert found.chosen is not None
    assert network is not None
    assert found.chosen.bytes == len(network_storage.dumps(network)) <= 200_000
    right = judge.judged(judge.embedded(network)).mean()
    assert right == found.chosen.accuracy
    assert {layer.format for layer in network.layers} > {"int8"}


def mix(size: int, accuracy: float, us: float | None = None) -> LayerMix:
    return LayerMix({"a": "q8"}, size, accuracy, 1.0, accuracy - 0.9, (0.0, 0.0), us)


def test_the_front_and_the_choice() -> None:
    many = [mix(100, 0.80, 5), mix(200, 0.896, 6), mix(300, 0.89, 7), mix(400, 0.9, 8), mix(500, 0.9, 9)]
    assert [one.bytes for one in layers.front(many)] == [100, 200, 400]
    chosen = layers.choose(many, None, None)
    assert chosen is not None
    assert chosen.bytes == 200
    assert layers.choose(many, 350, None) == many[1]
    assert layers.choose(many, None, 5.5) == many[0]
    assert layers.choose(many, 50, None) is None
    assert layers.choose([replace(one, p50_us=None) for one in many], None, 100) is None
