"""What it costs on this machine: time, memory, energy and files of every expert and mixture of the tables.

Everything is kept under machine, code and settings (`measure.kept`), so that a second report measures
nothing. Latency is one interleaved race on one thread over the dataset's own clips: a router sends them to
different experts, and a mixture's time varies with that.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from qmoe_core import embedders, engine
from qmoe_core.audio import decode
from qmoe_core.errors import Cancelled
from qmoe_core.measure import bench, energy, latency, memory, peers, size
from qmoe_core.measure.kept import Measured, measured
from qmoe_core.measure.latency import Contestant
from qmoe_core.routing.router import Router
from qmoe_core.runtime.executor import Context, Progress
from qmoe_core.runtime.store import Store


@dataclass(frozen=True)
class Effort:
    """How long it may take.

    Attributes:
        calls: timed calls of each contestant; processes: fresh processes for each peak of memory.
        energy_repetitions: blocks of 10 s for each contestant; 0, or a machine without an energy meter,
            takes the power of one block for all.
        country: of the grid, three letters.
    """

    calls: int = 2000
    processes: int = 3
    energy_repetitions: int = 3
    country: str = "FRA"


EMBEDDINGS = 30
"""Timed calls of an embedder."""
MODELLED = "modelled"
"""What codecarbon's figures are called where the machine has no energy meter."""
QUICK = Effort(calls=1000, processes=1, energy_repetitions=0)


class Loaded(NamedTuple):
    """Trained experts, the clips they are timed on (standardised, float32 [n, D]), and the mixtures' "
    "routers."""

    weights: dict[str, engine.ExpertWeights]
    clips: np.ndarray
    routers: dict[tuple[str, ...], Router]


@dataclass(frozen=True)
class Served:
    """What is measured: its address, what it is in words, and how to load it (only when it is measured).

    Attributes:
        embedder: name of the embedder before it; None where embeddings were imported.
    """

    address: str
    words: str
    load: Callable[[], Loaded]
    embedder: str | None = None


@dataclass(frozen=True)
class Energy:
    """Of one inference: mJ of each block, CO2 in µg for the grid, and whether measured or modelled."""

    millijoules: tuple[float, ...]
    co2_ug: float
    source: str


@dataclass(frozen=True)
class Costs:
    """All of it, by name of expert or mixture; mixtures as `bitnet+q4+q8` and `bitnet+q4+q8 curious`.

    Attributes:
        rows: latency's figures; times: nanoseconds, int [rounds, calls].
        peaks: resident bytes of fresh processes; files: bytes that must be carried.
        embedding_us: median time of the embedder for 5 s of sound, waveform to embedding; None where it is
            not known how the embeddings were computed.
        energies: of one inference, from the waveform where the embedder is known.
        training_kw: power of one training process, for Table 6; serving_kw: of one that serves.
        how: in words, how energies came about; environment: of the latency run.
    """

    served: str
    rows: Mapping[str, dict[str, Any]]
    times: Mapping[str, np.ndarray]
    peaks: Mapping[str, list[int]]
    files: Mapping[str, int]
    energies: Mapping[str, Energy]
    embedding_us: float | None
    training_kw: float
    serving_kw: float
    grid_g_per_kwh: float
    source: str
    how: str
    environment: dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """Bytes of every expert's file at the paper's shape, and of a mixture's files together."""

    experts: Mapping[str, dict[str, Any]]
    router_bytes: int


def measure(served: Served, effort: Effort, context: Context, *, fresh: bool = False) -> Costs:
    """Measure, or find, what it costs.

    Raises:
        ConfigError: codecarbon is missing, or does not know the country.
        Cancelled: what was measured is kept.
    """
    show, cancelled = context.progress, context.cancelled
    loaded = functools.cache(served.load)

    def kept(what: str, settings: dict[str, Any], make: Callable[[], Measured]):
        if cancelled is not None and cancelled():
            raise Cancelled("stopped; what was measured is kept")
        return measured(what, {**settings, "of": served.address}, make, context.store, fresh=fresh)

    timed = kept(
        "latency", {"calls": effort.calls}, lambda: _race(loaded(), effort, show("latency"), cancelled)
    )
    rows = {row["name"]: row for row in timed.metadata["rows"]}
    resident = kept(
        "memory", {"processes": effort.processes}, lambda: _peaks(loaded(), effort, show("memory"))
    ).metadata
    power = kept("power", {"country": effort.country}, lambda: _power(loaded(), effort)).metadata
    grid, embedding_us = power["grid_g_per_kwh"], None
    if name := served.embedder:
        settings = {"embedder": name, "seconds": decode.WINDOW_S}
        embedding_us = kept("embedding", settings, lambda: _embedding(name)).metadata["p50_us"]
    before = power["serving_kw"] * (embedding_us or 0.0)
    if effort.energy_repetitions and power["source"] != MODELLED:
        settings = {"repetitions": effort.energy_repetitions, "country": effort.country}
        blocks = kept("energy", settings, lambda: _blocks(loaded(), effort, show("energy"), cancelled))
        blocks = blocks.metadata["blocks"]
        how = f"{effort.energy_repetitions} blocks of {energy.MIN_BLOCK_S:g} s each, interleaved"
    else:
        blocks = {name: [power["serving_kw"] * row["p50_us"]] for name, row in rows.items()}
        how = f"median time × the power of one block of {energy.MIN_BLOCK_S:g} s (fp32 expert running)"
        # Without a meter power is a constant, and a block of each would only measure the time once more.
    energies = {
        name: _energy([before + one for one in found], grid, power["source"])
        for name, found in blocks.items()
    }
    if embedding_us is None:
        how += "; of the head alone, since it is not known how the embeddings were computed"
    else:
        how += f"; from the waveform, {embedding_us:,.0f} µs of it the embedder {served.embedder}"
    return Costs(
        served=served.words,
        rows=rows,
        times=timed.tensors,
        peaks=resident["peaks"],
        files=resident["files"],
        energies=energies,
        embedding_us=embedding_us,
        training_kw=power["training_kw"],
        serving_kw=power["serving_kw"],
        grid_g_per_kwh=grid,
        source=power["source"],
        how=how,
        environment=timed.metadata["environment"],
    )


def _contestants(loaded: Loaded) -> list[Contestant]:
    clips = np.ascontiguousarray(loaded.clips, np.float32)
    made = peers.torch_only(loaded.weights["fp32"], clips[:1])
    made += bench.expert_contestants(loaded.weights, clips[:1])
    return made + bench.mixture_contestants(loaded.weights, clips, loaded.routers)


def _race(loaded: Loaded, effort: Effort, show: Progress, cancelled: Callable[[], bool] | None) -> Measured:
    contestants = _contestants(loaded)
    times = latency.race(contestants, n=effort.calls, progress=show, cancelled=cancelled)
    rows = latency.summarise(contestants, times, baseline="fp32")
    documents = [{k: v for k, v in row.to_json().items() if k != "quantiles_us"} for row in rows]
    return Measured(times, {"rows": documents})


def _peaks(loaded: Loaded, effort: Effort, show: Progress) -> Measured:
    members = {name: (name,) for name in loaded.weights} | {"+".join(m): m for m in loaded.routers}
    peaks, files = {}, {}

    def look(name: str) -> tuple[str, memory.Peaks]:
        weights = {expert: loaded.weights[expert] for expert in members[name]}
        return name, memory.peaks_of_experts(weights, effort.processes)

    with ThreadPoolExecutor(2) as pool:  # a peak of memory is the same on a busy machine
        for done, (name, found) in enumerate(pool.map(look, members), start=1):
            peaks[name], files[name] = found
            if router := loaded.routers.get(members[name]):
                files[name] += sum(tensor.nbytes for tensor in router.to_tensors().values())
                peaks[f"{name} curious"], files[f"{name} curious"] = peaks[name], files[name]
            show(done, len(members), name)
    return Measured({}, {"peaks": peaks, "files": files})


def _power(loaded: Loaded, effort: Effort) -> Measured:
    """What a process draws that serves one expert, and one that trains one, kW."""
    expert = bench.expert_contestants({"fp32": loaded.weights["fp32"]}, loaded.clips[:1])[0]

    def serve() -> int:
        until, calls = time.perf_counter() + energy.MIN_BLOCK_S, 0
        while time.perf_counter() < until:
            expert.call()
            calls += 1
        return calls

    with latency.quiet():
        serving = energy.track("serving", effort.country, serve)
    training = bench.training_block(energy.MIN_BLOCK_S, effort.country)
    return Measured(
        {},
        {
            "serving_kw": serving.gross_kwh / (serving.wall_s / 3600.0),
            "training_kw": training.gross_kwh / (training.wall_s / 3600.0),
            "grid_g_per_kwh": serving.grid_g_per_kwh,
            "source": serving.source,
        },
    )


def _blocks(loaded: Loaded, effort: Effort, show: Progress, cancelled: Callable[[], bool] | None) -> Measured:
    contestants = [c for c in _contestants(loaded) if not c.name.endswith("router-mc")]
    made = energy.run_blocks(
        contestants,
        repetitions=effort.energy_repetitions,
        country=effort.country,
        progress=show,
        cancelled=cancelled,
    )
    found: dict[str, list[float]] = {}
    for block in made:
        if block.calls:
            found.setdefault(block.name, []).append(block.gross_kwh / block.calls * energy.KWH_TO_MJ)
    return Measured({}, {"blocks": found})


def _embedding(name: str) -> Measured:
    """Median time of an embedder for one window of 5 s."""
    embedder = embedders.create(name)
    samples = round(decode.WINDOW_S * embedder.sample_rate)
    window = np.random.default_rng(0).normal(0.0, 0.1, (1, samples)).astype(np.float32)
    times = latency.race([Contestant(name, "peer", lambda: embedder.embed(window))], n=EMBEDDINGS)
    return Measured({}, {"p50_us": float(np.median(times[name])) / 1e3})


def _energy(millijoules: Sequence[float], grid_g_per_kwh: float, source: str) -> Energy:
    mean = float(np.mean(millijoules))
    return Energy(tuple(millijoules), 1e6 * mean / energy.KWH_TO_MJ * grid_g_per_kwh, source)


def sizes(experts: Sequence[str], store: Store, *, fresh: bool = False) -> Sizes:
    """Files at the paper's shape (1536–640–320–50), for Table 7."""

    def make() -> Measured:
        rows = [row.to_json() for row in size.sizes(size.PAPER_SHAPE, experts)]
        return Measured({}, {"rows": rows})

    entry = measured(
        "size", {"shape": list(size.PAPER_SHAPE), "experts": list(experts)}, make, store, fresh=fresh
    )
    widths = (size.PAPER_SHAPE[0], 128, 64, 4)  # §4.3, for the largest mixture
    router = sum(4 * (inputs + 1) * outputs for inputs, outputs in pairwise(widths))
    return Sizes({row["name"]: row for row in entry.metadata["rows"]}, router)
