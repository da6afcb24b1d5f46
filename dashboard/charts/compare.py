"""Figures of the Compare page: confusions, F1 of classes, agreement, calibration, risk, detection, runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dashboard.charts.base import (
    CLEAR,
    FONT,
    SHARES,
    WORSE,
    Trace,
    axis_title,
    dots,
    figure,
    heatmap,
    lines,
    names_above,
    names_axis,
    round_values,
    rule,
    scale,
)
from dashboard.charts.palette import Look, Theme, class_colour
from dashboard.views.words import capital, drawn, readable
from qmoe_core.evaluation.calibration import Reliability
from qmoe_core.evaluation.noise import NoiseCell, NoiseSweep
from qmoe_core.evaluation.runs import Run
from qmoe_core.evaluation.selective import Auroc, RiskCoverage
from qmoe_core.experts.spec import EXPERTS

READABLE_CLASSES = 24
"""Up to so many classes, cells are large enough for numbers and names."""
_PLANE = {"l": 56, "r": 16, "t": 8, "b": 48}
_UNDER_NAMES = {"l": 4, "r": 96, "t": 104, "b": 4}


def class_names(classes: Sequence[str]) -> list[str]:
    """Classes as axes show them, each with its colour."""
    return [
        f'<span style="color:{class_colour(classes, name)}">■</span> {drawn(capital(readable(name)))}'
        for name in classes
    ]


def confusion(matrix: np.ndarray, classes: Sequence[str], theme: Theme, most: int | None = None) -> go.Figure:
    """A confusion matrix; the colours are those of the errors, so that the many right ones do not hide them.

    Args:
        matrix: int [C, C], rows what the clips are.
        most: errors of the darkest cell, the same for matrices that stand side by side; None is their own.
    """
    diagonal = np.eye(len(classes), dtype=bool)
    right = np.where(diagonal, matrix, 0)
    wrong = matrix - right
    most = max(1, int(wrong.max()) if most is None else most)
    count = [[[str(int(v)) if v else "" for v in row] for row in part] for part in (wrong, right)]
    errors = _confused(wrong, classes, count[0], (0, most), scale(theme.scale), "%{customdata}: %{z}")
    kept = _confused(
        np.where(diagonal, 1.0, np.nan), classes, count[1], (0, 1), scale((theme.line, theme.line))
    )
    return _matrix([errors, kept], classes, theme)


def confusion_change(
    matrix: np.ndarray, reference: np.ndarray, classes: Sequence[str], theme: Theme, most: int | None = None
) -> go.Figure:
    """How a confusion matrix differs from another; the accent is for the better, orange for the worse."""
    change = matrix.astype(np.int64) - reference
    better = np.where(np.eye(len(classes), dtype=bool), change, -change)
    most = max(1, int(np.abs(change).max()) if most is None else most)
    text = [[f"{v:+d}".replace("-", "−") if v else "" for v in row] for row in change]
    colours = scale((WORSE, theme.scale[0], theme.accent))
    return _matrix([_confused(better, classes, text, (-most, most), colours)], classes, theme)


def _confused(
    z: np.ndarray,
    classes: Sequence[str],
    text: list[list[str]],
    ends: tuple[int, int],
    colours: list[list[float | str]],
    hover: str = "%{customdata}: %{text}",
) -> Trace:
    said = [[drawn(f"{readable(a)} called {readable(b)}") for b in classes] for a in classes]
    return heatmap(
        z,
        colours,
        hover,
        gap=1,
        text=np.array(text, dtype=object),
        customdata=np.array(said, dtype=object),
        texttemplate="%{text}" if len(classes) <= READABLE_CLASSES else "",
        textfont={"size": 12},
        zmin=ends[0],
        zmax=ends[1],
        hoverongaps=False,
    )


def _matrix(traces: Sequence[Trace], classes: Sequence[str], theme: Theme) -> go.Figure:
    n = len(classes)
    shown = n <= READABLE_CLASSES
    ticks = {"tickvals": list(range(n)), "ticktext": class_names(classes)} if shown else {"visible": False}
    return figure(
        theme,
        traces,
        height=24 * n + 96 if shown else 380,
        margin={"l": 4, "r": 4, "t": 4, "b": 84 if shown else 8},
        x={**ticks, "tickangle": -50, "showgrid": False, "tickfont": {"size": 12, "color": theme.ink}},
        y=names_axis(theme, **ticks, autorange="reversed"),
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
    ends = [table.min(axis=0)[order], table.max(axis=0)[order], np.full(len(order), np.nan)]
    reach = lines(np.stack(ends, 1).ravel(), np.repeat(names, 3), theme.line)
    low = float(np.floor(table.min() * 10.0) / 10.0)
    return figure(
        theme,
        [
            reach,
            *(
                dots(row[order], names, _marker(looks[name], 10), "%{x:.3f}", name=name)
                for name, row in values.items()
            ),
        ],
        height=30 * len(names) + 56,
        margin={"l": 4, "r": 12, "t": 4, "b": 40},
        x={"range": [max(low - 0.02, -0.02), 1.02], "title": axis_title("F1 of the class", theme)},
        y=names_axis(theme, autorange="reversed", type="category"),
    )


def agreement(matrix: np.ndarray, names: Sequence[str], theme: Theme, kappa: bool) -> go.Figure:
    """Pairs of contenders: the share of clips to which they give the same label, or Cohen's κ.

    Args:
        matrix: float [N, N], symmetric; the diagonal is left out.
    """
    n = len(names)
    shown = np.where(np.eye(n, dtype=bool), np.nan, matrix)
    form = "{:.2f}" if kappa else "{:.0%}"
    place = list(range(n))
    grid = heatmap(
        shown,
        scale(theme.scale),
        "%{customdata}: %{text}",
        x=place,
        y=place,
        text=[["" if i == j else form.format(matrix[i, j]) for j in place] for i in place],
        customdata=[[f"{a} and {b}" for b in names] for a in names],
        hoverongaps=False,
        zmin=min(float(np.nanmin(shown)) if n > 1 else 0.0, 0.99) - 0.02,
        zmax=1,
    )
    return figure(
        theme,
        [grid],
        height=44 * n + 112,
        margin=_UNDER_NAMES,
        x=names_above(names, theme),
        y=names_axis(theme, tickvals=place, ticktext=list(names), autorange="reversed"),
    )


def reliability(curves: Mapping[str, Reliability], looks: Mapping[str, Look], theme: Theme) -> go.Figure:
    """Stated probability against how often it was right; a mark is as large as its bin has clips."""
    traces = [lines([0, 1], [0, 1], theme.muted, width=1, dash="dot")]
    for name, curve in curves.items():
        there = curve.count > 0
        look, at = looks[name], (curve.confidence[there], curve.accuracy[there])
        size = 4 + 20 * np.sqrt(curve.count[there] / max(1, curve.count.sum()))
        hover = "stated %{x:.0%}, right %{y:.0%}, %{customdata} clips"
        clips = {"customdata": curve.count[there], "opacity": 0.85, "name": name}
        traces += [
            lines(*at, look.colour, width=1, dash=look.dash, opacity=0.45),
            dots(*at, _marker(look, size), hover, **clips),
        ]
    ends = {"range": [-0.02, 1.02], "tickformat": ".0%", "tickvals": SHARES}
    return figure(
        theme,
        traces,
        height=420,
        margin=_PLANE,
        x={**ends, "title": axis_title("stated probability", theme)},
        y={**ends, "title": axis_title("share that was right", theme)},
    )


def risk_coverage(
    curves: Mapping[str, RiskCoverage], looks: Mapping[str, Look], coverage: float, theme: Theme
) -> go.Figure:
    """Errors left when only the most certain clips are answered, and where the slider stands.

    Args:
        coverage: share of clips that is answered, 0 to 1.
    """
    traces = []
    for name, curve in curves.items():
        look = looks[name]
        place = max(1, round(coverage * len(curve.risk))) - 1
        hover = "%{y:.1%} wrong of the most certain %{x:.0%}"
        traces += [
            lines(curve.coverage, curve.risk, look.colour, hover, dash=look.dash, name=name),
            dots([curve.coverage[place]], [curve.risk[place]], _marker(look, 11)),
        ]
    most = max((float(curve.risk[-1]) for curve in curves.values()), default=0.1)
    answered = axis_title("share answered, the most certain first (coverage)", theme)
    wrong = axis_title("share wrong among them (risk)", theme)
    return figure(
        theme,
        traces,
        height=380,
        margin=_PLANE,
        x={"range": [0, 1.01], "tickformat": ".0%", "title": answered},
        y={"range": [0, 1.25 * max(most, 0.02)], "tickformat": ".0%", "title": wrong},
        shapes=[rule(theme.ink, x=coverage, dash="dash")],
    )


def detection(found: Mapping[str, Auroc], theme: Theme, chosen: str | None = None) -> go.Figure:
    """AUROC of each uncertainty with its interval; 0.5 is chance.

    Args:
        found: by the name that is shown; chosen: the one to stand out.
    """
    names = list(found)
    ink = [theme.accent if name == chosen else theme.ink for name in names]
    rows = [
        lines([one.low, one.high], [name, name], colour, width=3, opacity=0.45)
        for (name, one), colour in zip(found.items(), ink, strict=True)
    ]
    marks = dots(
        [one.auroc for one in found.values()],
        names,
        {"size": 10, "color": ink},
        "%{y}: %{x:.3f}, 95 % interval %{customdata[0]:.3f}–%{customdata[1]:.3f}",
        mode="markers+text",
        text=[f"{one.auroc:.2f}" for one in found.values()],
        textposition="top center",
        textfont={"size": 12, "color": ink},
        customdata=[[one.low, one.high] for one in found.values()],
        cliponaxis=False,
    )
    low = min([0.48, *(one.low - 0.02 for one in found.values())])
    return figure(
        theme,
        [*rows, marks],
        height=40 * len(names) + 64,
        margin={"l": 4, "r": 20, "t": 18, "b": 40},
        x={"range": [max(0.0, low), 1.02], "title": axis_title("AUROC", theme), "tickvals": SHARES},
        y=names_axis(theme, autorange="reversed", type="category"),
        shapes=[rule(theme.muted, x=0.5, dash="dot")],
    )


def answers(
    shares: np.ndarray,
    names: Sequence[str],
    classes: Sequence[str],
    truth: int | None,
    theme: Theme,
    n: int = 10,
) -> go.Figure:
    """Each contender's class distribution for one clip: classes × contenders, the likeliest classes on top.

    Args:
        shares: float [N, C]; truth: index of the right class, which is always shown and marked.
    """
    order = np.argsort(shares.max(axis=0) + shares.mean(axis=0))[::-1][:n]
    if truth is not None and truth not in order:
        order = np.append(order[:-1], truth)
    label = class_names(classes)
    share = shares[:, order].T
    grid = heatmap(
        share,
        scale(theme.scale),
        "%{customdata}, %{y}: %{z:.1%}",
        x=list(range(len(names))),
        y=[f"<b>{label[i]}</b>" if i == truth else label[i] for i in order],
        text=[[f"{100 * v:.0f}" if v >= 0.005 else "" for v in row] for row in share],
        customdata=np.tile(list(names), (len(order), 1)),
        zmin=0,
        zmax=1,
    )
    return figure(
        theme,
        [grid],
        height=30 * len(order) + 112,
        margin=_UNDER_NAMES,
        x=names_above(names, theme),
        y=names_axis(theme, autorange="reversed"),
    )


def parallel(axes: Sequence[Mapping[str, Any]], colours: Sequence[str], theme: Theme) -> go.Figure:
    """Runs as lines over parallel axes; dragging along an axis keeps the runs that pass there.

    Args:
        axes: plotly's dimensions: `label`, `values` [n], and optionally `tickvals`, `ticktext`.
        colours: of the n runs.
    """
    distinct = list(dict.fromkeys(colours))
    line = {
        "color": [distinct.index(colour) for colour in colours],
        "cmin": 0,
        "cmax": max(1, len(distinct) - 1),
        "colorscale": scale(distinct if len(distinct) > 1 else distinct * 2),
        "showscale": False,
    }
    plot = {
        "type": "parcoords",
        "dimensions": [dict(axis) for axis in axes],
        "line": line,
        "unselected": {"line": {"color": theme.line, "opacity": 0.35}},
        "labelfont": {"size": 13, "color": theme.ink},
        "tickfont": {"size": 12, "color": theme.ink},
        "rangefont": {"size": 1, "color": CLEAR},
    }
    margin = {"l": 130, "r": 56, "t": 48, "b": 20}
    ground = {"font": {"family": FONT, "color": theme.ink}, "paper_bgcolor": CLEAR, "plot_bgcolor": CLEAR}
    return go.Figure(data=[plot], layout={"height": 420, "margin": margin, **ground})


_CATEGORIES = (
    ("origin", "from"),
    ("dataset", "data"),
    ("embedder", "embedder"),
    ("protocol", "folds"),
    ("selection", "epoch by"),
)


def run_axes(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Parallel axes for runs: a category only where it differs, a figure only where every run has it."""
    made = []
    for key, title in _CATEGORIES:
        values = [getattr(run, key) for run in runs]
        if len(set(values)) > 1:
            made.append(_category(title, values, sorted(set(values))))
    order = {name: i for i, name in enumerate(sorted(EXPERTS, key=lambda name: -EXPERTS[name].bits))}
    names = sorted(
        {run.name for run in runs}, key=lambda name: (order.get(name, len(order)), name), reverse=True
    )
    made.append(_category("format", [run.name for run in runs], names))
    made.append(_logarithmic("kB", [run.bytes / 1000 for run in runs]))
    if all(run.p50_us is not None for run in runs):
        made.append(_logarithmic("µs, p50", [run.p50_us or 0.0 for run in runs]))
    for key, title in (("ece", "ECE"), ("aurc", "AURC")):
        if all(getattr(run, key) is not None for run in runs):
            made.append({"label": title, "values": [getattr(run, key) for run in runs], "tickformat": ".3f"})
    made.append({"label": "± F1", "values": [run.f1_std for run in runs], "tickformat": ".3f"})
    made.append({"label": "F1", "values": [run.f1 for run in runs], "tickformat": ".3f"})
    return made


def _category(title: str, values: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    place = {name: i for i, name in enumerate(names)}
    return {
        "label": title,
        "values": [place[value] for value in values],
        "tickvals": list(range(len(names))),
        "ticktext": [drawn(name if len(name) <= 22 else f"{name[:21]}…") for name in names],
        "range": [-0.2, len(names) - 0.8],
    }


def _logarithmic(title: str, values: Sequence[float]) -> dict[str, Any]:
    exponents = np.log10(np.maximum(values, 1e-3))
    low, high = float(exponents.min()), float(exponents.max())
    shown = round_values(low - 0.05, high + 0.05, 100) or [10.0**low]
    return {
        "label": title,
        "values": exponents.tolist(),
        "tickvals": [float(np.log10(s)) for s in shown],
        "ticktext": [f"{s:,.0f}" if s >= 1 else f"{s:g}" for s in shown],
        "range": [low - 0.05, high + 0.05],
    }


def _marker(look: Look, size: Any) -> dict[str, Any]:
    edge = {"width": 2 if look.symbol.endswith("-open") else 0, "color": look.colour}
    return {"size": size, "color": look.colour, "symbol": look.symbol, "line": edge}


def noise(
    found: NoiseSweep,
    value: Callable[[NoiseCell], float | None],
    name: Callable[[NoiseCell], str],
    theme: Theme,
) -> go.Figure:
    """A matrix of formats and changes of the sound, in per cent; what is unknown is empty."""
    changes = list(dict.fromkeys(name(cell) for cell in found.rows))
    experts = list(dict.fromkeys(cell.expert for cell in found.rows))
    z = np.full((len(changes), len(experts)), np.nan)
    for cell in found.rows:
        shown = value(cell)
        if shown is not None:
            z[changes.index(name(cell)), experts.index(cell.expert)] = 100.0 * shown
    text = [["" if np.isnan(v) else f"{v:.0f}" for v in row] for row in z]
    cells = heatmap(
        z,
        scale(theme.scale),
        "%{customdata}: %{z:.1f} %",
        text=text,
        customdata=[[c] * len(experts) for c in changes],
    )
    return figure(
        theme,
        [cells],
        height=120 + 24 * len(changes),
        margin={"l": 4, "r": 60, "t": 110, "b": 4},
        x=names_above(experts, theme),
        y=names_axis(theme, tickvals=list(range(len(changes))), ticktext=changes, autorange="reversed"),
    )
