"""Plain words: what is said of which numbers."""

from __future__ import annotations

import string
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.views import widgets, words
from qmoe_core import numbers
from qmoe_core.decision import Classification, Decision
from qmoe_core.evaluation.conformal import Limits

REFERENCE = np.linspace(0.0, 1.0, 101)


@pytest.fixture
def decision(dog: Classification) -> Decision:
    return dog.whole


def with_labels(decision: Decision, *labels: str) -> Decision:
    """The decision with these labels for its first experts, and the mixture's for the rest."""
    experts = [replace(e, label=decision.label) for e in decision.experts]
    for i, label in enumerate(labels):
        experts[i] = replace(experts[i], label=label)
    return replace(decision, experts=tuple(experts))


def with_doubt(decision: Decision, value: float) -> Decision:
    return replace(decision, probability=1.0 - value)


def test_agreement(decision: Decision) -> None:
    assert words.agreement(with_labels(decision)) == "All nine experts agree."
    assert words.agreement(with_labels(decision, "rain")) == "Eight of nine experts agree; fp32 says rain."
    assert (
        words.agreement(with_labels(decision, "rain", "sea_waves", "rain"))
        == "Six of nine experts agree; fp32 and q2 say rain; q1 says sea waves."
    )
    assert words.agreement(with_labels(decision, *["rain"] * 8)).startswith(
        "Only one of nine experts agrees; "
    )
    assert (
        words.agreement(with_labels(decision, *["rain"] * 9))
        == "No expert by itself says dog; all nine say rain."
    )


def test_agreement_of_few(decision: Decision) -> None:
    both = replace(decision, experts=with_labels(decision).experts[:2])
    assert words.agreement(both) == "Both experts agree."
    assert words.agreement(replace(decision, experts=decision.experts[:1])) == ""


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (0.25, "Doubt is low: lower than 75 % of the default set’s clips."),
        (0.64, "Doubt is moderate: higher than 64 % of the default set’s clips."),
        (0.96, "Doubt is high: higher than 96 % of the default set’s clips."),
        (-1.0, "Doubt is low: lower than all 101 of the default set’s clips."),
        (2.0, "Doubt is high: higher than all 101 of the default set’s clips."),
    ],
)
def test_uncertainty(decision: Decision, value: float, sentence: str) -> None:
    assert words.uncertainty(with_doubt(decision, value), REFERENCE).replace("\xa0", " ") == sentence


def test_uncertainty_without_a_reference(decision: Decision) -> None:
    said = words.uncertainty(with_doubt(decision, 0.0123), None)
    assert said.replace("\xa0", " ") == "Its doubt is 0.012."


def test_verdict_and_refusal(decision: Decision) -> None:
    sure = with_labels(with_doubt(decision, 0.29))
    limits = Limits(doubt=0.3, promise="at most 5 % of the answers are wrong", largest=(0.99999,))
    verdict = words.verdict(sure, reference=REFERENCE, limits=limits)
    assert verdict.headline.replace("\xa0", " ") == "Dog, 71 %"
    assert verdict.sentence.startswith("All nine experts agree. Doubt is low")
    assert "Prediction set, right in 95 % of cases: dog" in verdict.sentence.replace("\xa0", " ")
    assert not verdict.refused
    refused = words.verdict(sure, reference=REFERENCE, limits=replace(limits, doubt=0.1))
    assert refused.headline == "No answer"
    assert refused.sentence.replace("\xa0", " ").startswith(
        "The best guess is dog, 71 %, but the doubt, 0.290, is above 0.100, the limit for which at most 5 % "
        "of the answers are wrong."
    )
    assert refused.refused
    assert not words.verdict(sure).refused


def answered_by(decision: Decision, name: str) -> Decision:
    return replace(
        decision, experts=tuple(replace(e, selected=e.name == name, bonus=1.003) for e in decision.experts)
    )


def test_curiosity(decision: Decision) -> None:
    curious = answered_by(decision, "bitnet")
    plain = replace(curious, curiosity="none")
    unmoved = words.curiosity(curious, plain).replace("\xa0", " ")
    assert unmoved == "Curiosity changed neither the answer nor who gives it: the largest bonus is × 1.003."
    flipped = words.curiosity(replace(curious, label="rain"), plain)
    assert flipped.startswith("Curiosity changed the answer: the plain router says dog, ")
    moved = words.curiosity(answered_by(decision, "q4"), plain)
    assert moved == "Curiosity changed who answers (q4 instead of bitnet), not the answer."
    assert "off" in words.curiosity(replace(curious, alpha=0.0), plain)
    assert "off" in words.curiosity(plain, plain)
    distilled = replace(
        curious,
        curiosity="distilled",
        experts=tuple(replace(e, needed=e.name in ("bitnet", "q4")) for e in curious.experts),
    )
    assert "q4 and bitnet have to run for it." in words.curiosity(distilled, plain)


@pytest.mark.parametrize(
    ("share", "said"),
    [(0, "0 %"), (0.004, "under 1 %"), (0.005, "0 %"), (0.93, "93 %"), (0.9951, "over 99 %"), (1.0, "100 %")],
)
def test_percent(share: float, said: str) -> None:
    assert numbers.percent(share).replace("\xa0", " ") == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(1.0, "× 1.000"), (1.0034, "× 1.003"), (20.1, "× 20"), (13843.2, "× 13,843"), (2.5e43, "× 2.5·10⁴³")],
)
def test_factor(value: float, said: str) -> None:
    assert numbers.factor(value).replace("\xa0", " ") == said


@given(st.floats(0, 10), st.lists(st.floats(0, 10), min_size=1).map(sorted))
def test_rank_is_a_share(value: float, reference: list[float]) -> None:
    share = words.rank(value, np.array(reference))
    assert 0.0 <= share <= 1.0
    below = np.mean(np.array(reference) < value)
    assert below <= share <= below + np.mean(np.array(reference) == value)


@given(st.text(alphabet=string.printable + "äα×"))
def test_plain_text_is_unescaped_to_itself(text: str) -> None:
    shown = widgets.plain(text)
    out, escaped = [], False
    for c in shown:
        if c == "\\" and not escaped:
            escaped = True
            continue
        out.append(c)
        escaped = False
    assert "".join(out) == text
