"""Your sounds: collect, correct, label, train and use, as a person does; what is odd is said."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.session import public, recordings
from dashboard.session.public import Limits
from dashboard.views import takes_training
from qmoe_core import bundles
from qmoe_core.config import ExpertConfig
from qmoe_core.datasets import takes as core
from qmoe_core.runtime import jobs
from tests.datasets.test_takes import some, sound
from tests.pages.test_train import ended, press, text

Visit = Callable[..., AppTest]
SMALL = ExpertConfig(hidden=(24, 16), epochs=2, popcount_finetune_epochs=1)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nets that train in a moment, and no job that outlives its test."""
    monkeypatch.setattr(core, "EXPERT", SMALL)
    monkeypatch.setattr(public, "EXPERT", SMALL)
    monkeypatch.setattr(core, "NAMES", ("fp32", "q4"))
    yield
    for job in jobs.list_jobs():
        jobs.cancel(job.id)
        ended(job)


@pytest.fixture
def page(visit: Visit) -> AppTest:
    app = visit().switch_page("../pages/sounds.py").run()
    assert not app.exception
    app.session_state[takes_training.EMBEDDER] = "logmel-stats"
    return app


def archive(**files: bytes) -> bytes:
    """A ZIP of these files; `__` in a name stands for the folder's end."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as into:
        for name, data in files.items():
            into.writestr(f"{name.replace('__', '/')}.wav", data)
    return file.getvalue()


def give(app: AppTest, *files: tuple[str, bytes]) -> AppTest:
    uploader = next(one for one in app.file_uploader if "ZIP with a folder a class" in one.label)
    uploader.set_value([(name, data, "audio/wav") for name, data in files]).run()
    assert not app.exception
    return app


def test_from_an_archive_to_all_pages(page: AppTest) -> None:
    assert "Nothing yet" in text(page)
    files = {f"{one.label}__{Path(one.name).stem}": one.data for one in some("abc", 5)}
    app = give(page, ("mine.zip", archive(**files)))
    assert [(t.label, t.name) for t in public.takes().listed][:2] == [("a", "a0.wav"), ("a", "a1.wav")]
    assert "Fewer than" not in text(app)
    assert app.session_state["takes.shown"] == ""

    press(app, "Train all formats")
    (job,) = jobs.list_jobs()
    assert ended(job).state == "done", jobs.get(job.id).log()
    app.run()
    assert "3 folds, no recording on both sides; 2 epochs, set beforehand; logmel-stats as it is." in text(
        app
    )
    press(app, "Use it on all pages")
    app.switch_page("../pages/listen.py").run()
    assert not app.exception
    assert app.query_params["bundle"] == "my-sounds"
    assert bundles.load(bundles.find("my-sounds")).classes == ("a", "b", "c")
    assert "bundle my-sounds: takes, 15 clips, grouped folds" in text(app)


def test_labels_cuts_and_second_thoughts(page: AppTest) -> None:
    app = give(page, *((one.name, one.data) for one in some("ab", 3)), ("bad.wav", b"none"))
    assert "bad.wav is not" in text(app)
    assert "6 of 6 takes have no class" in text(app)
    own = public.takes()
    own.label([take.id for take in own.listed if take.name[0] == "a"][:2], "a")
    own.label([take.id for take in own.listed if take.name[0] == "b"][:2], "b")
    app.run()
    assert "Fewer than 5 takes of a and b" in text(app)
    assert "whose two most probable classes a logistic regression" in text(app)
    assert "n = 4 labelled takes" in text(app)

    take = own.listed[0]
    app.session_state["takes.chosen"] = take.id
    app.run()
    assert not app.exception
    app.slider(key=f"takes.part:{take.id}").set_value((0.2, 0.7)).run() if take.seconds > 1 else None
    press(app, "Delete")
    assert take not in public.takes().listed
    press(app, "Undo")
    assert public.takes().listed[0] == take
    app.button_group(key="takes.shown").set_value("a").run()
    app.text_input(key="takes.rename:a").set_value("kettle").run()
    press(app, "Rename")
    assert core.counted(public.takes().listed) == {"b": (2, 2), "kettle": (2, 2)}


def test_a_visitor_has_takes_of_its_own(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public, "LIMITS", Limits())
    one, other = (visit().switch_page("../pages/sounds.py").run() for _ in range(2))
    assert "yours alone" in text(one)

    def shared(*_: object) -> None:
        raise AssertionError("what is drawn of takes is kept for all sessions")

    for name in ("thumbnail", "heard"):
        monkeypatch.setattr(recordings, name, shared)
    give(one, *((f"{i}.wav", sound(i)) for i in range(2)))
    assert "2 of 2 takes have no class" in text(one)
    assert "Nothing yet" in text(other.run())
    root = one.session_state["visitor"].root
    one.session_state["takes.chosen"] = core.Takes(root / "datasets" / "takes").listed[0].id
    assert ", 1.0 s; recording " in text(one.run())
    assert (root / "datasets" / "takes" / core.TABLE).is_file()
    del one
    public.sweep()
