"""Listen: record, upload or pick a sound, and see what every expert makes of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import streamlit as st

from dashboard.charts import decision as charts
from dashboard.charts import palette
from dashboard.components import microphone
from dashboard.session import hearing, linked, public, state, switch
from dashboard.session.hearing import Heard, Sound
from dashboard.session.state import Controls
from dashboard.views import export, widgets, words
from qmoe_core.audio import containers, synth
from qmoe_core.audio.decode import WINDOW_S
from qmoe_core.bundles import Bundle
from qmoe_core.decision import Classification, Decision
from qmoe_core.errors import UserError

AWAITED = "The answer appears here, with what each expert says and how uncertain they are."
LONGEST_RECORDING_S = 60.0
ZOOM_ABOVE_S = 60.0  # of a longer recording, the spectrogram shows the minute around the chosen window


@dataclass(frozen=True)
class Judged:
    """A sound with what was heard in it and made of it."""

    sound: Sound
    heard: Heard
    result: Classification
    plain: Classification  # the same without curiosity


@dataclass(frozen=True)
class Shown:
    """The part of a recording that the page is about: the whole, or one of its windows."""

    decision: Decision
    plain: Decision
    span: tuple[float, float] | None  # of the window, in seconds; None is the whole
    basis: str  # what it was drawn from, and how many


def listen() -> None:
    """The page, from top to bottom."""
    st.title("A sound, judged by every quantized expert", anchor=False)
    bundle = switch.bundle()
    if bundle is None:
        return
    controls, problems = state.controls(bundle)
    for problem in problems:
        st.warning(widgets.plain(problem))

    sounds = choose_sounds(controls)
    if not sounds:
        st.html(f'<p class="qm-awaited">{AWAITED}</p>')
    judged = [one for sound in sounds if (one := judge(sound, bundle, controls))]
    if not judged:
        return
    chosen = choose_sound(judged)
    shown = choose_part(chosen)
    decision = shown.decision
    reference = hearing.reference(bundle, controls.settings(bundle))
    st.session_state.last_sound = chosen.sound
    st.session_state.example_of = (bundle.digest, controls.settings(bundle))
    st.session_state.example = hearing.Example(chosen.sound.name, decision, chosen.heard.spectrogram.shape)

    verdict = words.verdict(
        decision, reference=reference.get("epistemic"), abstain=controls.abstain, limit=controls.limit
    )
    colour = palette.class_colour(decision.classes, decision.label)
    widgets.verdict_block(verdict, colour, chosen.result.notes)
    left, right = st.columns([3, 2], gap="large")
    with left:
        the_sound(chosen, shown)
        the_experts(shown, bundle)
    with right:
        the_answer(shown)
        the_mixture(shown, bundle, controls)
    the_uncertainty(shown, reference, bundle, controls)
    take_away(judged, chosen.heard, bundle)


def choose_sounds(controls: Controls) -> list[Sound]:
    """Gallery, microphone or files: the sounds to judge."""
    memory = st.session_state
    if linked.entered("listen"):
        memory.first_source = memory.get("chosen_source", "Gallery")
    names = ["Gallery", "Record", "Upload"]
    gallery, record, upload = st.tabs(names, default=memory.first_source, key="source", on_change="rerun")
    with gallery:
        st.pills(
            "Sounds synthesised by this project",
            list(synth.GALLERY),
            key="sound",
            required=True,
            wrap=True,
            format_func=lambda name: synth.GALLERY[name].title,
            help="Made by arithmetic, not recorded. The experts learned from recordings, and may be wrong.",
        )
        st.caption(widgets.plain(synth.GALLERY[controls.sound].description))
    with record:
        st.fragment(recorder)()
    with upload:
        files = uploaded()
    source = memory.chosen_source = memory.source
    if source == "Record":
        recording = st.session_state.get("recording")
        return [hearing.from_recording(recording)] if recording else []
    if source == "Upload":
        return [hearing.from_upload(file) for file in files]
    return [hearing.from_gallery(controls.sound)]


def uploaded() -> Sequence[Any]:
    """The files that were given; of visitors, so many at once."""
    longest = "an hour" if public.LIMITS is None else f"{public.LIMITS.duration_s / 60:g} minutes"
    files = st.file_uploader(
        f"WAV, FLAC, Ogg, MP3, or what phones record (M4A, WebM, …); any length up to {longest}",
        type=sorted(suffix[1:] for suffix in containers.SUFFIXES),
        accept_multiple_files=True,
        key="files",
    )
    most = len(files) if public.LIMITS is None else public.LIMITS.files
    if len(files) > most:
        st.warning(
            f"The first {words.number(most)} of {len(files)} files are judged: this lab is open to the "
            "public, and takes no more at once."
        )
    st.caption("Files stay in memory while this page is open, and go with it; nothing of them is kept.")
    return files[:most]


def recorder() -> None:
    """A fragment: what the microphone tells while it records draws nothing else anew."""
    longest_s = LONGEST_RECORDING_S if public.LIMITS is None else public.LIMITS.recording_s
    status, recording = microphone.clip(longest_s)
    for warning in recording.warnings if recording else status.warnings:
        st.warning(widgets.plain(warning))
    in_use = status.in_use
    if status.state == "unsupported":
        in_use = (
            "This browser cannot give sound unfiltered, so this is its own recorder: it filters for speech."
        )
    st.caption(
        widgets.plain(
            f"{in_use} Five seconds are enough; after {longest_s:g} s it stops by itself. What is "
            "recorded is judged on the machine that runs this lab, stays in its memory while this page is "
            "open, and goes nowhere else."
        )
    )
    if recording is not None and recording != st.session_state.get("recording"):
        st.session_state.recording = recording
        st.rerun()


def judge(sound: Sound, bundle: Bundle, controls: Controls) -> Judged | None:
    """A sound with its result; a sentence in a box when it cannot be judged."""
    settings = controls.settings(bundle)
    try:
        with st.spinner(f"Listening to {widgets.plain(sound.name)} …", show_time=True):
            heard = hearing.hear(sound, bundle)
            result = hearing.judge(sound, heard, bundle, settings)
            plain = hearing.judge(sound, heard, bundle, replace(settings, curiosity="none"))
    except UserError as error:
        st.error(widgets.plain(str(error)))
        return None
    return Judged(sound, heard, result, plain)


def choose_sound(judged: Sequence[Judged]) -> Judged:
    """One of several files: their answers as a list to choose from."""
    if len(judged) == 1:
        return judged[0]

    def line(index: int) -> str:
        whole = judged[index].result.whole
        answer = f"{words.readable(whole.label)}, {words.percent(whole.probability)}"
        return f"{widgets.plain(judged[index].sound.name)}: **{widgets.plain(answer)}**"

    many = len(judged) > 7
    with st.container(height=260 if many else "content", border=many):
        title = f"{words.capital(words.number(len(judged)))} files"
        return judged[st.radio(title, range(len(judged)), format_func=line)]


def choose_part(judged: Judged) -> Shown:
    """The whole of a recording, or one of its windows from a slider under a strip of all of them."""
    result, plain = judged.result, judged.plain
    n = len(result.windows)
    if n == 1:
        return Shown(result.whole, plain.whole, None, "n = 1 clip")
    names = ["whole", *(words.clock(w.start_s, w.end_s) for w in result.windows)]
    chosen = st.select_slider(
        f"Part of the recording: {n:,} windows of {WINDOW_S:g} s",
        range(n + 1),
        format_func=names.__getitem__,
        key=f"window:{judged.sound.key}",
    )
    index = chosen - 1 if chosen else None
    changes = [label for label, _ in groupby(words.readable(window.label) for window in result.windows)]
    answers = f"{', '.join(changes[:12])}{' …' if len(changes) > 12 else ''}"
    widgets.figure(
        charts.windows(result.windows, index, widgets.theme()), alt=f"The answers in time: {answers}."
    )
    st.caption(
        widgets.plain(
            f"The answer to each window, as high as its probability; n = {n:,} windows. In order: {answers}."
        )
    )
    if index is None:
        return Shown(result.whole, plain.whole, None, f"n = 1 recording, the mean of its {n:,} windows")
    window = result.windows[index]
    return Shown(
        window,
        plain.windows[index],
        (window.start_s, window.end_s),
        f"n = 1 window of {n:,}, {names[chosen]}",
    )


def the_sound(judged: Judged, shown: Shown) -> None:
    """Player, waveform and spectrogram."""
    theme, sound, result = widgets.theme(), judged.sound, judged.result
    st.subheader("What was heard", anchor=False)
    if shown.span is None:
        st.audio(sound.playable)
    else:
        st.audio(sound.playable, start_time=shown.span[0], end_time=shown.span[1])
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
    st.caption(
        widgets.plain(
            f"{sound.name}, {sound.origin}: {duration:.1f} s, {result.sample_rate_hz:,} Hz, {channels}. "
            "Log-mel: window 2,048, hop 512, 128 HTK bands (Eq. 1)."
        )
    )


def the_experts(shown: Shown, bundle: Bundle) -> None:
    """Experts × classes."""
    st.subheader("What each expert says", anchor=False)
    experts = shown.decision.experts
    said = (
        f"{e.name}: {words.readable(e.label)} {words.percent(float(e.probabilities.max()))}." for e in experts
    )
    widgets.figure(
        charts.opinions(shown.decision, widgets.theme()),
        alt=f"Probability of each class by expert. {' '.join(said)}",
    )
    st.caption(
        widgets.plain(
            "Per cent. Bold: in the mixture, over which q̄ is the mean; ● answers. "
            f"{shown.basis}, {len(experts)} experts; {widgets.how(bundle)}, then refitted on all clips."
        )
    )


def the_answer(shown: Shown) -> None:
    """The likeliest classes."""
    decision = shown.decision
    st.subheader("The five likeliest", anchor=False)
    likeliest = np.argsort(decision.probabilities)[::-1][:5]
    shares = [(words.readable(decision.classes[i]), float(decision.probabilities[i])) for i in likeliest]
    said = words.listed(f"{label} {words.percent(share)}" for label, share in shares)
    widgets.figure(charts.likeliest(decision, widgets.theme()), alt=f"Likeliest classes: {said}.")
    st.caption(widgets.plain(f"The mixture’s probabilities; {shown.basis}."))


def the_mixture(shown: Shown, bundle: Bundle, controls: Controls) -> None:
    """Controls, and the routing that they make."""
    decision = shown.decision
    st.subheader("Who answers", anchor=False)
    widgets.mixture_controls(bundle, controls)
    st.markdown(f"**{widgets.plain(words.curiosity(decision, shown.plain))}**")
    routed = (
        f"{e.name} {words.percent(e.router_probability)} before, {words.percent(e.routing_probability)} after"
        for e in decision.experts
        if e.in_mixture
    )
    widgets.figure(charts.routing(decision, widgets.theme()), alt=f"Routing: {'; '.join(routed)}.")
    rewarded = words.REWARDED.get(decision.curiosity)
    bonus = f"exp(α · {rewarded})" if rewarded else "1"
    st.caption(
        widgets.plain(
            "Filled: after curiosity; outlined: the router alone; ● answers, with its share. "
            f"Bonus = {bonus}. {shown.basis}; {decision.mc_samples} MC-dropout passes."
        )
    )


def the_uncertainty(
    shown: Shown, reference: Mapping[str, np.ndarray], bundle: Bundle, controls: Controls
) -> None:
    """How sure, measured in five ways, and when not to answer."""
    st.subheader("How uncertain", anchor=False)
    left, right = st.columns([3, 2], gap="large")
    with left:
        widgets.uncertainties(shown.decision, reference, controls)
    with right:
        widgets.abstain_controls(controls)
        if effect := widgets.refusals(controls, reference):
            st.caption(widgets.plain(effect))
        if reference:
            st.caption(
                widgets.plain(
                    "Each line is the default set from its least to its most uncertain clip, with the values "
                    "that 50 and 90 % of them stay below; the dot is this sound. "
                    f"n = {len(reference['epistemic']):,} clips, judged out of fold by the same mixture; "
                    f"{widgets.how(bundle)}."
                )
            )


def take_away(judged: Sequence[Judged], heard: Heard, bundle: Bundle) -> None:
    """Downloads, and how the result was got."""
    results = [one.result for one in judged]
    st.subheader("Take it away", anchor=False)
    with st.container(horizontal=True):
        st.download_button(
            "JSON", lambda: export.as_json(results), "qmoe.json", "application/json", on_click="ignore"
        )
        st.download_button("CSV", lambda: export.as_csv(results), "qmoe.csv", "text/csv", on_click="ignore")
        for sound in (one.sound for one in judged if one.sound.origin == hearing.RECORDED):
            st.download_button("The recording", sound.playable, sound.name, "audio/wav", on_click="ignore")
    whole = words.seconds(heard.decode_s + heard.observe_s)
    st.caption(
        widgets.plain(
            f"The address of this page restores the controls. Heard in {whole} (decoding "
            f"{words.seconds(heard.decode_s)}; embedding, experts and router "
            f"{words.seconds(heard.observe_s)}), once, on {os.cpu_count()} cores: an impression, not a "
            f"benchmark. "
            f"{words.capital(widgets.how(bundle))}."
        )
    )


listen()
