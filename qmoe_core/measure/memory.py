"""Memory of serving: the peak of a fresh process that loads a bundle, or a few experts, and judges a clip."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from qmoe_core import engine
from qmoe_core.errors import BundleError

_PEAK = """
import sys
from qmoe_core.runtime.system import peak_bytes
"""
_SERVE = """
import json, time
started = time.perf_counter()
import numpy as np
from qmoe_core import bundles, serve
from qmoe_core.audio import decode
loaded = bundles.load(sys.argv[1] or None)
noise = np.random.default_rng(0).normal(0.0, 0.1, decode.WINDOW_SAMPLES).astype(np.float32)
serve.classify(decode.from_samples(noise, decode.SAMPLE_RATE), loaded)
print(json.dumps({"peak_bytes": peak_bytes(),
                  "seconds": time.perf_counter() - started,
                  "experts_bytes": sum(e.nbytes for e in loaded._experts.values()),
                  "heavy": sorted({"torch", "timm", "librosa", "scipy", "streamlit"} & set(sys.modules))}))
"""

_RUN = """
import numpy as np
from qmoe_core import engine
for file in sys.argv[1:]:
    expert = engine.PackedExpert(engine.load(file))
    expert.logits(np.zeros(expert.dim, np.float32))
print(peak_bytes())
"""


class Peaks(NamedTuple):
    """Peak resident bytes of each process, and the bytes of the files it loaded."""

    peaks: list[int]
    file_bytes: int


def peaks_of_experts(experts: Mapping[str, engine.ExpertWeights], runs: int = 3) -> Peaks:
    """Start fresh processes that load these experts from their files and run each once.

    Args:
        experts: one, or those of a mixture.
        runs: processes, one after another.

    Raises:
        BundleError: the process failed; the message is its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / f"{name}.safetensors") for name in experts]
        for file, weights in zip(files, experts.values(), strict=True):
            engine.save(weights, Path(file))
        peaks = [
            int(_printed([sys.executable, "-c", _PEAK + _RUN, *files], "+".join(experts)))
            for _ in range(runs)
        ]
        return Peaks(peaks, sum(Path(file).stat().st_size for file in files))


def _printed(command: list[str], name: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BundleError(f"{name}: the serving process failed: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


@dataclass(frozen=True)
class MemoryRow:
    """A serving process: peak resident memory, and what it imported that it should not."""

    name: str
    n: int
    peak_bytes: int
    seconds: float
    experts_bytes: int
    heavy_imports: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As `qmoe bench memory --json` prints it."""
        return {**self.__dict__, "heavy_imports": list(self.heavy_imports)}


def serving(bundle: str | None, *, name: str, runs: int = 3) -> MemoryRow:
    """Start fresh processes that load a bundle and judge five seconds of noise.

    Args:
        bundle: folder or name; None for the default.
        name: of the row.
        runs: processes; the row holds the largest peak and the shortest time.

    Raises:
        BundleError: the process failed; the message is its own.
    """
    command = [sys.executable, "-c", _PEAK + _SERVE, bundle or ""]
    results = [json.loads(_printed(command, name)) for _ in range(runs)]
    return MemoryRow(
        name=name,
        n=runs,
        peak_bytes=max(r["peak_bytes"] for r in results),
        seconds=min(r["seconds"] for r in results),
        experts_bytes=results[0]["experts_bytes"],
        heavy_imports=tuple(results[0]["heavy"]),
    )
