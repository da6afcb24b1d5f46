"""Figures of the Dataset page as pure functions of arrays: plotly only, no Streamlit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from dashboard.charts.base import CLEAR, WORSE, dots, figure, scale, small
from dashboard.charts.palette import Theme, class_colour
from dashboard.views.words import capital, readable

FADED = 0.12
"""Opacity of clips that the filters leave out."""


def embedding_map(
    points: np.ndarray,
    hover: Sequence[str],
    colours: Sequence[str] | np.ndarray,
    wrong: np.ndarray,
    kept: np.ndarray,
    theme: Theme,
    *,
    chosen: int | None = None,
    scale_title: str = "",
) -> go.Figure:
    """Clips on a plane; crosses are errors, those that the filters leave out are faint.

    Args:
        points: float [n, 2]; hover: n texts.
        colours: n colours, or n numbers (a scale of that title is then shown).
        wrong, kept: bool [n].
        chosen: index of the clip that is ringed.
    """
    marker = {
        "size": np.where(kept, 9, 6),
        "symbol": np.where(wrong, "x", "circle"),
        "opacity": np.where(kept, 0.9, FADED),
        "color": colours,
        "line": {"width": 0.5, "color": theme.page},
    }
    if isinstance(colours, np.ndarray):
        bar = {"thickness": 8, "outlinewidth": 0, "tickfont": small(theme), "xpad": 4}
        bar["title"] = {"text": scale_title, "font": small(theme), "side": "right"}
        edge = {"width": 0.5, "color": theme.muted}
        marker |= {"colorscale": scale(theme.scale[1:]), "line": edge, "colorbar": bar}
    numbers = np.arange(len(points))
    traces = [dots(points[:, 0], points[:, 1], marker, "%{text}", customdata=numbers, text=list(hover))]
    if chosen is not None:
        ring = {"size": 19, "color": CLEAR, "line": {"width": 2, "color": theme.ink}}
        traces.append(dots(points[[chosen], 0], points[[chosen], 1], ring))
    hidden = {"showgrid": False, "showticklabels": False, "showline": True, "linecolor": theme.line}
    return figure(
        theme,
        traces,
        height=470,
        margin={"l": 4, "r": 4, "t": 4, "b": 4},
        x={**hidden, "mirror": True},
        y={**hidden, "mirror": True},
        clickmode="event+select",
        hovermode="closest",
    )


def class_colours(labels: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Each clip in its class's colour."""
    colours = [class_colour(classes, name) for name in classes]
    return [colours[label] for label in labels]


def right_or_wrong(wrong: np.ndarray, theme: Theme) -> list[str]:
    """Errors stand out."""
    return [WORSE if one else theme.muted for one in wrong]


def class_legend(classes: Sequence[str]) -> list[tuple[str, str]]:
    """Names and lines of a legend of classes."""
    return [(capital(readable(name)), f"9px solid {class_colour(classes, name)}") for name in classes]
