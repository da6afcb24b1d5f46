"""Efficiency: CO2 of training once against that of serving."""

from __future__ import annotations

from typing import Any

import streamlit as st

from dashboard.charts import efficiency as efficiency_charts
from dashboard.session import fragments, linked, measured
from dashboard.session.linked import widget
from dashboard.session.measured import Kept
from dashboard.session.state import stops
from dashboard.views import tables, widgets
from dashboard.views.efficiency_controls import PAGE, PER_DAY, controls
from dashboard.views.efficiency_costs import energy_panel
from dashboard.views.efficiency_path import before_mj, before_us
from dashboard.views.tables import Column
from qmoe_core.bundles import Bundle
from qmoe_core.measure.energy import Deployment, deployment
from qmoe_core.numbers import days, grams, percent


def the_emissions(bundle: Bundle, values: dict[str, Any]) -> None:
    """Training once against serving for years, with this machine's figures."""
    kept = measured.latest("energy", bundle)
    if kept is None:
        widgets.empty(
            "This needs the energy of a call and of a training run, which were not measured here yet."
        )
        energy_panel(bundle, primary=True)
        return
    by_name = {row["name"]: row for row in kept.report.rows if row["name"] in bundle.experts}
    if values["format"] not in by_name:
        values["format"] = next(iter(by_name))
        linked.set_to(PAGE, format=values["format"])
    the_calculator(kept, by_name, values, bundle)


@st.fragment
def the_calculator(
    kept: Kept, by_name: dict[str, dict[str, Any]], values: dict[str, Any], bundle: Bundle
) -> None:
    """Format, volume, grid and trainings, and what comes of them."""
    values = fragments.follow(PAGE, controls(bundle), values)
    trained = kept.report.environment["training"]
    us = before_us(bundle)
    before = None if us is None else before_mj(by_name[values["format"]], us)
    left, right = st.columns([2, 3], gap="large")
    with left:
        the_deployed(kept, list(by_name), values, before is not None)
    found = deployment(
        trained["kwh"] * values["trainings"],
        by_name[values["format"]]["gross_mj"] + (before or 0.0) * values["path"],
        values["perday"],
        values["grid"],
        low_carbon=values["low"],
        tasks=values["tasks"],
    )
    with right:
        the_balance(kept, found, trained, bundle)
        if before is not None and values["path"]:
            head = by_name[values["format"]]["gross_mj"]
            share = percent(head / (head + before), 1)
            widgets.caption(
                f"Of {head + before:.3g} mJ a clip, {before:.3g} are front end and embedder (their "
                f"time here × the power of the head’s blocks), {share} the head."
            )


def the_deployed(kept: Kept, names: list[str], values: dict[str, Any], timed: bool) -> None:
    """What is deployed, how often it answers, and on which grid."""
    st.selectbox("Format", names, key=widget(PAGE, "format"), help="Its gross energy of a call, as measured.")
    st.select_slider(
        "Inferences a day",
        stops(PER_DAY, values["perday"]),
        key=widget(PAGE, "perday"),
        format_func=lambda value: f"{value:,.0f}",
        help="What the deployment serves.",
    )
    st.number_input(
        "Grid, g of CO₂ a kWh",
        min_value=1.0,
        max_value=2000.0,
        step=10.0,
        key=widget(PAGE, "grid"),
        help=f"Carbon intensity; {kept.grid:.0f} is that of {kept.report.environment['country']}.",
    )
    st.toggle(
        "Whole path, from the waveform",
        key=widget(PAGE, "path"),
        disabled=not timed,
        help="Front end and embedder too, with their time on this machine"
        + ("." if timed else "; measure it on Formats first. Until then figures are of the head alone."),
    )
    st.number_input(
        "Trainings before it is deployed",
        min_value=1,
        max_value=1_000_000,
        key=widget(PAGE, "trainings"),
        help="One is the last fit alone; the paper’s search ran 200 trials on five folds.",
    )
    st.number_input(
        "Trained when the grid has so many times less carbon",
        min_value=1.0,
        max_value=20.0,
        step=1.0,
        key=widget(PAGE, "low"),
        help="The paper’s A.2 (3) says 2 to 5 times in low-carbon hours; 1 is the grid above.",
    )
    st.number_input(
        "Tasks that share the training",
        min_value=1,
        max_value=10_000,
        key=widget(PAGE, "tasks"),
        help="The paper’s A.2 (4): trained once, used for several tasks. Training is that of one task.",
    )


def the_balance(kept: Kept, found: Deployment, trained: dict[str, Any], bundle: Bundle) -> None:
    """What the calculator gives."""
    figures = (
        ("Training", grams(found.training_g), r"$E_{train} \cdot$ g/kWh, in its hours, for one task."),
        ("One inference", grams(found.per_inference_ug / 1e6), r"$E \cdot$ g/kWh."),
        ("A year of serving", grams(found.yearly_g), r"$365 \cdot$ inferences a day $\cdot E \cdot$ g/kWh."),
        ("Even after", f"{found.break_even_inferences:,.0f} calls", r"$E_{train} / E$."),
    )
    for column, (title, value, meaning) in zip(
        st.container(key="tiles-emissions").columns(4), figures, strict=True
    ):
        with column:
            st.markdown(f"**{title}**", help=meaning)
            st.html(f'<p class="qm-now">{value}</p>')
    widgets.figure(
        efficiency_charts.emissions(found, widgets.theme()),
        alt=f"Serving has emitted as much as training after {found.break_even_inferences:,.0f} inferences, "
        f"{found.break_even_days:.3g} days.",
        key="emissions",
    )
    st.markdown(
        f"At {found.per_day:,.0f} inferences a day, serving has emitted as much as training after "
        f"**{days(found.break_even_days)}**. The paper says 1,000 inferences; its own figures give 3,468, "
        "and for one year of the same volume it names both 2.4 g and 55 kg."
    )
    row = {**found.__dict__}
    tables.download([Column(key, "") for key in row], lambda: [row], "emissions", "Emissions")
    widgets.caption(
        f"Rising: serving; dashed: training ({trained['what']}, n = {trained['n']}, "
        f"{3.6e6 * trained['kwh']:.3g} J each, {trained['source']}). {kept.basis(bundle)}"
    )
