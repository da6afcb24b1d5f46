"""A picture of every page, entered through the menu: `python -m tests.browser.screens FOLDER`.

Each page in light and dark, on a laptop, a small laptop and a phone: what is seen first, and the whole page.
Nothing is compared: they are to be looked at.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

from qmoe_core import bundles
from qmoe_core.measure import bench
from qmoe_core.runtime.store import Store
from tests import reports
from tests.browser.server import ROOT, START_S, cookie, served
from tests.browser.test_menu import DOORS, PAGES, PHONE, entered, press, settled

VIEWS: dict[str, dict[str, Any]] = {
    "1440": {"viewport": {"width": 1440, "height": 900}},
    "1280": {"viewport": {"width": 1280, "height": 720}},
    "390": PHONE,
}
THEMES = ("light", "dark")
STILL = "*, ::before, ::after { transition: none !important; animation: none !important }"
LONGEST = 12_000
"""Pixels of a page's height, at most."""


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures go, outside the repository")
    parser.add_argument("--views", default=",".join(VIEWS), help="of 1440, 1280, 390 (default: all)")
    parser.add_argument("--themes", default=",".join(THEMES), help="light, dark (default: both)")
    parser.add_argument("--pages", default=",".join(PAGES), help="their names (default: all)")
    parser.add_argument("--measured", action="store_true", help="as if costs had been measured here")
    given = parser.parse_args()
    folder = given.folder.resolve()
    if folder.is_relative_to(ROOT):
        parser.error(f"{folder} is inside the repository; give a folder outside")
    folder.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=START_S * 1000)
    with tempfile.TemporaryDirectory() as store, sync_playwright() as playwright:
        if given.measured:
            bench.keep(reports.latency_report(reports.shape(bundles.load())), Store(Path(store)))
            bench.keep(reports.energy_report(), Store(Path(store)))
        with served(QMOE_STORE=store) as lab:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            for view in given.views.split(","):
                for theme in given.themes.split(","):
                    _walk(browser, lab, view, theme, given.pages.split(","), folder)
            browser.close()


def _walk(browser: Browser, lab: str, view: str, theme: str, titles: list[str], folder: Path) -> None:
    """Every page in one size and theme."""
    context = browser.new_context(**VIEWS[view], color_scheme=theme, reduced_motion="reduce")  # type: ignore[arg-type]
    context.add_cookies([{**cookie(lab), "url": lab}])  # type: ignore[list-item]
    page = context.new_page()
    page.set_default_timeout(START_S * 1000)
    page.goto(lab)
    settled(page, "Listen")
    page.add_style_tag(content=STILL)
    for title in titles:
        if title != "Listen":
            _go(page, title, phone=view == "390")
        settled(page, title)
        _still(page)
        name = f"{title.lower().replace(' ', '-')}-{view}-{theme}"
        page.screenshot(path=folder / f"{name}-first.png")
        high = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
        size = VIEWS[view]["viewport"]
        page.set_viewport_size({"width": size["width"], "height": max(size["height"], min(high, LONGEST))})
        _still(page)
        page.screenshot(path=folder / f"{name}-whole.png")
        page.set_viewport_size(size)
        print(f"{name}: {high} pixels high", flush=True)
    context.close()


def _go(page: Page, title: str, phone: bool) -> None:
    """To a page by what is visible; on a phone the menu is at the side, and has to be opened."""
    door, inside = next((door, inside) for door, inside in DOORS.items() if title in inside)
    if phone:
        page.get_by_test_id("stExpandSidebarButton").click()
        page.get_by_test_id("stSidebar").get_by_role("link", name=door, exact=True).click()
    else:
        press(page, inside[0])
    entered(page, inside[0])
    if title != inside[0]:
        page.get_by_test_id("stMain").get_by_role("link", name=title, exact=True).first.click()


def _still(page: Page) -> None:
    """Wait until every chart is drawn and the fonts are there."""
    page.wait_for_function(
        """() => [...document.querySelectorAll("[data-testid=stPlotlyChart]")].every(
            (chart) => chart.querySelector(".main-svg")) && document.fonts.status === "loaded" """
    )
    page.wait_for_timeout(500)


if __name__ == "__main__":
    main()
