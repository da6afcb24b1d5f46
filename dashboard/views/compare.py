"""Compare: what its views share: uncertainties by name, the legend, and the basis of the figures."""

from __future__ import annotations

from collections.abc import Sequence

from dashboard.charts.palette import Look
from dashboard.views import tables, widgets
from dashboard.views.tables import Column
from qmoe_core import bundles
from qmoe_core.bundles import Bundle
from qmoe_core.evaluation import contenders
from qmoe_core.evaluation.contenders import Judged
from qmoe_core.numbers import decimals

PAGE = "compare"
PERFECT = Column(
    "ece_perfect",
    "if perfect",
    decimals(3),
    "The ECE of a format that is right exactly as often as it says, with as many clips: chance makes some.",
)
MEASURES = {
    "doubt": "doubt",
    "total": "total",
    "aleatoric": "aleatoric",
    "epistemic": "epistemic",
    "router_variance": "router variance",
    "router_mutual_information": "router mutual information",
}


def basis(bundle: Bundle) -> str:
    """How many clips a figure is of, and how they were judged."""
    made = bundle.provenance
    return (
        f"n = {made.clips:,} clips, each classified by experts that were not trained on it (out of fold, "
        f"seed "
        f"{made.seeds[0]}); {widgets.how(bundle)}."
    )


def legend(judged: Sequence[Judged], looks: dict[str, Look]) -> None:
    """Which line is whose."""
    tables.legend([(one.contender.title, looks[one.contender.name].css) for one in judged])


def titled(name: str, bundle: Bundle) -> str:
    """A contender's name as it is shown."""
    found = contenders.parse(name, bundle)
    return found.title if found else name


def link_of(bundle: Bundle) -> dict[str, str]:
    """The part of a link that names the bundle."""
    return {} if bundle.path.name == bundles.DEFAULT_NAME else {"bundle": bundle.path.name}
