from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch

from qmoe_core import config
from qmoe_core.config import Config, RouterConfig
from qmoe_core.errors import ConfigError
from qmoe_core.routing.uncertainty import softmax
from qmoe_core.training.routers import (
    JointMixture,
    fit_joint,
    fit_router,
    freeze,
    mixture_loss,
    router_network,
)

CONFIG = config.load(
    settings=[
        "expert.hidden=[12, 8]",
        "router.hidden=[16, 8]",
        "router.epochs=40",
        "router.batch_size=32",
        "router.learning_rate=0.01",
    ]
)


def changed(**router: object) -> Config:
    return msgspec.structs.replace(CONFIG, router=msgspec.structs.replace(CONFIG.router, **router))


def specialists(count: int = 128, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings, two experts' logits, labels; the first is right where z₀ < 0, the second elsewhere."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(count, 5)).astype(np.float32)
    labels = rng.integers(0, 3, count)
    logits = np.zeros((count, 2, 3), np.float32)
    side = (z[:, 0] >= 0).astype(int)
    logits[np.arange(count), side, labels] = 4.0
    logits[np.arange(count), 1 - side, (labels + 1) % 3] = 4.0
    return z, logits, labels


# The loss


def test_the_loss_of_a_literal():
    q = torch.tensor([[[0.9, 0.1], [0.4, 0.6]], [[0.2, 0.8], [0.5, 0.5]]])
    routing, targets = torch.tensor([[0.75, 0.25], [0.5, 0.5]]).log(), torch.tensor([0, 1])
    # The mixture gives the right class 0.775 and 0.65.

    loss = mixture_loss(q.log(), routing, targets, None, RouterConfig(load_balancing=0.0))

    assert loss.item() == pytest.approx(-(np.log(0.775) + np.log(0.65)) / 2)


def test_a_classes_weight_counts_its_clips():
    q = torch.tensor([[[0.9, 0.1]], [[0.2, 0.8]]])
    routing, targets = torch.zeros(2, 1), torch.tensor([0, 1])

    loss = mixture_loss(q.log(), routing, targets, torch.tensor([3.0, 1.0]), RouterConfig(load_balancing=0.0))

    assert loss.item() == pytest.approx(-(3 * np.log(0.9) + np.log(0.8)) / 4)


@pytest.mark.parametrize(
    ("routing", "balance"),
    [
        ([[0.5, 0.5], [0.5, 0.5]], 1.0),
        ([[0.75, 0.25], [0.25, 0.75]], 1.0),
        ([[0.75, 0.25], [0.75, 0.25]], 1.5),
        ([[1.0, 1e-9], [1.0, 1e-9]], 2.0),
    ],
)
def test_load_balancing_is_one_where_balanced_and_n_where_one_does_all(routing, balance):
    q = torch.full((2, 2, 2), 0.5)
    arguments = (q.log(), torch.tensor(routing).log(), torch.tensor([0, 1]), None)

    with_it = mixture_loss(*arguments, RouterConfig(load_balancing=1.0))
    without = mixture_loss(*arguments, RouterConfig(load_balancing=0.0))

    assert (with_it - without).item() == pytest.approx(balance, abs=1e-6)


def test_temperature_is_that_of_equation_5():
    q = torch.tensor([[[0.9, 0.1], [0.4, 0.6]]])
    routing = torch.tensor([[2.0, 0.0]])

    loss = mixture_loss(
        q.log(), routing, torch.tensor([0]), None, RouterConfig(load_balancing=0, temperature=2)
    )

    share = 1 / (1 + np.exp(-1.0))
    assert loss.item() == pytest.approx(-np.log(share * 0.9 + (1 - share) * 0.4))


# The router


def test_the_frozen_router_says_what_the_network_says():
    torch.manual_seed(0)
    network = router_network(7, 3, CONFIG.router).eval()
    z = np.random.default_rng(0).normal(size=(20, 7)).astype(np.float32)

    router = freeze(network, ("q4", "q8", "bitnet"), CONFIG)

    with torch.no_grad():
        np.testing.assert_allclose(router.logits(z), network(torch.tensor(z)).numpy(), rtol=1e-4, atol=1e-5)
    assert (router.dropout, router.seed) == (CONFIG.router.dropout, CONFIG.seed)
    assert [type(m).__name__ for m in network] == ["Linear", "ReLU", "Dropout", "Linear", "ReLU", "Linear"]


def test_the_router_learns_whom_to_ask():
    z, logits, labels = specialists()

    router = fit_router(("q4", "q8"), z, logits, labels, CONFIG, seed=1)

    unseen, _, _ = specialists(seed=1)
    assert (router.logits(unseen).argmax(axis=1) == (unseen[:, 0] >= 0)).mean() > 0.9


def test_the_same_seed_gives_the_same_router():
    z, logits, labels = specialists()

    one, same, other = (fit_router(("q4", "q8"), z, logits, labels, CONFIG, seed=s) for s in (1, 1, 2))

    for name, tensor in one.to_tensors().items():
        np.testing.assert_array_equal(tensor, same.to_tensors()[name])
    assert not np.array_equal(one.weights[0], other.weights[0])


def test_a_score_chooses_the_epoch_and_nothing_else():
    z, logits, labels = specialists()
    scores = iter([0.1, 0.5, 0.5, 0.2] + [0.0] * 100)

    best = fit_router(
        ("q4", "q8"), z, logits, labels, changed(patience=3), seed=1, score=lambda _: next(scores)
    )
    plain = fit_router(("q4", "q8"), z, logits, labels, changed(epochs=2), seed=1)

    for name, tensor in best.to_tensors().items():
        np.testing.assert_array_equal(tensor, plain.to_tensors()[name])
    assert next(scores) == 0.0
    assert sum(1 for _ in scores) == 98  # five epochs ran: the second, and patience


def test_load_balancing_keeps_a_slightly_worse_expert_in_use():
    z, _, labels = specialists()
    logits = np.zeros((128, 2, 3), np.float32)
    logits[np.arange(128), :, labels] = [4.0, 2.0]

    def share_of_the_better(weight: float) -> float:
        router = fit_router(("q4", "q8"), z, logits, labels, changed(load_balancing=weight), seed=1)
        return float(softmax(router.logits(z))[:, 0].mean())

    assert share_of_the_better(0.0) > 0.9
    assert share_of_the_better(1.0) < 0.7


def test_a_router_of_one_expert_is_no_problem():
    z, logits, labels = specialists()

    assert fit_router(("q4",), z, logits[:, :1], labels, CONFIG, seed=1).logits(z).shape == (128, 1)


# Joint training


def joint_data(count: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    return (np.eye(10)[labels] * 3 + rng.normal(size=(count, 10))).astype(np.float32), labels


EXPERTS = ("q1", "bitnet", "popcount")


def test_experts_and_router_learn_together():
    z, y = joint_data()
    epochs = []

    model, chosen = fit_joint(
        EXPERTS,
        z,
        y,
        3,
        CONFIG,
        seed=1,
        epochs=15,
        held_out=joint_data(seed=1),
        on_epoch=lambda number, epoch: epochs.append(epoch),
    )

    assert epochs[-1].train_loss < epochs[0].train_loss
    assert chosen == 1 + int(np.argmin([epoch.loss for epoch in epochs]))
    assert not model.training
    with torch.no_grad():
        logits, routing = model(torch.tensor(z))
    assert logits.shape == (60, 3, 3)
    assert routing.shape == (60, 3)
    mixed = (logits.softmax(dim=2) * routing.softmax(dim=1)[:, :, None]).sum(dim=1)
    assert (mixed.argmax(dim=1).numpy() == y).mean() > 0.9


def test_joint_training_is_reproducible_and_the_held_out_clips_only_choose_the_epoch():
    z, y = joint_data()

    chosen, epochs = fit_joint(EXPERTS, z, y, 3, CONFIG, seed=1, epochs=5, held_out=joint_data(seed=1))
    plain, same_epochs = fit_joint(EXPERTS, z, y, 3, CONFIG, seed=1, epochs=epochs)

    assert same_epochs == epochs
    for name, tensor in chosen.state_dict().items():
        torch.testing.assert_close(tensor, plain.state_dict()[name], rtol=0, atol=0)


def test_every_part_gets_a_gradient():
    model = JointMixture(EXPERTS, 10, 3, CONFIG)
    z, y = joint_data()
    logits, routing = model(torch.tensor(z))

    mixture_loss(torch.log_softmax(logits, dim=2), routing, torch.tensor(y), None, CONFIG.router).backward()

    assert [m.spec.name for m in model.members] == list(EXPERTS)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_a_loss_that_is_no_number_is_an_error_that_says_what_to_do():
    z, y = joint_data()

    with pytest.raises(ConfigError, match=r"q1\+bitnet\+popcount: training diverged; lower router\.learning"):
        fit_joint(EXPERTS, z, y, 3, CONFIG, seed=1, epochs=1, held_out=(z * np.float32("nan"), y))
