"""The Bayesian router as it serves: a small network with MC dropout (Eq. 5, §4.3), in numpy.

Linear(D, 128), ReLU, Dropout(0.2), Linear(128, 64), ReLU, Linear(64, N). Only what follows the dropout
is stochastic, so the first layer runs once however many samples are drawn. The masks depend on the seed
and on nothing else: sample s is the same thinned router for every clip, so that a clip's result does not
depend on what it was batched with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np

from qmoe_core.engine import kernels
from qmoe_core.engine.weights import HiddenLayer
from qmoe_core.errors import BundleError
from qmoe_core.runtime import machine_code


@dataclass(frozen=True)
class Router:
    """Weights [out, in] and biases [out], float32, first layer to last; N outputs, one an expert."""

    experts: tuple[str, ...]
    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    dropout: float
    seed: int = 0
    _kept: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.weights) < 2 or len(self.weights) != len(self.biases):
            raise BundleError("router: expected at least two layers, each with weights and biases")
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            fits = weight.ndim == 2 and bias.shape == weight.shape[:1]
            if not fits or (index > 0 and weight.shape[1] != self.weights[index - 1].shape[0]):
                raise BundleError(
                    f"router: layer {index} has shapes that do not fit, {weight.shape} and {bias.shape}"
                )
            if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
                raise BundleError(f"router: layer {index} holds numbers that are not finite")
        if self.weights[-1].shape[0] != len(self.experts):
            raise BundleError(f"router: {self.weights[-1].shape[0]} outputs for {len(self.experts)} experts")

    def __reduce__(self) -> tuple[Any, ...]:
        return Router, (self.experts, self.weights, self.biases, self.dropout, self.seed)

    @property
    def dim(self) -> int:
        """D, numbers in an embedding."""
        return self.weights[0].shape[1]

    @cached_property
    def _first(self) -> Callable[[np.ndarray], np.ndarray]:
        """The first layer, by far the largest, on the kernel of this processor: float32 [B · D] → [B · H]."""
        kernel = kernels.load(kernels.choose())
        weight, bias = self.weights[0], self.biases[0]
        unused = np.zeros_like(bias)
        layer = HiddenLayer(
            format="float", weight=weight, scale=unused + 1, bias=bias, gamma=unused, beta=unused
        )
        packed = kernel.pack((layer,))

        def first(z: np.ndarray) -> np.ndarray:
            out = np.empty(z.size // weight.shape[1] * len(bias), np.float32)
            kernel.forward(z, packed, kernel.scratch(packed), out)
            return out

        return first

    @cached_property
    def _rest(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What follows: widths, and all weights and all biases one layer after another."""
        widths = np.array([len(weight) for weight in self.weights])
        weights = np.concatenate([weight.ravel() for weight in self.weights[1:]])
        return widths, weights, np.concatenate(self.biases[1:])

    def forward(self, z: np.ndarray, samples: int = 0) -> np.ndarray:
        """g(z) without dropout, then of `samples` thinned routers: float32 [B, D] → [1 + samples, B, N].

        Raises:
            BundleError: they are not finite: no training gives weights so large.
        """
        out = np.empty((1 + samples, len(z), len(self.experts)), np.float32)
        hidden = self._first(np.ascontiguousarray(z, np.float32).ravel())
        _forward(hidden.reshape(len(z), -1), self._keep(samples), *self._rest, out)
        if not np.isfinite(out).all():
            raise BundleError("router: its weights are so large that what it says is not finite")
        return out

    def logits(self, z: np.ndarray) -> np.ndarray:
        """g(z) without dropout: standardised embeddings float32 [B, D] → float32 [B, N]; see `forward`."""
        return self.forward(z)[0]

    def mc_logits(self, z: np.ndarray, samples: int) -> np.ndarray:
        """g(z) of `samples` thinned routers: float32 [B, D] → float32 [samples, B, N]; see `forward`."""
        return self.forward(z, samples)[1:]

    def _keep(self, samples: int) -> np.ndarray:
        """A row of ones, and the masks; the longest are kept for later calls."""
        kept = self._kept.get("rows")
        if kept is None or len(kept) <= samples:
            ones = np.ones((1, len(self.weights[0])), np.float32)
            kept = self._kept["rows"] = np.concatenate([ones, self.masks(samples)])
        return kept[: samples + 1]

    def masks(self, samples: int) -> np.ndarray:
        """Inverted-dropout masks, float32 [samples, H]; the first m of n samples are those of m samples."""
        generator = np.random.default_rng(self.seed)
        keep = generator.random((samples, self.weights[0].shape[0])) >= self.dropout
        return (keep / (1.0 - self.dropout)).astype(np.float32)

    def to_tensors(self) -> dict[str, np.ndarray]:
        """The arrays to store."""
        tensors = {f"weight{i}": w for i, w in enumerate(self.weights)}
        return tensors | {f"bias{i}": b for i, b in enumerate(self.biases)}

    @staticmethod
    def from_tensors(
        tensors: dict[str, np.ndarray], experts: tuple[str, ...], dropout: float, seed: int = 0
    ) -> Router:
        """The router from `to_tensors`' arrays.

        Raises:
            BundleError: layers that are missing or do not fit each other.
        """
        count = sum(name.startswith("weight") for name in tensors)
        try:
            weights = tuple(np.asarray(tensors[f"weight{i}"], np.float32) for i in range(count))
            biases = tuple(np.asarray(tensors[f"bias{i}"], np.float32) for i in range(count))
        except KeyError as error:
            raise BundleError(f"router: the tensor {error} is missing") from None
        return Router(experts, weights, biases, dropout, seed)


@partial(machine_code.cached, error_model="numpy", fastmath={"contract", "reassoc"}, nogil=True)
def _forward(hidden, keep, widths, weights, biases, out):
    """What follows the first layer: [B, H] for each row of `keep` [P, H] → [P, B, N].

    A row of weights is a slice because an index that is a sum might be negative for all that numba knows, and
    weights would be read one by one.
    """
    layers = np.empty((widths.size, widths.max()), np.float32)
    for b in range(len(hidden)):
        for s in range(len(keep)):
            for i in range(widths[0]):
                layers[0, i] = max(hidden[b, i], np.float32(0.0)) * keep[s, i]
            weight, bias = 0, 0
            for k in range(1, widths.size):
                source = layers[k - 1, : widths[k - 1]]
                for j in range(widths[k]):
                    row = weights[weight : weight + source.size]
                    total = biases[bias]
                    for i in range(source.size):
                        total += row[i] * source[i]
                    layers[k, j] = total if k == widths.size - 1 else max(total, np.float32(0.0))
                    weight += source.size
                    bias += 1
            out[s, b] = layers[widths.size - 1, : widths[-1]]
