"""The queue of jobs: start one, list them, stop one, and read what it does.

A job is a folder `<store>/jobs/<id>/`: `job.json` (what was asked for, and how far it is), `events.jsonl`
(what happens, one JSON object a line, appended by all of the job's processes), `log.txt` (what they print),
`result.json` when it is done. `submit` starts a process of its own for each job; one runs at a time, in the
order of submission, because two would only slow each other down and spoil each other's measurements.

Whether a job's process still lives is asked of the system (see `system.start_apart`): a process number alone
could have been given to another process meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from qmoe_core.errors import StoreError
from qmoe_core.runtime import system, typed
from qmoe_core.runtime.files import named
from qmoe_core.runtime.requests import Request
from qmoe_core.runtime.store import Store

State = Literal["queued", "running", "done", "failed", "cancelled"]
ACTIVE: frozenset[State] = frozenset({"queued", "running"})

RECORD, EVENTS, LOG, RESULT = "job.json", "events.jsonl", "log.txt", "result.json"
ALIVE, CANCEL, TURN = "alive", "cancel", "lock"
RECORD_BYTES = 1 << 20

_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{8}")
_PACKAGE = Path(__file__).resolve().parents[2]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    id: str
    request: Request
    state: State
    submitted: float
    started: float | None = None
    ended: float | None = None
    pid: int | None = None
    error: str | None = None
    limit_s: float | None = None


@dataclass(frozen=True)
class Job:
    """A job as it was when it was looked at.

    Attributes:
        id: names it; title: in words.
        state: `queued`, `running`, `done`, `failed` or `cancelled`.
        submitted, started, ended: Unix time, seconds.
        pid: of its process, while it has one.
        error: of a failed job, a sentence, or the last line of a traceback.
        stopping: it was cancelled and has not stopped yet.
        folder: where its files are.
    """

    id: str
    title: str
    request: Request
    state: State
    submitted: float
    started: float | None
    ended: float | None
    pid: int | None
    error: str | None
    stopping: bool
    folder: Path = field(repr=False)

    @property
    def active(self) -> bool:
        """Queued or running."""
        return self.state in ACTIVE

    @property
    def result(self) -> dict[str, Any] | None:
        """What a finished job gave: the `--json` document of the command that does the same."""
        try:
            return msgspec.json.decode((self.folder / RESULT).read_bytes())
        except (OSError, msgspec.DecodeError, RecursionError):
            return None

    def log(self, last: int = 40) -> str:
        """The last lines that the job printed: warnings, and the traceback of a crash."""
        return _log(self.folder, last)


def submit(request: Request, store: Store | None = None, *, limit_s: float | None = None) -> Job:
    """Start a job, or queue it behind those that are there.

    Args:
        request: what to do; it is checked first.
        store: where runs and jobs are kept; the user's own when None.
        limit_s: stop it after so many seconds of running; what was finished is kept.

    Raises:
        UserError: the request cannot work (no such dataset, unknown experts, folds that cannot be made …).
        StoreError: the store cannot be written.
    """
    store = store or Store()
    request = request.checked()
    now = time.time()
    name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{uuid.uuid4().hex[:8]}"
    record = Record(id=name, request=request, state="queued", submitted=now, limit_s=limit_s)
    folder = home(store) / name
    work = folder.with_name(f".{name}")
    try:
        work.mkdir(parents=True)
        write(work / RECORD, record)
        with system.start_apart(work / ALIVE) as start:
            work.rename(folder)
            with (folder / LOG).open("wb") as log:
                process = start(
                    folder / ALIVE,
                    [sys.executable, "-m", "qmoe_core.runtime.jobs.worker", name],
                    env=_environment(store),
                    output=log,
                )
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"{home(store)}: the job could not be started ({reason})") from None
    # Somebody must wait for it, or it stays in the process table once it has ended.
    threading.Thread(target=process.wait, daemon=True).start()
    return _job(folder, record)


def _environment(store: Store) -> dict[str, str]:
    """The job finds this store, and this package wherever it was imported from."""
    path = os.pathsep.join(filter(None, [str(_PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "QMOE_STORE": store.address, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def get(name: str, store: Store | None = None) -> Job:
    """The job of an id.

    Raises:
        StoreError: there is no such job, or its record cannot be read.
    """
    folder = home(store or Store()) / name
    if not _ID.fullmatch(name) or not (folder / RECORD).is_file():
        raise StoreError(f"there is no job {name[:60]!r}; it may have been removed")
    job = _read(folder)
    if job is None:
        raise StoreError(f"{folder / RECORD}: cannot be read; remove the folder and start the job again")
    return job


def list_jobs(store: Store | None = None) -> list[Job]:
    """All jobs, the newest first; those whose record cannot be read are left out."""
    try:
        folders = [path for path in home(store or Store()).iterdir() if _ID.fullmatch(path.name)]
    except OSError:
        return []
    jobs = [job for folder in folders if (job := _read(folder)) is not None]
    return sorted(jobs, key=lambda job: (job.submitted, job.id), reverse=True)


def cancel(name: str, store: Store | None = None) -> Job:
    """Ask a job to stop; it does so within a moment, and what was finished is kept.

    Raises:
        StoreError: there is no such job, or the store cannot be written.
    """
    job = get(name, store)
    if job.active:
        try:
            (job.folder / CANCEL).touch()
        except OSError as error:
            raise StoreError(f"{job.folder}: the job cannot be stopped ({error.strerror})") from None
    return get(name, store)


def events(name: str, after: int = 0, store: Store | None = None) -> tuple[list[dict[str, Any]], int]:
    """What has happened in a job since last time.

    Args:
        name: the job's id.
        after: the position that the last call gave; 0 is the beginning.

    Returns:
        Events in the order in which they happened, and the position to go on from. Each has `at` (Unix time)
        and `event`: "stage" (`stage`, `done`, `total`, `message`), "epoch" and "fold" (see
        `training.crossval.Observer`), "state" (`state`).

    Raises:
        StoreError: there is no such job.
    """
    path = get(name, store).folder / EVENTS
    try:
        with path.open("rb") as file:
            file.seek(after)
            data = file.read()
    except FileNotFoundError:
        return [], after
    whole = data[: data.rfind(b"\n") + 1]
    found = []
    for line in whole.splitlines():
        with contextlib.suppress(msgspec.DecodeError):  # a process was killed in the middle of a line
            found.append(typed.decode(line, dict[str, Any]))
    return found, after + len(whole)


@dataclass(frozen=True)
class Story:
    """What a job's events come to.

    Attributes:
        stage: what it is at, such as `training`; done of total, and what came last.
        folds: the "fold" events, in order.
        curves: the "epoch" events of each fit, by (expert, fold, seed, part), in order; part is `inner`
            (choosing the epoch) or `refit`.
    """

    stage: str
    done: int
    total: int
    message: str
    folds: tuple[dict[str, Any], ...]
    curves: dict[tuple[str, str, int, str], list[dict[str, Any]]]


def story(events: Iterable[dict[str, Any]]) -> Story:
    """Sum up a job's events, from the first on."""
    stage: dict[str, Any] = {"stage": "", "done": 0, "total": 0, "message": ""}
    folds, curves = [], {}
    for event in events:
        if event["event"] == "stage":
            stage = event
        elif event["event"] == "fold":
            folds.append(event)
        elif event["event"] == "epoch":
            fit = event["expert"], event["fold"], event["seed"], event["part"]
            if event["epoch"] == 1:
                curves[fit] = []  # trained again: its last attempt was interrupted
            curves.setdefault(fit, []).append(event)
    return Story(stage["stage"], stage["done"], stage["total"], stage["message"], tuple(folds), curves)


# Files.


def home(store: Store) -> Path:
    return store.root / "jobs"


def _lives(folder: Path) -> bool:
    """Whether the job's process has not ended."""
    return system.lives(folder / ALIVE)


def _read(folder: Path) -> Job | None:
    # Asked before the record is read: a process writes how it ended before it ends.
    lives = _lives(folder)
    try:
        return _job(folder, load(folder / RECORD), lives)
    except (OSError, msgspec.DecodeError, RecursionError):
        return None


def _job(folder: Path, record: Record, lives: bool = True) -> Job:
    state, error = record.state, record.error
    if state in ACTIVE and not lives:
        state = "failed"
        error = (
            "its process was ended from outside: killed, out of memory, or the machine was restarted; "
            "what was finished is kept, so start it again"
        )
        if lines := _log(folder, 1):
            error += f" (the last line of its log: {lines})"
    return Job(
        id=record.id,
        title=str(record.request),
        request=record.request,
        state=state,
        submitted=record.submitted,
        started=record.started,
        ended=record.ended,
        pid=record.pid if state in ACTIVE else None,
        error=error,
        stopping=state in ACTIVE and (folder / CANCEL).exists(),
        folder=folder,
    )


def _log(folder: Path, last: int) -> str:
    try:
        text = (folder / LOG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-last:])


def load(path: Path) -> Record:
    return typed.decode(system.content(path, RECORD_BYTES), Record)


def write(path: Path, document: object) -> None:
    """Write JSON atomically: temporary file, fsync, rename."""
    scratch = path.with_name(f".{path.name}")
    with named(path), scratch.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(document), indent=1))
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
