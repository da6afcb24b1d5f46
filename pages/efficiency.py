"""Efficiency: what serving costs on this machine, and what to deploy under which constraint."""

from __future__ import annotations

import streamlit as st

from dashboard.session import linked, switch
from dashboard.views import widgets
from dashboard.views.efficiency import machine, the_deployment
from dashboard.views.efficiency_controls import PAGE, VIEWS, controls
from dashboard.views.efficiency_costs import the_energy, the_latency, the_memory
from dashboard.views.efficiency_emissions import the_emissions
from qmoe_core.errors import UserError


def page() -> None:
    """The page, from top to bottom."""
    st.title("What it costs on this machine", anchor=False)
    bundle = switch.bundle()
    if bundle is None:
        return
    values = linked.controls(PAGE, controls(bundle))
    widgets.caption(machine())
    widgets.one_of(PAGE, "view", "View", VIEWS, label_visibility="collapsed")
    try:
        {
            "deploy": the_deployment,
            "latency": the_latency,
            "energy": the_energy,
            "memory": the_memory,
            "emissions": the_emissions,
        }[values["view"]](bundle, values)
    except UserError as error:
        widgets.error(error)


page()
