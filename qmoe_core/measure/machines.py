"""What `qmoe bench path --out FILE` measured: on this machine, on the reference that ships, and on others.

Of each machine there are the times of the parts of a path: front end, embedder in each format, head in each
format. A path of an embedder in one format and a head in another is the sum of its parts' medians.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from qmoe_core import bundles
from qmoe_core.errors import UserError
from qmoe_core.measure.bench import BenchReport
from qmoe_core.runtime import typed
from qmoe_core.runtime.store import unfinished

REFERENCE = "reference-path.json"
"""Ships in `data/`: measured by `make paths` on the machine that it names."""
MAX_BYTES = 1 << 20
PARTS = ("front end", "embedder", "head")


class _PartTimes(msgspec.Struct):
    front_end_us: float | None = None
    embedder_us: float | None = None
    head_us: float | None = None


class _PathRow(msgspec.Struct):
    name: str
    embedder: str
    kind: str
    n: int
    p50_us: float
    stages: _PartTimes


class _Where(msgspec.Struct):
    processor: str
    cores: int
    vector_extensions: list[str]
    threads: int


class _ResultFile(msgspec.Struct):
    what: str
    environment: _Where
    rows: list[_PathRow]


@dataclass(frozen=True)
class PathTime:
    """Medians of a path's parts on one machine, µs.

    Attributes:
        whole_us: of the path timed as one; None where embedder and head are in different formats, and only
            the parts were timed.
        n: timed calls of each part.
    """

    front_end_us: float
    embedder_us: float
    head_us: float
    whole_us: float | None
    n: int

    @property
    def us(self) -> float:
        """The whole, as it was timed, or the sum of its parts."""
        return self.parts_us if self.whole_us is None else self.whole_us

    @property
    def parts_us(self) -> float:
        return self.front_end_us + self.embedder_us + self.head_us


def write(report: BenchReport, path: Path) -> None:
    """Write a report for other machines' pages; all of it or nothing.

    Raises:
        UserError: the file cannot be written.
    """
    temporary = unfinished(path)
    try:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(report.to_json()), indent=1))
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        temporary.unlink(missing_ok=True)


def read(data: bytes, name: str) -> BenchReport:
    """The report in a file that `qmoe bench path --out` wrote; errors call it `name`.

    Raises:
        UserError: it is something else.
    """
    wanted = "expected a file that `qmoe bench path --out FILE` wrote"
    if len(data) > MAX_BYTES:
        raise UserError(f"{name}: {wanted}, of at most {MAX_BYTES:,} bytes")
    try:
        checked = typed.decode(data, _ResultFile)
        document: Any = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{name}: {wanted} ({error})") from None
    times: list[float | None] = [row.p50_us for row in checked.rows]
    for row in checked.rows:
        if row.kind == "expert":
            times += [row.stages.front_end_us, row.stages.embedder_us, row.stages.head_us]
    if checked.what != "path" or not times or not all(time and 0 < time < 1e12 for time in times):
        raise UserError(f"{name}: {wanted}, with times of paths above 0 µs")
    return BenchReport("path", document["environment"], document["rows"])


@lru_cache(maxsize=1)
def reference() -> BenchReport:
    """What was measured on the machine that the shipped figures are of."""
    path = bundles.shipped() / REFERENCE
    return read(path.read_bytes(), str(path))


def path_time(report: BenchReport, embedder: str, head: str) -> PathTime | None:
    """The time of a path on a report's machine; None where a part of it was not timed.

    Args:
        embedder: such as `ds-cnn:q4`, or `ds-cnn` for the float one; head: a format, such as `q2`.
    """
    name, _, format = embedder.partition(":")
    format = "q8" if format == "ptq8" else format or "fp32"  # the same kernels on the same bytes
    rows = {row["name"]: row for row in report.rows if row["embedder"] == name}
    first, last = rows.get(f"{name}:{format}"), rows.get(f"{name} head {head}")
    if first is None or last is None:
        return None
    stages = first["stages"]
    whole = first["p50_us"] if format == head else None
    return PathTime(
        stages["front_end_us"], stages["embedder_us"], last["p50_us"], whole, min(first["n"], last["n"])
    )


def described(report: BenchReport) -> str:
    """A report's machine and conditions, as a caption says them."""
    where, rows = report.environment, report.rows
    extensions = ", ".join(where["vector_extensions"])
    return (
        f"{where['processor']}, {where['cores']} cores ({extensions or 'no vector extensions'}), "
        f"{where['threads']} thread, five seconds of sound, n = {min(row['n'] for row in rows):,} calls"
    )
