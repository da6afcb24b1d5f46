"""What each step from a sound to the decision costs, in the order of the paper's Figure 1.

Every step is timed by itself on one window of five seconds, with the code that serves it; so is the whole, as
one call. What the window holds makes no difference to the time, so noise stands for any sound.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from qmoe_core import serve
from qmoe_core.audio.decode import WINDOW_S
from qmoe_core.bundles import ROUTER_FILE, Bundle
from qmoe_core.embedders import Embedder
from qmoe_core.measure.path import stages_of
from qmoe_core.routing.curiosity import curious_routing, top_k
from qmoe_core.routing.mixing import Settings
from qmoe_core.routing.uncertainty import opinions, softmax, spread, weighted

CALLS, LEAST_CALLS, SECONDS = 60, 5, 0.2
"""Calls of a step: as many; fewer where they would take longer, but enough for a median."""

Kind = Literal["front end", "embedder", "expert", "router", "dropout", "uncertainty", "curiosity", "mixture"]


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: of the embedder or expert; else the kind.
        us: median time of a call, microseconds; calls: how many.
        bytes: of its weights as they lie in the bundle; 0 where it has none.
    """

    kind: Kind
    name: str
    us: float
    calls: int
    bytes: int = 0


@dataclass(frozen=True)
class Way:
    """The steps of one window, in order, and the whole timed as one call."""

    steps: tuple[Step, ...]
    whole_us: float

    def of(self, *kinds: Kind) -> tuple[Step, ...]:
        """The steps of these kinds."""
        return tuple(step for step in self.steps if step.kind in kinds)

    @property
    def sum_us(self) -> float:
        """Of all steps; the whole is longer by what joins them."""
        return sum(step.us for step in self.steps)


def timed(call: Callable[[], object]) -> tuple[float, int]:
    """Median time of a call in microseconds, and the number of calls."""
    call()
    taken: list[float] = []
    until = time.perf_counter() + SECONDS
    while len(taken) < CALLS and (len(taken) < LEAST_CALLS or time.perf_counter() < until):
        started = time.perf_counter_ns()
        call()
        taken.append((time.perf_counter_ns() - started) / 1e3)
    return float(np.median(taken)), len(taken)


def way(bundle: Bundle, settings: Settings) -> Way:
    """Time the way of one window, with every expert of the mixture asked, as Eq. 7 and 8 need it.

    Raises:
        BundleError: the bundle judges pictures, or is damaged.
    """
    used = sorted({0, *map(bundle.behind, settings.experts)})
    made = {i: serve.embedder_of(bundle, bundle.embedders[i].name) for i in used}
    windows = {i: _window(embedder.sample_rate) for i, embedder in made.items()}
    z: dict[int, np.ndarray] = {}
    steps = [*_embedded(bundle, made, windows, z)]
    for name in settings.experts:
        asked = partial(bundle.expert(name).logits, z[bundle.behind(name)])
        steps.append(Step("expert", name, *timed(asked), bundle.expert_bytes(name)))
    steps += _routed(bundle, settings, z)

    def whole() -> object:
        embedded = {bundle.embedders[i].name: made[i].embed(windows[i][None]) for i in used}
        outputs = bundle.lazy_outputs(1, lambda name, _: embedded[name], mc_samples=settings.mc_samples)
        outputs.ask(settings.experts, np.ones((1, len(settings.experts)), bool))
        return bundle.decide(outputs.at(0), settings)

    return Way(tuple(steps), timed(whole)[0])


def _window(rate: int) -> np.ndarray:
    """Five seconds of noise, float32 [5 · rate]."""
    return np.random.default_rng(0).normal(0.0, 0.1, round(WINDOW_S * rate)).astype(np.float32)


def _embedded(
    bundle: Bundle, made: dict[int, Embedder], windows: dict[int, np.ndarray], z: dict[int, np.ndarray]
) -> Iterator[Step]:
    """Front end and network of each embedder; `z` takes its standardised embedding, float32 [1, D]."""
    for i, window in windows.items():
        record = bundle.embedders[i]
        stages = stages_of(made[i])
        levels = stages.front_end.levels(window)
        yield Step("front end", record.name, *timed(partial(stages.front_end.levels, window)))
        file = bundle.manifest.files.get(record.file)
        yield Step("embedder", record.name, *timed(partial(stages.embed, levels)), file.bytes if file else 0)
        z[i] = bundle.standardise(stages.embed(levels)[None], i)


def _routed(bundle: Bundle, settings: Settings, z: dict[int, np.ndarray]) -> Iterator[Step]:
    """What follows the experts; the dropout passes cost what they add to the plain one."""
    router, samples = bundle.router, settings.mc_samples
    places = [bundle.experts.index(name) for name in settings.experts]
    logits = np.stack([bundle.expert(name).logits(z[bundle.behind(name)])[0] for name in settings.experts])
    q, known = softmax(logits), np.ones(len(places))

    def route() -> np.ndarray:
        return softmax(router.logits(z[0])[0, places] / settings.temperature)

    def thin() -> object:
        return spread(softmax(router.forward(z[0], samples)[1:, 0, places] / settings.temperature))

    def mix() -> object:
        return weighted(top_k(routing, settings.top_k), q)

    r, d = route(), opinions(q, known)[1]
    routing = curious_routing(r, d, settings.alpha)
    once, calls = timed(route)
    both, _ = timed(thin)
    stored = bundle.manifest.files[ROUTER_FILE].bytes
    yield Step("router", "router", once, calls, stored)
    yield Step("dropout", "dropout", max(both - once, 0.0), calls)
    yield Step("uncertainty", "uncertainty", *timed(lambda: opinions(q, known)))
    yield Step("curiosity", "curiosity", *timed(lambda: curious_routing(r, d, settings.alpha)))
    yield Step("mixture", "mixture", *timed(mix))
