"""Where compiled machine code is kept from one process to the next, and by whom it may be written.

Numba reads its cache with pickle, so whoever can write a file there runs code as this user. Therefore only
folders are used that are this user's own (or root's) and that nobody else may write, up to the root of
the file system.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from qmoe_core.runtime import system

PACKAGE = Path(__file__).parents[1]
KERNELS = ("audio", "engine", "routing")
"""Folders of the package whose functions are kept; numba's own place for them is `__pycache__` in each."""
SETTINGS = ("QMOE_CACHE", "NUMBA_CACHE_DIR")
_log = logging.getLogger(__name__)


def cached(function: Callable, *signature: Any, **options: Any) -> Any:
    """Compile a function with numba, and keep the machine code for the next process where there is a place.

    Args:
        function: of one of the folders `KERNELS`.
        signature: of the only version that there shall be; without one, it is compiled when first called.
        options: numba's.
    """
    from numba import njit

    if _prepared():
        try:
            return njit(*signature, cache=True, **options)(function)
        except (RuntimeError, OSError):  # numba found no such place after all
            pass
    return njit(*signature, **options)(function)


def broadcasting(layout: str) -> Callable[[Callable], Any]:
    """Compile a function of last axes, float64, that broadcasts over all other axes as NumPy's own do.

    Args:
        layout: of the core axes, as `numpy.vectorize` takes it: `(n),()->(n)`. The function gets a number for
            each input `()`, and an array to be written for each output, with one element for `()`.
    """
    from numba import guvectorize, types

    def array(axes: str) -> Any:
        return types.Array(types.float64, len(axes.split(",")), "A")

    inputs, outputs = (re.findall(r"\((.*?)\)", part) for part in layout.split("->"))
    arguments = [*(array(axes) if axes else types.float64 for axes in inputs), *map(array, outputs)]

    def compiled(function: Callable) -> Any:
        if _prepared():
            try:
                return guvectorize([tuple(arguments)], layout, cache=True)(function)
            except Exception:
                pass  # Whatever is wrong with the cache, the code can be compiled without.
        return guvectorize([tuple(arguments)], layout)(function)

    return compiled


@functools.cache
def _prepared() -> bool:
    """Tell numba where to keep code; False where there is no such place, which is said once."""
    from numba import config

    numba: Any = config
    if numba.CACHE_DIR and not os.environ.get("QMOE_CACHE") and not os.environ.get("NUMBA_CACHE_DIR"):
        return True  # set by a program
    place = find(PACKAGE)
    if place is None:
        _log.warning(
            "compiled code cannot be kept, so each call takes about 10 s longer; "
            "set QMOE_CACHE to a folder that you, and only you, can write"
        )
        return False
    numba.CACHE_DIR = str(place) if place != PACKAGE else ""
    return True


def find(package: Path) -> Path | None:
    """The folder to keep machine code in.

    In this order: that of QMOE_CACHE or NUMBA_CACHE_DIR; the package itself; the user's folder for caches;
    one of this user among the temporary files. A folder that is asked for and cannot be used is warned of.

    Args:
        package: gives itself where each of its folders `KERNELS` can keep its own.

    Returns:
        A folder that exists, or None where none can be used.
    """
    for setting in SETTINGS:
        if asked := os.environ.get(setting):
            folder = Path(asked)
            if made := _own(folder / "machine-code" if setting == "QMOE_CACHE" else folder):
                return made
            _log.warning(
                "%s=%s: compiled code is not kept there, because it cannot be written or belongs to others",
                setting,
                asked,
            )
    if all(_own(package / name / "__pycache__") for name in KERNELS):
        return package
    return next(filter(None, map(_own, _usual())), None)


def _usual() -> Iterable[Path]:
    import platformdirs

    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises where there is none
    if Path(home).is_dir():
        yield Path(platformdirs.user_cache_dir("qmoe", appauthor=False)) / "machine-code"
    user = str(os.getuid()) if hasattr(os, "getuid") else "user"
    yield Path(tempfile.gettempdir()) / f"qmoe-machine-code-{user}"


def _own(folder: Path) -> Path | None:
    """The folder, made for this user alone where there is none, if it can be written and is safe."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = folder.resolve(strict=True)
        if not folder.is_dir() or not is_safe(folder):
            return None
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):
        return None


def is_safe(folder: Path) -> bool:
    """Whether nobody but this user and root can put a file into a folder, or another folder in its place.

    True on Windows, where the rights of a user's folders are not those of POSIX.

    Args:
        folder: absolute, without links.

    Raises:
        OSError: it, or one above it, cannot be looked at.
    """
    if system.WINDOWS or not hasattr(os, "getuid"):
        return True
    # Who owns the root of the file system is root, also where a container shows root under another number.
    trusted = {0, os.getuid(), Path(folder.anchor).stat().st_uid}
    for path in (folder, *folder.parents):
        found = path.stat()
        if found.st_uid not in trusted:
            return False
        shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        # In a folder such as /tmp, only the owner of a file can rename or remove it.
        if shared and (path == folder or not found.st_mode & stat.S_ISVTX):
            return False
    return True
