"""Many visitors of a public lab: whose turn it is, how much memory they hold, and when their sessions end."""

from __future__ import annotations

import asyncio
import io
import threading
from collections import Counter
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg

from dashboard import gathered, guard, launch, room
from dashboard.room import Room, Waiting
from dashboard.turns import Pace, Turns
from tests.live.test_sessions import Clock


class Pages:
    """Runs of pages that wait for their turns, each on a thread of its own."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.begun: list[str] = []
        self._changed = threading.Condition()

    def ask(self, key: str, address: str) -> None:
        def run() -> None:
            self.turns.take(key, address, f"session {key}")
            with self._changed:
                self.begun.append(key)
                self._changed.notify_all()

        waiting = self.turns.waiting + self.turns.running
        threading.Thread(target=run, daemon=True).start()
        while self.turns.waiting + self.turns.running == waiting:
            pass

    def until(self, count: int) -> list[str]:
        """Those that have begun, when there are so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.begun) >= count, 60)
            return list(self.begun)


def turns(clock: Clock, **more: Any) -> Turns:
    return Turns(clock=clock, used=clock, **more)


def test_who_asks_now_and_then_goes_before_those_who_always_do() -> None:
    clock = Clock()
    pages = Pages(turns(clock, at_once=1, reserve=0))
    pages.ask("a1", "a")
    pages.until(1)
    for key, address in (("a2", "a"), ("b1", "b"), ("a3", "a"), ("b2", "b"), ("c1", "c")):
        pages.ask(key, address)
    served = []
    for number in range(6):
        (running,) = pages.turns._running
        served.append(running)
        if number == 3:
            pages.ask("d1", "d")  # new: behind those who are as far, and before those who are ahead
        clock.now += 1.0
        pages.turns.give(running)
        pages.until(min(7, number + 2))

    assert served == ["a1", "b1", "c1", "a2", "b2", "d1"]
    assert list(pages.turns._running) == ["a3"]


def test_a_place_is_kept_for_those_who_used_little() -> None:
    clock = Clock()
    pages = Pages(turns(clock, at_once=1, reserve=1, light_s=3.0))
    pages.ask("greedy", "a")
    pages.until(1)
    clock.now += 5.0
    pages.ask("greedy 2", "a")  # has a turn already, and then has used too much for the kept place
    pages.ask("modest", "b")

    assert pages.until(2) == ["greedy", "modest"]
    pages.turns.give("greedy")
    assert (pages.turns.running, pages.turns.waiting) == (1, 1)  # the kept place is for others
    pages.turns.give("modest")
    assert pages.until(3)[-1] == "greedy 2"
    pages.ask("greedy 3", "a")
    pages.ask("modest 2", "c")
    assert pages.until(4)[-1] == "modest 2"
    assert pages.turns.waiting == 1


def test_what_was_used_is_forgotten() -> None:
    clock = Clock()
    made = turns(clock, at_once=1, reserve=0, half_life_s=30.0)
    made.take(1, "a", "s")
    clock.now += 8.0
    made.give(1)
    assert made._usage("a", clock.now) == 8.0
    assert made._usage("a", clock.now + 60.0) == 2.0
    made.take(2, "b", "s")
    assert next(iter(made._running.values())).far == 8.0  # alone it was ahead of nobody


def test_a_page_that_nobody_waits_for_does_not_wait() -> None:
    pages = Pages(Turns(at_once=1, reserve=0))
    pages.ask("first", "a")
    pages.ask("left", "a")
    pages.turns.leave("left")
    assert pages.until(2) == ["first", "left"]
    pages.turns.take("gone", "a", "s", lambda: True)
    assert pages.turns.running == 1


def test_a_pace() -> None:
    clock = Clock()
    pace = Pace(2.0, 4.0, clock)
    assert [pace.after() for _ in range(6)] == [0.0, 0.0, 0.0, 0.0, 0.5, 1.0]
    assert [pace.after(100.0), pace.after(100.0)] == [2.0, 2.0]  # nobody pays for more than the burst
    clock.now += 4.0
    assert pace.full
    assert pace.after(2.0) == 0.0


def rooms(files: dict[str, int], addresses: dict[str, str]) -> tuple[Room, list[str]]:
    """A room for 100 bytes, and the sessions that were ended for want of more."""
    ended: list[str] = []

    def end(session: str) -> None:
        ended.append(session)
        files.pop(session, None)

    return Room(60, 100, lambda: dict(files), addresses.get, end), ended


def test_the_largest_makes_room() -> None:
    files = {"a1": 50, "a2": 40, "b": 10}
    place, ended = rooms(files, {"a1": "a", "a2": "a", "b": "b", "c": "c"})
    assert not place.has("a1", 11)  # of its own
    assert place.has("c", 20)
    assert ended == ["a1"]
    assert place.has("c", 20)
    assert ended == ["a1"]


def test_closed_pages_make_room_first() -> None:
    files = {"a": 60, "closed": 40}
    place, ended = rooms(files, {"a": "a", "b": "b"})
    assert place.has("b", 30)
    assert ended == ["closed"]


def test_nobody_is_put_out_by_who_has_more() -> None:
    files = {"a": 30, "b": 30, "c": 40}
    place, ended = rooms(files, {"a": "a", "b": "b", "c": "c"})
    assert not place.has("a", 15)
    assert ended == []


def test_messages_count() -> None:
    place, _ = rooms({}, {"a": "a"})
    place.session_bytes = place.total_bytes = 300_000
    message = BackMsg()
    message.rerun_script.query_string = "x" * 100_000
    assert [place.takes("a", message), place.takes("a", message)] == [True, True]
    assert not place.has("a", 150_000)  # twice the message is held
    message.rerun_script.query_string = "x" * 200_000
    assert not place.takes("a", message)
    place.forget("a")
    names = BackMsg()
    names.file_urls_request.file_names.extend([""] * 10_000)
    assert place.takes("a", names)
    assert len(names.file_urls_request.file_names) == room.NAMES


def test_sessions_end_by_a_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that was closed is free after a moment, though nobody asks; one that is open is not."""
    clock, closed, freed = Clock(), [], threading.Event()
    monkeypatch.setattr(room, "LOOK_S", 0.001)
    monkeypatch.setattr(room.system, "free_memory", freed.set)
    monkeypatch.setattr(room, "Waiting", lambda most: waiting)
    waiting = Waiting(clock)

    def close(session: str) -> None:
        closed.append(session)
        waiting.delete(session)

    manager = SimpleNamespace(_session_storage=None, list_sessions=waiting.list)
    runtime = SimpleNamespace(_session_mgr=manager, close_session=close)
    states: dict[str, dict[str, str]] = {}

    async def lab() -> None:
        assert room.install(runtime, None, 0) is None
        assert runtime._session_mgr._session_storage is waiting
        for name, at in (("early", 0.0), ("late", 20.0)):
            clock.now = at
            states[name] = {"recording": "of the visitor"}
            session = SimpleNamespace(id=name, session_state=states[name])
            waiting.save(SimpleNamespace(session=session))  # type: ignore[arg-type]
        assert waiting.get("early") is not None
        clock.now = room.CLOSED_S + 1.0
        await asyncio.to_thread(freed.wait, 60)

    asyncio.run(lab())
    assert closed == ["early"]
    assert [info.session.id for info in waiting.list()] == ["late"]
    assert states == {"early": {}, "late": {"recording": "of the visitor"}}


def test_so_many_closed_pages_of_an_address_wait() -> None:
    clock = Clock()
    waiting = Waiting(clock, most=2)
    for name in ("a1", "b1", "a2", "a3", "b2"):
        waiting.of[name] = name[0]
        waiting.save(SimpleNamespace(session=SimpleNamespace(id=name)))  # type: ignore[arg-type]
    assert waiting.over() == ["a1"]
    clock.now += room.CLOSED_S + 1.0
    assert sorted(waiting.over()) == ["a1", "a2", "a3", "b1", "b2"]


def test_the_event_loop_is_woken_once_for_what_has_come() -> None:
    """In the order in which it came, a part at a time; what fails is told, and keeps nothing back."""
    made: list[int] = []
    told: list[Any] = []
    woken: list[Any] = []

    async def lab() -> None:
        loop, calls = asyncio.get_running_loop(), gathered.Gathered()
        loop.set_exception_handler(lambda _, about: told.append(about["exception"]))
        wake = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *call: woken.append(wake(*call))  # type: ignore[method-assign]

        def element(number: int) -> None:
            if number == 7:
                raise ValueError("an element that fails")
            made.append(number)

        for number in range(gathered.MOST + 50):
            calls.soon(loop, partial(element, number))
        assert made == []
        while len(made) < gathered.MOST + 49:
            before = len(made)
            await asyncio.sleep(0)
            assert len(made) - before <= gathered.MOST
        await asyncio.to_thread(calls.soon, loop, partial(element, -1))
        while made[-1] != -1:
            await asyncio.sleep(0)

    asyncio.run(lab())
    assert made == [number for number in range(gathered.MOST + 50) if number != 7] + [-1]
    assert [str(error) for error in told] == ["an element that fails"]
    assert sum("Gathered" in str(call) for call in woken) == 2


def test_what_a_page_says_is_sent_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as the browser takes it; what is left goes the usual way, and so does a browser that is gone."""
    from streamlit import runtime
    from streamlit.runtime.app_session import AppSession
    from streamlit.runtime.runtime import Runtime
    from streamlit.runtime.scriptrunner.script_runner import ScriptRunner
    from streamlit.runtime.session_manager import SessionClientDisconnectedError

    for kind, name in (
        (AppSession, "flush_browser_queue"), (AppSession, "_call_soon_on_event_loop"),
        (Runtime, "_enqueued_some_message"), (ScriptRunner, "start"),
    ):  # fmt: skip
        monkeypatch.setattr(kind, name, getattr(kind, name))  # is as it was, after this
    gathered.install()
    sent: list[int] = []

    def send(info: Any, message: int) -> None:
        if message == gone:
            raise SessionClientDisconnectedError
        sent.append(message)

    client = SimpleNamespace(_send_queue=asyncio.Queue())
    sessions = {"open": SimpleNamespace(client=client), "closed": None}
    lab = SimpleNamespace(
        _session_mgr=SimpleNamespace(get_active_session_info=sessions.get), _send_message=send
    )
    monkeypatch.setattr(runtime, "get_instance", lambda: lab)
    many = list(range(gathered.MOST + 3))

    def left(name: str, messages: list[int]) -> list[int]:
        page: Any = SimpleNamespace(id=name, _browser_queue=SimpleNamespace(flush=lambda: messages))
        return AppSession.flush_browser_queue(page)  # type: ignore[return-value]

    gone = -1
    assert left("open", many) == many[gathered.MOST :]
    assert sent == many[: gathered.MOST]
    assert left("closed", [1, 2]) == [1, 2]
    gone = 2
    assert left("open", [1, 2, 3]) == [2, 3]


def test_streamlit_is_as_the_lab_knows_it() -> None:
    """Another version that works otherwise is refused, and not served without its bounds."""
    with pytest.raises(AttributeError, match="keeps sessions otherwise"):
        room.install(SimpleNamespace(_session_mgr=SimpleNamespace()), None, 0)


def test_only_so_much_is_written_in_a_minute() -> None:
    clock, out = Clock(), io.StringIO()
    written = launch._Unread(out, 10, clock)
    for text in ("12345\n", "123\n", "more\n", "and more\n"):
        assert written.write(text) == len(text)
    clock.now += 60.0
    written.write("again\n")
    assert out.getvalue() == "12345\n123\n(what else there is in this minute is left out)\nagain\n"


class Lab:
    """A guard before an application, and those who ask it."""

    def __init__(self, app: Any, bounds: guard.Bounds, files: dict[str, int] | None = None) -> None:
        self.ended: list[str] = []
        place = Room(
            bounds.session_bytes, bounds.total_bytes, lambda: files or {}, lambda _: "a", self.ended.append
        )
        self.guard = guard.Guard(app, {"lab"}, bounds=bounds, room=place)

    async def ask(self, receive: Any = None, **scope: Any) -> list[Any]:
        """What is answered."""
        said: list[Any] = []

        async def send(message: Any) -> None:
            said.append(message)

        headers = {b"host": b"lab", b"origin": b"http://lab", **scope.pop("headers", {})}
        asked = {"type": "http", "method": "GET", "path": "/", "client": ("10.0.0.1", 1), "query_string": b""}
        await self.guard({**asked, "headers": headers.items(), **scope}, receive or nothing_more, send)
        return said

    async def put(self, size: int, *chunks: bytes, pause_s: float = 0.0) -> int:
        """Upload a file in parts; gives the status."""
        coming = iter(chunks)

        async def receive() -> Any:
            await asyncio.sleep(pause_s)
            body = next(coming, b"")
            return {"type": "http.request", "body": body, "more_body": bool(body)}

        headers = {b"content-length": str(size).encode()}
        said = await self.ask(receive, method="PUT", path=f"{guard.UPLOADS}s/f", headers=headers)
        return said[0]["status"]


async def nothing_more() -> Any:
    return {"type": "http.disconnect"}


async def reads(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads everything."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 204, "headers": []})


def test_an_upload_is_bounded_while_it_comes() -> None:
    bounds = guard.Bounds(session_bytes=100, total_bytes=150)

    async def uploads() -> None:
        lab = Lab(reads, bounds)
        assert await lab.put(50, b"x" * 50) == 204
        assert await lab.put(101, b"x") == 413  # announced
        assert await lab.put(50, b"x" * 50, b"x" * 51) == 413  # more than was announced
        assert lab.guard.room is not None
        assert lab.guard.room.coming == Counter()
        lab.guard.room.address = lambda _: None  # the session has ended meanwhile
        assert await lab.put(50, b"x") == 413

    asyncio.run(uploads())


def test_an_upload_that_does_not_come_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(reads, guard.Bounds(upload_rate=1e9))
    passed = asyncio.timeout
    monkeypatch.setattr(guard.asyncio, "timeout", lambda _: passed(0.001))
    assert asyncio.run(lab.put(50, b"x", pause_s=60.0)) == 408


def test_who_asks_too_often_is_told() -> None:
    bounds = guard.Bounds(asks=(0.001, 2.0), visits=(0.001, 1.0))

    async def asked() -> None:
        lab = Lab(reads, bounds)
        answers = [(await lab.ask())[0]["status"] for _ in range(3)]
        assert answers == [204, 204, 429]
        assert (await lab.ask(client=("10.0.0.2", 1)))[0]["status"] == 204
        opened = [await lab.ask(type="websocket", path="/_stcore/stream") for _ in range(2)]
        assert opened[1] == [{"type": "websocket.close", "code": 1008}]
        assert opened[0] != opened[1]

    asyncio.run(asked())


def test_messages_of_a_socket_come_at_a_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large ones count for more; text, which Streamlit does not speak, ends the connection."""
    waited: list[float] = []
    messages = iter([{"bytes": b"x" * 200}] * 3 + [{"text": "hello"}])

    async def receive() -> Any:
        return {"type": "websocket.receive", **next(messages)}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "websocket.receive":
            pass
        waited.append(message["code"])

    async def sleep(seconds: float) -> None:
        waited.append(round(seconds))

    monkeypatch.setattr(guard.asyncio, "sleep", sleep)
    lab = Lab(app, guard.Bounds(messages=(1.0, 5.0), small=100, handling=(1e3, 1e3), costly_s=1e3))
    asyncio.run(lab.ask(receive, type="websocket", path="/_stcore/stream"))
    assert [seconds for seconds in waited if seconds] == [1, 4, 1003]


def test_an_address_has_a_share_of_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """All its connections together; a message that takes long ends one, and others come later."""
    clock, waited = Clock(), []
    takes = iter([0.03, 0.01, 0.0, 0.02, 0.02, 0.0, 0.2])

    async def receive() -> Any:
        return {"type": "websocket.receive", "bytes": b"x"}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(3):
            if (message := await receive())["type"] != "websocket.receive":
                waited.append(message["code"])
                return
            clock.now += next(takes)

    async def sleep(seconds: float) -> None:
        waited.append(round(seconds, 1))

    monkeypatch.setattr(guard.asyncio, "sleep", sleep)
    monkeypatch.setattr(guard.time, "thread_time", clock)
    monkeypatch.setattr(guard, "Pace", lambda *rate: Pace(*rate, clock=lambda: 0.0))
    bounds = guard.Bounds(handling=(0.1, 0.05), costly_s=0.1, visits=(1.0, 4.0))
    lab = Lab(app, bounds)

    async def visits() -> list[Any]:
        return [await lab.ask(receive, type="websocket", path="/_stcore/stream") for _ in range(4)]

    told = asyncio.run(visits())
    # The first connection took 0.04 s of 0.05; the second waits until there is some again, the third ends.
    assert [seconds for seconds in waited if seconds] == [0.1, 0.3, 1008]
    # Three of four visits were made, and the costly message counts for three more.
    assert told == [[], [], [], [{"type": "websocket.close", "code": 1008}]]
