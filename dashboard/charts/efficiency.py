"""Figures of the Efficiency page as pure functions of benchmark rows: plotly only, no Streamlit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dashboard.charts.compare import axis_title, figure, names_axis
from dashboard.charts.palette import EXPERTS, Theme, expert_colour
from qmoe_core.measure.energy import Deployment

Row = Mapping[str, Any]

SHOWN = slice(1, 200)
"""Of the 201 levels of a distribution, those that are drawn: the extremes are single calls."""


def look(row: Row, theme: Theme) -> dict[str, Any]:
    """A line's colour and dash: experts by their colour, mixtures dashed, other people's engines dotted."""
    if row["name"] in EXPERTS:
        return {"color": expert_colour(row["name"]), "dash": "solid", "width": 2}
    mixture = row.get("kind") == "mixture"
    return {
        "color": theme.ink if mixture else theme.muted,
        "dash": "dash" if mixture else "dot",
        "width": 1.5,
    }


def distributions(rows: Sequence[Row], theme: Theme) -> go.Figure:
    """Share of calls that took at most so long, for each; 0.5 to 99.5 % of the calls.

    Args:
        rows: of a latency report, with `quantiles_us` at equally spaced levels.
    """
    lines = []
    for row in rows:
        us = np.asarray(row["quantiles_us"])[SHOWN]
        levels = np.linspace(0.0, 1.0, len(row["quantiles_us"]))[SHOWN]
        hover = f"{row['name']}: %{{y:.0%}} of the calls within %{{x:.3~g}} µs<extra></extra>"
        lines.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": row["name"],
                "x": us,
                "y": levels,
                "line": look(row, theme),
                "hovertemplate": hover,
            }
        )
    fastest = min(row["quantiles_us"][SHOWN.start] for row in rows)
    slowest = max(row["p99_us"] for row in rows)
    middle = max(row["p95_us"] for row in rows)
    # A busy machine's slowest calls take a thousand times as long; they would leave no room for the rest.
    ends = [np.log10(0.9 * fastest), np.log10(1.2 * min(slowest, 6.0 * middle))]
    return figure(
        theme,
        lines,
        height=340,
        margin={"l": 48, "r": 10, "t": 8, "b": 44},
        x={"type": "log", "range": ends, "title": axis_title("µs a call", theme), **_ticks(ends)},
        y={"range": [0, 1.005], "tickformat": ".0%", "title": axis_title("calls at most as slow", theme)},
        hovermode="closest",
    )


def _ticks(ends: Sequence[float]) -> dict[str, Any]:
    """Round values of a logarithmic axis."""
    span = range(int(np.floor(ends[0])), int(np.ceil(ends[1])) + 1)
    for steps in ((1, 2, 5), (1,)):
        values = [m * 10.0**e for e in span for m in steps if ends[0] <= np.log10(m * 10.0**e) <= ends[1]]
        if len(values) <= 10:
            break
    return {"tickvals": values, "ticktext": [f"{value:,g}" for value in values]}


def speedups(rows: Sequence[Row], baseline: str, theme: Theme) -> go.Figure:
    """How many times as fast as the baseline each is, with its interval; the fastest on top."""
    ranked = sorted(rows, key=lambda row: row["speedup_vs_fp32"])
    ratios = np.array([row["speedup_vs_fp32"] for row in ranked])
    low, high = np.array([row["ci95"] for row in ranked]).T
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": ratios,
        "y": [row["name"] for row in ranked],
        "marker": {"size": 10, "color": [look(row, theme)["color"] for row in ranked]},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": np.maximum(high - ratios, 0.0),
            "arrayminus": np.maximum(ratios - low, 0.0),
            "color": theme.muted,
            "thickness": 1.5,
            "width": 3,
        },
        "customdata": np.stack([low, high], axis=-1),
        "hovertemplate": "%{y}: %{x:.2f} times as fast (95 %: %{customdata[0]:.2f} to %{customdata[1]:.2f})"
        "<extra></extra>",
    }
    ends = [np.log10(0.85 * min(low.min(), 1.0)), np.log10(1.15 * high.max())]
    return figure(
        theme,
        [dots],
        height=24 * len(ranked) + 60,
        margin={"l": 0, "r": 14, "t": 4, "b": 44},
        x={
            "type": "log",
            "range": ends,
            "title": axis_title(f"times as fast as {baseline}", theme),
            **_ticks(ends),
        },
        y=names_axis(theme),
        shapes=[
            {
                "type": "line",
                "x0": 1,
                "x1": 1,
                "y0": 0,
                "y1": 1,
                "yref": "paper",
                "line": {"color": theme.muted, "width": 1.2, "dash": "dash"},
            }
        ],
        hovermode="closest",
    )


def energy(rows: Sequence[Row], theme: Theme) -> go.Figure:
    """Energy of a call, the processor's part and the memory's; a tick at what is left net of idling."""
    ranked = sorted(rows, key=lambda row: row["gross_mj"], reverse=True)
    names = [row["name"] for row in ranked]
    colours = [look(row, theme)["color"] for row in ranked]
    bars = {"type": "bar", "orientation": "h", "y": names}
    parts = [
        {
            **bars,
            "x": [row["cpu_mj"] for row in ranked],
            "marker": {"color": colours},
            "hovertemplate": "%{y}, processor: %{x:.3g} mJ<extra></extra>",
        },
        {
            **bars,
            "x": [row["ram_mj"] for row in ranked],
            "marker": {"color": colours, "opacity": 0.35},
            "hovertemplate": "%{y}, memory: %{x:.3g} mJ<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "y": names,
            "x": [row["net_mj"] for row in ranked],
            "marker": {"symbol": "line-ns", "size": 16, "line": {"width": 2, "color": theme.ink}},
            "hovertemplate": "%{y}, net of idling: %{x:.3g} mJ<extra></extra>",
        },
    ]
    return figure(
        theme,
        parts,
        height=28 * len(ranked) + 56,
        margin={"l": 0, "r": 14, "t": 4, "b": 44},
        x={"title": axis_title("mJ a call", theme), "rangemode": "tozero"},
        y=names_axis(theme),
        barmode="stack",
        bargap=0.35,
    )


def emissions(found: Deployment, theme: Theme) -> go.Figure:
    """CO2 of serving against training, grams over days: where the rising line crosses, they break even."""
    most = max(3.0 * found.break_even_days, 400.0)
    least = min(found.break_even_days / 10.0, 0.5)
    days = np.geomspace(max(least, 1e-6), most, 60)
    serving = {
        "type": "scatter",
        "mode": "lines",
        "x": days,
        "y": days * found.daily_g,
        "line": {"color": theme.accent, "width": 2.5},
        "hovertemplate": "after %{x:.3~g} days: serving %{y:.3~g} g<extra></extra>",
    }
    training = {
        "type": "scatter",
        "mode": "lines",
        "x": days[[0, -1]],
        "y": [found.training_g] * 2,
        "line": {"color": theme.ink, "width": 1.5, "dash": "dash"},
        "hovertemplate": "training: %{y:.3~g} g<extra></extra>",
    }
    cross = {
        "type": "scatter",
        "mode": "markers",
        "x": [found.break_even_days],
        "y": [found.training_g],
        "marker": {"size": 12, "color": theme.accent, "line": {"width": 2, "color": theme.page}},
        "hovertemplate": "even after %{x:.3~g} days<extra></extra>",
    }
    return figure(
        theme,
        [training, serving, cross],
        height=280,
        margin={"l": 66, "r": 12, "t": 8, "b": 44},
        x={"type": "log", "title": axis_title("days", theme), "exponentformat": "power", "nticks": 6},
        y={"type": "log", "title": axis_title("g of CO₂", theme), "exponentformat": "power", "nticks": 6},
        hovermode="closest",
    )
