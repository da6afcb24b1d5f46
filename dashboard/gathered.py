"""The server's event loop waits for nobody: pages tell it things a burst at a time, and begin beside it.

Streamlit wakes its event loop, by a system call, for every element of every page that is drawn, and once more
to have it sent. Each time the loop then waits for the interpreter, which the pages use meanwhile. It waits
longer where a page begins: until the thread that will draw it runs. And it goes round once for each element
that it sends, one browser after the other. With some pages drawn at once nobody is answered for seconds. Here
it is woken once for all elements that have come since, sends them together, and another thread starts those
that draw.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

MOST = 200
"""Calls in a row, or elements to one browser, after which whatever else the loop has to do gets its turn."""


class Gathered:
    """Calls for an event loop, from any thread, in the order in which they came."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._woken = False

    def soon(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        """Have the loop call something.

        Raises:
            RuntimeError: the loop is closed.
        """
        self._calls.append(call)
        if not self._woken:  # two threads may both find it so: then it is woken twice
            self._woken = True
            loop.call_soon_threadsafe(self._call, loop)

    def _call(self, loop: asyncio.AbstractEventLoop) -> None:
        self._woken = False  # first: who comes from here on wakes it again
        for _ in range(min(MOST, len(self._calls))):
            call = self._calls.popleft()
            try:
                call()
            except Exception as error:
                loop.call_exception_handler({"message": "an event of a page failed", "exception": error})
        if self._calls and not self._woken:
            self._woken = True
            loop.call_soon(self._call, loop)


def install() -> None:
    """Let all sessions do so.

    Raises:
        AttributeError: this Streamlit wakes its event loop otherwise.
    """
    from streamlit import runtime
    from streamlit.runtime.app_session import AppSession
    from streamlit.runtime.runtime import Runtime
    from streamlit.runtime.scriptrunner.script_runner import ScriptRunner
    from streamlit.runtime.session_manager import SessionClientDisconnectedError

    wake, _ = Runtime._enqueued_some_message, AppSession._call_soon_on_event_loop
    take = AppSession.flush_browser_queue
    gathered, started = Gathered(), queue.SimpleQueue[threading.Thread]()

    def start(self: Any) -> None:
        if self._script_thread is not None:
            raise RuntimeError("ScriptRunner was already started")
        run = self._run_script_thread
        self._script_thread = threading.Thread(target=run, name="ScriptRunner.scriptThread", daemon=True)
        started.put(self._script_thread)

    def starts() -> None:
        while True:
            started.get().start()

    threading.Thread(target=starts, name="starts", daemon=True).start()

    def soon(self: Any, callback: Callable[[], None]) -> None:
        try:
            gathered.soon(self._event_loop, callback)
        except RuntimeError:
            if not self._event_loop.is_closed():
                raise

    def send(self: Any) -> None:
        loop = self._get_async_objs()
        if asyncio._get_running_loop() is loop.eventloop:
            loop.need_send_data.set()
        else:
            wake(self)

    def flush(self: Any) -> list[Any]:
        # Streamlit asks for what there is to send, and sends it, an element at a time. What is not sent here,
        # because it is much or the browser is gone, is left for it.
        messages, lab = take(self), runtime.get_instance()
        info: Any = lab._session_mgr.get_active_session_info(self.id)
        sent = 0
        if info is not None and info.client._send_queue.qsize() < MOST:
            with suppress(SessionClientDisconnectedError):
                for message in messages[:MOST]:
                    lab._send_message(info, message)
                    sent += 1
        return messages[sent:]

    AppSession.flush_browser_queue = flush
    AppSession._call_soon_on_event_loop, Runtime._enqueued_some_message = soon, send
    ScriptRunner.start = start
