"""The convolutional embedders' shapes, and how their tensors become an engine's network.

`mn04` is a MobileNetV3-large of width 0.4 for audio; names of its tensors are those of its authors' file.
`ds-cnn`, our own, is a row of depthwise-separable convolutions. In both, every convolution is followed by a
batch norm, which is folded into it here. Sources: Schmid, Koutini, Widmer 2023 (mn04;
github.com/fschmid56/EfficientAT, models/mn); Howard et al. 2019 (MobileNetV3); Zhang et al. 2017, "Hello
Edge" (DS-CNN).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qmoe_core.engine.network import Activation, Block, ConvLayer, Kind, Network, SqueezeExcite
from qmoe_core.errors import UserError

EPSILON = 1e-3
"""Of every batch norm."""


@dataclass(frozen=True)
class Inverted:
    """A block of MobileNetV3: expand, convolve each channel, weigh the channels, project."""

    kernel: int
    expanded: int
    outputs: int
    inner: int
    """Channels inside the squeeze-excite; 0 where there is none."""
    activation: Activation
    stride: int


MN04 = (
    Inverted(3, 8, 8, 0, "relu", 1),
    Inverted(3, 24, 16, 0, "relu", 2),
    Inverted(3, 32, 16, 0, "relu", 1),
    Inverted(5, 32, 16, 8, "relu", 2),
    Inverted(5, 48, 16, 16, "relu", 1),
    Inverted(5, 48, 16, 16, "relu", 1),
    Inverted(3, 96, 32, 0, "hardswish", 2),
    Inverted(3, 80, 32, 0, "hardswish", 1),
    Inverted(3, 72, 32, 0, "hardswish", 1),
    Inverted(3, 72, 32, 0, "hardswish", 1),
    Inverted(3, 192, 48, 48, "hardswish", 1),
    Inverted(3, 272, 48, 72, "hardswish", 1),
    Inverted(5, 272, 64, 72, "hardswish", 2),
    Inverted(5, 384, 64, 96, "hardswish", 1),
    Inverted(5, 384, 64, 96, "hardswish", 1),
)
MN04_STEM, MN04_DIM, MN04_BANDS = 8, 384, 128
DS_CNN_CHANNELS = (16, 32, 64, 96, 128, 160, 224, 288, 288)
DS_CNN_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1)
DS_CNN_BANDS = 64


def mn04(tensors: Mapping[str, np.ndarray]) -> Network:
    """The float network of the authors' tensors; those of the classifier are not looked at.

    Raises:
        UserError: a tensor is missing or has another shape.
    """
    take = _Tensors("mn04", tensors)
    stem = take.layer("features.0", "full", (MN04_STEM, 1, 3, 3), "hardswish", 2)
    blocks, inputs = [Block((stem,))], MN04_STEM
    for number, shape in enumerate(MN04, start=1):
        layers, at = [], f"features.{number}.block"
        wide = shape.expanded, inputs, 1, 1
        if shape.expanded != inputs:
            layers.append(take.layer(f"{at}.0", "pointwise", wide, shape.activation))
        kernel = shape.expanded, 1, shape.kernel, shape.kernel
        layers.append(take.layer(f"{at}.{len(layers)}", "depthwise", kernel, shape.activation, shape.stride))
        squeeze = None
        if shape.inner:
            gate = f"{at}.{len(layers)}.conc_se_layers.0"
            squeeze = SqueezeExcite(
                take.dense(f"{gate}.fc1", (shape.inner, shape.expanded), "relu"),
                take.dense(f"{gate}.fc2", (shape.expanded, shape.inner), "sigmoid"),
            )
        last = f"{at}.{len(layers) + bool(squeeze)}"
        layers.append(take.layer(last, "pointwise", (shape.outputs, shape.expanded, 1, 1), "none"))
        blocks.append(Block(tuple(layers), squeeze, shape.stride == 1 and inputs == shape.outputs))
        inputs = shape.outputs
    end = take.layer(f"features.{len(blocks)}", "pointwise", (MN04_DIM, inputs, 1, 1), "hardswish")
    return Network("mn04", MN04_BANDS, (*blocks, Block((end,))), "mean")


def ds_cnn(tensors: Mapping[str, np.ndarray]) -> Network:
    """The float network of our own tensors.

    Raises:
        UserError: a tensor is missing or has another shape.
    """
    take = _Tensors("ds-cnn", tensors)
    blocks = [Block((take.layer("features.0", "full", (DS_CNN_CHANNELS[0], 1, 3, 3), "relu", 2),))]
    pairs = zip(DS_CNN_CHANNELS[:-1], DS_CNN_CHANNELS[1:], DS_CNN_STRIDES, strict=True)
    for number, (inputs, outputs, stride) in enumerate(pairs):
        at = 2 * number + 1
        depthwise = take.layer(f"features.{at}", "depthwise", (inputs, 1, 3, 3), "relu", stride)
        pointwise = take.layer(f"features.{at + 1}", "pointwise", (outputs, inputs, 1, 1), "relu")
        blocks.append(Block((depthwise, pointwise)))
    return Network("ds-cnn", DS_CNN_BANDS, tuple(blocks), "mean+max")


class _Tensors:
    """Layers made of named tensors."""

    def __init__(self, network: str, tensors: Mapping[str, np.ndarray]) -> None:
        self.network, self.tensors = network, tensors

    def layer(
        self, name: str, kind: Kind, shape: tuple[int, ...], activation: Activation, stride: int = 1
    ) -> ConvLayer:
        """A convolution with its batch norm; padding keeps the size at stride 1."""
        weight, norm = self._of(f"{name}.0.weight", shape), f"{name}.1"
        gain, bias, mean, variance = (
            self._of(f"{norm}.{part}", shape[:1])
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        gain = gain / np.sqrt(variance + EPSILON)
        return ConvLayer(
            name=name,
            kind=kind,
            weight=(weight * gain[:, None, None, None]).astype(np.float32),
            bias=(bias - mean * gain).astype(np.float32),
            stride=(stride, stride),
            padding=(shape[2] // 2, shape[3] // 2),
            activation=activation,
        )

    def dense(self, name: str, shape: tuple[int, int], activation: Activation) -> ConvLayer:
        weight = self._of(f"{name}.weight", shape).astype(np.float32)[:, :, None, None]
        bias = self._of(f"{name}.bias", shape[:1]).astype(np.float32)
        return ConvLayer(name=name, kind="dense", weight=weight, bias=bias, activation=activation)

    def _of(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        tensor = self.tensors.get(name)
        if tensor is None or tensor.shape != shape:
            found = "is missing" if tensor is None else f"has shape {list(tensor.shape)}"
            raise UserError(f"these are not the weights of {self.network}: {name} {found}, not {list(shape)}")
        return tensor.astype(np.float64)
