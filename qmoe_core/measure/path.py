"""The whole path from waveform to decision: ours in each format, and other engines behind the same front end.

Five seconds of noise, one clip, one thread, one interleaved run. Networks and heads have random weights,
rounded to each format: time does not depend on them. Every contestant does the front end, the embedder's
network and the head; the stages are timed on their own in the same run, the head in every format.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qmoe_core.audio import mel
from qmoe_core.audio.decode import SAMPLE_RATE
from qmoe_core.embedders import Embedder, logmel_stats
from qmoe_core.embedders.learned import FRONT_ENDS, FrontEnd, LearnedEmbedder
from qmoe_core.embedders.logmel_stats import LogMelStats
from qmoe_core.engine import LEVELS, ExpertWeights, PackedExpert, network_storage, storage
from qmoe_core.engine.network import Block, ConvLayer, Levels, Network, SqueezeExcite
from qmoe_core.engine.network_reference import forward
from qmoe_core.engine.packed_network import PackedNetwork
from qmoe_core.errors import ConfigError
from qmoe_core.experts.spec import NAMES
from qmoe_core.measure import environment, latency, peers, roofline, size
from qmoe_core.measure.latency import Contestant

EMBEDDERS = ("mn04", "ds-cnn", logmel_stats.NAME)
FORMATS = {
    **{"fp32": "float", "q8": "int8", "q4": "int4", "q3": "int3", "q2": "int2"},
    **{"bitnet": "ternary", "q1": "int1"},
}
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


@dataclass(frozen=True)
class _Timed(Contestant):
    """A contestant, and what it weighs."""

    cost: Mapping[str, int] = field(default_factory=dict)


def _head(name: str, dim: int) -> ExpertWeights:
    return size.random_expert(name, (dim, *size.PAPER_SHAPE[1:-1], CLASSES))


@dataclass(frozen=True)
class Stages:
    """An embedder in one format, cut in two.

    Attributes:
        front_end: waveform [n] to what the embedder takes; embed: that to an embedding [D].
        embedder_bytes: of its file; memory_bytes: what it works in, weights apart.
    """

    front_end: FrontEnd
    embed: Callable[[np.ndarray], np.ndarray]
    dim: int
    note: str = ""
    embedder_bytes: int = 0
    memory_bytes: int = 0
    network: Network | None = None


def stages_of(made: Embedder) -> Stages:
    """Any embedder, cut in two; one of timm does all its work in the second part."""
    if isinstance(made, LogMelStats):
        power = partial(mel.mel_power, n_mels=made.parameters.n_mels)
        return Stages(FrontEnd(made.sample_rate, power), made.statistics, made.dim)
    if isinstance(made, LearnedEmbedder):
        return Stages(made.front_end, made.packed.embed, made.dim)
    whole = FrontEnd(made.sample_rate, lambda waveform: waveform)
    return Stages(whole, lambda waveform: made.embed(waveform[None])[0], made.dim)


def _learned(embedder: str, network: Network, waveform: np.ndarray) -> dict[str, Stages]:
    """A network in each format."""
    front_end, found = FRONT_ENDS[embedder], {}
    x = front_end.levels(waveform)
    for name, layer_format in FORMATS.items():
        made = network if name == "fp32" else rounded(network, layer_format, x[None])
        packed = PackedNetwork(made)
        note = f"{packed.kernel} kernel, {packed.nbytes:,} bytes of it in memory"
        size_ = len(network_storage.dumps(made))
        memory = packed.workspace_bytes(x.shape[-1]) + x.nbytes
        found[name] = Stages(front_end, packed.embed, network.dim, note, size_, memory, made)
    return found


def _ours(embedder: str, stages: Mapping[str, Stages], waveform: np.ndarray) -> list[_Timed]:
    """The path in each format, its stages, and the head in every format."""
    first = stages["fp32"]
    levels = first.front_end.levels
    x = levels(waveform)
    embedding = first.embed(x)
    heads = {name: PackedExpert(_head(name, first.dim)) for name in NAMES}
    sizes = {
        name: len(storage.dump("expert", name, storage.to_tensors(_head(name, first.dim)))) for name in NAMES
    }
    found = [_Timed(f"{embedder} front end", "stage", partial(levels, waveform))]
    for name, one in stages.items():

        def path(one: Stages = one, head: PackedExpert = heads[name]) -> object:
            return head.logits(one.embed(levels(waveform)))

        cost = {
            "embedder_bytes": one.embedder_bytes,
            "head_bytes": sizes[name],
            "memory_bytes": one.memory_bytes,
        }
        found += [
            _Timed(f"{embedder}:{name}", "expert", path, one.note, cost),
            _Timed(f"{embedder}:{name} embedder", "stage", partial(one.embed, x)),
        ]
    for name, head in heads.items():
        cost = {"head_bytes": sizes[name]}
        found.append(_Timed(f"{embedder} head {name}", "head", partial(head.logits, embedding), "", cost))
    return found


def _model(network: Network | None, head: ExpertWeights, shape: Sequence[int]) -> Any:
    """Network (or none) and head as one ONNX graph: `levels` of a shape, such as [1, 1, bands, frames] →
    `logits`."""
    from onnx import TensorProto, helper

    from qmoe_core.bundles.export.graph import IR_VERSION, OPSET, Graph, expert_nodes
    from qmoe_core.bundles.export.graph_network import network_nodes

    g = Graph()
    embedding = "levels" if network is None else network_nodes(g, network, "levels")
    logits = g.node("Identity", expert_nodes(g, head, embedding), to="logits")
    shapes = {"levels": list(shape), logits: [1, head.classes]}
    values = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in shapes.items()}
    graph = helper.make_graph(
        g.nodes, "path", [values["levels"]], [values["logits"]], list(g.constants.values())
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


def _others(embedder: str, network: Network | None, stages: Stages, waveform: np.ndarray) -> list[_Timed]:
    """ONNX Runtime in float and in its own 8 bits and OpenVINO, behind our front end (and our statistics)."""
    import onnxruntime

    def before() -> np.ndarray:
        x = stages.front_end.levels(waveform)
        return stages.embed(x) if network is None else x

    given = np.ascontiguousarray(before()[None] if network is None else before()[None, None])
    model = _model(network, _head("fp32", stages.dim), given.shape)
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
                x[...] = before()
                return session()

            found.append(_Timed(f"{embedder} {name}", "peer", path, note))
    x = given.copy()
    for peer in peers.openvino(lambda: model, x, "levels"):

        def other(x: np.ndarray = x, call: Callable[[], object] = peer.call) -> object:
            x[...] = before()
            return call()

        found.append(_Timed(f"{embedder} {peer.name}", "peer", other, peer.note))
    return found


# --- The run --------------------------------------------------------------------------------------


def run(
    names: Sequence[str],
    n: int,
    progress: Callable[[int, int, str], object] | None = None,
    cancelled: Callable[[], bool] | None = None,
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
    contestants: dict[str, list[_Timed]] = {}
    networks: dict[str, tuple[Network, np.ndarray]] = {}
    for name in names:
        network = None if name == logmel_stats.NAME else random_network(name)
        rate = SAMPLE_RATE if network is None else FRONT_ENDS[name].sample_rate
        noise = np.random.default_rng(0).normal(scale=0.1, size=round(SECONDS * rate)).astype(np.float32)
        stages = {"fp32": stages_of(LogMelStats())} if network is None else _learned(name, network, noise)
        if network is None:  # its numbers are floats under a head of any format
            stages = dict.fromkeys(FORMATS, stages["fp32"])
        x = stages["fp32"].front_end.levels(noise)
        networks |= {f"{name}:{key}": (one.network, x) for key, one in stages.items() if one.network}
        contestants[name] = _others(name, network, stages["fp32"], noise) + _ours(name, stages, noise)
    everyone = [one for group in contestants.values() for one in group]
    times = latency.race(everyone, n=n, progress=progress, cancelled=cancelled)
    rows = []
    for name, group in contestants.items():
        baseline = f"{name} {BASELINE}"
        summary = {row.name: row for row in latency.summarise(group, times, baseline=baseline)}
        costs = {one.name: one.cost for one in group}
        rows += [
            {**_row(name, row, baseline, summary), **costs[row.name]}
            for row in summary.values()
            if row.kind != "stage"
        ]
    with latency.quiet():
        drawn = {name: roofline.layers(network, x) for name, (network, x) in networks.items()}
        drawn = {"roofs": roofline.roofs(), "layers": drawn}
    where = environment.describe(threads=1, batch=1, seconds=SECONDS, weights="random", roofline=drawn)
    return where, rows


def _row(
    embedder: str, row: latency.LatencyRow, baseline: str, summary: dict[str, latency.LatencyRow]
) -> dict[str, Any]:
    front_end = summary[f"{embedder} front end"].p50_us
    stages = {"front_end_us": front_end, "embedder_us": None, "head_us": None}
    if row.kind == "head":
        stages = {"front_end_us": None, "embedder_us": None, "head_us": row.p50_us}
    elif row.kind == "expert":
        stages["embedder_us"] = summary[f"{row.name} embedder"].p50_us
        stages["head_us"] = summary[f"{embedder} head {row.name.removeprefix(f'{embedder}:')}"].p50_us
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
