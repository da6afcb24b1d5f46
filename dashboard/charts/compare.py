"""Figures of the Compare page as pure functions of arrays: plotly only, no Streamlit.

As in `dashboard.charts.decision`: transparent ground, fixed axes, built in one call; what a figure was
drawn from is said in words below it, by the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dashboard.charts.decision import FONT
from dashboard.charts.palette import Theme, class_colour
from dashboard.views.contenders import Look
from dashboard.views.words import capital, drawn, readable
from qmoe_core.evaluation.calibration import Reliability
from qmoe_core.evaluation.selective import Auroc, RiskCoverage

WORSE = "#c2621b"
"""Of a difference that is for the worse; the accent stands for the better."""
READABLE_CLASSES = 24
"""Up to so many classes, cells are large enough for numbers and names."""


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
    """A figure in this theme."""
    axis = {
        "fixedrange": True,
        "gridcolor": theme.line,
        "zeroline": False,
        "ticks": "",
        "tickfont": {"size": 11, "color": theme.muted},
    }
    font = {"color": theme.ink, "family": FONT}
    return go.Figure(
        data=list(traces),
        layout={
            "height": height,
            "margin": margin,
            "xaxis": axis | dict(x or {}),
            "yaxis": axis | dict(y or {}),
            "font": font,
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "dragmode": False,
            "showlegend": False,
            "hoverlabel": {"bgcolor": theme.page, "bordercolor": theme.line, "font": font},
            **layout,
        },
    )


def axis_title(text: str, theme: Theme) -> dict[str, Any]:
    """An axis's title."""
    return {"text": text, "font": {"size": 12, "color": theme.muted}, "standoff": 6}


def names_axis(theme: Theme, **more: Any) -> dict[str, Any]:
    """A vertical axis of names."""
    return {
        "tickfont": {"size": 12, "color": theme.ink},
        "ticksuffix": "  ",
        "automargin": True,
        "showgrid": False,
        **more,
    }


def class_names(classes: Sequence[str]) -> list[str]:
    """Classes as axes show them, each with its colour."""
    return [
        f'<span style="color:{class_colour(classes, name)}">■</span> {drawn(capital(readable(name)))}'
        for name in classes
    ]


def scale(theme: Theme) -> list[list[float | str]]:
    """From nothing to full."""
    return [[i / (len(theme.scale) - 1), colour] for i, colour in enumerate(theme.scale)]


def confusion(matrix: np.ndarray, classes: Sequence[str], theme: Theme, most: int | None = None) -> go.Figure:
    """A confusion matrix; the colours are those of the errors, so that the many right ones do not hide them.

    Args:
        matrix: int [C, C], rows what the clips are.
        most: errors of the darkest cell, the same for matrices that stand side by side; None is their own.
    """
    right = np.where(np.eye(len(classes), dtype=bool), matrix, 0)
    wrong = matrix - right
    most = max(1, int(wrong.max()) if most is None else most)
    cells = _cells(wrong, classes, theme, [_count(v) for v in wrong.ravel()], 0, most, scale(theme))
    cells["hovertemplate"] = "%{customdata}: %{z}<extra></extra>"
    diagonal = _cells(
        np.where(np.eye(len(classes), dtype=bool), 1.0, np.nan),
        classes,
        theme,
        [_count(v) for v in right.ravel()],
        0,
        1,
        [[0, theme.line], [1, theme.line]],
    )
    diagonal["hovertemplate"] = "%{customdata}: %{text}<extra></extra>"
    return _matrix([cells, diagonal], classes, theme)


def confusion_change(
    matrix: np.ndarray, reference: np.ndarray, classes: Sequence[str], theme: Theme, most: int | None = None
) -> go.Figure:
    """How a confusion matrix differs from another; the accent is for the better, orange for the worse."""
    change = matrix.astype(np.int64) - reference
    better = np.where(np.eye(len(classes), dtype=bool), change, -change)
    most = max(1, int(np.abs(change).max()) if most is None else most)
    middle = theme.scale[0]
    colours = [[0, WORSE], [0.5, middle], [1, theme.accent]]
    text = [f"{v:+d}".replace("-", "−") if v else "" for v in change.ravel()]
    cells = _cells(better, classes, theme, text, -most, most, colours)
    cells["hovertemplate"] = "%{customdata}: %{text}<extra></extra>"
    return _matrix([cells], classes, theme)


def _count(value: int) -> str:
    return str(int(value)) if value else ""


def _cells(
    z: np.ndarray,
    classes: Sequence[str],
    theme: Theme,
    text: Sequence[str],
    low: float,
    high: float,
    colours: list[list[float | str]],
) -> dict[str, Any]:
    n = len(classes)
    said = [drawn(f"{readable(truth)} called {readable(called)}") for truth in classes for called in classes]
    return {
        "type": "heatmap",
        "z": z,
        "text": np.array(text, dtype=object).reshape(n, n),
        "customdata": np.array(said, dtype=object).reshape(n, n),
        "texttemplate": "%{text}" if n <= READABLE_CLASSES else "",
        "textfont": {"size": 11},
        "zmin": low,
        "zmax": high,
        "colorscale": colours,
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
    }


def _matrix(traces: Sequence[Mapping[str, Any]], classes: Sequence[str], theme: Theme) -> go.Figure:
    n = len(classes)
    shown = n <= READABLE_CLASSES
    ticks = {"tickvals": list(range(n)), "ticktext": class_names(classes)} if shown else {"visible": False}
    return figure(
        theme,
        traces,
        height=24 * n + 96 if shown else 380,
        margin={"l": 4, "r": 4, "t": 4, "b": 84 if shown else 8},
        x={**ticks, "tickangle": -50, "showgrid": False, "tickfont": {"size": 11, "color": theme.ink}},
        y=names_axis(theme, **ticks, autorange="reversed") | {"tickfont": {"size": 11, "color": theme.ink}},
    )


def class_f1(
    values: Mapping[str, np.ndarray], looks: Mapping[str, Look], classes: Sequence[str], theme: Theme
) -> go.Figure:
    """F1 of each class by contender, the hardest class on top.

    Args:
        values: float [C] by contender, 0 to 1.
    """
    table = np.array(list(values.values()))
    order = np.argsort(table.mean(axis=0), kind="stable")
    every = class_names(classes)
    names = [every[i] for i in order]
    reach = {
        "type": "scatter",
        "mode": "lines",
        "x": np.stack(
            [table.min(axis=0)[order], table.max(axis=0)[order], np.full(len(order), np.nan)], 1
        ).ravel(),
        "y": np.repeat(names, 3),
        "line": {"color": theme.line, "width": 2},
        "hoverinfo": "skip",
    }
    dots = [
        {
            "type": "scatter",
            "mode": "markers",
            "x": row[order],
            "y": names,
            "marker": _marker(looks[name], 10),
            "name": name,
            "hovertemplate": "%{x:.3f}<extra>" + name + "</extra>",
        }
        for name, row in values.items()
    ]
    low = float(np.floor(table.min() * 10.0) / 10.0)
    return figure(
        theme,
        [reach, *dots],
        height=30 * len(names) + 56,
        margin={"l": 4, "r": 12, "t": 4, "b": 40},
        x={"range": [max(low - 0.02, -0.02), 1.02], "title": axis_title("F1 of the class", theme)},
        y=names_axis(theme, autorange="reversed", type="category"),
    )


def agreement(matrix: np.ndarray, names: Sequence[str], theme: Theme, kappa: bool) -> go.Figure:
    """Pairs of contenders: the share of clips they call alike, or Cohen's κ.

    Args:
        matrix: float [N, N], symmetric; the diagonal is left out.
    """
    n = len(names)
    shown = np.where(np.eye(n, dtype=bool), np.nan, matrix)
    form = "{:.2f}" if kappa else "{:.0%}"
    text = [["" if i == j else form.format(matrix[i, j]) for j in range(n)] for i in range(n)]
    low = float(np.nanmin(shown)) if n > 1 else 0.0
    return figure(
        theme,
        [
            {
                "type": "heatmap",
                "z": shown,
                "x": list(range(n)),
                "y": list(range(n)),
                "text": text,
                "texttemplate": "%{text}",
                "customdata": [[f"{a} and {b}" for b in names] for a in names],
                "hovertemplate": "%{customdata}: %{text}<extra></extra>",
                "hoverongaps": False,
                "zmin": min(low, 0.99) - 0.02,
                "zmax": 1,
                "colorscale": scale(theme),
                "showscale": False,
                "xgap": 2,
                "ygap": 2,
            }
        ],
        height=44 * n + 112,
        margin={"l": 4, "r": 96, "t": 104, "b": 4},
        x={
            "tickvals": list(range(n)),
            "ticktext": list(names),
            "side": "top",
            "tickangle": -40,
            "tickfont": {"size": 12, "color": theme.ink},
            "showgrid": False,
        },
        y=names_axis(theme, tickvals=list(range(n)), ticktext=list(names), autorange="reversed"),
    )


def reliability(curves: Mapping[str, Reliability], looks: Mapping[str, Look], theme: Theme) -> go.Figure:
    """Stated probability against how often it was right; a mark is as large as its bin has clips."""
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [0, 1],
            "y": [0, 1],
            "line": {"color": theme.muted, "width": 1, "dash": "dot"},
            "hoverinfo": "skip",
        }
    ]
    for name, curve in curves.items():
        there = curve.count > 0
        look = looks[name]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": curve.confidence[there],
                "y": curve.accuracy[there],
                "line": {"color": look.colour, "width": 1, "dash": look.dash},
                "opacity": 0.45,
                "hoverinfo": "skip",
            }
        )
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": curve.confidence[there],
                "y": curve.accuracy[there],
                "customdata": curve.count[there],
                "opacity": 0.85,
                "marker": _marker(look, 4 + 20 * np.sqrt(curve.count[there] / max(1, curve.count.sum()))),
                "name": name,
                "hovertemplate": "said %{x:.0%}, right %{y:.0%}, %{customdata} clips<extra>"
                + name
                + "</extra>",
            }
        )
    ends = {"range": [-0.02, 1.02], "tickformat": ".0%", "tickvals": [0, 0.25, 0.5, 0.75, 1]}
    return figure(
        theme,
        traces,
        height=420,
        margin={"l": 56, "r": 16, "t": 8, "b": 48},
        x={**ends, "title": axis_title("stated probability", theme)},
        y={**ends, "title": axis_title("share that was right", theme)},
    )


def risk_coverage(
    curves: Mapping[str, RiskCoverage], looks: Mapping[str, Look], coverage: float, theme: Theme
) -> go.Figure:
    """Errors left when only the surest clips are answered, and where the slider stands.

    Args:
        coverage: share of clips that is answered, 0 to 1.
    """
    traces = []
    for name, curve in curves.items():
        look = looks[name]
        place = max(1, round(coverage * len(curve.risk))) - 1
        traces += [
            {
                "type": "scatter",
                "mode": "lines",
                "x": curve.coverage,
                "y": curve.risk,
                "line": {"color": look.colour, "width": 2, "dash": look.dash},
                "name": name,
                "hovertemplate": "%{y:.1%} wrong of the surest %{x:.0%}<extra>" + name + "</extra>",
            },
            {
                "type": "scatter",
                "mode": "markers",
                "x": [curve.coverage[place]],
                "y": [curve.risk[place]],
                "marker": _marker(look, 11),
                "hoverinfo": "skip",
            },
        ]
    most = max((float(curve.risk[-1]) for curve in curves.values()), default=0.1)
    return figure(
        theme,
        traces,
        height=380,
        margin={"l": 56, "r": 16, "t": 8, "b": 48},
        x={"range": [0, 1.01], "tickformat": ".0%", "title": axis_title("answered, the surest first", theme)},
        y={
            "range": [0, 1.25 * max(most, 0.02)],
            "tickformat": ".0%",
            "title": axis_title("wrong among them", theme),
        },
        shapes=[
            {
                "type": "line",
                "x0": coverage,
                "x1": coverage,
                "y0": 0,
                "y1": 1,
                "yref": "paper",
                "line": {"color": theme.ink, "width": 1, "dash": "dash"},
            }
        ],
    )


def detection(found: Mapping[str, Auroc], theme: Theme, chosen: str | None = None) -> go.Figure:
    """AUROC of each uncertainty with its interval; 0.5 knows nothing.

    Args:
        found: by the name that is shown; chosen: the one to stand out.
    """
    names = list(found)
    ink = [theme.accent if name == chosen else theme.ink for name in names]
    rows = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [one.low, one.high],
            "y": [name, name],
            "line": {"color": colour, "width": 3},
            "opacity": 0.45,
            "hoverinfo": "skip",
        }
        for (name, one), colour in zip(found.items(), ink, strict=True)
    ]
    dots = {
        "type": "scatter",
        "mode": "markers+text",
        "x": [one.auroc for one in found.values()],
        "y": names,
        "text": [f"{one.auroc:.2f}" for one in found.values()],
        "textposition": "top center",
        "textfont": {"size": 11, "color": ink},
        "customdata": [[one.low, one.high] for one in found.values()],
        "marker": {"size": 10, "color": ink},
        "hovertemplate": "%{y}: %{x:.3f}, 95 % interval %{customdata[0]:.3f}–%{customdata[1]:.3f}"
        "<extra></extra>",
        "cliponaxis": False,
    }
    low = min([0.48, *(one.low - 0.02 for one in found.values())])
    return figure(
        theme,
        [*rows, dots],
        height=40 * len(names) + 64,
        margin={"l": 4, "r": 20, "t": 18, "b": 40},
        x={
            "range": [max(0.0, low), 1.02],
            "title": axis_title("AUROC", theme),
            "tickvals": [0, 0.25, 0.5, 0.75, 1],
        },
        y=names_axis(theme, autorange="reversed", type="category"),
        shapes=[
            {
                "type": "line",
                "x0": 0.5,
                "x1": 0.5,
                "y0": 0,
                "y1": 1,
                "yref": "paper",
                "line": {"color": theme.muted, "width": 1, "dash": "dot"},
            }
        ],
    )


def answers(
    shares: np.ndarray,
    names: Sequence[str],
    classes: Sequence[str],
    truth: int | None,
    theme: Theme,
    n: int = 10,
) -> go.Figure:
    """What each contender makes of one clip: classes × contenders, the likeliest classes on top.

    Args:
        shares: float [N, C]; truth: index of the right class, which is always shown and marked.
    """
    order = np.argsort(shares.max(axis=0) + shares.mean(axis=0))[::-1][:n]
    if truth is not None and truth not in order:
        order = np.append(order[:-1], truth)
    label = class_names(classes)
    rows = [f"<b>{label[i]}</b>" if i == truth else label[i] for i in order]
    share = shares[:, order].T
    return figure(
        theme,
        [
            {
                "type": "heatmap",
                "z": share,
                "x": list(range(len(names))),
                "y": rows,
                "text": [[f"{100 * v:.0f}" if v >= 0.005 else "" for v in row] for row in share],
                "texttemplate": "%{text}",
                "customdata": np.tile(list(names), (len(rows), 1)),
                "hovertemplate": "%{customdata} says %{y}: %{z:.1%}<extra></extra>",
                "zmin": 0,
                "zmax": 1,
                "colorscale": scale(theme),
                "showscale": False,
                "xgap": 2,
                "ygap": 2,
            }
        ],
        height=30 * len(rows) + 112,
        margin={"l": 4, "r": 96, "t": 104, "b": 4},
        x={
            "tickvals": list(range(len(names))),
            "ticktext": list(names),
            "side": "top",
            "tickangle": -40,
            "tickfont": {"size": 12, "color": theme.ink},
            "showgrid": False,
        },
        y=names_axis(theme, autorange="reversed"),
    )


def parallel(axes: Sequence[Mapping[str, Any]], colours: Sequence[str], theme: Theme) -> go.Figure:
    """Runs as lines over parallel axes; dragging along an axis keeps the runs that pass there.

    Args:
        axes: plotly's dimensions: `label`, `values` [n], and optionally `tickvals`, `ticktext`.
        colours: of the n runs.
    """
    distinct = list(dict.fromkeys(colours))
    last = max(1, len(distinct) - 1)
    steps = (
        [[i / last, colour] for i, colour in enumerate(distinct)]
        if len(distinct) > 1
        else [
            [0, distinct[0]],
            [1, distinct[0]],
        ]
    )
    return go.Figure(
        data=[
            {
                "type": "parcoords",
                "dimensions": [dict(axis) for axis in axes],
                "line": {
                    "color": [distinct.index(colour) for colour in colours],
                    "cmin": 0,
                    "cmax": last,
                    "colorscale": steps,
                    "showscale": False,
                },
                "unselected": {"line": {"color": theme.line, "opacity": 0.35}},
                "labelfont": {"size": 13, "color": theme.ink},
                "tickfont": {"size": 11, "color": theme.ink},
                "rangefont": {"size": 1, "color": "rgba(0,0,0,0)"},
            }
        ],
        layout={
            "height": 420,
            "margin": {"l": 130, "r": 56, "t": 48, "b": 20},
            "font": {"family": FONT, "color": theme.ink},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
        },
    )


def _marker(look: Look, size: Any) -> dict[str, Any]:
    open_mark = look.symbol.endswith("-open")
    return {
        "size": size,
        "color": look.colour,
        "symbol": look.symbol,
        "line": {"width": 2 if open_mark else 0, "color": look.colour},
    }
