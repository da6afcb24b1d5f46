"""Claims: the kept findings, the jobs that check claims, the filter, the downloads and one claim."""

from __future__ import annotations

import json
from collections.abc import Sequence

import streamlit as st

from dashboard.charts import claims as claims_charts
from dashboard.session import linked, public
from dashboard.session.linked import Control, widget
from dashboard.views import claims as claims_views
from dashboard.views import job_panel, tables, widgets, words
from dashboard.views.claims import STATES
from qmoe_core import numbers
from qmoe_core.paper import claims
from qmoe_core.paper.claim import COSTS, THEMES, Claim
from qmoe_core.paper.claims import CLAIMS, Finding
from qmoe_core.runtime import jobs
from qmoe_core.runtime.jobs import Claims, Job

PAGE = "claims"
MOST_SEARCHED = 80
SECONDS = 20
"""About how long all the experiments take."""
CONTROLS = [
    linked.one_of("verdict", ("", *STATES), ""),
    linked.one_of("theme", ("", *THEMES), ""),
    Control(
        "search",
        "",
        f"at most {MOST_SEARCHED} characters",
        lambda text: text if len(text) <= MOST_SEARCHED else None,
    ),
]


def found() -> dict[int, Finding]:
    """The kept findings; those that need no experiment are made now where they are missing.

    Raises:
        UserError: the store cannot be read or written.
    """
    kept = claims.latest()
    missing = [claim.id for claim in CLAIMS if claim.cost != "experiment" and claim.id not in kept]
    if missing:
        with st.spinner(f"Checking the {len(missing)} claims that need no experiment …"):
            kept |= {finding.claim.id: finding for finding in claims.run(missing)}
    return kept


def running() -> Job | None:
    """The job that checks claims now, or is waiting to."""
    return next((job for job in jobs.list_jobs() if job.active and isinstance(job.request, Claims)), None)


def the_run(findings: claims_views.Findings, job: Job | None) -> None:
    """Run what is left, or everything anew; while it runs, how far it is."""
    if public.LIMITS is not None:
        st.caption(public.MEASURING)
        return
    if job is not None:
        job_panel.watch(job)
        return
    job_panel.failed(next((one for one in jobs.list_jobs() if isinstance(one.request, Claims)), None))
    left = tuple(claim.id for claim in CLAIMS if claim.id not in findings)
    with st.container(horizontal=True):
        if left:
            st.button(
                f"Run the {len(left)} experiments that are left: about {SECONDS} s",
                type="primary",
                icon=":material/science:",
                on_click=submit,
                args=(left,),
            )
        st.button(f"Run all {len(CLAIMS)} again", icon=":material/refresh:", on_click=submit, args=(None,))


def submit(only: tuple[int, ...] | None) -> None:
    """Start a job."""
    job_panel.start(Claims(only=only))


def the_filter(findings: claims_views.Findings) -> None:
    """By verdict, by theme, by word."""
    states = [claims_views.state(claim, findings) for claim in CLAIMS]
    shown = ["", *(key for key in STATES if key in states)]
    asked = st.session_state[widget(PAGE, "verdict")]
    if asked not in shown:
        shown.append(asked)
    st.pills(
        "Verdict",
        shown,
        key=widget(PAGE, "verdict"),
        required=True,
        wrap=True,
        format_func=lambda key: (
            f"{words.capital(STATES[key][1])} ({states.count(key)})" if key else f"All ({len(states)})"
        ),
    )
    left, right = st.columns([3, 2], gap="large", vertical_alignment="bottom")
    left.pills(
        "Theme",
        ["", *THEMES],
        key=widget(PAGE, "theme"),
        required=True,
        wrap=True,
        format_func=lambda key: THEMES.get(key, "All themes"),
    )
    right.text_input(
        "Search",
        key=widget(PAGE, "search"),
        max_chars=MOST_SEARCHED,
        placeholder="words, or a claim’s number",
        icon=":material/search:",
    )


def the_downloads(shown: Sequence[Finding]) -> None:
    """What is shown, as CSV, as `qmoe claims --json` prints it, and as a document for the authors."""
    with st.container(horizontal=True, horizontal_alignment="right", gap="small"):
        tables.download(claims_views.COLUMNS, lambda: claims_views.document(shown), "claims")
        for label, made, name, kind in (
            ("JSON", lambda: _as_json(shown), "qmoe-claims.json", "application/json"),
            ("Document for the authors", lambda: claims.markdown(shown), "qmoe-claims.md", "text/markdown"),
        ):
            st.download_button(
                label,
                made,
                name,
                kind,
                on_click="ignore",
                type="tertiary",
                icon=":material/download:",
            )


def _as_json(shown: Sequence[Finding]) -> str:
    return json.dumps(claims_views.document(shown), indent=1, ensure_ascii=False)


@st.fragment
def the_claim(claim: Claim, finding: Finding | None, job: Job | None) -> None:
    """One claim: its card, and how it was tested behind a fold that is drawn when it is opened."""
    st.html(claims_views.card(claim, finding))
    if st.session_state.get(f"run:{claim.id}") and job is None and running():  # pressed a moment ago
        st.rerun()  # the tray is to follow it
    if job is not None and isinstance(job.request, Claims) and job.request.only == (claim.id,):
        job_panel.watch(job)
    fold = st.expander("How it was tested", key=f"fold:{claim.id}", on_change="rerun", type="compact")
    if not fold.open:
        return
    with fold:
        picture = finding.figures.picture if finding and finding.figures else None
        left, right = st.columns([1, 1], gap="large") if picture else (st.container(), None)
        with left:
            st.markdown(widgets.plain(claim.test))
            st.markdown(widgets.plain(f"What would change the verdict: {claim.turns}"))
            widgets.caption(basis(claim, finding))
            again = "Run this check again" if finding else "Run this check"
            st.button(
                again,
                key=f"run:{claim.id}",
                icon=":material/science:",
                disabled=job is not None or public.LIMITS is not None,
                help=COSTS[claim.cost],
                on_click=submit,
                args=((claim.id,),),
            )
        if picture and right:
            with right:
                drawn = claims_charts.draw(picture, widgets.theme())
                widgets.figure(drawn, alt=claims_charts.words(picture), key=f"picture:{claim.id}")


def basis(claim: Claim, finding: Finding | None) -> str:
    """n, threads, machine, and when; or what running it would cost."""
    if finding is None or finding.figures is None:
        return f"{words.capital(COSTS[claim.cost])}."
    cost = numbers.seconds(finding.seconds)
    return (
        f"{finding.figures.basis}. {words.capital(numbers.ago(finding.at))} in {cost} on {finding.machine}."
    )
