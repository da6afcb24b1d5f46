"""The steps that are timed are those that are served: each call gives what the whole way has at its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qmoe_core import bundles, serve
from qmoe_core.bundles import Bundle
from qmoe_core.measure import steps
from qmoe_core.measure.steps import Way


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return bundles.load()


def called(bundle: Bundle, patch: pytest.MonkeyPatch, **changes: Any) -> tuple[Way, list[Any]]:
    """The way, and what each timed call gave, with a time of 7 µs for all."""
    given: list[Any] = []

    def once(call: Callable[[], object]) -> tuple[float, int]:
        given.append(call())
        return 7.0, 1

    patch.setattr(steps, "timed", once)
    return steps.way(bundle, bundle.settings(**changes)), given


def test_each_step_gives_what_the_whole_way_has(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("q1", "q4", "popcount")
    way, given = called(bundle, monkeypatch, experts=names, alpha=100.0, top_k=2)
    levels, embedding, *logits = given[:5]
    plain, _thinned, opinions, routing, mixture, decision = given[5:]
    embedder = serve.embedder_of(bundle)
    [z] = embedder.embed(steps._window(embedder.sample_rate)[None])
    mixed = bundle.mix(bundle.outputs(z[None]), bundle.settings(experts=names, alpha=100.0, top_k=2))
    assert levels.ndim == 2
    np.testing.assert_array_equal(embedding, z)
    for name, one in zip(names, logits, strict=True):
        np.testing.assert_array_equal(one, bundle.expert(name).logits(bundle.standardise(z[None])))
    np.testing.assert_allclose(plain, mixed.r[0])
    np.testing.assert_allclose(opinions[1], mixed.disagreement[0])
    np.testing.assert_allclose(routing, mixed.routing[0])
    np.testing.assert_allclose(mixture, mixed.probabilities[0])
    np.testing.assert_allclose(decision.probabilities, mixed.probabilities[0])
    assert [step.name for step in way.of("expert")] == list(names)
    assert [step.kind for step in way.steps if step.kind != "expert"] == [
        "front end", "embedder", "router", "dropout", "uncertainty", "curiosity", "mixture"
    ]  # fmt: skip


def test_sizes_are_those_of_the_bundles_files(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    way, _ = called(bundle, monkeypatch)
    [embedder], [router] = way.of("embedder"), way.of("router")
    folder = bundles.shipped() / bundle.name
    assert embedder.bytes == sum(file.stat().st_size for file in (folder / "embedders").iterdir())
    assert router.bytes == (folder / bundles.ROUTER_FILE).stat().st_size
    assert {step.name: step.bytes for step in way.of("expert")} == {
        name: (folder / "experts" / f"{name}.safetensors").stat().st_size
        for name in bundle.settings().experts
    }
    assert way.sum_us == 7.0 * (len(way.steps) - 1)  # the passes of dropout add nothing to seven
    assert way.whole_us == 7.0


def test_a_median_of_enough_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**12, 10**6))
    monkeypatch.setattr(steps.time, "perf_counter_ns", lambda: next(clock))
    monkeypatch.setattr(steps.time, "perf_counter", lambda: 0.0)
    made: list[int] = []
    assert steps.timed(lambda: made.append(1)) == (1000.0, steps.CALLS)
    assert len(made) == steps.CALLS + 1
    late = iter([0.0, *[10.0] * 100])
    monkeypatch.setattr(steps.time, "perf_counter", lambda: next(late))
    assert steps.timed(lambda: None) == (1000.0, steps.LEAST_CALLS)
