"""Compare: confusion matrices, F1 of each class, the most frequent confusions, and agreement of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import streamlit as st

from dashboard.charts import compare as compare_charts
from dashboard.charts.palette import Look
from dashboard.session import linked
from dashboard.views import tables, widgets, words
from dashboard.views.compare import PAGE, basis, legend, link_of, titled
from dashboard.views.tables import Column
from qmoe_core import numbers
from qmoe_core.bundles import Bundle
from qmoe_core.evaluation import classification, contenders
from qmoe_core.evaluation.contenders import Judged
from qmoe_core.numbers import decimals, percents


def errors(judged: Sequence[Judged], looks: dict[str, Look], bundle: Bundle, values: dict[str, Any]) -> None:
    """Confusion matrices, F1 of each class, the most frequent confusions."""
    st.subheader("Confusion matrices", anchor=False)
    names = [one.contender.name for one in judged]
    st.selectbox(
        "Show",
        list(dict.fromkeys(["", *names, values["minus"]])),
        key=linked.widget(PAGE, "minus"),
        format_func=lambda name: f"the change from {titled(name, bundle)}" if name else "counts of clips",
        width=320,
        help="Rows are the true classes, columns the predicted ones; off the diagonal are the errors.",
    )
    matrices(judged, bundle, values["minus"])
    left, right = st.columns([3, 2], gap="large")
    with left:
        f1_of_classes(judged, looks, bundle)
    with right:
        confusions(judged, bundle)


def matrices(judged: Sequence[Judged], bundle: Bundle, minus: str) -> None:
    """A confusion matrix of each, or its difference from that of the contender `minus`."""
    theme, classes = widgets.theme(), bundle.classes
    reference = contenders.parse(minus, bundle) if minus else None
    against = None
    if reference and bundle.dataset is not None:
        against = contenders.judge(reference, bundle, bundle.dataset).confusion
    drawn = [one for one in judged if reference is None or one.contender.name != reference.name]
    off = ~np.eye(len(classes), dtype=bool)
    shown = [one.confusion * off if against is None else np.abs(one.confusion - against) for one in drawn]
    most = max((int(matrix.max()) for matrix in shown), default=1)
    across = 4 if len(drawn) % 4 == 0 else 3  # no matrix alone in a row where that can be had
    for start in range(0, len(drawn), across):
        row = drawn[start : start + across]
        for column, one in zip(st.columns(across, gap="small"), row, strict=False):
            name = one.contender.title
            column.markdown(f"**{widgets.plain(name)}**: {one.errors} errors")
            figure = (
                compare_charts.confusion(one.confusion, classes, theme, most)
                if against is None
                else compare_charts.confusion_change(one.confusion, against, classes, theme, most)
            )
            with column:
                alt = f"Confusion matrix of {name}: {worst_pair(one, bundle)}"
                widgets.figure(figure, alt=alt, key=f"cm:{name}")
    told = (
        "Rows: true class; columns: predicted class. Errors are coloured, all matrices alike; the diagonal, "
        "what was right, is grey."
        if against is None
        else "Clips more or fewer than there; teal is for the better, orange for the worse."
    )
    widgets.caption(f"{told} {basis(bundle)}")


def f1_of_classes(judged: Sequence[Judged], looks: dict[str, Look], bundle: Bundle) -> None:
    """F1 of each class as a figure and a file."""
    classes = bundle.classes
    st.subheader("F1 of each class", anchor=False)
    legend(judged, looks)
    f1 = {one.contender.name: classification.class_f1(one.confusion) for one in judged}
    hardest = classes[int(np.mean(list(f1.values()), axis=0).argmin())]
    widgets.figure(
        compare_charts.class_f1(f1, looks, classes, widgets.theme()),
        alt=f"F1 of each class by format and mixture. The hardest is {words.readable(hardest)}.",
    )
    widgets.caption(f"F1 = 2·TP / (2·TP + FP + FN), the hardest class on top. {basis(bundle)}")
    columns = [Column("class", "class", number=False), *(Column(name, name) for name in f1)]
    rows = [{"class": c} | {n: float(row[i]) for n, row in f1.items()} for i, c in enumerate(classes)]
    tables.download(columns, rows, "class-f1")


def worst_pair(one: Judged, bundle: Bundle) -> str:
    """The most frequent confusion, in words."""
    wrong = one.confusion * ~np.eye(len(bundle.classes), dtype=bool)
    truth, called = np.unravel_index(int(wrong.argmax()), wrong.shape)
    if not wrong[truth, called]:
        return "no errors."
    return (
        f"the most frequent error is {words.readable(bundle.classes[truth])} called "
        f"{words.readable(bundle.classes[called])}, {wrong[truth, called]} times."
    )


def confusions(judged: Sequence[Judged], bundle: Bundle) -> None:
    """The most frequent confusions, each a way to the clips."""
    st.subheader("The most frequent confusions", anchor=False)
    off = ~np.eye(len(bundle.classes), dtype=bool)
    total = np.sum([one.confusion * off for one in judged], axis=0)
    order = [int(i) for i in np.argsort(-total, axis=None, kind="stable")[:8] if total.flat[i]]
    if not order:
        st.markdown("None of them makes an error.")
        return
    rows = []
    titles = [one.contender.title for one in judged]
    for place in order:
        truth, called = divmod(place, len(bundle.classes))
        counts = {one.contender.name: int(one.confusion[truth, called]) for one in judged}
        most = max(judged, key=lambda one: counts[one.contender.name])
        rows.append({"class": bundle.classes[truth], "called": bundle.classes[called], **counts})
        said = " · ".join(str(counts[one.contender.name]) for one in judged)
        st.page_link(
            widgets.PAGES / "dataset.py",
            label=f"**{widgets.plain(words.capital(words.readable(bundle.classes[truth])))}** called "
            f"**{widgets.plain(words.readable(bundle.classes[called]))}**: {widgets.plain(said)}",
            query_params={
                **link_of(bundle),
                "class": bundle.classes[truth],
                "called": bundle.classes[called],
                "by": most.contender.name,
            },
        )
    widgets.caption(
        f"Number of clips: {' · '.join(titles)}. Each line opens its clips on the Dataset page, as "
        "judged by who errs most."
    )
    columns = [Column("class", "", number=False), Column("called", "", number=False)]
    tables.download([*columns, *(Column(one.contender.name, "") for one in judged)], rows, "confusions")


def agreement(judged: Sequence[Judged], bundle: Bundle, values: dict[str, Any]) -> None:
    """Which of them say the same."""
    st.subheader("Agreement of predictions", anchor=False)
    if len(judged) < 2:
        st.info("It takes two to agree: choose another format or mixture above.")
        return
    widgets.one_of(
        PAGE,
        "pairs",
        "Measured as",
        {"share": "share of clips", "kappa": "Cohen’s κ"},
        "**Share**: of the clips that both call the same, mean of [ŷ_i = ŷ_j].  \n**κ** = (share − "
        "chance) / (1 − chance): what is beyond the agreement that habits alone would give; 1 is always.",
    )
    kappa = values["pairs"] == "kappa"
    found = classification.agreement(np.stack([one.predicted for one in judged]), len(bundle.classes))
    matrix = found.kappa if kappa else found.share
    titles = [one.contender.title for one in judged]
    pairs = [(float(found.share[i, j]), i, j) for i in range(len(titles)) for j in range(i)]
    (most, a, b), (least, c, d) = max(pairs), min(pairs)
    n = len(judged[0].predicted)
    sentence = f"{titles[b]} and {titles[a]} agree most: on {round(most * n)} of {n} clips."
    if len(pairs) > 1:
        sentence += f" Least alike are {titles[d]} and {titles[c]}: {round(least * n)}."
    st.markdown(f"**{widgets.plain(sentence)}**")
    left, right = st.columns([3, 2], gap="large")
    with left:
        widgets.figure(
            compare_charts.agreement(matrix, titles, widgets.theme(), kappa),
            alt=f"Agreement of pairs. {sentence}",
        )
        widgets.caption(basis(bundle))
    with right:
        whole = np.stack([one.predicted for one in judged])
        same = int((whole == whole[0]).all(axis=0).sum())
        all_wrong = int(np.all([~one.correct for one in judged], axis=0).sum())
        some = int(np.any([one.correct for one in judged], axis=0).sum())
        st.markdown(
            f"All {numbers.number(len(judged))} give the same label to **{same}** of {n} clips. "
            f"**{all_wrong}** clips are wrong by all of them: no choice among these would answer those. "
            f"A choice that always knew who is right would reach **{100 * some / n:.1f} %**."
        )
        rows = [
            {
                "a": titles[j],
                "b": titles[i],
                "share": float(found.share[i, j]),
                "kappa": float(found.kappa[i, j]),
            }
            for _, i, j in sorted(pairs)
        ]
        tables.table(AGREEMENT, rows, name="agreement", title="Agreement of pairs, the least alike first")


AGREEMENT = (
    Column("a", "Format or mixture", number=False),
    Column("b", "and", number=False),
    Column(
        "share",
        "alike",
        percents(1),
        "Share of clips both call the same: mean of [ŷ_a = ŷ_b].",
    ),
    Column(
        "kappa",
        "κ",
        decimals(3),
        "Cohen’s κ = (share − chance) / (1 − chance), chance from how often each predicts each class.",
    ),
)
