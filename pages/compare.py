"""Compare: formats and mixtures side by side, on one clip or on the whole default set."""

from __future__ import annotations

import streamlit as st

from dashboard.charts import palette
from dashboard.session import linked, switch
from dashboard.views import widgets
from dashboard.views.compare import PAGE
from dashboard.views.compare_clip import one_clip
from dashboard.views.compare_errors import agreement, errors
from dashboard.views.compare_noise import in_noise
from dashboard.views.compare_overview import VIEWS, choose, controls, overview
from dashboard.views.compare_runs import all_runs
from dashboard.views.compare_uncertainty import abstaining, calibration
from qmoe_core.evaluation import contenders


def compare() -> None:
    """The page, from top to bottom."""
    st.title("Formats and mixtures, side by side", anchor=False)
    found = switch.with_data()
    if found is None:
        return
    bundle, data = found
    values = linked.controls(PAGE, controls(bundle, data))
    choose(bundle, values)
    compared = [found for name in values["show"] if (found := contenders.parse(name, bundle))]
    judged = [contenders.judge(contender, bundle, data) for contender in compared]
    looks = palette.looks([one.name for one in compared], widgets.theme())
    overview(judged, looks, bundle)
    widgets.one_of(PAGE, "view", "What to compare", VIEWS)
    view = values["view"]
    if view == "errors":
        errors(judged, looks, bundle, values)
    elif view == "agreement":
        agreement(judged, bundle, values)
    elif view == "calibration":
        calibration(judged, looks, bundle)
    elif view == "abstaining":
        abstaining(judged, looks, bundle, values)
    elif view == "noise":
        in_noise(bundle, values)
    elif view == "clip":
        one_clip(compared, looks, bundle, data, values)
    else:
        all_runs(bundle, values)


compare()
