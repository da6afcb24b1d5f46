"""Tables with colours, links and greyed-out rows, as HTML that may be drawn again without its buttons.

They are tables of `dashboard.views.tables` with a look of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import streamlit as st

from dashboard.charts import palette
from dashboard.views import tables
from dashboard.views.tables import Column, Html
from dashboard.views.widgets import plain
from qmoe_core.experts.spec import EXPERTS

_STYLE = Path(__file__).with_name("ledger.css")

Row = Mapping[str, Any]


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
        columns, rows, title: see `tables.html`.
        tall: of so many rows that the box is as high as a screen at most, and scrolls down too.
    """
    return tables.html(columns, rows, title, kind=f"qm-ledger{' qm-tall' * tall}")


def empty(text: str) -> None:
    """What stands where there is nothing to show yet."""
    st.html(f'<p class="qm-empty">{escape(text)}</p>')


def meanings(columns: Sequence[Column]) -> None:
    """Each column that has one, with its sentence and equation (Markdown, LaTeX included)."""
    with st.popover("What the figures mean", type="tertiary", icon=":material/help:"):
        st.markdown("\n".join(f"- **{plain(c.title)}**: {c.meaning}" for c in columns if c.meaning))


def download(label: str, columns: Sequence[Column], rows: Callable[[], Sequence[Row]], name: str) -> None:
    """A button for a CSV whose rows are made when it is pressed."""
    tables.download(columns, rows, name, label)
