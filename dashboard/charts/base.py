"""What all charts share: the figure in a theme's colours, axes, colour scales, and traces of each kind.

Charts are pure functions of results: plotly only, no Streamlit, nothing computed. Every figure has a
transparent ground, fixed axes (a finger scrolls the page, not the chart) and one height, so that it fits any
column. The page says below it what it was drawn from. A figure is built in one call from dictionaries:
plotly's update methods take ten times as long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd  # noqa: F401  Plotly looks into a pandas that another thread has begun to import.
import plotly.graph_objects as go

from dashboard.charts.palette import Theme

FONT = '"Source Sans", sans-serif'
"""The family that Streamlit carries with it and the pages are set in."""
WORSE = "#c2621b"
"""Of an error, and of a difference that is for the worse; the accent stands for the better."""
CLEAR = "rgba(0,0,0,0)"
SHARES = (0, 0.25, 0.5, 0.75, 1)
"""Where an axis of shares has its ticks."""
Trace = dict[str, Any]


def figure(
    theme: Theme,
    traces: Sequence[Mapping[str, Any]],
    *,
    height: int,
    margin: Mapping[str, int],
    x: Mapping[str, Any] | None = None,
    y: Mapping[str, Any] | None = None,
    **layout: Any,
) -> go.Figure:
    """A figure in this theme; height and margins in pixels."""
    axis = {
        "fixedrange": True,
        "gridcolor": theme.line,
        "zeroline": False,
        "ticks": "",
        "tickfont": small(theme),
    }
    font = {"color": theme.ink, "family": FONT}
    ground = {"paper_bgcolor": CLEAR, "plot_bgcolor": CLEAR, "dragmode": False, "showlegend": False}
    return go.Figure(
        data=list(traces),
        layout={
            **ground,
            "height": height,
            "margin": margin,
            "xaxis": axis | dict(x or {}),
            "yaxis": axis | dict(y or {}),
            "font": font,
            "hoverlabel": {"bgcolor": theme.page, "bordercolor": theme.line, "font": font},
            **layout,
        },
    )


def small(theme: Theme) -> dict[str, Any]:
    """The font of ticks and of titles of axes."""
    return {"size": 12, "color": theme.muted}


def axis_title(text: str, theme: Theme) -> dict[str, Any]:
    """An axis's title."""
    return {"text": text, "font": small(theme), "standoff": 6}


def names_axis(theme: Theme, **more: Any) -> dict[str, Any]:
    """A vertical axis of names."""
    font = {"size": 12, "color": theme.ink}
    return {"tickfont": font, "ticksuffix": "  ", "automargin": True, "showgrid": False, **more}


def names_above(names: Sequence[str], theme: Theme, **more: Any) -> dict[str, Any]:
    """A horizontal axis of names above a matrix, slanted."""
    font = {"size": 12, "color": theme.ink}
    places = {"tickvals": list(range(len(names))), "ticktext": list(names)}
    return {**places, "side": "top", "tickangle": -40, "tickfont": font, "showgrid": False, **more}


def round_values(low: float, high: float, most: int) -> list[float]:
    """Values 1, 2, 5, 10, … of a logarithmic axis between two exponents of ten; powers only where those are
    more than `most`."""
    powers = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    for steps in ((1, 2, 5), (1,)):
        values = [m * 10.0**e for e in powers for m in steps if low <= np.log10(m * 10.0**e) <= high]
        if len(values) <= most:
            break
    return values


def scale(colours: Sequence[str]) -> list[list[float | str]]:
    """A colour scale of evenly spaced colours, from nothing to full."""
    return [[i / (len(colours) - 1), colour] for i, colour in enumerate(colours)]


def lines(
    x: Any, y: Any, colour: str, hover: str = "", *, width: float = 2, dash: str = "", **more: Any
) -> Trace:
    """A line; `hover` is what pointing at it says, "" for nothing."""
    line = {"color": colour, "width": width} | ({"dash": dash} if dash else {})
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": line, **_hover(hover, more), **more}


def dots(x: Any, y: Any, marker: Mapping[str, Any], hover: str = "", **more: Any) -> Trace:
    """Marks at points."""
    kind = {"type": "scatter", "mode": "markers", "x": x, "y": y, "marker": marker}
    return {**kind, **_hover(hover, more), **more}


def bars(names: Any, values: Any, marker: Mapping[str, Any], hover: str = "", **more: Any) -> Trace:
    """Bars that lie on their side, so that names of any length can be read."""
    kind = {"type": "bar", "orientation": "h", "x": values, "y": names, "marker": marker}
    return {**kind, **_hover(hover, more), **more}


def heatmap(z: Any, colours: Sequence[Sequence[Any]], hover: str = "", *, gap: int = 2, **more: Any) -> Trace:
    """A matrix as coloured cells with their text."""
    look = {"colorscale": colours, "showscale": False, "xgap": gap, "ygap": gap, "texttemplate": "%{text}"}
    return {"type": "heatmap", "z": z, **look, **_hover(hover, more), **more}


def rule(
    colour: str, *, x: float | None = None, y: float | None = None, dash: str = "solid", width: float = 1
) -> Trace:
    """A straight line across the whole figure, upright at `x` or level at `y`; a shape."""
    line = {"color": colour, "width": width, "dash": dash}
    if x is None:
        return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": line}
    return {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": x, "x1": x, "line": line}


def _hover(text: str, more: Mapping[str, Any]) -> dict[str, str]:
    """With what a trace is called where it has a name."""
    return (
        {"hovertemplate": f"{text}<extra>{more.get('name', '')}</extra>"} if text else {"hoverinfo": "skip"}
    )
