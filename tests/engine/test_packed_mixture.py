"""The mixture on packed experts says what `mixing.mix` says, and runs only what it must."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

from qmoe_core import bundles
from qmoe_core.engine import PackedExpert
from qmoe_core.engine.packed_mixture import PackedMixture
from qmoe_core.errors import BundleError, ConfigError
from qmoe_core.measure.size import random_expert
from qmoe_core.routing import mixing
from qmoe_core.routing.distilled import Head
from qmoe_core.routing.mixing import Outputs, Settings
from qmoe_core.routing.router import Router
from qmoe_core.routing.uncertainty import softmax

SHAPE = (40, 24, 16, 5)
NAMES = ("bitnet", "q4", "fp32", "popcount")


def router(hidden: tuple[int, ...] = (12, 7), seed: int = 3) -> Router:
    generator = np.random.default_rng(seed)
    sizes = (SHAPE[0], *hidden, len(NAMES))
    weights = tuple(
        generator.normal(0.0, 1.0, (outputs, inputs)).astype(np.float32)
        for inputs, outputs in pairwise(sizes)
    )
    return Router(NAMES, weights, tuple(np.zeros(len(w), np.float32) for w in weights), 0.25, seed)


@pytest.fixture(scope="module")
def experts() -> dict[str, PackedExpert]:
    return {name: PackedExpert(random_expert(name, SHAPE, seed)) for seed, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def z() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(30, SHAPE[0])).astype(np.float32)


def outputs(mixture: PackedMixture, experts: dict[str, PackedExpert], z: np.ndarray, made: Router) -> Outputs:
    """What `mixing.mix` needs, from the same quantized first layer, so that only the mixing is compared."""
    first = np.empty((len(z), mixture._sizes[0]), np.float32)
    scratch = mixture.numbers()._spaces[0].memory
    for row, one in zip(first, z, strict=True):
        mixture._forward(one, mixture._first, scratch, row)
    hidden = np.maximum(first, 0.0)
    rows = [made.experts.index(name) for name in mixture.names]
    return Outputs(
        mixture.names,
        np.stack([experts[name].logits(z) for name in mixture.names], axis=1).astype(np.float64),
        made._rest(hidden)[:, rows].astype(np.float64),
        made._rest(made.masks(10)[:, None] * hidden)[..., rows].astype(np.float64),
    )


def head(cheap: str, seed: int = 5) -> Head:
    """Any head for three experts and the five classes of SHAPE."""
    generator = np.random.default_rng(seed)
    weights, intercept = generator.normal(0.0, 0.5, (6, 3)), generator.normal(size=3)
    return Head(cheap, ("q4", "popcount", "bitnet"), weights, intercept, np.array([0.5, 1.0, 2.0]))


@pytest.mark.parametrize("hidden", [(12, 7), (9,), (8, 6, 5)])
@pytest.mark.parametrize(("alpha", "top_k"), [(0.0, 1), (3.0, 1), (1000.0, 2), (0.5, 9)])
@pytest.mark.parametrize(
    ("curiosity", "cheap"),
    [
        ("disagreement", None),
        ("distilled", "popcount"),
        ("distilled", "fp32"),
        ("router-mc", None),
        ("none", None),
    ],
)
def test_it_mixes_as_moe_does(experts, z, curiosity, cheap, alpha, top_k, hidden) -> None:
    names, made = ("q4", "popcount", "bitnet"), router(hidden)
    outside = experts[cheap] if cheap == "fp32" else None
    learned = head(cheap) if cheap else None
    mixture = PackedMixture([experts[name] for name in names], made, head=learned, cheap=outside)
    out = mixture.numbers()
    settings = Settings(names, alpha=alpha, top_k=top_k, curiosity=curiosity, temperature=0.7, cheap=cheap)
    said = outputs(mixture, experts, z, made)
    predicted = learned(experts[cheap].logits(z), softmax(said.router / 0.7)) if learned else None
    expected = mixing.mix(said, settings, mean_interest=1.0, predicted=predicted)
    for i, one in enumerate(z):
        mixture.decide(one, out, alpha=alpha, top_k=top_k, curiosity=curiosity, temperature=0.7)
        np.testing.assert_allclose(out.r, expected.r[i], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(out.r_std, expected.r_std[i], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(out.routing, expected.routing[i], rtol=1e-2, atol=1e-5)
        assert ((out.weights > 0) == (expected.weights[i] > 0)).all()
        assert (out.ran == expected.ran[i]).all()
        assert np.isnan(out.predicted).all() == (not expected.asked[i])
        if expected.asked[i]:
            np.testing.assert_allclose(out.predicted, expected.predicted[i], rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(out.probabilities, expected.probabilities[i], rtol=1e-2, atol=1e-4)
        assert out.summary[3] == pytest.approx(expected.router_variance[i], rel=1e-3, abs=1e-7)
        assert out.summary[4] == pytest.approx(expected.router_mutual_information[i], rel=1e-3, abs=1e-5)
        if curiosity == "disagreement":
            np.testing.assert_allclose(out.disagreement, expected.disagreement[i], atol=1e-6)
            assert out.summary[0] == pytest.approx(expected.total[i], abs=1e-6)
            assert out.summary[2] == pytest.approx(expected.epistemic[i], abs=1e-6)
        else:
            assert np.isnan(out.summary[:3]).all(), "what did not run has no uncertainty"


def test_zero_alpha_is_the_plain_router_to_the_last_bit(experts, z) -> None:
    mixture = PackedMixture([experts[name] for name in NAMES], router())
    out = mixture.numbers()
    for one in z:
        mixture.decide(one, out, alpha=0.0)
        assert (out.routing == out.r).all()


def test_no_more_than_the_cheap_and_the_chosen_expert_run(experts, z) -> None:
    names = ("q4", "popcount", "bitnet")
    mixture = PackedMixture([experts[name] for name in names], router(), head=head("popcount"))
    ran = []
    for one in z:
        out = mixture.numbers()
        mixture.decide(one, out, alpha=1.0, curiosity="distilled")
        finite = np.isfinite(out._logits).all(axis=1)
        assert (finite == out.ran).all()
        assert (finite == (out.weights > 0) | (np.isfinite(out.predicted) & (np.arange(3) == 1))).all()
        ran.append(int(finite.sum()))
    assert set(ran) == {1, 2}


@pytest.mark.parametrize("curiosity", ["router-mc", "none"])
def test_only_the_chosen_expert_runs(experts, z, curiosity) -> None:
    mixture = PackedMixture([experts[name] for name in NAMES], router())
    out = mixture.numbers()
    mixture.decide(z[0], out, alpha=1.0, curiosity=curiosity)
    ran = np.isfinite(out._logits).all(axis=1)
    assert ran.sum() == 1
    assert (ran == (out.weights > 0)).all()


def test_threads_do_not_disturb_one_another(experts, z) -> None:
    mixture = PackedMixture([experts[name] for name in NAMES], router())

    def run(_: int) -> list[list[float]]:
        out, found = mixture.numbers(), []
        for one in z:
            mixture.decide(one, out, alpha=5.0)
            found.append(out.probabilities.tolist())
        return found

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, range(8)))
    assert all(result == results[0] for result in results)


def test_what_does_not_fit_is_refused_in_words(experts, z) -> None:
    with pytest.raises(BundleError, match="other sizes"):
        PackedMixture([PackedExpert(random_expert("q4", (39, 8, 5)))], router())
    with pytest.raises(BundleError, match="does not know q8"):
        PackedMixture([PackedExpert(random_expert("q8", SHAPE))], router())
    with pytest.raises(BundleError, match="the head is for q4\\+popcount\\+bitnet, asking fp32"):
        PackedMixture([experts[name] for name in ("q4", "popcount", "bitnet")], router(), head=head("fp32"))
    mixture = PackedMixture([experts["q4"]], router(), max_samples=20)
    with pytest.raises(ConfigError, match="without a head"):
        mixture.decide(z[0], mixture.numbers(), alpha=1.0, curiosity="distilled")
    with pytest.raises(ConfigError, match="0 to 20"):
        mixture.decide(z[0], mixture.numbers(), alpha=1.0, samples=21)
    with pytest.raises(ConfigError, match="1 to 20"):
        mixture.decide(z[0], mixture.numbers(), alpha=1.0, curiosity="router-mc", samples=0)


def test_the_quantized_router_leaves_the_default_set_as_it_was() -> None:
    loaded = bundles.load()
    data = loaded.dataset
    assert data is not None
    settings = loaded.settings()
    embeddings = data.embeddings.astype(np.float32)
    expected = mixing.mix(loaded.outputs(embeddings), settings)
    z = np.ascontiguousarray(loaded.standardise(embeddings))
    mixture = PackedMixture([loaded.expert(name) for name in settings.experts], loaded.router)
    out = mixture.numbers()
    routes = labels = 0
    for i, one in enumerate(z):
        mixture.decide(one, out, alpha=settings.alpha)
        routes += int(out.weights.argmax() != expected.weights[i].argmax())
        labels += int(out.probabilities.argmax() != expected.probabilities[i].argmax())
    assert labels == 0
    assert routes <= 4, "only routes that are near ties may change: 1 % of 400 clips"
