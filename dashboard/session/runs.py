"""Everything that was trained: what the bundles record, and the finished folds in the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dashboard.views import contenders, words
from qmoe_core.bundles import Bundle, bundling
from qmoe_core.config import fingerprint, to_dict
from qmoe_core.evaluation.formats import formats
from qmoe_core.experts.spec import EXPERTS
from qmoe_core.measure.bench import BenchReport
from qmoe_core.runtime.store import Store, StoreEntry
from qmoe_core.training import crossval


@dataclass(frozen=True)
class Run:
    """One expert or mixture under one configuration.

    Attributes:
        origin: the bundle's name, or "store".
        f1, f1_std: weighted F1 over n folds × seeds.
        bits: of a weight; None for a mixture.
        bytes: of its weights; counted from parameters × bits where there is no bundle.
        ece, aurc: calibration error and area under risk–coverage, of the first seed, where a bundle carries
            its data set and the name is one of `contenders`.
        p50_us: time of one call on this machine, where it was measured.
    """

    origin: str
    dataset: str
    embedder: str
    protocol: str
    selection: str
    name: str
    bits: int | None
    f1: float
    f1_std: float
    n: int
    bytes: int
    ece: float | None = None
    aurc: float | None = None
    p50_us: float | None = None

    @property
    def row(self) -> dict[str, Any]:
        """As a row of a table."""
        return dict(self.__dict__)


def of_bundle(bundle: Bundle, latency: BenchReport | None) -> list[Run]:
    """What a bundle records of its experts and mixtures."""
    made = bundle.provenance
    return [
        Run(
            **_judged(bundle, one.name),
            origin=bundle.path.name,
            dataset=made.dataset,
            embedder=bundle.embedder,
            protocol=made.protocol,
            selection=made.selection,
            name=one.name,
            bits=one.bits,
            f1=one.f1,
            f1_std=one.f1_std,
            n=one.n,
            bytes=one.bytes,
            p50_us=one.p50_us,
        )
        for one in formats(bundle, latency)
    ]


def _judged(bundle: Bundle, name: str) -> dict[str, float]:
    alpha = bundle.settings().alpha if name.endswith(" curious") else None
    experts = name.removesuffix(" curious").split("+")
    found = contenders.parse(contenders.named(experts, alpha, bundle.settings().top_k), bundle)
    if found is None or bundle.dataset is None:
        return {}
    judged = contenders.judge(found, bundle, bundle.dataset)
    risk = judged.risk("doubt")
    return {"ece": float(judged.reliability.ece), "aurc": risk.aurc} if risk else {}


def of_store(store: Store, bundles: Sequence[Bundle]) -> list[Run]:
    """Experts whose folds are in the store, those that a bundle records left out.

    Raises:
        StoreError: the store cannot be read.
    """
    recorded = {
        _address(
            made.dataset_fingerprint, bundle.manifest.embedder_id, name, made.protocol, made.selection,
            to_dict(bundle.config.expert),
        )
        for bundle in bundles
        for made in [bundle.provenance]
        for name in bundle.experts
    }  # fmt: skip
    groups: dict[str, list[StoreEntry]] = {}
    for entry in store.list(crossval.KIND):
        key, facts = entry.fields, entry.metadata
        address = _address(
            key["dataset"], key["embedder"], key["expert"], facts["protocol"], key["selection"], key["config"]
        )
        if address not in recorded:
            groups.setdefault(address, []).append(entry)
    return [_of_folds(entries) for entries in groups.values()]


def _address(*parts: object) -> str:
    return fingerprint(list(parts))


def _of_folds(entries: Sequence[StoreEntry]) -> Run:
    first = entries[0]
    facts, bits = first.metadata, EXPERTS[first.fields["expert"]].bits
    figures = bundling.summary([entry.metadata["f1"] for entry in entries])
    return Run(
        origin="store",
        dataset=facts["dataset"],
        embedder=first.fields["embedder"].rpartition("-")[0],
        protocol=facts["protocol"],
        selection=first.fields["selection"],
        name=first.fields["expert"],
        bits=bits,
        f1=figures["mean"],
        f1_std=figures["std"],
        n=len(entries),
        bytes=round(facts["parameters"] * bits / 8),
    )


_CATEGORIES = (
    ("origin", "from"),
    ("dataset", "data"),
    ("embedder", "embedder"),
    ("protocol", "folds"),
    ("selection", "epoch by"),
)


def axes(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Parallel axes for runs: a category only where it differs, a figure only where every run has it."""
    made = []
    for key, title in _CATEGORIES:
        values = [getattr(run, key) for run in runs]
        if len(set(values)) > 1:
            made.append(_category(title, values, sorted(set(values))))
    order = {name: i for i, name in enumerate(sorted(EXPERTS, key=lambda name: -EXPERTS[name].bits))}
    names = sorted(
        {run.name for run in runs}, key=lambda name: (order.get(name, len(order)), name), reverse=True
    )
    made.append(_category("format", [run.name for run in runs], names))
    made.append(_logarithmic("kB", [run.bytes / 1000 for run in runs]))
    if all(run.p50_us is not None for run in runs):
        made.append(_logarithmic("µs, p50", [run.p50_us or 0.0 for run in runs]))
    for key, title in (("ece", "ECE"), ("aurc", "AURC")):
        if all(getattr(run, key) is not None for run in runs):
            made.append({"label": title, "values": [getattr(run, key) for run in runs], "tickformat": ".3f"})
    made.append({"label": "± F1", "values": [run.f1_std for run in runs], "tickformat": ".3f"})
    made.append({"label": "F1", "values": [run.f1 for run in runs], "tickformat": ".3f"})
    return made


def _category(title: str, values: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    place = {name: i for i, name in enumerate(names)}
    return {
        "label": title,
        "values": [place[value] for value in values],
        "tickvals": list(range(len(names))),
        "ticktext": [words.drawn(name if len(name) <= 22 else f"{name[:21]}…") for name in names],
        "range": [-0.2, len(names) - 0.8],
    }


def _logarithmic(title: str, values: Sequence[float]) -> dict[str, Any]:
    exponents = np.log10(np.maximum(values, 1e-3))
    low, high = float(exponents.min()), float(exponents.max())
    stops = [s * 10.0**e for e in range(int(np.floor(low)), int(np.ceil(high)) + 1) for s in (1, 2, 5)]
    shown = [s for s in stops if low - 0.05 <= np.log10(s) <= high + 0.05] or [10.0**low]
    return {
        "label": title,
        "values": exponents.tolist(),
        "tickvals": [float(np.log10(s)) for s in shown],
        "ticktext": [f"{s:,.0f}" if s >= 1 else f"{s:g}" for s in shown],
        "range": [low - 0.05, high + 0.05],
    }
