"""What the lab says of one sound: everything a page, the command line or a log shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from qmoe_core.audio.fitness import Fitness


@dataclass(frozen=True)
class Uncertainty:
    """How unsure the mixture is, in nats unless said otherwise.

    total = H(q̄), aleatoric = mean H(q_i), epistemic = total − aleatoric = mean KL(q_i ‖ q̄).
    `router_variance` is the mean over experts of the variance of r over the MC-dropout passes;
    `router_mutual_information` is H(r̄) − mean H(r⁽ˢ⁾).
    """

    total: float
    aleatoric: float
    epistemic: float
    router_variance: float
    router_mutual_information: float


@dataclass(frozen=True)
class ExpertOpinion:
    """One expert's part in a decision."""

    name: str
    label: str
    """Of its most probable class; empty where it was not run."""
    probabilities: np.ndarray
    """q_i, float64 [C]; sums to 1. NaN where it was not run."""
    disagreement_kl: float
    """d_i = KL(q_i ‖ q̄), nats, q̄ over the experts of the mixture that were run; NaN where it was not."""
    bonus: float
    """exp(α · d_i), or of d̂_i or σ_i: the factor curiosity multiplies r_i with."""
    router_probability: float
    """r_i of the plain router; 0 when the expert is not in the mixture."""
    router_std: float
    """σ_i: standard deviation of r_i over the MC-dropout passes."""
    routing_probability: float
    """r_i after curiosity, before the top-k."""
    weight: float
    """Share in the mixture: the routing probability renormalised over the chosen k, else 0."""
    in_mixture: bool
    selected: bool
    predicted_kl: float | None = None
    """d̂_i, nats: what `distilled` takes for d_i; None with another strategy or outside the mixture."""
    needed: bool = True
    """Whether the strategy has to run it; others run only for pages that show all."""


@dataclass(frozen=True)
class Decision:
    """The mixture's answer to one window (or to a whole recording), and how it came about."""

    classes: tuple[str, ...]
    label: str
    probability: float
    probabilities: np.ndarray
    """The mixture's class distribution, float64 [C]."""
    mean: np.ndarray
    """q̄: the plain mean of the experts in the mixture, float64 [C]."""
    experts: tuple[ExpertOpinion, ...]
    uncertainty: Uncertainty
    alpha: float
    top_k: int
    curiosity: str
    mc_samples: int
    start_s: float = 0.0
    end_s: float = 0.0

    @property
    def doubt(self) -> float:
        """1 − the mixture's largest probability."""
        return 1.0 - self.probability

    @property
    def needed(self) -> tuple[str, ...]:
        """Names of the experts that the strategy has to run."""
        return tuple(e.name for e in self.experts if e.needed)

    @property
    def known(self) -> tuple[ExpertOpinion, ...]:
        """The experts that were run."""
        return tuple(e for e in self.experts if e.label)

    @property
    def agreeing(self) -> tuple[str, ...]:
        """Names of the experts whose own label is the mixture's."""
        return tuple(e.name for e in self.experts if e.label == self.label)

    def to_json(self) -> dict[str, Any]:
        """The part of `qmoe classify --json` that a decision determines."""
        return {
            "classes": list(self.classes),
            "prediction": {
                "label": self.label,
                "probability": self.probability,
                "probabilities": self.probabilities.tolist(),
            },
            "experts": [
                {
                    "name": e.name,
                    "label": e.label or None,
                    "probabilities": e.probabilities.tolist() if e.label else None,
                    "disagreement_kl": e.disagreement_kl if e.label else None,
                    "bonus": e.bonus,
                    "router_probability": e.router_probability,
                    "router_std": e.router_std,
                    "routing_probability": e.routing_probability,
                    "weight": e.weight,
                    "in_mixture": e.in_mixture,
                    "selected": e.selected,
                    "predicted_kl": e.predicted_kl,
                    "needed": e.needed,
                }
                for e in self.experts
            ],
            "uncertainty": {
                "total": self.uncertainty.total,
                "aleatoric": self.uncertainty.aleatoric,
                "epistemic": self.uncertainty.epistemic,
                "router_variance": self.uncertainty.router_variance,
                "router_mutual_information": self.uncertainty.router_mutual_information,
            },
            "doubt": self.doubt,
            "experts_run": list(self.needed),
            "alpha": self.alpha,
            "top_k": self.top_k,
            "curiosity": self.curiosity,
            "mc_samples": self.mc_samples,
            "start_s": self.start_s,
            "end_s": self.end_s,
        }


@dataclass(frozen=True)
class Classification:
    """One file's result: a decision a window, and one for the whole recording."""

    file: str
    bundle: str
    duration_s: float
    sample_rate_hz: int
    """Sample rate of the file as it came."""
    whole: Decision
    windows: tuple[Decision, ...]
    notes: tuple[str, ...] = field(default=())
    """What the user should know of the recording: quiet, clipped, padded, downmixed."""
    fitness: Fitness | None = None
    """Of the recording; None of a picture."""
    recorded: datetime | None = None
    """When the recording began; without a time zone where that is not known."""
    reason: str = ""
    """Why the answer is withheld; empty where it is given."""
    prediction_set: tuple[str, ...] | None = None
    """Labels that hold the true one with a probability of `coverage`; None where none could be set."""
    coverage: float | None = None

    @property
    def abstained(self) -> bool:
        """Whether the answer is withheld, because its doubt is above the limit that was asked for."""
        return bool(self.reason)

    def to_json(self, each: Callable[[dict[str, Any]], Any] = lambda window: window) -> dict[str, Any]:
        """One object of `qmoe classify --json`; `each` makes something smaller of a window's object."""
        return {
            "file": self.file,
            "duration_s": self.duration_s,
            "recorded": self.recorded.isoformat() if self.recorded else None,
            "sample_rate_hz": self.sample_rate_hz,
            "bundle": self.bundle,
            **self.whole.to_json(),
            "windows": [each(w.to_json()) for w in self.windows] if len(self.windows) > 1 else [],
            "notes": list(self.notes),
            "abstained": self.abstained,
            "reason": self.reason or None,
            "prediction_set": None
            if self.prediction_set is None
            else {"labels": list(self.prediction_set), "coverage": self.coverage},
            "fitness": self.fitness.to_json() if self.fitness else None,
        }
