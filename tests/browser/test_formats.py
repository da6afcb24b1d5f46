"""The Formats page as a person uses it: the cheapest format that is good and fast enough."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from qmoe_core import bundles
from qmoe_core.evaluation.formats import formats
from qmoe_core.measure import bench
from tests import reports
from tests.browser.conftest import Lab
from tests.browser.test_menu import go

pytestmark = pytest.mark.browser

Browse = Callable[..., Page]

LAPTOP = {"viewport": {"width": 1366, "height": 768}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.fixture
def measured(lab: Lab) -> Iterator[str]:
    """The dashboard on a machine where latency and energy were measured."""
    bench.keep(reports.latency_report(reports.shape(bundles.load())), lab.store)
    bench.keep(reports.energy_report(), lab.store)
    yield lab.address
    reports.forget(lab.store)


def headline(page: Page):
    return page.locator(".st-key-choice .qm-verdict h2")


def test_a_first_time_user_finds_the_cheapest_format(measured: str, browse: Browse) -> None:
    """Two pages: the first one, and Formats. Keep 99 % of the 16-bit F1, answer within 50 µs."""
    page = browse(measured, accept_downloads=True, **LAPTOP)
    go(page, "Formats")
    expect(page.get_by_role("slider", name="Keep at least, of the 16-bit F1")).to_be_visible()
    expect(page.get_by_text("99 %", exact=True).first).to_be_visible()
    slider = page.get_by_role("slider", name="Answer within")
    slider.focus()
    page.keyboard.press("Home")
    expect(headline(page)).to_have_text("Nothing fits")
    for stop in (3, 5, 7, 10, 15, 20, 30, 50):
        page.keyboard.press("ArrowRight")
        expect(page).to_have_url(re.compile(f"within={stop}"))
    quick = [one for one in formats(bundles.load()) if reports.MEDIANS_US.get(one.name, 99) < 45]
    fit = [one for one in quick if one.share_of_16bit and one.share_of_16bit >= 0.99]
    best = min(fit, key=lambda one: one.bytes)
    expect(headline(page)).to_have_text(best.name)
    said = f"The smallest of {len(fit)} that fit: F1 {best.f1:.3f}"
    expect(page.locator(".st-key-choice .qm-verdict p")).to_contain_text(said)
    greyed = page.locator(".st-key-choice tr.qm-dim th")
    expect(greyed.filter(has_text="bitnet+q4+q8 curious")).to_have_count(1)
    with page.expect_download() as started:
        page.get_by_role("button", name="Formats").click()
    with Path(started.value.path()).open(encoding="utf-8", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert {name for name, row in rows.items() if row["fits"] == "yes"} == {one.name for one in fit}
    assert float(rows["q16"]["share_of_16bit"]) == 1.0


def test_a_phone_scrolls_only_down(measured: str, browse: Browse) -> None:
    page = browse(f"{measured}/formats", color_scheme="dark", **PHONE)
    expect(page.locator(".js-plotly-plot").nth(4)).to_be_attached()
    width, shown = page.get_by_test_id("stMain").evaluate("e => [e.scrollWidth, e.clientWidth]")
    assert width <= shown
