"""A lab that is open to the public: what visitors cannot do, and that none sees what another does."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from streamlit.testing.v1 import AppTest

from dashboard import launch
from dashboard.session import live_state, public, training
from dashboard.session.public import Limits
from qmoe_core import bundles
from qmoe_core.errors import UserError
from qmoe_core.runtime import jobs
from qmoe_core.runtime.jobs import Bench, Claims, Train
from qmoe_core.runtime.store import VISITORS, Store, lab_root
from tests.pages.test_listen import upload, wav
from tests.pages.test_train import busy_machine, ended, text

Visit = Callable[..., AppTest]


@pytest.fixture(autouse=True)
def _open_to_the_public(
    monkeypatch: pytest.MonkeyPatch, tiny_dataset: Path, tmp_path: Path
) -> Iterator[None]:
    """With one known dataset, called tiny."""
    home = tmp_path / "known"
    home.mkdir()
    (home / "tiny").symlink_to(tiny_dataset)
    monkeypatch.setenv("QMOE_DATA", str(home))
    monkeypatch.setattr(public, "LIMITS", Limits())
    yield
    public.sweep()


def on(app: AppTest, page: str) -> AppTest:
    app.switch_page(f"../pages/{page}.py").run()
    assert not app.exception
    return app


def root_of(app: AppTest) -> Path:
    return app.session_state["visitor"].root


def labels(app: AppTest) -> set[str]:
    """Of everything that can be set or pressed."""
    kinds = ("button", "toggle", "selectbox", "text_input", "number_input", "button_group", "expander")
    return {element.label for kind in kinds for element in getattr(app, kind, app.get(kind))}


def tiny_training(app: AppTest, name: str = "own") -> AppTest:
    """Press Train for one expert on the known dataset, while the machine is busy."""
    app.query_params.update({"data": "tiny", "experts": "q1", "mix": "", "name": name})
    on(app, "train")
    next(b for b in app.button if b.label in ("Train", "Queue the training")).click().run()
    assert not app.exception
    return app


def test_nothing_of_one_visitor_is_there_for_another(visit: Visit, tiny_run) -> None:
    with busy_machine():
        one, other = tiny_training(visit()), on(visit(), "train")
        (job,) = jobs.list_jobs(Store(root_of(one)))
        assert root_of(one) != root_of(other)
        assert "Train q1 on tiny" in text(one)
        assert "Train q1 on" not in text(other)
        assert jobs.list_jobs(Store(root_of(other))) == jobs.list_jobs(Store(lab_root())) == []

        # Not by its address either.
        other.query_params["job"] = job.id
        assert f"The link asks for job = “{job.id}”" in text(other.run())

    shutil.copytree(tiny_run.bundle, root_of(one) / "bundles" / "secret")
    shutil.copytree(tiny_run.bundle, lab_root() / "bundles" / "shown")
    names = [on(app, "dataset").selectbox(key="selected_bundle").options for app in (one, other)]
    assert names == [[bundles.DEFAULT_NAME, "secret", "shown"], [bundles.DEFAULT_NAME, "shown"]]
    other.query_params["bundle"] = "secret"
    assert "There is no bundle “secret” here" in text(other.run())


def test_what_a_visitor_made_goes_with_the_session(visit: Visit) -> None:
    with busy_machine():
        app = tiny_training(visit())
        root = root_of(app)
        assert len(jobs.list_jobs(Store(root))) == 1
        del app.session_state["visitor"]
        gc.collect()
        assert not root.exists()


def test_the_servers_event_loop_does_not_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []
    monkeypatch.setattr(public, "_forget", lambda _: removed.append(threading.current_thread().name))

    async def leaves() -> None:
        public._leave(lab_root() / VISITORS / "0a1b")

    asyncio.run(leaves())
    public._leaving.submit(lambda: None).result()
    assert [name.partition("_")[0] for name in removed] == ["leaving"]


def test_a_lab_that_was_ended_leaves_nothing_behind() -> None:
    stray = Store(lab_root() / VISITORS / "0a1b")
    stray.put("experts", {"a": 1}, {})

    public.sweep()

    assert not stray.root.exists()


@pytest.mark.parametrize(
    ("link", "says"),
    [
        ({"data": "/"}, "Folders are switched off"),
        ({"data": "../known/tiny"}, "Folders are switched off"),
        ({"data": "/etc:esc10"}, "Folders are switched off"),
        ({"embedder": "logmel-stats@/etc/x.safetensors"}, "Embedders other than logmel-stats, ds-cnn"),
        ({"weights": "/etc/x.safetensors"}, "Weights from a file or the network are switched off"),
        ({"set": "expert.epochs=1000000"}, "Single settings are switched off"),
        ({"protocol": "random", "folds": "6"}, "More than 5 folds are switched off"),
        ({"seeds": "2"}, "More seeds than one are switched off"),
        ({"perturb": "1"}, "Changed copies are switched off"),
    ],
)
def test_no_link_trains_what_visitors_may_not(visit: Visit, link: dict[str, str], says: str) -> None:
    app = visit()
    app.query_params.update({"data": "tiny", **link})
    on(app, "train")

    assert says in text(app)
    assert not {"Train", "Queue the training"} & labels(app)


def test_the_train_page_says_what_is_switched_off(visit: Visit) -> None:
    app = on(visit(), "train")

    assert "Folders, other embedders, weights, single settings, seeds and clusters are switched off" in text(
        app
    )
    assert not {"Embedder", "Its weights", "Seeds", "Settings", "Cluster"} & labels(app)


def test_the_microphone_of_the_machine_is_out_of_reach(visit: Visit) -> None:
    app = on(visit(), "live")

    assert "The microphone of the machine that runs this lab is switched off" in text(app)
    assert not {"Microphone of", "Device", "Keep the log on this machine’s disk"} & labels(app)
    live: live_state.Live = app.session_state["live"]
    live.start_host(None, None)
    assert (live.running, live.problem) == (False, public.MICROPHONE)
    live.keep(True)
    assert live.log.folder is None


def test_nobody_measures(visit: Visit) -> None:
    for page in ("efficiency", "formats"):
        app = on(visit(), page)
        assert not [b.label for b in app.button if (b.key or "").startswith("bench:")]
    for request in (Bench(measure="size"), Claims(only=(1,))):
        with pytest.raises(UserError, match="Measurements and checks are switched off"):
            public.submit(request)


def test_only_so_many_files_at_once(visit: Visit) -> None:
    app = upload(visit(), *((f"{i}.wav", wav("rain")) for i in range(7)))

    assert "The first five of 7 files are judged" in text(app)
    assert len(app.radio[0].options) == 5


def test_a_long_recording_is_not_for_visitors(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public, "LIMITS", Limits(duration_s=1.0))
    app = upload(visit(), ("long.wav", wav("rain")))
    assert "long.wav is longer than 1 s" in text(app)


def test_only_so_many_jobs(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    with busy_machine():
        one = tiny_training(visit())
        assert "You have 1 job waiting or running" in text(tiny_training(one, "again"))
        (job,) = jobs.list_jobs(Store(root_of(one)))
        assert msgspec.json.decode((job.folder / jobs.RECORD).read_bytes())["limit_s"] == Limits().job_s
        assert isinstance(job.request, Train)
        assert job.request.workers == 1

        monkeypatch.setattr(public, "LIMITS", Limits(queue=1))
        other = tiny_training(visit())
        assert "1 job of all visitors wait" in text(other)
        monkeypatch.setattr(public, "LIMITS", Limits(address_jobs=1))
        monkeypatch.setitem(public._addresses, root_of(one).name, "10.0.0.1")
        monkeypatch.setattr(public, "address", lambda: "10.0.0.1")
        assert "1 job from your network wait" in text(tiny_training(other, "again"))
        assert jobs.list_jobs(Store(root_of(other))) == []


def test_a_large_dataset_is_not_for_visitors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public, "LIMITS", Limits(clips=10))

    with pytest.raises(UserError, match="tiny: more clips than the 10 that visitors may train on"):
        public.submit(Train(dataset="tiny"))


def test_a_job_is_stopped_in_time(tiny_dataset: Path, tiny_config) -> None:
    long = msgspec.structs.replace(
        tiny_config, expert=msgspec.structs.replace(tiny_config.expert, epochs=100_000, patience=100_000)
    )
    request = Train(dataset=str(tiny_dataset), experts=("q1",), config=long, workers=1)

    job = ended(jobs.submit(request, limit_s=0.1))

    assert job.state == "cancelled"


def test_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(public.VARIABLE, "0")
    monkeypatch.setattr(launch, "_warm_beside", lambda: None)
    waits: list[Any] = []
    monkeypatch.setattr(launch.turns, "install", waits.append)
    called: list[Any] = []
    monkeypatch.setattr(launch.gathered, "install", lambda: called.append("gathered"))
    monkeypatch.setattr(launch.system, "keep_memory_low", lambda: called.append("memory"))
    monkeypatch.setattr(sys, "setswitchinterval", called.append)
    monkeypatch.setattr(launch.cli, "main", lambda: 0)
    given: dict[str, Any] = {}
    monkeypatch.setattr(launch.guard, "install", lambda **options: given.update(options))
    monkeypatch.setattr(sys, "argv", ["qmoe"])

    with pytest.raises(SystemExit):
        launch.main(["--server.port", "8501", "--public"])

    assert os.environ[public.VARIABLE] == "1"
    assert sys.argv[3:7] == ["--server.port", "8501", "--server.maxUploadSize", "20"]
    assert given["token"] is None
    assert given["bounds"] == launch.guard.Bounds()
    assert waits == [launch.turns.Turns(_lock=waits[0]._lock)]
    # A page that is asked for again while it waits or is drawn goes on in its own thread.
    assert sys.argv[sys.argv.index("--runner.fastReruns") + 1] == "false"
    assert called == ["gathered", launch.SWITCH_S, "memory"]


def test_otherwise_everything_is_its_owners(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public, "LIMITS", None)
    monkeypatch.setenv(public.SCHEDULERS, "tcp://10.0.0.5:8786")
    app = on(visit(), "train")

    assert training.outline(str(lab_root().parent / "known" / "tiny")).clips
    assert "visitor" not in app.session_state
    assert {"Embedder", "Cluster"} <= labels(app)
    assert public.training() == ""
