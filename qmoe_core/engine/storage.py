"""The canonical form of an expert on disk: packed rows, float parameters, and what they mean.

An expert is a handful of safetensors entries below a prefix that describe themselves. `to_tensors` and
`from_tensors` are what anything that holds several experts is made of; `save` and `load` keep one expert in a
file of its own, with a checksum. The form is independent of the processor: kernels repack it for themselves.

    layers.0.format  uint8, the format's name in ASCII
    layers.0.inputs  int32 [1], K
    layers.0.codes   uint8 [N, bytes of a row]   (see bits.py; `layers.0.weight` float32 [N, K] for `float`)
    layers.0.scale   float32 [N]                 (not for `float`)
    layers.0.threshold   float32 [1]             (only for `sign`)
    layers.0.bias, layers.0.gamma, layers.0.beta   float32 [N]
    head.weight      float32 [C, K]
    head.bias        float32 [C]
    scaler.mean, scaler.std   float32 [D]        (optional, in a file of one expert)
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as from_safetensors
from safetensors.numpy import save as to_safetensors

from qmoe_core.engine import bits
from qmoe_core.engine.weights import MAX_LAYERS, MAX_WIDTH, ExpertWeights, HiddenLayer
from qmoe_core.errors import BundleError
from qmoe_core.experts.spec import FORMATS, LEVELS
from qmoe_core.runtime.files import named

KIND = "qmoe-expert"
VERSION = 1


def to_tensors(weights: ExpertWeights, prefix: str = "") -> dict[str, np.ndarray]:
    """The expert's tensors, packed, by name; every name begins with `prefix`."""
    tensors: dict[str, np.ndarray] = {}
    for i, layer in enumerate(weights.layers):
        at = f"{prefix}layers.{i}."
        tensors[at + "format"] = np.frombuffer(layer.format.encode(), np.uint8)
        tensors[at + "inputs"] = np.array([layer.inputs], np.int32)
        if layer.format == "float":
            tensors[at + "weight"] = layer.matrix
        else:
            tensors[at + "codes"] = bits.pack(layer.matrix, LEVELS[layer.format].bits)
            tensors[at + "scale"] = layer.scale
        if layer.format == "sign":
            tensors[at + "threshold"] = np.array([layer.threshold], np.float32)
        tensors |= {at + "bias": layer.bias, at + "gamma": layer.gamma, at + "beta": layer.beta}
    return tensors | {f"{prefix}head.weight": weights.head_weight, f"{prefix}head.bias": weights.head_bias}


def from_tensors(
    tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any], prefix: str = ""
) -> ExpertWeights:
    """The inverse of `to_tensors`; everything is checked before it is believed.

    Args:
        tensors: arrays by name; others than this expert's may be among them.
        metadata: of which `name` becomes the expert's.
        prefix: what the names of this expert's tensors begin with.

    Raises:
        BundleError: a sentence that names the tensor and says what was expected.
    """
    name = metadata.get("name")
    if not isinstance(name, str):
        raise BundleError(f"an expert must have a name; got {name!r}")
    count = sum(f"{prefix}layers.{i}.format" in tensors for i in range(MAX_LAYERS + 1))
    layers = tuple(_layer(tensors, f"{prefix}layers.{i}.") for i in range(max(count, 1)))
    head = f"{prefix}head.weight"
    if head not in tensors or tensors[head].ndim != 2:
        raise BundleError(f"tensor {head}: expected float32 [classes, {layers[-1].outputs}]")
    shape = (tensors[head].shape[0], layers[-1].outputs)
    head_weight = _take(tensors, head, "float32", shape)
    return ExpertWeights(
        name, layers, head_weight, _take(tensors, f"{prefix}head.bias", "float32", shape[:1])
    )


def _layer(tensors: Mapping[str, np.ndarray], at: str) -> HiddenLayer:
    """The hidden layer whose tensors' names begin with `at`."""
    written = tensors.get(at + "format")
    names = {name.encode(): name for name in FORMATS}
    layer_format = None if written is None else names.get(written.tobytes())
    if layer_format is None:
        raise BundleError(f"tensor {at}format: expected one of {', '.join(FORMATS)}, in ASCII")
    inputs = int(_take(tensors, at + "inputs", "int32", (1,))[0])
    if not 1 <= inputs <= MAX_WIDTH:
        raise BundleError(f"tensor {at}inputs: expected 1 to {MAX_WIDTH}, got {inputs}")
    bias = tensors.get(at + "bias")
    if bias is None or bias.ndim != 1:
        raise BundleError(f"tensor {at}bias is missing or not a vector; expected float32 [outputs]")
    rows = bias.shape

    parts: dict[str, Any] = {
        part: _take(tensors, at + part, "float32", rows) for part in ("bias", "gamma", "beta")
    }
    if layer_format == "float":
        parts["weight"] = _take(tensors, at + "weight", "float32", (*rows, inputs))
        parts["scale"] = np.ones(rows, np.float32)
    else:
        width = LEVELS[layer_format].bits
        packed = _take(tensors, at + "codes", "uint8", (*rows, bits.row_bytes(inputs, width)))
        parts["codes"] = bits.unpack(packed, inputs, width)
        if not np.array_equal(bits.pack(parts["codes"], width), packed):
            raise BundleError(f"tensor {at}codes: bits after the last of {inputs} levels must be zero")
        parts["scale"] = _take(tensors, at + "scale", "float32", rows)
    if layer_format == "sign":
        parts["threshold"] = float(_take(tensors, at + "threshold", "float32", (1,))[0])
    try:
        return HiddenLayer(format=layer_format, **parts)
    except BundleError as error:
        raise BundleError(f"tensor {at}{error}") from None


def _take(tensors: Mapping[str, np.ndarray], key: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    array = tensors.get(key)
    if array is None:
        raise BundleError(f"tensor {key} is missing; expected {dtype} {list(shape)}")
    if array.dtype != dtype or array.shape != shape:
        raise BundleError(
            f"tensor {key}: expected {dtype} {list(shape)}, got {array.dtype} {list(array.shape)}"
        )
    return array


class ExpertFile(NamedTuple):
    """What a file of one expert holds; mean and std (float32 [D]) standardise its input, if they travel."""

    weights: ExpertWeights
    mean: np.ndarray | None
    std: np.ndarray | None


def save(
    weights: ExpertWeights,
    path: str | os.PathLike[str],
    *,
    mean: np.ndarray | None = None,
    std: np.ndarray | None = None,
) -> None:
    """Write one expert to a .safetensors file: all of it or nothing.

    Args:
        weights: the expert.
        path: of the file; an existing one is replaced.
        mean: float32 [D] of the scaler that must be applied before the expert, with `std`.
        std: float32 [D], positive.

    Raises:
        BundleError: a scaler that does not fit.
        OSError: the folder cannot be written.
    """
    tensors = to_tensors(weights)
    if mean is not None or std is not None:
        tensors |= {"scaler.mean": np.asarray(mean, np.float32), "scaler.std": np.asarray(std, np.float32)}
        _check_scaler(tensors, weights.dim)
    _write_whole(Path(path), dump(KIND, weights.name, tensors))


def load(path: str | os.PathLike[str]) -> ExpertWeights:
    """The expert in a file that `save` wrote; raises as `load_with_scaler` does."""
    return load_with_scaler(path).weights


def loads(data: bytes, path: str | os.PathLike[str]) -> ExpertWeights:
    """The expert in the bytes of a file that `save` wrote; errors call it `path`."""
    return _parse(data, path).weights


def load_with_scaler(path: str | os.PathLike[str]) -> ExpertFile:
    """Everything in a file that `save` wrote.

    Raises:
        BundleError: a file that is missing, damaged, newer than this program, or something else.
    """
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read as a .safetensors file ({error})") from None
    return _parse(data, path)


def dump(kind: str, name: str, tensors: dict[str, np.ndarray]) -> bytes:
    """A file of this program: what it is, the name of what it holds, and its tensors with a checksum."""
    header = {"kind": kind, "version": str(VERSION), "name": name, "sha256": _digest(tensors)}
    return _in_order(to_safetensors(tensors, header))


def undump(
    kind: str, data: bytes, path: str | os.PathLike[str]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and header of a file that `dump` wrote.

    Raises:
        BundleError: bytes that are damaged, newer than this program, or something else; named `path`.
    """
    try:
        tensors = from_safetensors(data)
        header = _header(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path}: cannot be read as a .safetensors file ({error})") from None
    if header.get("kind") != kind:
        what = kind.removeprefix("qmoe-")
        raise BundleError(f"{path}: is not a packed {what}; expected a file that this program saved")
    if header.get("version") != str(VERSION):
        raise BundleError(
            f"{path}: has format version {header.get('version')}, this program reads version {VERSION}"
        )
    if header.get("sha256") != _digest(tensors):
        raise BundleError(f"{path}: is damaged, its checksum does not fit; copy or export it again")
    return tensors, header


def _parse(data: bytes, path: str | os.PathLike[str]) -> ExpertFile:
    tensors, header = undump(KIND, data, path)
    try:
        weights = from_tensors(tensors, header)
        if not any(key.startswith("scaler.") for key in tensors):
            return ExpertFile(weights, None, None)
        _check_scaler(tensors, weights.dim)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from None
    return ExpertFile(weights, tensors["scaler.mean"], tensors["scaler.std"])


def _header(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file, which its library reads from paths alone."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]).get("__metadata__", {})


def _in_order(data: bytes) -> bytes:
    """A safetensors file whose metadata is in alphabetical order: its library shuffles it at every write, and
    the same expert should be the same file."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return data[:8] + text.ljust(size) + data[8 + size :]


def _check_scaler(tensors: Mapping[str, np.ndarray], dim: int) -> None:
    for key in ("scaler.mean", "scaler.std"):
        array = tensors.get(key)
        if (
            array is None
            or array.dtype != np.float32
            or array.shape != (dim,)
            or not np.isfinite(array).all()
        ):
            raise BundleError(f"tensor {key}: expected {dim} finite float32 numbers")
    if not (tensors["scaler.std"] > 0).all():
        raise BundleError("tensor scaler.std: every deviation must be above zero")


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        array = tensors[key]
        digest.update(f"{key} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _write_whole(path: Path, data: bytes) -> None:
    """Write to a temporary name beside `path`, flush to the disk, then rename: never half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with named(path), temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
