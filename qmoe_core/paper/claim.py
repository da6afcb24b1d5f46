"""A claim of the paper, or of its public code, and the check that tests it.

A check has two halves. `measure` computes named figures, from the paper's tables, the default bundle or a
short experiment. `judge` is a function of those figures alone and gives the verdict on the statement in
`claim`, so that the same figures always mean the same and other figures could have meant the opposite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from qmoe_core import bundles
from qmoe_core.bundles import Bundle, BundleDataset
from qmoe_core.evaluation.sweep import judged
from qmoe_core.runtime.store import Store

Verdict = Literal["holds", "does-not-hold", "not-testable"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

Theme = Literal["routing", "protocol", "features", "quantisation", "latency", "statistics"]
THEMES: dict[Theme, str] = {
    "routing": "Routing and curiosity",
    "protocol": "Protocol",
    "features": "Features",
    "quantisation": "Quantisation",
    "latency": "Latency and energy",
    "statistics": "Statistics",
}
"""Each theme's title, in the order of reading."""

Ground = Literal["arithmetic", "code", "reproduction"]
GROUNDS: dict[Ground, str] = {
    "arithmetic": "Arithmetic of the printed tables",
    "code": "The text against the published code",
    "reproduction": "Not reproduced here",
}
"""What a check compares the statement with; each title, in the order of reading."""
HOLDS = "What holds"
"""The title above all statements that hold; it is read first."""
NOT_TESTABLE = "Could not be tested here"
"""The title above statements whose check found no figures, and above `untested.STATEMENTS`; read last."""

COMMIT = "public code, commit dfbb02c (later versions exist and were not examined)"

Cost = Literal["arithmetic", "bundle", "experiment"]
COSTS: dict[Cost, str] = {
    "arithmetic": "arithmetic on the paper’s tables, instant",
    "bundle": "computed from the default bundle, under a second",
    "experiment": "a short experiment, some seconds",
}

Values = Mapping[str, float]
T = TypeVar("T")


@dataclass(frozen=True)
class Series:
    """A named row of points."""

    name: str
    x: Sequence[float | str]
    y: Sequence[float]


@dataclass(frozen=True)
class ClaimFigure:
    """What a small figure of a finding shows.

    Attributes:
        kind: `bars` and `dots` (from names to figures; dots where differences are small), `points`, `lines`.
        x_title, y_title: of the axes; series: what is drawn.
        log: the axes that are logarithmic: "", "x", "y" or "xy".
    """

    kind: Literal["bars", "dots", "points", "lines"]
    x_title: str
    y_title: str
    series: tuple[Series, ...]
    log: str = ""


@dataclass(frozen=True)
class Figures:
    """What a check measured.

    Attributes:
        values: by name; all that the verdict may depend on.
        basis: n, threads and whatever else a reader must know to weigh them.
        picture: or None where a figure says no more than the sentence.
    """

    values: dict[str, float]
    basis: str
    picture: ClaimFigure | None = None


@dataclass(frozen=True)
class Ruling:
    """A verdict, the figures in a sentence, and why they mean it."""

    verdict: Verdict
    ours: str
    why: str


@dataclass(frozen=True)
class Claim:
    """A statement and its check.

    Attributes:
        id: 1 and up.
        ground: what the statement is compared with.
        claim: the statement that is judged, in one sentence.
        source: where it stands.
        test: how it is tested.
        paper: the figure that the paper prints, or what its code does.
        turns: what would change the verdict, in one sentence.
        cost: what the check costs, one of `COSTS`.
        measure: gives the figures; what it raises (a `UserError`, a package that is missing) makes the claim
            not testable here.
        judge: the verdict that figures mean.
    """

    id: int
    theme: Theme
    ground: Ground
    claim: str
    source: str
    test: str
    paper: str
    turns: str
    cost: Cost
    measure: Callable[[Materials], Figures] = field(repr=False)
    judge: Callable[[Values], Ruling] = field(repr=False)


def ruling(holds: bool, ours: str, yes: str, no: str) -> Ruling:
    """The ruling of a plain condition, with the reason for either outcome."""
    return Ruling("holds" if holds else "does-not-hold", ours, yes if holds else no)


@dataclass(frozen=True)
class Materials:
    """What checks work on; each part is loaded when the first check asks for it.

    Attributes:
        store: where trainings and benchmarks of this machine are kept.
    """

    store: Store = field(default_factory=Store)
    _made: dict[object, Any] = field(default_factory=dict, repr=False)

    def once(self, key: object, make: Callable[[], T]) -> T:
        """What `make` gives, made once for a key: claims share trainings."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    @cached_property
    def bundle(self) -> Bundle:
        """The default bundle."""
        return bundles.load()

    @cached_property
    def data(self) -> BundleDataset:
        """Its clips, with what experts that had not seen them say of them."""
        return judged(self.bundle)

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """The recording each clip was cut from."""
        return tuple(clip.source for clip in self.data.clips)

    @cached_property
    def z(self) -> np.ndarray:
        """Standardised embeddings, float32 [n, D]."""
        return self.bundle.standardise(self.data.embeddings)

    @property
    def clips(self) -> str:
        """The clips, as a basis names them."""
        made = self.bundle.provenance
        return f"{made.clips:,} clips of {made.dataset}, {made.protocol} folds, out of fold"
