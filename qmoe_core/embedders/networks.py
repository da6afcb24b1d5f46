"""The learned embedders `mn04` and `ds-cnn` as torch modules, to be trained (see `architectures`).

Names of tensors are those that `architectures` reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from qmoe_core.embedders.architectures import (
    DS_CNN_CHANNELS,
    DS_CNN_STRIDES,
    EPSILON,
    MN04,
    MN04_DIM,
    MN04_STEM,
    Inverted,
)
from qmoe_core.errors import UserError

Network = TypeVar("Network", bound=nn.Module)


def convolution(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    activation: nn.Module | None = None,
) -> nn.Sequential:
    """Convolution, batch norm and activation (None: there is none); padding keeps the size at stride 1."""
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=EPSILON),
    ]
    return nn.Sequential(*layers, *([] if activation is None else [activation]))


class SqueezeExcite(nn.Module):
    """A gain for each channel, computed from the mean of all: [B, C, F, T] to the same shape."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        layers = {"fc1": nn.Linear(channels, inner), "fc2": nn.Linear(inner, channels)}
        self.conc_se_layers = nn.ModuleList([nn.ModuleDict(layers)])  # the names of its authors' file

    def forward(self, x: Tensor) -> Tensor:
        gate = cast(nn.ModuleDict, self.conc_se_layers[0])
        inner = nn.functional.relu(gate["fc1"](x.mean((2, 3))))
        return x * nn.functional.sigmoid(gate["fc2"](inner))[:, :, None, None]


class InvertedResidual(nn.Module):
    """Expand, convolve each channel, weigh the channels, project; equal shapes: the input is added."""

    def __init__(self, inputs: int, shape: Inverted) -> None:
        super().__init__()
        activation = nn.Hardswish() if shape.activation == "hardswish" else nn.ReLU()
        layers: list[nn.Module] = []
        if shape.expanded != inputs:
            layers.append(convolution(inputs, shape.expanded, 1, activation=activation))
        layers.append(
            convolution(
                shape.expanded, shape.expanded, shape.kernel, shape.stride, shape.expanded, activation
            )
        )
        if shape.inner:
            layers.append(SqueezeExcite(shape.expanded, shape.inner))
        layers.append(convolution(shape.expanded, shape.outputs, 1))
        self.block = nn.Sequential(*layers)
        self.residual = shape.stride == 1 and inputs == shape.outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.residual else self.block(x)


class Mn04(nn.Module):
    """Levels [B, 128, T] (`kaldi_mel.log_mel`) to embeddings [B, 384]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [convolution(1, MN04_STEM, 3, 2, activation=nn.Hardswish())]
        inputs = MN04_STEM
        for shape in MN04:
            layers.append(InvertedResidual(inputs, shape))
            inputs = shape.outputs
        layers.append(convolution(inputs, MN04_DIM, 1, activation=nn.Hardswish()))
        self.features = nn.Sequential(*layers)

    def feature_map(self, levels: Tensor) -> Tensor:
        """Levels [B, 128, T] to the last feature map [B, 384, 4, T / 32]."""
        return self.features(levels[:, None])

    def forward(self, levels: Tensor) -> Tensor:
        return self.feature_map(levels).mean((2, 3))


class DsCnn(nn.Module):
    """Depthwise-separable convolutions: levels [B, 64, T] in −1 … 1 (see `ds_cnn`) to embeddings [B, 576]."""

    dim = 2 * DS_CNN_CHANNELS[-1]

    def __init__(self) -> None:
        super().__init__()
        layers = [convolution(1, DS_CNN_CHANNELS[0], 3, 2, activation=nn.ReLU())]
        for inputs, outputs, stride in zip(
            DS_CNN_CHANNELS[:-1], DS_CNN_CHANNELS[1:], DS_CNN_STRIDES, strict=True
        ):
            layers.append(convolution(inputs, inputs, 3, stride, inputs, nn.ReLU()))
            layers.append(convolution(inputs, outputs, 1, activation=nn.ReLU()))
        self.features = nn.Sequential(*layers)

    def feature_map(self, levels: Tensor) -> Tensor:
        """Levels [B, 64, T] to the last feature map [B, 288, 4, T / 16]."""
        return self.features(levels[:, None])

    def forward(self, levels: Tensor) -> Tensor:
        return self.pooled(self.feature_map(levels))

    @staticmethod
    def pooled(maps: Tensor) -> Tensor:
        """Mean and maximum of each channel: [B, C, F, T] to [B, 2 C]."""
        return torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1)


def load(network: Network, path: Path) -> Network:
    """Give a network the weights of a safetensors file, and set it to evaluation.

    Raises:
        UserError: the file cannot be read, or holds other weights.
    """
    import safetensors.torch
    from safetensors import SafetensorError

    try:
        given = safetensors.torch.load_file(path)
    except (SafetensorError, OSError):
        raise UserError(f"{path}: no readable safetensors file with weights") from None
    wanted = network.state_dict()
    wrong = [k for k, t in wanted.items() if k not in given or given[k].shape != t.shape]
    wrong = [key for key in wrong if not key.endswith("num_batches_tracked")]
    if wrong:
        raise UserError(f"{path} holds other weights: {wrong[0]} is missing or has another shape")
    network.load_state_dict({key: given.get(key, tensor) for key, tensor in wanted.items()})
    return network.eval()
