"""Listen: the player, the experts' answers, the routing, the uncertainties and the downloads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
import streamlit as st

from dashboard.charts import decision as charts
from dashboard.session import hearing
from dashboard.session.hearing import Heard, Trust
from dashboard.session.state import Controls
from dashboard.views import export, widgets, words
from dashboard.views.listen_input import (
    Judged,
    Shown,
)
from qmoe_core import numbers
from qmoe_core.bundles import Bundle

ZOOM_ABOVE_S = 60.0  # of a longer recording, the spectrogram shows the minute around the chosen window


def the_sound(judged: Judged, shown: Shown) -> None:
    """Waveform and spectrogram."""
    theme, sound, result = widgets.theme(), judged.sound, judged.result
    st.subheader("The recording", anchor=False)
    duration = result.duration_s
    widgets.figure(
        charts.waveform(judged.heard.envelope, duration, theme, shown.span),
        alt=f"Waveform of {sound.name}, {duration:.1f} seconds.",
    )
    levels, start = judged.heard.spectrogram, 0.0
    if duration > ZOOM_ABOVE_S and shown.span is not None:
        middle = (shown.span[0] + shown.span[1]) / 2
        start = max(0.0, min(middle - ZOOM_ABOVE_S / 2, duration - ZOOM_ABOVE_S))
        first, last = (round(second / charts.frames_span(1)) for second in (start, start + ZOOM_ABOVE_S))
        levels = levels[:, first:last]
    end = start + charts.frames_span(levels.shape[1])
    widgets.figure(
        charts.spectrogram(levels, (start, end), theme, shown.span),
        alt=f"Log-mel spectrogram of {sound.name}: time in seconds, frequency in hertz on a mel scale.",
    )
    channels = "mono" if judged.heard.channels == 1 else f"{judged.heard.channels} channels"
    widgets.caption(
        f"{sound.name}, {sound.origin}: {duration:.1f} s, {result.sample_rate_hz:,} Hz, {channels}. "
        "Log-mel: window 2,048, hop 512, 128 HTK bands (Eq. 1)."
    )


def the_experts(shown: Shown, bundle: Bundle) -> None:
    """Experts × classes."""
    st.subheader("Class probabilities of each expert", anchor=False)
    experts = shown.decision.experts
    said = (
        f"{e.name}: {words.readable(e.label)} {numbers.percent(float(e.probabilities.max()))}."
        for e in experts
    )
    widgets.figure(
        charts.opinions(shown.decision, widgets.theme()),
        alt=f"Probability of each class by expert. {' '.join(said)}",
    )
    widgets.caption(
        "Per cent. Bold: in the mixture, over which q̄ is the mean; ● answers. "
        f"{shown.basis}, {len(experts)} experts; {widgets.how(bundle)}, then refitted on all clips."
    )


def the_answer(shown: Shown) -> None:
    """The likeliest classes."""
    decision = shown.decision
    st.subheader("The five most probable classes", anchor=False)
    likeliest = np.argsort(decision.probabilities)[::-1][:5]
    shares = [(words.readable(decision.classes[i]), float(decision.probabilities[i])) for i in likeliest]
    said = numbers.listed(f"{label} {numbers.percent(share)}" for label, share in shares)
    widgets.figure(charts.likeliest(decision, widgets.theme()), alt=f"Most probable classes: {said}.")
    widgets.caption(f"The mixture’s probabilities; {shown.basis}.")


def the_mixture(shown: Shown, bundle: Bundle, controls: Controls) -> None:
    """Controls, and the routing that they make."""
    decision = shown.decision
    st.subheader("Who answers", anchor=False)
    widgets.mixture_controls(bundle, controls, alpha=False)
    st.markdown(f"**{widgets.plain(words.curiosity(decision, shown.plain))}**")
    routed = (
        f"{e.name} {numbers.percent(e.router_probability)} before, {numbers.percent(e.routing_probability)} "
        f"after"
        for e in decision.experts
        if e.in_mixture
    )
    widgets.figure(charts.routing(decision, widgets.theme()), alt=f"Routing: {'; '.join(routed)}.")
    rewarded = words.REWARDED.get(decision.curiosity)
    bonus = f"exp(α · {rewarded})" if rewarded else "1"
    widgets.caption(
        "Filled: after curiosity; outlined: the router alone; ● answers, with its share. "
        f"Bonus = {bonus}. {shown.basis}; {decision.mc_samples} MC-dropout passes."
    )


def the_uncertainty(
    shown: Shown, reference: Mapping[str, np.ndarray], known: Trust, bundle: Bundle, controls: Controls
) -> None:
    """How sure, measured in six ways, and when not to answer."""
    st.subheader("How uncertain", anchor=False)
    left, right = st.columns([3, 2], gap="large")
    with left:
        widgets.uncertainties(shown.decision, reference, known.limits, known.finds)
    with right:
        widgets.promise_controls(controls)
        widgets.caption(words.knows(bundle.classes))
        if kept := widgets.promise_kept(known.kept):
            widgets.caption(kept)
        if reference:
            widgets.caption(
                "Each line is the default set from its least to its most uncertain clip, with the values "
                "that 50 and 90 % of them stay below; the dot is this sound. AUROC = P(uncertainty of "
                "an error > of a right answer), with its 95 % interval over recordings; 0.5 is chance. "
                f"n = {len(reference['doubt']):,} clips, judged out of fold by the same mixture; "
                f"{widgets.how(bundle)}."
            )


def take_away(judged: Sequence[Judged], heard: Heard, bundle: Bundle) -> None:
    """Downloads, and how the result was got."""
    results = [one.result for one in judged]
    st.subheader("Download", anchor=False)
    with st.container(horizontal=True):
        st.download_button(
            "JSON", lambda: export.as_json(results), "qmoe.json", "application/json", on_click="ignore"
        )
        st.download_button("CSV", lambda: export.as_csv(results), "qmoe.csv", "text/csv", on_click="ignore")
        for sound in (one.sound for one in judged if one.sound.origin == hearing.RECORDED):
            st.download_button("The recording", sound.playable, sound.name, "audio/wav", on_click="ignore")
    whole = numbers.seconds(heard.decode_s + heard.observe_s)
    widgets.caption(
        f"The address of this page restores the controls. Heard in {whole} (decoding "
        f"{numbers.seconds(heard.decode_s)}; embedding, router and all experts, which this page shows, "
        f"{numbers.seconds(heard.observe_s)}), once, on {os.cpu_count()} cores: an impression, not a "
        f"benchmark. {words.capital(widgets.how(bundle))}."
    )
