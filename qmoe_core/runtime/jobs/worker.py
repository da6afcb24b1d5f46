"""A job's own process: wait for its turn, do the work, and write down how it went."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from qmoe_core.errors import Cancelled, UserError
from qmoe_core.runtime import executor, requests, system
from qmoe_core.runtime.jobs.queue import (
    CANCEL,
    EVENTS,
    RECORD,
    RESULT,
    TURN,
    Record,
    State,
    home,
    list_jobs,
    load,
    write,
)
from qmoe_core.runtime.store import Store, published

POLL_S = 0.1
"""How often a queued job asks whether it is its turn."""
NICENESS = 5
"""Training yields to the dashboard; benchmarks do not, because that would be measured."""


@dataclass(frozen=True)
class Journal:
    """Writes a job's events to its file, from all of its processes; raises `Cancelled` once it is to stop."""

    folder: Path

    def __call__(self, event: dict[str, Any]) -> None:
        line = msgspec.json.encode({"at": time.time(), **event}) + b"\n"
        system.append(self.folder / EVENTS, line)
        if self.stopped():
            raise Cancelled("stopped; what was finished is kept")

    def stopped(self) -> bool:
        """Whether somebody cancelled the job."""
        return (self.folder / CANCEL).exists()

    def stage(self, title: str) -> executor.Progress:
        """A progress display that writes events."""

        def show(done: int, total: int, message: str) -> None:
            self({"event": "stage", "stage": title, "done": done, "total": total, "message": message})

        return show


def main(name: str) -> int:
    """Wait for one's turn, do the work, and write down how it went."""
    store = Store()
    folder = home(store) / name
    record = load(folder / RECORD)
    journal = Journal(folder)
    system.on_signal("SIGTERM", lambda *_: (folder / CANCEL).touch())

    def become(state: State, **changes: Any) -> None:
        nonlocal record
        record = msgspec.structs.replace(record, state=state, **changes)
        with contextlib.suppress(Cancelled, OSError):
            journal({"event": "state", "state": state})
        write(folder / RECORD, record)  # who sees a job that has ended finds all of its events

    with contextlib.ExitStack() as turn:
        try:
            become("queued", pid=os.getpid())
            turn.enter_context(_turn(record, store, journal.stopped))
            become("running", started=time.time())
            if record.limit_s is not None:
                turn.enter_context(_alarm(record.limit_s, (folder / CANCEL).touch))
            if not isinstance(record.request, requests.Bench | requests.Claims):
                system.be_nice(NICENESS)
            context = executor.Context(
                store, progress=journal.stage, cancelled=journal.stopped, observe=journal
            )
            write(folder / RESULT, requests.document(record.request, context))
        except Cancelled:
            become("cancelled", ended=time.time())
        except UserError as error:
            become("failed", ended=time.time(), error=" ".join(str(error).split()))
        except BaseException as error:
            traceback.print_exc()
            reason = "".join(traceback.format_exception_only(error)).strip()
            become("failed", ended=time.time(), error=" ".join(reason.split()))
        else:
            become("done", ended=time.time())
    return 0 if record.state in ("done", "cancelled") else 1


@contextlib.contextmanager
def _alarm(after_s: float, ring: Callable[[], object]) -> Iterator[None]:
    """Call `ring` after `after_s` seconds, unless the context exits first."""
    timer = threading.Timer(after_s, ring)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _turn(record: Record, store: Store, stopped: Callable[[], bool]) -> Iterator[None]:
    """Hold the lock that all jobs of the lab share, visitors' too, once no older job is queued.

    Raises:
        Cancelled: while waiting.
    """
    mine = (record.submitted, record.id)
    lock = published(store.root) / "jobs" / TURN
    with contextlib.ExitStack() as held:
        while True:
            if stopped():
                raise Cancelled("stopped before it began")
            if not any(job.active and (job.submitted, job.id) < mine for job in list_jobs(store)):
                with contextlib.suppress(system.Taken):
                    held.enter_context(system.locked(lock))
                    break
            time.sleep(POLL_S)
        yield


if __name__ == "__main__":
    # Not this module's own `main`: what travels to worker processes must be found under the same name there.
    from qmoe_core.runtime.jobs import worker

    raise SystemExit(worker.main(sys.argv[1]))
