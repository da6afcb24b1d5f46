"""Time from sample numbers: on clocks that are turned by hand."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmoe_core.live import timeline
from qmoe_core.live.timeline import Timeline

RATE = 1000
DAY = 1_700_000_000.0


class Clocks:
    """An uptime, and a time of day that somebody may set."""

    def __init__(self) -> None:
        self.up, self.ahead = 50.0, DAY - 50.0

    def timeline(self, rate: int = RATE) -> Timeline:
        return Timeline(rate, now=lambda: self.up, today=lambda: self.up + self.ahead)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def play(clocks: Clocks, line: Timeline, packets: int, position: int = 0, late: float = 0.0) -> int:
    """Packets of an eighth of a second, each captured when it should be and delivered so late."""
    for _ in range(packets):
        clocks.up += 0.125
        position += RATE // 8
        lost, sentence = line.heard(position, clocks.up - late)
        assert (lost, sentence) == (0, "")
    return position


def test_time_is_counted_in_samples(clocks: Clocks) -> None:
    line = clocks.timeline()
    assert line.at(0) == DAY  # nothing heard yet: now
    position = play(clocks, line, 80)
    assert line.at(0) == pytest.approx(DAY, abs=1e-6)
    assert line.at(position) == pytest.approx(DAY + 10.0, abs=1e-6)
    assert line.at(position + 250) - line.at(position) == pytest.approx(0.25, abs=1e-6)


def test_late_packets_move_nothing(clocks: Clocks) -> None:
    line = clocks.timeline()
    position = play(clocks, line, 40)
    before = line.at(position)
    for late in (0.8, 1.4, 0.0, 0.9, 5.0, 0.1, 3.0, 0.0):
        clocks.up += 0.125
        position += RATE // 8
        assert line.heard(position, clocks.up + late) == (0, "")
    assert line.at(position) - before == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(("asleep", "said"), [(30.0, "30.0 s"), (3600.0, "60 min")])
def test_sleep_is_a_gap(clocks: Clocks, asleep: float, said: str) -> None:
    line = clocks.timeline()
    position = play(clocks, line, 40)
    clocks.up += asleep
    lost, sentence = line.heard(position + 125, clocks.up + 0.125)
    assert lost == pytest.approx(asleep * RATE, abs=2)
    assert f"Nothing was heard for {said}" in sentence
    assert line.at(position + 125 + lost) == pytest.approx(DAY + 5.125 + asleep, abs=0.01)


def test_three_seconds_lost_are_believed_after_a_second(clocks: Clocks) -> None:
    line = clocks.timeline()
    position = play(clocks, line, 40)
    clocks.up += 3.0
    answers = []
    for _ in range(timeline.RECENT):
        clocks.up += 0.125
        position += 125
        answers.append(line.heard(position, clocks.up))
    assert answers[:-1] == [(0, "")] * (timeline.RECENT - 1)
    assert answers[-1][0] == pytest.approx(3 * RATE, abs=50)
    assert "3.0 s" in answers[-1][1]


def test_a_first_packet_that_was_late_is_taken_back(clocks: Clocks) -> None:
    line = clocks.timeline()
    clocks.up += 0.125
    line.heard(125, clocks.up + 0.5)  # half a second in a queue
    position = 125
    for _ in range(80):
        clocks.up += 0.125
        position += 125
        assert line.heard(position, clocks.up) == (0, "")
    assert line.at(position) == pytest.approx(clocks.up + clocks.ahead, abs=0.01)


def test_a_first_packet_that_was_very_late_is_taken_back_at_once_and_said(clocks: Clocks) -> None:
    line = clocks.timeline()
    line.heard(125, clocks.up + 30.0)
    lost, sentence = line.heard(250, clocks.up + 0.25)
    assert lost == 0
    assert "earlier" in sentence
    assert line.at(250) == pytest.approx(clocks.up + 0.25 + clocks.ahead, abs=0.01)


@given(st.floats(-3e-4, 3e-4))
def test_a_crystal_that_is_off_is_followed(error: float) -> None:
    clocks = Clocks()
    line = clocks.timeline()
    position = 0
    for _ in range(8 * 600):
        clocks.up += 0.125 * (1 + error)
        position += 125
        assert line.heard(position, clocks.up) == (0, "")
    assert line.at(position) == pytest.approx(clocks.up + clocks.ahead, abs=0.02)


@pytest.mark.parametrize(("moved", "way"), [(7200.0, "forward by 2.0 h"), (-90.0, "back by 90.0 s")])
def test_a_clock_that_was_set(clocks: Clocks, moved: float, way: str) -> None:
    line = clocks.timeline()
    position = play(clocks, line, 8)
    before = line.at(position)
    clocks.ahead += moved
    clocks.up += 0.125
    lost, sentence = line.heard(position + 125, clocks.up)
    assert lost == 0
    assert way in sentence
    assert line.at(position) - before == pytest.approx(moved, abs=0.01)
    play(clocks, line, 8, position + 125)  # and nothing more to say


def test_a_device_that_says_it_lost_samples(clocks: Clocks) -> None:
    line = clocks.timeline()
    position = play(clocks, line, 8)
    clocks.up += 0.4
    lost, _ = line.heard(position + 125, clocks.up + 0.125, lossy=True)
    assert lost == pytest.approx(400, abs=3)
    assert line.heard(position + lost + 250, clocks.up + 0.1, lossy=True)[0] == 1  # at least something


def test_uptime_goes_on() -> None:
    assert abs(timeline.uptime() - timeline.uptime()) < 60
    assert timeline.uptime() >= time.monotonic() - 60
