"""Training what mixes the experts.

- `fit_router` (the training called `compose`): the experts are trained and frozen; only the router
  learns, in seconds, from their logits on clips that they were not trained on.
- `fit_joint` (`joint`, as the paper): experts and router learn together.

Both maximise the likelihood of the mixture, log Σ_i r_i q_i(y), over all experts: with a renormalised
top-1 the weight of the chosen expert is always 1, and the router would get no gradient at all. The top-k
of Eq. 6 and curiosity (Eq. 8) belong to serving. A load-balancing term N · Σ_i f_i r̄_i keeps experts from
being forgotten (Fedus et al. 2021, Switch Transformers, Eq. 4), f_i the share of clips routed to i.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qmoe_core.config import Config, RouterConfig
from qmoe_core.evaluation.classification import weighted_f1
from qmoe_core.experts.network import ExpertNetwork
from qmoe_core.routing.router import Router
from qmoe_core.training.loop import (
    EpochObserver,
    HeldOut,
    as_tensor,
    class_weights,
    minimise,
    reproducible,
)


def router_network(dim: int, experts: int, config: RouterConfig) -> nn.Sequential:
    """§4.3: Linear, ReLU, Dropout, Linear, ReLU, Linear; Xavier initialisation."""
    sizes = (dim, *config.hidden, experts)
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        linear = nn.Linear(inputs, outputs)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers.append(linear)
        if index < len(sizes) - 2:
            layers.append(nn.ReLU())
        if index == 0:
            layers.append(nn.Dropout(config.dropout))
    return nn.Sequential(*layers)


def freeze(network: nn.Sequential, experts: Sequence[str], config: Config) -> Router:
    """The trained router as it serves."""
    linears = [module for module in network if isinstance(module, nn.Linear)]
    return Router(
        tuple(experts),
        tuple(linear.weight.detach().numpy().astype(np.float32) for linear in linears),
        tuple(linear.bias.detach().numpy().astype(np.float32) for linear in linears),
        config.router.dropout,
        config.seed,
    )


def mixture_loss(
    log_q: Tensor, routing_logits: Tensor, targets: Tensor, weight: Tensor | None, config: RouterConfig
) -> Tensor:
    """Weighted negative log-likelihood of the mixture, plus load balancing.

    Args:
        log_q: the experts' log-probabilities [B, N, C].
        routing_logits: g(z), [B, N]; targets: [B]; weight: of the classes [C], or None.
    """
    log_r = F.log_softmax(routing_logits / config.temperature, dim=1)
    picked = log_q.gather(2, targets[:, None, None].expand(-1, log_q.shape[1], 1)).squeeze(2)
    loss = -torch.logsumexp(log_r + picked, dim=1)
    sample_weight = torch.ones_like(loss) if weight is None else weight[targets]
    experts = log_r.shape[1]
    routed = F.one_hot(log_r.detach().argmax(dim=1), experts).to(log_r.dtype).mean(dim=0)
    balance = experts * (routed * log_r.exp().mean(dim=0)).sum()
    return (loss * sample_weight).sum() / sample_weight.sum() + config.load_balancing * balance


def fit_router(
    experts: Sequence[str],
    z: np.ndarray,
    logits: np.ndarray,
    labels: np.ndarray,
    config: Config,
    *,
    seed: int,
    score: Callable[[Router], float] | None = None,
) -> Router:
    """Train the router alone, the experts' outputs being fixed.

    Args:
        experts: names of the N experts.
        z: standardised embeddings [n, D]; logits: what the experts say of them [n, N, C]; labels: [n].
        config: its `router` part is used.
        seed: of initialisation, dropout and the order of batches.
        score: best-on-test only: the figure to choose the epoch by, higher is better.

    Returns:
        The router after the last epoch, or after the best one when `score` is given.
    """
    settings = config.router
    inputs, targets = as_tensor(z, torch.float32), as_tensor(labels, torch.int64)
    log_q = F.log_softmax(as_tensor(logits, torch.float32), dim=2)
    weight = class_weights(labels, logits.shape[2]) if config.expert.class_weights else None
    with reproducible(seed):
        network = router_network(z.shape[1], len(experts), settings)
        minimise(
            network,
            _adam(network, settings),
            lambda batch: mixture_loss(
                log_q[batch], network(inputs[batch]), targets[batch], weight, settings
            ),
            len(inputs),
            settings,
            name="router",
            epochs=settings.epochs,
            score=None if score is None else lambda: (None, score(freeze(network, experts, config))),
            monitor="f1",
        )
    return freeze(network, experts, config)


def _adam(model: nn.Module, settings: RouterConfig, *, fused: bool = False) -> torch.optim.Adam:
    return torch.optim.Adam(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused
    )


class JointMixture(nn.Module):
    """Fresh experts and a router, to be trained together.

    `ptq8` and `popcount`, elsewhere made from a trained float expert, learn straight through here.
    """

    def __init__(self, experts: Sequence[str], dim: int, classes: int, config: Config) -> None:
        super().__init__()
        self.names = tuple(experts)
        self.experts = nn.ModuleList(ExpertNetwork(name, dim, classes, config.expert) for name in experts)
        self.router = router_network(dim, len(experts), config.router)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """[B, D] → the experts' logits [B, N, C] and the router's [B, N]."""
        return torch.stack([expert(z) for expert in self.experts], dim=1), self.router(z)

    @property
    def members(self) -> list[ExpertNetwork]:
        """The experts, in order."""
        return [expert for expert in self.experts if isinstance(expert, ExpertNetwork)]


def fit_joint(
    experts: Sequence[str],
    z: np.ndarray,
    labels: np.ndarray,
    classes: int,
    config: Config,
    *,
    seed: int,
    epochs: int,
    held_out: HeldOut | None = None,
    monitor: str = "loss",
    on_epoch: EpochObserver | None = None,
) -> tuple[JointMixture, int]:
    """Train experts and router together (the paper's way; Adam, batches of 256, §4.3).

    Args: as `fit.fit`.

    Returns:
        The mixture at the chosen epoch, and that epoch's number.
    """
    settings = config.router
    inputs, targets = as_tensor(z, torch.float32), as_tensor(labels, torch.int64)
    weight = class_weights(labels, classes) if config.expert.class_weights else None
    with reproducible(seed):
        model = JointMixture(experts, z.shape[1], classes, config)

        def loss(batch: Tensor) -> Tensor:
            logits, routing = model(inputs[batch])
            return mixture_loss(F.log_softmax(logits, dim=2), routing, targets[batch], weight, settings)

        _, chosen = minimise(
            model,
            _adam(model, settings, fused=True),
            loss,
            len(inputs),
            settings,
            name="+".join(experts),
            epochs=epochs,
            score=None if held_out is None else lambda: _joint_score(model, held_out, settings),
            monitor=monitor,
            on_epoch=on_epoch,
        )
    return model, chosen


@torch.no_grad()
def _joint_score(model: JointMixture, held_out: HeldOut, config: RouterConfig) -> tuple[float, float]:
    z, labels = held_out
    model.eval()
    logits, routing = model(as_tensor(z, torch.float32))
    log_mix = torch.logsumexp(
        F.log_softmax(logits, dim=2) + F.log_softmax(routing / config.temperature, dim=1)[:, :, None], dim=1
    )
    loss = F.nll_loss(log_mix, as_tensor(labels, torch.int64)).item()
    return loss, weighted_f1(labels, log_mix.argmax(dim=1).numpy())
