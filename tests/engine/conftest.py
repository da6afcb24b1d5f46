"""Random experts of any format and shape."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from qmoe_core.engine import LEVELS, ExpertWeights, HiddenLayer


def random_expert(
    layer_format: str, sizes: tuple[int, ...], *, seed: int = 0, threshold: float = 0.05
) -> ExpertWeights:
    """An expert with sizes (D, hidden…, C) whose levels cover the whole range, extremes included."""
    rng = np.random.default_rng(seed)

    def floats(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    layers = []
    for inputs, outputs in pairwise(sizes[:-1]):
        matrix = {}
        if layer_format == "float":
            matrix["weight"] = floats(outputs, inputs) / np.float32(np.sqrt(inputs))
        else:
            width, low, high = LEVELS[layer_format]
            codes = rng.integers(low, high, (outputs, inputs), endpoint=True)
            if width == 1:
                codes = np.where(codes == 0, 1, codes)
            matrix["codes"] = np.where(rng.random(codes.shape) < 0.05, low, codes)
        layers.append(
            HiddenLayer(
                format=layer_format,
                scale=(rng.uniform(0.5, 1.5, outputs) if "codes" in matrix else np.ones(outputs)).astype(
                    np.float32
                ),
                bias=floats(outputs),
                gamma=rng.uniform(0.5, 1.5, outputs).astype(np.float32),
                beta=floats(outputs) / 10,
                threshold=threshold,
                **matrix,
            )
        )
    return ExpertWeights(
        f"random-{layer_format}", tuple(layers), floats(sizes[-1], sizes[-2]), floats(sizes[-1])
    )


@pytest.fixture
def make_expert() -> Callable[..., ExpertWeights]:
    return random_expert
