"""What each numeric format costs and keeps: F1, size, time and energy side by side, and its weight grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qmoe_core.bundles import ROUTER_FILE, Bundle, expert_file
from qmoe_core.engine import LEVELS
from qmoe_core.errors import BundleError
from qmoe_core.evaluation.classification import weighted_f1
from qmoe_core.experts.spec import EXPERTS, members
from qmoe_core.measure.bench import BenchReport
from qmoe_core.routing.uncertainty import entropy

YARDSTICK = "q16"
"""The paper's Table 2 gives F1 as a share of the 16-bit expert's."""
GRID_BINS = 256


@dataclass(frozen=True)
class Format:
    """One expert or mixture of a bundle. What was not measured on this machine is None.

    Attributes:
        name: the expert's, or the mixture's such as `bitnet+q4+q8 curious`.
        kind: `expert` or `mixture`.
        bits: of a stored weight; None for a mixture.
        f1, f1_std: weighted F1 out of fold, mean and deviation over n folds × seeds.
        f1_folds: of each official fold, the first seed's; empty for mixtures and other protocols.
        share_of_16bit: F1 over that of q16.
        bytes: of the files that must be carried: a mixture's are all of its experts' and the router's.
        p50_us, p95_us, p99_us, std_us: time of one call, µs.
        energy_mj: gross energy of one call, mJ; energy_source: `measured` or `modelled`; co2_ug: µg of CO2.
    """

    name: str
    kind: str
    bits: int | None
    f1: float
    f1_std: float
    n: int
    f1_folds: tuple[float, ...]
    share_of_16bit: float | None
    bytes: int
    p50_us: float | None = None
    p95_us: float | None = None
    p99_us: float | None = None
    std_us: float | None = None
    energy_mj: float | None = None
    energy_source: str | None = None
    co2_ug: float | None = None

    def to_json(self) -> dict[str, Any]:
        """A row of `qmoe sweep bits --json`."""
        return {**self.__dict__, "f1_folds": list(self.f1_folds)}


def formats(
    bundle: Bundle, latency: BenchReport | None = None, energy: BenchReport | None = None
) -> list[Format]:
    """Every expert of a bundle, then every mixture that was evaluated with it.

    Args:
        bundle: F1 and sizes are its own.
        latency, energy: reports of `measure.bench`, such as `bench.last("latency", store)`; rows are matched
            by name. See `measured_on` for what they were measured on.
    """
    f1 = bundle.provenance.f1
    of_16bit = f1.get(YARDSTICK, {}).get("mean")
    times = {row["name"]: row for row in latency.rows} if latency else {}
    energies = {row["name"]: row for row in energy.rows} if energy else {}
    folds = _fold_f1(bundle)
    made = []
    for name, figures in f1.items():
        mixed = members(name, bundle.experts)
        if not mixed:
            continue  # not carried
        single = len(mixed) == 1
        files = [expert_file(member) for member in mixed] + ([] if single else [ROUTER_FILE])
        made.append(
            Format(
                name=name,
                kind="expert" if single else "mixture",
                bits=EXPERTS[name].bits if single else None,
                f1=figures["mean"],
                f1_std=figures["std"],
                n=int(figures["n"]),
                f1_folds=folds.get(name, ()),
                share_of_16bit=figures["mean"] / of_16bit if of_16bit else None,
                bytes=sum(bundle.manifest.files[file].bytes for file in files),
                **_picked(
                    times.get(name), p50_us="p50_us", p95_us="p95_us", p99_us="p99_us", std_us="std_us"
                ),
                **_picked(energies.get(name), energy_mj="gross_mj", energy_source="source", co2_ug="co2_ug"),
            )
        )
    return made


def _picked(row: dict[str, Any] | None, **columns: str) -> dict[str, Any]:
    return {name: row[column] for name, column in columns.items()} if row else {}


def _fold_f1(bundle: Bundle) -> dict[str, tuple[float, ...]]:
    """Each expert's F1 on each official fold, where those are what it was evaluated on."""
    data = bundle.dataset
    if data is None or bundle.provenance.protocol != "official":
        return {}
    said = data.outputs.logits.argmax(axis=-1)
    clips = [data.folds == fold for fold in np.unique(data.folds)]
    return {
        name: tuple(weighted_f1(data.labels[fold], said[fold, i]) for fold in clips)
        for i, name in enumerate(data.outputs.experts)
    }


def measured_on(report: BenchReport, bundle: Bundle) -> str:
    """One phrase on what a report's figures are of: machine, network, and whether it is this bundle's.

    Args:
        report: of latency or energy.
    """
    where = report.environment
    machine = f"{where['processor']}, {where['threads']} thread{'s' * (where['threads'] != 1)}"
    shape = where.get("shape")
    if shape is None:
        return machine
    own = [bundle.manifest.dim, *bundle.config.expert.hidden, len(bundle.classes)]
    network = "–".join(map(str, shape))
    suffix = "as in this bundle" if shape == own else f"this bundle has {'–'.join(map(str, own))}"
    return f"{machine}, network {network} ({suffix})"


@dataclass(frozen=True)
class WeightGrid:
    """The values that one layer's weights take; L of them.

    Attributes:
        values: float64 [L], in weight units (levels times the median scale of the output channels), rising;
            the middles of equal bins where the format has more than 256 levels.
        share: float64 [L], of the weights; sums to 1.
        bits: that a weight takes on disk.
        levels: how many the format has; None for floats.
        zeros: share of weights that are exactly zero.
        entropy_bits: what a weight tells, in bits; far below `bits` the grid is badly used.
    """

    name: str
    layer: int
    values: np.ndarray
    share: np.ndarray
    bits: int
    levels: int | None
    zeros: float
    entropy_bits: float


def weight_grid(bundle: Bundle, expert: str, layer: int = 0) -> WeightGrid:
    """What values an expert's weights take: why 2 bits fall off a cliff.

    Args:
        expert: of the bundle; layer: hidden layer, from 0.

    Raises:
        BundleError: no such expert or layer, or its file is damaged.
    """
    if expert not in bundle.experts:
        raise BundleError(
            f"bundle {bundle.name}: no expert '{expert}'; there are {', '.join(bundle.experts)}"
        )
    weights = bundle.weights(expert)
    if not 0 <= layer < len(weights.layers):
        raise BundleError(f"{expert}: no hidden layer {layer}; accepted is 0 to {len(weights.layers) - 1}")
    held = weights.layers[layer]
    if held.format == "float":
        values, counts = _binned(held.matrix)
        bits, levels = 32, None
    else:
        bits, low, high = LEVELS[held.format]
        levels = high - low + 1 if bits > 1 else 2
        step = float(np.median(held.scale))
        if levels > GRID_BINS:
            values, counts = _binned(held.matrix)
        else:
            values = np.arange(low, high + 1, dtype=np.float64) if bits > 1 else np.array([-1.0, 1.0])
            counts = np.array([np.count_nonzero(held.matrix == value) for value in values])
        values = values * step
    share = counts / counts.sum()
    return WeightGrid(
        name=expert,
        layer=layer,
        values=values,
        share=share,
        bits=bits,
        levels=levels,
        zeros=float((held.matrix == 0).mean()),
        entropy_bits=float(entropy(share) / np.log(2.0)),
    )


def _binned(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    reach = float(np.abs(matrix).max()) or 1.0
    counts, edges = np.histogram(matrix, GRID_BINS, (-reach, reach))
    return (edges[1:] + edges[:-1]) / 2.0, counts


def weight_grids(bundle: Bundle, layer: int = 0, experts: Sequence[str] | None = None) -> list[WeightGrid]:
    """`weight_grid` of several experts, by default all."""
    return [weight_grid(bundle, name, layer) for name in (bundle.experts if experts is None else experts)]
