"""Claims 25–30 and 32–36: what the paper concludes from its figures, recomputed from its own tables."""

from __future__ import annotations

import numpy as np

from qmoe_core.evaluation.significance import bonferroni, holm
from qmoe_core.numbers import percent
from qmoe_core.paper.claim import (
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

UNIFORM, CURIOUS = "BitNet-Q4/8/16-QMoE", "BitNet-Q4/8-QMoE-C"
"""The two models that "from 230 ms to 29 ms" is about."""
STABLE = "BitNet-Q8/16-PTQ-QMoE-C"
"""The model of which Table 5 prints the 82 %."""
Q8_REDUCTION = 0.68
"""The reduction that Table 5 prints of Q8-Base, by the same test."""
STRONGEST = "BitNet-Q4/8/16-QMoE-C"
MIXTURES = tuple(name for name, model in MODELS.items() if model.is_mixture)
ADVICE = {
    "maximum accuracy": ("BitNet-Q4/8/16-QMoE", "Q16-Base"),
    "balanced": ("BitNet-Q4/8-QMoE-C", "Q4-Base"),
    "real time": ("BitNet-Q8/16-PTQ-QMoE-C", "Q8-Base"),
}
"""Purposes that both §5.3 and §5.4 recommend a model for, and the two models."""
FOLDS = 5
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
    own = _latency(STABLE.removesuffix("-C"))[1]
    pooled = {bits: _pooled_over_datasets(bits) for bits in ("1", "2", "4", "8")}
    # The pooled deviation of FP32-Base that makes Q8-Base's reduction what Table 5 prints.
    float_pooled = pooled["8"] / (1.0 - Q8_REDUCTION)
    others = [_reduction(float_pooled, pooled[bits]) for bits in ("1", "2", "4")]
    values = {
        "claimed": 0.82,
        "of_deviation": _reduction(before, after),
        "of_variance": _reduction(before**2, after**2),
        "same_experts": _reduction(own, _latency(STABLE)[1]),
        "same_experts_variance": _reduction(own**2, _latency(STABLE)[1] ** 2),
        "within": _reduction(_latency("FP32-Base")[1], _latency(STABLE)[1]),
        "q8_claimed": Q8_REDUCTION,
        "q8_within": _latency("Q8-Base")[1],
        "q8_pooled": pooled["8"],
        "others_least": min(others),
        "others_most": max(others),
    }
    deviations = {name: _latency(name)[1] for name in MODELS}
    order = sorted(deviations, key=lambda name: -deviations[name])
    picture = ClaimFigure(
        "bars", "", "deviation of latency, ms", (Series("Table 4", order, [deviations[n] for n in order]),)
    )
    return Figures(values, "Tables 2, 4 and 5, 5 folds a dataset", picture)


def _pooled_over_datasets(bits: str) -> float:
    """Deviation of a single model's latency over the folds of all three datasets, from Table 2."""
    cells = [table(2).row(bits=bits, dataset=dataset)["latency"] for dataset in DATASETS.values()]
    return _pooled([(cell.value or 0.0, cell.deviation or 0.0) for cell in cells])


def _pooled(groups: list[tuple[float, float]], n: int = FOLDS) -> float:
    """Deviation of all values of several groups of `n`, from each one's mean and deviation."""
    means, deviations = np.array(groups).T
    squares = (n - 1) * (deviations**2).sum() + n * ((means - means.mean()) ** 2).sum()
    return float(np.sqrt(squares / (n * len(groups) - 1)))


def _judge_latency_spread(v: Values) -> Ruling:
    keys = ("of_deviation", "of_variance", "same_experts", "same_experts_variance")
    fits = any(abs(v["claimed"] - v[key]) < 0.015 for key in keys)
    ours = (
        f"230 → 29 ms is {percent(v['of_deviation'], 0)} less deviation and {percent(v['of_variance'], 1)} "
        f"less variance. Table 5 prints the 82 % of Q8/16-PTQ-C, whose deviation is "
        f"{percent(v['same_experts'], 0)} (variance {percent(v['same_experts_variance'], 0)}) below that of "
        f"the same experts without curiosity, and {percent(v['within'], 0)} below that of FP32-Base. A test "
        f"that pools the three datasets of a model counts the differences between datasets: Q8-Base’s "
        f"{v['q8_within']:.1f} ms within them become {v['q8_pooled']:.0f} ms. Against the pooled FP32-Base "
        f"that gives Q8-Base its printed {percent(v['q8_claimed'], 0)}, 1, 2 and 4 bits get "
        f"{percent(v['others_least'], 0)} to {percent(v['others_most'], 0)}, as the paper prints (64–69 %)."
    )
    return ruling(
        fits,
        ours,
        "The percentage belongs to the figures of a mixture.",
        "82 % is how far the deviation over the folds of all three datasets is below the float model’s, as "
        "the published script of the tests (analyze-significance.py) computes it. A single model without "
        f"routing gets {percent(v['q8_claimed'], 0)} by the same test, so the figure does not say what "
        "curiosity does to a mixture.",
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
    picture = ClaimFigure(
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
        "cohens_d": (two.value - sixteen.value) / float(spread),  # type: ignore[operator]
    }
    names = [row["comparison"].printed for row in rows]
    picture = ClaimFigure(
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
        f"{v['after_bonferroni']:.0f} have a printed p below 0.05/{v['tests']:.0f}, and "
        f"{v['after_holm']:.0f} pass Holm’s correction. Were the printed values corrected already, all marks "
        "would stand, and the p = 0.008 of the stability result would be 0.0008 before; the table does not "
        f"say which. Cohen’s d of 2 against 16 bits is −{abs(v['cohens_d']):.2f} from Table 2 (printed: "
        "−1.24)."
    )
    return ruling(
        v["after_bonferroni"] == v["starred"],
        ours,
        "Every result marked significant stays so at the level that §5.5 names.",
        "The marks are those of p below 0.05, 0.01 and 0.001, as the table’s legend says, and not of the "
        "level of §5.5. The published script of the tests has no correction; some of its tests are "
        "one-sided.",
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
    picture = ClaimFigure(
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
    picture = ClaimFigure(
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


def _overhead(_: Materials) -> Figures:
    pairs = {"four": (STRONGEST, 0.11), "three": (CURIOUS, 0.10)}
    base = _latency("Q8-Base")[0]
    values = {name: _latency(model)[0] / base - 1.0 for name, (model, _) in pairs.items()}
    values |= {f"{name}_claimed": claimed for name, (_, claimed) in pairs.items()}
    others = [_latency(name)[0] / base - 1.0 for name, model in MODELS.items() if model.is_mixture]
    values |= {"least": min(others), "most": max(others)}
    return Figures(values, "Table 4, 5 folds × 3 datasets a figure")


def _judge_overhead(v: Values) -> Ruling:
    ours = (
        f"By Table 4 BitNet-Q4/8/16-QMoE-C takes {percent(v['four'], 1)} more than Q8-Base and "
        f"BitNet-Q4/8-QMoE-C {percent(v['three'], 1)}; the seven mixtures lie between "
        f"{percent(v['least'], 1)} and {percent(v['most'], 1)}."
    )
    return ruling(
        all(abs(v[name] - v[f"{name}_claimed"]) < 0.0051 for name in ("four", "three")),
        ours,
        "Both overheads are those of the printed latencies.",
        "The printed latencies give an overhead, of a smaller size than the text says.",
    )


def _emission_overhead(_: Materials) -> Figures:
    co2 = {full_name(row["model"].printed): row["co2"].value or 0.0 for row in table(3).rows}
    pairs = [(name, f"{name}-C") for name in co2 if f"{name}-C" in co2]
    curious = [value for name, value in co2.items() if MODELS[name].curious]
    plain = [value for name, value in co2.items() if not MODELS[name].curious]
    changes = [co2[after] / co2[before] - 1.0 for before, after in pairs]
    values = {
        "claimed": 0.16,
        "of_means": float(np.mean(curious) / np.mean(plain) - 1.0),
        "pairs": float(len(pairs)),
        "least": min(changes),
        "most": max(changes),
        "of_pairs": float(np.mean([co2[c] for _, c in pairs]) / np.mean([co2[p] for p, _ in pairs]) - 1.0),
    }
    names = [before.removeprefix("BitNet-").removesuffix("-QMoE") for before, _ in pairs]
    picture = ClaimFigure(
        "bars",
        "",
        "CO2 as printed",
        (
            Series("uniform", names, [co2[before] for before, _ in pairs]),
            Series("with curiosity", names, [co2[after] for _, after in pairs]),
        ),
    )
    return Figures(values, f"Table 3, {len(co2)} mixtures, {len(pairs)} in both kinds", picture)


def _judge_emission_overhead(v: Values) -> Ruling:
    ours = (
        f"The mean of the four mixtures with curiosity is {percent(v['of_means'], 0)} above that of the "
        f"three without. Of the {v['pairs']:.0f} mixtures printed in both kinds the change is between "
        f"{percent(v['least'], 0)} and {percent(v['most'], 0)}; their means differ by "
        f"{percent(v['of_pairs'], 0)}."
    )
    return ruling(
        v["least"] > 0.0 and abs(v["of_pairs"] - v["claimed"]) < 0.02,
        ours,
        "Every mixture emits more with curiosity, and by the percentage named on average.",
        "16 % compares different sets of experts; between mixtures of the same experts the sign differs, and "
        "the mean does not change by that much.",
    )


def _two_tables(_: Materials) -> Figures:
    rows = [
        (table(3).row(model=name)["co2"].value, table(6).row(model=name)["co2"].value) for name in MIXTURES
    ]
    third, sixth = np.array(rows, float).T
    off = np.abs(third - sixth) > 0.5
    values = {
        "rows": float(len(rows)),
        "differing": float(off.sum()),
        "largest": float(np.abs(third - sixth).max()),
        "ratio_low": float((sixth / third).min()),
        "ratio_high": float((sixth / third).max()),
    }
    names = [name.removeprefix("BitNet-") for name in MIXTURES]
    picture = ClaimFigure(
        "dots",
        "",
        "CO2 as printed",
        (Series("Table 3", names, third.tolist()), Series("Table 6", names, sixth.tolist())),
    )
    return Figures(values, f"Tables 3 and 6, {len(rows)} mixtures", picture)


def _judge_two_tables(v: Values) -> Ruling:
    ours = (
        f"{v['differing']:.0f} of {v['rows']:.0f} mixtures have another figure in Table 6 than in Table 3, "
        f"by up to {v['largest']:.1f}; Table 6 is {v['ratio_low']:.3f} to {v['ratio_high']:.3f} times Table "
        "3."
    )
    return ruling(
        v["differing"] == 0.0,
        ours,
        "Both tables print the same emissions, to rounding.",
        "The two tables give the same quantity with figures that rounding does not explain.",
    )


def _advice(_: Materials) -> Figures:
    same = [first == second for first, second in ADVICE.values()]
    f1, spread = (lambda name: table(4).row(model=name)["f1"].value or 0.0), (lambda name: _latency(name)[1])
    values = {
        "purposes": float(len(ADVICE)),
        "same": float(sum(same)),
        "f1_first": f1(ADVICE["maximum accuracy"][0]),
        "f1_second": f1(ADVICE["maximum accuracy"][1]),
        "spread_first": spread(ADVICE["real time"][0]),
        "spread_second": spread(ADVICE["real time"][1]),
    }
    return Figures(values, "§5.3, §5.4 and Table 4")


def _judge_advice(v: Values) -> Ruling:
    ours = (
        f"Of {v['purposes']:.0f} purposes that both lists name, {v['same']:.0f} get the same model. For the "
        f"highest accuracy §5.3 takes a mixture of F1 {v['f1_first']:.3f} and §5.4 a single model of "
        f"{v['f1_second']:.3f}; for real time §5.3 takes a deviation of {v['spread_first']:.0f} ms and §5.4 "
        f"one of {v['spread_second']:.0f} ms."
    )
    return ruling(
        v["same"] == v["purposes"],
        ours,
        "Both lists recommend the same models.",
        "§5.3 chooses among mixtures and §5.4 among all models, without saying so; by Table 4 the choices of "
        "§5.4 are the better ones for accuracy and for a steady latency.",
    )


def _retained(_: Materials) -> Figures:
    f1 = {name: table(1).row(model=name)["mean"].value or 0.0 for name in ("Q4-Base", "Q8-Base", "Q16-Base")}
    values = {
        "claimed": 0.999,
        "four": f1["Q4-Base"] / f1["Q16-Base"],
        "eight": f1["Q8-Base"] / f1["Q16-Base"],
    }
    return Figures(values, "Table 1, mean over three datasets")


def _judge_retained(v: Values) -> Ruling:
    ours = f"0.858 is {percent(v['four'], 1)} of 0.859 for 4 bits, and {percent(v['eight'], 1)} for 8 bits."
    return ruling(
        all(abs(v[key] - v["claimed"]) < 0.0006 for key in ("four", "eight")),
        ours,
        "The percentage is that of the printed averages. What “16-bit” is in the code is claim 12.",
        "The percentage is not that of the printed averages.",
    )


CLAIMS = (
    Claim(
        25,
        "statistics",
        "arithmetic",
        "Curiosity-driven routing reduces the variance of a mixture’s latency by 82 % (p = 0.008), from "
        "230 to 29 ms.",
        "Abstract, §1, §5.5, Table 5",
        "Recompute the reduction from the two deviations of Table 4, as deviation and as variance, and for "
        "the mixture that Table 5 prints 82 % of, against the same experts without curiosity; see what "
        "pooling three datasets does to a deviation, and whether it explains the other rows.",
        "82 % (p = 0.008, Levene)",
        "Deviations in Table 4 of which a mixture’s falls by 82 % with curiosity, as deviation or as "
        "variance.",
        "arithmetic",
        _latency_spread,
        _judge_latency_spread,
    ),
    Claim(
        26,
        "statistics",
        "arithmetic",
        "Curiosity, all else alike, is what takes the latency’s deviation from 230 to 29 ms.",
        "Abstract, §5.3, §5.4, Table 4",
        "Compare the expert sets behind the two figures; then compare mixtures of the same experts with and "
        "without curiosity.",
        "230 → 29 ms, “8×”",
        "Two figures of mixtures with the same experts.",
        "arithmetic",
        _like_for_like,
        _judge_like_for_like,
    ),
    Claim(
        27,
        "statistics",
        "arithmetic",
        "Results marked significant are so at the level of Bonferroni’s correction, 0.05/n.",
        "§4.1, §5.5, Table 5",
        "Compare the p-values of Table 5 with 0.05 over their number, and by Holm’s method; say what it "
        "would mean if they were corrected already; recompute Cohen’s d from Table 2.",
        "8 of 10 tests marked significant",
        "Marks of significance that all stand below the corrected level.",
        "arithmetic",
        _corrections,
        _judge_corrections,
    ),
    Claim(
        28,
        "statistics",
        "arithmetic",
        "The column “Avg F1” is the mean over the three datasets.",
        "Table 1",
        "Recompute the mean of each row and compare, allowing for rounding.",
        "0.836, 0.834, 0.821, 0.820, 0.818, 0.801 for six mixtures",
        "Averages that are the means of their rows, within rounding.",
        "arithmetic",
        _means,
        _judge_means,
    ),
    Claim(
        29,
        "statistics",
        "arithmetic",
        "A uniform mixture’s latency has a 72× larger variance (230 ms) than Q8-Base’s (12 ms).",
        "§5.4",
        "Divide the two deviations of Table 4, and their squares.",
        "72×",
        "A ratio of deviations or of variances within 5 % of 72.",
        "arithmetic",
        _variance_ratio,
        _judge_variance_ratio,
    ),
    Claim(
        30,
        "statistics",
        "arithmetic",
        "Table 4’s speed-ups are relative to the slowest model, BitNet-Q4/8/16-QMoE.",
        "Table 4, caption",
        "Recompute the column against the slowest model and against FP32-Base, and count which fits.",
        "1.08× for Q1-Base",
        "Speed-ups that are the slowest model’s latency over each one’s.",
        "arithmetic",
        _speedups,
        _judge_speedups,
    ),
    Claim(
        32,
        "statistics",
        "arithmetic",
        "Mixtures with curiosity take 11 % (BitNet-Q4/8/16) and 10 % (BitNet-Q4/8) longer than Q8-Base.",
        "Abstract, §5.5, Tables 4 and 5",
        "Divide the latencies of Table 4.",
        "+11 % and +10 %, p < 0.001",
        "Latencies in Table 4 whose ratios are 1.11 and 1.10 within rounding.",
        "arithmetic",
        _overhead,
        _judge_overhead,
    ),
    Claim(
        33,
        "statistics",
        "arithmetic",
        "Curiosity adds 16 % of emissions.",
        "§5.3, Table 3",
        "Recompute the two means, and compare mixtures of the same experts with and without curiosity.",
        "150 against 129 µg",
        "Pairs of mixtures with the same experts that all emit more with curiosity, by 16 % on average.",
        "arithmetic",
        _emission_overhead,
        _judge_emission_overhead,
    ),
    Claim(
        34,
        "statistics",
        "arithmetic",
        "Tables 3 and 6 print the same emissions of the mixtures.",
        "Tables 3 and 6",
        "Compare both tables model by model, allowing for rounding.",
        "228 and 230.6, 76 and 77.6, …",
        "Figures that are equal in both tables within rounding.",
        "arithmetic",
        _two_tables,
        _judge_two_tables,
    ),
    Claim(
        35,
        "statistics",
        "arithmetic",
        "The deployment recommendations of §5.3 and §5.4 agree.",
        "§5.3 and §5.4, “Deployment Recommendations”",
        "Put the two lists side by side for each purpose that both name, with Table 4’s figures of the "
        "models.",
        "two lists of four and five",
        "The same model for each purpose that both lists name.",
        "arithmetic",
        _advice,
        _judge_advice,
    ),
    Claim(
        36,
        "statistics",
        "arithmetic",
        "4 and 8 bits retain 99.9 % of the 16-bit F1.",
        "Abstract, §1, §5.1, Table 1",
        "Divide the printed averages.",
        "99.9 % (0.858 against 0.859)",
        "Averages in Table 1 whose ratio is not 99.9 % within rounding.",
        "arithmetic",
        _retained,
        _judge_retained,
    ),
)
