"""Measurements that are kept: the same machine, code and settings are not measured twice.

A figure's address is all that it depends on: what was measured and how, the machine (processor, cores,
versions; not its load), and the identity of the code (`qmoe_core.runtime.identity`). `fresh` measures again
and replaces it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from qmoe_core.config import fingerprint
from qmoe_core.measure import environment
from qmoe_core.runtime.identity import identity
from qmoe_core.runtime.store import Store, StoreEntry

KIND = "measurements"


class Measured(NamedTuple):
    """What a measurement gives: arrays, and facts that JSON can hold."""

    tensors: Mapping[str, np.ndarray]
    metadata: dict[str, Any]


def measured(
    what: str,
    settings: Mapping[str, Any],
    measure: Callable[[], Measured],
    store: Store,
    *,
    fresh: bool = False,
) -> StoreEntry:
    """A measurement from the store, or made now and kept with the environment it was made in.

    Args:
        what: such as `latency`; settings: all that the figures depend on, JSON-able.
        measure: makes it; what it raises leaves the store as it was.
        fresh: measure even if it is there.

    Returns:
        The entry; `metadata["environment"]` is the machine at that time.
    """
    key = {
        "what": what,
        "settings": dict(settings),
        "machine": environment.identity(),
        "code": identity(KIND),
    }
    kept = store.get(KIND, key)
    if kept is not None and not fresh:
        return kept
    tensors, metadata = measure()
    if kept is not None:
        store.delete(f"{KIND}/{fingerprint(key)}")
    return store.put(KIND, key, tensors, {**metadata, "environment": environment.describe()})
