"""`qmoe classify FOLDER --out` killed at random moments: in the end complete, nothing twice, read back.

    python -m tests.campaigns batch --windows 10000 --kills 20

Recordings of ten lengths lie in nested folders (each content once, under many names). One run writes a file
for every recording as Raven reads it, another one file as CSV; both are killed again and again, each time
after a random number of recordings, and then left to end. Then every recording has its windows once, at the
times at which they were cut.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from qmoe_core import batch
from qmoe_core.audio import decode, synth

LENGTHS_S = (3.0, 5.0, 7.4, 10.0, 12.55, 20.0, 26.3, 33.0, 47.1, 60.0)
WITHIN_S = 0.001
_LOOK_S = 0.01


@dataclass
class BatchOutcome:
    """What came of one way to write results."""

    way: str
    recordings: int = 0
    windows: int = 0
    kills: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


def make(home: Path, windows: int) -> dict[str, list[float]]:
    """Recordings with at least so many windows; gives the starts of each one's windows by its path."""
    contents = []
    rain = np.tile(synth.render("rain"), 12)
    (home / "contents").mkdir(parents=True)
    for number, seconds in enumerate(LENGTHS_S):
        path = home / "contents" / f"{number}.flac"
        soundfile.write(path, rain[: round(seconds * decode.SAMPLE_RATE)], decode.SAMPLE_RATE)
        contents.append((path, [window.start_s for window in decode.windows(decode.load(path))]))
    expected: dict[str, list[float]] = {}
    made = 0
    while made < windows:
        number = len(expected)
        content, starts = contents[number % len(contents)]
        folder = home / "field" / f"site {number % 7}" / f"{number % 31:02}" / "card"
        folder.mkdir(parents=True, exist_ok=True)
        at, suffix = f"202405{1 + number % 28:02}_{number % 24:02}1500", "FLAC" if number % 2 else "flac"
        name = folder / f"{at}_{number}.{suffix}"
        os.link(content, name)
        expected[str(name)] = starts
        made += len(starts)
    return expected


def killed(home: Path, out: Path, kind: str, kills: int, recordings: int, rng: np.random.Generator) -> int:
    """Runs until it is killed so often, and then to its end; gives how many kills hit a run."""
    command = [sys.executable, "-m", "qmoe_core", "classify", str(home / "field"), "--format", kind]
    command += ["--out", str(out)]
    journal = out.with_name(f"{out.name}.{batch.JOURNAL}") if out.suffix else out / batch.JOURNAL
    hit = 0
    for left in range(kills, -1, -1):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if left:
            done = _lines(journal)
            goal = done + int(rng.integers(1, max(2, 2 * (recordings - done) // (left + 1))))
            while process.poll() is None and _lines(journal) < goal:
                time.sleep(_LOOK_S)
            time.sleep(float(rng.uniform(0, _LOOK_S)))  # anywhere within a recording
            hit += process.poll() is None
            process.kill()
        if process.wait() != 0 and not left:
            raise RuntimeError(f"the last run ended with {process.returncode}")
    return hit


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0


def wrong(expected: dict[str, list[float]], out: Path, kind: str) -> Iterator[str]:
    """What is missing, there twice, or at another time, as pandas reads the tables."""
    separator, path, start = "\t", "Begin Path", "File Offset (s)"
    if kind == "csv":
        separator, path, start = ",", "path", "start_s"
    files = [out] if out.suffix else list(out.rglob("*.txt"))
    table = pd.concat(pd.read_csv(file, sep=separator) for file in files)
    found = {str(name): sorted(rows[start].astype(float)) for name, rows in table.groupby(path)}
    for name, starts in expected.items():
        there = found.pop(name, [])
        if len(there) != len(starts) or not np.allclose(there, starts, rtol=0.0, atol=WITHIN_S):
            yield f"{name}: windows at {there}, expected {starts}"
    yield from (f"{name}: is none of the recordings" for name in found)
    yield from (f"{file}: was left behind" for file in out.parent.rglob("*.part"))


def campaign(windows: int, kills: int, seed: int = 0) -> list[BatchOutcome]:
    """Both ways to write, each killed so often."""
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="qmoe-batch-") as folder:
        home = Path(folder)
        expected = make(home, windows)
        for way, kind, name in (("a file each", "raven", "each"), ("one file", "csv", "all.csv")):
            outcome = BatchOutcome(way, len(expected), sum(map(len, expected.values())))
            started = time.monotonic()
            out = home / "results" / name
            rng = np.random.default_rng(seed)
            try:
                outcome.kills = killed(home, out, kind, kills, len(expected), rng)
                outcome.failures += wrong(expected, out, kind)
            except (RuntimeError, OSError, ValueError) as error:
                outcome.failures.append(str(error))
            outcome.seconds = time.monotonic() - started
            outcomes.append(outcome)
    return outcomes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--windows", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)


def main(arguments: argparse.Namespace) -> int:
    """The campaign; 1 if anything failed."""
    outcomes = campaign(arguments.windows, arguments.kills, arguments.seed)
    print(
        "| results | recordings | windows | kills | time | failures |\n| --- | --- | --- | --- | --- | --- |"
    )
    for one in outcomes:
        print(
            f"| {one.way} | {one.recordings:,} | {one.windows:,} | {one.kills} | {one.seconds:.0f} s "
            f"| {len(one.failures)} |"
        )
        print("\n".join(one.failures[:5]), file=sys.stderr)
    return int(any(one.failures for one in outcomes))
