"""Your sounds: collecting takes of a class from the microphone, files, archives, and what Live heard."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

import streamlit as st

from dashboard.components import microphone
from dashboard.session import public
from dashboard.session.live_state import Live
from dashboard.views import uploads, widgets, words
from qmoe_core import numbers
from qmoe_core.audio import containers
from qmoe_core.datasets import takes as core
from qmoe_core.datasets.takes import Given, Takes
from qmoe_core.errors import AudioError, UserError
from qmoe_core.live import log as logs

CLASS = "takes.class"
"""Key of the class that what comes next is of."""
TAKE_S, COUNTDOWN_S = 5.0, 3.0
SAID = "takes.said"
_UPLOADS, _RECORDED = "takes.uploads", "takes.recorded"


def collect(takes: Takes, classes: Sequence[str]) -> None:
    """A class, and three ways to give sounds of it."""
    for sentence in st.session_state.pop(SAID, []):
        widgets.warning(sentence)
    st.subheader("Collect", anchor=False)
    left, right = st.columns([2, 3], gap="large")
    with left:
        st.selectbox(
            "Class of what comes next",
            list(classes),
            index=None,
            key=CLASS,
            accept_new_options=True,
            placeholder="Type a name, such as kettle",
            help="Files in a ZIP are of the class that their folder is called. Without a class, sounds wait "
            "below to be labelled.",
        )
        widgets.caption(
            f"Two classes or more; {numbers.number(core.LEAST)} takes of each are a start, from different "
            "places or days, with one class for what is none of the others."
        )
    with right:
        record, files, live = st.tabs(["Record", "Files", "From Live"])
        with record:
            st.fragment(_recorder)(takes)
        with files:
            _files(takes)
        with live:
            _from_live(takes)


def add(takes: Takes, given: Iterable[Given]) -> None:
    """Keep sounds; what is wrong with some is said on the page's next run."""
    try:
        st.session_state[SAID] = takes.add(given)
    except UserError as error:
        st.session_state[SAID] = [str(error)]


def _recorder(takes: Takes) -> None:
    """A fragment: one take after another of the chosen class."""
    label = st.session_state.get(CLASS)
    if not label:
        st.caption("Choose or type a class first.")
        return
    status, recording = microphone.clip(TAKE_S, key="takes.recorder", countdown=COUNTDOWN_S)
    for warning in recording.warnings if recording else status.warnings:
        widgets.warning(warning)
    widgets.caption(
        f"Each press records one take of “{label}”: {TAKE_S:g} s, after a countdown of {COUNTDOWN_S:g}."
    )
    if recording is not None and recording.name != st.session_state.get(_RECORDED):
        st.session_state[_RECORDED] = recording.name
        add(takes, [Given(recording.wav, recording.name, label)])
        st.rerun()


def _files(takes: Takes) -> None:
    count = st.session_state.setdefault(_UPLOADS, 0)
    given = st.file_uploader(
        "Recordings, or a ZIP with a folder a class",
        type=["zip", *sorted(suffix[1:] for suffix in containers.SUFFIXES)],
        accept_multiple_files=True,
        key=f"{_UPLOADS}:{count}",
    )
    st.caption(
        "They stay on the machine that runs this lab until you delete them."
        if public.LIMITS is None
        else "They are yours alone, and are removed when you leave."
    )
    if given:
        with st.spinner("Reading the recordings …"):
            add(takes, list(_unpacked(given, st.session_state.get(CLASS) or "")))
        st.session_state[_UPLOADS] = count + 1  # the widget is another one then, and empty
        st.rerun()


def _unpacked(files: Sequence[Any], label: str) -> Iterable[Given]:
    """What is in files and archives; the folder that a recording lies in names its class."""
    for file in files:
        if not file.name.lower().endswith(".zip"):
            yield Given(file.getvalue(), file.name, label)
            continue
        try:
            for name, data in uploads.recordings(file, uploads.MOST_FILES):
                yield Given(data, PurePosixPath(name).name, PurePosixPath(name).parent.name or label)
        except AudioError as error:
            widgets.warning(error)


def _from_live(takes: Takes) -> None:
    """What Live logged: the detections that were marked right, and others to be labelled here."""
    live: Live | None = st.session_state.get("live")
    entries = [] if live is None else [entry for entry in live.log.entries() if live.log.sound(entry.id)]
    if live is None or not entries:
        st.caption("Nothing is in Live’s log yet.")
        st.page_link(widgets.PAGES / "live.py", label="Open Live")
        return
    right = [entry for entry in entries if entry.mark == "right"]
    others = [entry for entry in entries if entry.mark != "right"]

    def given(chosen: Sequence[logs.LoggedDetection], labelled: bool) -> list[Given]:
        return [
            Given(
                live.log.sound(entry.id) or b"",
                logs.sound_name(entry).rpartition("/")[2],
                words.readable(entry.label) if labelled else "",
                # What was heard within a minute is one recording.
                f"Live {logs.day(entry.start)} {logs.clock(entry.start)[:5]}",
            )
            for entry in chosen
        ]

    with st.container(horizontal=True):
        for title, chosen, labelled in (
            (f"Add {len(right)} marked right", right, True),
            (f"Add {len(others)} others, to be labelled", others, False),
        ):
            if st.button(title, disabled=not chosen):
                add(takes, given(chosen, labelled))
                st.rerun()
    st.caption("Those marked right on Live keep the class that was detected.")
