"""Benchmark reports as a quiet machine might give them, made without measuring anything."""

from __future__ import annotations

import numpy as np

from qmoe_core.bundles import Bundle
from qmoe_core.measure import bench, energy, latency
from qmoe_core.measure.bench import BenchReport
from qmoe_core.measure.energy import EnergyBlock, deployment
from qmoe_core.measure.latency import Contestant
from qmoe_core.measure.peers import TORCH_FP32
from qmoe_core.runtime.store import Store

MEDIANS_US = {
    TORCH_FP32: 100.0,
    "fp32": 35.0,
    "q1": 6.0,
    "q2": 9.0,
    "q4": 10.0,
    "q8": 12.0,
    "q16": 20.0,
    "bitnet": 9.5,
    "ptq8": 13.0,
    "popcount": 4.0,
    "bitnet+q4+q8": 16.0,
    "bitnet+q4+q8 curious": 60.0,
}
TRAINING_KWH = 1.1e-5
_MACHINE = {
    "processor": "Some CPU",
    "cores": 4,
    "vector_extensions": ["avx2"],
    "virtual_machine": False,
    "load_average": [0.4, 0.3, 0.2],
    "threads": 1,
}


def shape(bundle: Bundle) -> list[int]:
    """The network of a bundle's experts."""
    return [bundle.manifest.dim, *bundle.config.expert.hidden, len(bundle.classes)]


def latency_report(network: list[int], what: str = "latency") -> BenchReport:
    """Ten rounds of fifty calls, every contestant a fifth around its median."""
    generator = np.random.default_rng(0)
    kinds = {name: "mixture" if "+" in name else "expert" for name in MEDIANS_US} | {TORCH_FP32: "peer"}
    contestants = [Contestant(name, kinds[name], int, "a note") for name in MEDIANS_US]
    times = {
        name: (1e3 * median * generator.uniform(0.9, 1.1, (10, 50))).astype(np.int64)
        for name, median in MEDIANS_US.items()
    }
    rows = [row.to_json() for row in latency.summarise(contestants, times, baseline=TORCH_FP32)]
    rows = [row | {"peer": None, "speedup_vs_peer": None} for row in rows]
    where = {**_MACHINE, "batch": 1, "cold_cache": what != "latency", "shape": network, "rounds": 10}
    return BenchReport(what, where, rows)


def energy_report() -> BenchReport:
    """Two blocks of ten seconds of each expert, on a machine without a meter."""
    singles = {name: median for name, median in MEDIANS_US.items() if "+" not in name}
    contestants = [Contestant(name, "expert", int) for name in singles]
    blocks = [
        EnergyBlock(name, round(1e7 / median), 10.0, 10.0, 3e-6, 2e-5, 56.0, "modelled")
        for name, median in singles.items()
        for _ in range(2)
    ]
    blocks += [EnergyBlock(energy.IDLE, 0, 10.0, 0.0, 1e-6, 2e-5, 56.0, "modelled")] * 2
    rows = [row.to_json() for row in energy.summarise(contestants, blocks, baseline=TORCH_FP32)]
    for row in rows:
        row["deployment"] = dict(deployment(TRAINING_KWH, row["gross_mj"], 1e6, 56.0).__dict__)
    training = {"what": "fp32, 20 epochs", "n": 3, "kwh": TRAINING_KWH, "cpu_s": 1.0, "source": "modelled"}
    where = {
        **_MACHINE,
        "country": "FRA",
        "grid_g_per_kwh": 56.0,
        "block_s": 10.0,
        "repetitions": 2,
        "quotable": False,
        "training": training,
    }
    return BenchReport("energy", where, rows)


def memory_report(bundle: Bundle) -> BenchReport:
    """One bundle's serving process."""
    row = {"name": bundle.name, "n": 3, "peak_bytes": 189_000_000, "seconds": 1.9, "experts_bytes": 6_700_000}
    machine = {name: value for name, value in _MACHINE.items() if name != "threads"}
    return BenchReport("memory", machine, [row | {"heavy_imports": []}])


def forget(store: Store) -> None:
    """Nothing was measured after all."""
    for entry in store.list(bench.KIND):
        store.delete(f"{entry.kind}/{entry.key}")
