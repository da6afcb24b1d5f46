"""How long the stage of a job will still take."""

from __future__ import annotations

from dashboard.session.training import time_left


def stage(name: str, done: int, at: float) -> dict:
    return {"event": "stage", "stage": name, "done": done, "total": 10, "at": at}


def test_the_pace_of_the_stage_says_what_is_left() -> None:
    happened = [stage("embedding", 9, 0.0), stage("training", 0, 100.0), stage("training", 4, 108.0)]
    assert time_left(happened, 108.0) == 12.0
    assert time_left(happened, 110.0) == 10.0
    assert time_left(happened, 999.0) == 0.0


def test_before_there_is_a_pace_nothing_is_said() -> None:
    assert time_left([], 1.0) is None
    assert time_left([stage("training", 0, 100.0)], 105.0) is None
    assert time_left([stage("training", 0, 100.0), stage("training", 10, 105.0)], 105.0) is None
