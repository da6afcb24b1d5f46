"""The whole path from waveform to decision: ours in each format, and other engines behind the same front end.

Five seconds of noise, one clip, one thread, one interleaved run. Networks and heads have random weights,
rounded to each format: time does not depend on them. Every contestant does the front end, the embedder's
network and the head; the stages are timed on their own in the same run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qmoe_core.embedders.learned import FRONT_ENDS
from qmoe_core.engine import LEVELS, ExpertWeights, PackedExpert
from qmoe_core.engine.network import Block, ConvLayer, Levels, Network, SqueezeExcite
from qmoe_core.engine.network_reference import forward
from qmoe_core.engine.packed_network import PackedNetwork
from qmoe_core.errors import ConfigError
from qmoe_core.measure import environment, latency, peers, size
from qmoe_core.measure.latency import Contestant

EMBEDDERS = ("mn04", "ds-cnn")
FORMATS = {"fp32": "float", "q8": "int8", "q4": "int4", "q2": "int2", "q1": "int1"}
"""Of a path, and of the layers of its network."""
SECONDS = 5.0
CLASSES = 50
BASELINE = "ONNX Runtime fp32"


def random_network(embedder: str) -> Network:
    """An embedder's float network with random weights.

    Raises:
        ConfigError: there is no such embedder.
    """
    import torch

    from qmoe_core.embedders import architectures, networks

    torch.manual_seed(0)
    match embedder:
        case "mn04":
            module, make = networks.Mn04(), architectures.mn04
        case "ds-cnn":
            module, make = networks.DsCnn(), architectures.ds_cnn
        case _:
            raise ConfigError(f"--embedder {embedder}: accepted are {', '.join(EMBEDDERS)}")
    return make({name: tensor.numpy() for name, tensor in module.state_dict().items()})


def rounded(network: Network, layer_format: str, x: np.ndarray) -> Network:
    """A float network as a quantized one: weights to the nearest levels, ranges of activations measured.

    Args:
        network: float.
        layer_format: of the weights of every layer, such as `int4`.
        x: float32 [B, bands, frames], of which the ranges of all activations are taken.
    """
    coded = replace(network, blocks=_changed(network.blocks, lambda layer: _in_levels(layer, layer_format)))
    seen: dict[str, Levels] = {}

    def calibrate(name: str, values: np.ndarray) -> None:
        low, high = min(float(values.min()), 0.0), max(float(values.max()), 1e-3)
        seen[name] = Levels((high - low) / 255, round(-low * 255 / (high - low)))

    forward(coded, x, calibrate)
    blocks = _changed(coded.blocks, lambda layer: replace(layer, output=seen[layer.name]))
    blocks = tuple(replace(block, squeeze=_levelled(block.squeeze, seen)) for block in blocks)
    return replace(network, input=seen["input"], blocks=blocks)


def _levelled(squeeze: SqueezeExcite | None, seen: Mapping[str, Levels]) -> SqueezeExcite | None:
    if squeeze is None:
        return None
    name = squeeze.expand.name
    return replace(squeeze, pooled=seen[f"{name}.pooled"], output=seen[f"{name}.output"])


def _changed(blocks: Sequence[Block], change: Callable[[ConvLayer], ConvLayer]) -> tuple[Block, ...]:
    """The blocks with every layer changed, those of squeeze-excites among them."""

    def inner(squeeze: SqueezeExcite | None) -> SqueezeExcite | None:
        if squeeze is None:
            return None
        return replace(squeeze, reduce=change(squeeze.reduce), expand=change(squeeze.expand))

    return tuple(
        replace(block, layers=tuple(map(change, block.layers)), squeeze=inner(block.squeeze))
        for block in blocks
    )


def _in_levels(layer: ConvLayer, layer_format: str) -> ConvLayer:
    """Weights to the nearest levels; the largest of a channel is the lowest level, or its negative."""
    bits, low, high = LEVELS[layer_format]
    rows = layer.weights.reshape(layer.outputs, -1)
    if bits == 1:
        scale, codes = np.abs(rows).mean(1), np.where(rows > 0, 1, -1)
    else:
        scale = np.maximum(np.abs(rows).max(1), 1e-9) / -low
        codes = np.clip(np.rint(rows / scale[:, None]), low, high)
    codes = codes.reshape(layer.matrix.shape).astype(np.int16 if bits == 16 else np.int8)
    return replace(layer, format=layer_format, weight=None, codes=codes, scale=scale.astype(np.float32))


# --- Contestants ----------------------------------------------------------------------------------


def _head(name: str, dim: int) -> ExpertWeights:
    return size.random_expert(name, (dim, *size.PAPER_SHAPE[1:-1], CLASSES))


def _ours(embedder: str, network: Network, waveform: np.ndarray) -> list[Contestant]:
    """The path in each format, and its stages."""
    levels = FRONT_ENDS[embedder].levels
    x = levels(waveform)
    found = [Contestant(f"{embedder} front end", "stage", partial(levels, waveform))]
    for name, layer_format in FORMATS.items():
        packed = PackedNetwork(network if name == "fp32" else rounded(network, layer_format, x[None]))
        head = PackedExpert(_head(name, network.dim))
        embedding = packed.embed(x)

        def path(packed: PackedNetwork = packed, head: PackedExpert = head) -> object:
            return head.logits(packed.embed(levels(waveform)))

        note = f"{packed.kernel} kernel, {packed.nbytes + head.nbytes:,} bytes in memory"
        found += [
            Contestant(f"{embedder}:{name}", "expert", path, note),
            Contestant(f"{embedder}:{name} embedder", "stage", partial(packed.embed, x)),
            Contestant(f"{embedder}:{name} head", "stage", partial(head.logits, embedding)),
        ]
    return found


def _model(network: Network, head: ExpertWeights, frames: int) -> Any:
    """Network and head as one ONNX graph: `levels` [1, 1, bands, frames] → `logits`."""
    from onnx import TensorProto, helper

    from qmoe_core.bundles.export.graph import IR_VERSION, OPSET, Graph, expert_nodes
    from qmoe_core.bundles.export.graph_network import network_nodes

    g = Graph()
    logits = g.node("Identity", expert_nodes(g, head, network_nodes(g, network, "levels")), to="logits")
    shapes = {"levels": [1, 1, network.bands, frames], logits: [1, head.classes]}
    values = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in shapes.items()}
    graph = helper.make_graph(
        g.nodes, network.name, [values["levels"]], [values["logits"]], list(g.constants.values())
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


class _Calibration:
    """The spectrograms that ONNX Runtime's static quantization takes its ranges of."""

    def __init__(self, x: np.ndarray) -> None:
        self.left: Iterator[np.ndarray] = iter([x])

    def get_next(self) -> dict[str, np.ndarray] | None:
        x = next(self.left, None)
        return None if x is None else {"levels": x}


def _static_int8(model: Any, x: np.ndarray) -> Any:
    """ONNX Runtime's own 8 bits: per channel, weights int8, activations uint8, ranges of x."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, small = (Path(folder) / f"{name}.onnx" for name in ("plain", "prepared", "small"))
        onnx.save(model, plain)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        reader: Any = _Calibration(x)
        types: dict[str, Any] = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(prepared, small, reader, per_channel=True, **types)
        return onnx.load(small)


def _others(embedder: str, network: Network, waveform: np.ndarray) -> list[Contestant]:
    """ONNX Runtime in float and in its own 8 bits, behind our front end."""
    import onnxruntime

    levels = FRONT_ENDS[embedder].levels
    given = np.ascontiguousarray(levels(waveform)[None, None])
    model = _model(network, _head("fp32", network.dim), given.shape[-1])
    version = f"ONNX Runtime {onnxruntime.__version__}"
    found = []
    with peers.quantizers_silent():
        for name, each, note in (
            (BASELINE, model, version),
            ("ONNX Runtime int8", _static_int8(model, given), f"{version}, static, per channel"),
        ):
            x = given.copy()
            session = peers.session(each, x, "levels")

            def path(x: np.ndarray = x, session: Callable[[], object] = session) -> object:
                x[0, 0] = levels(waveform)
                return session()

            found.append(Contestant(f"{embedder} {name}", "peer", path, note))
    return found


# --- The run --------------------------------------------------------------------------------------


def run(
    names: Sequence[str], n: int, progress: Callable[[int, int, str], object] | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Time the paths of some embedders.

    Args:
        names: of `EMBEDDERS`.
        n: timed calls of each.
        progress: is told of rounds that are done.

    Returns:
        Where it was measured, and a row for each path, as `qmoe bench path --json` prints it.

    Raises:
        ConfigError: an embedder that does not exist, or n below 50.
    """
    if n < 50:
        raise ConfigError(f"--n is {n}; accepted is 50 or more (a figure to quote needs 500)")
    contestants = {}
    for name in names:
        network, front_end = random_network(name), FRONT_ENDS[name]
        noise = np.random.default_rng(0).normal(scale=0.1, size=round(SECONDS * front_end.sample_rate))
        waveform = noise.astype(np.float32)
        contestants[name] = _others(name, network, waveform) + _ours(name, network, waveform)
    everyone = [one for group in contestants.values() for one in group]
    times = latency.race(everyone, n=n, progress=progress)
    rows = []
    for name, group in contestants.items():
        baseline = f"{name} {BASELINE}"
        summary = {row.name: row for row in latency.summarise(group, times, baseline=baseline)}
        rows += [_row(name, row, baseline, summary) for row in summary.values() if row.kind != "stage"]
    where = environment.describe(threads=1, batch=1, seconds=SECONDS, weights="random")
    return where, rows


def _row(
    embedder: str, row: latency.LatencyRow, baseline: str, summary: dict[str, latency.LatencyRow]
) -> dict[str, Any]:
    front_end = summary[f"{embedder} front end"].p50_us
    stages = {"front_end_us": front_end, "embedder_us": None, "head_us": None}
    if f"{row.name} embedder" in summary:
        stages["embedder_us"] = summary[f"{row.name} embedder"].p50_us
        stages["head_us"] = summary[f"{row.name} head"].p50_us
    else:  # Another engine runs network and head as one.
        stages["embedder_us"] = row.p50_us - front_end
    return {
        "name": row.name,
        "embedder": embedder,
        "kind": row.kind,
        "note": row.note,
        "n": row.n,
        "p50_us": row.p50_us,
        "stages": stages,
        "peer": baseline,
        "speedup_vs_peer": row.speedup_vs_fp32,
        "ci95": list(row.ci95),
    }
