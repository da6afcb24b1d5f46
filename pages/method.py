"""Method: Figure 1 and each equation: the paper's words, the code, one sound's numbers, and what it costs."""

from __future__ import annotations

import streamlit as st

from dashboard.session import hearing, switch
from dashboard.views import costs, equations, figure_one, widgets, words
from dashboard.views.method import step, the_example, the_settings
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
        way = hearing.way(bundle, the_settings(bundle))
    except UserError as error:
        widgets.error(error)
        return
    answer = f"{words.readable(example.decision.label)}, {numbers.percent(example.decision.probability)}"
    st.markdown(
        "The paper’s Figure 1 and its equations, next to what this lab computes, in the order of the way; "
        "what the paper calls p is r for the routing and q for a distribution over classes. The numbers are "
        f"those of **{widgets.plain(example.name)}** ({widgets.plain(answer)}), n = 1 clip, α = "
        f"{example.decision.alpha:g}, top {example.decision.top_k}. "
        f"{widgets.plain(words.capital(widgets.how(bundle)))}."
    )
    st.page_link(widgets.PAGES / "listen.py", label="Choose another sound or move the controls")
    st.html(figure_one.drawn(example, way))
    widgets.caption(
        f"Figure 1 of the paper begins with the embedding and ends with the mixture. {costs.measured(way)}"
    )
    for equation in equations.EQUATIONS:
        step(equation, example, way)


method()
