"""Figures of what is being heard: the last half minute, and how long judging takes.

The half minute is drawn four times a second, which is too often for plotly: `picture` makes the data of it,
and live_picture.js draws that on canvases. No figure of the page needs plotly at all.
"""

from __future__ import annotations

import base64
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from streamlit.components.v2 import component

from dashboard.charts.palette import Theme, class_colour
from dashboard.views.words import capital, readable
from qmoe_core.audio.decode import SAMPLE_RATE
from qmoe_core.audio.mel import HOP, hz_to_mel
from qmoe_core.bundles import Bundle
from qmoe_core.live.detections import JudgedWindow
from qmoe_core.live.pipeline import HOP_S, SHOWN_S, LiveView
from qmoe_core.numbers import percent

SHOWN_DB = 80
"""Range of the spectrogram's colours below its loudest point."""
POOLED = 2
"""Frames that share a column."""
_HZ = {125: "125 Hz", 500: "500", 1000: "1k", 2000: "2k", 4000: "4k", 8000: "8k"}
TITLES = {
    "spectrogram": "Log-mel spectrogram, Hz",
    "level": "Peak level, dB below full scale",
    "answers": "What the mixture says: the darker, the surer",
    "lanes": "What each expert that had to run says, in the colour of the class; underlined: it was chosen",
    "uncertainty": "Doubt, 1 − the largest probability; dashed: no answer above",
}
_FILES = Path(__file__).with_name("live_picture")
_picture = component(
    "qmoe_live_picture",
    html=_FILES.with_suffix(".html").read_text(encoding="utf-8"),
    css=_FILES.with_suffix(".css").read_text(encoding="utf-8"),
    js=_FILES.with_suffix(".js").read_text(encoding="utf-8"),
)


def draw(view: LiveView, bundle: Bundle, limit: float | None, theme: Theme, *, key: str) -> None:
    """Mount the half minute."""
    _picture(key=key, data=picture(view, bundle, limit, theme))


def picture(view: LiveView, bundle: Bundle, limit: float | None, theme: Theme) -> dict[str, Any]:
    """What live_picture.js draws.

    Times are seconds before now, `ago`; shares are whole per cent; levels are bytes, 0 to 255, row by row
    from the lowest band; `said` and `best` are numbers of classes, `routed` those of experts.
    """
    windows = [w for w in view.windows if view.heard_s - w.end_s < SHOWN_S]
    newest = windows[-1] if windows else None
    pooled = _pooled(view.levels)
    top = int(pooled.max(initial=-SHOWN_DB))
    levels = np.clip((pooled.astype(np.float32) - top + SHOWN_DB) * (255 / SHOWN_DB), 0, 255)
    peaks = 20 * np.log10(np.maximum(_pooled(view.peaks[None])[0], 1e-4))
    places = {label: i for i, label in enumerate(bundle.classes)}
    return {
        "span": SHOWN_S,
        "hop": HOP_S,
        "step": POOLED * HOP / SAMPLE_RATE,
        "behind": round(view.heard_s - view.shown_s, 4),
        "mels": len(view.levels),
        "levels": _base64(levels),
        "peaks": _base64((peaks + 80) * (255 / 80)),
        "titles": TITLES
        | ({"answers": "What the mixture says: the brighter, the surer"} if theme.dark else {}),
        "hz": [[hz_to_mel(hz) / hz_to_mel(SAMPLE_RATE / 2), text] for hz, text in _HZ.items()],
        "classes": [capital(readable(label)) for label in bundle.classes],
        "colours": [class_colour(bundle.classes, label) for label in bundle.classes],
        "experts": list(bundle.experts),
        "windows": [_window(w, view.heard_s, places, bundle.experts) for w in windows],
        "limit": limit,
        "theme": {**asdict(theme), "scale": list(theme.scale)},
        "alt": _alt(newest),
        "end": round(1000 * (newest.day + newest.end_s)) if newest else 0,
    }


def _window(
    judged: JudgedWindow, heard_s: float, places: dict[str, int], experts: tuple[str, ...]
) -> dict[str, Any]:
    ran = {e.name: e for e in judged.decision.known}
    return {
        "ago": round(heard_s - judged.end_s, 3),
        "shares": np.rint(100 * judged.decision.probabilities).astype(int).tolist(),
        "best": places[judged.decision.label],
        "said": [places[ran[name].label] if name in ran else None for name in experts],
        "routed": [i for i, name in enumerate(experts) if name in ran and ran[name].selected],
        "doubt": round(judged.decision.doubt, 5),
    }


def _alt(newest: JudgedWindow | None) -> str:
    said = "The last half minute: spectrogram, level, answers of the mixture and of each expert, uncertainty."
    if newest is None:
        return said
    decision = newest.decision
    return (
        f"{said} Newest: {readable(decision.label)}, {percent(decision.probability)}, doubt "
        f"{decision.doubt:.3f}."
    )


def _pooled(levels: np.ndarray) -> np.ndarray:
    """Neighbouring columns by their maximum: [n, T] to [n, T // 2], from the newest back."""
    whole = levels[:, levels.shape[1] % POOLED :]
    return whole.reshape(len(levels), -1, POOLED).max(axis=-1, initial=np.iinfo(np.int8).min)


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(np.rint(values).astype(np.uint8).tobytes()).decode("ascii")


def latency(seconds: np.ndarray, bins: int = 40) -> str:
    """How long judging a window took: median, 99th percentile, deviation, and a histogram; HTML."""
    ms = 1000 * seconds
    median, late, top = np.percentile(ms, (50, 99, 99.5))
    counts, edges = np.histogram(ms, bins=bins, range=(0.0, max(1.05 * float(top), 1e-3)))
    bars = "".join(f'<i style="height:{100 * count / counts.max():.0f}%"></i>' for count in counts)
    said = (
        f"A window takes {median:.1f} ms (median); 99 % take at most {late:.1f} ms; deviation "
        f"{ms.std():.1f} ms; n = {len(ms):,} windows, on {os.cpu_count()} cores."
    )
    style = (
        ".qm-bars{display:flex;align-items:flex-end;height:60px;gap:1px;border-bottom:1px solid "
        "var(--qm-line)}.qm-bars i{flex:1;background:var(--qm-accent)}"
        ".qm-ends{display:flex;justify-content:space-between;margin:0;font-size:0.75rem;color:var(--qm-muted)}"
    )
    longest = f"{edges[-1]:.1f} ms"
    return (
        f'<style>{style}</style><p>{said}</p><div class="qm-bars" role="img" '
        f'aria-label="Histogram, 0 to {longest}">{bars}</div>'
        f'<p class="qm-ends"><span>0</span><span>time that a window takes</span><span>{longest}</span></p>'
    )
