"""A whole path in one file: an embedder's network and one head, each packed in its format.

    waveform → front end → network → (embedding − mean) / std → head → softmax → one of the classes

It is what an engineer carries to a board: nothing of it is float that the format does not say.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from qmoe_core import embedders
from qmoe_core.bundles import Bundle
from qmoe_core.embedders.learned import FRONT_ENDS, LearnedEmbedder
from qmoe_core.engine import ExpertWeights, PackedExpert, from_tensors, network_storage, storage, to_tensors
from qmoe_core.engine.network import Network
from qmoe_core.engine.packed_network import PackedNetwork
from qmoe_core.errors import BundleError
from qmoe_core.routing.uncertainty import softmax
from qmoe_core.runtime.store import unfinished

KIND = "qmoe-path"
MAX_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class PathFile:
    """What a file holds.

    Attributes:
        network: of the embedder; head: the expert behind it; mean, std: float32 [D], between them.
        classes: what the head tells apart.
    """

    network: Network
    head: ExpertWeights
    mean: np.ndarray
    std: np.ndarray
    classes: tuple[str, ...]

    @property
    def sample_rate(self) -> int:
        """Of the waveforms, Hz."""
        return FRONT_ENDS[self.network.name].sample_rate

    def probabilities(self, waveform: np.ndarray) -> np.ndarray:
        """Of a waveform float32 [n] at `sample_rate`, five seconds of it: float32 [C]."""
        embedding = self._embed.embed(FRONT_ENDS[self.network.name].levels(waveform))
        return softmax(self._packed.logits((embedding - self.mean) / self.std))

    @cached_property
    def _embed(self) -> PackedNetwork:
        return PackedNetwork(self.network)

    @cached_property
    def _packed(self) -> PackedExpert:
        return PackedExpert(self.head)


def of_bundle(bundle: Bundle, expert: str) -> PathFile:
    """The path of one of a bundle's experts.

    Raises:
        BundleError: the bundle lacks the expert, or its embedder is no network of ours.
    """
    made = embedders.create(bundle.embedder)
    if not isinstance(made, LearnedEmbedder):
        raise BundleError(
            f"bundle {bundle.name}: {bundle.embedder} has no weights of its own to carry; "
            "expected one trained on ds-cnn or mn04"
        )
    return PathFile(made.network, bundle.weights(expert), bundle.mean, bundle.std, bundle.classes)


def dumps(path: PathFile) -> bytes:
    """The file's bytes, a .safetensors file."""
    names = json.dumps(path.classes, ensure_ascii=False).encode()
    tensors = {
        **network_storage.to_tensors(path.network, "embedder."),
        **to_tensors(path.head, "head."),
        "mean": np.asarray(path.mean, np.float32),
        "std": np.asarray(path.std, np.float32),
        "classes": np.frombuffer(names, np.uint8),
    }
    return storage.dump(KIND, path.head.name, tensors)


def loads(data: bytes, name: str) -> PathFile:
    """The path in a file's bytes; errors call it `name`.

    Raises:
        BundleError: bytes that are damaged, newer than this program, or something else.
    """
    tensors, header = storage.undump(KIND, data, name)
    try:
        network = network_storage.from_tensors(tensors, "embedder.")
        head = from_tensors(tensors, header, "head.")
        classes = tuple(json.loads(tensors["classes"].tobytes()))
        mean, std = tensors["mean"], tensors["std"]
    except (KeyError, ValueError, RecursionError) as error:
        raise BundleError(f"{name}: is no whole path ({error})") from None
    except BundleError as error:
        raise BundleError(f"{name}: {error}") from None
    fits = mean.shape == std.shape == (network.dim,) and head.dim == network.dim
    if not fits or len(classes) != head.classes or not all(isinstance(one, str) for one in classes):
        raise BundleError(f"{name}: its parts do not fit one another")
    return PathFile(network, head, mean, std, classes)


def export_path(bundle: Bundle, path: Path, *, expert: str) -> Path:
    """Write the whole path of one expert; an existing file is replaced.

    Raises:
        BundleError: see `of_bundle`; or the file cannot be written.
    """
    data, temporary = dumps(of_bundle(bundle, expert)), unfinished(path)
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        temporary.unlink(missing_ok=True)
    return path
