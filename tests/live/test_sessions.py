"""Sessions: run while somebody looks, and leave no thread behind."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from qmoe_core.errors import UserError
from qmoe_core.live.sessions import HIDDEN_S, UNSEEN_S, Registry, Session


@dataclass
class Source:
    closed: int = 0

    def close(self) -> None:
        self.closed += 1


@dataclass
class Pipeline:
    """Counts its steps, and waits until it is told."""

    source: Source = field(default_factory=Source)
    stepped: threading.Event = field(default_factory=threading.Event)
    paused: int = 0
    fault: Exception | None = None

    def step(self) -> None:
        if self.fault:
            raise self.fault
        self.stepped.set()

    def wait(self, timeout: float) -> None:
        threading.Event().wait(0.001)

    def pause(self) -> None:
        self.paused += 1


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(clock: Clock):
    made = Registry(clock, limit=2)
    yield made
    made.close()
    assert [t.name for t in threading.enumerate() if t.name.startswith("qmoe-")] == []


def session(owner: str = "") -> Session:
    return Session(Pipeline(), owner)  # type: ignore[arg-type]


def test_it_runs_while_somebody_looks(registry: Registry, clock: Clock) -> None:
    one = session()
    registry.touch(one)
    assert one.pipeline.stepped.wait(60)  # type: ignore[attr-defined]
    for _ in range(3):
        clock.now += UNSEEN_S - 1
        registry.touch(one)
        assert registry.reap() == 0
    assert one.running
    clock.now += UNSEEN_S + 1
    registry.reap()
    registry.close()
    assert not one.running
    assert one.pipeline.source.closed >= 1  # type: ignore[attr-defined]
    assert one.pipeline.paused == 1  # type: ignore[attr-defined]


def test_it_goes_on_when_somebody_looks_again(registry: Registry, clock: Clock) -> None:
    one = session()
    registry.touch(one)
    registry.stop(one)
    assert (one.running, registry.running) == (False, 0)
    registry.touch(one)
    assert (one.running, registry.running) == (True, 1)


def test_a_hidden_tab_has_more_time(registry: Registry, clock: Clock) -> None:
    one = session()
    registry.touch(one, hidden=True)
    clock.now += HIDDEN_S - 1
    registry.reap()
    assert one.running
    clock.now += 2
    registry.reap()
    registry.close()
    assert not one.running


def test_no_more_than_the_machine_can_take(registry: Registry) -> None:
    one, two, three = session(), session(), session()
    registry.touch(one)
    registry.touch(two)
    with pytest.raises(UserError, match="2 live sessions run"):
        registry.touch(three)
    registry.touch(two)  # those that run go on
    registry.stop(one)
    registry.touch(three)
    assert registry.running == 2


def test_a_hidden_tab_makes_room_for_a_page_that_is_looked_at(registry: Registry) -> None:
    seen, hidden, another = session(), session(), session()
    registry.touch(seen)
    registry.touch(hidden, hidden=True)
    with pytest.raises(UserError, match="2 live sessions run"):
        registry.touch(another, hidden=True)  # hidden itself

    registry.touch(another)

    assert [one.running for one in (seen, hidden, another)] == [True, False, True]
    assert "Another page listens" in hidden.failure
    assert hidden.pipeline.source.closed == 1  # type: ignore[attr-defined]


def test_nobody_takes_all_places(registry: Registry, clock: Clock) -> None:
    first, second, stranger = session("a"), session("a"), session("b")
    registry.touch(first, most=2)
    clock.now = 1.0
    registry.touch(second, most=2)
    with pytest.raises(UserError, match="2 live sessions run from your network"):
        registry.touch(session("a"), most=2)

    registry.touch(stranger, most=2)

    assert [one.running for one in (first, second, stranger)] == [False, True, True]
    with pytest.raises(UserError, match="2 live sessions run on this machine"):
        registry.touch(session("c"), most=2)  # each owner has one


def test_an_error_ends_the_session_and_is_told(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    one = session()
    one.pipeline.fault = ValueError("broken")  # type: ignore[attr-defined]
    registry.touch(one)
    assert one._thread is not None
    one._thread.join(60)
    assert "broken" in one.failure
    assert "a live session ended" in caplog.text
    registry.close()
    one.pipeline.fault = None  # type: ignore[attr-defined]
    registry.touch(one)
    assert (one.failure, one.running) == ("", True)


def test_stopping_what_does_not_run(registry: Registry) -> None:
    registry.stop(session())
    assert registry.reap() == 0
