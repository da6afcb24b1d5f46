"""Dask clusters on this machine: a scheduler and workers in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
UNPROFILED = {"DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False"}
"""As docs/cluster.md has it: the profiler takes a worker 1 to 2 % of a core."""


class Cluster:
    """A scheduler, and its workers."""

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        """
        Args:
            folder: of what they write; host: where the scheduler listens.
        """
        self.folder = folder
        self.host = host
        self.workers: list[subprocess.Popen[bytes]] = []
        self.address = ""
        self.start_scheduler()

    def start_scheduler(self) -> None:
        """Start one, at the same address if there was one before."""
        said = self.folder / "scheduler.json"
        said.unlink(missing_ok=True)
        port = self.address.rpartition(":")[2] or "0"
        self.scheduler = self._start(
            ["scheduler", "--host", self.host, "--port", port, "--scheduler-file", said]
        )
        while not (said.exists() and said.read_bytes().endswith(b"}")):
            assert self.scheduler.poll() is None, (self.folder / "log.txt").read_text()[-2000:]
            time.sleep(0.01)
        self.address = json.loads(said.read_bytes())["address"]

    def _start(
        self, arguments: Sequence[object], before: Sequence[str] = (), environment: Mapping[str, str] = {}
    ) -> subprocess.Popen[bytes]:
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(
                [*before, sys.executable, "-m", "dask", *map(str, arguments), "--no-dashboard"],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT), **UNPROFILED, **environment},
            )

    def add_workers(
        self, count: int, before: Sequence[str] = (), environment: Mapping[str, str] = {}, **more: str
    ) -> None:
        """Start workers.

        Args:
            before: a command that starts them somewhere else; environment: added to this process's.
            more: options of `dask worker`.
        """
        options = {"local-directory": self.folder, **more}
        there = [part for name, value in options.items() for part in (f"--{name}", value)]
        for _ in range(count):
            arguments = ["worker", self.address, "--nthreads", "1", "--no-nanny", *there]
            self.workers.append(self._start(arguments, before, environment))

    def stop(self) -> None:
        """Kill them all."""
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()
