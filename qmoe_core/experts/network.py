"""An expert: hidden layers of one numeric format, LayerNorm and ReLU after each, and a float head.

All formats share the architecture, so that a difference between two experts is a difference of formats
(the paper's code gives its quantized experts a LayerNorm that its float one lacks). The head stays in
float, as in the sizes of the paper's Table 7.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from qmoe_core.config import ExpertConfig
from qmoe_core.experts.layers import BitLinear, IntegerLinear, PopcountLinear, RoundedLinear, TernaryLinear
from qmoe_core.experts.spec import EXPERTS, ExpertSpec, Rule

if TYPE_CHECKING:
    from qmoe_core.engine import ExpertWeights

LAYER_NORM_EPS = 1e-5


LAYERS: dict[Rule, Callable[[ExpertSpec, int, int, ExpertConfig], nn.Linear]] = {
    "float": lambda spec, inputs, outputs, config: nn.Linear(inputs, outputs),
    "symmetric": lambda spec, inputs, outputs, config: BitLinear(inputs, outputs, spec.bits),
    "rounded": lambda spec, inputs, outputs, config: RoundedLinear(inputs, outputs),
    "ternary": lambda spec, inputs, outputs, config: TernaryLinear(inputs, outputs),
    "popcount": lambda spec, inputs, outputs, config: PopcountLinear(
        inputs, outputs, config.popcount_threshold
    ),
}
"""Of each rule, a hidden layer of K inputs and N outputs that learns by it."""


class ExpertNetwork(nn.Module):
    """A classifier [D] → [C] logits.

    Args:
        name: one of `qmoe_core.experts.NAMES`.
        dim: D, numbers in an embedding.
        classes: C.
        config: hidden sizes, dropout and the popcount threshold.

    Shape:
        input float32 [B, D], standardised; output float32 [B, C].
    """

    def __init__(self, name: str, dim: int, classes: int, config: ExpertConfig) -> None:
        super().__init__()
        self.spec = EXPERTS[name]
        sizes = (dim, *config.hidden)
        self.hidden = nn.ModuleList(
            LAYERS[self.spec.rule](self.spec, inputs, outputs, config) for inputs, outputs in pairwise(sizes)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(outputs, eps=LAYER_NORM_EPS) for outputs in sizes[1:])
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(sizes[-1], classes)

    def forward(self, z: Tensor) -> Tensor:
        for linear, norm in zip(self.hidden, self.norms, strict=True):
            z = self.dropout(torch.relu(norm(linear(z))))
        return self.head(z)

    @torch.no_grad()
    def take_over(self, source: ExpertWeights) -> None:
        """Start from a trained float expert of the same shape (post-training quantization)."""
        for linear, norm, layer in zip(self.hidden, self.norms, source.layers, strict=True):
            assert isinstance(linear, nn.Linear)
            assert isinstance(norm, nn.LayerNorm)
            assert layer.weight is not None, f"{source.name} is not a float expert"
            linear.weight.copy_(torch.from_numpy(layer.weight))
            linear.bias.copy_(torch.from_numpy(layer.bias))
            norm.weight.copy_(torch.from_numpy(layer.gamma))
            norm.bias.copy_(torch.from_numpy(layer.beta))
        self.head.weight.copy_(torch.from_numpy(source.head_weight))
        self.head.bias.copy_(torch.from_numpy(source.head_bias))

    def decay_groups(self, weight_decay: float) -> list[dict[str, object]]:
        """Parameters for AdamW: decay for weight matrices, none for scales, thresholds, norms, biases."""
        matrices = [module.weight for module in (*self.hidden, self.head)]
        chosen = {id(parameter) for parameter in matrices}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in chosen]
        return [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float32).numpy().copy()


def export(network: ExpertNetwork) -> ExpertWeights:
    """The trained network as the packed engine takes it.

    Returns:
        Integer levels with scales for the hidden layers (float weights for `fp32`), norms, head.
    """
    from qmoe_core.engine import ExpertWeights, HiddenLayer

    layers = []
    for linear, norm in zip(network.hidden, network.norms, strict=True):
        assert isinstance(linear, nn.Linear)
        assert isinstance(norm, nn.LayerNorm)
        levels = linear.levels() if isinstance(linear, IntegerLinear) else None
        layers.append(
            HiddenLayer(
                format=network.spec.format,
                codes=levels.codes if levels else None,
                weight=None if levels else _array(linear.weight),
                scale=levels.scale if levels else np.ones(linear.out_features, np.float32),
                bias=_array(linear.bias),
                gamma=_array(norm.weight),
                beta=_array(norm.bias),
                threshold=linear.threshold if isinstance(linear, PopcountLinear) else 0.0,
            )
        )
    return ExpertWeights(
        name=network.spec.name,
        layers=tuple(layers),
        head_weight=_array(network.head.weight),
        head_bias=_array(network.head.bias),
    )
