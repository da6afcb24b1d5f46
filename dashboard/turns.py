"""Who draws next in a lab that is open to the public.

Streamlit draws every page on a thread of its own, as soon as it is asked to: two hundred visitors that ask
without a pause leave nothing to the one who asks now and then. Here a run of a page waits for its turn. So
many run at once, which bounds the recordings that are decoded at once too, and network addresses share them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class Pace:
    """A token bucket: so many things a second, and more of them at once after a pause."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left, self._at = burst, clock()

    def after(self, cost: float = 1.0) -> float:
        """Seconds until something of this cost may happen; 0.0 for at once. It is counted now."""
        now = self._clock()
        left = min(self._burst, self._left + (now - self._at) * self._rate) - cost
        self._left, self._at = max(left, -self._burst), now
        return max(0.0, -self._left / self._rate)

    @property
    def full(self) -> bool:
        """Whether nothing that counts has happened lately."""
        return self._left + (self._clock() - self._at) * self._rate >= self._burst


@dataclass(eq=False)
class _Run:
    """Somebody who waits for a turn, or has one."""

    key: Any
    address: str
    session: str
    asked: float
    begun: float = 0.0
    far: float = 0.0
    used: float = 0.0
    admitted: threading.Event = field(default_factory=threading.Event)


@dataclass
class Turns:
    """Turns of runs; `take` blocks, `give` ends a turn, `leave` ends waiting for one.

    Start-time fair queueing (Goyal, Vin and Cheng, 1996) between addresses, and between the sessions of one:
    time used moves an address on, and whoever is least far goes first. Who asked for nothing meanwhile is
    where those are who run now: it goes before all that wait, and saves nothing up.

    Attributes:
        at_once: how many may run.
        reserve: how many more, for addresses that used less than `light_s` seconds lately.
        half_life_s: after which half of what was used counts no longer for that.
    """

    at_once: int = 2
    reserve: int = 1
    light_s: float = 3.0
    half_life_s: float = 30.0
    clock: Callable[[], float] = time.monotonic
    used: Callable[[], float] = time.thread_time
    """Seconds of a processor that the thread that asks has used: waiting for others costs nobody anything."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _waiting: list[_Run] = field(default_factory=list)
    _running: dict[Any, _Run] = field(default_factory=dict)
    _now: float = 0.0
    """How far those are who run now, seconds used."""
    _far: dict[str, float] = field(default_factory=dict)
    """How far addresses and sessions are; who is not there is where `_now` is."""
    _lately: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Seconds that an address used lately, and when that was said."""

    def take(self, key: Any, address: str, session: str, gone: Callable[[], bool] = lambda: False) -> None:
        """Wait for a turn; `key` names it. A turn that it had ends first.

        Args:
            gone: whether it was left before it began to wait.
        """
        self.give(key)
        run = _Run(key, address, session, self.clock())
        with self._lock:
            if gone():
                return
            self._waiting.append(run)
            self._admit()
        run.admitted.wait()
        run.used = self.used()

    def leave(self, key: Any) -> None:
        """Let whoever waits go on without a turn, because it has nothing to do any more."""
        with self._lock:
            for run in [run for run in self._waiting if run.key == key]:
                self._waiting.remove(run)
                run.admitted.set()

    def give(self, key: Any) -> None:
        """End a turn; nothing happens if there is none."""
        with self._lock:
            run = self._running.pop(key, None)
            if run is None:
                return
            now, took = self.clock(), self.used() - run.used
            for name in (run.address, run.session):
                self._far[name] = max(run.far, self._far.get(name, 0.0)) + took
            self._lately[run.address] = (self._usage(run.address, now) + took, now)
            if not self._running and not self._waiting:  # nobody is ahead of nobody
                self._now = max(self._far.values())
            if len(self._far) > 1000:  # who is not ahead needs no entry
                self._far = {name: far for name, far in self._far.items() if far > self._now}
                kept = [name for name in self._lately if self._usage(name, now) > 0.01]
                self._lately = {name: self._lately[name] for name in kept}
            self._admit()

    @property
    def running(self) -> int:
        """How many have a turn."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return len(self._waiting)

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self.at_once + self.reserve:
            now = self.clock()
            going: dict[str, float] = {}
            for run in self._running.values():
                going[run.address] = going.get(run.address, 0.0) + now - run.begun

            def far(name: str, going: dict[str, float] = going) -> float:
                return max(self._now, self._far.get(name, 0.0)) + going.get(name, 0.0)

            some = self._waiting
            if len(self._running) >= self.at_once:
                some = [run for run in some if run.address not in going]
                some = [run for run in some if self._usage(run.address, now) < self.light_s]
            if not some:
                return
            best = min(some, key=lambda run: (far(run.address), far(run.session), run.asked))
            self._waiting.remove(best)
            best.begun, best.far = now, max(self._now, self._far.get(best.address, 0.0))
            self._now = best.far
            self._running[best.key] = best
            best.admitted.set()

    def _usage(self, address: str, now: float) -> float:
        seconds, at = self._lately.get(address, (0.0, now))
        return seconds * 0.5 ** ((now - at) / self.half_life_s)


def install(turns: Turns) -> None:
    """Let every run of a page wait for its turn.

    Raises:
        AttributeError: this Streamlit runs pages otherwise.
    """
    from streamlit import runtime
    from streamlit.runtime.scriptrunner.script_runner import ScriptRunner

    begin, thread = ScriptRunner._install_event_loop, ScriptRunner._run_script_thread
    stop = ScriptRunner.request_stop

    def run_begins(self: Any) -> None:
        # Streamlit calls this when the thread begins, and before every run, also those of a page that asks to
        # be drawn again.
        if not self.__dict__.setdefault("_begun", False):
            self._begun = True
            begin(self)
            return
        client: Any = runtime.get_instance().get_client(self._session_id)
        address = "" if client is None else client.client_context.remote_ip or ""
        turns.take(id(self), address, self._session_id, lambda: "_left" in self.__dict__)
        begin(self)

    def until_the_last(self: Any) -> None:
        try:
            thread(self)
        finally:
            turns.give(id(self))

    def stopped(self: Any) -> None:
        # Streamlit starts another thread for whoever asks again, and stops this one at its first word.
        stop(self)
        self._left = True
        turns.leave(id(self))

    ScriptRunner._install_event_loop, ScriptRunner.request_stop = run_begins, stopped
    ScriptRunner._run_script_thread = until_the_last
