"""Method: each equation, what the paper says of it, the code that computes it, and numbers for one sound."""

from __future__ import annotations

import math

import streamlit as st

from dashboard.session import hearing, state, switch
from dashboard.session.hearing import Example
from dashboard.views import equations, tables, widgets, words
from dashboard.views.equations import Equation
from qmoe_core.audio.decode import SAMPLE_RATE
from qmoe_core.audio.mel import hz_to_mel
from qmoe_core.bundles import Bundle
from qmoe_core.decision import Decision
from qmoe_core.errors import UserError
from qmoe_core.experts.spec import EXPERTS


def method() -> None:
    """The page, from top to bottom."""
    st.title("From a sound to a decision", anchor=False)
    tables.style()
    bundle = switch.bundle()
    if bundle is None:
        return
    try:
        example = the_example(bundle)
    except UserError as error:
        st.error(widgets.plain(str(error)))
        return
    answer = f"{words.readable(example.decision.label)}, {words.percent(example.decision.probability)}"
    st.markdown(
        f"The paper’s equations, next to what this lab computes; what the paper calls p is r for the routing "
        f"and q "
        f"for a distribution over classes. The numbers are those of "
        f"**{widgets.plain(example.name)}** ({widgets.plain(answer)}), n = 1 clip, α = "
        f"{example.decision.alpha:g}, "
        f"top {example.decision.top_k}. {widgets.plain(words.capital(widgets.how(bundle)))}."
    )
    st.page_link(widgets.PAGES / "listen.py", label="Choose another sound or move the controls")
    st.markdown(" · ".join(f"[{equation.title}](#eq{equation.number})" for equation in equations.EQUATIONS))
    for equation in equations.EQUATIONS:
        step(equation, example)


def the_example(bundle: Bundle) -> Example:
    """The sound judged last on Listen, by the mixture as it is now; else the gallery's first."""
    controls, _ = state.controls(bundle)
    settings = controls.settings(bundle)
    if "example" in st.session_state and st.session_state.example_of == (bundle.digest, settings):
        return st.session_state.example
    sound = st.session_state.get("last_sound") or hearing.from_gallery(controls.sound)
    heard = hearing.hear(sound, bundle)
    result = hearing.judge(sound, heard, bundle, settings)
    return Example(sound.name, result.whole, heard.spectrogram.shape)


def step(equation: Equation, example: Example) -> None:
    """One equation: wording and code to the left, numbers to the right."""
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
                st.caption(widgets.plain(found.place))
                st.code(found.text, language="python", wrap_lines=True)
    with right:
        st.markdown(numbers(equation.number, example))


def numbers(number: str, example: Example) -> str:
    """What an equation comes to for the example, in Markdown."""
    decision, unsure = example.decision, example.decision.uncertainty
    mixed = [expert for expert in decision.experts if expert.in_mixture]
    if number == "1":
        bands, frames = example.frames
        top = SAMPLE_RATE / 2
        return (
            f"1,000 Hz is {hz_to_mel(1000):,.0f} mel, and {top:,.0f} Hz, the top, {hz_to_mel(top):,.0f} mel. "
            f"This sound became {bands} bands × {frames:,} frames."
        )
    if number in {spec.equation for spec in EXPERTS.values()}:
        rows = [
            (
                e.name,
                widgets.plain(words.readable(e.label)),
                words.percent(float(e.probabilities.max())),
                f"{e.disagreement_kl:.4f}",
            )
            for e in decision.experts
            if EXPERTS[e.name].equation == number
        ]
        return _table(("expert", "says", "with", "d, nats"), rows)
    if number == "5":
        total = sum(e.router_probability for e in mixed)
        rows = [(e.name, f"{e.router_probability:.4f}", f"± {e.router_std:.4f}") for e in mixed]
        return _table(("expert", "r", "σ, MC dropout"), [*rows, ("sum", f"{total:.4f}", "")])
    if number == "6":
        place = decision.classes.index(decision.label)
        rows = [
            (e.name, f"{e.routing_probability:.4f}", f"{e.weight:.4f}", f"{e.probabilities[place]:.4f}")
            for e in mixed
        ]
        label = widgets.plain(words.readable(decision.label))
        return (
            _table(("expert", "r after curiosity", "share", label), rows)
            + f"\n\nThe mixture: {label}, {decision.probability:.4f}."
        )
    if number == "7":
        most = math.log(len(decision.classes))
        return (
            f"H(q̄) = {words.nats(unsure.total)}, of at most ln {len(decision.classes)} = {words.nats(most)}."
        )
    if number == "7a":
        mean = sum(e.disagreement_kl for e in mixed) / len(mixed)
        rows = [
            ("total", f"{unsure.total:.5f}"),
            ("aleatoric", f"{unsure.aleatoric:.5f}"),
            ("epistemic = total − aleatoric", f"{unsure.epistemic:.5f}"),
            (f"mean of the {len(mixed)} d", f"{mean:.5f}"),
        ]
        return _table(("nats", ""), rows) + "\n\nThe last two are one number, computed in two ways."
    if number == "8a":
        return predicted(decision)
    rows = [
        (
            e.name,
            f"{e.router_probability:.4f}",
            f"{e.disagreement_kl:.4f}",
            words.factor(e.bonus),
            f"{e.routing_probability:.4f}",
        )
        for e in mixed
    ]
    strategy = {
        "disagreement": "",
        "distilled": "\n\nThe bonus here comes from d̂, predicted from one cheap expert’s answer, as chosen "
        "on Listen.",
        "router-mc": "\n\nThe bonus here comes from the router’s doubt σ instead of d, as chosen on Listen.",
        "none": "\n\nCuriosity is off on Listen, so every bonus is one.",
    }[decision.curiosity]
    return _table(("expert", "r", "d, nats", f"bonus, α = {decision.alpha:g}", "r curious"), rows) + strategy


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


method()
