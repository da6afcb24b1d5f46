"""Tables with colours, links and greyed-out rows, as HTML that may be drawn again without its buttons.

They look as those of `dashboard.views.tables`, whose columns they take. What comes from outside (clip and
class names) is escaped, unless a column's form says that it is HTML already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import streamlit as st

from dashboard.charts import palette
from dashboard.views import tables
from dashboard.views.tables import Column
from dashboard.views.widgets import plain
from qmoe_core.experts.spec import EXPERTS

_STYLE = Path(__file__).with_name("ledger.css")

Row = Mapping[str, Any]


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def style() -> None:
    """The rules for what this module draws, and for the tables that it resembles."""
    tables.style()
    st.html(f"<style>{_STYLE.read_text(encoding='utf-8')}</style>")


def expert(name: str) -> Html:
    """An expert's (or mixture's) name beside its colour; pointing at an expert tells its format.

    >>> expert("<b>")
    '<span class="qm-swatch" style="background:#808080"></span>&lt;b&gt;'
    """
    colour, shown = palette.expert_colour(name), escape(name)
    if name in EXPERTS:
        told = f"{EXPERTS[name].title}: {EXPERTS[name].summary}"
        shown = f'<span title="{escape(told)}">{shown}</span>'
    return Html(f'<span class="qm-swatch" style="background:{colour}"></span>{shown}')


def html(columns: Sequence[Column], rows: Sequence[Row], title: str, *, tall: bool = False) -> str:
    """A table in a box that scrolls sideways where it has to.

    Args:
        rows: a row with a true `dim` is greyed out, one with a true `mark` stands out.
        title: what it is a table of, for those who do not see it.
        tall: of so many rows that the box is as high as a screen at most, and scrolls down too.
    """
    heads = "".join(f'<th scope="col"{_right(column)}>{escape(column.title)}</th>' for column in columns)
    lines = []
    for row in rows:
        kind = " ".join(f"qm-{name}" for name in ("dim", "mark") if row.get(name))
        first, *others = (_cell(column, row.get(column.key)) for column in columns)
        cells = "".join(
            f"<td{_right(column)}>{cell}</td>" for column, cell in zip(columns[1:], others, strict=True)
        )
        lines.append(f'<tr class="{kind}"><th scope="row">{first}</th>{cells}</tr>')
    return (
        f'<div class="qm-table qm-ledger{" qm-tall" * tall}" tabindex="0" role="region" '
        f'aria-label="{escape(title)}"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _right(column: Column) -> str:
    return ' class="qm-number"' if column.number else ""


def _cell(column: Column, value: Any) -> str:
    if value is None:
        return "–"
    shown = column.form(value) if column.form else str(value)
    return shown if isinstance(shown, Html) else escape(shown)


def empty(text: str) -> None:
    """What stands where there is nothing to show yet."""
    st.html(f'<p class="qm-empty">{escape(text)}</p>')


def meanings(columns: Sequence[Column]) -> None:
    """Each column that has one, with its sentence and equation (Markdown, LaTeX included)."""
    with st.popover("What the figures mean", type="tertiary", icon=":material/help:"):
        st.markdown("\n".join(f"- **{plain(c.title)}**: {c.meaning}" for c in columns if c.meaning))


def download(label: str, columns: Sequence[Column], rows: Callable[[], Sequence[Row]], name: str) -> None:
    """A button for a CSV whose rows are made when it is pressed."""
    st.download_button(
        label,
        lambda: tables.as_csv(columns, rows()),
        f"qmoe-{name}.csv",
        "text/csv",
        key=f"csv:{name}",
        on_click="ignore",
        type="tertiary",
        icon=":material/download:",
    )
