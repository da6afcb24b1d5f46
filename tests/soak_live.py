"""A soak of the Live page, run by hand: `python -m tests.soak_live --minutes 30`. Prints JSON.

Starts a dashboard, and a headless Chromium whose fake microphone plays for ever. Measures what takes sound to
the screen, processor time (of processes, so that what else the machine does matters little), memory, and
what is left when the tabs have been closed. The short form is tests/live/test_soak.py.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile
from playwright.sync_api import sync_playwright

from qmoe_core.audio import decode, synth
from qmoe_core.live.sessions import HIDDEN_S
from tests.browser.conftest import FLAGS
from tests.browser.server import cookie, served
from tests.browser.test_live import RATE, STOPWATCH

SETTLED_S = 60.0
"""After which memory counts: caches are warm by then."""
PATIENCE_MS = 120_000
SAMPLED_S = 20.0


def noises(path: Path) -> None:
    """All sounds of the gallery, one after another."""
    samples = np.concatenate([synth.render(name) for name in synth.GALLERY])
    soundfile.write(path, decode.resample(samples, decode.SAMPLE_RATE, RATE), RATE, subtype="PCM_16")


def processor_s(process: psutil.Process) -> float:
    """Seconds of processor time of a process and all that it started, so far."""
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def soak(minutes: float, pages: int) -> dict[str, Any]:
    """Listen for so long in so many tabs, each a session of its own; see the module."""
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = os.environ.get("QMOE_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder, "noises.wav")
        noises(sound)
        with served(QMOE_STORE=str(Path(folder, "store"))) as address, sync_playwright() as playwright:
            server = next(p for p in psutil.Process().children() if "dashboard.launch" in p.cmdline())
            browser = playwright.chromium.launch(
                executable_path=chromium, args=[*FLAGS, f"--use-file-for-fake-audio-capture={sound}"]
            )
            chrome = next(p for p in psutil.Process().children(recursive=True) if "--headless" in p.cmdline())
            contexts = [browser.new_context() for _ in range(pages)]
            for context in contexts:
                context.add_cookies([{**cookie(address), "url": address}])  # type: ignore[list-item]
            tabs = [context.new_page() for context in contexts]
            for tab in tabs:
                tab.set_default_timeout(PATIENCE_MS)
                tab.add_init_script(STOPWATCH)
                tab.goto(f"{address}/live")
                tab.get_by_role("button", name="Start").wait_for()
            idle_threads = server.num_threads()
            for tab in tabs:
                tab.get_by_role("button", name="Start").click()
            tabs[0].wait_for_timeout(1000 * min(SETTLED_S, 20 * minutes))
            for tab in tabs:
                tab.evaluate("window.lags.length = 0")
            started, sizes = time.monotonic(), [server.memory_info().rss]
            before = processor_s(server), processor_s(chrome)
            while (seconds := time.monotonic() - started) < 60 * minutes:
                tabs[0].wait_for_timeout(1000 * min(SAMPLED_S, max(1.0, 60 * minutes - seconds)))
                sizes.append(server.memory_info().rss)
                print(f"{seconds / 60:.1f} min, {sizes[-1] / 1e6:.1f} MB", file=sys.stderr, flush=True)
            used = processor_s(server) - before[0], processor_s(chrome) - before[1]
            lags = np.concatenate([tab.evaluate("window.lags") for tab in tabs])
            health = tabs[0].get_by_text("windows judged").inner_text()
            failures = sum(tab.get_by_test_id("stException").count() for tab in tabs)
            listening_threads = server.num_threads()
            for tab in tabs:
                tab.context.close()
            # A tab that is closed may say first that it is hidden, and then has more time.
            deadline = time.monotonic() + HIDDEN_S + 60
            while (closed_threads := server.num_threads()) > idle_threads and time.monotonic() < deadline:
                time.sleep(1.0)
            browser.close()
    p50, p95, p99 = np.percentile(lags, (50, 95, 99)).round().tolist()
    return {
        "minutes": round(seconds / 60, 2),
        "pages": pages,
        "cores": os.cpu_count(),
        "updates_per_s": round(len(lags) / seconds / pages, 2),
        "sound_to_screen_ms": {"p50": p50, "p95": p95, "p99": p99, "n": len(lags)},
        "core_share": {"server": round(used[0] / seconds, 3), "browser": round(used[1] / seconds, 3)},
        "server_mb": {
            "start": round(sizes[0] / 1e6, 1),
            "end": round(sizes[-1] / 1e6, 1),
            "most": round(max(sizes) / 1e6, 1),
            "growth": round((sizes[-1] - sizes[0]) / 1e6, 1),
        },
        "threads": {"idle": idle_threads, "listening": listening_threads, "closed": closed_threads},
        "health": health,
        "exceptions": failures,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--pages", type=int, default=1, help="tabs that listen at once")
    options = parser.parse_args()
    print(json.dumps(soak(options.minutes, options.pages), indent=1))
