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
from qmoe_core.paper.report.costs import Sizes
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
HOURS = (2, 5)
"""How many times less carbon a grid has in its low hours, as A.2 says (2–5×)."""
UPKEEP = ("fp32", "q16", "q8", "q4", "bitnet", "q1")
"""Experts whose yearly emissions are listed."""


def scenarios(studies: Sequence[Study], source: str) -> Section:
    """The recommendations of a section (§5.3 or §5.4), by the same rules on our measurements.

    Args:
        source: `§5.3` or `§5.4`.
    """
    rows: list[tuple[Value, ...]] = []
    agreed: dict[str, int] = {}
    rules: dict[str, str] = {}
    for study in studies:
        for answer in deployment.answers(formats_of(study)):
            scenario = answer.scenario
            if not scenario.source.startswith(source):
                continue
            rules[scenario.title] = scenario.rule
            picks = ", ".join(f"{pick.model} ({pick.figures})" for pick in scenario.picks)
            agreed[study.name] = agreed.get(study.name, 0) + (answer.format in answer.paper)
            rows.append(
                (
                    scenario.title,
                    scenario.source,
                    study.name,
                    picks,
                    None if answer.format is None else answer.format.name,
                    answer.reason,
                    answer.verdict,
                )
            )
    rows.sort(key=lambda row: str(row[1]))
    columns = columns_of("Scenario; Source; Dataset; The paper picks; Here; Because; The paper’s pick here")
    text = (
        f"{source} recommends a model for each of {len(rules)} situations"
        + (" (all but one among mixtures)" if source == "§5.3" else "")
        + ". By rules that can be checked, from the waveform where the embedder is known, our figures agree "
        "with "
        + listed([f"{count} of {len(rules)} on {name}" for name, count in agreed.items()])
        + ". Where both sections name a purpose, their recommendations differ (claim 35).",
    )
    note = (
        "; ".join(f"{title}: {rule}" for title, rule in rules.items())
        + " "
        + "; ".join(
            f"{s.costs.served}; energy {s.costs.source}, {s.costs.how}; {machine_of(s.costs)}"
            for s in studies
        )
        + "."
    )
    name = f"scenarios-{source[1:].replace('.', '-')}"
    return Section(
        name,
        f"Deployment recommendations ({source})",
        text,
        ReportTable(name, "Which model for which situation", columns, tuple(rows), note),
    )


def formats_of(study: Study) -> list[Format]:
    """Every model of a study as what `evaluation.scenarios` chooses among."""
    made = [_format(study, model) for model in of_all([study])]  # times from the waveform, files of the head
    of_16bit = next((one.f1 for one in made if one.name == SIXTEEN), None)
    return [replace(one, share_of_16bit=one.f1 / of_16bit if of_16bit else None) for one in made]


def _format(study: Study, model: Model) -> Format:
    f1, row = study.tables.f1(model.ours), study.costs.rows[model.ours]
    used, before = study.costs.energies[model.ours], study.costs.embedding_us or 0.0
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
        p50_us=before + row["p50_us"],
        p95_us=before + row["p95_us"],
        p99_us=before + row["p99_us"],
        std_us=row["std_us"],
        energy_mj=_used(study, model.ours),
        energy_source=used.source,
        co2_ug=used.co2_ug,
    )


def _reach(study: Study) -> str:
    """Which part of the path a study's energies are of."""
    return "of the head alone" if study.costs.embedding_us is None else "on the whole path"


def _used(study: Study, name: str) -> float:
    """Mean energy of one inference, mJ."""
    return float(np.mean(study.costs.energies[name].millijoules))


def _trained(study: Study) -> dict[str, float]:
    """Mean energy of one training (a fold), kWh, by model."""
    power = study.costs.training_kw
    return {name: float(np.mean(seconds)) * power / 3600.0 for name, seconds in study.code.seconds.items()}


def emissions(studies: Sequence[Study]) -> Section:
    """A.1: training once against a million inferences a day, for every model and for several grids."""
    rows: list[tuple[Value, ...]] = []
    text = []
    for study in studies:
        trained = _trained(study)
        plans = {
            model.ours: energy.deployment(trained[model.ours], _used(study, model.ours), PER_DAY, PAPER_GRID)
            for model in MODELS
            if model.ours in trained and has(study, model)
        }
        rows += [
            (
                model.paper,
                model.ours,
                study.name,
                (plan := plans[model.ours]).training_g,
                plan.per_inference_ug,
                plan.daily_g,
                plan.yearly_g,
                plan.break_even_inferences,
                plan.yearly_g / plan.training_g if plan.training_g else None,
            )
            for model in MODELS
            if model.ours in plans
        ]
        plan = plans[YARDSTICK]
        text.append(
            f"On {study.name}, at {PER_DAY / 1e6:.0f} million inferences a day and {PAPER_GRID:.0f} g/kWh, "
            f"FP32-Base emits {plan.yearly_g:,.0f} g in a year {_reach(study)} and its training "
            f"{plan.training_g:.3g} g, {plan.yearly_g / plan.training_g:,.0f} times less; both are equal "
            f"after {plan.break_even_inferences:,.0f} inferences."
        )
    text.append(
        "The paper prints 22.8 µg, 2.4 g and 105,000×; its units are examined in claim 21 and its break-even "
        "in claim 24."
    )
    columns = columns_of(
        "Model; Here; Dataset; Training:4:g; Inference:3:µg; A day:2:g; A year:0:g; "
        "Equal after:0:inferences; Year / training:0:×"
    )
    note = "; ".join(
        f"{s.name}: energy of an inference {s.costs.source}, {s.costs.how}; training: mean of a fold, preset "
        f"paper-code, {1e3 * s.costs.training_kw:.1f} W ({s.costs.source}); {machine_of(s.costs)}"
        for s in studies
    )
    return Section(
        "appendix-a1",
        "Training and deployment (Appendix A.1)",
        tuple(text),
        ReportTable(
            "appendix-a1", "Emissions of training once and of serving", columns, tuple(rows), f"{note}."
        ),
        more=(_grids(studies[0], _trained(studies[0])[YARDSTICK]),),
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
    note = (
        f"Mean intensities of a year as codecarbon has them; FP32-Base on {study.name}, a million inferences "
        "a day."
    )
    return ReportTable("appendix-a1-grids", "The same on other grids", columns, tuple(rows), note)


def recommendations(studies: Sequence[Study]) -> Section:
    """A.2: its four recommendations, each computed with our figures."""
    study = studies[0]
    trained, yearly = _trained(study), _yearly(study)
    grids = energy.intensities(GRIDS)
    cheapest, *_, dearest = sorted((kwh * PAPER_GRID * 1e3, name) for name, kwh in trained.items())
    best, worst = min(yearly, key=lambda n: yearly[n]), max(yearly, key=lambda n: yearly[n])
    low, high = min(grids.values()), max(grids.values())
    saved = 1.0 - yearly[best] / yearly[worst]
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
            f"{100 * saved:.1f} % less on the whole path",
        ),
        *(_in_low_hours(study, times) for times in HOURS),
        (
            "(3) Training on another grid",
            "–",
            f"a grid of {high:.0f} g/kWh against one of {low:.0f} is {high / low:.0f}×",
        ),
        *(_shared(study, tasks) for tasks in TASKS),
    ]
    columns = (ReportColumn("Recommendation (A.2)"), ReportColumn("The paper"), ReportColumn("Here"))
    text = (
        f"Between {listed([best, worst])} the format of the classifier changes the yearly emissions of the "
        f"whole path by {100 * saved:.1f} %: what comes before the classifier decides (claim 38). "
        f"{_planned(study).break_even_inferences:,.0f} inferences emit as much as a training, and hours of "
        f"{HOURS[-1]} times less carbon save most of that, once.",
    )
    note = (
        f"{study.name}; {PAPER_GRID:.0f} g/kWh, a million inferences a day; energy {study.costs.source}, "
        f"{study.costs.how}."
    )
    return Section(
        "appendix-a2",
        "Green recommendations (Appendix A.2)",
        text,
        ReportTable("appendix-a2", "The four recommendations, computed", columns, tuple(rows), note),
    )


def _yearly(study: Study) -> dict[str, float]:
    """What serving emits in a year, g, by expert."""
    return {
        name: energy.deployment(0.0, _used(study, name), PER_DAY, PAPER_GRID).yearly_g
        for name in UPKEEP
        if name in study.costs.energies
    }


def _planned(study: Study, low_carbon: float = 1.0, tasks: int = 1) -> energy.Deployment:
    """FP32-Base trained in hours of so many times less carbon, for so many tasks."""
    return energy.deployment(
        _trained(study)[YARDSTICK],
        _used(study, YARDSTICK),
        PER_DAY,
        PAPER_GRID,
        low_carbon=low_carbon,
        tasks=tasks,
    )


def _in_low_hours(study: Study, times: int) -> tuple[Value, ...]:
    """A training when the grid has so many times less carbon, and how many inferences emit what is saved."""
    usual, low = _planned(study), _planned(study, low_carbon=times)
    saved = usual.break_even_inferences - low.break_even_inferences
    return (
        f"(3) Training in hours of {times} times less carbon",
        f"{times}×",
        f"{1e3 * low.training_g:.3g} mg instead of {1e3 * usual.training_g:.3g} mg of FP32-Base: what is "
        f"saved is what {saved:,.0f} inferences emit",
    )


def _shared(study: Study, tasks: int) -> tuple[Value, ...]:
    """A training that several tasks share."""
    whole, each = _planned(study), _planned(study, tasks=tasks)
    return (
        f"(4) Trained once, used for {tasks} task{'s' * (tasks > 1)}",
        "amortises",
        f"{1e3 * each.training_g:.4g} mg a task of {1e3 * whole.training_g:.4g} mg",
    )


def sizes_and_costs(studies: Sequence[Study], sizes: Sizes) -> Section:
    """B.1 and B.2: what the paper says of its best format and of mixtures, beside our figures."""
    whole, four = sizes.experts[YARDSTICK]["bytes"], sizes.experts["q4"]["bytes"]
    names = ("bitnet", "q4", "q8", "q16")
    mixture = sum(sizes.experts[name]["bytes"] for name in names) + sizes.router_bytes
    rows: list[tuple[Value, ...]] = [
        (
            "B.1",
            "Q4 is 7.03 times smaller than FP32",
            "7.03×, 687 KB",
            f"{whole / four:.2f}×, {four / 1e3:,.0f} kB",
        ),
        (
            "B.2",
            "A mixture is larger than FP32",
            "0.85×, 5.67 MB",
            f"{whole / mixture:.2f}×, {mixture / 1e6:.2f} MB ({'+'.join(names)} and the router)",
        ),
    ]
    for study in studies:
        f1 = {name: float(study.tables.f1(name).mean()) for name in ("q4", "q16")}
        used = {name: _used(study, name) for name in ("q4", "q8")}
        before = (study.costs.embedding_us or 0.0) * study.costs.serving_kw
        heads = {name: value - before for name, value in used.items()}
        rows += [
            (
                "B.1",
                f"Q4 keeps the F1 of 16 bits ({study.name})",
                "0.858 of 0.859, within 0.1 %",
                f"{f1['q4']:.3f} of {f1['q16']:.3f}, {100 * (f1['q4'] / f1['q16'] - 1):+.1f} %",
            ),
            (
                "B.1",
                f"Q4 uses less energy than Q8 ({study.name})",
                "41 % less (its figures: 29 %)",
                f"{100 * (1 - used['q4'] / used['q8']):.1f} % less on the whole path, "
                f"{100 * (1 - heads['q4'] / heads['q8']):.1f} % of the head alone ({study.costs.source})",
            ),
        ]
    rows.sort(key=lambda row: str(row[0]))
    columns = columns_of("Appendix; Statement; The paper; Here")
    text = (
        "What Appendix B says beside Table 7. The dynamic precision, modular updates and interpretability "
        "that B.2 names are not measured by the paper, and not here.",
    )
    return Section(
        "appendix-b",
        "Optimal configuration and trade-offs (Appendix B.1, B.2)",
        text,
        ReportTable("appendix-b", "What Appendix B says, computed", columns, tuple(rows), ""),
    )
