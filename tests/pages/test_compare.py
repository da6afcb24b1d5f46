"""The Compare page in each of its states, by what it says; and the figures it draws."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from dashboard.charts import compare as compare_charts
from dashboard.charts.palette import DARK, LIGHT, Look, Theme, expert_colour, looks
from dashboard.views import tables
from dashboard.views.tables import Column
from qmoe_core import bundles, datasets
from qmoe_core.bundles import Bundle
from qmoe_core.evaluation import calibration, contenders, noise, ood, runs, selective
from qmoe_core.evaluation.contenders import Contender
from qmoe_core.evaluation.noise import NoiseCell, NoiseSweep
from qmoe_core.evaluation.selective import Auroc
from qmoe_core.experts.spec import NAMES
from qmoe_core.numbers import decimals
from qmoe_core.runtime.store import Store, default_root

Open = Callable[..., AppTest]
VIEWS = {"errors": 5, "agreement": 1, "calibration": 1, "abstaining": 3, "runs": 1}


@pytest.fixture
def compare(visit: Callable[..., AppTest]) -> Open:
    """Open the page as somebody who follows a link."""

    def opened(**link: str) -> AppTest:
        app = visit()
        app.query_params.update(link)
        app.switch_page("../pages/compare.py").run()
        assert not app.exception
        return app

    return opened


@pytest.fixture
def tiny_bundle(tiny_run) -> Path:
    """The tiny bundle where pages look for bundles."""
    folder = default_root() / "bundles" / "tiny"
    shutil.copytree(tiny_run.bundle, folder)
    return folder


def text(app: AppTest) -> str:
    """All that the page says in Markdown, captions and HTML, without escapes."""
    said = [element.value for element in [*app.markdown, *app.caption, *app.info, *app.warning, *app.error]]
    said += [element.body for element in app.html]
    return "\n".join(said).replace("\\", "").replace("\xa0", " ")


def warnings(app: AppTest) -> str:
    return "\n".join(element.value for element in app.warning).replace("\\", "")


def link_of(app: AppTest) -> dict[str, str]:
    """What the address bar says."""
    return {key: value if isinstance(value, str) else value[-1] for key, value in app.query_params.items()}


def rows(app: AppTest, title: str) -> list[list[str]]:
    """The cells of a table, without the marks."""
    body = next(html.body for html in app.html if f'aria-label="{title}"' in html.body)
    found = re.findall("<tr>(.*?)</tr>", body)[1:]
    return [
        [re.sub("<.*?>", "", cell) for cell in re.findall("<t[hd].*?>(.*?)</t[hd]>", row)] for row in found
    ]


def test_first_visit(compare: Open, bundle: Bundle) -> None:
    app = compare()
    found = rows(app, "Figures of each format and mixture")
    assert [row[0] for row in found] == ["q16", "q4", "popcount", "bitnet+q4+q8, α = 0.3"]
    assert bundle.dataset is not None
    wrong = bundle.dataset.outputs.of(("q4",)).logits[:, 0].argmax(axis=-1) != bundle.dataset.labels
    assert found[1][4] == str(wrong.sum())
    assert (
        found[1][2]
        == f"{bundle.provenance.f1['q4']['mean']:.3f} ± {bundle.provenance.f1['q4']['std']:.3f} (n = 15)"
    )
    assert (
        "n = 400 clips, each classified by experts that were not trained on it (out of fold, seed 42)"
        in text(app)
    )
    assert "official folds, epoch chosen by inner-validation" in text(app)
    assert len(app.get("plotly_chart")) == 5
    assert not app.error
    assert not app.warning
    assert not app.query_params


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_says_what_it_was_drawn_from(compare: Open, view: str) -> None:
    app = compare(view=view)
    assert not app.error
    assert len(app.get("plotly_chart")) == VIEWS[view]
    assert any("n = " in caption.value and "official folds" in caption.value for caption in app.caption)
    assert link_of(app) == ({} if view == "errors" else {"view": view})


@pytest.mark.parametrize(
    ("link", "sentence"),
    [
        ({"show": "q5"}, "show = “q5”; accepted is up to 12 of fp32, q1"),
        ({"show": "q4@banana"}, "show = “q4@banana”"),
        ({"show": ","}, "show = “,”"),
        ({"view": "truth"}, "accepted is errors, agreement"),
        ({"minus": "q99"}, "minus = “q99”"),
        ({"answer": "-1"}, "accepted is a whole number from 1 to 100. Using 90"),
        ({"by": "gut"}, "by = “gut”"),
        ({"clip": "<b>.wav"}, "clip = “<b>.wav”"),
        ({"held": "cat"}, "held = “cat”"),
        ({"bundle": "/etc"}, "no bundle “/etc”"),
    ],
)
def test_nonsense_in_a_link(compare: Open, link: dict[str, str], sentence: str) -> None:
    app = compare(**link)
    assert sentence in warnings(app)
    assert len(rows(app, "Figures of each format and mixture")) == 4
    assert not app.query_params


def test_choosing_writes_the_link_and_the_last_one_stays(compare: Open) -> None:
    app = compare()
    app.pills(key="compare.show").set_value(["popcount"]).run()
    assert link_of(app) == {"show": "popcount"}
    assert len(rows(app, "Figures of each format and mixture")) == 1
    app.pills(key="compare.show").set_value([]).run()
    assert link_of(app) == {"show": "popcount"}
    assert not app.exception


def test_a_mixture_of_ones_own(compare: Open) -> None:
    app = compare()
    app.pills(key="mixing.experts").set_value(["popcount", "fp32"])
    app.select_slider(key="mixing.alpha").set_value(10.0)
    app.number_input(key="mixing.k").set_value(2).run()
    next(button for button in app.button if button.label == "Compare it").click().run()
    assert rows(app, "Figures of each format and mixture")[-1][0] == "fp32+popcount, α = 10, top 2"
    assert link_of(app) == {"show": "q16,q4,popcount,bitnet+q4+q8@0.3,fp32+popcount@10/2"}


def test_the_change_from_another(compare: Open) -> None:
    app = compare(minus="q16")
    assert len(app.get("plotly_chart")) == 4  # a matrix is not compared with itself
    assert "teal is for the better" in text(app)


def test_confusions_lead_to_their_clips(compare: Open) -> None:
    links = [element.proto for element in compare().get("page_link")]
    assert any(
        "class=helicopter" in link.query_string and "called=rain" in link.query_string for link in links
    )


def test_who_agrees(compare: Open) -> None:
    app = compare(view="agreement", show="q8,ptq8,popcount")
    assert "agree most: on" in text(app)
    assert "would reach" in text(app)
    alone = compare(view="agreement", show="q8")
    assert "It takes two to agree" in text(alone)


def test_the_slider_moves_the_risk(compare: Open) -> None:
    app = compare(view="abstaining", answer="100")
    assert "Leaving 0 of 400 clips unanswered" in text(app)
    app.slider(key="compare.answer").set_value(75).run()
    assert "Leaving 100 of 400 clips unanswered" in text(app)
    assert link_of(app) == {"view": "abstaining", "answer": "75"}


def test_a_single_expert_cannot_disagree(compare: Open) -> None:
    app = compare(view="abstaining", by="epistemic", show="q4")
    assert "A single expert has no epistemic uncertainty" in text(app)


def test_held_out_classes_that_ship(compare: Open) -> None:
    app = compare(view="abstaining")
    assert app.selectbox(key="compare.held").options[0] == "each of 5 sets in turn"
    assert "80 clips of unknown and 320 of known classes" in text(app)
    app.selectbox(key="compare.held").set_value("dog+rooster").run()
    assert "were not trained on dog and rooster" in text(app)
    assert link_of(app)["held"] == "dog+rooster"


def test_classes_that_nobody_held_out(compare: Open) -> None:
    app = compare(view="abstaining", held="rain")
    assert "Nobody has held out rain yet" in warnings(app)
    assert "each of 5 sets" in app.selectbox(key="compare.held").options[0]


def test_nothing_held_out_and_no_recordings(compare: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ood, "shipped", lambda *_: [])
    monkeypatch.setattr(datasets, "available", lambda: {})
    assert "which are not on this machine" in text(compare(view="abstaining"))


def test_one_clip(compare: Open, bundle: Bundle) -> None:
    assert bundle.dataset is not None
    name, label = bundle.dataset.clips[0].name, bundle.classes[bundle.dataset.labels[0]]
    app = compare(view="clip", clip=name, show="q4,popcount,q4+popcount")
    said = {row[0]: row for row in rows(app, "Predictions of each")}
    q4 = bundle.dataset.outputs.of(("q4",)).logits[0, 0].argmax()
    assert said["q4"][1] == bundle.classes[q4].replace("_", " ")
    assert said["q4"][3] == ("yes" if bundle.classes[q4] == label else "no")
    assert said["q4+popcount"][6] in ("q4", "popcount")
    assert f"n = 1 clip, {name}" in text(app)


def test_the_sound_heard_on_listen(compare: Open) -> None:
    app = compare(view="clip", clip="heard on Listen")
    assert "n = 1 sound, Helicopter over a fire" in text(app)
    assert [row[0] for row in rows(app, "Predictions of each")] == ["q16", "q4", "popcount"]
    del app.session_state["example"]
    assert "No sound was judged on Listen" in text(app.run())


def test_only_mixtures_of_the_sound_heard_on_listen(compare: Open) -> None:
    app = compare(view="clip", clip="heard on Listen", show="q4+q8")
    assert "Choose an expert above" in text(app)


def test_another_bundle_on_every_page(compare: Open, tiny_bundle: Path) -> None:
    app = compare(bundle="tiny", view="runs")
    assert "bundle tiny: tiny, 30 clips" in text(app)
    assert app.selectbox(key="selected_bundle").value == "tiny"
    assert {row[1] for row in rows(app, "All runs, the best first")} == {"tiny", bundles.DEFAULT_NAME}
    app.switch_page("../pages/dataset.py").run()
    assert "n = 30 clips" in text(app)
    assert link_of(app)["bundle"] == "tiny"
    app.selectbox(key="selected_bundle").set_value(bundles.DEFAULT_NAME).run()
    assert "n = 400 clips" in text(app)


def test_a_link_to_a_clip_of_another_bundle(compare: Open, tiny_bundle: Path, bundle: Bundle) -> None:
    assert bundle.dataset is not None
    app = compare(bundle="tiny", view="clip", clip=bundle.dataset.clips[0].name)
    assert "accepted is heard on Listen, 1-hiss1-A-2.wav" in warnings(app)
    assert rows(app, "Predictions of each")


def test_a_newer_bundle_and_a_removed_one(compare: Open, tiny_bundle: Path) -> None:
    manifest = tiny_bundle / bundles.MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": 99}))
    app = compare(bundle="tiny")
    assert "written by a newer qmoe (bundle version 99" in warnings(app)
    assert "n = 400 clips" in text(app)
    assert "it is left out" in warnings(compare(view="runs"))
    shutil.rmtree(tiny_bundle)
    assert "no bundle “tiny”" in warnings(compare(bundle="tiny"))


def test_a_bundle_removed_while_it_is_shown(compare: Open, tiny_bundle: Path) -> None:
    app = compare(bundle="tiny")
    shutil.rmtree(tiny_bundle)
    app.run()
    assert "no bundle “tiny” here, or there is none any more" in warnings(app)
    assert "n = 400 clips" in text(app)


def test_a_bundle_without_its_data_set(compare: Open, tiny_bundle: Path) -> None:
    manifest = json.loads((tiny_bundle / bundles.MANIFEST).read_text())
    del manifest["files"][bundles.DATASET_FILE]
    (tiny_bundle / bundles.MANIFEST).write_text(json.dumps(manifest | {"clips": []}))
    assert "carries no data set" in text(compare(bundle="tiny"))


def test_runs_of_the_store(compare: Open, tiny_run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QMOE_STORE", str(tiny_run.store.root))
    found = rows(compare(view="runs", runs="all"), "All runs, the best first")
    own = {row[0]: row for row in found if row[1] == "store"}
    assert set(own) == set(NAMES)
    f1 = next(row.f1_mean for row in tiny_run.report.rows if row.name == "q4")
    assert own["q4"][6] == f"{f1:.3f}"


def test_runs_in_a_bucket(
    compare: Open, bucket: str, tiny_run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setenv("QMOE_STORE", f"{bucket}/lab")
    for entry in tiny_run.store.list("experts"):
        if entry.metadata["expert"] == "q4":
            Store().put("experts", entry.fields, entry.tensors, entry.metadata)
    found = rows(compare(view="runs", runs="all"), "All runs, the best first")
    f1 = next(row.f1_mean for row in tiny_run.report.rows if row.name == "q4")
    assert [(row[0], row[6]) for row in found if row[1] == "store"] == [("q4", f"{f1:.3f}")]


def test_no_bundle_at_all(compare: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    st.cache_resource.clear()
    monkeypatch.setattr(bundles, "shipped", lambda: tmp_path)
    app = AppTest.from_function(_only_the_switch).run()
    assert not app.exception
    assert "not a bundle" in app.error[0].value or "no bundle" in app.error[0].value


def _only_the_switch() -> None:
    from dashboard.session import switch

    assert switch.bundle() is None


# Contenders.


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("q4", "q4"),
        ("q4@3", "q4"),
        ("q8+q4", "q8+q4"),
        ("q4+q4", "q4"),
        ("q4+q8@0.30", "q4+q8@0.3"),
        ("q4+q8/9", "q4+q8/2"),
        ("q4+q8@0", "q4+q8@0"),
        ("Q4", None),
        ("q4+", None),
        ("q4+q8@1e9", None),
        ("q4+q8@.", None),
        ("q4+q8@9999", None),
        ("q4+q8/0", None),
        ("", None),
    ],
)
def test_names_of_contenders(bundle: Bundle, name: str, meant: str | None) -> None:
    found = contenders.parse(name, bundle)
    assert (found.name if found else None) == meant


def test_a_single_expert_is_judged_by_its_own_answers(bundle: Bundle) -> None:
    assert bundle.dataset is not None
    contender = contenders.parse("popcount", bundle)
    assert contender
    judged = contenders.judge(contender, bundle, bundle.dataset)
    said = bundle.dataset.outputs.of(("popcount",)).logits[:, 0].argmax(axis=-1)
    np.testing.assert_array_equal(judged.predicted, said)
    assert set(judged.uncertainties) == {"doubt", "total"}
    assert judged.confusion.sum() == 400
    assert judged.errors == 400 - np.trace(judged.confusion)
    assert judged.risk("epistemic") is None


def test_what_is_offered(bundle: Bundle) -> None:
    assert contenders.standard(bundle) == [*bundle.experts, "bitnet+q4+q8", "bitnet+q4+q8@0.3"]
    assert contenders.first(bundle) == ["q16", "q4", "popcount", "bitnet+q4+q8@0.3"]


def test_looks_tell_mixtures_apart() -> None:
    named = ["q4", "q4+q8", "q4+q1", "q4+q2"]
    found = looks(named, LIGHT)
    assert found["q4"].colour == expert_colour("q4")
    mixtures = [found[name] for name in named[1:]]
    assert {look.colour for look in mixtures} == {LIGHT.ink}
    assert len({(look.dash, look.symbol) for look in mixtures}) == len({look.css for look in mixtures}) == 3


# Tables.


def test_a_table_is_escaped_and_defused(bundle: Bundle) -> None:
    columns = [Column("name", "<b>", number=False), Column("f1", "F1", decimals(2))]
    assert tables.as_csv(columns, [{"name": '=cmd|"x"', "f1": 0.123456}, {"name": "a", "f1": None}]) == (
        'name,f1\r\n"\'=cmd|""x""",0.123456\r\na,\r\n'
    )

    def page() -> None:
        from dashboard.views import tables
        from dashboard.views.tables import Column

        tables.table([Column("name", "<b>")], [{"name": "<i>"}, {"name": None}], name="x", title='"')

    body = AppTest.from_function(page).run().html[0].body
    assert "<b>" not in body
    assert "&lt;i&gt;" in body
    assert "–" in body


# Figures.

themes = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])


@themes
def test_confusion_shows_right_and_wrong_apart(theme: Theme) -> None:
    wrong, right = compare_charts.confusion(np.array([[5, 2], [0, 7]]), ("dog", "sea_waves"), theme).data
    assert wrong.z.tolist() == [[0, 2], [0, 0]]
    assert wrong.text.tolist() == [["", "2"], ["", ""]]
    assert right.text.tolist() == [["5", ""], ["", "7"]]
    assert wrong.customdata[0, 1] == "dog called sea waves"


@themes
def test_a_change_is_coloured_by_whether_it_is_for_the_better(theme: Theme) -> None:
    before, after = np.array([[5, 2], [0, 7]]), np.array([[6, 1], [2, 5]])
    (cells,) = compare_charts.confusion_change(after, before, ("dog", "cat"), theme).data
    assert cells.z.tolist() == [[1, 1], [-2, -2]]
    assert cells.text.tolist() == [["+1", "−1"], ["+2", "−2"]]
    assert (cells.zmin, cells.zmax) == (-2, 2)


@themes
def test_many_classes_have_no_names_on_the_axes(theme: Theme) -> None:
    figure = compare_charts.confusion(np.eye(50, dtype=int), tuple(f"class {i}" for i in range(50)), theme)
    assert figure.layout.xaxis.visible is False
    assert figure.data[0].texttemplate == ""


@themes
def test_the_hardest_class_is_on_top(theme: Theme) -> None:
    looks = {"q4": Look("#123456")}
    figure = compare_charts.class_f1({"q4": np.array([0.9, 0.5, 0.7])}, looks, ("a", "b", "c"), theme)
    assert [name.split("> ")[1] for name in figure.data[1].y] == ["B", "C", "A"]
    assert list(figure.data[1].x) == [0.5, 0.7, 0.9]


@themes
def test_reliability_leaves_empty_bins_out(theme: Theme) -> None:
    curve = calibration.reliability(np.array([0.95, 0.55]), np.array([True, False]))
    figure = compare_charts.reliability({"q4": curve}, {"q4": Look("#123456")}, theme)
    marks = figure.data[-1]
    assert list(marks.x) == [0.55, 0.95]
    assert list(marks.y) == [0.0, 1.0]
    assert list(marks.customdata) == [1, 1]


@themes
def test_risk_coverage_marks_the_slider(theme: Theme) -> None:
    curve = selective.risk_coverage(np.array([0.1, 0.2, 0.3, 0.4]), np.array([True, True, False, True]))
    figure = compare_charts.risk_coverage({"q4": curve}, {"q4": Look("#123456")}, 0.75, theme)
    assert (figure.data[1].x[0], figure.data[1].y[0]) == (0.75, pytest.approx(1 / 3))
    assert figure.layout.shapes[0].x0 == 0.75


@themes
def test_the_truth_is_always_among_the_answers(theme: Theme) -> None:
    shares = np.zeros((1, 30))
    shares[0, :12] = np.linspace(0.02, 0.15, 12)
    (cells,) = compare_charts.answers(shares, ["q4"], [f"c{i}" for i in range(30)], 29, theme).data
    assert len(cells.y) == 10
    assert "C29" in cells.y[-1]
    assert cells.y[-1].startswith("<b>")


@themes
def test_detections_keep_their_order_and_intervals(theme: Theme) -> None:
    found = {"total": Auroc(0.9, 0.85, 0.95, 10, 90), "doubt": Auroc(0.4, 0.3, 0.5, 10, 90)}
    figure = compare_charts.detection(found, theme, "doubt")
    assert list(figure.data[0].x) == [0.85, 0.95]
    assert list(figure.data[-1].y) == ["total", "doubt"]
    assert figure.data[-1].marker.color == (theme.ink, theme.accent)
    assert figure.layout.xaxis.range[0] <= 0.3


def test_several_sets_of_held_out_classes_together(bundle: Bundle) -> None:
    reports = ood.shipped(bundle.manifest.embedder_id, bundle.classes)
    each = [one.detection["total"].auroc for one in reports]
    found = ood.together(reports)["total"]
    assert found.auroc == pytest.approx(np.mean(each))
    assert (found.low, found.high) == (min(each), max(each))
    assert ood.together(reports[:1]) is reports[0].detection


# Runs.


def test_runs_have_axes_only_where_they_differ(bundle: Bundle) -> None:
    found = runs.of_bundle(bundle, None)
    assert all(0.0 < (run.ece_perfect or 0.0) < 0.05 for run in found)  # n = 400
    assert [axis["label"] for axis in compare_charts.run_axes(found)] == [
        "format",
        "kB",
        "ECE",
        "AURC",
        "± F1",
        "F1",
    ]
    moved = [replace(run, origin="store", protocol="random", ece=None, p50_us=3.0) for run in found]
    labels = [axis["label"] for axis in compare_charts.run_axes([*found, *moved])]
    assert labels == ["from", "folds", "format", "kB", "AURC", "± F1", "F1"]
    assert "µs, p50" in [axis["label"] for axis in compare_charts.run_axes(moved)]


def test_parallel_axes_keep_each_colour(bundle: Bundle) -> None:
    found = runs.of_bundle(bundle, None)
    colours = [expert_colour(run.name) for run in found]
    (lines,) = compare_charts.parallel(compare_charts.run_axes(found), colours, LIGHT).data
    scale = dict(lines.line.colorscale)
    last = lines.line.cmax
    assert [scale[value / last] for value in lines.line.color] == colours


def test_one_run_has_parallel_axes_too(bundle: Bundle) -> None:
    found = runs.of_bundle(bundle, None)[:1]
    figure = compare_charts.parallel(compare_charts.run_axes(found), ["#123456"], LIGHT)
    assert figure.data[0].line.colorscale == ((0.0, "#123456"), (1.0, "#123456"))


def test_figures_of_a_mixture_are_those_of_its_name(bundle: Bundle) -> None:
    found = {run.name: run for run in runs.of_bundle(bundle, None)}
    own = Contender("", bundle.settings())
    assert bundle.dataset is not None
    judged = contenders.judge(own, bundle, bundle.dataset)
    assert found["bitnet+q4+q8 curious"].ece == pytest.approx(float(judged.reliability.ece))


def test_noise_is_drawn_and_a_cell_is_heard(compare: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    app = compare(view="noise")
    assert "Nobody has measured" in text(app) or len(app.get("plotly_chart")) == 1
    auroc = {"doubt": (0.8, 0.7, 0.9)}
    rows = [
        NoiseCell(kind, level, name, 15, accuracy, 0.1, 0.05, 0.04, auroc, 0.9, None if level else 0.1)
        for kind, level, accuracy in (("clean", 0.0, 0.9), ("background", -5.0, 0.3))
        for name in ("q4", "q8")
    ]
    made = NoiseSweep("esc10", "any", ("dog", "rain"), "official", 3, 400, 0.1, tuple(rows))
    monkeypatch.setattr(noise, "shipped", lambda *_: made)
    app = compare(view="noise", noise="risk")
    said = text(app)
    assert len(app.get("plotly_chart")) == 1
    assert "On clean sound 90 % right (q8); worst at background -5 dB, 30 % (q4)." in said
    assert "15 runs a cell" in said
    app.selectbox(key="noise_cell").set_value(("gain", -40.0)).run()
    assert not app.exception
    assert "Doubt" in text(app) or "Its doubt is" in text(app)
