"""Method: one equation with the paper's wording, the code and the numbers of one sound."""

from __future__ import annotations

import math

import streamlit as st

from dashboard.session import hearing, state
from dashboard.session.hearing import Example
from dashboard.views import costs, equations, widgets, words
from dashboard.views.equations import Equation
from qmoe_core import numbers
from qmoe_core.audio.decode import SAMPLE_RATE
from qmoe_core.audio.mel import hz_to_mel
from qmoe_core.bundles import Bundle
from qmoe_core.decision import Decision, ExpertOpinion
from qmoe_core.experts.spec import EXPERTS
from qmoe_core.measure.steps import Way
from qmoe_core.routing.mixing import Settings

STRATEGY = {
    "distilled": "\n\nThe bonus here comes from d̂, predicted from one cheap expert’s answer, as chosen on "
    "Listen.",
    "router-mc": "\n\nThe bonus here comes from the router’s doubt σ instead of d, as chosen on Listen.",
    "none": "\n\nCuriosity is off on Listen, so every bonus is one.",
}
"""Where the bonus comes from, where it isn't Eq. 8's."""


def the_settings(bundle: Bundle) -> Settings:
    """The mixture as it is chosen now."""
    controls, _ = state.controls(bundle)
    return controls.settings(bundle)


def the_example(bundle: Bundle) -> Example:
    """The sound judged last on Listen, by the mixture as it is now; else the gallery's first."""
    controls, _ = state.controls(bundle)
    settings = controls.settings(bundle)
    if "example" in st.session_state and st.session_state.example_of == (bundle.digest, settings):
        return st.session_state.example
    sound = st.session_state.get("last_sound") or hearing.from_gallery(controls.sound)
    heard = hearing.hear(sound, bundle)
    result = hearing.judge(sound, heard, bundle, settings)
    return Example.of(sound.name, result.whole, heard, bundle)


def step(equation: Equation, example: Example, way: Way) -> None:
    """One equation: wording and code to the left, numbers and costs to the right."""
    st.divider()
    number = f"Eq. {equation.number}" if equation.number.isdigit() else "Definition"
    st.subheader(f"{number}: {equation.title}", anchor=f"eq{equation.number}")
    left, right = st.columns([3, 2], gap="large")
    with left:
        st.latex(equation.latex)
        st.markdown(f"**The paper.** {equation.paper}")
        st.markdown(f"**Here.** {equation.here}")
        for reference in equation.code:
            found = equations.source(reference)
            with st.expander(f"`{reference.replace(':', '.')}`"):
                widgets.caption(found.place)
                st.code(found.text, language="python", wrap_lines=True)
    with right:
        st.markdown(computed(equation.number, example))
        st.markdown(f"**Costs.** {widgets.plain(costs.of_equation(equation.number, way))}")


def computed(number: str, example: Example) -> str:
    """What an equation comes to for the example, in Markdown."""
    if number == "1":
        bands, frames = example.frames
        top = SAMPLE_RATE / 2
        return (
            f"1,000 Hz is {hz_to_mel(1000):,.0f} mel, and {top:,.0f} Hz, the top, {hz_to_mel(top):,.0f} mel. "
            f"This sound became {bands} bands × {frames:,} frames."
        )
    if number == "1a":
        return embedding(example)
    if number in {spec.equation for spec in EXPERTS.values() if spec.equation}:
        return of_formats(example.decision, number)
    of_decision = {
        "5": routing,
        "5a": passes,
        "6": mixture,
        "7": entropy,
        "7a": parts_of_entropy,
        "8": curiosity,
        "8a": predicted,
    }
    return of_decision[number](example.decision)


def mixed(decision: Decision) -> list[ExpertOpinion]:
    """The experts of the mixture."""
    return [expert for expert in decision.experts if expert.in_mixture]


def of_formats(decision: Decision, number: str) -> str:
    """Eq. 2 to 4: the answers of the experts in these formats."""
    rows = [
        (
            e.name,
            widgets.plain(words.readable(e.label)),
            numbers.percent(float(e.probabilities.max())),
            f"{e.disagreement_kl:.4f}",
        )
        for e in decision.experts
        if EXPERTS[e.name].equation == number
    ]
    return _table(("expert", "label", "probability", "d, nats"), rows)


def embedding(example: Example) -> str:
    """The sizes on the way to the embedding."""
    bands, frames = example.frames
    sizes = " and ".join(f"{dim:,} numbers ({widgets.plain(name)})" for name, dim in example.embeddings)
    return f"{bands} bands × {frames:,} frames become {sizes} for each window of five seconds."


def routing(decision: Decision) -> str:
    """Eq. 5: the router's distribution."""
    rows = [(e.name, f"{e.router_probability:.4f}") for e in mixed(decision)]
    total = sum(e.router_probability for e in mixed(decision))
    return _table(("expert", "r"), [*rows, ("sum", f"{total:.4f}")])


def passes(decision: Decision) -> str:
    """The deviation of the routing over MC-dropout passes, and what it amounts to."""
    rows = [(e.name, f"{e.router_probability:.4f}", f"± {e.router_std:.4f}") for e in mixed(decision)]
    unsure = decision.uncertainty
    return (
        f"{_table(('expert', 'r', 'σ'), rows)}\n\nS = {decision.mc_samples} passes; mean variance "
        f"{unsure.router_variance:.5f}, H(r̄) − mean H(r⁽ˢ⁾) = "
        f"{numbers.nats(unsure.router_mutual_information)}."
    )


def mixture(decision: Decision) -> str:
    """Eq. 6: the weights of the mixture and what each expert contributes to its label."""
    place = decision.classes.index(decision.label)
    rows = [
        (e.name, f"{e.routing_probability:.4f}", f"{e.weight:.4f}", f"{e.probabilities[place]:.4f}")
        for e in mixed(decision)
    ]
    label = widgets.plain(words.readable(decision.label))
    header = ("expert", "r after curiosity", "share", label)
    return f"{_table(header, rows)}\n\nThe mixture: {label}, {decision.probability:.4f}."


def entropy(decision: Decision) -> str:
    """Eq. 7: the entropy of the experts' mean, and the most that it could be."""
    most = math.log(len(decision.classes))
    total = numbers.nats(decision.uncertainty.total)
    return f"H(q̄) = {total}, of at most ln {len(decision.classes)} = {numbers.nats(most)}."


def parts_of_entropy(decision: Decision) -> str:
    """Total, aleatoric and epistemic uncertainty, and the mean disagreement beside the last."""
    unsure, experts = decision.uncertainty, mixed(decision)
    rows = [
        ("total", f"{unsure.total:.5f}"),
        ("aleatoric", f"{unsure.aleatoric:.5f}"),
        ("epistemic = total − aleatoric", f"{unsure.epistemic:.5f}"),
        (f"mean of the {len(experts)} d", f"{sum(e.disagreement_kl for e in experts) / len(experts):.5f}"),
    ]
    return _table(("nats", ""), rows) + "\n\nThe last two are one number, computed in two ways."


def curiosity(decision: Decision) -> str:
    """Eq. 8: the routing before and after its bonus."""
    rows = [
        (
            e.name,
            f"{e.router_probability:.4f}",
            f"{e.disagreement_kl:.4f}",
            numbers.factor(e.bonus),
            f"{e.routing_probability:.4f}",
        )
        for e in mixed(decision)
    ]
    header = ("expert", "r", "d, nats", f"bonus, α = {decision.alpha:g}", "r curious")
    return _table(header, rows) + STRATEGY.get(decision.curiosity, "")


def predicted(decision: Decision) -> str:
    """What a head says of each expert's disagreement, next to the true one, in Markdown."""
    rows = [
        (e.name, f"{e.disagreement_kl:.4f}", f"{e.predicted_kl:.4f}", "yes" if e.needed else "no")
        for e in decision.experts
        if e.predicted_kl is not None
    ]
    if not rows:
        return "Choose **predicted disagreement** on Listen to see d̂ beside d for its sound."
    return _table(("expert", "d, nats", "d̂, nats", "has to run"), rows)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    rule = "|".join(["---", *["--:"] * (len(header) - 1)])
    lines = ["|".join(header), rule, *("|".join(row) for row in rows)]
    return "\n".join(f"|{line}|" for line in lines)
