"""The menu: from every page to every other, in both directions; what was set on one is there on the next."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.server import cookie

pytestmark = pytest.mark.browser

Browse = Callable[..., Page]

ANDROID = (
    "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 "
    "Mobile Safari/537.36"
)
"""Streamlit tells phones by what the browser says it is."""
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "is_mobile": True,
    "has_touch": True,
    "user_agent": ANDROID,
}

PAGES = {
    "Listen": "A sound, judged by every quantized expert",
    "Live": "The microphone, judged live",
    "Compare": "Formats and mixtures, side by side",
    "Dataset": "The clips behind the figures",
    "Your sounds": "Your own sounds",
    "Train": "Train experts and mixtures",
    "Sweep": "What curiosity changes",
    "Formats": "Which format to ship",
    "Efficiency": "What it costs on this machine",
    "Claims": "The paper’s claims, tested",
    "Method": "From a sound to a decision",
}
"""Each page's name in the menu and its title."""
WITH_ALPHA = ("Listen", "Live", "Sweep")


def walk(names: Iterable[str]) -> list[str]:
    """A closed walk from the first name that takes every ordered pair once (Hierholzer).

    >>> walk(("a", "b", "c"))
    ['a', 'b', 'a', 'c', 'b', 'c', 'a']
    """
    names = list(names)
    left = {name: [other for other in names if other != name] for name in names}
    stack, found = [names[0]], []
    while stack:
        if left[stack[-1]]:
            stack.append(left[stack[-1]].pop(0))
        else:
            found.append(stack.pop())
    return found[::-1]


def test_every_ordered_pair_is_walked_once() -> None:
    pairs = list(zip(walk(PAGES), walk(PAGES)[1:], strict=False))
    assert sorted(pairs) == sorted((one, other) for one in PAGES for other in PAGES if one != other)


def entered(page: Page, title: str) -> None:
    """The page of this title has begun to be drawn."""
    address = title.lower().removeprefix("your ")
    expect(page).to_have_url(re.compile(r":\d+/(\?.*)?$" if title == "Listen" else f"/{address}"))
    expect(page.locator("[data-testid=stMain] h1")).to_have_text(PAGES[title])


def settled(page: Page, title: str) -> None:
    """The page of this title is drawn, without an exception or an error."""
    entered(page, title)
    page.wait_for_function(
        """() => document.querySelector("[data-testid=stApp][data-test-script-state=notRunning]")
            && !document.querySelector('[data-stale="true"]')"""
    )
    assert not page.locator("[data-testid=stException]").count(), page.inner_text("[data-testid=stMain]")
    wrong = page.locator("[data-testid=stAlertContentError], [data-testid=stAlertContentWarning]")
    assert not wrong.count(), (title, wrong.all_inner_texts())


def test_values_survive_every_change_of_page(dashboard: str, browse: Browse) -> None:
    """Pages without what is looked at are left while they are being drawn, as people in a hurry do."""
    page = browse(f"{dashboard}/?alpha=50&k=2&normalise=1", viewport={"width": 1440, "height": 900})
    settled(page, "Listen")
    here, *rest = walk(PAGES)
    page.get_by_role("link", name="Live", exact=True).click()
    settled(page, "Live")
    threshold = page.get_by_role("slider", name="Probability of at least")
    threshold.focus()
    page.keyboard.press("Home")
    expect(threshold).to_have_value("0")
    page.get_by_role("link", name=here, exact=True).click()
    entered(page, here)
    for title in rest:
        page.get_by_role("link", name=title, exact=True).first.click()
        entered(page, title)
        if title in WITH_ALPHA:
            expect(
                page.get_by_test_id("stSliderThumbValue").filter(has_text=re.compile("^50$"))
            ).to_be_visible()
            expect(page.get_by_role("spinbutton").first).to_have_value("2")
            expect(page).to_have_url(re.compile("alpha=50"))
        if title == "Live":
            expect(threshold).to_have_value("0")
        if title == "Method":
            expect(page.get_by_text("bonus, α = 50")).to_be_visible()


def test_deep_links_ask_for_nothing_that_is_missing(dashboard: str, browse: Browse) -> None:
    refused, complaints = [], []
    page = browse("about:blank", viewport={"width": 1440, "height": 900})
    page.on("response", lambda answer: refused.append(answer.url) if answer.status >= 400 else None)
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.goto(f"{dashboard}/method?alpha=50")
    settled(page, "Method")
    expect(page.get_by_text("bonus, α = 50")).to_be_visible()
    page.goto(f"{dashboard}/listen?alpha=50")
    settled(page, "Listen")
    expect(page).to_have_url(f"{dashboard}/?alpha=50")
    expect(page.get_by_text("Page not found")).to_have_count(0)
    assert not refused
    assert not complaints


def test_a_page_under_another_name_says_what_to_do(dashboard: str, browse: Browse) -> None:
    """A proxy that does not pass the Host on: the page comes, and its WebSocket is refused."""
    page = browse(f"{dashboard}/_stcore/health")

    def proxied(route: Route) -> None:
        path = urlsplit(route.request.url).path
        known = "{name}={value}".format_map(cookie(dashboard))
        headers = {"Accept": route.request.headers.get("accept", "*/*"), "Cookie": known}
        route.fulfill(response=page.context.request.get(f"{dashboard}{path}", headers=headers))

    page.route("http://lab.example.org/**", proxied)
    page.goto("http://lab.example.org/sweep")
    expect(page.get_by_text("This page was opened as lab.example.org")).to_be_visible()
    expect(page.get_by_text("qmoe app --host lab.example.org, or --address")).to_be_visible()


def test_the_phones_menu_closes_over_the_page_that_was_chosen(dashboard: str, browse: Browse) -> None:
    page = browse(f"{dashboard}/method", **PHONE)
    settled(page, "Method")
    page.get_by_test_id("stExpandSidebarButton").click()
    menu = page.get_by_test_id("stSidebar")
    expect(menu).to_have_attribute("data-collapsed", "false")
    menu.get_by_role("link", name="Train", exact=True).click()
    entered(page, "Train")
    expect(menu).to_have_attribute("data-collapsed", "true")
