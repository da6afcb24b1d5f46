"""The Compare page as a person uses it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

Browse = Callable[..., Page]

LAPTOP = {"viewport": {"width": 1366, "height": 768}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def test_comparing_formats(dashboard: str, browse: Browse) -> None:
    """Choose formats, look at their errors, and go on to the clips that are confused."""
    page = browse(f"{dashboard}/compare", **LAPTOP)
    expect(page.get_by_role("table").first).to_contain_text("bitnet+q4+q8, α = 0.3")
    page.get_by_role("button", name="ptq8", exact=True).click()
    expect(page.get_by_role("table").first).to_contain_text("ptq8")
    expect(page).to_have_url(re.compile("show=.*ptq8"))
    expect(page.locator(".js-plotly-plot")).to_have_count(6)
    page.get_by_role("link", name=re.compile("Helicopter called rain")).click()
    expect(page.get_by_role("heading", name="The clips behind the figures")).to_be_visible()
    expect(page).to_have_url(re.compile("class=helicopter&called=rain"))
    expect(page.get_by_role("combobox", name="Class")).to_have_value("helicopter")
    expect(page.get_by_text(re.compile(r"^1–\d of \d$"))).to_be_visible()


def test_abstaining_with_the_keyboard(dashboard: str, browse: Browse) -> None:
    """A mixture of one's own, and how many clips it had better leave unanswered."""
    page = browse(f"{dashboard}/compare?view=abstaining&answer=100", **LAPTOP)
    expect(page.get_by_text("Leaving 0 of 400 clips unanswered")).to_be_visible()
    # The charts below are drawn after that text; a key that is pressed meanwhile may meet a slider that goes.
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    slider = page.get_by_role("slider", name="Answer the most certain")
    slider.focus()
    expect(slider).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_text("Leaving 4 of 400 clips unanswered")).to_be_visible()
    expect(page).to_have_url(re.compile("answer=99"))
    page.get_by_role("button", name="Another mixture").click()
    page.get_by_role("button", name="Compare it").click()
    expect(page.get_by_role("table").first).to_contain_text("fp32+q1, α = 0.3")
    expect(page).to_have_url(re.compile("show=.*fp32%2Bq1%400.3"))


def test_runs_can_be_brushed(dashboard: str, browse: Browse) -> None:
    page = browse(f"{dashboard}/compare?view=runs", **LAPTOP)
    expect(page.locator(".parcoords .axis-title").first).to_have_text("format")
    plot = page.locator(".js-plotly-plot").last
    plot.scroll_into_view_if_needed()
    axis = plot.locator(".axis-brush").last.bounding_box()
    assert axis
    x = axis["x"] + axis["width"] / 2
    page.mouse.move(x, axis["y"] + 5)
    page.mouse.down()
    page.mouse.move(x, axis["y"] + axis["height"] / 2, steps=8)
    page.mouse.up()
    kept = "element => element.data[0].dimensions.at(-1).constraintrange"
    page.wait_for_function(f"element => ({kept})(element)?.length === 2", arg=plot.element_handle())
    low, high = plot.evaluate(kept)
    assert 0.8 < low < high < 1.0


def test_a_phone_scrolls_only_down(dashboard: str, browse: Browse) -> None:
    page = browse(f"{dashboard}/compare?show=q4", accept_downloads=True, color_scheme="dark", **PHONE)
    for view in ("Agreement", "Calibration", "Abstaining", "All runs", "Errors"):
        page.get_by_role("radio", name=view, exact=True).click()
        # The link is written while the view is drawn: before that, the server may not have begun.
        link = re.compile(rf"view={view.removeprefix('All ').lower()}|show=q4$")
        expect(page).to_have_url(link)
        expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
        width, shown = page.get_by_test_id("stMain").evaluate("e => [e.scrollWidth, e.clientWidth]")
        assert width <= shown, view
    with page.expect_download() as started:
        page.get_by_role("button", name="CSV").first.click()
    (row,) = csv.DictReader(io.StringIO(Path(started.value.path()).read_text(encoding="utf-8")))
    assert row["name"] == "q4"
    assert 0.85 < float(row["f1"]) < 1.0
