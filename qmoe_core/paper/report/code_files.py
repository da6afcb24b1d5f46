"""What the paper's code writes beside its scores: curiosity of every fold, and routing results, as files.

Names and keys are those of the code (`curiosity_values.json` with `curiosity`, `labels`, `preds`;
`routing_results.json` with `config`, `routing`, `summaries`), so that a script written for the one reads the
other. Everything is of clips that neither the experts nor the router had seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from qmoe_core.numbers import listed
from qmoe_core.paper.report import charts
from qmoe_core.paper.report.curiosity import SHOWN, by_class, slug
from qmoe_core.paper.report.document import (
    Figure,
    ReportFile,
    ReportTable,
    Section,
    Value,
    columns_of,
)
from qmoe_core.paper.report.mixtures import by_alpha
from qmoe_core.paper.report.protocols import Scores
from qmoe_core.paper.report.study import Study, runs_of, spread
from qmoe_core.routing.mixing import Mixed, Settings

ALPHA = 0.2
"""Of the routing results that the code's README draws."""
BINS = 20
WHERE = (
    "Of every dataset, seed and fold the folder curiosity/ has what the code writes: curiosity_values.json, "
    "curiosity_histogram.svg and curiosity_per_class.svg; there, curiosity is the router’s variance, as in "
    "the code, and epistemic the experts’ disagreement, which the figures show."
)


def of_every_fold(scores: Scores) -> list[ReportFile]:
    """Three files for each seed and fold: values, histogram, mean of every class that was predicted."""
    seen, predicted = scores.curious[SHOWN], scores.predicted[SHOWN]
    made = []
    for i, seed in enumerate(scores.seeds):
        for fold in np.unique(scores.folds[i]):
            clips = np.flatnonzero(scores.folds[i] == fold)
            folder = f"curiosity/{slug(scores.dataset)}/seed-{seed}/fold_{fold + 1}"
            values = {
                "curiosity": seen.router_variance[i, clips].tolist(),
                "epistemic": seen.epistemic[i, clips].tolist(),
                "labels": scores.labels[clips].tolist(),
                "preds": predicted[i, clips].tolist(),
                "clips": clips.tolist(),
                "classes": list(scores.classes),
                "experts": list(seen.experts),
            }
            where = f"{scores.dataset}, seed {seed}, fold {fold + 1}"
            right = predicted[i, clips] == scores.labels[clips]
            made += [
                ReportFile(f"{folder}/curiosity_values.json", f"Values, {where}", _json(values), False),
                ReportFile(
                    f"{folder}/curiosity_histogram.svg",
                    f"Histogram, {where}",
                    _histogram(seen.epistemic[i, clips], right),
                    False,
                ),
                ReportFile(
                    f"{folder}/curiosity_per_class.svg",
                    f"Classes, {where}",
                    by_class(scores.classes, predicted[i, clips], seen.epistemic[i, clips]),
                    False,
                ),
            ]
    return made


def _histogram(values: np.ndarray, right: np.ndarray) -> str:
    edges = np.linspace(0.0, float(values.max()) or 1e-6, BINS + 1)
    counts = [np.histogram(values[part], edges)[0] for part in (right, ~right)]
    return charts.histogram(edges, counts, "disagreement, nats", series=("right", "wrong"))


def _json(document: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(document), indent=1).decode() + "\n"


def routing(studies: Sequence[Study]) -> Section:
    """Which expert answers which clips at α = 0.2, and how sure the answers are."""
    rows: list[tuple[Value, ...]] = []
    figures, files, text = [], [], []
    for study in (study for study in studies if SHOWN in study.tables.mixed):
        scores = study.tables
        mixed = by_alpha(scores, SHOWN, (ALPHA,))[0]
        experts = scores.mixed[SHOWN].experts
        chosen, sure = mixed.routing.argmax(axis=-1), mixed.probabilities.max(axis=-1)
        right = mixed.probabilities.argmax(axis=-1) == scores.labels
        own = [_of_expert(mixed, right, chosen == place) for place in range(len(experts))]
        rows += [(name, study.name, *cells) for name, cells in zip(experts, own, strict=True)]
        text.append(_words(study.name, experts, chosen, sure))
        figures.append(_confidence(study, experts, chosen, sure))
        files += [
            ReportFile(
                f"routing/{slug(study.name)}/routing_results.json",
                f"Routing of every clip of {study.name}",
                _json(_results(scores, mixed)),
            ),
            *of_every_fold(scores),
        ]
    columns = columns_of(
        "Expert; Dataset; Clips (× seeds):0; Share:1:%; Confidence of the answer; "
        "Confidence of the router; Right:1:%"
    )
    note = (
        f"{SHOWN}, α = {ALPHA:g}, the expert with the highest curious routing answers. Confidence of the "
        "answer: largest probability of the mixture; of the router: largest routing probability, which is "
        "what the code's routing results call confidence. Mean ± deviation over clips and seeds, out of "
        "fold. " + "; ".join(runs_of(s.tables) for s in studies)
    )
    return Section(
        "routing",
        "Routing results and confidence (the figure of the code's README)",
        (*text, WHERE) if text else ("No mixture was trained.",),
        ReportTable("routing", f"Who answers, {SHOWN}", columns, tuple(rows), note),
        figures=tuple(figures),
        files=tuple(files),
    )


def _of_expert(mixed: Mixed, right: np.ndarray, own: np.ndarray) -> tuple[Value, ...]:
    """Count, share, confidences and accuracy of the clips that one expert answers."""
    count = int(own.sum())
    if not count:
        return 0, 0.0, None, None, None
    answer, router = mixed.probabilities.max(axis=-1)[own], mixed.routing.max(axis=-1)[own]
    return count, 100.0 * float(own.mean()), spread(answer), spread(router), 100.0 * float(right[own].mean())


def _words(name: str, experts: Sequence[str], chosen: np.ndarray, sure: np.ndarray) -> str:
    shares = [f"{expert} {float((chosen == place).mean()):.1%}" for place, expert in enumerate(experts)]
    means = [
        f"{expert} {sure[chosen == place].mean():.3f}"
        for place, expert in enumerate(experts)
        if (chosen == place).any()
    ]
    return (
        f"On {name} the clips go to {listed(shares)}; the answers' mean confidence is {listed(means)}. Which "
        "clips go where is the router's choice, so a difference in confidence is one of clips as much as of "
        "experts."
    )


def _confidence(study: Study, experts: Sequence[str], chosen: np.ndarray, sure: np.ndarray) -> Figure:
    edges = np.linspace(0.0, 1.0, BINS + 1)
    counts = [np.histogram(sure[chosen == place], edges)[0] for place in range(len(experts))]
    return Figure(
        f"confidence-distribution-{slug(study.name)}",
        charts.histogram(edges, counts, "confidence of the answer", series=experts),
        f"How sure the answers on {study.name} are (clips × seeds, out of fold), by the expert that gives "
        f"them; {SHOWN}, α = {ALPHA:g}.",
    )


def _results(scores: Scores, mixed: Mixed) -> dict[str, Any]:
    """As the code's `routing_results.json`, of every clip and seed instead of the first hundred."""
    experts = scores.mixed[SHOWN].experts
    settings = replace(Settings.of(scores.router, experts), alpha=ALPHA)
    chosen, router = mixed.routing.argmax(axis=-1), mixed.routing.max(axis=-1)
    sure, preds = mixed.probabilities.max(axis=-1), mixed.probabilities.argmax(axis=-1)
    unsure = mixed.epistemic
    samples = [
        {
            "idx": clip,
            "seed": seed,
            "expert": int(chosen[i, clip]),
            "expert_name": experts[chosen[i, clip]],
            "confidence": float(router[i, clip]),
            "prediction_confidence": float(sure[i, clip]),
            "uncertainty": float(unsure[i, clip]),
            "label": int(scores.labels[clip]),
            "pred": int(preds[i, clip]),
        }
        for i, seed in enumerate(scores.seeds)
        for clip in range(len(scores.labels))
    ]
    summaries = {
        str(place): {
            "expert": place,
            "name": name,
            "count": int((chosen == place).sum()),
            "avg_conf": _mean(router[chosen == place]),
            "avg_prediction_conf": _mean(sure[chosen == place]),
            "avg_unc": _mean(unsure[chosen == place]),
        }
        for place, name in enumerate(experts)
    }
    return {
        "config": {
            "curiosity_alpha": settings.alpha,
            "top_k": settings.top_k,
            "mix": settings.mix,
            "expert_names": list(experts),
            "num_samples": len(samples),
            "dataset": scores.dataset,
            "protocol": scores.protocol,
            "classes": list(scores.classes),
        },
        "routing": samples,
        "summaries": summaries,
    }


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None
