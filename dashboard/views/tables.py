"""Tables: shown as HTML that a screen reader and a thumb can read, explained, and downloadable as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import streamlit as st

from dashboard.charts import palette
from dashboard.views.widgets import plain
from qmoe_core.experts.spec import EXPERTS
from qmoe_core.runtime.spreadsheets import defused


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: of the rows' values, and in the CSV; title: on screen.
        form: from a value to text; None shows it as it is.
        meaning: one sentence, with the equation where it is a metric.
        number: right-aligned, in figures of one width.
    """

    key: str
    title: str
    form: Callable[[Any], str] | None = None
    meaning: str = ""
    number: bool = True


Row = Mapping[str, Any]
Rows = Sequence[Row] | Callable[[], Sequence[Row]]
"""Rows of a file, or what makes them when it is asked for."""


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def html(
    columns: Sequence[Column],
    rows: Sequence[Row],
    title: str,
    *,
    marks: Sequence[str] = (),
    kind: str = "",
) -> str:
    """A table as HTML, in a box that scrolls sideways where it has to. What is None is shown as a dash.

    What comes from outside (clip and class names) is escaped, unless a column's form says that it is HTML.

    Args:
        rows: a row with a true `dim` is greyed out, one with a true `mark` stands out.
        title: what it is a table of, for screen readers.
        marks: a CSS border for each row, drawn before its first cell as a legend's line.
        kind: more classes of style for the box.
    """
    heads = "".join(f'<th scope="col"{_right(column)}>{escape(column.title)}</th>' for column in columns)
    lines = []
    for number, row in enumerate(rows):
        classes = " ".join(f"qm-{name}" for name in ("dim", "mark") if row.get(name))
        first, *others = (_cell(column, row.get(column.key)) for column in columns)
        line = f'<i style="border-top:{escape(marks[number])}"></i>' if marks else ""
        cells = "".join(
            f"<td{_right(column)}>{cell}</td>" for column, cell in zip(columns[1:], others, strict=True)
        )
        marked = f' class="{classes}"' if classes else ""
        lines.append(f'<tr{marked}><th scope="row">{line}{first}</th>{cells}</tr>')
    return (
        f'<div class="{f"qm-table {kind}".strip()}" role="region" aria-label="{escape(title)}" tabindex="0">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def table(
    columns: Sequence[Column],
    rows: Sequence[Row],
    *,
    name: str,
    title: str,
    marks: Sequence[str] = (),
    label: str = "CSV",
    file: tuple[Sequence[Column], Rows] | None = None,
) -> None:
    """A table with its CSV and, where columns have one, their meanings. What is None is shown as a dash.

    Args:
        name: of the file, without suffix; also tells tables of a page apart.
        title: for screen readers.
        marks: a CSS border for each row, drawn before its first cell as a legend's line.
        label: of the button.
        file: columns and rows of the CSV, where they are not those on screen.
    """
    st.html(html(columns, rows, title, marks=marks))
    with st.container(horizontal=True, gap="small"):
        download(*(file or (columns, rows)), name, label)
        meanings(columns)


def meanings(columns: Sequence[Column]) -> None:
    """Each column that has one, with its sentence and equation (Markdown, LaTeX included)."""
    if explained := [f"- **{plain(c.title)}**: {c.meaning}" for c in columns if c.meaning]:
        with st.popover("What the figures mean", type="tertiary", icon=":material/help:"):
            st.markdown("\n".join(explained))


def expert(name: str) -> Html:
    """An expert's (or mixture's) name beside its colour; pointing at an expert shows its format.

    >>> expert("<b>")
    '<span class="qm-swatch" style="background:#808080"></span>&lt;b&gt;'
    """
    colour, shown = palette.expert_colour(name), escape(name)
    if name in EXPERTS:
        about = f"{EXPERTS[name].title}: {EXPERTS[name].summary}"
        shown = f'<span title="{escape(about)}">{shown}</span>'
    return Html(f'<span class="qm-swatch" style="background:{colour}"></span>{shown}')


def download(columns: Sequence[Column], rows: Rows, name: str, label: str = "CSV") -> None:
    """A button for the CSV; rows that are given as a function are made when it is pressed."""
    st.download_button(
        label,
        lambda: as_csv(columns, rows() if callable(rows) else rows),
        f"qmoe-{name}.csv",
        "text/csv",
        key=f"csv:{name}",
        on_click="ignore",
        type="tertiary",
        icon=":material/download:",
        help=f"This as a table: qmoe-{name}.csv",
    )


def as_csv(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """All rows with full precision; cells that a spreadsheet would run as a formula are defused."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([defused(column.key) for column in columns])
    for row in rows:
        writer.writerow(["" if row.get(c.key) is None else defused(row.get(c.key)) for c in columns])
    return out.getvalue()


def legend(items: Sequence[tuple[str, str]]) -> None:
    """Names with the line they are drawn with: (name, CSS border)."""
    drawn = "".join(
        f'<span><i style="border-top:{escape(line)}"></i>{escape(name)}</span>' for name, line in items
    )
    st.html(f'<p class="qm-legend">{drawn}</p>')


def _cell(column: Column, value: Any) -> str:
    if value is None:
        return "–"
    shown = column.form(value) if column.form else str(value)
    return shown if isinstance(shown, Html) else escape(shown)


def _right(column: Column) -> str:
    return ' class="qm-number"' if column.number else ""
