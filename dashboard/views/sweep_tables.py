"""Sweep: the slider for α and the tables that follow it: strategies, experts, clips that change."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any
from urllib.parse import urlencode

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard.charts import sweep as sweep_charts
from dashboard.charts.sweep import Scale
from dashboard.session import state, switch
from dashboard.views import sweeping, tables, widgets, words
from dashboard.views.sweep_curves import TILES, Sweeps
from dashboard.views.sweeping import STRATEGIES
from dashboard.views.tables import Column, Html
from qmoe_core import numbers
from qmoe_core.bundles import DEFAULT_NAME, Bundle
from qmoe_core.evaluation import contenders
from qmoe_core.evaluation.sweep import AlphaSweep, Flip, flips
from qmoe_core.numbers import decimals
from qmoe_core.routing.curiosity import bonus
from qmoe_core.routing.mixing import Settings

MOST_FLIPS = 60
"""Flips that the page lists; the download has all of them."""


@st.fragment
def the_alpha(
    bundle: Bundle,
    found: Sweeps,
    scales: Mapping[str, Scale],
    slots: Mapping[str, DeltaGenerator],
    moved: list[Flip],
) -> None:
    """The slider, and everything that follows it; the figures stay as they are."""
    settings = state.follow(bundle).settings(bundle)
    sweep, alpha = found[settings.curiosity], settings.alpha
    st.select_slider(
        "Curiosity α",
        sweep.alphas.tolist(),
        key="alpha",
        format_func=lambda value: f"{value:,g}",
        disabled=settings.curiosity in ("none", "cascade"),
        help="How strongly an expert that deviates is preferred: r is multiplied with exp(α · d) (Eq. 8). "
        "The paper uses 0.2 and 0.3.",
    )
    index = sweeping.at(sweep, alpha)
    interest, n = sweeping.interest(bundle, settings), sweep.predicted.shape[1]
    moved[:] = flips(sweep, sweeping.dataset(bundle).labels, index)
    widgets.caption(sweeping.bonus_range(settings, interest, alpha))
    widgets.verdict_block(sweeping.verdict(sweep, moved, index), widgets.theme().accent)
    widgets.caption(
        f"n = {n:,} clips, each classified by experts that were not trained on it; one clip is {1 / n:.4g} "
        f"of "
        f"accuracy. {words.capital(widgets.how(bundle))}."
    )

    heights = {}
    for tile in TILES:
        curve = getattr(sweep, tile.key)
        now, plain = float(curve[index]), float(curve[0])
        heights[f"tile-{tile.key}"] = scales[tile.key].height(now)
        aside = f"{round(now * n):,} of {n:,} clips" if tile.shares else f"{tile.show(plain)} at α = 0"
        if tile.key == "ece":
            aside += f"; {tile.show(float(sweep.ece_perfect[index]))} if calibrated perfectly"
        slots[tile.key].html(f'<p class="qm-now">{tile.show(now)} <small>{aside}</small></p>')
    st.html(f"<style>{sweep_charts.css(alpha, heights)}</style>")
    slots["experts"].html(
        tables.html(EXPERT_COLUMNS, expert_rows(sweep, interest, index), "Experts at this α")
    )
    slots["strategies"].html(
        tables.html(STRATEGY_COLUMNS, strategy_rows(found, settings), "Strategies at this α")
    )
    slots["flips"].html(flip_table(moved, bundle, settings))


STRATEGY_COLUMNS = (
    Column("strategy", "α rewards", number=False),
    Column(
        "runs",
        "Experts run",
        decimals(2),
        "Experts that have to run for a clip, on average. With predicted disagreement those that answer, and "
        "the cheapest where its answer could change who does.",
    ),
    *(Column(tile.key, tile.title, tile.show, tile.help) for tile in TILES),
)


def strategy_rows(found: Sweeps, settings: Settings) -> list[dict[str, Any]]:
    """Each strategy's figures at the slider's α; the chosen one is marked."""
    rows = []
    for strategy, sweep in found.items():
        index = sweeping.at(sweep, settings.alpha)
        figures = {column.key: float(getattr(sweep, column.key)[index]) for column in STRATEGY_COLUMNS[1:]}
        rows.append({"strategy": STRATEGIES[strategy], **figures, "mark": strategy == settings.curiosity})
    return rows


EXPERT_COLUMNS = (
    Column("expert", "Expert", tables.expert, number=False),
    Column(
        "middle",
        "d, median",
        lambda value: f"{value:.2g}",
        r"What α multiplies, its median over clips: $d_i = \mathrm{KL}(q_i \,\|\, \bar q)$, or d̂ or σ.",
    ),
    Column("bonus", "bonus", numbers.factor, r"Of that median, $e^{α d_i}$."),
    Column("before", "share at 0", numbers.percent, r"Its mean share of the answers, $u_i$, at $α = 0$."),
    Column("after", "at α", numbers.percent, "The same at the slider’s α."),
)


def expert_rows(sweep: AlphaSweep, interest: sweeping.Interest, index: int) -> list[dict[str, Any]]:
    """Each expert of the mixture: what α multiplies, the bonus that gives, and its share of the answers."""
    rows = []
    for i, name in enumerate(sweep.settings.experts):
        middle = float(interest.middle[i])
        rows.append(
            {
                "expert": name,
                "middle": middle,
                "bonus": float(bonus(np.asarray(middle), float(sweep.alphas[index]))),
                "before": float(sweep.utilisation[0, i]),
                "after": float(sweep.utilisation[index, i]),
            }
        )
    return rows


def flip_table(moved: list[Flip], bundle: Bundle, settings: Settings) -> str:
    """The flips as a table with a link to hear each."""
    if not moved:
        return '<p class="qm-empty">None at this α: every clip keeps its expert and its label.</p>'
    rows = [row | {"dim": row["effect"] == "same label"} for row in flip_rows(moved[:MOST_FLIPS], bundle)]
    link = clip_link(bundle, settings)

    def opened(clip: str) -> Html:
        query = urlencode({**link, "clip": clip})
        return Html(f'<a href="./dataset?{escape(query)}" target="_self">{escape(clip)}</a>')

    columns = [Column("clip", "Clip", opened, number=False), *FLIP_COLUMNS[1:]]
    more = len(moved) - len(rows)
    note = f'<p class="qm-empty">{more:,} more are in the CSV.</p>' if more else ""
    return tables.html(columns, rows, "Clips whose route or label changes", kind="qm-tall") + note


def clip_link(bundle: Bundle, settings: Settings) -> dict[str, str]:
    """Parameters that open a clip on the Dataset page, judged by this mixture as far as a link can say it."""
    link = {} if bundle.path.name == DEFAULT_NAME else {switch.KEY: bundle.path.name}
    if settings.curiosity in ("distilled", "router-mc") or settings.normalise:
        return link
    alpha = settings.alpha if settings.curiosity == "disagreement" else None
    return link | {"by": contenders.named(settings.experts, alpha, settings.top_k)}


FLIP_COLUMNS = (
    Column("clip", "Clip", number=False),
    Column("truth", "is", words.readable, number=False),
    Column("label_before", "was called", words.readable, number=False),
    Column("label", "is called", words.readable, number=False),
    Column("expert_before", "by", tables.expert, number=False),
    Column("expert", "now by", tables.expert, number=False),
    Column("effect", "effect", number=False),
)


def flip_rows(moved: list[Flip], bundle: Bundle) -> list[dict[str, Any]]:
    """Flips by names."""
    data = sweeping.dataset(bundle)
    return [
        {
            "clip": data.clips[flip.clip].name,
            "truth": bundle.classes[flip.truth],
            "label_before": bundle.classes[flip.label[0]],
            "label": bundle.classes[flip.label[1]],
            "expert_before": flip.expert[0],
            "expert": flip.expert[1],
            "effect": flip.effect,
        }
        for flip in moved
    ]


def take_away(bundle: Bundle, settings: Settings, found: Sweeps, moved: list[Flip]) -> None:
    """The whole sweep and the flips at this α as CSV, and what the figures mean."""
    chosen = found[settings.curiosity]
    columns = [
        Column("strategy", ""),
        Column("alpha", ""),
        *STRATEGY_COLUMNS[1:],
        Column("epistemic", ""),
        *(Column(f"share({name})", "") for name in settings.experts),
    ]

    def whole() -> list[dict[str, Any]]:
        return [
            {
                "strategy": strategy,
                "alpha": float(alpha),
                **{
                    column.key: float(getattr(sweep, column.key)[i])
                    for column in columns[2 : -len(settings.experts)]
                },
                **{
                    f"share({name})": float(sweep.utilisation[i, j])
                    for j, name in enumerate(settings.experts)
                },
            }
            for strategy, sweep in found.items()
            for i, alpha in enumerate(sweep.alphas)
        ]

    with st.container(horizontal=True, gap="small"):
        tables.download(columns, whole, "sweep", "Sweep")
        tables.download(FLIP_COLUMNS, lambda: flip_rows(moved, bundle), "flips", "Clips that change")
        tables.meanings((*STRATEGY_COLUMNS, *EXPERT_COLUMNS))
    widgets.caption(
        f"{len(chosen.alphas)} values of α, {chosen.predicted.shape[1]:,} clips, "
        f"{numbers.number(len(found))} strategies; one sweep took {numbers.seconds(chosen.seconds)}. No "
        "expert is trained, only the heads that predict disagreement: what the experts said out of "
        "fold is mixed again. The address of this page restores the controls."
    )
