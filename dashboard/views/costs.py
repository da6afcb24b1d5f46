"""Method: what each step of the way costs, in words."""

from __future__ import annotations

from collections.abc import Sequence

from qmoe_core.experts.spec import EXPERTS
from qmoe_core.measure.steps import Kind, Step, Way
from qmoe_core.numbers import NBSP, percent
from qmoe_core.runtime.system import processor

KINDS: dict[str, tuple[Kind, ...]] = {
    "1": ("front end",),
    "1a": ("embedder",),
    "5": ("router",),
    "5a": ("dropout",),
    "7": ("uncertainty",),
    "7a": ("uncertainty",),
    "8": ("curiosity",),
    "6": ("mixture",),
}
"""The steps that compute an equation; those of experts are found by their format."""
SAID = {
    "5a": "What the passes add to the plain one.",
    "7": "Computed in one go with the next definition and every d.",
    "7a": "Computed in one go with Eq. 7 and every d.",
    "8": "The bonus alone; d itself needs every expert’s answer, which is what curiosity costs.",
}
"""What else must be known of a cost."""


def steps_of(number: str, way: Way) -> tuple[Step, ...]:
    """The steps of an equation."""
    if number in KINDS:
        return way.of(*KINDS[number])
    return tuple(step for step in way.of("expert") if EXPERTS[step.name].equation == number)


def of_equation(number: str, way: Way) -> str:
    """What an equation costs a window, in a sentence or two."""
    steps = steps_of(number, way)
    if number == "8a":
        saved = way.of("expert")
        return (
            f"It saves most of the {us(sum(one.us for one in saved))} of the mixture’s {len(saved)} experts."
        )
    if not steps:
        return "None here: no expert of the mixture is of this kind."
    each = "" if len(steps) == 1 else f" ({', '.join(f'{one.name} {us(one.us)}' for one in steps)})"
    stored = sum(one.bytes for one in steps)
    weights = f", {stored / 1e3:,.0f}{NBSP}kB of weights" if stored else ""
    said = f"{us(total(steps))}{each}, {percent(total(steps) / way.sum_us, 1)} of all steps{weights}."
    return f"{said} {SAID[number]}" if number in SAID else said


def total(steps: Sequence[Step]) -> float:
    """Of several steps, µs."""
    return sum(step.us for step in steps)


def us(value: float) -> str:
    """A time.

    >>> us(1234.5), us(12.345), us(123456.0)
    ('1,234\\xa0µs', '12.3\\xa0µs', '123\\xa0ms')
    """
    if value >= 1e5:
        return f"{value / 1e3:,.0f}{NBSP}ms"
    return f"{value:,.0f}{NBSP}µs" if value >= 100 else f"{value:.3g}{NBSP}µs"


def measured(way: Way) -> str:
    """How the costs were got, and what the whole takes."""
    least, most = (pick(step.calls for step in way.steps) for pick in (min, max))
    calls = f"{most}" if least == most else f"{least} to {most}"
    heads = total(way.of("expert"))
    return (
        f"Times are medians of {calls} calls of this lab on one window of five seconds, one thread, "
        f"{processor()}, measured just now beside whatever else runs there. All steps together take "
        f"{us(way.sum_us)}; the whole as one call takes {us(way.whole_us)}: it also joins the steps, and a "
        "step that is called over and over has its weights in the cache. The formats of the paper change the "
        f"{us(heads)} of the experts: {percent(heads / way.sum_us, 1)} of the steps."
    )
