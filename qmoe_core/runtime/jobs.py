"""Long work outside of any page: it survives a reload, a closed tab and the end of the dashboard.

A job is a folder `<store>/jobs/<id>/`: `job.json` (what was asked for, and how far it is), `events.jsonl`
(what happens, one JSON object a line, appended by all of the job's processes), `log.txt` (what they print),
`result.json` when it is done. `submit` starts a process of its own for each job; one runs at a time, in the
order of submission, because two would only slow each other down and spoil each other's measurements.

Whether a job's process still lives is asked of the system (see `system.start_apart`): a process number alone
could have been given to somebody else meanwhile.
Whatever was finished is in the store, so asking for the same again goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np

from qmoe_core import bundles, datasets, embedders
from qmoe_core.config import Config, fingerprint
from qmoe_core.embedders import embed
from qmoe_core.errors import Cancelled, StoreError, UserError
from qmoe_core.evaluation import ood
from qmoe_core.experts.spec import NAMES, parse_names
from qmoe_core.runtime import dask_cluster, executor, system
from qmoe_core.runtime.files import named
from qmoe_core.runtime.store import Store, published
from qmoe_core.training import crossval, run

State = Literal["queued", "running", "done", "failed", "cancelled"]
ACTIVE: frozenset[State] = frozenset({"queued", "running"})

RECORD, EVENTS, LOG, RESULT = "job.json", "events.jsonl", "log.txt", "result.json"
ALIVE, CANCEL, TURN = "alive", "cancel", "lock"
POLL_S = 0.1
"""How often a queued job asks whether it is its turn."""
NICENESS = 5
"""Training yields to the dashboard; benchmarks do not, because that would be measured."""

_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{8}")
_PACKAGE = Path(__file__).resolve().parents[1]


class Train(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="what", tag="train"
):
    """Train and evaluate; fields as in `training.run.train`; scheduler as in `dask_cluster.connected`."""

    dataset: str
    embedder: str = "logmel-stats"
    weights: str | None = None
    experts: tuple[str, ...] = NAMES
    mixtures: tuple[tuple[str, ...], ...] = ()
    config: Config = Config()
    seeds: int = 1
    workers: int = 0
    bundle: str | None = None
    scheduler: str | None = None

    def __str__(self) -> str:
        what = "all experts" if set(self.experts) == set(NAMES) else ", ".join(self.experts)
        return f"Train {what} on {Path(self.dataset).name}"


class HoldOut(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="what", tag="hold-out"
):
    """Leave classes out and see whether the uncertainty notices; fields as in `evaluation.ood.hold_out`."""

    dataset: str
    held_out: tuple[str, ...]
    embedder: str = "logmel-stats"
    weights: str | None = None
    experts: tuple[str, ...] = run.DEFAULT_MIXTURE
    config: Config = Config()
    workers: int = 0

    def __str__(self) -> str:
        return f"Hold {', '.join(self.held_out)} out of {Path(self.dataset).name}"


class Bench(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="what", tag="bench"
):
    """Measure this machine; fields as in `measure.bench`. A bundle of None is random weights of `shape`."""

    measure: Literal["latency", "energy", "memory", "size"]
    bundle: str | None = None
    experts: tuple[str, ...] = NAMES
    shape: tuple[int, ...] = (1536, 640, 320, 50)
    n: int = 2000
    batch: int = 1
    cold: bool = False
    peers: bool = True
    repetitions: int = 3
    block_s: float = 10.0
    country: str = "FRA"

    def __str__(self) -> str:
        return f"Measure {self.measure}"


class Claims(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="what", tag="claims"
):
    """Put claims of the paper to the test; `only` as in `paper.claims.run`."""

    only: tuple[int, ...] | None = None

    def __str__(self) -> str:
        if self.only is None:
            return "Check all claims"
        return f"Check claim {self.only[0]}" if len(self.only) == 1 else f"Check {len(self.only)} claims"


Request = Train | HoldOut | Bench | Claims
R = TypeVar("R", bound=Request)


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
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
        except (OSError, msgspec.DecodeError):
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
    request = _checked(request)
    now = time.time()
    name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{uuid.uuid4().hex[:8]}"
    record = _Record(id=name, request=request, state="queued", submitted=now, limit_s=limit_s)
    folder = _home(store) / name
    work = folder.with_name(f".{name}")
    try:
        work.mkdir(parents=True)
        _write(work / RECORD, record)
        with system.start_apart(work / ALIVE) as start:
            work.rename(folder)
            with (folder / LOG).open("wb") as log:
                process = start(
                    folder / ALIVE,
                    [sys.executable, "-m", "qmoe_core.runtime.jobs", name],
                    env=_environment(store),
                    output=log,
                )
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"{_home(store)}: the job could not be started ({reason})") from None
    # Somebody must wait for it, or it stays in the process table once it has ended.
    threading.Thread(target=process.wait, daemon=True).start()
    return _job(folder, record)


def _environment(store: Store) -> dict[str, str]:
    """The job finds this store, and this package wherever it was imported from."""
    path = os.pathsep.join(filter(None, [str(_PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "QMOE_STORE": store.address, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _checked(request: R) -> R:
    """The request with its dataset's full path, refused at once where it cannot work."""
    if isinstance(request, Claims):
        return request
    parse_names(request.experts)
    if isinstance(request, Bench):
        if request.bundle is not None:
            bundles.find(request.bundle)
        return request
    subject, _ = _subject(request, "not embedded")
    if isinstance(request, HoldOut):
        subject, _ = ood.without(subject, request.held_out)
    else:
        for names in request.mixtures:
            parse_names(names, setting="mixture")
        if request.bundle is not None:
            bundles.destination(request.bundle)
        if request.scheduler is not None:
            dask_cluster.check_address(request.scheduler)
    crossval.splits_of(subject, request.config, [request.config.seed])
    folder = Path(request.dataset).expanduser()
    if folder.is_dir():  # the job may run elsewhere
        return msgspec.structs.replace(request, dataset=str(folder.resolve()))
    return request


def _subject(request: Train | HoldOut, embedder_id: str) -> tuple[crossval.Subject, datasets.Manifest]:
    """The dataset as far as it is known before it is embedded."""
    manifest = datasets.open_dataset(request.dataset)
    return crossval.Subject.of(manifest, embedder_id, np.empty((len(manifest), 0), np.float32)), manifest


def get(name: str, store: Store | None = None) -> Job:
    """The job of an id.

    Raises:
        StoreError: there is no such job, or its record cannot be read.
    """
    folder = _home(store or Store()) / name
    if not _ID.fullmatch(name) or not (folder / RECORD).is_file():
        raise StoreError(f"there is no job {name[:60]!r}; it may have been removed")
    job = _read(folder)
    if job is None:
        raise StoreError(f"{folder / RECORD}: cannot be read; remove the folder and start the job again")
    return job


def list_jobs(store: Store | None = None) -> list[Job]:
    """All jobs, the newest first; those whose record cannot be read are left out."""
    try:
        folders = [path for path in _home(store or Store()).iterdir() if _ID.fullmatch(path.name)]
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
            found.append(msgspec.json.decode(line, type=dict[str, Any]))
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


@dataclass(frozen=True)
class PlanRow:
    """How much of one expert's (or jointly trained mixture's) training is in the store already."""

    name: str
    cached: int
    total: int


@dataclass(frozen=True)
class Plan:
    """What a request would find in the store, and what it would have to do.

    Attributes:
        clips: in the dataset; embedded: those whose embedding is there.
        rows: experts, what they are made from, and jointly trained mixtures. Routers of composed mixtures
            and the last training on all clips for a bundle are not counted: they take seconds.
        seconds: about how long the missing folds take here, from what such folds took before; None when
            nothing like them was trained yet, or a cluster trains them.
    """

    clips: int
    embedded: int
    rows: tuple[PlanRow, ...]
    seconds: float | None

    @property
    def cached(self) -> int:
        """Folds that are there."""
        return sum(row.cached for row in self.rows)

    @property
    def total(self) -> int:
        """All folds."""
        return sum(row.total for row in self.rows)


def plan(request: Train | HoldOut, store: Store | None = None) -> Plan:
    """What is cached and what will run.

    Raises:
        UserError: the request cannot work; see `submit`.
    """
    store = store or Store()
    request = _checked(request)
    subject, manifest = _subject(request, "not embedded")
    embedder = embedders.for_dataset(manifest, request.embedder, weights=request.weights)
    subject = replace(subject, embedder_id=embedder.id)
    config = request.config
    joint: list[tuple[str, ...]] = []
    if isinstance(request, HoldOut):
        subject, _ = ood.without(subject, request.held_out)
        names, seeds = request.experts, [config.seed]
    else:
        mixtures = run.mixtures_of(request.experts, request.mixtures, request.bundle is not None)
        names, seeds = (
            run.needed_by(request.experts, mixtures),
            [config.seed + i for i in range(request.seeds)],
        )
        joint = mixtures if config.moe_training == "joint" else []
    keys: dict[str, list[str]] = {}
    for task in crossval.tasks_of(subject, names, config, seeds):
        keys.setdefault(task.expert, []).append(fingerprint(task.key))
    for members in joint:
        tasks = crossval.joint_tasks_of(subject, members, config, seeds)
        keys["+".join(members)] = [fingerprint(task.key) for task in tasks]

    there, took = set(), {}
    for entry in (*store.list(crossval.KIND), *(store.list(crossval.JOINT_KIND) if joint else [])):
        there.add(entry.key)
        expert = entry.metadata.get("expert") or "+".join(entry.metadata["experts"])
        took.setdefault(expert, []).append(entry.metadata["seconds"])
    rows = tuple(PlanRow(name, sum(key in there for key in made), len(made)) for name, made in keys.items())
    elsewhere = isinstance(request, Train) and request.scheduler is not None
    return Plan(
        clips=len(manifest),
        embedded=_embedded(manifest, embedder, store),
        rows=rows,
        seconds=None if elsewhere else _estimate(rows, took, request.workers),
    )


def _estimate(rows: Sequence[PlanRow], took: dict[str, list[float]], workers: int) -> float | None:
    """Seconds for what is missing: the median of the same expert's folds, else of all experts'."""
    missing = [row for row in rows if row.cached < row.total]
    if missing and not took:
        return None
    every = [seconds for of_one in took.values() for seconds in of_one]
    work = sum((row.total - row.cached) * float(np.median(took.get(row.name, every))) for row in missing)
    return work / (workers or system.cores())


def _embedded(manifest: datasets.Manifest, embedder: embedders.Embedder, store: Store) -> int:
    """Clips whose embedding is in the store, or came with the dataset."""
    if manifest.ready is not None:
        return len(manifest)
    there: set[str] = set()
    address = embed.address_of(embedder)
    for entry in store.list(embed.KIND):
        if {name: entry.fields.get(name) for name in address} == address:
            there.update(entry.fields["clips"])
    return sum(entry.sha256 in there for entry in manifest.entries)


# What follows runs in the job's own process.


@dataclass(frozen=True)
class _Journal:
    """Where all of a job's processes write what happens; an `Observer` that also tells them to stop."""

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
    folder = _home(store) / name
    record = _load(folder / RECORD)
    journal = _Journal(folder)
    system.on_signal("SIGTERM", lambda *_: (folder / CANCEL).touch())

    def become(state: State, **changes: Any) -> None:
        nonlocal record
        record = msgspec.structs.replace(record, state=state, **changes)
        with contextlib.suppress(Cancelled, OSError):
            journal({"event": "state", "state": state})
        _write(folder / RECORD, record)  # who sees a job that has ended finds all of its events

    with contextlib.ExitStack() as turn:
        try:
            become("queued", pid=os.getpid())
            turn.enter_context(_turn(record, store, journal.stopped))
            become("running", started=time.time())
            if record.limit_s is not None:
                turn.enter_context(_alarm(record.limit_s, (folder / CANCEL).touch))
            result = _work(record.request, store, journal)
            _write(folder / RESULT, result)
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
    """Rings once, unless it is left before."""
    timer = threading.Timer(after_s, ring)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _turn(record: _Record, store: Store, stopped: Callable[[], bool]) -> Iterator[None]:
    """Holds the lock that all jobs of the lab share, visitors' too; enters when no older job is queued.

    Raises:
        Cancelled: while waiting.
    """
    mine = (record.submitted, record.id)
    home = published(store.root) / "jobs"
    home.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        while True:
            if stopped():
                raise Cancelled("stopped before it began")
            if not any(job.active and (job.submitted, job.id) < mine for job in list_jobs(store)):
                with contextlib.suppress(system.Taken):
                    held.enter_context(system.locked(home / TURN))
                    break
            time.sleep(POLL_S)
        yield


def _work(request: Request, store: Store, journal: _Journal) -> dict[str, Any]:
    """Does what was asked for; gives the document of the command that does the same."""
    if isinstance(request, Bench):
        return _bench(request, store, journal)
    if isinstance(request, Claims):
        from qmoe_core.paper import claims

        run_claims = claims.run(
            request.only, store, progress=journal.stage("claims"), cancelled=journal.stopped
        )
        return {"claims": [finding.to_json() for finding in run_claims]}
    system.be_nice(NICENESS)
    if isinstance(request, Train):
        fields = {name: getattr(request, name) for name in request.__struct_fields__}
        with dask_cluster.connected(fields.pop("scheduler")):
            report = run.train(
                **fields, store=store, progress=journal.stage, cancelled=journal.stopped, observe=journal
            )
        return report.to_json()
    manifest = datasets.open_dataset(request.dataset)
    embedder = embedders.for_dataset(manifest, request.embedder, weights=request.weights)
    context = executor.Context.of(store, request.workers, journal.stage, journal.stopped, journal)
    embeddings = embed.embed_dataset(manifest, embedder, context)
    held = ood.hold_out(
        crossval.Subject.of(manifest, embedder.id, embeddings),
        request.held_out,
        request.experts,
        request.config,
        context,
    )
    return ood.report(held).to_json()


def _bench(request: Bench, store: Store, journal: _Journal) -> dict[str, Any]:
    from qmoe_core.measure import bench

    watched = {"progress": journal.stage(request.measure), "cancelled": journal.stopped}
    what = {"shape": request.shape, "bundle": request.bundle, "experts": request.experts}
    if request.measure == "latency":
        report = bench.run_latency(
            **what, peers=request.peers, n=request.n, batch=request.batch, cold=request.cold, **watched
        )
    elif request.measure == "energy":
        report = bench.run_energy(
            **what,
            repetitions=request.repetitions,
            block_s=request.block_s,
            country=request.country,
            **watched,
        )
    elif request.measure == "memory":
        report = bench.run_memory([request.bundle] if request.bundle else ())
    else:
        report = bench.run_size(request.shape, request.experts)
    bench.keep(report, store)
    return report.to_json()


# Files.


def _home(store: Store) -> Path:
    return store.root / "jobs"


def _lives(folder: Path) -> bool:
    """Whether the job's process has not ended."""
    return system.lives(folder / ALIVE)


def _read(folder: Path) -> Job | None:
    # Asked before the record is read: a process writes how it ended before it ends.
    lives = _lives(folder)
    try:
        return _job(folder, _load(folder / RECORD), lives)
    except (OSError, msgspec.DecodeError):
        return None


def _job(folder: Path, record: _Record, lives: bool = True) -> Job:
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


def _load(path: Path) -> _Record:
    return msgspec.json.decode(path.read_bytes(), type=_Record)


def _write(path: Path, document: object) -> None:
    """Whole, or not at all."""
    scratch = path.with_name(f".{path.name}")
    with named(path), scratch.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(document), indent=1))
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


if __name__ == "__main__":
    # Not this module's own `main`: what travels to worker processes must be found under the same name there.
    from qmoe_core.runtime import jobs

    raise SystemExit(jobs.main(sys.argv[1]))
