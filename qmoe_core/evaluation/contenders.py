"""Contenders: single experts and mixtures of them, judged on the same clips with the same metrics.

A contender is named the way a link carries it: an expert (`q4`), a mixture with the plain router
(`bitnet+q4+q8`), one with curiosity (`bitnet+q4+q8@0.3`), and with several experts that answer
(`bitnet+q4+q8@0.3/2`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qmoe_core.bundles import Bundle, BundleDataset
from qmoe_core.decision import Decision
from qmoe_core.errors import UserError
from qmoe_core.evaluation import calibration, classification, selective
from qmoe_core.experts.spec import members
from qmoe_core.routing.mixing import Mixed, Outputs, Settings

_NAME = re.compile(r"(?P<experts>[\w.:-]+(?:\+[\w.:-]+)*)(?:@(?P<alpha>[0-9.]{1,8}))?(?:/(?P<k>[0-9]{1,2}))?")
MOST = 12
"""Contenders at once."""


@dataclass(frozen=True)
class Contender:
    """An expert or a mixture that is compared."""

    name: str
    settings: Settings

    @property
    def single(self) -> bool:
        """Whether it is one expert by itself."""
        return len(self.settings.experts) == 1

    @property
    def title(self) -> str:
        """The name as it is shown."""
        if self.single:
            return self.name
        made = "+".join(self.settings.experts)
        curious = "" if self.settings.curiosity == "none" else f", α = {self.settings.alpha:g}"
        return made + curious + ("" if self.settings.top_k == 1 else f", top {self.settings.top_k}")

    def mixed(self, bundle: Bundle, outputs: Outputs) -> Mixed:
        """What it makes of what the experts said of some clips."""
        return bundle.mix(outputs, self.settings)

    def decision(self, bundle: Bundle, outputs: Outputs) -> Decision:
        """Its decision on one clip."""
        return bundle.decide(outputs, self.settings)


def named(experts: Sequence[str], alpha: float | None = None, top_k: int = 1) -> str:
    """The name of a contender; an α of None is the plain router."""
    if len(experts) == 1:
        return experts[0]
    return "+".join(experts) + ("" if alpha is None else f"@{alpha:g}") + ("" if top_k == 1 else f"/{top_k}")


def parse(name: str, bundle: Bundle) -> Contender | None:
    """The contender of a name, or None if the bundle has no such experts or the name is none."""
    found = _NAME.fullmatch(name)
    if not found:
        return None
    experts = tuple(dict.fromkeys(members(found["experts"], bundle.experts)))
    if not experts:
        return None
    curiosity = "none" if found["alpha"] is None or len(experts) == 1 else "disagreement"
    try:
        settings = bundle.settings(
            experts=experts,
            alpha=float(found["alpha"] or 0.0),
            top_k=min(int(found["k"] or 1), len(experts)),
            curiosity=curiosity,
        )
    except (UserError, ValueError):
        return None
    alpha = settings.alpha if curiosity != "none" else None
    return Contender(named(experts, alpha, settings.top_k), settings)


def standard(bundle: Bundle) -> list[str]:
    """What is offered: every expert, and the bundle's own mixture without and with its curiosity."""
    own = bundle.settings()
    if len(own.experts) < 2:
        return list(bundle.experts)
    mixtures = [named(own.experts, None, own.top_k)]
    if own.curiosity == "disagreement":
        mixtures.append(named(own.experts, own.alpha, own.top_k))
    return [*bundle.experts, *mixtures]


def first(bundle: Bundle) -> list[str]:
    """What is compared when nobody has chosen: a fine, a coarse and the coarsest format, and the mixture."""
    offered = standard(bundle)
    wanted = [name for name in ("q16", "q4", "popcount") if name in offered]
    mixtures = [name for name in offered if name not in bundle.experts]
    return [*(wanted or list(bundle.experts[:3])), *mixtures[-1:]]


@dataclass(frozen=True)
class Judged:
    """A contender's answers to the data set's n clips, out of fold, and how good they are.

    Attributes:
        probabilities: float64 [n, C]; predicted: int [n]; correct: bool [n].
        uncertainties: float64 [n] by name, see `selective.MEASURES`; of a single expert only those that
            one expert can have.
        confusion: int [C, C], rows what the clips are.
    """

    contender: Contender
    probabilities: np.ndarray
    predicted: np.ndarray
    correct: np.ndarray
    uncertainties: dict[str, np.ndarray]
    confusion: np.ndarray
    f1: float
    accuracy: float
    reliability: calibration.Reliability
    nll: float
    brier: float

    @property
    def ece_perfect(self) -> float:
        """The calibration error that as many clips would show if it were right as often as it says."""
        return calibration.expected_ece(self.probabilities.max(axis=-1))

    @property
    def errors(self) -> int:
        """Clips that it got wrong."""
        return int((~self.correct).sum())

    def risk(self, measure: str) -> selective.RiskCoverage | None:
        """Its risk–coverage curve, or None where it does not have this uncertainty."""
        if measure not in self.uncertainties:
            return None
        return selective.risk_coverage(self.uncertainties[measure], self.correct)


OF_ONE = ("doubt", "total")
"""The uncertainties that a single expert has: the others take several opinions."""


def judge(contender: Contender, bundle: Bundle, data: BundleDataset) -> Judged:
    """A contender on the bundle's data set."""
    mixed = contender.mixed(bundle, data.outputs)
    predicted = mixed.probabilities.argmax(axis=-1)
    correct = predicted == data.labels
    found = selective.uncertainties(mixed)
    matrix = classification.confusion(data.labels, predicted, len(bundle.classes))
    return Judged(
        contender=contender,
        probabilities=mixed.probabilities,
        predicted=predicted,
        correct=correct,
        uncertainties={name: found[name] for name in OF_ONE} if contender.single else found,
        confusion=matrix,
        f1=float(classification.mean_f1(matrix)),
        accuracy=classification.accuracy(data.labels, predicted),
        reliability=calibration.reliability(mixed.probabilities.max(axis=-1), correct),
        nll=calibration.negative_log_likelihood(mixed.probabilities, data.labels),
        brier=calibration.brier(mixed.probabilities, data.labels),
    )
