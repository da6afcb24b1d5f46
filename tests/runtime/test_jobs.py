"""Jobs as a person meets them: they run by themselves, queue, stop, crash, are killed, and go on.

A test that needs jobs to stay queued holds the machine-wide lock itself; one that needs a job to be at work
gives it more epochs than it could ever finish, and waits for its first epoch.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from qmoe_core import bundles, embedders
from qmoe_core.errors import BundleError, ConfigError, DatasetError, StoreError, UserError
from qmoe_core.evaluation import ood
from qmoe_core.measure import bench
from qmoe_core.runtime import jobs
from qmoe_core.runtime.executor import Context
from qmoe_core.runtime.jobs import Bench, HoldOut, Job, Train
from qmoe_core.runtime.store import Store

T = TypeVar("T")
DEADLINE_S = 120.0
MEASURE_SIZES = Bench(measure="size", shape=(8, 4, 2), experts=("q1", "q4"))
"""A job that takes no time."""


def _until(ask: Callable[[], T], what: str) -> T:
    """The first answer that is true; fails at a deadline."""
    end = time.monotonic() + DEADLINE_S
    while not (answer := ask()):
        if time.monotonic() > end:
            pytest.fail(f"waited in vain: {what}")
        time.sleep(0.02)
    return answer


def _ended(job: Job, store: Store) -> Job:
    def ended() -> Job | None:
        now = jobs.get(job.id, store)
        return None if now.active else now

    return _until(ended, f"{job.title} to end")


def _at_work(job: Job, store: Store) -> Job:
    """The job once it has trained an epoch."""

    def begun() -> bool:
        assert jobs.get(job.id, store).active, jobs.get(job.id, store).error
        return any(event["event"] == "epoch" for event in jobs.events(job.id, store=store)[0])

    _until(begun, "a first epoch")
    return jobs.get(job.id, store)


@pytest.fixture
def store(store: Store) -> Iterator[Store]:
    """A store whose jobs do not outlive the test."""
    yield store
    for job in jobs.list_jobs(store):
        jobs.cancel(job.id, store)
    for job in jobs.list_jobs(store):
        _ended(job, store)


@contextlib.contextmanager
def _busy_machine(store: Store) -> Iterator[None]:
    """Nothing runs meanwhile; jobs queue."""
    home = store.root / "jobs"
    home.mkdir(parents=True, exist_ok=True)
    with (home / jobs.TURN).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def small(tiny_dataset: Path, tiny_config) -> Train:
    return Train(dataset=str(tiny_dataset), experts=("q1",), config=tiny_config, workers=1)


@pytest.fixture
def endless(small: Train) -> Train:
    expert = msgspec.structs.replace(small.config.expert, epochs=10**9, patience=10**9)
    return msgspec.structs.replace(small, config=msgspec.structs.replace(small.config, expert=expert))


def test_a_training_from_plan_to_bundle_and_again(small: Train, store: Store) -> None:
    request = msgspec.structs.replace(
        small, experts=("q1", "popcount"), mixtures=(("q1", "popcount"),), bundle="by-a-job"
    )
    before = jobs.plan(request, store)
    assert (before.clips, before.embedded, before.seconds) == (30, 0, None)
    assert [(row.name, row.cached, row.total) for row in before.rows] == [
        ("fp32", 0, 5),
        ("q1", 0, 5),
        ("popcount", 0, 5),
    ]

    submitted = jobs.submit(request, store)
    assert (submitted.state, submitted.title) == ("queued", "Train q1, popcount on tiny")
    job = _ended(submitted, store)

    assert (job.state, job.error, job.pid) == ("done", None, None), job.log()
    assert job.submitted <= job.started <= job.ended
    assert job.result is not None
    assert [row["name"] for row in job.result["rows"]] == [
        "q1",
        "popcount",
        "q1+popcount",
        "q1+popcount curious",
    ]
    assert bundles.load(bundles.find(job.result["bundle"])).experts == ("q1", "popcount")

    happened, position = jobs.events(job.id, store=store)
    assert jobs.events(job.id, position, store) == ([], position)
    assert [event["state"] for event in happened if event["event"] == "state"] == [
        "queued",
        "running",
        "done",
    ]
    assert all(a["at"] > 0 for a in happened)
    story = jobs.story(happened)
    assert len(story.folds) == 15
    assert {(fold["expert"], fold["cached"]) for fold in story.folds} == {
        ("fp32", False),
        ("q1", False),
        ("popcount", False),
    }
    assert (story.stage, story.done, story.total) == ("training on all clips", 1, 1)
    assert len(story.curves) == 30  # three experts, five folds, to choose the epoch and to refit
    curve = story.curves["q1", "official-1", request.config.seed, "inner"]
    assert [point["epoch"] for point in curve] == list(range(1, len(curve) + 1))
    assert all(
        point["train_loss"] > 0.0 and point["loss"] > 0.0 and 0.0 <= point["f1"] <= 1.0 for point in curve
    )
    refitted = story.curves["q1", "official-1", request.config.seed, "refit"]
    assert all(point["loss"] is None for point in refitted)

    after = jobs.plan(request, store)
    assert (after.embedded, after.cached, after.total, after.seconds) == (30, 15, 15, 0.0)
    more = jobs.plan(msgspec.structs.replace(request, experts=("q1", "q2")), store)
    assert more.cached == 15
    assert more.seconds is not None
    assert more.seconds > 0.0
    again = _ended(jobs.submit(job.request, store), store)
    assert again.result is not None
    assert (again.result["trained"], again.result["found"]) == (0, 15)
    assert [row["f1_mean"] for row in again.result["rows"]] == [row["f1_mean"] for row in job.result["rows"]]


def test_one_at_a_time_in_the_order_of_submission(store: Store) -> None:
    with _busy_machine(store):
        submitted = [jobs.submit(MEASURE_SIZES, store) for _ in range(4)]
        waiting = [_until(lambda job=job: jobs.get(job.id, store).pid, "its process") for job in submitted]
        assert len(set(waiting)) == 4
        assert [job.state for job in jobs.list_jobs(store)] == ["queued"] * 4
        assert [job.id for job in jobs.list_jobs(store)] == [job.id for job in reversed(submitted)]
        skipped = jobs.cancel(submitted[1].id, store)
        assert _ended(skipped, store).state == "cancelled"
    ended = [_ended(job, store) for job in submitted]

    assert [job.state for job in ended] == ["done", "cancelled", "done", "done"]
    ran = [job for job in ended if job.state == "done"]
    for first, second in itertools.pairwise(ran):
        assert first.ended is not None
        assert second.started is not None
        assert first.ended <= second.started
    assert ended[1].started is None


def test_cancelled_at_work_and_taken_up_again(small: Train, endless: Train, store: Store) -> None:
    job = _at_work(jobs.submit(endless, store), store)
    assert (job.state, job.active) == ("running", True)
    waiting = jobs.submit(small, store)

    asked = jobs.cancel(job.id, store)
    assert asked.stopping or asked.state == "cancelled"
    stopped = _ended(job, store)

    assert (stopped.state, stopped.error, stopped.result) == ("cancelled", None, None)
    assert not stopped.stopping
    assert jobs.cancel(job.id, store) == stopped  # nothing is left to stop
    assert _ended(waiting, store).state == "done"  # and the next one had its turn


def test_cancelling_stops_worker_processes_too(endless: Train, store: Store) -> None:
    job = _at_work(jobs.submit(msgspec.structs.replace(endless, workers=2), store), store)

    assert _ended(jobs.cancel(job.id, store), store).state == "cancelled"


def test_a_polite_kill_cancels(endless: Train, store: Store) -> None:
    job = _at_work(jobs.submit(endless, store), store)

    assert job.pid is not None
    os.kill(job.pid, signal.SIGTERM)

    assert _ended(job, store).state == "cancelled"


def test_a_killed_job_is_reported_and_what_it_finished_is_found(
    small: Train, endless: Train, store: Store
) -> None:
    assert _ended(jobs.submit(small, store), store).state == "done"
    job = _at_work(jobs.submit(endless, store), store)
    waiting = jobs.submit(MEASURE_SIZES, store)

    assert job.pid is not None
    os.kill(job.pid, signal.SIGKILL)
    killed = _ended(job, store)

    assert killed.state == "failed"
    assert killed.error is not None
    assert "ended from outside: killed, out of memory" in killed.error
    assert "start it again" in killed.error
    assert killed.pid is None
    assert _ended(waiting, store).state == "done"
    again = _ended(jobs.submit(small, store), store)
    assert again.result is not None
    assert (again.result["trained"], again.result["found"]) == (0, 5)


def test_a_process_number_that_was_given_to_somebody_else_fools_nobody(store: Store) -> None:
    job = _ended(jobs.submit(MEASURE_SIZES, store), store)
    record = msgspec.json.decode((job.folder / jobs.RECORD).read_bytes())
    record |= {"state": "running", "pid": os.getpid(), "ended": None}
    (job.folder / jobs.RECORD).write_bytes(msgspec.json.encode(record))

    # That process lives, but does not hold the job's lock.
    found = _until(lambda: not (now := jobs.get(job.id, store)).active and now, "the job's own process")

    assert (found.state, found.active, found.pid) == ("failed", False, None)


def test_a_crash_says_why(store: Store) -> None:
    with _busy_machine(store):
        job = jobs.submit(MEASURE_SIZES, store)
        _until(lambda: jobs.get(job.id, store).pid, "its process")
        events = job.folder / jobs.EVENTS
        _until(events.exists, "its first event")
        # Nothing can be kept any more: a file is where the benchmarks should go.
        (store.root / "benchmarks").write_text("in the way")
    failed = _ended(job, store)
    assert failed.state == "failed"
    assert failed.error is not None
    assert "a file where the store needs a folder" in failed.error
    assert "\n" not in failed.error
    assert failed.log() == ""  # a sentence needs no traceback


def test_an_unforeseen_crash_leaves_the_last_line_and_the_log(small: Train, store: Store) -> None:
    with _busy_machine(store):
        job = jobs.submit(small, store)
        events = job.folder / jobs.EVENTS
        _until(events.exists, "its first event")
        events.unlink()
        events.mkdir()
    failed = _ended(job, store)

    assert failed.state == "failed"
    assert failed.error is not None
    assert failed.error.startswith("IsADirectoryError:")
    assert "Traceback (most recent call last)" in failed.log()
    assert failed.log(1).startswith("IsADirectoryError:")


def test_a_dataset_that_goes_while_the_job_waits(small: Train, store: Store, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(small.dataset, copy)
    with _busy_machine(store):
        job = jobs.submit(msgspec.structs.replace(small, dataset=str(copy)), store)
        shutil.rmtree(copy)
    failed = _ended(job, store)

    assert failed.state == "failed"
    assert failed.error is not None
    assert str(copy) in failed.error


def test_it_outlives_who_submitted_it(store: Store) -> None:
    """The page's process may end: a tab is closed, the dashboard is stopped."""
    with _busy_machine(store):
        script = (
            "import sys, pathlib; from qmoe_core.runtime import jobs; from qmoe_core.runtime import store; "
            "print(jobs.submit(jobs.Bench(measure='size', shape=(8, 4, 2)), store.Store(sys.argv[1])).id)"
        )
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script, str(store.root)],
            capture_output=True,
            text=True,
            check=True,
        )
        name = done.stdout.strip()
        assert jobs.get(name, store).state == "queued"
    job = _ended(jobs.get(name, store), store)

    assert (job.state, done.stderr) == ("done", "")
    assert job.result is not None
    assert job.result["what"] == "size"


def test_held_out_classes_as_a_job(small: Train, store: Store) -> None:
    request = HoldOut(
        dataset=small.dataset, held_out=("hiss",), experts=("q1",), config=small.config, workers=1
    )
    assert jobs.plan(request, store).total == 5
    job = _ended(jobs.submit(request, store), store)

    assert job.title == "Hold hiss out of tiny"
    assert job.result is not None, job.error
    assert job.result["n_strange"] == 10
    embedder = embedders.create("logmel-stats").id
    (found,) = ood.kept(store, embedder, ("hum", "whistle", "hiss"))
    assert found.held_out == ("hiss",)
    assert jobs.plan(request, store).cached == 5


def test_a_benchmark_as_a_job_is_kept_for_the_pages(store: Store) -> None:
    job = _ended(jobs.submit(MEASURE_SIZES, store), store)

    kept = bench.last("size", store)
    assert kept is not None
    assert kept.to_json() == job.result
    assert job.title == "Measure size"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"dataset": "/nowhere"}, DatasetError, "/nowhere"),
        ({"experts": ("q5",)}, ConfigError, "no expert 'q5'"),
        ({"mixtures": (("q4", "q4"),)}, ConfigError, "mixture: an expert is named twice"),
        ({"bundle": "escape me"}, BundleError, "not a name for a bundle"),
    ],
)
def test_what_cannot_work_is_refused_at_once(
    small: Train, store: Store, change: dict, error: type[UserError], message: str
) -> None:
    with pytest.raises(error, match=message):
        jobs.submit(msgspec.structs.replace(small, **change), store)
    assert jobs.list_jobs(store) == []


def test_other_requests_that_are_refused(small: Train, store: Store) -> None:
    evaluation = msgspec.structs.replace(small.config.evaluation, protocol="random", folds=50)
    too_many = msgspec.structs.replace(small.config, evaluation=evaluation)
    with pytest.raises(DatasetError, match="50 folds need at least 50 clips"):
        jobs.submit(msgspec.structs.replace(small, config=too_many), store)
    with pytest.raises(DatasetError, match="no class cow"):
        jobs.submit(HoldOut(dataset=small.dataset, held_out=("cow",)), store)
    with pytest.raises(BundleError, match="nothing"):
        jobs.submit(Bench(measure="latency", bundle="nothing"), store)
    with pytest.raises(ConfigError, match="'host' is no scheduler"):
        jobs.submit(msgspec.structs.replace(small, scheduler="host"), store)
    assert jobs.list_jobs(store) == []


@pytest.mark.parametrize("name", ["", "..", "../../etc", "20250101-000000-0123abcd", "lock", "a" * 5000])
def test_a_link_to_a_job_that_does_not_exist(name: str, store: Store) -> None:
    for ask in (jobs.get, jobs.cancel):
        with pytest.raises(StoreError, match="there is no job"):
            ask(name, store)
    with pytest.raises(StoreError, match="there is no job"):
        jobs.events(name, store=store)


def test_a_damaged_record_does_not_hide_the_others(store: Store) -> None:
    broken, sound = (_ended(jobs.submit(MEASURE_SIZES, store), store) for _ in range(2))
    (broken.folder / jobs.RECORD).write_text("{")

    assert [job.id for job in jobs.list_jobs(store)] == [sound.id]
    with pytest.raises(StoreError, match="cannot be read; remove the folder"):
        jobs.get(broken.id, store)


def test_a_line_that_was_cut_off_is_skipped(store: Store) -> None:
    job = _ended(jobs.submit(MEASURE_SIZES, store), store)
    path = job.folder / jobs.EVENTS
    before, position = jobs.events(job.id, store=store)
    with path.open("ab") as file:
        file.write(b'{"at": 1, "eve\n{"at": 2, "event": "whole"}\n{"at": 3, "event": "unfin')

    after, _ = jobs.events(job.id, position, store)

    assert [event["event"] for event in before] == ["state"] * 3
    assert after == [{"at": 2, "event": "whole"}]


def test_a_store_that_cannot_be_written(tmp_path: Path, store: Store) -> None:
    file = tmp_path / "file"
    file.write_text("")

    with pytest.raises(StoreError, match="the job could not be started"):
        jobs.submit(MEASURE_SIZES, Store(file))
    assert jobs.list_jobs(Store(file)) == []


def test_watching_a_training_changes_nothing(tiny_subject, tiny_config, tiny_run, store: Store) -> None:
    """What `events` rests on: an observer sees every epoch that ran, and the result is the same."""
    from qmoe_core.training import crossval

    arguments = (tiny_subject, ["q1"], tiny_config, [tiny_config.seed])
    alone = crossval.train_experts(*arguments, Context(tiny_run.store))
    told = []
    watched = crossval.train_experts(*arguments, Context(store, observe=told.append))

    assert all(result.cached for result in alone)
    assert not any(result.cached for result in watched)
    for one, other in zip(alone, watched, strict=True):
        assert (one.key, one.f1, one.epochs) == (other.key, other.f1, other.epochs)
        assert one.logits.tolist() == other.logits.tolist()
    kept = [store.get(crossval.KIND, task.key) for task in crossval.tasks_of(*arguments)]
    ran = [point["train_loss"] for entry in kept if entry for point in entry.metadata["history"]]
    assert [event["train_loss"] for event in told if event["event"] == "epoch"] == ran


def test_a_fit_that_was_interrupted_begins_its_curve_anew() -> None:
    def epoch(number: int, loss: float) -> dict:
        named = {"event": "epoch", "expert": "q4", "fold": "official-1", "seed": 1, "part": "inner"}
        return {**named, "epoch": number, "train_loss": loss, "loss": loss, "f1": 0.5}

    story = jobs.story([epoch(1, 3.0), epoch(2, 2.0), epoch(1, 3.0)])

    assert [point["epoch"] for point in story.curves["q4", "official-1", 1, "inner"]] == [1]
    assert (story.stage, story.done, story.total, story.folds) == ("", 0, 0, ())


def test_a_job_whose_store_is_a_bucket(
    bucket: str, small: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    store = Store(f"{bucket}/lab")
    request = msgspec.structs.replace(small, workers=2)
    job = _ended(jobs.submit(request, store), store)

    assert (job.state, job.error) == ("done", None), job.log()
    assert {event["event"] for event in jobs.events(job.id, store=store)[0]} >= {"epoch", "fold", "stage"}
    assert len(store.list("experts")) == 5
    assert jobs.plan(request, store).rows[0].cached == 5
    assert job.folder.is_relative_to(tmp_path / "share")
