"""Curiosity: a bonus on the routing of experts that are worth asking (Eq. 8).

Strategies, by name:
- `disagreement`: r_i^c ∝ r_i · exp(α · d_i), d_i = KL(q_i ‖ q̄): Eq. 8 as printed; every expert runs.
- `distilled`: the same with d̂_i, predicted from one cheap expert's output (`distilled.py`): that one runs,
  where a prediction could change anything, and those that answer.
- `router-mc`: r_i^c ∝ r_i · exp(α · σ_i), σ_i the MC-dropout deviation of r_i: only the router runs.
- `none`: the plain router.
- `cascade`: no routing at all. Experts are asked in the order of the mixture, the next one while the doubt
  1 − max q of the last answer is above a threshold; the last one asked answers. Only those asked run.
"""

from __future__ import annotations

import numpy as np

from qmoe_core.routing.uncertainty import TINY
from qmoe_core.runtime import machine_code

MAX_EXPONENT = 700.0
"""exp of more overflows float64; a bonus that large has decided the routing long before."""


def bonus(interest: np.ndarray, alpha: float) -> np.ndarray:
    """exp(α · interest), the factor a routing probability is multiplied with: [..., N] → [..., N]."""
    return np.exp(np.minimum(alpha * interest, MAX_EXPONENT))


@machine_code.broadcasting("(n),(n),()->(n)")
def curious_routing(r, interest, alpha, out):
    """The routing after the bonus (Eq. 8), renormalised.

    Args:
        r: routing distribution [..., N].
        interest: d_i, d̂_i or σ_i, [..., N].
        alpha: α ≥ 0, one number or an array that broadcasts against the axes before N.

    Returns:
        [..., N]; where α = 0 it is `r` itself, bit for bit.

    >>> curious_routing(np.array([0.5, 0.5]), np.array([0.0, np.log(3.0)]), 1.0).round(2).tolist()
    [0.25, 0.75]
    """
    if alpha == 0.0:
        out[:] = r
        return
    top = -np.inf
    for i in range(r.size):
        out[i] = np.log(max(r[i], TINY)) + alpha * interest[i]
        top = max(top, out[i])
    total = 0.0
    for i in range(r.size):
        out[i] = np.exp(out[i] - top)
        total += out[i]
    for i in range(r.size):
        out[i] /= total


@machine_code.broadcasting("(n),()->(n)")
def top_k(routing, k, out):
    """Weights of the mixture: the k largest routing probabilities renormalised, zero elsewhere.

    Of equals the earlier expert wins. k beyond N means all.

    >>> top_k(np.array([0.5, 0.3, 0.2]), 2).round(3).tolist()
    [0.625, 0.375, 0.0]
    """
    total = 0.0
    for i in range(routing.size):
        larger = 0
        for j in range(routing.size):
            if routing[j] > routing[i] or (routing[j] == routing[i] and j < i):
                larger += 1
        out[i] = routing[i] if larger < k else 0.0
        total += out[i]
    for i in range(routing.size):
        out[i] /= total
