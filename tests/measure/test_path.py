"""`qmoe bench path`: every contestant computes the same path, and rows say which part costs what."""

from __future__ import annotations

import numpy as np
import pytest

from qmoe_core.engine import PackedExpert, network_reference
from qmoe_core.errors import ConfigError
from qmoe_core.measure import path


def test_onnx_runtime_computes_the_same_path() -> None:
    network = path.random_network("ds-cnn")
    x = np.random.default_rng(0).normal(size=(1, 64, 40)).astype(np.float32)
    head = path._head("fp32", network.dim)
    wanted = PackedExpert(head).logits(network_reference.forward(network, x))
    onnxruntime = pytest.importorskip("onnxruntime")
    model = path._model(network, head, (1, 1, 64, 40)).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"levels": x[:, None]})
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ConfigError, match="--embedder mn05: accepted are mn04, ds-cnn, logmel-stats"):
        path.run(["mn05"], 100)
