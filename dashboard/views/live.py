"""Live: the microphone, what makes a detection, and what is recognized now."""

from __future__ import annotations

from html import escape

import numpy as np
import pandas as pd
import streamlit as st

from dashboard.charts import live as live_charts
from dashboard.charts import palette
from dashboard.components import microphone
from dashboard.session import linked, live_state, public
from dashboard.session.live_state import Live
from dashboard.session.state import Controls
from dashboard.views import widgets, words
from qmoe_core import numbers
from qmoe_core.audio.decode import WINDOW_S
from qmoe_core.audio.fitness import MIN_BANDWIDTH_HZ
from qmoe_core.bundles import Bundle
from qmoe_core.errors import UserError
from qmoe_core.evaluation.conformal import Limits
from qmoe_core.live import log as logs
from qmoe_core.live import sources
from qmoe_core.live.detections import CLIPPING, GAP, NARROW, SILENCE, Rules
from qmoe_core.live.pipeline import LiveView

DRAWN_EVERY_S = 0.25
STALLED_EVERY_S = 2.0
"""Where every packet is drawn, the page still looks when none comes."""
ANSWERED_WITHIN_S = 0.1
"""How long a packet that was just handed in is given to be judged, before it is drawn."""
RATES = (None, 48_000, 44_100, 22_050, 16_000)
INVITATION = (
    "Start, and the microphone’s sound is classified four times a second, on the machine that runs this lab; "
    "it goes nowhere else. Detections are logged below, in memory, to play, to mark and to download."
)
UNHEARD = {
    GAP: "Some of the last five seconds did not arrive.",
    SILENCE: "It is silent.",
    CLIPPING: "It is too loud: the microphone clips.",
    NARROW: f"Its band is too narrow: below {MIN_BANDWIDTH_HZ / 1000:g} kHz nothing is accepted.",
}
BROWSER, HOST = "This browser", "The machine that runs the lab"


def the_microphone(listening: Live, bundle: Bundle) -> None:
    """The browser's microphone, or one of the machine that runs the lab, and what is heard there."""
    if public.LIMITS is not None:
        st.caption(public.MICROPHONE)
        source = BROWSER
    else:
        source = st.segmented_control(
            "Microphone of", [BROWSER, HOST], key=linked.keep("live_source", BROWSER), required=True
        )
    if source == BROWSER:
        every = STALLED_EVERY_S if listening.running else None
        st.fragment(browser_microphone, run_every=every)(listening, bundle)
    else:
        host_microphone(listening)
        every = DRAWN_EVERY_S if listening.running else None
        st.fragment(the_picture, run_every=every)(listening, bundle)


def browser_microphone(listening: Live, bundle: Bundle) -> None:
    """A fragment: every packet of sound, four a second, runs this and nothing else, and is drawn by it."""
    status = microphone.listen(listening.browser, key="live_microphone", received=listening.received)
    for warning in status.warnings:
        widgets.warning(warning)
    if status.in_use:
        widgets.caption(status.in_use)
    if listening.running:
        listening.pipeline.settle(ANSWERED_WITHIN_S)
    the_picture(listening, bundle)


def host_microphone(listening: Live) -> None:
    """Device, rate, start and stop."""

    def seen(status: microphone.Status) -> None:
        listening.hidden = status.hidden

    microphone.presence(key="live_presence", seen=seen)
    try:
        found = sources.devices()
    except UserError as error:
        st.info(widgets.plain(str(error)))
        return
    if not found:
        st.info(
            "The machine that runs the lab has no microphone; plug one in and reload, or use the browser’s."
        )
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        names = [device.name for device in found]
        preferred = next((i for i, device in enumerate(found) if device.default), 0)
        name = st.selectbox("Device", names, key=linked.keep("live_device", names[preferred], names))
        rate = st.selectbox("Sample rate", RATES, key=linked.keep("live_rate", None), format_func=_rate)
        on = listening.running and isinstance(listening.pipeline.source, sources.HostSource)
        st.button(
            "Stop" if on else "Start",
            key="live_host",
            on_click=_toggle,
            args=(listening, name, rate),
        )
    if on and (sentence := listening.pipeline.source.state.sentence):
        widgets.warning(sentence)


def _toggle(listening: Live, device: str, rate: int | None) -> None:
    if listening.running and isinstance(listening.pipeline.source, sources.HostSource):
        listening.stop()
    else:
        listening.start_host(device, rate)


def _rate(rate: int | None) -> str:
    return "the device’s own" if rate is None else f"{rate:,} Hz"


def chosen_rules(bundle: Bundle, limits: Limits | None) -> Rules:
    """Rules as the widgets say; drawn by `the_rules` further down."""
    chosen = st.session_state
    threshold = chosen[linked.keep("live_threshold", Rules().threshold)]
    edited = chosen.get("live_thresholds", {}).get("edited_rows", {})
    if linked.entered("live"):  # the table begins anew with every visit of the page
        chosen.live_before = chosen.get("live_own", {})
    own = chosen.get("live_before", {}) | {
        bundle.classes[int(row)]: change["threshold"]
        for row, change in edited.items()
        if int(row) < len(bundle.classes) and change.get("threshold") is not None
    }
    chosen.live_own = own
    return live_state.rules_of(threshold, own, limits)


def the_rules(bundle: Bundle, controls: Controls) -> None:
    """Thresholds, and what answers promise."""
    st.subheader("What counts as a detection", anchor=False)
    st.slider("Probability of at least", 0.0, 1.0, step=0.05, key="live_threshold")
    with st.expander("Another threshold for some classes"):
        before = st.session_state.get("live_before", {})
        thresholds = [before.get(name, np.nan) for name in bundle.classes]
        table = pd.DataFrame({"class": [words.readable(c) for c in bundle.classes], "threshold": thresholds})
        st.data_editor(
            table,
            key="live_thresholds",
            hide_index=True,
            disabled=["class"],
            column_config={
                "threshold": st.column_config.NumberColumn(
                    min_value=0.0, max_value=1.0, step=0.05, format="%.2f"
                )
            },
        )
    widgets.promise_controls(controls)
    widgets.caption(words.knows(bundle.classes))


def the_picture(listening: Live, bundle: Bundle) -> None:
    """What is heard now; drawn four times a second."""
    listening.seen()
    if listening.problem:
        widgets.error(listening.problem)
    view = listening.pipeline.view()
    if listening.running != listening.shown_running:
        st.rerun()  # stopped by itself: nobody looked, or an error
    if listening.session.failure:
        widgets.error(listening.session.failure)
    if view.state.condition == "failed" and view.state.sentence:
        widgets.error(view.state.sentence)
    limits = listening.pipeline.rules.limits
    now(view, bundle, listening.running)
    live_charts.draw(view, bundle, limits and limits.doubt, widgets.theme(), key="live_picture")


def now(view: LiveView, bundle: Bundle, running: bool) -> None:
    """What is recognized now, in large letters."""
    current = view.current
    kind, colour = "qm-plain", "transparent"
    if current is None or not view.windows:
        headline, sentence = "Ready", INVITATION
        if running:
            headline = f"{min(view.heard_s, WINDOW_S):.1f} of {WINDOW_S:g} s"
            sentence = "The first answer comes when there are five seconds to judge."
        elif view.stream:
            headline, sentence = "Stopped", "Below are the last sounds."
    elif current.reason:
        guess = f"{words.readable(current.label)}, {numbers.percent(current.probability)}"
        sentence = UNHEARD.get(current.reason, f"The best guess is {guess}: {current.reason}.")
        kind, headline = "qm-refused", "No answer"
    else:
        headline = f"{words.capital(words.readable(current.label))}, {numbers.percent(current.probability)}"
        sentence = f"For {current.end_s - current.start_s:.0f} s; {current.expert} answers."
        if len(current.prediction_set) != 1 and view.windows:
            others = numbers.listed(map(words.readable, current.prediction_set)) or "no sound that it knows"
            sentence += f" Prediction set: {others}."
        kind, colour = "", palette.class_colour(bundle.classes, current.label)
    # When the newest window ended, for those who measure how long sound takes to the screen.
    newest = view.windows[-1] if view.windows else None
    end = f"{1000 * (newest.day + newest.end_s):.0f}" if newest else ""
    st.html(
        f'<section class="qm-verdict qm-live {kind}" data-end="{end}" data-windows="{view.judged}" '
        f'style="--qm-class:{colour}"><h2>{escape(headline)}</h2><p>{escape(sentence)}</p></section>'
    )


def health(listening: Live) -> None:
    """A fragment: how judging keeps up, and what happened to the sound."""
    view = listening.pipeline.view()
    if not view.stream:
        return
    st.subheader("Processing time", anchor=False)
    if len(view.judge_s):
        st.html(live_charts.latency(view.judge_s))
    st.markdown(
        f"{numbers.counted(view.judged, 'window')} judged, {view.stale:,} left out. {view.lost_s:.2f} s of "
        f"sound lost in {numbers.counted(view.gaps, 'gap')}; {numbers.counted(view.overflows, 'overflow')}."
    )
    for note in view.notes[-3:]:
        widgets.caption(f"{logs.clock(note.at)}: {note.text}")
