"""A finished file or folder takes its place in one step, also where an older one has to go for it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from qmoe_core.runtime import system
from qmoe_core.runtime.store import unfinished

FULL = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
"""Only writing fails so: the disk, or what this user may use of it, is full."""


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Errors of what is read from or written to an open file name it: the system says no name then.

    Raises:
        OSError: as inside, with a file name.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None:  # else the message is all there is, and a name would hide it
            error.filename = error.filename or str(path)
        raise


def put_in_place(work: Path, folder: Path) -> None:
    """Rename a folder; an older one is replaced, and where the system can swap the two it is never missing.

    Args:
        work: complete and flushed, beside `folder` (see `store.unfinished`).

    Raises:
        OSError: it cannot be; what was there is there still.
    """
    if not folder.exists():
        work.rename(folder)
    elif system.swap(work, folder):
        shutil.rmtree(work, ignore_errors=True)
    else:
        old = unfinished(folder)
        folder.rename(old)
        try:
            work.rename(folder)
        except OSError:
            old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, complete or not at all.

    Raises:
        OSError: it cannot be written; what was there is there still.
    """
    descriptor, work = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(work).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(work).unlink()
        raise
