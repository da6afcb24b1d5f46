"""Results to download: JSON as `qmoe classify --json` prints it, and a tidy CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from qmoe_core.decision import Classification, Decision
from qmoe_core.runtime.spreadsheets import defused

_COLUMNS = [
    *("file", "bundle", "part", "start_s", "end_s", "alpha", "top_k", "curiosity"),
    *("voice", "label", "probability"),
    *("disagreement_kl", "bonus", "router_probability", "router_std", "routing_probability", "weight"),
    *("in_mixture", "selected"),
    *("total", "aleatoric", "epistemic", "router_variance", "router_mutual_information"),
    *("doubt", "abstained", "reason", "prediction_set", "coverage"),
]


def as_json(results: Sequence[Classification]) -> str:
    """A list with one object a file."""
    return json.dumps([result.to_json() for result in results], indent=1, ensure_ascii=False)


def as_csv(results: Sequence[Classification]) -> str:
    """One row for each file, part (the whole, then its windows) and voice (the mixture, then each expert).

    Cells that do not apply to a row are empty; those that a spreadsheet would run as a formula are defused.
    """
    classes = results[0].whole.classes if results else ()
    out = io.StringIO()
    writer = csv.DictWriter(out, [*_COLUMNS, *(f"p({label})" for label in classes)], restval="")
    writer.writeheader()
    for result in results:
        parts = [("whole", result.whole)]
        if len(result.windows) > 1:
            parts += [(f"window {i}", window) for i, window in enumerate(result.windows, start=1)]
        for part, decision in parts:
            common = {
                "file": result.file,
                "bundle": result.bundle,
                "part": part,
                "start_s": decision.start_s,
                "end_s": decision.end_s,
                "alpha": decision.alpha,
                "top_k": decision.top_k,
                "curiosity": decision.curiosity,
            }
            mixture, *voices = _voices(decision)
            if part == "whole":
                mixture |= {
                    "abstained": int(result.abstained),
                    "reason": result.reason,
                    "prediction_set": " ".join(result.prediction_set or ()),
                    "coverage": "" if result.coverage is None else result.coverage,
                }
            for row in (mixture, *voices):
                writer.writerow({key: defused(value) for key, value in (common | row).items()})
    return out.getvalue()


def _voices(decision: Decision) -> Iterator[dict[str, object]]:
    yield {
        "voice": "mixture",
        "label": decision.label,
        "probability": decision.probability,
        **asdict(decision.uncertainty),
        "doubt": decision.doubt,
        **_by_class(decision.classes, decision.probabilities.tolist()),
    }
    for expert in decision.experts:
        yield {
            "voice": expert.name,
            "label": expert.label,
            "probability": float(expert.probabilities.max()),
            "disagreement_kl": expert.disagreement_kl,
            "bonus": expert.bonus,
            "router_probability": expert.router_probability,
            "router_std": expert.router_std,
            "routing_probability": expert.routing_probability,
            "weight": expert.weight,
            "in_mixture": int(expert.in_mixture),
            "selected": int(expert.selected),
            **_by_class(decision.classes, expert.probabilities.tolist()),
        }


def _by_class(classes: Sequence[str], probabilities: Sequence[float]) -> dict[str, object]:
    return {f"p({label})": p for label, p in zip(classes, probabilities, strict=True)}
