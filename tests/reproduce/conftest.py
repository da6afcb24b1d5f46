"""A finished report on the tiny dataset, with meters and processes replaced by quick stand-ins."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from qmoe_core import config as configuration
from qmoe_core.measure import bench, energy, latency, memory, size
from qmoe_core.reproduce import run
from qmoe_core.reproduce.costs import Effort
from qmoe_core.reproduce.document import Report
from qmoe_core.store import Store

EFFORT = Effort(calls=100, processes=2, energy_repetitions=0)


class Reproduced(NamedTuple):
    """A report, its folder, and what `reproduce` was called with."""

    report: Report
    folder: Path
    arguments: dict
    store: Store


@pytest.fixture(scope="module")
def quick_meters() -> Iterator[None]:
    """Nothing that takes ten seconds or another process."""

    def track(name: str, country: str, work: object) -> energy.Block:
        return energy.Block(name, 1000, 1.0, 1.0, 2e-6, 1e-6, 56.0, "modelled")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(energy, "track", track)
        patch.setattr(bench, "training_block", lambda block_s, country: track("training", country, None))
        patch.setattr(memory, "peaks_of_experts", lambda w, runs: memory.Peaks([90_000_000] * runs, 1000))
        patch.setattr(latency, "WARM_UP_S", 0.0)
        patch.setattr(size, "PAPER_SHAPE", (48, 24, 16, 3))
        yield


@pytest.fixture(scope="module")
def reproduced(tiny_dataset, tiny_run, tiny_settings, quick_meters, tmp_path_factory) -> Iterator[Reproduced]:
    """`qmoe reproduce --dataset tiny --quick`, whose sound experts the tiny run has trained already."""
    folder = tmp_path_factory.mktemp("report") / "out"
    store = Store(
        shutil.copytree(tiny_run.store.root, folder.with_name("store"))
    )  # others count what is there
    code = configuration.load(
        settings=[*tiny_settings, "evaluation.protocol=random", "evaluation.selection=best-on-test"]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "load", lambda name: code)
        arguments = {
            "names": [str(tiny_dataset)],
            "quick": True,
            "config": configuration.load(settings=tiny_settings),
            "workers": 1,
            "effort": EFFORT,
            "store": store,
        }
        report = run.reproduce(folder, **arguments)
        yield Reproduced(report, folder, arguments, store)
