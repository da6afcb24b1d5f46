"""One dataset's results, and what the paper calls the things they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qmoe_core.experts.spec import EXPERTS
from qmoe_core.paper import tables as paper
from qmoe_core.paper.report.costs import Costs
from qmoe_core.paper.report.document import ReportColumn, ReportTable, Spread
from qmoe_core.paper.report.protocols import Scores
from qmoe_core.paper.report.ternary import ByEpoch

YARDSTICK = "fp32"
MIXTURES = tuple(dict.fromkeys(model.experts for model in paper.MODELS.values() if model.is_mixture))
"""Table 3's lists of experts; of bitnet, q4 and q8 the paper prints the curious mixture alone."""

UNPRINTED = "BitNet-Q4/8-QMoE"
POPCOUNT = "Q8-Base-PTQ by Eq. 4"


@dataclass(frozen=True)
class Model:
    """An expert or mixture under both names.

    Attributes:
        ours: such as `q4` or `bitnet+q4+q8 curious`; paper: such as `Q4-Base` or `BitNet-Q4/8-QMoE-C`.
        experts: it consists of; curious: whether routed with curiosity.
        printed: whether the paper's tables have it.
    """

    ours: str
    paper: str
    experts: tuple[str, ...]
    curious: bool = False
    printed: bool = True

    @property
    def is_mixture(self) -> bool:
        return len(self.experts) > 1


def _models() -> tuple[Model, ...]:
    made = [
        Model("+".join(m.experts) + (" curious" if m.curious else ""), m.name, m.experts, m.curious)
        for m in paper.MODELS.values()
    ]
    made.append(Model("popcount", POPCOUNT, ("popcount",), printed=False))
    made.append(Model("bitnet+q4+q8", UNPRINTED, ("bitnet", "q4", "q8"), printed=False))
    return tuple(made)


MODELS = _models()
"""Everything that can be in a table: the paper's fifteen, Eq. 4's expert, and the mixture it leaves out."""


@dataclass(frozen=True)
class Study:
    """What is known of one dataset.

    Attributes:
        sound: official folds (grouped where there are none), epoch on inner validation.
        leaky: random folds, epoch on the test fold, trained alike.
        between: with one of the two changed only, by what was changed: `folds`, `epoch`.
        code: the paper's code's settings and protocol; code_ternary: the same with its own BitNet layers.
        tables: the one of them that Tables 1–5 are of.
        costs: on this machine; embedder: what the experts are trained on, dim: how many numbers;
        path: name of the embedder before the experts, None where it is not known or not timed.
    """

    sound: Scores
    leaky: Scores
    between: Mapping[str, Scores]
    code: Scores
    code_ternary: ByEpoch
    tables: Scores
    costs: Costs
    embedder: str
    dim: int
    path: str | None = None

    @property
    def name(self) -> str:
        return self.sound.dataset


def spread(values: np.ndarray | Sequence[float]) -> Spread:
    """Mean and deviation (n − 1) of some figures."""
    flat = np.ravel(values)
    return Spread(float(flat.mean()), float(flat.std(ddof=1)) if flat.size > 1 else 0.0)


def has(study: Study, model: Model) -> bool:
    """Whether a model is among what the tables are of."""
    return model.ours in study.tables.predicted


def of_all(studies: Sequence[Study]) -> list[Model]:
    """The models that every study has."""
    return [model for model in MODELS if all(has(study, model) for study in studies)]


def mean_f1(studies: Sequence[Study], model: Model) -> Spread:
    """F1 averaged over datasets: the mean of their means, and of their deviations (as the paper's Avg)."""
    found = [spread(study.tables.f1(model.ours)) for study in studies]
    return Spread(float(np.mean([s.mean for s in found])), float(np.mean([s.deviation for s in found])))


def printed(number: int) -> ReportTable:
    """A table of the paper, every cell as printed."""
    table = paper.table(number)
    columns = tuple(ReportColumn(column.heading or "Group", unit=column.unit) for column in table.columns)
    rows = tuple(tuple(row[column.key].printed for column in table.columns) for row in table.rows)
    note = f"Table {number} of the paper as printed. {table.caption}"
    return ReportTable(f"table-{number}-paper", f"Table {number}, the paper's", columns, rows, note)


def runs_of(scores: Scores) -> str:
    """Where F1 comes from, for a note: protocol and n."""
    folds = len(np.unique(scores.folds))
    count = len(scores.seeds)
    seeds = f"{count} seeds" if count > 1 else f"seed {scores.seeds[0]}"
    return f"{scores.dataset}: {scores.protocol}, {folds} folds × {seeds}, {len(scores.labels):,} clips"


def machine_of(costs: Costs) -> str:
    """Where figures of cost come from, for a note."""
    where = costs.environment
    virtual = ", virtual machine" if where["virtual_machine"] else ""
    load = where["load_average"]
    busy = f", load {load[0]:.1f} on {where['cores']} cores" if load else ""
    return f"{where['processor']}{virtual}, one thread, batch 1{busy}"


def was_busy(costs: Costs) -> str:
    """A warning for figures that other work on the machine has spoilt, or nothing."""
    load, cores = costs.environment["load_average"], costs.environment["cores"]
    if not load or load[0] <= 1.5 * cores:
        return ""
    return (
        f" The machine was busy (load {load[0]:.1f} on {cores} cores): means, deviations and 99th "
        "percentiles are those of its other work, and only medians and ratios within a round can be read."
    )


def bits_of(model: Model) -> int:
    """Bits of a stored weight."""
    return EXPERTS[model.experts[0]].bits
