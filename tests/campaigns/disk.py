"""Full disks, read-only folders, two trainers on one key, slow and vanishing stores, a clock set back.

    python -m tests.campaigns disk        (as root: it mounts small file systems of its own)

Each scenario trains through the command line, in a child, on a store in that condition. What is wrong must be
said in one line with exit code 2; when it is mended, the next start must end with the figures of a quiet run
and a store without damage.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from qmoe_core.runtime.store import Store
from tests import tiny
from tests.campaigns import commands
from tests.campaigns.commands import Ended, Running

MONTH_S = 30 * 86_400.0


@dataclass
class Result:
    """What came of a scenario."""

    scenario: str
    said: str = ""
    failures: list[str] = field(default_factory=list)


def refused(ended: Ended, result: Result, *words: str) -> None:
    """Note it if this is not one line that says one of `words`."""
    result.said = ended.sentences[-1] if ended.sentences else ended.err[-200:]
    if wrong := ended.wrongly_refused(*words):
        result.failures.append(wrong)


def succeeded(ended: Ended, result: Result, expected: str) -> None:
    """Note it if this failed, or gave other figures."""
    if ended.code != 0:
        result.failures.append(f"the next start failed: {ended.err[-500:]!r}")
    elif figures(ended.out) != expected:
        result.failures.append("the figures differ from those of a quiet run")


def figures(document: str) -> str:
    """The rows of `train --json`, without the time it took."""
    return document.partition('"rows"')[2]


def start(data: Path, store: Path, condition: Callable[[], object] | None = None) -> Running:
    """Begin a training in a child."""
    settings = [part for setting in tiny.SETTINGS for part in ("--set", setting)]
    command = ["train", str(data), "--experts", "fp32,q1", "--workers", "1", "--json", *settings]
    return commands.start(command, {"QMOE_STORE": str(store)}, condition)


def train(data: Path, store: Path, condition: Callable[[], object] | None = None) -> Ended:
    return start(data, store, condition).ended()


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A file system of some size, in memory."""
    folder.mkdir()
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


def may_mount() -> bool:
    """Whether this user, on this machine, can mount a file system."""
    with tempfile.TemporaryDirectory() as home:
        try:
            with mounted(Path(home) / "x", "64k"):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


def full_disk(home: Path, data: Path, expected: str) -> Result:
    result = Result("disk full")
    with mounted(home / "full", "200k") as folder:
        refused(train(data, folder / "store"), result, "No space left", "disk")
        mount("-o", "remount,size=64m", str(folder))
        succeeded(train(data, folder / "store"), result, expected)
        _undamaged(result, folder / "store")
    return result


def read_only(home: Path, data: Path, expected: str) -> Result:
    result = Result("read-only store")
    with mounted(home / "ro", "64m") as folder:
        mount("-o", "remount,ro", str(folder))
        refused(train(data, folder / "store"), result, "Read-only", "written")
        mount("-o", "remount,rw", str(folder))
        succeeded(train(data, folder / "store"), result, expected)
        mount("-o", "remount,ro", str(folder))
        succeeded(train(data, folder / "store"), result, expected)  # all is there: reading is enough
        _undamaged(result, folder / "store")
    return result


def vanishing(home: Path, data: Path, expected: str) -> Result:
    result = Result("store vanishes")
    with mounted(home / "gone", "64m") as folder:
        training = start(data, folder / "store")
        while training.child.is_alive() and not list(folder.glob("store/experts/*/*")):
            time.sleep(0.01)
        mount("-t", "tmpfs", "-o", "ro", "tmpfs", str(folder))  # over it: an empty folder, closed
        refused(training.ended(), result, "Read-only", "written", "cannot be read")
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)
        succeeded(train(data, folder / "store"), result, expected)
        _undamaged(result, folder / "store")
    return result


def two_trainers(home: Path, data: Path, expected: str) -> Result:
    result = Result("two trainers on one key")
    for attempt in range(3):
        store = home / f"both{attempt}"
        for one in [start(data, store), start(data, store)]:
            succeeded(one.ended(), result, expected)
        _undamaged(result, store)
    return result


def slow(home: Path, data: Path, expected: str) -> Result:
    result = Result("slow store")
    succeeded(train(data, home / "slow", slow_disk), result, expected)
    _undamaged(result, home / "slow")
    return result


def slow_disk() -> None:
    """Every flush takes as long as over a bad network."""
    flush = os.fsync

    def slowly(descriptor: int) -> None:
        time.sleep(0.05)
        flush(descriptor)

    os.fsync = slowly


def clock_set_back(home: Path, data: Path, expected: str) -> Result:
    result = Result("clock set back a month")
    store = home / "clock"
    training = start(data, store)
    training.child.join(1.0)
    training.child.kill()
    training.ended()
    succeeded(train(data, store, month_ago), result, expected)
    Store(store).gc()
    succeeded(train(data, store), result, expected)
    _undamaged(result, store)
    return result


def month_ago() -> None:
    now = time.time
    time.time = lambda: now() - MONTH_S


def _undamaged(result: Result, store: Path) -> None:
    if damaged := Store(store).verify().damaged:
        result.failures.append(f"damaged: {[one.reason for one in damaged]}")


WITHOUT_MOUNTS = (two_trainers, slow, clock_set_back)
SCENARIOS = (full_disk, read_only, vanishing, *WITHOUT_MOUNTS)


def campaign(scenarios: tuple[Callable[[Path, Path, str], Result], ...] = SCENARIOS) -> list[Result]:
    """Run scenarios one after the other."""
    with tempfile.TemporaryDirectory(prefix="qmoe-disk-") as folder:
        home = Path(folder)
        data = tiny.dataset(home / "data")
        quiet = train(data, home / "quiet")
        if quiet.code != 0:
            raise AssertionError(f"a quiet run failed: {quiet.err}")
        expected = figures(quiet.out)
        return [scenario(home, data, expected) for scenario in scenarios]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    del parser  # there is nothing to choose


def main(_: argparse.Namespace) -> int:
    """The campaign; 1 if anything failed, 2 if this user may not mount."""
    if not may_mount() or shutil.which("mount") is None:
        print("this campaign mounts file systems: run it as root", file=sys.stderr)
        return 2
    results = campaign()
    print("| condition | said | failures |\n| --- | --- | --- |")
    for one in results:
        print(f"| {one.scenario} | {one.said or '–'} | {len(one.failures)} |")
        for failure in one.failures:
            print(failure, file=sys.stderr)
    return int(any(one.failures for one in results))
