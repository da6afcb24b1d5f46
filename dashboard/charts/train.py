"""Figures of the Train page as pure functions of a job's story: plotly only, no Streamlit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dashboard.charts.compare import axis_title, figure, names_axis
from dashboard.charts.palette import Theme, expert_colour
from dashboard.session.training import Cell


def progress(cells: Mapping[str, Sequence[Cell]], columns: Sequence[str], theme: Theme) -> go.Figure:
    """Experts × folds: F1 where it is there (with a dot: found in the store), … where it is trained now."""
    names = list(cells)
    f1 = np.array([[np.nan if cell.f1 is None else cell.f1 for cell in row] for row in cells.values()])
    known = f1[np.isfinite(f1)]
    low = float(known.min()) if len(known) else 0.0
    text = [[_mark(cell) for cell in row] for row in cells.values()]
    place = list(range(len(columns)))
    ground = {
        "type": "heatmap",
        "z": np.zeros((len(names), len(columns))),
        "x": place,
        "y": names,
        "colorscale": [[0, theme.scale[0]], [1, theme.scale[0]]],
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
        "text": text,
        "texttemplate": "%{text}",
        "hoverinfo": "skip",
    }
    done = {
        **ground,
        "z": f1,
        "zmin": min(low, 0.98) - 0.02,
        "zmax": 1,
        "colorscale": _without_darkest(theme),
        "hoverinfo": "all",
        "hoverongaps": False,
        "customdata": [[f"{name}, {column}" for column in columns] for name in names],
        "hovertemplate": "%{customdata}: F1 %{z:.3f}<extra></extra>",
    }

    return figure(
        theme,
        [ground, done],
        height=30 * len(names) + 44,
        margin={"l": 4, "r": 4, "t": 36, "b": 4},
        x={
            "tickvals": place,
            "ticktext": list(columns),
            "side": "top",
            "showgrid": False,
            "tickangle": 0 if len(columns) <= 10 else -50,
        },
        y=names_axis(theme, autorange="reversed", type="category"),
    )


def _mark(cell: Cell) -> str:
    if cell.f1 is not None:
        return f"{cell.f1:.2f}" + (" ·" if cell.found else "")
    return "…" if cell.running else ""


def _without_darkest(theme: Theme) -> list[list[float | str]]:
    """The theme's scale as far as text of one colour can be read on it."""
    steps = theme.scale[:4]
    return [[i / (len(steps) - 1), colour] for i, colour in enumerate(steps)]


def curves(
    fits: Mapping[tuple[str, int], Sequence[Mapping[str, Any]]],
    chosen: Mapping[tuple[str, int], int],
    expert: str,
    what: str,
    theme: Theme,
) -> go.Figure:
    """Loss or F1 against the epoch, a line a fold; the chosen epoch is marked.

    Args:
        fits: epochs of each (fold, seed); chosen: the epoch that was chosen, where it is known.
        what: `loss` (held out solid, training dotted) or `f1`.
    """
    colour = expert_colour(expert)
    traces: list[dict[str, Any]] = []
    highest = 0.0
    for (fold, seed), epochs in fits.items():
        at = [event["epoch"] for event in epochs]
        name = f"{fold}, seed {seed}"
        if what == "loss":
            training = [event["train_loss"] for event in epochs]
            highest = max([highest, *training[:1]])
            traces.append(_line(at, training, name, colour, theme, "dot", "training"))
        held = [event[what] for event in epochs]
        if any(value is not None for value in held):
            traces.append(_line(at, held, name, colour, theme, "solid", "held out"))
            highest = max([highest, *(value for value in held[:1] if value is not None)])
            best = chosen.get((fold, seed))
            if best is not None and best in at:
                traces.append(
                    {
                        "type": "scatter",
                        "mode": "markers",
                        "x": [best],
                        "y": [held[at.index(best)]],
                        "marker": {"size": 9, "color": colour, "line": {"width": 2, "color": theme.page}},
                        "hovertemplate": f"{name}: epoch %{{x}} was chosen<extra></extra>",
                    }
                )
    top = {"range": [0, 1.02]} if what == "f1" else {"range": [0, max(1.05 * highest, 0.1)]}
    return figure(
        theme,
        traces,
        height=270,
        margin={"l": 48, "r": 8, "t": 8, "b": 44},
        x={"title": axis_title("epoch", theme), "rangemode": "tozero", "tickformat": "d"},
        y={**top, "title": axis_title({"loss": "loss, nats", "f1": "F1, held out"}[what], theme)},
    )


def _line(
    x: Sequence[int], y: Sequence[float | None], name: str, colour: str, theme: Theme, dash: str, kind: str
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": list(x),
        "y": list(y),
        "line": {
            "color": theme.muted if dash == "dot" else colour,
            "width": 1 if dash == "dot" else 1.75,
            "dash": dash,
        },
        "opacity": 0.75,
        "hovertemplate": f"{name}, {kind}, epoch %{{x}}: %{{y:.3f}}<extra></extra>",
    }
