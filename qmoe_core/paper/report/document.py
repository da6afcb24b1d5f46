"""A report before it is written: sections of sentences, tables and figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Spread(NamedTuple):
    """A mean and its deviation."""

    mean: float
    deviation: float


class Interval(NamedTuple):
    """An estimate and the ends of its interval."""

    value: float
    low: float
    high: float


Value = str | int | float | Spread | Interval | None
"""What a cell holds; None is what was not measured."""

DASH = "–"


@dataclass(frozen=True)
class ReportColumn:
    """A column: heading, decimals of its numbers, its unit ("" for none), and whether it holds p-values."""

    heading: str
    digits: int = 3
    unit: str = ""
    p: bool = False

    @property
    def title(self) -> str:
        """Heading with the unit."""
        return f"{self.heading} ({self.unit})" if self.unit else self.heading

    def text(self, value: Value) -> str:
        """A cell as it is printed.

        >>> ReportColumn("F1").text(Spread(0.8194, 0.0201)), ReportColumn("n", 0).text(1200.0)
        ('0.819±0.020', '1,200')
        >>> ReportColumn("p", p=True).text(0.0001)
        '<0.001'
        """
        if value is None or value != value:
            return DASH
        if isinstance(value, str):
            return value
        if isinstance(value, int):
            return f"{value:,}"
        if isinstance(value, Spread):
            return f"{self.text(value.mean)}±{self.text(value.deviation)}"
        if isinstance(value, Interval):
            return f"{self.text(value.value)} [{self.text(value.low)}, {self.text(value.high)}]"
        if self.p and value < 10.0**-self.digits:
            return f"<{10.0**-self.digits:.{self.digits}f}"
        return f"{value:,.{self.digits}f}".replace("-", "−")


def columns_of(text: str) -> tuple[ReportColumn, ...]:
    """Columns from their headings, each with decimals, unit and a `p` for p-values behind colons.

    >>> [column.title for column in columns_of("Model; Latency:1:µs")]
    ['Model', 'Latency (µs)']
    """
    made = []
    for part in text.split("; "):
        heading, digits, unit, p = (*part.split(":"), "", "", "")[:4]
        made.append(ReportColumn(heading, int(digits or 3), unit, p == "p"))
    return tuple(made)


@dataclass(frozen=True)
class ReportTable:
    """A table.

    Attributes:
        id: file name without suffix, such as `table-1`.
        title: one line.
        rows: cells in the order of the columns.
        note: under the table: n, protocol, threads, machine, how measured.
    """

    id: str
    title: str
    columns: tuple[ReportColumn, ...]
    rows: tuple[tuple[Value, ...], ...]
    note: str = ""

    @property
    def texts(self) -> list[list[str]]:
        """Cells as they are printed."""
        return [[c.text(value) for c, value in zip(self.columns, row, strict=True)] for row in self.rows]

    @property
    def words(self) -> list[bool]:
        """Which columns hold words, which stand to the left, rather than numbers, printed or not."""
        return [
            any(isinstance(value, str) and value[:1].isalpha() for value in (row[i] for row in self.rows))
            for i in range(len(self.columns))
        ]


@dataclass(frozen=True)
class Figure:
    """A figure: a complete SVG document, and a caption that says what is seen."""

    id: str
    svg: str
    caption: str


@dataclass(frozen=True)
class ReportFile:
    """A file of its own beside the report, which does not show it.

    Attributes:
        name: its place in the folder; title: what it is; text: what is in it.
        listed: whether the report names it under its section.
    """

    name: str
    title: str
    text: str
    listed: bool = True


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        paragraphs: plain text.
        ours, paper: the table from our runs, and the paper's printed one beside it.
        more: further tables; figures: in order.
        large: tables that are written as files and not shown; files: others, as they are.
    """

    id: str
    title: str
    paragraphs: tuple[str, ...]
    ours: ReportTable | None = None
    paper: ReportTable | None = None
    more: tuple[ReportTable, ...] = ()
    figures: tuple[Figure, ...] = ()
    large: tuple[ReportTable, ...] = ()
    files: tuple[ReportFile, ...] = ()

    @property
    def pair(self) -> tuple[ReportTable, ...]:
        """Ours and the paper's, where there are any."""
        return tuple(table for table in (self.ours, self.paper) if table is not None)

    @property
    def side_by_side(self) -> bool:
        """Whether the two fit beside each other on a wide screen."""
        return len(self.pair) == 2 and all(len(table.columns) <= 7 for table in self.pair)

    @property
    def tables(self) -> tuple[ReportTable, ...]:
        """All of them."""
        return self.pair + self.more + self.large


@dataclass(frozen=True)
class ReportDocument:
    """Title, what it is of, its sections, and what a reader must know to make it again."""

    title: str
    summary: tuple[str, ...]
    sections: tuple[Section, ...]
    provenance: dict[str, object] = field(default_factory=dict)
