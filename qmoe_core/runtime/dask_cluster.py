"""Many machines: the tasks of `executor.run` sent to the workers of a Dask scheduler (dask.distributed).

Dask decides which worker takes a task, notices when one dies, and gives what it had to another. Here is what
it does not know: that results are the same only where the code is the same and nothing else runs in the
process, that all machines must see one store, and that a message is worth sending for about a second of work.
docs/cluster.md says how a cluster is started and what it costs.

No task is changed for it. A worker that would give other results refuses its task, and the run ends with a
sentence. What is finished is in the store, so whatever dies costs only what was in flight.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import pickle
import platform
import queue
import re
import time
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmoe_core.errors import ConfigError, StoreError, UserError
from qmoe_core.runtime import executor
from qmoe_core.runtime.executor import Item, Result
from qmoe_core.runtime.store import Store

if TYPE_CHECKING:
    from distributed import Future

CONNECT_S = 10.0
LOOK_S = 1.0
"""How often it is asked which workers there are."""
RENEW_S = 3600.0
"""How often the mark in the store is renewed by which workers know it."""
NO_WORKERS_S = 30.0
"""How long a cluster may be without any worker: one that died is often started again."""
GROUP_S = 1.0
"""Work that one message asks of a worker, where tasks are shorter. A message costs some milliseconds."""
RECENT = 8
"""Tasks whose longest tells how many make a group."""
TOPIC = "qmoe"
"""Under this Dask passes on what workers tell of their tasks; one for all, as it keeps each one's last."""

DECIDING = (
    "numba",
    "numpy",
    "safetensors",
    "scikit-learn",
    "scipy",
    "soundfile",
    "soxr",
    "timm",
    "torch",
    "torchvision",
)
"""Packages whose version may change a result."""


@dataclass(frozen=True)
class Terms:
    """What a worker has to agree on with who sends it tasks, before it takes any.

    Attributes:
        versions: see `versions`.
        store: its address; mark: what is to be seen there.
    """

    versions: tuple[tuple[str, str], ...]
    store: str
    mark: str


@functools.cache
def versions() -> tuple[tuple[str, str], ...]:
    """Names and versions of all that may change a result in this process; `code` is a hash of it all."""
    package = Path(__file__).resolve().parents[1]
    code = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        code.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes() + b"\0")
    found = {"python": ".".join(platform.python_version_tuple()[:2]), "qmoe-lab": code.hexdigest()[:12]}
    for name in DECIDING:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return tuple(found.items())


def check_address(address: str) -> None:
    """
    Raises:
        ConfigError: that is no address of a scheduler.
    """
    if not re.fullmatch(r"(tcp|tls)://[^\s/@]+:\d{1,5}", address):
        raise ConfigError(f"{address!r} is no scheduler; accepted is an address such as tcp://10.0.0.5:8786")


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Inside, `executor.run` sends its tasks to a Dask scheduler; without an address nothing changes.

    Whoever can reach the address can run programs on the workers: it belongs in a trusted network, or behind
    Dask's own TLS (`tls://`, with the certificates that Dask's configuration names).

    Args:
        address: such as `tcp://10.0.0.5:8786`, or None.

    Raises:
        ConfigError: that is no address of a scheduler.
        UserError: nothing answers there, or another version of Dask.
        ModuleNotFoundError: Dask is not installed.
        StoreError: the store cannot be written.
    """
    if address is None:
        yield
        return
    check_address(address)
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(_client(address))
        store = Store()
        mark = stack.enter_context(store.marked())
        terms = pickle.dumps(Terms(versions(), store.address, mark))
        heard = _Heard()
        client.subscribe_topic(TOPIC, heard)
        with executor.on(functools.partial(_run, client, address, terms, heard, lambda: store.renew(mark))):
            yield


class _Heard:
    """What workers told, by run; Dask calls it in a thread of its own."""

    def __init__(self) -> None:
        self.runs: dict[str, queue.SimpleQueue[dict[str, Any]]] = {}

    def of_run(self, observe: executor.Observer | None) -> tuple[str, Callable[[], None]]:
        """A name for a run (empty where nobody observes it), and what passes its events on.

        `observe` is called by whoever calls that, because it may end the run.
        """
        if observe is None:
            return "", lambda: None
        run, events = uuid.uuid4().hex, queue.SimpleQueue()
        self.runs[run] = events

        def pass_on() -> None:
            while not events.empty():
                observe(events.get())

        return run, pass_on

    def __call__(self, event: tuple[float, tuple[str, dict[str, Any]]]) -> None:
        _, (run, told) = event
        if mine := self.runs.get(run):  # else it is somebody else's, or has ended
            mine.put(told)


@contextlib.contextmanager
def _client(address: str) -> Iterator[Any]:
    import dask.config
    import distributed
    from distributed.versions import VersionMismatchWarning

    # What Dask says of a lost connection is said here, in a sentence; its other versions are compared here,
    # with more of them, and refused. A message is large where there is a network in it, once for each worker.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TiB"}), _silent():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", VersionMismatchWarning)
                client: Any = distributed.Client(address, timeout=CONNECT_S)
        except (OSError, ImportError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"no Dask scheduler answers at {address} ({reason}); start one with: dask scheduler"
            ) from None
        try:
            with _in_touch(address):
                found = client.sync(client.scheduler.versions, packages=[])
            theirs, ours = found["packages"]["distributed"], version("distributed")
            if theirs != ours:
                raise UserError(
                    f"the scheduler at {address} has distributed {theirs}, and this is {ours}; install the "
                    "same on all machines"
                )
            yield client
        finally:
            client.close(timeout=CONNECT_S)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@contextlib.contextmanager
def _in_touch(address: str) -> Iterator[None]:
    """
    Raises:
        UserError: the connection broke.
    """
    try:
        yield
    except TimeoutError:  # an OSError too, and no loss
        raise
    except (CancelledError, OSError):
        raise UserError(
            f"the scheduler at {address} is gone; what was finished is kept: start again when it is back"
        ) from None


def _run(
    client: Any,
    address: str,
    terms: bytes,
    heard: _Heard,
    renew: Callable[[], object],
    fn: Callable[..., Result],
    items: Sequence[Item],
    cancelled: Callable[[], bool],
    observe: executor.Observer | None,
) -> Generator[tuple[int, Result], None, None]:
    """An `executor.Engine`: one group of tasks at a time for every worker, where tasks are short one more.

    What runs on the workers when the run is cancelled is finished there, and kept.
    """
    from distributed import wait as untyped

    wait: Any = untyped  # it is a coroutine only where there is an event loop
    waiting = deque(range(len(items)))
    running: dict[Future, tuple[str, list[int]]] = {}
    recent: deque[float] = deque(maxlen=RECENT)
    watch = _Watch(client, address, renew)
    run, tell = heard.of_run(observe)
    # The function goes to a worker once, not with every task: there may be a network in it.
    function = client.submit(bytes, pickle.dumps(fn), pure=False) if items else None
    try:
        while waiting or running:
            tell()
            executor.stop_if(cancelled)
            workers = watch.workers()
            for worker in _free(workers, [worker for worker, _ in running.values()], recent, len(waiting)):
                if not waiting:
                    break
                group = [waiting.popleft() for _ in range(_group(recent, len(waiting), len(workers)))]
                pickled = [pickle.dumps(items[index]) for index in group]
                running[client.submit(perform, function, terms, pickled, run, **_chosen(worker))] = (
                    worker,
                    group,
                )
            if not running:
                time.sleep(executor.POLL_S)
                continue
            try:
                with _in_touch(address):
                    done = wait([*running], timeout=executor.POLL_S, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                continue
            for future in done:
                if future.status == "error":
                    raise _failure(future.exception(), [items[index] for index in running[future][1]])
                with _in_touch(address):
                    results = future.result()
                tell()  # a worker's events come before its results
                _, group = running.pop(future)
                recent.extend(seconds for seconds, _ in results)
                yield from zip(group, (result for _, result in results), strict=True)
    finally:
        heard.runs.pop(run, None)
        if running and client.status == "running":
            client.cancel([*running])


def _chosen(worker: str) -> dict[str, Any]:
    """Options of `submit`: Dask prefers a worker that has the function; if it dies, another takes over."""
    return {"workers": [worker], "allow_other_workers": True, "pure": False}


class _Watch:
    """Looks which workers there are, and renews the mark by which they know the store.

    Raises:
        UserError: the scheduler is gone, or there were no workers for too long.
    """

    def __init__(self, client: Any, address: str, renew: Callable[[], object]) -> None:
        self.client, self.address, self.renew = client, address, renew
        self.found: list[str] = []
        self.seen = self.renewed = time.monotonic()
        self.asked = -LOOK_S

    def workers(self) -> list[str]:
        now = time.monotonic()
        if now - self.asked >= LOOK_S:
            with _in_touch(self.address):
                self.found, self.asked = list(self.client.nthreads()), now
            self.seen = now if self.found else self.seen
        if now - self.renewed >= RENEW_S:
            self.renew()
            self.renewed = now
        if now - self.seen > NO_WORKERS_S:
            raise UserError(
                f"the scheduler at {self.address} has no workers; start some with: dask worker "
                f"{self.address} --nthreads 1 --nworkers -1; what was finished is kept"
            )
        return self.found


def _failure(error: BaseException, items: Sequence[object]) -> BaseException:
    """What a task raised; in words where it is Dask that did."""
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        tasks = ", ".join(map(executor.describe, items))
        return UserError(
            f"{error.allowed_failures + 1} workers died one after another (killed, or out of memory) at the "
            f"same tasks: {tasks}; what was finished is kept: start again, perhaps with more --memory-limit"
        )
    return error


def _free(workers: Sequence[str], busy: Sequence[str], recent: Sequence[float], waiting: int) -> list[str]:
    """Which workers get a message now, those without work first.

    Where tasks are short and many, each has one more than it works on: it need not wait for the next.
    """
    short = len(recent) == RECENT and max(recent) < GROUP_S and waiting > 2 * len(workers)
    most = 1 + short
    has = {worker: busy.count(worker) for worker in workers}
    free = sorted((worker for worker in workers if has[worker] < most), key=has.__getitem__)
    # What a worker had that is gone is on another one.
    moved = len(busy) - sum(has.values())
    room = most * len(workers) - moved - sum(min(count, most) for count in has.values())
    return free[: max(0, room)]


def _group(recent: Sequence[float], waiting: int, workers: int) -> int:
    """How many tasks the next message asks for: about `GROUP_S` of work, and enough left for the others."""
    if len(recent) < RECENT:
        return 1
    fitting = int(GROUP_S / max(max(recent), 1e-6))
    return max(1, min(fitting, waiting // (2 * workers)))


# What follows runs on the workers.


def perform(function: bytes, terms: bytes, items: list[bytes], run: str = "") -> list[tuple[float, Any]]:
    """Calls a pickled function on pickled items, one after the other; gives seconds and result of each.

    If a run is named, whoever sent it wants to be told what happens in the tasks.

    Raises:
        UserError: this worker would give other results, or keeps them elsewhere.
        Exception: whatever a task raised.
    """
    _agree(terms)
    try:
        fn = _function(function)
        if run:
            fn = functools.partial(fn, observe=functools.partial(_tell, run))
        return [_perform(fn, pickle.loads(item)) for item in items]
    except FileNotFoundError as error:
        raise UserError(
            f"{_me()} finds no {error.filename}: recordings, and a store that is a folder, must lie where "
            "all machines see them under the same path"
        ) from None


def _perform(fn: Callable[[Any], Any], item: object) -> tuple[float, Any]:
    started = time.perf_counter()
    try:
        result = fn(item)
    except Exception as error:
        error.add_note(f"while working on {executor.describe(item)}")
        raise
    return time.perf_counter() - started, result


def _tell(run: str, event: dict[str, Any]) -> None:
    from distributed import get_worker

    get_worker().log_event(TOPIC, [run, event])


@functools.lru_cache(maxsize=1)
def _function(pickled: bytes) -> Callable[..., Any]:
    return pickle.loads(pickled)


@functools.lru_cache(maxsize=1)
def _agree(terms: bytes) -> None:
    """
    Raises:
        UserError: on what the two sides do not agree.
    """
    from distributed import get_worker

    expected: Terms = pickle.loads(terms)
    theirs, mine = dict(expected.versions), dict(versions())
    different = [
        f"{name} {mine.get(name)}, not {text}" for name, text in theirs.items() if mine.get(name) != text
    ]
    if different:
        raise UserError(f"{_me()} has {'; '.join(different)}: results could differ; install the same on all")
    if (threads := get_worker().state.nthreads) != 1:
        raise UserError(
            f"{_me()} has {threads} threads, whose tasks would share one random generator; start it with "
            "--nthreads 1, and as many as there are cores with --nworkers"
        )
    try:
        seen = Store(expected.store).sees(expected.mark)
    except StoreError as error:
        raise UserError(f"{_me()}: {error}") from None
    if not seen:
        raise UserError(
            f"{_me()} does not see the store {expected.store}: set QMOE_STORE to a folder that all machines "
            "share under the same path, or to a bucket"
        )
    executor.one_thread()


def _me() -> str:
    from distributed import get_worker

    return f"the worker {get_worker().address} on {platform.node()}"
