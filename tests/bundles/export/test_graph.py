"""The ONNX form says what the bundle says, in ONNX Runtime, from the waveform on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from torch import nn

from qmoe_core import bundles, embedders
from qmoe_core.audio import decode, synth
from qmoe_core.bundles import export
from qmoe_core.bundles.export import graph
from qmoe_core.embedders import models, networks
from qmoe_core.embedders.learned import LearnedEmbedder
from qmoe_core.errors import BundleError, ConfigError
from qmoe_core.evaluation import conformal
from qmoe_core.routing import mixing
from qmoe_core.routing.mixing import Settings
from qmoe_core.routing.uncertainty import softmax
from tests import tiny
from tests.engine.networks import quantized


def heard(path: Path, waveforms: np.ndarray) -> dict[str, np.ndarray]:
    session: Any = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"waveform": waveforms}), strict=True))


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default bundle with all of its experts."""
    loaded = bundles.load()
    return export.export_onnx(loaded, tmp_path_factory.mktemp("onnx") / "lab.onnx", experts=loaded.experts)


@pytest.fixture(scope="module")
def gallery() -> np.ndarray:
    return np.stack([synth.render(name) for name in synth.GALLERY])


def test_every_expert_says_the_same(everything, gallery):
    loaded = bundles.load()
    embeddings = embedders.create(loaded.embedder).embed(gallery)
    found = heard(everything, gallery)
    outputs = loaded.outputs(found["embedding"]).all()
    mixed = mixing.mix(outputs, loaded.settings())

    # In a quantized network a level here and there is rounded the other way, because spectra differ slightly.
    apart = np.abs(found["embedding"] - embeddings)
    assert (apart > 2e-3 + 1e-3 * np.abs(embeddings)).mean() < 0.05
    assert apart.max() < 0.03 * np.abs(embeddings).max()
    q = softmax(outputs.logits)
    assert (found["expert_probabilities"].argmax(-1) == q.argmax(-1)).all()
    # One rounding of an 8-bit activation may fall the other way: see the packed form's own bound.
    np.testing.assert_allclose(found["expert_probabilities"], q, atol=5e-3)
    np.testing.assert_allclose(found["routing"], mixed.routing, atol=1e-3)
    np.testing.assert_allclose(found["epistemic"], mixed.epistemic, atol=1e-3)
    np.testing.assert_allclose(found["probabilities"], mixed.probabilities, atol=5e-3)
    np.testing.assert_allclose(found["doubt"], 1.0 - mixed.probabilities.max(axis=-1), atol=5e-3)


@pytest.mark.parametrize("layer_format", ["float", "int8"])
@pytest.mark.parametrize(("name", "module"), [("ds-cnn", networks.DsCnn), ("mn04", networks.Mn04)])
def test_a_learned_embedder_gives_the_same(
    name: str, module: type[nn.Module], layer_format: str, tmp_path: Path, gallery: np.ndarray
):
    network = models.ARCHITECTURES[name](tiny.untrained(module()))
    if layer_format != "float":
        network = quantized(network, layer_format)
    embedder = LearnedEmbedder(name, network)
    waveforms = np.stack([decode.resample(x, decode.SAMPLE_RATE, embedder.sample_rate) for x in gallery[:3]])
    g = graph.Graph()
    graph.learned(g, embedder, "waveform")
    kind = onnx.TensorProto.FLOAT
    given = onnx.helper.make_tensor_value_info("waveform", kind, ["batch", waveforms.shape[1]])
    found = onnx.helper.make_tensor_value_info("embedding", kind, ["batch", embedder.dim])
    whole = onnx.helper.make_graph(g.nodes, name, [given], [found], list(g.constants.values()))
    opsets = [onnx.helper.make_opsetid("", graph.OPSET)]
    model = onnx.helper.make_model(whole, opset_imports=opsets, ir_version=graph.IR_VERSION)
    onnx.save(model, path := tmp_path / "network.onnx")
    wanted = embedder.embed(waveforms)
    np.testing.assert_allclose(heard(path, waveforms)["embedding"], wanted, atol=1e-3 * np.abs(wanted).max())


@pytest.mark.recordings
def test_real_recordings_get_the_same_labels(everything, shared_data):
    loaded = bundles.load()
    files = sorted((shared_data / "esc10" / "audio").glob("*.ogg"))[::8]
    waveforms = np.stack([decode.windows(decode.load(file))[0].samples for file in files])
    outputs = loaded.outputs(embedders.create(loaded.embedder).embed(waveforms)).all()
    found = heard(everything, waveforms)

    assert len(files) == 50
    assert (found["expert_probabilities"].argmax(-1) == outputs.logits.argmax(-1)).all()
    mixed = mixing.mix(outputs, loaded.settings())
    assert (found["probabilities"].argmax(-1) == mixed.probabilities.argmax(-1)).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"alpha": 300.0, "top_k": 2},
        {"alpha": 2.0, "normalise": True, "top_k": 5},
        {"curiosity": "none", "temperature": 0.5, "mix": "logits", "top_k": 2},
    ],
)
def test_other_ways_to_mix(tmp_path, gallery, changes):
    loaded = bundles.load()
    settings = replace(loaded.settings(), experts=("popcount", "q1", "q16"), **changes)
    found = heard(export.export_onnx(loaded, tmp_path / "x.onnx", settings), gallery[:3])
    outputs = loaded.outputs(found["embedding"]).all()
    mixed = mixing.mix(
        outputs, settings, mean_interest=loaded.mean_interest(settings) if settings.normalise else 1.0
    )

    np.testing.assert_allclose(found["routing"], mixed.routing, atol=5e-3)
    np.testing.assert_allclose(found["probabilities"], mixed.probabilities, atol=5e-3)


def test_silence(everything):
    found = heard(everything, np.zeros((1, decode.WINDOW_SAMPLES), np.float32))

    assert all(np.isfinite(values).all() for values in found.values())
    np.testing.assert_allclose(found["probabilities"].sum(), 1.0, rtol=1e-5)


def test_bits_stay_bits(everything):
    """Quantized weights are stored quantized: the file is about as large as the bundle's experts."""
    loaded = bundles.load()
    model = onnx.load(everything)
    kinds = {node.op_type for node in model.graph.node}
    properties = {entry.key: entry.value for entry in model.metadata_props}

    assert {"MatMulInteger", "MatMulNBits", "DequantizeLinear", "STFT"} <= kinds
    network = models.path(loaded.embedder)
    assert network is not None
    packed = sum(loaded.expert_bytes(name) for name in loaded.experts) + network.stat().st_size
    assert everything.stat().st_size < 1.25 * packed
    assert properties["bundle_digest"] == loaded.digest
    assert properties["front_end"] == loaded.manifest.embedder_id
    assert properties["card"].startswith("# ")
    limits = conformal.limits(loaded, loaded.settings())
    assert msgspec.json.decode(properties["limits"], type=conformal.Limits) == limits
    assert f"An answer whose doubt is above {limits.doubt:.4f} is to be withheld" in properties["card"]


def test_its_card_tells_of_the_graph(tmp_path):
    loaded = bundles.load()
    model = onnx.load(export.export_onnx(loaded, tmp_path / "x.onnx"))
    card = {entry.key: entry.value for entry in model.metadata_props}["card"]
    rows = [line.split(" | ") for line in card.splitlines() if line.startswith("| ")][2:]

    assert "in 3 numeric formats" in card
    assert [row[0] for row in rows] == ["| q4", "| q8", "| bitnet"]
    for row in rows:
        graph, packed = (int(cell.strip(" |").replace(",", "")) for cell in row[2:])
        assert packed == loaded.expert_bytes(row[0][2:])
        assert 0.9 * packed < graph < 1.5 * packed
    f1 = loaded.provenance.f1["bitnet+q4+q8 curious"]["mean"]
    assert f"mixture bitnet+q4+q8 curious: F1 {f1:.3f}" in card
    assert f"ms a clip in ONNX Runtime {onnxruntime.__version__}" in card


def test_what_cannot_be_a_graph(tmp_path):
    loaded = bundles.load()
    for curiosity in ("router-mc", "distilled"):
        with pytest.raises(ConfigError, match="accepted is disagreement or none"):
            export.export_onnx(loaded, tmp_path / "x", Settings(("q4", "q8"), curiosity=curiosity))
    with pytest.raises(ConfigError, match="none of q1 is in the mixture"):
        export.export_onnx(loaded, tmp_path / "x", experts=("q1",))
    with pytest.raises(BundleError, match="cannot be written"):
        export.export_onnx(loaded, tmp_path / "nowhere" / "x")
    assert list(tmp_path.iterdir()) == []
