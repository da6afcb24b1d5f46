"""The mixture: from what the experts and the router say to one decision (Eq. 5–8).

Everything here is arithmetic on arrays with any leading axes, so that one clip that is served or timed, four
hundred clips in a sweep and a fold in training are the same few lines. Outputs may be lazy: then an expert
runs only on the clips for which the strategy needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qmoe_core.config import Curiosity, Mix, RouterConfig
from qmoe_core.decision import Decision, ExpertOpinion, Uncertainty
from qmoe_core.errors import ConfigError
from qmoe_core.experts.spec import parse_names
from qmoe_core.routing.curiosity import bonus, curious_routing, top_k
from qmoe_core.routing.distilled import Head, Predicted, cheapest, worth_asking
from qmoe_core.routing.uncertainty import TINY, divergence, opinions, softmax, spread, weighted

MAX_ALPHA = 1000.0
CURIOSITIES: tuple[Curiosity, ...] = ("disagreement", "distilled", "router-mc", "none", "cascade")
MIXES: tuple[Mix, ...] = ("probabilities", "logits")


@dataclass(frozen=True)
class Settings:
    """How the mixture is used; nothing here needs training.

    Attributes:
        experts: the experts in the mixture, at least one.
        alpha: α of Eq. 8, 0 to 1,000.
        top_k: how many experts answer; more than there are means all.
        curiosity: `disagreement`, `distilled`, `router-mc`, `none` or `cascade`.
        normalise: divide d_i (or d̂_i, σ_i) by its mean over the calibration set.
        mc_samples: S, MC-dropout passes of the router.
        temperature: T of Eq. 5.
        mix: `probabilities`, or `logits` as the paper's code does.
        cheap: the expert that `distilled` predicts from, in the mixture or not; None for the mixture's
            cheapest.
        ask_above: the doubt 1 − max q above which `cascade` asks the next expert, 0 to 1; 0 asks all.
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
    ask_above: float = 0.1

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
        if not 0.0 <= self.ask_above <= 1.0:
            raise ConfigError(f"ask-above is {self.ask_above:g}; accepted is 0 to 1")
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
    """Logits of the experts and the router for some clips, before anything is mixed.

    Leading axes are the clips'. `experts` names the N of axis −2 (or −1) in order.

    Attributes:
        experts: names.
        logits: the experts' class logits, float64 [..., N, C]; NaN where an expert was not run.
        router: g(z), float64 [..., N].
        router_mc: g(z) of S thinned routers, float64 [S, ..., N].
        run: given an expert's place, computes its logits for the clips of a mask [...]; None where nothing
            can be computed.
    """

    experts: tuple[str, ...]
    logits: np.ndarray
    router: np.ndarray
    router_mc: np.ndarray
    run: Callable[[int, np.ndarray], None] | None = None

    @staticmethod
    def lazy(
        names: tuple[str, ...],
        classes: int,
        router: np.ndarray,
        logits_of: Callable[[str, np.ndarray], np.ndarray],
    ) -> Outputs:
        """Outputs of B clips; an expert is run when it is asked for, on the clips that it is asked for.

        Args:
            names: of N experts; classes: C.
            router: g(z) without dropout and of S thinned routers, [1 + S, B, N].
            logits_of: an expert's name and the indices of B' clips → its logits [B', C].
        """
        router = router.astype(np.float64)
        logits = np.full((router.shape[1], len(names), classes), np.nan)

        def run(place: int, where: np.ndarray) -> None:
            clips = np.flatnonzero(where)
            logits[clips, place] = logits_of(names[place], clips)

        return Outputs(names, logits, router[0], router[1:], run)

    def places(self, names: tuple[str, ...]) -> Any:
        """The index of some experts among all.

        Raises:
            ConfigError: an expert that is not there.
        """
        if names == self.experts:
            return slice(None)
        missing = [name for name in names if name not in self.experts]
        if missing:
            raise ConfigError(f"no expert {', '.join(missing)} here; there are {', '.join(self.experts)}")
        return [self.experts.index(name) for name in names]

    def ask(self, names: Sequence[str], where: np.ndarray) -> None:
        """Run experts for the clips of a mask, bool [..., N'], as far as they can be and were not run yet."""
        if self.run is None:
            return
        for i, name in enumerate(names):
            place = self.experts.index(name)
            lacking = where[..., i] & np.isnan(self.logits[..., place, 0])
            if lacking.any():
                self.run(place, lacking)

    def all(self) -> Outputs:
        """The same after every expert was run on every clip."""
        self.ask(self.experts, np.ones(self.router.shape, bool))
        return replace(self, run=None)

    def of(self, names: tuple[str, ...]) -> Outputs:
        """Only these experts, in this order, as far as they were run.

        Raises:
            ConfigError: an expert that is not there.
        """
        index = self.places(names)
        return Outputs(names, self.logits[..., index, :], self.router[..., index], self.router_mc[..., index])

    def at(self, clip: int) -> Outputs:
        """One clip of a leading axis."""
        whole = self.run
        run = None if whole is None else lambda expert, _: whole(expert, np.arange(len(self.router)) == clip)
        return Outputs(self.experts, self.logits[clip], self.router[clip], self.router_mc[:, clip], run)

    def pooled(self) -> Outputs:
        """The clips of the first axis (windows of one recording) as one: mean distributions."""
        whole, logits = self.run, _pool(self.logits, 0)

        def run(expert: int, _: np.ndarray) -> None:
            self.ask((self.experts[expert],), np.ones((len(self.router), 1), bool))
            logits[expert] = _pool(self.logits[:, expert], 0)

        return Outputs(self.experts, logits, _pool(self.router, 0), _pool(self.router_mc, 1), whole and run)


def _pool(logits: np.ndarray, axis: int) -> np.ndarray:
    """Logits of the mean distribution over an axis."""
    return np.log(np.maximum(softmax(logits).mean(axis=axis), TINY))


@dataclass(frozen=True)
class Mixed:
    """The mixture of some clips; axes as in `Outputs`, N the experts in the mixture.

    Attributes:
        q: class distributions [..., N, C], NaN of experts that were not run; mean: q̄ of those that were
            [..., C].
        disagreement: d_i = KL(q_i ‖ q̄) [..., N], NaN likewise.
        predicted: d̂_i [..., N], what `distilled` takes for d_i; NaN with another strategy.
        r: the plain router [..., N]; r_std: σ_i over the MC passes [..., N].
        interest: what α multiplies, after normalising [..., N].
        routing: r after curiosity [..., N]; weights: the top-k renormalised [..., N].
        ran: the experts of the mixture that had to run, bool [..., N].
        asked: whether `distilled` has to run the cheap expert, bool [...].
        outside: whether the cheap expert is none of the mixture's.
        probabilities: the mixture [..., C].
        total, aleatoric, router_variance, router_mutual_information: [...], nats (variance: 1).
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
    ran: np.ndarray
    asked: np.ndarray
    outside: bool
    probabilities: np.ndarray
    total: np.ndarray
    aleatoric: np.ndarray
    router_variance: np.ndarray
    router_mutual_information: np.ndarray

    @property
    def epistemic(self) -> np.ndarray:
        """Total less aleatoric uncertainty, nats [...]."""
        return np.maximum(self.total - self.aleatoric, 0.0)

    @property
    def runs(self) -> np.ndarray:
        """How many experts had to run, the cheap one included where it is outside, int [...]."""
        return self.ran.sum(axis=-1) + (self.asked if self.outside else 0)


def mix(
    outputs: Outputs,
    settings: Settings,
    alpha: float | np.ndarray | None = None,
    *,
    mean_interest: float = 1.0,
    predicted: Predicted | Head | None = None,
) -> Mixed:
    """Route, be curious, choose, mix (Eq. 5–8); experts are run as far as the strategy needs them.

    Args:
        outputs: of the experts and the router; restricted to `settings.experts` here.
        settings: how to mix.
        alpha: α, in place of that of the settings: a number, or an array that broadcasts against the clips'
            axes, such as [A, 1] for A values of α over the clips of one leading axis.
        mean_interest: the mean of d_i (or d̂_i, σ_i) over the calibration set, for `settings.normalise`.
        predicted: for `distilled` alone: d̂_i of these clips, or what predicts it.

    Returns:
        With an array for α, `routing`, `weights`, `ran`, `asked` and `probabilities` have its axes.

    Raises:
        ConfigError: an expert in the settings that is not there, or `distilled` without predictions.
    """
    places = outputs.places(settings.experts)
    alpha = settings.alpha if alpha is None else alpha
    if settings.curiosity in ("none", "cascade"):
        alpha = np.zeros_like(alpha)  # the plain router, to the last bit
    r = softmax(outputs.router[..., places] / settings.temperature)
    r_mc = softmax(outputs.router_mc[: settings.mc_samples, ..., places] / settings.temperature)
    r_std, variance, information = spread(np.moveaxis(r_mc, 0, -2))
    asked = np.zeros(r.shape[:-1], bool)
    guess = judged = None
    if settings.curiosity == "disagreement":
        outputs.ask(settings.experts, np.ones(r.shape, bool))
        judged = _judge(outputs, places, np.ones(r.shape))
        interest = judged[2]
    elif settings.curiosity == "distilled":
        scale = max(mean_interest, 1e-12) if settings.normalise else 1.0
        guess, asked = _predict(outputs, settings, r, np.divide(alpha, scale), predicted)
        interest, alpha = guess, np.where(asked, alpha, 0.0)
    else:
        interest = r_std if settings.curiosity == "router-mc" else np.zeros_like(r)
    if settings.normalise:
        interest = interest / max(mean_interest, 1e-12)
    routing = curious_routing(r, interest, alpha)
    if settings.curiosity == "cascade":
        ran = _cascade(outputs, settings)
        weights = _last(ran) + np.zeros_like(routing)
        ran = ran | (weights > 0.0)
    else:
        weights = top_k(routing, settings.top_k)
        ran = weights > 0.0
    if settings.curiosity == "disagreement":
        ran[...] = True
    if settings.curiosity == "distilled":
        ran |= asked[..., None] & (np.array(settings.experts) == settings.cheap_expert)
    if asked.shape != ran.shape[:-1]:
        asked = np.broadcast_to(asked, ran.shape[:-1])
    outputs.ask(settings.experts, ran)
    # Lazy outputs may hold more, run for other settings: what they say now depends on these settings alone.
    known = ran if outputs.run else ~np.isnan(outputs.logits[..., places, 0])
    q, mean, d, total, aleatoric = judged or _judge(outputs, places, known)
    if settings.mix == "logits":
        probabilities = softmax(weighted(weights, outputs.logits[..., places, :]))
    else:
        probabilities = weighted(weights, q)
    return Mixed(
        q=q,
        mean=mean,
        disagreement=d,
        predicted=np.full_like(r, np.nan) if guess is None else guess,
        r=r,
        r_std=r_std,
        interest=interest,
        routing=routing,
        weights=weights,
        ran=ran,
        asked=asked,
        outside=settings.curiosity == "distilled" and settings.cheap_expert not in settings.experts,
        probabilities=probabilities,
        total=total,
        aleatoric=aleatoric,
        router_variance=variance,
        router_mutual_information=information,
    )


def _cascade(outputs: Outputs, settings: Settings) -> np.ndarray:
    """Run each expert where the doubt of the one before it is too large; who ran, bool [..., N]."""
    open_ = np.ones(outputs.router.shape[:-1], bool)
    ran = np.zeros((*open_.shape, len(settings.experts)), bool)
    for i, name in enumerate(settings.experts):
        ran[..., i] = open_
        outputs.ask((name,), open_[..., None])
        doubt = 1.0 - softmax(outputs.logits[..., outputs.experts.index(name), :]).max(axis=-1)
        open_ = open_ & (doubt > settings.ask_above if settings.ask_above > 0.0 else True)
    return ran


def _last(ran: np.ndarray) -> np.ndarray:
    """1 for the last expert that ran, 0 for the others: bool [..., N] → float64 [..., N]."""
    return (ran & (np.cumsum(ran, axis=-1) == ran.sum(axis=-1, keepdims=True))).astype(np.float64)


def _judge(outputs: Outputs, places: Any, known: np.ndarray) -> tuple[np.ndarray, ...]:
    """q_i, and q̄, d_i, H(q̄) and mean H(q_i) of the experts of a mask [..., N]."""
    q = softmax(outputs.logits[..., places, :])
    return q, *opinions(q, known)


def _predict(
    outputs: Outputs, settings: Settings, r: np.ndarray, alpha: Any, predicted: Predicted | Head | None
) -> tuple[np.ndarray, np.ndarray]:
    """d̂_i [..., N], and where the cheap expert has to run for it, bool [...]."""
    if predicted is None:
        raise ConfigError(
            "curiosity distilled needs what a bundle's out-of-fold outputs teach; "
            f"accepted here is {', '.join(name for name in CURIOSITIES if name != 'distilled')}"
        )
    asked = worth_asking(r, predicted.ceiling, alpha, settings.top_k)
    if isinstance(predicted, Head):
        outputs.ask((settings.cheap_expert,), asked[..., None])
        predicted = predicted(outputs.logits[..., outputs.experts.index(settings.cheap_expert), :], r)
    return predicted.d, asked


def mean_interest(outputs: Outputs, settings: Settings, predicted: Predicted | None = None) -> float:
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
    predicted: Predicted | Head | None = None,
    start_s: float = 0.0,
    end_s: float = 0.0,
) -> Decision:
    """One clip's decision.

    Args:
        outputs: one clip's (no leading axis); experts outside the mixture are reported if none is lazy.
        classes: names of the C classes.
        settings: how to mix.
        mean_interest, predicted: see `mix`.
        start_s, end_s: where in the recording the window lies, seconds.
    """
    mixed = mix(outputs, settings, mean_interest=mean_interest, predicted=predicted)
    unmoved = settings.curiosity == "distilled" and not mixed.asked
    factor = bonus(mixed.interest, 0.0 if unmoved else settings.alpha)
    place = {name: i for i, name in enumerate(settings.experts)}
    experts = []
    for row, name in enumerate(outputs.experts):
        i = place.get(name)
        needed = bool(mixed.ran[i]) if i is not None else bool(mixed.asked) and name == settings.cheap_expert
        known = needed or outputs.run is None
        if i is None and not known:
            continue
        q = softmax(outputs.logits[row]) if known else np.full(len(classes), np.nan)
        experts.append(
            ExpertOpinion(
                name=name,
                label=classes[int(q.argmax())] if known else "",
                probabilities=q,
                disagreement_kl=float(divergence(q, mixed.mean) if i is None else mixed.disagreement[i]),
                bonus=1.0 if i is None else float(factor[i]),
                router_probability=0.0 if i is None else float(mixed.r[i]),
                router_std=0.0 if i is None else float(mixed.r_std[i]),
                routing_probability=0.0 if i is None else float(mixed.routing[i]),
                weight=0.0 if i is None else float(mixed.weights[i]),
                in_mixture=i is not None,
                selected=i is not None and bool(mixed.weights[i] > 0.0),
                predicted_kl=None if i is None or np.isnan(mixed.predicted[i]) else float(mixed.predicted[i]),
                needed=needed,
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
