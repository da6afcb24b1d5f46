"""Your sounds: the training of all formats on the takes, what came of it, and the bundle for all pages."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from dashboard.session import linked, public, switch, training
from dashboard.views import job_panel, train_job, widgets
from qmoe_core import bundles, numbers
from qmoe_core.datasets import takes as core
from qmoe_core.datasets.takes import Take, Takes
from qmoe_core.embedders import OWN, models
from qmoe_core.errors import UserError
from qmoe_core.runtime import jobs
from qmoe_core.runtime.jobs import Job, Train

NAME = "my-sounds"
"""Of the bundle; a training again replaces it."""
EMBEDDER = "takes.embedder"


def embedder() -> str:
    """The embedder of the takes: one of those that need nothing but what is on this machine."""
    here = [name for name in OWN if name not in models.ARCHITECTURES or models.path(name)]
    chosen = st.session_state[linked.keep(EMBEDDER, "ds-cnn" if "ds-cnn" in here else here[0], here)]
    return chosen or here[0]


def the_training(takes: Takes, listed: Sequence[Take]) -> None:
    """Warnings, the button, the job while it runs, its figures, and the way to use it."""
    st.subheader("Train and judge", anchor=False)
    here = [name for name in OWN if name not in models.ARCHITECTURES or models.path(name)]
    st.segmented_control(
        "Embedder, as it is",
        here,
        key=EMBEDDER,
        required=True,
        help="What turns a sound into numbers is not trained again; the nine heads on it are, one a format.",
    )
    for sentence in core.concerns(listed):
        widgets.warning(sentence)
    job = newest(takes)
    try:
        asked = core.request(takes.root, listed, embedder(), NAME)
    except UserError as error:
        widgets.caption(training.problem(error))
        asked = None
    if job is not None and job.active:
        job_panel.watch(job)
    else:
        st.button(
            "Train all formats" if job is None else "Train again",
            type="primary" if job is None else "secondary",
            disabled=asked is None,
            on_click=lambda: asked and job_panel.start(asked),
        )
    if job is not None and job.state == "failed":
        widgets.error(f"The last training failed: {job.error}")
    if job is not None and job.state == "done":
        _result(takes, job)


def newest(takes: Takes) -> Job | None:
    """The training of these takes that was asked for last."""
    ours = (
        job
        for job in jobs.list_jobs()
        if isinstance(job.request, Train) and job.request.dataset == str(takes.root.resolve())
    )
    return next(ours, None)


def _result(takes: Takes, job: Job) -> None:
    """F1 of every format by cross-validation, and the bundle."""
    assert isinstance(job.request, Train)
    train_job.result(job)
    folds = job.request.config.evaluation
    how = (
        f"{folds.folds} folds, no recording on both sides"
        if folds.protocol == "grouped"
        else f"{folds.folds} folds, with one recording on both sides: F1 is too high"
    )
    widgets.caption(
        f"{how}; {job.request.config.expert.epochs} epochs, set beforehand; {job.request.embedder} as it is. "
        f"Trained in {numbers.seconds((job.ended or 0) - (job.started or 0))}."
    )
    if (takes.root / core.TABLE).stat().st_mtime > job.submitted:
        st.caption("The takes have changed since: train again to use them as they are now.")
    if NAME not in bundles.names():
        return
    used = switch.chosen() == NAME
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "All pages use it" if used else "Use it on all pages",
            key="takes.use",
            icon=":material/check:" if used else None,
            type="primary",
            disabled=used,
            on_click=switch.use,
            args=(NAME,),
        )
        link = {switch.KEY: NAME}
        for file, title in (("listen.py", "Try it on Listen"), ("live.py", "on Live")):
            st.page_link(widgets.PAGES / file, label=title, query_params=link)
        st.page_link(widgets.PAGES / "compare.py", label="Where it errs", query_params=link)


def shown_in_public() -> str:
    """What is different where the lab is open to the public."""
    if public.LIMITS is None:
        return ""
    return f"This lab is open to the public: takes of {public.LIMITS.takes_mb} MB in all, yours alone."
