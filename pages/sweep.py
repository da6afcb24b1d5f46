"""Sweep: what curiosity's α does to accuracy, routing and uncertainty, without training anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import urlencode

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard.charts import sweep as sweep_charts
from dashboard.charts.sweep import Curve, Scale
from dashboard.session import state, switch
from dashboard.session.state import stops
from dashboard.views import contenders, ledger, sweeping, widgets, words
from dashboard.views.ledger import Html
from dashboard.views.sweeping import STRATEGIES
from dashboard.views.tables import Column
from dashboard.views.words import NBSP
from qmoe_core.bundles import DEFAULT_NAME, Bundle
from qmoe_core.config import Curiosity
from qmoe_core.evaluation.sweep import AlphaSweep, Flip, flips
from qmoe_core.routing.curiosity import bonus
from qmoe_core.routing.mixing import Settings

Sweeps = Mapping[Curiosity, AlphaSweep]
MOST_FLIPS = 60
"""Flips that the page lists; the download has all of them."""


@dataclass(frozen=True)
class Tile:
    """A small figure: one quantity against α.

    Attributes:
        key: the field of `AlphaSweep`, and of the CSV.
        help: one sentence, with the equation.
        show: a value in words.
        least: what its axis spans at least.
    """

    key: str
    title: str
    help: str
    show: Callable[[float], str]
    least: float
    floor: float = 0.0
    ceiling: float = np.inf
    shares: bool = False
    log: bool = False

    def scale(self, curves: list[Curve]) -> Scale:
        """The axis for these curves."""
        if self.log:
            most = max(float(curve.values.max()) for curve in curves if curve.chosen)
            return Scale(0.8, min(max(2.0 * most, 10.0), 1e12), log=True)
        found = sweep_charts.scale(curves, least=self.least, floor=self.floor, ceiling=self.ceiling)
        return Scale(found.low, found.high, shares=self.shares)


def _share(value: float) -> str:
    return f"{100 * value:.1f}{NBSP}%"


def _three(value: float) -> str:
    return f"{value:.3f}"


TILES = (
    Tile(
        "f1",
        "F1, weighted",
        r"Per class $F_1 = \frac{2\,TP}{2\,TP + FP + FN}$, averaged with the classes’ shares of the clips.",
        _three,
        0.06,
        ceiling=1.0,
    ),
    Tile(
        "accuracy",
        "Accuracy",
        r"Share of clips with the right label, $\frac{1}{n}\sum_j [\hat y_j = y_j]$.",
        _three,
        0.06,
        ceiling=1.0,
    ),
    Tile(
        "label_flips",
        "Labels that change",
        r"Share of clips that get another label than with $α = 0$, "
        r"$\frac{1}{n}\sum_j [\hat y_j(α) \ne \hat y_j(0)]$.",
        _share,
        0.05,
        ceiling=1.0,
        shares=True,
    ),
    Tile(
        "route_flips",
        "Routes that change",
        r"Share of clips with another leading expert than with $α = 0$, "
        r"$\arg\max_i r_i e^{α d_i} \ne \arg\max_i r_i$, or with others among the top k.",
        _share,
        0.05,
        ceiling=1.0,
        shares=True,
    ),
    Tile(
        "ece",
        "Calibration error",
        r"ECE: how far stated probability and accuracy lie apart, "
        r"$\sum_b \frac{n_b}{n}\,|\mathrm{acc}_b - \mathrm{conf}_b|$ over 15 bins.",
        _three,
        0.03,
    ),
    Tile(
        "routed_epistemic",
        "Epistemic, as routed",
        r"How much the experts that are listened to differ, mean of $H(\sum_i r_i q_i) - \sum_i r_i H(q_i)$. "
        r"With equal weights it is the epistemic uncertainty of the other pages, which α cannot move.",
        words.nats,
        0.002,
    ),
    Tile(
        "utilisation_entropy",
        "Evenness of use",
        r"Entropy of the experts’ mean shares, $-\sum_i u_i \ln u_i$: 0 when one does all, "
        r"$\ln N$ when all do alike.",
        words.nats,
        0.2,
    ),
    Tile(
        "bonus",
        "Bonus ratio",
        r"Largest over smallest bonus, median over clips of $\max_i e^{α d_i} / \min_i e^{α d_i}$: at 1 "
        "nothing moves.",
        words.factor,
        0.0,
        log=True,
    ),
)


def page() -> None:
    """The page, from top to bottom."""
    ledger.style()
    st.title("What curiosity changes", anchor=False)
    bundle = switch.bundle()
    if bundle is None:
        return
    if bundle.dataset is None:
        ledger.empty("This bundle carries no data set, so there is nothing to sweep over; train it again.")
        return
    controls, problems = state.controls(bundle)
    for problem in problems:
        st.warning(widgets.plain(problem))
    settings = controls.settings(bundle)
    top, right = st.columns(2, gap="large")
    with right:
        the_mixture(bundle, settings)
    found = sweeping.sweeps(bundle, settings, tuple(stops(sweeping.STOPS, settings.alpha)))

    slots: dict[str, DeltaGenerator] = {}
    moved: list[Flip] = []  # at the slider's α, for the download, which knows no session
    with st.container(key="curves"):
        scales = the_curves(found, settings.curiosity, slots)
        the_use(found[settings.curiosity], slots)
    st.subheader("Side by side", anchor=False)
    slots["strategies"] = st.empty()
    st.subheader("The clips that change", anchor=False)
    slots["flips"] = st.empty()
    with top:
        the_alpha(bundle, found, scales, slots, moved)
    take_away(bundle, settings, found, moved)


def the_mixture(bundle: Bundle, settings: Settings) -> None:
    """Everything but α."""
    st.segmented_control(
        "What α rewards",
        list(STRATEGIES),
        key="curiosity",
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
        key="experts",
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
            key="top_k",
            help="The k experts with the highest routing answer, weighted by it (Eq. 6).",
        )
    with right:
        st.toggle(
            "Normalise d",
            key="normalise",
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


STRATEGY_COLUMNS = (
    Column("strategy", "α rewards", number=False),
    Column(
        "runs",
        "Experts run",
        lambda value: f"{value:.2f}",
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
    Column("expert", "Expert", ledger.expert, number=False),
    Column(
        "middle",
        "d, median",
        lambda value: f"{value:.2g}",
        r"What α multiplies, its median over clips: $d_i = \mathrm{KL}(q_i \,\|\, \bar q)$, or d̂ or σ.",
    ),
    Column("bonus", "bonus", words.factor, r"Of that median, $e^{α d_i}$."),
    Column("before", "share at 0", words.percent, r"Its mean share of the answers, $u_i$, at $α = 0$."),
    Column("after", "at α", words.percent, "The same at the slider’s α."),
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
    return ledger.html(columns, rows, "Clips whose route or label changes", tall=True) + note


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
    Column("expert_before", "by", ledger.expert, number=False),
    Column("expert", "now by", ledger.expert, number=False),
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
        ledger.download("Sweep", columns, whole, "sweep")
        ledger.download("Clips that change", FLIP_COLUMNS, lambda: flip_rows(moved, bundle), "flips")
        ledger.meanings((*STRATEGY_COLUMNS, *EXPERT_COLUMNS))
    st.caption(
        widgets.plain(
            f"{len(chosen.alphas)} values of α, {chosen.predicted.shape[1]:,} clips, "
            f"{words.number(len(found))} strategies; one sweep took {words.seconds(chosen.seconds)}. No "
            "expert is trained, only the heads that predict disagreement: what the experts said out of "
            "fold is mixed again. The address of this page restores the controls."
        )
    )


page()
