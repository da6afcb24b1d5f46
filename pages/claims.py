"""Claims: each statement of the paper that can be tested here, the test, our figure and the verdict.

What needs no experiment is checked when the page is first opened. Experiments run as jobs, in a process of
their own, and the page follows them.
"""

from __future__ import annotations

import streamlit as st

from dashboard.session import linked
from dashboard.views import claims as claims_views
from dashboard.views import widgets
from dashboard.views.claims_checks import (
    CONTROLS,
    PAGE,
    found,
    running,
    the_claim,
    the_downloads,
    the_filter,
    the_run,
)
from qmoe_core.errors import UserError
from qmoe_core.paper.claims import CLAIMS, FAIRNESS

COMPUTED = "Each verdict is computed from the figures beside it; other figures would have meant the opposite."


def page() -> None:
    """The page, from top to bottom."""
    st.title("The paper’s claims, tested", anchor=False)
    values = linked.controls(PAGE, CONTROLS)
    try:
        findings = found()
    except UserError as error:
        widgets.error(error)
        return
    job = running()
    st.markdown(f"{widgets.plain(claims_views.summary(CLAIMS, findings))} {FAIRNESS} {COMPUTED}")
    st.html(claims_views.overview(CLAIMS, findings))
    the_run(findings, job)
    the_filter(findings)
    chosen = claims_views.fitting(CLAIMS, findings, **values)
    the_downloads([findings[claim.id] for claim in chosen if claim.id in findings])
    if not chosen:
        widgets.empty("No claim fits this filter.")
        st.button("Show all", on_click=linked.set_to, args=(PAGE,), kwargs=dict.fromkeys(values, ""))
    for title, listed in claims_views.grouped(chosen, findings).items():
        st.subheader(title, anchor=False)
        for claim in listed:
            the_claim(claim, findings.get(claim.id), job)
    with st.expander("Statements that no check here can test"):
        st.markdown(claims_views.untested())


page()
