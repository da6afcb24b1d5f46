"""Listen's first screen: the question, the sound, a tile for each format, and the slider that may turn it."""

from __future__ import annotations

from dataclasses import replace
from html import escape

import streamlit as st

from dashboard.charts import palette
from dashboard.session import hearing, measured, state
from dashboard.session.state import Controls
from dashboard.views import paths, widgets, words
from dashboard.views.listen_input import Judged, Shown
from dashboard.views.words import Verdict
from qmoe_core import numbers
from qmoe_core.bundles import Bundle
from qmoe_core.measure import machines


def question(bundle: Bundle) -> None:
    """What this is about, and which sounds are known."""
    st.title("Who is right, and do they know?", anchor=False)
    st.markdown(
        f"One sound, {numbers.number(len(bundle.experts))} models from 32 bits a weight to 1. "
        f"{widgets.plain(words.knows(bundle.classes))}"
    )


def answer(judged: Judged, shown: Shown, bundle: Bundle, controls: Controls, verdict: Verdict) -> None:
    """All that is seen without scrolling: the sound to play, the slider, the verdict, and a tile a format."""
    decision = shown.decision
    with st.container(key="qm-first", gap="small"):
        left, right = st.columns([2, 3], gap="large")
        with left:
            player(judged, shown)
            slider(judged, shown, bundle, controls)
        with right.container(key="qm-said"):
            colour = palette.class_colour(decision.classes, decision.label)
            widgets.verdict_block(verdict, colour, judged.result.notes)
        with st.container(key="qm-tiles", gap="small"):
            tiles(shown, bundle)
        further()


def player(judged: Judged, shown: Shown) -> None:
    """The sound, or the part of it that is shown, to be played."""
    span = shown.span or (0, None)
    st.audio(judged.sound.playable, start_time=span[0], end_time=span[1])


def tiles(shown: Shown, bundle: Bundle) -> None:
    """Each expert's answer, its size, and its time from waveform to answer."""
    kept = measured.latest("path", bundle)
    report = kept.report if kept else machines.reference()
    times = dict(paths.times(bundle, report) or paths.times(bundle, machines.reference()))
    decision = shown.decision
    made = []
    for expert in decision.experts:
        colour = palette.class_colour(decision.classes, expert.label)
        size = bundle.manifest.files[f"experts/{expert.name}.safetensors"].bytes
        time = f"{times[expert.name].us / 1e3:.2f} ms" if expert.name in times else "not timed"
        answer = f"{words.readable(expert.label)}, {numbers.percent(float(expert.probabilities.max()))}"
        other = "" if expert.label == decision.label else " qm-other"
        made.append(
            f'<li class="qm-tile{other}" style="--qm-class:{colour}"><b>{escape(expert.name)}</b>'
            f"<span>{escape(answer)}</span><small>{numbers.amount('bytes', size)}<br>{time}</small></li>"
        )
    st.html(f'<ul class="qm-tiles" aria-label="Answers of the formats">{"".join(made)}</ul>')
    whose = "here" if kept and report is kept.report and times else "on the reference machine"
    widgets.caption(
        f"Answer and its probability; size of the head; time from waveform to answer, {whose}. Dashed: "
        f"not the mixture’s answer. {shown.basis}."
    )


def slider(judged: Judged, shown: Shown, bundle: Bundle, controls: Controls) -> None:
    """α, and where on it the answer turns into another."""
    widgets.alpha_slider(controls)
    if len(judged.result.windows) > 1 or controls.curiosity in ("none", "cascade"):
        return
    settings = controls.settings(bundle)
    for alpha in sorted(state.ALPHAS, key=lambda a: abs(state.ALPHAS.index(a) - _place(controls.alpha))):
        other = hearing.judge(judged.sound, judged.heard, bundle, replace(settings, alpha=alpha)).whole
        if other.label != shown.decision.label:
            widgets.caption(f"At α = {alpha:g} the answer is {words.readable(other.label)}.")
            return
    widgets.caption("No α changes the answer for this sound.")


def _place(alpha: float) -> int:
    return sum(stop < alpha for stop in state.ALPHAS)


def further() -> None:
    """Ways on: one’s own sound, or a format for a device."""
    with st.container(horizontal=True, vertical_alignment="center"):
        for source, label, icon in (
            ("Record", "Use your microphone", ":material/mic:"),
            ("Upload", "Upload a recording", ":material/upload:"),
        ):
            st.button(label, icon=icon, on_click=lambda source=source: _open(source))
        st.page_link(widgets.PAGES / "formats.py", label="Choose a format", icon=":material/memory:")


def _open(source: str) -> None:
    st.session_state.source = source
