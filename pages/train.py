"""Train: what will run and what is there already, live progress fold by fold, and bundles for every page."""

from __future__ import annotations

import streamlit as st

from dashboard.session import linked
from dashboard.views import widgets
from dashboard.views.train_form import controls, new_training
from dashboard.views.train_job import GONE, PAGE, REFUSED, the_jobs
from qmoe_core.runtime import jobs


def train() -> None:
    """The page, from top to bottom."""
    st.title("Train experts and mixtures", anchor=False)
    listed = jobs.list_jobs()
    values = linked.controls(PAGE, controls(listed))
    if st.session_state.pop(GONE, False):
        st.warning("The job that was shown here was removed meanwhile; what it had finished is kept.")
    if sentence := st.session_state.pop(REFUSED, ""):
        widgets.error(sentence)
    if listed:
        the_jobs(listed, values)
    new_training(listed, values)


train()
