"""A map of the embeddings: two numbers a clip, near each other where the clips sound alike."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from qmoe_core.errors import ConfigError
from qmoe_core.runtime.identity import identity
from qmoe_core.runtime.store import Store

Method = Literal["pca", "t-sne"]
METHODS: tuple[Method, ...] = get_args(Method)
KIND = "projections"
STD_FLOOR = 1e-6
PERPLEXITY = 30.0


@dataclass(frozen=True)
class Projection:
    """Where each clip lies on the map.

    Attributes:
        method: `pca` (distances mean something) or `t-sne` (only who is near whom does).
        points: float32 [n, 2].
        explained: share of the variance that the two axes hold; None for t-SNE.
    """

    method: Method
    points: np.ndarray
    explained: float | None


def project(embeddings: np.ndarray, method: Method = "pca", store: Store | None = None) -> Projection:
    """Lay embeddings out on a plane; the same embeddings always lie the same way.

    Args:
        embeddings: float [n, D], n at least 3; standardised here.
        method: `pca`, or `t-sne`, which needs scikit-learn and a second or two.
        store: where the map is kept, so that it is made once; None makes it every time.

    Raises:
        ConfigError: another method, fewer than three clips, or scikit-learn is not installed.
    """
    if method not in METHODS:
        raise ConfigError(f"projection is '{method}'; accepted is {', '.join(METHODS)}")
    if len(embeddings) < 3:
        raise ConfigError(f"a map needs at least 3 clips, and there are {len(embeddings)}")
    content = hashlib.sha256(np.ascontiguousarray(embeddings).tobytes()).hexdigest()
    key = {
        "what": "projection",
        "method": method,
        "embeddings": content,
        "shape": [*embeddings.shape, str(embeddings.dtype)],
        "code": identity(KIND),
    }
    if store is not None and (kept := store.get(KIND, key)) is not None:
        return Projection(method, kept.tensors["points"], kept.metadata["explained"])
    x = embeddings.astype(np.float64)
    std = x.std(axis=0)
    z = (x - x.mean(axis=0)) / np.where(std < STD_FLOOR, 1.0, std)
    points, explained = _pca(z) if method == "pca" else (_tsne(z), None)
    made = Projection(method, points.astype(np.float32), explained)
    if store is not None:
        store.put(KIND, key, {"points": made.points}, {"method": method, "explained": explained})
    return made


def _pca(z: np.ndarray) -> tuple[np.ndarray, float]:
    """The two directions of most variance (by SVD), each turned so that its largest part is positive."""
    u, singular, directions = np.linalg.svd(z, full_matrices=False)
    largest = np.abs(directions[:2]).argmax(axis=1)
    sign = np.where(np.take_along_axis(directions[:2], largest[:, None], axis=1)[:, 0] < 0.0, -1.0, 1.0)
    points = np.zeros((len(z), 2))
    points[:, : len(sign)] = u[:, :2] * singular[:2] * sign
    variance = float((singular**2).sum())
    return points, float((singular[:2] ** 2).sum()) / variance if variance > 0.0 else 1.0


def _tsne(z: np.ndarray) -> np.ndarray:
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise ConfigError("t-sne needs scikit-learn, which is not installed; use pca") from None
    perplexity = min(PERPLEXITY, (len(z) - 1) / 3.0)
    return TSNE(perplexity=perplexity, init="pca", random_state=0, n_jobs=1).fit_transform(z)
