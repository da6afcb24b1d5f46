"""Figures of one decision: waveform, spectrogram, windows, class probabilities, routing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dashboard.charts.base import (
    CLEAR,
    SHARES,
    axis_title,
    bars,
    figure,
    heatmap,
    names_above,
    names_axis,
    scale,
    small,
)
from dashboard.charts.palette import Theme, class_colour, expert_colour
from dashboard.views.words import capital, drawn, readable
from qmoe_core.audio.decode import SAMPLE_RATE, WINDOW_S
from qmoe_core.audio.mel import HOP, hz_to_mel
from qmoe_core.decision import Decision
from qmoe_core.numbers import clock, factor, percent

SHOWN_DB = 80
"""Range of the spectrogram's colours below its loudest point."""
MAX_COLUMNS = 1300
"""Columns of a spectrogram that a screen can show; more are pooled by their maximum."""
_TICKS_HZ = {60: "60", 250: "250", 500: "500", 1000: "1k", 2000: "2k", 4000: "4k", 8000: "8k"}
_TIME_MARGINS = {"l": 44, "r": 52}
"""Left and right of everything over time, so that waveform, spectrogram and strip stay aligned."""
_NOTE = {"showarrow": False}


def waveform(
    envelope: np.ndarray, duration_s: float, theme: Theme, window: tuple[float, float] | None = None
) -> go.Figure:
    """A recording's amplitude over time.

    Args:
        envelope: lowest and highest sample of each slice, float [2, n].
        duration_s: of the recording.
        window: start and end in seconds of the stretch that is being judged, or None for all of it.
    """
    low, high = envelope
    seconds = (np.arange(len(low)) + 0.5) * (duration_s / len(low))
    reach = max(float(np.abs(envelope).max()), 1e-4)
    outline = {
        "type": "scatter",
        "x": np.concatenate([seconds, seconds[::-1]]),
        "y": np.concatenate([high, low[::-1]]),
        "fill": "toself",
        "fillcolor": theme.accent,
        "line": {"width": 0.6, "color": theme.accent},
        "hoverinfo": "skip",
    }
    levels = {"tickvals": [-reach, 0, reach], "ticktext": ["", "0", f"{reach:.2g}"], "showgrid": False}
    notes = []
    if window:
        place = {"x": window[0], "y": 1, "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
        notes = [{**_NOTE, **place, "text": "judged", "font": small(theme)}]
    return figure(
        theme,
        [outline],
        height=96,
        margin={**_TIME_MARGINS, "t": 16, "b": 4},
        x={"range": [0, _span(duration_s)], "showticklabels": False, "showgrid": False},
        y={"range": [-reach, reach], **levels},
        shapes=_mark(window, theme),
        annotations=notes,
    )


def spectrogram(
    levels: np.ndarray, span: tuple[float, float], theme: Theme, window: tuple[float, float] | None = None
) -> go.Figure:
    """A log-mel spectrogram.

    Args:
        levels: whole dB, int8 [n_mels, frames]; more frames than a screen shows are pooled.
        span: seconds at the first and after the last frame.
        window: start and end in seconds of the stretch that is being judged, or None for all of it.
    """
    n_mels, frames = levels.shape
    if frames > MAX_COLUMNS:
        levels = np.maximum.reduceat(levels, np.arange(0, frames, -(-frames // MAX_COLUMNS)), axis=1)
    below = np.maximum(levels.astype(np.int16) - int(levels.max()), -SHOWN_DB).astype(np.int8)
    picture = {
        "type": "heatmap",
        "z": below,
        "x0": span[0],
        "dx": (span[1] - span[0]) / below.shape[1],
        "zmin": -SHOWN_DB,
        "zmax": 0,
        "colorscale": scale(theme.scale),
        "colorbar": {
            "thickness": 8,
            "outlinewidth": 0,
            "tickvals": [-SHOWN_DB, -SHOWN_DB // 2, 0],
            "ticktext": [f"−{SHOWN_DB}", f"−{SHOWN_DB // 2}", "0 dB"],
            "tickfont": small(theme),
            "x": 1.01,
            "xpad": 2,
        },
        "hovertemplate": "%{x:.2f} s: %{z} dB<extra></extra>",
    }
    ticks = [hz_to_mel(hz) / hz_to_mel(SAMPLE_RATE / 2) * (n_mels + 1) - 1 for hz in _TICKS_HZ]
    hertz = {"tickvals": ticks, "ticktext": list(_TICKS_HZ.values())}
    return figure(
        theme,
        [picture],
        height=250,
        margin={**_TIME_MARGINS, "t": 4, "b": 36},
        x={"range": [span[0], span[0] + _span(span[1] - span[0])], "title": axis_title("time, s", theme)},
        y={"range": [-0.5, n_mels - 0.5], **hertz, "title": axis_title("frequency, Hz (mel)", theme)},
        shapes=_mark(window, theme),
    )


def windows(decisions: Sequence[Decision], chosen: int | None, theme: Theme) -> go.Figure:
    """A long recording as a strip: one block a window, coloured and named by its answer."""
    starts = np.array([d.start_s for d in decisions])
    ends = np.append(starts[1:], decisions[-1].end_s)
    classes, n = decisions[0].classes, len(decisions)
    strong = [chosen in (None, i) for i in range(n)]
    blocks = {
        "type": "bar",
        "x": (starts + ends) / 2,
        "width": ends - starts,
        "y": [d.probability for d in decisions],
        "marker": {
            "color": [class_colour(classes, d.label) for d in decisions],
            "opacity": [1.0 if full else 0.4 for full in strong],
            "line": {"width": 1 if n <= 200 else 0, "color": theme.page},
        },
        "customdata": [[clock(d.start_s, d.end_s), drawn(readable(d.label))] for d in decisions],
        "text": [drawn(readable(d.label)) if n <= 12 else "" for d in decisions],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "textfont": {"color": ["#ffffff" if full else theme.ink for full in strong]},
        "hovertemplate": "%{customdata[0]}: %{customdata[1]}, %{y:.0%}<extra></extra>",
    }
    return figure(
        theme,
        [blocks],
        height=92,
        margin={**_TIME_MARGINS, "t": 4, "b": 22},
        x={"range": [0, decisions[-1].end_s], "ticksuffix": " s", "showgrid": False},
        y={"range": [0, 1], "tickvals": [1], "tickformat": ".0%"},
        bargap=0,
        uniformtext={"minsize": 10, "mode": "hide"},
    )


def likeliest(decision: Decision, theme: Theme, n: int = 5) -> go.Figure:
    """The n likeliest classes of the mixture, as bars."""
    order = np.argsort(decision.probabilities)[::-1][:n][::-1]
    shares = decision.probabilities[order]
    drawn_bars = bars(
        [drawn(capital(readable(decision.classes[i]))) for i in order],
        shares,
        {"color": [class_colour(decision.classes, decision.classes[i]) for i in order]},
        "%{y}: %{x:.2%}",
        text=[f"  {percent(float(share))}" for share in shares],
        textposition="outside",
        textfont={"color": theme.ink},
        cliponaxis=False,
    )
    return figure(
        theme,
        [drawn_bars],
        height=28 * len(order) + 12,
        margin={"l": 0, "r": 4, "t": 4, "b": 4},
        x={"range": [0, 1.18], "visible": False},
        y=names_axis(theme),
        bargap=0.35,
    )


def opinions(decision: Decision, theme: Theme, n: int = 12) -> go.Figure:
    """Experts × classes: the class distribution of each expert, then their mean, then the mixture.

    Classes are in order of their largest probability, and at most n.
    """
    experts = len(decision.experts)
    table = np.array([*(e.probabilities for e in decision.experts), decision.mean, decision.probabilities])
    rows = np.argsort(table.max(axis=0) + decision.probabilities)[::-1][:n][::-1]
    names = [*(e.name for e in decision.experts), "mean q̄", "mixture"]
    titles = [*(_marked(e.name, e.in_mixture, e.selected) for e in decision.experts), *names[-2:]]
    # The mean and the mixture stand a little apart from the experts.
    centres = np.array([*range(experts), experts + 0.4, experts + 1.4])
    parts = [(slice(0, experts), centres[:experts]), (slice(experts, None), centres[experts:])]
    share = table[:, rows].T
    grids = [
        heatmap(
            share[:, part],
            scale(theme.scale),
            "%{customdata}, %{y}: %{z:.1%}",
            x=where,
            y=[drawn(capital(readable(decision.classes[i]))) for i in rows],
            text=[[f"{100 * v:.0f}" if v >= 0.005 else "" for v in row] for row in share[:, part]],
            textfont={"size": 12},
            customdata=np.tile(names[part], (len(rows), 1)),
            zmin=0,
            zmax=1,
        )
        for part, where in parts
    ]
    return figure(
        theme,
        grids,
        height=30 * len(rows) + 62,
        margin={"l": 0, "r": 34, "t": 58, "b": 4},
        x=names_above(titles, theme, tickvals=centres, range=[-0.5, experts + 1.9]),
        y=names_axis(theme),
    )


def routing(decision: Decision, theme: Theme) -> go.Figure:
    """Routing before and after curiosity, expert by expert; the chosen ones and the bonus beside the bars."""
    experts = [e for e in decision.experts if e.in_mixture][::-1]
    names = [_marked(e.name, e.selected, e.selected) for e in experts]
    colours = [expert_colour(e.name) for e in experts]
    full = {"color": colours, "opacity": [1.0 if e.selected else 0.55 for e in experts]}
    outlined = {"color": CLEAR, "line": {"color": colours, "width": 1.5}}
    after = bars(names, [e.routing_probability for e in experts], full, "%{x:.2%} after curiosity")
    before = bars(names, [e.router_probability for e in experts], outlined, "%{x:.2%} by the router alone")
    beside = {**_NOTE, "x": 1.03, "xref": "paper", "xanchor": "left", "align": "left"}
    notes = [
        {
            **beside,
            "y": name,
            "text": factor(e.bonus) + (f"<br><b>{percent(e.weight)}</b>" if e.selected else ""),
            "font": {"size": 12, "color": theme.ink if e.selected else theme.muted},
        }
        for e, name in zip(experts, names, strict=True)
    ]
    head = {"y": 1, "yref": "paper", "yanchor": "bottom", "text": "bonus, <b>share</b>", "font": small(theme)}
    return figure(
        theme,
        [after, before],
        height=38 * len(experts) + 58,
        margin={"l": 0, "r": 86, "t": 22, "b": 28},
        x={"range": [0, 1], "tickvals": SHARES, "tickformat": ".0%"},
        y=names_axis(theme),
        annotations=[*notes, {**beside, **head}],
        bargap=0.3,
        bargroupgap=0.05,
    )


def frames_span(n_frames: int) -> float:
    """Seconds that frames of a spectrogram cover."""
    return n_frames * HOP / SAMPLE_RATE


def _marked(name: str, strong: bool, selected: bool) -> str:
    text = f"● {name}" if selected else name
    return f"<b>{text}</b>" if strong else text


def _span(duration_s: float) -> float:
    """Seconds an axis shows: a short clip is padded to a whole window, and that is shown too."""
    return max(duration_s, WINDOW_S)


def _mark(window: tuple[float, float] | None, theme: Theme) -> list[dict[str, Any]]:
    if window is None:
        return []
    edge = {"color": theme.ink, "width": 1.5}
    place = {"x0": window[0], "x1": window[1], "y0": 0, "y1": 1, "yref": "paper"}
    return [{"type": "rect", **place, "line": edge}]
