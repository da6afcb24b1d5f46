"""Tables 1–7 of the paper as data, every cell as printed (`tables.toml`), wrong means and all.

What a cell says stays beside the number read from it, so that a report can print the paper's own text and
a check can compute with it.
"""

from __future__ import annotations

import functools
import re
import tomllib
from dataclasses import dataclass
from importlib import resources

import numpy as np

_NUMBER = re.compile(r"(<?)([\d,]*\.?\d+)(?:±([\d.]+))?×?")

DATASETS = {"esc50": "ESC-50", "quinn": "Quinn", "urban8k": "UrbanSound8K"}
"""Column of Table 1, and the dataset it is about as Table 2 names it."""


@dataclass(frozen=True)
class PrintedModel:
    """A classifier of the paper.

    Attributes:
        name: as Table 1 prints it, without the † and ‡ of the baselines.
        experts: the nearest experts here. The PTQ expert of the mixtures (`qesc` in the public code) is
            ptq8, as the paper describes it; what the code runs in its place is claim 16.
        curious: whether it is a mixture with curiosity (`-C`).
    """

    name: str
    experts: tuple[str, ...]
    curious: bool = False

    @property
    def is_mixture(self) -> bool:
        return len(self.experts) > 1


MODELS: dict[str, PrintedModel] = {
    model.name: model
    for model in (
        PrintedModel("FP32-Base", ("fp32",)),
        PrintedModel("Q1-Base", ("q1",)),
        PrintedModel("Q2-Base", ("q2",)),
        PrintedModel("Q4-Base", ("q4",)),
        PrintedModel("Q8-Base", ("q8",)),
        PrintedModel("Q16-Base", ("q16",)),
        PrintedModel("BitNet-Base", ("bitnet",)),
        PrintedModel("Q8-Base-PTQ", ("ptq8",)),
        PrintedModel("BitNet-Q4/8/16-QMoE", ("bitnet", "q4", "q8", "q16")),
        PrintedModel("BitNet-Q8/16-PTQ-QMoE", ("bitnet", "q8", "q16", "ptq8")),
        PrintedModel("BitNet-Q8PTQ-QMoE", ("bitnet", "ptq8")),
        PrintedModel("BitNet-Q4/8-QMoE-C", ("bitnet", "q4", "q8"), curious=True),
        PrintedModel("BitNet-Q4/8/16-QMoE-C", ("bitnet", "q4", "q8", "q16"), curious=True),
        PrintedModel("BitNet-Q8/16-PTQ-QMoE-C", ("bitnet", "q8", "q16", "ptq8"), curious=True),
        PrintedModel("BitNet-Q8PTQ-QMoE-C", ("bitnet", "ptq8"), curious=True),
    )
}
"""The fifteen models of Tables 1, 4 and 6: eight single ones, then the mixtures in the order of Table 3."""

_SHORT = {
    "Q8-PTQ": "Q8-Base-PTQ",
    "Q8PTQ-MoE": "BitNet-Q8PTQ-QMoE",
    "Q8/16PTQ-MoE": "BitNet-Q8/16-PTQ-QMoE",
    "Q4/8-MoE": "BitNet-Q4/8-QMoE",
    "Q4/8/16-MoE": "BitNet-Q4/8/16-QMoE",
}
"""How Tables 6 and 7 shorten the names; `-Base` is left out as well."""


@dataclass(frozen=True)
class PrintedCell:
    """One cell.

    Attributes:
        printed: its text.
        value: the number in it, None where there is none; of "<0.001" the bound.
        deviation: what follows ±, None where nothing does.
        below: whether the text says less than the value.
    """

    printed: str
    value: float | None = None
    deviation: float | None = None
    below: bool = False

    @classmethod
    def read(cls, printed: str) -> PrintedCell:
        """A cell from its text.

        >>> read = PrintedCell.read
        >>> read("0.819±0.020").deviation, read("15.65×").value, read("Mix").value
        (0.02, 15.65, None)
        """
        match = _NUMBER.fullmatch(printed)
        if match is None:
            return cls(printed)
        below, value, deviation = match.groups()
        return cls(
            printed,
            float(value.replace(",", "")),
            None if deviation is None else float(deviation),
            bool(below),
        )


@dataclass(frozen=True)
class PrintedColumn:
    """A column: the key it is asked for by, its heading, and its unit ("" where none is printed)."""

    key: str
    heading: str
    unit: str


@dataclass(frozen=True)
class PrintedTable:
    """A table of the paper.

    Attributes:
        number: 1 to 7.
        section: of the paper.
        caption: its caption.
        columns: in the order printed.
        rows: each from a column's key to its cell, in the order printed.
    """

    number: int
    section: str
    caption: str
    columns: tuple[PrintedColumn, ...]
    rows: tuple[dict[str, PrintedCell], ...]

    def values(self, key: str) -> np.ndarray:
        """The numbers of a column, float64 [rows]; NaN where a cell has none."""
        return np.array([np.nan if (value := row[key].value) is None else value for row in self.rows])

    def deviations(self, key: str) -> np.ndarray:
        """What follows ± in a column, float64 [rows]; NaN where nothing does."""
        return np.array([np.nan if (d := row[key].deviation) is None else d for row in self.rows])

    def row(self, **cells: str) -> dict[str, PrintedCell]:
        """The only row whose cells are these: a model by any of its names, anything else as printed.

        Raises:
            KeyError: none is, or more than one.

        >>> table(7).row(model="Q4-Base")["kilobytes"].value
        687.1
        >>> table(2).row(bits="8", dataset="Quinn")["energy"].printed
        '0.170±0.040'
        """

        def plain(key: str, text: str) -> str:
            return full_name(text) if key == "model" else text

        found = [
            row
            for row in self.rows
            if all(plain(key, row[key].printed) == plain(key, text) for key, text in cells.items())
        ]
        if len(found) != 1:
            raise KeyError(f"Table {self.number} has {len(found)} rows with {cells}")
        return found[0]


def full_name(printed: str) -> str:
    """A model's name as Table 1 has it, from the way any table prints it; other text as it is.

    >>> [full_name(name) for name in ("FP32†", "Q8PTQ-MoE-C", "Q4-Base", "MoE")]
    ['FP32-Base', 'BitNet-Q8PTQ-QMoE-C', 'Q4-Base', 'MoE']
    """
    name = printed.rstrip("†‡")
    stem, curious = (name[:-2], "-C") if name.endswith("-C") else (name, "")
    name = _SHORT.get(stem, stem) + curious
    return f"{name}-Base" if f"{name}-Base" in MODELS else name


@functools.cache
def tables() -> tuple[PrintedTable, ...]:
    """All seven, in order."""
    text = resources.files("qmoe_core.paper").joinpath("tables.toml").read_text(encoding="utf-8")
    found = []
    for entry in tomllib.loads(text)["table"]:
        columns = tuple(PrintedColumn(**column) for column in entry["columns"])
        rows = tuple(
            {column.key: PrintedCell.read(text) for column, text in zip(columns, row, strict=True)}
            for row in entry["rows"]
        )
        found.append(PrintedTable(entry["number"], entry["section"], entry["caption"], columns, rows))
    return tuple(found)


def table(number: int) -> PrintedTable:
    """One of them, by the number it has in the paper."""
    return tables()[number - 1]
