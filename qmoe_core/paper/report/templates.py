"""The report's templates (Jinja2): the page, its Markdown, and figures as SVG. Names in them are only text.

What goes into HTML and SVG is escaped by Jinja2 itself; what goes into Markdown by `plain_markdown`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

FOLDER = Path(__file__).parent


def plain_markdown(text: object) -> str:
    """Text that Markdown, and the HTML in it, leaves as it is; what is marked as `safe` is not changed.

    >>> plain_markdown("a|b *c*")
    'a\\\\|b \\\\*c\\\\*'
    """
    if isinstance(text, Markup):
        return text
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>|#" else sign for sign in str(text))


@cache
def _environment(kind: str) -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=kind != "md",
        finalize=plain_markdown if kind == "md" else None,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["fixed"] = lambda value, digits=1: f"{value:.{digits}f}"
    return made


def render(name: str, **values: Any) -> str:
    """Fill a template of this folder, such as `report.html.j2`."""
    kind = name.removesuffix(".j2").rpartition(".")[2]
    return _environment(kind).get_template(name).render(**values)
