"""What stands above every page: the pages behind its door, the bundle, α, jobs, and the page's address."""

from __future__ import annotations

import time

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from dashboard.components import copy_link
from dashboard.session import public, state, switch
from dashboard.views import glossary, job_panel, widgets
from qmoe_core import numbers
from qmoe_core.errors import UserError
from qmoe_core.runtime import jobs
from qmoe_core.runtime.jobs import Job

DOORS = {
    "Listen": (("listen.py", "Listen"), ("live.py", "Live")),
    "Curiosity": (("sweep.py", "Sweep"), ("compare.py", "Compare")),
    "Formats": (("formats.py", "Formats"), ("efficiency.py", "Efficiency")),
    "Your sounds": (("sounds.py", "Your sounds"), ("train.py", "Train"), ("dataset.py", "Dataset")),
    "The paper": (("method.py", "Method"), ("claims.py", "Claims")),
}
"""The menu, by question; behind each door its pages, of which the first opens."""
MIXING = frozenset({"listen.py", "live.py", "method.py"})
"""Pages that α changes, and whose address carries it; Sweep has a slider of its own for it."""
SWEEP = "sweep.py"
_ALPHA = "bar.alpha"
SHOWN_JOBS = 5
POLL_S = 1.0


def menu() -> dict[str, StreamlitPage]:
    """All pages by file: doors are in the menu, the others behind them; addresses stay as they were."""
    found = {}
    for door, inside in DOORS.items():
        for place, (file, title) in enumerate(inside):
            home = not found
            found[file] = st.Page(
                widgets.PAGES / file,
                title=title if place else door,
                url_path="home" if home else file.removesuffix(".py"),
                default=home,
                visibility="hidden" if place else "visible",
            )
    return found


def bar(file: str) -> None:
    """Draw it.

    Args:
        file: of the page below.
    """
    inside = next(pages for pages in DOORS.values() if file in dict(pages))
    _mark(inside[0][0])
    with st.container(horizontal=True, vertical_alignment="center", key="qm-bar", gap="small"):
        with st.container(horizontal=True, key="qm-behind", gap="small"):
            for other, title in inside:
                st.page_link(widgets.PAGES / other, label=title)
        switch.select()
        if file != SWEEP:
            _alpha(file in MIXING)
        st.fragment(tray, run_every=POLL_S if _active() else None)()
        with st.popover("Words", icon=":material/menu_book:", key="qm-words", width="content"):
            st.markdown(glossary.markdown())
        copy_link.button(public.LIMITS is not None)


def _mark(file: str) -> None:
    """Show in the menu behind which door the page is; Streamlit knows it of the door's first page only."""
    path = "" if file == "listen.py" else file.removesuffix(".py")
    st.html(
        f'<style>:is([data-testid="stTopNavLink"], [data-testid="stSidebarNavLink"])[href$="/{path}"] '
        "{ font-weight: 600; box-shadow: inset 0 -2px var(--qm-accent); }</style>"
    )


def _alpha(linked: bool) -> None:
    """Curiosity's α, the same on all pages."""
    try:
        bundle = switch.load(switch.chosen())
    except UserError:
        return
    controls = state.controls(bundle)[0] if linked else state.remembered(bundle)
    st.session_state[_ALPHA] = controls.alpha
    st.selectbox(
        "Curiosity α",
        state.stops(state.ALPHAS, controls.alpha),
        key=_ALPHA,
        format_func=lambda value: f"α = {value:g}",
        label_visibility="collapsed",
        on_change=lambda: state.set_alpha(st.session_state[_ALPHA]),
        width=120,
    )


def _active() -> list[Job]:
    return [job for job in jobs.list_jobs() if job.active]


def tray() -> None:
    """A fragment: the newest jobs, how far each is, a way to stop it and to what came of it."""
    listed = jobs.list_jobs()
    active = tuple(job.id for job in listed if job.active)
    before = st.session_state.get("tray.active", active)
    st.session_state["tray.active"] = active
    if ended := set(before) - set(active):  # the page may show what came of it
        for job in listed:
            if job.id in ended and job.state == "done":
                st.toast(f"Done: {widgets.plain(job.title)}", icon=":material/check:")
        st.rerun()
    label = f"Jobs: {numbers.number(len(active))} running" if active else "Jobs"
    with st.popover(label, key="qm-jobs", icon=":material/pending:" if active else ":material/checklist:"):
        if not listed:
            st.caption("Trainings, measurements and checks that you start are listed here.")
        for job in listed[:SHOWN_JOBS]:
            _job(job)


def _job(job: Job) -> None:
    with st.container(border=True):
        st.markdown(f"**{widgets.plain(job.title)}**")
        if job.active:
            try:
                text, share = job_panel.progress(job, time.time())
            except UserError:  # removed meanwhile
                return
            st.progress(share, text=widgets.plain(text))
            job_panel.stop_button(job, "tray")
        else:
            took = f" after {numbers.duration(job.ended - job.started)}" if job.ended and job.started else ""
            said = {"done": "Done", "cancelled": "Stopped", "failed": "Failed"}[job.state]
            widgets.caption(f"{said}{took}{f': {job.error}' if job.error else ''}.")
        file, link = job_panel.place_of(job)
        st.page_link(widgets.PAGES / file, label="Show it", query_params=link)
