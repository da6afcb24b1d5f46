"""The benchmarks as commands and pages run them: who competes, under which conditions, and what is kept.

Every run is kept in the store (kind `benchmarks`), with its environment, so that pages show the last one
without measuring again.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from qmoe_core import bundles, engine
from qmoe_core.config import Curiosity
from qmoe_core.engine.weights import MAX_WIDTH
from qmoe_core.errors import ConfigError
from qmoe_core.measure import energy, environment, latency, memory, size
from qmoe_core.measure.latency import Contestant
from qmoe_core.routing import distilled, mixing
from qmoe_core.routing.mixing import Outputs, Settings
from qmoe_core.routing.router import Router
from qmoe_core.runtime.executor import Context
from qmoe_core.runtime.requests import Bench
from qmoe_core.runtime.store import Store

KIND = "benchmarks"


@dataclass(frozen=True)
class BenchReport:
    """A benchmark's outcome: what was run, where, and a row for each contestant."""

    what: str
    environment: dict[str, Any]
    rows: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """One document."""
        return {"what": self.what, "environment": self.environment, "rows": self.rows}


def parse_shape(text: str) -> tuple[int, ...]:
    """A network's shape from `D,hidden,…,C`.

    >>> parse_shape("1536,640,320,50")
    (1536, 640, 320, 50)
    """
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if len(shape) < 3 or min(shape) < 1 or max(shape) > MAX_WIDTH:
        raise ConfigError(f"--shape {text}: expected D,hidden,…,C such as 1536,640,320,50")
    return shape


def keep(report: BenchReport, store: Store) -> None:
    """Keep a report for the pages."""
    document = report.to_json()
    store.put(KIND, {"what": report.what, "at": time.time_ns()}, {}, document)


def last(what: str, store: Store) -> BenchReport | None:
    """The newest kept report of a kind of benchmark, or None."""
    found = [entry for entry in store.list(KIND) if entry.metadata.get("what") == what]
    if not found:
        return None
    newest = max(found, key=lambda entry: entry.created).metadata
    return BenchReport(newest["what"], newest["environment"], newest["rows"])


def _weights(
    shape: Sequence[int] | None, bundle: str | None, experts: Sequence[str]
) -> dict[str, engine.ExpertWeights]:
    """Experts of a shape with random weights, or a bundle's own."""
    if bundle is None:
        return {name: size.random_expert(name, shape or size.PAPER_SHAPE) for name in dict.fromkeys(experts)}
    loaded = bundles.load(bundle)
    missing = [name for name in experts if name not in loaded.experts]
    if missing:
        raise ConfigError(
            f"bundle {loaded.name} has no {', '.join(missing)}; it has {', '.join(loaded.experts)}"
        )
    return {name: loaded.weights(name) for name in experts}


def expert_contestants(weights: dict[str, engine.ExpertWeights], x: np.ndarray) -> list[Contestant]:
    """Each expert on a workspace of its own, as a session serves it."""
    made = []
    for name, one in weights.items():
        expert = engine.PackedExpert(one)
        out = np.empty(len(x) * expert.classes, np.float32)
        call = partial(expert.logits_into, x.reshape(-1), expert.workspace(), out)
        made.append(Contestant(name, "expert", call, f"{expert.kernel} kernel"))
    return made


MIXTURES = (
    ("bitnet", "q4", "q8"),
    ("bitnet", "q4", "q8", "q16"),
    ("bitnet", "q8", "q16", "ptq8"),
    ("bitnet", "ptq8"),
)
"""The expert lists of the paper's Table 3."""
ROUTINGS: dict[str, Curiosity] = {"": "none", " curious": "disagreement", " router-mc": "router-mc"}
RAN: dict[Curiosity, str] = {
    "none": "one expert runs",
    "disagreement": "all {n} experts run",
    "router-mc": "one expert runs",
    "distilled": "{cheap} always runs, and the chosen one",
}


def _router(dim: int, experts: Sequence[str], bundle: str | None) -> Router:
    """A bundle's router, or one with random weights of the paper's shape (§4.3)."""
    if bundle is not None:
        return bundles.load(bundle).router
    generator = np.random.default_rng(0)
    sizes = (dim, 128, 64, len(experts))
    weights = [
        generator.normal(0.0, inputs**-0.5, (outputs, inputs)).astype(np.float32)
        for inputs, outputs in pairwise(sizes)
    ]
    return Router(tuple(experts), tuple(weights), tuple(np.zeros(len(w), np.float32) for w in weights), 0.2)


def mixture_contestants(
    weights: Mapping[str, engine.ExpertWeights],
    clips: np.ndarray,
    routers: Mapping[tuple[str, ...], Router],
    routings: Mapping[str, Curiosity] = ROUTINGS,
) -> list[Contestant]:
    """Mixtures as they are served: plain top-1, and by the strategies of curiosity.

    Args:
        weights: of every expert that a mixture has.
        clips: standardised embeddings, float32 [n, D], taken in turns, because a router sends clips to
            different experts.
        routers: of each mixture, by its experts.
        routings: strategies, by what is added to a mixture's name. The head of `distilled` holds any numbers
            here, and a ceiling that leaves nothing settled: its costliest case.
    """
    made = []
    experts = {name: engine.PackedExpert(one) for name, one in weights.items()}
    for names, router in routers.items():
        n, cheap = len(names), distilled.cheapest(names)
        head = distilled.Head(cheap, names, np.zeros((3 + n, n)), np.full(n, -5.0), np.full(n, 1e3))
        for suffix, curiosity in routings.items():
            settings = Settings(names, alpha=0.3, curiosity=curiosity)
            samples = 0 if curiosity in ("none", "distilled") else settings.mc_samples

            call = partial(_serve, itertools.cycle(clips[:, None]), experts, router, samples, settings, head)
            note = f"top-1, α 0.3, {samples} MC samples; {RAN[curiosity].format(n=n, cheap=cheap)}"
            made.append(Contestant("+".join(names) + suffix, "mixture", call, note))
    return made


def _serve(
    clips: Iterator[np.ndarray],
    experts: Mapping[str, engine.PackedExpert],
    router: Router,
    samples: int,
    settings: Settings,
    head: distilled.Head,
) -> mixing.Mixed:
    """Mix the next clip, as a bundle does (`Bundle.outputs`, `Bundle.mix`)."""
    z = next(clips)
    classes = experts[settings.experts[0]].classes
    routing = router.forward(z, samples)
    outputs = Outputs.lazy(router.experts, classes, routing, lambda name, _: experts[name].logits(z))
    return mixing.mix(outputs, settings, predicted=head)


def run(request: Bench, context: Context) -> BenchReport:
    """Measure what is asked for.

    Raises:
        ConfigError: settings out of range. Cancelled: the context said so.
    """
    if request.measure == "latency":
        return run_latency(request, context)
    if request.measure == "path":
        from qmoe_core.measure import path

        progress = context.progress("path")
        return BenchReport("path", *path.run(request.embedders, request.n, progress, context.cancelled))
    if request.measure == "energy":
        return run_energy(request, context)
    if request.measure == "memory":
        return run_memory([request.bundle] if request.bundle else ())
    return run_size(request.shape or size.PAPER_SHAPE, request.experts)


def run_latency(request: Bench, context: Context) -> BenchReport:
    """Time experts, mixtures (of one clip a call) and peers in one interleaved run on one thread."""
    from qmoe_core.measure import peers as others

    n, batch, cold, bundle, experts = request.n, request.batch, request.cold, request.bundle, request.experts
    if n < 100:
        raise ConfigError(f"--n is {n}; accepted is 100 or more (a figure to quote needs 2,000)")
    if batch < 1:
        raise ConfigError(f"--batch is {batch}; accepted is 1 or more")
    weights = _weights(request.shape, bundle, ("fp32", *experts))
    floating = weights["fp32"]
    x = np.random.default_rng(0).normal(size=(batch, floating.dim)).astype(np.float32)
    contestants = others.contestants(floating, x) if request.peers else others.torch_only(floating, x)
    contestants += expert_contestants({name: weights[name] for name in experts}, x)
    if batch == 1:
        names = [some for some in MIXTURES if set(some) <= set(weights)]
        router = _router(floating.dim, tuple(weights), bundle)
        routings: dict[str, Curiosity] = {**ROUTINGS, " distilled": "distilled"}
        contestants += mixture_contestants(weights, x, dict.fromkeys(names, router), routings)
    progress = context.progress("latency")
    times = latency.race(contestants, n=n, cold=cold, progress=progress, cancelled=context.cancelled)
    rows = latency.summarise(contestants, times, baseline=others.TORCH_FP32, batch=batch)
    by_name = {row.name: row for row in rows}
    documents = []
    for row in rows:
        document = row.to_json()
        rival = by_name.get(others.PEER_OF_WIDTH.get(row.name, ""))
        document["peer"] = rival.name if rival else None
        document["speedup_vs_peer"] = _paired(times, rival.name, row.name) if rival else None
        documents.append(document)
    where = environment.describe(
        threads=1,
        batch=batch,
        cold_cache=cold,
        shape=[floating.dim, *(layer.outputs for layer in floating.layers), floating.classes],
        weights="random" if bundle is None else f"bundle {bundle}",
        rounds=len(next(iter(times.values()))),
    )
    return BenchReport("latency-cold" if cold else "latency", where, documents)


def _paired(times: dict[str, np.ndarray], slower: str, faster: str) -> float:
    """How many times faster, as the median over rounds of the ratio of medians."""
    return float(np.median(np.median(times[slower], axis=1) / np.median(times[faster], axis=1)))


def run_energy(request: Bench, context: Context) -> BenchReport:
    """Energy of an inference of each expert and of torch fp32, in interleaved blocks.

    Then the energy of training one expert on the default bundle's clips, and after how many inferences
    serving has used as much (the paper's appendix A).
    """
    from qmoe_core.measure import peers as others

    experts, block_s, country = request.experts, request.block_s, request.country
    weights = _weights(request.shape, request.bundle, ("fp32", *experts))
    floating = weights["fp32"]
    x = np.random.default_rng(0).normal(size=(1, floating.dim)).astype(np.float32)
    contestants = others.torch_only(floating, x)
    contestants += expert_contestants({name: weights[name] for name in experts}, x)
    blocks = energy.run_blocks(
        contestants,
        repetitions=request.repetitions,
        block_s=block_s,
        country=country,
        progress=context.progress("energy"),
        cancelled=context.cancelled,
    )
    rows = [row.to_json() for row in energy.summarise(contestants, blocks, baseline=others.TORCH_FP32)]
    grid = float(np.median([block.grid_g_per_kwh for block in blocks if block.grid_g_per_kwh]))
    training = training_block(block_s, country)
    training_kwh = training.gross_kwh / training.calls
    for row in rows:
        row["deployment"] = dict(
            energy.deployment(training_kwh, row["gross_mj"], request.per_day, grid).__dict__
        )
    where = environment.describe(
        threads=1,
        country=country,
        grid_g_per_kwh=grid,
        block_s=block_s,
        repetitions=request.repetitions,
        quotable=block_s >= energy.QUOTABLE_BLOCK_S,
        idle_blocks=sum(block.name == energy.IDLE for block in blocks),
        training={
            "what": "fp32 on the default bundle's clips, 20 epochs",
            "n": training.calls,
            "kwh": training_kwh,
            "cpu_s": training.cpu_s / training.calls,
            "source": training.source,
        },
    )
    return BenchReport("energy", where, rows)


def training_block(block_s: float, country: str) -> energy.EnergyBlock:
    """Train an expert on the default bundle's clips, again and again for a while."""
    from qmoe_core.experts.network import ExpertNetwork
    from qmoe_core.training.fit import fit

    loaded = bundles.load()
    data = loaded.dataset
    if data is None:
        raise ConfigError(f"bundle {loaded.name} carries no dataset to train on")
    z, config = loaded.standardise(data.embeddings), loaded.config.expert

    def work() -> int:
        until, fits = time.perf_counter() + block_s, 0
        while time.perf_counter() < until:
            network = ExpertNetwork("fp32", z.shape[1], len(loaded.classes), config)
            fit(network, z, data.labels, config, seed=0, epochs=20)
            fits += 1
        return fits

    return energy.track("training", country, work)


def run_memory(bundle_names: Sequence[str] = (), *, runs: int = 3) -> BenchReport:
    """Peak memory of a fresh serving process for each bundle."""
    names = list(bundle_names) or bundles.names()
    rows = [memory.serving(str(bundles.find(name)), name=name, runs=runs).to_json() for name in names]
    return BenchReport("memory", environment.describe(), rows)


def run_size(shape: Sequence[int], experts: Sequence[str]) -> BenchReport:
    """Bytes on disk of each packed expert of a shape."""
    rows = [row.to_json() for row in size.sizes(shape, experts)]
    return BenchReport("size", environment.describe(shape=list(shape)), rows)


def figure(report: BenchReport, path: Path) -> None:
    """Write the distributions of a latency run as one self-contained HTML page (ECDF of each row)."""
    import plotly.graph_objects as go

    drawing = go.Figure()
    for row in sorted(report.rows, key=lambda row: row["p50_us"]):
        dash = {"expert": "solid", "mixture": "dash", "peer": "dot"}[row["kind"]]
        drawing.add_scatter(
            x=row["quantiles_us"],
            y=np.linspace(0.0, 1.0, len(row["quantiles_us"])).tolist(),
            name=f"{row['name']} ({row['p50_us']:.1f} µs)",
            line={"dash": dash, "shape": "hv"},
        )
    where = report.environment
    drawing.update_layout(
        title=f"Latency: n = {report.rows[0]['n']:,}, batch {where['batch']}, 1 thread, {where['processor']}",
        xaxis={"title": "µs", "type": "log"},
        yaxis={"title": "share of calls that were at most as slow"},
        template="plotly_white",
    )
    drawing.write_html(path, include_plotlyjs=True)
