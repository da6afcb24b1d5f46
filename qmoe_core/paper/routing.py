"""Claims 1–5, 31 and 40: what curiosity is in the paper and in its code, what it moves, what mixtures gain.

All but claim 3 are tested on what the default bundle's experts and routers give for clips of other folds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from qmoe_core.evaluation.significance import resample_groups
from qmoe_core.evaluation.sweep import ALPHAS, alpha_sweep
from qmoe_core.numbers import percent, scientific, signed
from qmoe_core.paper import reference
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
from qmoe_core.paper.tables import DATASETS, MODELS, full_name, table
from qmoe_core.routing import mixing
from qmoe_core.routing.curiosity import curious_routing
from qmoe_core.routing.mixing import Mixed, Outputs
from qmoe_core.routing.uncertainty import disagreement, divergence, entropy, softmax

PAPER_ALPHAS = (0.2, 0.3)
MARGIN = 0.02
"""Of accuracy: a gain below it is called none."""
GRID = tuple(alpha for alpha in ALPHAS if alpha > 0.0)


def _mixed(m: Materials) -> Mixed:
    """The bundle's mixture without curiosity."""
    return mixing.mix(m.data.outputs, m.bundle.settings().without_curiosity())


def _moved(plain: np.ndarray, curious: np.ndarray) -> float:
    """Share of clips whose most likely expert is another one."""
    return float((plain.argmax(axis=-1) != curious.argmax(axis=-1)).mean())


def _mixture(m: Materials) -> str:
    return f"{m.clips}; mixture {'+'.join(m.bundle.settings().experts)}"


Route = Callable[[Outputs], np.ndarray]
"""A way to route: what experts and router give for n clips to r, float64 [n, N]."""


def as_coded(outputs: Outputs) -> np.ndarray:
    """The routing of the public code at commit dfbb02c."""
    return reference.logged_only_curiosity(outputs.router, outputs.router_mc)[0]


def as_printed(outputs: Outputs) -> np.ndarray:
    """The routing of Eq. 8 at the paper's larger α."""
    q = softmax(outputs.logits)
    d = divergence(q, q.mean(axis=-2, keepdims=True))
    return curious_routing(softmax(outputs.router), d, max(PAPER_ALPHAS))


def sensitivity(route: Route, outputs: Outputs) -> float:
    """Largest change of a routing probability when MC passes and expert outputs are those of other clips.

    The router's own logits stay. A routing that depends on what curiosity is computed of has to change.
    """
    other = np.random.default_rng(0).permutation(len(outputs.router))
    swapped = replace(outputs, logits=outputs.logits[other], router_mc=outputs.router_mc[:, other])
    return float(np.abs(route(swapped) - route(outputs)).max())


def _in_the_code(m: Materials) -> Figures:
    outputs = m.data.outputs.of(m.bundle.settings().experts)
    values = {
        "largest_change": sensitivity(as_coded, outputs),
        "largest_change_eq8": sensitivity(as_printed, outputs),
        "alpha": max(PAPER_ALPHAS),
    }
    return Figures(values, f"{_mixture(m)}; the code transcribed, commit dfbb02c")


def _judge_in_the_code(v: Values) -> Ruling:
    ours = (
        "With MC passes and expert outputs of other clips, a routing probability changes by at most "
        f"{scientific(v['largest_change'])} as coded, and by up to {scientific(v['largest_change_eq8'])} "
        f"with Eq. 8 as printed at α = {v['alpha']:g}."
    )
    return ruling(
        v["largest_change"] > 0.0,
        ours,
        "What the code calls curiosity does change the routing.",
        "At this commit the uncertainty is returned and logged, and no term of Eq. 8 reaches the routing: "
        "“with curiosity” is the plain router with one more dropout layer and ten passes that nothing uses. "
        "The README speaks of a corrected version, which was not examined.",
    )


def _interim(m: Materials) -> Figures:
    r, mc = _mixed(m).r, m.data.outputs.of(m.bundle.settings().experts).router_mc
    uncertainty = reference.logged_only_curiosity(np.log(r), mc)[1]
    scalar = [reference.scalar_curiosity(r, uncertainty, alpha) for alpha in GRID]
    tempered = [reference.tempered_curiosity(r, alpha) for alpha in GRID]
    by_temperature = [softmax(np.log(r) / (1.0 / (1.0 + alpha))) for alpha in GRID]
    values = {
        "scalar_change": max(float(np.abs(one - r).max()) for one in scalar),
        "scalar_moved": max(_moved(r, one) for one in scalar),
        "tempered_moved": max(_moved(r, one) for one in tempered),
        "tempered_against_temperature": max(
            float(np.abs(a - b).max()) for a, b in zip(tempered, by_temperature, strict=True)
        ),
        "values_of_alpha": float(len(GRID)),
    }
    return Figures(values, _mixture(m))


def _judge_interim(v: Values) -> Ruling:
    ours = (
        f"Over {v['values_of_alpha']:.0f} values of α the scalar version changes a routing probability by "
        f"at most {scientific(v['scalar_change'])} (rounding) and the leading expert on "
        f"{percent(v['scalar_moved'], 0)} of the clips; its fix equals a temperature of 1/(1+α) to "
        f"{scientific(v['tempered_against_temperature'])} and changes the leading expert on "
        f"{percent(v['tempered_moved'], 0)}."
    )
    return ruling(
        max(v["scalar_moved"], v["tempered_moved"]) > 0.0,
        ours,
        "With some α another expert leads.",
        "One factor for all experts cancels when the routing is renormalised, and a temperature keeps the "
        "order of the experts: with top-1 routing neither can ever choose another one. The authors’ own "
        "comment in a later version says so of the first, and that version has further ways of routing, "
        "which were not examined.",
    )


def _uniform(_: Materials) -> Figures:
    names = [name for name, model in MODELS.items() if model.is_mixture and not model.curious]
    printed = np.array([table(1).row(model=name)["params"].value or 0.0 for name in names])
    experts = np.array([reference.millions(name, 5, router=False) for name in names])
    whole = np.array([reference.millions(name, 5) for name in names])
    values = {
        "mixtures": float(len(names)),
        "fit_router": float((np.abs(whole - printed) <= 0.0051).sum()),
        "fit_none": float((np.abs(experts - printed) <= 0.0051).sum()),
        "router": 1e6 * float((whole - experts).max()),
    }
    short = [name.removeprefix("BitNet-") for name in names]
    series = (
        Series("Table 1", short, printed.tolist()),
        Series("experts and router", short, whole.tolist()),
        Series("experts alone", short, experts.tolist()),
    )
    return Figures(
        values, "Table 1, heads of 5 classes (claim 8)", ClaimFigure("dots", "", "parameters, M", series)
    )


def _judge_uniform(v: Values) -> Ruling:
    ours = (
        f"Of {v['mixtures']:.0f} mixtures without curiosity, {v['fit_router']:.0f} have in Table 1 the "
        f"parameters of their experts and a router of up to {v['router']:,.0f}; {v['fit_none']:.0f} have "
        "those of the experts alone."
    )
    return ruling(
        v["fit_none"] > v["fit_router"],
        ours,
        "The parameter counts leave no room for a router, as uniform routing needs none.",
        "The baseline called uniform counts a trained top-1 router among its parameters, which is why the "
        "paper can speak of its load imbalance; uniform routing has none.",
    )


def _eq6(m: Materials) -> Figures:
    outputs = m.data.outputs.of(m.bundle.settings().experts)
    mixed = _mixed(m)
    k = 2
    as_printed = mixing.mix(outputs, m.bundle.settings(curiosity="none", top_k=k)).probabilities
    as_coded = reference.unnormalised_mixture(outputs.logits, mixed.r, k)
    first = reference.unnormalised_mixture(outputs.logits, mixed.r, 1)
    top1 = mixing.mix(outputs, m.bundle.settings(curiosity="none", top_k=1)).probabilities
    values = {
        "sum_of_weights": float(np.sort(mixed.r, axis=-1)[:, -1].mean()),
        "confidence_coded": float(first.max(axis=-1).mean()),
        "confidence": float(top1.max(axis=-1).mean()),
        "largest_difference": float(np.abs(as_coded - as_printed).max()),
        "labels": _moved(as_printed, as_coded),
        "experts": float(k),
    }
    return Figures(values, _mixture(m))


def _judge_eq6(v: Values) -> Ruling:
    ours = (
        f"With top-1 the weight is {v['sum_of_weights']:.2f} on average instead of 1 and the mean "
        f"confidence {v['confidence_coded']:.2f} instead of {v['confidence']:.2f}; with "
        f"top-{v['experts']:.0f} a class probability differs by up to {v['largest_difference']:.2f} and "
        f"the label on {percent(v['labels'], 1)} of the clips."
    )
    return ruling(
        v["largest_difference"] < 1e-6,
        ours,
        "The code’s mixture gives the probabilities of Eq. 6.",
        "The code has no temperature, does not renormalise over the chosen experts, divides by k and mixes "
        "logits: another function than Eq. 5 and 6, with other probabilities.",
    )


def _eq7(m: Materials) -> Figures:
    from scipy.stats import spearmanr

    mixed = _mixed(m)
    total, epistemic = mixed.total, mixed.epistemic
    right = mixed.q.argmax(axis=-1) == m.data.labels[:, None]
    deviant = np.take_along_axis(right, mixed.disagreement.argmax(axis=-1)[:, None], axis=1)[:, 0]
    disputed = ~(right.all(axis=1) | (~right).all(axis=1))
    # Copies of one expert never disagree, and Eq. 7 gives them the entropy of that expert.
    copies = np.repeat(mixed.q[:, :1, :], 3, axis=1)
    share = epistemic / np.maximum(total, 1e-12)
    draws, member = resample_groups(m.sources)
    sums = [draws @ np.bincount(member, values) for values in (epistemic, total)]
    low, high = np.quantile(sums[0] / sums[1], [0.025, 0.975])
    values = {
        "share": float(epistemic.sum() / total.sum()),
        "share_low": float(low),
        "share_high": float(high),
        "recordings": float(draws.shape[1]),
        "rank_correlation": float(spearmanr(total, epistemic)[0]),  # type: ignore[arg-type]
        "copies_entropy": float(entropy(copies.mean(axis=1)).mean()),
        "copies_disagreement": float(disagreement(copies).max()),
        "deviant_right": float(deviant[disputed].mean()) if disputed.any() else float("nan"),
        "others_right": float(right[disputed].mean()) if disputed.any() else float("nan"),
        "disputed": float(disputed.sum()),
    }
    order = np.argsort(share)[:: max(1, len(share) // 200)]
    picture = ClaimFigure(
        "points",
        "H(q̄) of Eq. 7, nats",
        "disagreement, nats",
        (Series("a clip", total[order].tolist(), epistemic[order].tolist()),),
    )
    return Figures(values, _mixture(m), picture)


def _judge_eq7(v: Values) -> Ruling:
    ours = (
        f"Disagreement is {percent(v['share'], 1)} of Eq. 7 (95 % over {v['recordings']:.0f} recordings: "
        f"{percent(v['share_low'], 1)}–{percent(v['share_high'], 1)}); the two rank clips alike (ρ = "
        f"{v['rank_correlation']:.2f}), but three copies of one expert keep an entropy of "
        f"{v['copies_entropy']:.2f} nats with a disagreement of {v['copies_disagreement']:.0f}. On the "
        f"{v['disputed']:.0f} clips that only some experts get right, the most deviant is right on "
        f"{percent(v['deviant_right'], 0)}, an expert on average on {percent(v['others_right'], 0)}."
    )
    return ruling(
        v["share"] > 0.5 and v["copies_entropy"] < 1e-3,
        ours,
        "Most of Eq. 7 is disagreement between the experts.",
        "Eq. 7 is the total entropy, nearly all of which every expert has by itself. Disagreement is what is "
        "left after subtracting that, the mean of KL(q‖q̄); and the paper’s p is a routing scalar in Eq. 5–6 "
        "but a class distribution in Eq. 7–8.",
    )


def _at_the_papers_alpha(m: Materials) -> Figures:
    settings = m.bundle.settings(curiosity="disagreement", normalise=False, top_k=1)
    sweep = alpha_sweep(m.data.outputs, m.data.labels, settings, GRID)
    ours = alpha_sweep(m.data.outputs, m.data.labels, settings, PAPER_ALPHAS)
    mixed = mixing.mix(m.data.outputs, settings)
    draws, member = resample_groups(m.sources)
    flipped, clips = (
        draws @ np.bincount(member, kind)
        for kind in (ours.route_flipped[int(np.argmax(PAPER_ALPHAS))], np.ones(len(member)))
    )
    coarse = (*settings.experts, "popcount")
    values = {
        "alpha": max(PAPER_ALPHAS),
        "moved": float(ours.route_flips.max()),
        "moved_high": float(np.quantile(flipped / clips, 0.975)),
        "recordings": float(draws.shape[1]),
        "labels": float(ours.label_flips.max()),
        "bonus": float(np.exp(max(PAPER_ALPHAS) * mixed.disagreement.mean())),
        "mean_d": float(mixed.disagreement.mean()),
        "p95_d": float(np.quantile(mixed.disagreement, 0.95)),
        "moved_at_10": float(alpha_sweep(m.data.outputs, m.data.labels, settings, (10.0,)).route_flips[0]),
        "first_percent": float(
            next((a for a, f in zip(GRID, sweep.route_flips, strict=True) if f > 0.01), math.inf)
        ),
        "clips": float(len(m.data.labels)),
    }
    series = [Series("+".join(settings.experts), list(GRID), sweep.route_flips.tolist())]
    if "popcount" in m.bundle.experts:
        with_coarse = m.bundle.settings(curiosity="disagreement", normalise=False, top_k=1, experts=coarse)
        outputs = m.data.outputs
        values["coarse_d"] = float(mixing.mix(outputs, with_coarse).disagreement[:, -1].mean())
        moved = alpha_sweep(outputs, m.data.labels, with_coarse, GRID).route_flips
        series.append(Series("+".join(coarse), list(GRID), moved.tolist()))
    picture = ClaimFigure("lines", "α", "share of clips routed elsewhere", tuple(series), log="x")
    return Figures(values, _mixture(m), picture)


def _judge_at_the_papers_alpha(v: Values) -> Ruling:
    moved, n = v["moved"], v["clips"]
    # Rule of three: none of n recordings seen still allows 3/n.
    upper = 3.0 / v["recordings"] if moved == 0.0 else v["moved_high"]
    ours = (
        f"At α = {v['alpha']:g} the mean bonus is × {v['bonus']:.4f} (d: mean {v['mean_d']:.4f}, 95th "
        f"percentile {v['p95_d']:.3f} nats) and {percent(moved, 1)} of {n:.0f} clips change expert (95 % "
        f"over {v['recordings']:.0f} recordings: at most {percent(upper, 1)}); at α = 10 it is "
        f"{percent(v['moved_at_10'], 1)}, and 1 % is passed at α = {v['first_percent']:g}."
    )
    if "coarse_d" in v:
        ours += f" Only a coarse expert, popcount, deviates by more: {v['coarse_d']:.2f} nats."
    return ruling(
        moved > 0.01,
        ours,
        "At the paper’s α more than one clip in a hundred goes to another expert.",
        "Quantized copies of one classifier hardly disagree, so the bonus is 1 to three digits and the "
        "routing stays what it was; α has to be in the tens and more to matter.",
    )


def _gain(m: Materials) -> Figures:
    rows = [MODELS[full_name(row["model"].printed)].is_mixture for row in table(1).rows]
    means = np.mean([table(1).values(key) for key in DATASETS], axis=0)
    settings = m.bundle.settings()
    mixed = mixing.mix(m.data.outputs, settings).probabilities.argmax(axis=-1) == m.data.labels
    single = m.data.outputs.of(("q4",)).logits[:, 0].argmax(axis=-1) == m.data.labels
    draws, member = resample_groups(m.sources)
    gains = draws @ np.bincount(member, mixed.astype(float) - single) / (draws @ np.bincount(member))
    low, high = np.quantile(gains, [0.025, 0.975])
    values = {
        "four": table(1).row(model="Q4-Base")["mean"].value or 0.0,
        "best_mixture": float(np.max(table(1).values("mean")[rows])),
        "best_mixture_row": float(means[rows].max()),
        "gain": float(mixed.mean() - single.mean()),
        "gain_low": float(low),
        "gain_high": float(high),
        "margin": MARGIN,
        "recordings": float(draws.shape[1]),
    }
    return Figures(values, f"Table 1; {_mixture(m)}, top {settings.top_k}")


def _judge_gain(v: Values) -> Ruling:
    ours = (
        f"The best mixture of Table 1 has an average F1 of {v['best_mixture']:.3f} "
        f"({v['best_mixture_row']:.3f} as the mean of its row), Q4-Base {v['four']:.3f}. Our mixture’s "
        f"accuracy is {signed(v['gain'])} against our 4-bit model (95 % over {v['recordings']:.0f} "
        f"recordings: {signed(v['gain_low'])} to {signed(v['gain_high'])})."
    )
    return ruling(
        max(v["best_mixture"], v["best_mixture_row"]) <= v["four"] and v["gain_high"] < v["margin"],
        ours,
        f"No mixture of Table 1 is above the 4-bit model, and a gain of {v['margin']:.2f} can be ruled out "
        "for ours: this conclusion of the paper can be relied on.",
        "A mixture of Table 1 is above the 4-bit model, or a gain cannot be ruled out for ours.",
    )


CLAIMS = (
    Claim(
        1,
        "routing",
        "code",
        "In the published code (commit dfbb02c) curiosity changes the routing.",
        f"§3.3, Eq. 8; {COMMIT}",
        "Route the clips the way the code does, put in the MC passes and expert outputs of other clips, and "
        "see whether the routing changes; the same with Eq. 8 as printed.",
        "the uncertainty is computed and logged; α and KL do not occur",
        "A routing that differs when other MC-dropout passes or other expert outputs are put in.",
        "bundle",
        _in_the_code,
        _judge_in_the_code,
    ),
    Claim(
        2,
        "routing",
        "code",
        "In the two interim versions after commit dfbb02c, curiosity can choose another expert than without.",
        "README, “corrected Eq. 8”; two versions between commit dfbb02c and the one that the README speaks "
        "of, which was not examined",
        "Apply both versions, one factor for all experts and its fix, at 50 values of α, and count the clips "
        "whose leading expert changes.",
        "one scalar a clip for all experts, then a power of the routing",
        "A value of α at which another expert leads than without curiosity.",
        "bundle",
        _interim,
        _judge_interim,
    ),
    Claim(
        3,
        "routing",
        "arithmetic",
        "The mixtures without curiosity use uniform routing.",
        "§5.3, caption of Table 3",
        "Count the parameters of the mixtures without curiosity, with a router and without, and compare with "
        "Table 1.",
        "“MoE uses uniform routing”",
        "A parameter count of the mixtures without curiosity that leaves no room for a trained router.",
        "arithmetic",
        _uniform,
        _judge_uniform,
    ),
    Claim(
        4,
        "routing",
        "code",
        "The published code mixes its experts by Eq. 5 and 6.",
        f"§3.3, Eq. 5–6; {COMMIT}",
        "Mix the same outputs as the code does and as Eq. 6 mixes distributions, and compare "
        "probabilities and labels.",
        "no temperature, r not renormalised, sum over logits divided by k",
        "Class probabilities of the code’s mixture that equal those of Eq. 6.",
        "bundle",
        _eq6,
        _judge_eq6,
    ),
    Claim(
        5,
        "routing",
        "reproduction",
        "High predictive entropy (Eq. 7) means that the quantization strategies disagree.",
        "§3.3, Eq. 7–8",
        "Split Eq. 7 into what each expert has by itself and what they differ in; put in three copies of one "
        "expert; see how often the expert that Eq. 8 rewards most is right.",
        "H(y|z) of the mean, as a measure of disagreement",
        "A set of experts of which most of Eq. 7 is disagreement.",
        "bundle",
        _eq7,
        _judge_eq7,
    ),
    Claim(
        31,
        "routing",
        "reproduction",
        "At the paper’s α of 0.2 and 0.3, Eq. 8 encourages the selection of experts with diverse "
        "predictions.",
        "§3.3, Eq. 8; README (α = 0.2, 0.3)",
        "Mix the default bundle’s out-of-fold outputs with Eq. 8 as printed and count the clips that go to "
        "another expert than without.",
        "α = 0.2 and 0.3",
        "More than one clip in a hundred that goes to another expert at α = 0.3.",
        "bundle",
        _at_the_papers_alpha,
        _judge_at_the_papers_alpha,
    ),
    Claim(
        40,
        "routing",
        "reproduction",
        "Mixtures bring no gain in accuracy over a simple 4-bit model.",
        "Abstract, §1, §5.5, Table 1",
        "Compare the mixtures’ averages in Table 1, as printed and as the means of their rows, with Q4-Base; "
        f"compare our own mixture with our 4-bit model on the same clips, with a margin of {MARGIN:.2f}.",
        "“without accuracy gains”; “simple 4-bit quantized architectures outperforming complex MoE”",
        "A mixture above Q4-Base in Table 1, or an interval of our difference that reaches the margin.",
        "bundle",
        _gain,
        _judge_gain,
    ),
)
