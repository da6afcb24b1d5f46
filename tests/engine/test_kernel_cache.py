"""Compiled code comes from numba's cache when it can, and works when there is none or a bad one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import config
from numba.core import caching

from qmoe_core.engine import kernels

ROOT = Path(__file__).parents[2]


def tiny(fingerprint: int) -> Callable:
    """An entry that compiles in no time."""

    def forward(x: np.ndarray, arena: np.ndarray, workspace: np.ndarray, out: np.ndarray) -> int:
        if x.size:
            out[0] = x[0] + arena.size + workspace.size
        return fingerprint

    return forward


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def works(forward: Callable) -> bool:
    out = np.zeros(1, np.float32)
    forward(np.ones(1, np.float32), np.zeros(2, np.uint8), np.zeros(3, np.uint8), out)
    return out[0] == 6


def hits(forward: Callable) -> int:
    return sum(forward.stats.cache_hits.values())  # type: ignore[attr-defined]


def test_second_time_is_a_hit(cache: Path) -> None:
    assert hits(kernels._compile(tiny)) == 0
    again = kernels._compile(tiny)
    assert hits(again) == 1
    assert works(again)


def test_other_sources_are_other_code(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba's cache does not see that a file called by a cached function changed; the fingerprint does."""
    kernels._compile(tiny)
    monkeypatch.setattr(kernels, "_SOURCES", kernels._SOURCES[:-1])
    assert hits(kernels._compile(tiny)) == 0


def test_stale_code_is_not_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels._compile(tiny)
    monkeypatch.setattr(caching.Cache, "_index_key", lambda self, sig, codegen: (sig, "the same for all"))
    kernels._compile(tiny)
    monkeypatch.setattr(kernels, "_SOURCES", kernels._SOURCES[:-1])
    fresh = kernels._compile(tiny)
    assert hits(fresh) == 0
    assert works(fresh)


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_damaged_cache_is_compiled_anew(suffix: str, cache: Path) -> None:
    kernels._compile(tiny)
    for file in cache.rglob(f"*{suffix}"):
        file.write_bytes(b"damaged")
    assert works(kernels._compile(tiny))


def test_no_place_for_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only installation and no home: numba finds nowhere to write."""
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    assert works(kernels._compile(tiny))


def test_full_disk(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
    assert works(kernels._compile(tiny))


@pytest.mark.parametrize("quantized", [True, False])
def test_the_key_of_a_compiled_network_is_that_of_every_process(quantized: bool) -> None:
    """Numba pickles the closure into the key, and a compiled function has a new name in each process."""
    from qmoe_core.engine import convolution

    made = convolution.entry("portable", quantized=quantized)(7)
    assert [cell.cell_contents for cell in made.__closure__ or ()] == [7]
    assert hasattr(made.__globals__["run"], "py_func")


@pytest.mark.skipif("avx2" not in kernels.available(), reason="needs AVX2")
def test_generated_functions_have_names_of_their_own() -> None:
    """Code of several kernels, cached by several processes, must not share a symbol; see `avx2._named`."""
    from qmoe_core.engine import avx2, convolution

    functions: list[Any] = [avx2._forward, avx2._forward_vnni, avx2._forward_avx512]
    functions += [
        convolution._run_of(name, quantized=q) for name in ("avx2", "portable") for q in (True, False)
    ]
    names: dict[str, set[int]] = {}
    while functions:
        python = functions.pop().py_func
        names.setdefault(f"{python.__module__}.{python.__qualname__}", set()).add(id(python))
        cells = (cell.cell_contents for cell in python.__closure__ or ())
        called = (python.__globals__.get(name) for name in python.__code__.co_names)
        functions += [other for other in (*cells, *called) if hasattr(other, "py_func")]
    assert len(names) > 20
    assert [name for name, owners in names.items() if len(owners) > 1 or "<locals>" in name] == []


@pytest.mark.slow
@pytest.mark.skipif("avx2" not in kernels.available(), reason="needs AVX2")
def test_plain_avx2_processor() -> None:
    """The tests of integers again, in a process that compiles for a processor of 2013."""
    features = "+avx2,+fma,+popcnt,+bmi,+bmi2"
    environment = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": features, "PYTHONPATH": str(ROOT)}
    tests = str(Path(__file__).with_name("test_kernels.py"))
    program = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "avx2", tests]
    done = subprocess.run(program, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
