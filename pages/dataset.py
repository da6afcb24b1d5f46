"""Dataset: every clip behind the figures, on a map of their embeddings, in a list, and one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st

from dashboard.charts import dataset as dataset_charts
from dashboard.charts import decision as charts
from dashboard.charts import palette
from dashboard.components import gallery
from dashboard.components.gallery import Card
from dashboard.session import linked, recordings, switch
from dashboard.session.linked import Control
from dashboard.views import compare as compare_views
from dashboard.views import contenders, tables, widgets, words
from dashboard.views.contenders import Contender, Judged
from dashboard.views.tables import Column, decimals
from dashboard.views.words import Verdict
from qmoe_core.bundles import Bundle, BundleDataset
from qmoe_core.decision import Decision
from qmoe_core.errors import StoreError, UserError
from qmoe_core.evaluation import projection, selective
from qmoe_core.evaluation.projection import Projection
from qmoe_core.routing import mixing
from qmoe_core.routing.mixing import Mixed, Settings
from qmoe_core.runtime.store import Store

PAGE = "dataset"
CARDS = 18
"""Cards on a page of the list."""
ORDERS = {
    "file": "by name",
    "uncertain": "most uncertain",
    "disputed": "most disputed",
    "wrong": "confidently wrong",
}
COLOURS = {"class": "class", "error": "right or wrong", "uncertainty": "uncertainty", "fold": "fold"}
MAPS = {"pca": "PCA", "t-sne": "t-SNE"}


@dataclass(frozen=True)
class Shown:
    """What the page is about: a bundle's clips, as one contender judged them.

    Attributes:
        everyone: all experts' opinions, for who disputes what.
        listed: indices of the clips that the filters keep, in the order that was asked for.
    """

    bundle: Bundle
    data: BundleDataset
    judged: Judged
    everyone: Mixed
    listed: np.ndarray

    @property
    def wrong(self) -> np.ndarray:
        return ~self.judged.correct

    def called(self, index: int) -> str:
        """What the contender called a clip, for people."""
        return words.readable(self.bundle.classes[int(self.judged.predicted[index])])

    def truth(self, index: int) -> str:
        """What a clip is."""
        return self.bundle.classes[int(self.data.labels[index])]

    def probability(self, index: int) -> float:
        """With what probability it was called that."""
        return float(self.judged.probabilities[index].max())


def dataset() -> None:
    """The page, from top to bottom."""
    st.title("The clips behind the figures", anchor=False)
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
        st.info("This bundle carries no data set. Choose another one above, or train it again.")
        st.page_link(widgets.PAGES / "train.py", label="Train a bundle")
        return
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


def controls(bundle: Bundle, data: BundleDataset) -> list[Control]:
    """What a person can set here, and a link restores."""
    classes = ["", *bundle.classes]
    folds = ["", *(str(fold) for fold in np.unique(data.folds))]
    sources = {"", *(clip.source for clip in data.clips)}
    clips = {"", *(clip.name for clip in data.clips)}

    def by(text: str) -> str | None:
        found = contenders.parse(text, bundle)
        return found.name if found else None

    def known(names: set[str]) -> Callable[[str], str | None]:
        return lambda text: text if text in names else None

    return [
        Control("by", contenders.standard(bundle)[-1], "an expert or a mixture such as q4+q8@0.3", by),
        linked.one_of("class", classes, ""),
        linked.one_of("called", classes, ""),
        linked.one_of("fold", folds, ""),
        Control("source", "", "a source recording of this data set", known(sources)),
        linked.one_of("order", list(ORDERS), "file"),
        linked.one_of("colour", list(COLOURS), "class"),
        linked.one_of("map", list(MAPS), "pca"),
        linked.whole("page", 1, max(1, -(-len(data.clips) // CARDS)), 1),
        Control("clip", "", "the name of a clip of this data set", known(clips)),
    ]


def what_is_shown(bundle: Bundle, data: BundleDataset, values: dict[str, Any]) -> Shown:
    """Judge the clips, and choose and order those that the filters keep."""
    contender = contenders.parse(values["by"], bundle)
    assert contender is not None
    judged = contenders.judge(contender, bundle, data)
    everyone = mixing.mix(data.voices, Settings(bundle.experts, top_k=len(bundle.experts), curiosity="none"))
    kept = np.ones(len(data.clips), bool)
    if values["class"]:
        kept &= data.labels == bundle.classes.index(values["class"])
    if values["called"]:
        kept &= judged.predicted == bundle.classes.index(values["called"])
    if values["fold"]:
        kept &= data.folds == int(values["fold"])
    if values["source"]:
        kept &= np.array([clip.source == values["source"] for clip in data.clips])
    n = len(data.clips)
    own, all_of_them = (
        selective.notable(mixed, data.labels, n) for mixed in (contender.mixed(bundle, data.voices), everyone)
    )
    order = {
        "file": np.arange(n),
        "uncertain": own.uncertain,
        "disputed": all_of_them.disputed,
        "wrong": own.confidently_wrong,
    }[values["order"]]
    return Shown(bundle, data, judged, everyone, order[kept[order]])


def first_page() -> None:
    """Other clips are asked for: from the first card on."""
    linked.set_to(PAGE, page=1)


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
    st.subheader("Which clips are alike", anchor=False)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.segmented_control(
            "Colour",
            list(COLOURS),
            key=linked.widget(PAGE, "colour"),
            required=True,
            format_func=COLOURS.__getitem__,
            wrap=True,
            help="Uncertainty is the total one, H(q̄) = −Σ q̄_c log q̄_c, of who judges.",
        )
        st.segmented_control(
            "Map",
            list(MAPS),
            key=linked.widget(PAGE, "map"),
            required=True,
            format_func=MAPS.__getitem__,
            help="**PCA**: the two directions of most variance; distances mean something.  \n"
            "**t-SNE**: neighbours stay neighbours, distances mean nothing; made once, in a few seconds.",
        )
    bundle, data, theme = shown.bundle, shown.data, widgets.theme()
    try:
        laid = projected(bundle.digest, values["map"], data.embeddings)
    except UserError as error:
        st.warning(widgets.plain(f"{error}. This is the PCA map."))
        laid = projected(bundle.digest, "pca", data.embeddings)
    kept = np.zeros(len(data.clips), bool)
    kept[shown.listed] = True
    colour = values["colour"]
    colours: list[str] | np.ndarray
    if colour == "class":
        colours = dataset_charts.class_colours(data.labels, bundle.classes)
        tables.legend(dataset_charts.class_legend(bundle.classes))
    elif colour == "error":
        colours = dataset_charts.right_or_wrong(shown.wrong, theme)
    elif colour == "uncertainty":
        colours = shown.judged.uncertainties["total"]
    else:
        colours = data.folds.astype(float)
    hover = [
        f"<b>{words.drawn(words.readable(shown.truth(i)))}</b>"
        + (f"<br>called {words.drawn(shown.called(i))}" if shown.wrong[i] else "")
        + f"<br>{words.drawn(data.clips[i].name)}, fold {data.folds[i]}"
        for i in range(len(data.clips))
    ]
    names = [clip.name for clip in data.clips]
    chosen = names.index(values["clip"]) if values["clip"] else None
    drawn = dataset_charts.embedding_map(
        laid.points,
        hover,
        colours,
        shown.wrong,
        kept,
        theme,
        chosen=chosen,
        scale_title={"uncertainty": "H(q̄), nats", "fold": "fold"}.get(colour, ""),
    )
    st.plotly_chart(
        drawn,
        theme=None,
        key="dataset.points",
        on_select=lambda: point_pressed(names),
        selection_mode="points",
        config={"displayModeBar": False, "scrollZoom": False},
        alt=f"Map of the embeddings of {len(names)} clips; {int(shown.wrong.sum())} of them are errors.",
    )
    held = "" if laid.explained is None else f", {words.percent(laid.explained)} of the variance"
    st.caption(
        widgets.plain(
            f"{MAPS[laid.method]} of standardised {bundle.embedder} embeddings "
            f"({data.embeddings.shape[1]} numbers a clip){held}. Crosses: errors of "
            f"{shown.judged.contender.title}. Press a point to hear it. {compare_views.basis(bundle)}"
        )
    )


def point_pressed(names: Sequence[str]) -> None:
    """Open the clip of a point of the map."""
    points = st.session_state["dataset.points"].selection.points
    index = points[0].get("customdata") if points else None
    if isinstance(index, int) and 0 <= index < len(names):
        open_clip(names[index])


def open_clip(name: str) -> None:
    """Show one clip, and play it."""
    linked.set_to(PAGE, clip=name)
    st.session_state["dataset.play"] = True


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
        "unsure",
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
    st.subheader("What there is", anchor=False)
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
    st.caption(
        widgets.plain(
            f"n = {len(data.clips):,} clips from {len(set(sources)):,} recordings. "
            f"{leak if len(numbers) > 1 else ''} {made.licence}. {made.citation}"
        )
    )


CLIPS = (
    Column("clip", ""),
    Column("class", ""),
    Column("called", ""),
    Column("probability", ""),
    Column("right", ""),
    Column("fold", ""),
    Column("source", ""),
    *(Column(name, "") for name in selective.MEASURES),
)


def the_list(shown: Shown, values: dict[str, Any]) -> None:
    """Cards of the clips that the filters keep."""
    st.subheader("The clips", anchor=False)
    st.segmented_control(
        "Order",
        list(ORDERS),
        key=linked.widget(PAGE, "order"),
        required=True,
        format_func=ORDERS.__getitem__,
        wrap=True,
        on_change=first_page,
        help="**Most uncertain**: largest H(q̄) of who judges.  \n**Most disputed**: all experts of the "
        "bundle name the most different classes; of equals the larger H(q̄) − mean H(q_i).  \n"
        "**Confidently wrong**: errors of who judges, by the probability max p that it gave them.",
    )
    n = len(shown.listed)
    if not n:
        empty(shown, values)
        return
    pages = -(-n // CARDS)
    page = min(values["page"], pages)
    part = shown.listed[(page - 1) * CARDS : page * CARDS]
    at_hand = recordings.at_hand(shown.bundle)
    with st.spinner("Drawing the clips …"):
        cards = [card(shown, int(index), at_hand) for index in part]
    gallery.show(cards, open_clip, key="dataset.cards")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Previous",
            disabled=page == 1,
            icon=":material/arrow_back:",
            on_click=lambda: linked.set_to(PAGE, page=page - 1),
        )
        st.button(
            "Next",
            disabled=page == pages,
            icon=":material/arrow_forward:",
            icon_position="right",
            on_click=lambda: linked.set_to(PAGE, page=page + 1),
        )
        st.markdown(
            f"{(page - 1) * CARDS + 1:,}–{(page - 1) * CARDS + len(part):,} of {n:,}", width="content"
        )
        tables.download(CLIPS, rows_of(shown), "clips")
    pictures = (
        "Pictures: log-mel spectrograms, 0–11 kHz, 80 dB."
        if at_hand
        else f"The recordings of {shown.bundle.provenance.dataset} are not on this machine: pictures are of "
        "the embeddings, standardised, and there is nothing to hear."
    )
    st.caption(
        widgets.plain(
            f"{pictures} Judged by {shown.judged.contender.title}; {compare_views.basis(shown.bundle)}"
        )
    )


def empty(shown: Shown, values: dict[str, Any]) -> None:
    """Why the list is empty, and a way on."""
    if values["order"] == "wrong" and not shown.wrong.any():
        st.info(f"{widgets.plain(shown.judged.contender.title)} makes no errors here.")
    else:
        st.info("No clip is left by these filters.")
    everything = {"class": "", "called": "", "fold": "", "source": "", "order": "file", "page": 1}
    st.button("Show all clips", on_click=lambda: linked.set_to(PAGE, **everything))


def rows_of(shown: Shown) -> list[dict[str, Any]]:
    """The listed clips as a table's rows."""
    data, judged = shown.data, shown.judged
    return [
        {
            "clip": data.clips[i].name,
            "class": shown.truth(i),
            "called": shown.bundle.classes[int(judged.predicted[i])],
            "probability": shown.probability(i),
            "right": int(judged.correct[i]),
            "fold": int(data.folds[i]),
            "source": data.clips[i].source,
            **{name: float(values[i]) for name, values in judged.uncertainties.items()},
        }
        for i in map(int, shown.listed)
    ]


def card(shown: Shown, index: int, at_hand: dict[str, Any]) -> Card:
    """A clip's card."""
    clip, theme = shown.data.clips[index], widgets.theme()
    picture = recordings.thumbnail(at_hand[clip.name], theme) if clip.name in at_hand else None
    if picture is None:
        picture = recordings.embedding_picture(shown.bundle.digest, index, theme, shown.data.embeddings)
    share = words.percent(shown.probability(index))
    wrong = bool(shown.wrong[index])
    return Card(
        id=clip.name,
        title=words.capital(words.readable(shown.truth(index))),
        note=f"called {shown.called(index)}, {share}" if wrong else f"right, {share}",
        detail=clip.name,
        colour=palette.class_colour(shown.bundle.classes, shown.truth(index)),
        wrong=wrong,
        picture=picture,
    )


def close_clip() -> None:
    """The drawer was closed."""
    linked.set_to(PAGE, clip="")


def the_clip(shown: Shown) -> None:
    """A drawer with one clip: hear it, see it, what everybody says of it, and where to go from there."""
    st.dialog("One clip", width="medium", position="right", on_dismiss=close_clip)(one_clip)(shown)


def one_clip(shown: Shown) -> None:
    """What is in the drawer; the clip is the session's, so that going on draws only the drawer again."""
    bundle, data = shown.bundle, shown.data
    names = [clip.name for clip in data.clips]
    name = st.session_state[linked.widget(PAGE, "clip")]
    if name not in names:
        st.info("This clip is not in the data set any more.")
        return
    index = names.index(name)
    linked.moved(PAGE, "clip", name)
    around(shown, index)
    decision = Contender("", bundle.settings()).decision(bundle, data.voices.at(index))
    truth = shown.truth(index)
    share = words.percent(shown.probability(index))
    said = f"{shown.judged.contender.title} calls it {shown.called(index)}, {share}"
    verdict = "Wrong" if shown.wrong[index] else "Right"
    widgets.verdict_block(
        Verdict(
            words.capital(words.readable(truth)),
            f"{verdict}: {said}. {who_says(decision)}",
            refused=False,
        ),
        palette.class_colour(bundle.classes, truth),
    )
    at_hand = recordings.at_hand(bundle)
    hear(name, at_hand, bundle)
    widgets.figure(
        charts.opinions(decision, widgets.theme(), 6),
        alt=f"Probability of each class by expert. {who_says(decision)}",
        key="dataset.opinions",
    )
    st.caption(
        widgets.plain(
            "Per cent. Bold: in the bundle’s mixture, ● answers. n = 1 clip, judged by experts that had not "
            f"heard it (out of fold, seed {bundle.provenance.seeds[0]}); {widgets.how(bundle)}."
        )
    )
    facts(shown, index)
    with st.container(horizontal=True):
        link = compare_views.link_of(bundle)
        if name in at_hand:
            st.page_link(
                widgets.PAGES / "listen.py",
                label="Open in Listen",
                icon=":material/hearing:",
                query_params={**link, "clip": name},
            )
        st.page_link(
            widgets.PAGES / "compare.py",
            label="Compare formats on it",
            icon=":material/compare_arrows:",
            query_params={**link, "view": "clip", "clip": name},
        )


def who_says(decision: Decision) -> str:
    """How many experts say what, the most frequent first."""
    said: dict[str, list[str]] = {}
    for expert in decision.experts:
        said.setdefault(words.readable(expert.label), []).append(expert.name)
    if len(said) == 1:
        return f"All {words.number(len(decision.experts))} experts say {next(iter(said))}."
    ranked = sorted(said.items(), key=lambda item: -len(item[1]))
    first, names = ranked[0]
    rest = "".join(f", {words.listed(others)} {label}" for label, others in ranked[1:])
    verb = "says" if len(names) == 1 else "say"
    return (
        f"Of {words.number(len(decision.experts))} experts, {words.number(len(names))} {verb} {first}{rest}."
    )


def around(shown: Shown, index: int) -> None:
    """To the clip before and after, in the order of the list."""
    order = shown.listed.tolist()
    place = order.index(index) if index in order else None
    names = [clip.name for clip in shown.data.clips]

    def go(to: int) -> None:
        open_clip(names[order[to]])

    with st.container(horizontal=True, vertical_alignment="center"):
        before, after = (None, None) if place is None else (place - 1, place + 1)
        st.button(
            "Previous",
            icon=":material/arrow_back:",
            disabled=not place,
            on_click=go,
            args=(before,),
            key="dataset.before",
        )
        st.button(
            "Next",
            icon=":material/arrow_forward:",
            icon_position="right",
            disabled=place is None or place == len(order) - 1,
            on_click=go,
            args=(after,),
            key="dataset.after",
        )
        if place is not None:
            st.markdown(f"{place + 1:,} of {len(order):,}", width="content")


def hear(name: str, at_hand: dict[str, Any], bundle: Bundle) -> None:
    """Player and spectrogram, where the recording is at hand."""
    if name not in at_hand:
        st.caption(
            widgets.plain(
                f"The recordings of {bundle.provenance.dataset} are not on this machine, so there is nothing "
                "to hear; what is shown comes from the embedding."
            )
        )
        return
    try:
        heard = recordings.heard(at_hand[name])
    except UserError as error:
        st.warning(widgets.plain(str(error)))
        return
    st.audio(str(at_hand[name]), autoplay=st.session_state.pop("dataset.play", False))
    widgets.figure(
        charts.spectrogram(
            heard.spectrogram, (0.0, charts.frames_span(heard.spectrogram.shape[1])), widgets.theme()
        ),
        alt=f"Log-mel spectrogram of {name}.",
        key="dataset.spectrogram",
    )


FACTS = (
    Column("what", "uncertainty", number=False),
    Column(
        "value",
        "value",
        meaning="; ".join(
            f"{compare_views.MEASURES[name]}: {text}" for name, text in selective.MEASURES.items()
        ),
    ),
    Column("place", "among all clips", number=False),
)


def facts(shown: Shown, index: int) -> None:
    """How uncertain, and where it comes from."""
    rows = []
    for name, values in shown.judged.uncertainties.items():
        value = float(values[index])
        rows.append(
            {
                "what": compare_views.MEASURES[name],
                "value": f"{value:.3g}",
                "place": words.compared(value, np.sort(values)).removesuffix(" of the default set’s clips"),
            }
        )
    tables.table(FACTS, rows, name="uncertainty", title="Uncertainty of the clip")
    clip = shown.data.clips[index]
    same = sum(other.source == clip.source for other in shown.data.clips)
    fold = f"fold {shown.data.folds[index]}, " if shown.data.folds.any() else ""
    st.markdown(
        widgets.plain(f"{clip.name}: {fold}cut from recording {clip.source}")
        + (f", as are {same - 1} others." if same > 2 else ", as is one other." if same == 2 else ".")
    )
    if same > 1 and st.button("Show all clips of this recording"):
        linked.set_to(PAGE, source=clip.source, clip="", page=1)
        st.rerun()


dataset()
