"""Tasks on a Dask cluster: the same results as here, whoever dies, and a sentence where that cannot be."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from qmoe_core import cli, datasets, embedders
from qmoe_core.config import Config
from qmoe_core.embedders.embed import embed_dataset
from qmoe_core.errors import Cancelled, ConfigError, UserError
from qmoe_core.runtime import dask_cluster, executor
from qmoe_core.runtime.store import Store
from tests import tiny
from tests.clusters import Cluster
from tests.conftest import TinyRun

if importlib.util.find_spec("distributed") is None:
    missing = "distributed is not installed: nothing here is tested; pip install 'qmoe-lab[cluster]'"
    if os.environ.get("CI"):
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing, allow_module_level=True)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A scheduler and two workers that all tests share."""
    made = Cluster(tmp_path_factory.mktemp("two"))
    made.add_workers(2)
    yield made
    made.stop()


def pid(item: int) -> int:
    """Which process this is, after a moment."""
    time.sleep(0.05)
    return os.getpid()


def test_every_item_once_on_both_workers(two: Cluster) -> None:
    told = []
    with dask_cluster.connected(two.address):
        assert list(executor.run(math.sqrt, [])) == []
        results = executor.run(math.sqrt, range(100), progress=lambda *said: told.append(said))
        assert sorted(results) == [(i, math.sqrt(i)) for i in range(100)]
        assert [done for done, _, _ in told] == list(range(1, 101))
        while len(seen := {process for _, process in executor.run(pid, range(8))}) < 2:
            pass  # one of the workers is still starting
    assert seen == {worker.pid for worker in two.workers}
    assert [os.getpid()] == [process for _, process in executor.run(pid, [1])]


def tell(item: int, observe: executor.Observer) -> int:
    """Tells three things."""
    for step in range(3):
        observe({"item": item, "step": step})
    return item


def test_tasks_tell_an_observer_here_before_they_are_done(two: Cluster) -> None:
    heard: list[dict] = []
    with dask_cluster.connected(two.address):
        for _, item in executor.run(tell, range(40), observe=heard.append):
            mine = [event["step"] for event in heard if event["item"] == item]
            assert mine == [0, 1, 2]
        assert len(heard) == 120
        assert len(list(executor.run(tell, [1], observe=heard.append))) == 1  # another run hears its own only
        assert len(heard) == 123


def test_two_runs_at_once_hear_their_own(two: Cluster) -> None:
    first: list[dict] = []
    second: list[dict] = []
    with dask_cluster.connected(two.address):
        one = executor.run(tell, range(12), observe=first.append)
        other = executor.run(tell, range(100, 106), observe=second.append)
        next(one)
        assert len(list(other)) == 6
        assert len(list(one)) == 11
    assert [len(first), len(second)] == [36, 18]
    assert {event["item"] for event in second} == set(range(100, 106))


def test_an_observer_may_end_the_run(two: Cluster) -> None:
    def enough(event: dict) -> None:
        raise Cancelled("enough")

    with dask_cluster.connected(two.address), pytest.raises(Cancelled, match="enough"):
        list(executor.run(tell, range(40), observe=enough))


def test_an_error_names_the_task(two: Cluster) -> None:
    with dask_cluster.connected(two.address), pytest.raises(ValueError, match="math domain error") as caught:
        list(executor.run(math.sqrt, [1, -4]))
    assert caught.value.__notes__ == ["while working on -4"]


def hold(path: str) -> None:
    """Says that it runs, and ends when it is allowed to."""
    Path(path).with_suffix(".runs").touch()
    while not Path(path).with_suffix(".may-end").exists():
        time.sleep(0.01)


def test_cancelled_at_once_while_tasks_run(two: Cluster, tmp_path: Path) -> None:
    paths = [str(tmp_path / str(i)) for i in range(6)]
    with dask_cluster.connected(two.address), pytest.raises(Cancelled, match="finished is kept"):
        list(executor.run(hold, paths, cancelled=lambda: any(tmp_path.glob("*.runs"))))
    for path in paths:
        Path(path).with_suffix(".may-end").touch()
    with dask_cluster.connected(two.address):  # after what still ran
        assert len(list(executor.run(math.sqrt, range(4)))) == 4
    assert len(list(tmp_path.glob("*.runs"))) <= 2  # what waited never began


def test_ctrl_c(two: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "held"

    def press() -> None:
        while not path.with_suffix(".runs").exists():
            time.sleep(0.01)
        path.with_suffix(".may-end").touch()
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    with dask_cluster.connected(two.address), pytest.raises(Cancelled, match="Ctrl-C"):
        list(executor.run(hold, [str(path), str(tmp_path / "other")]))
    (tmp_path / "other.may-end").touch()
    presser.join()


def test_other_code_is_refused(two: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = dask_cluster.versions()
    other = (*(pair for pair in mine if pair[0] != "qmoe-lab"), ("qmoe-lab", "0123456789ab"))
    monkeypatch.setattr(dask_cluster, "versions", lambda: other)
    with (
        dask_cluster.connected(two.address),
        pytest.raises(UserError, match=f"has qmoe-lab {dict(mine)['qmoe-lab']}, not 0123456789ab"),
    ):
        list(executor.run(math.sqrt, [4.0]))


@pytest.mark.parametrize("fault", ["threads", "store"])
def test_a_worker_that_is_not_fit_refuses(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = SimpleNamespace(
        address="tcp://a:1", state=SimpleNamespace(nthreads=4 if fault == "threads" else 1)
    )
    monkeypatch.setattr("distributed.get_worker", lambda: worker)
    said = {
        "threads": "tcp://a:1 on .* has 4 threads",
        "store": f"does not see the store {tmp_path / 'store'}:",
    }
    terms = dask_cluster.Terms(dask_cluster.versions(), str(tmp_path / "store"), "mark")
    with pytest.raises(UserError, match=said[fault]):
        dask_cluster.perform(b"", pickle.dumps(terms), [])


def test_a_file_that_only_the_client_has(two: Cluster, tmp_path: Path) -> None:
    with (
        dask_cluster.connected(two.address),
        pytest.raises(
            UserError,
            match=r"worker tcp://.* finds no .*gone: recordings, and a store",
        ),
    ):
        list(executor.run(Path.read_bytes, [tmp_path / "gone"]))


def test_tasks_that_kill_their_workers() -> None:
    from distributed import KilledWorker

    said = dask_cluster._failure(KilledWorker("key", None, 3), ["clips 1–16"])  # type: ignore[arg-type]
    assert isinstance(said, UserError)
    assert "4 workers died" in str(said)
    assert "clips 1–16" in str(said)


def test_who_gets_a_message() -> None:
    short = [0.1] * dask_cluster.RECENT
    assert dask_cluster._free(["a", "b"], [], [], 100) == ["a", "b"]
    assert dask_cluster._free(["a", "b"], ["a"], [], 100) == ["b"]
    assert dask_cluster._free(["a", "b"], ["a", "b"], [], 100) == []
    assert dask_cluster._free(["a", "b"], ["a"], short, 100) == ["b", "a"]  # one more than it works on
    assert dask_cluster._free(["a", "b"], ["a", "a", "b"], short, 100) == ["b"]
    assert dask_cluster._free(["a", "b"], ["a", "a", "b", "b"], short, 100) == []
    assert dask_cluster._free(["a", "b"], ["a"], short, 4) == ["b"]  # the last are for who is free first
    assert dask_cluster._free(["a", "b"], ["a"], [2.0] * dask_cluster.RECENT, 100) == ["b"]
    assert dask_cluster._free(["b"], ["gone", "b"], [], 100) == []  # what was "gone"'s is on "b" now
    assert dask_cluster._free(["a", "b"], ["gone"] * 9, short, 100) == []
    assert dask_cluster._free(["a", "b"], ["a", "a"], short, 4) == ["b"]


def test_groups_make_a_second_and_leave_work_for_the_others() -> None:
    assert dask_cluster._group([0.001] * (dask_cluster.RECENT - 1), 1000, 2) == 1  # not known yet
    assert dask_cluster._group([0.1] * dask_cluster.RECENT, 1000, 2) == 10
    assert dask_cluster._group([0.1] * (dask_cluster.RECENT - 1) + [30.0], 1000, 2) == 1
    assert dask_cluster._group([0.0] * dask_cluster.RECENT, 1000, 2) == 250
    assert dask_cluster._group([0.1] * dask_cluster.RECENT, 3, 2) == 1


def entries(store: Store) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    return {
        (entry.kind, entry.key): entry.tensors
        for entry in store.list()
        if entry.kind in ("embeddings", "experts")
    }


def test_training_without_one_of_the_workers_is_that_of_one_machine(
    two: Cluster, tiny_dataset: Path, tiny_config: Config, tiny_run: TinyRun
) -> None:
    def show(title: str) -> executor.Progress:
        def told(done: int, total: int, message: str) -> None:
            if title == "training" and done == 10:
                two.workers[0].kill()
                two.workers[0].wait()

        return told

    names, store = ("bitnet", "q4", "popcount"), Store()
    with dask_cluster.connected(two.address):
        report = tiny.train(tiny_dataset, experts=names, config=tiny_config, store=store, progress=show)
    assert two.workers[0].returncode is not None
    assert report.rows == tuple(row for name in names for row in tiny_run.report.rows if row.name == name)
    mine, theirs = entries(store), entries(tiny_run.store)
    assert mine
    for key, tensors in mine.items():
        assert tensors.keys() == theirs[key].keys()
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(tensor, theirs[key][name], strict=True)


def test_a_store_in_a_bucket_gives_the_same(
    bucket: str,
    tiny_dataset: Path,
    tiny_config: Config,
    tiny_run: TinyRun,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("client")))
    monkeypatch.setenv("QMOE_STORE", f"{bucket}/lab")
    made, store, heard = Cluster(tmp_path_factory.mktemp("bucket")), Store(), []
    made.add_workers(2)
    try:
        with dask_cluster.connected(made.address):
            report = tiny.train(
                tiny_dataset, experts=("q4",), config=tiny_config, store=store, observe=heard.append
            )
    finally:
        made.stop()
    assert report.rows == tuple(row for row in tiny_run.report.rows if row.name == "q4")
    assert {event["event"] for event in heard} == {"epoch", "fold"}
    mine, theirs = entries(store), entries(tiny_run.store)
    assert len(mine) == 5 + 2
    for key, tensors in mine.items():
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(tensor, theirs[key][name], strict=True)


def test_from_the_command_line(two: Cluster, tiny_dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["embed", str(tiny_dataset), "--scheduler", two.address, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clips"] == 30
    assert not list((Store().root / "tmp").iterdir())


def test_the_scheduler_vanishes(
    tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Cluster(tmp_path_factory.mktemp("vanishing"))
    monkeypatch.setattr(dask_cluster, "NO_WORKERS_S", 0.0)
    manifest, embedder, store = datasets.open_dataset(tiny_dataset), embedders.create("logmel-stats"), Store()

    def embed(progress: Callable[[int, int, str], object]) -> np.ndarray:
        return embed_dataset(
            manifest, embedder, executor.Context(store, progress=lambda title: progress), batch=2
        )

    def vanish(done: int, total: int, message: str) -> None:
        if done >= 4:
            made.scheduler.kill()

    try:
        with dask_cluster.connected(made.address):
            with pytest.raises(UserError, match="has no workers; start"):
                list(executor.run(math.sqrt, [4.0]))
            monkeypatch.setattr(dask_cluster, "NO_WORKERS_S", 60.0)
            made.add_workers(1)
            with pytest.raises(UserError, match=f"the scheduler at {made.address} is gone; what was"):
                embed(vanish)
    finally:
        made.stop()
    told = []
    again = embed(lambda *said: told.append(said))
    assert 4 <= told[0][0] < 30  # goes on
    elsewhere = executor.Context(Store(store.root / "other"))
    np.testing.assert_array_equal(again, embed_dataset(manifest, embedder, elsewhere, batch=2))


@pytest.mark.parametrize("address", ["localhost:8786", "http://localhost:1", "tcp://host", "tcp://a b:1", ""])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match="is no scheduler; accepted is"), dask_cluster.connected(address):
        pass


def test_nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_cluster, "CONNECT_S", 0.2)
    with (
        pytest.raises(UserError, match="no Dask scheduler answers at tcp://127"),
        dask_cluster.connected("tcp://127.0.0.1:9"),
    ):
        pass


def test_without_dask(
    tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "dask.config", None)
    assert cli.main(["embed", str(tiny_dataset), "--scheduler", "tcp://127.0.0.1:9"]) == 2
    assert "pip install 'qmoe-lab[cluster]'" in capsys.readouterr().err
