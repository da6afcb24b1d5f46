"""Every printed value that can be checked: by the paper's own arithmetic, its published result files, ours.

A value is OK if numbers that round to the printed ones can give it, and MISMATCH otherwise; what is compared
is what is printed, so a rounding never counts as one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from qmoe_core.errors import ConfigError
from qmoe_core.numbers import counted
from qmoe_core.paper import tables as paper
from qmoe_core.paper.report.costs import Sizes
from qmoe_core.paper.report.document import ReportTable, Section, Spread, Value, columns_of
from qmoe_core.paper.report.study import Study, of_all, spread
from qmoe_core.paper.tables import PrintedCell
from qmoe_core.runtime import typed

OK, MISMATCH = "OK", "MISMATCH"
NOT_AT_HAND = "not at hand"


class Band:
    """The numbers that round to a printed one: arithmetic on intervals, all of them positive."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    @staticmethod
    def of(printed: str) -> Band:
        """What rounds to a number as it is printed.

        >>> Band.of("0.820").low, Band.of("1,211,122").high
        (0.8195, 1211122.5)
        """
        text = printed.replace(",", "").strip("×<")
        half = 0.5 * 10.0 ** -len(text.partition(".")[2])
        return Band(round(float(text) - half, 9), round(float(text) + half, 9))

    @staticmethod
    def mean(bands: Sequence[Band]) -> Band:
        """Of several numbers."""
        return Band(float(np.mean([b.low for b in bands])), float(np.mean([b.high for b in bands])))

    @staticmethod
    def root_mean_square(bands: Sequence[Band]) -> Band:
        """How the paper's code averages deviations."""
        low, high = ([max(getattr(b, end), 0.0) for b in bands] for end in ("low", "high"))
        return Band(math.hypot(*low) / math.sqrt(len(low)), math.hypot(*high) / math.sqrt(len(high)))

    def over(self, other: Band, factor: float = 1.0) -> Band:
        """Their ratio."""
        return Band(factor * self.low / other.high, factor * self.high / other.low)

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2.0

    def verdict(self, other: Band) -> str:
        """Whether one number can be in both."""
        slack = 1e-9 * max(1.0, abs(self.high))
        return OK if self.low <= other.high + slack and other.low <= self.high + slack else MISMATCH


@dataclass(frozen=True)
class Check:
    """A printed value against what it should be.

    Attributes:
        table, row, column: where it is printed; printed: its text; rule: what it is compared with.
        computed: what the rule gives (the middle of what it can give).
    """

    table: int
    row: str
    column: str
    printed: str
    rule: str
    computed: float
    verdict: str


def _value(cell: PrintedCell) -> Band:
    return Band.of(cell.printed.partition("±")[0])


def _deviation(cell: PrintedCell) -> Band:
    return Band.of(cell.printed.partition("±")[2])


def arithmetic() -> list[Check]:
    """Every printed value that follows from other printed ones."""
    return [*_of_table_1(), *_of_table_2(), *_repeated(), *_ratios()]


def _check(
    table: int, row: dict[str, PrintedCell], column: str, rule: str, expected: Band, part: str = "value"
) -> Check:
    cell = row[column]
    own = _value(cell) if part == "value" else _deviation(cell)
    text = cell.printed.partition("±")[0 if part == "value" else 2]
    named = next(c.heading for c in paper.table(table).columns if c.key == column)
    label = (
        row["model"].printed if "model" in row else f"{row['bits'].printed} bits, {row['dataset'].printed}"
    )
    return Check(
        table,
        label.rstrip("†‡"),
        named + ("" if part == "value" else ", deviation"),
        text,
        rule,
        expected.middle,
        own.verdict(expected),
    )


def _of_table_1() -> Iterator[Check]:
    for row in paper.table(1).rows:
        cells = [row[key] for key in paper.DATASETS]
        yield _check(1, row, "mean", "mean of the three datasets", Band.mean([_value(c) for c in cells]))
        root = Band.root_mean_square([_deviation(c) for c in cells])
        yield _check(1, row, "mean", "root mean square of the three", root, "deviation")


def _of_table_2() -> Iterator[Check]:
    table = paper.table(2)
    for row in table.rows:
        whole = table.row(bits="16", dataset=row["dataset"].printed)["f1"]
        if row["bits"].printed != "16":
            yield _check(2, row, "share", "F1 / F1 of 16 bits", _value(row["f1"]).over(_value(whole), 100.0))
        key = next(key for key, name in paper.DATASETS.items() if name == row["dataset"].printed)
        first = paper.table(1).row(model=f"Q{row['bits'].printed}-Base")[key]
        yield _check(2, row, "f1", "Table 1", _value(first))


def _repeated() -> Iterator[Check]:
    """Values that stand in several tables."""
    for number in (3, 4, 6):
        for row in paper.table(number).rows:
            mean = paper.table(1).row(model=row["model"].printed)["mean"]
            yield _check(number, row, "f1", "average of Table 1", _value(mean))
    for row in paper.table(3).rows:
        fourth = paper.table(4).row(model=row["model"].printed)
        sixth = paper.table(6).row(model=row["model"].printed)
        yield _check(3, row, "latency", "Table 4", _value(fourth["latency"]))
        yield _check(3, row, "latency", "Table 4", _deviation(fourth["latency"]), "deviation")
        yield _check(3, row, "co2", "Table 6", _value(sixth["co2"]))


def _ratios() -> Iterator[Check]:
    for row in paper.table(3).rows:
        yield _check(3, row, "efficiency", "F1 / energy", _value(row["f1"]).over(_value(row["energy"])))
    whole = paper.table(4).row(model="FP32-Base")["latency"]
    for row in paper.table(4).rows:
        ratio = _value(whole).over(_value(row["latency"]))
        yield _check(4, row, "speedup", "FP32-Base’s latency / latency", ratio)
    largest = paper.table(7).row(model="FP32-Base")["kilobytes"]
    for row in paper.table(7).rows:
        kilobytes = _value(row["kilobytes"])
        thousandth = Band(kilobytes.low / 1e3, kilobytes.high / 1e3)
        yield _check(7, row, "megabytes", "KB / 1,000", thousandth)
        yield _check(7, row, "reduction", "FP32’s KB / KB", _value(largest).over(kilobytes))


_SINGLE = {
    "esc": "FP32-Base",
    "1": "Q1-Base",
    "2": "Q2-Base",
    "4": "Q4-Base",
    "8": "Q8-Base",
    "16": "Q16-Base",
    "bitnet": "BitNet-Base",
    "qesc": "Q8-Base-PTQ",
}
_TAGS = {
    "alpha_030": "BitNet-Q4/8-QMoE-C",
    "bitnet_4_8_16_curiosity": "BitNet-Q4/8/16-QMoE-C",
    "bitnet_8_16_qesc_curiosity": "BitNet-Q8/16-PTQ-QMoE-C",
    "bitnet_qesc_curiosity": "BitNet-Q8PTQ-QMoE-C",
    "bitnet_4_8_16_moe": "BitNet-Q4/8/16-QMoE",
    "moe_bitnet_8_16_qesc": "BitNet-Q8/16-PTQ-QMoE",
    "moe_bitnet_qesc": "BitNet-Q8PTQ-QMoE",
}
"""Ends of the code's output tags, as its README lists them, and the model that each is."""
_DATASETS = {"esc": "esc50", "quinn": "quinn", "urban": "urban8k"}


class _Summary(msgspec.Struct):
    """What a `summary.json` of the paper's code says, as far as it is compared."""

    f1_mean: float
    f1_std: float


Published = Mapping[tuple[str, str], _Summary]
"""By model and column of Table 1."""


def published(folder: Path | str | None) -> Published:
    """F1 of the published result files by model and column of Table 1: `summary.json` anywhere in a folder.

    Raises:
        ConfigError: there is no such folder, no file of a known model in it, or one that cannot be read.
    """
    if folder is None:
        return {}
    root = Path(folder)
    found: dict[tuple[str, str], _Summary] = {}
    for path in sorted(root.rglob("summary.json")):
        place = _place(path.relative_to(root).parts[:-1])
        if place is None:
            continue
        try:
            found[place] = typed.decode(path.read_bytes(), _Summary)
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigError(f"{path}: is no summary.json with f1_mean and f1_std ({error})") from None
    if not found:
        raise ConfigError(
            f"--published {folder}: has no summary.json of a model of the paper; accepted is a folder with "
            "the outputs of its code, such as esc_alpha_030/moe/summary.json"
        )
    return found


def _place(parts: Sequence[str]) -> tuple[str, str] | None:
    """Model and column of Table 1 that a file in these folders is of; None where it is of neither."""
    names = [re.sub(r"[^a-z0-9]+", "_", part.lower()) for part in parts]
    dataset = next(
        (key for sign, key in _DATASETS.items() if any(name.startswith(sign) for name in names)), None
    )
    tag = next(
        (model for name in reversed(names) for end, model in _TAGS.items() if name.endswith(end)), None
    )
    model = tag or (_SINGLE.get(names[-1]) if names else None)
    return None if dataset is None or model is None else (model, dataset)


def section(studies: Sequence[Study], sizes: Sizes, files: Published) -> Section:
    """Every printed F1 and size with the published files' and ours beside it, and what does not add up."""
    checks = arithmetic()
    wrong = [check for check in checks if check.verdict == MISMATCH]
    columns = columns_of("Table:0; Row; Column; Printed; Compared with; Computed:3; Verdict")
    rows = tuple(
        (str(c.table), c.row, c.column, c.printed, c.rule, c.computed, c.verdict) for c in (*wrong, *checks)
    )
    shown = ReportTable(
        "printed-mismatches",
        "Printed values that do not follow from other printed ones",
        columns,
        rows[: len(wrong)],
        "OK: numbers that round to the printed ones can give it. Each rule is the paper's own (an average, a "
        "share, a ratio) or the same value in another table.",
    )
    every = ReportTable(
        "printed-arithmetic", "Every printed value that could be checked", columns, rows[len(wrong) :]
    )
    beside = _beside(studies, sizes, files)
    compared = [row for row in beside.rows if row[-2] in (OK, MISMATCH)]
    text = (
        f"{len(checks)} printed values follow from others that are printed; {len(checks) - len(wrong)} are "
        f"OK, {len(wrong)} MISMATCH: {_per_table(wrong)}.",
        (
            f"Against the published result files, {sum(r[-2] == OK for r in compared)} of "
            f"{counted(len(compared), 'value')} are OK."
            if files
            else "The result files of the paper's code (RESULTS-paper/, outputs/) are not at hand, so "
            "nothing is compared with them; qmoe reproduce --published FOLDER does it where they are."
        ),
    )
    return Section(
        "printed",
        "The printed values, one by one",
        text,
        shown,
        more=(beside,),
        large=(every,),
    )


def _per_table(wrong: Sequence[Check]) -> str:
    count = {number: sum(c.table == number for c in wrong) for number in range(1, 8)}
    return ", ".join(f"{n} in Table {number}" for number, n in count.items() if n) or "none"


def column_of(name: str) -> str | None:
    """The column of Table 1 that a dataset here belongs to, by its name; None for another.

    >>> column_of("urbansound8k-3folds"), column_of("esc10"), column_of("mine")
    ('urban8k', 'esc50', None)
    """
    return next((key for sign, key in _DATASETS.items() if name.lower().startswith(sign)), None)


def _beside(studies: Sequence[Study], sizes: Sizes, files: Published) -> ReportTable:
    """Tables 1 and 7: printed, published and ours."""
    ours = {model.paper: model for model in of_all(studies)}
    rows: list[tuple[Value, ...]] = []
    for row in paper.table(1).rows:
        name = row["model"].printed.rstrip("†‡")
        for key, dataset in paper.DATASETS.items():
            file = files.get((name, key))
            verdict = NOT_AT_HAND
            if file is not None:
                same = (round(file.f1_mean, 3), round(file.f1_std, 3)) == (row[key].value, row[key].deviation)
                verdict = OK if same else MISMATCH
            here = [s for s in studies if column_of(s.name) == key and name in ours]
            rows.append(
                (
                    "1", name, f"{dataset} F1", row[key].printed,
                    None if file is None else Spread(file.f1_mean, file.f1_std), verdict,
                    spread(here[0].tables.f1(ours[name].ours)) if here else None,
                )
            )  # fmt: skip
    for row in paper.table(7).rows:
        model = paper.MODELS.get(paper.full_name(row["model"].printed))
        size = None if model is None else sizes.experts.get(model.experts[0], {}).get("bytes")
        kilobytes = None if size is None else size / 1e3
        rows.append(("7", row["model"].printed, "KB", row["kilobytes"].printed, None, NOT_AT_HAND, kilobytes))
    columns = columns_of("Table; Model; Column; Printed; Published file; Verdict; Ours")
    note = (
        "Ours: F1 of "
        + "; ".join(
            f"{s.name} ({s.tables.protocol}) beside {paper.DATASETS[key]}"
            for s in studies
            if (key := column_of(s.name))
        )
        + ", mean ± deviation over folds and seeds; sizes are of files at the paper's shape. They are other "
        "recordings, embeddings and protocols than the paper's, and need not be equal."
    )
    return ReportTable("printed-beside", "Printed, published and ours", columns, tuple(rows), note)
