"""Standard input, output and error as the command line needs them, whatever they were when it started."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any


def prepare() -> None:
    """Let every text be printed, and give streams that are closed (`>&-`) a descriptor of their own.

    A character that the encoding of the terminal lacks is printed as its escape. Without a descriptor of its
    own, a closed stream's number would go to the next file that is opened, and output would land in it.
    What is written to a closed output, or read from a closed input, fails with an `OSError`; what would go
    to a closed standard error is lost, as was asked for.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream: Any = getattr(sys, name)
        if stream is None:
            # Open for the other direction, so that using it is an error.
            descriptor = os.open(os.devnull, os.O_RDONLY if name == "stdout" else os.O_WRONLY)
            if descriptor != number and not _open(number):
                os.dup2(descriptor, number)
                os.close(descriptor)
                descriptor = number
            os.set_inheritable(descriptor, True)
            mode = "r" if name == "stdin" else "w"
            buffering = 1 if name == "stderr" else -1
            stream = open(descriptor, mode, buffering, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict" and name != "stdin":
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Print a line on standard error; nothing happens where it cannot be written."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        give_up(sys.stderr)


def give_up(stream: Any) -> None:
    """Drop what a stream still holds: it must not be tried again when the interpreter ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
