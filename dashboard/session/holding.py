"""Held-out classes on the Compare page: what was found before, and the training that finds out."""

from __future__ import annotations

import streamlit as st

from dashboard.session import linked, public
from dashboard.views import job_panel, widgets, words
from qmoe_core import datasets, numbers
from qmoe_core.bundles import Bundle
from qmoe_core.errors import UserError
from qmoe_core.evaluation import ood
from qmoe_core.evaluation.ood import UnknownClassesResult
from qmoe_core.runtime import jobs
from qmoe_core.runtime.jobs import HoldOut, Job
from qmoe_core.runtime.store import Store


def kept(bundle: Bundle) -> list[UnknownClassesResult]:
    """Every set of classes that was held out with this bundle's embedder: own ones, then those that ship."""
    embedder_id, classes = bundle.manifest.embedder_id, bundle.classes
    try:
        found = tuple(entry.key for entry in Store().list(ood.KIND))
        return [*_reports(found, embedder_id, classes), *ood.shipped(embedder_id, classes)]
    except UserError as error:
        widgets.warning(error)
        return []


@st.cache_data(max_entries=16, show_spinner="Resampling clips …")
def _reports(
    found: tuple[str, ...], embedder_id: str, classes: tuple[str, ...]
) -> list[UnknownClassesResult]:
    return [ood.report(held) for held in ood.kept(Store(), embedder_id, classes)] if found else []


def offer(bundle: Bundle, *, first: bool) -> None:
    """Leave classes out, in the background; the job's progress while it runs."""
    job = _newest(bundle)
    if job is not None and job.active:
        job_panel.watch(job)
        return
    if job is not None and job.state == "failed":
        st.error(f"The last attempt failed: {widgets.plain(job.error or '')}.")
    if bundle.provenance.dataset not in datasets.available():
        if first:
            st.info(
                "To find out, experts are trained without some classes and then tested on them. That "
                f"takes the recordings of {widgets.plain(bundle.provenance.dataset)}, which are not on this "
                "machine."
            )
        return
    with st.container(border=first) if first else st.expander("Hold other classes out"):
        if first:
            st.markdown(
                "Train without some classes, then test on them: a useful uncertainty is larger there."
            )
        held = st.multiselect(
            "Classes to hold out",
            bundle.classes,
            format_func=words.readable,
            max_selections=len(bundle.classes) - 2,
            key=linked.keep("holding.classes", list(bundle.classes[:2])),
        )
        if st.button("Hold them out", disabled=not held, key="holding.start"):
            try:
                with st.spinner("Starting …"):
                    public.submit(_request(bundle, tuple(held)))
            except UserError as error:
                widgets.error(error)
            else:
                st.rerun()
        widgets.caption(
            f"{words.capital(numbers.listed(bundle.settings().experts))} are trained on every fold, in the "
            "background; a minute or two."
        )


def _request(bundle: Bundle, held: tuple[str, ...]) -> HoldOut:
    return HoldOut(
        dataset=bundle.provenance.dataset,
        held_out=held,
        embedder=bundle.embedder,
        experts=bundle.settings().experts,
        config=bundle.config,
    )


def _newest(bundle: Bundle) -> Job | None:
    of_ours = (
        job
        for job in jobs.list_jobs()
        if isinstance(job.request, HoldOut)
        and job.request.embedder == bundle.embedder
        and set(job.request.held_out) <= set(bundle.classes)
    )
    return next(of_ours, None)
