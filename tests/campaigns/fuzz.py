"""Thousands of mutated inputs: no traceback, no hang, bounded memory, nothing printed or written elsewhere.

    python -m tests.campaigns fuzz --inputs 10000

Inputs are taken by a process of their own, so that a crash or a hang costs one and is counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.campaigns.inputs import TARGETS, mutant

ROOT = Path(__file__).resolve().parent.parent.parent
MAX_S = 10.0
MAX_RSS_MB = 600
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass
class Outcome:
    """What came of one target's inputs."""

    target: str
    inputs: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    rss_mb: float = 0.0
    failures: list[str] = field(default_factory=list)


def run(targets: Sequence[str], inputs: int, seed: int = 0, limit_s: float = MAX_S) -> list[Outcome]:
    """Hand mutants to one target after the other, all in one process as long as it lives.

    Args:
        inputs: how many to each; seed: where their numbers begin, a hundred million apart.
        limit_s: an input that takes the processor for longer hangs, and one that waits ten times as long.
    """
    outcomes = [Outcome(target) for target in targets]
    with contextlib.ExitStack() as held:
        worker: Worker | None = None
        for outcome in outcomes:
            for number in range(seed * 100_000_000, seed * 100_000_000 + inputs):
                worker = worker or held.enter_context(Worker(targets, limit_s))
                answer = worker.ask(outcome.target, number)
                if isinstance(answer, str):
                    outcome.inputs += 1
                    outcome.failures.append(f"{outcome.target} {number}: {answer}")
                    held.close()
                    worker = None
                else:
                    _count(outcome, answer)
    return outcomes


class Worker:
    """A process that takes inputs: one line asks for one, one line of JSON says what came of it."""

    def __init__(self, targets: Sequence[str], limit_s: float) -> None:
        self.targets, self.limit_s = targets, limit_s

    def __enter__(self) -> Worker:
        self.home = tempfile.TemporaryDirectory(prefix="qmoe-fuzz-")
        home = self.home.name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.campaigns.fuzz", home, *self.targets],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": home, "QMOE_STORE": f"{home}/store"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()
        self._answer(within_s=300.0)  # imports, kernels, and the good inputs
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.reader.join()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.home.cleanup()

    def ask(self, target: str, number: int) -> dict[str, Any] | str:
        """What came of an input, or why there is no answer; after that the worker is of no use."""
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(f"{target}\t{number}\n")
            self.process.stdin.flush()
            return self._answer(within_s=self.limit_s)
        except (OSError, queue.Empty):
            return (
                f"no answer within {self.limit_s:g} s" if self.process.poll() is None else "the process died"
            )
        except EOFError as error:
            return f"the process died: {error}"

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def _line(self, within_s: float, begun: float) -> str | None:
        """What is printed next; on a busy machine only time in which the process ran, or could have, counts.

        Raises:
            queue.Empty: it has used `within_s` of the processor since `begun`, or waited ten times as long.
        """
        for _ in range(10):
            with contextlib.suppress(queue.Empty):
                return self.lines.get(timeout=within_s)
            with contextlib.suppress(psutil.NoSuchProcess):
                if sum(psutil.Process(self.process.pid).cpu_times()[:2]) - begun > within_s:
                    break
        raise queue.Empty

    def _answer(self, within_s: float) -> dict[str, Any]:
        said, begun = "", psutil.Process(self.process.pid).cpu_times()
        while (line := self._line(within_s, sum(begun[:2]))) is not None:
            if line.startswith("{"):
                return {"said": said, **json.loads(line)}
            said += line
        raise EOFError(said)


def _count(outcome: Outcome, answer: dict[str, Any]) -> None:
    outcome.inputs += 1
    outcome.refused += answer["refused"]
    outcome.slowest_s = max(outcome.slowest_s, answer["seconds"])
    outcome.rss_mb = max(outcome.rss_mb, answer["rss_mb"])
    if answer["rss_mb"] > MAX_RSS_MB:
        outcome.failures.append(f"{outcome.target} {answer['number']}: {answer['rss_mb']:.0f} MB")
    if answer["said"]:  # a decoder, or a traceback of a callback in C, which nobody can catch
        outcome.failures.append(f"{outcome.target} {answer['number']}: printed {answer['said'][:500]}")
    if answer["failure"]:
        outcome.failures.append(f"{outcome.target} {answer['number']}: {answer['failure']}")


def work(home: Path, names: Sequence[str]) -> None:
    """In the worker: take the inputs that are asked for, and say of each what came of it."""
    logging.disable(logging.ERROR)  # what is set aside is logged, as it should be
    warnings.simplefilter("error")
    good = {name: TARGETS[name].good() for name in names}
    for name in names:
        for data in good[name]:
            TARGETS[name].take(data, home)  # shows that the good ones are good, and imports what that needs
    strays: list[str] = []
    _note_writing_outside(home, strays)
    print("{}", flush=True)
    for line in sys.stdin:
        name, number = line.strip().split("\t")
        started, refused, failure = time.process_time(), False, ""
        try:
            TARGETS[name].take(mutant(good[name], int(number)), home)
        except TARGETS[name].refuses as error:
            refused = True
            if len(str(error)) > 2000:
                failure = f"refused with {len(str(error))} characters"
        except Exception:
            failure = traceback.format_exc(limit=-4)
        if strays:
            failure += f" wrote outside the store: {strays}"
            strays.clear()
        answer = {
            "number": int(number),
            "refused": refused,
            "failure": failure,
            "seconds": time.process_time() - started,
            "rss_mb": _peak_mb(),
        }
        print(json.dumps(answer), flush=True)


def _peak_mb() -> float:
    """Most memory so far; `ru_maxrss` would begin with that of the process which started this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def _note_writing_outside(home: Path, strays: list[str]) -> None:
    """Note every file opened for writing, made, moved or removed that is not below `home`."""
    inside = str(home.resolve())

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _mode, flags = arguments
            touched = [path] if isinstance(flags, int) and flags & _WRITES else []
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate"):
            # shutil.rmtree removes what it finds below a folder that it holds open, and says so last.
            touched = [] if arguments[-1] not in (None, -1, 0o777, 0o700) else [arguments[0]]
        elif event in ("os.rename", "os.link", "os.symlink"):
            touched = list(arguments[:2])
        elif event in ("subprocess.Popen", "os.system", "socket.connect", "os.exec"):
            strays.append(event)
            return
        else:
            return
        for path in touched:
            if isinstance(path, int) or path is None:
                continue
            where = os.path.realpath(os.fsdecode(path))
            if not where.startswith((inside, "/dev/")) and "__pycache__" not in where:
                strays.append(where)

    sys.addaudithook(hook)


def report(outcomes: list[Outcome]) -> str:
    """A table for people."""
    head = [
        "| inputs to | n | refused | most processor time | most memory | failures |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join(
        head
        + [
            f"| {one.target} | {one.inputs:,} | {one.refused:,} | {one.slowest_s:.2f} s "
            f"| {one.rss_mb:.0f} MB | {len(one.failures)} |"
            for one in outcomes
        ]
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--inputs", type=int, default=10_000, help="over all targets together")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--seed", type=int, default=0)


def main(arguments: argparse.Namespace) -> int:
    """The campaign; 1 if anything failed."""
    each = -(-arguments.inputs // len(arguments.targets))
    outcomes = []
    for target in arguments.targets:
        (outcome,) = run([target], each, arguments.seed)
        outcomes.append(outcome)
        print(f"{target}: {outcome.inputs} inputs, {len(outcome.failures)} failures", file=sys.stderr)
        print("\n".join(outcome.failures[:5]), file=sys.stderr)
    print(report(outcomes))
    return int(any(one.failures for one in outcomes))


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2:])
