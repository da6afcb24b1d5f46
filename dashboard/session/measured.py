"""What was measured on this machine: the kept reports, which of them fits a bundle, and measuring anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from dashboard.session import public
from dashboard.views import job_panel, words
from qmoe_core import bundles, numbers
from qmoe_core.bundles import Bundle
from qmoe_core.errors import UserError
from qmoe_core.evaluation.formats import measured_on
from qmoe_core.measure import bench
from qmoe_core.measure.bench import BenchReport
from qmoe_core.runtime import jobs
from qmoe_core.runtime.jobs import Bench, Job
from qmoe_core.runtime.store import Store

BUSY = 1.2
"""Load a core from which on figures come with a warning."""


@dataclass(frozen=True)
class Kept:
    """A report, and when it was made (Unix time)."""

    report: BenchReport
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
            return f"{words.capital(numbers.ago(self.at))}; {where['processor']}."
        if self.load is not None and self.load > BUSY:
            busy = f" The machine was busy (load {self.load:.1f} a core): slow calls count what else it did."
        return f"{words.capital(numbers.ago(self.at))}; {measured_on(self.report, bundle)}.{busy}"


def latest(what: str, bundle: Bundle) -> Kept | None:
    """The newest report of a kind that fits this bundle; the newest of any network where none does."""
    found = [entry for entry in Store().list(bench.KIND) if entry.metadata.get("what") == what]
    if not found:
        return None
    fitting = [entry for entry in found if _fits(entry.metadata, bundle)]
    newest = (fitting or found)[-1]
    kept = newest.metadata
    return Kept(BenchReport(kept["what"], kept["environment"], kept["rows"]), newest.created)


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
    """The newest benchmark of a kind."""
    found = (job for job in jobs.list_jobs() if isinstance(job.request, Bench) and kind(job.request) == what)
    return next(found, None)


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
        job_panel.watch(job)
        return
    job_panel.failed(job)
    with st.container(horizontal=True):
        for number, (label, request) in enumerate(choices):
            st.button(
                label,
                key=f"bench:{what}:{number}",
                type="primary" if primary and number == 0 else "secondary",
                icon=":material/timer:",
                on_click=job_panel.start,
                args=(request,),
            )
