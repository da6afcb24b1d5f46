"""The table of faults fits the tree; `python -m tests.mutants` itself is no part of the tests."""

from __future__ import annotations

import pytest

from tests.mutants.__main__ import ROOT, place
from tests.mutants.table import MUTANTS, Mutant


def test_there_are_enough() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 40


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_its_old_text_is_there_once_and_its_tests_exist(mutant: Mutant) -> None:
    path, text = place(mutant)
    assert text != path.read_text(encoding="utf-8")
    compile(text, mutant.file, "exec")
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert not name or f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")
        assert (ROOT / file).is_file()
