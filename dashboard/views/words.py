"""What the lab says in plain words: the verdict, who agrees, how uncertain it is. Text in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from qmoe_core.decision import Decision
from qmoe_core.evaluation.conformal import Limits
from qmoe_core.experts.spec import EXPERTS
from qmoe_core.numbers import factor, listed, number, percent

REWARDED = {"disagreement": "d", "distilled": "d̂", "router-mc": "σ"}
"""What α multiplies, by strategy."""
FORMATS = (
    f"fp32 computes in float; {', '.join(n for n, spec in EXPERTS.items() if spec.rule == 'symmetric')} have "
    "weights of as many bits; bitnet’s are ternary; ptq8’s are rounded to 8 bits after training; popcount "
    "counts single bits."
)
"""What the experts' names stand for."""


@dataclass(frozen=True)
class Verdict:
    """The answer, large, and what there is to know about it, in a few sentences."""

    headline: str
    sentence: str
    refused: bool


def readable(label: str) -> str:
    """A class name as people write it.

    >>> readable("sea_waves")
    'sea waves'
    """
    return " ".join(label.replace("_", " ").split()) or "(unnamed)"


def drawn(text: str) -> str:
    """A name as charts show it as it is: plotly takes `<` and `&` for markup.

    >>> drawn("R&B <loud>")
    'R&amp;B &lt;loud&gt;'
    """
    return escape(text, quote=False)


def capital(text: str) -> str:
    """The first letter as a capital, the rest as it is."""
    return text[:1].upper() + text[1:]


def agreement(decision: Decision) -> str:
    """Who hears what the mixture hears, and what the others hear."""
    n, agreeing = len(decision.known), len(decision.agreeing)
    if n == 1:
        return ""
    if agreeing == n:
        return "Both experts agree." if n == 2 else f"All {number(n)} experts agree."
    others: dict[str, list[str]] = {}
    for expert in decision.known:
        if expert.label != decision.label:
            others.setdefault(expert.label, []).append(expert.name)
    said = "; ".join(
        f"{f'all {number(n)}' if len(names) == n else listed(names)} "
        f"{'says' if len(names) == 1 else 'say'} {readable(label)}"
        for label, names in sorted(others.items(), key=lambda item: -len(item[1]))
    )
    if not agreeing:  # a mixture of several may prefer what none of them likes best
        return f"No expert by itself says {readable(decision.label)}; {said}."
    few = "Only " if agreeing <= n / 2 else ""
    verb = "agrees" if agreeing == 1 else "agree"
    return f"{capital(f'{few}{number(agreeing)} of {number(n)} experts {verb}')}; {said}."


def rank(value: float, reference: np.ndarray) -> float:
    """Share of the reference (sorted, [n]) below the value; ties count half, so that equals are mid-way."""
    below = np.searchsorted(reference, value, side="left") + np.searchsorted(reference, value, side="right")
    return float(below) / (2 * len(reference))


def compared(value: float, reference: np.ndarray) -> str:
    """Where a value lies among the default set's, as the end of a sentence."""
    share = rank(value, reference)
    if share in (0.0, 1.0):
        return f"{'lower' if share == 0 else 'higher'} than all {len(reference):,} of the default set’s clips"
    if share < 0.5:
        return f"lower than {percent(1 - share)} of the default set’s clips"
    return f"higher than {percent(share)} of the default set’s clips"


def uncertainty(decision: Decision, reference: np.ndarray | None) -> str:
    """How much the answer is to be doubted, and against what."""
    value = decision.doubt
    if reference is None or not len(reference):
        return f"Its doubt is {value:.3f}."
    share = rank(value, reference)
    word = "low" if share < 0.5 else "moderate" if share < 0.9 else "high"
    return f"Doubt is {word}: {compared(value, reference)}."


def knows(classes: Sequence[str]) -> str:
    """Which sounds there are names for, and what that means for others."""
    return (
        f"It knows {number(len(classes))} sounds: {listed(map(readable, classes))}. Any other sound gets one "
        "of these names, or no answer."
    )


def prediction_set(decision: Decision, limits: Limits | None) -> str:
    """The labels that hold the true one as often as promised; empty where none are set."""
    if limits is None or not limits.largest:
        return ""
    labels = limits.labels(decision.probabilities, decision.classes)
    said = listed([readable(label) for label in labels]) if labels else "no sound that it knows"
    return f"Prediction set, right in {percent(limits.coverage)} of cases: {said}."


def verdict(
    decision: Decision,
    *,
    reference: np.ndarray | None = None,
    limits: Limits | None = None,
    known: bool = True,
) -> Verdict:
    """The answer in plain words.

    Args:
        decision: what the mixture made of a window or a recording.
        reference: doubts of the default set, sorted [n], or None.
        limits: when to refuse an answer, and what prediction sets hold.
        known: whether a refusal says which sounds are known; not where the page says it.
    """
    why = limits.reason(decision.doubt) if limits else ""
    answer = f"{readable(decision.label)}, {percent(decision.probability)}"
    parts = [agreement(decision), uncertainty(decision, reference), prediction_set(decision, limits)]
    rest = " ".join(filter(None, parts))
    if why:
        guess = f"The best guess is {answer}, but {why}."
        return Verdict(
            "No answer", f"{guess} {rest}{f' {knows(decision.classes)}' if known else ''}", refused=True
        )
    return Verdict(capital(answer), rest, refused=False)


def curiosity(decision: Decision, plain: Decision) -> str:
    """What curiosity changed, next to the same mixture without it."""
    if decision.curiosity == "none":
        return "Curiosity is off: the router alone chooses."
    if decision.alpha == 0:
        return "At α = 0 curiosity is off: the router alone chooses."
    if decision.curiosity == "distilled":
        return f"{_changed(decision, plain)} {_ran(decision)}"
    return _changed(decision, plain)


def _ran(decision: Decision) -> str:
    """Who has to run for a decision by predicted disagreement."""
    needed = decision.needed
    return f"Of the experts, {listed(needed)} {'has' if len(needed) == 1 else 'have'} to run for it."


def _changed(decision: Decision, plain: Decision) -> str:
    chosen = _chosen(decision)
    if plain.label != decision.label:
        return f"Curiosity changed the answer: the plain router says {_answer(plain)}."
    if chosen != _chosen(plain):
        was = listed(_chosen(plain))
        return f"Curiosity changed who answers ({listed(chosen)} instead of {was}), not the answer."
    largest = max(e.bonus for e in decision.experts if e.in_mixture)
    return f"Curiosity changed neither the answer nor who gives it: the largest bonus is {factor(largest)}."


def _chosen(decision: Decision) -> Sequence[str]:
    return [expert.name for expert in decision.experts if expert.selected]


def _answer(decision: Decision) -> str:
    return f"{readable(decision.label)}, {percent(decision.probability)}"
