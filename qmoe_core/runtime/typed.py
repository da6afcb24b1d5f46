"""Reading JSON and plain objects as declared types, from any number of threads.

msgspec (0.22) works out what a type declares when it is first used, partly in Python code. A second thread
that uses the type meanwhile finds an unfinished description, and the whole process ends with a segmentation
fault: two visitors who arrive together are enough. Here the first use of a type is under a lock.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar, cast

import msgspec

T = TypeVar("T")

_first_use = threading.Lock()
_described: set[Any] = set()


def decode(data: bytes | str, type: type[T]) -> T:
    """JSON as a value of a type.

    Raises:
        msgspec.DecodeError: it is not JSON; msgspec.ValidationError, which is one: it does not fit the type.
    """
    _describe(type)
    return cast("T", msgspec.json.decode(data, type=type))


def convert(value: object, type: type[T]) -> T:
    """A plain value (of dictionaries, lists, numbers, texts) as a value of a type.

    Raises:
        msgspec.ValidationError: it does not fit the type.
    """
    _describe(type)
    return cast("T", msgspec.convert(value, type))


def _describe(type: Any) -> None:
    """Let msgspec work out a type, and all that it names, before anybody uses it."""
    if type not in _described:
        with _first_use:
            msgspec.json.Decoder(type)
            _described.add(type)
