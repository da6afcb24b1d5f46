"""From windows to detections: when, what, and why not."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmoe_core.errors import ConfigError
from qmoe_core.evaluation.conformal import Limits
from qmoe_core.live import detections
from qmoe_core.live.detections import Detection, Rules, Tracker

PLAIN = Rules(smooth=1)


def run(tracker: Tracker, *windows) -> list[Detection]:
    return [detection for judged, samples in windows for detection in tracker.push(judged, samples)]


def story(found: list[Detection]) -> list[tuple[str, str]]:
    return [(d.label, d.reason) for d in found]


def test_one_sound_from_its_start_to_its_end(window) -> None:
    tracker = Tracker(PLAIN)
    assert run(tracker, *[window("rain", 0.8 + 0.01 * i) for i in range(9)]) == []
    current = tracker.current
    assert current is not None
    assert (current.label, current.accepted) == ("rain", True)
    (found,) = tracker.flush()
    # The first window counts from its start and the last to its end: 0 to 2 + 5 s.
    assert (found.start_s, found.end_s, found.windows) == (0.0, 7.0, 9)
    assert (found.start, found.end) == (window.day, window.day + 7.0)
    assert found.probability == pytest.approx(0.84)
    assert (found.expert, dict(found.routed), dict(found.agreeing)) == (
        "q4",
        {"q4": 1.0},
        {"q4": 1.0, "q8": 1.0},
    )
    assert found.best[0] == 2.0  # the surest window was the last
    assert found.best_start == window.day + 2.0
    assert tracker.flush() == []
    assert tracker.current is None


def test_the_border_between_two_sounds_is_between_the_middles_of_their_windows(window) -> None:
    tracker = Tracker(PLAIN)
    found = run(tracker, *[window("rain") for _ in range(8)], *[window("dog") for _ in range(8)])
    first, second = found + tracker.flush()
    # Middles at 1.75 + 2.5 s and 2 + 2.5 s.
    assert first.end_s == second.start_s == pytest.approx(4.375)


def test_a_detection_is_told_as_soon_as_nothing_can_join_it(window) -> None:
    tracker = Tracker(PLAIN)
    run(tracker, *[window("rain") for _ in range(8)])
    told = [bool(run(tracker, window("dog"))) for _ in range(8)]
    assert told.index(True) == 4  # a second, `merge_s`, after its end


def test_an_average_over_neighbours_ignores_a_slip(window) -> None:
    windows = [window("rain") for _ in range(6)] + [window("dog", 0.7)] + [window("rain") for _ in range(6)]
    tracker = Tracker(Rules(smooth=3))
    assert run(tracker, *windows) == []
    (found,) = tracker.flush()
    assert (found.label, found.windows) == ("rain", 13)


def test_an_average_moves_nothing_in_time(window) -> None:
    windows = [window("rain") for _ in range(20)] + [window("dog") for _ in range(20)]
    borders = []
    for smooth in (1, 3, 5):
        tracker = Tracker(Rules(smooth=smooth))
        found = run(tracker, *windows) + tracker.flush()
        borders.append(found[0].end_s)
    assert np.ptp(borders) <= 0.26


def test_neighbours_with_little_between_them_are_one(window) -> None:
    tracker = Tracker(PLAIN)
    windows = [window("rain") for _ in range(6)] + [window("dog") for _ in range(2)]
    windows += [window("rain") for _ in range(6)]
    found = run(tracker, *windows) + tracker.flush()
    assert story(found) == [("rain", "")]
    assert (found[0].start_s, found[0].end_s, tracker.flickers) == (0.0, 8.25, 1)


def test_neighbours_with_a_real_sound_between_them_are_two(window) -> None:
    tracker = Tracker(PLAIN)
    windows = [window("rain") for _ in range(6)] + [window("dog") for _ in range(4)]
    windows += [window("rain") for _ in range(6)]
    assert story(run(tracker, *windows) + tracker.flush()) == [("rain", ""), ("dog", ""), ("rain", "")]


def test_what_is_short_is_not_accepted(window) -> None:
    tracker = Tracker(Rules(smooth=1, merge_s=0.0))
    windows = [window("rain") for _ in range(6)] + [window("dog")] + [window("rooster") for _ in range(6)]
    found = run(tracker, *windows) + tracker.flush()
    assert story(found) == [("rain", ""), ("dog", detections.TOO_SHORT), ("rooster", "")]
    assert not found[1].accepted


@pytest.mark.parametrize(
    ("rules", "window_is", "reason"),
    [
        ({}, {"probability": 0.45}, detections.BELOW_THRESHOLD),
        ({"thresholds": {"rain": 0.95}}, {"probability": 0.9}, detections.BELOW_THRESHOLD),
        ({"threshold": 0.95, "thresholds": {"rain": 0.2}}, {"probability": 0.5}, ""),
        ({"limits": Limits(doubt=0.1)}, {"probability": 0.8}, detections.IN_DOUBT),
        ({"limits": Limits(doubt=0.2)}, {"probability": 0.85}, ""),
        ({}, {"missing_s": 0.01}, detections.GAP),
        ({}, {"peak": 0.0}, detections.SILENCE),
        ({}, {"peak": 9e-5}, detections.SILENCE),
        ({}, {"clipped": 0.02}, detections.CLIPPING),
        ({}, {"clipped": 0.005}, ""),
        ({}, {"halves": ("dog", "rooster")}, detections.CHANGING),
        ({}, {"halves": ("dog", "rain")}, ""),
        ({}, {"halves": ()}, ""),
        ({"halves": False}, {"halves": ("dog", "dog")}, ""),
        # The first that applies is told.
        (
            {"limits": Limits(doubt=0.0)},
            {"missing_s": 1.0, "peak": 0.0, "clipped": 1.0, "probability": 0.4},
            detections.GAP,
        ),
    ],
)
def test_why_not(window, rules: dict, window_is: dict, reason: str) -> None:
    tracker = Tracker(Rules(smooth=1, **rules))
    found = run(tracker, *[window("rain", **window_is) for _ in range(8)]) + tracker.flush()
    assert story(found) == [("rain", reason)]
    assert found[0].accepted == (reason == "")


def test_a_gap_in_a_sound(window) -> None:
    tracker = Tracker(Rules())
    windows = [window("rain") for _ in range(12)] + [window("rain", missing_s=0.5) for _ in range(20)]
    windows += [window("rain") for _ in range(12)]
    found = run(tracker, *windows) + tracker.flush()
    assert story(found) == [("rain", ""), ("rain", "gap"), ("rain", "")]
    assert [d.start_s for d in found][1:] == [d.end_s for d in found][:-1]


def test_a_sound_that_does_not_end_is_logged_in_parts(window) -> None:
    tracker = Tracker(Rules(smooth=1, longest_s=10.0))
    found = run(tracker, *[window("rain") for _ in range(100)]) + tracker.flush()
    assert story(found) == [("rain", "")] * 3
    assert found[-1].end_s - found[0].start_s == pytest.approx(99 * 0.25 + 5.0)


def test_rules_can_change_while_it_runs(window) -> None:
    tracker = Tracker(PLAIN)
    run(tracker, *[window("rain") for _ in range(8)])
    tracker.rules = Rules(smooth=1, threshold=0.95)
    found = run(tracker, *[window("rain") for _ in range(8)]) + tracker.flush()
    assert story(found) == [("rain", ""), ("rain", detections.BELOW_THRESHOLD)]


WINDOWS = st.lists(
    st.fixed_dictionaries(
        {
            "label": st.sampled_from(["dog", "rain", "rooster"]),
            "probability": st.sampled_from([0.4, 0.7, 0.99]),
            "peak": st.sampled_from([0.0, 0.5, 0.5, 0.5]),
            "missing_s": st.sampled_from([0.0, 0.0, 0.0, 1.0]),
            "epistemic": st.sampled_from([0.0, 1.0]),
        }
    ),
    max_size=60,
)


@given(WINDOWS, st.integers(1, 4), st.sampled_from([0.0, 0.5, 2.0]), st.sampled_from([1.0, 600.0]))
def test_the_log_is_in_order_and_never_overlaps(
    made: list[dict], smooth: int, merge_s: float, longest_s: float
):
    from tests.live.conftest import Windows

    window = Windows()
    tracker = Tracker(Rules(smooth=smooth, merge_s=merge_s, longest_s=longest_s, limits=Limits(doubt=0.5)))
    found = run(tracker, *[window(**one) for one in made]) + tracker.flush()
    for detection in found:
        assert 0.0 <= detection.start_s <= detection.end_s <= len(made) * 0.25 + 5.0
        assert detection.accepted == (detection.reason == "")
        assert detection.reason in ("", *detections.REASONS)
        assert 1 <= detection.windows <= len(made)
        assert 0.0 <= detection.probability <= 1.0
    for one, two in pairwise(found):
        assert one.end_s <= two.start_s
    assert sum(d.windows for d in found) <= len(made)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"threshold": 1.1}, "no probability"),
        ({"thresholds": {"dog": -0.1}}, "dog"),
        ({"limits": Limits(doubt=-1.0)}, "0 to 1"),
        ({"limits": Limits(doubt=float("nan"))}, "0 to 1"),
        ({"smooth": 0}, "1 or more"),
        ({"merge_s": -1.0}, "merge_s"),
    ],
)
def test_rules_that_make_no_sense(wrong: dict, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Rules(**wrong)
