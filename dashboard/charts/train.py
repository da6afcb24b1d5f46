"""Figures of the Train page as pure functions of a job's story: plotly only, no Streamlit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dashboard.charts.base import Trace, axis_title, dots, figure, heatmap, lines, names_axis, scale
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
    blank = scale((theme.scale[0], theme.scale[0]))
    ground = heatmap(np.zeros((len(names), len(columns))), blank, x=place, y=names, text=text)
    done = heatmap(
        f1,
        scale(theme.scale[:4]),  # as far as text of one colour can be read on it
        "%{customdata}: F1 %{z:.3f}",
        x=place,
        y=names,
        text=text,
        zmin=min(low, 0.98) - 0.02,
        zmax=1,
        hoverongaps=False,
        customdata=[[f"{name}, {column}" for column in columns] for name in names],
    )
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
    ring = {"size": 9, "color": colour, "line": {"width": 2, "color": theme.page}}
    traces: list[Trace] = []
    highest, epoch = 0.0, ", epoch %{x}: %{y:.3f}"
    for (fold, seed), epochs in fits.items():
        at = [event["epoch"] for event in epochs]
        name = f"{fold}, seed {seed}"
        if what == "loss":
            training = [event["train_loss"] for event in epochs]
            highest = max([highest, *training[:1]])
            traces.append(
                lines(
                    at, training, theme.muted, f"{name}, training{epoch}", width=1, dash="dot", opacity=0.75
                )
            )
        held = [event[what] for event in epochs]
        if all(value is None for value in held):
            continue
        traces.append(
            lines(at, held, colour, f"{name}, held out{epoch}", width=1.75, dash="solid", opacity=0.75)
        )
        highest = max([highest, *(value for value in held[:1] if value is not None)])
        best = chosen.get((fold, seed))
        if best in at:
            y = held[at.index(best)]
            traces.append(dots([best], [y], ring, f"{name}: epoch %{{x}} was chosen"))
    top = {"range": [0, 1.02]} if what == "f1" else {"range": [0, max(1.05 * highest, 0.1)]}
    return figure(
        theme,
        traces,
        height=270,
        margin={"l": 48, "r": 8, "t": 8, "b": 44},
        x={"title": axis_title("epoch", theme), "rangemode": "tozero", "tickformat": "d"},
        y={**top, "title": axis_title({"loss": "loss, nats", "f1": "F1, held out"}[what], theme)},
    )
