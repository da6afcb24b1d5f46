"""Claims 12–18, 39 and 41: what the formats are, what they cost, and which sizes belong to which model."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from qmoe_core import engine
from qmoe_core.evaluation.formats import weight_grid
from qmoe_core.evaluation.significance import bootstrap_interval, resample_groups
from qmoe_core.measure import latency, peers, size
from qmoe_core.measure.latency import Contestant
from qmoe_core.numbers import percent, signed
from qmoe_core.paper import reference, short
from qmoe_core.paper.claim import (
    COMMIT,
    Claim,
    ClaimFigure,
    Figures,
    Materials,
    Ruling,
    Series,
    Values,
    ruling,
)
from qmoe_core.paper.tables import MODELS, table
from qmoe_core.runtime.system import processor

SIMULATED_CALLS = 100
SIMULATED, PACKED = "4-bit, simulated in float", "4-bit, packed"
MARGIN = 0.02
"""Of accuracy: differences below are called none."""
RETAINED = 0.983
"""Of the 16-bit F1, by 1 bit (§5.2)."""
POPCOUNT_CLIPS = 60
SIXTEEN_BITS = 16
CHANNELS = sum(reference.HIDDEN)
"""Output channels of the hidden layers, each with a scale of its own in BitNet."""


def _table7(model: str, key: str) -> float:
    return table(7).row(model=model)[key].value or 0.0


def _architecture(m: Materials) -> Figures:
    floating = m.bundle.weights("fp32")
    rounded = engine.PackedExpert(replace(floating, layers=tuple(map(_sixteen_bits, floating.layers))))
    plain_logits, logits = m.bundle.expert("fp32").logits(m.z), rounded.logits(m.z)
    scores = {
        pre_norm: np.array(
            [
                short.by_epoch(m, fold.train, fold.test, pre_norm=pre_norm)[0][-1]
                for fold in short.folds(m, "official")
            ]
        )
        for pre_norm in (False, True)
    }
    gain = scores[True] - scores[False]
    low, high = bootstrap_interval(gain, lambda s: s.mean(axis=1))
    f1 = {name: table(1).row(model=name)["mean"].value or 0.0 for name in ("Q16-Base", "FP32-Base")}
    values = {
        "fp32": _table7("FP32-Base", "params"),
        "q16": _table7("Q16-Base", "params"),
        "pre_norm": float(
            reference.expert_parameters(1536, 50, pre_norm=True)
            - reference.expert_parameters(1536, 50, pre_norm=False)
        ),
        "rounding_labels": float((logits.argmax(axis=1) != plain_logits.argmax(axis=1)).mean()),
        "printed_gain": f1["Q16-Base"] - f1["FP32-Base"],
        "pre_norm_gain": float(gain.mean()),
        "pre_norm_low": low,
        "pre_norm_high": high,
        "clips": float(len(m.z)),
    }
    return Figures(values, f"Tables 1 and 7; {m.clips}; 5 folds, {short.basis()}")


def _sixteen_bits(layer: engine.HiddenLayer) -> engine.HiddenLayer:
    """A float layer whose weights are rounded to 16 bits by Eq. 2 and back."""
    step = np.abs(layer.matrix).max() / reference.symmetric_top_level(SIXTEEN_BITS)
    return replace(layer, weight=(np.rint(layer.matrix / step) * step).astype(np.float32))


def _judge_architecture(v: Values) -> Ruling:
    more = v["q16"] - v["fp32"]
    explained = "exactly" if more == v["pre_norm"] else "not"
    ours = (
        f"Q1 to Q16 have {more:,.0f} parameters more than FP32, {explained} a LayerNorm before each hidden "
        f"layer ({v['pre_norm']:,.0f}). Rounding a float network’s weights to 16 bits changes the label of "
        f"{percent(v['rounding_labels'], 1)} of {v['clips']:.0f} clips; adding that LayerNorm changes F1 by "
        f"{signed(v['pre_norm_gain'])} (95 %: {signed(v['pre_norm_low'])} to {signed(v['pre_norm_high'])}), "
        f"Table 1 has Q16 {signed(v['printed_gain'])} above FP32."
    )
    return ruling(
        more == 0.0,
        ours,
        "All formats have the same parameters, so the bit width is all that differs.",
        "The quantized models have a LayerNorm that the float one lacks, so what Q16 gains over FP32 is "
        "not the bit width’s: its “16 bits” are float, and rounding to real 16 bits would be next to "
        "nothing.",
    )


def _simulated(m: Materials) -> Figures:
    values, picture = {}, None
    for batch in (1, reference.BATCH):
        rows = _race(batch)
        slow, fast = rows[SIMULATED], rows[PACKED]
        end = f"_{batch}"
        values |= {
            f"simulated{end}": slow.speedup_vs_fp32,
            f"simulated{end}_low": slow.ci95[0],
            f"simulated{end}_high": slow.ci95[1],
            f"packed{end}": fast.speedup_vs_fp32,
            f"fp32_us{end}": rows[peers.TORCH_FP32].p50_us,
        }
        medians = Series("median", list(rows), [row.p50_us for row in rows.values()])
        picture = ClaimFigure("bars", "", f"time of a call of {batch}, µs", (medians,), log="y")
    shape = "–".join(map(str, size.PAPER_SHAPE))
    basis = (
        f"n = {SIMULATED_CALLS} calls each, interleaved, batches of 1 and {reference.BATCH}, 1 thread, "
        f"{processor()}, network {shape}"
    )
    return Figures(values, basis, picture)


def _race(batch: int) -> dict[str, latency.LatencyRow]:
    """Torch fp32, 4 bits as the code simulates them, and 4 bits packed; by name."""
    import torch

    from qmoe_core.paper.reference_networks import requantising

    floating, four = size.random_expert("fp32"), engine.PackedExpert(size.random_expert("q4"))
    x = np.random.default_rng(0).normal(size=(batch, floating.dim)).astype(np.float32)
    simulated, given = requantising(peers.torch_network(floating), 4), torch.from_numpy(x)

    @torch.inference_mode()
    def requantise() -> object:
        return simulated(given)

    contestants = [
        *peers.torch_only(floating, x),
        Contestant(SIMULATED, "peer", requantise),
        Contestant(PACKED, "expert", partial(four.logits, x)),
    ]
    times = latency.race(contestants, n=SIMULATED_CALLS)
    return {row.name: row for row in latency.summarise(contestants, times, baseline=peers.TORCH_FP32)}


def _judge_simulated(v: Values) -> Ruling:
    many = reference.BATCH
    ours = (
        f"At the code’s batch of {many} 4 bits simulated as in the code are {v[f'simulated_{many}']:.2f}× as "
        f"fast as torch fp32 (95 %: {v[f'simulated_{many}_low']:.2f}–{v[f'simulated_{many}_high']:.2f}), at "
        f"batch 1 {v['simulated_1']:.3f}× ({v['simulated_1_low']:.3f}–{v['simulated_1_high']:.3f}); 4 bits "
        f"really packed are {v[f'packed_{many}']:.1f}× and {v['packed_1']:.1f}×."
    )
    return ruling(
        v[f"simulated_{many}_low"] > 1.0,
        ours,
        "Computing as the code does, fewer bits are faster than float.",
        "The code rounds float weights again at every call and multiplies floats, which can only cost time: "
        "none of its figures of speed, memory or energy comes from the bit width.",
    )


def _two_bits(m: Materials) -> Figures:
    f1 = {bits: table(2).row(bits=bits, dataset="ESC-50")["f1"].value or 0.0 for bits in ("1", "2")}
    grids = {name: weight_grid(m.bundle, name) for name in ("q2", "bitnet", "q4")}
    values = {
        "divisor": float(reference.symmetric_top_level(1)),
        "f1_1": f1["1"],
        "f1_2": f1["2"],
        "zeros": grids["q2"].zeros,
        "zeros_ternary": grids["bitnet"].zeros,
        "lowest": float(grids["q2"].share[0]),
        "entropy": grids["q2"].entropy_bits,
    }
    reach = {name: float(np.abs(grid.values).max()) for name, grid in grids.items()}
    picture = ClaimFigure(
        "lines",
        "weight / largest",
        "share of the weights",
        tuple(
            Series(name, (grid.values / reach[name]).tolist(), grid.share.tolist())
            for name, grid in grids.items()
        ),
    )
    return Figures(values, f"Table 2; first layer of the bundle {m.bundle.name}", picture)


def _judge_two_bits(v: Values) -> Ruling:
    ours = (
        f"At k = 1 Eq. 2 divides by {v['divisor']:.0f}. At k = 2 its grid is −2, −1, 0, 1 with "
        f"{percent(v['zeros'], 0)} of our weights at 0 and {percent(v['lowest'], 1)} at −2 "
        f"({v['entropy']:.2f} bits of 2); BitNet’s three levels have {percent(v['zeros_ternary'], 0)} zeros. "
        f"In Table 2 one bit is better ({v['f1_1']:.3f}) than two ({v['f1_2']:.3f})."
    )
    return ruling(
        v["divisor"] != 0.0 and v["f1_2"] >= v["f1_1"],
        ours,
        "Eq. 2 is defined for every width, and F1 falls as the width does.",
        "Eq. 2 has no value at 1 bit (the code takes an unscaled sign), and the cliff at 2 bits is no "
        "lack of precision, since 1 bit is better: scaling by the maximum leaves a poor ternary grid.",
    )


def _learned(m: Materials) -> Figures:
    from qmoe_core.experts.network import ExpertNetwork
    from qmoe_core.paper.reference_networks import ComputedTernaryNetwork

    fold = short.folds(m, "official")[0]
    networks = {
        kind: short.train_anew(m, fold.train, fold.test, kind=build, name=name).network
        for kind, build, name in (
            ("theirs", ComputedTernaryNetwork, "fp32"),
            ("ours", ExpertNetwork, "bitnet"),
        )
    }
    values = {kind: scale_deviation(network.hidden[0]) for kind, network in networks.items()}
    values |= {f"{kind}_zeros": moved_zeros(network.hidden[0]) for kind, network in networks.items()}
    values |= {
        "parameters_more": _table7("BitNet-Base", "params") - _table7("Q4-Base", "params"),
        "channels": float(CHANNELS),
    }
    return Figures(
        values, f"Table 7; {m.clips}; 1 fold, {short.basis()}; the code transcribed, commit dfbb02c"
    )


def scale_deviation(layer: Any) -> float:
    """How far a ternary layer's scales are from the mean |W| of the weights that it keeps; a share, mean.

    0 where they are computed of the weights (less their mean, or as they are), more where they are learned.

    Args:
        layer: has `weight` [N, K] and gives with `effective_weight()` what products are made with.
    """
    weight, effective = (t.detach().numpy() for t in (layer.weight, layer.effective_weight()))
    kept, scale = effective != 0.0, np.abs(effective).max(axis=1)
    computed = [
        (np.abs(w) * kept).sum(axis=1) / np.maximum(kept.sum(axis=1), 1)
        for w in (weight, weight - weight.mean(axis=1, keepdims=True))
    ]
    return min(float(np.abs(scale / np.maximum(one, 1e-12) - 1.0).mean()) for one in computed)


def moved_zeros(layer: Any) -> float:
    """Share of weights that are zero, or are not, other than a threshold of 0.05 of the mean |W| would say.

    Args:
        layer: as for `scale_deviation`.
    """
    weight, effective = (t.detach().numpy() for t in (layer.weight, layer.effective_weight()))
    size = np.abs(weight - weight.mean(axis=1, keepdims=True))
    expected = size >= reference.TERNARY_THRESHOLD * size.mean(axis=1, keepdims=True)
    return float(((effective != 0.0) != expected).mean())


def _judge_learned(v: Values) -> Ruling:
    ours = (
        f"After a training the scales of the code’s layer are those computed of its weights, to "
        f"{percent(v['theirs'], 2)}, and its zeros are those below 0.05 of the mean |W|, but for "
        f"{percent(v['theirs_zeros'], 2)} of the weights; a layer that learns both is "
        f"{percent(v['ours'], 1)} and {percent(v['ours_zeros'], 1)} away. "
        f"Table 7 cannot tell: BitNet has {v['parameters_more']:,.0f} parameters more than Q4, as ours would "
        f"by the same count, which leaves out {2 * v['channels']:,.0f} learned numbers."
    )
    return ruling(
        v["theirs"] > 1e-3 and v["theirs_zeros"] > 1e-3,
        ours,
        "Scale and zeros of a trained layer are others than its weights give.",
        "At this commit threshold (a fixed share of the mean |W|) and scale (the mean above it) are computed "
        "of the weights, and the activations are ternarised as well; neither is learned beside them.",
    )


def _popcount(m: Materials) -> Figures:
    matrix, z = m.bundle.weights("fp32").layers[0].matrix, m.z[:POPCOUNT_CLIPS]
    x, w = z > reference.TERNARY_THRESHOLD, matrix > 0.0
    product = (2.0 * x - 1.0) @ (2.0 * w - 1.0).T
    summed, counted = reference.value_summing_popcount(x, w), reference.bit_counting_popcount(x, w)
    levels = reference.ternary(z), reference.ternary(matrix)
    as_coded = reference.value_summing_popcount(*map(reference.ternary_bits, levels))
    shown = np.random.default_rng(0).choice(product.size, 300, replace=False)

    def correlation(scores: np.ndarray, products: np.ndarray) -> float:
        return float(np.corrcoef(scores.ravel(), products.ravel())[0, 1])

    def standard(scores: np.ndarray) -> np.ndarray:
        return (scores.ravel() - scores.mean()) / scores.std()

    values = {
        "summed": correlation(summed, product),
        "counted": correlation(counted, product),
        "as_coded": correlation(as_coded, levels[0].astype(np.float32) @ levels[1].T.astype(np.float32)),
        "products": float(product.size),
        "params_fp32": _table7("FP32-Base", "params"),
        "params": _table7("Q8-Base-PTQ", "params"),
        "reduction": _table7("Q8-Base-PTQ", "reduction"),
        "reduction_8": _table7("Q8-Base", "reduction"),
        "most": float(table(7).values("reduction").max()),
    }
    picture = ClaimFigure(
        "points",
        "true product",
        "score, deviations from its mean",
        (
            Series("values summed", product.ravel()[shown].tolist(), standard(summed)[shown].tolist()),
            Series("bits counted", product.ravel()[shown].tolist(), standard(counted)[shown].tolist()),
        ),
    )
    return Figures(
        values, f"Table 7; {values['products']:,.0f} products of the bundle’s first layer", picture
    )


def _judge_popcount(v: Values) -> Ruling:
    missing = v["params_fp32"] - v["params"]
    ours = (
        f"Summing values gives a correlation of {v['summed']:.2f} with the true product of signs, "
        f"counting bits {v['counted']:.2f} (n = {v['products']:,.0f}); with the code’s two bits a ternary "
        f"level it is {v['as_coded']:.2f}. The {v['reduction']:.2f}× row has {missing:,.0f} parameters "
        f"fewer than FP32, the biases, which a quantized FP32 keeps; 8 bits are {v['reduction_8']:.2f}× "
        f"and the highest compression printed is {v['most']:.2f}×."
    )
    return ruling(
        v["summed"] > 0.99 and missing == 0.0,
        ours,
        "The layer computes Eq. 4, and the size beside the F1 is that of the same model.",
        "The popcount layer sums the values of bytes where their set bits were meant, and passes no "
        "gradient; the F1 of Q8-Base-PTQ is that of dynamic int8, so that size and F1 are of two models.",
    )


def _mixture_size(_: Materials) -> Figures:
    experts = MODELS["BitNet-Q4/8/16-QMoE"].experts
    router = reference.router_parameters(1536, len(experts))
    one = reference.expert_parameters(1536, 50, pre_norm=True)
    names = ("BitNet-Base", "Q4-Base", "Q8-Base", "Q16-Base")
    values = {
        "printed": _table7("MoE", "params"),
        "one": float(one + router),
        "all": float(len(experts) * one + router),
        "table1": 1e6 * (table(1).row(model="BitNet-Q4/8/16-QMoE")["params"].value or 0.0),
        "kilobytes": _table7("MoE", "kilobytes"),
        "kilobytes_packed": sum(_table7(name, "kilobytes") for name in names) + 4e-3 * router,
        "kilobytes_float": 4e-3 * (len(experts) * one + router),
        "experts": float(len(experts)),
    }
    picture = ClaimFigure(
        "bars",
        "",
        "parameters",
        (
            Series(
                "parameters",
                ["Table 7", "one expert + router", "Table 1", "all experts + router"],
                [values["printed"], values["one"], values["table1"], values["all"]],
            ),
        ),
    )
    return Figures(values, "Tables 1 and 7; 1,536 inputs, 50 classes", picture)


def _judge_mixture_size(v: Values) -> Ruling:
    ours = (
        f"One expert and the router are {v['one']:,.0f} parameters, {v['experts']:.0f} experts and the "
        f"router {v['all']:,.0f}; Table 7 prints {v['printed']:,.0f}, Table 1 {v['table1'] / 1e6:.2f} M. "
        f"{v['kilobytes']:,.0f} KB is close to {v['experts']:.0f} packed experts with a float router "
        f"({v['kilobytes_packed']:,.0f} KB); as the float numbers that the code computes with they take "
        f"{v['kilobytes_float']:,.0f} KB."
    )
    return ruling(
        abs(v["printed"] / v["all"] - 1.0) < 0.05,
        ours,
        "The mixture’s parameters are those of all its experts and the router.",
        "The count is that of an average expert and the router, while every expert must be stored to be "
        "chosen.",
    )


def _compression(_: Materials) -> Figures:
    ours = {row.name: row.bytes for row in size.sizes(experts=("q4", "q8", "q16", "bitnet"))}
    values = {
        "against_fp32": _table7("FP32-Base", "kilobytes") / _table7("Q4-Base", "kilobytes"),
        "against_16": _table7("Q16-Base", "kilobytes") / _table7("Q4-Base", "kilobytes"),
        "ternary_against_8": _table7("Q8-Base", "kilobytes") / _table7("BitNet-Base", "kilobytes"),
        "ours_16": ours["q16"] / ours["q4"],
        "ours_ternary": ours["q8"] / ours["bitnet"],
    }
    names = ["Q1-Base", "Q2-Base", "BitNet-Base", "Q4-Base", "Q8-Base", "Q16-Base", "FP32-Base"]
    picture = ClaimFigure(
        "bars", "", "KB", (Series("Table 7", names, [_table7(name, "kilobytes") for name in names]),), log="y"
    )
    return Figures(values, "Table 7; our files of the same shape, written to disk", picture)


def _judge_compression(v: Values) -> Ruling:
    four = any(abs(v[key] / 4.0 - 1.0) < 0.02 for key in ("against_fp32", "against_16"))
    sixteen = abs(v["ternary_against_8"] / 16.0 - 1.0) < 0.02
    ours = (
        f"By Table 7, 4 bits are {v['against_fp32']:.2f}× smaller than FP32 and {v['against_16']:.2f}× "
        f"smaller than 16 bits (our files: {v['ours_16']:.2f}×); ternary is {v['ternary_against_8']:.2f}× "
        f"smaller than 8 bits (our files: {v['ours_ternary']:.2f}×)."
    )
    return ruling(
        four and sixteen,
        ours,
        "Both factors are those of the sizes in Table 7.",
        "4× and 16× are in none of the sizes: biases, norms, head and scales stay in float, and two bits "
        "are a quarter of eight, not a sixteenth.",
    )


def _equivalent(m: Materials) -> Figures:
    draws, member = resample_groups(m.sources)
    clips = draws @ np.bincount(member).astype(float)
    outputs, values = m.data.outputs, {"margin": MARGIN, "recordings": float(draws.shape[1])}
    right = {
        name: outputs.of((name,)).logits[:, 0].argmax(axis=-1) == m.data.labels
        for name in ("fp32", "q4", "q8")
    }
    for name in ("q4", "q8"):
        difference = right[name].astype(float) - right["fp32"]
        # Two one-sided tests at 5 % each: the 90 % interval within the margin (Schuirmann 1987).
        low, high = np.quantile(draws @ np.bincount(member, difference) / clips, [0.05, 0.95])
        values |= {name: float(difference.mean()), f"{name}_low": float(low), f"{name}_high": float(high)}
    return Figures(values, m.clips)


def _judge_equivalent(v: Values) -> Ruling:
    ours = "; ".join(
        f"{name[1]} bits: accuracy {signed(v[name])} against float (90 %: {signed(v[f'{name}_low'])} to "
        f"{signed(v[f'{name}_high'])})"
        for name in ("q4", "q8")
    )
    return ruling(
        all(v[f"{name}_low"] > -v["margin"] and v[f"{name}_high"] < v["margin"] for name in ("q4", "q8")),
        f"{ours}, over {v['recordings']:.0f} recordings; the margin is {v['margin']:.2f}.",
        "Both differences lie within the margin, by two one-sided tests; a p above 0.05 alone would not show "
        "that.",
        "A difference as large as the margin cannot be ruled out.",
    )


def _one_bit(m: Materials) -> Figures:
    f1 = {bits: table(2).row(bits=bits, dataset="ESC-50")["f1"].value or 0.0 for bits in ("1", "16")}
    draws, member = resample_groups(m.sources)
    right = {
        name: draws
        @ np.bincount(member, m.data.outputs.of((name,)).logits[:, 0].argmax(axis=-1) == m.data.labels)
        for name in ("q1", "q16")
    }
    ratio = right["q1"] / right["q16"]
    low, high = np.quantile(ratio, [0.05, 0.95])
    values = {
        "claimed": RETAINED,
        "printed": f1["1"] / f1["16"],
        # Half a unit of the last printed digit either way.
        "printed_low": (f1["1"] - 5e-4) / (f1["16"] + 5e-4),
        "printed_high": (f1["1"] + 5e-4) / (f1["16"] - 5e-4),
        "ours": float(np.median(ratio)),
        "ours_low": float(low),
        "ours_high": float(high),
        "recordings": float(draws.shape[1]),
    }
    return Figures(values, f"Table 2, ESC-50; {m.clips}")


def _judge_one_bit(v: Values) -> Ruling:
    ours = (
        f"By Table 2 it is {percent(v['printed'], 1)} ({percent(v['printed_low'], 1)}–"
        f"{percent(v['printed_high'], 1)} with rounding). Of our own models 1 bit has "
        f"{percent(v['ours'], 1)} of the accuracy of 16 (90 % over {v['recordings']:.0f} recordings: "
        f"{percent(v['ours_low'], 1)} to {percent(v['ours_high'], 1)})."
    )
    return ruling(
        v["printed_low"] <= v["claimed"] <= v["printed_high"] and v["ours_low"] > v["claimed"] - 0.01,
        ours,
        "The percentage is that of the printed F1, to rounding, and ours is no lower: training with "
        "quantization does keep what one bit can hold, as the paper found.",
        "The percentage is not that of the printed F1, or ours may be lower by more than a point.",
    )


CLAIMS = (
    Claim(
        12,
        "quantisation",
        "arithmetic",
        "All models have an identical architecture, so that only the bit width differs.",
        "§5.2, Tables 1 and 7",
        "Compare the printed parameter counts and explain the difference; round a float network to 16 bits; "
        "train it with and without the extra LayerNorm.",
        "Q16 0.859 above FP32 0.855; 1,211,122 against 1,206,770 parameters",
        "Equal parameter counts of the float and the quantized models.",
        "experiment",
        _architecture,
        _judge_architecture,
    ),
    Claim(
        13,
        "quantisation",
        "reproduction",
        "Fewer bits make the published models faster than float.",
        f"§3.2, §5.2, §5.4, Tables 2 and 4; {COMMIT}",
        "Time a 4-bit network the way the public code computes it, a really packed one, and torch fp32, "
        "in one interleaved run, at the code’s batch of 64 and at 1.",
        "1.06–1.08× for Q1, Q2, Q4 and Q8 (Table 4)",
        "A simulated 4-bit network that is faster than torch fp32 at the code’s batch of 64.",
        "experiment",
        _simulated,
        _judge_simulated,
    ),
    Claim(
        14,
        "quantisation",
        "arithmetic",
        "Eq. 2 quantizes to k = 1, 2, 4, 8 and 16 bits, and F1 falls at 2 bits for lack of precision.",
        "§3.2, Eq. 2; §5.2, Table 2",
        "Evaluate the divisor of Eq. 2 at k = 1, look at the grid of 2 bits in the default bundle, and "
        "compare F1 at 1 and 2 bits.",
        "“insufficient precision”; 0.806 at 1 bit, 0.783 at 2",
        "A formula that has a value at k = 1, and an F1 that does not rise from 2 bits to 1.",
        "bundle",
        _two_bits,
        _judge_two_bits,
    ),
    Claim(
        15,
        "quantisation",
        "code",
        "BitNet’s threshold is learned, and so is its scale for each channel.",
        f"§3.2, Eq. 3; §4.3; {COMMIT}",
        "Train the code’s layer and one that learns both, and compare their scales and zeros with what is "
        "computed of the weights; see whether Table 7 could tell.",
        "“τ is a learned threshold”; 1,211,122 parameters, as Q4",
        "A trained layer whose scale and zeros differ from what is computed of its weights.",
        "experiment",
        _learned,
        _judge_learned,
    ),
    Claim(
        16,
        "quantisation",
        "code",
        "Q8-Base-PTQ computes Eq. 4 by popcount, at 15.65× compression and an F1 of 0.854.",
        f"§3.2, Eq. 4; Tables 1 and 7; B; {COMMIT}",
        "Compute the layer as the public code does and correlate it with the true product; compare the "
        "row of Table 7 with the model that the F1 is of.",
        "15.65×, “highest compression”",
        "A layer whose score is a linear function of the product of signs, in a model of the size printed.",
        "bundle",
        _popcount,
        _judge_popcount,
    ),
    Claim(
        17,
        "quantisation",
        "arithmetic",
        "The mixture of four experts has 1,415,687 parameters.",
        "B.2, Table 7",
        "Count the parameters of one and of all experts with the router, and compare with Tables 1 and 7.",
        "1,415,687 parameters, 5.67 MB",
        "A count in Table 7 within 5 % of all experts and the router.",
        "arithmetic",
        _mixture_size,
        _judge_mixture_size,
    ),
    Claim(
        18,
        "quantisation",
        "arithmetic",
        "4 bits compress 4×, and ternary weights are 16× smaller than 8-bit ones.",
        "Abstract, §1, §3.2, §5.2",
        "Divide the sizes of Table 7, and those of our own files of the same shape.",
        "4×, 16×",
        "Sizes in Table 7 whose ratios are the factors of the text.",
        "bundle",
        _compression,
        _judge_compression,
    ),
    Claim(
        39,
        "quantisation",
        "reproduction",
        "4 and 8 bits are practically equivalent to full precision.",
        "Abstract, §5.5",
        "Compare the accuracy of our own 4- and 8-bit classifiers with the float one’s on the same clips, "
        f"by two one-sided tests with a margin of {MARGIN:.2f}.",
        "p > 0.05 on all three sets",
        "An interval of the difference that leaves the margin.",
        "bundle",
        _equivalent,
        _judge_equivalent,
    ),
    Claim(
        41,
        "quantisation",
        "reproduction",
        "1 bit keeps 98.3 % of the performance of 16 bits when the network is trained with quantization.",
        "§5.2, Table 2",
        "Divide the F1 of Table 2; compare the accuracy of our own 1- and 16-bit models on the same clips, "
        "over recordings.",
        "98.3 % on ESC-50 (0.806 F1)",
        "A printed ratio of another size, or an interval of ours that reaches a point below it.",
        "bundle",
        _one_bit,
        _judge_one_bit,
    ),
)
