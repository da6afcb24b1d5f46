"""Figures of the Sweep page as pure functions of sweeps: plotly only, no Streamlit.

None of them knows the α that the slider stands at. All share one x axis and one set of margins, so that a
line in the page's own CSS can be laid over each at that α, and moving the slider draws no figure again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dashboard.charts.base import SHARES, axis_title, dots, figure, lines
from dashboard.charts.palette import Theme, expert_colour
from qmoe_core.evaluation.cascade import CascadeSweep
from qmoe_core.evaluation.sweep import AlphaSweep
from qmoe_core.numbers import percent

MARGIN = {"l": 46, "r": 10, "t": 8, "b": 30}
"""Of every figure here, px; `css` and the line that it places depend on them."""
ZERO = -1.5
"""Where α = 0 stands on the axis of log₁₀ α, half a decade before 0.1."""
RANGE = (ZERO - 0.12, 3.12)
HEIGHT = 150
_TICKS = {0.0: "0", 1.0: "1", 10.0: "10", 100.0: "100", 1000.0: "1k"}


@dataclass(frozen=True)
class Curve:
    """One line of a small figure: its values for the sweep's α, and whether it is the one that was chosen."""

    name: str
    values: np.ndarray
    chosen: bool


@dataclass(frozen=True)
class Scale:
    """The y axis of a small figure.

    Attributes:
        low, high: its ends.
        shares: whether the values are shares, shown in per cent.
        log: whether it is logarithmic (values above 0).
    """

    low: float
    high: float
    shares: bool = False
    log: bool = False

    def height(self, value: float) -> float:
        """How high a value stands, 0 to 1."""
        if self.log:
            place = np.log10(value / self.low) / np.log10(self.high / self.low)
        else:
            place = (value - self.low) / (self.high - self.low)
        return float(np.clip(place, 0.0, 1.0))


def scale(curves: Sequence[Curve], *, least: float, floor: float = -np.inf, ceiling: float = np.inf) -> Scale:
    """An axis that holds every curve and spans at least `least`, so that noise does not look like a cliff.

    Args:
        floor, ceiling: values that the axis does not pass.
    """
    values = np.concatenate([curve.values for curve in curves])
    low, high = float(values.min()), float(values.max())
    room = max(1.16 * (high - low), least)
    middle = (low + high) / 2
    low, high = middle - room / 2, middle + room / 2
    if low < floor:
        low, high = floor, floor + room
    if high > ceiling:
        low, high = max(floor, ceiling - room), ceiling
    return Scale(low, high)


def place(alpha: float | np.ndarray) -> Any:
    """α on the axis: log₁₀, with 0 half a decade below 0.1.

    >>> float(place(0.0)), float(place(100.0))
    (-1.5, 2.0)
    """
    alpha = np.asarray(alpha, np.float64)
    return np.where(alpha > 0.0, np.log10(np.maximum(alpha, 10.0**ZERO)), ZERO)


def across(alpha: float) -> float:
    """How far to the right α stands on the axis, 0 to 1."""
    return float((place(alpha) - RANGE[0]) / (RANGE[1] - RANGE[0]))


def curve(alphas: np.ndarray, curves: Sequence[Curve], scale: Scale, theme: Theme) -> go.Figure:
    """One quantity against α, a line for each strategy; the chosen one is drawn last and strongest.

    Args:
        alphas: [A], of every curve's values.
    """
    x = place(alphas)
    shown = ".1%" if scale.shares else ".3~g" if scale.log else ".4f"
    curves = sorted(curves, key=lambda one: one.chosen)
    looks = {True: (theme.accent, 2.5, "solid"), False: (theme.muted, 1.5, "dot")}
    traces = []
    for one in curves:
        colour, width, dash = looks[one.chosen]
        hover, more = f"{one.name}, α = %{{customdata:.3~g}}: %{{y:{shown}}}", {"customdata": alphas}
        line = lines(x, one.values, colour, hover, width=width, dash=dash, **more)
        traces.append(line | {"name": one.name})
    form = ".1%" if scale.high - scale.low <= 0.04 else ".0%"
    ends = [np.log10(scale.low), np.log10(scale.high)] if scale.log else [scale.low, scale.high]
    steps = {"dtick": _decades(scale), "exponentformat": "power"} if scale.log else {}
    return figure(
        theme,
        traces,
        height=HEIGHT,
        margin=MARGIN,
        x=_alpha_axis(theme),
        y={
            "type": "log" if scale.log else "linear",
            "range": ends,
            "nticks": 4,
            "tickformat": form if scale.shares else "~g",
            **steps,
        },
        hovermode="closest",
    )


def utilisation(sweep: AlphaSweep, theme: Theme, height: int = 260) -> go.Figure:
    """Each expert's mean share of the answers against α, stacked to one."""
    x = place(sweep.alphas)
    areas = []
    for i, name in enumerate(sweep.settings.experts):
        share = sweep.utilisation[:, i]
        area = lines(
            x,
            share,
            theme.page,
            f"{name}, α = %{{customdata[0]:.3~g}}: %{{customdata[1]:.1%}}",
            width=1,
            stackgroup="experts",
            fillcolor=expert_colour(name),
            customdata=np.stack([sweep.alphas, share], axis=-1),
        )
        areas.append(area | {"name": name})
    return figure(
        theme,
        areas,
        height=height,
        margin=MARGIN,
        x=_alpha_axis(theme) | {"title": axis_title("α", theme)},
        y={"range": [0, 1], "tickvals": SHARES, "tickformat": ".0%", "showgrid": False},
        hovermode="closest",
    )


def said(sweep: AlphaSweep) -> str:
    """The stacked figure in words: each expert's share at α = 0 and at the largest α."""
    return "; ".join(
        f"{name} {percent(float(first))} to {percent(float(last))}"
        for name, first, last in zip(
            sweep.settings.experts, sweep.utilisation[0], sweep.utilisation[-1], strict=True
        )
    )


def css(alpha: float, heights: Mapping[str, float]) -> str:
    """The rules that move the line, and the dot of each figure, to an α.

    Args:
        heights: by the key of a figure's container, how high its chosen curve stands there, 0 to 1.
    """
    dots = "".join(f".st-key-{key}{{--qm-height:{height:.4f}}}" for key, height in heights.items())
    return f":root{{--qm-alpha:{across(alpha):.4f}}}{dots}"


def _alpha_axis(theme: Theme) -> dict[str, Any]:
    return {
        "range": list(RANGE),
        "tickvals": [float(place(alpha)) for alpha in _TICKS],
        "ticktext": list(_TICKS.values()),
        "gridcolor": theme.line,
    }


def _decades(scale: Scale) -> int:
    """Whole decades between labels, for about four of them."""
    return max(1, round(np.log10(scale.high / scale.low) / 3))


def front(found: CascadeSweep, theme: Theme, height: int = 320) -> go.Figure:
    """Accuracy against mean cost: the cascade, asking at random, each expert alone, and the oracle."""

    def line(points: Sequence[Any], colour: str, name: str, **look: Any) -> dict[str, Any]:
        x, y = [one.cost_us / 1e3 for one in points], [one.accuracy for one in points]
        return lines(x, y, colour, "%{x:.3~g} ms: %{y:.4f}", **look) | {"name": name}

    alone = [*found.experts, found.oracle]
    named = [*(one.name for one in found.experts), "oracle"]
    marks = dots(
        [one.cost_us / 1e3 for one in alone],
        [one.accuracy for one in alone],
        {"color": [*(expert_colour(name.rpartition(".")[2]) for name in named[:-1]), theme.ink], "size": 10},
        "%{text}, %{x:.3~g} ms: %{y:.4f}",
        text=named,
        textposition="bottom center",
    )
    return figure(
        theme,
        [
            line(found.random, theme.muted, "at random", dash="dot", width=1.5),
            line(found.curve, theme.accent, "cascade", width=2.5),
            marks | {"mode": "markers+text"},
        ],
        height=height,
        margin={"l": 56, "r": 24, "t": 8, "b": 48},
        x={"title": axis_title("mean cost of the whole path, ms a clip", theme), "type": "log"},
        y={"title": axis_title("accuracy", theme), "tickformat": ".3~f"},
        hovermode="closest",
    )
