"""Sessions: a pipeline on a thread, for as long as somebody looks.

A page touches its session whenever it draws or brings a packet. A session that nobody has touched for a while
is stopped: its thread ends and its microphone is free, whether the page was left, the tab closed or the
connection lost. What it heard stays with who holds it, and touching it again goes on. Sessions that run are
bounded in number, and when the last has stopped no thread is left. Where there are too many, a page that is
looked at takes the place of one in a hidden tab, or of one whose owner has more of them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from qmoe_core.errors import UserError
from qmoe_core.live.pipeline import Pipeline

UNSEEN_S = 10.0
"""After which a session is stopped that nobody looks at."""
HIDDEN_S = 90.0
"""The same for a page in a hidden tab, which browsers let run once a minute."""
MAX_RUNNING = 8
WAIT_S = 0.2
"""How long a worker waits for sound before it looks whether it should stop."""

logger = logging.getLogger(__name__)


class Session:
    """One listener: a pipeline and its worker. Made by whoever shows it, run by a `Registry`.

    Args:
        pipeline: what listens.
        owner: who wants it, such as a network address.
    """

    def __init__(self, pipeline: Pipeline, owner: str = "") -> None:
        self.pipeline = pipeline
        self.owner = owner
        self.seen = 0.0
        self.patience = UNSEEN_S
        self.failure = ""
        """Why the worker ended by itself; empty while it has not."""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _start(self) -> None:
        self._stop.clear()
        self.failure = ""
        self._thread = threading.Thread(target=self._work, name="qmoe-live", daemon=True)
        self._thread.start()

    def _end(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                self.pipeline.step()
                self.pipeline.wait(WAIT_S)
            self.pipeline.pause()
        except Exception as error:
            self.failure = f"Listening ended with an error: {error}"
            logger.exception("a live session ended")


class Registry:
    """The sessions that run in this process.

    Args:
        clock: seconds; limit: how many may run at once.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, limit: int = MAX_RUNNING) -> None:
        self._clock, self._limit = clock, limit
        self._running: set[Session] = set()
        self._lock = threading.Lock()
        self._look = threading.Event()
        self._reaper: threading.Thread | None = None

    @property
    def running(self) -> int:
        """How many sessions run."""
        return len(self._running)

    def touch(self, session: Session, *, hidden: bool = False, most: int | None = None) -> None:
        """Somebody looks at a session: start it if it does not run, and keep it running.

        Args:
            hidden: the page is in a tab that cannot be seen, and will be back only once a minute.
            most: sessions that its owner may have; None for any number.

        Raises:
            UserError: too many run already.
        """
        displaced = None
        with self._lock:
            session.seen = self._clock()
            session.patience = HIDDEN_S if hidden else UNSEEN_S
            if session in self._running:
                return
            if most is not None and self._of(session.owner) >= most:
                raise UserError(
                    f"{most} live sessions run from your network already; stop one of them first."
                )
            if len(self._running) >= self._limit:
                displaced = None if hidden else self._displaced_by(session)
                if displaced is None:
                    raise UserError(
                        f"{len(self._running)} live sessions run on this machine already; "
                        "close one, then start again."
                    )
                self._running.discard(displaced)
            session._start()
            self._running.add(session)
            if self._reaper is None:
                self._reaper = threading.Thread(target=self._reap_until_none, name="qmoe-reaper", daemon=True)
                self._reaper.start()
        if displaced is not None:
            self.stop(displaced)
            displaced.failure = "Another page listens in the place of this one, which was not looked at."

    def _of(self, owner: str) -> int:
        return sum(session.owner == owner for session in self._running)

    def _displaced_by(self, session: Session) -> Session | None:
        """A session whose place it may take: in a hidden tab, or of an owner who has more of them."""
        mine = self._of(session.owner) + 1
        others = [s for s in self._running if s.patience == HIDDEN_S or self._of(s.owner) > mine]
        return min(others, key=lambda s: (s.patience != HIDDEN_S, -self._of(s.owner), s.seen), default=None)

    def stop(self, session: Session) -> None:
        """End a session's worker and free its microphone; nothing happens if it does not run."""
        with self._lock:
            self._running.discard(session)
        session._end()
        session.pipeline.source.close()
        self._look.set()

    def reap(self) -> int:
        """Stop the sessions that nobody looks at, and say how many those were."""
        with self._lock:
            now = self._clock()
            unseen = [s for s in self._running if now - s.seen > s.patience or not s.running]
        for session in unseen:
            self.stop(session)
        return len(unseen)

    def close(self) -> None:
        """Stop all sessions."""
        for session in list(self._running):
            self.stop(session)
        if (reaper := self._reaper) is not None:
            reaper.join()

    def _reap_until_none(self) -> None:
        while True:
            self._look.wait(1.0)
            self._look.clear()
            self.reap()
            with self._lock:
                if not self._running:
                    self._reaper = None
                    return


registry = Registry()
"""Of this process."""
