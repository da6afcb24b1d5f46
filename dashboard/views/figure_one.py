"""Method: the paper's Figure 1 from the sound on, with the numbers of one sound and the cost of each step."""

from __future__ import annotations

from html import escape
from typing import NamedTuple

from dashboard.session.hearing import Example
from dashboard.views import costs, words
from qmoe_core.measure.steps import Kind, Way
from qmoe_core.numbers import factor, nats, percent


class Box(NamedTuple):
    """One step: its name, the section that explains it, this sound's numbers, and the timed steps."""

    title: str
    section: str
    equation: str
    says: str
    kinds: tuple[Kind, ...]


def columns(example: Example) -> tuple[tuple[Box, ...], ...]:
    """The boxes from left to right; those of a column work side by side."""
    decision = example.decision
    mixed = [expert for expert in decision.experts if expert.in_mixture]
    led, curious = (
        max(mixed, key=lambda e: getattr(e, key)) for key in ("router_probability", "routing_probability")
    )
    label = words.readable(decision.label)
    agree = sum(expert.label == decision.label for expert in mixed)
    bands, frames = example.frames
    dims = " + ".join(f"{dim:,}" for _, dim in example.embeddings)
    unsure = decision.uncertainty
    return (
        (Box("Log-mel", "eq1", "Eq. 1", f"{bands} bands × {frames:,} frames", ("front end",)),),
        (Box("Embedding", "eq1a", "", f"{dims} numbers a window", ("embedder",)),),
        (
            Box("Experts", "eq2", "Eq. 2–4", f"{agree} of {len(mixed)} say {label}", ("expert",)),
            Box(
                "Router",
                "eq5",
                "Eq. 5, MC dropout",
                f"{led.name} leads, r = {led.router_probability:.2f} ± {led.router_std:.2f}",
                ("router", "dropout"),
            ),
        ),
        (
            Box(
                "Uncertainty",
                "eq7",
                "Eq. 7",
                f"total {nats(unsure.total)}, epistemic {nats(unsure.epistemic)}",
                ("uncertainty",),
            ),
        ),
        (
            Box(
                "Curiosity",
                "eq8",
                "Eq. 8",
                f"{curious.name} leads, bonus {factor(curious.bonus)}",
                ("curiosity",),
            ),
        ),
        (Box("Mixture", "eq6", "Eq. 6", f"{label}, {percent(decision.probability)}", ("mixture",)),),
    )


def drawn(example: Example, way: Way) -> str:
    """The figure, as HTML: each box is a link to the section that explains it."""
    stages = "".join(f"<li>{''.join(_box(box, way) for box in boxes)}</li>" for boxes in columns(example))
    return (
        f'<ol class="qm-way" aria-label="From {escape(example.name)} to the decision">'
        f'<li><div class="qm-step"><b>Sound</b><span>{escape(example.name)}</span></div></li>{stages}</ol>'
    )


def _box(box: Box, way: Way) -> str:
    cost = costs.total(way.of(*box.kinds))
    equation = f"<i>{escape(box.equation)}</i>" if box.equation else ""
    return (
        f'<a class="qm-step" href="#{box.section}"><b>{escape(box.title)}</b>{equation}'
        f"<span>{escape(box.says)}</span>"
        f"<small>{costs.us(cost)} · {percent(cost / way.sum_us, 1)}</small></a>"
    )
