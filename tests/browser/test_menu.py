"""The menu: from every page to every other, in both directions; what was set on one is there on the next."""

from __future__ import annotations

import re
from collections.abc import Callable
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
    "Listen": "Who is right, and do they know?",
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
"""Each page's name and its title."""
DOORS = {
    "Listen": ("Listen", "Live"),
    "Curiosity": ("Sweep", "Compare"),
    "Formats": ("Formats", "Efficiency"),
    "Your sounds": ("Your sounds", "Train", "Dataset"),
    "The paper": ("Method", "Claims"),
}
"""The menu, and the pages behind each door, of which the first opens."""
WITH_ALPHA = ("Listen", "Live", "Sweep")


def links(title: str) -> list[str]:
    """The pages that one press leads to: the first behind each door, and all behind the same."""
    inside = next(pages for pages in DOORS.values() if title in pages)
    return [other for other in dict.fromkeys([*(d[0] for d in DOORS.values()), *inside]) if other != title]


def press(page: Page, title: str) -> None:
    """Press a page's link in the menu or, where it is not the first behind its door, the one in the bar."""
    name = next((door for door, inside in DOORS.items() if inside[0] == title), title)
    page.get_by_role("link", name=name, exact=True).first.click()


def go(page: Page, title: str) -> None:
    """From any page to this one, by what is visible."""
    first = next(inside[0] for inside in DOORS.values() if title in inside)
    press(page, first)
    if title != first:
        entered(page, first)
        press(page, title)


def walk() -> list[str]:
    """A walk from the first page in which every link of every page is pressed; where a page has none left,
    it goes the shortest way to one that has.

    >>> walk()[:4]
    ['Listen', 'Sweep', 'Listen', 'Formats']
    """
    left = {title: links(title) for title in PAGES}
    found = ["Listen"]
    while any(left.values()):
        ways = [[found[-1]]]
        while not left[ways[0][-1]]:
            ways += [[*ways[0], other] for other in links(ways[0][-1])]
            del ways[0]
        found += ways[0][1:]
        found.append(left[found[-1]].pop(0))
    return found


def test_every_link_of_every_page_is_walked() -> None:
    taken = set(zip(walk(), walk()[1:], strict=False))
    assert taken == {(one, other) for one in PAGES for other in links(one)}
    assert len(walk()) < 100


def entered(page: Page, title: str) -> None:
    """The page of this title has begun to be drawn."""
    address = title.lower().removeprefix("your ")
    expect(page).to_have_url(re.compile(r":\d+/(\?.*)?$" if title == "Listen" else f"/{address}"))
    expect(page.locator("[data-testid=stMain] h1")).to_have_text(PAGES[title])


def settled(page: Page, title: str) -> None:
    """The page of this title is drawn, in the lab's style, without an exception or an error."""
    entered(page, title)
    page.wait_for_function(
        """() => document.querySelector("[data-testid=stApp][data-test-script-state=notRunning]")
            && !document.querySelector('[data-stale="true"], [data-testid=stSkeleton]')
            && getComputedStyle(document.documentElement).getPropertyValue("--qm-muted")"""
    )
    assert not page.locator("[data-testid=stException]").count(), page.inner_text("[data-testid=stMain]")
    wrong = page.locator("[data-testid=stAlertContentError], [data-testid=stAlertContentWarning]")
    assert not wrong.count(), (title, wrong.all_inner_texts())


def test_values_survive_every_change_of_page(dashboard: str, browse: Browse) -> None:
    """Pages without what is looked at are left while they are being drawn, as people in a hurry do."""
    page = browse(f"{dashboard}/?alpha=50&k=2&normalise=1", viewport={"width": 1440, "height": 900})
    settled(page, "Listen")
    here, *rest = walk()
    press(page, "Live")
    settled(page, "Live")
    threshold = page.get_by_role("slider", name="Probability of at least")
    threshold.focus()
    page.keyboard.press("Home")
    expect(threshold).to_have_value("0")
    press(page, here)
    entered(page, here)
    for title in rest:
        press(page, title)
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
    menu.get_by_role("link", name="Your sounds", exact=True).click()
    entered(page, "Your sounds")
    expect(menu).to_have_attribute("data-collapsed", "true")
