"""Dataset: the map of the embeddings, the filters, and the table of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import streamlit as st

from dashboard.charts import dataset as dataset_charts
from dashboard.session import linked
from dashboard.views import compare as compare_views
from dashboard.views import tables, widgets, words
from dashboard.views.dataset_shown import COLOURS, MAPS, PAGE, Shown, first_page, open_clip
from dashboard.views.tables import Column
from qmoe_core import numbers
from qmoe_core.errors import StoreError, UserError
from qmoe_core.evaluation import contenders, projection
from qmoe_core.evaluation.projection import Projection
from qmoe_core.numbers import decimals
from qmoe_core.runtime.store import Store


def filters(shown: Shown, values: dict[str, Any]) -> None:
    """Who judges, and which clips are kept."""
    bundle = shown.bundle
    offered = list(dict.fromkeys([*contenders.standard(bundle), values["by"]]))
    titles = {name: found.title for name in offered if (found := contenders.parse(name, bundle))}
    folds = ["", *(str(fold) for fold in np.unique(shown.data.folds))]

    def select(column: Any, label: str, key: str, options: Sequence[str], form: Any, tip: str) -> None:
        column.selectbox(
            label,
            options,
            key=linked.widget(PAGE, key),
            format_func=form,
            on_change=first_page,
            help=tip,
        )

    def any_class(name: str) -> str:
        return words.readable(name) if name else "any"

    columns = st.columns(4 if len(folds) > 2 else 3)
    select(
        columns[0],
        "Judged by",
        "by",
        offered,
        lambda name: str(titles.get(name, name)),
        "Whose answers are right or wrong here: an expert, or a mixture without or with curiosity.",
    )
    select(columns[1], "Class", "class", ["", *bundle.classes], any_class, "What the clip is.")
    select(columns[2], "Called", "called", ["", *bundle.classes], any_class, "What it was taken for.")
    if len(folds) > 2:
        select(
            columns[3],
            "Fold",
            "fold",
            folds,
            lambda fold: fold or "any",
            "Experts are tested on one fold and trained on the others.",
        )
    if values["source"]:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"Only clips cut from recording **{widgets.plain(values['source'])}**.")
            st.button("All recordings", on_click=lambda: linked.set_to(PAGE, source="", page=1))


def the_map(shown: Shown, values: dict[str, Any]) -> None:
    """The embeddings on a plane; a click opens the clip."""
    st.subheader("Map of the embeddings", anchor=False)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        widgets.one_of(
            PAGE,
            "colour",
            "Colour",
            COLOURS,
            "Uncertainty is the total one, H(q̄) = −Σ q̄_c log q̄_c, of who judges.",
        )
        widgets.one_of(
            PAGE,
            "map",
            "Map",
            MAPS,
            "**PCA**: the two directions of most variance; distances mean something.  \n"
            "**t-SNE**: neighbours stay neighbours, distances mean nothing; made once, in a few seconds.",
        )
    drawn = laid_out(shown, values)
    names = [clip.name for clip in shown.data.clips]
    st.plotly_chart(
        dataset_charts.embedding_map(
            drawn.points,
            [hover(shown, index) for index in range(len(names))],
            coloured(shown, values["colour"]),
            shown.wrong,
            np.isin(np.arange(len(names)), shown.listed),
            widgets.theme(),
            chosen=names.index(values["clip"]) if values["clip"] else None,
            scale_title={"uncertainty": "H(q̄), nats", "fold": "fold"}.get(values["colour"], ""),
        ),
        theme=None,
        key="dataset.points",
        on_select=lambda: point_pressed(names),
        selection_mode="points",
        config={"displayModeBar": False, "scrollZoom": False},
        alt=f"Map of the embeddings of {len(names)} clips; {int(shown.wrong.sum())} of them are errors.",
    )
    held = "" if drawn.explained is None else f", {numbers.percent(drawn.explained)} of the variance"
    widgets.caption(
        f"{MAPS[drawn.method]} of standardised {shown.bundle.embedder} embeddings "
        f"({shown.data.embeddings.shape[1]} numbers a clip){held}. Crosses: errors of "
        f"{shown.judged.contender.title}. Press a point to play its clip. {compare_views.basis(shown.bundle)}"
    )


def laid_out(shown: Shown, values: dict[str, Any]) -> Projection:
    """The map that was asked for; PCA's, with a warning, where that one cannot be made."""
    bundle, embeddings = shown.bundle, shown.data.embeddings
    try:
        return projected(bundle.digest, values["map"], embeddings)
    except UserError as error:
        widgets.warning(f"{error}. This is the PCA map.")
        return projected(bundle.digest, "pca", embeddings)


def coloured(shown: Shown, by: str) -> list[str] | np.ndarray:
    """A colour for each clip, or a number where it lies on a scale; classes get their legend."""
    data, classes = shown.data, shown.bundle.classes
    if by == "class":
        tables.legend(dataset_charts.class_legend(classes))
        return dataset_charts.class_colours(data.labels, classes)
    if by == "error":
        return dataset_charts.right_or_wrong(shown.wrong, widgets.theme())
    return shown.judged.uncertainties["total"] if by == "uncertainty" else data.folds.astype(float)


def hover(shown: Shown, index: int) -> str:
    """What pointing at a clip tells."""
    called = f"<br>called {words.drawn(shown.called(index))}" if shown.wrong[index] else ""
    name, fold = words.drawn(shown.data.clips[index].name), shown.data.folds[index]
    return f"<b>{words.drawn(words.readable(shown.truth(index)))}</b>{called}<br>{name}, fold {fold}"


def point_pressed(names: Sequence[str]) -> None:
    """Open the clip of a point of the map."""
    points = st.session_state["dataset.points"].selection.points
    index = points[0].get("customdata") if points else None
    if isinstance(index, int) and 0 <= index < len(names):
        open_clip(names[index])


@st.cache_data(max_entries=8, max_size="16 MB", show_spinner="Drawing the map …")
def projected(digest: str, method: projection.Method, _embeddings: np.ndarray) -> Projection:
    """A map of a bundle's embeddings, made once and kept.

    Raises:
        ConfigError: too few clips, or what it needs is not installed.
    """
    try:
        return projection.project(_embeddings, method, Store())
    except StoreError:  # a store that cannot be written is no reason to show no map
        return projection.project(_embeddings, method)


CLASSES = (
    Column("class", "class", lambda label: words.capital(words.readable(label)), number=False),
    Column("clips", "clips"),
    Column("recordings", "recordings", meaning="Source recordings that the clips were cut from."),
    Column("errors", "errors", meaning="Clips called something else."),
    Column(
        "uncertainty",
        "uncertainty, nats",
        decimals(3),
        "Mean total uncertainty of the class, H(q̄) = −Σ q̄_c log q̄_c, nats.",
    ),
)
FOLDS = (
    Column("fold", "fold", number=False),
    Column("clips", "clips"),
    Column("recordings", "recordings", meaning="Source recordings that the clips were cut from."),
    Column("errors", "errors", meaning="Clips called something else by experts trained on the other folds."),
)


def the_classes(shown: Shown) -> None:
    """How many clips of what, and how hard they are."""
    st.subheader("Classes", anchor=False)
    data, classes = shown.data, shown.bundle.classes
    sources = np.array([clip.source for clip in data.clips])
    uncertainty = shown.judged.uncertainties["total"]

    def row(clips: np.ndarray) -> dict[str, Any]:
        return {
            "clips": int(clips.sum()),
            "recordings": len(set(sources[clips])),
            "errors": int(shown.wrong[clips].sum()),
            "uncertainty": float(uncertainty[clips].mean()) if clips.any() else None,
        }

    rows = [{"class": name} | row(data.labels == i) for i, name in enumerate(classes)]
    marks = [line for _, line in dataset_charts.class_legend(classes)]
    tables.table(CLASSES, rows, name="classes", title="Classes", marks=marks)
    numbers = np.unique(data.folds)
    if len(numbers) > 1:
        with st.expander("Folds"):
            folds = [{"fold": str(fold)} | row(data.folds == fold) for fold in numbers]
            tables.table(FOLDS, folds, name="folds", title="Folds")
    crossing = sum(len(np.unique(data.folds[sources == name])) > 1 for name in set(sources.tolist()))
    leak = (
        f"{crossing} recordings have clips in more than one fold, so experts were tested on some that they "
        "half knew."
        if crossing
        else "No recording has clips in two folds."
    )
    made = shown.bundle.provenance
    widgets.caption(
        f"n = {len(data.clips):,} clips from {len(set(sources)):,} recordings. "
        f"{leak if len(numbers) > 1 else ''} {made.licence}. {made.citation}"
    )
