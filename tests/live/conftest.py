"""What tests of listening share: windows made up by hand, and sequences of real recordings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qmoe_core import bundles
from qmoe_core.bundles import Bundle
from qmoe_core.decision import Decision, ExpertOpinion, Uncertainty
from qmoe_core.live.detections import JudgedWindow
from tests.live.recordings import Sequence, ten_clips

CLASSES = ("dog", "rain", "rooster")
HOP_S = 0.25


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return bundles.load()


def decision(label: str, probability: float, epistemic: float, expert: str) -> Decision:
    """A mixture of two experts, of which one answers and both say the same."""
    shares = np.full(len(CLASSES), (1 - probability) / (len(CLASSES) - 1))
    shares[CLASSES.index(label)] = probability
    opinions = tuple(
        ExpertOpinion(
            name=name,
            label=label,
            probabilities=shares,
            disagreement_kl=0.0,
            bonus=1.0,
            router_probability=0.5,
            router_std=0.0,
            routing_probability=0.5,
            weight=float(name == expert),
            in_mixture=True,
            selected=name == expert,
        )
        for name in ("q4", "q8")
    )
    return Decision(
        classes=CLASSES,
        label=label,
        probability=probability,
        probabilities=shares,
        mean=shares,
        experts=opinions,
        uncertainty=Uncertainty(epistemic, 0.0, epistemic, 0.0, 0.0),
        alpha=0.0,
        top_k=1,
        curiosity="none",
        mc_samples=1,
    )


class Windows:
    """Makes a stream of windows, each a quarter of a second after the last."""

    day = 1_700_000_000.0

    def __init__(self) -> None:
        self.count = 0

    def __call__(
        self,
        label: str = "rain",
        probability: float = 0.9,
        *,
        epistemic: float = 0.01,
        expert: str = "q4",
        peak: float = 0.5,
        clipped: float = 0.0,
        missing_s: float = 0.0,
        halves: tuple[str, ...] | None = None,
    ) -> tuple[JudgedWindow, np.ndarray]:
        start_s = self.count * HOP_S
        self.count += 1
        judged = JudgedWindow(
            start_s=start_s,
            end_s=start_s + 5.0,
            day=self.day,
            decision=decision(label, probability, epistemic, expert),
            peak=peak,
            rms=peak / 2,
            clipped=clipped,
            missing_s=missing_s,
            halves=(label,) if halves is None else halves,
        )
        return judged, np.full(16, start_s, np.float32)


@pytest.fixture
def window() -> Windows:
    return Windows()


@pytest.fixture(scope="session")
def sequence(shared_data: Path, bundle: Bundle) -> Callable[..., Sequence]:
    """Ten real clips, one of each class, that the bundle knows: `sequence(seed, pause_s)`."""
    return lambda seed=0, pause_s=0.0: ten_clips(shared_data, bundle, seed, pause_s)
