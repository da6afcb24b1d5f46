"""A finished folder takes its place in one step, also where an older one has to go for it."""

from __future__ import annotations

import shutil
from pathlib import Path

from qmoe_core.runtime import system
from qmoe_core.runtime.store import unfinished


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
