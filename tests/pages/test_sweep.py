"""The Sweep page in each of its states, and the figures and sentences that it is made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from dashboard.charts import sweep as sweep_charts
from dashboard.charts.palette import DARK, LIGHT, Theme, expert_colour
from dashboard.charts.sweep import MARGIN, Curve, Scale
from dashboard.views import sweeping
from qmoe_core.bundles import Bundle
from qmoe_core.evaluation import sweep
from qmoe_core.evaluation.sweep import AlphaSweep

APP = Path(__file__).resolve().parents[2] / "dashboard" / "app.py"


def visit(**link: str) -> AppTest:
    """Open the page as somebody who follows a link."""
    app = AppTest.from_file(str(APP), default_timeout=60)
    app.query_params.update(link)
    return app.switch_page("../pages/sweep.py").run()


def text(app: AppTest) -> str:
    """All that the page says: Markdown, captions and HTML, without the escapes."""
    assert not app.exception
    said = [element.value for element in [*app.markdown, *app.caption]]
    said += [html.body for html in app.html if "<style>" not in html.body]
    return "\n".join(said).replace("\\", "").replace("\xa0", " ")


@pytest.fixture(scope="module")
def swept(bundle: Bundle) -> AlphaSweep:
    data = sweeping.dataset(bundle)
    return sweep.alpha_sweep(data.outputs, data.labels, bundle.settings(), sweeping.STOPS)


def test_first_visit(swept: AlphaSweep) -> None:
    app = visit()
    said = text(app)
    assert "<h2>α = 0.3 changes nothing</h2>" in said  # the paper's α, in this bundle's mixture
    assert "n = 400 clips, each classified by experts that were not trained on it" in said
    assert "None at this α" in said
    assert f'<p class="qm-now">{swept.f1[0]:.3f}' in said
    assert f"; {swept.ece_perfect[0]:.3f} if calibrated perfectly" in said
    assert len(app.get("plotly_chart")) == 10
    assert "the cheapest expert as good as the best (95 % interval" in said  # the cascade
    assert not app.warning
    assert not app.error
    assert not app.query_params


def test_the_cascade_can_be_chosen_and_needs_two() -> None:
    app = visit(curiosity="cascade")
    assert "<h2>The cascade</h2>" in text(app)
    app.pills(key="experts").set_value(["q4"]).run()
    assert "A cascade has two or more experts" in app.info[0].value


def test_moving_alpha_moves_all_that_follows_it(swept: AlphaSweep) -> None:
    app = visit()
    app.select_slider(key="alpha").set_value(1000.0).run()
    said, last = text(app), -1
    moved = round(400 * swept.flips[last])
    assert f"α = 1000 sends {moved} of 400 clips elsewhere" in said
    assert (
        f"{100 * swept.route_flips[last]:.1f} % <small>{round(400 * swept.route_flips[last])} of 400" in said
    )
    assert f"{swept.ece[last]:.3f} <small>{swept.ece[0]:.3f} at α = 0" in said
    assert said.count("clip=") == min(moved, 60)
    assert f"{moved - 60} more are in the CSV" in said
    assert app.query_params == {"alpha": "1000"}
    rules = next(html.body for html in app.html if ":root{--qm-alpha" in html.body)
    assert f"--qm-alpha:{sweep_charts.across(1000.0):.4f}" in rules


def test_a_link_restores_everything() -> None:
    link = {"alpha": "7", "curiosity": "router-mc", "experts": "fp32,popcount", "k": "2", "normalise": "1"}
    app = visit(**link)
    text(app)
    assert app.select_slider(key="alpha").value == 7.0  # no stop of the slider, but kept
    assert app.segmented_control(key="curiosity").value == "router-mc"
    assert app.number_input(key="top_k").value == 2
    assert app.toggle(key="normalise").value is True
    assert app.query_params == link
    assert not app.warning


def test_leaving_an_alpha_that_only_the_link_knew() -> None:
    app = visit(alpha="7")
    app.select_slider(key="alpha").set_value(100.0).run()
    assert "α = 100 sends" in text(app)
    assert app.select_slider(key="alpha").value == 100.0
    app.run()
    assert app.select_slider(key="alpha").value == 100.0
    assert app.query_params == {"alpha": "100"}


def test_flips_open_with_the_same_mixture() -> None:
    said = text(visit(alpha="500", experts="q4,popcount", k="2"))
    assert 'href="./dataset?by=q4%2Bpopcount%40500%2F2&amp;clip=' in said
    assert 'href="./dataset?clip=' in text(visit(alpha="500", curiosity="router-mc"))


def test_nonsense_in_the_link() -> None:
    app = visit(alpha="banana", experts="q5", k="0", curiosity="=1+1", normalise="maybe")
    assert len(app.warning) == 5
    assert "α = 0.3 changes nothing" in text(app)
    assert not app.query_params


def test_without_curiosity_alpha_rests() -> None:
    app = visit(curiosity="none", alpha="100")
    assert "<h2>The plain router</h2>" in text(app)
    assert app.select_slider(key="alpha").disabled


def test_fewer_experts_than_k() -> None:
    app = visit(experts="q4,q8,bitnet,q1", k="4")
    app.pills(key="experts").set_value(["q4", "q8"]).run()
    assert not app.exception
    assert app.number_input(key="top_k").value == 2


def test_no_expert_left_is_the_bundles_mixture(bundle: Bundle) -> None:
    app = visit()
    app.pills(key="experts").set_value([]).run()
    assert not app.exception
    assert set(app.pills(key="experts").value) == set(bundle.manifest.mixture)


def test_a_bundle_without_its_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    st.cache_resource.clear()
    monkeypatch.setattr(Bundle, "dataset", None)
    app = visit()
    assert "carries no data set" in app.info[0].value
    assert not app.get("plotly_chart")


def test_what_alpha_does_in_words(bundle: Bundle, swept: AlphaSweep) -> None:
    labels = sweeping.dataset(bundle).labels
    zero = sweeping.verdict(swept, [], 0)
    assert zero.headline == "At α = 0, the plain router answers"
    index = sweeping.at(swept, 100.0)
    flips = sweep.flips(swept, labels, index)
    verdict = sweeping.verdict(swept, flips, index)
    assert verdict.headline == f"α = 100 sends {len(flips)} of 400 clips elsewhere"
    effects = [flip.effect for flip in flips if flip.effect != "same label"]
    said = verdict.sentence.replace("two", "2").replace("one", "1")
    assert f"{effects.count('corrected')} corrected" in said
    same = [replace(flip, label=(0, 0)) for flip in flips]
    assert "every label stays" in sweeping.verdict(swept, same, index).sentence


def test_the_bonus_in_words(bundle: Bundle) -> None:
    found = sweeping.Interest(*np.array([[0.0, 0.0], [0.01, 0.03], [0.1, 0.2]]), least=0.0, most=0.2)
    said = sweeping.bonus_range(bundle.settings(), found, 10.0).replace("\xa0", " ")
    assert said == "The bonus exp(α · d) runs from × 1.000 to × 7.389; typically × 1.221."
    assert "σ" in sweeping.bonus_range(bundle.settings(curiosity="router-mc"), found, 10.0)
    assert "exp(α · d̂)" in sweeping.bonus_range(bundle.settings(curiosity="distilled"), found, 10.0)
    assert "No bonus" in sweeping.bonus_range(bundle.settings(curiosity="none"), found, 10.0)


def test_alpha_is_logarithmic_with_a_place_for_zero() -> None:
    alphas = np.array([0.0, 0.1, 1.0, 1000.0])
    np.testing.assert_allclose(sweep_charts.place(alphas), [-1.5, -1.0, 0.0, 3.0])
    assert 0.0 < sweep_charts.across(0.0) < sweep_charts.across(0.1) < sweep_charts.across(1000.0) < 1.0


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_a_curve_shows_the_chosen_strategy_last_and_strongest(theme: Theme) -> None:
    curves = [Curve("one", np.array([0.9, 0.8]), True), Curve("other", np.array([0.9, 0.95]), False)]
    scale = sweep_charts.scale(curves, least=0.06, ceiling=1.0)
    drawn = sweep_charts.curve(np.array([0.0, 10.0]), curves, scale, theme)
    assert [line.name for line in drawn.data] == ["other", "one"]
    assert [line.line.color for line in drawn.data] == [theme.muted, theme.accent]
    np.testing.assert_allclose(drawn.data[1].y, [0.9, 0.8])
    low, high = drawn.layout.yaxis.range
    assert low < 0.8 < 0.95 < high <= 1.0


def test_noise_does_not_fill_an_axis() -> None:
    flat = [Curve("flat", np.array([0.92, 0.921]), True)]
    scale = sweep_charts.scale(flat, least=0.06)
    assert scale.high - scale.low == pytest.approx(0.06)
    shares = sweep_charts.scale([Curve("none", np.zeros(2), True)], least=0.05, floor=0.0, ceiling=1.0)
    assert (shares.low, shares.high) == (0.0, 0.05)


def test_heights_of_the_dot() -> None:
    assert Scale(0.0, 2.0).height(0.5) == 0.25
    assert Scale(0.0, 2.0).height(9.0) == 1.0
    assert Scale(1.0, 100.0, log=True).height(10.0) == pytest.approx(0.5)


def test_the_line_over_the_figures_stands_where_they_are_drawn() -> None:
    """The stylesheet repeats the figures' margins; they must be the same."""
    rules = Path(sweeping.__file__).with_name("style.css").read_text(encoding="utf-8")
    left, right, top, bottom = (MARGIN[side] for side in "lrtb")
    assert f"left: calc({left}px + (100% - {left + right}px) * var(--qm-alpha))" in rules
    assert f"top: {top}px; bottom: {bottom}px" in rules
    assert f"bottom: calc({bottom}px + (100% - {top + bottom}px) * var(--qm-height))" in rules


def test_utilisation_is_stacked_in_the_experts_colours(swept: AlphaSweep) -> None:
    drawn = sweep_charts.utilisation(swept, LIGHT)
    assert [area.fillcolor for area in drawn.data] == [expert_colour(n) for n in swept.settings.experts]
    np.testing.assert_allclose(sum(np.asarray(area.y) for area in drawn.data), 1.0)
