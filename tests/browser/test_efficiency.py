"""The Efficiency page as a person uses it: measure, watch, stop, and read off what to deploy."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from qmoe_core import bundles
from qmoe_core.evaluation.scenarios import SCENARIOS
from qmoe_core.measure import bench
from qmoe_core.runtime import jobs
from tests import reports
from tests.browser.conftest import Lab

pytestmark = pytest.mark.browser

Browse = Callable[..., Page]

LAPTOP = {"viewport": {"width": 1366, "height": 768}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.fixture(autouse=True)
def _measured(lab: Lab) -> Iterator[None]:
    """Energy was measured on this machine, and latency was not."""
    bench.keep(reports.energy_report(), lab.store)
    yield
    for job in jobs.list_jobs(lab.store):
        jobs.cancel(job.id, lab.store)
    reports.forget(lab.store)


def headline(page: Page):
    return page.locator(".qm-verdict h2")


def test_a_benchmark_runs_beside_the_page_and_can_be_stopped(lab: Lab, browse: Browse) -> None:
    page = browse(f"{lab.address}/efficiency?view=latency", **LAPTOP)
    page.get_by_role("button", name="Quick").click()
    tray = page.get_by_role("button", name="Jobs: one running")
    expect(tray).to_be_visible()
    page.reload()  # the job does not mind
    page.get_by_role("radio", name="What to deploy").click()  # nor is the rest of the page in its way
    expect(page.get_by_text("All scenarios")).to_be_visible()
    page.get_by_role("radio", name="Latency", exact=True).click()
    tray.click()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Quick")).to_be_visible()
    assert jobs.list_jobs(lab.store)[0].state == "cancelled"
    assert bench.last("latency", lab.store) is None


def test_choosing_a_scenario(lab: Lab, browse: Browse) -> None:
    page = browse(f"{lab.address}/efficiency", accept_downloads=True, **LAPTOP)
    expect(headline(page)).to_have_text("Not measured yet")
    bench.keep(reports.latency_report(reports.shape(bundles.load())), lab.store)
    page.reload()
    expect(headline(page)).to_have_text("popcount")
    page.get_by_role("radio", name="Energy-constrained").click()
    expect(headline(page)).to_have_text("popcount")
    expect(page).to_have_url(re.compile("scenario=energy"))
    with page.expect_download() as started:
        page.get_by_role("button", name="Scenarios").click()
    with Path(started.value.path()).open(encoding="utf-8", newline="") as file:
        chosen = [row["id"] for row in csv.DictReader(file)]
    assert chosen == [scenario.id for scenario in SCENARIOS]


def test_a_phone_scrolls_only_down(lab: Lab, browse: Browse) -> None:
    bench.keep(reports.latency_report(reports.shape(bundles.load())), lab.store)
    page = browse(f"{lab.address}/efficiency", color_scheme="dark", **PHONE)
    shown = {
        "Latency": "Variance of the times",
        "Energy and CO₂": "Full colour: processor",
        "Memory and size": "Size on disk",
        "Emissions": "A year of serving",
        "What to deploy": "All scenarios",
    }
    for view, said in shown.items():
        page.get_by_role("radio", name=view, exact=True).click()
        expect(page.get_by_text(said).first).to_be_visible()
        width, there = page.get_by_test_id("stMain").evaluate("e => [e.scrollWidth, e.clientWidth]")
        assert width <= there, view
