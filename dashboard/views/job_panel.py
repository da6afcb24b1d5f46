"""Jobs on pages: starting one, how far it is in words, a button that stops it, and where its result is.

A job (`qmoe_core.runtime.jobs`) runs in a process of its own, one at a time, whatever becomes of the page.
The tray in the bar (`views.bar`) follows them all.
"""

from __future__ import annotations

import streamlit as st

from dashboard.session import public
from dashboard.views import widgets, words
from qmoe_core import numbers
from qmoe_core.errors import UserError
from qmoe_core.numbers import NBSP
from qmoe_core.runtime import jobs
from qmoe_core.runtime.jobs import Bench, Claims, Job, Request, Story, Train


def start(request: Request) -> None:
    """Start a job from a button of this page; what is wrong with the request is said where it is drawn."""
    try:
        job = public.submit(request)
    except UserError as error:
        widgets.error(error)
        return
    st.session_state["jobs:own"] = (*st.session_state.get("jobs:own", ()), job.id)


def watch(job: Job) -> None:
    """What stands on a page where an active job was started: the tray above has its progress."""
    widgets.caption(f"{job.title}: its progress, and a way to stop it, are under Jobs, above.")


def failed(job: Job | None) -> None:
    """Why a job that this session started ended early, and what it printed."""
    if job is None or job.state != "failed" or job.id not in st.session_state.get("jobs:own", ()):
        return
    widgets.error(f"The last run ended early: {job.error}")
    if log := job.log():
        with st.expander("What it printed"):
            st.code(log, language=None)


def place_of(job: Job) -> tuple[str, dict[str, str]]:
    """The page that shows what came of a job: its file, and a link's parameters."""
    if isinstance(job.request, Claims):
        return "claims.py", {}
    if isinstance(job.request, Bench):
        return "efficiency.py", {"view": job.request.measure} if job.request.measure != "size" else {}
    if isinstance(job.request, Train) and job.request.dataset == str(public.takes().root.resolve()):
        return "sounds.py", {}
    return "train.py", {"job": job.id}


def stop_button(job: Job, place: str = "") -> None:
    """A button that asks the job to stop."""
    st.button(
        "Stop",
        key=":".join(filter(None, ("stop", place, job.id))),
        icon=":material/stop:",
        on_click=_stop,
        args=(job.id,),
        disabled=job.stopping,
        help="What is finished is kept, and starting again goes on from there.",
    )


def _stop(name: str) -> None:
    try:
        jobs.cancel(name)
    except UserError as error:
        st.toast(widgets.plain(str(error)), icon=":material/error:")


def progress(job: Job, now: float, story: Story | None = None) -> tuple[str, float]:
    """How far a job is, in words and as a share.

    Args:
        now: Unix time, s; story: what has happened in the job; read here when None.

    Raises:
        StoreError: the job was removed.
    """
    if job.stopping:
        return "Stopping …", 0.0
    if job.state == "queued" or job.started is None:
        first = next((other for other in reversed(jobs.list_jobs()) if other.state == "running"), None)
        behind = f" behind “{first.title}”" if first else ""
        return f"Waiting for its turn{behind}. One job runs at a time: two would spoil the figures.", 0.0
    told = jobs.story(jobs.events(job.id)[0]) if story is None else story
    spent = now - job.started
    if not told.total:
        return f"Preparing … {numbers.seconds(spent)}", 0.0
    share = min(1.0, told.done / told.total)
    if isinstance(job.request, Claims):
        if told.total == 1:
            return f"Checking {told.message} … {numbers.seconds(spent)}", 0.5
        of = f"{told.done} of {told.total} done, {numbers.seconds(spent)}"
        return f"Checking {told.message}: {of}", share
    if not isinstance(job.request, Bench):
        return f"{words.capital(told.stage)}: {told.done:,} of {told.total:,}", share
    energy = job.request.measure == "energy"
    units = f"blocks of{NBSP}{job.request.block_s:g}{NBSP}s" if energy else "rounds"
    left = "" if not told.done else f", about {numbers.seconds(spent / share - spent)} left"
    return f"{told.done:,} of {told.total:,} {units}, {numbers.seconds(spent)}{left}", share
