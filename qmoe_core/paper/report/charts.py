"""Figures as small SVG documents, light or dark as the page around them.

They are made by a template (`figure.svg.j2`) rather than by plotly: a page with plotly's figures would carry
4.5 MB of JavaScript for some ten figures that need none, and its pictures would need a browser to be made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qmoe_core.paper.report.templates import FOLDER, render

WIDTH = 720
LEFT, RIGHT = 210, 24
TOP, BOTTOM = 30, 40
STEP = 26
"""Height of a row, px."""
_STYLE = (FOLDER / "figure.css").read_text(encoding="utf-8")
_CLASSES = "abc"


@dataclass(frozen=True)
class Mark:
    """A point with a line from low to high, of one of up to three series."""

    value: float
    low: float
    high: float
    series: int = 0


def intervals(
    rows: Sequence[tuple[str, Sequence[Mark]]],
    axis: str,
    *,
    series: Sequence[str] = (),
    line_at: float | None = None,
    logarithmic: bool = False,
) -> str:
    """Points with intervals, a row for each name.

    Args:
        rows: label and its marks; axis: what is on the horizontal axis.
        series: names of the series, for the legend.
        line_at: where a dashed vertical line stands, such as no difference.
        logarithmic: the axis; all ends must be above 0.
    """
    ends = [end for _, marks in rows for mark in marks for end in (mark.low, mark.high)] or [0.0, 1.0]
    ends += [] if line_at is None else [line_at]
    scale = _Scale.around(float(min(ends)), float(max(ends)), logarithmic)
    centres = [TOP + STEP * (index + 0.5) for index in range(len(rows))]
    marks = [
        (
            _CLASSES[mark.series],
            centre + 7 * (place - (len(of_row) - 1) / 2),
            *map(scale, (mark.low, mark.value, mark.high)),
        )
        for (_, of_row), centre in zip(rows, centres, strict=True)
        for place, mark in enumerate(of_row)
    ]
    return _drawn(
        scale,
        TOP + STEP * len(rows) + BOTTOM,
        axis,
        series,
        marks=marks,
        labels=[(centre + 4, label) for (label, _), centre in zip(rows, centres, strict=True)],
        line_at=None if line_at is None else scale(line_at),
    )


def histogram(edges: np.ndarray, counts: Sequence[np.ndarray], axis: str, *, series: Sequence[str]) -> str:
    """Stacked bars: how many clips (vertical) have a value in each bin.

    Args:
        edges: float [B + 1]; counts: of each series, int [B].
    """
    scale = _Scale(float(edges[0]), float(edges[-1]), False, left=60)
    height, most = 300, float(max(np.sum(counts, axis=0).max(), 1))
    floor = height - BOTTOM
    span = floor - TOP
    bars = []
    base = np.zeros(len(edges) - 1)
    for name, count in zip(_CLASSES, counts, strict=False):
        for i in np.flatnonzero(count):
            x, wide = scale(edges[i]), scale(edges[i + 1]) - scale(edges[i])
            y, tall = floor - (base[i] + count[i]) / most * span, count[i] / most * span
            bars.append((name, x, y, max(wide - 1, 1), tall))
        base += count
    heights = [(floor - part * span + 4, f"{part * most:.0f}") for part in (0.0, 0.5, 1.0)]
    return _drawn(scale, height, axis, series, bars=bars, heights=heights)


def curves(lines: Sequence[tuple[np.ndarray, np.ndarray]], axis: str, *, series: Sequence[str]) -> str:
    """Lines over one horizontal axis; the vertical one goes from 0 to 1.

    Args:
        lines: x and y of up to three series, [points] each, x rising.
    """
    ends = [float(x[place]) for x, _ in lines for place in (0, -1)] or [0.0, 1.0]
    scale, height = _Scale(min(ends), max(ends), False, left=60), 320
    floor = height - BOTTOM
    span = floor - TOP
    paths = [
        (name, " ".join(f"{scale(a):.1f},{floor - b * span:.1f}" for a, b in zip(x, y, strict=True)))
        for name, (x, y) in zip(_CLASSES, lines, strict=False)
    ]
    heights = [(floor - part * span + 4, f"{part:g}") for part in (0.0, 0.5, 1.0)]
    return _drawn(scale, height, axis, series, lines=paths, heights=heights)


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    logarithmic: bool
    left: int = LEFT

    @staticmethod
    def around(low: float, high: float, logarithmic: bool) -> _Scale:
        if logarithmic:
            return _Scale(low * 0.9, high * 1.1, True)
        room = 0.05 * (high - low) or 0.05
        return _Scale(low - room, high + room, False)

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = np.log(value), np.log(low), np.log(high)
        return self.left + (WIDTH - RIGHT - self.left) * (value - low) / ((high - low) or 1.0)

    def ticks(self) -> list[float]:
        """Round numbers, four to eight of them."""
        if self.logarithmic:
            decades = range(int(np.floor(np.log10(self.low))), int(np.ceil(np.log10(self.high))) + 1)
            factors = (1, 2, 5) if len(decades) < 4 else (1,)
            every = [factor * 10.0**decade for decade in decades for factor in factors]
        else:
            rough = (self.high - self.low) / 5
            unit = 10.0 ** np.floor(np.log10(rough))
            step = min((unit * f for f in (1, 2, 5, 10)), key=lambda s: abs(s - rough))
            first = np.ceil(self.low / step)
            every = [step * (first + i) for i in range(20)]
        return [float(tick) for tick in every if self.low <= tick <= self.high]


def _drawn(scale: _Scale, height: int, axis: str, series: Sequence[str], **shapes: object) -> str:
    """The template filled: grid, axis, legend, and what the figure is made of."""
    legend, x = [], 16
    for name, text in zip(_CLASSES, series, strict=False):
        legend.append((name, x, text))
        x += 34 + 7 * len(text)
    nothing = {"marks": (), "labels": (), "bars": (), "heights": (), "lines": (), "line_at": None}
    return render(
        "figure.svg.j2",
        style=_STYLE,
        width=WIDTH,
        height=height,
        top=TOP,
        floor=height - BOTTOM,
        left=scale.left,
        middle=(scale.left + WIDTH - RIGHT) / 2,
        axis=axis,
        legend=legend,
        ticks=[(scale(tick), f"{tick:.3g}".replace("-", "−") if tick else "0") for tick in scale.ticks()],
        **(nothing | shapes),
    )
