"""The Claims page as a person uses it: find a claim, see how it was tested, test it again."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from qmoe_core.paper import claims
from qmoe_core.paper.claims import CLAIMS
from tests.browser.conftest import Lab

pytestmark = pytest.mark.browser

Browse = Callable[..., Page]

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def test_finding_a_claim_and_testing_it_again(lab: Lab, browse: Browse) -> None:
    list(claims.run([claim.id for claim in CLAIMS if claim.cost != "experiment"], lab.store))
    page = browse(f"{lab.address}/claims?theme=statistics", **PHONE)
    expect(page.locator("article.qm-claim")).to_have_count(
        sum(claim.theme == "statistics" for claim in CLAIMS)
    )
    page.get_by_label("Search").fill("28")
    page.keyboard.press("Enter")
    expect(page.locator("article.qm-claim")).to_have_count(1)
    expect(page).to_have_url(re.compile("search=28"))
    expect(page.locator(".qm-claim .qm-badge")).to_contain_text("does not hold")
    page.get_by_text("How it was tested").click()
    expect(page.locator(".js-plotly-plot")).to_be_visible()
    before = claims.latest(lab.store)[28].at
    page.get_by_role("button", name="Run this check again").click()
    expect(page.get_by_role("button", name="Jobs: one running")).to_be_visible()
    expect(page.get_by_role("button", name="Jobs: one running")).to_have_count(0)
    expect(page.get_by_role("button", name="Run this check again")).to_be_enabled()
    assert claims.latest(lab.store)[28].at > before
    width, seen = page.get_by_test_id("stMain").evaluate("e => [e.scrollWidth, e.clientWidth]")
    assert width <= seen
