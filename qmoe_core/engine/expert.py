"""A packed expert, ready to run: standardised embeddings in, logits out."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from qmoe_core.engine import arena, kernels
from qmoe_core.engine.weights import ExpertWeights


@dataclass(frozen=True, eq=False)
class Workspace:
    """Scratch memory of one caller, so that calls allocate nothing; what is in it never matters."""

    memory: np.ndarray


class PackedExpert:
    """An expert repacked once for the kernels of this processor; safe to share between threads.

    Args:
        weights: the expert.
        kernel: one of `kernels.NAMES`, or `auto`.

    Raises:
        ConfigError: a kernel that does not exist or cannot run here.
    """

    def __init__(self, weights: ExpertWeights, kernel: str = "auto") -> None:
        self.name = weights.name
        self.dim = weights.dim
        self.classes = weights.classes
        self.parameters = weights.parameters
        self.kernel = kernels.choose(kernel)
        kernel_here = kernels.load(self.kernel)
        self._packed = kernel_here.pack(arena.stack(weights))
        self._scratch, self._forward = kernel_here.scratch, kernel_here.forward
        self._local = threading.local()

    @property
    def nbytes(self) -> int:
        """Bytes that stay in memory for the expert."""
        return self._packed.nbytes

    def workspace(self) -> Workspace:
        """Scratch memory for `logits_into`: one for every thread that calls."""
        return Workspace(self._scratch(self._packed))

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Logits of standardised embeddings, one or any number.

        Args:
            x: finite float32 [..., D].

        Returns:
            float32 [..., C].

        Raises:
            ValueError: embeddings of another size.
        """
        x = np.ascontiguousarray(x, np.float32)
        if x.shape[-1:] != (self.dim,):
            raise ValueError(f"{self.name}: expected embeddings of {self.dim} numbers, got {list(x.shape)}")
        out = np.empty((*x.shape[:-1], self.classes), np.float32)
        try:
            workspace = self._local.workspace
        except AttributeError:
            workspace = self._local.workspace = self.workspace()
        self.logits_into(x.reshape(-1), workspace, out.reshape(-1))
        return out

    def logits_into(self, x: np.ndarray, workspace: Workspace, out: np.ndarray) -> None:
        """As `logits`, without a single allocation.

        Args:
            x: finite float32 [B · D], contiguous: one embedding after another.
            workspace: of this expert, and of this caller alone.
            out: float32 [B · C], contiguous; written.

        Raises:
            ValueError: sizes that do not fit one another.
            TypeError: arrays of another type.
        """
        self._forward(x, self._packed, workspace.memory, out)
