"""Figures as small SVG documents: drawn here, without a library, light or dark as the page around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources

import numpy as np

WIDTH = 720
LEFT, RIGHT = 210, 24
TOP, BOTTOM = 30, 40
_STYLE = resources.files("qmoe_core.paper.report").joinpath("figure.css").read_text(encoding="utf-8")
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
    ends = np.array([(m.low, m.high) for _, marks in rows for m in marks] or [(0.0, 1.0)])
    low, high = float(ends.min()), float(ends.max())
    if line_at is not None:
        low, high = min(low, line_at), max(high, line_at)
    scale = _Scale.around(low, high, logarithmic)
    step = 26
    height = TOP + step * len(rows) + BOTTOM
    parts = [_grid(scale, height, axis), _legend(series)]
    if line_at is not None:
        x = scale(line_at)
        parts.append(f'<line class="w" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>')
    for index, (label, marks) in enumerate(rows):
        centre = TOP + step * (index + 0.5)
        parts.append(_label(label, centre))
        for place, mark in enumerate(marks):
            y = centre + 7 * (place - (len(marks) - 1) / 2)
            low, at, high = (f"{scale(value):.1f}" for value in (mark.low, mark.value, mark.high))
            parts.append(
                f'<g class="{_CLASSES[mark.series]}">'
                f'<line stroke-width="2" x1="{low}" x2="{high}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<circle cx="{at}" cy="{y:.1f}" r="4"/></g>'
            )
    return _document(parts, height, axis)


def histogram(edges: np.ndarray, counts: Sequence[np.ndarray], axis: str, *, series: Sequence[str]) -> str:
    """Stacked bars: how many clips (vertical) have a value in each bin.

    Args:
        edges: float [B + 1]; counts: of each series, int [B].
    """
    scale = _Scale(float(edges[0]), float(edges[-1]), False, left=60)
    height, top = 300, float(max(np.sum(counts, axis=0).max(), 1))
    floor = height - BOTTOM
    span = floor - TOP
    parts = [_grid(scale, height, axis), _legend(series)]
    parts += [
        f'<text class="m" text-anchor="end" x="52" y="{floor - part * span + 4:.0f}">{part * top:.0f}</text>'
        for part in (0.0, 0.5, 1.0)
    ]
    base = np.zeros(len(edges) - 1)
    for name, count in zip(_CLASSES, counts, strict=False):
        for i, n in enumerate(count):
            if n:
                x, wide = scale(edges[i]), scale(edges[i + 1]) - scale(edges[i])
                y, tall = floor - (base[i] + n) / top * span, n / top * span
                size = f'width="{max(wide - 1, 1):.1f}" height="{tall:.1f}"'
                parts.append(f'<rect class="{name}" stroke="none" x="{x:.1f}" y="{y:.1f}" {size}/>')
        base += count
    return _document(parts, height, axis)


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


def _grid(scale: _Scale, height: int, axis: str) -> str:
    parts = []
    for tick in scale.ticks():
        x = scale(tick)
        floor = height - BOTTOM
        parts.append(
            f'<line class="g" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{floor}"/>'
            f'<text class="m" text-anchor="middle" x="{x:.1f}" y="{floor + 16}">{_number(tick)}</text>'
        )
    middle = (scale.left + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="m" text-anchor="middle" x="{middle:.0f}" y="{height - 6}">{escape(axis)}</text>'
    )
    return "".join(parts)


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−") if value else "0"


def _legend(series: Sequence[str]) -> str:
    parts, x = [], 16
    for name, text in zip(_CLASSES, series, strict=False):
        parts.append(
            f'<circle class="{name}" cx="{x}" cy="13" r="5"/><text x="{x + 10}" y="17">{escape(text)}</text>'
        )
        x += 34 + 7 * len(text)
    return "".join(parts)


def _label(text: str, y: float) -> str:
    shown = text if len(text) <= 28 else text[:27] + "…"
    inside = f"<title>{escape(text)}</title>{escape(shown)}"
    return f'<text text-anchor="end" x="{LEFT - 10}" y="{y + 4:.1f}">{inside}</text>'


def _document(parts: Sequence[str], height: int, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title, quote=True)}"><style>{_STYLE}</style>{"".join(parts)}</svg>'
    )
