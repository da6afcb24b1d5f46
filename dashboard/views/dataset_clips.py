"""Dataset: the list of clips as cards, and one clip in a drawer."""

from __future__ import annotations

from typing import Any

import numpy as np
import streamlit as st

from dashboard.charts import decision as charts
from dashboard.charts import palette
from dashboard.components import gallery
from dashboard.components.gallery import Card
from dashboard.session import linked, recordings
from dashboard.views import compare as compare_views
from dashboard.views import tables, widgets, words
from dashboard.views.dataset_shown import CARDS, ORDERS, PAGE, Shown, first_page, open_clip
from dashboard.views.tables import Column
from dashboard.views.words import Verdict
from qmoe_core import numbers
from qmoe_core.bundles import Bundle
from qmoe_core.decision import Decision
from qmoe_core.errors import UserError
from qmoe_core.evaluation import selective
from qmoe_core.evaluation.contenders import Contender

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
    widgets.one_of(
        PAGE,
        "order",
        "Order",
        ORDERS,
        "**Most uncertain**: largest H(q̄) of who judges.  \n**Most disputed**: all experts of the "
        "bundle name the most different classes; of equals the larger H(q̄) − mean H(q_i).  \n"
        "**Confidently wrong**: errors of who judges, by the probability max p that it gave them.",
        on_change=first_page,
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
    widgets.caption(
        f"{pictures} Judged by {shown.judged.contender.title}; {compare_views.basis(shown.bundle)}"
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
    share = numbers.percent(shown.probability(index))
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
    decision = Contender("", bundle.settings()).decision(bundle, data.outputs.at(index))
    truth = shown.truth(index)
    share = numbers.percent(shown.probability(index))
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
    widgets.caption(
        "Per cent. Bold: in the bundle’s mixture, ● answers. n = 1 clip, classified by experts that were "
        f"not trained on it (out of fold, seed {bundle.provenance.seeds[0]}); {widgets.how(bundle)}."
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
        return f"All {numbers.number(len(decision.experts))} experts say {next(iter(said))}."
    ranked = sorted(said.items(), key=lambda item: -len(item[1]))
    first, names = ranked[0]
    rest = "".join(f", {numbers.listed(others)} {label}" for label, others in ranked[1:])
    verb = "says" if len(names) == 1 else "say"
    n = len(decision.experts)
    return f"Of {numbers.number(n)} experts, {numbers.number(len(names))} {verb} {first}{rest}."


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
        widgets.caption(
            f"The recordings of {bundle.provenance.dataset} are not on this machine, so there is nothing "
            "to hear; what is shown comes from the embedding."
        )
        return
    try:
        heard = recordings.heard(at_hand[name])
    except UserError as error:
        widgets.warning(error)
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
