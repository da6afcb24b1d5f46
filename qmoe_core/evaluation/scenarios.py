"""The paper's deployment scenarios, what it would pick, and what our measurements say (§5.3, §5.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qmoe_core.evaluation.formats import Format
from qmoe_core.evaluation.pareto import COSTS, describe
from qmoe_core.numbers import amount

KEEP = 0.99
"""Share of the 16-bit F1 that a scenario which is not about accuracy may not fall below."""


@dataclass(frozen=True)
class Pick:
    """What the paper recommends: its name for the model, ours, and the figures it gives."""

    model: str
    ours: str
    figures: str


@dataclass(frozen=True)
class Scenario:
    """A constraint that somebody deploys under.

    Attributes:
        id, title: for code and for people.
        need: what is asked for, in a sentence.
        source: section of the paper; picks: what it recommends there.
        rule: how we answer, in a sentence.
        needs: the figures that the rule looks at, as fields of `Format`.
        keeps: whether only formats that keep 99 % of the 16-bit F1 are considered.
        mixtures: whether only mixtures are, as in the list of §5.3.
        rank: of a format that has those figures; the lowest is the answer.
    """

    id: str
    title: str
    need: str
    source: str
    picks: tuple[Pick, ...]
    rule: str
    needs: tuple[str, ...]
    keeps: bool
    rank: Callable[[Format], float]
    mixtures: bool = False


def _of(*fields: str) -> Callable[[Format], float]:
    """The product of some figures."""

    def rank(one: Format) -> float:
        product = 1.0
        for field in fields:
            product *= getattr(one, field)
        return product

    return rank


def _highest_f1(one: Format) -> float:
    return -one.f1


def _tail(one: Format) -> float:
    """Time between the median and the slowest hundredth of the calls, µs."""
    return (one.p99_us or 0.0) - (one.p50_us or 0.0)


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        id="latency",
        title="Latency-critical",
        need="An answer as soon as possible.",
        source="§5.4 (1), under 1,200 ms",
        picks=(
            Pick("Q1-Base", "q1", "1,163 ms, F1 0.851"),
            Pick("Q8-Base", "q8", "1,170 ms, F1 0.858"),
        ),
        rule="The lowest median latency, whatever its F1.",
        needs=("p50_us",),
        keeps=False,
        rank=_of("p50_us"),
    ),
    Scenario(
        id="balanced",
        title="Balanced",
        need="Good at everything, best at nothing.",
        source="§5.4 (2)",
        picks=(Pick("Q4-Base", "q4", "1,187 ms, F1 0.858"),),
        rule="The lowest product of median latency and size that keeps 99 % of the 16-bit F1.",
        needs=("p50_us", "bytes"),
        keeps=True,
        rank=_of("p50_us", "bytes"),
    ),
    Scenario(
        id="accuracy",
        title="Maximum accuracy",
        need="The fewest errors, whatever it takes.",
        source="§5.4 (3)",
        picks=(Pick("Q16-Base", "q16", "1,256 ms, F1 0.859"),),
        rule="The highest mean F1 out of fold.",
        needs=("f1",),
        keeps=False,
        rank=_highest_f1,
    ),
    Scenario(
        id="memory",
        title="Memory-constrained",
        need="The least to store and to hold.",
        source="§5.4 (4), under 900 MB",
        picks=(Pick("BitNet-Q4/8-QMoE-C", "bitnet+q4+q8 curious", "1,278 ms, 0.86 GB, F1 0.836"),),
        rule="The smallest files that keep 99 % of the 16-bit F1.",
        needs=("bytes",),
        keeps=True,
        rank=_of("bytes"),
    ),
    Scenario(
        id="stable",
        title="Stable real-time",
        need="The same time at every call.",
        source="§5.4 (5)",
        picks=(Pick("Q8-Base", "q8", "1,170 ± 12 ms"),),
        rule="The least time between the median and the slowest hundredth of the calls, at 99 % of the "
        "16-bit F1; a deviation would mostly count what else the machine did.",
        needs=("p50_us", "p99_us"),
        keeps=True,
        rank=_tail,
    ),
    Scenario(
        id="energy",
        title="Energy-constrained",
        need="The most answers from a battery.",
        source="§5.3 (3)",
        picks=(Pick("BitNet-Q8PTQ-QMoE", "bitnet+ptq8", "0.207 mJ, F1 0.801"),),
        rule="The least energy of a call that keeps 99 % of the 16-bit F1.",
        needs=("energy_mj",),
        keeps=True,
        rank=_of("energy_mj"),
    ),
    Scenario(
        id="mixture-accuracy",
        title="Maximum accuracy, mixtures",
        need="The fewest errors of a mixture, whatever it takes.",
        source="§5.3 (1), for abundant resources",
        picks=(Pick("BitNet-Q4/8/16-QMoE", "bitnet+q4+q8+q16", "F1 0.849"),),
        rule="The highest mean F1 out of fold among mixtures.",
        needs=("f1",),
        keeps=False,
        rank=_highest_f1,
        mixtures=True,
    ),
    Scenario(
        id="mixture-balanced",
        title="Balanced, mixtures",
        need="A mixture for general use.",
        source="§5.3 (2)",
        picks=(Pick("BitNet-Q4/8-QMoE-C", "bitnet+q4+q8 curious", "F1 0.836, 0.558 mJ"),),
        rule="The lowest product of median latency and size among mixtures that keep 99 % of the 16-bit F1.",
        needs=("p50_us", "bytes"),
        keeps=True,
        rank=_of("p50_us", "bytes"),
        mixtures=True,
    ),
    Scenario(
        id="mixture-stable",
        title="Real-time, mixtures",
        need="A mixture that takes the same time at every call.",
        source="§5.3 (4)",
        picks=(Pick("BitNet-Q8/16-PTQ-QMoE-C", "bitnet+q8+q16+ptq8 curious", "F1 0.821, 38 ms deviation"),),
        rule="The least time between the median and the slowest hundredth of the calls, among mixtures that "
        "keep 99 % of the 16-bit F1.",
        needs=("p50_us", "p99_us"),
        keeps=True,
        rank=_tail,
        mixtures=True,
    ),
)


@dataclass(frozen=True)
class Answer:
    """What our measurements say of a scenario.

    Attributes:
        format: the answer; None when a figure it needs was not measured, or nothing keeps enough F1.
        reason: in a sentence, with the figures.
        paper: the formats of ours that the paper's picks correspond to, as far as there are any.
        verdict: how the paper's picks do by the same rule, in a sentence.
    """

    scenario: Scenario
    format: Format | None
    reason: str
    paper: tuple[Format, ...]
    verdict: str


def answers(formats: Sequence[Format]) -> list[Answer]:
    """Every scenario answered from the formats at hand."""
    return [answer(scenario, formats) for scenario in SCENARIOS]


def answer(scenario: Scenario, formats: Sequence[Format]) -> Answer:
    """One scenario's answer.

    Args:
        formats: as `formats.formats` gives them, with what was measured on this machine.
    """
    asked = [one for one in formats if one.kind == "mixture" or not scenario.mixtures]
    measured = [one for one in asked if all(getattr(one, field) is not None for field in scenario.needs)]
    good = [one for one in measured if not scenario.keeps or (one.share_of_16bit or 0.0) >= KEEP]
    by_name = {one.name: one for one in formats}
    paper = tuple(by_name[pick.ours] for pick in scenario.picks if pick.ours in by_name)
    if not good:
        missing = next((field for field in scenario.needs if field in COSTS and not measured), None)
        reason = (
            f"No {COSTS[missing][1]} was measured on this machine yet: "
            f"run the benchmark, or qmoe bench {COSTS[missing][1]}."
            if missing
            else f"Nothing keeps {100 * KEEP:.0f} % of the 16-bit F1."
        )
        return Answer(scenario, None, reason, paper, "")
    best = min(good, key=lambda one: (scenario.rank(one), -one.f1))
    costs = [field for field in scenario.needs if field in COSTS]
    reason = f"{best.name}: {describe(best, *costs)}."
    if scenario.rank is _highest_f1:
        near = sum(one.f1 >= best.f1 - best.f1_std for one in asked) - 1
        reason += f" {near} of {len(asked) - 1} others lie within its fold deviation of {best.f1_std:.3f}."
    if scenario.rank is _tail:
        reason += f" Its slowest hundredth takes {_tail(best):.3g} µs more than its median."
    return Answer(scenario, best, reason, paper, _verdict(scenario, best, paper))


def _verdict(scenario: Scenario, best: Format, paper: tuple[Format, ...]) -> str:
    """How the paper's picks do here."""
    names = " or ".join(pick.model for pick in scenario.picks)
    if best in paper:
        return f"The paper picks {names} too."
    if not paper:
        return f"The paper picks {names}; this bundle has no such model."
    costs = [field for field in scenario.needs if field in COSTS]
    here = "; ".join(
        f"{one.name}: F1 {one.f1:.3f}"
        + "".join(f", {amount(cost, getattr(one, cost))}" for cost in costs if getattr(one, cost) is not None)
        for one in paper
    )
    return f"The paper picks {names}; here {here}."
