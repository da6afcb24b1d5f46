"""Table 3, and what curiosity sees: its values, their distribution, and what they are for each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qmoe_core.evaluation.selective import auroc
from qmoe_core.paper.report import charts
from qmoe_core.paper.report.accuracy import difference
from qmoe_core.paper.report.document import (
    Figure,
    Interval,
    ReportColumn,
    ReportTable,
    Section,
    Spread,
    Value,
    columns_of,
)
from qmoe_core.paper.report.study import (
    YARDSTICK,
    Model,
    Study,
    machine_of,
    mean_f1,
    of_all,
    printed,
    runs_of,
    spread,
)

SHOWN = "bitnet+q4+q8"
"""The mixture whose curiosity is drawn: that of the paper's main configuration."""
BINS = 24


def table_3(studies: Sequence[Study], alpha: float) -> Section:
    """All mixtures with and without curiosity in one list."""
    rows: list[tuple[Value, ...]] = []
    pairs = []
    models = [model for model in of_all(studies) if model.is_mixture]
    for model in sorted(models, key=lambda m: (m.curious, -mean_f1(studies, m).mean)):
        f1 = mean_f1(studies, model)
        times = [study.costs.rows[model.ours] for study in studies]
        energies = [study.costs.energies[model.ours] for study in studies]
        energy = spread(np.mean([e.millijoules for e in energies], axis=0))
        rows.append(
            (
                model.paper + ("" if model.printed else " (not in the paper)"),
                model.ours,
                "MoE-C" if model.curious else "MoE",
                studies[0].tables.parameters[model.ours] / 1e6,
                f1,
                Spread(
                    float(np.mean([t["mean_us"] for t in times])),
                    float(np.mean([t["std_us"] for t in times])),
                ),
                energy if len(energies[0].millijoules) > 1 else energy.mean,
                float(np.mean([e.co2_ug for e in energies])),
                f1.mean / energy.mean,
            )
        )
        if model.curious:
            plain = model.ours.removesuffix(" curious")
            moved = np.mean(
                [(s.tables.predicted[model.ours] != s.tables.predicted[plain]).mean() for s in studies]
            )
            pairs.append((model, difference(studies[0].tables, studies[0].tables, model.ours, plain), moved))
    columns = columns_of(
        "Model; Here; Type; Params:2:M; F1; Latency:1:µs; Energy:4:mJ; CO2:4:µg; F1 per mJ:1"
    )
    study = studies[0]
    note = (
        "F1 as in Table 1. Latency: mean ± deviation of single calls over the dataset's own clips. Energy "
        f"and CO2 of one inference: {study.costs.source}, {study.costs.how}; grid "
        f"{study.costs.grid_g_per_kwh:.0f} g/kWh. {machine_of(study.costs)}; {study.costs.served}. "
        + "; ".join(runs_of(s.tables) for s in studies)
    )
    return Section(
        "table-3",
        "Mixtures with and without curiosity (Table 3)",
        _words_of_table_3(study, alpha, rows, pairs),
        ReportTable("table-3", "Table 3, from our runs", columns, tuple(rows), note),
        printed(3),
    )


def _words_of_table_3(
    study: Study,
    alpha: float,
    rows: Sequence[tuple[Value, ...]],
    pairs: Sequence[tuple[Model, Interval, float]],
) -> tuple[str, str]:
    single = spread(study.tables.f1(YARDSTICK))
    most = max(abs(found.value) for _, found, _ in pairs)
    slowest = max(
        study.costs.rows[m.ours]["p50_us"] / study.costs.rows[_plain(m.ours)]["p50_us"] for m, _, _ in pairs
    )
    share = max(moved for _, _, moved in pairs)
    changed = (
        f"changes the F1 of a mixture on {study.name} by at most {most:.4f}, and the label of {share:.2%} "
        "of the clips at most"
        if share > 0.0
        else f"changes the label of no clip of {study.name}, and so no F1"
    )
    return (
        f"Curiosity as printed (Eq. 8, α = {alpha:g}) {changed}: quantized copies of one classifier "
        f"disagree too little for the bonus exp(α·d) to move a routing. It costs up to {slowest:.1f} times "
        "the plain mixture's time (medians), because every expert has to run before it is known which one "
        "was worth asking.",
        f"The mixtures have an F1 of {min(r[4].mean for r in rows if isinstance(r[4], Spread)):.3f} to "
        f"{max(r[4].mean for r in rows if isinstance(r[4], Spread)):.3f}, FP32-Base alone "
        f"{single.mean:.3f}±{single.deviation:.3f}. The parameters are all that must be stored: every "
        "expert's and the router's (the paper's are fewer, because it counts an average expert; claim 17).",
    )


def _plain(name: str) -> str:
    return name.removesuffix(" curious")


def curiosity(studies: Sequence[Study], alpha: float) -> Section:
    """The values that curiosity is made of: histogram, classes, and every clip's as a file."""
    rows: list[tuple[Value, ...]] = []
    figures: list[Figure] = []
    text: list[str] = []
    values: list[tuple[Value, ...]] = []
    for study in studies:
        scores = study.tables
        if SHOWN not in scores.curious:
            continue
        seen = scores.curious[SHOWN]
        wrong = scores.predicted[SHOWN] != scores.labels
        epistemic, d = seen.epistemic, seen.disagreement
        bonus = np.exp(alpha * np.quantile(d, 0.95))
        found = auroc(epistemic.ravel(), wrong.ravel()) if 0 < wrong.sum() < wrong.size else float("nan")
        text.append(
            f"On {study.name}, the experts of {SHOWN} disagree by {epistemic.mean():.4f} nats on average "
            f"(median {np.median(epistemic):.4f}, 95th percentile {np.quantile(epistemic, 0.95):.4f}; "
            f"{epistemic.size:,} clips × seeds, out of fold). The bonus of Eq. 8 at α = {alpha:g} is below "
            f"{bonus:.3f} for 95 % of them. As a sign of error the disagreement has an AUROC of {found:.3f} "
            f"({int(wrong.sum())} errors)."
        )
        figures += [_histogram(study, epistemic, wrong), _classes(study, epistemic)]
        for label, name in enumerate(scores.classes):
            own = scores.labels == label
            rows.append(
                (
                    name,
                    study.name,
                    int(own.sum()),
                    spread(epistemic[:, own]),
                    float(np.quantile(epistemic[:, own], 0.95)),
                    float(wrong[:, own].mean()),
                )
            )
        values += _values(study)
    columns = columns_of("Class; Dataset; Clips:0; Disagreement:4:nats; 95th percentile:4:nats; Errors")
    note = (
        f"Disagreement of {SHOWN}: H(q̄) − mean H(q_i), the mean of d_i = KL(q_i ‖ q̄), of clips that the "
        "experts had not seen. Mean ± deviation over clips and seeds. "
        + "; ".join(runs_of(s.tables) for s in studies)
    )
    head = ("dataset", "seed", "clip", "class", "predicted", "right", "epistemic", "router variance")
    experts = studies[0].tables.curious[SHOWN].experts
    every = ReportTable(
        "curiosity-values",
        "Curiosity of every clip",
        tuple(ReportColumn(name, 6) for name in (*head, *(f"d of {name}" for name in experts))),
        tuple(values),
    )
    return Section(
        "curiosity",
        "What curiosity sees",
        tuple(text),
        ReportTable("curiosity-classes", f"Disagreement by class, {SHOWN}", columns, tuple(rows), note),
        figures=tuple(figures),
        large=(every,),
    )


def _values(study: Study) -> list[tuple[Value, ...]]:
    scores = study.tables
    seen = scores.curious[SHOWN]
    return [
        (
            study.name,
            seed,
            clip,
            scores.classes[label],
            scores.classes[scores.predicted[SHOWN][i, clip]],
            int(scores.predicted[SHOWN][i, clip] == label),
            float(seen.epistemic[i, clip]),
            float(seen.router_variance[i, clip]),
            *map(float, seen.disagreement[i, clip]),
        )
        for i, seed in enumerate(scores.seeds)
        for clip, label in enumerate(scores.labels)
    ]


def _histogram(study: Study, epistemic: np.ndarray, wrong: np.ndarray) -> Figure:
    edges = np.linspace(0.0, float(np.quantile(epistemic, 0.99)) or 1e-6, BINS + 1)
    inside = np.minimum(epistemic, edges[-1])  # the last hundredth is in the last bin
    counts = [np.histogram(inside[part], edges)[0] for part in (~wrong, wrong)]
    svg = charts.histogram(edges, counts, "disagreement, nats", series=("right", "wrong"))
    return Figure(
        f"curiosity-histogram-{slug(study.name)}",
        svg,
        f"How many clips of {study.name} (× seeds) have which disagreement, {SHOWN}, out of fold; the last "
        "bar holds all above it.",
    )


def _classes(study: Study, epistemic: np.ndarray) -> Figure:
    scores = study.tables
    labels = np.broadcast_to(scores.labels, epistemic.shape)
    return Figure(
        f"curiosity-classes-{slug(study.name)}",
        by_class(scores.classes, labels.ravel(), epistemic.ravel()),
        f"Disagreement by class of {study.name}, {SHOWN}: median and middle half of the clips, out of fold"
        + ("; the thirty classes of largest mean." if len(scores.classes) > 30 else "."),
    )


def by_class(classes: Sequence[str], labels: np.ndarray, epistemic: np.ndarray) -> str:
    """Median and middle half of some clips' disagreement for each class that they have, as a figure.

    Args:
        labels: int [n]; epistemic: nats, [n].
    """
    rows = []
    for label, name in enumerate(classes):
        own = epistemic[labels == label]
        if own.size:
            low, high = np.quantile(own, [0.25, 0.75])
            mark = charts.Mark(float(np.median(own)), float(low), float(high))
            rows.append((name, [mark], float(own.mean())))
    rows.sort(key=lambda row: -row[2])
    return charts.intervals(
        [row[:2] for row in rows[:30]], "disagreement, nats: median and middle half of clips"
    )


def slug(name: str) -> str:
    """A name as part of a file's name."""
    return "".join(sign if sign.isalnum() else "-" for sign in name.lower())
