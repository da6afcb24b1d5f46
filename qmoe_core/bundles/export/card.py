"""The card that travels with a bundle: what it is, how well it does and how that was found, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from qmoe_core import embedders, serve
from qmoe_core.audio.decode import WINDOW_S
from qmoe_core.bundles import Bundle
from qmoe_core.evaluation import conformal
from qmoe_core.experts.spec import members
from qmoe_core.measure import latency, path
from qmoe_core.measure.latency import Contestant
from qmoe_core.routing.mixing import Settings
from qmoe_core.runtime import system

CARD = "CARD.md"
CALLS = 200
"""Timed calls of each part: enough for a median, quick enough for an export."""


@dataclass(frozen=True)
class AsGraph:
    """What is different about a bundle as a graph.

    Attributes:
        settings: how it mixes; expert_bytes: of the constants of each expert in it.
        times: how long it takes here, in a sentence; empty where nothing can run it.
    """

    settings: Settings
    expert_bytes: Mapping[str, int]
    times: str


def card(bundle: Bundle, graph: AsGraph | None = None) -> str:
    """Describe a bundle, packed or as a graph, and time its experts here.

    Raises:
        BundleError: a damaged bundle.
    """
    came_from = bundle.provenance
    settings = bundle.settings() if graph is None else graph.settings
    experts = bundle.experts if graph is None else tuple(graph.expert_bytes)
    mixtures = [name for name in came_from.f1 if len(members(name, experts)) > 1]
    kernel = bundle.expert(experts[0]).kernel
    times = ", ".join(f"{name} {us:,.1f} µs" for name, us in _p50_us(bundle, experts).items())
    lines = [
        f"# {_plain(bundle.title)}",
        "",
        f"A sound classifier in {_counted(len(experts), 'numeric format')}, with a router that picks among "
        f"them. It tells {len(bundle.classes)} classes apart: {', '.join(map(_plain, bundle.classes))}.",
        "",
        f"- Takes 5 s of sound, mono, through {_embedders(bundle)}.",
        f"- Trained on {_plain(came_from.dataset)}, {came_from.clips:,} clips{_copies(came_from.copies)}.",
        f"- Judged out of fold: {_plain(came_from.protocol)} folds, epochs chosen by "
        f"{_plain(came_from.selection)}, seeds {', '.join(map(str, came_from.seeds))}.",
        f"- Mixture: {', '.join(settings.experts)}; top-{settings.top_k}, "
        f"curiosity {settings.curiosity}, α = {settings.alpha:g}.",
        f"- Digest: `{bundle.digest}`.",
        "",
        "| expert | weighted F1, mean ± deviation over folds and seeds | bytes"
        + (" |" if graph is None else " in the graph | bytes packed |"),
        "| --- | --- | --- |" + ("" if graph is None else " --- |"),
        *(_row(bundle, name, graph) for name in experts),
        "",
        *(f"- mixture {_plain(name)}: F1 {_f1(bundle, name)}" for name in mixtures),
        "",
        *([graph.times, ""] if graph is not None and graph.times else []),
        f"Median times for one clip of 5 s, {'' if graph is None else 'packed, '}where this card was written "
        f"({system.processor()}, {kernel} kernels, one thread, n = {CALLS}): {times}.",
        "",
        "It was taught these classes alone. Any other sound gets one of their names too; doubt, 1 − the "
        "largest probability, tells some of those, not all.",
        *_promises(bundle, settings),
        "",
        f"Licence of the data: {_plain(came_from.licence) or 'not given'}. {_plain(came_from.citation)}",
    ]
    return "\n".join(lines) + "\n"


def _embedders(bundle: Bundle) -> str:
    """Each with its bytes, and the experts behind it where there are several."""
    said = []
    for i, one in enumerate(bundle.embedders):
        record = bundle.manifest.files.get(one.file)
        text = _plain(one.id) + (f" ({record.bytes:,} bytes)" if record else "")
        behind = [name for name in bundle.experts if bundle.behind(name) == i]
        said.append(text if len(bundle.embedders) == 1 else f"{text} for {', '.join(behind) or 'the router'}")
    return "; ".join(said)


def _promises(bundle: Bundle, settings: Settings) -> list[str]:
    """What answers and prediction sets keep; nothing where the bundle carries no out-of-fold predictions."""
    limits = conformal.limits(bundle, settings)
    kept = conformal.kept(bundle, settings)
    if limits is None or kept is None:
        return []
    found = (kept.answered, kept.risk, kept.covered, *kept.covered_ci95)
    answered, wrong, held, low, high = (f"{100 * share:.1f} %" for share in found)
    return [
        "",
        f"An answer whose doubt is above {limits.doubt:.4f} is to be withheld: then "
        f"{_plain(limits.promise)}. A prediction set of {100 * limits.coverage:g} % has the labels of a "
        f"probability of at least {1.0 - limits.largest[0]:.4f}. On folds that did not set them, {answered} "
        f"are answered, {wrong} of these wrongly; sets hold the right label in {held} (95 % interval over "
        f"recordings {low} to {high}), with {kept.size:.2f} labels on average.",
    ]


def _copies(count: int) -> str:
    return f" and {count} changed cop{'y' if count == 1 else 'ies'} of each" if count else ""


def _row(bundle: Bundle, name: str, graph: AsGraph | None) -> str:
    sizes = [bundle.expert_bytes(name)] if graph is None else [graph.expert_bytes[name]]
    sizes += [] if graph is None else [bundle.expert_bytes(name)]
    return f"| {name} | {_f1(bundle, name)} | {' | '.join(f'{size:,}' for size in sizes)} |"


def _counted(n: int, thing: str) -> str:
    return f"{n} {thing}{'s' * (n != 1)}"


def _f1(bundle: Bundle, name: str) -> str:
    found = bundle.provenance.f1.get(name)
    return f"{found['mean']:.3f} ± {found['std']:.3f}" if found else "not measured"


def _plain(text: str) -> str:
    """A name or sentence without what Markdown would read as more than text, in the middle of a line."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|~$" else c for c in text)


def _p50_us(bundle: Bundle, experts: tuple[str, ...]) -> dict[str, float]:
    """Of front end and embedder, where it is one of ours, and of each head."""
    noise = np.random.default_rng(0)
    contestants = []
    for one in bundle.embedders:
        if one.name.partition("@")[0].partition(":")[0] not in embedders.OWN:
            continue
        made = serve.embedder_of(bundle, one.name)
        which = f" {one.name}" if len(bundle.embedders) > 1 else ""
        stages = path.stages_of(made)
        waveform = noise.normal(0.0, 0.1, [round(WINDOW_S * made.sample_rate)]).astype(np.float32)
        contestants += [
            Contestant(f"front end{which}", "stage", partial(stages.front_end.levels, waveform)),
            Contestant(f"embedder{which}", "stage", partial(stages.embed, stages.front_end.levels(waveform))),
        ]
    for name in experts:
        expert = bundle.expert(name)
        x = noise.standard_normal(expert.dim).astype(np.float32)
        call = partial(expert.logits_into, x, expert.workspace(), np.empty(expert.classes, np.float32))
        contestants.append(Contestant(f"head {name}", "expert", call))
    times = latency.race(contestants, n=CALLS)
    return {name: float(np.median(taken)) / 1000.0 for name, taken in times.items()}
