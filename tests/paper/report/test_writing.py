"""What is written: names of any kind are only ever text."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from qmoe_core.paper.report import charts, writing
from qmoe_core.paper.report.document import (
    Figure,
    Interval,
    ReportColumn,
    ReportDocument,
    ReportTable,
    Section,
    Spread,
)

NASTY = "<script>alert('x')</script> & |pipe| *star*"


@pytest.fixture
def report() -> ReportDocument:
    table = ReportTable(
        "t",
        NASTY,
        (ReportColumn("Name"), ReportColumn("F1"), ReportColumn("Leak", 2), ReportColumn("p", p=True)),
        ((NASTY, Spread(0.5, 0.25), Interval(0.1, -0.2, 0.3), 1e-6), ("=1+1", None, None, 0.25)),
        NASTY,
    )
    svg = charts.intervals([(NASTY, [charts.Mark(0.0, -1.0, 1.0)])], NASTY, series=(NASTY,))
    return ReportDocument(
        NASTY, (NASTY,), (Section("s", NASTY, (NASTY,), table, figures=(Figure("f", svg, NASTY),)),)
    )


def test_the_page_escapes_names(report: ReportDocument) -> None:
    page = writing.page(report)
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_markdown_escapes_names(report: ReportDocument) -> None:
    text = writing.markdown(report)
    assert "<script" not in text.replace("\\<script", "")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {5}


def test_csv_keeps_precision_and_defuses_formulas(report: ReportDocument) -> None:
    table = report.sections[0].tables[0]
    head, first, second = csv.reader(io.StringIO(writing.comma_separated(table)))
    assert head == ["Name", "F1", "F1 deviation", "Leak", "Leak low", "Leak high", "p"]
    assert first == [NASTY, "0.5", "0.25", "0.1", "-0.2", "0.3", "1e-06"]
    assert second == ["'=1+1", "", "", "", "", "", "0.25"]


def test_cells_as_they_are_printed() -> None:
    assert ReportColumn("F1").text(Interval(0.045, -0.019, 0.071)) == "0.045 [−0.019, 0.071]"
    assert ReportColumn("n", 0).text(None) == ReportColumn("n").text(float("nan")) == "–"


def test_marks_lie_where_their_values_are() -> None:
    svg = charts.intervals([("a", [charts.Mark(1.0, 1.0, 1.0)]), ("b", [charts.Mark(2.0, 2.0, 2.0)])], "x")
    first, second = (float(part.split('"')[1]) for part in svg.split("<circle ")[1:])
    assert charts.LEFT < first < second < charts.WIDTH - charts.RIGHT


def test_a_histogram_stacks_its_counts() -> None:
    edges = np.array([0.0, 1.0, 2.0])
    svg = charts.histogram(edges, [np.array([3, 0]), np.array([1, 2])], "x", series=("a", "b"))
    heights = [float(part.split('"')[0]) for part in svg.split('height="')[1:]]
    assert heights[0] == pytest.approx(3 * heights[1], abs=0.1)
    assert heights[2] == pytest.approx(2 * heights[1], abs=0.1)
