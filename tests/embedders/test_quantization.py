"""Embedders in number formats: what is trained is what is packed, and training is worth its time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from qmoe_core.embedders.quantization import making
from qmoe_core.embedders.quantization.inputs import STEP
from qmoe_core.embedders.quantization.network import QuantizedNetwork, formats_of
from qmoe_core.engine import network_reference, network_storage
from qmoe_core.errors import Cancelled, ConfigError
from qmoe_core.experts.spec import EXPERTS, LEVELS
from qmoe_core.runtime.executor import Context
from qmoe_core.runtime.store import Store
from tests.embedders import tiny_network

SHORT = making.Recipe(effort=0.25, shards=1, batch=16)


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float((np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(wanted, axis=1)).max())


@pytest.fixture(scope="module")
def spectrograms() -> np.ndarray:
    return tiny_network.inputs(24, 9).astype(np.float32) / STEP


def test_modules_without_formats_are_the_float_network(spectrograms: np.ndarray) -> None:
    network = tiny_network.network()
    with torch.inference_mode():
        _, embeddings = QuantizedNetwork(network)(torch.from_numpy(spectrograms))
    assert relative(embeddings.numpy(), network_reference.forward(network, spectrograms)) < 1e-5


@pytest.mark.parametrize("name", making.FORMATS)
def test_the_packed_form_gives_what_the_training_form_gives(name: str, spectrograms: np.ndarray) -> None:
    network, x = tiny_network.network(), torch.from_numpy(spectrograms)
    student = QuantizedNetwork(network, formats_of(network, EXPERTS[name]))
    student.calibrate([x])
    optimiser = torch.optim.Adam(student.parameters(), 0.02)
    for _ in range(3):
        optimiser.zero_grad()
        student(x)[1].square().mean().backward()
        assert all(parameter.grad is not None for parameter in student.parameters())
        optimiser.step()
    with torch.inference_mode():
        trained = student(x)[1].numpy()
    packed = network_storage.loads(network_storage.dumps(student.described()))

    assert relative(network_reference.forward(packed, spectrograms), trained) < 1e-3
    for layer in packed.layers:
        assert layer.format == formats_of(network, EXPERTS[name])[layer.name]
        assert layer.codes is not None
        assert layer.codes.min() >= LEVELS[layer.format].lowest


def test_small_layers_that_are_not_pointwise_keep_8_bits() -> None:
    wide = tiny_network.network()
    assert {name for name, form in formats_of(wide, EXPERTS["q2"]).items() if form == "int8"} == set()
    end = wide.blocks[-1].layers[0]
    end = replace(end, weight=np.zeros((2000, 8, 1, 1), np.float32), bias=np.zeros(2000, np.float32))
    wide = replace(wide, blocks=(*wide.blocks[:-1], replace(wide.blocks[-1], layers=(end,))))

    formats = formats_of(wide, EXPERTS["bitnet"])

    assert {name for name, form in formats.items() if form == "int8"} == {
        "stem",
        "each",
        "gate.in",
        "gate.out",
    }
    assert {form for name, form in formats.items() if name in ("wide", "narrow", "end")} == {"ternary"}
    assert set(formats_of(wide, EXPERTS["q16"]).values()) == {"int16"}


def test_training_keeps_more_than_rounding_and_formats_follow_their_bits(tmp_path: Path) -> None:
    store, network = Store(tmp_path), tiny_network.network()
    keys = tiny_network.kept(store, 4, 64)

    def explained(effort: float, formats: tuple[str, ...]) -> dict[str, float]:
        recipe = replace(SHORT, effort=effort, shards=3)
        made = making.make(Context(store), network, formats, keys, recipe)
        return {name: facts["explained"] for name, (_, facts) in made.items()}

    rounded, trained = explained(0.0, ("q2", "bitnet")), explained(1.0, ("q2", "bitnet"))
    exact = explained(0.0, ("q4", "q8", "q16", "ptq8"))

    assert trained["q2"] > rounded["q2"] + 0.05
    assert trained["bitnet"] > rounded["bitnet"] + 0.05
    assert rounded["q2"] < exact["q4"] < exact["q8"] <= exact["q16"] + 1e-3
    assert exact["ptq8"] > 0.99


def test_what_is_stopped_goes_on_and_becomes_the_same(tmp_path: Path) -> None:
    network, formats = tiny_network.network(), ("q2", "q8")
    whole, halves = Store(tmp_path / "whole"), Store(tmp_path / "halves")
    keys = tiny_network.kept(whole, 3, 32)
    assert tiny_network.kept(halves, 3, 32) == keys
    recipe = replace(SHORT, effort=0.5)  # three stages of 2 bits, one of 8
    asked = []

    def once() -> bool:
        asked.append(1)
        return len(asked) > 2

    shown = []
    with pytest.raises(Cancelled):
        making.make(Context(halves, cancelled=once), network, formats, keys, recipe)
    kept = {entry.key for entry in halves.list() if entry.kind in (making.KIND, making.STATES)}
    assert len(kept) == 2
    context = Context(halves, progress=lambda title: lambda done, total, message: shown.append((done, total)))
    continued = making.make(context, network, formats, keys, recipe)

    assert shown == [(3, 4), (4, 4)]
    at_once = making.make(Context(whole), network, formats, keys, recipe)
    for name in formats:
        assert network_storage.dumps(continued[name][0]) == network_storage.dumps(at_once[name][0])


def test_formats_are_named() -> None:
    assert making.parse(None) == making.FORMATS == ("q1", "q2", "q3", "q4", "q8", "q16", "bitnet", "ptq8")
    assert making.parse("q4, q2,q4") == ("q4", "q2")
    for wrong in ("fp32", "q4,popcount", ","):
        with pytest.raises(ConfigError, match="--formats: an embedder has no format"):
            making.parse(wrong)
