"""Experts run when they are asked for: the answers of all strategies are those of a mixture that runs all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

from qmoe_core import bundles
from qmoe_core.bundles import Bundle
from qmoe_core.engine import PackedExpert
from qmoe_core.measure.size import random_expert
from qmoe_core.routing import mixing
from qmoe_core.routing.distilled import Head
from qmoe_core.routing.mixing import Mixed, Outputs, Settings
from qmoe_core.routing.router import Router

SHAPE = (40, 24, 16, 5)
NAMES = ("bitnet", "q4", "fp32", "popcount")
MIXTURE = ("q4", "popcount", "bitnet")


def router(hidden: tuple[int, ...] = (12, 7), seed: int = 3) -> Router:
    generator = np.random.default_rng(seed)
    weights = tuple(
        generator.normal(0.0, 1.0, (outputs, inputs)).astype(np.float32)
        for inputs, outputs in pairwise((SHAPE[0], *hidden, len(NAMES)))
    )
    return Router(NAMES, weights, tuple(np.zeros(len(w), np.float32) for w in weights), 0.25, seed)


@pytest.fixture(scope="module")
def experts() -> dict[str, PackedExpert]:
    return {name: PackedExpert(random_expert(name, SHAPE, seed)) for seed, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def z() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(30, SHAPE[0])).astype(np.float32)


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return bundles.load()


def head(cheap: str, seed: int = 5) -> Head:
    """Any head for three experts and the five classes of SHAPE."""
    generator = np.random.default_rng(seed)
    weights, intercept = generator.normal(0.0, 0.5, (6, 3)), generator.normal(size=3)
    return Head(cheap, MIXTURE, weights, intercept, np.array([0.5, 1.0, 2.0]))


def lazy(
    experts: dict[str, PackedExpert], z: np.ndarray, ran: list[tuple[str, int]] | None = None
) -> Outputs:
    """Outputs of a batch; `ran` is told which expert ran on which clip."""

    def logits(name: str, clips: np.ndarray) -> np.ndarray:
        if ran is not None:
            ran.extend((name, int(clip)) for clip in clips)
        return experts[name].logits(z[clips])

    return Outputs.lazy(NAMES, SHAPE[-1], router().forward(z, 10), logits)


@pytest.mark.parametrize(("alpha", "top_k"), [(0.0, 1), (3.0, 1), (1000.0, 2), (0.5, 9)])
@pytest.mark.parametrize(
    ("curiosity", "cheap"),
    [
        ("disagreement", None),
        ("distilled", "popcount"),
        ("distilled", "fp32"),
        ("router-mc", None),
        ("none", None),
        ("cascade", None),
    ],
)
@pytest.mark.parametrize("mix", ["probabilities", "logits"])
def test_what_is_not_needed_does_not_run_and_changes_no_answer(
    experts, z, curiosity, cheap, alpha, top_k, mix
) -> None:
    settings = Settings(
        MIXTURE,
        alpha=alpha,
        top_k=top_k,
        curiosity=curiosity,
        temperature=0.7,
        cheap=cheap,
        mix=mix,
        ask_above=0.3,
    )
    predicted = head(cheap) if cheap else None
    expected = mixing.mix(lazy(experts, z).all(), settings, predicted=predicted)
    ran: list[tuple[str, int]] = []

    mixed = mixing.mix(lazy(experts, z, ran), settings, predicted=predicted)

    for name in ("r", "r_std", "routing", "weights", "probabilities", "ran", "asked", "runs"):
        np.testing.assert_array_equal(getattr(mixed, name), getattr(expected, name), name)
    assert len(ran) == len(set(ran)) == mixed.runs.sum()
    for i, name in enumerate(MIXTURE):
        assert {clip for ran_by, clip in ran if ran_by == name} == set(np.flatnonzero(mixed.ran[:, i]))
    assert {clip for by, clip in ran if by == "fp32"} == set(np.flatnonzero(mixed.asked & (cheap == "fp32")))
    np.testing.assert_array_equal(np.isnan(mixed.disagreement), ~mixed.ran)
    np.testing.assert_array_equal(np.isfinite(mixed.predicted[:, 0]), mixed.asked)
    if curiosity == "disagreement":
        np.testing.assert_array_equal(mixed.total, expected.total)
        np.testing.assert_array_equal(mixed.epistemic, expected.epistemic)


def test_uncertainty_is_that_of_the_experts_that_ran(experts, z) -> None:
    mixed = mixing.mix(lazy(experts, z), Settings(MIXTURE, curiosity="none", top_k=2))
    two = [
        mixing.mix(lazy(experts, z).all().at(i), Settings(names, curiosity="none", top_k=2))
        for i, names in enumerate(np.array(MIXTURE)[row].tolist() for row in mixed.ran)
        for names in [tuple(names)]
    ]

    np.testing.assert_allclose(mixed.total, [one.total for one in two], rtol=1e-12)
    np.testing.assert_allclose(mixed.epistemic, [one.epistemic for one in two], atol=1e-12)
    np.testing.assert_allclose(mixed.mean, [one.mean for one in two], rtol=1e-12)


def test_windows_and_the_whole_are_those_of_a_mixture_that_runs_all(experts, z) -> None:
    settings = Settings(MIXTURE, curiosity="router-mc", alpha=30.0)
    ran: list[tuple[str, int]] = []
    outputs, everything = lazy(experts, z[:4], ran), lazy(experts, z[:4]).all()

    for i in range(4):
        one = mixing.decide(outputs.at(i), tuple("abcde"), settings)
        other = mixing.decide(everything.at(i), tuple("abcde"), settings)
        assert (one.label, one.needed) == (other.label, other.needed)
        assert {e.name for e in one.known} == {name for name, clip in ran if clip == i} == set(one.needed)
    whole = mixing.decide(outputs.pooled(), tuple("abcde"), settings)
    other = mixing.decide(everything.pooled(), tuple("abcde"), settings)
    np.testing.assert_array_equal(whole.probabilities, other.probabilities)
    assert len(ran) == len(set(ran))


def test_threads_do_not_disturb_one_another(experts, z) -> None:
    def run(_: int) -> list[list[float]]:
        return [mixing.mix(lazy(experts, one[None]), Settings(NAMES)).probabilities.tolist() for one in z]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, range(8)))
    assert all(result == results[0] for result in results)


def test_a_bundle_reads_no_expert_that_is_not_needed(shipped) -> None:
    fresh = bundles.load()
    settings = fresh.settings(curiosity="none")
    embedding = fresh.dataset.embeddings[:1]

    mixed: Mixed = fresh.mix(fresh.outputs(embedding), settings)

    needed = settings.experts[int(mixed.ran[0].argmax())]
    assert mixed.runs.tolist() == [1]
    assert list(fresh._experts) == [needed]
    expected = shipped.mix(shipped.outputs(embedding).all(), settings)
    np.testing.assert_array_equal(mixed.probabilities, expected.probabilities)
