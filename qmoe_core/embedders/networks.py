"""The learned embedders as torch modules: `mn04` (a MobileNetV3 for audio) and `ds-cnn`, our own.

torch trains them; what serves is made of them by `described`. Names of mn04's tensors are those of its
authors' file. Sources: Schmid, Koutini, Widmer 2023 (mn04; github.com/fschmid56/EfficientAT, models/mn);
Howard et al. 2019 (MobileNetV3); Zhang et al. 2017, "Hello Edge" (depthwise-separable convolutions, DS-CNN).
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from qmoe_core.errors import UserError

Network = TypeVar("Network", bound=nn.Module)

# Kernel, expanded and output channels, squeeze-excite's inner channels (0: none), hard swish, stride.
MN04_BLOCKS = (
    (3, 8, 8, 0, False, 1),
    (3, 24, 16, 0, False, 2),
    (3, 32, 16, 0, False, 1),
    (5, 32, 16, 8, False, 2),
    (5, 48, 16, 16, False, 1),
    (5, 48, 16, 16, False, 1),
    (3, 96, 32, 0, True, 2),
    (3, 80, 32, 0, True, 1),
    (3, 72, 32, 0, True, 1),
    (3, 72, 32, 0, True, 1),
    (3, 192, 48, 48, True, 1),
    (3, 272, 48, 72, True, 1),
    (5, 272, 64, 72, True, 2),
    (5, 384, 64, 96, True, 1),
    (5, 384, 64, 96, True, 1),
)
DS_CNN_CHANNELS = (16, 32, 64, 96, 128, 160, 224, 288, 288)
DS_CNN_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1)


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
        nn.BatchNorm2d(outputs, eps=1e-3),
    ]
    return nn.Sequential(*layers, *([] if activation is None else [activation]))


class SqueezeExcite(nn.Module):
    """A gain for each channel, computed from the mean of all: [B, C, F, T] to the same shape."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        gate = nn.Module()
        gate.fc1, gate.fc2 = nn.Linear(channels, inner), nn.Linear(inner, channels)
        self.conc_se_layers = nn.ModuleList([gate])

    def forward(self, x: Tensor) -> Tensor:
        gate = self.conc_se_layers[0]
        inner = nn.functional.relu(gate.fc1(x.mean((2, 3))))
        return x * nn.functional.sigmoid(gate.fc2(inner))[:, :, None, None]


class InvertedResidual(nn.Module):
    """Expand, convolve each channel, weigh the channels, project; the input is added where shapes are equal."""

    def __init__(
        self, inputs: int, kernel: int, expanded: int, outputs: int, inner: int, swish: bool, stride: int
    ) -> None:
        super().__init__()
        activation = nn.Hardswish() if swish else nn.ReLU()
        layers: list[nn.Module] = []
        if expanded != inputs:
            layers.append(convolution(inputs, expanded, 1, activation=activation))
        layers.append(convolution(expanded, expanded, kernel, stride, expanded, activation))
        if inner:
            layers.append(SqueezeExcite(expanded, inner))
        layers.append(convolution(expanded, outputs, 1))
        self.block = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.residual else self.block(x)


class Mn04(nn.Module):
    """MobileNetV3-large of width 0.4: levels [B, 128, T] (`kaldi_mel.log_mel`) to embeddings [B, 384]."""

    dim = 384

    def __init__(self) -> None:
        super().__init__()
        blocks, inputs = [], 8
        for kernel, expanded, outputs, inner, swish, stride in MN04_BLOCKS:
            blocks.append(InvertedResidual(inputs, kernel, expanded, outputs, inner, swish, stride))
            inputs = outputs
        self.features = nn.Sequential(
            convolution(1, 8, 3, 2, activation=nn.Hardswish()),
            *blocks,
            convolution(inputs, self.dim, 1, activation=nn.Hardswish()),
        )

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
        import torch

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
