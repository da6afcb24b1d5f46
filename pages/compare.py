"""Compare: formats and mixtures side by side, on one clip or on the whole default set."""

from __future__ import annotations

import streamlit as st

from dashboard.session import linked, switch
from dashboard.views import compare as compare_views
from dashboard.views import contenders, tables, widgets
from dashboard.views.compare import PAGE
from dashboard.views.compare_choice import VIEWS, choose, controls, overview
from qmoe_core.errors import UserError


def compare() -> None:
    """The page, from top to bottom."""
    st.title("Formats and mixtures, side by side", anchor=False)
    tables.style()
    bundle = switch.bundle()
    if bundle is None:
        return
    try:
        data = bundle.dataset
    except UserError as error:
        st.error(widgets.plain(str(error)))
        return
    if data is None:
        st.info(
            "This bundle carries no data set, so there is nothing to compare on. Choose another one above, "
            "or train it again."
        )
        st.page_link(widgets.PAGES / "train.py", label="Train a bundle")
        return
    values = linked.controls(PAGE, controls(bundle, data))
    choose(bundle, values)
    compared = [found for name in values["show"] if (found := contenders.parse(name, bundle))]
    judged = [contenders.judge(contender, bundle, data) for contender in compared]
    looks = contenders.looks(compared, widgets.theme())
    overview(judged, looks, bundle)
    st.segmented_control(
        "What to compare",
        list(VIEWS),
        key=linked.widget(PAGE, "view"),
        format_func=VIEWS.__getitem__,
        required=True,
        wrap=True,
    )
    view = values["view"]
    if view == "errors":
        compare_views.errors(judged, looks, bundle, values)
    elif view == "agreement":
        compare_views.agreement(judged, bundle, values)
    elif view == "calibration":
        compare_views.calibration(judged, looks, bundle)
    elif view == "abstaining":
        compare_views.abstaining(judged, looks, bundle, values)
    elif view == "clip":
        compare_views.one_clip(compared, looks, bundle, data, values)
    else:
        compare_views.all_runs(bundle, values)


compare()
