"""Which whole path to put on a board: embedder and head, each in a format, within flash, memory and time.

What a path needs does not depend on the board; how long it takes does. That is the time of another machine,
measured with `qmoe bench path`, divided by how fast the board is beside it, or the board's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from qmoe_core import bundles
from qmoe_core.errors import ConfigError
from qmoe_core.measure import machines
from qmoe_core.measure.bench import BenchReport
from qmoe_core.measure.machines import PathTime
from qmoe_core.runtime import typed

FOLDER = "paths"
"""In `data/`: `figures.json` and the files to carry, made by `qmoe sweep paths`."""
FIGURES = "figures.json"
LAYERS = "layers.json"
SAMPLES_BYTES = 2
"""A sample of sound in a board's memory: 16 bits."""


class Score(msgspec.Struct, frozen=True):
    """Weighted F1 of a data set: mean and deviation over n folds × seeds."""

    mean: float
    std: float
    n: int


class Path(msgspec.Struct, frozen=True):
    """An embedder in a format and a head in one.

    Attributes:
        embedder: such as `ds-cnn:q4`; embedder_id: of the weights that F1 was measured with.
        head: format of the head, such as `q2`.
        embedder_bytes, head_bytes: of their packed files.
        memory_bytes: activations, spectrogram and five seconds of samples; weights stay in flash.
        f1: by data set.
        file: in the same folder, the path trained on all clips of the first data set; "" where none ships.
    """

    embedder: str
    embedder_id: str
    head: str
    embedder_bytes: int
    head_bytes: int
    memory_bytes: int
    f1: dict[str, Score]
    file: str = ""

    @property
    def name(self) -> str:
        """Embedder's format and head's, as experts are called: `q4+q2`, or `q4` where they are the same."""
        own = self.embedder.partition(":")[2] or "fp32"
        return own if own == self.head else f"{own}+{self.head}"

    @property
    def bytes(self) -> int:
        return self.embedder_bytes + self.head_bytes

    @property
    def mean_f1(self) -> float:
        """Over the data sets."""
        return math.fsum(score.mean for score in self.f1.values()) / len(self.f1)


@dataclass(frozen=True)
class Board:
    """What there is; None is no limit.

    Attributes:
        flash_bytes, memory_bytes: for the path's weights, and for what it works in.
        deadline_us: for a clip of five seconds.
        speed: how fast the board is beside the machine that was measured; 0.25 is a quarter as fast.
    """

    flash_bytes: float | None = None
    memory_bytes: float | None = None
    deadline_us: float | None = None
    speed: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.speed) and self.speed > 0):
            raise ConfigError(f"speed is {self.speed}; accepted is a number above 0, such as 0.25")


@dataclass(frozen=True)
class OnBoard:
    """A path on a board: its time there, and every reason why it does not fit."""

    path: Path
    time: PathTime
    us: float
    misses: tuple[str, ...]


@lru_cache(maxsize=1)
def shipped() -> tuple[Path, ...]:
    """The paths whose figures ship."""
    return tuple(typed.decode((bundles.shipped() / FOLDER / FIGURES).read_bytes(), list[Path]))


@lru_cache(maxsize=1)
def shipped_layers() -> dict[str, Any]:
    """What `qmoe sweep layers` found for `ds-cnn`, as its JSON."""
    return msgspec.json.decode((bundles.shipped() / FOLDER / LAYERS).read_bytes())


def fits(paths: Sequence[Path], board: Board, report: BenchReport) -> list[OnBoard]:
    """Every path whose time is known, the best first: those that fit before those that do not, then by mean
    F1 over the data sets, then by size.

    Args:
        report: of `qmoe bench path`, of the machine that the board is compared with.
    """
    found = []
    for path in paths:
        time = machines.path_time(report, path.embedder, path.head)
        if time is not None:
            us = time.us / board.speed
            found.append(OnBoard(path, time, us, tuple(_misses(path, us, board))))
    return sorted(found, key=lambda fit: (len(fit.misses) > 0, -round(fit.path.mean_f1, 3), fit.path.bytes))


def _misses(path: Path, us: float, board: Board) -> list[str]:
    limits = (
        (path.bytes, board.flash_bytes, 1e3, "kB of flash"),
        (path.memory_bytes, board.memory_bytes, 1e3, "kB of memory"),
        (us, board.deadline_us, 1e3, "ms a clip"),
    )
    return [
        f"{needed / unit:,.3g} {what}, not {limit / unit:,.3g}"
        for needed, limit, unit, what in limits
        if limit is not None and needed > limit
    ]
