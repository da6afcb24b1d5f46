"""Method: each equation, what the paper says of it, the code that computes it, and numbers for one sound."""

from __future__ import annotations

import streamlit as st

from dashboard.session import switch
from dashboard.views import equations, widgets, words
from dashboard.views.method import step, the_example
from qmoe_core import numbers
from qmoe_core.errors import UserError


def method() -> None:
    """The page, from top to bottom."""
    st.title("From a sound to a decision", anchor=False)
    bundle = switch.bundle()
    if bundle is None:
        return
    try:
        example = the_example(bundle)
    except UserError as error:
        widgets.error(error)
        return
    answer = f"{words.readable(example.decision.label)}, {numbers.percent(example.decision.probability)}"
    st.markdown(
        "The paper’s equations, next to what this lab computes; what the paper calls p is r for the routing "
        f"and q for a distribution over classes. The numbers are those of **{widgets.plain(example.name)}** "
        f"({widgets.plain(answer)}), n = 1 clip, α = {example.decision.alpha:g}, top "
        f"{example.decision.top_k}. {widgets.plain(words.capital(widgets.how(bundle)))}."
    )
    st.page_link(widgets.PAGES / "listen.py", label="Choose another sound or move the controls")
    st.markdown(" · ".join(f"[{equation.title}](#eq{equation.number})" for equation in equations.EQUATIONS))
    for equation in equations.EQUATIONS:
        step(equation, example)


method()
