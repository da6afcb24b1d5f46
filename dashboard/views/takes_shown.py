"""Your sounds: the takes of each class to see, hear, cut, rename and delete, and which to label next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import streamlit as st

from dashboard.charts import decision as charts
from dashboard.charts import palette
from dashboard.components import gallery
from dashboard.components.gallery import Card
from dashboard.session import linked, recordings
from dashboard.views import widgets
from dashboard.views.takes_collect import SAID
from qmoe_core import embedders, numbers
from qmoe_core.datasets import takes as core
from qmoe_core.datasets.manifest import DatasetClip, Manifest
from qmoe_core.datasets.takes import Take, Takes
from qmoe_core.embedders import Embedder
from qmoe_core.errors import UserError
from qmoe_core.evaluation import labelling

FILTER, CHOSEN = "takes.shown", "takes.chosen"
MOST_CARDS, ASKED = 24, 3


def done(change: Callable[[], object]) -> None:
    """Do something to the takes; what is wrong with it is said on the next run."""
    try:
        change()
    except UserError as error:
        st.session_state[SAID] = [str(error)]


def the_takes(takes: Takes, listed: Sequence[Take]) -> None:
    """How many there are of each class, cards of one class, and one take."""
    st.subheader("Your takes", anchor=False)
    classes = core.counted(listed)
    names = {"": "all", **{name: f"{name} · {n}" for name, (n, _) in classes.items()}}
    linked.keep(FILTER, "", list(names))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.pills("Class", list(names), key=FILTER, required=True, wrap=True, format_func=names.__getitem__)
        st.button(
            "Undo",
            icon=":material/undo:",
            disabled=not takes.undoable,
            on_click=done,
            args=(takes.undo,),
            help="Takes back the last change: added, cut, renamed or deleted takes.",
        )
    shown = [take for take in reversed(listed) if st.session_state[FILTER] in ("", take.label)]
    if name := st.session_state[FILTER]:
        _rename(takes, name, shown)
    cards = [_card(takes, take, list(classes)) for take in shown[:MOST_CARDS]]
    gallery.show(cards, lambda chosen: st.session_state.update({CHOSEN: chosen}), key="takes.cards")
    if len(shown) > MOST_CARDS:
        st.caption(f"The newest {MOST_CARDS} of {len(shown):,} takes.")
    chosen = next((take for take in shown if take.id == st.session_state.get(CHOSEN)), None)
    if chosen is None:
        st.caption("Press a take to hear, cut, rename or delete it.")
    else:
        _one(takes, chosen, list(classes))


def _rename(takes: Takes, name: str, shown: Sequence[Take]) -> None:
    key = f"takes.rename:{name}"
    with st.popover(f"Rename {widgets.plain(name)}"):
        st.text_input("New name", value=name, key=key)
        st.button(
            "Rename",
            key="takes.rename",
            on_click=lambda: done(lambda: takes.label([t.id for t in shown], st.session_state[key])),
        )


def _card(takes: Takes, take: Take, classes: list[str]) -> Card:
    colour = palette.class_colour(classes, take.label) if take.label else "transparent"
    return Card(
        id=take.id,
        title=take.label or "without a class",
        note=f"{take.seconds:.1f} s",
        detail=take.name,
        colour=colour,
        wrong=False,
        picture=recordings.thumbnail_here(takes.path(take), widgets.theme()),
    )


def _one(takes: Takes, take: Take, classes: list[str]) -> None:
    """A take: its player and spectrogram, and what can be done to it."""
    left, right = st.columns([3, 2], gap="large")
    with left:
        _see(takes.path(take), take)
    with right:
        _label(takes, take, classes)
        if take.seconds > 1.0:
            parts = st.slider(
                "Part to keep, in seconds",
                0.0,
                round(take.seconds, 1),
                (0.0, round(take.seconds, 1)),
                0.1,
                key=f"takes.part:{take.id}",
            )
            with st.container(horizontal=True):
                st.button(
                    "Keep this part",
                    icon=":material/content_cut:",
                    disabled=parts == (0.0, round(take.seconds, 1)),
                    on_click=done,
                    args=(lambda: takes.cut(take.id, [parts]),),
                )
                if take.seconds > core.PIECE_S + 1.0:
                    st.button(
                        "Cut into takes of 5 s",
                        on_click=done,
                        args=(lambda: takes.cut(take.id, core.pieces(take.seconds)),),
                        help="They count as one recording: folds keep them on one side.",
                    )
        st.button("Delete", icon=":material/delete:", on_click=done, args=(lambda: takes.delete([take.id]),))


def _see(path: Path, take: Take) -> None:
    try:
        heard = recordings.heard_here(path)
    except UserError as error:
        widgets.warning(error)
        return
    st.audio(str(path))
    span = charts.frames_span(heard.spectrogram.shape[1])
    widgets.figure(
        charts.spectrogram(heard.spectrogram, (0.0, span), widgets.theme()),
        alt=f"Log-mel spectrogram of {take.name}.",
        key="takes.spectrogram",
    )
    widgets.caption(f"{take.name}, {take.seconds:.1f} s; recording {take.recording}.")


def _label(takes: Takes, take: Take, classes: list[str]) -> None:
    """A class for a take, one of those that are there or a new one."""
    key = f"takes.label:{take.id}:{take.label}"
    st.selectbox(
        "Class",
        classes,
        index=classes.index(take.label) if take.label else None,
        key=key,
        accept_new_options=True,
        placeholder="Choose or type a class",
        on_change=lambda: done(lambda: takes.label([take.id], st.session_state[key] or "")),
    )


def label_next(takes: Takes, listed: Sequence[Take], embedder: str) -> None:
    """The unlabelled takes of which a classifier of the labelled ones is least sure."""
    pool = [take for take in listed if not take.label]
    if not pool:
        return
    st.subheader("Which should I label next?", anchor=False)
    labelled = [take for take in listed if take.label]
    classes = list(core.counted(listed))
    try:
        with st.spinner("Embedding the takes …"):
            z = {take.sound: embedding(takes.path(take), embedder) for take in listed}
    except UserError as error:
        widgets.error(error)
        return
    order, apart = labelling.next_ones(
        np.stack([z[take.sound] for take in labelled]) if labelled else np.empty((0, 1)),
        [take.label for take in labelled],
        np.stack([z[take.sound] for take in pool]),
    )
    widgets.caption(
        f"{len(pool):,} of {len(listed):,} takes have no class. "
        + (
            "In the order in which they came, while fewer than two classes are labelled."
            if apart is None
            else "First those whose two most probable classes a logistic regression of the labelled takes "
            f"puts least apart, on {embedder}; n = {len(labelled)} labelled takes."
        )
    )
    for column, index in zip(st.columns(ASKED, gap="large"), order[:ASKED].tolist(), strict=False):
        with column:
            take = pool[index]
            margin = "" if apart is None else f", {numbers.percent(float(apart[index]))} apart"
            st.markdown(widgets.plain(f"{take.name}{margin}"))
            st.audio(str(takes.path(take)))
            _label(takes, take, classes)


@st.cache_data(max_entries=4096, max_size="32 MB", scope="session", show_spinner=False)
def embedding(path: Path, embedder: str) -> np.ndarray:
    """A take's embedding, the mean over its windows, float16 [D]; the file is named by its content.

    Raises:
        UserError: it cannot be decoded, or there is no such embedder.
    """
    from qmoe_core.embedders.embed import embed_dataset
    from qmoe_core.runtime.executor import Context
    from qmoe_core.runtime.store import Store

    one = Manifest("take", path.parent, ("",), (DatasetClip(path, path.name, 0, None, path.name),))
    return np.array(embed_dataset(one, _embedder(embedder), Context(Store()))[0])


@st.cache_resource(max_entries=2, show_spinner=False)
def _embedder(name: str) -> Embedder:
    return embedders.create(name)
