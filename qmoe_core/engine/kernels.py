"""Which kernels run an expert here, and their compiled code, cached from process to process where possible.

`avx512` wants an x86 processor with AVX-512 that sums products of bytes in one instruction, `vnni` one that
does so without AVX-512, `avx2` one with AVX2 and FMA;
`portable` runs wherever numba does, `numpy` without a compiler at all. They compute the same integers. The
environment variable QMOE_KERNEL names one to use instead of the best.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qmoe_core.engine import arena, reference
from qmoe_core.engine.weights import HiddenLayer
from qmoe_core.errors import ConfigError
from qmoe_core.runtime import machine_code

NAMES = ("avx512", "vnni", "avx2", "portable", "numpy")
"""From the fastest to the plainest."""

_SOURCES = ("arena.py", "avx2.py", "convolution.py", "convolution_plan.py", "portable.py", "vectors.py")
_compiling = threading.Lock()


class Kernel(NamedTuple):
    """A way to run a stack of layers."""

    pack: Callable[[tuple[HiddenLayer, ...]], Any]
    """Layers (the last without LayerNorm) to what `forward` reads; it has `nbytes`."""
    scratch: Callable[[Any], np.ndarray]
    """The memory that one caller of `forward` needs, uint8."""
    forward: Callable[[np.ndarray, Any, np.ndarray, np.ndarray], object]
    """(x float32 [B·D], packed, scratch, out float32 [B·C]); ValueError if they do not fit."""


def available() -> tuple[str, ...]:
    """The kernels that this processor, as numba is told to see it, can run; the best first."""
    from numba import config

    from qmoe_core.engine import vectors

    if getattr(config, "DISABLE_JIT", False):
        return NAMES[4:]
    if not vectors.has_vectors():
        return NAMES[3:]
    if not vectors.has_vnni():
        return NAMES[2:]
    return NAMES if vectors.has_avx512_vnni() else NAMES[1:]


def choose(name: str = "auto") -> str:
    """The kernel to use.

    Args:
        name: one of `NAMES`, or `auto`: what QMOE_KERNEL says, else the best there is.

    Raises:
        ConfigError: a name that does not exist, or a kernel that this processor cannot run.
    """
    if name == "auto":
        name = os.environ.get("QMOE_KERNEL") or "auto"
    if name == "numpy":
        return name  # Without a look at numba.
    here = available()
    if name == "auto":
        return here[0]
    if name not in here:
        raise ConfigError(f"kernel '{name}' cannot run here; accepted are auto, {', '.join(here)}")
    return name


def load(name: str) -> Kernel:
    """A kernel by name, its code from numba's cache if it is there."""
    with _compiling:
        return _load(name)


@cache
def _load(name: str) -> Kernel:
    if name == "numpy":
        return Kernel(reference.pack, lambda packed: np.empty(0, np.uint8), reference.forward)
    if name == "portable":
        from qmoe_core.engine import portable

        return _compiled(arena.row_order, _compile(portable.entry))
    from qmoe_core.engine import avx2

    if name == "avx512":
        return _compiled(partial(arena.lane_order, size=64), _compile(avx2.entry_avx512))
    if name == "vnni":
        return _compiled(partial(arena.lane_order, size=32), _compile(avx2.entry_vnni))
    return _compiled(arena.vector_order, _compile(avx2.entry))


def load_network(name: str, *, quantized: bool) -> Callable:
    """The compiled function that `convolution.entry` describes, from numba's cache if it is there.

    Args:
        name: a kernel other than `numpy`.
        quantized: whether activations are uint8.
    """
    with _compiling:
        return _load_network(name, quantized)


@cache
def _load_network(name: str, quantized: bool) -> Callable:
    from qmoe_core.engine import convolution

    return _compile(convolution.entry(name, quantized=quantized), of_network=True)


def _compiled(order: arena.Order, forward: Any) -> Kernel:
    return Kernel(partial(arena.build, order=order), arena.workspace_for, forward)


def _compile(entry: Callable[[int], Callable], *, of_network: bool = False) -> Any:
    """Compile a kernel's entry, or get it from numba's cache.

    Numba's cache knows when the file of a function changed, but not the other files that it calls, so the
    entry closes over a fingerprint of all of them; the closure is part of the cache's key. Called with
    nothing to do, it returns the fingerprint, which shows that the machine code found is that of these
    files. A cache that cannot be written, or is damaged, costs the time to compile and nothing else.
    """
    from numba import njit, types

    digest = hashlib.sha256()
    for source in _SOURCES:
        digest.update(Path(__file__).with_name(source).read_bytes())
    fingerprint = int.from_bytes(digest.digest()[:7], "little")
    # Arrays that may not be written are accepted where nothing is written, so that no call compiles anew.
    read_only, memory = types.Array(types.float32, 1, "C", readonly=True), types.uint8[::1]
    arguments = [read_only, memory, memory, types.float32[::1]]
    nothing: list[Any] = [np.empty(0, dtype) for dtype in (np.float32, np.uint8, np.uint8, np.float32)]
    if of_network:
        arguments[2:2] = types.int64[:, ::1], types.int64[::1]
        nothing[2:2] = np.empty((0, 0), np.int64), np.empty(0, np.int64)
        arguments.append(types.int64)
        nothing.append(0)
    signature = types.int64(*arguments)
    try:
        forward = machine_code.cached(entry(fingerprint), signature, error_model="numpy")
        if forward(*nothing) == fingerprint:
            return forward
    except Exception:
        pass  # Whatever is wrong with the cache, the code can be compiled without.
    return njit(signature, error_model="numpy")(entry(fingerprint))
