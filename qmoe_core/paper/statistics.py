"""Claims 25–30: what the paper concludes from its figures, recomputed from its own tables."""

from __future__ import annotations

import numpy as np

from qmoe_core.evaluation.significance import bonferroni, holm
from qmoe_core.numbers import percent
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
from qmoe_core.paper.tables import DATASETS, MODELS, full_name, table

UNIFORM, CURIOUS = "BitNet-Q4/8/16-QMoE", "BitNet-Q4/8-QMoE-C"
"""The two models that "from 230 ms to 29 ms" is about."""
ROUNDING = 0.0011
"""A mean of three printed means may differ from the printed mean of the unrounded ones by 0.001."""


def _latency(model: str) -> tuple[float, float]:
    cell = table(4).row(model=model)["latency"]
    assert cell.value is not None
    assert cell.deviation is not None
    return cell.value, cell.deviation


def _reduction(before: float, after: float) -> float:
    return 1.0 - after / before


def _latency_spread(_: Materials) -> Figures:
    before, after = _latency(UNIFORM)[1], _latency(CURIOUS)[1]
    values = {
        "claimed": 0.82,
        "of_deviation": _reduction(before, after),
        "of_variance": _reduction(before**2, after**2),
        "q8_claimed": 0.68,
    }
    deviations = {name: _latency(name)[1] for name in MODELS}
    order = sorted(deviations, key=lambda name: -deviations[name])
    picture = Picture(
        "bars", "", "deviation of latency, ms", (Series("Table 4", order, [deviations[n] for n in order]),)
    )
    return Figures(values, "Tables 4 and 5, 5 folds a figure", picture)


def _judge_latency_spread(v: Values) -> Ruling:
    fits = any(abs(v["claimed"] - v[key]) < 0.015 for key in ("of_deviation", "of_variance"))
    ours = (
        f"230 → 29 ms is {percent(v['of_deviation'], 0)} less deviation and {percent(v['of_variance'], 1)} "
        f"less variance; Q8-Base, a single model without curiosity, gets {percent(v['q8_claimed'], 0)} by "
        "the same test (Table 5)."
    )
    return ruling(
        fits,
        ours,
        "The percentage belongs to the two figures beside it.",
        "82 % and p = 0.008 are Table 5’s for another model, Q8/16-PTQ-C, against FP32-Base; a reduction "
        "that a model without any routing shows as well is no effect of curiosity.",
    )


def _like_for_like(_: Materials) -> Figures:
    pairs = [
        (name, name + "-C")
        for name, model in MODELS.items()
        if model.is_mixture and not model.curious and name + "-C" in MODELS
    ]
    reductions = [_reduction(_latency(plain)[1], _latency(curious)[1]) for plain, curious in pairs]
    values = {
        "experts_before": float(len(MODELS[UNIFORM].experts)),
        "experts_after": float(len(MODELS[CURIOUS].experts)),
        "same_experts": float(MODELS[UNIFORM].experts == MODELS[CURIOUS].experts),
        "least": min(reductions),
        "most": max(reductions),
        "pairs": float(len(pairs)),
    }
    names = [plain.removeprefix("BitNet-").removesuffix("-QMoE") for plain, _ in pairs]
    picture = Picture(
        "bars",
        "",
        "deviation of latency, ms",
        (
            Series("uniform", names, [_latency(plain)[1] for plain, _ in pairs]),
            Series("with curiosity", names, [_latency(curious)[1] for _, curious in pairs]),
        ),
    )
    return Figures(
        values, f"Table 4, the {len(pairs)} mixtures it has in both kinds, 5 folds a figure", picture
    )


def _judge_like_for_like(v: Values) -> Ruling:
    ours = (
        f"The two models have {v['experts_before']:.0f} and {v['experts_after']:.0f} experts. Between "
        f"mixtures of the same experts the deviation falls by {percent(v['least'], 0)} to "
        f"{percent(v['most'], 0)} ({v['pairs']:.0f} pairs)."
    )
    return ruling(
        v["same_experts"] == 1.0,
        ours,
        "Both figures are of the same experts, so that routing is all that differs.",
        "The two figures are of different expert sets, so their difference is not that of the routing.",
    )


def _corrections(_: Materials) -> Figures:
    rows = table(5).rows
    p = [row["p"].value or 0.0 for row in rows]
    starred = [row["significance"].printed != "ns" for row in rows]
    by_bonferroni, by_holm = bonferroni(p), holm(p)
    two, sixteen = (table(2).row(bits=bits, dataset="ESC-50")["f1"] for bits in ("2", "16"))
    assert None not in (two.value, sixteen.value, two.deviation, sixteen.deviation)
    spread = np.sqrt((two.deviation**2 + sixteen.deviation**2) / 2.0)  # type: ignore[operator]
    values = {
        "tests": float(len(p)),
        "starred": float(sum(starred)),
        "after_bonferroni": float(sum(s and q < 0.05 for s, q in zip(starred, by_bonferroni, strict=True))),
        "after_holm": float(sum(s and q < 0.05 for s, q in zip(starred, by_holm, strict=True))),
        "stability_p": by_bonferroni[[row["p"].printed for row in rows].index("0.008")],
        "cohens_d": (two.value - sixteen.value) / float(spread),  # type: ignore[operator]
    }
    names = [row["comparison"].printed for row in rows]
    picture = Picture(
        "dots",
        "",
        "p",
        (Series("as printed", names, p), Series("times 10 (Bonferroni)", names, by_bonferroni)),
        log="y",
    )
    return Figures(values, f"Table 5, {len(p)} tests", picture)


def _judge_corrections(v: Values) -> Ruling:
    ours = (
        f"Of {v['starred']:.0f} results marked significant among {v['tests']:.0f} tests, "
        f"{v['after_bonferroni']:.0f} remain after Bonferroni and {v['after_holm']:.0f} after Holm; the "
        f"p = 0.008 of the stability result becomes {v['stability_p']:.2f}. Cohen’s d of 2 against 16 bits "
        f"is −{abs(v['cohens_d']):.2f} from Table 2 (printed: −1.24)."
    )
    return ruling(
        v["after_bonferroni"] == v["starred"],
        ours,
        "Every result marked significant stays so when the correction is applied.",
        "The stars are those of the uncorrected p-values; the correction the text names was not applied.",
    )


def _means(_: Materials) -> Figures:
    rows = table(1)
    means = np.mean([rows.values(key) for key in DATASETS], axis=0)
    printed = rows.values("mean")
    off = np.abs(means - printed) > ROUNDING
    names = [full_name(row["model"].printed) for row in rows.rows]
    mixture = np.array([MODELS[name].is_mixture for name in names])
    values = {
        "wrong": float(off.sum()),
        "wrong_mixtures": float((off & mixture).sum()),
        "mixtures": float(mixture.sum()),
        "rows": float(len(names)),
        "largest": float(np.abs(means - printed).max()),
        "mean_shift": float((means - printed)[mixture].mean()),
    }
    picture = Picture(
        "dots",
        "",
        "average F1",
        (Series("printed", names, printed.tolist()), Series("mean of the row", names, means.tolist())),
    )
    return Figures(values, f"Table 1, {len(names)} rows", picture)


def _judge_means(v: Values) -> Ruling:
    ours = (
        f"{v['wrong']:.0f} of {v['rows']:.0f} averages are not the means of their rows, all among the "
        f"{v['mixtures']:.0f} mixtures ({v['wrong_mixtures']:.0f}); the largest difference is "
        f"{v['largest']:.3f}."
    )
    return ruling(
        v["wrong"] == 0.0,
        ours,
        "Every printed average is the mean of its three datasets, to rounding.",
        f"The mixtures are printed {v['mean_shift']:.3f} too low on average, so the gap between them and the "
        "single models is smaller than the paper says.",
    )


def _variance_ratio(_: Materials) -> Figures:
    wide, narrow = _latency(UNIFORM)[1], _latency("Q8-Base")[1]
    between = [
        table(2).row(bits="8", dataset=dataset)["latency"].value or 0.0 for dataset in DATASETS.values()
    ]
    values = {
        "claimed": 72.0,
        "deviations": wide / narrow,
        "variances": (wide / narrow) ** 2,
        "q8_between_datasets": float(np.std(between, ddof=1)),
        "q8_printed": narrow,
    }
    return Figures(values, "Tables 2 and 4, 5 folds a figure")


def _judge_variance_ratio(v: Values) -> Ruling:
    fits = any(abs(v[key] / v["claimed"] - 1.0) < 0.05 for key in ("deviations", "variances"))
    ours = (
        f"230 against 12 ms is {v['deviations']:.1f}× in deviation and {v['variances']:.0f}× in variance. "
        f"Q8-Base’s ± {v['q8_printed']:.0f} ms leaves out the {v['q8_between_datasets']:.0f} ms by which its "
        "three datasets differ (Table 2)."
    )
    return ruling(
        fits,
        ours,
        "The ratio is that of the figures beside it.",
        "72 is neither the ratio of the deviations nor that of the variances.",
    )


def _speedups(_: Materials) -> Figures:
    rows = table(4)
    latency, printed = rows.values("latency"), rows.values("speedup")
    fp32 = _latency("FP32-Base")[0]
    values = {
        "rows": float(len(printed)),
        "fit_slowest": float((np.abs(latency.max() / latency - printed) < 0.0051).sum()),
        "fit_fp32": float((np.abs(fp32 / latency - printed) < 0.0051).sum()),
        "best_printed": float(printed.max()),
        "best_against_slowest": float((latency.max() / latency).max()),
    }
    names = [full_name(row["model"].printed) for row in rows.rows]
    picture = Picture(
        "dots",
        "",
        "speed-up",
        (
            Series("printed", names, printed.tolist()),
            Series("against the slowest", names, (latency.max() / latency).tolist()),
            Series("against FP32", names, (fp32 / latency).tolist()),
        ),
    )
    return Figures(values, f"Table 4, {len(names)} rows", picture)


def _judge_speedups(v: Values) -> Ruling:
    ours = (
        f"{v['fit_slowest']:.0f} of {v['rows']:.0f} printed speed-ups fit the slowest model, "
        f"{v['fit_fp32']:.0f} fit FP32-Base; against the slowest the best would be "
        f"{v['best_against_slowest']:.2f}, printed is {v['best_printed']:.2f}."
    )
    return ruling(
        v["fit_slowest"] == v["rows"],
        ours,
        "The column is relative to the model that the caption names.",
        "The column is relative to FP32-Base, not to the model that the caption names.",
    )


CLAIMS = (
    Claim(
        25,
        "statistics",
        "Curiosity-driven routing reduces the variance of a mixture’s latency by 82 % (p = 0.008), from "
        "230 to 29 ms.",
        "Abstract, §1, §5.5, Table 5",
        "Recompute the reduction from the two deviations of Table 4, as deviation and as variance, and look "
        "for the row of Table 5 that 82 % and 0.008 come from.",
        "82 % (p = 0.008, Levene)",
        "arithmetic",
        _latency_spread,
        _judge_latency_spread,
    ),
    Claim(
        26,
        "statistics",
        "Curiosity, all else alike, is what takes the latency’s deviation from 230 to 29 ms.",
        "Abstract, §5.3, §5.4, Table 4",
        "Compare the expert sets behind the two figures; then compare mixtures of the same experts with and "
        "without curiosity.",
        "230 → 29 ms, “8×”",
        "arithmetic",
        _like_for_like,
        _judge_like_for_like,
    ),
    Claim(
        27,
        "statistics",
        "The tests are corrected for their number by Bonferroni’s method.",
        "§4.1, §5.5, Table 5",
        "Apply Bonferroni’s and Holm’s corrections to the p-values of Table 5 and count the stars that "
        "remain; recompute Cohen’s d from Table 2.",
        "8 of 10 tests marked significant",
        "arithmetic",
        _corrections,
        _judge_corrections,
    ),
    Claim(
        28,
        "statistics",
        "The column “Avg F1” is the mean over the three datasets.",
        "Table 1",
        "Recompute the mean of each row and compare, allowing for rounding.",
        "0.836, 0.834, 0.821, 0.820, 0.818, 0.801 for six mixtures",
        "arithmetic",
        _means,
        _judge_means,
    ),
    Claim(
        29,
        "statistics",
        "A uniform mixture’s latency has a 72× larger variance (230 ms) than Q8-Base’s (12 ms).",
        "§5.4",
        "Divide the two deviations of Table 4, and their squares.",
        "72×",
        "arithmetic",
        _variance_ratio,
        _judge_variance_ratio,
    ),
    Claim(
        30,
        "statistics",
        "Table 4’s speed-ups are relative to the slowest model, BitNet-Q4/8/16-QMoE.",
        "Table 4, caption",
        "Recompute the column against the slowest model and against FP32-Base, and count which fits.",
        "1.08× for Q1-Base",
        "arithmetic",
        _speedups,
        _judge_speedups,
    ),
)
