"""Figures of whole paths, from waveform to decision: plotly only, no Streamlit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dashboard.charts.base import (
    axis_title,
    bars,
    dots,
    figure,
    heatmap,
    lines,
    names_axis,
    round_values,
    rule,
    scale,
)
from dashboard.charts.palette import Theme
from qmoe_core.evaluation.boards import OnBoard
from qmoe_core.measure.machines import PARTS, PathTime
from qmoe_core.numbers import amount


def stages(paths: Sequence[tuple[str, PathTime]], theme: Theme) -> go.Figure:
    """Front end, embedder and head of each path as one bar; a line where the whole was timed as one.

    Args:
        paths: names and times, from top to bottom.
    """
    shown = list(reversed(paths))
    names = [name for name, _ in shown]
    parts = [(time.front_end_us, time.embedder_us, time.head_us) for _, time in shown]
    looks = (theme.scale[2], theme.accent, theme.ink)
    traces = [
        bars(names, [times[i] for times in parts], {"color": looks[i]}, f"%{{y}}, {part}: %{{x:,.3~g}} µs")
        | {"name": part}
        for i, part in enumerate(PARTS)
    ]
    whole = [(name, time.whole_us) for name, time in shown if time.whole_us is not None]
    tick = {"symbol": "line-ns", "size": 16, "line": {"width": 2, "color": theme.muted}}
    traces.append(
        dots([us for _, us in whole], [name for name, _ in whole], tick, "%{y}, timed as one: %{x:,.4~g} µs")
        | {"name": "timed as one"}
    )
    return figure(
        theme,
        traces,
        height=26 * len(shown) + 84,
        margin={"l": 0, "r": 14, "t": 4, "b": 44},
        x={"title": axis_title("µs from waveform to decision", theme), "rangemode": "tozero"},
        y=names_axis(theme),
        barmode="stack",
        bargap=0.35,
        showlegend=True,
        legend={
            **{"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "font": {"size": 12}},
            "traceorder": "normal",
        },
    )


KINDS = {"pointwise": "circle", "depthwise": "diamond", "full": "square", "dense": "triangle-up"}


def roofline(roofs: Mapping[str, float], layers: Sequence[Mapping[str, Any]], theme: Theme) -> go.Figure:
    """Each layer's rate against its operations a byte, under what the machine gives at most.

    Args:
        roofs: of `measure.roofline.roofs`; layers: of one network, of `measure.roofline.layers`.
    """
    floats = all(layer["format"] == "float" for layer in layers)
    peak = roofs["float32" if floats else "bytes"] / 1e9
    x = np.array([layer["operations"] / layer["bytes"] for layer in layers])
    y = np.array([layer["operations"] / layer["us"] / 1e3 for layer in layers])
    ends = [0.7 * x.min(), 2.0 * x.max()]
    traces = []
    for name, dash in (("second-level cache", "solid"), ("memory", "dot")):
        across = np.geomspace(ends[0], ends[1], 50)
        rate = np.minimum(peak, across * roofs[name] / 1e9)
        traces.append(lines(across, rate, theme.muted, width=1.5, dash=dash, name=f"most, from {name}"))
    colours = (theme.accent, theme.ink, theme.scale[2], theme.muted)
    for (kind, symbol), colour in zip(KINDS.items(), colours, strict=True):
        of = [i for i, layer in enumerate(layers) if layer["kind"] == kind]
        hover = "%{customdata[0]}: %{customdata[1]:.1f} µs, %{y:.3~g} Gop/s, %{x:.2~g} operations a byte"
        if of:
            shown = [[layers[i]["name"], layers[i]["us"]] for i in of]
            marks = {"size": 9, "symbol": symbol, "color": colour}
            traces.append(dots(x[of], y[of], marks, hover, customdata=shown, name=kind))
    return figure(
        theme,
        traces,
        height=340,
        margin={"l": 56, "r": 12, "t": 4, "b": 44},
        x={"type": "log", "title": axis_title("operations a byte", theme), **_powers(ends)},
        y={"type": "log", "title": axis_title("10⁹ operations a second", theme), **_powers([y.min(), peak])},
        hovermode="closest",
        showlegend=True,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "font": {"size": 12}},
    )


def _powers(ends: Sequence[float]) -> dict[str, Any]:
    values = round_values(np.log10(0.8 * ends[0]), np.log10(1.2 * ends[1]), 10)
    return {"tickvals": values, "ticktext": [f"{value:,g}" for value in values]}


def board(fits: Sequence[OnBoard], flash_bytes: float | None, theme: Theme) -> go.Figure:
    """Mean F1 of each path against its bytes; grey does not fit; the chosen one is circled.

    Named are the chosen one and those that no other beats in both: names of all would lie on each other.

    Args:
        fits: the best first; flash_bytes: the limit, dashed.
    """
    x = np.array([fit.path.bytes / 1e3 for fit in fits])
    y = np.array([fit.path.mean_f1 for fit in fits])
    fitting = [not fit.misses for fit in fits]
    edge = [theme.ink if i == 0 and fitting[0] else theme.page for i in range(len(fits))]
    marks = {
        "size": 13,
        "color": [theme.accent if good else theme.line for good in fitting],
        "line": {"width": 2, "color": edge},
    }
    beaten = [((x < x[i]) & (y >= y[i])).any() for i in range(len(fits))]
    named = [
        fit.path.name if good and (i == 0 or not beaten[i]) else ""
        for i, (fit, good) in enumerate(zip(fits, fitting, strict=True))
    ]
    ends = [np.log10(0.85 * x.min()), np.log10(1.2 * x.max())]
    values = round_values(ends[0], ends[1], 8)
    ticks = {"tickvals": values, "ticktext": [f"{value:,g} kB" for value in values]}
    return figure(
        theme,
        [
            dots(
                x,
                y,
                marks,
                "%{customdata[0]}: F1 %{y:.3f}, %{x:,.0f} kB, %{customdata[1]:,.2~g} ms",
                mode="markers+text",
                text=named,
                textposition="top center",
                textfont={"size": 12, "color": theme.ink},
                customdata=[[fit.path.name, fit.us / 1e3] for fit in fits],
                cliponaxis=False,
            )
        ],
        height=320,
        margin={"l": 48, "r": 12, "t": 18, "b": 44},
        x={"type": "log", "range": ends, "title": axis_title("flash: embedder and head", theme), **ticks},
        y={"title": axis_title("F1, mean of the data sets", theme), "tickformat": ".3f", "nticks": 6},
        shapes=[]
        if flash_bytes is None
        else [rule(theme.accent, x=flash_bytes / 1e3, dash="dash", width=1.5)],
        hovermode="closest",
    )


def layers(rows: Sequence[Mapping[str, Any]], theme: Theme) -> go.Figure:
    """Accuracy lost with each layer in few bits, the others float: layers by depth, bits across.

    Args:
        rows: of `qmoe sweep layers`.
    """
    names = list(dict.fromkeys(row["layer"] for row in rows))
    bits = sorted({row["bits"] for row in rows}, reverse=True)
    at = {(row["layer"], row["bits"]): row for row in rows}
    grid = [[at[name, one] for one in bits] for name in reversed(names)]
    lost = [[max(0.0, -row["delta"]) for row in line] for line in grid]
    shown = [
        [
            [
                f"{row['layer']} ({row['kind']}, {row['weights']:,} weights)",
                f"{row['delta']:+.3f}",
                f"{row['cosine']:.3f}",
                amount("bytes", row["bytes"]),
                "not timed" if row["us"] is None else f"{row['us']:.1f} µs",
            ]
            for row in line
        ]
        for line in grid
    ]
    hover = (
        "%{customdata[0]} in %{x}: accuracy %{customdata[1]}, cosine %{customdata[2]}, %{customdata[3]}, "
        "%{customdata[4]}"
    )
    cells = heatmap(
        lost,
        scale(theme.scale[:4]),
        hover,
        x=[f"{one} bit{'s' * (one != 1)}" for one in bits],
        y=list(reversed(names)),
        zmin=0.0,
        zmax=0.2,
        text=[[f"{100 * row['delta']:+.1f}" for row in line] for line in grid],
        textfont={"size": 12, "color": theme.ink},
        customdata=shown,
    )
    return figure(
        theme,
        [cells],
        height=20 * len(names) + 50,
        margin={"l": 0, "r": 8, "t": 28, "b": 4},
        x={"side": "top", "showgrid": False},
        y=names_axis(theme),
    )
