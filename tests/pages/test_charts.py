"""Charts: what is drawn is what was decided."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dashboard.charts import decision as charts
from dashboard.charts import palette
from dashboard.charts.palette import DARK, LIGHT, Theme
from qmoe_core.decision import Classification
from qmoe_core.experts.spec import NAMES

pytestmark = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])


def test_opinions_show_every_expert_and_the_mixture(dog: Classification, theme: Theme) -> None:
    decision = dog.whole
    figure = charts.opinions(decision, theme)
    experts, together = figure.data
    assert list(experts.y)[-1] == "Dog"  # the likeliest class is on top
    by_expert = np.array([e.probabilities for e in decision.experts])
    row = decision.classes.index("dog")
    np.testing.assert_allclose(experts.z[-1], by_expert[:, row])
    np.testing.assert_allclose(together.z[-1], [decision.mean[row], decision.probabilities[row]])
    assert experts.text[-1][0] == f"{100 * by_expert[0, row]:.0f}"
    marked = [text for text in figure.layout.xaxis.ticktext if "●" in text]
    assert marked == [f"<b>● {e.name}</b>" for e in decision.experts if e.selected]


def test_many_classes_are_cut_to_the_likeliest(dog: Classification, theme: Theme) -> None:
    classes = tuple(f"class {i}" for i in range(50))
    spread = np.full(50, 0.001)
    spread[[3, 30]] = 0.5, 0.452
    experts = tuple(replace(e, probabilities=spread, label="class 3") for e in dog.whole.experts)
    decision = replace(
        dog.whole, classes=classes, label="class 3", probabilities=spread, mean=spread, experts=experts
    )
    figure = charts.opinions(decision, theme)
    assert len(figure.data[0].y) == 12
    assert list(figure.data[0].y)[-2:] == ["Class 30", "Class 3"]
    assert list(charts.likeliest(decision, theme).data[0].y)[-2:] == ["Class 30", "Class 3"]


def test_routing_shows_before_and_after(dog: Classification, theme: Theme) -> None:
    mixed = [e for e in dog.whole.experts if e.in_mixture][::-1]
    after, before = charts.routing(dog.whole, theme).data
    np.testing.assert_allclose(after.x, [e.routing_probability for e in mixed])
    np.testing.assert_allclose(before.x, [e.router_probability for e in mixed])
    assert [name.count("●") for name in after.y] == [e.selected for e in mixed]


def test_likeliest_are_in_order(dog: Classification, theme: Theme) -> None:
    (bars,) = charts.likeliest(dog.whole, theme).data
    np.testing.assert_allclose(bars.x, np.sort(dog.whole.probabilities)[-5:])


def test_spectrogram_is_relative_to_its_loudest_point(theme: Theme) -> None:
    levels = np.full((128, 216), -100, np.int8)
    levels[40, 100] = 20
    (picture,) = charts.spectrogram(levels, (0.0, 5.0), theme).data
    assert picture.z.min() == -80
    assert picture.z[40, 100] == 0


def test_a_long_spectrogram_keeps_its_peaks(theme: Theme) -> None:
    levels = np.full((128, 10 * charts.MAX_COLUMNS + 7), -100, np.int8)
    levels[5, -1] = 0
    (picture,) = charts.spectrogram(levels, (0.0, 100.0), theme).data
    assert picture.z.shape[1] <= charts.MAX_COLUMNS
    assert picture.z[5, -1] == 0
    assert picture.dx * picture.z.shape[1] == pytest.approx(100.0)


def test_the_judged_window_is_marked(theme: Theme) -> None:
    envelope = np.array([[-0.5, -0.1], [0.4, 0.1]])
    assert not charts.waveform(envelope, 20.0, theme).layout.shapes
    (mark,) = charts.waveform(envelope, 20.0, theme, (2.5, 7.5)).layout.shapes
    assert (mark.x0, mark.x1) == (2.5, 7.5)


def test_a_short_clip_is_drawn_as_long_as_its_window(theme: Theme) -> None:
    assert charts.waveform(np.zeros((2, 3)), 1.0, theme).layout.xaxis.range == (0, 5.0)


def test_windows_cover_the_recording_once(dog: Classification, theme: Theme) -> None:
    parts = [replace(dog.whole, start_s=s, end_s=s + 5.0) for s in (0.0, 2.5, 3.1)]
    (blocks,) = charts.windows(parts, 1, theme).data
    assert blocks.x[0] - blocks.width[0] / 2 == 0.0
    assert blocks.x[-1] + blocks.width[-1] / 2 == pytest.approx(8.1)
    assert blocks.width.sum() == pytest.approx(8.1)
    assert [opacity == 1.0 for opacity in blocks.marker.opacity] == [False, True, False]


def luminance(colour: str) -> float:
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    dim, bright = sorted([luminance(one), luminance(other)])
    return (bright + 0.05) / (dim + 0.05)


def test_colours_can_be_seen(theme: Theme) -> None:
    """WCAG 2.2: 3 : 1 for what is drawn, 4.5 : 1 for what is read."""
    assert set(palette.EXPERTS) == set(NAMES)
    classes = [palette.class_colour(range(10), i) for i in range(10)]  # pyright: ignore[reportArgumentType]
    assert len(set(classes)) == 10
    for colour in [*palette.EXPERTS.values(), *classes]:
        assert contrast(colour, theme.page) >= 2.9, colour
    for colour in (theme.ink, theme.muted, theme.accent):
        assert contrast(colour, theme.page) >= 4.5, colour
