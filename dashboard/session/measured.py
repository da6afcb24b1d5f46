"""What was measured on this machine: the kept reports, which of them fits a bundle, and measuring anew.

A benchmark runs as a job (`qmoe_core.runtime.jobs`): in a process of its own, one at a time, whatever becomes
of the page. The page looks at it once a second, and is drawn again when it has ended.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from dashboard.session import public
from dashboard.views import widgets, words
from dashboard.views.words import NBSP
from qmoe_core import bundles
from qmoe_core.bundles import Bundle
from qmoe_core.errors import UserError
from qmoe_core.evaluation.formats import measured_on
from qmoe_core.measure import bench
from qmoe_core.measure.bench import Report
from qmoe_core.runtime import jobs
from qmoe_core.runtime.jobs import Bench, Job
from qmoe_core.runtime.store import Store

POLL_S = 1.0
BUSY = 1.2
"""Load a core from which on figures come with a warning."""
_SEEN = "seen_benchmarks"


@dataclass(frozen=True)
class Kept:
    """A report, and when it was made (Unix time)."""

    report: Report
    at: float

    @property
    def n(self) -> int:
        """Fewest repetitions behind a figure."""
        return min(row["n"] for row in self.report.rows)

    @property
    def grid(self) -> float:
        """Carbon intensity that the energy was counted with, g of CO2 a kWh."""
        return float(self.report.environment["grid_g_per_kwh"])

    @property
    def load(self) -> float | None:
        """How busy each core was at the end of it; 1 is fully, None where the system does not tell."""
        where = self.report.environment
        loads = where.get("load_average")
        return loads[0] / where["cores"] if loads and where.get("cores") else None

    def basis(self, bundle: Bundle) -> str:
        """When, where and of what, as the caption under a figure says it."""
        where, busy = self.report.environment, ""
        if "threads" not in where:
            return f"{words.capital(ago(self.at))}; {where['processor']}."
        if self.load is not None and self.load > BUSY:
            busy = f" The machine was busy (load {self.load:.1f} a core): slow calls count what else it did."
        return f"{words.capital(ago(self.at))}; {measured_on(self.report, bundle)}.{busy}"


def ago(at: float) -> str:
    """When something was measured.

    >>> ago(time.time() - 7200)
    'measured 2 hours ago'
    """
    seconds = max(0.0, time.time() - at)
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            count = int(seconds // size)
            return f"measured {count:,} {unit}{'s' * (count != 1)} ago"
    return "measured just now"


def latest(what: str, bundle: Bundle) -> Kept | None:
    """The newest report of a kind that fits this bundle; the newest of any network where none does."""
    found = [entry for entry in Store().list(bench.KIND) if entry.metadata.get("what") == what]
    if not found:
        return None
    fitting = [entry for entry in found if _fits(entry.metadata, bundle)]
    newest = (fitting or found)[-1]
    kept = newest.metadata
    return Kept(Report(kept["what"], kept["environment"], kept["rows"]), newest.created)


def _fits(metadata: dict[str, Any], bundle: Bundle) -> bool:
    own = [bundle.manifest.dim, *bundle.config.expert.hidden, len(bundle.classes)]
    return metadata["environment"].get("shape", own) == own


def named(bundle: Bundle) -> str:
    """How a benchmark is told of a bundle: by its name where that finds it, so that no path is kept."""
    name = bundle.path.name
    try:
        return name if bundles.find(name) == bundle.path else str(bundle.path)
    except UserError:
        return str(bundle.path)


def running(what: str) -> Job | None:
    """The benchmark of a kind that runs or waits, or ended badly since this session asked for it."""
    own = st.session_state.get(_SEEN, ())
    for job in jobs.list_jobs():
        if isinstance(job.request, Bench) and kind(job.request) == what:
            return job if job.active or (job.state == "failed" and job.id in own) else None
    return None


def kind(request: Bench) -> str:
    """What its report will be kept as."""
    return "latency-cold" if request.measure == "latency" and request.cold else request.measure


def panel(choices: Sequence[tuple[str, Bench]], *, primary: bool = False) -> None:
    """Buttons that start a benchmark; while one runs, how far it is and a button that stops it.

    Args:
        choices: of one kind; what a button says, and what it starts.
        primary: whether the first button stands out.
    """
    if public.LIMITS is not None:
        st.caption(public.MEASURING)
        return
    what = kind(choices[0][1])
    job = running(what)
    if job is not None and job.active:
        st.fragment(_watch, run_every=POLL_S)(job.id, what)
        return
    if job is not None:
        st.error(widgets.plain(f"The last run ended early: {job.error}"))
        if log := job.log():
            with st.expander("What it printed"):
                st.code(log, language=None)
    with st.container(horizontal=True):
        for number, (label, request) in enumerate(choices):
            st.button(
                label,
                key=f"bench:{what}:{number}",
                type="primary" if primary and number == 0 else "secondary",
                icon=":material/timer:",
                on_click=_start,
                args=(request,),
            )


def _start(request: Bench) -> None:
    try:
        job = public.submit(request)
    except UserError as error:
        st.error(widgets.plain(str(error)))
        return
    st.session_state[_SEEN] = (*st.session_state.get(_SEEN, ()), job.id)


def _stop(name: str) -> None:
    with contextlib.suppress(UserError):  # it ended in the same moment
        jobs.cancel(name)


def _watch(name: str, what: str) -> None:
    """A running job, looked at again every second; its end draws the whole page anew."""
    try:
        job = jobs.get(name)
    except UserError:
        st.rerun()
    if not job.active:
        if job.state == "done":
            st.toast(f"{words.capital(what.replace('-', ', '))} measured", icon=":material/check:")
        st.rerun()
    text, share = progress(job, time.time())
    left, right = st.columns([4, 1], vertical_alignment="center")
    left.progress(share, text=widgets.plain(text))
    right.button(
        "Stop",
        key=f"stop:{name}",
        icon=":material/stop:",
        on_click=_stop,
        args=(name,),
        disabled=job.stopping,
    )


def progress(job: Job, now: float) -> tuple[str, float]:
    """How far a job is, in words and as a share."""
    if job.stopping:
        return "Stopping …", 0.0
    if job.state == "queued" or job.started is None:
        first = next((other for other in reversed(jobs.list_jobs()) if other.state == "running"), None)
        behind = f" behind “{first.title}”" if first else ""
        return (
            f"Waiting for its turn{behind}. One job runs at a time: two would spoil the figures.",
            0.0,
        )
    told = jobs.story(jobs.events(job.id)[0])
    spent = now - job.started
    if not told.total:
        return f"Preparing … {words.seconds(spent)}", 0.0
    share = told.done / told.total
    left = "" if not told.done else f", about {words.seconds(spent / share - spent)} left"
    return f"{told.done:,} of {told.total:,} {_units(job)}, {words.seconds(spent)}{left}", share


def _units(job: Job) -> str:
    blocks = isinstance(job.request, Bench) and job.request.measure == "energy"
    return f"blocks of{NBSP}{job.request.block_s:g}{NBSP}s" if blocks else "rounds"  # type: ignore[union-attr]
