"""What people come for, from the first page on, by what is visible.

An engineer with a budget is in test_formats; recordings from a phone are in test_listen.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Lab
from tests.browser.test_menu import go
from tests.datasets.test_takes import some
from tests.pages.test_sounds import archive

pytestmark = pytest.mark.browser

Browse = Callable[..., Page]
LAPTOP = {"viewport": {"width": 1440, "height": 900}}


def test_a_lecturer_turns_the_verdict_and_passes_the_link_on(dashboard: str, browse: Browse) -> None:
    page = browse(dashboard, permissions=["clipboard-read", "clipboard-write"], **LAPTOP)
    expect(page.locator(".qm-tile").first).to_be_visible()
    expect(page.get_by_text(re.compile("At α = 30 the answer is helicopter"))).to_be_visible()
    page.get_by_role("combobox", name="Curiosity α").click()
    page.get_by_role("option", name="α = 30", exact=True).click()
    expect(page.get_by_text(re.compile("The best guess is helicopter|^Helicopter, ")).first).to_be_visible()
    expect(page).to_have_url(re.compile("alpha=30"))
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_text("This address works only on the machine that runs the lab")).to_be_visible()
    other = browse(page.evaluate("navigator.clipboard.readText()"), **LAPTOP)
    expect(other.get_by_text(re.compile("The best guess is helicopter|^Helicopter, ")).first).to_be_visible()


def test_a_reader_of_the_paper_finds_what_does_not_hold(dashboard: str, browse: Browse) -> None:
    page = browse(dashboard, **LAPTOP)
    go(page, "Claims")
    expect(page.locator("article.qm-claim").first).to_be_visible()
    page.get_by_role("button", name="Words").click()
    expect(page.get_by_text(re.compile("KL\\(q‖q̄\\): how far"))).to_be_visible()


def test_takes_from_the_microphone_and_an_archive(lab: Lab, browse: Browse, tmp_path: Path) -> None:
    """Up to the training, which tests/pages/test_sounds.py goes on from."""
    given = tmp_path / "field.zip"
    given.write_bytes(archive(**{f"{one.label}__{Path(one.name).stem}": one.data for one in some("ab", 5)}))
    page = browse(lab.address, **LAPTOP)
    go(page, "Your sounds")
    page.get_by_role("combobox", name="Class of what comes next").fill("a")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Record", exact=True).click()
    expect(page.get_by_role("group", name="Microphone")).to_contain_text(re.compile("Recording in [123] …"))
    expect(page.get_by_role("radio", name="a · 1")).to_be_visible()
    page.get_by_role("tab", name="Files").click()
    page.get_by_test_id("stFileUploaderDropzoneInput").set_input_files(given)
    expect(page.get_by_role("radio", name="a · 6")).to_be_visible()
    expect(page.get_by_role("radio", name="b · 5")).to_be_visible()
    expect(page.get_by_role("button", name="Train all formats")).to_be_enabled()
    shutil.rmtree(lab.store.root / "datasets" / "takes")
