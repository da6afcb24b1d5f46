"""Claims 1–5 and 31: what curiosity is in the paper, in its public code, and what it moves.

All are tested on what the default bundle's experts and routers say of clips that they have not seen.
"""

from __future__ import annotations

import math

import numpy as np

from qmoe_core.evaluation.significance import bootstrap_interval
from qmoe_core.evaluation.sweep import ALPHAS, alpha_sweep
from qmoe_core.numbers import percent, scientific
from qmoe_core.paper import reference
from qmoe_core.paper.claim import (
    Claim,
    Figures,
    Materials,
    Picture,
    Ruling,
    Series,
    Values,
    ruling,
)
from qmoe_core.routing import mixing
from qmoe_core.routing.curiosity import curious_routing
from qmoe_core.routing.mixing import MAX_ALPHA, Mixed
from qmoe_core.routing.uncertainty import disagreement, entropy, softmax

PAPER_ALPHAS = (0.2, 0.3)
GRID = tuple(alpha for alpha in ALPHAS if alpha > 0.0)


def _mixed(m: Materials) -> Mixed:
    """The bundle's mixture without curiosity."""
    return mixing.mix(m.data.voices, m.bundle.settings().without_curiosity())


def _moved(plain: np.ndarray, curious: np.ndarray) -> float:
    """Share of clips whose most likely expert is another one."""
    return float((plain.argmax(axis=-1) != curious.argmax(axis=-1)).mean())


def _mixture(m: Materials) -> str:
    return f"{m.clips}; mixture {'+'.join(m.bundle.settings().experts)}"


def _in_the_code(m: Materials) -> Figures:
    mixed, voices = _mixed(m), m.data.voices.of(m.bundle.settings().experts)
    as_coded = [
        reference.logged_only_curiosity(voices.router, voices.router_mc, alpha)[0] for alpha in (0.0, *GRID)
    ]
    values = {
        "largest_change": max(float(np.abs(r - as_coded[0]).max()) for r in as_coded),
        "largest_change_eq8": float(
            np.abs(curious_routing(mixed.r, mixed.disagreement, MAX_ALPHA) - mixed.r).max()
        ),
        "most_alpha": MAX_ALPHA,
    }
    return Figures(values, _mixture(m))


def _judge_in_the_code(v: Values) -> Ruling:
    ours = (
        f"Going from α = 0 to {v['most_alpha']:,.0f} changes a routing probability by at most "
        f"{scientific(v['largest_change'])} as coded, and by up to {v['largest_change_eq8']:.2f} with Eq. "
        "8 as printed."
    )
    return ruling(
        v["largest_change"] > 0.0,
        ours,
        "What the code calls curiosity does change the routing.",
        "In the code the uncertainty is returned and logged, and no term of Eq. 8 reaches the routing: “with "
        "curiosity” is the plain router with one more dropout layer and ten passes that nothing uses.",
    )


def _interim(m: Materials) -> Figures:
    r, mc = _mixed(m).r, m.data.voices.of(m.bundle.settings().experts).router_mc
    uncertainty = reference.logged_only_curiosity(np.log(r), mc, 0.0)[1]
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
        "order of the experts: with top-1 routing neither can ever choose another one.",
    )


def _uniform(m: Materials) -> Figures:
    mixed = _mixed(m)
    n, experts = mixed.r.shape
    counts = np.bincount(mixed.r.argmax(axis=-1), minlength=experts)
    expected = n / experts
    statistic = float(((counts - expected) ** 2 / expected).sum())
    # P(χ² > x) in closed form for two degrees of freedom; scipy's for others.
    if experts == 3:
        p = math.exp(-statistic / 2.0)
    else:
        from scipy.stats import chi2

        p = float(chi2.sf(statistic, experts - 1))
    names = list(m.bundle.settings().experts)
    picture = Picture(
        "bars",
        "",
        "clips",
        (Series("learned top-1", names, counts.tolist()), Series("uniform", names, [expected] * experts)),
    )
    values = {
        "least": float(counts.min() / n),
        "most": float(counts.max() / n),
        "uniform": 1.0 / experts,
        "p": p,
        "largest_r": float(mixed.r.max(axis=-1).mean()),
    }
    return Figures(values, _mixture(m), picture)


def _judge_uniform(v: Values) -> Ruling:
    ours = (
        f"The learned top-1 router sends {percent(v['least'], 0)} to {percent(v['most'], 0)} of the clips to "
        f"an "
        f"expert where uniform is {percent(v['uniform'], 0)} (χ², p = {scientific(v['p'])}); its largest "
        f"probability is {v['largest_r']:.2f} on average."
    )
    return ruling(
        v["p"] > 0.05,
        ours,
        "The router’s choices cannot be told from uniform ones.",
        "The baseline called uniform is a router that has learned, which is why the paper can speak of its "
        "load imbalance; uniform routing has none.",
    )


def _eq6(m: Materials) -> Figures:
    voices = m.data.voices.of(m.bundle.settings().experts)
    mixed = _mixed(m)
    k = 2
    as_printed = mixing.mix(voices, m.bundle.settings(curiosity="none", top_k=k)).probabilities
    as_coded = reference.unnormalised_mixture(voices.logits, mixed.r, k)
    first = reference.unnormalised_mixture(voices.logits, mixed.r, 1)
    top1 = mixing.mix(voices, m.bundle.settings(curiosity="none", top_k=1)).probabilities
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
    low, high = bootstrap_interval(
        np.stack([epistemic, total], axis=1), lambda s: s[..., 0].sum(axis=1) / s[..., 1].sum(axis=1)
    )
    values = {
        "share": float(epistemic.sum() / total.sum()),
        "share_low": low,
        "share_high": high,
        "rank_correlation": float(spearmanr(total, epistemic)[0]),  # type: ignore[arg-type]
        "copies_entropy": float(entropy(copies.mean(axis=1)).mean()),
        "copies_disagreement": float(disagreement(copies).max()),
        "deviant_right": float(deviant[disputed].mean()) if disputed.any() else float("nan"),
        "others_right": float(right[disputed].mean()) if disputed.any() else float("nan"),
        "disputed": float(disputed.sum()),
    }
    order = np.argsort(share)[:: max(1, len(share) // 200)]
    picture = Picture(
        "points",
        "H(q̄) of Eq. 7, nats",
        "disagreement, nats",
        (Series("a clip", total[order].tolist(), epistemic[order].tolist()),),
    )
    return Figures(values, _mixture(m), picture)


def _judge_eq7(v: Values) -> Ruling:
    ours = (
        f"Disagreement is {percent(v['share'], 1)} of Eq. 7 (95 %: "
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
    sweep = alpha_sweep(m.data.voices, m.data.labels, settings, GRID)
    ours = alpha_sweep(m.data.voices, m.data.labels, settings, PAPER_ALPHAS)
    mixed = mixing.mix(m.data.voices, settings)
    coarse = (*settings.experts, "popcount")
    values = {
        "alpha": max(PAPER_ALPHAS),
        "moved": float(ours.route_flips.max()),
        "labels": float(ours.label_flips.max()),
        "bonus": float(np.exp(max(PAPER_ALPHAS) * mixed.disagreement.mean())),
        "mean_d": float(mixed.disagreement.mean()),
        "p95_d": float(np.quantile(mixed.disagreement, 0.95)),
        "moved_at_10": float(alpha_sweep(m.data.voices, m.data.labels, settings, (10.0,)).route_flips[0]),
        "first_percent": float(
            next((a for a, f in zip(GRID, sweep.route_flips, strict=True) if f > 0.01), math.inf)
        ),
        "clips": float(len(m.data.labels)),
    }
    series = [Series("+".join(settings.experts), list(GRID), sweep.route_flips.tolist())]
    if "popcount" in m.bundle.experts:
        with_coarse = m.bundle.settings(curiosity="disagreement", normalise=False, top_k=1, experts=coarse)
        voices = m.data.voices
        values["coarse_d"] = float(mixing.mix(voices, with_coarse).disagreement[:, -1].mean())
        moved = alpha_sweep(voices, m.data.labels, with_coarse, GRID).route_flips
        series.append(Series("+".join(coarse), list(GRID), moved.tolist()))
    picture = Picture("lines", "α", "share of clips routed elsewhere", tuple(series), log="x")
    return Figures(values, _mixture(m), picture)


def _judge_at_the_papers_alpha(v: Values) -> Ruling:
    moved, n = v["moved"], v["clips"]
    # Rule of three: none of n seen still allows 3/n.
    upper = 3.0 / n if moved == 0.0 else moved + 1.96 * math.sqrt(moved * (1.0 - moved) / n)
    ours = (
        f"At α = {v['alpha']:g} the mean bonus is × {v['bonus']:.4f} (d: mean {v['mean_d']:.4f}, 95th "
        f"percentile {v['p95_d']:.3f} nats) and {percent(moved, 1)} of {n:.0f} clips change expert (95 %: "
        f"at most {percent(upper, 1)}); at α = 10 it is {percent(v['moved_at_10'], 1)}, and 1 % is passed "
        f"at α = {v['first_percent']:g}."
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


CLAIMS = (
    Claim(
        1,
        "routing",
        "The published code adds the KL bonus of Eq. 8 to the routing.",
        "§3.3, Eq. 8; public code, commit dfbb02c",
        "Route the clips the way the code does, at every α from 0 to 1,000, and compare with Eq. 8 as "
        "printed.",
        "the uncertainty is computed and logged; α and KL do not occur",
        "bundle",
        _in_the_code,
        _judge_in_the_code,
    ),
    Claim(
        2,
        "routing",
        "In the later versions of the code, curiosity can choose another expert than the plain router.",
        "README, “corrected Eq. 8”; upstream versions",
        "Apply both versions, one factor for all experts and its fix, at 50 values of α, and count the clips "
        "whose leading expert changes.",
        "one scalar a clip for all experts, then a power of the routing",
        "bundle",
        _interim,
        _judge_interim,
    ),
    Claim(
        3,
        "routing",
        "The mixtures without curiosity use uniform routing.",
        "§5.3, caption of Table 3",
        "Count how often a router trained as the code does it chooses each expert, and test the counts "
        "against uniform ones.",
        "“MoE uses uniform routing”",
        "bundle",
        _uniform,
        _judge_uniform,
    ),
    Claim(
        4,
        "routing",
        "The published code mixes its experts by Eq. 5 and 6.",
        "§3.3, Eq. 5–6; public code, commit dfbb02c",
        "Mix the same outputs as the code does and as Eq. 6 mixes distributions, and compare "
        "probabilities and labels.",
        "no temperature, r not renormalised, sum over logits divided by k",
        "bundle",
        _eq6,
        _judge_eq6,
    ),
    Claim(
        5,
        "routing",
        "High predictive entropy (Eq. 7) means that the quantization strategies disagree.",
        "§3.3, Eq. 7–8",
        "Split Eq. 7 into what each expert has by itself and what they differ in; put in three copies of one "
        "expert; see how often the expert that Eq. 8 rewards most is right.",
        "H(y|z) of the mean, as a measure of disagreement",
        "bundle",
        _eq7,
        _judge_eq7,
    ),
    Claim(
        31,
        "routing",
        "At the paper’s α of 0.2 and 0.3, Eq. 8 encourages the selection of experts with diverse "
        "predictions.",
        "§3.3, Eq. 8; README (α = 0.2, 0.3)",
        "Mix the default bundle’s out-of-fold outputs with Eq. 8 as printed and count the clips that go to "
        "another expert than without.",
        "α = 0.2 and 0.3",
        "bundle",
        _at_the_papers_alpha,
        _judge_at_the_papers_alpha,
    ),
)
