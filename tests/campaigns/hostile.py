"""Hostile visitors of a public lab that is held to 2 GB: a well-behaved one is served, and all is freed.

    python -m tests.campaigns hostile --visitors 200 --minutes 3

The hostile ones come from 10 network addresses (127.0.1.x), each again and again with one of the ways below:
large files, files that say little and decode to hours, uploads that never end, floods of messages and of
connections, messages that are large, broken, or ask for a million things, pages that are asked for and never
read, microphones in hidden tabs, and trainings. They run in processes of the lowest priority, as if on other
machines. The well-behaved visitor comes from an address of its own, uploads a sound every few seconds, and
waits for the verdict that the command line gives of it. Linux only: other systems have one address for it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import io
import itertools
import json
import multiprocessing
import os
import queue
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import soundfile
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from qmoe_core.runtime.store import VISITORS
from tests import tiny
from tests.browser.server import served
from tests.campaigns import sessions
from tests.campaigns.sessions import CLASSIFYING, Client, Failed, Took

HELD_TO = 2 << 30
LIMIT_MB = 1500.0
"""Of the lab's memory, with the jobs that it started."""
LIMIT_MS = 3000.0
"""Of the 95th percentile of a verdict."""
FREED_S = 60.0
LEFT_MB = 100.0
"""Memory may be larger by so much a minute after the last visitor left: code that was loaded meanwhile."""
ADDRESSES = 10
POOLS = 8
"""Threads that the server's pools may keep."""
PACE_S = 5.0
PROCESSES = 2
NICENESS = 19
"""Of the hostile visitors’ processes, who would be on other machines."""


# The ways.


@dataclass
class Stranger:
    """A hostile visitor: where the lab is, the address it comes from, and a number for variety."""

    lab: str
    address: str
    number: int

    async def socket(self) -> ClientConnection:
        where = self.lab.replace("http", "ws", 1) + "/_stcore/stream"
        return await connect(
            where,
            subprotocols=["streamlit"],  # type: ignore[list-item]
            max_size=None,
            origin=self.lab,  # type: ignore[arg-type]
            local_addr=(self.address, 0),
            open_timeout=30,
        )

    async def client(self) -> Client:
        return Client(await self.socket(), self.lab, source=self.address)

    @contextlib.asynccontextmanager
    async def raw(self) -> Any:
        """A bare connection."""
        parts = urlsplit(self.lab)
        reader, writer = await asyncio.open_connection(
            parts.hostname, parts.port, local_addr=(self.address, 0)
        )
        try:
            yield reader, writer
        finally:
            writer.close()


def flac(seconds: float) -> bytes:
    """A file of so many seconds of a sound that packs well."""
    file = io.BytesIO()
    second = (0.1 * np.sin(np.arange(16_000) * 0.3)).astype(np.float32)
    with soundfile.SoundFile(file, "w", 16_000, 1, "PCM_16", format="FLAC") as out:
        for _ in range(round(seconds)):
            out.write(second * np.float32(1 / 32))
    return file.getvalue()


_made: dict[str, bytes] = {}


def made(name: str, make: Callable[[], bytes]) -> bytes:
    """The same content for all: this process is not what is measured."""
    return _made.setdefault(name, _made.get(name) or make())


async def _judged(client: Client, name: str, content: bytes) -> None:
    urls = await client.upload(name, content)
    info = {"name": name, "size": len(content), "file_id": urls.file_id, "file_urls": urls}
    await client.use("files", file_uploader_state_value={"uploaded_file_info": [info]})


async def _uploader(stranger: Stranger) -> Client:
    client = await stranger.client()
    await client.visit("")
    client.set("source", string_value="Upload")
    await client.run()
    return client


async def large_files(stranger: Stranger) -> None:
    """Files of 19 MB, one after the other."""
    client = await _uploader(stranger)
    content = made("large", lambda: os.urandom(19 << 20))
    for number in itertools.count():
        await client.upload(f"{uuid.uuid4()}-{number}.wav", content)


async def long_files(stranger: Stranger) -> None:
    """Small files of an hour, and of as long as is taken, each another."""
    client = await _uploader(stranger)
    kinds = [("hour", 3600.0), ("ten minutes", 590.0)]
    for number in itertools.count(stranger.number):
        name, seconds = kinds[number % 2]
        content = made(name, lambda seconds=seconds: flac(seconds)) + os.urandom(8)
        with contextlib.suppress(Failed):
            await _judged(client, f"{number}.flac", content)


async def empty_files(stranger: Stranger) -> None:
    """As many files as there can be, with nothing in them."""
    client = await _uploader(stranger)
    for number in itertools.count():
        await client.upload(f"{number}.wav", b"")


async def slow_upload(stranger: Stranger) -> None:
    """A file that is announced and never comes."""
    client = await _uploader(stranger)
    path = f"/_stcore/upload_file/{client.session}/{uuid.uuid4()}"
    async with stranger.raw() as (_, writer):
        head = f"PUT {path} HTTP/1.1\r\nHost: {urlsplit(stranger.lab).netloc}\r\nOrigin: {stranger.lab}\r\n"
        head += f"Content-Length: {19 << 20}\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n"
        writer.write(head.encode() + b'--x\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n')
        while True:
            writer.write(b"\0" * 100)
            await writer.drain()
            await asyncio.sleep(1.0)


async def idle_connections(stranger: Stranger) -> None:
    """Connections that ask nothing."""
    async with contextlib.AsyncExitStack() as open_ones:
        for _ in range(4):
            await open_ones.enter_async_context(stranger.raw())
        await asyncio.sleep(30.0)


async def one_large_frame(stranger: Stranger) -> None:
    """A message of 150 MB."""
    socket = await stranger.socket()
    await socket.send(made("frame", lambda: bytes(150 << 20)))


async def broken_messages(stranger: Stranger) -> None:
    """No messages at all, of every kind."""
    for number in itertools.count(stranger.number):
        socket = await stranger.socket()
        await socket.send(("text", os.urandom(3000), b"", b"\xff" * 100_000)[number % 4])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5.0):
                await socket.recv()


async def million_names(stranger: Stranger) -> None:
    """Asks where to send a million files."""
    client = await stranger.client()
    await client.run()
    asked = BackMsg()
    asked.file_urls_request.request_id = "x"
    asked.file_urls_request.session_id = client.session
    asked.file_urls_request.file_names.extend([""] * 900_000)
    while True:
        await client.socket.send(asked.SerializeToString())
        await asyncio.sleep(0.5)


async def flood(stranger: Stranger) -> None:
    """Asks for the heaviest pages as fast as it can, and reads all of it."""
    client = await stranger.client()
    await client.run()
    pages = [client.pages[name] for name in ("compare", "dataset", "sweep", "claims", "method")]

    async def read() -> None:
        async for _ in client.socket:
            pass

    reading = asyncio.create_task(read())
    try:
        for number in itertools.count(stranger.number):
            await client.socket.send(_asks(pages[number % len(pages)]))
    finally:
        reading.cancel()


async def deaf(stranger: Stranger) -> None:
    """Asks for pages, and never reads them."""
    client = await stranger.client()
    await client.run()
    page = client.pages["compare"]
    while True:
        await client.socket.send(_asks(page))
        await asyncio.sleep(0.3)


def _asks(page: str) -> bytes:
    asked = BackMsg()
    asked.rerun_script.page_script_hash = page
    return asked.SerializeToString()


async def full_state(stranger: Stranger) -> None:
    """Widgets with nearly two megabytes in them."""
    client = await stranger.client()
    await client.visit("")
    for number in itertools.count():
        name = f"$$ID-{number:032x}-None"
        client.values = {name: WidgetState(id=name, string_value="x" * 1_900_000)}
        await client.run()


async def reconnecting(stranger: Stranger) -> None:
    """A new session, again and again, each left at once."""
    while True:
        socket = await stranger.socket()
        await socket.send(_asks(""))
        await socket.close()


async def many_requests(stranger: Stranger) -> None:
    """Requests as fast as they are answered."""
    while True:
        await asyncio.to_thread(_ask, stranger)


def _ask(stranger: Stranger) -> None:
    parts = urlsplit(stranger.lab)
    connection = http.client.HTTPConnection(
        parts.hostname or "", parts.port, timeout=30, source_address=(stranger.address, 0)
    )
    with contextlib.closing(connection):
        for path in ("/", "/_stcore/host-config", "/media/nothing.wav") * 10:
            connection.request("GET", path)
            if connection.getresponse().read() and connection.sock is None:
                return


async def hidden_microphone(stranger: Stranger) -> None:
    """A microphone in a hidden tab, which sends much at once, and times that no clock has."""
    client = await stranger.client()
    await client.visit("live")
    pcm = "A" * (4 * 40_000)
    for number in itertools.count():
        captured = 1e308 if number % 3 == 2 else time.time()
        chunks = [
            {"sequence": i, "frame": i * 60_000, "captured": captured, "pcm": pcm}
            for i in range(10 * number, 10 * number + 10)
        ]
        about = {"rate": 48_000, "sent": time.time(), "state": "listening", "hidden": True}
        with contextlib.suppress(Failed):
            await client.tell(
                "live_microphone",
                "packet",
                {"packet": number, "stream": str(stranger.number), "chunks": chunks, **about},
            )
        await asyncio.sleep(0.25)


async def trainings(stranger: Stranger) -> None:
    """Starts a training in every session it can open."""
    client = await stranger.client()
    client.query = f"data=tiny&experts=q8&mix=&name=x{stranger.number}"
    await client.visit("train")
    while True:
        for name in ("Train", "Queue the training"):
            if name in client.widgets:
                button = client.widgets[name]
                await client.run(trigger=WidgetState(id=button.id, trigger_value=True))
                break
        await asyncio.sleep(5.0)


WAYS: tuple[Callable[[Stranger], Awaitable[None]], ...] = (
    large_files,
    long_files,
    flood,
    deaf,
    full_state,
    hidden_microphone,
    long_files,
    trainings,
    slow_upload,
    one_large_frame,
    million_names,
    broken_messages,
    reconnecting,
    many_requests,
    empty_files,
    idle_connections,
)
EXPECTED = (Failed, WebSocketException, OSError, TimeoutError, EOFError, http.client.HTTPException, KeyError)
"""What a hostile visitor has to bear: it comes back."""


async def _attack(lab: str, numbers: list[int], until: float) -> Counter[str]:
    came: Counter[str] = Counter()

    async def one(number: int) -> None:
        # Visitors of one address differ in their ways, and each goes through all of them.
        stranger = Stranger(lab, f"127.0.1.{1 + number % ADDRESSES}", number)
        for way in itertools.cycle(WAYS[(number + number // ADDRESSES) % len(WAYS) :] + WAYS):
            while time.monotonic() < until:
                came[way.__name__] += 1
                try:
                    async with asyncio.timeout(min(30.0, until - time.monotonic())):
                        await way(stranger)
                except EXPECTED:
                    await asyncio.sleep(0.2)
                else:
                    continue
                break
            else:
                return

    await asyncio.gather(*(one(number) for number in numbers))
    return came


def _strangers(lab: str, numbers: list[int], seconds: float, begin: Any, told: Any) -> None:
    """A process of hostile visitors: tells that it is there, and in the end what it did."""
    os.nice(NICENESS)
    told.put(None)
    begin.wait()
    told.put(asyncio.run(_attack(lab, numbers, time.monotonic() + seconds)))


# The cage.


@contextlib.contextmanager
def held(pid: int, to: int) -> Iterator[str]:
    """Hold a process and those it starts to so much memory; gives how.

    A control group where one can be made; else it is watched, and killed when it has more.
    """
    made = _group(pid, to)
    if made is not None:
        try:
            yield "a control group"
        finally:
            with contextlib.suppress(OSError):
                for left in (made / "cgroup.procs").read_text().split():
                    (made.parent / "cgroup.procs").write_text(left)
                made.rmdir()
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            if memory(pid) > to / 1e6:
                psutil.Process(pid).kill()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield "a watch that kills"
    finally:
        over.set()


def _group(pid: int, to: int) -> Path | None:
    """A control group (version 1 or 2) with that limit, which the process is in; None if there is none."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                root, limit = Path("/sys/fs/cgroup"), "memory.max"
            elif "memory" in controllers.split(","):
                root, limit = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
            else:
                continue
            group = root / path.lstrip("/") / f"qmoe-hostile-{os.getpid()}"
            with contextlib.suppress(OSError):
                group.mkdir()
                try:
                    (group / limit).write_text(str(to))
                    (group / "cgroup.procs").write_text(str(pid))
                except OSError:
                    group.rmdir()
                    raise
                return group
    return None


def memory(pid: int) -> float:
    """MB that a process and those it started have; what they share is counted once."""
    total = 0.0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        total = process.memory_info().rss
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                total += child.memory_full_info().uss
    return total / 1e6


# The campaign.


@dataclass
class Outcome:
    """What came of it; memory in MB."""

    visitors: int
    seconds: float
    held_by: str
    took: list[float]
    failures: list[str]
    before: float
    most: float
    after: float
    freed_s: float | None
    left: list[str] = field(default_factory=list)
    came: Counter[str] = field(default_factory=Counter)

    @property
    def p95(self) -> float:
        """Of the verdicts, milliseconds."""
        return float(np.percentile(self.took, 95)) if self.took else float("inf")

    @property
    def good(self) -> bool:
        """Whether all of it is as it should be."""
        served = not self.failures and self.p95 < LIMIT_MS
        return served and self.most < LIMIT_MB and self.freed_s is not None


async def _serve_me(address: str, until: float, took: Took, failures: list[str], pace_s: float) -> None:
    """The well-behaved visitor: one page, a sound now and then."""
    client = Client(
        await connect(
            address.replace("http", "ws", 1) + "/_stcore/stream",
            subprotocols=["streamlit"],  # type: ignore[list-item]
            max_size=None,
            origin=address,  # type: ignore[arg-type]
        ),
        address,
    )
    try:
        await sessions.classify(client, 7, pace_s, lambda: time.monotonic() < until, took)
    except (Failed, WebSocketException, OSError, TimeoutError) as error:
        failures.append(f"the well-behaved visitor: {type(error).__name__}: {error}")
    finally:
        await client.socket.close()


def left(server: psutil.Process, store: Path, threads: int, most_mb: float) -> list[str]:
    """What is there still, in sentences."""
    found = []
    if (more := server.num_threads() - threads - POOLS) > 0:
        found.append(f"{more} threads")
    if children := [child for child in server.children() if child.status() != psutil.STATUS_ZOMBIE]:
        found.append(f"{len(children)} jobs")
    if folders := [path for path in (store / VISITORS).iterdir() if path.is_dir()]:
        found.append(f"{len(folders)} visitors’ folders")
    if (mb := memory(server.pid)) > most_mb:
        found.append(f"{mb - most_mb:.0f} MB more than may be")
    return found


def campaign(visitors: int, minutes: float, pace_s: float = PACE_S, *, freed_s: float = FREED_S) -> Outcome:
    """Start a public lab, and let them come; see the module.

    Args:
        freed_s: how long what they left is waited for.
    """
    with tempfile.TemporaryDirectory(prefix="qmoe-hostile-") as folder:
        store, data = Path(folder) / "store", Path(folder) / "data"
        tiny.dataset(data / "tiny")
        command = ("-m", "dashboard.launch", "--public")
        with served(*command, QMOE_STORE=str(store), QMOE_DATA=str(data)) as lab:
            server = next(p for p in psutil.Process().children() if "dashboard.launch" in p.cmdline())
            with held(server.pid, HELD_TO) as held_by:
                return _campaign(lab, server, store, visitors, minutes, pace_s, held_by, freed_s)


def _campaign(
    lab: str,
    server: psutil.Process,
    store: Path,
    visitors: int,
    minutes: float,
    pace_s: float,
    held_by: str,
    freed_s: float,
) -> Outcome:
    took: Took = defaultdict(list)
    failures: list[str] = []
    rounds = iter([True] * 3)
    warm = sessions._together(lab, [0, 1, 2], 0.0, lambda: next(rounds, False), defaultdict(list), failures)

    async def warmed() -> None:
        for client in await warm:
            await client.socket.close()

    asyncio.run(warmed())
    before, threads, most = memory(server.pid), server.num_threads(), [0.0]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.25):
            most[0] = max(most[0], memory(server.pid))

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    context = multiprocessing.get_context("spawn")
    begin, told = context.Event(), context.Queue()
    parts = [list(range(i, visitors, PROCESSES)) for i in range(PROCESSES)]
    strangers = [
        context.Process(target=_strangers, args=(lab, part, 60 * minutes, begin, told)) for part in parts
    ]
    for process in strangers:
        process.start()
    for _ in strangers:
        told.get(timeout=120)
    begin.set()
    until = time.monotonic() + 60 * minutes
    asyncio.run(_serve_me(lab, until, took, failures, pace_s))
    came: Counter[str] = Counter()
    for _ in strangers:
        try:
            came += told.get(timeout=60)
        except queue.Empty:
            failures.append("hostile visitors who did not come to their end")
    for process in strangers:
        process.join(30)
        process.kill()
    begun, freed, there = time.monotonic(), None, ["everything"]
    while time.monotonic() - begun < freed_s:
        if not server.is_running() or server.status() == psutil.STATUS_ZOMBIE:
            failures.append("the lab has ended")
            break
        if not (there := left(server, store, threads, before + LEFT_MB)):
            freed = time.monotonic() - begun
            break
        time.sleep(1.0)
    over.set()
    watching.join()
    return Outcome(
        visitors,
        60 * minutes,
        held_by,
        took[CLASSIFYING],
        failures,
        before,
        most[0],
        memory(server.pid),
        freed,
        there,
        came,
    )


def report(outcome: Outcome) -> str:
    """For people."""
    p50, p95, slowest = (
        (*np.percentile(outcome.took, (50, 95)), max(outcome.took)) if outcome.took else (np.nan,) * 3
    )
    ways = ", ".join(f"{way} {count}" for way, count in outcome.came.most_common())
    freed = "never" if outcome.freed_s is None else f"after {outcome.freed_s:.0f} s"
    return "\n".join(
        [
            f"{outcome.visitors} hostile visitors from {ADDRESSES} addresses for "
            f"{outcome.seconds / 60:g} min, the lab held to {HELD_TO >> 20} MB by {outcome.held_by}, "
            f"{os.cpu_count()} cores for them all, the hostile ones at nice {NICENESS}, the lowest priority.",
            f"Verdicts of the well-behaved visitor: n = {len(outcome.took)}, p50 {p50:.0f} ms, "
            f"p95 {p95:.0f} ms, slowest {slowest:.0f} ms.",
            f"Memory: {outcome.before:.0f} MB before, {outcome.most:.0f} MB at most, "
            f"{outcome.after:.0f} MB after. All freed {freed}"
            + (f"; left: {', '.join(outcome.left)}." if outcome.left else "."),
            f"They came: {ways or 'none'}.",
            f"{len(outcome.failures)} failures; bars {'met' if outcome.good else 'MISSED'}: p95 below "
            f"{LIMIT_MS:.0f} ms, below {LIMIT_MB:.0f} MB, all freed.",
        ]
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--visitors", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--pace", type=float, default=PACE_S, help="seconds between the good one's sounds")
    parser.add_argument("--json", action="store_true", help="one document on standard output")


def main(arguments: argparse.Namespace) -> int:
    """The campaign; 1 if the good visitor was not served, memory was not bounded, or something was left."""
    outcome = campaign(arguments.visitors, arguments.minutes, arguments.pace)
    print(json.dumps(vars(outcome)) if arguments.json else report(outcome))
    print("\n".join(outcome.failures[:20]), file=sys.stderr)
    return int(not outcome.good)
