"""The Sweep page as a person uses it."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

Browse = Callable[..., Page]

PLOTS = 10
LAPTOP = {"viewport": {"width": 1366, "height": 768}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def headline(page: Page):
    return page.locator(".qm-verdict h2")


def test_moving_alpha(dashboard: str, browse: Browse) -> None:
    """The keyboard moves α: sentence, numbers, marks and clips follow, the figures are not drawn again."""
    page = browse(f"{dashboard}/sweep?alpha=0", **LAPTOP)
    expect(headline(page)).to_have_text("At α = 0, the plain router answers")
    expect(page.locator(".js-plotly-plot")).to_have_count(PLOTS)
    expect(page.get_by_text("None at this α")).to_be_visible()
    figures = page.locator(".js-plotly-plot").evaluate_all("all => all.map(one => one.qmSeen = true)")
    assert len(figures) == PLOTS
    slider = page.get_by_role("slider", name="Curiosity α")
    slider.focus()
    page.keyboard.press("End")
    expect(headline(page)).to_have_text(re.compile(r"α = 1000 sends \d+ of 400 clips elsewhere"))
    expect(page).to_have_url(re.compile("alpha=1000"))
    expect(page.get_by_role("region", name="Clips whose route or label changes")).to_be_visible()
    kept = page.locator(".js-plotly-plot").evaluate_all("all => all.filter(one => one.qmSeen).length")
    assert kept == PLOTS
    mark = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--qm-alpha')")
    assert float(mark) == pytest.approx(0.9747, abs=1e-3)


def test_a_flip_opens_with_the_same_mixture(dashboard: str, browse: Browse) -> None:
    """Sweep other experts, save what moved, hear one of the clips."""
    page = browse(f"{dashboard}/sweep?alpha=500", accept_downloads=True, **LAPTOP)
    expect(headline(page)).to_have_text(re.compile("α = 500 sends"))
    before = headline(page).inner_text()
    page.get_by_role("button", name="popcount").click()
    expect(headline(page)).not_to_have_text(before)
    expect(page).to_have_url(re.compile("experts=q4%2Cq8%2Cbitnet%2Cpopcount"))
    moved = int(re.findall(r"\d+", headline(page).inner_text())[1])
    with page.expect_download() as started:
        page.get_by_role("button", name="Clips that change").click()
    with Path(started.value.path()).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == moved
    page.get_by_role("region", name="Clips whose route or label changes").get_by_role("link").first.click()
    expect(page).to_have_url(re.compile(rf"/dataset\?.*clip={rows[0]['clip']}"))
    expect(page).to_have_url(re.compile(r"by=q4%2Bq8%2Bbitnet%2Bpopcount%40500"))
    expect(page.get_by_role("dialog").get_by_text(rows[0]["clip"]).first).to_be_visible()


def test_a_phone_scrolls_only_down(dashboard: str, browse: Browse) -> None:
    page = browse(f"{dashboard}/sweep?alpha=1000", color_scheme="dark", **PHONE)
    expect(page.locator(".js-plotly-plot")).to_have_count(PLOTS)
    expect(page.get_by_role("region", name="Clips whose route or label changes")).to_be_visible()
    width, shown = page.get_by_test_id("stMain").evaluate("e => [e.scrollWidth, e.clientWidth]")
    assert width <= shown
