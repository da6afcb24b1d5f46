"""The Formats page in each of its states, and the figures that it is made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from dashboard.charts import formats as format_charts
from dashboard.charts.palette import DARK, LIGHT, Theme, expert_colour
from qmoe_core.bundles import Bundle
from qmoe_core.evaluation.formats import Format, formats, weight_grids
from qmoe_core.measure import bench, machines
from qmoe_core.runtime.store import Store
from tests import reports

APP = Path(__file__).resolve().parents[2] / "dashboard" / "app.py"


def visit(**link: str) -> AppTest:
    """Open the page as somebody who follows a link."""
    app = AppTest.from_file(str(APP), default_timeout=60)
    app.query_params.update(link)
    return app.switch_page("../pages/formats.py").run()


def text(app: AppTest) -> str:
    """All that the page says: Markdown, captions and HTML, without the escapes."""
    assert not app.exception
    said = [element.value for element in [*app.markdown, *app.caption]]
    said += [html.body for html in app.html if "<style>" not in html.body]
    return "\n".join(said).replace("\\", "").replace("\xa0", " ")


def drawn_on(app: AppTest) -> set[str | None]:
    """Names of the figures on the page."""
    return {one.key for one in app.get("plotly_chart")}


@pytest.fixture
def measured(bundle: Bundle) -> None:
    """Latency and energy of this bundle, measured a moment ago."""
    bench.keep(reports.latency_report(reports.shape(bundle)), Store())
    bench.keep(reports.energy_report(), Store())


def test_before_anything_was_measured() -> None:
    app = visit()
    said = text(app)
    assert "<h2>q1</h2>" in said  # F1 and size are known all the same
    assert "The smallest of 10 that fit: F1 0.920 (99.4 % of 16-bit), 115 kB." in said
    assert "No latency was measured on this machine yet" in said
    assert any("Measure now" in button.label for button in app.button)
    assert app.segmented_control(key="formats.calls").disabled
    assert app.segmented_control(key="formats.against").value == "size"  # which needs no measuring
    assert ">head, median, µs<" not in said  # no column for it
    assert not app.query_params


def test_a_deadline_without_times_fits_nothing() -> None:
    said = text(visit(within="50"))
    assert "<h2>Nothing fits</h2>" in said
    assert "latency was not measured on this machine" in said


def test_the_cheapest_that_keeps_99_percent_and_answers_in_time(measured: None) -> None:
    app = visit()
    app.select_slider(key="formats.keep").set_value(0.99).run()
    app.select_slider(key="formats.within").set_value(50.0).run()
    said = text(app)
    assert "<h2>q1</h2>" in said
    assert "The smallest of 9 that fit: F1 0.920 (99.4 % of 16-bit), 115 kB, " in said
    assert "less than the deviation between folds (0.034, n = 15)" in said
    assert "it keeps 91.3 % of the 16-bit F1, not 99 %" in said  # popcount
    assert " is more than 50 µs (p95)" in said  # the curious mixture
    assert said.count('class="qm-dim"') == 2
    assert "n = 500 calls. Measured just now; Some CPU, 1 thread, network 744–640–320–10 (as in" in said
    assert drawn_on(app) >= {"trade", "path", "board", "ladder", "layers", "grids"}
    assert app.query_params == {"within": "50"}


def test_the_fastest_and_the_least_energy(measured: None) -> None:
    assert "<h2>popcount</h2>" in text(visit(keep="0", cheapest="latency"))
    assert "<h2>q1</h2>" in text(visit(cheapest="energy"))
    (gross,) = [row["gross_mj"] for row in reports.energy_report().rows if row["name"] == "popcount"]
    assert f"{gross:.3g} mJ, modelled" in text(visit(keep="0", cheapest="energy"))


def test_nothing_fits(measured: None) -> None:
    app = visit(within="5", keep="0.99")
    said = text(app)
    assert "<h2>Nothing fits</h2>" in said
    assert "Nearest is " in said
    assert drawn_on(app) >= {"trade", "path", "board", "ladder", "layers", "grids"}


def test_budgets_of_size_and_energy(measured: None) -> None:
    app = visit(keep="0", size="200", energy="0.15")
    said = text(app)
    assert app.select_slider(key="formats.size").value == 200.0
    assert "kB is more than 200 kB" in said
    assert "mJ is more than 0.15 mJ" in said
    assert app.query_params == {"keep": "0", "size": "200", "energy": "0.15"}


def test_without_mixtures(measured: None) -> None:
    assert "bitnet+q4+q8" in text(visit())
    assert "bitnet+q4+q8" not in text(visit(mixtures="0"))


def test_times_of_another_network_say_so() -> None:
    bench.keep(reports.latency_report([1536, 640, 320, 50]), Store())
    assert "network 1536–640–320–50 (this bundle has 744–640–320–10)" in text(visit())


def test_a_fitting_report_goes_before_a_newer_one(bundle: Bundle) -> None:
    bench.keep(reports.latency_report(reports.shape(bundle)), Store())
    bench.keep(reports.latency_report([1536, 640, 320, 50]), Store())
    assert "(as in this bundle)" in text(visit())


def test_whole_paths_are_there_on_arrival_and_of_this_machine_once_measured(bundle: Bundle) -> None:
    assert "Figures of the reference machine: " in text(visit())
    rows = [row | {"n": 77} for row in machines.reference().rows]
    bench.keep(bench.BenchReport("path", machines.reference().environment, rows), Store())
    assert "n = 77 calls" in text(visit())


def test_nonsense_in_the_link() -> None:
    app = visit(keep="2", within="soon", size="-1", energy="nan", calls="p1", cheapest="free", mixtures="x")
    assert len(app.warning) == 7
    assert "<h2>q1</h2>" in text(app)
    assert not app.query_params


def test_the_two_bit_grid_is_explained_from_the_weights(bundle: Bundle) -> None:
    said = text(visit())
    q2 = next(grid for grid in weight_grids(bundle, 0, ["q2"]))
    assert f"**{100 * q2.zeros:.0f} % of the weights are zero**" in said
    assert "q2 keeps 99.1 % of the 16-bit F1 on these clips" in said


@pytest.fixture(scope="module")
def found(bundle: Bundle) -> list[Format]:
    return formats(bundle, reports.latency_report(reports.shape(bundle)), reports.energy_report())


def drawn(found: list[Format], theme: Theme, **changes):
    given = {
        "fitting": ["q1", "q4"],
        "chosen": "q1",
        "front": {"q1", "q16"},
        "limits": {"f1": 0.916, "p95_us": 50.0},
        "floor": 0.9,
        "theme": theme,
    }
    return format_charts.trade(found, "p95_us", **given | changes)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_what_does_not_fit_is_grey(found: list[Format], theme: Theme) -> None:
    edge, discs = drawn(found, theme).data
    np.testing.assert_allclose(discs.x, [one.p95_us for one in found])
    coloured = {one.name: colour for one, colour in zip(found, discs.marker.color, strict=True)}
    assert coloured["q1"] == expert_colour("q1")
    assert coloured["fp32"] == coloured["bitnet+q4+q8"] == format_charts.GREY
    assert [line for line, one in zip(discs.marker.line.width, found, strict=True) if one.name == "q1"] == [3]
    assert list(edge.x) == sorted(edge.x)
    assert len(edge.x) == 2


def test_limits_are_drawn(found: list[Format]) -> None:
    level, deadline = drawn(found, LIGHT).layout.shapes
    assert (level.y0, level.y1) == (0.916, 0.916)
    assert (deadline.x0, deadline.x1) == (50.0, 50.0)
    assert not drawn(found, LIGHT, limits={}).layout.shapes


def test_an_outlier_stands_on_the_edge_with_its_figure(found: list[Format]) -> None:
    _, discs = drawn(found, LIGHT).data
    popcount = [one.name for one in found].index("popcount")
    assert discs.y[popcount] == 0.9
    assert discs.marker.symbol[popcount] == "triangle-down"
    _, all_in = drawn(found, LIGHT, floor=0.0).data
    assert all_in.y[popcount] == found[popcount].f1


def test_names_do_not_cover_each_other(found: list[Format]) -> None:
    twins = [replace(one, p95_us=10.0, f1=0.92) for one in found]
    _, discs = drawn(twins, LIGHT).data
    assert sum(bool(name) for name in discs.text) <= 4  # one on each side of the same place


def test_the_ladder_has_a_row_for_what_is_known(bundle: Bundle, found: list[Format]) -> None:
    singles = [one for one in found if one.kind == "expert"]
    assert len(format_charts.ladder(formats(bundle), LIGHT).data) == 3
    full = format_charts.ladder(found, LIGHT)
    assert len(full.data) == 5
    folds, means, sizes, times, energies = full.data
    assert len(folds.y) == 5 * len(singles)
    assert list(means.x) == [
        one.name for one in sorted(singles, key=lambda one: (one.bits, one.bytes, one.name))
    ]
    assert max(sizes.y) == pytest.approx(max(one.bytes for one in singles) / 1e3)
    assert list(times.marker.color) == [expert_colour(name) for name in times.x]
    assert energies.yaxis == "y4"


def test_grids_show_each_level_or_an_outline(bundle: Bundle) -> None:
    grids = weight_grids(bundle, 0, ["q1", "q2", "fp32"])
    outline, q2, q1 = format_charts.grids(grids, LIGHT).data  # the first row is on top
    assert (outline.type, q2.type, q1.type) == ("scatter", "bar", "bar")
    np.testing.assert_allclose(q2.x, grids[1].values)
    assert q2.y[np.argmin(np.abs(q2.x))] == max(q2.y)  # most weights are zero
    assert q1.base == 2


def test_what_a_grid_is_used_for(bundle: Bundle) -> None:
    q1, q2, q16, fp32 = weight_grids(bundle, 0, ["q1", "q2", "q16", "fp32"])
    assert format_charts.uses(q1) == "entropy 1 bit"
    assert format_charts.uses(q2).endswith(f"zeros; entropy {q2.entropy_bits:.2g} bit")
    assert format_charts.uses(q16) == "65,536 levels"
    assert format_charts.uses(fp32) == "floats"
