"""Efficiency: what a person can set on this page, and a link restores."""

from __future__ import annotations

from dashboard.session import linked, measured
from dashboard.session.linked import Control
from qmoe_core.bundles import Bundle
from qmoe_core.evaluation.scenarios import SCENARIOS

PAGE = "efficiency"
VIEWS = {
    "deploy": "What to deploy",
    "latency": "Latency",
    "energy": "Energy and CO₂",
    "memory": "Memory and size",
    "emissions": "Emissions",
}
KINDS = {"experts": "experts", "mixtures": "mixtures", "peers": "other engines"}
PER_DAY = tuple(float(10**power) for power in range(2, 10))


def controls(bundle: Bundle) -> list[Control]:
    """Everything a person can set here; the grid is the one that the energy was counted with."""
    energy = measured.latest("energy", bundle)
    first = "q4" if "q4" in bundle.experts else bundle.experts[0]
    return [
        linked.one_of("view", tuple(VIEWS), "deploy"),
        linked.one_of("scenario", tuple(scenario.id for scenario in SCENARIOS), SCENARIOS[0].id),
        linked.switch("cold", False),
        linked.some_of("show", tuple(KINDS), ("experts", "peers")),
        linked.one_of("format", bundle.experts, first),
        linked.real("perday", 1.0, 1e12, 1e6),
        linked.real("grid", 1.0, 2000.0, round(energy.grid, 1) if energy else 100.0),
        linked.whole("trainings", 1, 1_000_000, 1),
        linked.real("low", 1.0, 20.0, 1.0),
        linked.whole("tasks", 1, 10_000, 1),
        linked.switch("path", True),
    ]
