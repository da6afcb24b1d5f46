"""Linear layers that learn in a numeric format (Eq. 2–4), in PyTorch.

Every layer computes in training exactly what the packed engine computes when it serves: integer levels
times 8-bit (or single-bit) activations, then scale and bias. Where rounding has no gradient, it passes
straight through (Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATION_LEVELS = 127.0
"""Activations are rounded to −127 … 127 (§4.3: s_x = 127 / max|x|), a scale for each sample."""


@dataclass(frozen=True)
class Levels:
    """A layer's weights as the packed engine stores them: W ≈ scale[:, None] · codes."""

    codes: np.ndarray
    """int16 [N, K]."""
    scale: np.ndarray
    """float32 [N]."""


def quantise_activation(x: Tensor) -> tuple[Tensor, Tensor]:
    """8-bit activations and their scale, sample by sample (§4.3).

    Args:
        x: float32 [..., K].

    Returns:
        Integers in −127 … 127 as float32 [..., K], and the scale max|x| / 127, [..., 1]. A sample of
        zeros (or of numbers so small that 127 / max|x| overflows) gives zeros.
    """
    peak = x.abs().amax(dim=-1, keepdim=True)
    inverse = ACTIVATION_LEVELS / peak
    inverse = torch.where(inverse.isinf(), 0.0, inverse)
    return (x * inverse).round_(), peak / ACTIVATION_LEVELS


class _StraightThrough(torch.autograd.Function):
    """y = x̂ Ŵᵀ + b going forward; going back, gradients reach x and W as if nothing had been rounded.

    One function rather than `x + (x̂ − x).detach()` on either side: a third of the time of a training step
    went into those sums of whole matrices.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, x_hat: Tensor, w_hat: Tensor) -> Tensor:
        ctx.save_for_backward(x_hat, w_hat)
        return F.linear(x_hat, w_hat, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_hat, w_hat = ctx.saved_tensors
        (g,) = gradients
        to_x = g @ w_hat if ctx.needs_input_grad[0] else None
        to_weight = g.T @ x_hat
        return to_x, to_weight, g.sum(dim=0), None, to_weight if ctx.needs_input_grad[4] else None


class IntegerLinear(nn.Linear):
    """A layer of integer weights and 8-bit activations; subclasses say which integers.

    Shape: input [B, K] float32, output [B, N] float32.
    """

    def quantise(self) -> tuple[Tensor, Tensor]:
        """Integer levels [N, K] and their scale, [N, 1] or [1, 1]; no gradients."""
        raise NotImplementedError

    def effective_weight(self) -> Tensor:
        """The weight [N, K] that training computes with; has gradients for what is learned beside W."""
        with torch.no_grad():
            codes, scale = self.quantise()
            return codes.mul_(scale)

    def forward(self, input: Tensor) -> Tensor:
        with torch.no_grad():
            levels, step = quantise_activation(input)
        if torch.is_grad_enabled():
            rounded = levels.mul_(step)
            return _StraightThrough.apply(input, self.weight, self.bias, rounded, self.effective_weight())
        # The integer form, in the engine's order of operations, so that both agree to the last bits.
        codes, scale = self.quantise()
        return F.linear(levels, codes) * (scale.expand(codes.shape[0], 1).T * step) + self.bias

    @torch.no_grad()
    def levels(self) -> Levels:
        """What the packed engine stores."""
        codes, scale = self.quantise()
        return Levels(
            codes.to(torch.int16).numpy(),
            scale.expand(codes.shape[0], 1).reshape(-1).to(torch.float32).numpy().copy(),
        )


def signs(weight: Tensor) -> Tensor:
    """−1 where negative, 1 elsewhere: one bit has no zero.

    Arithmetic, because `torch.where` and comparisons of whole matrices take twenty times as long.
    """
    return torch.sign(weight).add_(0.5).sign_()


def ternary(weight: Tensor, threshold: Tensor) -> Tensor:
    """sign(W) · 1(|W| > τ), Eq. 3, by arithmetic alone (see `signs`)."""
    return (weight.abs() - threshold).clamp_min_(0.0).sign_().mul_(torch.sign(weight))


def ternary_start(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Threshold and scale of each row, [N, 1] and positive: 0.7 of the mean of |W|, and the mean of |W| above
    it (Li et al. 2016, "Ternary Weight Networks")."""
    magnitude = weight.abs()
    threshold = 0.7 * magnitude.mean(dim=1, keepdim=True)
    above = (magnitude > threshold).to(magnitude.dtype)
    scale = (magnitude * above).sum(dim=1, keepdim=True) / above.sum(dim=1, keepdim=True).clamp_min(1.0)
    return threshold.clamp_min(1e-12), scale.clamp_min(1e-12)


class BitLinear(IntegerLinear):
    """Symmetric k-bit weights, one scale a layer (Eq. 2, §4.3).

    s = max|W| / (2^(k−1) − 1). Eq. 2 divides by zero at k = 1; there the levels are ±1 and the scale is
    the mean of |W| (Rastegari et al. 2016, XNOR-Net, Eq. 6), for each output channel.
    """

    def __init__(self, in_features: int, out_features: int, bits: int) -> None:
        if not 1 <= bits <= 16:
            raise ValueError(f"BitLinear takes 1 to 16 bits, not {bits}")
        super().__init__(in_features, out_features)
        self.bits = bits

    def quantise(self) -> tuple[Tensor, Tensor]:
        weight = self.weight.detach()
        if self.bits == 1:
            return signs(weight), weight.abs().mean(dim=1, keepdim=True)
        top = float(2 ** (self.bits - 1) - 1)
        low, high = weight.aminmax()
        scale = torch.maximum(-low, high).reshape(1, 1).clamp_min(1e-12) / top
        return (weight / scale).round_().clamp_(-top - 1, top), scale


class TernaryLinear(IntegerLinear):
    """BitNet: weights −1, 0, 1 with a learned threshold and scale for each output channel (Eq. 3).

    Both are learned as logarithms, so that they stay positive and move in proportion, from `ternary_start`.
    The threshold's gradient takes the step 1(|W| > τ) for a ramp as wide as τ.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        threshold, scale = ternary_start(self.weight.detach())
        self.log_threshold, self.log_scale = nn.Parameter(threshold.log()), nn.Parameter(scale.log())

    def quantise(self) -> tuple[Tensor, Tensor]:
        codes = ternary(self.weight.detach(), self.log_threshold.detach().exp())
        return codes, self.log_scale.detach().exp()

    def effective_weight(self) -> Tensor:
        return TernaryWeight.apply(self.weight.detach(), self.log_threshold, self.log_scale)


class TernaryWeight(torch.autograd.Function):
    """α · sign(W) · 1(|W| > τ), with gradients for log τ and log α [N, 1]."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, log_threshold: Tensor, log_scale: Tensor) -> Tensor:
        threshold, scale = log_threshold.exp(), log_scale.exp()
        effective = ternary(weight, threshold).mul_(scale)
        ctx.save_for_backward(weight, threshold, scale, effective)
        return effective

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, threshold, scale, effective = ctx.saved_tensors
        (g,) = gradients
        to_scale = (g * effective).sum(dim=1, keepdim=True)
        # The ramp rises from 0 to 1 between τ/2 and 3τ/2; its slope in log τ is −1 there.
        off_centre = (weight.abs() - threshold).abs_()
        on_ramp = (0.5 * threshold - off_centre).clamp_min_(0.0).sign_()
        to_threshold = -scale * on_ramp.mul_(torch.sign(weight)).mul_(g).sum(dim=1, keepdim=True)
        return None, to_threshold, to_scale


class RoundedLinear(IntegerLinear):
    """8-bit post-training quantization: a trained layer rounded, one scale for each output channel."""

    def quantise(self) -> tuple[Tensor, Tensor]:
        weight = self.weight.detach()
        scale = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / ACTIVATION_LEVELS
        return (weight / scale).round_(), scale


class PopcountLinear(IntegerLinear):
    """Single-bit weights and activations (Eq. 4): y = d − 2 · popcount(x_b ⊕ w_b), times the scale.

    Eq. 4 gives popcount − d/2, which is −1/2 of the product of the ±1 vectors; the factor goes into the
    scale, mean|W| for each output channel. An activation is +1 above the fixed threshold τ, else −1.
    Gradients pass straight through where |x| ≤ 1 (Hubara et al. 2016, Eq. 4).
    """

    def __init__(self, in_features: int, out_features: int, threshold: float) -> None:
        super().__init__(in_features, out_features)
        self.threshold = threshold

    def quantise(self) -> tuple[Tensor, Tensor]:
        weight = self.weight.detach()
        return signs(weight), weight.abs().mean(dim=1, keepdim=True)

    def forward(self, input: Tensor) -> Tensor:
        bits = (input.detach() > self.threshold).to(input.dtype).mul_(2.0).sub_(1.0)
        if torch.is_grad_enabled():
            gated = input.clamp(-1.0, 1.0)
            return _StraightThrough.apply(gated, self.weight, self.bias, bits, self.effective_weight())
        codes, scale = self.quantise()
        return F.linear(bits, codes) * scale.T + self.bias
