"""Figures of the Efficiency page as pure functions of benchmark rows: plotly only, no Streamlit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dashboard.charts.base import axis_title, bars, dots, figure, lines, names_axis, round_values, rule
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
    curves = []
    for row in rows:
        us = np.asarray(row["quantiles_us"])[SHOWN]
        levels = np.linspace(0.0, 1.0, len(row["quantiles_us"]))[SHOWN]
        hover = f"{row['name']}: %{{y:.0%}} of the calls within %{{x:.3~g}} µs"
        curves.append(lines(us, levels, "", hover) | {"line": look(row, theme), "name": row["name"]})
    fastest = min(row["quantiles_us"][SHOWN.start] for row in rows)
    slowest = max(row["p99_us"] for row in rows)
    middle = max(row["p95_us"] for row in rows)
    # A busy machine's slowest calls take a thousand times as long; they would leave no room for the rest.
    ends = [np.log10(0.9 * fastest), np.log10(1.2 * min(slowest, 6.0 * middle))]
    return figure(
        theme,
        curves,
        height=340,
        margin={"l": 48, "r": 10, "t": 8, "b": 44},
        x={"type": "log", "range": ends, "title": axis_title("µs a call", theme), **_ticks(ends)},
        y={"range": [0, 1.005], "tickformat": ".0%", "title": axis_title("calls at most as slow", theme)},
        hovermode="closest",
    )


def _ticks(ends: Sequence[float]) -> dict[str, Any]:
    """Round values of a logarithmic axis."""
    values = round_values(ends[0], ends[1], 10)
    return {"tickvals": values, "ticktext": [f"{value:,g}" for value in values]}


def speedups(rows: Sequence[Row], baseline: str, theme: Theme) -> go.Figure:
    """How many times as fast as the baseline each is, with its interval; the fastest on top."""
    ranked = sorted(rows, key=lambda row: row["speedup_vs_fp32"])
    ratios = np.array([row["speedup_vs_fp32"] for row in ranked])
    low, high = np.array([row["ci95"] for row in ranked]).T
    error = {"type": "data", "symmetric": False, "color": theme.muted, "thickness": 1.5, "width": 3}
    error |= {"array": np.maximum(high - ratios, 0.0), "arrayminus": np.maximum(ratios - low, 0.0)}
    marks = dots(
        ratios,
        [row["name"] for row in ranked],
        {"size": 10, "color": [look(row, theme)["color"] for row in ranked]},
        "%{y}: %{x:.2f} times as fast (95 %: %{customdata[0]:.2f} to %{customdata[1]:.2f})",
        error_x=error,
        customdata=np.stack([low, high], axis=-1),
    )
    ends = [np.log10(0.85 * min(low.min(), 1.0)), np.log10(1.15 * high.max())]
    title = axis_title(f"times as fast as {baseline}", theme)
    return figure(
        theme,
        [marks],
        height=24 * len(ranked) + 60,
        margin={"l": 0, "r": 14, "t": 4, "b": 44},
        x={"type": "log", "range": ends, "title": title, **_ticks(ends)},
        y=names_axis(theme),
        shapes=[rule(theme.muted, x=1, dash="dash", width=1.2)],
        hovermode="closest",
    )


def energy(rows: Sequence[Row], theme: Theme) -> go.Figure:
    """Energy of a call, the processor's part and the memory's; a tick at what is left net of idling."""
    ranked = sorted(rows, key=lambda row: row["gross_mj"], reverse=True)
    names = [row["name"] for row in ranked]
    colours = [look(row, theme)["color"] for row in ranked]
    tick = {"symbol": "line-ns", "size": 16, "line": {"width": 2, "color": theme.ink}}
    cpu, ram, net = ([row[key] for row in ranked] for key in ("cpu_mj", "ram_mj", "net_mj"))
    parts = [
        bars(names, cpu, {"color": colours}, "%{y}, processor: %{x:.3g} mJ"),
        bars(names, ram, {"color": colours, "opacity": 0.35}, "%{y}, memory: %{x:.3g} mJ"),
        dots(net, names, tick, "%{y}, net of idling: %{x:.3g} mJ"),
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
    hover = "after %{x:.3~g} days: serving %{y:.3~g} g"
    serving = lines(days, days * found.daily_g, theme.accent, hover, width=2.5)
    flat = [found.training_g] * 2
    training = lines(days[[0, -1]], flat, theme.ink, "training: %{y:.3~g} g", width=1.5, dash="dash")
    ring = {"size": 12, "color": theme.accent, "line": {"width": 2, "color": theme.page}}
    cross = dots([found.break_even_days], [found.training_g], ring, "even after %{x:.3~g} days")
    return figure(
        theme,
        [training, serving, cross],
        height=280,
        margin={"l": 66, "r": 12, "t": 8, "b": 44},
        x={"type": "log", "title": axis_title("days", theme), "exponentformat": "power", "nticks": 6},
        y={"type": "log", "title": axis_title("g of CO₂", theme), "exponentformat": "power", "nticks": 6},
        hovermode="closest",
    )
