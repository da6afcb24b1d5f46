"""What the lab's sessions hold in memory, and when they end.

A session ends soon after its page was closed, by a timer: what it held is free then, recordings first of all.
In a lab that is open to the public all sessions share so much memory. When there is no more, the session that
holds the most, of the network address that holds the most, ends for one that needs less: nobody is shut out
by others who filled the memory first.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from streamlit.runtime.session_manager import SessionInfo, SessionStorage

from qmoe_core.runtime import system

CLOSED_S = 30.0
"""How long a session waits for a page that was closed, or whose connection was lost."""
CLOSED = 8
"""Such sessions of a network address where there are bounds; of more, those closed first end first."""
LOOK_S = 5.0
SMALL = 64 << 10
"""Bytes of a message that are not worth counting."""
NAMES = 100
"""Files that a browser may ask to send at once."""
FILE = 4 << 10
"""Bytes that a file takes at least, however small it is."""


@dataclass
class Room:
    """Memory that sessions share.

    Attributes:
        session_bytes, total_bytes: that a session, and all of them, may hold.
        files: bytes of uploaded files, by session.
        address: of a session's network; None when its page is closed.
        end: ends a session, and frees what it holds.
    """

    session_bytes: int
    total_bytes: int
    files: Callable[[], dict[str, int]]
    address: Callable[[str], str | None]
    end: Callable[[str], None]
    coming: Counter[str] = field(default_factory=Counter)
    """Bytes of files that are on their way."""
    _told: Counter[str] = field(default_factory=Counter)
    """Bytes of the largest message of a session, as long as it lasts."""

    def has(self, session: str, size: int) -> bool:
        """Make room for so many bytes more of a session; sessions that hold more may end for it."""
        held = Counter(self.files()) + self.coming + self._told
        if held[session] + size > self.session_bytes:
            return False
        mine = self.address(session) or ""
        while held.total() + size > self.total_bytes:
            of: Counter[str] = Counter()
            for name, count in held.items():
                of[self.address(name) or ""] += count
            # Closed pages first; else whoever holds more than would be held here afterwards.
            most = "" if of[""] else max(of, key=lambda address: of[address])
            if most == mine or (most and of[most] <= of[mine] + size):
                return False
            loser = max(
                (name for name in held if (self.address(name) or "") == most), key=lambda name: held[name]
            )
            del held[loser], self._told[loser]
            self.end(loser)
        return True

    def takes(self, session: str, message: Any) -> bool:
        """Whether a message of a browser (`BackMsg`) is taken; of files to send, it names so many at once."""
        if message.WhichOneof("type") == "file_urls_request":
            del message.file_urls_request.file_names[NAMES:]
        size = 2 * message.ByteSize()  # as it came, and what the session makes of it
        more = size - self._told[session]
        if size <= SMALL or more <= 0:
            return True
        if not self.has(session, more):
            return False
        self._told[session] = size
        return True

    def forget(self, session: str) -> None:
        """A session is over."""
        del self._told[session]


class Waiting(SessionStorage):
    """Sessions whose page is closed; whoever comes back in time goes on.

    Attributes:
        of: the network address of a session, by its name, where that is known.
        most: that wait of one address; None for any number.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, most: int | None = None) -> None:
        self.of: dict[str, str] = {}
        self.most, self._clock = most, clock
        self._kept: dict[str, tuple[float, SessionInfo]] = {}

    def get(self, session_id: str) -> SessionInfo | None:
        return self._kept.get(session_id, (0.0, None))[1]

    def save(self, session_info: SessionInfo) -> None:
        self._kept[session_info.session.id] = (self._clock(), session_info)

    def delete(self, session_id: str) -> None:
        self._kept.pop(session_id, None)

    def list(self) -> list[SessionInfo]:
        return [info for _, info in self._kept.values()]

    def over(self) -> list[str]:
        """Sessions that nobody came back to."""
        now = self._clock()
        late = [name for name, (since, _) in self._kept.items() if now - since > CLOSED_S]
        counted = Counter(self.of.get(name, "") for name in self._kept.keys() - set(late))
        for name in self._kept.keys() if self.most is not None else ():  # in the order in which they closed
            address = self.of.get(name, "")
            if name not in late and self.most is not None and counted[address] > self.most:
                counted[address] -= 1
                late.append(name)
        return late


def install(runtime: Any, session_bytes: int | None, total_bytes: int) -> Room | None:
    """End closed sessions from now on, and bound what all hold; call it where Streamlit's event loop runs.

    Args:
        runtime: Streamlit's.
        session_bytes: see `Room`; None for no bounds.

    Raises:
        AttributeError: this Streamlit keeps sessions otherwise.
    """
    if not hasattr(runtime._session_mgr, "_session_storage"):
        raise AttributeError("Streamlit keeps sessions otherwise than the lab knows")
    waiting = runtime._session_mgr._session_storage = Waiting(most=None if session_bytes is None else CLOSED)
    room = None if session_bytes is None else _room(runtime, waiting, session_bytes, total_bytes)

    async def look() -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            for session in (over := waiting.over()):
                info = waiting.get(session)
                runtime.close_session(session)
                if info is not None:  # Streamlit keeps the last session that it sent something to
                    info.session.session_state.clear()
                if room is not None:
                    room.forget(session)
            known = {info.session.id for info in runtime._session_mgr.list_sessions()}
            waiting.of = {name: address for name, address in waiting.of.items() if name in known}
            if over:
                threading.Thread(target=system.free_memory, name="free", daemon=True).start()

    _beside(look())
    return room


def _room(runtime: Any, waiting: Waiting, session_bytes: int, total_bytes: int) -> Room:
    uploads, handle = runtime.uploaded_file_mgr, runtime.handle_backmsg

    def files() -> dict[str, int]:
        with uploads._lock:
            return {
                name: sum(max(FILE, len(file.data)) for file in held.values())
                for name, held in uploads.file_storage.items()
            }

    def address(session: str) -> str | None:
        client = runtime.get_client(session)
        return None if client is None else client.client_context.remote_ip or "unknown"

    def end(session: str) -> None:
        client = runtime.get_client(session)
        runtime.close_session(session)
        if client is not None:
            _beside(client._websocket.close(1013))  # try again later

    room = Room(session_bytes, total_bytes, files, address, end)

    def bounded(session_id: str, msg: Any, *, client: Any = None) -> None:
        if client is not None:
            waiting.of[session_id] = client.client_context.remote_ip or "unknown"
        if room.takes(session_id, msg):
            handle(session_id, msg, client=client)

    runtime.handle_backmsg = bounded
    return room


_tasks: set[asyncio.Task[None]] = set()


def _beside(work: Coroutine[Any, Any, None]) -> None:
    """Do something in the event loop, beside what goes on."""
    task = asyncio.get_running_loop().create_task(work)
    _tasks.add(task)  # the loop itself keeps no hold of it
    task.add_done_callback(_done)


def _done(task: asyncio.Task[None]) -> None:
    _tasks.discard(task)
    if not task.cancelled():
        task.exception()  # a connection that is gone already
