"""A convolutional network that learns in a number format, in PyTorch.

It is made of a float network's description, whose batch norms are folded in, and gives one back whose weights
are levels. Going forward it computes what the quantized network computes: weights rounded by format, with a
scale for each output channel, and activations as bytes with a static scale and zero point. Going back,
gradients pass the rounding as if it were not there (Bengio et al. 2013), but for activations outside the
256 levels. Scales of weights are learned (Esser et al. 2020, "Learned Step Size Quantization"), ternary
thresholds as those of the heads are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qmoe_core.engine.network import Block, ConvLayer, Levels, Network, SqueezeExcite
from qmoe_core.experts.layers import TernaryWeight, signs, ternary, ternary_start
from qmoe_core.experts.spec import LEVELS, ExpertSpec

SMALL_SHARE = 0.05
"""Of all weights: stem, depthwise and squeeze-excite layers with less keep 8 bits in formats below 8."""
CANDIDATES = 24
"""Steps of the weights that are tried for the smallest squared error of rounding."""


def formats_of(network: Network, spec: ExpertSpec) -> dict[str, str]:
    """The storage format of each layer, by name, when the network is in a format."""
    total = sum(layer.matrix.size for layer in network.layers)

    def one(layer: ConvLayer) -> str:
        small = layer.kind != "pointwise" and layer.matrix.size < SMALL_SHARE * total
        return "int8" if small and spec.bits < 8 else spec.format

    return {layer.name: one(layer) for layer in network.layers}


class _Rounded(torch.autograd.Function):
    """step · clip(round(W / step)), or step · sign(W) for one bit; gradients for W and log |step| [N, 1]."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, log_step: Tensor, direction: Tensor, low: int, high: int) -> Tensor:
        step = direction * log_step.exp()
        if low == -high == -1:
            effective, inside = signs(weight) * step, torch.zeros_like(weight)
            ctx.save_for_backward(torch.ones_like(weight), effective)
            return effective
        ratio = weight / step
        inside = ((ratio > low - 0.5) & (ratio < high + 0.5)).to(weight.dtype)
        effective = ratio.round_().clamp_(low, high).mul_(step)
        ctx.save_for_backward(inside, effective - weight * inside)
        return effective

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inside, by_log_step = ctx.saved_tensors
        (g,) = gradients
        return g * inside, (g * by_log_step).sum(dim=1, keepdim=True), None, None, None


class _Bytes(torch.autograd.Function):
    """Activations rounded to the levels of a byte; gradients pass where the result is not at an end."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, levels: Levels) -> Tensor:
        low, high = -levels.zero, 255 - levels.zero
        rounded = (y * (1 / levels.scale)).round_().clamp_(low, high).mul_(levels.scale)
        ctx.save_for_backward(rounded)
        ctx.ends = (low + 0.5) * levels.scale, (high - 0.5) * levels.scale
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None]:
        (rounded,) = ctx.saved_tensors
        low, high = ctx.ends
        return gradients[0] * ((rounded > low) & (rounded < high)), None


class Convolution(nn.Module):
    """A layer with weights in a format; parameters are relative to each output channel's root mean square, so
    that one learning rate suits all.

    Args:
        layer: of a float network; format: as files call it, `float` to stay one.

    Shape: input [B, I, H, W], output [B, O, H', W'] before activation.
    """

    unit: Tensor
    direction: Tensor
    """Float32 [O, 1]: the root mean square, and the sign of the step."""

    def __init__(self, layer: ConvLayer, format: str) -> None:
        super().__init__()
        self.layer, self.format = layer, format
        weight = torch.tensor(layer.weights).reshape(layer.outputs, -1)
        unit = weight.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-12)
        self.register_buffer("unit", unit)
        self.weight = nn.Parameter(weight / unit)
        self.bias = nn.Parameter(torch.tensor(layer.bias) / unit[:, 0])
        self.low, self.high = 0, 0
        if format == "ternary":
            threshold, scale = ternary_start(self.weight.detach())
            self.log_threshold = nn.Parameter(threshold.log())
            self.log_step, direction = nn.Parameter(scale.log()), torch.ones_like(scale)
            self.register_buffer("direction", direction)
        elif format != "float":
            bits, self.low, self.high = LEVELS[format]
            if bits >= 8:  # No level without its negative: kernels multiply those faster.
                self.low = -self.high
            step = _best_step(self.weight.detach(), self.low, self.high)
            self.log_step = nn.Parameter(step.abs().clamp_min(1e-12).log())
            self.register_buffer("direction", torch.where(step < 0, -1.0, 1.0))

    def effective(self) -> Tensor:
        """The weights that are computed with: float32 [O, I · h · w]."""
        if self.format == "float":
            return self.weight * self.unit
        if self.format == "ternary":
            levels = TernaryWeight.apply(self.weight.detach(), self.log_threshold, self.log_step)
            return (levels + self.weight - self.weight.detach()) * self.unit
        levels = _Rounded.apply(self.weight, self.log_step, self.direction, self.low, self.high)
        return levels * self.unit

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        weight = self.effective().reshape(layer.matrix.shape)
        groups = layer.outputs if layer.kind == "depthwise" else 1
        bias = self.bias * self.unit[:, 0]
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, groups=groups)

    @torch.no_grad()
    def described(self, output: Levels | None) -> ConvLayer:
        """The layer with its levels, for the engine."""
        if self.format == "float":
            return replace(self.layer, weight=_array(self.effective()).reshape(self.layer.matrix.shape),
                           bias=_array(self.bias * self.unit[:, 0]), output=output)  # fmt: skip
        step = self.direction * self.log_step.exp()
        if self.format == "ternary":
            codes = ternary(self.weight, self.log_threshold.exp())
        elif self.low == -self.high == -1:
            codes = signs(self.weight)
        else:
            codes = (self.weight / step).round_().clamp_(self.low, self.high)
        return replace(
            self.layer,
            format=self.format,
            weight=None,
            codes=codes.reshape(self.layer.matrix.shape).to(torch.int16).numpy(),
            scale=_array((step * self.unit)[:, 0]),
            bias=_array(self.bias * self.unit[:, 0]),
            output=output,
        )


class QuantizedNetwork(nn.Module):
    """A float network's description as modules whose weights are in formats.

    Args:
        network: a float one.
        formats: of each layer, see `formats_of`; None keeps float weights.

    Shape: input [B, bands, frames]; output: the last tensor [B, C, H, W] and the embedding [B, D].
    """

    def __init__(self, network: Network, formats: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.network = network
        formats = formats or {}
        # A module's name may have no dots.
        self.convolutions = nn.ModuleDict(
            {
                _key(layer.name): Convolution(layer, formats.get(layer.name, "float"))
                for layer in network.layers
            }
        )
        self.levels: dict[str, Levels] = {}
        """Of every tensor of activations, by the names of `network_reference.Observer`; empty: they are
        float."""
        self._observed: dict[str, list[tuple[float, float]]] | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self._stored("input", x[:, None].contiguous(memory_format=torch.channels_last))
        for block in self.network.blocks:
            y = self._block(block, y)
        pooled = y.mean((2, 3))
        if self.network.pool == "mean+max":
            pooled = torch.cat([pooled, y.amax((2, 3))], 1)
        return y, pooled

    def _block(self, block: Block, x: Tensor) -> Tensor:
        y = x
        for layer in block.layers:
            last = layer is block.layers[-1]
            if last and block.squeeze is not None:
                y = self._squeeze(block.squeeze, y)
            y = self._layer(layer, y, x if last and block.residual else None)
        return y

    def _layer(self, layer: ConvLayer, x: Tensor, added: Tensor | None = None) -> Tensor:
        y = self.convolutions[_key(layer.name)](x)
        if added is not None:
            y = y + added
        if layer.activation == "relu" and layer.name in self.levels:
            return self._stored(layer.name, y)  # its levels begin at zero
        if layer.activation != "none":
            y = _ACTIVATIONS[layer.activation](y)
        return self._stored(layer.name, y)

    def _squeeze(self, squeeze: SqueezeExcite, x: Tensor) -> Tensor:
        name = squeeze.expand.name
        gate = self._stored(f"{name}.pooled", x.mean((2, 3), keepdim=True))
        gate = self._layer(squeeze.expand, self._layer(squeeze.reduce, gate))
        return self._stored(f"{name}.output", x * gate)

    def _stored(self, name: str, y: Tensor) -> Tensor:
        """What is left of a tensor when it is stored as bytes."""
        if self._observed is not None:
            low, high = y.detach().aminmax()
            self._observed.setdefault(name, []).append((float(low), float(high)))
        return _Bytes.apply(y, self.levels[name]) if name in self.levels else y

    @torch.inference_mode()
    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Set the levels of every tensor: from the least to the largest activation, each the mean over
        batches [B, bands, frames]; zero is always a level."""
        self.levels, self._observed = {}, {}
        for batch in batches:
            self(batch)
        for name, ends in self._observed.items():
            low, high = np.mean(ends, axis=0)
            low, high = min(float(low), 0.0), max(float(high), 1e-6)
            scale = (high - low) / 255
            self.levels[name] = Levels(scale, min(round(-low / scale), 255))
        self._observed = None

    def described(self) -> Network:
        """The network with its levels, as the engine takes it; a quantized one after `calibrate`."""

        def layer(of: ConvLayer) -> ConvLayer:
            module = self.convolutions[_key(of.name)]
            assert isinstance(module, Convolution)
            return module.described(self.levels.get(of.name))

        def squeeze(of: SqueezeExcite) -> SqueezeExcite:
            pooled, output = (self.levels.get(f"{of.expand.name}.{end}") for end in ("pooled", "output"))
            return SqueezeExcite(layer(of.reduce), layer(of.expand), pooled, output)

        blocks = tuple(
            replace(
                block,
                layers=tuple(layer(each) for each in block.layers),
                squeeze=None if block.squeeze is None else squeeze(block.squeeze),
            )
            for block in self.network.blocks
        )
        return replace(self.network, blocks=blocks, input=self.levels.get("input"))


_ACTIVATIONS = {
    "relu": F.relu,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
}


def _key(name: str) -> str:
    return name.replace(".", "/")


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float32).numpy().copy()


def _best_step(weight: Tensor, low: int, high: int) -> Tensor:
    """For each row the step whose levels come closest to it, [N, 1]; a negative one turns the levels around,
    where there is one more on the side that has the larger weights."""
    if low == -high == -1:
        return weight.abs().mean(dim=1, keepdim=True)
    peak = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-12)
    best, error = peak / high, torch.full_like(peak, torch.inf)
    directions = (1,) if low == -high else (1, -1)
    for share in torch.linspace(0.25, 1.0, CANDIDATES) if high < 127 else torch.ones(1):
        for direction in directions:
            step = direction * share * peak / (high if len(directions) == 1 else -low)
            rounded = (weight / step).round_().clamp_(low, high).mul_(step)
            found = (rounded - weight).square_().sum(dim=1, keepdim=True)
            best, error = torch.where(found < error, step, best), torch.minimum(found, error)
    return best
