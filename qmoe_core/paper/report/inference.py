"""Table 5: which differences are more than the choice of folds, and which are not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from qmoe_core.evaluation.significance import (
    Paired,
    bonferroni,
    bootstrap_interval,
    brown_forsythe,
    holm,
    levene,
    paired,
    spearman,
)
from qmoe_core.numbers import signed
from qmoe_core.paper import tables as paper
from qmoe_core.paper.report.document import Interval, ReportColumn, ReportTable, Section, Value, columns_of
from qmoe_core.paper.report.protocols import Scores
from qmoe_core.paper.report.study import (
    MODELS,
    YARDSTICK,
    Study,
    has,
    machine_of,
    of_all,
    printed,
    runs_of,
    was_busy,
)

LEVEL = 0.05


@dataclass(frozen=True)
class Tested:
    """One comparison of a family: what, how large the difference is, and its p-values."""

    kind: str
    dataset: str
    a: str
    b: str
    found: Paired
    p_holm: float
    p_bonferroni: float


def by_fold(scores: Scores, name: str) -> np.ndarray:
    """F1 that may be paired: [J].

    Official folds are the same for every seed, so seeds are averaged first; random ones are different folds.
    """
    f1 = scores.f1(name)
    return f1.mean(axis=0) if scores.protocol.startswith("official") else f1.ravel()


def accuracy_tests(study: Study) -> list[Tested]:
    """Every model against FP32-Base, bit widths against 16, mixtures with curiosity against without."""
    scores = study.tables
    here = [model for model in MODELS if has(study, model)]
    pairs = [("vs FP32", m.ours, YARDSTICK) for m in here if m.ours != YARDSTICK]
    pairs += [("bit width", name, "q16") for name in ("q1", "q2", "q4", "q8")]
    pairs += [("curiosity", m.ours, m.ours.removesuffix(" curious")) for m in here if m.curious]
    found = [
        paired(by_fold(scores, a), by_fold(scores, b), test_share=scores.test_share) for _, a, b in pairs
    ]
    p = [test.p_corrected for test in found]
    return [
        Tested(kind, study.name, a, b, test, by_holm, by_bonferroni)
        for (kind, a, b), test, by_holm, by_bonferroni in zip(
            pairs, found, holm(p), bonferroni(p), strict=True
        )
    ]


def latency_tests(study: Study) -> list[Tested]:
    """Medians of the race's rounds: mixtures against Q8-Base, single experts against FP32-Base."""
    times = {name: np.median(values, axis=1) / 1e3 for name, values in study.costs.times.items()}
    here = [model for model in MODELS if has(study, model)]
    pairs = [("overhead", m.ours, "q8") for m in here if m.is_mixture]
    pairs += [("speed", m.ours, YARDSTICK) for m in here if not m.is_mixture and m.ours != YARDSTICK]
    found = [paired(times[a], times[b], test_share=0.0) for _, a, b in pairs]
    p = [test.p for test in found]
    return [
        Tested(kind, study.name, a, b, test, by_holm, by_bonferroni)
        for (kind, a, b), test, by_holm, by_bonferroni in zip(
            pairs, found, holm(p), bonferroni(p), strict=True
        )
    ]


@dataclass(frozen=True)
class Steadiness:
    """Whether one model's time varies less than another's.

    Attributes:
        ratio: of the deviations of single calls, a over b, with a bootstrap interval over rounds.
        p_brown_forsythe, p_levene: two-sided, over single calls; the first after Holm too.
        p_rounds: two-sided paired test of the deviations within rounds (logarithms).
    """

    a: str
    b: str
    ratio: Interval
    p_brown_forsythe: float
    p_levene: float
    p_holm: float
    p_rounds: float


def steadiness(study: Study) -> list[Steadiness]:
    """Variance of latency: every model against FP32-Base, mixtures with curiosity against without."""
    times = study.costs.times
    here = [model for model in MODELS if has(study, model)]
    pairs = [(m.ours, YARDSTICK) for m in here if m.ours != YARDSTICK]
    pairs += [(m.ours, m.ours.removesuffix(" curious")) for m in here if m.curious]
    p = [brown_forsythe(times[a].ravel(), times[b].ravel()) for a, b in pairs]
    made = []
    for (a, b), raw, by_holm in zip(pairs, p, holm(p), strict=True):
        both = np.stack([times[a], times[b]], axis=1)  # [rounds, 2, calls]
        low, high = bootstrap_interval(both, _ratio_of_deviations, resamples=500)
        ratio = float(_ratio_of_deviations(both[None])[0])
        within = np.log(np.maximum(both.std(axis=2, ddof=1), 1e-9))
        made.append(
            Steadiness(
                a,
                b,
                Interval(ratio, low, high),
                raw,
                levene(times[a].ravel(), times[b].ravel()),
                by_holm,
                paired(within[:, 0], within[:, 1], test_share=0.0).p,
            )
        )
    return made


def _ratio_of_deviations(samples: np.ndarray) -> np.ndarray:
    """[resamples, rounds, 2, calls] → [resamples]."""
    deviations = samples.astype(np.float64).std(axis=(1, 3), ddof=1)
    return deviations[:, 0] / np.maximum(deviations[:, 1], 1e-9)


def table_5(studies: Sequence[Study]) -> Section:
    """The paper's ten tests on our runs, and all others as files."""
    study = studies[0]
    f1 = {(t.dataset, t.a, t.b): t for s in studies for t in accuracy_tests(s)}
    times = {(t.a, t.b): t for t in latency_tests(study)}
    steady = steadiness(study)
    steadily = {(t.a, t.b): t for t in steady}
    rows = _rows_of_table_5(studies, f1, times, steadily)
    columns = columns_of(
        "Test; Comparison; Dataset; n:0; Difference; of; p:::p; p corrected:::p; p Holm:::p; "
        "p Bonferroni:::p; Cohen’s d:2; Paper’s p"
    )
    tests = list(f1.values())
    note = (
        "F1: paired over folds"
        + (", seeds averaged within a fold" if study.tables.protocol.startswith("official") else " and seeds")
        + "; p corrected: Nadeau & Bengio (2003), variance × (1/J + n_test/n_train); Holm and Bonferroni "
        f"over all comparisons of F1 of a dataset ({len(tests) // len(studies)}), on corrected p. Latency: "
        "paired over medians of rounds, same race. Variance: p of Brown–Forsythe over single calls, which "
        "are not quite independent; in its column p corrected stands a paired test of the deviations within "
        "rounds. Cohen's d of "
        "the pairs. " + "; ".join(runs_of(s.tables) for s in studies) + f". {machine_of(study.costs)}."
    )
    return Section(
        "table-5",
        "Which differences are real (Table 5)",
        _words_of_table_5(studies, tests, steady),
        ReportTable("table-5", "Table 5, the same tests on our runs", columns, tuple(rows), note),
        printed(5),
        large=(_all_f1(tests), _all_latency(list(times.values())), _all_steady(steady, study.name)),
    )


def _rows_of_table_5(
    studies: Sequence[Study],
    f1: Mapping[tuple[str, str, str], Tested],
    times: Mapping[tuple[str, str], Tested],
    steadily: Mapping[tuple[str, str], Steadiness],
) -> list[tuple[Value, ...]]:
    study = studies[0]
    rows: list[tuple[Value, ...]] = []
    for row in paper.table(5).rows:
        group, said = row["group"].printed, row["comparison"].printed
        named = re.sub(r" \(.*\)", "", said)
        a, b = _compared(named)
        printed_p = row["p"].printed
        if group.startswith("F1"):
            for s in studies:
                test = f1[s.name, a, b]
                found = test.found
                rows.append(
                    (
                        "F1", named, s.name, found.n, found.difference, "F1", found.p, found.p_corrected,
                        test.p_holm, test.p_bonferroni, found.effect, printed_p,
                    )
                )  # fmt: skip
        elif group.startswith("Latency"):
            test = times[a, b]
            rows.append(
                (
                    "Latency", named, study.name, test.found.n, test.found.difference, "µs",
                    test.found.p, None, test.p_holm, test.p_bonferroni, test.found.effect, printed_p,
                )
            )  # fmt: skip
        else:
            test = steadily[a, YARDSTICK]
            count = study.costs.times[a].size
            rows.append(
                (
                    "Variance", f"{named} vs FP32-Base", study.name, count, test.ratio.value, "ratio of "
                    "deviations",
                    test.p_brown_forsythe, test.p_rounds, test.p_holm, None, None, printed_p,
                )
            )  # fmt: skip
    return rows


def _words_of_table_5(
    studies: Sequence[Study], tests: Sequence[Tested], steady: Sequence[Steadiness]
) -> tuple[str, ...]:
    study = studies[0]
    naive = sum(t.found.p < LEVEL for t in tests)
    corrected = sum(t.found.p_corrected < LEVEL for t in tests)
    after = [t for t in tests if t.p_holm < LEVEL]
    curious = [t for t in steady if t.a == f"{t.b} curious"]
    fewer = [t for t in curious if t.ratio.high < 1.0]
    more = [t for t in curious if t.ratio.low > 1.0]
    return (
        f"Of {len(tests)} comparisons of F1, {naive} have p < 0.05 in a paired t-test that takes the folds "
        f"for independent, {corrected} with the Nadeau–Bengio variance, and {len(after)} after Holm's "
        "correction"
        + (
            ": " + "; ".join(f"{t.a} against {t.b} ({signed(t.found.difference)})" for t in after[:4])
            if after
            else ""
        )
        + ". All tests are two-sided; the paper's are one-sided and uncorrected (claim 27).",
        "Curiosity and the spread of latency: the deviation of a mixture with curiosity is that of the same "
        "mixture without times "
        + "; ".join(f"{t.ratio.value:.2f} [{t.ratio.low:.2f}, {t.ratio.high:.2f}] for {t.b}" for t in curious)
        + f". It is lower in {len(fewer)} and higher in {len(more)} of {len(curious)} mixtures where the "
        "interval decides. What varies on this machine is the system's interruptions, which a slower call "
        "collects more of; routing itself adds little." + was_busy(study.costs),
        _ranks(studies),
    )


_NAMES = {
    "Q16": "q16",
    "FP32": "fp32",
    "Q8-Base": "q8",
    "Q1": "q1",
    "2-bit": "q2",
    "4-bit": "q4",
    "16-bit": "q16",
    "Q8/16-PTQ-C": "bitnet+q8+q16+ptq8 curious",
    "Q4/8/16-MoE-C": "bitnet+q4+q8+q16 curious",
    "Q4/8-MoE-C": "bitnet+q4+q8 curious",
    "Q8PTQ-C": "bitnet+ptq8 curious",
}
"""Table 5's own abbreviations."""


def _compared(text: str) -> tuple[str, str]:
    """The two models of a row of Table 5; the second is FP32-Base where none is printed."""
    a, _, b = text.partition(" vs ")
    return _NAMES[a], _NAMES[b or "FP32"]


def _ranks(studies: Sequence[Study]) -> str:
    """How stable the order of the models is: between folds, against the paper, between datasets."""
    study = studies[0]
    here = of_all(studies)
    by_model = np.array([by_fold(study.tables, model.ours) for model in here])
    pairs = combinations(by_model.T, 2)
    between = [rho for rho, _ in (spearman(a, b) for a, b in pairs) if np.isfinite(rho)]
    said = {row["model"].printed.rstrip("†‡"): row["mean"].value for row in paper.table(1).rows}
    known = [model for model in here if model.printed]
    rho, p = spearman(
        [float(np.mean([s.tables.f1(m.ours).mean() for s in studies])) for m in known],
        [float(said[m.paper] or 0.0) for m in known],
    )
    text = (
        f"Ranks: between any two folds of {study.name} the order of the {len(here)} models has a Spearman ρ "
        f"of {np.mean(between) if between else float('nan'):.2f} on average (the paper says 0.89); our "
        f"order and the paper's of Table 1 have ρ = {signed(rho, 2)} (p = {p:.3f}, n = {len(known)})."
    )
    if len(studies) > 1:
        means = {s.name: [float(s.tables.f1(m.ours).mean()) for m in here] for s in studies}
        each = [f"{a} and {b} {spearman(means[a], means[b])[0]:.2f}" for a, b in combinations(means, 2)]
        text += f" Between datasets: {'; '.join(each)}."
    return text


def _all_f1(tests: Sequence[Tested]) -> ReportTable:
    heads = ("test", "dataset", "a", "b", "n", "difference", "low", "high", "p", "p corrected", "p Holm")
    heads += ("p Bonferroni", "Cohen’s d")
    rows = tuple(
        (
            t.kind, t.dataset, t.a, t.b, t.found.n, t.found.difference, t.found.low, t.found.high, t.found.p,
            t.found.p_corrected, t.p_holm, t.p_bonferroni, t.found.effect,
        )
        for t in tests
    )  # fmt: skip
    return ReportTable("tests-f1", "Every test of F1", tuple(ReportColumn(head, 4) for head in heads), rows)


def _all_latency(tests: Sequence[Tested]) -> ReportTable:
    heads = ("test", "dataset", "a", "b", "rounds", "difference µs", "low", "high", "p", "p Holm")
    heads += ("p Bonferroni", "Cohen’s d")
    rows = tuple(
        (
            t.kind, t.dataset, t.a, t.b, t.found.n, t.found.difference, t.found.low, t.found.high, t.found.p,
            t.p_holm, t.p_bonferroni, t.found.effect,
        )
        for t in tests
    )  # fmt: skip
    return ReportTable(
        "tests-latency", "Every test of latency", tuple(ReportColumn(head, 4) for head in heads), rows
    )


def _all_steady(tests: Sequence[Steadiness], dataset: str) -> ReportTable:
    heads = (
        "dataset",
        "a",
        "b",
        "deviation of a over b",
        "p Brown–Forsythe",
        "p Levene",
        "p Holm",
        "p rounds",
    )
    rows = tuple(
        (dataset, t.a, t.b, t.ratio, t.p_brown_forsythe, t.p_levene, t.p_holm, t.p_rounds) for t in tests
    )
    return ReportTable(
        "tests-variance",
        "Every test of latency's variance",
        tuple(ReportColumn(head, 4) for head in heads),
        rows,
    )
