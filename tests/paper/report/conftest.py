"""A finished report on the tiny dataset, with meters and processes replaced by quick stand-ins."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from qmoe_core import config as configuration
from qmoe_core.paper.report import reproduce
from qmoe_core.paper.report.costs import Effort
from qmoe_core.paper.report.document import ReportDocument
from qmoe_core.runtime.store import Store
from tests import tiny

EFFORT = Effort(calls=100, processes=2, energy_repetitions=0)


class Reproduced(NamedTuple):
    """A report, its folder, and what `reproduce` was called with."""

    report: ReportDocument
    folder: Path
    arguments: dict
    store: Store


@pytest.fixture(scope="module")
def quick_meters() -> Iterator[None]:
    with tiny.quick_meters():
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
        patch.setattr(reproduce, "load", lambda name: code)
        arguments = {
            "names": [str(tiny_dataset)],
            "quick": True,
            "config": configuration.load(settings=tiny_settings),
            "workers": 1,
            "effort": EFFORT,
            "store": store,
        }
        report = reproduce.reproduce(folder, **arguments)
        yield Reproduced(report, folder, arguments, store)
