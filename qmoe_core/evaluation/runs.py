"""Training runs: the figures that bundles record, and those of finished folds in the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qmoe_core.bundles import Bundle, bundling
from qmoe_core.config import fingerprint, to_dict
from qmoe_core.evaluation import contenders
from qmoe_core.evaluation.formats import formats
from qmoe_core.experts.spec import EXPERTS, members
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
            its data set and the name is one of `contenders`; ece_perfect: if calibration were perfect.
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
    ece_perfect: float | None = None
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
            dataset=_described(made.dataset, made.copies),
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
    experts = members(name, bundle.experts)
    found = contenders.parse(contenders.named(experts, alpha, bundle.settings().top_k), bundle)
    if found is None or bundle.dataset is None:
        return {}
    judged = contenders.judge(found, bundle, bundle.dataset)
    risk = judged.risk("doubt")
    if risk is None:
        return {}
    ece = float(judged.reliability.ece)
    return {"ece": ece, "ece_perfect": judged.ece_perfect, "aurc": risk.aurc}


def of_store(store: Store, bundles: Sequence[Bundle]) -> list[Run]:
    """Experts whose folds are in the store, those that a bundle records left out.

    Raises:
        StoreError: the store cannot be read.
    """
    recorded = {
        _address(
            made.dataset_fingerprint, bundle.manifest.embedder_id, name, made.protocol, made.selection,
            to_dict(bundle.config.expert), made.copies,
        )
        for bundle in bundles
        for made in [bundle.provenance]
        for name in bundle.experts
    }  # fmt: skip
    groups: dict[str, list[StoreEntry]] = {}
    for entry in store.list(crossval.KIND):
        key, facts = entry.fields, entry.metadata
        address = _address(
            key["dataset"], key["embedder"], key["expert"], facts["protocol"], key["selection"],
            key["config"], _copies(key),
        )  # fmt: skip
        if address not in recorded:
            groups.setdefault(address, []).append(entry)
    return [_of_folds(entries) for entries in groups.values()]


def _copies(key: dict[str, Any]) -> int:
    """How many changed copies of each clip an expert with this key was trained on."""
    return key["copies"][1] if "copies" in key else 0


def _described(dataset: str, copies: int) -> str:
    return f"{dataset}, {copies} changed of each" if copies else dataset


def _address(*parts: object) -> str:
    return fingerprint(list(parts))


def _of_folds(entries: Sequence[StoreEntry]) -> Run:
    first = entries[0]
    facts, bits = first.metadata, EXPERTS[first.fields["expert"]].bits
    figures = bundling.summary([entry.metadata["f1"] for entry in entries])
    return Run(
        origin="store",
        dataset=_described(facts["dataset"], _copies(first.fields)),
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
