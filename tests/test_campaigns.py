"""Shortened forms of the campaigns (`python -m tests.campaigns`), so that none rots."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from tests.campaigns import arm, batch, cluster, disk, fuzz, hostile, kill, sessions
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


def test_a_batch_killed_at_any_moment():
    outcomes = batch.campaign(windows=30, kills=2)

    assert [failure for one in outcomes for failure in one.failures] == []
    assert all(one.windows >= 30 for one in outcomes)


def test_stores_in_bad_condition():
    results = disk.campaign((disk.full_disk,) if disk.may_mount() else (disk.clock_set_back,))

    assert [failure for one in results for failure in one.failures] == []


def test_a_cluster_loses_its_parts():
    machines = cluster.may_make_machines()
    conditions = cluster.scheduler_restarted, cluster.machine_killed if machines else cluster.worker_killed

    results = cluster.campaign(1, conditions)

    assert [failure for one in results for failure in one.failures] == []
    assert all(one.kept > 0 for one in results)


def test_tables_that_differ_are_told_apart(tmp_path):
    for name, rows in {"one": "A,CO2\n1,2\n", "same": "A,CO2\n1,3\n", "other": "A,CO2\n2,2\n"}.items():
        (tmp_path / name / "tables").mkdir(parents=True)
        (tmp_path / name / "tables" / "table-6.csv").write_text(rows)

    assert cluster.differences(tmp_path / "one", tmp_path / "same") == []
    assert cluster.differences(tmp_path / "one", tmp_path / "other") == ["table-6.csv, row 0, A: 1 and 2"]


def test_sessions_at_once():
    outcome = sessions.campaign(3, minutes=0.03, pace_s=0.5)

    assert outcome.failures == []
    assert {what for what, times in outcome.took.items() if times} == {
        sessions.CLASSIFYING,
        sessions.SWEEPING,
        sessions.LISTENING,
    }
    assert outcome.threads["closed"] <= outcome.threads["idle"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one address for this machine")
def test_hostile_visitors():
    outcome = hostile.campaign(8, minutes=0.1, pace_s=0.5, freed_s=0.0)

    assert outcome.failures == []
    assert outcome.took
    assert outcome.most < hostile.LIMIT_MB
    assert len(outcome.came) >= 4


@pytest.mark.slow
def test_portable_kernels_say_what_arm_is_asked_for(tmp_path: Path):
    """The checks of the emulated machine, with this one on the kernels that Arm runs in its place."""
    arm.sounds(tmp_path / "sounds")
    here, there = arm.Machine(tmp_path / "here"), arm.Machine(tmp_path / "there", QMOE_KERNEL="portable")

    results = [
        one for check in (arm.classify, arm.listen, arm.export) for one in check(tmp_path, here, there)
    ]

    assert [failure for one in results for failure in one.failures] == []
    assert len(results) == 3


def test_what_differs_on_arm_is_noticed():
    here = {"label": "rain", "probabilities": [0.25, 0.75], "total": 0.5, "seen": 3}

    def found(**changes: object) -> list[str]:
        result = arm.Result("cortex-a53", "a check")
        arm.compare(result, here, here | changes, "rain.wav")
        return result.failures

    assert found(probabilities=[0.2501, 0.7499], total=0.501) == []
    assert found(label="dog") == ["rain.wav: label: 'rain' here, 'dog' on Arm"]
    assert found(probabilities=[0.24, 0.76])[0] == "rain.wav: probabilities[0]: 0.01 apart"
    assert found(probabilities=[0.25, math.nan]) == ["rain.wav: probabilities[1]"]
    assert found(total=0.6) == ["rain.wav: total: 0.1 apart"]
    assert len(found(seen=4)) == len(found(more=1)) == 1


def test_what_the_arm_campaign_needs_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.platform", "darwin")
    assert "needs Linux" in arm.missing()
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("shutil.which", lambda name: None if "qemu" in name else name)
    assert arm.missing() == "this campaign needs QEMU: apt-get install qemu-user-static"
