"""Dataset: every clip behind the figures, on a map of their embeddings, in a list, and one at a time."""

from __future__ import annotations

import streamlit as st

from dashboard.session import linked, switch
from dashboard.views.dataset import filters, the_classes, the_map
from dashboard.views.dataset_clips import the_clip, the_list
from dashboard.views.dataset_shown import PAGE, controls, what_is_shown


def dataset() -> None:
    """The page, from top to bottom."""
    st.title("The clips behind the figures", anchor=False)
    found = switch.with_data()
    if found is None:
        return
    bundle, data = found
    values = linked.controls(PAGE, controls(bundle, data))
    shown = what_is_shown(bundle, data, values)
    filters(shown, values)
    left, right = st.columns([3, 2], gap="large")
    with left:
        the_map(shown, values)
    with right:
        the_classes(shown)
    the_list(shown, values)
    if values["clip"]:
        the_clip(shown)


dataset()
