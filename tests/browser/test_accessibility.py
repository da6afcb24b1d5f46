"""WCAG 2.1 AA on every page, in both themes, as axe-core checks it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.browser.test_menu import PAGES, go, settled

pytestmark = pytest.mark.browser

Browse = Callable[..., Page]

RULES = {
    "light": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]},
    "dark": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]},
}
"""By theme: the dark one is the same page in other colours."""


UNFADED = """
*, *::before, *::after { animation: none !important; transition: none !important; }
[data-stale="true"] { opacity: 1 !important; }
"""
"""Streamlit fades what is drawn again, at moments that no test knows; half-faded text has less contrast."""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_meets_wcag_aa(dashboard: str, browse: Browse, theme: str) -> None:
    page = browse(dashboard, viewport={"width": 1440, "height": 900}, color_scheme=theme)
    page.add_style_tag(content=UNFADED)
    found: dict[str, list[str]] = {}
    for title in PAGES:
        if title != "Listen":
            go(page, title)
        settled(page, title)
        for one in (
            Axe()
            .run(page, options={"runOnly": RULES[theme], "resultTypes": ["violations"]})
            .response["violations"]
        ):
            places = [
                json.dumps([node["html"][:120], node["any"][:1] and node["any"][0]["message"]])
                for node in one["nodes"][:4]
            ]
            found[f"{title}: {one['id']} ({len(one['nodes'])})"] = places
    assert not found, json.dumps(found, indent=1, ensure_ascii=False)
