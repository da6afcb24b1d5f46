"""Efficiency: what comes before a head, front end and embedder, in time and energy on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dashboard.session import measured
from dashboard.session.measured import Kept
from dashboard.views.paths import times
from qmoe_core.bundles import Bundle
from qmoe_core.evaluation.formats import Format


def before_us(bundle: Bundle) -> float | None:
    """Median time of front end and embedder for one clip, µs; None where the path was not timed here."""
    path = measured.latest("path", bundle)
    timed = times(bundle, path.report) if path else []
    return timed[0][1].front_end_us + timed[0][1].embedder_us if timed else None


def before_mj(row: dict[str, Any], us: float) -> float:
    """Energy of so much time, mJ, at the power of a format's blocks."""
    return row["gross_mj"] * row["n"] / (row["blocks"] * row["block_s"]) * us / 1e6


def from_the_waveform(formats: Sequence[Format], us: float, energy: Kept | None) -> list[Format]:
    """Formats whose times and energies are those of the whole path; their deviations stay the head's."""
    rows = {row["name"]: row for row in energy.report.rows} if energy else {}
    return [
        replace(
            one,
            **{
                name: None if getattr(one, name) is None else getattr(one, name) + us
                for name in ("p50_us", "p95_us", "p99_us")
            },
            energy_mj=None if one.energy_mj is None else one.energy_mj + before_mj(rows[one.name], us),
        )
        for one in formats
    ]
