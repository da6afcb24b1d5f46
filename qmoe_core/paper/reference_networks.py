"""The networks of the paper's public code, in PyTorch, where they differ from those of `experts/`.

See `reference`; nothing here is meant to be used.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qmoe_core.config import ExpertConfig
from qmoe_core.experts.network import ExpertNetwork
from qmoe_core.paper.reference import TERNARY_THRESHOLD, symmetric_top_level


class PreNormNetwork(ExpertNetwork):
    """An expert with the LayerNorm before each hidden layer that the code gives to its quantized ones."""

    def __init__(self, name: str, dim: int, classes: int, config: ExpertConfig) -> None:
        super().__init__(name, dim, classes, config)
        self.before = nn.ModuleList(nn.LayerNorm(inputs) for inputs, _ in pairwise((dim, *config.hidden)))

    def forward(self, z: Tensor) -> Tensor:
        for before, linear, norm in zip(self.before, self.hidden, self.norms, strict=True):
            z = self.dropout(torch.relu(norm(linear(before(z)))))
        return self.head(z)


class RequantisingLinear(nn.Linear):
    """A "k-bit" layer: float weights, rounded to k bits and back at every call, then a float product."""

    def __init__(self, source: nn.Linear, bits: int) -> None:
        super().__init__(source.in_features, source.out_features)
        self.load_state_dict(source.state_dict())
        self.bits = bits

    def forward(self, input: Tensor) -> Tensor:
        scale = 127.0 / input.abs().amax(dim=-1, keepdim=True).clamp(min=1e-5)
        rounded = (input * scale).round().clamp(-128, 127) / scale
        centred = self.weight - self.weight.mean()
        top = symmetric_top_level(self.bits)
        step = centred.abs().max().clamp(min=1e-5) / top
        weight = (centred / step).round().clamp(-top - 1, top) * step
        return F.linear(rounded, weight, self.bias)


class ComputedTernaryLinear(nn.Linear):
    """The code's BitNet layer: signs of the inputs times α · {−1, 0, 1}, and neither τ nor α is learned.

    τ is 0.05 of the mean |W| of an output channel and α the mean |W| above it, W less its mean. Gradients
    pass straight through, whatever the size of an input. The text ternarises weights alone (Eq. 3).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)

    def effective_weight(self) -> Tensor:
        """The weight [N, K] that products are made with."""
        centred = self.weight - self.weight.mean(dim=1, keepdim=True)
        size = centred.abs()
        kept = (size >= TERNARY_THRESHOLD * size.mean(dim=1, keepdim=True)).to(size.dtype)
        alpha = (size * kept).sum(dim=1, keepdim=True) / kept.sum(dim=1, keepdim=True).clamp(min=1.0)
        return alpha * kept * centred.sign()

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(
            input + (input.sign() - input).detach(),
            self.weight + (self.effective_weight() - self.weight).detach(),
            self.bias,
        )


class ComputedTernaryNetwork(PreNormNetwork):
    """The code's BitNet expert: its ternary layers between the LayerNorms, and a float head."""

    def __init__(self, name: str, dim: int, classes: int, config: ExpertConfig) -> None:
        super().__init__(name, dim, classes, config)
        self.hidden = nn.ModuleList(
            ComputedTernaryLinear(inputs, outputs) for inputs, outputs in pairwise((dim, *config.hidden))
        )


def requantising(network: nn.Sequential, bits: int) -> nn.Sequential:
    """A float network with its hidden layers simulated at k bits; the head stays in float."""
    *hidden, head = network
    return nn.Sequential(
        *(RequantisingLinear(layer, bits) if isinstance(layer, nn.Linear) else layer for layer in hidden),
        head,
    ).eval()
