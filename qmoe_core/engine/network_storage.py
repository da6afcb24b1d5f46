"""The canonical form of a network on disk: packed rows, float parameters, and a description of the layers.

Three safetensors entries below a prefix, or in a file of their own with a checksum:

    structure   uint8, JSON in UTF-8: the fields of `Network`, `Block`, `SqueezeExcite` and `ConvLayer`, with
                `shape` [O, I, h, w] instead of arrays; levels are [scale, zero]
    codes       uint8: of each layer that is not `float`, in order, O rows of I · h · w packed levels
                (bits.py)
    numbers     float32: of each layer in order, the weights [O, I, h, w] if it is `float`, else the
                scale [O]; then the bias [O]

Order is that of `Network.layers`. The form is independent of the processor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from qmoe_core.engine import bits, storage
from qmoe_core.engine.network import (
    FORMATS,
    MAX_BLOCKS,
    MAX_CHANNELS,
    MAX_LAYERS,
    Block,
    ConvLayer,
    Levels,
    Network,
    SqueezeExcite,
)
from qmoe_core.errors import BundleError
from qmoe_core.experts.spec import LEVELS

KIND = "qmoe-network"
MAX_STRUCTURE = 1 << 20
"""Bytes of the description."""

_PLAIN = ("name", "kind", "format", "activation")


def dumps(network: Network) -> bytes:
    """The network as the bytes of a .safetensors file; the same network gives the same bytes."""
    return storage.dump(KIND, network.name, to_tensors(network))


def loads(data: bytes, path: str = "network") -> Network:
    """The network in the bytes that `dumps` gave.

    Args:
        data: of a whole file.
        path: what errors call it.

    Raises:
        BundleError: bytes that are damaged, newer than this program, or something else.
    """
    tensors, _ = storage.undump(KIND, data, path)
    try:
        return from_tensors(tensors)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from None


def to_tensors(network: Network, prefix: str = "") -> dict[str, np.ndarray]:
    """The network's three tensors; their names begin with `prefix`."""
    codes, numbers = [np.empty(0, np.uint8)], []
    for layer in network.layers:
        rows = layer.matrix.reshape(layer.outputs, -1)
        if layer.format == "float":
            numbers.append(rows.reshape(-1))
        else:
            codes.append(bits.pack(rows, LEVELS[layer.format].bits).reshape(-1))
            numbers.append(layer.scale)
        numbers.append(layer.bias)
    structure = json.dumps(_structure(network), separators=(",", ":"), ensure_ascii=False).encode()
    return {
        f"{prefix}structure": np.frombuffer(structure, np.uint8),
        f"{prefix}codes": np.concatenate(codes),
        f"{prefix}numbers": np.concatenate(numbers).astype(np.float32),
    }


def _structure(network: Network) -> dict[str, Any]:
    def levels(of: Levels | None) -> list | None:
        return None if of is None else [of.scale, of.zero]

    def layer(of: ConvLayer) -> dict[str, Any]:
        plain = {name: getattr(of, name) for name in _PLAIN}
        window = {"shape": of.matrix.shape, "stride": of.stride, "padding": of.padding}
        return plain | window | {"output": levels(of.output)}

    def squeeze(of: SqueezeExcite | None) -> dict[str, Any] | None:
        if of is None:
            return None
        return {
            "reduce": layer(of.reduce),
            "expand": layer(of.expand),
            "pooled": levels(of.pooled),
            "output": levels(of.output),
        }

    blocks = [
        {
            "layers": [layer(each) for each in block.layers],
            "squeeze": squeeze(block.squeeze),
            "residual": block.residual,
        }
        for block in network.blocks
    ]
    whole = {"name": network.name, "bands": network.bands, "pool": network.pool}
    return whole | {"input": levels(network.input), "blocks": blocks}


def from_tensors(tensors: Mapping[str, np.ndarray], prefix: str = "") -> Network:
    """The inverse of `to_tensors`; everything is checked before it is believed.

    Raises:
        BundleError: a sentence that names the tensor or layer and says what was expected.
    """
    codes, numbers, text = (
        _vector(tensors, prefix + name, dtype)
        for name, dtype in (("codes", "uint8"), ("numbers", "float32"), ("structure", "uint8"))
    )
    if text.size > MAX_STRUCTURE:
        raise BundleError(f"tensor {prefix}structure: has more than {MAX_STRUCTURE} bytes")
    try:
        structure = json.loads(text.tobytes())
    except (ValueError, RecursionError):
        raise BundleError(f"tensor {prefix}structure: expected JSON in UTF-8") from None
    parts = _Parts(_Reader(codes, prefix + "codes"), _Reader(numbers, prefix + "numbers"))
    whole = _fields("network", structure, "name", "bands", "pool", "input", "blocks")
    _whole("bands", whole["bands"])
    blocks = _list("blocks", whole["blocks"], MAX_BLOCKS)
    network = Network(
        name=whole["name"],
        bands=whole["bands"],
        pool=whole["pool"],
        input=_levels(whole["input"]),
        blocks=tuple(parts.block(block) for block in blocks),
    )
    parts.codes.end()
    parts.numbers.end()
    return network


class _Reader:
    """A tensor that is taken piece by piece, to its last number."""

    def __init__(self, data: np.ndarray, name: str) -> None:
        self.data, self.name, self.at = data, name, 0

    def take(self, *shape: int) -> np.ndarray:
        size = math.prod(shape)
        if self.at + size > self.data.size:
            raise BundleError(f"tensor {self.name}: is shorter than its layers need")
        self.at += size
        return self.data[self.at - size : self.at].reshape(shape)

    def end(self) -> None:
        if self.at != self.data.size:
            raise BundleError(f"tensor {self.name}: is longer than its layers need")


class _Parts:
    """Makes blocks and layers of their descriptions and of what follows in the two tensors of numbers."""

    def __init__(self, codes: _Reader, numbers: _Reader) -> None:
        self.codes, self.numbers = codes, numbers

    def block(self, said: Any) -> Block:
        said = _fields("block", said, "layers", "squeeze", "residual")
        if not isinstance(said["residual"], bool):
            raise BundleError("residual: expected true or false")
        *first, last = _list("layers", said["layers"], MAX_LAYERS)
        layers = [self.layer(each) for each in first]
        squeeze = None if said["squeeze"] is None else self.squeeze(said["squeeze"])
        return Block((*layers, self.layer(last)), squeeze, said["residual"])

    def squeeze(self, said: Any) -> SqueezeExcite:
        said = _fields("squeeze", said, "reduce", "expand", "pooled", "output")
        return SqueezeExcite(
            self.layer(said["reduce"]),
            self.layer(said["expand"]),
            _levels(said["pooled"]),
            _levels(said["output"]),
        )

    def layer(self, said: Any) -> ConvLayer:
        said = _fields("layer", said, *_PLAIN, "shape", "stride", "padding", "output")
        for name in _PLAIN:
            if not isinstance(said[name], str):
                raise BundleError(f"{name} of a layer: expected a text")
        shape, stride, padding = (said[name] for name in ("shape", "stride", "padding"))
        for name, numbers, count in (("shape", shape, 4), ("stride", stride, 2), ("padding", padding, 2)):
            if not isinstance(numbers, list) or len(numbers) != count:
                raise BundleError(f"{name} of layer {said['name']}: expected {count} whole numbers")
            for number in numbers:
                _whole(f"{name} of layer {said['name']}", number)
        if not all(1 <= size <= MAX_CHANNELS for size in shape):
            raise BundleError(f"shape of layer {said['name']}: expected 1 to {MAX_CHANNELS} each")
        if said["format"] not in FORMATS:
            raise BundleError(f"format of layer {said['name']}: expected one of {', '.join(FORMATS)}")
        parts: dict[str, Any] = {name: said[name] for name in _PLAIN}
        parts |= {"stride": tuple(stride), "padding": tuple(padding), "output": _levels(said["output"])}
        return ConvLayer(**(parts | self._matrix(said["name"], said["format"], shape)))

    def _matrix(self, name: str, layer_format: str, shape: list[int]) -> dict[str, Any]:
        """Weights or codes, scale and bias."""
        rows, inputs = shape[0], math.prod(shape[1:])
        if layer_format == "float":
            return {"weight": self.numbers.take(*shape), "bias": self.numbers.take(rows)}
        width = LEVELS[layer_format].bits
        packed = self.codes.take(rows, bits.row_bytes(inputs, width))
        codes = bits.unpack(packed, inputs, width)
        if not np.array_equal(bits.pack(codes, width), packed):
            raise BundleError(
                f"tensor {self.codes.name}: bits after a row's last level must be zero, in layer {name}"
            )
        scale, bias = self.numbers.take(rows), self.numbers.take(rows)
        return {"codes": codes.reshape(shape), "scale": scale, "bias": bias}


def _vector(tensors: Mapping[str, np.ndarray], name: str, dtype: str) -> np.ndarray:
    array = tensors.get(name)
    if array is None or array.ndim != 1 or array.dtype != dtype:
        raise BundleError(f"tensor {name} is missing or not a vector of {dtype}")
    return array


def _fields(what: str, said: Any, *names: str) -> dict[str, Any]:
    if not isinstance(said, dict) or set(said) != set(names):
        raise BundleError(f"a {what} is described by {', '.join(names)}, and nothing else")
    return said


def _list(what: str, said: Any, most: int) -> list:
    if not isinstance(said, list) or not 1 <= len(said) <= most:
        raise BundleError(f"{what}: expected a list of 1 to {most}")
    return said


def _whole(what: str, said: Any) -> int:
    if type(said) is not int:
        raise BundleError(f"{what}: expected a whole number")
    return said


def _levels(said: Any) -> Levels | None:
    if said is None:
        return None
    if not isinstance(said, list) or len(said) != 2 or type(said[0]) is not float:
        raise BundleError("levels: expected a scale and a zero point, such as [0.5, 128]")
    return Levels(said[0], _whole("zero point", said[1]))
