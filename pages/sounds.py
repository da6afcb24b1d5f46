"""Your sounds: collect takes of one's own classes, train all formats on them, judge, and use the result."""

from __future__ import annotations

import streamlit as st

from dashboard.session import public
from dashboard.views import widgets
from dashboard.views.takes_collect import collect
from dashboard.views.takes_shown import label_next, the_takes
from dashboard.views.takes_training import embedder, shown_in_public, the_training
from qmoe_core.datasets.takes import counted
from qmoe_core.errors import UserError


def page() -> None:
    """The page, from top to bottom."""
    st.title("Your own sounds", anchor=False)
    if sentence := shown_in_public():
        widgets.caption(sentence)
    takes = public.takes()
    try:
        listed = takes.listed
    except UserError as error:
        widgets.error(error)
        return
    collect(takes, list(counted(listed)))
    if not listed:
        widgets.empty(
            "Nothing yet. What you record or give appears here, to be seen, heard, cut and renamed. From two "
            "classes on, a press trains all formats in seconds, judges them on recordings that they did not "
            "learn from, and lets every page use them."
        )
        return
    the_takes(takes, listed)
    label_next(takes, listed, embedder())
    the_training(takes, listed)


page()
