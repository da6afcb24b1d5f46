"""The dashboard in a real browser: a server of its own, and headless Chromium with a fake microphone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from qmoe_core.runtime.store import Store
from tests.browser.server import START_S, cookie, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

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
def visitor(chromium: str) -> Iterator[Callable[..., BrowserContext]]:
    """A browser's context with these options; a module's tests share it, and so what it has downloaded.

    Its microphone, where it has one, is a file.
    """
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=START_S * 1000)
    with sync_playwright() as playwright, ExitStack() as opened:

        @cache
        def browser(microphone: str | None) -> Browser:
            flags = [*FLAGS, *([f"--use-file-for-fake-audio-capture={microphone}"] if microphone else [])]
            made = playwright.chromium.launch(executable_path=chromium, args=flags)
            opened.callback(made.close)
            return made

        @cache
        def context(microphone: str | None, options: str) -> BrowserContext:
            return browser(microphone).new_context(**json.loads(options))

        yield lambda microphone, options: context(microphone, json.dumps(options, sort_keys=True))


@pytest.fixture
def browse(
    visitor: Callable[..., BrowserContext], request: pytest.FixtureRequest
) -> Iterator[Callable[..., Page]]:
    """Open a page: `browse(url, microphone=wav, loop=False, **context options)`; closed at the end.

    The microphone hears the file once, or for ever with `loop`.
    """
    opened = []

    def open_page(url: str, microphone: Path | None = None, *, loop: bool = False, **options: Any) -> Page:
        heard = f"{microphone}{'' if loop else '%noloop'}" if microphone else None
        context = visitor(heard, options)
        lab = url if url.startswith("http") else request.getfixturevalue("dashboard")
        context.add_cookies([{**cookie(lab), "url": lab}])  # type: ignore[list-item]
        page = context.new_page()
        opened.append(page)
        page.set_default_timeout(START_S * 1000)
        page.goto(url)
        return page

    yield open_page
    for page in opened:
        page.close()
