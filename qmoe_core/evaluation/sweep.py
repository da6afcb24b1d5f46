"""What curiosity's α does to everything, over clips that were judged out of fold; nothing is trained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qmoe_core.bundles import Bundle, BundleDataset
from qmoe_core.errors import BundleError, ConfigError
from qmoe_core.evaluation.calibration import expected_ece, reliability
from qmoe_core.evaluation.classification import confusion, mean_f1
from qmoe_core.routing import mixing
from qmoe_core.routing.curiosity import MAX_EXPONENT
from qmoe_core.routing.distilled import Predicted
from qmoe_core.routing.mixing import MAX_ALPHA, Outputs, Settings
from qmoe_core.routing.uncertainty import entropy

ALPHAS: tuple[float, ...] = (0.0, *(float(f"{alpha:.3g}") for alpha in np.geomspace(0.1, MAX_ALPHA, 50)))
"""0, and 50 values evenly spaced on a logarithmic scale from 0.1 to 1,000."""

MAX_CELLS = 1 << 23
"""Values of α × clips × experts × classes that are held at once, 64 MB of them; more are taken in turns."""


@dataclass(frozen=True)
class AlphaSweep:
    """Figures for A values of α over n clips and the N experts of a mixture.

    Attributes:
        settings: all but α.
        alphas: [A]; f1 (weighted), accuracy, ece: [A], of the mixture; ece_perfect: [A], what perfect
            calibration would show with n clips.
        epistemic: [A], mean H(q̄) − mean H(q_i) in nats. Every expert counts the same in it whatever its
            routing, so α does not move it; `routed_epistemic` does.
        routed_epistemic: [A], the same with the routing's shares in place of equal ones, the mean of
            H(Σ r_i q_i) − Σ r_i H(q_i): how much the experts that curiosity listens to disagree.
        utilisation: [A, N], mean weight of each expert in the mixture; rows sum to 1.
        utilisation_entropy: [A], nats; log N when all are used alike, 0 when only one is.
        runs: [A], mean number of experts that have to run for a clip.
        bonus: [A], median over clips of the largest factor exp(α d_i) over the smallest: 1 moves nothing.
        predicted: int [A, n], the class; leading: int [A, n], the expert of largest weight.
        route_flipped: bool [A, n], another leading expert, or other experts chosen, than with α = 0.
        label_flipped: bool [A, n], another class than with α = 0.
        plain_predicted, plain_leading: int [n], those of α = 0.
        seconds: the sweep took.
    """

    settings: Settings
    alphas: np.ndarray
    f1: np.ndarray
    accuracy: np.ndarray
    ece: np.ndarray
    ece_perfect: np.ndarray
    epistemic: np.ndarray
    routed_epistemic: np.ndarray
    utilisation: np.ndarray
    utilisation_entropy: np.ndarray
    runs: np.ndarray
    bonus: np.ndarray
    predicted: np.ndarray
    leading: np.ndarray
    route_flipped: np.ndarray
    label_flipped: np.ndarray
    plain_predicted: np.ndarray
    plain_leading: np.ndarray
    seconds: float

    @property
    def route_flips(self) -> np.ndarray:
        """Share of clips whose route flips, [A]."""
        return self.route_flipped.mean(axis=1)

    @property
    def label_flips(self) -> np.ndarray:
        """Share of clips whose label flips, [A]."""
        return self.label_flipped.mean(axis=1)

    @property
    def flips(self) -> np.ndarray:
        """Share of clips whose route or label flips, [A]."""
        return (self.route_flipped | self.label_flipped).mean(axis=1)

    def to_json(self) -> dict[str, Any]:
        """`qmoe sweep alpha --json`."""
        settings = self.settings
        return {
            "experts": list(settings.experts),
            "curiosity": settings.curiosity,
            "top_k": settings.top_k,
            "normalise": settings.normalise,
            "mix": settings.mix,
            "clips": self.predicted.shape[1],
            "alphas": self.alphas.tolist(),
            "f1": self.f1.tolist(),
            "accuracy": self.accuracy.tolist(),
            "ece": self.ece.tolist(),
            "ece_perfect": self.ece_perfect.tolist(),
            "epistemic": self.epistemic.tolist(),
            "routed_epistemic": self.routed_epistemic.tolist(),
            "utilisation": dict(zip(settings.experts, self.utilisation.T.tolist(), strict=True)),
            "utilisation_entropy": self.utilisation_entropy.tolist(),
            "runs": self.runs.tolist(),
            "bonus": self.bonus.tolist(),
            "flips": self.flips.tolist(),
            "route_flips": self.route_flips.tolist(),
            "label_flips": self.label_flips.tolist(),
            "seconds": self.seconds,
        }


def judged(bundle: Bundle) -> BundleDataset:
    """The clips that a bundle's experts were judged on out of fold.

    Raises:
        BundleError: the bundle carries none, or they are damaged.
    """
    if bundle.dataset is None:
        raise BundleError(
            f"bundle {bundle.name} carries no out-of-fold predictions, which a sweep needs; "
            "take one that was made with: qmoe train DATASET --bundle NAME"
        )
    return bundle.dataset


def parse_alphas(text: str) -> tuple[float, ...]:
    """Values of α from a comma-separated list.

    Raises:
        ConfigError: something in it is not a number.

    >>> parse_alphas("0, 0.3,10")
    (0.0, 0.3, 10.0)
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--alphas {text}: expected numbers with commas between, such as 0,0.3,10"
        ) from None


def _mixed_in_parts(outputs: Outputs, settings: Settings, alphas: np.ndarray, **given: Any) -> mixing.Mixed:
    """As `mixing.mix` for A values of α, in parts that fit into memory."""
    cells = len(alphas) * outputs.of(settings.experts).logits.size
    parts = [
        mixing.mix(outputs, settings, some[:, None], **given)
        for some in np.array_split(alphas, -(-cells // MAX_CELLS))
    ]
    fields = ("routing", "weights", "ran", "asked", "probabilities")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in fields}
    return replace(parts[0], **joined)


def alpha_sweep(
    outputs: Outputs,
    labels: np.ndarray,
    settings: Settings,
    alphas: Sequence[float] | np.ndarray = ALPHAS,
    predicted: Predicted | None = None,
) -> AlphaSweep:
    """Mix the same outputs for every α, in one pass.

    Args:
        outputs: leading axis n, such as a bundle's out-of-fold ones; `settings.normalise` divides by the
            mean over these.
        labels: int [n].
        settings: how to mix; its own α is not used.
        alphas: A values of 0 to 1,000, in any order.
        predicted: for `distilled`, d̂_i of the same clips; see `Bundle.predict_out_of_fold`.

    Raises:
        ConfigError: an α out of range, none at all, an expert that did not speak, or `distilled` without
            predictions.
    """
    started = time.perf_counter()
    values = np.asarray(alphas, np.float64)
    if values.ndim != 1 or not len(values) or not ((values >= 0.0) & (values <= MAX_ALPHA)).all():
        raise ConfigError(f"alphas: accepted is one or more numbers from 0 to {MAX_ALPHA:g}")
    scale = mixing.mean_interest(outputs, settings, predicted=predicted) if settings.normalise else 1.0
    # α = 0 comes first: it is what flips are counted against.
    every = np.concatenate([[0.0], values])
    mixed = _mixed_in_parts(outputs, settings, every, mean_interest=scale, predicted=predicted)
    called = mixed.probabilities.argmax(axis=-1)
    leading = mixed.weights.argmax(axis=-1)
    chosen = mixed.weights > 0.0
    route_flipped = (leading != leading[0]) | (chosen != chosen[0]).any(axis=-1)
    correct = called == labels
    utilisation = mixed.weights.mean(axis=1)
    spread = mixed.interest.max(axis=-1) - mixed.interest.min(axis=-1)
    stated = mixed.probabilities[1:].max(axis=-1)
    return AlphaSweep(
        settings=settings,
        alphas=values,
        f1=mean_f1(confusion(labels, called[1:], outputs.logits.shape[-1])),
        accuracy=correct[1:].mean(axis=1),
        ece=reliability(stated, correct[1:]).ece,
        ece_perfect=np.array([expected_ece(one, draws=50) for one in stated]),
        epistemic=np.full(len(values), mixed.epistemic.mean()),
        routed_epistemic=_routed_epistemic(mixed)[1:].mean(axis=1),
        utilisation=utilisation[1:],
        utilisation_entropy=entropy(utilisation[1:]),
        runs=mixed.runs[1:].mean(axis=1),
        bonus=np.exp(np.minimum(values * np.median(spread), MAX_EXPONENT)),
        predicted=called[1:],
        leading=leading[1:],
        route_flipped=route_flipped[1:],
        label_flipped=(called != called[0])[1:],
        plain_predicted=called[0],
        plain_leading=leading[0],
        seconds=time.perf_counter() - started,
    )


def _routed_epistemic(mixed: mixing.Mixed) -> np.ndarray:
    """H(Σ r_i q_i) − Σ r_i H(q_i) of every clip for every α, nats [A, n]."""
    # matmul sums over the experts without the [A, n, N, C] that a broadcast product would need.
    routed = entropy(np.matmul(mixed.routing[..., None, :], mixed.q)[..., 0, :])
    return np.maximum(routed - (mixed.routing * entropy(mixed.q)).sum(axis=-1), 0.0)


@dataclass(frozen=True)
class Flip:
    """A clip that α sends elsewhere: its index, the leading expert and the class, before and after."""

    clip: int
    expert: tuple[str, str]
    label: tuple[int, int]
    truth: int

    @property
    def effect(self) -> str:
        """`corrected`, `made wrong`, `still wrong` or `same label`."""
        before, after = self.label
        if before == after:
            return "same label"
        if self.truth in self.label:
            return "corrected" if after == self.truth else "made wrong"
        return "still wrong"


def flips(sweep: AlphaSweep, labels: np.ndarray, index: int) -> list[Flip]:
    """The clips whose route or label is another at `sweep.alphas[index]`; flipped labels come first.

    Args:
        sweep: of `alpha_sweep`; labels: int [n].
    """
    moved = np.flatnonzero(sweep.route_flipped[index] | sweep.label_flipped[index])
    experts = sweep.settings.experts
    found = [
        Flip(
            clip=int(clip),
            expert=(experts[sweep.plain_leading[clip]], experts[sweep.leading[index, clip]]),
            label=(int(sweep.plain_predicted[clip]), int(sweep.predicted[index, clip])),
            truth=int(labels[clip]),
        )
        for clip in moved
    ]
    return sorted(found, key=lambda flip: flip.label[0] == flip.label[1])


@dataclass(frozen=True)
class Interest:
    """What α multiplies, over n clips: d_i, d̂_i or σ_i of each expert of the mixture.

    Attributes:
        low, middle, high: [N], 5th, 50th and 95th percentile of each expert.
        least, most: of all clips and experts.
    """

    low: np.ndarray
    middle: np.ndarray
    high: np.ndarray
    least: float
    most: float


def interest(bundle: Bundle, settings: Settings) -> Interest:
    """What α multiplies for the bundle's data set under these settings.

    Raises:
        BundleError: the bundle carries no data set.
    """
    judged(bundle)
    mixed = bundle.reference(settings)
    assert mixed is not None
    low, middle, high = np.quantile(mixed.interest, [0.05, 0.5, 0.95], axis=0)
    return Interest(low, middle, high, float(mixed.interest.min()), float(mixed.interest.max()))
