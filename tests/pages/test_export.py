"""Downloads: complete, and harmless in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest

from dashboard.views import export
from qmoe_core.decision import Classification


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_has_a_row_for_the_mixture_and_each_expert(dog: Classification) -> None:
    table = rows(export.as_csv([dog]))
    assert [row["voice"] for row in table] == ["mixture", *(e.name for e in dog.whole.experts)]
    mixture, first = table[:2]
    assert mixture["label"] == "dog"
    assert float(mixture["p(dog)"]) == dog.whole.probability
    assert float(mixture["epistemic"]) == dog.whole.uncertainty.epistemic
    assert float(first["disagreement_kl"]) == dog.whole.experts[0].disagreement_kl
    assert first["epistemic"] == ""
    assert sum(float(first[f"p({label})"]) for label in dog.whole.classes) == pytest.approx(1.0)


def test_csv_has_the_windows_of_a_long_recording(dog: Classification) -> None:
    parts = tuple(replace(dog.whole, start_s=s, end_s=s + 5.0) for s in (0.0, 2.5))
    table = rows(export.as_csv([replace(dog, windows=parts)]))
    assert [row["part"] for row in table[::10]] == ["whole", "window 1", "window 2"]
    assert table[20]["start_s"] == "2.5"


@pytest.mark.parametrize("name", ["=1+1.wav", "+1.wav", "-1.wav", "@SUM(A1).wav", "\t=1.wav", " =1.wav"])
def test_csv_runs_no_formula(dog: Classification, name: str) -> None:
    (row, *_) = rows(export.as_csv([replace(dog, file=name)]))
    assert row["file"] == f"'{name}"


def test_csv_keeps_numbers_as_numbers(dog: Classification) -> None:
    negative = replace(dog.whole, start_s=-0.5)
    assert rows(export.as_csv([replace(dog, whole=negative)]))[0]["start_s"] == "-0.5"


def test_json_is_what_the_command_line_prints(dog: Classification) -> None:
    assert json.loads(export.as_json([dog, dog])) == [dog.to_json(), dog.to_json()]
