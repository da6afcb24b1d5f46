"""Compare: what formats and the mixture get right in noise, whether they know, and how a cell sounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import streamlit as st

from dashboard.charts import compare as compare_charts
from dashboard.session import hearing, linked
from dashboard.views import tables, widgets, words
from dashboard.views.compare import PAGE
from dashboard.views.tables import Column
from qmoe_core import numbers, serve
from qmoe_core.audio import decode, perturb, synth
from qmoe_core.bundles import Bundle
from qmoe_core.errors import UserError
from qmoe_core.evaluation import noise
from qmoe_core.evaluation.noise import NoiseCell, NoiseSweep

SHOWN = {
    "accuracy": "Accuracy",
    "doubt": "AUROC of doubt",
    "ece": "Calibration error",
    "risk": "Errors among answers",
}
COLUMNS = tuple(
    Column(key, key)
    for key in [
        *("kind", "level", "expert", "accuracy", "accuracy_std", "ece", "ece_perfect"),
        *("doubt", "answered", "risk"),
    ]
)


def value(cell: NoiseCell, shown: str) -> float | None:
    """What is drawn of a cell."""
    if shown == "doubt":
        return cell.auroc["doubt"][0] if "doubt" in cell.auroc else None
    return cell.risk_at_threshold if shown == "risk" else getattr(cell, shown)


def in_noise(bundle: Bundle, values: dict[str, Any]) -> None:
    """The sweep as a matrix, and one of its cells to listen to."""
    st.subheader("In noise: what is right, and does it know?", anchor=False)
    try:
        found = noise.shipped(bundle.manifest.embedder_id, bundle.classes)
    except UserError as error:
        widgets.error(error)
        return
    if found is None:
        st.info(
            "Nobody has measured this bundle’s formats in noise yet: `qmoe sweep noise DATASET --embedder "
            f"{widgets.plain(bundle.embedder)}` does."
        )
    else:
        widgets.one_of(PAGE, "noise", "Show", SHOWN)
        the_matrix(found, values["noise"], bundle)
    listen(bundle)


def the_matrix(found: NoiseSweep, shown: str, bundle: Bundle) -> None:
    """Formats × changes."""
    clean = [cell for cell in found.rows if cell.kind == "clean"]
    worst = min(found.rows, key=lambda cell: cell.accuracy)
    sentence = (
        f"On clean sound {numbers.percent(clean[-1].accuracy)} right ({clean[-1].expert}); worst at "
        f"{name(worst)}, {numbers.percent(worst.accuracy)} ({worst.expert})."
    )
    st.markdown(f"**{widgets.plain(sentence)}**")
    widgets.figure(
        compare_charts.noise(found, lambda cell: value(cell, shown), name, widgets.theme()),
        alt=f"{SHOWN[shown]} of each format under each change. {sentence}",
    )
    widgets.caption(
        f"{SHOWN[shown]}, per cent. Limits promise at most {numbers.percent(found.risk)} errors among the "
        f"answers on clean sound of other folds, with 95 % confidence. n = {found.n:,} clips of "
        f"{found.dataset}, {clean[0].runs} runs a cell: {found.protocol} folds, {found.seeds} seeds. "
        f"{widgets.how(bundle)}."
    )
    rows = [
        {key: value(cell, key) if key in SHOWN else getattr(cell, key) for key in (c.key for c in COLUMNS)}
        for cell in found.rows
    ]
    tables.download(COLUMNS, rows, "noise", "Noise")


def name(cell: NoiseCell) -> str:
    """A cell's change as people read it."""
    return "clean" if cell.kind == "clean" else f"{cell.kind} {cell.level:g} {perturb.UNITS[cell.kind]}"


def listen(bundle: Bundle) -> None:
    """A sound of the gallery as it would arrive, and what the bundle's mixture says of it."""
    cells = [(kind, level) for kind, levels in perturb.LEVELS.items() for level in levels]
    left, right = st.columns(2)
    with left:
        sound = st.selectbox(
            "A sound", list(synth.GALLERY), key=linked.keep("noise_sound", "dog-bark", list(synth.GALLERY))
        )
    with right:
        kind, level = st.selectbox(
            "Listen to this cell",
            cells,
            key=linked.keep("noise_cell", cells[2], cells),
            format_func=lambda cell: f"{cell[0]} {cell[1]:g} {perturb.UNITS[cell[0]]}",
        )
    names = list(synth.GALLERY)
    other = synth.render(names[(names.index(sound) + 1) % len(names)])
    changed = _changed(sound, kind, level, other)
    st.audio(hearing.as_wav(changed))
    clip = decode.from_samples(changed, decode.SAMPLE_RATE, name=sound)
    try:
        result = serve.classify(clip, bundle)
    except UserError as error:
        widgets.warning(error)
        return
    known = hearing.known(bundle, bundle.settings(), hearing.Promise())
    verdict = words.verdict(result.whole, limits=known.limits)
    st.markdown(f"**{widgets.plain(verdict.headline)}.** {widgets.plain(verdict.sentence)}")


@st.cache_data(max_entries=64, show_spinner=False)
def _changed(sound: str, kind: str, level: float, _other: np.ndarray) -> np.ndarray:
    return perturb.perturb(synth.render(sound), decode.SAMPLE_RATE, kind, level, _other, 0)
