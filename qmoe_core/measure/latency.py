"""Latency in one interleaved run: every contestant meets the same machine in the same minutes.

Rounds in random order, a warm-up, garbage collection off, one thread pinned to one core. A ratio is
formed within each round, where both sides saw the same machine, and its interval is a bootstrap over
rounds. In cold mode the caches are emptied before every call: what a process that is woken up pays.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from qmoe_core.errors import Cancelled
from qmoe_core.evaluation.significance import bonferroni, bootstrap_interval, brown_forsythe, holm
from qmoe_core.runtime import system

CALLS_A_ROUND = 50
UNTIMED_CALLS = 3
WARM_UP_S = 0.1
FLUSH_BYTES = 96 << 20
"""Read and written between cold calls; more than the last-level cache of the machines we know."""
QUANTILES = np.linspace(0.0, 1.0, 201)


@dataclass(frozen=True)
class Contestant:
    """Something to be timed.

    Attributes:
        name: unique in a run.
        kind: `expert`, `mixture` or `peer`.
        call: does the whole work once; takes nothing and gives nothing that is looked at.
        note: what a reader must know of it.
    """

    name: str
    kind: str
    call: Callable[[], object]
    note: str = ""


@dataclass(frozen=True)
class LatencyRow:
    """One contestant's figures; times in microseconds."""

    name: str
    kind: str
    note: str
    n: int
    batch: int
    threads: int
    p50_us: float
    p95_us: float
    p99_us: float
    mean_us: float
    std_us: float
    speedup_vs_fp32: float
    """Ratio of the baseline's median to this one's, formed in each round; the median over rounds."""
    ci95: tuple[float, float]
    brown_forsythe_p: float | None
    """Two-sided p of equal variances with the baseline; None for the baseline itself."""
    p_holm: float | None
    p_bonferroni: float | None
    quantiles_us: tuple[float, ...]
    """The distribution at 201 equally spaced levels, 0 to 1."""

    def to_json(self) -> dict[str, Any]:
        """`qmoe bench latency --json`, and what pages draw."""
        return {**self.__dict__, "ci95": list(self.ci95), "quantiles_us": list(self.quantiles_us)}


@contextmanager
def quiet() -> Iterator[int | None]:
    """Pinned to one core, garbage collection off; yields the core's number, None where pinning fails."""
    pinned = None
    before = system.affinity()
    if before and system.use_only({max(before)}):
        pinned = max(before)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield pinned
    finally:
        if collecting:
            gc.enable()
        if before and pinned is not None:
            system.use_only(before)


def _time_calls(call: Callable[[], object], times: np.ndarray, flush: np.ndarray | None) -> None:
    """Fill `times` with nanoseconds of calls; where there is an array to flush with, each begins cold."""
    clock = time.perf_counter_ns
    for _ in range(UNTIMED_CALLS):
        call()
    for i in range(len(times)):
        if flush is not None:
            np.add(flush, 1.0, out=flush)
        started = clock()
        call()
        times[i] = clock() - started


def race(
    contestants: Sequence[Contestant],
    *,
    n: int = 2000,
    cold: bool = False,
    seed: int = 0,
    progress: Callable[[int, int, str], object] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[str, np.ndarray]:
    """Time every contestant in interleaved rounds.

    Args:
        n: timed calls of each, at least; rounded up to whole rounds.
        cold: empty the caches before every timed call.
        seed: of the order within rounds.

    Returns:
        Nanoseconds by name, int64 [rounds, calls a round].

    Raises:
        Cancelled: `cancelled` said so.
    """
    generator = np.random.default_rng(seed)
    calls = 5 if cold else CALLS_A_ROUND
    rounds = -(-n // calls)
    times = {c.name: np.zeros((rounds, calls), np.int64) for c in contestants}
    flush = np.zeros(FLUSH_BYTES // 8) if cold else None
    with quiet():
        for contestant in contestants:
            until = time.perf_counter() + WARM_UP_S
            while time.perf_counter() < until:
                contestant.call()
        for number in range(rounds):
            if cancelled is not None and cancelled():
                raise Cancelled("the benchmark was stopped")
            for index in generator.permutation(len(contestants)):
                call, row = contestants[index].call, times[contestants[index].name][number]
                _time_calls(call, row, flush)
            if progress is not None:
                progress(number + 1, rounds, "rounds")
    return times


def summarise(
    contestants: Sequence[Contestant],
    times: dict[str, np.ndarray],
    *,
    baseline: str,
    batch: int = 1,
    threads: int = 1,
) -> list[LatencyRow]:
    """Figures of a race, with every contestant compared to the baseline."""
    against = np.median(times[baseline], axis=1)
    others = [c.name for c in contestants if c.name != baseline]
    p = [brown_forsythe(times[baseline].ravel(), times[name].ravel()) for name in others]
    tests = {name: values for name, *values in zip(others, p, holm(p), bonferroni(p), strict=True)}
    rows = []
    for contestant in contestants:
        samples = times[contestant.name]
        ratios = against / np.median(samples, axis=1)
        us = samples.ravel() / 1e3
        p50, p95, p99 = np.quantile(us, [0.5, 0.95, 0.99])
        raw, by_holm, by_bonferroni = tests.get(contestant.name, (None, None, None))
        rows.append(
            LatencyRow(
                name=contestant.name,
                kind=contestant.kind,
                note=contestant.note,
                n=us.size,
                batch=batch,
                threads=threads,
                p50_us=float(p50),
                p95_us=float(p95),
                p99_us=float(p99),
                mean_us=float(us.mean()),
                std_us=float(us.std(ddof=1)),
                speedup_vs_fp32=float(np.median(ratios)),
                ci95=bootstrap_interval(ratios, lambda resampled: np.median(resampled, axis=1)),
                brown_forsythe_p=raw,
                p_holm=by_holm,
                p_bonferroni=by_bonferroni,
                quantiles_us=tuple(np.quantile(us, QUANTILES).tolist()),
            )
        )
    return rows
