"""Efficiency: controls, and which format answers each of the paper's deployment scenarios."""

from __future__ import annotations

from typing import Any

import streamlit as st

from dashboard.charts import palette
from dashboard.session import measured
from dashboard.session.linked import widget
from dashboard.views import tables, widgets
from dashboard.views.efficiency_controls import PAGE
from dashboard.views.efficiency_costs import energy_panel, latency_panel
from dashboard.views.efficiency_path import before_us, from_the_waveform
from dashboard.views.tables import Column
from dashboard.views.words import Verdict
from qmoe_core.bundles import Bundle
from qmoe_core.evaluation.formats import formats
from qmoe_core.evaluation.scenarios import Answer, answers
from qmoe_core.measure import environment
from qmoe_core.numbers import decimals


@st.cache_data(ttl=5, show_spinner=False)
def machine() -> str:
    """This machine, in a sentence."""
    here = environment.describe()
    extensions = ", ".join(name for name in here["vector_extensions"] if name not in ("fma",))
    load = f"; load now {here['load_average'][0] / here['cores']:.1f} a core" if here["load_average"] else ""
    virtual = ", a virtual machine" if here["virtual_machine"] else ""
    return (
        f"{here['processor']}, {here['cores']} cores{f', {extensions}' if extensions else ''}{virtual}{load}."
    )


def the_deployment(bundle: Bundle, values: dict[str, Any]) -> None:
    """The paper's scenarios, answered from what was measured here."""
    latency, energy = measured.latest("latency", bundle), measured.latest("energy", bundle)
    found = formats(bundle, latency and latency.report, energy and energy.report)
    us = before_us(bundle)
    if us is not None:
        found = from_the_waveform(found, us, energy)
    every = answers(found)
    titles = {answer.scenario.id: answer.scenario.title for answer in every}
    st.pills(
        "What matters most",
        list(titles),
        key=widget(PAGE, "scenario"),
        required=True,
        format_func=titles.__getitem__,
        wrap=True,
        help="The paper’s deployment scenarios: five of its §5.4, four of its §5.3.",
    )
    answer = next(one for one in every if one.scenario.id == values["scenario"])
    left, right = st.columns([3, 2], gap="large")
    with left:
        the_pick(answer)
        if answer.format is None and latency is None:
            latency_panel(bundle, primary=True)
        elif answer.format is None and energy is None and "energy_mj" in answer.scenario.needs:
            energy_panel(bundle, primary=True)
    with right:
        the_paper(answer)
    st.subheader("All scenarios", anchor=False)
    rows = [scenario_row(one) for one in every]
    marked = [row | {"mark": row["id"] == answer.scenario.id} for row in rows]
    file = ([Column(key, "") for key in rows[0]], rows)
    tables.table(
        scenario_columns(us is not None),
        marked,
        name="scenarios",
        title="Scenarios",
        label="Scenarios",
        file=file,
    )
    st.page_link(widgets.PAGES / "formats.py", label="Set your own limits on Formats")
    notes = [
        f"F1: {widgets.how(bundle)}, out of fold.",
        f"Times and energies start at the waveform, {us:,.0f} µs before the head."
        if us is not None
        else "Times and energies are of the head alone until the whole path is measured here, on Formats.",
    ]
    notes += [f"Latency: n = {latency.n:,} calls. {latency.basis(bundle)}"] if latency else []
    notes += [f"Energy: {energy.basis(bundle)}"] if energy else []
    widgets.caption(" ".join(notes))


def the_pick(answer: Answer) -> None:
    """Our answer."""
    one = answer.format
    if one is None:
        widgets.verdict_block(Verdict("Not measured yet", answer.reason, refused=True), "")
        return
    colour = palette.expert_colour(one.name) if one.kind == "expert" else widgets.theme().accent
    sentence = answer.reason.removeprefix(f"{one.name}: ")
    widgets.verdict_block(Verdict(one.name, sentence, refused=False), colour)
    widgets.caption(f"The rule: {answer.scenario.rule[:1].lower()}{answer.scenario.rule[1:]}")


def the_paper(answer: Answer) -> None:
    """What the paper would pick, with its figures, and how that does here."""
    scenario = answer.scenario
    st.markdown(
        f"**The paper would pick**  \n{widgets.plain(scenario.source)}: {widgets.plain(scenario.need)}"
    )
    st.markdown(
        "\n".join(
            f"- **{widgets.plain(pick.model)}**: {widgets.plain(pick.figures)}" for pick in scenario.picks
        )
    )
    if answer.verdict:
        st.markdown(widgets.plain(answer.verdict))
    st.caption(
        "The paper’s times are those of a whole validation phase in its tracker, five values each; ours are "
        "of one call."
    )


def scenario_columns(whole: bool) -> tuple[Column, ...]:
    """Columns of the scenarios' table.

    Args:
        whole: whether costs start at the waveform, or are the head's.
    """
    part = "path" if whole else "head"
    return (
        Column("scenario", "When it must be", number=False),
        Column("format", "ours", tables.expert, number=False),
        Column("f1", "F1", decimals(3), r"Weighted $F_1 = \frac{2\,TP}{2\,TP+FP+FN}$ out of fold."),
        Column(
            "p50_us",
            f"{part}, median, µs",
            lambda value: f"{value:,.3g}",
            "Half of the calls take at most so long, $t_{0.5}$.",
        ),
        Column(
            "bytes",
            "size, kB",
            lambda value: f"{value / 1e3:,.0f}",
            "Bytes of the files that must be carried.",
        ),
        Column(
            "energy_mj",
            f"{part}, mJ",
            lambda value: f"{value:.3g}",
            r"Gross energy of a call, $E = P \cdot t$.",
        ),
        Column("paper", "the paper’s", number=False),
        Column("agrees", "same pick", number=False, meaning="Whether the paper’s pick is ours too."),
    )


def scenario_row(answer: Answer) -> dict[str, Any]:
    """A scenario's answer as a row."""
    one = answer.format
    figures = {key: getattr(one, key) if one else None for key in ("f1", "p50_us", "bytes", "energy_mj")}
    return {
        "id": answer.scenario.id,
        "scenario": answer.scenario.title,
        "format": one.name if one else None,
        **figures,
        "paper": " or ".join(pick.model for pick in answer.scenario.picks),
        "agrees": None if one is None else "yes" if one in answer.paper else "no",
        "rule": answer.scenario.rule,
        "reason": answer.reason,
    }
