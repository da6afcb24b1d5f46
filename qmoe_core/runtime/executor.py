"""The one way long work is run: a function over many items, here, in other processes, or elsewhere.

Work is cut in tasks that depend on nothing but their item and keep their own result in the store, so that
whatever is stopped, and however, costs only what was in flight. No task knows where it runs: inside
`on(engine)` it is the engine that calls it, such as the distributed one of `qmoe_core.runtime.dask_cluster`.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from qmoe_core.errors import Cancelled, ConfigError, UserError
from qmoe_core.runtime import system

if TYPE_CHECKING:
    from qmoe_core.runtime.store import Store

Item = TypeVar("Item")
Result = TypeVar("Result")

POLL_S = 0.1
"""How often `cancelled` is asked while other processes work."""

THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


class Progress(Protocol):
    """Told of progress: how many tasks (or clips) are done, of how many, and which came last."""

    def __call__(self, done: int, total: int, message: str, /) -> object: ...


Observer = Callable[[dict[str, Any]], object]
"""Told by tasks what happens in them, as it happens: a flat dictionary of strings and numbers."""


class Engine(Protocol):
    """Calls a function on every item somewhere; yields and raises what `run` does."""

    def __call__(
        self,
        fn: Callable[..., Result],
        items: Sequence[Item],
        cancelled: Callable[[], bool],
        observe: Observer | None,
        /,
    ) -> Generator[tuple[int, Result], None, None]: ...


_engine: ContextVar[Engine | None] = ContextVar("engine", default=None)


@contextlib.contextmanager
def on(engine: Engine) -> Iterator[None]:
    """Inside, `run` leaves its tasks to this engine, whatever number of workers it is asked for."""
    token = _engine.set(engine)
    try:
        yield
    finally:
        _engine.reset(token)


def elsewhere() -> bool:
    """Whether `run` leaves its tasks to an engine: what is pickled goes to other machines."""
    return _engine.get() is not None


def run(
    fn: Callable[..., Result],
    items: Sequence[Item],
    *,
    workers: int = 1,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    observe: Observer | None = None,
) -> Generator[tuple[int, Result], None, None]:
    """Calls `fn` on every item and yields `(index, result)` as they finish.

    With one worker the items are taken in order in this process. With more they are taken by as many
    processes, with one thread each; `fn`, items and results must then be picklable, and a program that is
    started as a script needs its `if __name__ == "__main__"`. The processes end with this one, even if it
    is killed. Inside `on(engine)` that engine takes them, and says what else it needs.

    Args:
        fn: the task. What it must not lose it stores itself: a stop drops results that were not yielded yet.
        items: one a task; `str(item)` describes the task in progress and errors.
        workers: processes at once.
        progress: called after every finished task.
        cancelled: asked between tasks, and while other processes work; true stops.
        observe: if given, `fn` gets it as `observe`, to tell of what happens. It is called in the process of
            the task (and must then be picklable), or on an engine in this one. What it raises ends the run.

    Raises:
        Cancelled: `cancelled` said so, or Ctrl-C was pressed. With more than one worker, running tasks are
            killed; with one, the running task is finished first (Ctrl-C interrupts it).
        UserError: a worker process died.
        Exception: whatever a task raised, with a note that names the task; the other tasks are stopped.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; expected 1 or more")
    asked = cancelled or (lambda: False)
    if engine := _engine.get():
        finished = engine(fn, items, asked, observe)
    else:
        told = fn if observe is None else partial(fn, observe=observe)
        finished = _here(told, items, asked) if workers == 1 else _in_processes(told, items, workers, asked)
    with contextlib.closing(finished):
        try:
            for done, (index, result) in enumerate(finished, start=1):
                if progress is not None:
                    progress(done, len(items), describe(items[index]))
                yield index, result
        except KeyboardInterrupt:
            raise Cancelled("stopped by Ctrl-C; what was finished is kept") from None


def silent(title: str) -> Progress:
    return lambda done, total, message: None


@dataclass(frozen=True)
class Context:
    """Where long work keeps its results and who follows it: made once, handed to every step unchanged.

    Attributes:
        store: where results are kept and found.
        workers: processes at once.
        progress: makes a progress display from a title.
        cancelled: asked between tasks; true stops.
        observe: told by tasks what happens in them; it changes no result and is part of no key.
    """

    store: Store
    workers: int = 1
    progress: Callable[[str], Progress] = silent
    cancelled: Callable[[], bool] | None = None
    observe: Observer | None = None

    def with_workers(self, workers: int) -> Context:
        """The context with another number of processes; 0 is one a core.

        Raises:
            ConfigError: fewer than no workers.
        """
        if workers < 0:
            raise ConfigError(f"--workers is {workers}; accepted is 1 or more, or 0 for one a core")
        return replace(self, workers=workers or cores())

    def tell(self, event: dict[str, Any]) -> None:
        """Pass an event to the observer, where there is one."""
        if self.observe is not None:
            self.observe(event)

    def run(
        self,
        fn: Callable[..., Result],
        items: Sequence[Item],
        title: str | None = None,
        *,
        observed: bool = False,
    ) -> Generator[tuple[int, Result], None, None]:
        """As `run`, with what the context holds.

        Args:
            title: of the progress display; None shows none.
            observed: whether `fn` takes `observe`.
        """
        return run(
            fn,
            items,
            workers=min(self.workers, max(len(items), 1)),
            progress=None if title is None else self.progress(title),
            cancelled=self.cancelled,
            observe=self.observe if observed else None,
        )


def cores() -> int:
    """Processors that this process may use."""
    return system.cores()


def _here(
    fn: Callable[[Item], Result], items: Sequence[Item], cancelled: Callable[[], bool]
) -> Generator[tuple[int, Result], None, None]:
    for index, item in enumerate(items):
        stop_if(cancelled)
        try:
            result = fn(item)
        except Exception as error:
            error.add_note(f"while working on {describe(item)}")
            raise
        yield index, result


def _in_processes(
    fn: Callable[[Item], Result], items: Sequence[Item], workers: int, cancelled: Callable[[], bool]
) -> Generator[tuple[int, Result], None, None]:
    context = multiprocessing.get_context("spawn")
    # Nothing is ever sent through this pipe. Its other end closes when this process closes it, or dies in
    # whatever way, and that is what the workers wait for.
    lifeline, held = context.Pipe(duplex=False)
    workers = min(workers, max(1, len(items)))
    pool = ProcessPoolExecutor(workers, context, initializer=_prepare_worker, initargs=(lifeline,))
    waiting = iter(enumerate(items))
    running: dict[Future[Result], int] = {}
    try:
        while True:
            stop_if(cancelled)
            # One task more than workers, so that none waits for us; no more, so that a stop leaves few.
            for index, item in itertools.islice(waiting, workers + 1 - len(running)):
                running[pool.submit(fn, item)] = index
            if not running:
                return
            for future in wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED).done:
                result = _result(future, items[running[future]])
                yield running.pop(future), result
    except BrokenProcessPool:
        tasks = ", ".join(describe(items[index]) for index in sorted(running.values()))
        raise UserError(
            f"a worker process died (killed, or out of memory) while these were in progress: {tasks}; "
            "what was finished is kept: start again, perhaps with fewer workers"
        ) from None
    finally:
        if running:
            held.close()
        pool.shutdown(cancel_futures=True)
        held.close()
        lifeline.close()


def _result(future: Future[Result], item: object) -> Result:
    try:
        return future.result()
    except Exception as error:
        error.add_note(f"while working on {describe(item)}")
        raise


def _prepare_worker(lifeline: Connection) -> None:
    """Runs first in each worker process, before the modules of the tasks are imported."""
    system.on_signal("SIGINT", None)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_exit_without_parent, args=(lifeline,), daemon=True).start()
    one_thread()


def one_thread() -> None:
    """Keeps this process, which works beside others, to one thread for its sums."""
    os.environ.update(dict.fromkeys(THREAD_SETTINGS, "1"))
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def _exit_without_parent(lifeline: Connection) -> None:
    try:
        lifeline.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)  # at once: tasks write in a way that survives it


def stop_if(cancelled: Callable[[], bool]) -> None:
    """
    Raises:
        Cancelled: `cancelled` says so.
    """
    if cancelled():
        raise Cancelled("stopped; what was finished is kept")


def describe(item: object) -> str:
    """An item in a line of at most 120 characters."""
    text = " ".join(str(item).split())
    return text if len(text) <= 120 else text[:119] + "…"
