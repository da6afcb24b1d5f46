"""Whether a mixture beats its experts (the question behind Table 1), and what α changes (0.2 and 0.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qmoe_core.evaluation.classification import weighted_f1
from qmoe_core.numbers import listed, signed
from qmoe_core.paper import tables as paper
from qmoe_core.paper.report import charts
from qmoe_core.paper.report.accuracy import f1_draws
from qmoe_core.paper.report.document import (
    Figure,
    Interval,
    ReportTable,
    Section,
    Value,
    columns_of,
)
from qmoe_core.paper.report.protocols import Scores
from qmoe_core.paper.report.study import Model, Study, of_all, runs_of, spread
from qmoe_core.routing import mixing
from qmoe_core.routing.mixing import Settings

ALPHAS = (0.0, 0.2, 0.3)
"""0 is the plain router; 0.2 and 0.3 are what the README of the paper's code runs."""
RESAMPLES = 2000
EVERY = "mean of all"


@dataclass(frozen=True)
class AgainstExperts:
    """A mixture against its own experts.

    Attributes:
        dataset: name, or `EVERY`; best: the expert of the highest F1, which the same folds chose ("" for
            the mean, where it is that of each dataset).
        f1, best_f1: weighted F1; over_best, over_mean: how much higher the mixture's is, with 95 % intervals.
    """

    model: Model
    dataset: str
    best: str
    f1: float
    best_f1: float
    over_best: Interval
    over_mean: Interval

    @property
    def verdict(self) -> str:
        """Whether the mixture beats the best of its experts."""
        if self.over_best.low > 0.0:
            return "better"
        return "worse" if self.over_best.high < 0.0 else "no difference shown"


def compare(studies: Sequence[Study], resamples: int = RESAMPLES) -> list[AgainstExperts]:
    """Every mixture on every dataset, and over all of them where there are several.

    Intervals resample recordings within each dataset, for given trained models; the mean over datasets is of
    independent draws.
    """
    drawn = [
        {
            model.ours: f1_draws(study.tables, model.ours, resamples=resamples, seed=number)
            for model in of_all(studies)
        }
        for number, study in enumerate(studies)
    ]
    found = []
    for model in (model for model in of_all(studies) if model.is_mixture):
        rows = [_compared(model, study.name, f1) for study, f1 in zip(studies, drawn, strict=True)]
        found += [comparison for comparison, *_ in rows]
        if len(rows) > 1:
            both = np.mean([over_best for _, over_best, _ in rows], axis=0)
            mean = np.mean([over_mean for *_, over_mean in rows], axis=0)
            f1, best = (float(np.mean([getattr(row[0], name) for row in rows])) for name in ("f1", "best_f1"))
            found.append(AgainstExperts(model, EVERY, "", f1, best, _interval(both), _interval(mean)))
    return found


def _compared(
    model: Model, dataset: str, f1: dict[str, np.ndarray]
) -> tuple[AgainstExperts, np.ndarray, np.ndarray]:
    """A mixture on one dataset, and the draws of its two differences, [1 + R]."""
    own, members = f1[model.ours], [f1[name] for name in model.experts]
    best = max(model.experts, key=lambda name: f1[name][0])
    over_best, over_mean = own - f1[best], own - np.mean(members, axis=0)
    made = AgainstExperts(
        model,
        dataset,
        best,
        float(own[0]),
        float(f1[best][0]),
        _interval(over_best),
        _interval(over_mean),
    )
    return made, over_best, over_mean


def _interval(draws: np.ndarray) -> Interval:
    """The estimate, which stands first, and the middle 95 % of the draws."""
    low, high = np.quantile(draws[1:], [0.025, 0.975])
    return Interval(float(draws[0]), float(low), float(high))


def question(studies: Sequence[Study]) -> Section:
    """Table 1's question: does a mixture beat its experts?"""
    found = compare(studies)
    rows: list[tuple[Value, ...]] = [
        (
            one.model.paper,
            one.model.ours,
            one.dataset,
            one.f1,
            one.best or "the best of each",
            one.best_f1,
            one.over_best,
            one.over_mean,
            one.verdict,
        )
        for one in found
    ]
    columns = columns_of(
        "Mixture; Here; Dataset; F1; Best of its experts; Its F1; Mixture − best [95 %]; "
        "Mixture − mean of its experts [95 %]; Against the best"
    )
    names = list(dict.fromkeys(one.dataset for one in found))
    text = [_answer([one for one in found if one.dataset == name], name) for name in names]
    note = (
        f"Weighted F1 as in Table 1. Intervals: {RESAMPLES:,} bootstrap samples of whole recordings, for "
        "given trained models. The best expert is chosen on the folds that it is reported for, which favours "
        "it a little; the mean of the experts is not chosen. " + "; ".join(runs_of(s.tables) for s in studies)
    )
    return Section(
        "mixtures",
        "Does a mixture beat its experts? (the question of Table 1)",
        (*text, _in_the_paper()),
        ReportTable("mixtures", "Every mixture against its own experts", columns, tuple(rows), note),
        figures=(_figure(found),),
    )


def _figure(found: Sequence[AgainstExperts]) -> Figure:
    """A row for each mixture, a mark for each dataset, of which there is room for three."""
    drawn = [name for name in dict.fromkeys(one.dataset for one in found) if name != EVERY][:3]
    rows = [
        (
            model.paper,
            [
                charts.Mark(*one.over_best, drawn.index(one.dataset))
                for one in found
                if one.model == model and one.dataset in drawn
            ],
        )
        for model in dict.fromkeys(one.model for one in found)
    ]
    return Figure(
        "mixtures",
        charts.intervals(
            rows, "weighted F1 of the mixture − that of its best expert", series=drawn, line_at=0.0
        ),
        "How much higher the F1 of each mixture is than that of the best of its own experts, with 95 % "
        "intervals over recordings. The dashed line is no difference.",
    )


def _answer(found: Sequence[AgainstExperts], name: str) -> str:
    """The answer of one dataset in words."""
    better = [one for one in found if one.verdict == "better"]
    worse = [one for one in found if one.verdict == "worse"]
    most = max(found, key=lambda one: one.over_best.value)
    least = min(found, key=lambda one: one.over_best.value)
    where = "Over all datasets" if name == EVERY else f"On {name}"
    verdict = (
        f"{where}, {len(better) or 'none'} of {len(found)} mixtures "
        f"{'is' if len(better) < 2 else 'are'} better than the best of "
        f"{'its' if len(better) < 2 else 'their'} experts"
        + (f" ({listed([one.model.paper for one in better])})" if better else "")
        + (f", {len(worse)} worse" if worse else "")
    )
    return (
        f"{verdict}: differences from {_told(least.over_best)} ({least.model.paper}) to "
        f"{_told(most.over_best)} ({most.model.paper})."
    )


def _told(found: Interval) -> str:
    return f"{signed(found.value)} [{signed(found.low)}, {signed(found.high)}]"


def _in_the_paper() -> str:
    """What the printed Table 1 says of the same question."""
    table, ahead = paper.table(1), []
    for model in (model for model in paper.MODELS.values() if model.is_mixture):
        row = table.row(model=model.name)
        for key, dataset in paper.DATASETS.items():
            members = [_printed(name, key) for name in model.experts]
            if (row[key].value or 0.0) > max(members):
                ahead.append(f"{model.name} on {dataset}")
    return (
        "In the printed Table 1, a mixture's mean F1 is above that of each of its experts in "
        f"{len(ahead)} of {7 * len(paper.DATASETS)} cases"
        + (f" ({listed(ahead)})" if ahead else "")
        + "; the paper tests none of these differences."
    )


def _printed(expert: str, key: str) -> float:
    """The printed F1 of a single model."""
    name = next(m.name for m in paper.MODELS.values() if m.experts == (expert,))
    return paper.table(1).row(model=name)[key].value or 0.0


def by_alpha(scores: Scores, title: str, alphas: Sequence[float] = ALPHAS) -> list[mixing.Mixed]:
    """A mixture at several values of α, clips out of fold, [S, n, …]; α = 0 first is the plain router."""
    outputs = scores.mixed[title]
    settings = Settings.of(scores.router, outputs.experts)
    scale = mixing.mean_interest(outputs, settings) if settings.normalise else 1.0
    return [mixing.mix(outputs, settings, alpha, mean_interest=scale) for alpha in alphas]


@dataclass(frozen=True)
class AtAlpha:
    """A mixture at one α against the plain router, which has the same experts.

    Attributes:
        f1: of each fold and seed; change: of its mean; moved, relabelled: shares of the clips × seeds.
        steadier: by what share the variance of F1 between folds is lower; None at α = 0.
    """

    title: str
    alpha: float
    f1: np.ndarray
    change: float
    moved: float
    relabelled: float
    steadier: float | None


def at_alphas(scores: Scores) -> list[AtAlpha]:
    """Every mixture of a trial at every α."""
    found = []
    for title in scores.mixed:
        made = by_alpha(scores, title)
        plain, before = made[0], _by_fold(scores, made[0])
        for alpha, mixed in zip(ALPHAS, made, strict=True):
            f1 = _by_fold(scores, mixed)
            moved = mixed.routing.argmax(-1) != plain.routing.argmax(-1)
            relabelled = mixed.probabilities.argmax(-1) != plain.probabilities.argmax(-1)
            change, steadier = float(f1.mean() - before.mean()), _reduction(f1, before) if alpha else None
            shares = float(moved.mean()), float(relabelled.mean())
            found.append(AtAlpha(title, alpha, f1, change, *shares, steadier))
    return found


def alphas(studies: Sequence[Study]) -> Section:
    """What the README of the paper's code runs with α = 0.2 and 0.3, on every dataset and both trainings."""
    trials = [(study, scores) for study in studies for scores in (study.sound, study.code) if scores.mixed]
    every = [(study, scores, one) for study, scores in trials for one in at_alphas(scores)]
    rows: list[tuple[Value, ...]] = [
        (
            one.title, study.name, scores.name, one.alpha, spread(one.f1), one.change, 100.0 * one.moved,
            100.0 * one.relabelled, None if one.steadier is None else 100.0 * one.steadier,
        )
        for study, scores, one in every
    ]  # fmt: skip
    columns = columns_of(
        "Mixture; Dataset; Training; α:1; F1; Change from α = 0:4; Routed elsewhere:2:%; "
        "Other label:2:%; F1 variance reduced by:0:%"
    )
    text = "No mixtures were trained."
    if found := [one for *_, one in every]:
        compared = [one.steadier > 0.0 for one in found if one.steadier is not None]
        text = (
            f"With α = 0.2 and 0.3 at most {max(one.moved for one in found):.1%} of the clips go to another "
            f"expert, at most {max(one.relabelled for one in found):.1%} get another label, and F1 changes "
            f"by at most {max(abs(one.change) for one in found):.4f}. The variance of F1 between folds is "
            f"lower than without curiosity in {sum(compared)} of {len(compared)} cases; "
            "a ratio of two variances of so few folds says little."
        )
    note = (
        "Weighted F1 of each fold and seed: mean ± deviation. Training: sound is the lab's under the sound "
        "protocol, paper-code the code's own (settings, folds, choice of the epoch). All values of α use the "
        "same experts and router, so a difference is α's alone. "
        + "; ".join(runs_of(scores) for _, scores in trials)
    )
    return Section(
        "alphas",
        "Curiosity at α = 0.2 and 0.3 (the commands of the code's README)",
        (text,),
        ReportTable("alphas", "Every mixture without curiosity and with it", columns, tuple(rows), note),
    )


def _by_fold(scores: Scores, mixed: mixing.Mixed) -> np.ndarray:
    """Weighted F1 of each seed and fold, [S × F]."""
    said = mixed.probabilities.argmax(axis=-1)
    return np.array(
        [
            weighted_f1(scores.labels[own == k], of_seed[own == k])
            for of_seed, own in zip(said, scores.folds, strict=True)
            for k in np.unique(own)
        ]
    )


def _reduction(f1: np.ndarray, before: np.ndarray) -> float | None:
    """By what share the variance between folds is lower; None where there was none."""
    variance = float(before.var(ddof=1)) if before.size > 1 else 0.0
    return 1.0 - float(f1.var(ddof=1)) / variance if variance else None
