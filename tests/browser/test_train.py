"""The Train page as a person uses it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Page, expect

from qmoe_core import bundles
from qmoe_core.runtime import jobs
from tests.browser.conftest import Lab
from tests.browser.test_menu import go, settled

pytestmark = pytest.mark.browser

Browse = Callable[..., Page]

LAPTOP = {"viewport": {"width": 1366, "height": 768}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.fixture(autouse=True)
def _no_job_outlives_its_test(lab: Lab) -> Iterator[None]:
    yield
    for job in jobs.list_jobs(lab.store):
        jobs.cancel(job.id, lab.store)


def link(dataset: Path, settings: tuple[str, ...], **more: str) -> str:
    said = {"data": str(dataset), "set": ";".join(settings), "experts": "q1", "mix": "", **more}
    return f"/train?{urlencode(said)}"


def test_training_survives_a_reload_and_a_closed_tab(
    lab: Lab, browse: Browse, tiny_dataset: Path, tiny_settings: tuple[str, ...]
) -> None:
    """Start it, close the page, and find it in another session; which stops it, and could go on."""
    endless = (*tiny_settings, "expert.epochs=1000000", "expert.patience=1000000")
    page = browse(lab.address + link(tiny_dataset, endless), **PHONE)
    expect(page.get_by_text("5 of 5 folds will be trained.")).to_be_visible()
    width, shown = page.get_by_test_id("stMain").evaluate("e => [e.scrollWidth, e.clientWidth]")
    assert width <= shown
    settled(page, "Train")
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.get_by_role("heading", name="Train q1 on tiny")).to_be_visible()
    expect(page).to_have_url(re.compile("job="))
    page.reload()
    expect(page.get_by_role("heading", name="Train q1 on tiny")).to_be_visible()
    page.close()
    again = browse(f"{lab.address}/train", **LAPTOP)
    expect(again.get_by_role("heading", name="Train q1 on tiny")).to_be_visible()
    expect(again.get_by_text(re.compile("goes on when this page is closed"))).to_be_visible()
    expect(again.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    again.get_by_role("button", name="Stop").click()
    expect(again.get_by_text(re.compile("^Stopped after"))).to_be_visible()
    expect(again.get_by_role("button", name="Resume")).to_be_visible()


def test_another_bundle_on_every_page(lab: Lab, browse: Browse) -> None:
    """A bundle beside the one that ships is offered, and goes with the person and the link."""
    own = lab.store.root / "bundles" / "own"
    shutil.copytree(bundles.find(), own)
    try:
        page = browse(f"{lab.address}/formats", **LAPTOP)
        page.get_by_role("combobox", name="Bundle", exact=True).click()
        page.get_by_role("option", name="own", exact=True).click()
        expect(page).to_have_url(re.compile("bundle=own"))
        for name in ("Compare", "Dataset", "Sweep", "Efficiency"):
            go(page, name)
            expect(page).to_have_url(re.compile(f"/{name.lower()}\\?.*bundle=own"))
            expect(page.get_by_role("combobox", name="Bundle", exact=True)).to_have_value("own")
    finally:
        shutil.rmtree(own)
