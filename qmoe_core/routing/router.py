"""The Bayesian router as it serves: a small network with MC dropout (Eq. 5, §4.3), in numpy.

Linear(D, 128), ReLU, Dropout(0.2), Linear(128, 64), ReLU, Linear(64, N). Only what follows the dropout
is stochastic, so the first layer runs once however many samples are drawn. The masks depend on the seed
and on nothing else: sample s is the same thinned router for every clip, so that a clip's result does not
depend on what it was batched with.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qmoe_core.errors import BundleError


@dataclass(frozen=True)
class Router:
    """Weights [out, in] and biases [out], float32, first layer to last; N outputs, one an expert."""

    experts: tuple[str, ...]
    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    dropout: float
    seed: int = 0

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

    @property
    def dim(self) -> int:
        """D, numbers in an embedding."""
        return self.weights[0].shape[1]

    @cached_property
    def _folded(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Transposed, contiguous weights: what the products want."""
        return [(np.ascontiguousarray(w.T), b) for w, b in zip(self.weights, self.biases, strict=True)]

    def _first(self, z: np.ndarray) -> np.ndarray:
        weight, bias = self._folded[0]
        return np.maximum(z @ weight + bias, 0.0)

    def _rest(self, hidden: np.ndarray) -> np.ndarray:
        for weight, bias in self._folded[1:-1]:
            hidden = np.maximum(hidden @ weight + bias, 0.0)
        weight, bias = self._folded[-1]
        return hidden @ weight + bias

    def logits(self, z: np.ndarray) -> np.ndarray:
        """g(z) without dropout: standardised embeddings float32 [B, D] → float32 [B, N].

        Raises:
            BundleError: they are not finite: no training gives weights so large.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            return _finite(self._rest(self._first(z)))

    def masks(self, samples: int) -> np.ndarray:
        """Inverted-dropout masks, float32 [samples, H]; the first m of n samples are those of m samples."""
        generator = np.random.default_rng(self.seed)
        keep = generator.random((samples, self.weights[0].shape[0])) >= self.dropout
        return (keep / (1.0 - self.dropout)).astype(np.float32)

    def mc_logits(self, z: np.ndarray, samples: int) -> np.ndarray:
        """g(z) of `samples` thinned routers: float32 [B, D] → float32 [samples, B, N].

        Raises:
            BundleError: they are not finite.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            hidden = self._first(z)
            return _finite(self._rest(self.masks(samples)[:, None, :] * hidden[None, :, :]))

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


def _finite(logits: np.ndarray) -> np.ndarray:
    if not np.isfinite(logits).all():
        raise BundleError("router: its weights are so large that what it says is not finite")
    return logits
