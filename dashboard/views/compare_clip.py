"""Compare: the answers of all contenders to one clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import streamlit as st

from dashboard.charts import compare as compare_charts
from dashboard.charts import decision as shared_charts
from dashboard.charts.palette import Look
from dashboard.session import linked, recordings
from dashboard.views import tables, widgets, words
from dashboard.views.compare import PAGE
from dashboard.views.tables import Column
from qmoe_core import numbers
from qmoe_core.bundles import Bundle, BundleDataset
from qmoe_core.errors import UserError
from qmoe_core.evaluation.contenders import Contender
from qmoe_core.numbers import decimals, percents

LAST_HEARD = "heard on Listen"

ANSWERS = (
    Column("name", "Format or mixture", number=False),
    Column("label", "label", number=False),
    Column("probability", "probability", percents(0), "Probability of its answer: max p."),
    Column(
        "right",
        "right",
        lambda v: "–" if v is None else "yes" if v else "no",
        "Whether that is what the clip is.",
    ),
    Column("total", "H, nats", decimals(3), "How undecided it is: H(q̄) = −Σ q̄_c log q̄_c."),
    Column(
        "epistemic",
        "epistemic",
        decimals(4),
        "How much the experts of a mixture differ: H(q̄) − mean H(q_i), nats.",
    ),
    Column(
        "answers", "who answers", meaning="The experts of a mixture that the routing chose.", number=False
    ),
)


def one_clip(
    compared: Sequence[Contender],
    looks: dict[str, Look],
    bundle: Bundle,
    data: BundleDataset,
    values: dict[str, Any],
) -> None:
    """Predictions for one clip."""
    st.subheader("Predictions for one clip", anchor=False)
    example = st.session_state.get("example")
    clips = {clip.name: i for i, clip in enumerate(data.clips)}
    st.selectbox(
        "Clip",
        [LAST_HEARD, *clips],
        key=linked.widget(PAGE, "clip"),
        format_func=lambda name: clip_title(name, bundle, data, clips),
        help="A clip of the default set, classified by experts that were not trained on it; type to search.",
    )
    truth = None
    if values["clip"] == LAST_HEARD:
        if example is None or example.decision.classes != bundle.classes:
            st.info("No sound was judged on Listen with these classes yet.")
            st.page_link(widgets.PAGES / "listen.py", label="Open Listen")
            return
        rows, shares, shown = heard_there(example, compared)
        if not shown:
            st.info("Of that sound only single experts’ answers are kept. Choose an expert above.")
            return
        said = f"n = 1 sound, {example.name}, judged by the experts as served; {widgets.how(bundle)}."
    else:
        index = clips[values["clip"]]
        truth = int(data.labels[index])
        outputs = data.outputs.at(index)
        decisions = [contender.decision(bundle, outputs) for contender in compared]
        rows = [answer_row(c, d, bundle.classes[truth]) for c, d in zip(compared, decisions, strict=True)]
        shares, shown = np.stack([d.probabilities for d in decisions]), list(compared)
        said = (
            f"n = 1 clip, {values['clip']}, classified by experts that were not trained on it (out of fold, "
            f"seed "
            f"{bundle.provenance.seeds[0]}); {widgets.how(bundle)}."
        )
    left, right = st.columns([3, 2], gap="large")
    with left:
        titles = [contender.title for contender in shown]
        summary = "; ".join(f"{row['name']}: {row['label']} {row['probability']:.0%}" for row in rows)
        widgets.figure(
            compare_charts.answers(shares, titles, bundle.classes, truth, widgets.theme()),
            alt=f"Probability of each class by format and mixture. {summary}.",
        )
        bold = " Bold: what the clip is." if truth is not None else ""
        widgets.caption(f"Per cent.{bold} {said}")
    if truth is not None:
        with right:
            play(values["clip"], bundle)
    marks = [looks[contender.name].css for contender in shown]
    tables.table(ANSWERS, rows, name="clip", title="Predictions of each", marks=marks)


def clip_title(name: str, bundle: Bundle, data: BundleDataset, clips: dict[str, int]) -> str:
    """A clip's class and name."""
    if name not in clips:
        return "the last sound of Listen"
    return f"{words.readable(bundle.classes[int(data.labels[clips[name]])])}: {name}"


def answer_row(contender: Contender, decision: Any, truth: str | None) -> dict[str, Any]:
    """What one contender says, as a row."""
    chosen = [expert.name for expert in decision.experts if expert.selected]
    return {
        "name": contender.title,
        "label": words.readable(decision.label),
        "probability": decision.probability,
        "right": None if truth is None else decision.label == truth,
        "total": decision.uncertainty.total,
        "epistemic": None if contender.single else decision.uncertainty.epistemic,
        "answers": None if contender.single else numbers.listed(chosen),
    }


def heard_there(
    example: Any, compared: Sequence[Contender]
) -> tuple[list[dict[str, Any]], np.ndarray, list[Contender]]:
    """What single experts said of the sound heard on Listen; its mixture is the one set there."""
    said = {expert.name: expert for expert in example.decision.experts}
    shown = [contender for contender in compared if contender.single and contender.name in said]
    rows, shares = [], []
    for contender in shown:
        expert = said[contender.name]
        rows.append(
            {
                "name": contender.title,
                "label": words.readable(expert.label),
                "probability": float(expert.probabilities.max()),
            }
        )
        shares.append(expert.probabilities)
    return rows, np.array(shares), shown


def play(clip: str, bundle: Bundle) -> None:
    """The recording, where it is at hand."""
    path = recordings.at_hand(bundle).get(clip)
    if path is None:
        st.caption("Its recording is not on this machine; what is shown comes from its embedding.")
        return
    try:
        heard = recordings.heard(path)
    except UserError as error:
        widgets.warning(error)
        return
    st.audio(str(path))
    widgets.figure(
        shared_charts.spectrogram(
            heard.spectrogram, (0.0, shared_charts.frames_span(heard.spectrogram.shape[1])), widgets.theme()
        ),
        alt=f"Log-mel spectrogram of {clip}.",
    )
