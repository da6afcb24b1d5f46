"""`kill -9` at random moments of training and of all that is written: nothing damaged is ever served.

    python -m tests.campaigns kill --kills 200

A child does the work and is killed after a random part of the time that it takes undisturbed. After every
kill the store, the bundle and the report are read in full; the next child goes on where the last was stopped.
What was finished under fire must in the end equal, to the last bit, what one quiet run gives.

Reports are written over and over, in two editions in turn, so that most kills fall into writing: the folder
must hold the one or the other, whole. Their figures are measured once, before the fire.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import pytest

from qmoe_core import bundles, config
from qmoe_core.bundles import export
from qmoe_core.errors import BundleError
from qmoe_core.paper.report import protocols, reproduce, ternary, writing
from qmoe_core.paper.report.costs import Effort
from qmoe_core.paper.report.document import ReportDocument
from qmoe_core.runtime.store import Store
from tests import tiny

KEPT = {"store", "bundle", "carried.qmoe", "report"}
EXPERTS = ("fp32", "q1", "bitnet", "q4")
SMALLEST = (
    "expert.hidden=[8]",
    "expert.epochs=1",
    "expert.popcount_finetune_epochs=1",
    "router.hidden=[4, 4]",
    "router.epochs=1",
    "router.mc_samples=2",
)
"""What a report's experts are trained with: what they learn does not matter here."""
EFFORT = Effort(calls=100, processes=1, energy_repetitions=0)
REWRITTEN = 3
"""How often a child writes both editions of a report: most of its time is spent on that."""


@dataclass
class Tally:
    """What came of an activity."""

    activity: str
    kills: int = 0
    completions: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Home:
    """The folders of one campaign."""

    root: Path
    data: Path

    @property
    def store(self) -> Store:
        return Store(self.root / "store")

    def train(self, *, write: bool) -> list[list[float]]:
        report = tiny.train(
            self.data,
            experts=EXPERTS,
            mixtures=(("bitnet", "q4"),),
            config=config.load(settings=tiny.SETTINGS),
            workers=1,
            bundle=str(self.root / "bundle") if write else None,
            store=self.store,
        )
        return [list(row.f1_folds) for row in report.rows]

    def export(self) -> None:
        export.export_packed(bundles.load(self.root / "bundle"), self.root / "carried.qmoe")

    def report(self, rewritten: int = 0) -> ReportDocument:
        """`qmoe reproduce --quick`, and its folder again and again, an older edition in turn with it."""
        random = ("evaluation.protocol=random", "evaluation.selection=best-on-test")
        of_code = config.load(settings=[*SMALLEST, *random])
        with tiny.quick_meters(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(reproduce, "load", lambda name: of_code)
            report = reproduce.reproduce(
                self.root / "report",
                names=[str(self.data)],
                quick=True,
                config=config.load(settings=SMALLEST),
                workers=1,
                effort=EFFORT,
                store=self.store,
            )
        for _ in range(rewritten):
            for edition in editions(report):
                writing.write(edition, self.root / "report")
        return report

    def wrong(self) -> str:
        """What is damaged, in a sentence; empty if all is well."""
        if found := self.store.verify().damaged:
            return f"damaged runs: {[(one.kind, one.reason) for one in found]}"
        try:
            for path in (self.root / "bundle", self.root / "carried.qmoe"):
                if path.exists():
                    bundles.load(path).verify()
        except BundleError as error:
            return str(error)
        return ""

    def wrong_report(self, whole: Sequence[dict[str, str]], there: bool) -> str:
        """As `wrong`, of the report, which must be one of these, or not there if it was not before."""
        found = contents(self.root / "report")
        if found is None:
            return (
                "the report is gone" if there and sys.platform == "linux" else ""
            )  # others swap in two steps
        return "" if found in whole else f"a report of {len(found)} files that is neither edition"


def editions(report: ReportDocument) -> tuple[ReportDocument, ReportDocument]:
    """An older edition, with other and fewer files, and the report itself."""
    return replace(report, title=f"{report.title}, before", sections=report.sections[:-1]), report


def contents(folder: Path) -> dict[str, str] | None:
    """Every file of a report by its name in the folder; None where there is no folder."""
    if not folder.exists():
        return None
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file()
    }


def campaign(kills: int, seed: int = 0, progress: Callable[[str], object] = print) -> list[Tally]:
    """The whole of it: a quarter of the kills to each activity."""
    import torch

    torch.set_num_threads(1)  # as in the children: sums in another order differ in the last bit
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(prefix="qmoe-kill-") as folder:
        data = tiny.dataset(Path(folder) / "data")
        quiet, fire = Home(Path(folder) / "quiet", data), Home(Path(folder) / "fire", data)
        _start("training", quiet).join()  # starts the server that children are forked from
        expected = quiet.train(write=True)
        digest = bundles.load(quiet.root / "bundle").digest
        tallies, whole = [], []
        for name in ACTIVITIES:
            tally = Tally(name)
            if name == "training":
                duration = _undisturbed(name, Home(Path(folder) / "timed", data))
            elif name == REPORTS:
                whole = [writing.files(edition) for edition in editions(quiet.report())]
                _lend_measurements(quiet, fire)
                duration = _undisturbed(name, quiet)
            else:
                fire.train(write=True)
                duration = _undisturbed(name, fire)
            while tally.kills < -(-kills // len(ACTIVITIES)):
                if name == "training" and tally.completions > tally.kills // 4:
                    shutil.rmtree(fire.root, ignore_errors=True)  # all is cached: begin anew
                    tally.completions = tally.kills // 4
                there = (fire.root / "report").exists()
                _one(tally, fire, rng.uniform(0.0, 1.1 * duration))
                if wrong := fire.wrong() or fire.wrong_report(whole, there):
                    tally.failures.append(f"kill {tally.kills}: {wrong}")
            if fire.train(write=True) != expected:
                tally.failures.append("the figures differ from those of a quiet run")
            if bundles.load(fire.root / "bundle").digest != digest:
                tally.failures.append("the bundle differs from that of a quiet run")
            progress(
                f"{name}: {tally.kills} kills in {duration:.2f} s of work, {len(tally.failures)} failures"
            )
            tallies.append(tally)
        fire.export()
        fire.report()
        if contents(fire.root / "report") != whole[-1]:
            tallies[-1].failures.append("the report differs from that of a quiet run")
        if left := _litter(fire):
            tallies[-1].failures.append(f"left behind: {left}")
    return tallies


def _lend_measurements(giver: Home, taker: Home) -> None:
    """All that a report needs but its trials, which are left to be put together under fire."""
    shutil.copytree(giver.store.root, taker.store.root, dirs_exist_ok=True)
    for kind in (protocols.KIND, ternary.KIND):
        shutil.rmtree(taker.store.root / kind)


def _undisturbed(activity: str, home: Home) -> float:
    started = time.perf_counter()
    child = _start(activity, home)
    child.join()
    assert child.exitcode == 0, "undisturbed, it must succeed"
    return time.perf_counter() - started


def _one(tally: Tally, home: Home, after_s: float) -> None:
    child = _start(tally.activity, home)
    child.join(after_s)
    if child.exitcode is None:
        child.kill()
        child.join()
        tally.kills += 1
    elif child.exitcode == 0:
        tally.completions += 1
    else:
        tally.failures.append(f"kill {tally.kills}: the next start failed with exit code {child.exitcode}")
        tally.kills += 1


def _start(activity: str, home: Home) -> ForkServerProcess:
    """A child of a server that has imported everything and run nothing: kills fall into the work."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch", "sklearn.model_selection", "qmoe_core.training.fit"])
    child = context.Process(target=_work, args=(activity, home))
    child.start()
    return child


def _work(activity: str, home: Home) -> None:
    import torch

    torch.set_num_threads(1)
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        ACTIVITIES[activity](home)


REPORTS = "report writing"
ACTIVITIES: dict[str, Callable[[Home], object]] = {
    "training": lambda home: home.train(write=False),
    "bundle writing": lambda home: home.train(write=True),
    "export": lambda home: home.export(),
    REPORTS: lambda home: home.report(REWRITTEN),
}


def _litter(home: Home) -> list[str]:
    """What killed processes left beside what is kept and in the store, after `gc` and one more of each."""
    home.store.gc()
    work = home.root / "store" / "tmp"
    return [path.name for folder in (home.root, work) for path in folder.glob("*") if path.name not in KEPT]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)


def main(arguments: argparse.Namespace) -> int:
    """The campaign; 1 if anything failed."""
    tallies = campaign(arguments.kills, arguments.seed, lambda line: print(line, file=sys.stderr))
    print("| killed during | kills | failures |\n| --- | --- | --- |")
    for one in tallies:
        print(f"| {one.activity} | {one.kills} | {len(one.failures)} |")
        for failure in one.failures[:5]:
            print(failure, file=sys.stderr)
    return int(any(one.failures for one in tallies))
