"""The Train page in each of its states: forms, queues, progress, ends of all kinds; its words and figures.

Jobs are real processes on a dataset of thirty clips. A test that needs them to stay queued holds the
machine-wide lock itself; the end of a job is waited for on the lock that its process holds while it lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile
import torch
from streamlit.testing.v1 import AppTest

from dashboard.charts import train as train_charts
from dashboard.charts.palette import DARK, LIGHT, Theme, expert_colour
from dashboard.session import public, training
from dashboard.session.training import Cell
from qmoe_core import bundles, numbers
from qmoe_core.embedders import models, networks
from qmoe_core.errors import ConfigError, DatasetError, UserError
from qmoe_core.runtime import jobs
from qmoe_core.runtime.jobs import Bench, HoldOut, Job, Story, Train
from qmoe_core.runtime.store import default_root

Open = Callable[..., AppTest]


@pytest.fixture
def page(visit: Callable[..., AppTest]) -> Open:
    """Open the page as somebody who follows a link."""

    def opened(**link: str) -> AppTest:
        app = visit()
        app.query_params.update(link)
        app.switch_page("../pages/train.py").run()
        assert not app.exception
        return app

    return opened


@pytest.fixture
def small(tiny_settings: tuple[str, ...], tiny_dataset: Path) -> dict[str, str]:
    """A link to a training that takes a moment."""
    return {
        "data": str(tiny_dataset),
        "set": ";".join(tiny_settings),
        "experts": "q1",
        "mix": "",
        "name": "own",
    }


@pytest.fixture
def request_(tiny_dataset: Path, tiny_config) -> Train:
    return Train(dataset=str(tiny_dataset), experts=("q1",), config=tiny_config, workers=1)


@pytest.fixture(autouse=True)
def _no_job_outlives_its_test() -> Iterator[None]:
    yield
    for job in jobs.list_jobs():
        jobs.cancel(job.id)
    for job in jobs.list_jobs():
        ended(job)


def ended(job: Job) -> Job:
    """The job once its process is gone."""
    with (job.folder / jobs.ALIVE).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
    return jobs.get(job.id)


@contextlib.contextmanager
def busy_machine() -> Iterator[None]:
    """Nothing runs meanwhile; jobs queue."""
    home = default_root() / "jobs"
    home.mkdir(parents=True, exist_ok=True)
    with (home / jobs.TURN).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def job_at_work(request: jobs.Request, events: list[dict]) -> Iterator[Job]:
    """A job that runs as far as anybody can see: its record, its lock and what happened in it."""
    with busy_machine():
        job = jobs.submit(request)
        jobs.cancel(job.id)
        ended(job)
    record = json.loads((job.folder / jobs.RECORD).read_text())
    (job.folder / jobs.CANCEL).unlink()
    (job.folder / jobs.RECORD).write_text(
        json.dumps(record | {"state": "running", "started": 0.0, "ended": None})
    )
    (job.folder / jobs.EVENTS).write_text(
        "".join(json.dumps({"at": i, **e}) + "\n" for i, e in enumerate(events))
    )
    with (job.folder / jobs.ALIVE).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield job


def text(app: AppTest) -> str:
    """All that the page says in Markdown, captions and HTML, without escapes."""
    said = [element.value for element in [*app.markdown, *app.caption, *app.info, *app.warning, *app.error]]
    said += [element.body for element in app.html] + [element.value for element in app.subheader]
    return "\n".join(said).replace("\\", "").replace("\xa0", " ")


def press(app: AppTest, label: str) -> AppTest:
    app = next(button for button in app.button if button.label == label).click().run()
    assert not app.exception
    return app


def link_of(app: AppTest) -> dict[str, str]:
    return {key: value if isinstance(value, str) else value[-1] for key, value in app.query_params.items()}


# The form.


def test_first_visit_without_any_dataset(page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qmoe_core.datasets.homes", list)
    app = page()
    assert "No dataset is on this machine yet" in text(app)
    assert "Choose a dataset first." in text(app)
    assert not any(button.label == "Train" for button in app.button)
    assert link_of(app) == {}


def test_a_folder_that_was_trained_on_is_offered_again(
    page: Open, request_: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qmoe_core.datasets.homes", list)
    with busy_machine():
        job = jobs.submit(request_)
        jobs.cancel(job.id)
        ended(job)
    app = page()
    assert app.selectbox(key="train.data").value == request_.dataset
    assert "No dataset is on this machine yet" not in text(app)


def test_what_will_run(page: Open, small: dict[str, str]) -> None:
    app = page(**small)
    assert "30 clips of 3 classes (hum, whistle, hiss), 15 recordings, 5 folds of its own." in text(app)
    assert "30 of 30 clips will be embedded. 5 of 5 folds will be trained." in text(app)
    app.pills(key="train.experts").set_value(["q1", "popcount"]).run()
    assert "15 of 15 folds will be trained." in text(app)  # popcount is made from a float expert
    assert link_of(app)["experts"] == "q1,popcount"
    app.number_input(key="train.seeds").set_value(2).run()
    assert "30 of 30 folds will be trained." in text(app)


@pytest.mark.parametrize(
    ("link", "sentence"),
    [
        ({"experts": "q5"}, "experts = “q5”; accepted is one or more of fp32, q1"),
        ({"mix": "q5"}, "mix = “q5”"),
        ({"protocol": "k-fold"}, "accepted is official, random and grouped"),
        ({"selection": "luck"}, "selection = “luck”"),
        ({"folds": "1"}, "accepted is a whole number from 2 to 100"),
        ({"seeds": "0"}, "accepted is a whole number from 1 to 10"),
        ({"job": "20200101-000000-00000000"}, "accepted is a job that is here. It is left out."),
        ({"expert": "q5"}, "expert = “q5”"),
    ],
)
def test_nonsense_in_a_link(page: Open, link: dict[str, str], sentence: str) -> None:
    app = page(**link)
    assert sentence in text(app)
    assert not set(link) & set(link_of(app))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("expert.epochs=banana", "epochs"),
        ("expert.epoch=3", "unknown field `epoch`"),
        ("router", "expected section.key=value"),
    ],
)
def test_settings_that_do_not_exist(page: Open, small: dict[str, str], settings: str, sentence: str) -> None:
    app = page(**{**small, "set": settings})
    assert sentence in text(app)
    assert not any(button.label == "Train" for button in app.button)


def test_a_cluster_is_asked_for_by_hand_only(page: Open, small: dict[str, str], monkeypatch) -> None:
    monkeypatch.setenv(public.SCHEDULERS, "tcp://10.0.0.5:8786")
    app = page(**small, scheduler="tcp://10.0.0.6:1")
    (field,) = [field for field in app.selectbox if field.label == "Cluster"]
    assert (field.value, field.options) == ("this machine", ["this machine", "tcp://10.0.0.5:8786"])
    field.set_value("tcp://10.0.0.5:8786").run()
    assert not app.error


def test_a_folder_that_is_none(page: Open, tmp_path: Path) -> None:
    app = page(data=str(tmp_path / "missing"))
    assert "no such dataset" in text(app)
    assert "Type the path of another folder above" in text(app)


def test_a_folder_without_audio(page: Open, tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "notes.txt").write_text("meow")
    assert "or a folder per class with recordings" in text(page(data=str(tmp_path)))


def test_a_folder_whose_audio_cannot_be_read(page: Open, tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for i in range(2):
            (tmp_path / name / f"{i}.wav").write_bytes(f"{name}{i}".encode())
    app = page(data=str(tmp_path))
    assert "none of its 4 files can be read as audio" in text(app)
    assert "Choose a dataset first." in text(app)


def test_a_folder_with_one_bad_file_and_no_folds(page: Open, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for i in range(6):
            soundfile.write(tmp_path / name / f"{i}.wav", 0.1 * rng.normal(size=8000), 8000)
    (tmp_path / "cats" / "bad.wav").write_bytes(b"x")
    (tmp_path / "loose.m4a").write_bytes(b"x")
    app = page(data=str(tmp_path))
    assert "audio files left out because they lie in no class folder: 1 (loose.m4a)" in text(app)
    assert "1 files cannot be used, and training would stop at them: cats/bad.wav" in text(app)
    assert "This dataset has no folds of its own, so whole recordings are kept on one side." in text(app)
    app.segmented_control(key="train.protocol").set_value("official").run()
    assert "This dataset has no folds of its own: choose random or grouped." in text(app)
    assert "Choose other folds first." in text(app)
    app.segmented_control(key="train.protocol").set_value("grouped").run()
    assert "folds will be trained" in text(app)


def test_another_embedder_is_loaded_on_request_only(page: Open, small: dict[str, str]) -> None:
    before = "timm" in sys.modules
    app = page(**small, embedder="efficientnet_b3", weights="random")
    assert "efficientnet_b3 has to be loaded, with torch" in text(app)
    assert ("timm" in sys.modules) == before
    assert any(button.label == "Train" for button in app.button)


def test_weights_that_are_missing_are_offered_with_licence_and_size(
    page: Open, small: dict[str, str], serve: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.BytesIO()
    torch.save(networks.Mn04().state_dict(), file)
    server = serve(file.getvalue())
    monkeypatch.setitem(models.MN04, "url", server.url)
    app = page(**small, embedder="mn04")
    assert "4 MB from its authors’ release on GitHub. Licence: MIT, Florian Schmid" in text(app)
    assert "qmoe models download mn04" in text(app)  # nothing can be planned without them
    press(app, "Download its weights")
    assert "is not mn04" in text(app)  # another file than the one that is known
    monkeypatch.setitem(models.MN04, "sha256", hashlib.sha256(file.getvalue()).hexdigest())
    press(app, "Download its weights")
    assert "Its weights are not on this machine" not in text(app)
    assert "folds will be trained" in text(app)


def test_an_embedder_that_does_not_exist(page: Open, small: dict[str, str]) -> None:
    app = press(page(**small, embedder="efficientnet_b33"), "See what is there")
    assert "There is no embedder efficientnet_b33" in text(app)


def test_the_name_of_the_bundle_that_ships(page: Open, small: dict[str, str]) -> None:
    app = page(**{**small, "name": bundles.DEFAULT_NAME})
    assert "That is the name of the bundle that ships" in text(app)
    assert next(button for button in app.button if button.label == "Train").disabled


def test_best_on_test_and_random_folds_are_owned_up_to(page: Open, small: dict[str, str]) -> None:
    app = page(**small, selection="best-on-test", protocol="random")
    assert "The test clips choose then" in text(app)
    assert "scores come out too high" in text(app)


@pytest.mark.parametrize("name", ["a/../b", "/tmp/x", "two words", "-x"])
def test_a_bundle_has_a_name_not_a_path(page: Open, small: dict[str, str], name: str) -> None:
    app = page(**{**small, "name": name})
    assert f"“{name}” is no name for a bundle" in text(app)
    assert not any(button.label == "Train" for button in app.button)


# Jobs.


def test_from_the_form_to_a_bundle_on_every_page(page: Open, small: dict[str, str]) -> None:
    app = press(page(**small), "Train")
    (job,) = jobs.list_jobs()
    assert link_of(app)["job"] == job.id
    assert ended(job).state == "done", job.log()
    app.run()
    assert "Train q1 on tiny" in text(app)
    assert "Done after" in text(app)
    assert 'aria-label="F1 of each expert and mixture"' in text(app)
    assert "tiny, logmel-stats, official folds, epoch chosen by inner-validation, seed 42" in text(app)
    assert len(app.get("plotly_chart")) == 3  # folds, loss, F1
    assert "All 5 folds are there, so only routers and the bundle are made" in text(app)
    assert "The bundle own is there already, and will be replaced." in text(app)
    press(app, "Use own on all pages")
    assert next(button for button in app.button if button.label == "All pages use it").disabled
    app.query_params.clear()
    app.switch_page("../pages/compare.py").run()
    assert not app.exception
    assert "bundle own: tiny, 30 clips" in text(app)


def test_two_sessions_at_once(page: Open, small: dict[str, str]) -> None:
    with busy_machine():
        first = press(page(**small), "Train")
        assert "It starts in a moment." in text(first)
        second = page(**small)
        assert "One job is before it: one runs at a time." in text(second)
        press(second, "Queue the training")
        assert "It waits for one other job: one runs at a time." in text(second)
        assert len(jobs.list_jobs()) == 2
        assert len(second.selectbox(key="train.job").options) == 3
        press(second, "Stop")
        newest = jobs.list_jobs()[0]
        assert ended(newest).state == "cancelled"
        second.run()
        assert "Stopped; what was finished is kept." in text(second)
        assert any(button.label == "Resume" for button in second.button)
        jobs.cancel(jobs.list_jobs()[1].id)


def test_a_stopped_job_goes_on(page: Open, request_: Train) -> None:
    with busy_machine():
        job = jobs.submit(request_)
        jobs.cancel(job.id)
        assert ended(job).state == "cancelled"
    app = press(page(job=job.id), "Resume")
    again = jobs.list_jobs()[0]
    assert again.request == job.request
    assert link_of(app)["job"] == again.id
    assert ended(again).state == "done"


EVENTS = [
    {"event": "stage", "stage": "training", "done": 1, "total": 5, "message": "**q1**, official-1"},
    *(
        {"event": "epoch", "expert": "q1", "fold": fold, "seed": 42, "part": "inner", "epoch": epoch}
        | {"train_loss": 1.0 / epoch, "loss": 1.1 / epoch, "f1": 0.5 + 0.1 * epoch}
        for fold in ("official-1", "official-2")
        for epoch in (1, 2, 3)
    ),
    {"event": "fold", "expert": "q1", "fold": "official-1", "seed": 42, "f1": 0.8, "seconds": 1, "epochs": 2}
    | {"cached": False},
]


def test_live_progress(page: Open, request_: Train) -> None:
    with job_at_work(request_, EVENTS):
        app = page()
        assert "and goes on when this page is closed" in text(app)
        assert app.get("progress")[0].proto.text.replace("\\", "") == "Training: 1 of 5"
        assert app.get("progress")[0].proto.value == 20
        assert "**q1**, official-1" in text(app)
        assert "1 of 5 folds are done" in text(app)
        assert "q1, 2 folds. Solid: on the inner validation clips" in text(app)
        assert len(app.get("plotly_chart")) == 3
        app.pills(key="train.expert").set_value("q1").run()
        assert link_of(app)["expert"] == "q1"


def test_a_job_that_was_killed_says_so_and_goes_on(page: Open, request_: Train) -> None:
    with job_at_work(request_, EVENTS) as job:
        pass
    (job.folder / jobs.LOG).write_text("Killed\n")
    app = page()
    assert app.error[0].value.startswith("Its process")
    assert "what was finished is kept" in text(app)
    assert app.code[0].value == "Killed"
    assert any(button.label == "Resume" for button in app.button)


def test_a_job_removed_while_it_is_shown(page: Open, request_: Train) -> None:
    with job_at_work(request_, EVENTS) as job:
        app = page(job=job.id)
        shutil.rmtree(job.folder)
        app.run()
        assert not app.exception
        assert "A new training" in text(app)
        assert "job" not in link_of(app)


def test_a_bundle_removed_meanwhile(page: Open, request_: Train) -> None:
    job = jobs.submit(msgspec.structs.replace(request_, bundle="gone"))
    assert ended(job).state == "done"
    shutil.rmtree(default_root() / "bundles" / "gone")
    app = page()
    assert "The bundle gone was removed meanwhile" in text(app)
    assert any(button.label == "Make it again" for button in app.button)


def test_everything_found_in_the_store(page: Open, request_: Train) -> None:
    for _ in range(2):
        assert ended(jobs.submit(request_)).state == "done"
    app = page()
    assert "0 folds trained, 5 found in the store" in text(app)
    assert "Everything was found in the store, so nothing was fitted this time." in text(app)


def test_jobs_of_other_pages_are_shown_too(page: Open, tiny_dataset: Path, tiny_config) -> None:
    held = HoldOut(
        dataset=str(tiny_dataset), held_out=("hum",), experts=("q1",), config=tiny_config, workers=1
    )
    measured = Bench(measure="size", shape=(8, 4, 2), experts=("q1", "q4"))
    assert ended(jobs.submit(measured)).state == "done"
    app = page()
    assert "Measure size" in text(app)
    assert len(app.get("plotly_chart")) == 0
    assert ended(jobs.submit(held)).state == "done"
    assert "Hold hum out of tiny" in text(page())
    assert ended(jobs.submit(measured)).state == "done"
    assert "Hold hum out of tiny" in text(page())  # a benchmark does not take a training's place


# Words and grids.


def test_request_from_controls(tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "data": str(tiny_dataset),
        "embedder": "logmel-stats",
        "weights": "",
        "experts": ["q1", "q4"],
        "mix": [],
        "protocol": "grouped",
        "folds": 3,
        "selection": "best-on-test",
        "seeds": 2,
        "perturb": 3,
        "set": "expert.epochs=7; router.alpha=1;",
        "name": "x",
    }
    made = training.request(values)
    assert (made.experts, made.mixtures, made.seeds, made.bundle) == (("q1", "q4"), (), 2, "x")
    assert made.perturb == 3
    assert "seed 42, 3 changed copies of each clip" in training.how(msgspec.structs.replace(made, seeds=1))
    assert made.weights is None
    assert (made.config.expert.epochs, made.config.router.alpha) == (7, 1.0)
    evaluation = made.config.evaluation
    assert (evaluation.protocol, evaluation.folds, evaluation.selection) == ("grouped", 3, "best-on-test")
    with pytest.raises(ConfigError, match=r"expert\.dropout"):
        training.request(values | {"set": "expert.dropout=2"})
    assert made.scheduler is None
    with pytest.raises(UserError, match=r"10\.0\.0\.5:8786 was not named when the lab was started"):
        training.request(values, "tcp://10.0.0.5:8786")
    monkeypatch.setenv("QMOE_SCHEDULERS", "tcp://10.0.0.5:8786")
    assert training.request(values, " tcp://10.0.0.5:8786 ").scheduler == "tcp://10.0.0.5:8786"


def test_outline_of_a_dataset(tiny_dataset: Path, tmp_path: Path) -> None:
    found = training.outline(str(tiny_dataset))
    assert (found.clips, found.recordings, found.folds, found.broken) == (30, 15, (1, 2, 3, 4, 5), 0)
    with pytest.raises(DatasetError, match="no dataset"):
        training.outline(str(tmp_path))


STORY = jobs.story({"at": i, **event} for i, event in enumerate(EVENTS))


def test_the_grid_of_a_job(request_: Train) -> None:
    job = Job("x", "t", request_, "running", 0.0, 0.0, None, 1, None, False, Path())
    columns = training.columns(request_, (1, 2, 3), STORY)
    assert columns == [("official-1", 42), ("official-2", 42), ("official-3", 42)]
    assert training.grid(job, STORY, columns) == {"q1": [Cell(0.8), Cell(running=True), Cell()]}
    assert training.latest(STORY, ["q1"]) == "q1"


def test_columns_of_random_folds_and_seeds(request_: Train) -> None:
    evaluation = msgspec.structs.replace(request_.config.evaluation, protocol="random", folds=2)
    config = msgspec.structs.replace(request_.config, evaluation=evaluation)
    asked = msgspec.structs.replace(request_, config=config, seeds=2)
    nothing = Story("", 0, 0, "", (), {})
    assert training.columns(asked, (1,), nothing) == [
        ("random-1", 42),
        ("random-2", 42),
        ("random-1", 43),
        ("random-2", 43),
    ]
    assert training.rows(msgspec.structs.replace(asked, experts=("popcount",))) == ["fp32", "popcount"]
    assert training.columns(Bench(measure="size"), (), nothing) == []


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (95, "1 min 35 s"), (7300, "2 h 1 min")]
)
def test_durations(seconds: float, said: str) -> None:
    assert numbers.duration(seconds).replace("\xa0", " ") == said


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_the_grids_figure(theme: Theme) -> None:
    cells = {"q1": [Cell(0.875), Cell(running=True)], "q4": [Cell(0.5, found=True), Cell()]}
    ground, done = train_charts.progress(cells, ["1", "2"], theme).data
    assert [list(row) for row in ground.text] == [["0.88", "…"], ["0.50 ·", ""]]
    assert done.z[0][0] == 0.875
    assert np.isnan(done.z[1][1])


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_curves_mark_the_chosen_epoch(theme: Theme) -> None:
    fits = {("official-1", 42): STORY.curves[("q1", "official-1", 42, "inner")]}
    loss = train_charts.curves(fits, {("official-1", 42): 2}, "q1", "loss", theme)
    dotted, solid, mark = loss.data
    assert (dotted.line.dash, solid.line.color) == ("dot", expert_colour("q1"))
    assert (mark.x[0], mark.y[0]) == (2, pytest.approx(0.55))
    f1 = train_charts.curves(fits, {}, "q1", "f1", theme)
    assert len(f1.data) == 1
    assert f1.layout.yaxis.range == (0, 1.02)


def test_curves_without_held_out_clips(tmp_path: Path) -> None:
    fits = {("official-1", 42): [{"epoch": 1, "train_loss": 0.5, "loss": None, "f1": None}]}
    assert len(train_charts.curves(fits, {}, "q1", "loss", LIGHT).data) == 1
    assert len(train_charts.curves(fits, {}, "q1", "f1", LIGHT).data) == 0


def test_a_name_is_suggested() -> None:
    assert training.suggested_name("esc10", "logmel-stats") == "my-esc10"
    assert training.suggested_name("/home/me/Bird songs!", "vit") == "my-Bird-songs--vit"
