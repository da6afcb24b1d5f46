"""Deployment scenarios (§5.3, §5.4) and Appendix A: emissions of training and deployment, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qmoe_core.evaluation import scenarios as deployment
from qmoe_core.evaluation.formats import YARDSTICK as SIXTEEN
from qmoe_core.evaluation.formats import Format
from qmoe_core.measure import energy
from qmoe_core.numbers import listed
from qmoe_core.paper.report.document import ReportColumn, ReportTable, Section, Value, columns_of
from qmoe_core.paper.report.study import (
    MODELS,
    YARDSTICK,
    Model,
    Study,
    bits_of,
    has,
    machine_of,
    of_all,
)

PER_DAY = 1e6
"""Inferences a day of the paper's deployment (A.1)."""
PAPER_GRID = 367.0
GRIDS = ("SWE", "FRA", "IRL", "USA", "DEU", "POL")
"""Countries whose mean intensity is compared, low to high; three letters (ISO 3166)."""
TASKS = (1, 2, 5, 10)
UPKEEP = ("fp32", "q16", "q8", "q4", "bitnet", "q1")
"""Experts whose yearly emissions are listed."""


def scenarios(studies: Sequence[Study]) -> Section:
    """The four recommendations of §5.3 and the five of §5.4, by the same rules on our measurements."""
    study = studies[0]
    rows: list[tuple[Value, ...]] = []
    agreed = 0
    answers = deployment.answers(formats_of(study))
    for answer in answers:
        scenario = answer.scenario
        picks = ", ".join(f"{pick.model} ({pick.figures})" for pick in scenario.picks)
        agreed += answer.format is not None and answer.format in answer.paper
        rows.append(
            (
                scenario.title,
                scenario.source,
                picks,
                None if answer.format is None else answer.format.name,
                answer.reason,
                answer.verdict,
            )
        )
    columns = columns_of("Scenario; Source; The paper picks; Here; Because; The paper’s pick here")
    rules = "; ".join(f"{answer.scenario.title}: {answer.scenario.rule}" for answer in answers)
    text = (
        f"The paper recommends a model for each of {len(rows)} situations, four in §5.3 (among mixtures) and "
        f"five in §5.4. By rules that can be checked, our measurements on {study.name} agree with {agreed} "
        "of them. Where both sections name a purpose, their recommendations differ (claim 35).",
    )
    note = (
        f"{rules} {study.costs.served}; energy {study.costs.source}, {study.costs.how}. "
        f"{machine_of(study.costs)}."
    )
    return Section(
        "scenarios",
        "Deployment recommendations (§5.3, §5.4)",
        text,
        ReportTable("scenarios", "Which model for which situation", columns, tuple(rows), note),
    )


def formats_of(study: Study) -> list[Format]:
    """Every model of a study as what `evaluation.scenarios` chooses among."""
    made = [_format(study, model) for model in of_all([study])]
    of_16bit = next((one.f1 for one in made if one.name == SIXTEEN), None)
    return [replace(one, share_of_16bit=one.f1 / of_16bit if of_16bit else None) for one in made]


def _format(study: Study, model: Model) -> Format:
    f1, row = study.tables.f1(model.ours), study.costs.rows[model.ours]
    used = study.costs.energies[model.ours]
    return Format(
        name=model.ours,
        kind="mixture" if model.is_mixture else "expert",
        bits=None if model.is_mixture else bits_of(model),
        f1=float(f1.mean()),
        f1_std=float(f1.std(ddof=1)) if f1.size > 1 else 0.0,
        n=f1.size,
        f1_folds=(),
        share_of_16bit=None,
        bytes=study.costs.files[model.ours],
        p50_us=row["p50_us"],
        p95_us=row["p95_us"],
        p99_us=row["p99_us"],
        std_us=row["std_us"],
        energy_mj=_used(study, model.ours),
        energy_source=used.source,
        co2_ug=used.co2_ug,
    )


def _used(study: Study, name: str) -> float:
    """Mean energy of one inference, mJ."""
    return float(np.mean(study.costs.energies[name].millijoules))


def _trained(study: Study) -> dict[str, float]:
    """Mean energy of one training (a fold), kWh, by model."""
    power = study.costs.training_kw
    return {name: float(np.mean(seconds)) * power / 3600.0 for name, seconds in study.code.seconds.items()}


def emissions(studies: Sequence[Study]) -> Section:
    """A.1: training once against a million inferences a day, for every model and for several grids."""
    study = studies[0]
    trained = _trained(study)
    models = [model for model in MODELS if model.ours in trained and has(study, model)]
    rows: list[tuple[Value, ...]] = []
    plans = {}
    for model in models:
        used = _used(study, model.ours)
        plan = plans[model.ours] = energy.deployment(trained[model.ours], used, PER_DAY, PAPER_GRID)
        rows.append(
            (
                model.paper,
                model.ours,
                plan.training_g,
                plan.per_inference_ug,
                plan.daily_g,
                plan.yearly_g,
                plan.break_even_inferences,
                plan.yearly_g / plan.training_g if plan.training_g else None,
            )
        )
    columns = columns_of(
        "Model; Here; Training:4:g; Inference:3:µg; A day:2:g; A year:0:g; Equal after:0:inferences; "
        "Year / training:0:×"
    )
    plan = plans[YARDSTICK]
    text = (
        f"A.1 on the whole path: at {PER_DAY / 1e6:.0f} million inferences a day and {PAPER_GRID:.0f} g/kWh, "
        f"FP32-Base emits {plan.yearly_g:,.0f} g in a year and its training {plan.training_g:.3g} g, "
        f"{plan.yearly_g / plan.training_g:,.0f} times less; both are equal after "
        f"{plan.break_even_inferences:,.0f} inferences. The paper prints 22.8 µg, 2.4 g and 105,000×; its "
        "units are examined in claim 21 and its break-even in claim 24.",
    )
    note = (
        f"Energy of an inference: {study.costs.source}, {study.costs.how}. Training: mean of a fold, preset "
        f"paper-code, {1e3 * study.costs.training_kw:.1f} W ({study.costs.source}). "
        f"{machine_of(study.costs)}."
    )
    return Section(
        "appendix-a1",
        "Training and deployment (Appendix A.1)",
        text,
        ReportTable("appendix-a1", "Emissions of training once and of serving", columns, tuple(rows), note),
        more=(_grids(study, trained[YARDSTICK]),),
    )


def _grids(study: Study, training_kwh: float) -> ReportTable:
    """FP32-Base's emissions on the grids of several countries."""
    used = _used(study, YARDSTICK)
    intensities = {"the paper’s": PAPER_GRID, **energy.intensities(GRIDS)}
    rows = []
    for name, grid in sorted(intensities.items(), key=lambda one: one[1]):
        plan = energy.deployment(training_kwh, used, PER_DAY, grid)
        rows.append((name, grid, 1e3 * plan.training_g, plan.yearly_g / 1e3))
    columns = columns_of("Grid; Intensity:0:g/kWh; Training:2:mg; A year:2:kg")
    note = "Mean intensities of a year as codecarbon has them; FP32-Base, a million inferences a day."
    return ReportTable("appendix-a1-grids", "The same on other grids", columns, tuple(rows), note)


def recommendations(studies: Sequence[Study]) -> Section:
    """A.2: its four recommendations, each computed with our figures."""
    study = studies[0]
    trained = _trained(study)
    yearly = {
        name: energy.deployment(0.0, _used(study, name), PER_DAY, PAPER_GRID).yearly_g
        for name in UPKEEP
        if name in study.costs.energies
    }
    grids = energy.intensities(GRIDS)
    cheapest, *_, dearest = sorted((kwh * PAPER_GRID * 1e3, name) for name, kwh in trained.items())
    best, worst = min(yearly, key=lambda n: yearly[n]), max(yearly, key=lambda n: yearly[n])
    low, high = min(grids.values()), max(grids.values())
    mg = trained[YARDSTICK] * PAPER_GRID * 1e3
    rows: list[tuple[Value, ...]] = [
        (
            "(1) FP32 or Q16 for prototyping",
            "23–28 µg an experiment",
            f"{cheapest[1]} is the least with {cheapest[0]:.2f} mg a fold, {dearest[1]} the most with "
            f"{dearest[0]:.2f} mg",
        ),
        (
            "(2) Q4 or Q8 in production",
            "minimises long-term emissions",
            f"{best} emits least in a year, {yearly[best]:,.0f} g, {worst} most, {yearly[worst]:,.0f} g: "
            f"{100 * (1 - yearly[best] / yearly[worst]):.1f} % less on the whole path",
        ),
        (
            "(3) Training in low-carbon hours",
            "2–5×",
            f"a grid of {high:.0f} g/kWh against one of {low:.0f} is {high / low:.0f}×; hours of one grid "
            "are not at hand here",
        ),
        *(
            (
                f"(4) Trained once, used for {tasks} task{'s' * (tasks > 1)}",
                "amortises",
                f"{mg / tasks:.4g} mg a task of {mg:.4g} mg",
            )
            for tasks in TASKS
        ),
    ]
    columns = (ReportColumn("Recommendation (A.2)"), ReportColumn("The paper"), ReportColumn("Here"))
    text = (
        f"Between {listed([best, worst])} the format of the classifier changes the yearly emissions of the "
        f"whole path by {100 * (1 - yearly[best] / yearly[worst]):.1f} %: what comes before the classifier "
        "decides (claim 38). Where and when one trains matters as much as the paper says, and less than what "
        "is served afterwards.",
    )
    note = (
        f"{PAPER_GRID:.0f} g/kWh, a million inferences a day; energy {study.costs.source}, {study.costs.how}."
    )
    return Section(
        "appendix-a2",
        "Green recommendations (Appendix A.2)",
        text,
        ReportTable("appendix-a2", "The four recommendations, computed", columns, tuple(rows), note),
    )
