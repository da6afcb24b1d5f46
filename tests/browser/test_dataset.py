"""The Dataset page as a person uses it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

Browse = Callable[..., Page]

LAPTOP = {"viewport": {"width": 1366, "height": 768}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def drawer(page: Page):
    return page.get_by_role("dialog")


def test_browsing_with_the_keyboard(dashboard: str, browse: Browse) -> None:
    """The confidently wrong ones first: open a card, go on to the next, close it."""
    page = browse(f"{dashboard}/dataset", **LAPTOP)
    page.get_by_role("radio", name="confidently wrong").click()
    expect(page).to_have_url(re.compile("order=wrong"))
    card = page.get_by_role("button", name=re.compile(r", called \w.*, (over )?99 %")).first
    expect(card).to_be_visible()
    # A key that is pressed while the cards are being replaced would go nowhere.
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    truth = (card.text_content() or "").split("called")[0].strip()
    card.focus()
    page.keyboard.press("Enter")
    expect(drawer(page).get_by_role("heading", name=truth)).to_be_visible()
    expect(drawer(page).get_by_text(re.compile(r"^1 of \d+$"))).to_be_visible()
    expect(page).to_have_url(re.compile("clip="))
    drawer(page).get_by_role("button", name="Next").click()
    expect(drawer(page).get_by_text(re.compile(r"^2 of \d+$"))).to_be_visible()
    page.keyboard.press("Escape")
    expect(drawer(page)).to_have_count(0)
    expect(page).not_to_have_url(re.compile("clip="))
    expect(page).to_have_url(re.compile("order=wrong"))


def test_a_point_of_the_map_is_heard(dashboard: str, browse: Browse, shared_data: Path) -> None:
    page = browse(f"{dashboard}/dataset?map=pca", **LAPTOP)
    points = page.locator(".js-plotly-plot .scatterlayer .point")
    expect(points).to_have_count(400)
    points.first.click(force=True)
    audio = drawer(page).locator("audio")
    expect(audio).to_be_visible()
    page.wait_for_function("element => element.currentTime > 0", arg=audio.element_handle())
    drawer(page).get_by_role("link", name="Compare formats on it").click()
    expect(page.get_by_role("heading", name="Predictions for one clip")).to_be_visible()


def test_a_link_opens_the_clip(dashboard: str, browse: Browse) -> None:
    """On a phone too, where the page and the clip's drawer scroll only down."""
    page = browse(f"{dashboard}/dataset?clip=1-47250-A-41.ogg", **PHONE)
    expect(drawer(page).get_by_role("heading", name="Chainsaw")).to_be_visible()
    for box in (page.get_by_test_id("stMain"), drawer(page)):
        width, shown = box.evaluate("({scrollWidth, clientWidth}) => [scrollWidth, clientWidth]")
        assert width <= shown
    drawer(page).get_by_role("button", name="Show all clips of this recording").click()
    expect(drawer(page)).to_have_count(0)
    expect(page.get_by_text("1–2 of 2")).to_be_visible()
