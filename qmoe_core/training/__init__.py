"""Training: one expert (`fit`), what mixes them (`routers`), folds (`crossval`), whole runs (`run`)."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path


@functools.cache
def code_version() -> str:
    """Fingerprint of the code that decides what a run gives; part of every run's address.

    A run is trained again when this changes, and only then: the rest of the lab may move freely.
    """
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for folder in ("experts", "training"):
        for path in sorted((package / folder).glob("*.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
