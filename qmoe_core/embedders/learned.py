"""Learned embedders whose network the engine runs: `mn04` and `ds-cnn`, without torch.

waveform → front end (each embedder's own) → network → embedding
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qmoe_core.audio import kaldi_mel
from qmoe_core.audio.decode import SAMPLE_RATE
from qmoe_core.embedders import ds_cnn
from qmoe_core.engine import network_storage
from qmoe_core.engine.network import Network
from qmoe_core.engine.packed_network import PackedNetwork

VERSION = 1
"""To be raised when the same network gives other numbers, so that no cache mixes the two."""


@dataclass(frozen=True)
class FrontEnd:
    """What an embedder's network is shown.

    Attributes:
        sample_rate: in Hz, of the waveforms.
        levels: waveform float32 [n] to float32 [bands, frames].
    """

    sample_rate: int
    levels: Callable[[np.ndarray], np.ndarray]


FRONT_ENDS = {
    "ds-cnn": FrontEnd(SAMPLE_RATE, ds_cnn.levels),
    "mn04": FrontEnd(kaldi_mel.SAMPLE_RATE, kaldi_mel.log_mel),
}


class LearnedEmbedder:
    """A network behind its front end (see `embedders.Embedder`).

    Args:
        name: what `embedders.create` makes the same one of.
        network: of that name, float or quantized.
    """

    takes = "waveforms"

    def __init__(self, name: str, network: Network) -> None:
        self.name, self.network, self.dim = name, network, network.dim
        self.front_end = FRONT_ENDS[network.name]
        self.sample_rate = self.front_end.sample_rate
        digest = hashlib.sha256(network_storage.dumps(network) + bytes([VERSION])).hexdigest()
        self.id = f"{name.partition('@')[0]}-{digest[:8]}"

    def embed(self, waveforms: np.ndarray) -> np.ndarray:
        """Waveforms float32 [B, n] at `sample_rate` to embeddings float32 [B, D]."""
        rows = [self.packed.embed(self.front_end.levels(waveform)) for waveform in waveforms]
        return np.stack(rows) if rows else np.empty((0, self.dim), np.float32)

    @cached_property
    def packed(self) -> PackedNetwork:
        """The network as this processor runs it."""
        return PackedNetwork(self.network)

    def __reduce__(self) -> tuple[type[LearnedEmbedder], tuple[str, Network]]:
        """To another process goes the network, which is packed there for its processor."""
        return LearnedEmbedder, (self.name, self.network)
