"""Commands of the lab in children that have everything imported: what is done to them hits the work."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from qmoe_core import cli


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def sentences(self) -> list[str]:
        """What it said of its end."""
        return [line for line in self.err.splitlines() if line.startswith("qmoe: ")]

    def wrongly_refused(self, *words: str) -> str:
        """Empty if it ended with one line that says one of `words`; else what it did."""
        if self.code != cli.EXIT_USER_ERROR or "Traceback" in self.err or len(self.sentences) != 1:
            return f"exit code {self.code}, said {self.err[-500:]!r}"
        if not any(word in self.sentences[0] for word in words):
            return f"said {self.sentences[0]!r}, none of {words}"
        return ""


@dataclass(frozen=True)
class Running:
    """A command at work, and the folder of what it says."""

    child: ForkServerProcess
    told: Path

    def ended(self) -> Ended:
        """Wait for it."""
        self.child.join()
        said = [path.read_text() if path.exists() else "" for path in (self.told / "out", self.told / "err")]
        shutil.rmtree(self.told)
        return Ended(self.child.exitcode or 0, *said)


def start(
    arguments: Sequence[str], environment: Mapping[str, str], condition: Callable[[], object] | None = None
) -> Running:
    """Begin `qmoe …` in a child of a server that has imported everything and run nothing.

    Args:
        environment: added to this process's.
        condition: called in the child first.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch", "distributed", "qmoe_core.training.fit"])
    told = Path(tempfile.mkdtemp(prefix="qmoe-told-"))
    child = context.Process(target=_run, args=(list(arguments), dict(environment), told, condition))
    child.start()
    return Running(child, told)


def _run(
    arguments: list[str], environment: dict[str, str], told: Path, condition: Callable[[], object] | None
) -> None:
    import torch

    torch.set_num_threads(1)  # sums in another order differ in the last bit
    os.environ.update(environment)
    if condition is not None:
        condition()
    for descriptor, name in ((1, "out"), (2, "err")):
        with (told / name).open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    code = cli.main(arguments)
    sys.stdout.flush()
    os._exit(code)
