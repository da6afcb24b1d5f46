"""The mixture on packed experts: from an embedding to a decision's numbers, without a single allocation.

The same arithmetic as `qmoe_core.routing.mixing` (Eq. 5–8), one clip at a time, for those who count
microseconds.
`disagreement` needs every expert's output, so all run; `router-mc` and `none` route first and run only the
chosen ones; `distilled` runs the chosen ones, and before them the cheap one where a prediction could matter.
The router's first layer, by far its largest, is quantized to 8 bits like an expert's; MC dropout repeats only
what follows it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qmoe_core.config import Curiosity
from qmoe_core.engine import kernels
from qmoe_core.engine.expert import PackedExpert, Workspace
from qmoe_core.engine.weights import HiddenLayer
from qmoe_core.errors import BundleError, ConfigError
from qmoe_core.routing.distilled import FLOOR, Head
from qmoe_core.routing.router import Router
from qmoe_core.routing.uncertainty import TINY
from qmoe_core.runtime import machine_code

CODES: dict[Curiosity, int] = {"none": 0, "disagreement": 1, "router-mc": 2, "distilled": 3}

_OPTIONS: Any = {"error_model": "numpy", "fastmath": {"contract", "reassoc"}}


def _cached(function: Any) -> Any:
    """Compile, and keep the machine code for the next process where there is a place to write it."""
    return machine_code.cached(function, **_OPTIONS)


@_cached
def _softmax(logits, temperature, out):
    top = logits[0]
    for i in range(1, logits.size):
        top = max(top, logits[i])
    total = 0.0
    for i in range(logits.size):
        out[i] = np.exp((np.float64(logits[i]) - top) / temperature)
        total += out[i]
    for i in range(logits.size):
        out[i] /= total


@_cached
def _pass(hidden, keep, masked, sizes, weights, biases, layer, out):
    """The router after its first layer: `hidden` [H], thinned by `keep` [H], to logits `out` [N].

    Weights lie one layer after another, [outputs, inputs] each. A row is a slice because an index that is a
    sum might be negative for all that numba knows, and weights would be looked at one by one.
    """
    for i in range(sizes[0]):
        masked[i] = hidden[i] * keep[i]
    source, weight, bias = masked, 0, 0
    for k in range(1, sizes.size):
        last = k == sizes.size - 1
        target = out if last else layer[k - 1]
        inputs = sizes[k - 1]
        for j in range(sizes[k]):
            row = weights[weight + j * inputs : weight + (j + 1) * inputs]
            total = biases[bias + j]
            for i in range(inputs):
                total += row[i] * source[i]
            target[j] = total if last else max(total, np.float32(0.0))
        weight += sizes[k] * inputs
        bias += sizes[k]
        source = target


@_cached
def _route(
    first,
    masks,
    samples,
    temperature,
    sizes,
    weights,
    biases,
    hidden,
    masked,
    layer,
    logits,
    one,
    r,
    std,
    numbers,
):
    """r and its deviation over the MC passes; numbers[3:5] are the router's variance and information."""
    n = r.size
    for i in range(hidden.size):
        hidden[i] = max(first[i], np.float32(0.0))
    _pass(hidden, masks[masks.shape[0] - 1], masked, sizes, weights, biases, layer, logits)
    _softmax(logits, temperature, r)
    if samples == 0:
        return
    for i in range(n):
        one[0, i] = 0.0
        one[1, i] = 0.0
    entropies = 0.0
    for s in range(samples):
        _pass(hidden, masks[s], masked, sizes, weights, biases, layer, logits)
        _softmax(logits, temperature, one[2])
        for i in range(n):
            p = one[2, i]
            one[0, i] += p
            one[1, i] += p * p
            entropies -= p * np.log(max(p, TINY))
    spread, of_mean = 0.0, 0.0
    for i in range(n):
        mean = one[0, i] / samples
        variance = max(one[1, i] / samples - mean * mean, 0.0)
        std[i] = np.sqrt(variance)
        spread += variance
        of_mean -= mean * np.log(max(mean, TINY))
    numbers[3] = spread / n
    numbers[4] = max(of_mean - entropies / samples, 0.0)


@_cached
def _choose(r, interest, alpha, k, routing, weights):
    """Routing after curiosity (Eq. 8), and the top-k renormalised (Eq. 6)."""
    n = r.size
    if alpha == 0.0:
        for i in range(n):
            routing[i] = r[i]
    else:
        top = -np.inf
        for i in range(n):
            routing[i] = np.log(max(r[i], TINY)) + alpha * interest[i]
            top = max(top, routing[i])
        total = 0.0
        for i in range(n):
            routing[i] = np.exp(routing[i] - top)
            total += routing[i]
        for i in range(n):
            routing[i] /= total
    total = 0.0
    for i in range(n):
        larger = 0
        for j in range(n):
            if routing[j] > routing[i] or (routing[j] == routing[i] and j < i):
                larger += 1
        weights[i] = routing[i] if larger < k else 0.0
        total += weights[i]
    for i in range(n):
        weights[i] /= total


@_cached
def _worth_asking(r, ceiling, alpha, k):
    """Whether a prediction could change who answers (`distilled.worth_asking`)."""
    if alpha == 0.0 or r.size == 1:
        return False
    if k > 1:
        return True
    best = 0
    for i in range(1, r.size):
        if r[i] > r[best]:
            best = i
    rival = -np.inf
    for i in range(r.size):
        if i != best:
            rival = max(rival, np.log(max(r[i], TINY)) + alpha * ceiling[i])
    return rival >= np.log(max(r[best], TINY))


@_cached
def _foresee(logits, r, weights, intercept, ceiling, q, out):
    """d̂_i from the cheap expert's logits and the router's distribution (`distilled.Head`)."""
    _softmax(logits, 1.0, q)
    best, second = -np.inf, -np.inf
    largest, uncertainty = 0.0, 0.0
    for c in range(q.size):
        x = np.float64(logits[c])
        second = max(second, min(x, best))
        best = max(best, x)
        largest = max(largest, q[c])
        uncertainty -= q[c] * np.log(max(q[c], TINY))
    margin, doubt = best - second, np.log(max(1.0 - largest, FLOOR))
    uncertainty = np.log(max(uncertainty, FLOOR))
    for i in range(out.size):
        level = intercept[i] + weights[0, i] * margin + weights[1, i] * doubt + weights[2, i] * uncertainty
        for j in range(r.size):
            level += weights[3 + j, i] * r[j]
        out[i] = min(np.exp(level), ceiling[i])


@_cached
def _distributions(logits, q, mean, d, numbers):
    """q_i, q̄, d_i, and numbers[:3]: total, aleatoric and epistemic uncertainty of the experts that ran."""
    n, classes = q.shape
    for c in range(classes):
        mean[c] = 0.0
    for i in range(n):
        _softmax(logits[i], 1.0, q[i])
        for c in range(classes):
            mean[c] += q[i, c] / n
    total, aleatoric = 0.0, 0.0
    for c in range(classes):
        total -= mean[c] * np.log(max(mean[c], TINY))
    for i in range(n):
        own, cross = 0.0, 0.0
        for c in range(classes):
            p = q[i, c]
            own -= p * np.log(max(p, TINY))
            cross -= p * np.log(max(mean[c], TINY))
        d[i] = max(cross - own, 0.0)
        aleatoric += own / n
    numbers[0], numbers[1], numbers[2] = total, aleatoric, max(total - aleatoric, 0.0)


@_cached
def _mix(q, weights, out):
    for c in range(out.size):
        out[c] = 0.0
    for i in range(weights.size):
        if weights[i] > 0.0:
            for c in range(out.size):
                out[c] += weights[i] * q[i, c]


@_cached
def _mix_chosen(logits, weights, one, out):
    """The mixture of those that ran, and its entropy."""
    for c in range(out.size):
        out[c] = 0.0
    for i in range(weights.size):
        if weights[i] > 0.0:
            _softmax(logits[i], 1.0, one)
            for c in range(out.size):
                out[c] += weights[i] * one[c]


@dataclass(frozen=True, eq=False)
class Numbers:
    """A decision's numbers, and the scratch memory they are computed in: one for every caller.

    N experts, C classes. What a strategy does not compute is NaN: with all but `disagreement` only some
    experts run, so there is no q of the others, no disagreement, and no epistemic uncertainty.

    Attributes:
        probabilities: the mixture, float64 [C].
        r, r_std, routing, weights: float64 [N], as `mixing.Mixed`.
        predicted: d̂_i, float64 [N], where `distilled` asked the cheap expert.
        ran: the experts of the mixture that ran, bool [N]; the cheap one ran, too, where there is a d̂_i.
        disagreement: d_i, float64 [N]; mean: q̄, float64 [C]; q: float64 [N, C].
        summary: total, aleatoric, epistemic, router variance, router mutual information.
    """

    probabilities: np.ndarray
    r: np.ndarray
    r_std: np.ndarray
    routing: np.ndarray
    weights: np.ndarray
    predicted: np.ndarray
    ran: np.ndarray
    disagreement: np.ndarray
    mean: np.ndarray
    q: np.ndarray
    summary: np.ndarray
    _logits: np.ndarray
    _first: np.ndarray
    _hidden: np.ndarray
    _masked: np.ndarray
    _layers: np.ndarray
    _router: np.ndarray
    _one: np.ndarray
    _class: np.ndarray
    _spaces: tuple[Workspace, ...]
    _rows: tuple[np.ndarray, ...]


class PackedMixture:
    """Experts and a router that serve together; safe to share between threads.

    Args:
        experts: packed experts of one shape, in the mixture's order.
        router: with at least these experts among its outputs.
        kernel: for the router's first layer; see `kernels.NAMES`.
        max_samples: the most MC-dropout passes a caller may ask for.
        head: what `distilled` predicts with, of the same experts.
        cheap: the expert that the head reads, where it is none of the mixture.

    Raises:
        BundleError: sizes that do not fit one another, an expert that the router does not know, or a head
            for others.
    """

    def __init__(
        self,
        experts: Sequence[PackedExpert],
        router: Router,
        kernel: str = "auto",
        max_samples: int = 100,
        head: Head | None = None,
        cheap: PackedExpert | None = None,
    ) -> None:
        self.names = tuple(expert.name for expert in experts)
        self._experts = tuple(experts)
        everyone = self._experts if cheap is None else (*self._experts, cheap)
        if {expert.dim for expert in everyone} != {router.dim} or len({e.classes for e in everyone}) != 1:
            raise BundleError(
                f"mixture {'+'.join(self.names)}: experts and router take embeddings of other sizes"
            )
        missing = [name for name in self.names if name not in router.experts]
        if missing:
            raise BundleError(f"mixture: the router does not know {', '.join(missing)}")
        names = [expert.name for expert in everyone]
        if head is not None and (head.experts != self.names or head.cheap not in names):
            raise BundleError(
                f"mixture {'+'.join(self.names)}: the head is for {'+'.join(head.experts)}, "
                f"asking {head.cheap}"
            )
        self._head, self._everyone = head, everyone
        self._asked = -1 if head is None else names.index(head.cheap)
        self.classes = experts[0].classes
        here = kernels.load(kernels.choose(kernel))
        self._first = here.pack((_rounded(router.weights[0], router.biases[0]),))
        self._scratch, self._forward = here.scratch, here.forward
        rows = [router.experts.index(name) for name in self.names]
        tail = [*router.weights[1:-1], router.weights[-1][rows]]
        biases = [*router.biases[1:-1], router.biases[-1][rows]]
        self._sizes = np.array([router.weights[0].shape[0], *(w.shape[0] for w in tail)], np.int64)
        self._weights = np.concatenate([w.ravel() for w in tail])
        self._biases = np.concatenate(biases)
        # The last mask keeps everything: the plain router is one more pass.
        ones = np.ones((1, router.weights[0].shape[0]), np.float32)
        self._masks = np.concatenate([router.masks(max_samples), ones])
        self._local = threading.local()

    def numbers(self) -> Numbers:
        """Memory for one caller's decisions."""
        n, hidden, widest = len(self.names), int(self._sizes[0]), int(self._sizes.max())
        logits, cheap = np.full((n, self.classes), np.nan, np.float32), np.empty(self.classes, np.float32)
        return Numbers(
            probabilities=np.empty(self.classes),
            r=np.empty(n),
            r_std=np.full(n, np.nan),
            routing=np.empty(n),
            weights=np.empty(n),
            predicted=np.full(n, np.nan),
            ran=np.zeros(n, bool),
            disagreement=np.full(n, np.nan),
            mean=np.full(self.classes, np.nan),
            q=np.full((n, self.classes), np.nan),
            summary=np.full(5, np.nan),
            _logits=logits,
            _first=np.empty(hidden, np.float32),
            _hidden=np.empty(hidden, np.float32),
            _masked=np.empty(hidden, np.float32),
            _layers=np.empty((max(len(self._sizes) - 1, 1), widest), np.float32),
            _router=np.empty(n, np.float32),
            _one=np.empty((3, n)),
            _class=np.empty(self.classes),
            _spaces=(Workspace(self._scratch(self._first)), *(e.workspace() for e in self._everyone)),
            _rows=(*logits, cheap),
        )

    def decide(
        self,
        z: np.ndarray,
        out: Numbers,
        *,
        alpha: float,
        top_k: int = 1,
        curiosity: Curiosity = "disagreement",
        samples: int = 10,
        temperature: float = 1.0,
        mean_interest: float = 1.0,
    ) -> None:
        """Decide on one clip.

        Args:
            z: standardised embedding, float32 [D], contiguous.
            out: written; of this mixture, and of this caller alone.
            alpha, top_k, curiosity, temperature: of `mixing.Settings`; samples: `mc_samples`, 0 draws none
                (not with `router-mc`).
            mean_interest: what d_i (or d̂_i, σ_i) is divided by.

        Raises:
            ConfigError: more samples than the mixture was made for, or none where they are needed;
                `distilled` without a head.
        """
        code = CODES[curiosity]
        if not (code == 2) <= samples < len(self._masks):
            raise ConfigError(f"{samples} MC samples; accepted is {int(code == 2)} to {len(self._masks) - 1}")
        self._forward(z, self._first, out._spaces[0].memory, out._first)
        _route(
            out._first, self._masks, samples, temperature, self._sizes, self._weights, self._biases,
            out._hidden, out._masked, out._layers, out._router, out._one, out.r, out.r_std, out.summary,
        )  # fmt: skip
        if code == 1:
            for i, expert in enumerate(self._experts):
                expert.logits_into(z, out._spaces[i + 1], out._rows[i])
            out.ran.fill(True)
            _distributions(out._logits, out.q, out.mean, out.disagreement, out.summary)
            _choose(out.r, out.disagreement, alpha / mean_interest, top_k, out.routing, out.weights)
            _mix(out.q, out.weights, out.probabilities)
            return
        interest, strength = out.r_std, alpha / mean_interest
        out.ran.fill(False)
        out.predicted.fill(np.nan)
        if code == 3:
            interest = out.predicted
            if not self._foresee(z, out, strength, top_k):
                strength = 0.0
        elif code == 0:
            strength = 0.0
        _choose(out.r, interest, strength, top_k, out.routing, out.weights)
        for i, expert in enumerate(self._experts):
            if out.weights[i] > 0.0 and not out.ran[i]:
                expert.logits_into(z, out._spaces[i + 1], out._rows[i])
                out.ran[i] = True
        _mix_chosen(out._logits, out.weights, out._class, out.probabilities)

    def _foresee(self, z: np.ndarray, out: Numbers, strength: float, top_k: int) -> bool:
        """Ask the cheap expert where a prediction could matter, and predict; whether it did."""
        head, asked = self._head, self._asked
        if head is None:
            raise ConfigError("curiosity distilled: this mixture was made without a head to predict with")
        if not _worth_asking(out.r, head.ceiling, strength, top_k):
            return False
        self._everyone[asked].logits_into(z, out._spaces[asked + 1], out._rows[asked])
        _foresee(
            out._rows[asked], out.r, head.weights, head.intercept, head.ceiling, out._class, out.predicted
        )
        if asked < len(out.ran):
            out.ran[asked] = True
        return True


def _rounded(weight: np.ndarray, bias: np.ndarray) -> HiddenLayer:
    """A float layer as 8-bit levels, one scale for each row."""
    scale = np.maximum(np.abs(weight).max(axis=1), 1e-12) / 127.0
    zeros = np.zeros(len(bias), np.float32)
    return HiddenLayer(
        format="int8",
        codes=np.rint(weight / scale[:, None]).astype(np.int8),
        weight=None,
        scale=scale.astype(np.float32),
        bias=bias,
        gamma=zeros,
        beta=zeros,
    )
