"""Identity of cached results: what of the code and the libraries is part of a result's address.

Each part of the computation has a version. Whoever changes what a part computes raises its version by hand;
whoever only moves, renames or comments code does not. `tests/golden/test_identity.py` compares small results
of every part with kept ones, and fails when a part's results change and its version does not.

An address holds the versions of all parts that a kind of result depends on, and major and minor version of
their libraries: a result that was computed otherwise is computed again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed


@dataclass(frozen=True)
class Versioned:
    """A part of the computation.

    Attributes:
        version: raised by hand when its results change.
        libraries: distributions whose versions may change its results.
    """

    version: int
    libraries: tuple[str, ...] = ()


PARTS = {
    "embedding": Versioned(3, ("numpy", "soundfile", "soxr")),  # decoding, log-mel, statistics, pooling
    "sounds": Versioned(1, ("numpy", "scipy", "soxr")),  # the bank and the synthetic sounds made of it
    "student": Versioned(1, ("numpy", "torch")),  # the training of ds-cnn on them
    "expert": Versioned(1, ("numpy", "torch")),  # formats, networks, the training of one expert
    "router": Versioned(1, ("numpy", "torch")),  # the training of the router alone
    "joint": Versioned(1, ("numpy", "torch")),  # the training of router and experts together
    "mixture": Versioned(1, ("numpy",)),  # routing, dropout masks, curiosity, mixing, uncertainty
    "scores": Versioned(1),  # weighted F1 and accuracy
    "engine": Versioned(1, ("llvmlite", "numba", "numpy")),  # packed experts and their kernels
    "projection": Versioned(1, ("numpy", "scikit-learn")),  # the map of embeddings
    "quantization": Versioned(1, ("numpy", "torch")),  # embedders in number formats: calibration and training
    "ternary": Versioned(1, ("numpy", "torch")),  # the BitNet of the paper's code
}
"""Every part; see `Versioned`."""

KINDS = {
    "embeddings": ("embedding",),
    "sound-bank": ("sounds",),
    "synthetic-clips": ("embedding", "sounds"),
    "students": ("embedding", "sounds", "student"),
    "experts": ("expert", "scores"),
    "final-experts": ("expert",),
    "routers": ("router", "mixture", "scores"),
    "joint-mixtures": ("expert", "router", "joint", "mixture", "scores"),
    "held-out": ("expert", "router", "mixture"),
    "trials": ("expert", "router", "joint", "mixture", "scores"),
    "embedder-inputs": ("embedding", "sounds"),
    "quantized-embedders": ("quantization",),
    "paper-code-ternary": ("expert", "ternary", "scores"),
    "measurements": ("engine",),
    "projections": ("projection",),
    "report": ("expert", "router", "joint", "mixture", "scores", "ternary", "engine"),
}
"""The parts that each kind of result depends on: the store's kinds, and the report of `qmoe reproduce`."""


def identity(kind: str, libraries: Iterable[str] = ()) -> dict[str, str]:
    """Versions of the parts behind a kind of result and of their libraries: `code` in its address.

    Args:
        kind: one of `KINDS`.
        libraries: distributions that this result depends on besides, such as an embedder's own.

    >>> identity("final-experts")["expert"]
    '1'
    >>> sorted(identity("projections"))
    ['numpy', 'projection', 'scikit-learn']
    """
    parts = {name: PARTS[name] for name in KINDS[kind]}
    needed = {library for part in parts.values() for library in part.libraries} | {*libraries}
    return {name: str(part.version) for name, part in parts.items()} | {
        library: _minor(library) for library in sorted(needed)
    }


def described(kind: str) -> str:
    """The identity as one line, for documents that people read."""
    return ", ".join(f"{name} {version}" for name, version in identity(kind).items())


@functools.cache
def _minor(library: str) -> str:
    """Major and minor number of a distribution, or `none`: `2.14.1+cpu` gives `2.14`."""
    try:
        return ".".join(installed(library).partition("+")[0].split(".")[:2])
    except PackageNotFoundError:
        return "none"
