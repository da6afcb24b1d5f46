"""Sweep: what curiosity's α does to accuracy, routing and uncertainty, without training anything."""

from __future__ import annotations

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard.session import linked, switch
from dashboard.session.state import stops
from dashboard.views import ledger, sweeping
from dashboard.views.sweep import PAGE, as_settings, defined, the_alpha, the_curves, the_mixture, the_use
from dashboard.views.sweep_tables import take_away
from qmoe_core.evaluation.sweep import Flip


def page() -> None:
    """The page, from top to bottom."""
    ledger.style()
    st.title("What curiosity changes", anchor=False)
    bundle = switch.bundle()
    if bundle is None:
        return
    if bundle.dataset is None:
        ledger.empty("This bundle carries no data set, so there is nothing to sweep over; train it again.")
        return
    values = linked.controls(PAGE, defined(bundle))
    settings = as_settings(values, bundle)
    if values["k"] > settings.top_k:  # some experts were taken out
        linked.set_to(PAGE, k=settings.top_k)
        values["k"] = settings.top_k
    top, right = st.columns(2, gap="large")
    with right:
        the_mixture(bundle, settings)
    found = sweeping.sweeps(bundle, settings, tuple(stops(sweeping.STOPS, settings.alpha)))

    slots: dict[str, DeltaGenerator] = {}
    moved: list[Flip] = []  # at the slider's α, for the download, which knows no session
    with st.container(key="curves"):
        scales = the_curves(found, settings.curiosity, slots)
        the_use(found[settings.curiosity], slots)
    st.subheader("Side by side", anchor=False)
    slots["strategies"] = st.empty()
    st.subheader("The clips that change", anchor=False)
    slots["flips"] = st.empty()
    with top:
        the_alpha(bundle, values, found, scales, slots, moved)
    take_away(bundle, settings, found, moved)


page()
