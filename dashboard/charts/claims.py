"""The small figures of the Claims page, from a finding's picture: plotly only, no Streamlit."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from dashboard.charts.base import axis_title, bars, dots, figure, lines, names_axis
from dashboard.charts.palette import EXPERTS, Theme
from qmoe_core.paper.claim import ClaimFigure, Series

ROW_PX = 15
"""Height of a bar."""
MOST_NAMED = 4
"""Series that a legend names; of more, each says its name where the pointer is."""
MOST_MARKED = 20
"""Points of a line that are marked."""
_HUES = ("#4b8efe", "#d37812", "#397247", "#a26482", "#7457a3")


def draw(picture: ClaimFigure, theme: Theme) -> go.Figure:
    """The figure: bars and dots lie on their side, so that names of any length can be read."""
    return _named(picture, theme) if picture.kind in ("bars", "dots") else _plane(picture, theme)


def colours(picture: ClaimFigure, theme: Theme) -> list[str]:
    """A colour for each series: an expert's own, one for points that are alike, or the next of a few."""
    if len(picture.series) > MOST_NAMED:
        return [theme.accent] * len(picture.series)
    hues = iter((theme.accent, *_HUES))
    return [EXPERTS.get(series.name) or next(hues) for series in picture.series]


def _legend(picture: ClaimFigure, theme: Theme) -> dict[str, Any]:
    named = 1 < len(picture.series) <= MOST_NAMED
    place = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "xanchor": "left"}
    return {
        "showlegend": named,
        "legend": place | {"font": {"size": 12, "color": theme.ink}, "traceorder": "normal"},
        "margin": {"l": 52, "r": 14, "t": 30 if named else 8, "b": 44},
    }


def _named(picture: ClaimFigure, theme: Theme) -> go.Figure:
    names = list(dict.fromkeys(str(name) for series in picture.series for name in series.x))
    lying = picture.kind == "bars"
    traces = []
    for series, colour in zip(picture.series, colours(picture, theme), strict=True):
        x, y, more = list(series.y), list(series.x), {"hover": "%{y}: %{x:,.4~g}", "name": series.name}
        round_mark = {"color": colour, "size": 10, "opacity": 0.85}
        traces.append(bars(y, x, {"color": colour}, **more) if lying else dots(x, y, round_mark, **more))
    layout = _legend(picture, theme)
    layout["margin"] |= {"l": 0}
    if lying:  # plotly stacks a group upwards, and people read downwards
        traces.reverse()
        layout["legend"]["traceorder"] = "reversed"
    rows = len(names) * (len(picture.series) if lying else 1)
    return figure(
        theme,
        traces,
        height=ROW_PX * rows + 8 * len(names) + 90,
        x={"title": axis_title(picture.y_title, theme), **_axis(picture, "y", nticks=6)},
        y=names_axis(theme, categoryorder="array", categoryarray=names[::-1], showgrid=not lying),
        barmode="group",
        bargap=0.35,
        **layout,
    )


def _plane(picture: ClaimFigure, theme: Theme) -> go.Figure:
    traces = [
        lines(
            list(series.x),
            list(series.y),
            colour,
            "%{x:,.4~g}: %{y:,.4~g}",
            name=series.name,
            mode="markers" if picture.kind == "points" else _line(series),
            marker={"color": colour, "size": 8 if len(series.x) == 1 else 5, "opacity": 0.75},
        )
        for series, colour in zip(picture.series, colours(picture, theme), strict=True)
    ]
    return figure(
        theme,
        traces,
        height=300,
        x={"title": axis_title(picture.x_title, theme), **_axis(picture, "x", nticks=6)},
        y={"title": axis_title(picture.y_title, theme), **_axis(picture, "y", nticks=5)},
        **_legend(picture, theme),
    )


def _line(series: Series) -> str:
    return "lines+markers" if len(series.x) <= MOST_MARKED else "lines"


def _axis(picture: ClaimFigure, axis: str, nticks: int) -> dict[str, Any]:
    """How the picture's x or y is drawn; a logarithmic axis of less than two decades shows 2 and 5 too."""
    if axis not in picture.log:
        return {"nticks": nticks}
    values = [float(value) for series in picture.series for value in (series.x if axis == "x" else series.y)]
    return {"type": "log", "dtick": "D2" if max(values) < 100.0 * min(values) else 1}


def words(picture: ClaimFigure) -> str:
    """The figure in words, for those who do not see it."""
    return "; ".join(f"{series.name}: {_said(series, picture)}" for series in picture.series[:20])


def _said(series: Series, picture: ClaimFigure) -> str:
    if picture.kind in ("bars", "dots"):
        return ", ".join(f"{name} {value:.4g}" for name, value in zip(series.x, series.y, strict=True))
    if len(series.x) == 1:
        return f"{series.x[0]:.4g}, {series.y[0]:.4g}"
    return f"{picture.y_title} from {min(series.y):.4g} to {max(series.y):.4g}"
