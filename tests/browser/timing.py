"""How long pages take to open and sliders to redraw, in headless Chromium: `python -m tests.browser.timing`.

It serves the default bundle, with benchmarks already there, and prints a table: one session, then several at
once, each in a browser window of its own on this same machine. It asserts nothing: the figures are of the
machine they are taken on and of what else it does, so the load is printed with them, and the processor time
that an opening or a move takes in the server and in Chromium, which a busy machine changes less.

- A page is open when its heading is there, the script has ended and every figure is drawn. It is opened
  from the menu.
- A move lasts from the key press to the last change of the document that it causes.
- Several sessions move once in `--pace` seconds each, and open a page in ten times that, out of step; with
  `--pace 0` all act in the same instant, and their browsers share these processors.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil

from qmoe_core import bundles
from qmoe_core.measure import bench
from qmoe_core.runtime import system
from qmoe_core.runtime.store import Store
from tests import reports
from tests.browser.server import cookie, served

PAGES = ("listen", "live", "compare", "dataset", "train", "sweep", "formats", "efficiency", "method")
SLIDERS = {"sweep": "Curiosity α", "formats": "Answer within", "listen": "Curiosity α"}
VIEW: Any = {"width": 1366, "height": 768}
QUIET_MS = 150
"""A move is over when the document has not changed for so long."""
LIMITS_MS = {"open": 1200, "move": 400}
LINE = "{:<18}{:>9}{:>5}{:>11}{:>10}{:>9}{:>12}{:>12}"

_WATCH = """() => {
    window.qm = {pressed: 0, changed: 0};
    addEventListener("keydown", () => { qm.pressed = performance.now(); qm.changed = 0; }, true);
    new MutationObserver(() => { qm.changed = performance.now(); }).observe(
        document.querySelector("[data-testid=stMain]"),
        {subtree: true, childList: true, characterData: true, attributes: true});
}"""
_STILL = f"""() => qm.changed > qm.pressed && performance.now() - qm.changed > {QUIET_MS}
    && document.querySelector("[data-testid=stApp][data-test-script-state=notRunning]") !== null"""
_OPEN = """(old) => {
    const heading = document.querySelector("[data-testid=stMain] h1");
    return document.querySelector("[data-testid=stApp][data-test-script-state=notRunning]") !== null
    && heading !== null && heading.innerText !== old && document.querySelector("[data-stale=true]") === null
    && [...document.querySelectorAll("[data-testid=stPlotlyChart]")].every(e => e.querySelector(".main-svg"))
    && document.querySelector("[data-testid=stSkeleton]") === null; }"""


class Processor:
    """Processor time of the server and of Chromium since it was asked last."""

    def __init__(self) -> None:
        self.last = self._now()

    def _now(self) -> tuple[float, float]:
        server = browser = 0.0
        for process in psutil.Process().children(recursive=True):
            try:
                used = sum(process.cpu_times()[:2])
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if "dashboard.launch" in line:
                server += used
            elif "chrom" in line and "run-driver" not in line:
                browser += used
        return server, browser

    def since(self) -> tuple[float, float]:
        """Milliseconds of (server, Chromium)."""
        before, self.last = self.last, self._now()
        return 1e3 * (self.last[0] - before[0]), 1e3 * (self.last[1] - before[1])


class Figures:
    """Prints the table's lines, and remembers the p95 of one session to compare several with."""

    def __init__(self) -> None:
        self.alone: dict[str, float] = {}
        print(
            LINE.format("", "sessions", "n", "median, ms", "p95, ms", "× alone", "server, ms", "Chromium, ms")
        )

    def add(self, what: str, sessions: int, took: list[float], used: list[tuple[float, float]]) -> None:
        p95 = quantile(took, 0.95)
        times = f"{p95 / self.alone[what]:.1f}" if what in self.alone and sessions > 1 else ""
        if sessions == 1:
            self.alone[what] = p95
        over = "!" if sessions == 1 and p95 > LIMITS_MS.get(what.split()[0], 1e9) else " "
        each = (
            [f"{statistics.mean(ms):,.0f}" for ms in zip(*used, strict=True)] if sessions == 1 else ["", ""]
        )
        median = statistics.median(took)
        print(
            LINE.format(what, sessions, len(took), f"{median:,.0f}", f"{p95:,.0f}{over}", times, *each),
            flush=True,
        )


def quantile(values: list[float], share: float) -> float:
    """The value that `share` of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def opened(page: Any, name: str) -> float:
    """Milliseconds from clicking a page's link in the menu to its being open; 0 when it is."""
    if page.url.partition("?")[0].endswith(f"/{'' if name == 'listen' else name}"):
        return 0.0
    old = await page.locator("[data-testid=stMain] h1").inner_text()
    link = page.locator(f"a:visible[href$='/{'' if name == 'listen' else name}']").first
    started = time.perf_counter()
    await link.click()
    await page.wait_for_function(_OPEN, arg=old)
    return 1e3 * (time.perf_counter() - started)


async def moved(page: Any, number: int) -> float:
    """Milliseconds of one move of the slider that has the focus, by one stop: ten to the right, ten back."""
    await page.keyboard.press("ArrowRight" if (number // 10) % 2 == 0 else "ArrowLeft")
    await page.wait_for_function(_STILL, polling=20)
    return await page.evaluate("() => qm.changed - qm.pressed")


async def together(
    pages: list[Any], times: int, pace: float, act: Callable[[Any, int], Awaitable[list[float]]]
) -> list[float]:
    """All pages act so often, each at its own moment of the pace."""

    async def one(place: int) -> list[float]:
        begun, took = time.perf_counter() + pace * place / len(pages), []
        for i in range(times):
            await asyncio.sleep(max(0.0, begun + pace * i - time.perf_counter()))
            took += await act(pages[place], i)
        return took

    return [ms for took in await asyncio.gather(*map(one, range(len(pages)))) for ms in took]


async def measure(sessions: list[int], n: int, openings: int, pace: float, only: list[str]) -> None:
    """Print the figures."""
    from playwright.async_api import async_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("QMOE_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        bench.keep(reports.latency_report(reports.shape(bundles.load())), store)
        bench.keep(reports.energy_report(), store)
        with served(QMOE_STORE=folder) as address:
            async with async_playwright() as playwright:
                browser = await playwright.chromium.launch(
                    executable_path=found, args=["--no-sandbox", "--disable-gpu"]
                )
                where = system.processor()
                print(f"{where}, {os.cpu_count()} cores, Chromium {browser.version}; ", end="")
                print("load {:.1f} {:.1f} {:.1f}".format(*os.getloadavg()))
                figures = Figures()
                pages: list[Any] = []
                for count in sessions:
                    while len(pages) < count:
                        page = await browser.new_page(viewport=VIEW)
                        await page.context.add_cookies([{**cookie(address), "url": address}])  # type: ignore[list-item]
                        page.set_default_timeout(120_000)
                        await page.goto(f"{address}/method")
                        await page.wait_for_function(_OPEN)
                        pages.append(page)
                    await one_size(figures, pages, n, openings, pace if count > 1 else 0.0, only)
                print("load {:.1f} {:.1f} {:.1f}".format(*os.getloadavg()))
                await browser.close()


BEHIND = {
    "live": "listen",
    "compare": "sweep",
    "efficiency": "formats",
    "train": "sounds",
    "dataset": "sounds",
    "claims": "method",
}
"""Pages that are not the first behind their door, and the first, from which one press leads to them."""


async def one_size(
    figures: Figures, pages: list[Any], n: int, openings: int, pace: float, only: list[str]
) -> None:
    """The figures of one number of sessions."""
    for name in PAGES:
        if only and name not in only:
            continue
        away = BEHIND.get(name, "listen" if name == "method" else "method")
        for page in pages:  # what is computed once is computed now
            await opened(page, away)
            await opened(page, name)
        await openings_of(figures, pages, name, away, openings, 10 * pace)
        if name in SLIDERS:
            await moves_of(figures, pages, name, n, pace)


async def openings_of(
    figures: Figures, pages: list[Any], name: str, away: str, times: int, pace: float
) -> None:
    """Leave a page and open it again, so often."""
    processor, used = Processor(), []

    async def there_and_back(page: Any, _: int) -> list[float]:
        await opened(page, away)
        await page.wait_for_timeout(500)
        processor.since()
        took = await opened(page, name)
        used.append(processor.since())
        return [took]

    took = await together(pages, times, pace, there_and_back)
    figures.add(f"open {name}", len(pages), took, used)


async def moves_of(figures: Figures, pages: list[Any], name: str, times: int, pace: float) -> None:
    """Move a page's slider, so often."""
    for page in pages:
        await page.get_by_role("slider", name=SLIDERS[name]).focus()
        await page.keyboard.press("Home")
        await page.wait_for_timeout(1000)
        await page.evaluate(_WATCH)
    processor = Processor()

    async def move(page: Any, number: int) -> list[float]:
        return [await moved(page, number)]

    took = await together(pages, times, pace, move)
    server, chromium = processor.since()
    figures.add(f"move {name}", len(pages), took, [(server / len(took), chromium / len(took))])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", default="1,10", help="at once, one after another (default: 1,10)")
    parser.add_argument("--moves", type=int, default=30, help="of each slider and session")
    parser.add_argument("--openings", type=int, default=10, help="of each page and session")
    parser.add_argument("--pace", type=float, default=1.0, help="seconds between a session's moves (1)")
    parser.add_argument("pages", nargs="*", help="such as sweep formats (default: all)")
    given = parser.parse_args()
    counts = [int(count) for count in given.sessions.split(",")]
    asyncio.run(measure(counts, given.moves, given.openings, given.pace, given.pages))
