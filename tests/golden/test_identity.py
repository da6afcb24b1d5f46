"""What cached results are addressed by: a part's version changes when, and only when, its results do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from qmoe_core.evaluation import classification
from qmoe_core.routing.router import Router
from qmoe_core.runtime import identity
from tests.golden import identity as golden


@pytest.fixture(scope="module")
def kept() -> dict[str, dict]:
    return json.loads(golden.KEPT.read_text(encoding="utf-8"))


@pytest.mark.parametrize("part", identity.PARTS)
def test_results_change_with_the_version_only(part: str, kept: dict[str, dict], tmp_path: Path) -> None:
    said = golden.problem(part, tmp_path, kept.get(part), identity.PARTS[part].version)
    if said:
        pytest.fail(said, pytrace=False)


def test_another_f1_asks_for_a_version(kept: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = classification.weighted_f1
    monkeypatch.setattr(classification, "weighted_f1", lambda *given: 0.999 * right(*given))
    said = golden.problem("scores", tmp_path, kept["scores"], 1)
    assert said is not None
    assert "raise PARTS['scores'].version" in said


def test_other_masks_ask_for_a_version(kept: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Router.masks
    monkeypatch.setattr(
        Router, "masks", lambda self, samples: right(replace(self, seed=self.seed + 1), samples)
    )
    said = golden.problem("mixture", tmp_path, kept["mixture"], 1)
    assert said is not None
    assert "masks" in said
    assert "raise PARTS['mixture'].version" in said


def test_a_raised_version_asks_for_golden_results(kept: dict, tmp_path: Path) -> None:
    said = golden.problem("scores", tmp_path, kept["scores"], kept["scores"]["version"] + 1)
    assert said is not None
    assert "run `python -m tests.golden.identity`" in said


def test_versions_and_libraries_are_in_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity.identity("experts")
    assert {"expert", "scores", "torch"} <= before.keys()
    part = identity.PARTS["scores"]
    monkeypatch.setitem(identity.PARTS, "scores", replace(part, version=part.version + 1))
    assert identity.identity("experts") != before
    assert identity.identity("measurements") == identity.identity("measurements")
    identity._minor.cache_clear()
    monkeypatch.setattr(identity, "installed", lambda name: "99.1.2")
    assert identity.identity("experts")["torch"] == "99.1"
    identity._minor.cache_clear()


def test_every_part_is_of_some_kind() -> None:
    assert {part for parts in identity.KINDS.values() for part in parts} == identity.PARTS.keys()
    assert golden.COMPUTE.keys() == identity.PARTS.keys()
