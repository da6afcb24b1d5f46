"""Kept measurements: made once, again when asked, and again for other settings."""

from __future__ import annotations

import numpy as np
import pytest

from qmoe_core.measure import kept
from qmoe_core.measure.kept import Measured, measured
from qmoe_core.runtime.store import Store


def test_a_measurement_is_made_once(store: Store) -> None:
    made = iter(range(10))

    def make() -> Measured:
        return Measured({"times": np.arange(3)}, {"figure": next(made)})

    first = measured("latency", {"calls": 3}, make, store)
    assert measured("latency", {"calls": 3}, make, store).metadata == first.metadata
    assert first.metadata["environment"]["processor"]
    assert measured("latency", {"calls": 4}, make, store).metadata["figure"] == 1
    assert measured("latency", {"calls": 3}, make, store, fresh=True).metadata["figure"] == 2
    assert measured("latency", {"calls": 3}, make, store).metadata["figure"] == 2


def test_a_failed_measurement_leaves_the_old_one(store: Store) -> None:
    measured("latency", {}, lambda: Measured({}, {"figure": 1}), store)
    with pytest.raises(ZeroDivisionError):
        measured("latency", {}, lambda: Measured({}, {"figure": 1 / 0}), store, fresh=True)
    assert measured("latency", {}, lambda: Measured({}, {"figure": 2}), store).metadata["figure"] == 1


def test_other_code_is_another_measurement(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    measured("latency", {}, lambda: Measured({}, {"figure": 1}), store)
    monkeypatch.setattr(kept, "identity", lambda kind: {"engine": "other"})
    assert measured("latency", {}, lambda: Measured({}, {"figure": 2}), store).metadata["figure"] == 2
