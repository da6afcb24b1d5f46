"""Controls inside a fragment: what `linked.controls` is for a whole page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from dashboard.session import linked
from dashboard.session.linked import Control, widget


def follow(page: str, defined: Sequence[Control], values: Mapping[str, Any]) -> dict[str, Any]:
    """The controls' values, when a fragment runs again because one of them moved; the link follows.

    With each move the browser sends the address that it showed by then. While moves follow one another fast,
    that is older than what has been written since, and would be taken for a new link that asks for the old
    value. In a fragment there are no new links: those come with a whole page.

    Args:
        values: those that the page gave to the fragment.
    """
    if all(st.session_state[widget(page, key)] == value for key, value in values.items()):
        return dict(values)
    asked = st.query_params.to_dict()
    kept = st.session_state[f"linked:{page}"]
    kept["link"] = {control.key: asked[control.key] for control in defined if control.key in asked}
    return linked.controls(page, defined)
