"""Figures of the Formats page as pure functions of formats and weight grids: plotly only, no Streamlit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dashboard.charts.base import CLEAR, Trace, axis_title, dots, figure, lines, round_values, rule, small
from dashboard.charts.palette import Theme, expert_colour
from qmoe_core.evaluation.formats import Format, WeightGrid
from qmoe_core.numbers import amount

COSTS = {
    "bytes": "size of the head’s files",
    "p50_us": "time of the head: median",
    "p95_us": "time of the head: 95 % are faster",
    "p99_us": "time of the head: 99 % are faster",
    "energy_mj": "energy of the head’s call, mJ",
}
"""What a format may cost, as an axis is called."""
GREY = "rgba(128,128,128,0.55)"
"""Of what does not fit a budget."""
MAX_LEVELS = 16
"""Grids of up to so many levels are drawn level by level; finer ones as an outline."""
_WIDTH_PX, _LETTER_PX, _LINE_PX = 360, 6.6, 15
"""About the width of a figure's ground, of a letter and of a line in it: a compromise of phone and desk."""


def _colour(one: Format) -> str:
    return expert_colour(one.name) if one.kind == "expert" else "#808080"


def trade(
    formats: Sequence[Format],
    cost: str,
    *,
    fitting: Collection[str],
    chosen: str | None,
    front: Collection[str],
    limits: Mapping[str, float],
    floor: float,
    theme: Theme,
    height: int = 380,
) -> go.Figure:
    """F1 against a cost: a disc for each format, as large as its files; what does not fit is grey.

    Args:
        formats: those that have a figure for the cost.
        cost: a field of `Format`, drawn on a logarithmic axis.
        fitting, front: names; chosen: one of the fitting, circled.
        limits: `f1` and the cost's own, where there are any.
        floor: F1 below which a format stands on the lower edge, as a triangle with its figure, so that it
            does not squeeze the others together.
    """
    x = np.array([getattr(one, cost) for one in formats], np.float64)
    y = np.array([max(one.f1, floor) for one in formats])
    line = [i for i in np.argsort(x) if formats[i].name in front]
    edge = lines(x[line], y[line], theme.muted, width=1.2, dash="dot")
    ends, levels = _ends(x, y, limits)
    names = [one.name.replace(" ", "<br>") + (f" {one.f1:.3f}" if one.f1 < floor else "") for one in formats]
    places = _placed(
        (np.log10(x) - ends[0]) / (ends[1] - ends[0]) * _WIDTH_PX,
        (y - levels[0]) / (levels[1] - levels[0]) * (height - 60),
        [_LETTER_PX * max(map(len, name.split("<br>"))) for name in names],
        [one.name in fitting or one.name in front for one in formats],
    )
    discs = dots(
        x,
        y,
        _discs(formats, fitting, chosen, floor, theme),
        "%{customdata[0]}: F1 %{customdata[1]}, %{customdata[2]}, %{customdata[3]}",
        mode="markers+text",
        text=[name * bool(place) for name, place in zip(names, places, strict=True)],
        textposition=[place or "top center" for place in places],
        textfont={"size": 12, "color": [theme.ink if f.name in fitting else theme.muted for f in formats]},
        cliponaxis=False,
        customdata=[
            [f.name, f"{f.f1:.3f} ± {f.f1_std:.3f}", amount(cost, getattr(f, cost)), amount("bytes", f.bytes)]
            for f in formats
        ],
    )
    limit = partial(rule, theme.accent, dash="dash", width=1.5)
    shapes = [limit(y=limits["f1"])] if "f1" in limits else []
    if cost in limits and ends[0] < np.log10(limits[cost]) < ends[1]:
        shapes.append(limit(x=limits[cost]))
    axis = {"type": "log", "range": ends, "title": axis_title(COSTS[cost], theme), **_ticks(cost, ends)}
    f1 = {"range": levels, "title": axis_title("F1, weighted", theme), "tickformat": ".3f", "nticks": 6}
    margin = {"l": 48, "r": 12, "t": 10, "b": 44}
    more = {"shapes": shapes, "hovermode": "closest"}
    return figure(theme, [edge, discs], height=height, margin=margin, x=axis, y=f1, **more)


def _ends(x: np.ndarray, y: np.ndarray, limits: Mapping[str, float]) -> tuple[list[float], list[float]]:
    """Ends of both axes: exponents of ten of the cost, and F1, with room for names."""
    span = max(float(np.log10(x.max() / x.min())), 0.4)
    ends = [np.log10(x.min()) - 0.12 * span, np.log10(x.max()) + 0.14 * span]
    least, most = min(float(y.min()), limits.get("f1", 1.0)), max(float(y.max()), limits.get("f1", 0.0))
    room = max(most - least, 0.02)
    return ends, [least - 0.12 * room, most + 0.16 * room]


def _discs(
    formats: Sequence[Format], fitting: Collection[str], chosen: str | None, floor: float, theme: Theme
) -> dict[str, Any]:
    """Marks as large as a format's files: triangles below the floor, diamonds for mixtures, else discs."""
    shapes = ["circle" if one.kind == "expert" else "diamond" for one in formats]
    edge = {
        "width": [3 if one.name == chosen else 1 for one in formats],
        "color": [theme.ink if one.name == chosen else theme.page for one in formats],
    }
    return {
        "size": [_diameter(one.bytes) for one in formats],
        "color": [_colour(one) if one.name in fitting else GREY for one in formats],
        "symbol": [
            "triangle-down" if one.f1 < floor else shape for one, shape in zip(formats, shapes, strict=True)
        ],
        "opacity": 1.0,
        "line": edge,
    }


def _diameter(size: int) -> float:
    """Pixels, such that the area goes with the size."""
    return float(np.clip(np.sqrt(size / 1e6) * 22, 9, 42))


def _ticks(cost: str, ends: Sequence[float]) -> dict[str, Any]:
    """Round values of a logarithmic axis, with their unit."""
    values = round_values(ends[0], ends[1], 8)
    return {"tickvals": values, "ticktext": [amount(cost, value).partition(" (")[0] for value in values]}


def _placed(x: np.ndarray, y: np.ndarray, widths: Sequence[float], wanted: Sequence[bool]) -> list[str]:
    """Where each disc's name goes so that none covers another; empty where there is no room.

    Args:
        x, y: discs in pixels; widths: of their names; wanted: names that come first.
    """
    height = _LINE_PX
    taken = [(a, b, 14.0, 14.0) for a, b in zip(x, y, strict=True)]
    places = [""] * len(x)
    for i in sorted(range(len(x)), key=lambda i: not wanted[i]):
        width = widths[i]
        ways = {
            "top center": (0.0, 18.0),
            "bottom center": (0.0, -18.0),
            "middle right": (width / 2 + 14, 0.0),
            "middle left": (-width / 2 - 14, 0.0),
            "bottom left": (-width / 2, -18.0),
            "bottom right": (width / 2, -18.0),
            "top left": (-width / 2, 18.0),
            "top right": (width / 2, 18.0),
        }
        for name, (dx, dy) in ways.items():
            a, b = x[i] + dx, y[i] + dy
            others = [box for j, box in enumerate(taken) if j != i]
            inside = width / 2 - 30 < a < _WIDTH_PX - width / 2 + 10
            if inside and all(
                abs(a - c) > (width + w) / 2 or abs(b - d) > (height + h) / 2 for c, d, w, h in others
            ):
                places[i] = name
                taken.append((a, b, width, height))
                break
    return places


def ladder(formats: Sequence[Format], theme: Theme) -> go.Figure:
    """F1 with its folds, then size, latency and energy as far as they are known, against bits."""
    ranked = [one for one in formats if one.bits is not None]
    ranked.sort(key=lambda one: (one.bits or 0, one.bytes, one.name))
    names = [one.name for one in ranked]
    colours = [_colour(one) for one in ranked]
    titles = [
        ("F1: mean and deviation; a ring for each fold", 2.2),
        ("Size of the head, kB", 1.0),
    ]
    traces = _folds(ranked, names, colours, theme)
    traces.append(_bars(names, [one.bytes / 1e3 for one in ranked], colours, "y2", "%{y:,.0f} kB"))
    if any(one.p50_us for one in ranked):
        titles.append(("Latency of the head, µs: median; the line reaches to p95", 1.0))
        times = _bars(names, [one.p50_us for one in ranked], colours, "y3", "median %{y:.3~g} µs")
        late = [(one.p95_us or 0) - (one.p50_us or 0) for one in ranked]
        reach = {"type": "data", "symmetric": False, "array": late, "arrayminus": [0] * len(ranked)}
        traces.append(times | {"error_y": {**reach, "thickness": 1.3, "width": 3, "color": theme.ink}})
    if any(one.energy_mj for one in ranked):
        source = next(one.energy_source for one in ranked if one.energy_mj)
        titles.append((f"Energy of the head’s call, mJ, {source}", 1.0))
        values = [one.energy_mj for one in ranked]
        traces.append(_bars(names, values, colours, f"y{len(titles)}", "%{y:.3~g} mJ"))
    axes, notes, height = _stacked(titles, theme)
    bits = [f"{one.name}<br>{one.bits} bit{'s' * (one.bits != 1)}" for one in ranked]
    drawn = figure(
        theme,
        traces,
        height=height,
        margin={"l": 46, "r": 8, "t": 24, "b": 58},
        x={
            "tickvals": names,
            "ticktext": bits,
            "automargin": True,
            "tickfont": {"size": 12, "color": theme.ink},
            "showgrid": False,
            "anchor": f"y{len(titles)}",
        },
        bargap=0.45,
        annotations=notes,
        hovermode="closest",
    )
    return drawn.update_layout(axes)


def _folds(ranked: Sequence[Format], names: list[str], colours: list[str], theme: Theme) -> list[Trace]:
    """F1 of each fold as a ring, and the mean with its deviation."""
    folds = [i for i, one in enumerate(ranked) for _ in one.f1_folds]
    ring = {"size": 7, "color": CLEAR, "line": {"width": 1.3, "color": [colours[i] for i in folds]}}
    values = [value for one in ranked for value in one.f1_folds]
    spread = {"type": "data", "thickness": 1.3, "width": 0, "color": theme.muted}
    return [
        dots([names[i] for i in folds], values, ring, "one fold: %{y:.3f}"),
        dots(
            names,
            [one.f1 for one in ranked],
            {"size": 12, "symbol": "line-ew", "line": {"width": 4, "color": colours}},
            "F1 %{y:.3f} ± %{customdata[0]:.3f}, %{customdata[2]:.1f} % of 16-bit, "
            "n = %{customdata[1]} folds × seeds",
            error_y=spread | {"array": [one.f1_std for one in ranked]},
            customdata=[[one.f1_std, one.n, 100 * (one.share_of_16bit or np.nan)] for one in ranked],
        ),
    ]


def _stacked(titles: Sequence[tuple[str, float]], theme: Theme) -> tuple[dict[str, Any], list[Trace], int]:
    """Vertical axes of rows one below the other, their titles as notes, and the figure's height in pixels.

    Args:
        titles: of each row, and how high it is next to the others.
    """
    gap, whole = 0.34, sum(weight for _, weight in titles)
    unit = 1.0 / (whole + gap * (len(titles) - 1))
    axes, notes, top = {}, [], 1.0
    for number, (title, weight) in enumerate(titles, start=1):
        bottom = top - weight * unit
        axes["yaxis" if number == 1 else f"yaxis{number}"] = {
            "domain": [max(bottom, 0.0), top],
            "fixedrange": True,
            "gridcolor": theme.line,
            "zeroline": number > 1,
            "zerolinecolor": theme.line,
            "tickfont": small(theme),
            "nticks": 6 if number == 1 else 4,
            "rangemode": "normal" if number == 1 else "tozero",
        }
        notes.append(_note(title, theme, y=top, yref="paper"))
        top = bottom - gap * unit
    return axes, notes, round(78 * (whole + gap * len(titles))) + 34


def _note(text: str, theme: Theme, **place: Any) -> Trace:
    """A text at the left edge, its foot at the place."""
    font = {"size": 12, "color": theme.ink}
    left = {"x": 0, "xref": "paper", "xanchor": "left", "yanchor": "bottom", "showarrow": False}
    return {"text": text, **left, **place, "font": font}


def _bars(
    names: Sequence[str],
    values: Sequence[float | None],
    colours: Sequence[str],
    axis: str,
    shown: str,
) -> dict[str, Any]:
    return {
        "type": "bar",
        "x": names,
        "y": list(values),
        "yaxis": axis,
        "marker": {"color": list(colours)},
        "hovertemplate": f"{shown}<extra></extra>",
    }


def grids(grids: Sequence[WeightGrid], theme: Theme) -> go.Figure:
    """The values that each format's weights take, one row a format over one axis.

    Bars (or an outline, of fine grids) are as high as the share of weights with that value, the largest of a
    row filling it; ticks under a row are the levels that it has.
    """
    rows = list(reversed(grids))
    common = [np.abs(one.values[one.share > 1e-3]).max() for one in rows]
    reach = 1.2 * max(common)
    traces, shapes, notes = [], [], []
    for base, one in enumerate(rows):
        traces.append(_values(one, base, reach))
        if one.levels is not None and one.levels <= MAX_LEVELS:
            tick = {"type": "line", "y0": base - 0.09, "y1": base, "line": {"color": theme.muted, "width": 1}}
            shapes += [{**tick, "x0": value, "x1": value} for value in one.values]
        notes.append(_note(f"<b>{one.name}</b>  {uses(one)}", theme, y=base + 0.6))
        shapes.append(rule(theme.line, y=base))
    return figure(
        theme,
        traces,
        height=64 * len(rows) + 50,
        margin={"l": 6, "r": 6, "t": 6, "b": 40},
        x={"range": [-reach, reach], "title": axis_title("value of a weight", theme), "nticks": 7},
        y={"range": [-0.2, len(rows) - 0.02], "visible": False},
        shapes=shapes,
        annotations=notes,
        barmode="overlay",
        hovermode="closest",
    )


def _values(one: WeightGrid, base: int, reach: float) -> Trace:
    """A format's row: bars for its levels, an outline where they are too many."""
    colour = expert_colour(one.name)
    tall = 0.58 * one.share / one.share.max()
    if one.levels is None or one.levels > MAX_LEVELS:
        x = np.concatenate([one.values, one.values[::-1]])
        y = np.concatenate([base + tall, np.full(len(tall), base)])
        return lines(x, y, colour, width=0.5, fill="toself", fillcolor=colour)
    return {
        "type": "bar",
        "name": one.name,
        "x": one.values,
        "y": np.maximum(tall, 0.0),
        "base": base,
        "width": 0.55 * min(float(np.diff(one.values).min()), reach / 8),
        "marker": {"color": colour},
        "customdata": one.share,
        "hovertemplate": f"{one.name}: %{{customdata:.1%}} of the weights are %{{x:.3f}}<extra></extra>",
    }


def uses(one: WeightGrid) -> str:
    """What a grid is used for: its zeros, and the entropy of a weight.

    >>> uses(WeightGrid("q2", 0, np.zeros(4), np.full(4, 0.25), 2, 4, 0.886, 0.62))
    '89 % zeros; entropy 0.62 bit'
    """
    zeros = f"{100 * one.zeros:.0f} % zeros; " if one.zeros >= 0.005 else ""
    if one.levels is None:
        return f"{zeros}floats"
    if one.levels > len(one.values):  # the shares are of bins, not of levels
        return f"{zeros}{one.levels:,} levels"
    return f"{zeros}entropy {one.entropy_bits:.2g} bit"
