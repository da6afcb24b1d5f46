from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qmoe_core.config import RouterConfig
from qmoe_core.errors import ConfigError
from qmoe_core.routing import mixing
from qmoe_core.routing.distilled import Predicted
from qmoe_core.routing.mixing import Outputs, Settings
from qmoe_core.routing.uncertainty import softmax

TRIO = ("q4", "q8", "bitnet")


def literal() -> Outputs:
    """One clip, three experts, two classes: q = (0.9 0.1), (0.6 0.4), (0.3 0.7); r = 0.5, 0.3, 0.2."""
    q = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    passes = np.array([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1], [0.4, 0.3, 0.3]])
    return Outputs(TRIO, np.log(q), np.log([0.5, 0.3, 0.2]), np.log(passes))


def random_outputs(
    clips: int = 20, experts: tuple[str, ...] = TRIO, seed: int = 0, classes: int = 4
) -> Outputs:
    rng = np.random.default_rng(seed)
    n = len(experts)
    return Outputs(
        experts,
        rng.normal(size=(clips, n, classes)) * 3,
        rng.normal(size=(clips, n)),
        rng.normal(size=(6, clips, n)),
    )


def foreseen(outputs: Outputs) -> Predicted:
    """A head that is always right."""
    d = mixing.mix(outputs, Settings(outputs.experts)).disagreement
    return Predicted(d, d.reshape(-1, d.shape[-1]).max(axis=0))


@st.composite
def some_outputs(draw: st.DrawFn) -> Outputs:
    clips, experts, classes = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(2, 5))
    numbers = st.floats(-60, 60)

    def array(*shape: int) -> np.ndarray:
        return draw(hnp.arrays(np.float64, shape, elements=numbers))

    return Outputs(
        TRIO[:experts], array(clips, experts, classes), array(clips, experts), array(4, clips, experts)
    )


# q̄ = (0.6, 0.4); d = KL(q_i ‖ q̄):
D = [
    0.9 * np.log(0.9 / 0.6) + 0.1 * np.log(0.1 / 0.4),  # 0.226289
    0.0,
    0.3 * np.log(0.3 / 0.6) + 0.7 * np.log(0.7 / 0.4),  # 0.183787
]


def test_the_plain_mixture_of_a_literal():
    mixed = mixing.mix(literal(), Settings(TRIO, curiosity="none", top_k=2))

    np.testing.assert_allclose(mixed.r, [0.5, 0.3, 0.2])
    np.testing.assert_allclose(mixed.routing, [0.5, 0.3, 0.2])
    np.testing.assert_allclose(mixed.weights, [0.625, 0.375, 0.0])
    np.testing.assert_allclose(mixed.probabilities, [0.625 * 0.9 + 0.375 * 0.6, 0.625 * 0.1 + 0.375 * 0.4])
    np.testing.assert_allclose(mixed.mean, [0.6, 0.4])
    np.testing.assert_allclose(mixed.disagreement, D, atol=1e-12)
    assert mixed.total == pytest.approx(0.673012, abs=1e-6)  # H(0.6, 0.4)
    assert mixed.aleatoric == pytest.approx((0.325083 + 0.673012 + 0.610864) / 3, abs=1e-6)
    assert mixed.epistemic == pytest.approx(np.mean(D), abs=1e-12)


def test_curiosity_by_disagreement_of_a_literal():
    mixed = mixing.mix(literal(), Settings(TRIO, alpha=5.0, top_k=3))

    bonus = np.exp(5 * np.array(D))
    expected = np.array([0.5, 0.3, 0.2]) * bonus
    np.testing.assert_allclose(mixed.routing, expected / expected.sum())
    np.testing.assert_allclose(mixed.weights, mixed.routing)
    np.testing.assert_allclose(
        mixed.probabilities, mixed.routing @ np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    )


def test_curiosity_by_the_routers_deviation_of_a_literal():
    mixed = mixing.mix(literal(), Settings(TRIO, alpha=10.0, curiosity="router-mc"))

    sigma = np.array([np.std([0.5, 0.6, 0.4]), 0.0, np.std([0.2, 0.1, 0.3])])
    np.testing.assert_allclose(mixed.r_std, sigma, atol=1e-12)
    expected = np.array([0.5, 0.3, 0.2]) * np.exp(10 * sigma)
    np.testing.assert_allclose(mixed.routing, expected / expected.sum())
    assert mixed.router_variance == pytest.approx((sigma**2).mean())


def test_a_cascade_stops_at_the_first_expert_that_is_sure():
    q = np.array([[[0.6, 0.4], [0.95, 0.05], [0.3, 0.7]], [[0.99, 0.01], [0.5, 0.5], [0.3, 0.7]]])
    outputs = Outputs(TRIO, np.log(q), np.zeros((2, 3)), np.zeros((4, 2, 3)))

    mixed = mixing.mix(outputs, Settings(TRIO, curiosity="cascade", ask_above=0.2))

    assert mixed.ran.tolist() == [[True, True, False], [True, False, False]]
    assert mixed.weights.tolist() == [[0, 1, 0], [1, 0, 0]]
    np.testing.assert_allclose(mixed.probabilities, [[0.95, 0.05], [0.99, 0.01]])
    np.testing.assert_array_equal(mixed.routing, mixed.r)


def test_the_routers_mutual_information_of_a_literal():
    mixed = mixing.mix(literal(), Settings(TRIO))

    def h(*p: float) -> float:
        return -sum(x * np.log(x) for x in p)

    passes = (h(0.5, 0.3, 0.2), h(0.6, 0.3, 0.1), h(0.4, 0.3, 0.3))
    assert mixed.router_mutual_information == pytest.approx(h(0.5, 0.3, 0.2) - np.mean(passes))


def test_only_as_many_passes_as_asked_for_count():
    mixed = mixing.mix(literal(), Settings(TRIO, mc_samples=1))

    np.testing.assert_array_equal(mixed.r_std, 0.0)
    assert mixed.router_mutual_information == 0.0


def test_mixing_logits_is_the_papers_code():
    outputs = literal()
    mixed = mixing.mix(outputs, Settings(TRIO, curiosity="none", top_k=2, mix="logits"))

    np.testing.assert_allclose(
        mixed.probabilities, softmax(0.625 * np.log([0.9, 0.1]) + 0.375 * np.log([0.6, 0.4]))
    )


def test_temperature_flattens_the_router():
    mixed = mixing.mix(literal(), Settings(TRIO, temperature=2.0))

    root = np.sqrt([0.5, 0.3, 0.2])
    np.testing.assert_allclose(mixed.r, root / root.sum())
    assert mixing.mix(literal(), Settings(TRIO, temperature=1e6)).r == pytest.approx([1 / 3] * 3, abs=1e-5)


def test_normalised_interest_is_in_units_of_its_mean():
    outputs = literal()
    settings = Settings(TRIO, alpha=1.0, normalise=True, top_k=3)

    mean = mixing.mean_interest(outputs, settings)
    mixed = mixing.mix(outputs, settings, mean_interest=mean)

    assert mean == pytest.approx(np.mean(D))
    np.testing.assert_allclose(mixed.interest, np.array(D) / np.mean(D), atol=1e-12)
    raw = mixing.mix(outputs, replace(settings, normalise=False, alpha=1 / np.mean(D)))
    np.testing.assert_allclose(mixed.routing, raw.routing)


def test_experts_that_never_disagree_are_divided_by_one():
    outputs = Outputs(("q4", "q8"), np.zeros((3, 2, 2)), np.zeros((3, 2)), np.zeros((4, 3, 2)))

    assert mixing.mean_interest(outputs, Settings(("q4", "q8"), normalise=True)) == 1.0


@given(some_outputs(), st.sampled_from(mixing.CURIOSITIES), st.integers(1, 4), st.booleans())
def test_without_alpha_or_curiosity_it_is_the_plain_router_bit_for_bit(outputs, curiosity, k, normalise):
    plain = softmax(outputs.router / 1.7)
    settings = Settings(
        outputs.experts, alpha=0.0, curiosity=curiosity, top_k=k, normalise=normalise, temperature=1.7
    )

    mixed = mixing.mix(outputs, settings, mean_interest=0.01, predicted=foreseen(outputs))
    np.testing.assert_array_equal(mixed.routing, plain)
    uncurious = replace(settings, alpha=500.0, curiosity="none")
    np.testing.assert_array_equal(mixing.mix(outputs, uncurious).routing, plain)


@given(some_outputs(), st.floats(0, 1000), st.integers(1, 5), st.sampled_from(["probabilities", "logits"]))
def test_whatever_is_said_the_mixture_is_a_distribution(outputs, alpha, k, mix):
    mixed = mixing.mix(outputs, Settings(outputs.experts, alpha=alpha, top_k=k, mix=mix))

    for distribution in (mixed.q, mixed.mean, mixed.r, mixed.routing, mixed.weights, mixed.probabilities):
        assert np.isfinite(distribution).all()
        assert (distribution >= 0).all()
        np.testing.assert_allclose(distribution.sum(axis=-1), 1.0, rtol=1e-9)
    assert (mixed.total >= mixed.epistemic - 1e-12).all()
    assert (mixed.aleatoric >= 0).all()
    np.testing.assert_allclose(mixed.total, mixed.aleatoric + mixed.epistemic, atol=1e-9)
    np.testing.assert_allclose(mixed.epistemic, mixed.disagreement.mean(axis=-1), atol=1e-9)


@given(some_outputs(), st.integers(1, 3))
def test_with_all_chosen_and_probabilities_mixed_it_is_their_weighted_mean(outputs, k):
    mixed = mixing.mix(outputs, Settings(outputs.experts, top_k=99))

    expected = np.einsum("cn,cnk->ck", mixed.routing, mixed.q)
    np.testing.assert_allclose(mixed.probabilities, expected, rtol=1e-12)


def test_a_clip_is_judged_alike_alone_and_among_others():
    outputs = random_outputs()
    settings = Settings(TRIO, alpha=20.0, top_k=2)

    together = mixing.mix(outputs, settings)
    alone = [mixing.mix(outputs.at(i), settings) for i in range(20)]

    np.testing.assert_array_equal(together.probabilities, [m.probabilities for m in alone])
    np.testing.assert_array_equal(together.routing, [m.routing for m in alone])
    np.testing.assert_array_equal(
        together.router_mutual_information, [m.router_mutual_information for m in alone]
    )


@pytest.mark.parametrize("curiosity", ["disagreement", "distilled", "router-mc"])
def test_many_values_of_alpha_at_once_are_each_by_itself(curiosity):
    outputs, settings = random_outputs(), Settings(TRIO, top_k=2, curiosity=curiosity)
    alphas = [0.0, 0.3, 10.0, 1000.0]

    predicted = foreseen(outputs)
    at_once = mixing.mix(outputs, settings, np.array(alphas)[:, None], predicted=predicted)

    for i, alpha in enumerate(alphas):
        single = mixing.mix(outputs, replace(settings, alpha=alpha), predicted=predicted)
        np.testing.assert_array_equal(at_once.routing[i], single.routing)
        np.testing.assert_array_equal(at_once.ran[i], single.ran)
        np.testing.assert_array_equal(at_once.runs[i], single.runs)
        np.testing.assert_array_equal(at_once.probabilities[i], single.probabilities)


def test_a_subset_is_as_if_the_others_did_not_exist():
    outputs = random_outputs()
    subset = Outputs(
        ("bitnet", "q4"),
        outputs.logits[:, [2, 0]],
        outputs.router[:, [2, 0]],
        outputs.router_mc[:, :, [2, 0]],
    )
    settings = Settings(("bitnet", "q4"), alpha=10.0, top_k=2)

    np.testing.assert_array_equal(
        mixing.mix(outputs, settings).probabilities, mixing.mix(subset, settings).probabilities
    )


def test_the_order_of_the_experts_changes_nothing_but_the_order():
    outputs = random_outputs()
    one = mixing.mix(outputs, Settings(TRIO, alpha=10.0, top_k=2))
    other = mixing.mix(outputs, Settings(TRIO[::-1], alpha=10.0, top_k=2))

    np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=1e-12)
    np.testing.assert_allclose(one.weights, other.weights[:, ::-1], rtol=1e-12)


def test_an_expert_that_did_not_speak_is_named_with_those_that_did():
    with pytest.raises(ConfigError, match="no expert q16 here; there are q4, q8, bitnet"):
        mixing.mix(literal(), Settings(("q4", "q16")))


def test_pooled_windows_are_their_mean_distributions():
    outputs = random_outputs(clips=3)
    pooled = outputs.pooled()

    np.testing.assert_allclose(softmax(pooled.logits), softmax(outputs.logits).mean(axis=0))
    np.testing.assert_allclose(softmax(pooled.router), softmax(outputs.router).mean(axis=0))
    np.testing.assert_allclose(softmax(pooled.router_mc), softmax(outputs.router_mc).mean(axis=1))


def test_pooling_windows_of_the_same_sound_changes_nothing():
    one = random_outputs(clips=1)
    many = Outputs(
        TRIO, *(np.repeat(a, 4, axis=axis) for a, axis in zip(_arrays(one), (0, 0, 1), strict=True))
    )
    settings = Settings(TRIO, alpha=10.0, top_k=2)

    np.testing.assert_allclose(
        mixing.mix(many.pooled(), settings).probabilities, mixing.mix(one.at(0), settings).probabilities
    )


def _arrays(outputs: Outputs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return outputs.logits, outputs.router, outputs.router_mc


def test_pooling_bears_windows_that_are_dead_sure():
    sure = Outputs(("q4", "q8"), np.array([[[9e3, 0.0]] * 2] * 2), np.zeros((2, 2)), np.zeros((3, 2, 2)))

    mixed = mixing.mix(sure.pooled(), Settings(("q4", "q8"), mix="logits"))

    assert mixed.probabilities[0] == pytest.approx(1.0)
    assert np.isfinite(mixed.total)


def test_a_decision_says_everything_of_a_literal():
    decision = mixing.decide(
        literal(), ("dog", "rain"), Settings(TRIO, alpha=5.0, top_k=1), start_s=2.5, end_s=7.5
    )

    assert (decision.label, decision.classes) == ("dog", ("dog", "rain"))
    assert decision.probability == pytest.approx(0.9)
    assert decision.agreeing == ("q4", "q8")
    assert (decision.start_s, decision.end_s) == (2.5, 7.5)
    assert (decision.alpha, decision.top_k, decision.curiosity) == (5.0, 1, "disagreement")
    q4, q8, bitnet = decision.experts
    assert [e.name for e in decision.experts] == list(TRIO)
    assert [e.label for e in decision.experts] == ["dog", "dog", "rain"]
    assert (q4.selected, q8.selected, bitnet.selected) == (True, False, False)
    assert (q4.weight, q8.weight, bitnet.weight) == (1.0, 0.0, 0.0)
    assert q4.router_probability == pytest.approx(0.5)
    assert q4.bonus == pytest.approx(np.exp(5 * D[0]))
    assert bitnet.disagreement_kl == pytest.approx(D[2])
    assert sum(e.routing_probability for e in decision.experts) == pytest.approx(1.0)


def test_an_expert_outside_of_the_mixture_is_heard_but_has_no_say():
    decision = mixing.decide(literal(), ("dog", "rain"), Settings(("q8", "bitnet"), alpha=5.0, top_k=2))
    without = mixing.decide(
        Outputs(("q8", "bitnet"), literal().logits[1:], literal().router[1:], literal().router_mc[:, 1:]),
        ("dog", "rain"),
        Settings(("q8", "bitnet"), alpha=5.0, top_k=2),
    )

    q4 = decision.experts[0]
    assert (q4.name, q4.label, q4.in_mixture, q4.selected) == ("q4", "dog", False, False)
    np.testing.assert_allclose(q4.probabilities, [0.9, 0.1])
    assert (q4.router_probability, q4.routing_probability, q4.weight, q4.bonus) == (0, 0, 0, 1)
    # q̄ is that of the mixture, (0.45, 0.55), and q4's distance is from there.
    assert q4.disagreement_kl == pytest.approx(0.9 * np.log(0.9 / 0.45) + 0.1 * np.log(0.1 / 0.55))
    assert decision.uncertainty == without.uncertainty
    np.testing.assert_array_equal(decision.probabilities, without.probabilities)


def test_of_equally_likely_classes_the_first_is_named():
    outputs = Outputs(("q4",), np.zeros((1, 3)), np.zeros(1), np.zeros((2, 1)))

    assert mixing.decide(outputs, ("a", "b", "c"), Settings(("q4",))).label == "a"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"experts": ()}, "no expert named"),
        ({"experts": ("q4", "q5")}, "there is no expert 'q5'"),
        ({"experts": ("q4", "q4")}, "named twice"),
        ({"alpha": -0.1}, "alpha is -0.1; accepted is 0 to 1000"),
        ({"alpha": 1000.5}, "alpha is 1000.5; accepted is 0 to 1000"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"top_k": 0}, "top-k is 0; accepted is 1 or more"),
        ({"curiosity": "entropy"}, "curiosity is 'entropy'; accepted is disagreement, distilled, router-mc"),
        ({"mc_samples": 0}, "MC samples is 0; accepted is 1 to 1000"),
        ({"mc_samples": 1001}, "MC samples is 1001"),
        ({"temperature": 0.0}, "temperature is 0; accepted is more than 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"ask_above": 1.1}, "ask-above is 1.1; accepted is 0 to 1"),
        ({"mix": "sum"}, "mix is 'sum'; accepted is probabilities, logits"),
    ],
)
def test_settings_out_of_range_are_refused_in_words(change, says):
    with pytest.raises(ConfigError, match=says):
        Settings(**({"experts": TRIO} | change))


def test_settings_are_those_of_the_configuration():
    router = RouterConfig(
        alpha=2.0, top_k=3, curiosity="router-mc", mc_samples=7, temperature=0.5, mix="logits"
    )

    settings = Settings.of(router, TRIO)

    assert settings == Settings(TRIO, 2.0, 3, "router-mc", False, 7, 0.5, "logits")
    assert settings.without_curiosity() == replace(settings, curiosity="none")
