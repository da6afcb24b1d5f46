"""Shortened forms of the campaigns (`python -m tests.campaigns`), so that none rots."""

from __future__ import annotations

from tests.campaigns import disk, fuzz, kill, sessions
from tests.campaigns.inputs import TARGETS


def test_mutated_inputs():
    outcomes = fuzz.run(list(TARGETS), inputs=25, limit_s=120.0)  # a busy machine is no hang

    assert [failure for one in outcomes for failure in one.failures] == []
    assert {one.target: one.inputs for one in outcomes} == dict.fromkeys(TARGETS, 25)
    assert sum(one.refused for one in outcomes) > 100  # mutants that are none would prove nothing


def test_killed_at_any_moment():
    tallies = kill.campaign(kills=4)

    assert [failure for one in tallies for failure in one.failures] == []
    assert [one.kills for one in tallies] == [1, 1, 1, 1]


def test_stores_in_bad_condition():
    results = disk.campaign((disk.full_disk,) if disk.may_mount() else (disk.clock_set_back,))

    assert [failure for one in results for failure in one.failures] == []


def test_sessions_at_once():
    outcome = sessions.campaign(3, minutes=0.03, pace_s=0.5)

    assert outcome.failures == []
    assert {what for what, times in outcome.took.items() if times} == {
        sessions.CLASSIFYING,
        sessions.SWEEPING,
        sessions.LISTENING,
    }
    assert outcome.threads["closed"] <= outcome.threads["idle"]
