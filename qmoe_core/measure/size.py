"""Size of each expert as the file that is carried: bit-packed weights, norms, float head and scaler."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from qmoe_core import engine
from qmoe_core.experts.spec import EXPERTS, NAMES

PAPER_SHAPE = (1536, 640, 320, 50)
"""EfficientNet-B3's embedding to ESC-50's classes: the shape of the paper's Table 7."""
PAPER_KB = {
    "fp32": 4830.8,
    "q1": 241.6,
    "q2": 390.1,
    "q4": 687.1,
    "q8": 1281.0,
    "q16": 2468.8,
    "bitnet": 393.9,
}
"""The paper's Table 7, thousands of bytes."""


@dataclass(frozen=True)
class SizeRow:
    """One expert's file."""

    name: str
    parameters: int
    bytes: int
    reduction_vs_fp32: float
    paper_kb: float | None

    def to_json(self) -> dict[str, Any]:
        """`qmoe bench size --json`."""
        return dict(self.__dict__)


def random_expert(name: str, shape: Sequence[int] = PAPER_SHAPE, seed: int = 0) -> engine.ExpertWeights:
    """An expert of some shape with random weights: for sizes and timings, which do not depend on them.

    Args:
        name: one of the experts; shape: D, hidden sizes, C.
    """
    generator = np.random.default_rng(seed)
    spec = EXPERTS[name]
    layers = []
    for inputs, outputs in pairwise(shape[:-1]):
        codes = weight = None
        if spec.format == "float":
            weight = generator.normal(0.0, inputs**-0.5, (outputs, inputs)).astype(np.float32)
        else:
            bits, low, high = engine.LEVELS[spec.format]
            if bits == 1:
                codes = generator.choice(np.array([-1, 1], np.int8), (outputs, inputs))
            else:
                codes = generator.integers(low, high + 1, (outputs, inputs)).astype(np.int16)
        ones = np.ones(outputs, np.float32)
        layers.append(
            engine.HiddenLayer(
                format=spec.format,
                codes=codes,
                weight=weight,
                scale=ones * np.float32(inputs**-0.5),
                bias=generator.normal(0.0, 0.01, outputs).astype(np.float32),
                gamma=ones,
                beta=0.0 * ones,
                threshold=0.05 if spec.format == "sign" else 0.0,
            )
        )
    head = generator.normal(0.0, shape[-2] ** -0.5, (shape[-1], shape[-2])).astype(np.float32)
    return engine.ExpertWeights(name, tuple(layers), head, np.zeros(shape[-1], np.float32))


def sizes(shape: Sequence[int] = PAPER_SHAPE, experts: Sequence[str] = NAMES) -> list[SizeRow]:
    """Write every expert to disk and look at the file.

    Args:
        shape: D, hidden sizes, C; at the paper's, its Table 7 stands beside.
    """
    at_paper = tuple(shape) == PAPER_SHAPE
    scaler = {"mean": np.zeros(shape[0], np.float32), "std": np.ones(shape[0], np.float32)}
    found: dict[str, tuple[int, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in dict.fromkeys(["fp32", *experts]):
            path = Path(folder) / f"{name}.safetensors"
            weights = random_expert(name, shape)
            engine.save(weights, path, **scaler)
            found[name] = weights.parameters, path.stat().st_size
    return [
        SizeRow(
            name=name,
            parameters=found[name][0],
            bytes=found[name][1],
            reduction_vs_fp32=found["fp32"][1] / found[name][1],
            paper_kb=PAPER_KB.get(name) if at_paper else None,
        )
        for name in experts
    ]
