"""The executor: every task once, stops at once, and nobody left behind."""

from __future__ import annotations

import math
import operator
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmoe_core.errors import Cancelled, UserError
from qmoe_core.runtime import executor

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("items", [[], [4.0], [9.0, 16.0, 25.0, 36.0, 49.0]])
def test_every_item_once(workers: int, items: list[float]) -> None:
    told = []
    results = executor.run(
        math.sqrt,
        items,
        workers=workers,
        progress=lambda done, total, message: told.append((done, total, message)),
    )
    assert sorted(results) == [(index, math.sqrt(item)) for index, item in enumerate(items)]
    assert [done for done, _, _ in told] == list(range(1, len(items) + 1))
    assert {total for _, total, _ in told} <= {len(items)}
    assert {message for _, _, message in told} == {str(item) for item in items}


def test_an_engine_takes_the_tasks() -> None:
    def backwards(fn, items, cancelled, observe):
        for index in reversed(range(len(items))):
            yield index, fn(items[index])

    with executor.on(backwards):
        assert executor.elsewhere()
        assert list(executor.run(operator.neg, [1, 2], workers=2)) == [(1, -2), (0, -1)]
    assert not executor.elsewhere()
    assert list(executor.run(operator.neg, [1, 2])) == [(0, -1), (1, -2)]


def tell(item, observe):
    observe({"item": item})
    return -item


def test_tasks_tell_an_observer():
    heard = []
    assert list(executor.run(tell, [1, 2], observe=heard.append)) == [(0, -1), (1, -2)]
    assert heard == [{"item": 1}, {"item": 2}]


def test_one_worker_goes_in_order_and_only_as_far_as_asked() -> None:
    begun = []
    results = executor.run(begun.append, ["a", "b", "c"])
    assert begun == []
    next(results)
    assert begun == ["a"]
    results.close()
    assert begun == ["a"]


def test_workers_use_one_thread_each() -> None:
    for _, value in executor.run(os.getenv, executor.THREAD_SETTINGS, workers=2):
        assert value == "1"


def test_no_workers_is_an_error() -> None:
    with pytest.raises(ValueError, match="workers is 0"):
        next(executor.run(math.sqrt, [1], workers=0))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_names_the_task(workers: int) -> None:
    results = executor.run(math.sqrt, [1, -4], workers=workers)
    with pytest.raises(ValueError, match="math domain error") as caught:
        list(results)
    assert caught.value.__notes__ == ["while working on -4"]


def test_a_long_description_is_cut() -> None:
    with pytest.raises(TypeError) as caught:
        list(executor.run(math.sqrt, ["many\nlines " * 100]))
    (note,) = caught.value.__notes__
    assert "\n" not in note
    assert len(note) < 150


def test_a_worker_that_dies_is_said_in_a_sentence() -> None:
    with pytest.raises(UserError, match="a worker process died"):
        list(executor.run(os._exit, [3, 4, 5], workers=2))


@pytest.mark.parametrize("workers", [1, 2])
def test_cancelled_before_it_began(workers: int) -> None:
    with pytest.raises(Cancelled, match="finished is kept"):
        list(executor.run(os._exit, [1, 2, 3], workers=workers, cancelled=lambda: True))


def taken(results: Iterator[tuple[int, object]], into: list[object]) -> None:
    for _, value in results:
        into.append(value)


def test_cancelled_after_the_first_task() -> None:
    finished = []
    results = executor.run(operator.neg, [1, 2, 3], cancelled=lambda: len(finished) == 1)
    with pytest.raises(Cancelled):
        taken(results, finished)
    assert finished == [-1]


def wait_for_ever(path: str) -> str:
    """A task that says its process id in a file and never ends; the path "quick" ends at once."""
    if path != "quick":
        written = Path(f"{path}.{os.getpid()}")  # killed in between, it leaves no file without a number
        written.write_text(str(os.getpid()))
        written.replace(path)
        threading.Event().wait()
    return path


def test_running_tasks_are_killed_when_cancelled(tmp_path: Path) -> None:
    started = [tmp_path / "a", tmp_path / "b"]
    items = ["quick", *map(str, started), "quick"]
    finished = []
    results = executor.run(
        wait_for_ever, items, workers=2, cancelled=lambda: all(path.exists() for path in started)
    )
    with pytest.raises(Cancelled):
        taken(results, finished)
    assert finished == ["quick"]
    for path in started:
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)


def test_running_tasks_are_killed_when_nobody_wants_the_results(tmp_path: Path) -> None:
    results = executor.run(wait_for_ever, ["quick", str(tmp_path / "a"), str(tmp_path / "b")], workers=2)
    next(results)
    results.close()
    for path in (path for path in tmp_path.iterdir() if not path.suffix):
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)


def test_ctrl_c_in_this_process() -> None:
    def task(item: int) -> int:
        if item == 2:
            signal.raise_signal(signal.SIGINT)
        return item

    finished = []
    with pytest.raises(Cancelled, match="Ctrl-C"):
        taken(executor.run(task, [1, 2, 3]), finished)
    assert finished == [1]


# The worker says that it runs; whoever holds standard output open is still alive.
PROGRAM = """
import sys, threading
from qmoe_core.runtime import executor
from qmoe_core.errors import Cancelled

def task(item):
    print("working", flush=True)
    threading.Event().wait()

if __name__ == "__main__":
    try:
        list(executor.run(task, [1, 2, 3, 4], workers=2))
    except Cancelled as error:
        print(error, flush=True)
"""


def program(tmp_path: Path) -> subprocess.Popen[str]:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == process.stdout.readline() == "working\n"
    return process


def test_workers_die_with_a_killed_parent(tmp_path: Path) -> None:
    process = program(tmp_path)
    process.kill()
    # Ends only when no worker holds the pipe any more.
    assert process.communicate()[0] == ""
    assert process.returncode == -signal.SIGKILL


def test_ctrl_c_at_a_terminal_stops_everything_quietly(tmp_path: Path) -> None:
    process = program(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate()
    assert output == "stopped by Ctrl-C; what was finished is kept\n"
    assert errors == ""
    assert process.returncode == 0
