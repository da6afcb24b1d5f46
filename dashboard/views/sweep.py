"""Sweep: the mixture, the slider of curiosity, and the figures that follow it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard.charts import sweep as sweep_charts
from dashboard.charts.sweep import Curve, Scale
from dashboard.session import fragments, linked
from dashboard.session.linked import widget
from dashboard.views import ledger, sweeping, widgets, words
from dashboard.views.sweep_tables import (
    EXPERT_COLUMNS,
    STRATEGY_COLUMNS,
    TILES,
    Sweeps,
    expert_rows,
    flip_table,
    strategy_rows,
)
from dashboard.views.sweeping import STRATEGIES
from qmoe_core.bundles import Bundle
from qmoe_core.config import Curiosity
from qmoe_core.evaluation.sweep import AlphaSweep, Flip, flips
from qmoe_core.routing.mixing import MAX_ALPHA, Settings

PAGE = "sweep"


def defined(bundle: Bundle) -> list[linked.Control]:
    """The page's controls; in a link they are called as on Listen."""
    own = bundle.settings()
    return [
        linked.real("alpha", 0.0, MAX_ALPHA, own.alpha),
        linked.one_of("curiosity", tuple(STRATEGIES), own.curiosity),
        linked.some_of("experts", bundle.experts, [name for name in bundle.experts if name in own.experts]),
        linked.whole("k", 1, len(bundle.experts), own.top_k),
        linked.switch("normalise", own.normalise),
    ]


def as_settings(values: Mapping[str, Any], bundle: Bundle) -> Settings:
    """What the controls ask for; what the page does not offer is as in the bundle."""
    return bundle.settings(
        experts=tuple(name for name in bundle.experts if name in values["experts"]),
        alpha=values["alpha"],
        top_k=min(values["k"], len(values["experts"])),
        curiosity=values["curiosity"],
        normalise=values["normalise"],
    )


def the_mixture(bundle: Bundle, settings: Settings) -> None:
    """Everything but α."""
    st.segmented_control(
        "What α rewards",
        list(STRATEGIES),
        key=widget(PAGE, "curiosity"),
        required=True,
        wrap=True,
        format_func=STRATEGIES.__getitem__,
        help="**Disagreement**: d = KL(q‖q̄), Eq. 8 as printed; every expert has to run. "
        "**Predicted disagreement**: d̂, what the cheapest expert’s answer and the router let expect of d, "
        "learned from the other folds; one or two experts have to run. "
        "**Router doubt**: the deviation σ of r over MC-dropout passes; only the router has to run. "
        "**Nothing**: the plain router.",
    )
    st.pills(
        "Experts in the mixture",
        bundle.experts,
        selection_mode="multi",
        key=widget(PAGE, "experts"),
        wrap=True,
        help=f"The router chooses among these. {words.FORMATS}",
    )
    left, right = st.columns(2, vertical_alignment="bottom")
    n = len(settings.experts)
    with left:
        st.number_input(
            f"Experts that answer (top k of {n})",
            min_value=1,
            max_value=n,
            key=widget(PAGE, "k"),
            help="The k experts with the highest routing answer, weighted by it (Eq. 6).",
        )
    with right:
        st.toggle(
            "Normalise d",
            key=widget(PAGE, "normalise"),
            disabled=settings.curiosity == "none",
            help="Divide d (or d̂, σ) by its mean over these clips, so that α ≈ 1 is where things start to "
            "move.",
        )


def the_curves(found: Sweeps, chosen: Curiosity, slots: dict[str, DeltaGenerator]) -> dict[str, Scale]:
    """A small figure for each quantity, with an empty place for its value at the slider's α."""
    theme = widgets.theme()
    others = words.listed(name for strategy, name in STRATEGIES.items() if strategy != chosen)
    st.html(
        f'<p class="qm-key"><span><i></i>{STRATEGIES[chosen]}</span>'
        f'<span><i class="qm-dotted"></i>{others}</span>'
        '<span><i class="qm-upright"></i>the slider’s α</span></p>'
    )
    scales = {}
    for start in range(0, len(TILES), 4):
        row = st.container(key=f"tiles-{start}")
        for tile, column in zip(TILES[start : start + 4], row.columns(4), strict=True):
            curves = [
                Curve(STRATEGIES[strategy], getattr(one, tile.key), strategy == chosen)
                for strategy, one in found.items()
            ]
            scales[tile.key] = tile.scale(curves)
            with column, st.container(key=f"tile-{tile.key}", gap="xsmall"):
                st.markdown(f"**{tile.title}**", help=tile.help)
                slots[tile.key] = st.empty()
                values = getattr(found[chosen], tile.key)
                widgets.figure(
                    sweep_charts.curve(found[chosen].alphas, curves, scales[tile.key], theme),
                    alt=f"{tile.title} against α; {STRATEGIES[chosen]}: {tile.show(values[0])} at α = 0, "
                    f"{tile.show(values[-1])} at α = 1,000.",
                    key=f"curve-{tile.key}",
                )
    return scales


def the_use(found: AlphaSweep, slots: dict[str, DeltaGenerator]) -> None:
    """Which experts answer, against α and at the slider's α."""
    st.subheader("Who answers", anchor=False)
    left, right = st.columns([3, 2], gap="large")
    with left:
        widgets.figure(
            sweep_charts.utilisation(found, widgets.theme()),
            alt=f"Mean share of the answers by expert, from α = 0 to 1,000: {sweep_charts.said(found)}.",
            key="utilisation",
        )
    with right:
        slots["experts"] = st.empty()


@st.fragment
def the_alpha(
    bundle: Bundle,
    values: Mapping[str, Any],
    found: Sweeps,
    scales: Mapping[str, Scale],
    slots: Mapping[str, DeltaGenerator],
    moved: list[Flip],
) -> None:
    """The slider, and everything that follows it; the figures stay as they are."""
    settings = as_settings(fragments.follow(PAGE, defined(bundle), values), bundle)
    sweep, alpha = found[settings.curiosity], settings.alpha
    st.select_slider(
        "Curiosity α",
        sweep.alphas.tolist(),
        key=widget(PAGE, "alpha"),
        format_func=lambda value: f"{value:,g}",
        disabled=settings.curiosity == "none",
        help="How strongly an expert that deviates is preferred: r is multiplied with exp(α · d) (Eq. 8). "
        "The paper uses 0.2 and 0.3.",
    )
    index = sweeping.at(sweep, alpha)
    interest, n = sweeping.interest(bundle, settings), sweep.predicted.shape[1]
    moved[:] = flips(sweep, sweeping.dataset(bundle).labels, index)
    st.caption(widgets.plain(sweeping.bonus_range(settings, interest, alpha)))
    widgets.verdict_block(sweeping.verdict(sweep, moved, index), widgets.theme().accent)
    st.caption(
        widgets.plain(
            f"n = {n:,} clips, each judged by experts that had not heard it; one clip is {1 / n:.4g} of "
            f"accuracy. {words.capital(widgets.how(bundle))}."
        )
    )

    heights = {}
    for tile in TILES:
        curve = getattr(sweep, tile.key)
        now, plain = float(curve[index]), float(curve[0])
        heights[f"tile-{tile.key}"] = scales[tile.key].height(now)
        aside = f"{round(now * n):,} of {n:,} clips" if tile.shares else f"{tile.show(plain)} at α = 0"
        slots[tile.key].html(f'<p class="qm-now">{tile.show(now)} <small>{aside}</small></p>')
    st.html(f"<style>{sweep_charts.css(alpha, heights)}</style>")
    slots["experts"].html(
        ledger.html(EXPERT_COLUMNS, expert_rows(sweep, interest, index), "Experts at this α")
    )
    slots["strategies"].html(
        ledger.html(STRATEGY_COLUMNS, strategy_rows(found, settings), "Strategies at this α")
    )
    slots["flips"].html(flip_table(moved, bundle, settings))
