"""Where bits cost: one layer at a time in few bits, and mixes of formats whose every point is measured.

Nothing is trained here but the float heads of the folds. A layer in a format is the float network's, rounded;
a mix takes each layer from the network that was made in that layer's format, with its levels. What a head
says of a clip is what the fold says that did not train on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from qmoe_core.audio import decode
from qmoe_core.datasets.manifest import Manifest
from qmoe_core.embedders import models
from qmoe_core.embedders.embed import HOP_S
from qmoe_core.embedders.learned import LearnedEmbedder
from qmoe_core.engine import ExpertWeights, HiddenLayer, PackedExpert, from_tensors, network_storage
from qmoe_core.engine.network import ConvLayer, Network
from qmoe_core.engine.packed_network import PackedNetwork
from qmoe_core.errors import UserError
from qmoe_core.evaluation.selective import resampled
from qmoe_core.measure import latency, roofline
from qmoe_core.runtime.executor import Context

if TYPE_CHECKING:
    from qmoe_core.config import Config
    from qmoe_core.training.crossval import FoldResult, Subject

BITS = {8: "int8", 4: "int4", 2: "int2", 1: "int1"}
LADDER = ("q8", "q4", "q3", "q2", "q1")
"""Formats of a mix, from the most bits to the fewest."""
HEAD_FORMATS = ("float", "int16", "int8", "int4", "int3", "int2", "ternary", "int1")
SMALL_SHARE = 0.02
"""Layers with less of the weights stay at 8 bits in a mix: nothing is won by them."""
MARGIN = 0.005
"""Of accuracy: how far below uniform 8 bits a mix may be."""


@dataclass(frozen=True)
class LayerRow:
    """One layer in few bits, the others float.

    Attributes:
        part: `embedder` or `head`; depth: from 0, over both; weights: of the layer.
        bytes: stored at those bits; us: time of the layer so; None for a head's.
        accuracy: out of fold; delta: from the float network's.
        cosine: of the embedding with the float one, or of the head's logits, mean over clips.
    """

    part: str
    layer: str
    depth: int
    kind: str
    weights: int
    bits: int
    bytes: int
    us: float | None
    accuracy: float
    delta: float
    cosine: float


@dataclass(frozen=True)
class LayerMix:
    """A network whose layers are in several formats; activations are bytes.

    Attributes:
        assignment: format of each large layer (the others are those of 8 bits); bytes: of its file.
        delta: of accuracy from uniform 8 bits; ci95: over recordings, paired.
        p50_us: of the network on one clip; None where it was not timed.
    """

    assignment: dict[str, str]
    bytes: int
    accuracy: float
    cosine: float
    delta: float
    ci95: tuple[float, float]
    p50_us: float | None = None

    @property
    def uniform(self) -> str | None:
        """Its format where that is one."""
        names = set(self.assignment.values())
        return next(iter(names)) if len(names) == 1 else None


@dataclass(frozen=True)
class HeadMix:
    """A head whose two hidden layers are in formats, behind the float embedder."""

    formats: tuple[str, ...]
    bytes: int
    accuracy: float


@dataclass(frozen=True)
class LayerSweep:
    """What `qmoe sweep layers` found.

    Attributes:
        mixes: those that nothing beats in bytes and accuracy, and all uniform ones.
        measured: how many were measured.
        chosen: see `choose`.
    """

    dataset: str
    embedder: str
    n: int
    accuracy: float
    rows: list[LayerRow]
    mixes: list[LayerMix]
    heads: list[HeadMix]
    measured: int
    chosen: LayerMix | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


Head = tuple[np.ndarray, ExpertWeights, np.ndarray, np.ndarray]


class Judge:
    """Clips, and heads that judge embeddings of them.

    Args:
        network: the float one; levels: float32 [W, bands, frames], what it is shown; owners: of which of n
            clips each is, int [W]; labels: int [n]; sources: the recording that each clip was cut from, [n].
        heads: of each fold, the clips it did not train on, its weights, mean and deviation.
    """

    def __init__(
        self,
        network: Network,
        levels: np.ndarray,
        owners: np.ndarray,
        labels: np.ndarray,
        sources: np.ndarray,
        heads: Sequence[Head],
    ) -> None:
        self.network, self.levels, self.owners = network, levels, owners
        self.labels, self.sources, self.heads = labels, sources, heads
        self._packed = [PackedExpert(head) for _, head, _, _ in heads]
        self.float = self.embedded(network)
        self.right = self.judged(self.float)

    def embedded(self, network: Network) -> np.ndarray:
        """Mean over each clip's windows, float32 [n, D]."""
        each = PackedNetwork(network).embed(self.levels)
        sums = np.zeros((len(self.labels), each.shape[1]), np.float32)
        np.add.at(sums, self.owners, each)
        return sums / np.bincount(self.owners)[:, None]

    def logits(self, embeddings: np.ndarray, formats: Sequence[str] = ()) -> np.ndarray:
        """Out of fold, float32 [n, C]; the heads' hidden layers in these formats, or all float."""
        found = np.zeros((len(self.labels), self.heads[0][1].classes), np.float32)
        for packed, (test, head, mean, std) in zip(self._packed, self.heads, strict=True):
            one = PackedExpert(_head_in(head, formats)) if formats else packed
            found[test] = one.logits((embeddings[test] - mean) / std)
        return found

    def judged(self, embeddings: np.ndarray) -> np.ndarray:
        """Which clips are judged rightly, float64 [n]."""
        return (self.logits(embeddings).argmax(1) == self.labels).astype(float)


def judge_of(manifest: Manifest, embedder: LearnedEmbedder, heads: Sequence[Head]) -> Judge:
    """A data set's clips, in windows as they are embedded.

    Raises:
        AudioError: a clip that cannot be read.
    """
    owners, levels = [], []
    for owner, entry in enumerate(manifest.entries):
        with decode.open_recording(entry.path, rate=embedder.sample_rate) as recording:
            for window in decode.cut(recording, HOP_S):
                owners.append(owner)
                levels.append(embedder.front_end.levels(window.prepared))
    labels, sources = ([getattr(entry, key) for entry in manifest.entries] for key in ("label", "source"))
    return Judge(
        embedder.network, np.stack(levels), np.array(owners), np.array(labels), np.array(sources), heads
    )


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over rows."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.mean((a * b).sum(1) / np.maximum(lengths, 1e-30)))


def rounded(layer: ConvLayer, format: str) -> ConvLayer:
    """A float layer with its weights at the nearest levels."""
    from qmoe_core.embedders.quantization.network import Convolution

    return Convolution(layer, format).described(None)


def _head_in(head: ExpertWeights, formats: Sequence[str]) -> ExpertWeights:
    """An expert whose hidden layers are rounded to formats."""

    def one(layer: HiddenLayer, format: str) -> HiddenLayer:
        if format == "float":
            return layer
        plain = ConvLayer(
            name="head", kind="pointwise", weight=layer.matrix[:, :, None, None], bias=layer.bias
        )
        made = rounded(plain, format)
        codes = made.matrix[:, :, 0, 0]
        assert made.scale is not None
        return replace(layer, format=format, weight=None, codes=codes, scale=made.scale)

    layers = tuple(one(layer, format) for layer, format in zip(head.layers, formats, strict=True))
    return replace(head, layers=layers)


def changed(network: Network, layers: Mapping[str, ConvLayer]) -> Network:
    """A network with some of its layers replaced, by name."""

    def take(layer: ConvLayer) -> ConvLayer:
        return layers.get(layer.name, layer)

    blocks = []
    for block in network.blocks:
        squeeze = block.squeeze
        if squeeze is not None:
            squeeze = replace(squeeze, reduce=take(squeeze.reduce), expand=take(squeeze.expand))
        blocks.append(replace(block, layers=tuple(map(take, block.layers)), squeeze=squeeze))
    return replace(network, blocks=tuple(blocks))


# --- One layer at a time --------------------------------------------------------------------------


def sensitivities(made: Mapping[str, Network], judge: Judge, context: Context) -> list[LayerRow]:
    """Every layer of embedder and head at every number of bits, the others float.

    Args:
        made: the network in formats, whose layers are timed.
    """
    with latency.quiet():
        us = {
            (bits, row["name"]): row["us"]
            for bits in BITS
            for row in roofline.layers(made[f"q{bits}"], judge.levels[0])
        }
    network = judge.network
    show, layers = context.progress("layers"), list(network.layers)
    hidden = judge.heads[0][1].layers
    total, done, rows = len(BITS) * (len(layers) + len(hidden)), 0, []
    accuracy = float(judge.right.mean())
    for depth, layer in enumerate(layers):
        for bits, format in BITS.items():
            one = rounded(layer, format)
            embeddings = judge.embedded(changed(network, {layer.name: one}))
            right = float(judge.judged(embeddings).mean())
            stored, close = roofline.stored_bytes(one), cosine(embeddings, judge.float)
            rows.append(LayerRow(
                "embedder", layer.name, depth, layer.kind, layer.matrix.size, bits, stored,
                us[bits, layer.name], right, right - accuracy, close,
            ))  # fmt: skip
            show(done := done + 1, total, f"{layer.name} in {bits} bits")
    plain = judge.logits(judge.float)
    for i, layer in enumerate(hidden):
        for bits, format in BITS.items():
            formats = tuple(format if j == i else "float" for j in range(len(hidden)))
            logits = judge.logits(judge.float, formats)
            right = float((logits.argmax(1) == judge.labels).mean())
            stored = -(-layer.inputs * bits // 8) * layer.outputs + 4 * layer.outputs
            rows.append(LayerRow(
                "head", f"head.{i}", len(layers) + i, "dense", layer.matrix.size, bits, stored, None, right,
                right - accuracy, cosine(logits, plain),
            ))  # fmt: skip
            show(done := done + 1, total, f"layer {i} of the head in {bits} bits")
    return rows


def head_mixes(judge: Judge) -> list[HeadMix]:
    """Every mix of formats of the head's hidden layers, the fewest bytes first."""
    head, found = judge.heads[0][1], []
    for formats in product(HEAD_FORMATS, repeat=len(head.layers)):
        right = judge.logits(judge.float, formats).argmax(1) == judge.labels
        size = sum(_head_bytes(layer, format) for layer, format in zip(head.layers, formats, strict=True))
        found.append(HeadMix(formats, size, float(right.mean())))
    return sorted(found, key=lambda mix: (mix.bytes, -mix.accuracy))


def _head_bytes(layer: HiddenLayer, format: str) -> int:
    bits = {"float": 32, "ternary": 2}.get(format) or int(format.removeprefix("int"))
    return layer.outputs * (-(-layer.inputs * bits // 8) + 4 * (3 if format == "float" else 4))


# --- Mixes ----------------------------------------------------------------------------------------


def made_in(judge: Judge) -> dict[str, Network]:
    """The judge's network in each format of `LADDER`: trained in it where that is on this machine, else
    rounded and calibrated on every eighth clip."""
    import torch

    from qmoe_core.embedders.quantization.network import QuantizedNetwork, formats_of
    from qmoe_core.experts.spec import EXPERTS

    network, found = judge.network, {}
    for name in LADDER:
        if models.path(f"{network.name}:{name}") is not None:
            found[name] = models.network(f"{network.name}:{name}")
            continue
        student = QuantizedNetwork(network, formats_of(network, EXPERTS[name])).eval()
        student.calibrate([torch.from_numpy(judge.levels[::8])])
        found[name] = student.described()
    return found


class _Search:
    """Measures mixes, each once."""

    def __init__(self, made: Mapping[str, Network], judge: Judge, context: Context) -> None:
        self.made, self.judge = made, judge
        self.layers = {name: {one.name: one for one in network.layers} for name, network in made.items()}
        total = sum(layer.matrix.size for layer in made["q8"].layers)
        self.large = [one.name for one in made["q8"].layers if one.matrix.size >= SMALL_SHARE * total]
        self.found: dict[tuple[str, ...], LayerMix] = {}
        self.show = context.progress("mixes")
        self.yardstick: np.ndarray | None = None

    def network(self, formats: Sequence[str]) -> Network:
        chosen = zip(self.large, formats, strict=True)
        return changed(self.made["q8"], {name: self.layers[format][name] for name, format in chosen})

    def measure(self, formats: tuple[str, ...]) -> LayerMix:
        if formats not in self.found:
            network = self.network(formats)
            embeddings = self.judge.embedded(network)
            right = self.judge.judged(embeddings)
            if self.yardstick is None:  # the first is uniform 8 bits
                self.yardstick = right
            delta, ci95 = resampled(right - self.yardstick, self.judge.sources)
            self.found[formats] = LayerMix(
                dict(zip(self.large, formats, strict=True)), len(network_storage.dumps(network)),
                float(right.mean()), cosine(embeddings, self.judge.float), delta, ci95,
            )  # fmt: skip
            self.show(len(self.found), len(self.found), f"{self.found[formats].bytes:,} bytes")
        return self.found[formats]

    def run(self) -> None:
        """All uniform ones; every network that changes once from one format to another; and from uniform 8
        bits down, a step at a time, the layer that costs the least cosine for the bytes it saves."""
        many = len(self.large)
        for name in LADDER:
            self.measure((name,) * many)
        for first in LADDER:
            for second in LADDER:
                for cut in range(1, many):
                    self.measure((first,) * cut + (second,) * (many - cut))
        here = (LADDER[0],) * many
        while steps := [
            (*here[:i], LADDER[LADDER.index(here[i]) + 1], *here[i + 1 :])
            for i in range(many)
            if here[i] != LADDER[-1]
        ]:
            before = self.measure(here)

            def worth(formats: tuple[str, ...], before: LayerMix = before) -> float:
                mix = self.measure(formats)
                return max(before.cosine - mix.cosine, 1e-4) / max(before.bytes - mix.bytes, 1)

            here = min(steps, key=worth)


def front(mixes: Sequence[LayerMix]) -> list[LayerMix]:
    """Those that nothing beats in bytes and accuracy, the fewest bytes first."""
    kept, best = [], -1.0
    for mix in sorted(mixes, key=lambda mix: (mix.bytes, -mix.accuracy)):
        if mix.accuracy > best:
            kept, best = [*kept, mix], mix.accuracy
    return kept


def choose(mixes: Sequence[LayerMix], most_bytes: float | None, most_us: float | None) -> LayerMix | None:
    """Within a budget the most accurate; without one the fewest bytes within `MARGIN` of uniform 8 bits."""
    if most_bytes is None and most_us is None:
        near = [mix for mix in mixes if mix.delta >= -MARGIN - 1e-9]
        return min(near, key=lambda mix: (mix.bytes, -mix.accuracy), default=None)
    within = [
        mix
        for mix in mixes
        if (most_bytes is None or mix.bytes <= most_bytes)
        and (most_us is None or (mix.p50_us is not None and mix.p50_us <= most_us))
    ]
    return max(within, key=lambda mix: (mix.accuracy, -mix.bytes), default=None)


def heads_of(subject: Subject, results: Sequence[FoldResult], config: Config, context: Context) -> list[Head]:
    """The float heads of a cross-validation, as `Judge` takes them.

    Raises:
        UserError: the store lost one.
    """
    from qmoe_core.training import crossval

    found = []
    for result in results:
        entry = context.store.get(crossval.KIND, crossval.Task(subject, "fp32", result.split, config).key)
        if entry is None:
            raise UserError("a head was damaged in the store; start again to train it anew")
        head = from_tensors(entry.tensors, {"name": "fp32"}, "refit.")
        found.append((result.test, head, entry.tensors["mean"], entry.tensors["std"]))
    return found


def sweep(
    judge: Judge,
    dataset: str,
    context: Context,
    *,
    most_bytes: float | None = None,
    most_us: float | None = None,
) -> tuple[LayerSweep, Network | None]:
    """Layers one at a time, then mixes.

    Args:
        dataset: the name of the judge's.
        most_bytes, most_us: budgets of the embedder's network, see `choose`.

    Returns:
        What was found, and the chosen mix as a network.
    """
    made = made_in(judge)
    rows = sensitivities(made, judge, context)
    search = _Search(made, judge, context)
    search.run()
    best = {id(mix) for mix in front(list(search.found.values()))}
    timed = []
    with latency.quiet():
        for formats, mix in search.found.items():
            if id(mix) in best or mix.uniform:
                packed, x = PackedNetwork(search.network(formats)), judge.levels[0]
                timed.append(replace(mix, p50_us=roofline.median_us(partial(packed.embed, x))))
    mixes = sorted(timed, key=lambda mix: mix.bytes)
    chosen = choose(mixes, most_bytes, most_us)
    network = search.network(tuple(chosen.assignment.values())) if chosen else None
    found = LayerSweep(
        dataset, judge.network.name, len(judge.labels), float(judge.right.mean()), rows, mixes,
        head_mixes(judge), len(search.found), chosen,
    )  # fmt: skip
    return found, network
