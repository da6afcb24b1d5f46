"""A lab that is open to the public: what its visitors may do, and how they are kept apart.

`qmoe app --public` sets $QMOE_PUBLIC, which is read once, here. Every visitor (a session of the browser) has
a store of its own inside the lab's, so that jobs, runs and bundles of one are not there for another; what the
lab's own store and its datasets hold is published: all may read it. A visitor's store goes with the session.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import threading
import uuid
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import streamlit as st
from filelock import FileLock, Timeout
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from qmoe_core import datasets
from qmoe_core.config import Config, EvaluationConfig
from qmoe_core.datasets.takes import EXPERT, FOLDER, Takes
from qmoe_core.embedders import SHIPPED
from qmoe_core.errors import DatasetError, StoreError, UserError
from qmoe_core.numbers import listed
from qmoe_core.runtime import jobs
from qmoe_core.runtime.jobs import Bench, Claims, HoldOut, Job, Request, Train
from qmoe_core.runtime.store import VISITORS, Store, default_root, lab_root

VARIABLE = "QMOE_PUBLIC"
SCHEDULERS = "QMOE_SCHEDULERS"
"""Names the Dask schedulers that the Train page offers, with spaces between them."""


@dataclass(frozen=True)
class Limits:
    """What one visitor may use.

    Attributes:
        upload_mb: of a file, in megabytes; duration_s: of a recording.
        files: judged at once.
        recording_s: of what the page records, which comes as one message (see `guard.Bounds.frame`).
        live: sessions of a network address that listen.
        jobs, address_jobs, queue: that are not over, of a visitor, of a network address, and of all.
        takes_mb: of sounds to train on, in megabytes.
        job_s: after which a job is stopped; clips: of a dataset that is trained on; folds: of it.
    """

    upload_mb: int = 20
    duration_s: float = 600.0
    files: int = 5
    recording_s: float = 10.0
    live: int = 2
    jobs: int = 1
    address_jobs: int = 2
    queue: int = 4
    takes_mb: int = 20
    job_s: float = 600.0
    clips: int = 2000
    folds: int = 5

    @property
    def streamlit(self) -> list[str]:
        """Streamlit's part of them, as arguments."""
        return [
            "--server.maxUploadSize",
            str(self.upload_mb),
            "--server.maxCacheDataSize",
            "128mb",
            "--runner.fastReruns",
            "false",
        ]


LIMITS = Limits() if os.environ.get(VARIABLE) == "1" else None
"""None where the lab is its owner's alone, who may do everything."""

MICROPHONE = (
    "The microphone of the machine that runs this lab is switched off, because the lab is open to the "
    "public; your browser’s works."
)
LOG = (
    "The log stays in memory and goes when you leave: keeping it on disk is switched off, because this lab "
    "is open to the public. The files below are yours to take."
)
MEASURING = (
    "Measurements and checks are switched off, because this lab is open to the public: a machine that others "
    "use meanwhile gives no figures worth keeping. What its owner measured is shown."
)


def schedulers() -> tuple[str, ...]:
    """Addresses of Dask schedulers that were named when the lab was started; none in public.

    A page or a link cannot name one: whoever answers at such an address runs code here.
    """
    named = tuple(dict.fromkeys(os.environ.get(SCHEDULERS, "").split()))
    return () if LIMITS is not None else named


def training() -> str:
    """What is different about training, in a few sentences; empty where nothing is."""
    if LIMITS is None:
        return ""
    return (
        "This lab is open to the public, so trainings are of the data sets listed here, with the "
        f"embedders that ship and the standard settings: {_counted(LIMITS.jobs, 'job')} at a time, "
        f"{LIMITS.job_s / 60:g} minutes at most. Folders, other embedders, weights, single settings, seeds "
        "and clusters are switched off. What you train is yours alone, and is removed when you leave."
    )


def allowed_dataset(spec: str) -> None:
    """Whether a page may look into a dataset: in public, those that the lab knows by name.

    Raises:
        DatasetError: it may not.
    """
    known = datasets.available()
    if LIMITS is not None and spec not in known and spec.rpartition(":")[0] not in known:
        raise DatasetError(
            "Folders are switched off, because this lab is open to the public; accepted is one of "
            f"{', '.join(known) or 'no data set, for there is none'}"
        )


def allowed(request: Request) -> None:
    """Whether a page may plan, or start, a job.

    Raises:
        UserError: it may not, because the lab is open to the public; says what is accepted.
    """
    if LIMITS is None:
        if isinstance(request, Train) and request.scheduler not in (None, *schedulers()):
            raise UserError(
                f"{request.scheduler} was not named when the lab was started: "
                "qmoe app --scheduler ADDRESS, or $QMOE_SCHEDULERS"
            )
        return
    if isinstance(request, Bench | Claims):
        raise UserError(MEASURING)
    if isinstance(request, Train) and request.dataset == str(takes().root):
        usual = request.embedder in SHIPPED and request.config.expert == EXPERT
        if not usual or request.seeds > 1 or request.perturb:
            raise UserError("Other settings are switched off, because this lab is open to the public")
        return
    allowed_dataset(request.dataset)
    for wrong, what in (
        (request.embedder not in SHIPPED, f"embedders other than {listed(SHIPPED)} are"),
        (request.weights is not None, "weights from a file or the network are"),
        (isinstance(request, Train) and _special(request.config), "single settings are"),
        (request.config.evaluation.folds > LIMITS.folds, f"more than {LIMITS.folds} folds are"),
        (isinstance(request, Train) and request.seeds > 1, "more seeds than one are"),
        (request.perturb > 0, "changed copies are"),
        (isinstance(request, Train) and request.scheduler is not None, "clusters are"),
    ):
        if wrong:
            raise UserError(f"{what.capitalize()} switched off, because this lab is open to the public")
    if len(datasets.open_dataset(request.dataset)) > LIMITS.clips:
        raise UserError(f"{request.dataset}: more clips than the {LIMITS.clips:,} that visitors may train on")


def _special(config: Config) -> bool:
    """Whether anything but the folds and how the epoch is chosen was set."""
    return msgspec.structs.replace(config, evaluation=EvaluationConfig()) != Config()


def submit(request: Request) -> Job:
    """Start a job from a page (see `jobs.submit`).

    Raises:
        UserError: it cannot work, or is more than visitors may do.
    """
    allowed(request)
    if LIMITS is None:
        return jobs.submit(request)
    assert isinstance(request, Train | HoldOut)
    with _submitting:
        if sum(job.active for job in jobs.list_jobs()) >= LIMITS.jobs:
            raise UserError(
                f"You have {_counted(LIMITS.jobs, 'job')} waiting or running, the most that a visitor may "
                "have; stop it, or wait for its end."
            )
        if _active(address()) >= LIMITS.address_jobs:
            raise UserError(
                f"{_counted(LIMITS.address_jobs, 'job')} from your network wait or run, the most that may; "
                "try again later."
            )
        if _active() >= LIMITS.queue:
            raise UserError(
                f"{_counted(LIMITS.queue, 'job')} of all visitors wait, the most that may; try again later."
            )
        return jobs.submit(_located(request), limit_s=LIMITS.job_s)


_submitting = threading.Lock()


def _active(of: str | None = None) -> int:
    """Jobs of visitors that are not over: of all, or of a network address."""
    with contextlib.suppress(OSError):
        homes = [home for home in _visitors().iterdir() if of is None or _addresses.get(home.name) == of]
        return sum(job.active for home in homes for job in jobs.list_jobs(Store(home)))
    return 0


_addresses: dict[str, str] = {}
"""Of this server's visitors, by the name of their folder."""


def address() -> str:
    """The network address of the visitor whose page is being drawn; empty where there is none."""
    context = get_script_run_ctx(suppress_warning=True)
    client: Any = None
    if context is not None and runtime.exists():
        client = runtime.get_instance().get_client(context.session_id)
    return "" if client is None else client.client_context.remote_ip or ""


def _located(request: Train | HoldOut) -> Train | HoldOut:
    """The request with the folder of its dataset, which the job looks for elsewhere; in one process."""
    if request.dataset == str(takes().root):
        return request
    known = datasets.available()
    name, colon, options = request.dataset.rpartition(":")
    here = known[request.dataset] if request.dataset in known else f"{known[name]}{colon}{options}"
    return msgspec.structs.replace(request, dataset=str(here), workers=1)


def _counted(n: int, thing: str) -> str:
    return f"{n} {thing}{'s' * (n != 1)}"


def takes() -> Takes:
    """The sounds of one's own: in the lab's store, or a visitor's, where they go when the visitor does."""
    root = default_root().absolute() / "datasets" / FOLDER
    if LIMITS is None:
        return Takes(root)
    return Takes(root, LIMITS.takes_mb << 20, LIMITS.duration_s)


# Visitors.


class Visitor:
    """A session's folder in the lab's store; it goes when the session does."""

    def __init__(self) -> None:
        self.root = lab_root().absolute() / VISITORS / f"{_SERVER}-{uuid.uuid4().hex}"
        _addresses[self.root.name] = address()
        weakref.finalize(self, _leave, self.root)


def store() -> Path | None:
    """The store of the visitor whose page is being drawn; None in a lab that is its owner's alone.

    Threads that draw no page (the start, the server) work for the lab itself.
    """
    if LIMITS is None or get_script_run_ctx(suppress_warning=True) is None:
        return None
    if "visitor" not in st.session_state:
        st.session_state.visitor = Visitor()
    return st.session_state.visitor.root


def _leave(root: Path) -> None:
    """A session is over; the server's event loop, where most end, does not wait for the disk."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        _forget(root)
    else:
        _leaving.submit(_forget, root)


_leaving = ThreadPoolExecutor(1, thread_name_prefix="leaving")


def _forget(root: Path) -> None:
    """A session is over: what it has running is stopped, and what it made is removed."""
    _addresses.pop(root.name, None)
    for job in jobs.list_jobs(Store(root)):
        with contextlib.suppress(StoreError):
            jobs.cancel(job.id, Store(root))
    shutil.rmtree(root, ignore_errors=True)


def open_visitors() -> None:
    """Take this server's place among those on the store, and remove what servers left that are no more.

    Raises:
        StoreError: the visitors' folder is a link or no folder, or cannot be written.
    """
    folder = _visitors()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(folder / f"{_SERVER}{_LOCK}")
        lock.acquire(timeout=0)
    except (OSError, Timeout) as error:
        raise StoreError(f"{folder}: visitors cannot be given a place here ({error})") from None
    _locks[str(folder)] = lock  # held until this process ends
    sweep()


def sweep() -> None:
    """Remove what the visitors of a lab left that was ended in the middle; other labs' visitors stay.

    Raises:
        StoreError: the visitors' folder is a link.
    """
    folder = _visitors()
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            name = _MADE.fullmatch(path.name)
            if name is None or path.is_symlink() or (name[1] != _SERVER and _serves(folder, name[1])):
                continue
            if path.is_dir():
                _forget(path)
            elif path.suffix == _LOCK and name[1] != _SERVER:
                path.unlink(missing_ok=True)


def _visitors() -> Path:
    folder = lab_root().absolute() / VISITORS
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise StoreError(
            f"{folder} is a link or no folder, and what it points to is not the lab’s to remove; "
            "remove it, or set QMOE_STORE to another folder"
        )
    return folder


def _serves(folder: Path, server: str) -> bool:
    """Whether the lab of that name runs: it holds its lock."""
    lock = folder / f"{server}{_LOCK}"
    if lock.is_symlink() or not lock.is_file():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


_SERVER = uuid.uuid4().hex
"""This process among those that serve visitors from one store."""
_LOCK = ".lock"
_MADE = re.compile(r"([0-9a-f]{4,32})(?:-[0-9a-f]{32}|\.lock)?")
"""What the lab makes in the visitors' folder: a lock for a server, a folder for each of its visitors."""
_locks: dict[str, FileLock] = {}
