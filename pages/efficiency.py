"""Efficiency: what serving costs on this machine, and what to deploy under which constraint."""

from __future__ import annotations

import streamlit as st

from dashboard.session import linked, switch
from dashboard.session.linked import widget
from dashboard.views import ledger, widgets
from dashboard.views.efficiency import machine, the_deployment
from dashboard.views.efficiency_controls import PAGE, VIEWS, controls
from dashboard.views.efficiency_costs import the_energy, the_latency, the_memory
from dashboard.views.efficiency_emissions import the_emissions
from qmoe_core.errors import UserError


def page() -> None:
    """The page, from top to bottom."""
    ledger.style()
    st.title("What it costs on this machine", anchor=False)
    bundle = switch.bundle()
    if bundle is None:
        return
    values = linked.controls(PAGE, controls(bundle))
    st.caption(widgets.plain(machine()))
    st.segmented_control(
        "View",
        list(VIEWS),
        key=widget(PAGE, "view"),
        required=True,
        format_func=VIEWS.__getitem__,
        label_visibility="collapsed",
        wrap=True,
    )
    try:
        {
            "deploy": the_deployment,
            "latency": the_latency,
            "energy": the_energy,
            "memory": the_memory,
            "emissions": the_emissions,
        }[values["view"]](bundle, values)
    except UserError as error:
        st.error(widgets.plain(str(error)))


page()
