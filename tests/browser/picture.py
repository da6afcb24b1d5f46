"""The README's moving picture of the first screen, docs/listen.webp: `python -m tests.browser.picture`.

It opens the default bundle in headless Chromium and moves α from 0 up to where the answer turns.
"""

from __future__ import annotations

import io
import shutil
import tempfile

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.browser.server import ROOT, cookie, served
from tests.browser.test_menu import settled

OUT = ROOT / "docs" / "listen.webp"
VIEW = {"width": 1280, "height": 960}
STILL_MS, LAST_MS = 900, 3000
STOPS = 14
"""At most so many stops of the slider."""


def main() -> None:
    """Take the pictures, and write the file."""
    frames: list[Image.Image] = []
    with (
        tempfile.TemporaryDirectory() as store,
        served(QMOE_STORE=store) as lab,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        context = browser.new_context(viewport=VIEW, reduced_motion="reduce")  # type: ignore[arg-type]
        context.add_cookies([{**cookie(lab), "url": lab}])  # type: ignore[list-item]
        page = context.new_page()
        page.goto(f"{lab}/?alpha=0&abstain=never")
        slider = page.get_by_role("slider", name="Curiosity α")
        slider.wait_for()
        page.add_style_tag(content="*, ::before { transition: none !important; animation: none !important }")
        first = _taken(page, frames)
        slider.focus()
        for _ in range(STOPS):
            page.keyboard.press("ArrowRight")
            if _taken(page, frames) != first:
                break
        browser.close()
    durations = [STILL_MS] * (len(frames) - 1) + [LAST_MS]
    frames[0].save(
        OUT, save_all=True, append_images=frames[1:], duration=durations, loop=0, quality=70, method=6
    )
    print(f"{OUT.relative_to(ROOT)}: {len(frames)} pictures, {OUT.stat().st_size:,} bytes")


def _taken(page: Page, frames: list[Image.Image]) -> str:
    """Add a picture of the page once it is drawn; gives the answer that it shows."""
    page.wait_for_timeout(400)  # until the server has begun to draw it again
    settled(page, "Listen")
    frames.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
    return page.locator(".qm-verdict h2").first.inner_text()


if __name__ == "__main__":
    main()
