"""Listen: choosing a sound (gallery, recording, upload) and the part of it that is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import streamlit as st

from dashboard.charts import decision as charts
from dashboard.components import microphone
from dashboard.session import hearing, linked, public
from dashboard.session.hearing import Heard, Sound
from dashboard.session.state import SOUNDS, Controls
from dashboard.views import uploads, widgets, words
from qmoe_core import numbers
from qmoe_core.audio import containers
from qmoe_core.audio.decode import WINDOW_S
from qmoe_core.bundles import Bundle
from qmoe_core.decision import Classification, Decision
from qmoe_core.errors import UserError
from qmoe_core.evaluation.conformal import Limits
from qmoe_core.routing.mixing import Settings

LONGEST_RECORDING_S = 60.0
MADE = "Synthesised by this project."


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
            list(SOUNDS),
            label_visibility="collapsed",
            key="sound",
            required=True,
            wrap=True,
            format_func=lambda name: SOUNDS[name].title,
        )
        widgets.caption(f"{SOUNDS[controls.sound].description} {MADE}")
    with record:
        st.fragment(recorder)()
    with upload:
        files = uploaded()
    source = memory.chosen_source = memory.source
    if source == "Record":
        recording = st.session_state.get("recording")
        return [hearing.from_recording(recording)] if recording else []
    if source == "Upload":
        return uploads.sounds(files)
    return [hearing.from_gallery(controls.sound)]


def uploaded() -> Sequence[Any]:
    """The files that were given, also before another page was looked at; of visitors, so many at once."""
    memory = st.session_state
    if linked.entered("listen.files"):  # the widget is empty again; what it held is in the session
        memory.earlier_files = [*memory.get("earlier_files", []), *memory.get("given_files", [])]
    longest = "" if public.LIMITS is None else f" up to {public.LIMITS.duration_s / 60:g} minutes"
    memory.given_files = st.file_uploader(
        f"WAV, FLAC, Ogg, MP3, what phones record (M4A, WebM, …), or a folder as ZIP; any length{longest}",
        type=["zip", *sorted(suffix[1:] for suffix in containers.SUFFIXES)],
        accept_multiple_files=True,
        key="files",
    )
    files = [*memory.earlier_files, *memory.given_files]
    if memory.earlier_files:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"Still here: {widgets.plain(numbers.listed(f.name for f in memory.earlier_files))}.")
            st.button("Remove", on_click=memory.update, args=({"earlier_files": []},))
    most = len(files) if public.LIMITS is None else public.LIMITS.files
    if len(files) > most:
        st.warning(
            f"The first {numbers.number(most)} of {len(files)} files are judged: this lab is open to the "
            "public, and takes no more at once."
        )
        memory.earlier_files = memory.earlier_files[:most]
    st.caption("Files stay in memory while this page is open, and go with it; nothing of them is kept.")
    return files[:most]


def recorder() -> None:
    """A fragment: what the microphone tells while it records draws nothing else anew."""
    longest_s = LONGEST_RECORDING_S if public.LIMITS is None else public.LIMITS.recording_s
    status, recording = microphone.clip(longest_s)
    for warning in recording.warnings if recording else status.warnings:
        widgets.warning(warning)
    in_use = status.in_use
    if status.state == "unsupported":
        in_use = (
            "This browser cannot give sound unfiltered, so this is its own recorder: it filters for speech."
        )
    widgets.caption(
        f"{in_use} Five seconds are enough; after {longest_s:g} s it stops by itself. What is "
        "recorded is judged on the machine that runs this lab, stays in its memory while this page is "
        "open, and goes nowhere else."
    )
    if recording is not None and recording != st.session_state.get("recording"):
        st.session_state.recording = recording
        st.rerun()


def judge(sound: Sound, bundle: Bundle, settings: Settings, limits: Limits | None) -> Judged | None:
    """A sound with its result; a sentence in a box when it cannot be judged."""
    try:
        with st.spinner(f"Classifying {widgets.plain(sound.name)} …", show_time=True):
            heard = hearing.hear(sound, bundle)
            result = hearing.judge(sound, heard, bundle, settings)
            plain = hearing.judge(sound, heard, bundle, replace(settings, curiosity="none"))
    except UserError as error:
        widgets.error(error)
        return None
    return Judged(sound, heard, limits.applied(result) if limits else result, plain)


def choose_sound(judged: Sequence[Judged]) -> Judged:
    """One of several files: their answers as a list to choose from."""
    if len(judged) == 1:
        return judged[0]

    def line(index: int) -> str:
        whole = judged[index].result.whole
        answer = f"{words.readable(whole.label)}, {numbers.percent(whole.probability)}"
        answer = f"no answer ({answer})" if judged[index].result.abstained else answer
        return f"{widgets.plain(judged[index].sound.name)}: **{widgets.plain(answer)}**"

    many = len(judged) > 7
    with st.container(height=260 if many else "content", border=many):
        title = f"{words.capital(numbers.number(len(judged)))} files"
        return judged[st.radio(title, range(len(judged)), format_func=line, key=uploads.OPENED)]


def choose_part(judged: Judged) -> Shown:
    """The whole of a recording, or one of its windows from a slider under a strip of all of them."""
    result, plain = judged.result, judged.plain
    n = len(result.windows)
    if n == 1:
        return Shown(result.whole, plain.whole, None, "n = 1 clip")
    names = ["whole", *(numbers.clock(w.start_s, w.end_s) for w in result.windows)]
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
    widgets.caption(
        f"The answer to each window, as high as its probability; n = {n:,} windows. In order: {answers}."
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
