"""The sweep is the mixture at every α, exactly; flips are counted against α = 0."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmoe_core import bundles
from qmoe_core.errors import ConfigError
from qmoe_core.evaluation import sweep
from qmoe_core.evaluation.calibration import expected_ece, reliability
from qmoe_core.evaluation.classification import accuracy, weighted_f1
from qmoe_core.evaluation.sweep import ALPHAS, alpha_sweep, flips
from qmoe_core.routing import mixing
from qmoe_core.routing.distilled import Predicted
from qmoe_core.routing.mixing import Outputs, Settings
from qmoe_core.routing.uncertainty import disagreement, entropy, softmax

NAMES = ("bitnet", "q4", "q8", "popcount")


def _outputs(seed: int, n: int = 12, classes: int = 3) -> Outputs:
    rng = np.random.default_rng(seed)
    return Outputs(
        NAMES,
        2.0 * rng.normal(size=(n, len(NAMES), classes)),
        rng.normal(size=(n, len(NAMES))),
        rng.normal(size=(5, n, len(NAMES))),
    )


def _foreseen(outputs: Outputs, way: Settings) -> Predicted:
    """A head that is always right."""
    d = disagreement(softmax(outputs.of(way.experts).logits))
    return Predicted(d, d.max(axis=0))


ways = st.builds(
    Settings,
    experts=st.sampled_from([NAMES, ("q8", "bitnet"), ("popcount", "q4", "bitnet"), ("q4",)]),
    top_k=st.integers(1, 5),
    curiosity=st.sampled_from(mixing.CURIOSITIES),
    normalise=st.booleans(),
    mc_samples=st.integers(1, 5),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
    mix=st.sampled_from(["probabilities", "logits"]),
)
alphas = st.lists(st.floats(0.0, mixing.MAX_ALPHA) | st.sampled_from([0.0, 0.3]), min_size=1, max_size=6)


@settings(max_examples=60)
@given(st.integers(0, 10_000), ways, alphas)
def test_every_figure_is_the_mixtures_at_that_alpha(seed: int, way: Settings, values: list[float]) -> None:
    outputs, labels = _outputs(seed), np.random.default_rng(seed).integers(0, 3, 12)
    guess = _foreseen(outputs, way)
    scale = mixing.mean_interest(outputs, way, predicted=guess) if way.normalise else 1.0
    plain = mixing.mix(outputs, replace(way, alpha=0.0), mean_interest=scale, predicted=guess)

    found = alpha_sweep(outputs, labels, way, values, guess)

    assert found.alphas.tolist() == values
    for i, alpha in enumerate(values):
        mixed = mixing.mix(outputs, replace(way, alpha=alpha), mean_interest=scale, predicted=guess)
        predicted = mixed.probabilities.argmax(axis=1)
        np.testing.assert_array_equal(found.predicted[i], predicted)
        np.testing.assert_array_equal(found.utilisation[i], mixed.weights.mean(axis=0))
        assert found.runs[i] == mixed.runs.mean()
        np.testing.assert_array_equal(found.leading[i], mixed.weights.argmax(axis=1))
        assert found.f1[i] == pytest.approx(weighted_f1(labels, predicted), abs=1e-12)
        assert found.accuracy[i] == accuracy(labels, predicted)
        assert found.epistemic[i] == mixed.epistemic.mean()
        assert found.ece[i] == reliability(mixed.probabilities.max(axis=1), predicted == labels).ece
        assert found.ece_perfect[i] == expected_ece(mixed.probabilities.max(axis=1), draws=50)
        np.testing.assert_array_equal(found.label_flipped[i], predicted != plain.probabilities.argmax(axis=1))
        chosen = ((mixed.weights > 0.0) != (plain.weights > 0.0)).any(axis=1)
        led = mixed.weights.argmax(axis=1) != plain.weights.argmax(axis=1)
        np.testing.assert_array_equal(found.route_flipped[i], chosen | led)
        if alpha == 0.0:
            assert not (found.route_flipped[i] | found.label_flipped[i]).any()
            assert found.bonus[i] == 1.0


@given(st.integers(0, 10_000), ways)
def test_shares_entropies_and_bounds(seed: int, way: Settings) -> None:
    outputs, n = _outputs(seed), len(way.experts)

    found = alpha_sweep(outputs, np.zeros(12, int), way, [0.0, 1.0, 100.0], _foreseen(outputs, way))

    np.testing.assert_allclose(found.utilisation.sum(axis=1), 1.0)
    assert ((found.utilisation_entropy >= 0.0) & (found.utilisation_entropy <= np.log(n) + 1e-9)).all()
    np.testing.assert_array_equal(found.utilisation_entropy, entropy(found.utilisation))
    assert (found.flips >= np.maximum(found.route_flips, found.label_flips)).all()
    assert (found.flips <= found.route_flips + found.label_flips + 1e-12).all()  # twelfths are no floats
    assert ((found.ece >= 0.0) & (found.ece <= 1.0)).all()
    if way.curiosity == "none":
        assert found.bonus.tolist() == [1.0, 1.0, 1.0]
        np.testing.assert_allclose(found.utilisation[2], found.utilisation[0])


def test_curiosity_sends_a_clip_to_the_expert_that_disagrees() -> None:
    """By hand: two experts, r = (0.6, 0.4), the second says something else and differs more from q̄."""
    q = np.array([[[0.5, 0.5], [0.01, 0.99]]])
    r = np.log([[0.6, 0.4]])
    outputs = Outputs(("q4", "q8"), np.log(q), r, r[None])
    mean = np.array([0.255, 0.745])
    d = (q[0] * np.log(q[0] / mean)).sum(axis=1)
    turn = np.log(0.6 / 0.4) / (d[1] - d[0])  # where r_1 exp(α d_1) = r_2 exp(α d_2)

    found = alpha_sweep(outputs, np.array([1]), Settings(("q4", "q8")), [0.99 * turn, 1.01 * turn])

    assert found.leading.tolist() == [[0], [1]]
    assert found.predicted.tolist() == [[0], [1]]
    assert found.route_flips.tolist() == found.label_flips.tolist() == found.flips.tolist() == [0.0, 1.0]
    assert found.f1.tolist() == [0.0, 1.0]
    assert found.utilisation.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    np.testing.assert_allclose(found.bonus, np.exp(found.alphas * (d[1] - d[0])))
    (flip,) = flips(found, np.array([1]), 1)
    assert (flip.clip, flip.expert, flip.label, flip.effect) == (0, ("q4", "q8"), (0, 1), "corrected")
    assert flips(found, np.array([1]), 0) == []


def test_the_routed_epistemic_uncertainty_by_hand() -> None:
    q = np.array([[[0.9, 0.1], [0.2, 0.8]]])
    r = np.log([[0.75, 0.25]])
    mixture = 0.75 * q[0, 0] + 0.25 * q[0, 1]
    expected = entropy(mixture) - 0.75 * entropy(q[0, 0]) - 0.25 * entropy(q[0, 1])

    found = alpha_sweep(
        Outputs(("q4", "q8"), np.log(q), r, r[None]), np.array([0]), Settings(("q4", "q8")), [0.0]
    )

    assert found.routed_epistemic[0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("label", "truth", "effect"),
    [
        ((0, 0), 0, "same label"),
        ((0, 1), 0, "made wrong"),
        ((0, 1), 1, "corrected"),
        ((0, 1), 2, "still wrong"),
    ],
)
def test_what_a_flip_did(label: tuple[int, int], truth: int, effect: str) -> None:
    from qmoe_core.evaluation.sweep import Flip

    assert Flip(0, ("q4", "q8"), label, truth).effect == effect


def test_flipped_labels_come_first() -> None:
    outputs, labels = _outputs(3, n=60), np.zeros(60, int)

    found = flips(alpha_sweep(outputs, labels, Settings(NAMES), [30.0]), labels, 0)

    changed = [one.label[0] != one.label[1] for one in found]
    assert any(changed)
    assert not all(changed)
    assert changed == sorted(changed, reverse=True)


@pytest.mark.parametrize("curiosity", mixing.CURIOSITIES)
def test_a_large_set_is_swept_in_parts_with_the_same_result(
    curiosity, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs, labels, way = _outputs(1), np.zeros(12, int), Settings(NAMES, curiosity=curiosity, top_k=2)
    guess = _foreseen(outputs, way)
    whole = alpha_sweep(outputs, labels, way, predicted=guess).to_json()

    monkeypatch.setattr(sweep, "MAX_CELLS", 300)  # two values of α at a time

    parts = alpha_sweep(outputs, labels, way, predicted=guess).to_json()
    assert {**parts, "seconds": 0} == {**whole, "seconds": 0}


@pytest.mark.parametrize("wrong", [[], [-0.1], [1000.1], [float("nan")], [[0.0]]])
def test_alphas_that_are_not_accepted(wrong: list) -> None:
    with pytest.raises(ConfigError, match="0 to 1000"):
        alpha_sweep(_outputs(0), np.zeros(12, int), Settings(NAMES), wrong)


def test_an_expert_that_did_not_speak() -> None:
    with pytest.raises(ConfigError, match="no expert fp32 here"):
        alpha_sweep(_outputs(0), np.zeros(12, int), Settings(("fp32", "q4")))


def test_the_default_values_are_51_from_0_to_1000() -> None:
    assert len(ALPHAS) == 51
    assert ALPHAS[:2] == (0.0, 0.1)
    assert ALPHAS[-1] == 1000.0
    assert list(ALPHAS) == sorted(set(ALPHAS))


def test_on_a_bundle(tiny_run) -> None:
    """Normalising divides by the same mean as serving does."""
    loaded = bundles.load(tiny_run.bundle)
    data = loaded.dataset
    assert data is not None
    way = loaded.settings(normalise=True, curiosity="disagreement")

    found = alpha_sweep(data.outputs, data.labels, way, [2.0])

    reference = loaded.reference(replace(way, alpha=2.0))
    assert reference is not None
    np.testing.assert_array_equal(found.predicted[0], reference.probabilities.argmax(axis=1))
    document = found.to_json()
    assert document["utilisation"].keys() == set(way.experts)
    assert {len(document[key]) for key in ("alphas", "f1", "epistemic", "flips", "ece")} == {1}
