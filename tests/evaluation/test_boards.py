"""Whole paths on a board: what fits, what comes first, and figures of other machines."""

from __future__ import annotations

import json

import pytest

from qmoe_core import bundles
from qmoe_core.bundles.export import path_file
from qmoe_core.errors import ConfigError, UserError
from qmoe_core.evaluation import boards
from qmoe_core.evaluation.boards import Board, Score
from qmoe_core.measure import machines
from qmoe_core.measure.bench import BenchReport

WHERE = {"processor": "Some CPU", "cores": 4, "vector_extensions": [], "threads": 1}


def row(name: str, us: float, kind: str = "expert", **stages: float | None) -> dict:
    base = {"front_end_us": None, "embedder_us": None, "head_us": None}
    return {"name": name, "embedder": "ds-cnn", "kind": kind, "n": 100, "p50_us": us, "stages": base | stages}


REPORT = BenchReport(
    "path",
    WHERE,
    [
        row("ds-cnn:q8", 700, front_end_us=300, embedder_us=250, head_us=10),
        row("ds-cnn:q2", 600, front_end_us=300, embedder_us=200, head_us=5),
        row("ds-cnn head q8", 10, "head", head_us=10),
        row("ds-cnn head q2", 5, "head", head_us=5),
    ],
)


def path(embedder: str, head: str, kb: float, f1: float) -> boards.Path:
    scores = {"a": Score(f1, 0.01, 5), "b": Score(f1 - 0.2, 0.01, 3)}
    return boards.Path(f"ds-cnn:{embedder}", "id", head, int(700 * kb), int(300 * kb), 500_000, scores)


PATHS = (path("q8", "q8", 800, 0.95), path("q8", "q2", 400, 0.94), path("q2", "q2", 200, 0.9))


def test_the_time_of_two_formats_is_the_sum_of_their_parts() -> None:
    mixed = machines.path_time(REPORT, "ds-cnn:q8", "q2")
    assert mixed is not None
    assert (mixed.us, mixed.whole_us) == (300 + 250 + 5, None)
    timed = machines.path_time(REPORT, "ds-cnn:ptq8", "q8")  # the kernels of q8
    assert timed is not None
    assert timed.us == 700
    assert machines.path_time(REPORT, "ds-cnn:q4", "q2") is None


@pytest.mark.parametrize(
    ("board", "names"),
    [
        (Board(), ["q8", "q8+q2", "q2"]),
        (Board(flash_bytes=450e3), ["q8+q2", "q2"]),
        (Board(deadline_us=2600, speed=0.25), ["q8+q2", "q2"]),
        (Board(deadline_us=2400, speed=0.25, flash_bytes=300e3), ["q2"]),
        (Board(memory_bytes=400e3), []),
    ],
)
def test_what_fits_comes_first_and_the_best_of_it(board: Board, names: list[str]) -> None:
    found = boards.fits(PATHS, board, REPORT)
    assert [fit.path.name for fit in found if not fit.misses] == names
    assert [fit.misses for fit in found] == sorted((fit.misses for fit in found), key=bool)


def test_a_miss_says_by_how_much() -> None:
    (worst,) = boards.fits(PATHS[:1], Board(300e3, 400e3, 1e3, 0.25), REPORT)
    assert worst.misses == (
        "800 kB of flash, not 300", "500 kB of memory, not 400", "2.8 ms a clip, not 1"
    )  # fmt: skip
    with pytest.raises(ConfigError, match="speed is 0"):
        Board(speed=0)


def test_what_is_no_result_is_refused(tmp_path) -> None:
    machines.write(REPORT, tmp_path / "board.json")
    data = (tmp_path / "board.json").read_bytes()
    assert machines.read(data, "board.json") == REPORT
    wrong = json.loads(data) | {"what": "latency"}
    negative = json.loads(data.replace(b"700", b"-7"))
    partly = json.loads(data.replace(b"250", b"null"))
    others = (json.dumps(document).encode() for document in (wrong, negative, partly))
    for other in (b"", b"[]", b"\xff", *others):
        with pytest.raises(UserError, match=r"board\.json: expected a file that `qmoe bench path"):
            machines.read(other, "board.json")


def test_every_path_that_ships_has_its_time_and_its_file_classifies() -> None:
    shipped = boards.shipped()
    fits = boards.fits(shipped, Board(), machines.reference())
    assert len(fits) == len(shipped)
    folder = bundles.shipped() / boards.FOLDER
    carried = [one for one in shipped if one.file]
    assert carried
    for one in carried:
        data = (folder / one.file).read_bytes()
        assert len(data) < one.bytes + 8_000
        whole = path_file.loads(data, one.file)
        assert whole.head.name == one.head
        assert len(whole.classes) == whole.head.classes
