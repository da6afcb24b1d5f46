"""Peers compute the same network: torch exactly, ONNX Runtime's quantized ones closely."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qmoe_core import engine
from qmoe_core.measure import peers
from qmoe_core.measure.size import random_expert

SHAPE = (256, 128, 128, 10)


@pytest.fixture(scope="module")
def case() -> tuple[engine.ExpertWeights, np.ndarray, np.ndarray]:
    weights = random_expert("fp32", SHAPE)
    x = np.random.default_rng(1).normal(size=(3, SHAPE[0])).astype(np.float32)
    return weights, x, engine.PackedExpert(weights).logits(x)


def test_torch_is_the_same_network(case) -> None:
    import torch

    weights, x, expected = case
    with torch.inference_mode():
        got = peers.torch_network(weights)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_onnx_is_the_same_network(case) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    weights, x, expected = case
    model = peers.onnx_model(weights)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"embedding": x})[0], expected, rtol=1e-3, atol=1e-4)


def test_openvino_computes_what_lies_in_its_input(case) -> None:
    pytest.importorskip("openvino")
    weights, x, expected = case
    given = np.zeros_like(x)
    (peer,) = peers.openvino(lambda: peers.onnx_model(weights, len(x)), given, "embedding")
    for rows in (slice(None), slice(None, None, -1)):
        given[...] = x[rows]
        found: Any = peer.call()
        np.testing.assert_allclose(next(iter(found.values())), expected[rows], rtol=1e-3, atol=1e-4)


def test_all_peers_run(case) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    weights, x, _ = case
    found = peers.contestants(weights, x)
    assert [c.name for c in found] == [
        "torch fp32",
        "ONNX Runtime fp32",
        "ONNX Runtime int8",
        "ONNX Runtime MatMulNBits 8",
        "ONNX Runtime MatMulNBits 4",
        "ONNX Runtime MatMulNBits 2",
        "OpenVINO fp32",
    ]
    for contestant in found:
        contestant.call()
    assert set(peers.PEER_OF_WIDTH.values()) <= {c.name for c in found}
