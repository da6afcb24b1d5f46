"""Formats: everything against bits, and the values that the weights take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import streamlit as st

from dashboard.charts import formats as format_charts
from dashboard.session.measured import Kept
from dashboard.views import tables, widgets, words
from dashboard.views.tables import Column, Html
from qmoe_core.bundles import Bundle
from qmoe_core.errors import UserError
from qmoe_core.evaluation import pareto
from qmoe_core.evaluation.formats import Format, WeightGrid, weight_grids
from qmoe_core.evaluation.pareto import Budget
from qmoe_core.experts.spec import EXPERTS, NAMES
from qmoe_core.numbers import amount, decimals, percents, three

PAPER_SHARES = {"q1": 98.3, "q2": 95.5, "q4": 99.9, "q8": 99.8, "q16": 100.0}
"""Per cent of the 16-bit F1 on ESC-50, the paper's Table 2."""


COLUMNS = (
    Column("name", "Format", tables.expert, words.FORMATS, number=False),
    Column("bits", "bits", meaning="Bits that a stored weight takes."),
    Column("f1", "F1", meaning=r"Weighted $F_1 = \frac{2\,TP}{2\,TP+FP+FN}$ out of fold, ± deviation."),
    Column("share_of_16bit", "% of 16-bit", meaning=r"$F_1 / F_1^{16}$, as in the paper’s Table 2."),
    Column(
        "paper_share",
        "paper’s, %",
        decimals(1),
        r"The paper’s $F_1 / F_1^{16}$ on ESC-50, per cent.",
    ),
    Column("bytes", "head, size", lambda v: amount("bytes", v), "Bytes of the files that must be carried."),
    Column("p50_us", "head, median, µs", three, r"Half of the calls take at most so long, $t_{0.5}$."),
    Column("p95_us", "head, p95, µs", three, r"95 % of the calls take at most so long, $t_{0.95}$."),
    Column("p99_us", "head, p99, µs", three, r"99 % of the calls take at most so long, $t_{0.99}$."),
    Column(
        "energy_mj",
        "head, mJ",
        lambda v: f"{v:.3g}",
        r"Gross energy of a call, $E = P \cdot t$: measured by a meter, or modelled.",
    ),
    Column("fits", "fits", number=False, meaning="Whether it keeps to your budget, and if not, why."),
)

MORE = ("f1_std", "n", "energy_source", "co2_ug", "std_us", *(f"f1_fold_{i}" for i in range(1, 6)))
"""What the CSV has beside the columns on screen."""


def the_table(candidates: Sequence[Format], budget: Budget, choice: pareto.Choice, bundle: Bundle) -> None:
    """Every format with its figures; what does not fit is greyed out and says why."""
    rows = []
    for one in candidates:
        why = choice.misfits.get(one.name, ())
        rows.append(
            {
                **one.to_json(),
                "paper_share": PAPER_SHARES.get(one.name),
                "fits": "; ".join(why) or "yes",
                "dim": bool(why),
                "mark": one is choice.format,
                **{f"f1_fold_{i}": value for i, value in enumerate(one.f1_folds, start=1)},
            }
        )
    pairs = {"f1": ("f1", "f1_std"), "energy_mj": ("energy_mj", "energy_source")}
    shown = [
        row | {key: (row[a], row[b]) for key, (a, b) in pairs.items() if row[a] is not None} for row in rows
    ]
    forms: dict[str, Callable[[Any], str]] = {
        "f1": lambda pair: Html(f"{pair[0]:.3f} <small>± {pair[1]:.3f}</small>"),
        "energy_mj": lambda pair: Html(f"{pair[0]:.3g} <small>{escape(pair[1])}</small>"),
        "share_of_16bit": percents(1),
    }
    columns = [
        Column(c.key, c.title, forms.get(c.key, c.form), c.meaning, c.number)
        for c in COLUMNS
        if any(row.get(c.key) is not None for row in rows)
    ]
    file = ([Column(key, "") for key in (*(c.key for c in COLUMNS), *MORE)], rows)
    title = "Formats with their figures"
    tables.table(columns, shown, name="formats", title=title, label="Formats", file=file)


def the_bits(bundle: Bundle, found: list[Format], latency: Kept | None, energy: Kept | None) -> None:
    """Everything against bits."""
    st.subheader("F1 and costs against bits", anchor=False)
    singles = [one for one in found if one.kind == "expert"]
    said = "; ".join(f"{one.name} F1 {one.f1:.3f}, {amount('bytes', one.bytes)}" for one in singles)
    widgets.figure(
        format_charts.ladder(found, widgets.theme()),
        alt=f"F1, size, latency and energy against bits. {said}.",
        key="ladder",
    )
    n = max(one.n for one in singles)
    notes = [
        f"F1: mean ± deviation over n = {n} folds × seeds; rings are the folds of the first seed. "
        f"{words.capital(widgets.how(bundle))}."
    ]
    if latency:
        notes.append(f"Latency: n = {latency.n:,} calls. {latency.basis(bundle)}")
    if energy:
        notes.append(f"Energy: {energy.basis(bundle)}")
    widgets.caption(" ".join(notes))


@st.cache_data(max_entries=16, show_spinner="Reading the weights …")
def _grids(digest: str, layer: int, _bundle: Bundle) -> list[WeightGrid]:
    return weight_grids(_bundle, layer)


def the_grids(bundle: Bundle, found: Sequence[Format]) -> None:
    """The 2-bit cliff as a picture: what values the weights may take, and how many are nothing at all."""
    st.subheader("Weight values of each format", anchor=False)
    try:
        grids = _grids(bundle.digest, 0, bundle)
    except UserError as error:
        widgets.error(error)
        return
    left, right = st.columns([3, 2], gap="large")
    grids = sorted(grids, key=lambda grid: (EXPERTS[grid.name].bits, NAMES.index(grid.name)))
    with left:
        widgets.figure(
            format_charts.grids(grids, widgets.theme()),
            alt="Values of the weights of the first hidden layer by format: "
            + "; ".join(f"{grid.name}: {format_charts.uses(grid)}" for grid in grids)
            + ".",
            key="grids",
        )
        weights = bundle.manifest.dim * bundle.config.expert.hidden[0]
        widgets.caption(
            f"The first hidden layer of this bundle’s experts, n = {weights:,} weights each; ticks are "
            "the levels a format has. Each row is as high as its most frequent value."
        )
    with right:
        st.markdown(explanation({grid.name: grid for grid in grids}, {one.name: one for one in found}))
        st.latex(r"W_q = \mathrm{clip}\Big(\mathrm{round}\big(\tfrac{W}{s}\big), -2^{k-1}, 2^{k-1}-1\Big)")
        st.latex(r"s = \frac{\max|W|}{2^{k-1}-1}")
        st.caption("Eq. 2. At k = 2 the step s is the largest weight itself.")


def explanation(grids: dict[str, WeightGrid], found: dict[str, Format]) -> str:
    """What the picture shows, with this bundle's numbers, in Markdown."""
    parts = []
    if q2 := grids.get("q2"):
        parts.append(
            "With two bits, Eq. 2 takes its step from the **largest** weight, so what is below half of it "
            f"rounds to nothing: **{100 * q2.zeros:.0f} % of the weights are zero**, the code −2 is never "
            f"used, and the entropy of a weight is {q2.entropy_bits:.2f} bit."
        )
        if q1 := grids.get("q1"):
            less = "less" if q2.entropy_bits < q1.entropy_bits else "more"
            parts.append(f"That is {less} than the one bit of a plain sign ({q1.entropy_bits:.2f}).")
    if bitnet := grids.get("bitnet"):
        parts.append(
            f"BitNet’s threshold and scale are learned for each output channel: {100 * bitnet.zeros:.0f} % "
            f"zeros, {bitnet.entropy_bits:.2f} bits of entropy, of at most log₂ 3 = 1.58."
        )
    if q4 := grids.get("q4"):
        parts.append(f"With four bits: {100 * q4.zeros:.0f} % zeros, entropy {q4.entropy_bits:.1f} bits.")
    two = found.get("q2")
    if two and two.share_of_16bit:
        here = 100 * two.share_of_16bit
        cliff = "There is no cliff here" if here > 98 else "The cliff is here too"
        parts.append(
            f"\n\n**{cliff}**: q2 keeps {here:.1f} % of the 16-bit F1 on these clips; on the paper’s ESC-50 "
            f"it keeps {PAPER_SHARES['q2']} %."
        )
    return " ".join(parts)
