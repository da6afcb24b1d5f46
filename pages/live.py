"""Live: a microphone judged while it goes on, and a log of what was heard."""

from __future__ import annotations

import streamlit as st

from dashboard.session import hearing, live_state, state, switch
from dashboard.views import widgets
from dashboard.views.live import chosen_rules, health, the_microphone, the_rules
from dashboard.views.live_log import the_log
from qmoe_core.errors import UserError

LOGGED_EVERY_S, HEALTH_EVERY_S = 2.0, 5.0


def live() -> None:
    """The page, from top to bottom."""
    st.title("The microphone, judged live", anchor=False)
    bundle = switch.bundle()
    if bundle is None:
        return
    try:
        controls, problems = state.controls(bundle)
        settings = controls.settings(bundle)
        known = hearing.known(bundle, settings, controls.promise)
        listening = live_state.mine(bundle, settings, chosen_rules(bundle, known.limits))
    except UserError as error:
        widgets.error(error)
        return
    for problem in (*problems, *filter(None, [known.problem])):
        widgets.warning(problem)
    listening.shown_running = listening.running

    left, right = st.columns([5, 2], gap="large")
    with right:
        the_rules(bundle, controls)
        st.subheader("Who answers", anchor=False)
        widgets.mixture_controls(bundle, controls)
    with left:
        the_microphone(listening, bundle)
    every = HEALTH_EVERY_S if listening.running else None
    st.fragment(health, run_every=every)(listening)
    st.subheader("Detections", anchor=False)
    every = LOGGED_EVERY_S if listening.running else None
    st.fragment(the_log, run_every=every)(listening)


live()
