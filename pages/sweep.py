"""Sweep: what curiosity's α does to accuracy, routing and uncertainty, without training anything."""

from __future__ import annotations

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard.session import state, switch
from dashboard.session.state import stops
from dashboard.views import sweeping, widgets
from dashboard.views.sweep_cascade import the_cascade
from dashboard.views.sweep_curves import the_curves, the_mixture, the_use
from dashboard.views.sweep_tables import take_away, the_alpha
from qmoe_core.evaluation.sweep import Flip


def page() -> None:
    """The page, from top to bottom."""
    st.title("What curiosity changes", anchor=False)
    found = switch.with_data()
    if found is None:
        return
    bundle, _ = found
    controls, problems = state.controls(bundle)
    for problem in problems:
        widgets.warning(problem)
    settings = controls.settings(bundle)
    top, right = st.columns(2, gap="large")
    with right:
        the_mixture(bundle, settings)
    sweeps = sweeping.sweeps(bundle, settings, tuple(stops(sweeping.STOPS, settings.alpha)))

    slots: dict[str, DeltaGenerator] = {}
    moved: list[Flip] = []  # at the slider's α, for the download, which knows no session
    with st.container(key="curves"):
        scales = the_curves(sweeps, settings.curiosity, slots)
        the_use(sweeps[settings.curiosity], slots)
    st.subheader("Side by side", anchor=False)
    slots["strategies"] = st.empty()
    st.subheader("The clips that change", anchor=False)
    slots["flips"] = st.empty()
    with top:
        the_alpha(bundle, sweeps, scales, slots, moved)
    take_away(bundle, settings, sweeps, moved)
    the_cascade(bundle, settings.experts)


page()
