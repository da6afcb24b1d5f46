"""The ONNX form: one graph from a waveform to the mixture's answer, for machines without this program.

The embedder (log-mel statistics, `ds-cnn` or `mn04`), the scaler, every expert, the router, curiosity by
disagreement (Eq. 8) and the top-k mixture are all in it. Integer formats keep their integers: activations are
quantized per sample to 8 bits as here, products are those of `MatMulInteger` (8 bits) or `MatMulNBits` (4 and
2 bits, ternary; one bit and signs in 2 bits, because ONNX has nothing smaller), 16-bit weights are stored as
such and multiplied as float32, which holds them exactly.

What ONNX has no place for is refused: curiosity that samples the router (`router-mc`) or runs experts one
after the other (`distilled`), and backbones, which have their own exporters.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from qmoe_core import embedders, serve
from qmoe_core.audio import mel
from qmoe_core.audio.decode import WINDOW_S, WINDOW_SAMPLES
from qmoe_core.bundles import Bundle
from qmoe_core.bundles.export.archive import chosen_experts
from qmoe_core.bundles.export.card import AsGraph, card
from qmoe_core.bundles.export.graph_network import decibels, learned
from qmoe_core.embedders import logmel_stats
from qmoe_core.embedders.learned import LearnedEmbedder
from qmoe_core.embedders.logmel_stats import LogMelStats
from qmoe_core.engine import LEVELS, ExpertWeights, HiddenLayer
from qmoe_core.errors import BundleError, ConfigError
from qmoe_core.evaluation import conformal
from qmoe_core.routing.mixing import Settings
from qmoe_core.runtime import system
from qmoe_core.runtime.store import unfinished

OPSET = 21
IR_VERSION = 10
BLOCK = 128
"""Weights that share a scale in `MatMulNBits`; ours share one a row or a layer, so any size would do."""
MICROSOFT = "com.microsoft"
CALLS = 10
"""Timed calls of the whole graph, tens of milliseconds each."""


def export_onnx(
    bundle: Bundle, path: Path, settings: Settings | None = None, *, experts: Sequence[str] | None = None
) -> Path:
    """Write a bundle as an ONNX graph.

    Input `waveform`, float32 [B, n] (5 s at the embedder's sample rate, mono). Outputs, float32:
    `probabilities` [B, C], `expert_probabilities` [B, N, C], `routing` [B, N], `epistemic` [B],
    `doubt` [B] and `embedding` [B, D]. The metadata of the file name classes, experts, front end and the
    bundle's digest, say above which doubt an answer is to be withheld and which labels a prediction set
    holds (JSON, see `conformal.Limits`), and carry its card.

    Args:
        bundle: to be carried.
        path: of the file; an existing one is replaced.
        settings: how to mix; the bundle's own when None.
        experts: in the graph; the mixture's when None. The mixture keeps those of its experts among them.

    Returns:
        The file.

    Raises:
        ConfigError: a curiosity that a graph cannot hold, or an expert that the bundle lacks.
        BundleError: an embedder of timm, or a file that cannot be written.
        ModuleNotFoundError: `onnx` is not installed.
    """
    import onnx

    settings = bundle.settings() if settings is None else settings
    if experts is not None:
        chosen = chosen_experts(bundle, experts)
        kept = tuple(name for name in settings.experts if name in chosen)
        if not kept:
            raise ConfigError(
                f"--experts: none of {', '.join(chosen)} is in the mixture, {', '.join(settings.experts)}"
            )
        settings = replace(settings, experts=kept)
    else:
        chosen = chosen_experts(bundle, settings.experts)
    if settings.curiosity not in ("disagreement", "none"):
        raise ConfigError(
            f"curiosity {settings.curiosity} cannot be a graph; accepted is disagreement or none"
        )
    used = _embedders(bundle, chosen)
    rate = used[0].sample_rate
    model, expert_bytes = _model(bundle, used, settings, chosen)
    window = round(WINDOW_S * rate)
    properties = {
        "title": bundle.title,
        "classes": _json(bundle.classes),
        "experts": _json(chosen),
        "mixture": _json(settings.experts),
        "front_end": ", ".join(one.id for one in used.values()),
        "sample_rate_hz": str(rate),
        "alpha": f"{settings.alpha:g}",
        "top_k": str(settings.top_k),
        "curiosity": settings.curiosity,
        "bundle_digest": bundle.digest,
        "limits": _json(conformal.limits(bundle, settings)),
        "card": card(bundle, AsGraph(settings, expert_bytes, _times(model.SerializeToString(), window))),
    }
    for key, value in properties.items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model)
    temporary = unfinished(path)
    try:
        with temporary.open("xb") as file:
            file.write(model.SerializeToString())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _times(model: bytes, window: int) -> str:
    """How long the graph takes for a clip of so many samples, in a sentence; empty without ONNX Runtime."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return ""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    noise = np.random.default_rng(0).standard_normal((1, window)).astype(np.float32)
    taken = []
    for _ in range(CALLS + 1):
        started = time.perf_counter()
        session.run(None, {"waveform": 0.1 * noise})
        taken.append(time.perf_counter() - started)
    median = 1e3 * float(np.median(taken[1:]))  # the first call also makes room
    return (
        f"The whole graph, from waveform to decision, takes {median:.1f} ms a clip in ONNX "
        f"Runtime {onnxruntime.__version__} where this card was written ({system.processor()}, "
        f"one thread, n = {CALLS}, median)."
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


@dataclass
class Graph:
    """Nodes and constants as they are added; every result is known by its name."""

    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)

    def node(self, kind: str, *inputs: str, to: str = "", domain: str = "", **attributes: Any) -> str:
        from onnx import helper

        name = to or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, domain=domain, **attributes))
        return name

    def top(self, x: str, k: int, *, axis: int, largest: bool) -> tuple[str, str]:
        """The k largest (or smallest) in order, and where they were."""
        from onnx import helper

        values, places = f"top_{len(self.nodes)}", f"places_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(
                "TopK", [x, self.integers(k)], [values, places], name=values, axis=axis, largest=int(largest)
            )
        )
        return values, places

    def cast(self, x: str, kind: Literal["FLOAT", "INT8"]) -> str:
        from onnx import TensorProto, helper

        name = f"cast_{len(self.nodes)}"
        kinds = {"FLOAT": TensorProto.FLOAT, "INT8": TensorProto.INT8}
        self.nodes.append(helper.make_node("Cast", [x], [name], name=name, to=kinds[kind]))
        return name

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(np.array(value, dtype, order="C"), name)
        return name

    @property
    def bytes(self) -> int:
        """Of all constants."""
        return sum(len(constant.raw_data) for constant in self.constants.values())

    def integers(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def mean(self, x: str, axis: int, *, keep: bool = False) -> str:
        return self.node("ReduceMean", x, self.integers(axis), keepdims=int(keep))


def _embedder(g: Graph, embedder: embedders.Embedder, waveform: str) -> str:
    """[B, n] at the embedder's sample rate → [B, D]."""
    if isinstance(embedder, LearnedEmbedder):
        return learned(g, embedder, waveform)
    assert isinstance(embedder, LogMelStats)
    return _statistics(g, embedder, waveform)


def _embedders(bundle: Bundle, experts: tuple[str, ...]) -> dict[int, embedders.Embedder]:
    """The router's embedder and those of some experts, by their place in the bundle.

    Raises:
        BundleError: one is another version, or nothing that can be a graph, or of another sample rate.
    """
    used = {}
    for place in sorted({0, *(bundle.behind(name) for name in experts)}):
        one = used[place] = serve.embedder_of(bundle, bundle.embedders[place].name)
        if not isinstance(one, LogMelStats | LearnedEmbedder):
            raise BundleError(
                f"bundle {bundle.name}: its front end is {one.id}, and only "
                f"{', '.join(embedders.OWN)} can be a graph"
            )
        if one.sample_rate != used[0].sample_rate:
            raise BundleError(
                f"bundle {bundle.name}: {one.id} takes sound of {one.sample_rate:,} Hz and {used[0].id} of "
                f"{used[0].sample_rate:,}, and a graph takes one; leave one's experts out with --experts"
            )
    return used


def _model(
    bundle: Bundle, used: dict[int, embedders.Embedder], settings: Settings, experts: tuple[str, ...]
) -> tuple[Any, dict[str, int]]:
    """The graph, and bytes of the constants of each expert in it."""
    from onnx import TensorProto, helper

    g = Graph()
    z = {}
    for place, embedder in used.items():
        embedding, (mean, std) = _embedder(g, embedder, "waveform"), bundle.scalers[place]
        if place == 0:
            embedding = g.node("Identity", embedding, to="embedding")
        z[place] = g.node("Div", g.node("Sub", embedding, g.constant(mean)), g.constant(std))
    each, sizes = [], {}
    for name in experts:
        before = g.bytes
        logits = expert_nodes(g, bundle.weights(name), z[bundle.behind(name)])
        sizes[name] = g.bytes - before
        each.append(g.node("Unsqueeze", g.node("Softmax", logits, axis=-1), g.integers(1)))
    g.node("Concat", *each, axis=1, to="expert_probabilities")
    mixed = [experts.index(name) for name in settings.experts]
    q = g.node("Gather", "expert_probabilities", g.integers(*mixed), axis=1)
    _mixture(g, bundle, settings, z[0], q)
    most = g.node("ReduceMax", "probabilities", g.integers(1), keepdims=0)
    g.node("Sub", g.constant(1.0), most, to="doubt")

    def value(name: str, *shape: int | str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])

    classes = len(bundle.classes)
    graph = helper.make_graph(
        g.nodes,
        bundle.name,
        [value("waveform", round(WINDOW_S * used[0].sample_rate))],
        [
            value("probabilities", classes),
            value("expert_probabilities", len(experts), classes),
            value("routing", len(mixed)),
            value("epistemic"),
            value("doubt"),
            value("embedding", used[0].dim),
        ],
        list(g.constants.values()),
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="qmoe")
    return model, sizes


def _statistics(g: Graph, embedder: LogMelStats, waveform: str) -> str:
    """Log-mel statistics (see `embedders.logmel_stats`): [B, n] → `embedding` [B, D]."""
    p = embedder.parameters
    frames = mel.frame_count(WINDOW_SAMPLES)
    level, loudest = decibels(g, waveform, p.n_mels, p.range_db)
    if embedder.version > 1:
        level = g.node("Sub", level, g.node("Sub", loudest, g.constant(p.range_db / 2)))
    level = g.node("Transpose", level, perm=[0, 2, 1])
    cepstrum = g.node("MatMul", g.constant(logmel_stats.dct_matrix(p.n_mfcc, p.n_mels)), level)
    rows = g.node("Concat", level, cepstrum, axis=1)
    ordered, _ = g.top(rows, frames, axis=2, largest=False)
    change = g.node(
        "Sub",
        g.node("Slice", rows, g.integers(1), g.integers(frames), g.integers(2)),
        g.node("Slice", rows, g.integers(0), g.integers(frames - 1), g.integers(2)),
    )
    parts = [
        g.mean(rows, 2),
        _deviation(g, rows),
        *(_percentile(g, ordered, q, frames) for q in p.percentiles),
        g.node("ReduceMax", rows, g.integers(2), keepdims=0),
        g.mean(g.node("Abs", change), 2),
        _deviation(g, change),
        _modulation(g, level, p, frames),
    ]
    return g.node("Concat", *parts, axis=1)


def _deviation(g: Graph, rows: str) -> str:
    centred = g.node("Sub", rows, g.mean(rows, 2, keep=True))
    return g.node("Sqrt", g.mean(g.node("Mul", centred, centred), 2))


def _percentile(g: Graph, ordered: str, q: float, frames: int) -> str:
    position = (frames - 1) * q / 100.0
    below = int(position)
    low = g.node("Gather", ordered, g.constant(below, np.int64), axis=2)
    high = g.node("Gather", ordered, g.constant(min(below + 1, frames - 1), np.int64), axis=2)
    return g.node(
        "Add", low, g.node("Mul", g.node("Sub", high, low), g.constant(np.float32(position - below)))
    )


def _modulation(g: Graph, level: str, p: logmel_stats.Parameters, frames: int) -> str:
    """See `logmel_stats.modulation_spectrum`; the transform is two products with constants."""
    window, edges = logmel_stats.modulation_constants(frames, p.modulation_bands)
    shape = g.integers(0, p.modulation_groups, p.n_mels // p.modulation_groups, frames)
    envelopes = g.mean(g.node("Reshape", level, shape), 2)
    envelopes = g.node("Sub", envelopes, g.mean(envelopes, 2, keep=True))
    bins = np.arange(1, frames // 2 + 1)
    angle = 2 * np.pi / frames * np.outer(np.arange(frames), bins)
    power = [
        g.node("Mul", part, part)
        for wave in (np.cos(angle), np.sin(angle))
        for part in [g.node("MatMul", envelopes, g.constant(window[:, None] * wave))]
    ]
    pooling = np.zeros((len(bins), p.modulation_bands))
    for band, (start, end) in enumerate(pairwise(edges)):
        pooling[start:end, band] = 1.0 / (end - start)
    pooled = g.node("MatMul", g.node("Add", *power), g.constant(pooling))
    log1p = g.node("Log", g.node("Add", g.node("Sqrt", pooled), g.constant(1.0)))
    return g.node("Reshape", log1p, g.integers(0, p.modulation_groups * p.modulation_bands))


def expert_nodes(g: Graph, weights: ExpertWeights, z: str) -> str:
    """Standardised embeddings [B, D] → logits [B, C]."""
    for layer in weights.layers:
        product = g.node("Add", _product(g, layer, z), g.constant(layer.bias))
        norm = g.node(
            "LayerNormalization", product, g.constant(layer.gamma), g.constant(layer.beta), epsilon=1e-5
        )
        z = g.node("Relu", norm)
    return _linear(g, weights.head_weight, weights.head_bias, z)


def _linear(g: Graph, weight: np.ndarray, bias: np.ndarray, x: str) -> str:
    return g.node("Add", g.node("MatMul", x, g.constant(weight.T)), g.constant(bias))


def _product(g: Graph, layer: HiddenLayer, x: str) -> str:
    """W x of a hidden layer, with its own quantization of x."""
    if layer.format == "float":
        return g.node("MatMul", x, g.constant(layer.matrix.T))
    if layer.format == "sign":
        above = g.node("Greater", x, g.constant(layer.threshold))
        signs = g.node("Where", above, g.constant(1.0), g.constant(-1.0))
        return g.node("Mul", _few_bits(g, layer, signs), g.constant(layer.scale))
    most = g.node("ReduceMax", g.node("Abs", x), g.integers(-1), keepdims=1)
    most = g.node("Max", most, g.constant(np.finfo(np.float32).tiny))  # silence divides by no zero
    levels = g.node("Round", g.node("Mul", x, g.node("Div", g.constant(127.0), most)))
    if LEVELS[layer.format].field == 8:
        whole = g.cast(levels, "INT8")
        product = g.cast(g.node("MatMulInteger", whole, g.constant(layer.matrix.T, np.int8)), "FLOAT")
    elif LEVELS[layer.format].field == 16:
        stored = g.constant(layer.matrix.T, np.int16)
        product = g.node("MatMul", levels, g.node("DequantizeLinear", stored, g.constant(1.0)))
    else:
        product = _few_bits(g, layer, levels)
    # One factor after the other: ONNX Runtime takes a product of both for the scales of its own quantization,
    # and fuses them with MatMulInteger into something less exact.
    return g.node("Mul", g.node("Mul", product, most), g.constant(layer.scale / np.float32(127.0)))


def _few_bits(g: Graph, layer: HiddenLayer, x: str) -> str:
    """Integers times levels of at most 4 bits; the sums are exact in float32. The operator knows fields of 2
    and 4 bits."""
    bits = max(2, LEVELS[layer.format].field)
    blocks = -(-layer.inputs // BLOCK)
    middle = 1 << (bits - 1)
    codes = np.full((layer.outputs, blocks * BLOCK), middle, np.uint8)
    codes[:, : layer.inputs] = layer.matrix.astype(np.int16) + middle
    each = 8 // bits
    parts = codes.reshape(layer.outputs, -1, each)
    stored = np.zeros(parts.shape[:2], np.uint8)
    for i in range(each):
        stored |= parts[:, :, i] << (bits * i)
    return g.node(
        "MatMulNBits",
        x,
        g.constant(stored.reshape(layer.outputs, blocks, -1), np.uint8),
        g.constant(np.ones(layer.outputs * blocks)),
        domain=MICROSOFT,
        K=layer.inputs,
        N=layer.outputs,
        bits=bits,
        block_size=BLOCK,
        accuracy_level=1,
    )


def _mixture(g: Graph, bundle: Bundle, settings: Settings, z: str, q: str) -> None:
    """Router, curiosity and top-k (Eq. 5–8): the outputs `probabilities`, `routing` and `epistemic`."""
    names = settings.experts
    hidden = z
    router = bundle.router
    for weight, bias in zip(router.weights[:-1], router.biases[:-1], strict=True):
        hidden = g.node("Relu", _linear(g, weight, bias, hidden))
    rows = [bundle.experts.index(name) for name in names]
    logits = _linear(g, router.weights[-1][rows], router.biases[-1][rows], hidden)
    logits = g.node("Div", logits, g.constant(settings.temperature))
    tiny = g.constant(np.finfo(np.float32).tiny)
    mean = g.mean(q, 1, keep=True)
    ratio = g.node("Sub", g.node("Log", g.node("Max", q, tiny)), g.node("Log", g.node("Max", mean, tiny)))
    disagreement = g.node("ReduceSum", g.node("Mul", q, ratio), g.integers(2), keepdims=0)
    g.node("ReduceMean", disagreement, g.integers(1), keepdims=0, to="epistemic")
    if settings.curiosity == "disagreement" and settings.alpha > 0.0:
        scale = bundle.mean_interest(settings)
        bonus = g.node("Mul", disagreement, g.constant(settings.alpha / scale))
        logits = g.node("Add", g.node("LogSoftmax", logits, axis=-1), bonus)
    g.node("Softmax", logits, axis=-1, to="routing")
    weights = _top(g, "routing", min(settings.top_k, len(names)), len(names))
    share = g.node("Unsqueeze", weights, g.integers(2))
    if settings.mix == "probabilities":
        g.node("ReduceSum", g.node("Mul", q, share), g.integers(1), keepdims=0, to="probabilities")
    else:
        logs = g.node("Log", g.node("Max", q, tiny))  # logits but for a constant, which softmax forgets
        summed = g.node("ReduceSum", g.node("Mul", logs, share), g.integers(1), keepdims=0)
        g.node("Softmax", summed, axis=-1, to="probabilities")


def _top(g: Graph, routing: str, k: int, n: int) -> str:
    """The k largest of [B, n], renormalised; of equals the earlier wins, as TopK has it."""
    if k == n:
        return routing
    _, which = g.top(routing, k, axis=1, largest=True)
    marks = g.node("OneHot", which, g.constant(n, np.int64), g.constant([0.0, 1.0]), axis=-1)
    kept = g.node("Mul", routing, g.node("ReduceSum", marks, g.integers(1), keepdims=0))
    return g.node("Div", kept, g.node("ReduceSum", kept, g.integers(1), keepdims=1))
