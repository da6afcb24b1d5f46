"""The dashboard in a real browser: a server of its own, and headless Chromium with a fake microphone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from qmoe_core.runtime.store import Store
from tests.browser.server import START_S, cookie, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
]


class Lab(NamedTuple):
    """A running dashboard's address, and where its runs, jobs and bundles are."""

    address: str
    store: Store


@pytest.fixture(scope="session")
def chromium() -> str:
    """Chromium's path; without one, browser tests are skipped, loudly, and fail in CI."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("QMOE_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if not found:
        message = f"no Chromium (QMOE_CHROMIUM, {', '.join(names)}): browser tests are skipped"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One dashboard for all tests, on a machine of its own as far as runs, jobs and bundles go."""
    store = Store(tmp_path_factory.mktemp("lab") / "store")
    with served(QMOE_STORE=str(store.root)) as address:
        yield Lab(address, store)


@pytest.fixture(scope="session")
def dashboard(lab: Lab) -> str:
    """A running dashboard's address."""
    return lab.address


@pytest.fixture(scope="module")
def launch(chromium: str) -> Iterator[Callable[..., Browser]]:
    """Start a browser; the one without a microphone's file is shared by a module's tests."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=START_S * 1000)
    with sync_playwright() as playwright:

        @cache
        def usual() -> Browser:
            return playwright.chromium.launch(executable_path=chromium, args=FLAGS)

        def launched(microphone: str | None) -> Browser:
            if microphone is None:
                return usual()
            flags = [*FLAGS, f"--use-file-for-fake-audio-capture={microphone}"]
            return playwright.chromium.launch(executable_path=chromium, args=flags)

        yield launched
        if usual.cache_info().currsize:
            usual().close()


@pytest.fixture
def browse(launch: Callable[..., Browser], request: pytest.FixtureRequest) -> Iterator[Callable[..., Page]]:
    """Open a page: `browse(url, microphone=wav, loop=False, **context options)`; closed at the end.

    The microphone hears the file once, or for ever with `loop`.
    """
    opened = []

    def open_page(url: str, microphone: Path | None = None, *, loop: bool = False, **options: Any) -> Page:
        browser = launch(f"{microphone}{'' if loop else '%noloop'}" if microphone else None)
        context = browser.new_context(**options)
        opened.append(browser if microphone else context)
        lab = url if url.startswith("http") else request.getfixturevalue("dashboard")
        context.add_cookies([{**cookie(lab), "url": lab}])  # type: ignore[list-item]
        page = context.new_page()
        page.set_default_timeout(START_S * 1000)
        page.goto(url)
        return page

    yield open_page
    for one in opened:
        one.close()
