"""Which format to ship: the accuracy–latency–size–energy front, budgets, and the cheapest that fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from qmoe_core.errors import ConfigError
from qmoe_core.evaluation.formats import Format
from qmoe_core.numbers import amount

Cost = Literal["bytes", "p50_us", "p95_us", "p99_us", "energy_mj"]

COSTS: dict[str, tuple[str, str]] = {
    "bytes": ("smallest", "size"),
    "p50_us": ("fastest", "latency"),
    "p95_us": ("fastest", "latency"),
    "p99_us": ("fastest", "latency"),
    "energy_mj": ("lowest-energy", "energy"),
}
"""What can be spent, what spending least of it is called, and the benchmark that measures it."""


@dataclass(frozen=True)
class Budget:
    """What a format must keep to; None is no limit.

    Attributes:
        keep: share of the 16-bit expert's F1, such as 0.99.
        deadline_us: µs that a call may take; quantile: which quantile of the calls must be within it.
        bytes: of its files; energy_mj: of a call, mJ.
    """

    keep: float | None = None
    deadline_us: float | None = None
    quantile: Literal["p50_us", "p95_us", "p99_us"] = "p99_us"
    bytes: float | None = None
    energy_mj: float | None = None


@dataclass(frozen=True)
class Choice:
    """The answer to "the cheapest format within this budget".

    Attributes:
        format: the answer, or None when nothing fits.
        cost: what was to be least.
        fitting: names of all that fit, the cheapest first.
        misfits: of every other format, by name, each reason why it does not fit.
        sentence: the answer in words.
    """

    format: Format | None
    cost: Cost
    fitting: tuple[str, ...]
    misfits: dict[str, tuple[str, ...]]
    sentence: str


def front(formats: Sequence[Format], costs: Sequence[Cost] = ("p50_us", "bytes")) -> tuple[bool, ...]:
    """Of each format, whether nothing is at least as good in everything and better in something.

    Args:
        formats: one that lacks a figure for a cost is not on the front, and beats nobody.
        costs: what should be low; F1 should be high.
    """
    rows = [[-one.f1, *(getattr(one, cost) for cost in costs)] for one in formats]
    known = np.array([None not in row for row in rows], bool)
    table = np.array([[np.inf if value is None else value for value in row] for row in rows], np.float64)
    table = table.reshape(len(rows), 1 + len(costs))
    no_worse = (table[:, None] <= table[None, :]).all(axis=-1)
    better = (table[:, None] < table[None, :]).any(axis=-1)
    beaten = (no_worse & better & known[:, None]).any(axis=0)
    return tuple((known & ~beaten).tolist())


def misfits(one: Format, budget: Budget) -> tuple[str, ...]:
    """Why a format does not keep to a budget, a phrase for each reason; nothing when it does."""
    reasons = []
    if budget.keep is not None:
        share = one.share_of_16bit
        if share is None:
            reasons.append("there is no 16-bit expert to compare with")
        elif share < budget.keep:
            reasons.append(f"it keeps {100 * share:.1f} % of the 16-bit F1, not {100 * budget.keep:.4g} %")
    limits = (
        (budget.deadline_us, budget.quantile),
        (budget.bytes, "bytes"),
        (budget.energy_mj, "energy_mj"),
    )
    for limit, cost in limits:
        if limit is None:
            continue
        spent = getattr(one, cost)
        if spent is None:
            reasons.append(f"its {COSTS[cost][1]} was not measured on this machine")
        elif spent > limit:
            reasons.append(f"{amount(cost, spent)} is more than {amount(cost, limit)}")
    return tuple(reasons)


def cheapest(formats: Sequence[Format], budget: Budget, cost: Cost = "bytes") -> Choice:
    """The format that spends least and keeps to a budget.

    Args:
        formats: the candidates.
        cost: what should be least; of equals the one with the higher F1.

    Raises:
        ConfigError: a cost that does not exist.
    """
    if cost not in COSTS:
        raise ConfigError(f"cost is '{cost}'; accepted is {', '.join(COSTS)}")
    reasons = {one.name: misfits(one, budget) for one in formats}
    for one in formats:
        if not reasons[one.name] and getattr(one, cost) is None:
            reasons[one.name] = (f"its {COSTS[cost][1]} was not measured on this machine",)
    fitting = [one for one in formats if not reasons[one.name]]
    fitting.sort(key=lambda one: (getattr(one, cost), -one.f1))
    superlative = COSTS[cost][0]
    if fitting:
        best = fitting[0]
        sentence = f"{best.name} is the {superlative} of {len(fitting)} that fit: {describe(best, cost)}."
    else:
        sentence = "Nothing fits: " + _nearest(formats, budget, reasons)
    return Choice(
        fitting[0] if fitting else None,
        cost,
        tuple(one.name for one in fitting),
        {name: why for name, why in reasons.items() if why},
        sentence,
    )


def describe(one: Format, *costs: str) -> str:
    """A format's F1 and costs in words: all of `costs`, then what else is known of time and size."""
    known = [cost for cost in dict.fromkeys((*costs, "bytes", "p50_us")) if getattr(one, cost) is not None]
    figures = [amount(cost, getattr(one, cost)) for cost in known]
    kept = "" if one.share_of_16bit is None else f" ({100 * one.share_of_16bit:.1f} % of 16-bit)"
    if "energy_mj" in known and one.energy_source:
        figures[known.index("energy_mj")] += f", {one.energy_source}"
    return f"F1 {one.f1:.3f}{kept}, " + ", ".join(figures)


def _nearest(formats: Sequence[Format], budget: Budget, reasons: dict[str, tuple[str, ...]]) -> str:
    """What to say when nothing fits: the format that exceeds the limits by the least, and by how much."""
    if not formats:
        return "there are no formats."
    nearest = min(formats, key=lambda one: (_excess(one, budget), -one.f1))
    return f"nearest is {nearest.name}, but {' and '.join(reasons[nearest.name])}."


def _excess(one: Format, budget: Budget) -> float:
    """By which share of each limit a format misses it, summed; infinite where a figure is not known."""
    misses = []
    if budget.keep:
        share = one.share_of_16bit
        misses.append(math.inf if not share else budget.keep / share - 1.0)
    for limit, value in (
        (budget.deadline_us, getattr(one, budget.quantile)),
        (budget.bytes, one.bytes),
        (budget.energy_mj, one.energy_mj),
    ):
        if limit is not None:
            misses.append(math.inf if value is None else value / limit - 1.0)
    return sum(max(0.0, miss) for miss in misses)
