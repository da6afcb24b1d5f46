"""The Listen page as a person uses it."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from dashboard.session import hearing
from qmoe_core import bundles, serve
from qmoe_core.audio import decode
from qmoe_core.datasets import open_dataset
from tests.browser.test_menu import go

pytestmark = pytest.mark.browser

Browse = Callable[..., Page]

LAPTOP = {"viewport": {"width": 1366, "height": 768}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


STOPWATCH = """() => {
    addEventListener("click", () => { window.stopped ??= performance.now() }, true);
    new MutationObserver(() => {
        if (!document.querySelector(".qm-verdict")) return;
        requestAnimationFrame(() => requestAnimationFrame(() => { window.answered ??= performance.now() }));
    }).observe(document.body, { childList: true, subtree: true });
}"""
"""Times, in the browser, the next click to the paint of a verdict: asking from outside waits for charts."""


def headline(page: Page):
    return page.locator(".qm-verdict h2")


def test_the_first_page_is_usable_at_once(dashboard: str, browse: Browse) -> None:
    foreign = []
    page = browse("about:blank", **LAPTOP)
    page.on("request", lambda request: foreign.append(request.url) if dashboard not in request.url else None)
    started = time.perf_counter()
    page.goto(dashboard)
    expect(headline(page)).to_have_text(re.compile(r"Rain, .*\s%|No answer"))
    print(f"\nfirst page usable {time.perf_counter() - started:.2f} s after it was asked for")
    expect(page.locator(".js-plotly-plot")).to_have_count(5)
    expect(page.get_by_test_id("stAudio")).to_be_visible()
    assert not [
        url for url in foreign if not url.startswith(("data:", "blob:"))
    ]  # nothing leaves the machine


def test_the_gallery(dashboard: str, browse: Browse) -> None:
    page = browse(dashboard, **LAPTOP)
    page.get_by_role("radio", name="Rain").click()
    expect(headline(page)).to_have_text(re.compile(r"Rain, .*\s%|No answer"))
    expect(page).to_have_url(re.compile("sound=rain"))


def test_what_is_recorded_is_judged(
    dashboard: str, browse: Browse, shared_data: Path, tmp_path: Path
) -> None:
    """A fake microphone plays a real clip that the bundle knows, and the verdict is the right one."""
    clip, label = _well_known_clip(shared_data)
    microphone = tmp_path / "microphone.wav"
    microphone.write_bytes(hearing.as_wav(clip.samples))
    page = browse(f"{dashboard}/?sound=dog-bark", microphone, **LAPTOP)
    expect(headline(page)).to_be_visible()
    page.get_by_role("tab", name="Record").click()
    expect(headline(page)).to_have_count(0)
    page.get_by_role("button", name="Record", exact=True).click()
    recorder = page.get_by_role("group", name="Microphone")
    expect(recorder).to_contain_text(re.compile(r"[1-9]\.\d / 60 s"))
    page.get_by_role("tab", name="Gallery").click()  # the page is drawn anew, and recording goes on
    expect(headline(page)).to_have_text(re.compile("Dog"))
    page.get_by_role("tab", name="Record").click()
    expect(recorder).to_contain_text(re.compile(r"(5\.[3-9]|[6-9]\.\d|\d\d\.\d) / 60 s"))
    page.evaluate(STOPWATCH)
    page.get_by_role("button", name="Stop").click()
    expect(headline(page)).to_be_visible()
    waited = page.evaluate("window.answered - window.stopped") / 1000
    print(f"\nverdict {waited:.2f} s after the recording's end")
    expect(headline(page)).to_have_text(re.compile(label.replace("_", " "), re.IGNORECASE))
    said = page.get_by_text("recorded here").inner_text()
    assert 5.2 <= float(re.search(r"recorded here: ([\d.]+) s", said)[1]) < 60
    expect(page.get_by_text(re.compile("Hz, mono, no filters"))).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="The recording").click()
    kept = decode.load(Path(download.value.path()), name=download.value.suggested_filename)
    assert serve.classify(kept, bundles.load()).whole.label == label


def test_where_sound_cannot_be_given_unfiltered(dashboard: str, browse: Browse) -> None:
    page = browse("about:blank", **LAPTOP)
    page.add_init_script("delete window.AudioWorkletNode;")
    page.goto(dashboard)
    page.get_by_role("tab", name="Record").click()
    expect(page.get_by_test_id("stAudioInput")).to_be_visible()
    expect(page.get_by_text("it filters for speech")).to_be_visible()


def _well_known_clip(shared_data: Path) -> tuple[decode.Clip, str]:
    """A recording with sound from start to end, of which the bundle is sure."""
    manifest = open_dataset(shared_data / "esc10")
    default = bundles.load()
    for wanted in ("crying_baby", "chainsaw", "rooster", "dog"):
        for entry in [e for e in manifest.entries if manifest.classes[e.label] == wanted][:4]:
            clip = decode.load(entry.path)
            result = serve.classify(clip, default).whole
            if result.label == wanted and len(result.agreeing) == len(result.experts):
                return clip, wanted
    raise AssertionError("the default bundle knows none of the clips tried")


def test_the_link_restores_the_controls(dashboard: str, browse: Browse) -> None:
    page = browse(f"{dashboard}/?sound=fire&experts=fp32,popcount&alpha=1000&k=2&abstain=risk", **LAPTOP)
    expect(page.get_by_role("slider", name="Curiosity α")).to_have_value("17")
    expect(page.get_by_text("top k of 2")).to_be_visible()
    expect(page.get_by_role("slider", name="Errors among the answers, at most")).to_be_visible()
    expect(headline(page)).to_be_visible()
    assert "alpha=1000" in page.url


def test_moving_a_control_moves_the_routing_and_the_link(dashboard: str, browse: Browse) -> None:
    page = browse(f"{dashboard}/?sound=fire&experts=fp32,popcount&alpha=0", **LAPTOP)
    expect(page.get_by_text("At α = 0 curiosity is off")).to_be_visible()
    slider = page.get_by_role("slider", name="Curiosity α")
    expect(slider).to_be_visible()
    slider.focus()
    page.keyboard.press("End")  # reachable without a mouse
    expect(page).to_have_url(re.compile("alpha=1000"))
    expect(page.get_by_text("Curiosity changed")).to_be_visible()


def test_nonsense_in_the_link(dashboard: str, browse: Browse) -> None:
    page = browse(f"{dashboard}/?alpha=banana&experts=,,,&k=-3", **LAPTOP)
    expect(page.get_by_role("alert")).to_have_count(3)
    expect(headline(page)).to_be_visible()


def test_downloads(dashboard: str, browse: Browse) -> None:
    page = browse(f"{dashboard}/?sound=dog-bark", accept_downloads=True, **LAPTOP)
    with page.expect_download() as started:
        page.get_by_role("button", name="JSON").click()
    (result,) = json.loads(Path(started.value.path()).read_text(encoding="utf-8"))
    assert result["prediction"]["label"] == "dog"
    with page.expect_download() as started:
        page.get_by_role("button", name="CSV").click()
    table = list(csv.DictReader(io.StringIO(Path(started.value.path()).read_text(encoding="utf-8"))))
    assert table[0]["label"] == "dog"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_only_down(dashboard: str, browse: Browse, scheme: str) -> None:
    page = browse(f"{dashboard}/method", color_scheme=scheme, **PHONE)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    width, shown = page.evaluate(
        "(({scrollWidth, clientWidth}) => [scrollWidth, clientWidth])"
        "(document.querySelector('[data-testid=stMain]'))"
    )
    assert width <= shown
    page_colour = page.get_by_test_id("stApp").evaluate("e => getComputedStyle(e).backgroundColor")
    assert page_colour == {"light": "rgb(252, 251, 248)", "dark": "rgb(21, 24, 27)"}[scheme]


def test_charts_follow_a_change_of_theme(dashboard: str, browse: Browse) -> None:
    page = browse(dashboard, color_scheme="light", **LAPTOP)
    label = page.locator(".js-plotly-plot .ytick text").last
    expect(label).to_have_css("fill", "rgb(30, 35, 40)")
    page.emulate_media(color_scheme="dark")
    expect(label).to_have_css("fill", "rgb(230, 227, 220)")
    expect(headline(page)).to_have_css("color", "rgb(230, 227, 220)")


def test_method_explains_what_was_heard(dashboard: str, browse: Browse) -> None:
    page = browse(f"{dashboard}/?sound=rooster&alpha=50", **LAPTOP)
    expect(headline(page)).to_be_visible()
    go(page, "Method")
    expect(page.get_by_text("bonus, α = 50")).to_be_visible()
    expect(page.get_by_text(re.compile("The numbers are those of Rooster"))).to_be_visible()
    page.locator("a.qm-step", has_text="Curiosity").click()  # in Figure 1
    expect(page.get_by_role("heading", name="Eq. 8: Curiosity")).to_be_in_viewport()
    page.get_by_text("qmoe_core.routing.curiosity.curious_routing").click()
    expect(page.get_by_text("def curious_routing").first).to_be_visible()
    go(page, "Listen")
    expect(page).to_have_url(re.compile("alpha=50"))  # nothing was lost on the way
