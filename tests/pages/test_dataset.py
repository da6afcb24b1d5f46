"""The Dataset page in each of its states, by what it says; recordings and their pictures."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from dashboard.charts import dataset as dataset_charts
from dashboard.charts.palette import DARK, LIGHT, Theme, class_colour
from dashboard.session import recordings
from qmoe_core import bundles
from qmoe_core.bundles import Bundle
from qmoe_core.errors import ConfigError
from qmoe_core.evaluation import contenders, projection, selective
from qmoe_core.runtime.store import default_root

Open = Callable[..., AppTest]


@pytest.fixture
def dataset(visit: Callable[..., AppTest]) -> Open:
    """Open the page as somebody who follows a link."""

    def opened(**link: str) -> AppTest:
        app = visit()
        app.query_params.update(link)
        app.switch_page("../pages/dataset.py").run()
        assert not app.exception
        return app

    return opened


@pytest.fixture
def tiny_bundle(tiny_run, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """The tiny bundle where pages look for bundles, and its recordings where they look for recordings."""
    folder = default_root() / "bundles" / "tiny"
    shutil.copytree(tiny_run.bundle, folder)
    monkeypatch.setenv("QMOE_DATA", str(tiny_dataset.parent))
    return bundles.load(folder)


@pytest.fixture
def no_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qmoe_core.datasets.homes", list)


def text(app: AppTest) -> str:
    """All that the page says in Markdown, captions and HTML, without escapes."""
    said = [element.value for element in [*app.markdown, *app.caption, *app.info, *app.warning, *app.error]]
    said += [element.body for element in app.html]
    return "\n".join(said).replace("\\", "").replace("\xa0", " ")


def listed(app: AppTest) -> str:
    """How many clips the list has."""
    return next(value for m in app.markdown if re.fullmatch(r"[\d,]+–[\d,]+ of [\d,]+", value := m.value))


def link_of(app: AppTest) -> dict[str, str]:
    return {key: value if isinstance(value, str) else value[-1] for key, value in app.query_params.items()}


def press(app: AppTest, label: str) -> AppTest:
    """Press a button; the last of that name, which is the drawer's."""
    return [button for button in app.button if button.label == label][-1].click().run()


def test_first_visit(dataset: Open) -> None:
    app = dataset()
    assert listed(app) == "1–18 of 400"
    assert "n = 400 clips from 304 recordings. No recording has clips in two folds. CC BY 3.0" in text(app)
    assert "PCA of standardised logmel-stats embeddings (744 numbers a clip), 53 % of the variance" in text(
        app
    )
    assert len(app.get("plotly_chart")) == 1
    assert not app.error
    assert not app.warning
    assert link_of(app) == {}


@pytest.mark.parametrize("colour", ["class", "error", "uncertainty", "fold"])
def test_the_map_in_every_colour(dataset: Open, colour: str) -> None:
    app = dataset(colour=colour)
    assert len(app.get("plotly_chart")) == 1
    assert not app.warning


@pytest.mark.parametrize("order", ["uncertain", "disputed", "wrong"])
def test_every_order(dataset: Open, bundle: Bundle, order: str) -> None:
    app = dataset(order=order, by="q4")
    contender = contenders.parse("q4", bundle)
    assert contender
    assert bundle.dataset is not None
    wrong = contenders.judge(contender, bundle, bundle.dataset).errors
    n = {"uncertain": 400, "wrong": wrong}.get(order)
    assert n is None or listed(app) == f"1–18 of {n}"
    assert link_of(app) == {"order": order, "by": "q4"}


@pytest.mark.parametrize(
    ("link", "sentence"),
    [
        ({"by": "q5"}, "accepted is an expert or a mixture such as q4+q8@0.3"),
        ({"class": "cat"}, "class = “cat”; accepted is dog, rooster, rain"),
        ({"called": "cat"}, "It is left out."),
        ({"fold": "6"}, "accepted is 1, 2, 3, 4 and 5"),
        ({"source": "../.."}, "a source recording of this data set"),
        ({"order": "random"}, "accepted is file, uncertain, disputed and wrong"),
        ({"colour": "pink"}, "colour = “pink”"),
        ({"map": "umap"}, "accepted is pca and t-sne. Using pca."),
        ({"page": "99"}, "accepted is a whole number from 1 to 23"),
        ({"clip": "cat.wav"}, "clip = “cat.wav”"),
    ],
)
def test_nonsense_in_a_link(dataset: Open, link: dict[str, str], sentence: str) -> None:
    app = dataset(**link)
    assert sentence in text(app)
    assert listed(app) == "1–18 of 400"
    assert link_of(app) == {}


def test_filters_and_pages(dataset: Open) -> None:
    app = dataset(page="3")
    assert listed(app) == "37–54 of 400"
    app.selectbox(key="dataset.class").set_value("dog").run()
    assert listed(app) == "1–18 of 40"
    press(app, "Next")
    assert listed(app) == "19–36 of 40"
    app.selectbox(key="dataset.fold").set_value("2").run()
    assert listed(app) == "1–8 of 8"
    assert link_of(app) == {"class": "dog", "fold": "2"}


def test_confused_clips_as_compare_links_to_them(dataset: Open, bundle: Bundle) -> None:
    app = dataset(**{"class": "helicopter", "called": "rain", "by": "q16"})
    contender = contenders.parse("q16", bundle)
    assert contender
    assert bundle.dataset is not None
    matrix = contenders.judge(contender, bundle, bundle.dataset).confusion
    n = matrix[bundle.classes.index("helicopter"), bundle.classes.index("rain")]
    assert listed(app) == f"1–{n} of {n}"


def test_no_clip_is_left_and_a_way_on(dataset: Open) -> None:
    app = dataset(**{"class": "dog", "called": "chainsaw"})
    assert "No clip is left by these filters." in text(app)
    press(app, "Show all clips")
    assert listed(app) == "1–18 of 400"


def test_one_clip(dataset: Open, bundle: Bundle, shared_data: Path) -> None:
    assert bundle.dataset is not None
    name = bundle.dataset.clips[6].name
    app = dataset(clip=name)
    assert len(app.get("plotly_chart")) == 3  # map, spectrogram, opinions
    assert "<h2>Helicopter</h2>" in text(app)
    assert re.search(r"Of nine experts, \w+ says? |All nine experts say ", text(app))
    assert "n = 1 clip" in text(app)
    assert len(app.get("audio")) == 1
    links = [element.proto for element in app.get("page_link")]
    assert any(link.query_string == f"clip={name}" for link in links)
    press(app, "Next")
    assert app.session_state["dataset.clip"] == bundle.dataset.clips[7].name
    assert link_of(app)["clip"] == bundle.dataset.clips[7].name


def test_the_order_of_the_list_is_that_of_the_drawer(dataset: Open, bundle: Bundle) -> None:
    assert bundle.dataset is not None
    contender = contenders.parse("q4", bundle)
    assert contender
    mixed = contender.mixed(bundle, bundle.dataset.outputs)
    worst = selective.notable(mixed, bundle.dataset.labels, 400).confidently_wrong
    names = [bundle.dataset.clips[i].name for i in worst[:2]]
    app = dataset(by="q4", order="wrong", clip=names[0])
    assert f"1 of {len(worst)}" in text(app)
    assert "Wrong: q4 calls it" in text(app)
    assert [button.disabled for button in app.button if button.label == "Previous"] == [True, True]
    press(app, "Next")
    assert app.session_state["dataset.clip"] == names[1]


def test_a_clip_that_the_filters_leave_out_has_no_neighbours(dataset: Open, bundle: Bundle) -> None:
    assert bundle.dataset is not None
    app = dataset(**{"class": "rooster", "clip": bundle.dataset.clips[0].name})
    assert "<h2>Dog</h2>" in text(app)
    assert all(button.disabled for button in app.button if button.key in ("dataset.before", "dataset.after"))


def test_all_clips_of_a_recording(dataset: Open, bundle: Bundle) -> None:
    assert bundle.dataset is not None
    app = dataset(clip="1-47250-A-41.ogg")
    assert "cut from recording 47250, as is one other." in text(app)
    press(app, "Show all clips of this recording")
    assert listed(app) == "1–2 of 2"
    assert link_of(app) == {"source": "47250"}
    press(app, "All recordings")
    assert listed(app) == "1–18 of 400"


@pytest.mark.usefixtures("no_recordings")
def test_without_recordings(dataset: Open, bundle: Bundle) -> None:
    assert bundle.dataset is not None
    app = dataset(clip=bundle.dataset.clips[0].name)
    assert "The recordings of esc10 are not on this machine: pictures are of the embeddings" in text(app)
    assert "there is nothing to hear" in text(app)
    assert not app.get("audio")
    assert not any(element.proto.label == "Open in Listen" for element in app.get("page_link"))


def test_a_recording_that_cannot_be_read(
    dataset: Open, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bundle.dataset is not None
    name = bundle.dataset.clips[0].name
    (tmp_path / name).write_bytes(b"no sound")
    monkeypatch.setattr(recordings, "at_hand", lambda _: {name: tmp_path / name})
    app = dataset(clip=name)
    assert "is not a sound file" in text(app)
    assert listed(app) == "1–18 of 400"


def test_a_map_that_cannot_be_drawn(dataset: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ConfigError("t-sne needs scikit-learn, which is not installed; use pca")

    monkeypatch.setattr(projection, "_tsne", refuse)
    app = dataset(map="t-sne")
    assert "needs scikit-learn, which is not installed; use pca. This is the PCA map." in text(app)
    assert len(app.get("plotly_chart")) == 1


def test_a_store_that_cannot_be_written(
    dataset: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QMOE_STORE", str(tmp_path / "file"))
    assert "of the variance" in text(dataset())


def test_another_bundle_with_its_recordings(dataset: Open, tiny_bundle: Bundle) -> None:
    app = dataset(bundle="tiny", clip="1-hiss1-A-2.wav")
    assert listed(app) == "1–18 of 30"
    assert "n = 30 clips from 15 recordings. No recording" in text(app)
    assert len(app.get("audio")) == 1


def test_a_small_set_has_no_errors_to_show(dataset: Open, tiny_bundle: Bundle) -> None:
    app = dataset(bundle="tiny", order="wrong", by="fp32")
    contender = contenders.parse("fp32", tiny_bundle)
    assert contender
    assert tiny_bundle.dataset is not None
    if contenders.judge(contender, tiny_bundle, tiny_bundle.dataset).errors == 0:
        assert "fp32 makes no errors here" in text(app)


# Recordings.


def test_recordings_of_another_class_are_others(tiny_bundle: Bundle) -> None:
    found = recordings.at_hand(tiny_bundle)
    assert len(found) == 30
    other = Bundle(
        tiny_bundle.path,
        _with_classes(tiny_bundle, ["a", "b", "hiss"]),
        tiny_bundle.router,
        tiny_bundle.scalers,
    )
    assert set(recordings.at_hand(other)) == {name for name in found if "hiss" in name}


def _with_classes(bundle: Bundle, classes: list[str]):
    return msgspec.structs.replace(bundle.manifest, classes=classes)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_a_thumbnail_is_small_and_in_the_themes_colours(tiny_bundle: Bundle, theme: Theme) -> None:
    path = recordings.at_hand(tiny_bundle)["1-whistle1-A-1.wav"]
    data = recordings.thumbnail(path, theme)
    assert data is not None
    picture = Image.open(io.BytesIO(data))
    assert picture.height == recordings.THUMBNAIL[1]
    assert picture.width <= recordings.THUMBNAIL[0]
    assert len(data) < 40_000
    # A whistle: one loud row, whose colour is the theme's strongest.
    colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    strongest = [int(theme.scale[-1][i : i + 2], 16) for i in (1, 3, 5)]
    assert (np.abs(colours - strongest).sum(axis=1) < 90).any()


def test_no_thumbnail_of_what_is_no_sound(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(b"x")
    assert recordings.thumbnail(tmp_path / "x.wav", LIGHT) is None


def test_an_embedding_as_a_picture() -> None:
    embeddings = np.zeros((3, 100), np.float16)
    embeddings[1, 0] = 6.0
    picture = Image.open(io.BytesIO(recordings.embedding_picture("x", 1, LIGHT, embeddings)))
    assert picture.size == (54, 2)
    shades = np.asarray(picture)
    assert shades[0, 0] == shades.max() > shades[0, 1] == 128


# Figures.


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_the_map_marks_errors_and_what_is_left_out(theme: Theme) -> None:
    wrong, kept = np.array([True, False, False]), np.array([True, True, False])
    figure = dataset_charts.embedding_map(
        np.zeros((3, 2)), ["a", "b", "c"], ["#111111"] * 3, wrong, kept, theme, chosen=1
    )
    points, ring = figure.data
    assert list(points.marker.symbol) == ["x", "circle", "circle"]
    assert list(points.marker.opacity) == [0.9, 0.9, dataset_charts.FADED]
    assert list(points.customdata) == [0, 1, 2]
    assert len(ring.x) == 1


def test_the_map_has_a_scale_for_numbers_only() -> None:
    flat = np.zeros(2, bool)
    figure = dataset_charts.embedding_map(
        np.zeros((2, 2)), ["a", "b"], np.array([0.1, 0.2]), flat, ~flat, LIGHT, scale_title="nats"
    )
    assert figure.data[0].marker.colorbar.title.text == "nats"
    colours = dataset_charts.class_colours(np.array([1, 0]), ("dog", "cat"))
    assert colours == [class_colour(("dog", "cat"), "cat"), class_colour(("dog", "cat"), "dog")]
