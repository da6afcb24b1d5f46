"""A packed convolutional network, ready to run: spectrograms in, embeddings out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from qmoe_core.engine import convolution_plan as plan
from qmoe_core.engine import kernels, network_reference
from qmoe_core.engine.arena import aligned
from qmoe_core.engine.network import Network
from qmoe_core.errors import ConfigError

_LENGTHS = 4
"""Numbers of frames whose program and scratch memory a thread keeps."""


class _Ready(NamedTuple):
    program: plan.Program
    workspace: np.ndarray


class PackedNetwork:
    """A network repacked once for the kernels of this processor; safe to share between threads.

    Args:
        network: float or quantized.
        kernel: one of `kernels.NAMES`, or `auto`. A quantized network with 16-bit weights runs in numpy.

    Raises:
        ConfigError: a kernel that does not exist or cannot run here.
    """

    def __init__(self, network: Network, kernel: str = "auto") -> None:
        self.name, self.bands, self.dim = network.name, network.bands, network.dim
        self.parameters = network.parameters
        self.kernel = kernels.choose(kernel)
        quantized = network.input is not None
        if quantized and any(layer.format == "int16" for layer in network.layers):
            self.kernel = "numpy"
        self._local = threading.local()
        self._network = network if self.kernel == "numpy" else None
        if self._network is None:
            self._packed = plan.pack(network, plan.VECTOR_BYTES[self.kernel])
            self._forward = kernels.load_network(self.kernel, quantized=quantized)

    @property
    def nbytes(self) -> int:
        """Bytes that stay in memory for the network."""
        if self._network is None:
            return self._packed.nbytes
        return sum(layer.matrix.nbytes + 2 * layer.bias.nbytes for layer in self._network.layers)

    def workspace_bytes(self, frames: int) -> int:
        """Bytes that it works in for so many frames, weights apart; 0 where numpy runs it."""
        return 0 if self._network is not None else int(plan.program(self._packed, frames).workspace)

    def embed(self, x: np.ndarray) -> np.ndarray:
        """Embeddings of spectrograms, one or any number of one length.

        Args:
            x: finite float32 [..., bands, frames].

        Returns:
            float32 [..., D].

        Raises:
            ValueError: spectrograms of another height, or too short.
        """
        x = np.ascontiguousarray(x, np.float32)
        if x.ndim < 2 or x.shape[-2] != self.bands:
            raise ValueError(f"{self.name}: expected [{self.bands}, frames], got {list(x.shape)}")
        clips = x.reshape(-1, *x.shape[-2:])
        if self._network is not None:
            return network_reference.forward(self._network, clips).reshape(*x.shape[:-2], self.dim)
        out = np.empty((len(clips), self.dim), np.float32)
        ready = self._ready(x.shape[-1])
        if len(clips):
            self._forward(
                clips.reshape(-1), self._packed.arena, ready.program.steps, ready.program.places,
                ready.workspace, out.reshape(-1), len(clips),
            )  # fmt: skip
        return out.reshape(*x.shape[:-2], self.dim)

    def layer_calls(self, x: np.ndarray) -> list[Callable[[], object]]:
        """What runs nothing, and then what runs each layer alone, in the order of `Network.layers`: to be
        timed. Activations are those that x, float32 [bands, frames], left in the workspace.

        Raises:
            ConfigError: numpy runs the network.
        """
        if self._network is not None:
            raise ConfigError(f"{self.name}: its layers run in numpy, and are not timed")
        self.embed(x)
        ready, flat = self._ready(x.shape[-1]), np.ascontiguousarray(x, np.float32).reshape(-1)
        out, program = np.empty(self.dim, np.float32), ready.program

        def call(steps: np.ndarray) -> Callable[[], object]:
            given = (flat, self._packed.arena, steps, program.places, ready.workspace, out, 1)
            return lambda: self._forward(*given)

        layers = np.isin(program.steps[:, plan.OP], (plan.PRODUCT, plan.DEPTHWISE, plan.DENSE))
        every = [program.steps[:0], *(program.steps[i : i + 1] for i in np.flatnonzero(layers))]
        return [call(steps) for steps in every]

    def _ready(self, frames: int) -> _Ready:
        """Program and scratch memory of this thread."""
        ready: dict[int, _Ready] = self._local.__dict__.setdefault("ready", {})
        if frames not in ready:
            program = plan.program(self._packed, frames)
            if len(ready) == _LENGTHS:
                ready.pop(next(iter(ready)))
            ready[frames] = _Ready(program, aligned(program.workspace))
        return ready[frames]
