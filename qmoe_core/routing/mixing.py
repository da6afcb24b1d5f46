"""The mixture: from what the experts and the router say to one decision (Eq. 5–8).

Everything here is arithmetic on arrays with any leading axes, so that one clip on the Listen page, four
hundred clips in a sweep and a fold in training are the same few lines.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qmoe_core.config import Curiosity, Mix, RouterConfig
from qmoe_core.decision import Decision, ExpertOpinion, Uncertainty
from qmoe_core.errors import ConfigError
from qmoe_core.experts.spec import parse_names
from qmoe_core.routing.curiosity import bonus, curious_routing, top_k
from qmoe_core.routing.distilled import Predicted, cheapest, worth_asking
from qmoe_core.routing.uncertainty import divergence, entropy, mutual_information, softmax

MAX_ALPHA = 1000.0
CURIOSITIES: tuple[Curiosity, ...] = ("disagreement", "distilled", "router-mc", "none")
MIXES: tuple[Mix, ...] = ("probabilities", "logits")


@dataclass(frozen=True)
class Settings:
    """How the mixture is used; nothing here needs training.

    Attributes:
        experts: the experts in the mixture, at least one.
        alpha: α of Eq. 8, 0 to 1,000.
        top_k: how many experts answer; more than there are means all.
        curiosity: `disagreement`, `distilled`, `router-mc` or `none`.
        normalise: divide d_i (or d̂_i, σ_i) by its mean over the calibration set.
        mc_samples: S, MC-dropout passes of the router.
        temperature: T of Eq. 5.
        mix: `probabilities`, or `logits` as the paper's code does.
        cheap: the expert that `distilled` predicts from, in the mixture or not; None for the mixture's
            cheapest.
    """

    experts: tuple[str, ...]
    alpha: float = 0.3
    top_k: int = 1
    curiosity: Curiosity = "disagreement"
    normalise: bool = False
    mc_samples: int = 10
    temperature: float = 1.0
    mix: Mix = "probabilities"
    cheap: str | None = None

    def __post_init__(self) -> None:
        parse_names(self.experts, setting="experts in the mixture")
        if not 0.0 <= self.alpha <= MAX_ALPHA:
            raise ConfigError(f"alpha is {self.alpha:g}; accepted is 0 to {MAX_ALPHA:g}")
        if self.top_k < 1:
            raise ConfigError(f"top-k is {self.top_k}; accepted is 1 or more")
        if self.curiosity not in CURIOSITIES:
            raise ConfigError(f"curiosity is '{self.curiosity}'; accepted is {', '.join(CURIOSITIES)}")
        if not 1 <= self.mc_samples <= 1000:
            raise ConfigError(f"MC samples is {self.mc_samples}; accepted is 1 to 1000")
        if not self.temperature > 0.0:
            raise ConfigError(f"temperature is {self.temperature:g}; accepted is more than 0")
        if self.mix not in MIXES:
            raise ConfigError(f"mix is '{self.mix}'; accepted is {', '.join(MIXES)}")
        if self.cheap is not None:
            parse_names((self.cheap,), setting="the cheap expert")

    @property
    def cheap_expert(self) -> str:
        """The expert that `distilled` predicts from."""
        return cheapest(self.experts) if self.cheap is None else self.cheap

    def without_curiosity(self) -> Settings:
        """The plain router, everything else alike."""
        return replace(self, curiosity="none")

    @staticmethod
    def of(router: RouterConfig, experts: tuple[str, ...]) -> Settings:
        """The settings that a configuration asks for."""
        return Settings(
            experts=experts,
            alpha=router.alpha,
            top_k=router.top_k,
            curiosity=router.curiosity,
            normalise=router.normalise,
            mc_samples=router.mc_samples,
            temperature=router.temperature,
            mix=router.mix,
        )


@dataclass(frozen=True)
class Outputs:
    """What the experts and the router said of some clips, before anything is mixed.

    Leading axes are the clips'. `experts` names the N of axis −2 (or −1) in order.

    Attributes:
        experts: names.
        logits: the experts' class logits, float64 [..., N, C].
        router: g(z), float64 [..., N].
        router_mc: g(z) of S thinned routers, float64 [S, ..., N].
    """

    experts: tuple[str, ...]
    logits: np.ndarray
    router: np.ndarray
    router_mc: np.ndarray

    def of(self, names: tuple[str, ...]) -> Outputs:
        """Only these experts, in this order.

        Raises:
            ConfigError: an expert that did not speak.
        """
        if names == self.experts:
            return self
        missing = [name for name in names if name not in self.experts]
        if missing:
            raise ConfigError(f"no expert {', '.join(missing)} here; there are {', '.join(self.experts)}")
        index = [self.experts.index(name) for name in names]
        return Outputs(names, self.logits[..., index, :], self.router[..., index], self.router_mc[..., index])

    def at(self, clip: int) -> Outputs:
        """One clip of a leading axis."""
        return Outputs(self.experts, self.logits[clip], self.router[clip], self.router_mc[:, clip])

    def pooled(self) -> Outputs:
        """The clips of the first axis (windows of one recording) as one: mean distributions."""
        return Outputs(
            self.experts,
            _log(softmax(self.logits).mean(axis=0)),
            _log(softmax(self.router).mean(axis=0)),
            _log(softmax(self.router_mc).mean(axis=1)),
        )


def _log(p: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(p, 1e-300))


@dataclass(frozen=True)
class Mixed:
    """The mixture of some clips; axes as in `Outputs`, N the experts in the mixture.

    Attributes:
        q: class distributions [..., N, C]; mean: q̄ [..., C].
        disagreement: d_i = KL(q_i ‖ q̄) [..., N].
        predicted: d̂_i [..., N], what `distilled` takes for d_i; NaN with another strategy.
        r: the plain router [..., N]; r_std: σ_i over the MC passes [..., N].
        interest: what α multiplies, after normalising [..., N].
        routing: r after curiosity [..., N]; weights: the top-k renormalised [..., N].
        asked: whether `distilled` has to run the cheap expert, bool [...].
        ran: the experts of the mixture that had to run, bool [..., N]; runs: how many, the cheap one
            included where it is none of them, int [...].
        probabilities: the mixture [..., C].
        total, aleatoric, epistemic, router_variance, router_mutual_information: [...], nats (variance: 1).
    """

    q: np.ndarray
    mean: np.ndarray
    disagreement: np.ndarray
    predicted: np.ndarray
    r: np.ndarray
    r_std: np.ndarray
    interest: np.ndarray
    routing: np.ndarray
    weights: np.ndarray
    asked: np.ndarray
    ran: np.ndarray
    runs: np.ndarray
    probabilities: np.ndarray
    total: np.ndarray
    aleatoric: np.ndarray
    epistemic: np.ndarray
    router_variance: np.ndarray
    router_mutual_information: np.ndarray


def mix(
    outputs: Outputs, settings: Settings, *, mean_interest: float = 1.0, predicted: Predicted | None = None
) -> Mixed:
    """Route, be curious, choose, mix (Eq. 5–8).

    Args:
        outputs: what was said; restricted to `settings.experts` here.
        settings: how to mix.
        mean_interest: the mean of d_i (or d̂_i, σ_i) over the calibration set, for `settings.normalise`.
        predicted: d̂_i of the same clips, for `distilled` alone; see `bundle.Bundle.predict`.

    Raises:
        ConfigError: an expert in the settings that did not speak, or `distilled` without predictions.
    """
    return mix_alphas(outputs, settings, settings.alpha, mean_interest=mean_interest, predicted=predicted)


def mix_alphas(
    outputs: Outputs,
    settings: Settings,
    alpha: float | np.ndarray,
    *,
    mean_interest: float = 1.0,
    predicted: Predicted | None = None,
) -> Mixed:
    """As `mix`, for another α or for many at once: what does not depend on α is computed once.

    Args:
        alpha: α, in place of that of the settings: a number, or an array that broadcasts against the
            routing [..., N], such as [A, 1, 1] for A values of α over the clips of one leading axis.

    Returns:
        With an array for α, `routing`, `weights`, `asked`, `ran`, `runs` and `probabilities` have its
        leading axes too.
    """
    outputs = outputs.of(settings.experts)
    q = softmax(outputs.logits)
    mean = q.mean(axis=-2)
    d = divergence(q, mean[..., None, :])
    r = softmax(outputs.router / settings.temperature)
    r_mc = softmax(outputs.router_mc[: settings.mc_samples] / settings.temperature)
    r_std = r_mc.std(axis=0)
    scale = max(mean_interest, 1e-12) if settings.normalise else 1.0
    if settings.curiosity == "none":
        alpha = np.zeros_like(alpha)  # the plain router, to the last bit
    guess, asked = np.full_like(r, np.nan), np.zeros((), bool)
    if settings.curiosity == "distilled":
        if predicted is None:
            raise ConfigError(
                "curiosity distilled needs what a bundle's out-of-fold outputs teach; "
                f"accepted here is {', '.join(name for name in CURIOSITIES if name != 'distilled')}"
            )
        guess, interest = predicted.d, predicted.d / scale
        asked = worth_asking(r, predicted.ceiling / scale, alpha, settings.top_k)
        alpha = np.where(asked[..., None], alpha, 0.0)
    else:
        interest = {"disagreement": d, "router-mc": r_std, "none": np.zeros_like(r)}[settings.curiosity]
        interest = interest / scale
    routing = curious_routing(r, interest, alpha)
    weights = top_k(routing, settings.top_k)
    ran = (weights > 0.0) | (settings.curiosity == "disagreement")
    ran |= asked[..., None] & (np.array(settings.experts) == settings.cheap_expert)
    if settings.mix == "logits":
        probabilities = softmax((weights[..., None] * outputs.logits).sum(axis=-2))
    else:
        probabilities = (weights[..., None] * q).sum(axis=-2)
    total, aleatoric = entropy(mean), entropy(q).mean(axis=-1)
    return Mixed(
        q=q,
        mean=mean,
        disagreement=d,
        predicted=guess,
        r=r,
        r_std=r_std,
        interest=interest,
        routing=routing,
        weights=weights,
        asked=np.broadcast_to(asked, ran.shape[:-1]),
        ran=ran,
        runs=ran.sum(axis=-1) + (asked if settings.cheap_expert not in settings.experts else 0),
        probabilities=probabilities,
        total=total,
        aleatoric=aleatoric,
        epistemic=np.maximum(total - aleatoric, 0.0),
        router_variance=(r_std**2).mean(axis=-1),
        router_mutual_information=mutual_information(np.moveaxis(r_mc, 0, -2)),
    )


def mean_interest(outputs: Outputs, settings: Settings, *, predicted: Predicted | None = None) -> float:
    """The calibration set's mean d_i (or d̂_i, σ_i): what `normalise` divides by; 1 where there is none."""
    mixed = mix(outputs, replace(settings, normalise=False), predicted=predicted)
    mean = float(mixed.interest.mean())
    return mean if mean > 0.0 else 1.0


def decide(
    outputs: Outputs,
    classes: tuple[str, ...],
    settings: Settings,
    *,
    mean_interest: float = 1.0,
    predicted: Predicted | None = None,
    start_s: float = 0.0,
    end_s: float = 0.0,
) -> Decision:
    """One clip's decision.

    Args:
        outputs: one clip's (no leading axis); experts outside the mixture are reported too.
        classes: names of the C classes.
        settings: how to mix.
        mean_interest, predicted: see `mix`.
        start_s, end_s: where in the recording the window lies, seconds.
    """
    mixed = mix(outputs, settings, mean_interest=mean_interest, predicted=predicted)
    unmoved = settings.curiosity == "distilled" and not mixed.asked
    factor = bonus(mixed.interest, 0.0 if unmoved else settings.alpha)
    place = {name: i for i, name in enumerate(settings.experts)}
    everyone = softmax(outputs.logits)
    experts = []
    for row, name in enumerate(outputs.experts):
        q, i = everyone[row], place.get(name)
        experts.append(
            ExpertOpinion(
                name=name,
                label=classes[int(q.argmax())],
                probabilities=q,
                disagreement_kl=float(divergence(q, mixed.mean) if i is None else mixed.disagreement[i]),
                bonus=1.0 if i is None else float(factor[i]),
                router_probability=0.0 if i is None else float(mixed.r[i]),
                router_std=0.0 if i is None else float(mixed.r_std[i]),
                routing_probability=0.0 if i is None else float(mixed.routing[i]),
                weight=0.0 if i is None else float(mixed.weights[i]),
                in_mixture=i is not None,
                selected=i is not None and bool(mixed.weights[i] > 0.0),
                predicted_kl=None if i is None or predicted is None else float(mixed.predicted[i]),
                needed=bool(mixed.asked) and name == settings.cheap_expert
                if i is None
                else bool(mixed.ran[i]),
            )
        )
    best = int(mixed.probabilities.argmax())
    return Decision(
        classes=classes,
        label=classes[best],
        probability=float(mixed.probabilities[best]),
        probabilities=mixed.probabilities,
        mean=mixed.mean,
        experts=tuple(experts),
        uncertainty=Uncertainty(
            total=float(mixed.total),
            aleatoric=float(mixed.aleatoric),
            epistemic=float(mixed.epistemic),
            router_variance=float(mixed.router_variance),
            router_mutual_information=float(mixed.router_mutual_information),
        ),
        alpha=settings.alpha,
        top_k=settings.top_k,
        curiosity=settings.curiosity,
        mc_samples=settings.mc_samples,
        start_s=start_s,
        end_s=end_s,
    )
