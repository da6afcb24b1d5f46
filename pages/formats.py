"""Formats: what each numeric format keeps and costs, and the cheapest one within a budget."""

from __future__ import annotations

import streamlit as st

from dashboard.session import linked, measured, switch
from dashboard.views import widgets
from dashboard.views.formats import PAGE, ask_for_latency, controls, the_choice
from dashboard.views.formats_weights import the_bits, the_grids
from dashboard.views.paths import the_board, the_layers, the_path
from qmoe_core.errors import UserError
from qmoe_core.evaluation.formats import formats


def page() -> None:
    """The page, from top to bottom."""
    st.title("Which format to ship", anchor=False)
    bundle = switch.bundle()
    if bundle is None:
        return
    try:
        latency, energy = measured.latest("latency", bundle), measured.latest("energy", bundle)
        found = formats(bundle, latency and latency.report, energy and energy.report)
    except UserError as error:
        widgets.error(error)
        return
    values = linked.controls(PAGE, controls(latency))
    if not found:
        widgets.empty("This bundle records no F1, so there is nothing to choose by; train it again.")
        return
    the_board(PAGE, values, bundle)
    the_path(bundle)
    st.subheader("The heads of this bundle", anchor=False)
    if latency is None:  # first: a deadline means nothing until it was measured
        ask_for_latency(bundle)
    with st.container(key="choice"):
        the_choice(bundle, found, latency, energy, values)
    the_bits(bundle, found, latency, energy)
    the_layers()
    the_grids(bundle, found)


page()
