"""Files decoded ahead of their use, in threads: decoders leave Python's lock, so all cores are at work."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from qmoe_core.runtime import system

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    fn: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None
) -> Iterator[Result]:
    """Results of `fn`, in the order of the items; no more than a thread's worth each is waiting at any time.

    Args:
        fn: called in other threads; what it raises is raised here, in its turn.
        threads: how many; when None, what OMP_NUM_THREADS says (1 where processes share a machine), else one
            for each core that this process may use.

    >>> list(ahead(abs, [-1, 2, -3], threads=2))
    [1, 2, 3]
    """
    named = os.environ.get("OMP_NUM_THREADS", "")
    threads = threads or (int(named) if named.isdecimal() else 0) or system.cores()
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(fn, item))
                if len(waiting) == threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
