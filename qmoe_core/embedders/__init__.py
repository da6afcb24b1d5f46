"""Embedders: from waveforms, or pictures, to the numbers experts classify, behind one small protocol.

A name says which: `ds-cnn`, `mn04`, `logmel-stats`, or a model of timm such as `efficientnet_b3`; `ds-cnn:q8`
and `mn04:q2` are networks in a number format (`qmoe models quantize`). Behind @ follow what it is made with,
and what the paper's code does differently, for reproduction only:

- `@pictures`: takes pictures of spectrograms, not recordings; datasets of pictures add it by themselves.
- `@random` or `@random=7`: random weights, of that seed; `@/path/file.safetensors`: those of a file.
- `@no-normalisation`: ImageNet's mean and deviation are left out (the paper's ESC-50 and UrbanSound8K).
- `@unseeded-projection`: a random linear layer follows, drawn anew each time (the same two sets). The draw
  becomes part of the name, `@unseeded-projection=1f3a90c2`, with which the same layer is made again.
"""

from __future__ import annotations

import difflib
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from qmoe_core.audio.decode import SAMPLE_RATE
from qmoe_core.embedders import learned, logmel_stats, models, picture_stats
from qmoe_core.engine import network_storage
from qmoe_core.errors import BundleError, UserError

if TYPE_CHECKING:
    from qmoe_core.datasets.manifest import Manifest, Ready

VARIANTS = "pictures, random, random=SEED, no-normalisation, unseeded-projection and a .safetensors file"

OWN = (logmel_stats.NAME, *models.ARCHITECTURES)
"""Embedders that need neither torch nor timm."""
SHIPPED = (logmel_stats.NAME, *models.shipped())
"""Those that can be used without a download."""


class Embedder(Protocol):
    """Anything that turns 5 s windows, or pictures, into embeddings."""

    @property
    def name(self) -> str:
        """What `create` makes the same one of."""
        ...

    @property
    def takes(self) -> str:
        """`waveforms`, or `pictures`; `nothing` where the embeddings came with the dataset."""
        ...

    @property
    def id(self) -> str:
        """Name and a hash of all that decides the numbers: equal ids give equal embeddings."""
        ...

    @property
    def dim(self) -> int:
        """D, the length of an embedding."""
        ...

    @property
    def sample_rate(self) -> int:
        """Of the waveforms that it takes, in Hz."""
        ...

    def embed(self, inputs: Any, /) -> np.ndarray:
        """Windows of 5 s, float32 [B, n], or B pictures uint8 [h, w, 3], to float32 [B, D]."""
        ...


class ImportedEmbeddings:
    """Stands where the embedder would, for a dataset whose embeddings are ready."""

    takes = "nothing"
    sample_rate = SAMPLE_RATE

    def __init__(self, ready: Ready) -> None:
        self.name = self.id = ready.id
        self.dim = ready.dim

    def embed(self, inputs: Sequence[object], /) -> np.ndarray:
        raise _not_computable(self.id)


def for_dataset(manifest: Manifest, name: str, *, weights: str | Path | None = None) -> Embedder:
    """The embedder of that name, as it takes what the dataset holds.

    Args:
        name, weights: see `create`. Of a dataset with embeddings of its own, the default.

    Raises:
        UserError: see `create`; or it does not go with the dataset.
    """
    if manifest.ready is not None:
        if name not in (logmel_stats.NAME, manifest.ready.id) or weights is not None:
            raise UserError(
                f"{manifest.name} came with embeddings, which {name} cannot replace; leave it out."
            )
        return ImportedEmbeddings(manifest.ready)
    pictured = "pictures" in name.split("@")[1:]
    if pictured and manifest.media == "audio":
        raise UserError(f"{manifest.name} holds recordings, and {name} takes pictures; leave @pictures out.")
    if manifest.media == "pictures" and not pictured:
        name += "@pictures"
    return create(name, weights=weights)


def create(name: str, *, weights: str | Path | None = None, seed: int = 0) -> Embedder:
    """Make an embedder by name.

    Args:
        name: "ds-cnn", "mn04", "logmel-stats", or a model of timm such as "efficientnet_b3", and what may
            stand behind it (see above).
        weights: of a timm model: None takes those of the hub, a path those of a local safetensors file, and
            "random" draws them. Log-mel statistics have none. The name may say the same.
        seed: of random weights.

    Raises:
        UserError: there is no such embedder, or its weights cannot be had.
    """
    model, *variants = name.split("@")
    if model.startswith("imported-"):
        raise _not_computable(name)
    given: dict[str, Any] = {"weights": weights, "seed": seed}
    for variant in variants:
        given |= _variant(variant)
    if model == logmel_stats.NAME:
        if given.keys() - {"weights", "seed", "pictures"} or given["weights"] is not None:
            raise UserError(f"{model} has no weights to load; leave weights out.")
        return picture_stats.PictureStats() if "pictures" in given else logmel_stats.LogMelStats()
    if model.partition(":")[0] in models.ARCHITECTURES:
        if given.keys() - {"weights", "seed"} or given["weights"] == "random":
            raise UserError(
                f"{model} takes recordings and trained weights; behind @ a .safetensors file may stand."
            )
        made_of = given["weights"]
        full = model if made_of is None else f"{model}@{Path(made_of).resolve()}"
        return learned.LearnedEmbedder(full, models.network(model, made_of))
    try:
        from qmoe_core.embedders import timm_backbone

        known = timm_backbone.names()
    except ImportError:
        raise UserError(
            f"The embedder {name} needs torch and timm, which are not installed; "
            f"install them, or use {logmel_stats.NAME}."
        ) from None
    if model not in known:
        close = difflib.get_close_matches(model, [*OWN, *sorted(known)], n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise UserError(
            f"There is no embedder {model}; {', '.join(OWN)} and the models of timm are accepted.{hint}"
        )
    return timm_backbone.TimmBackbone(model, **given)


def recorded(name: str, id_: str) -> Embedder:
    """The embedder of that name, in the version that gave this id where the program still has that.

    Raises:
        UserError: see `create`.
    """
    before = logmel_stats.LogMelStats(version=1)
    return before if (name, id_) == (before.name, before.id) else create(name)


def cost(embedder: Embedder) -> float:
    """What embedders are put in order by: bytes of weights; 0 for statistics, infinite for models of timm."""
    if isinstance(embedder, learned.LearnedEmbedder):
        return float(len(network_storage.dumps(embedder.network)))
    statistics = isinstance(embedder, logmel_stats.LogMelStats | picture_stats.PictureStats)
    return 0.0 if statistics else float("inf")


def carried(name: str, network: bytes, file: str) -> Embedder:
    """The embedder whose network came with a bundle.

    Raises:
        BundleError: no file of a network, or of one whose front end is not known.
    """
    made = network_storage.loads(network, file)
    if made.name not in models.ARCHITECTURES:
        raise BundleError(f"{file}: holds the network of {made.name}, which has no front end here")
    return learned.LearnedEmbedder(name, made)


def _variant(text: str) -> dict[str, Any]:
    """What stands behind @, as arguments of `TimmBackbone`.

    Raises:
        UserError: nothing of the kind.
    """
    kind, _, value = text.partition("=")
    if text == "pictures":
        return {"pictures": True}
    if text == "no-normalisation":
        return {"normalise": False}
    if kind == "random" and re.fullmatch(r"\d{0,9}", value):
        return {"weights": "random", "seed": int(value or 0)}
    if kind == "unseeded-projection" and re.fullmatch(r"([0-9a-f]{8})?", value):
        return {"projection": value or secrets.token_hex(4)}
    if text.endswith(".safetensors"):
        return {"weights": text}
    raise UserError(f"@{text} is nothing that an embedder can be made with; accepted are {VARIANTS}.")


def _not_computable(name: str) -> UserError:
    return UserError(
        f"{name} are embeddings that were imported: how they were computed is not known, so they cannot be "
        "computed of another recording."
    )
