"""Sweep: the quantities that are drawn against α, the mixture's controls and the curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard.charts import sweep as sweep_charts
from dashboard.charts.sweep import Curve, Scale
from dashboard.views import widgets, words
from dashboard.views.sweeping import STRATEGIES
from qmoe_core import numbers
from qmoe_core.bundles import Bundle
from qmoe_core.config import Curiosity
from qmoe_core.evaluation.sweep import AlphaSweep
from qmoe_core.numbers import decimals, percents
from qmoe_core.routing.mixing import Settings

Sweeps = Mapping[Curiosity, AlphaSweep]


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


TILES = (
    Tile(
        "f1",
        "F1, weighted",
        r"Per class $F_1 = \frac{2\,TP}{2\,TP + FP + FN}$, averaged with the classes’ shares of the clips.",
        decimals(3),
        0.06,
        ceiling=1.0,
    ),
    Tile(
        "accuracy",
        "Accuracy",
        r"Share of clips with the right label, $\frac{1}{n}\sum_j [\hat y_j = y_j]$.",
        decimals(3),
        0.06,
        ceiling=1.0,
    ),
    Tile(
        "label_flips",
        "Labels that change",
        r"Share of clips that get another label than with $α = 0$, "
        r"$\frac{1}{n}\sum_j [\hat y_j(α) \ne \hat y_j(0)]$.",
        percents(1),
        0.05,
        ceiling=1.0,
        shares=True,
    ),
    Tile(
        "route_flips",
        "Routes that change",
        r"Share of clips with another leading expert than with $α = 0$, "
        r"$\arg\max_i r_i e^{α d_i} \ne \arg\max_i r_i$, or with others among the top k.",
        percents(1),
        0.05,
        ceiling=1.0,
        shares=True,
    ),
    Tile(
        "ece",
        "Calibration error",
        r"ECE: how far stated probability and accuracy lie apart, "
        r"$\sum_b \frac{n_b}{n}\,|\mathrm{acc}_b - \mathrm{conf}_b|$ over 15 bins.",
        decimals(3),
        0.03,
    ),
    Tile(
        "routed_epistemic",
        "Epistemic, as routed",
        r"How much the experts differ, weighted by the routing: $H(\sum_i r_i q_i) - \sum_i r_i H(q_i)$. "
        r"With equal weights it is the epistemic uncertainty of the other pages, which α cannot move.",
        numbers.nats,
        0.002,
    ),
    Tile(
        "utilisation_entropy",
        "Evenness of use",
        r"Entropy of the experts’ mean shares, $-\sum_i u_i \ln u_i$: 0 when one does all, "
        r"$\ln N$ when all do alike.",
        numbers.nats,
        0.2,
    ),
    Tile(
        "bonus",
        "Bonus ratio",
        r"Largest over smallest bonus, median over clips of $\max_i e^{α d_i} / \min_i e^{α d_i}$: at 1 "
        "nothing moves.",
        numbers.factor,
        0.0,
        log=True,
    ),
)


def the_mixture(bundle: Bundle, settings: Settings) -> None:
    """Everything but α."""
    st.segmented_control(
        "What α rewards",
        list(STRATEGIES),
        key="curiosity",
        required=True,
        wrap=True,
        format_func=STRATEGIES.__getitem__,
        help="**Disagreement**: d = KL(q‖q̄), Eq. 8 as printed; every expert has to run. **Predicted "
        "disagreement**: d̂, what the cheapest expert’s answer and the router let expect of d, learned from "
        "the other folds; one or two experts have to run. **Router doubt**: the deviation σ of r over "
        "MC-dropout passes; only the router has to run. **Nothing**: the plain router, or a cascade by "
        "doubt.",
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
            disabled=settings.curiosity in ("none", "cascade"),
            help="Divide d (or d̂, σ) by its mean over these clips, so that α ≈ 1 is where things start to "
            "move.",
        )


def the_curves(found: Sweeps, chosen: Curiosity, slots: dict[str, DeltaGenerator]) -> dict[str, Scale]:
    """A small figure for each quantity, with an empty place for its value at the slider's α."""
    theme = widgets.theme()
    others = numbers.listed(name for strategy, name in STRATEGIES.items() if strategy != chosen)
    st.html(
        f'<p class="qm-key"><span><i></i>{STRATEGIES[chosen]}</span>'
        f'<span><i class="qm-dotted"></i>the others: {others}</span>'
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
