"""Many at once on Listen, the α sweep and Live: no error, quick answers, flat memory, no thread left behind.

    python -m tests.campaigns sessions --sessions 20 --minutes 10

A session speaks Streamlit's protocol over a WebSocket of its own, as the script in a browser does: twenty
browsers would take more of the machine than the server that is to be measured. A third of them uploads a new
sound every few seconds and waits for the sentence about it, a third moves α and waits for the curves, and a
third listens, four packets a second. Times are from the first byte of a question to the last of its answer.
Beside them one Chromium has the same three pages open, and its times are to what is on the screen.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import html
import http.client
import http.cookies
import io
import itertools
import json
import os
import re
import shutil
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import soundfile
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.Common_pb2 import FileURLs
from streamlit.proto.Delta_pb2 import Delta
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from dashboard.views import words
from qmoe_core import bundles, serve
from qmoe_core.audio import decode, synth
from qmoe_core.evaluation import conformal
from qmoe_core.live.log import SOUNDS_BYTES
from qmoe_core.live.sessions import MAX_RUNNING
from tests.browser.server import cookie, served

LIMIT_MS = 1000.0
"""Of the 95th percentile of a classification."""
GROWTH_MB = 40.0
"""Memory may be larger by so much in the end than after warming up, beside what the logs of Live may hold."""
WARM_S = 60.0
PATIENCE_S = 120.0
PACKET_S, CHUNK = 0.25, decode.SAMPLE_RATE // 8
CLASSIFYING, SWEEPING, LISTENING = "upload → sentence", "α moved → curves", "packet → picture"
CHOOSING, HEARING = "Chromium: sound chosen → drawn", "Chromium: sound heard → on the screen"


class Failed(Exception):
    """A page showed an error, or a connection was lost."""


@dataclass
class Widget:
    """An element of a page that can be used."""

    id: str
    fragment: str
    options: list[str]


@dataclass
class Client:
    """One session: what is on its page, and its connection."""

    socket: ClientConnection
    address: str
    session: str = ""
    page: str = ""
    pages: dict[str, str] = field(default_factory=dict)
    widgets: dict[str, Widget] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    """HTML and sentences of the newest answer."""
    timers: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Fragments that the browser draws again by itself: seconds, and when next."""
    values: dict[str, WidgetState] = field(default_factory=dict)
    token: str = ""
    query: str = ""
    source: str = ""
    """The address that it comes from, where that is not the usual one."""

    async def visit(self, name: str) -> None:
        """Go to a page, by the name in its address."""
        if not self.pages:
            await self.run()
        self.page = self.pages[name]
        self.widgets.clear()
        self.timers.clear()
        await self.run()

    async def run(
        self, fragment: str = "", *, trigger: WidgetState | None = None, auto: bool = False
    ) -> None:
        """Have the page, or a fragment of it, drawn again.

        Raises:
            Failed: it shows an exception, or nothing comes for two minutes.
        """
        asked = BackMsg()
        state = asked.rerun_script
        state.page_script_hash, state.fragment_id, state.is_auto_rerun = self.page, fragment, auto
        state.query_string = self.query
        state.widget_states.widgets.extend(self.values.values())
        if trigger is not None:
            state.widget_states.widgets.append(trigger)
        await self.socket.send(asked.SerializeToString())
        self.texts.clear()
        finished, began = ForwardMsg.ScriptFinishedStatus, False
        while True:
            answer = await self._next()
            kind = answer.WhichOneof("type")
            if kind == "delta":
                self._take(answer.delta)
            elif kind == "new_session":
                began = True  # what comes before is the end of another run
                self.texts.clear()
                self.session = answer.new_session.initialize.session_id
            elif kind == "navigation":
                self.pages = {p.url_pathname: p.page_script_hash for p in answer.navigation.app_pages}
            elif kind == "auto_rerun":
                every = answer.auto_rerun.interval
                self.timers[answer.auto_rerun.fragment_id] = (every, time.monotonic() + every)
            elif kind == "script_finished" and began:
                if answer.script_finished == finished.FINISHED_WITH_COMPILE_ERROR:
                    raise Failed("the page did not compile")
                if answer.script_finished != finished.FINISHED_EARLY_FOR_RERUN:
                    return

    async def _next(self) -> ForwardMsg:
        answer = ForwardMsg()
        async with asyncio.timeout(PATIENCE_S):
            answer.ParseFromString(await self.socket.recv(decode=False))
        return answer

    def _take(self, delta: Delta) -> None:
        if delta.WhichOneof("type") == "add_block":
            self._keep(delta.add_block.tab_container.id, delta.fragment_id, [])
            return
        element = delta.new_element
        kind = element.WhichOneof("type")
        if kind is None:
            return
        found = getattr(element, kind)
        if kind == "exception":
            raise Failed(f"{found.type}: {found.message}")
        if kind == "alert" and found.format == found.ERROR:
            raise Failed(found.body)
        if kind == "html":
            self.texts.append(found.body)
        options = [str(option) for option in found.options] if kind == "slider" else []
        self._keep(getattr(found, "id", ""), delta.fragment_id, options, getattr(found, "label", ""))

    def _keep(self, name: str, fragment: str, options: list[str], label: str = "") -> None:
        if name.startswith("$$ID-"):
            key = name.split("-", 2)[2]
            self.widgets[label if key == "None" else key] = Widget(name, fragment, options)

    def set(self, key: str, **value: Any) -> None:
        """Set a widget, for the next and all later runs."""
        name = self.widgets[key].id
        self.values[name] = WidgetState(id=name, **value)

    async def use(self, key: str, **value: Any) -> None:
        """Set a widget, and have drawn again what depends on it."""
        self.set(key, **value)
        await self.run(self.widgets[key].fragment)

    async def tell(self, key: str, event: str, value: Mapping[str, Any]) -> None:
        """What a component of ours does to tell of an event."""
        widget = self.widgets[key]
        told = json.dumps([{"event": event, "value": value}])
        name = f"$$STREAMLIT_INTERNAL_KEY_{widget.id}__events"
        await self.run(widget.fragment, trigger=WidgetState(id=name, json_trigger_value=told))

    async def tick(self) -> None:
        """Draw what the browser draws by itself, as far as it is due."""
        for fragment, (every, due) in list(self.timers.items()):
            if time.monotonic() >= due:
                self.timers[fragment] = (every, time.monotonic() + every)
                await self.run(fragment, auto=True)

    async def upload(self, name: str, content: bytes) -> FileURLs:
        """Send a file, as the uploader does."""
        asked = BackMsg()
        asked.file_urls_request.request_id = name
        asked.file_urls_request.session_id = self.session
        asked.file_urls_request.file_names.append(name)
        await self.socket.send(asked.SerializeToString())
        while (answer := await self._next()).WhichOneof("type") != "file_urls_response":
            pass
        (urls,) = answer.file_urls_response.file_urls
        border = "qmoe-campaign"
        head = f'--{border}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        body = f"{head}Content-Type: audio/wav\r\n\r\n".encode() + content + f"\r\n--{border}--\r\n".encode()
        kind = {"Content-Type": f"multipart/form-data; boundary={border}"}
        await asyncio.to_thread(self._http, "PUT", urls.upload_url, body, kind)
        return urls

    async def remove(self, urls: FileURLs) -> None:
        """Take a file out of the server's memory, as the uploader does."""
        await asyncio.to_thread(self._http, "DELETE", urls.delete_url)

    def _http(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = {}) -> None:
        """A request with the token by which the server knows that it comes from one of its own pages."""
        source = (self.source, 0) if self.source else None
        where = urlsplit(self.address).netloc
        connection = http.client.HTTPConnection(where, timeout=PATIENCE_S, source_address=source)
        with contextlib.closing(connection):
            if not self.token:
                connection.request("GET", "/_stcore/health")
                answer = connection.getresponse()
                answer.read()
                self.token = http.cookies.SimpleCookie(answer.headers["Set-Cookie"])["_streamlit_xsrf"].value
            known = {"X-Xsrftoken": self.token, "Origin": self.address}
            known["Cookie"] = f"_streamlit_xsrf={self.token}; {owner(self.address)}"
            connection.request(method, path, body, {**headers, **known})
            answer = connection.getresponse()
            answer.read()
            if answer.status >= 300:
                raise Failed(f"{method} of a file: {answer.status}")


def owner(address: str) -> str:
    """The cookie by which a lab knows its owner."""
    return "{name}={value}".format_map(cookie(address))


Took = dict[str, list[float]]
"""Milliseconds by what was asked."""
Going = Callable[[], bool]


async def classify(client: Client, number: int, pace_s: float, going: Going, took: Took) -> None:
    """Upload sounds that nobody has uploaded before, and wait for the sentence about each."""
    await client.visit("")
    client.set("source", string_value="Upload")
    await client.run()
    rng = np.random.default_rng(number)
    before: FileURLs | None = None
    for name in itertools.cycle(synth.GALLERY):
        if took[CLASSIFYING] and not going():
            break
        samples = synth.render(name)
        file = io.BytesIO()
        noise = 1e-3 * rng.standard_normal(len(samples))
        soundfile.write(file, samples + noise, decode.SAMPLE_RATE, format="WAV", subtype="PCM_16")
        wav = file.getvalue()
        started = time.perf_counter()
        urls = await client.upload(f"{name}.wav", wav)
        info = {"name": f"{name}.wav", "size": len(wav), "file_id": urls.file_id, "file_urls": urls}
        await client.use("files", file_uploader_state_value={"uploaded_file_info": [info]})
        took[CLASSIFYING].append(1e3 * (time.perf_counter() - started))
        # Not a verdict, but the one that the command line gives of these very bytes; in doubt it is withheld.
        said = next((t for t in client.texts if t.startswith('<section class="qm-verdict')), "")
        loaded = bundles.load()
        expected = serve.classify(decode.load(wav, name=f"{name}.wav"), loaded, loaded.settings()).whole
        limits = conformal.limits(loaded, loaded.settings(), conformal.Promise())
        verdict = words.verdict(expected, limits=limits)
        wanted = [verdict.headline, *([words.readable(expected.label)] if verdict.refused else [])]
        if not all(html.escape(text) in said for text in wanted):
            raise Failed(
                f"{name} is {expected.label} ({verdict.headline}), and the page says: {said or 'nothing'}"
            )
        if before is not None:
            await client.remove(before)
        before = urls
        await _rest(started, pace_s, going)


async def sweep(client: Client, number: int, pace_s: float, going: Going, took: Took) -> None:
    """Move α to and fro."""
    await client.visit("sweep")
    for stop in itertools.count(number):
        if took[SWEEPING] and not going():
            break
        options = client.widgets["alpha"].options
        started = time.perf_counter()
        await client.use("alpha", string_array_value={"data": [options[stop % len(options)]]})
        took[SWEEPING].append(1e3 * (time.perf_counter() - started))
        await _rest(started, pace_s, going)


async def listen(client: Client, number: int, pace_s: float, going: Going, took: Took) -> None:
    """A microphone that hears the gallery for ever, one packet under way at a time."""
    samples = np.concatenate([synth.render(name) for name in synth.GALLERY])
    whole = np.rint(np.clip(samples[: len(samples) // CHUNK * CHUNK], -1, 1) * 32767).astype("<i2")
    pcm = [base64.b64encode(part.tobytes()).decode() for part in whole.reshape(-1, CHUNK)]
    await client.visit("live")
    begun, begun_at, sent = time.monotonic(), time.time(), 0

    async def packet(count: int, state: str) -> None:
        chunks = [
            {
                "sequence": i,
                "frame": i * CHUNK,
                "captured": begun_at + (i + 1) * PACKET_S / 2,
                "pcm": pcm[(i + number) % len(pcm)],
            }
            for i in range(sent, sent + count)
        ]
        about = {"rate": decode.SAMPLE_RATE, "sent": time.time(), "state": state}
        await client.tell(
            "live_microphone", "packet", {"packet": sent, "stream": f"s{number}", "chunks": chunks, **about}
        )

    while going() or not took[LISTENING]:
        due = int((time.monotonic() - begun) / PACKET_S * 2)
        if due > sent:
            started = time.perf_counter()
            await packet(due - sent, "listening")
            took[LISTENING].append(1e3 * (time.perf_counter() - started))
            sent = due
            judged = re.search(r'data-windows="(\d+)"', " ".join(client.texts))
            if judged is None or (sent * PACKET_S / 2 > 2 * decode.WINDOW_S and judged[1] == "0"):
                raise Failed("nothing of what was heard was judged")
        await client.tick()
        await asyncio.sleep(max(0.0, PACKET_S - (time.monotonic() - begun) % PACKET_S))
    await packet(0, "idle")  # Stop was pressed


async def _rest(started: float, pace_s: float, going: Going) -> None:
    while going() and time.perf_counter() - started < pace_s:
        await asyncio.sleep(min(0.2, pace_s))


ACTIVITIES = (classify, sweep, listen)


async def look(address: str, pace_s: float, going: Going, took: Took, failures: list[str]) -> None:
    """A Chromium with the three pages open, used at the same pace."""
    from playwright.async_api import Error, async_playwright, expect

    from tests.browser.conftest import FLAGS
    from tests.browser.test_live import STOPWATCH

    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("QMOE_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    expect.set_options(timeout=1000 * PATIENCE_S)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=found, args=FLAGS)
        try:
            pages = []
            for name in ("", "sweep", "live"):
                context = await browser.new_context()
                await context.add_cookies([{**cookie(address), "url": address}])  # type: ignore[list-item]
                page = await context.new_page()
                page.set_default_timeout(1000 * PATIENCE_S)
                page.on("crash", lambda _, name=name: failures.append(f"Chromium: /{name} crashed"))
                await page.goto(f"{address}/{name}")
                pages.append(page)
            chooser, sweeper, listener = pages
            await listener.evaluate(STOPWATCH)
            await listener.get_by_role("button", name="Start").click()
            slider = sweeper.get_by_role("slider", name="Curiosity α")
            for number in itertools.count():
                if not going():
                    break
                started = time.perf_counter()
                title = synth.GALLERY[list(synth.GALLERY)[(number + 1) % len(synth.GALLERY)]].title
                await chooser.get_by_role("radio", name=title, exact=True).click()
                await expect(chooser.get_by_text(f"{title}, synthesised by this project")).to_be_visible()
                took[CHOOSING].append(1e3 * (time.perf_counter() - started))
                await slider.press("ArrowRight" if number // 10 % 2 == 0 else "ArrowLeft")
                await _rest(started, pace_s, going)
            took[HEARING] += await listener.evaluate("window.lags")
            for page in pages:
                shown = await page.get_by_test_id("stException").all_inner_texts()
                failures.extend(f"Chromium: {page.url}: {text}" for text in shown)
                if await page.get_by_text("Connection error").count():
                    failures.append(f"Chromium: {page.url}: the connection was lost")
            await listener.get_by_role("button", name="Stop").click()
        except (Error, AssertionError) as error:
            failures.append(f"Chromium: {error}")
        finally:
            await browser.close()


async def _together(
    address: str, numbers: list[int], pace_s: float, going: Going, took: Took, failures: list[str]
) -> list[Client]:
    """Sessions that do what their number says, at once; gives those that are still connected."""
    clients = []

    async def one(number: int, act: Callable[..., Awaitable[None]]) -> None:
        try:
            where = address.replace("http", "ws", 1) + "/_stcore/stream"
            socket = await connect(
                where,
                subprotocols=["streamlit"],  # type: ignore[list-item]
                max_size=None,
                origin=address,  # type: ignore[arg-type]
                additional_headers={"Cookie": owner(address)},
            )
            client = Client(socket, address)
            clients.append(client)
            await asyncio.sleep(pace_s * (number % 10) / 10)  # out of step, as people are
            await act(client, number, pace_s, going, took)
        except (Failed, ConnectionClosed, OSError, TimeoutError) as error:
            failures.append(f"session {number}, {act.__name__}: {type(error).__name__}: {error}")

    await asyncio.gather(*(one(number, ACTIVITIES[number % 3]) for number in numbers))
    return clients


@dataclass
class Outcome:
    """What came of it; memory in MB."""

    sessions: int
    seconds: float
    took: Took
    failures: list[str]
    memory: list[float]
    threads: dict[str, int]
    cores: float

    @property
    def growth(self) -> float:
        """Of the server's memory, between the first and the last sixth of its samples, medians."""
        part = max(1, len(self.memory) // 6)
        return float(np.median(self.memory[-part:]) - np.median(self.memory[:part]))

    @property
    def allowed(self) -> float:
        """How much it may grow: every session's log has room for sounds."""
        return GROWTH_MB + listening(self.sessions) * SOUNDS_BYTES / 1e6


async def _threads(address: str, server: psutil.Process) -> int:
    """How many threads the server has.

    It lets go of those that read files, after ten seconds without work, when it next reads one.
    """

    def read() -> None:
        asked = urllib.request.Request(address, headers={"Cookie": owner(address)})
        urllib.request.urlopen(asked, timeout=PATIENCE_S).close()

    await asyncio.to_thread(read)
    return server.num_threads()


async def _campaign(
    address: str, server: psutil.Process, sessions: int, minutes: float, pace_s: float, browser: bool
) -> Outcome:
    took: Took = defaultdict(list)
    failures: list[str] = []
    rounds = iter([True] * 6)
    warm = await _together(address, [0, 1, 2], 0.0, lambda: next(rounds, False), defaultdict(list), failures)
    idle = await _threads(address, server)
    for client in warm:
        await client.socket.close()

    begun, memory = time.monotonic(), []
    settled = begun + min(WARM_S, 20 * minutes)
    end = settled + 60 * minutes

    async def watch() -> float:
        while time.monotonic() < settled:
            await asyncio.sleep(0.1)
        for times in took.values():
            times.clear()
        used = sum(server.cpu_times()[:2])
        while time.monotonic() < end:
            memory.append(server.memory_info().rss / 1e6)
            await asyncio.sleep(min(5.0, max(0.2, 6 * minutes)))
        memory.append(server.memory_info().rss / 1e6)
        return sum(server.cpu_times()[:2]) - used

    numbers = list(range(sessions))

    def going() -> bool:
        return time.monotonic() < end

    beside = asyncio.create_task(look(address, pace_s, going, took, failures)) if browser else None
    clients, used = await asyncio.gather(_together(address, numbers, pace_s, going, took, failures), watch())
    if beside:
        await beside
    busy = server.num_threads()
    for client in clients:
        await client.socket.close()
    deadline = time.monotonic() + PATIENCE_S
    while (closed := await _threads(address, server)) > idle and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
    threads = {"idle": idle, "busy": busy, "closed": closed}
    if closed > idle:
        failures.append(f"{closed - idle} threads are left")
    return Outcome(sessions, 60 * minutes, took, failures, memory, threads, used / (60 * minutes))


def listening(sessions: int) -> int:
    """How many of so many listen."""
    return sum(ACTIVITIES[number % 3] is listen for number in range(sessions))


def campaign(sessions: int, minutes: float, pace_s: float = 5.0, *, browser: bool = False) -> Outcome:
    """Start a dashboard, and let so many use it for so long after a warm-up; see the module."""
    if listening(sessions) + browser > MAX_RUNNING:
        raise ValueError(
            f"a third of {sessions} sessions is more than the {MAX_RUNNING} that may listen at once"
        )
    with tempfile.TemporaryDirectory(prefix="qmoe-sessions-") as folder, served(QMOE_STORE=folder) as address:
        server = next(
            p
            for p in psutil.Process().children()
            if p.status() != psutil.STATUS_ZOMBIE and "dashboard.launch" in p.cmdline()
        )
        return asyncio.run(_campaign(address, server, sessions, minutes, pace_s, browser))


def report(outcome: Outcome) -> str:
    """A table for people."""
    lines = ["| answer | n | p50 | p95 | slowest |", "| --- | --- | --- | --- | --- |"]
    for what, times in sorted(outcome.took.items()):
        if times:
            p50, p95 = np.percentile(times, (50, 95))
            lines.append(f"| {what} | {len(times):,} | {p50:.0f} ms | {p95:.0f} ms | {max(times):.0f} ms |")
    threads = ", ".join(f"{count} {when}" for when, count in outcome.threads.items())
    lines += [
        "",
        f"{outcome.sessions} sessions for {outcome.seconds / 60:g} min on {os.cpu_count()} cores, of which "
        f"the server used {outcome.cores:.2f}, this driver beside it; load {os.getloadavg()[0]:.1f}.",
        f"Memory of the server: {outcome.memory[0]:.0f} MB at first, {outcome.memory[-1]:.0f} MB at last, "
        f"{max(outcome.memory):.0f} MB at most; growth {outcome.growth:+.0f} MB, of which the logs of Live "
        f"may hold {outcome.allowed - GROWTH_MB:.0f}. Threads: {threads}.",
        f"{len(outcome.failures)} failures.",
    ]
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=10.0, help="after a minute of warming up")
    parser.add_argument("--no-browser", action="store_true", help="leave the Chromium beside them out")
    parser.add_argument("--pace", type=float, default=5.0, help="seconds between a person's actions")


def main(arguments: argparse.Namespace) -> int:
    """The campaign; 1 if anything failed, was slow, or grew."""
    outcome = campaign(
        arguments.sessions, arguments.minutes, arguments.pace, browser=not arguments.no_browser
    )
    print(report(outcome))
    print("\n".join(outcome.failures[:20]), file=sys.stderr)
    slow = float(np.percentile(outcome.took[CLASSIFYING], 95)) >= LIMIT_MS
    return int(bool(outcome.failures) or slow or outcome.growth > outcome.allowed)
