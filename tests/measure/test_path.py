"""`qmoe bench path`: every contestant computes the same path, and rows say which part costs what."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from qmoe_core.cli import qmoe
from qmoe_core.engine import PackedExpert, network_reference
from qmoe_core.errors import ConfigError
from qmoe_core.measure import latency, path


def test_onnx_runtime_computes_the_same_path() -> None:
    network = path.random_network("ds-cnn")
    x = np.random.default_rng(0).normal(size=(1, 64, 40)).astype(np.float32)
    head = path._head("fp32", network.dim)
    wanted = PackedExpert(head).logits(network_reference.forward(network, x))
    onnxruntime = pytest.importorskip("onnxruntime")
    model = path._model(network, head, 40).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"levels": x[:, None]})
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


def test_rows_say_what_each_stage_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    def race(contestants: list[latency.Contestant], **_: object) -> dict[str, np.ndarray]:
        for one in contestants:
            one.call()
        spread = np.arange(100).reshape(2, 50) % 3 - 1
        return {one.name: 1000 * (i + 1) + spread for i, one in enumerate(contestants)}

    monkeypatch.setattr(latency, "race", race)
    monkeypatch.setattr(path, "SECONDS", 0.5)
    where, rows = path.run(["ds-cnn"], 50)
    assert where["threads"] == 1
    assert [row["name"] for row in rows][2:] == [f"ds-cnn:{name}" for name in path.FORMATS]
    ours = rows[2]
    assert ours["peer"] == "ds-cnn ONNX Runtime fp32"
    assert ours["stages"] == {"front_end_us": 3.0, "embedder_us": 5.0, "head_us": 6.0}
    assert ours["speedup_vs_peer"] == pytest.approx(1 / 4)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ConfigError, match="--embedder mn05: accepted are mn04, ds-cnn"):
        path.run(["mn05"], 100)
    result = CliRunner().invoke(qmoe, ["bench", "path", "--n", "10"])
    assert "--n is 10; accepted is 50 or more" in str(result.exception)
