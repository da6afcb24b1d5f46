"""Uncertainty from several experts' class distributions, in nats.

q_i [..., N, C] are the experts' distributions, q̄ their mean. Total H(q̄), aleatoric mean H(q_i), epistemic
H(q̄) − mean H(q_i) = mean KL(q_i ‖ q̄), the mutual information (Houlsby et al. 2011, BALD; claims 5).

Each function works on the last axes, and broadcasts over all others.
"""

from __future__ import annotations

import numpy as np

from qmoe_core.runtime import machine_code

TINY = 1e-300
"""Keeps log(0) away without changing any probability that a float64 softmax can give."""


@machine_code.broadcasting("(n)->(n)")
def softmax(logits, out):
    """Probabilities from logits: [..., n] → float64 [..., n]; NaN where the first logit is.

    >>> softmax(np.array([0.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    if np.isnan(logits[0]):
        out[:] = np.nan
        return
    top = logits[0]
    for i in range(1, logits.size):
        top = max(top, logits[i])
    total = 0.0
    for i in range(logits.size):
        out[i] = np.exp(logits[i] - top)
        total += out[i]
    for i in range(logits.size):
        out[i] /= total


@machine_code.broadcasting("(n)->()")
def entropy(p, out):
    """H(p), nats: [..., n] → [...].

    >>> round(float(entropy(np.array([0.5, 0.5]))), 4)
    0.6931
    """
    total = 0.0
    for i in range(p.size):
        total -= p[i] * np.log(max(p[i], TINY))
    out[0] = total


@machine_code.broadcasting("(n),(n)->()")
def divergence(p, q, out):
    """KL(p ‖ q), nats, never below zero: [..., n] → [...]."""
    total = 0.0
    for i in range(p.size):
        total += p[i] * (np.log(max(p[i], TINY)) - np.log(max(q[i], TINY)))
    out[0] = max(total, 0.0)


def disagreement(q: np.ndarray) -> np.ndarray:
    """d_i = KL(q_i ‖ q̄) of every expert from their mean: [..., N, C] → [..., N]."""
    return divergence(q, q.mean(axis=-2, keepdims=True))


def mutual_information(p: np.ndarray) -> np.ndarray:
    """H(mean) − mean H over axis −2: [..., N, C] → [...], never below zero."""
    return np.maximum(entropy(p.mean(axis=-2)) - entropy(p).mean(axis=-1), 0.0)


@machine_code.broadcasting("(s,n)->(n),(),()")
def spread(p, deviation, variance, information):
    """How S distributions [..., S, n] differ; NaN where S is 0.

    Deviation of each number [..., n], the mean of their variances [...], mutual information [...].
    """
    passes, n = p.shape
    if passes == 0:
        deviation[:], variance[0], information[0] = np.nan, np.nan, np.nan
        return
    variance[0] = 0.0
    of_mean, mean_of = 0.0, 0.0
    for i in range(n):
        mean, squares = 0.0, 0.0
        for s in range(passes):
            mean += p[s, i] / passes
            mean_of -= p[s, i] * np.log(max(p[s, i], TINY)) / passes
        for s in range(passes):
            squares += (p[s, i] - mean) ** 2
        deviation[i] = np.sqrt(squares / passes)
        variance[0] += squares / passes / n
        of_mean -= mean * np.log(max(mean, TINY))
    information[0] = max(of_mean - mean_of, 0.0)


@machine_code.broadcasting("(n,c),(n)->(c),(n),(),()")
def opinions(q, known, mean, disagreement, total, aleatoric):
    """The mean q̄ of the known of N distributions, d_i, H(q̄) and mean H(q_i); what is not known has d_i NaN.

    q [..., N, C], known [..., N] (0 or 1) → q̄ [..., C], d [..., N], total [...], aleatoric [...].
    """
    experts, classes = q.shape
    count = 0.0
    for i in range(experts):
        count += known[i]
        disagreement[i] = 0.0 if known[i] > 0.0 else np.nan
    total[0], aleatoric[0] = 0.0, 0.0
    for c in range(classes):
        mean[c] = 0.0
        for i in range(experts):
            if known[i] > 0.0:
                mean[c] += q[i, c] / count
        log_mean = np.log(max(mean[c], TINY))
        total[0] -= mean[c] * log_mean
        for i in range(experts):
            if known[i] > 0.0:
                log_q = np.log(max(q[i, c], TINY))
                disagreement[i] += q[i, c] * (log_q - log_mean)
                aleatoric[0] -= q[i, c] * log_q / count
    for i in range(experts):
        if known[i] > 0.0:
            disagreement[i] = max(disagreement[i], 0.0)


@machine_code.broadcasting("(n),(n,c)->(c)")
def weighted(weights, values, out):
    """Σ w_i · x_i, [..., N], [..., N, C] → [..., C]; where w_i is 0, x_i may be anything."""
    out[:] = 0.0
    for i in range(weights.size):
        if weights[i] > 0.0:
            for c in range(out.size):
                out[c] += weights[i] * values[i, c]
