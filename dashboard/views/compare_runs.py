"""Compare: all training runs, as parallel coordinates and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from dashboard.charts import compare as compare_charts
from dashboard.charts.palette import Theme, expert_colour
from dashboard.session import switch
from dashboard.views import tables, widgets
from dashboard.views.compare import PAGE, PERFECT
from dashboard.views.tables import Column
from qmoe_core import bundles
from qmoe_core.bundles import Bundle
from qmoe_core.errors import UserError
from qmoe_core.evaluation import formats, runs
from qmoe_core.measure import bench
from qmoe_core.numbers import decimals
from qmoe_core.runtime.store import Store, default_root

RUNS = (
    Column("name", "Format or mixture", number=False),
    Column(
        "origin", "from", number=False, meaning="The bundle that records it, or the store of finished folds."
    ),
    Column("dataset", "data", number=False),
    Column("embedder", "embedder", number=False),
    Column("protocol", "folds", number=False, meaning="How the folds were made."),
    Column("selection", "epoch by", number=False, meaning="On which clips the epoch was chosen."),
    Column(
        "f1",
        "F1",
        decimals(3),
        "Weighted F1, mean over folds × seeds: Σ_c n_c / n · 2·TP / (2·TP + FP + FN).",
    ),
    Column("f1_std", "±", decimals(3), "Deviation of F1 over folds × seeds, with n − 1."),
    Column("n", "n", meaning="Folds × seeds."),
    Column("ece", "ECE", decimals(3), "Σ_b n_b / n · |accuracy_b − confidence_b|, of a bundle’s first seed."),
    PERFECT,
    Column("aurc", "AURC", decimals(4), "Mean share of errors among the k most certain clips, likewise."),
    Column(
        "bytes",
        "kB",
        lambda v: f"{v / 1000:,.0f}",
        "Files that must be carried; for runs of the store parameters × bits / 8.",
    ),
    Column(
        "p50_us", "µs", decimals(1), "Median time of one call, where Efficiency measured it on this machine."
    ),
)


def all_runs(bundle: Bundle, values: dict[str, Any]) -> None:
    """Parallel coordinates, and the same as a table."""
    st.subheader("All training runs", anchor=False)
    widgets.one_of(
        PAGE,
        "runs",
        "Runs",
        {"bundles": "of bundles", "all": "of bundles and the store"},
        "Training leaves finished folds in the store; a bundle records the figures of those that it was "
        "made from.",
    )
    found, unread = listed_runs(str(default_root()), values["runs"] == "all")
    for sentence in unread:
        widgets.warning(sentence)
    if not found:
        st.info("Nothing was trained yet.")
        st.page_link(widgets.PAGES / "train.py", label="Train")
        return
    theme = widgets.theme()
    with st.container(key="qm-wide"):
        widgets.figure(
            compare_charts.parallel(
                compare_charts.run_axes(found), [run_colour(run, theme) for run in found], theme
            ),
            alt=f"{len(found)} runs over their format, size and F1; the same as in the table below.",
        )
    latency = bench.last("latency", Store()) if any(run.p50_us is not None for run in found) else None
    where = f" Times: {formats.measured_on(latency, bundle)}, one clip a call." if latency else ""
    widgets.caption(
        f"n = {len(found)} runs. Drag along an axis to keep the runs that pass there, drag a name to "
        f"move its axis, click an axis to let all pass again. {same_for_all(found)}{where}"
    )
    rows = [run.row for run in sorted(found, key=lambda run: -run.f1)]
    tables.table(RUNS, rows, name="runs", title="All runs, the best first")


def same_for_all(found: Sequence[runs.Run]) -> str:
    """What all runs share, as a sentence; what they do not share is an axis."""
    shared = []
    for key, form in (("dataset", "{}"), ("protocol", "{} folds"), ("selection", "epoch chosen by {}")):
        values = {getattr(run, key) for run in found}
        if len(values) == 1:
            shared.append(form.format(values.pop()))
    return f"All of them: {', '.join(shared)}." if shared else ""


def run_colour(run: runs.Run, theme: Theme) -> str:
    """An expert's colour; ink for mixtures."""
    return expert_colour(run.name) if run.bits is not None else theme.ink


@st.cache_data(max_entries=4, ttl=10, show_spinner="Looking for runs …")
def listed_runs(root: str, everything: bool) -> tuple[list[runs.Run], list[str]]:
    """All runs in this store, and a sentence for each bundle that could not be read."""
    store = Store()
    latency = bench.last("latency", store)
    loaded, unread = [], []
    for name in bundles.names():
        try:
            loaded.append(switch.load(name))
        except UserError as error:
            unread.append(f"{error}; it is left out.")
    found = [run for one in loaded for run in runs.of_bundle(one, latency)]
    if everything:
        try:
            found += runs.of_store(store, loaded)
        except UserError as error:
            unread.append(str(error))
    return found, unread
