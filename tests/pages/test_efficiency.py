"""The Efficiency page in each of its states, the benchmarks behind it, and the figures it is made of."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from dashboard.charts import efficiency as efficiency_charts
from dashboard.charts.palette import DARK, LIGHT, Theme, expert_colour
from dashboard.session import measured
from dashboard.session.measured import Kept
from dashboard.views import job_panel
from dashboard.views.paths import embedder_of
from qmoe_core.bundles import Bundle
from qmoe_core.evaluation.scenarios import SCENARIOS
from qmoe_core.measure import bench, machines, size
from qmoe_core.measure.energy import deployment
from qmoe_core.measure.peers import TORCH_FP32
from qmoe_core.runtime import jobs
from qmoe_core.runtime.jobs import Bench, Claims, HoldOut, Job, Request, Train
from qmoe_core.runtime.store import Store
from tests import reports

APP = Path(__file__).resolve().parents[2] / "dashboard" / "app.py"


def visit(**link: str) -> AppTest:
    """Open the page as somebody who follows a link."""
    app = AppTest.from_file(str(APP), default_timeout=60)
    app.query_params.update(link)
    return app.switch_page("../pages/efficiency.py").run()


def text(app: AppTest) -> str:
    """All that the page says: Markdown, captions and HTML, without the escapes."""
    assert not app.exception
    said = [element.value for element in [*app.markdown, *app.caption]]
    said += [html.body for html in app.html if "<style>" not in html.body]
    return "\n".join(said).replace("\\", "").replace("\xa0", " ")


@pytest.fixture
def kept(bundle: Bundle) -> None:
    """Everything was measured a moment ago."""
    network = reports.shape(bundle)
    for report in (
        reports.latency_report(network),
        reports.latency_report(network, "latency-cold"),
        reports.energy_report(),
        reports.memory_report(bundle),
    ):
        bench.keep(report, Store())


@pytest.mark.parametrize(
    ("view", "said"),
    [
        ("deploy", "No latency was measured on this machine yet"),
        ("latency", "No latency was measured on this machine yet"),
        ("energy", "No energy was measured on this machine yet"),
        ("memory", "No memory was measured on this machine yet"),
        ("emissions", "which were not measured here yet"),
    ],
)
def test_before_anything_was_measured(view: str, said: str) -> None:
    app = visit(view=view)
    assert said in text(app)
    assert any(button.label.startswith(("Quick", "Measure")) for button in app.button)
    assert len(app.get("plotly_chart")) == (view == "latency")  # the whole path, of the reference machine


def test_scenarios_that_need_no_measurement_are_answered() -> None:
    assert "<h2>q16</h2>" in text(visit(scenario="accuracy"))
    assert "<h2>q1</h2>" in text(visit(scenario="memory"))


@pytest.mark.parametrize(
    ("scenario", "ours", "theirs"),
    [
        ("latency", "popcount", "Q1-Base"),
        ("balanced", "q1", "Q4-Base"),
        ("accuracy", "q16", "Q16-Base"),
        ("memory", "q1", "BitNet-Q4/8-QMoE-C"),
        ("stable", "q1", "Q8-Base"),
        ("energy", "q1", "BitNet-Q8PTQ-QMoE"),
    ],
)
def test_every_scenario_is_answered_from_our_measurements(
    kept: None, scenario: str, ours: str, theirs: str
) -> None:
    app = visit()
    app.pills(key="efficiency.scenario").set_value(scenario).run()
    said = text(app)
    assert f"<h2>{ours}</h2>" in said
    assert f"**{theirs}**" in said
    assert said.count("<tr") == len(SCENARIOS) + 1
    assert "n = 500 calls. Measured just now; Some CPU" in said


def test_scenarios_start_at_the_waveform_where_the_path_was_timed(kept: None, bundle: Bundle) -> None:
    assert "head, median, µs" in text(visit(scenario="latency"))
    bench.keep(machines.reference(), Store())
    path = machines.path_time(machines.reference(), embedder_of(bundle), bundle.experts[0])
    assert path is not None
    said = text(visit(scenario="latency"))
    assert "path, median, µs" in said
    assert "<h2>popcount</h2>" in said  # still the fastest
    whole = path.parts_us - path.head_us + reports.MEDIANS_US["popcount"]
    assert f">{whole:,.3g}<" in said


def test_latency_tables_distributions_and_tests(kept: None) -> None:
    app = visit(view="latency", show="experts,mixtures,peers")
    said = text(app)
    assert len(app.get("plotly_chart")) == 3
    assert f"speed-up on {TORCH_FP32}" in said
    assert "n = 500 calls of each, 10 rounds" in said
    assert f"**Eleven of 11** differ in variance from {TORCH_FP32}" in said  # each a fifth around its median
    assert "&lt; 0.001" in said
    assert said.count('scope="row"') == len(reports.MEDIANS_US) + 11


def test_cold_caches_are_another_report(kept: None, bundle: Bundle) -> None:
    app = visit(view="latency")
    app.toggle(key="efficiency.cold").set_value(True).run()
    assert app.query_params == {"view": "latency", "cold": "1"}
    assert "n = 500 calls of each" in text(app)


def test_nothing_to_show_falls_back_to_the_default(kept: None) -> None:
    app = visit(view="latency")
    app.pills(key="efficiency.show").set_value([]).run()
    assert not app.exception
    assert list(app.pills(key="efficiency.show").value) == ["experts", "peers"]


def test_energy_says_that_it_is_modelled(kept: None) -> None:
    app = visit(view="energy")
    said = text(app)
    assert "**These figures are modelled.**" in said
    assert "is 87 % of the total: energy mostly restates latency" in said
    assert "2 blocks of 10 s of each, FRA at 56 g of CO₂ a kWh, modelled" in said
    assert "not for quoting" in said
    assert len(app.get("plotly_chart")) == 1


def test_memory_and_sizes(kept: None) -> None:
    said = text(visit(view="memory"))
    assert "The experts are 4 % of the peak" in said
    assert ">2,749.5<" in said
    assert "its Table 7" not in said
    bench.keep(bench.run_size(size.PAPER_SHAPE, ("fp32", "q4")), Store())
    said = text(visit(view="memory"))
    assert "its Table 7, kB" in said
    assert ">687.1<" in said


def test_the_emissions_calculator(kept: None, bundle: Bundle) -> None:
    app = visit(view="emissions")
    app.selectbox(key="efficiency.format").set_value("q8").run()
    app.select_slider(key="efficiency.perday").set_value(1e4).run()
    app.number_input(key="efficiency.trainings").set_value(1000).run()
    said = text(app)
    q8 = next(row for row in reports.energy_report().rows if row["name"] == "q8")
    expected = deployment(1000 * reports.TRAINING_KWH, q8["gross_mj"], 1e4, 56.0)
    assert f"{expected.break_even_inferences:,.0f} calls" in said
    assert f"**{expected.break_even_days / 365:,.1f} years**" in said
    assert app.query_params == {
        "view": "emissions",
        "format": "q8",
        "perday": "10000",
        "trainings": "1000",
    }
    assert app.toggle(key="efficiency.path").disabled  # the path was not timed here
    app.number_input(key="efficiency.low").set_value(5.0).run()
    app.number_input(key="efficiency.tasks").set_value(2).run()
    assert f"{expected.break_even_inferences / 10:,.0f} calls" in text(app)
    bench.keep(machines.reference(), Store())
    said = text(app.run())
    path = machines.path_time(machines.reference(), embedder_of(bundle), bundle.experts[0])
    assert path is not None
    before = (path.parts_us - path.head_us) / 1e6 * q8["gross_mj"] * q8["n"] / (q8["blocks"] * q8["block_s"])
    whole = deployment(1000 * reports.TRAINING_KWH, q8["gross_mj"] + before, 1e4, 56.0, low_carbon=5, tasks=2)
    assert f"{whole.break_even_inferences:,.0f} calls" in said
    assert "the head." in said
    app.toggle(key="efficiency.path").set_value(False).run()
    assert f"{expected.break_even_inferences / 10:,.0f} calls" in text(app)


def test_nonsense_in_the_link() -> None:
    app = visit(
        view="x", scenario="y", cold="2", show="all", format="q5", perday="0", grid="-1", trainings="?",
        low="0", tasks="0", path="2",
    )  # fmt: skip
    assert len(app.warning) == 11
    text(app)
    assert not app.query_params


def test_a_report_of_a_busy_machine_says_so(bundle: Bundle) -> None:
    report = reports.latency_report(reports.shape(bundle))
    report.environment["load_average"] = [8.0, 8.0, 8.0]
    assert "busy (load 2.0 a core)" in Kept(report, time.time()).basis(bundle)
    report.environment["load_average"] = None
    assert "busy" not in Kept(report, time.time()).basis(bundle)


def test_a_bundle_is_named_without_its_folder(bundle: Bundle, tmp_path: Path) -> None:
    assert measured.named(bundle) == bundle.path.name
    elsewhere = SimpleNamespace(path=tmp_path / "own")
    assert measured.named(elsewhere) == str(tmp_path / "own")  # pyright: ignore[reportArgumentType]


def a_job(state: str, tmp_path: Path, **changes) -> Job:
    given = {
        "id": "20260101-000000-00000000",
        "title": "Measure latency",
        "request": Bench(measure="latency", bundle="esc10-ds-cnn", n=300),
        "state": state,
        "submitted": 0.0,
        "started": 10.0,
        "ended": None,
        "pid": 1,
        "error": None,
        "stopping": False,
        "folder": tmp_path,
    }
    return Job(**given | changes)


def test_progress_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict] = []
    monkeypatch.setattr(jobs, "events", lambda name: (told, 0))
    running = a_job("running", tmp_path)
    assert job_panel.progress(running, 12.5)[0].replace("\xa0", " ") == "Preparing … 2.5 s"
    told.append({"event": "stage", "stage": "latency", "done": 2, "total": 6, "message": "rounds"})
    text, share = job_panel.progress(running, 30.0)
    assert text.replace("\xa0", " ") == "2 of 6 rounds, 20.0 s, about 40.0 s left"
    assert share == pytest.approx(1 / 3)
    assert job_panel.progress(a_job("running", tmp_path, stopping=True), 30.0)[0] == "Stopping …"
    other = a_job("running", tmp_path, id="other", title="Train all experts on esc10")
    monkeypatch.setattr(jobs, "list_jobs", lambda: [other])
    queued, share = job_panel.progress(a_job("queued", tmp_path, started=None), 30.0)
    assert "behind “Train all experts on esc10”" in queued
    assert share == 0.0


@pytest.mark.parametrize(
    ("request_", "stage", "says", "share"),
    [
        (Train(dataset="esc10"), ("training", 3, 12, "q4"), "Training: 3 of 12", 0.25),
        (HoldOut(dataset="esc10", held_out=("dog",)), ("training", 3, 12, "q4"), "Training: 3 of 12", 0.25),
        (Claims(only=(13,)), ("claims", 0, 1, "claim 13"), "Checking claim 13 … 20.0 s", 0.5),
        (Claims(), ("claims", 1, 4, "claim 2"), "Checking claim 2: 1 of 4 done, 20.0 s", 0.25),
        (Bench(measure="energy", block_s=2), ("energy", 1, 4, ""), "1 of 4 blocks of 2 s, 20.0 s,", 0.25),
    ],
)
def test_each_kind_of_job_says_how_far_it_is(
    request_: Request, stage: tuple, says: str, share: float, tmp_path: Path
) -> None:
    name, done, total, message = stage
    story = jobs.story([{"event": "stage", "stage": name, "done": done, "total": total, "message": message}])
    text, found = job_panel.progress(a_job("running", tmp_path, request=request_), 30.0, story)
    assert text.replace("\xa0", " ").startswith(says)
    assert found == share


def test_a_running_benchmark_is_shown_with_a_way_to_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, stopped = a_job("running", tmp_path), []
    monkeypatch.setattr(jobs, "list_jobs", lambda: [running])
    monkeypatch.setattr(jobs, "get", lambda name: running)
    monkeypatch.setattr(jobs, "events", lambda name: ([], 0))
    monkeypatch.setattr(jobs, "cancel", stopped.append)
    app = visit(view="latency")
    text(app)
    assert [button.label for button in app.button] == ["Stop"]  # none to start a second one
    app.button[0].click().run()
    assert stopped == [running.id]


def test_a_benchmark_that_failed_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = a_job("failed", tmp_path, error="codecarbon is not installed")
    monkeypatch.setattr(jobs, "submit", lambda request: failed)
    monkeypatch.setattr(jobs, "list_jobs", lambda: [failed])
    app = visit(view="latency")
    assert not app.error  # it was of another session
    app.button[0].click().run()
    text(app)
    assert "codecarbon is not installed" in app.error[0].value


def test_what_the_buttons_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bundle: Bundle) -> None:
    asked: list[Bench] = []

    def submit(request: Bench) -> Job:
        asked.append(request)
        return a_job("done", tmp_path)

    monkeypatch.setattr(jobs, "submit", submit)
    for view, link in (("latency", {}), ("latency", {"cold": "1"}), ("energy", {}), ("memory", {})):
        visit(view=view, **link).button[0].click().run()
    warm, cold, energy, memory = asked
    assert (warm.measure, warm.n, warm.cold, warm.bundle) == ("latency", 300, False, bundle.path.name)
    assert cold.cold
    assert (energy.repetitions, energy.block_s) == (2, 10.0)
    assert memory.bundle == bundle.path.name


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_distributions_are_drawn_as_measured(bundle: Bundle, theme: Theme) -> None:
    rows = reports.latency_report(reports.shape(bundle)).rows
    drawn = efficiency_charts.distributions(rows, theme)
    for row, line in zip(rows, drawn.data, strict=True):
        assert line.x[99] == pytest.approx(row["p50_us"])
        assert line.y[99] == pytest.approx(0.5)
    lines = {row["name"]: line.line for row, line in zip(rows, drawn.data, strict=True)}
    assert (lines["q4"].color, lines["q4"].dash) == (expert_colour("q4"), "solid")
    assert lines["bitnet+q4+q8"].dash == "dash"
    assert lines[TORCH_FP32].dash == "dot"


def test_speedups_with_their_intervals(bundle: Bundle) -> None:
    rows = reports.latency_report(reports.shape(bundle)).rows
    (dots,) = efficiency_charts.speedups(rows, TORCH_FP32, LIGHT).data
    assert list(dots.x) == sorted(row["speedup_vs_fp32"] for row in rows)
    assert dots.y[-1] == "popcount"
    assert (np.asarray(dots.error_x.array) >= 0).all()


def test_energy_is_split_as_it_was_counted() -> None:
    rows = reports.energy_report().rows
    cpu, ram, net = efficiency_charts.energy(rows, LIGHT).data
    gross = {row["name"]: row["gross_mj"] for row in rows}
    for name, a, b in zip(cpu.y, cpu.x, ram.x, strict=True):
        assert a + b == pytest.approx(gross[name])
    assert cpu.y[-1] == "popcount"
    assert len(net.x) == len(rows)


def test_emissions_cross_where_they_break_even() -> None:
    found = deployment(1e-5, 0.2, 1e6, 56.0)
    training, serving, cross = efficiency_charts.emissions(found, LIGHT).data
    (day,) = cross.x
    assert day * found.daily_g == pytest.approx(found.training_g)
    assert serving.x[0] < day < serving.x[-1]
    assert set(training.y) == {found.training_g}
