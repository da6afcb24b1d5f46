"""The machine a figure was taken on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

from qmoe_core.runtime import system

PACKAGES = ("numpy", "numba", "torch", "onnxruntime", "codecarbon")


def vector_extensions() -> list[str]:
    """Which of the instruction sets that matter here the processor has."""
    flags = system.processor_flags()
    return [name for name in ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni") if name in flags]


def describe(**more: Any) -> dict[str, Any]:
    """Machine, versions and load, to be kept with every figure.

    Args:
        more: what else belongs to the measurement, such as `threads=1`.
    """
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": system.processor(),
        "cores": os.cpu_count(),
        "vector_extensions": vector_extensions(),
        "virtual_machine": system.virtual(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": versions,
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        **more,
    }


def identity() -> dict[str, Any]:
    """The machine without what changes from minute to minute: part of the address of a kept measurement."""
    return {key: value for key, value in describe().items() if key != "load_average"}
