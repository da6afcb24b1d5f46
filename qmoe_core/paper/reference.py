"""What the paper's public code does where it departs from the text, each under a name that says so.

Nothing here is meant to be used: it exists so that claims can be tested against it. The right ways are in
`routing/`, `experts/`, `engine/` and `measure/`. Written from what the code (commit dfbb02c) computes, and
not copied from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from qmoe_core.paper.tables import MODELS
from qmoe_core.routing.curiosity import top_k
from qmoe_core.routing.uncertainty import softmax

HIDDEN = (640, 320)
ROUTER_HIDDEN = (128, 64)
TERNARY_THRESHOLD = 0.05


def logged_only_curiosity(logits: np.ndarray, mc_logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The Bayesian router: the uncertainty of its MC passes is logged, and the routing is the router's.

    Args:
        logits: g(z) [n, N]; mc_logits: of S thinned routers [S, n, N].

    Returns:
        The routing [n, N], and the uncertainty [n] that is logged.
    """
    return softmax(logits), softmax(mc_logits).var(axis=0).sum(axis=-1)


def scalar_curiosity(r: np.ndarray, uncertainty: np.ndarray, alpha: float) -> np.ndarray:
    """An interim version: every expert's probability times the same number, then renormalised.

    Args:
        r: [n, N]; uncertainty: one number a clip, [n].
    """
    scaled = r * (1.0 + alpha * uncertainty)[:, None]
    return scaled / scaled.sum(axis=-1, keepdims=True)


def tempered_curiosity(r: np.ndarray, alpha: float) -> np.ndarray:
    """Its later fix: r^(1+α) renormalised, which is the softmax at temperature 1/(1+α)."""
    return softmax((1.0 + alpha) * np.log(r))


def unnormalised_mixture(logits: np.ndarray, r: np.ndarray, k: int) -> np.ndarray:
    """The code's Eq. 6: logits of the top k, weighted by r as it is and divided by k.

    Args:
        logits: [n, N, C]; r: [n, N].

    Returns:
        Class probabilities [n, C].
    """
    chosen = np.where(top_k(r, k) > 0.0, r, 0.0)
    return softmax((chosen[..., None] * logits).sum(axis=-2) / k)


def symmetric_top_level(bits: int) -> int:
    """2^(k−1) − 1, what Eq. 2 as printed divides max|W| by.

    >>> [symmetric_top_level(k) for k in (1, 2, 4)]
    [0, 1, 7]
    """
    return 2 ** (bits - 1) - 1


def ternary(x: np.ndarray, threshold: float = TERNARY_THRESHOLD) -> np.ndarray:
    """−1, 0 or 1: the sign, or 0 where |x| is below a fixed threshold."""
    return (np.sign(x) * (np.abs(x) >= threshold)).astype(np.int8)


def ternary_bits(levels: np.ndarray) -> np.ndarray:
    """The code's two bits a level, negative and positive: −1, 0, 1 [n, K] to bool [n, 2K]."""
    return np.stack([levels == -1, levels == 1], axis=-1).reshape(len(levels), -1)


def _xor(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Bits [n, K] and [N, K], eight a byte, XORed: uint8 [n, N, ⌈K/8⌉]."""
    return np.packbits(x, axis=1)[:, None, :] ^ np.packbits(w, axis=1)[None, :, :]


def value_summing_popcount(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The popcount layer: 8 · bytes − Σ of the *values* of the XORed bytes, where their set bits were meant.

    Args:
        x: bool [n, K]; w: bool [N, K].

    Returns:
        Scores, int64 [n, N].
    """
    xor = _xor(x, w)
    return 8 * xor.shape[-1] - xor.sum(axis=-1, dtype=np.int64)


def bit_counting_popcount(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The same with the set bits counted, as the name says: a linear function of the product of signs."""
    xor = _xor(x, w)
    return 8 * xor.shape[-1] - np.bitwise_count(xor).sum(axis=-1, dtype=np.int64)


def expert_parameters(dim: int, classes: int, hidden: Sequence[int] = HIDDEN, *, pre_norm: bool) -> int:
    """Trained numbers of a classifier: Linear and LayerNorm a hidden layer, a float head.

    Args:
        pre_norm: the LayerNorm before each hidden layer that the code's quantized experts have and its
            float one lacks.

    >>> expert_parameters(1536, 50, pre_norm=False), expert_parameters(1536, 50, pre_norm=True)
    (1206770, 1211122)
    """
    total = 0
    for inputs, outputs in pairwise((dim, *hidden)):
        total += inputs * outputs + 3 * outputs + (2 * inputs if pre_norm else 0)
    return total + hidden[-1] * classes + classes


def router_parameters(dim: int, experts: int, hidden: Sequence[int] = ROUTER_HIDDEN) -> int:
    """Trained numbers of the router (§4.3).

    >>> router_parameters(1536, 4)
    205252
    """
    return sum(inputs * outputs + outputs for inputs, outputs in pairwise((dim, *hidden, experts)))


def millions(model: str, classes: int, *, router: bool = True) -> float:
    """Parameters of one of Table 1's models with a head of so many classes, in millions.

    >>> millions("BitNet-Q4/8/16-QMoE", 50)
    5.04974
    """
    experts = MODELS[model].experts
    total = sum(
        expert_parameters(1536, classes, pre_norm=expert not in ("fp32", "ptq8")) for expert in experts
    )
    return (total + (router_parameters(1536, len(experts)) if router and len(experts) > 1 else 0)) / 1e6


def unseeded_projection(z: np.ndarray, outputs: int, generator: np.random.Generator) -> np.ndarray:
    """The linear layer that two sets pass through: initialised at random, never trained, never kept."""
    bound = z.shape[1] ** -0.5
    return z @ generator.uniform(-bound, bound, (z.shape[1], outputs)).astype(np.float32)


VALIDATED_CLIPS, BATCH = 400, 64
PROFILER_INTERVAL_S = 0.01


@dataclass(frozen=True)
class Phase:
    """A validation phase as the code times it; seconds.

    Attributes:
        whole_s: all of it, start and stop of the tracker included: the code's "latency" before dividing.
        profiled_s: the memory profiler with the passes it runs.
        work_s: the passes alone, all of them; runs: how many passes the profiler made.
    """

    whole_s: float
    profiled_s: float
    work_s: float
    runs: int


def validation(clips: int = VALIDATED_CLIPS, batch: int = BATCH) -> Callable[[], object]:
    """One pass of a float classifier of the paper's sizes over a fold, in torch on one thread."""
    import torch

    from qmoe_core.measure import peers, size

    torch.set_num_threads(1)
    network = peers.torch_network(size.random_expert("fp32"))
    z = torch.from_numpy(np.random.default_rng(0).normal(size=(clips, 1536)).astype(np.float32))

    @torch.inference_mode()
    def run() -> object:
        return [network(part).argmax(dim=1) for part in z.split(batch)]

    run()
    return run


def timed_phase(work: Callable[[], object], country: str = "FRA") -> Phase:
    """Time a phase as the code does: an emissions tracker around memory_profiler around the work.

    Raises:
        ModuleNotFoundError: memory_profiler is not installed.
    """
    from memory_profiler import memory_usage

    from qmoe_core.measure import energy

    passes: list[float] = []

    def timed() -> None:
        started = time.perf_counter()
        work()
        passes.append(time.perf_counter() - started)

    def once() -> int:
        memory_usage((timed,), interval=PROFILER_INTERVAL_S)  # type: ignore[no-untyped-call]
        return 1

    started = time.perf_counter()
    block = energy.track("phase", country, once)
    return Phase(time.perf_counter() - started, block.wall_s, sum(passes), len(passes))
