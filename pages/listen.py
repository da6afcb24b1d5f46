"""Listen: record, upload or pick a sound, and see what every expert makes of it."""

from __future__ import annotations

import streamlit as st

from dashboard.session import hearing, state, switch
from dashboard.views import first_screen, uploads, widgets, words
from dashboard.views.listen import (
    take_away,
    the_answer,
    the_experts,
    the_mixture,
    the_sound,
    the_uncertainty,
)
from dashboard.views.listen_input import (
    choose_part,
    choose_sound,
    choose_sounds,
    judge,
)

AWAITED = "The answer appears here, with each expert’s class probabilities and the uncertainties."


def listen() -> None:
    """The page, from top to bottom."""
    bundle = switch.bundle()
    if bundle is None:
        return
    first_screen.question(bundle)
    controls, problems = state.controls(bundle)
    for problem in problems:
        widgets.warning(problem)

    settings = controls.settings(bundle)
    known = hearing.known(bundle, settings, controls.promise)
    if known.problem:
        widgets.warning(known.problem)
    sounds = choose_sounds(controls)
    if not sounds:
        st.html(f'<p class="qm-awaited">{AWAITED}</p>')
    every = [judge(sound, bundle, settings, known.limits) for sound in sounds]
    if len(sounds) > 1:
        uploads.table(sounds, [one and one.result for one in every])
    judged = [one for one in every if one]
    if not judged:
        return
    chosen = choose_sound(judged)
    shown = choose_part(chosen)
    decision = shown.decision
    reference = hearing.reference(bundle, settings)
    st.session_state.last_sound = chosen.sound
    st.session_state.example_of = (bundle.digest, settings)
    st.session_state.example = hearing.Example.of(chosen.sound.name, decision, chosen.heard, bundle)

    verdict = words.verdict(decision, reference=reference.get("doubt"), limits=known.limits, known=False)
    first_screen.answer(chosen, shown, bundle, controls, verdict)
    left, right = st.columns([3, 2], gap="large")
    with left:
        the_sound(chosen, shown)
        the_experts(shown, bundle)
    with right:
        the_answer(shown)
        the_mixture(shown, bundle, controls)
    the_uncertainty(shown, reference, known, bundle, controls)
    take_away(judged, chosen.heard, bundle)


listen()
