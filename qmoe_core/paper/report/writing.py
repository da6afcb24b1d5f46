"""A report as files: CSV for machines, Markdown and one self-contained HTML page for people.

The folder is there completely or not at all: everything is written beside it, flushed, and put in its place
in one step; an older report goes as the new one comes. Nothing in the page is fetched from anywhere.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from pathlib import Path

import msgspec

from qmoe_core.errors import ConfigError
from qmoe_core.paper.report.document import Interval, ReportDocument, ReportTable, Spread, Value
from qmoe_core.paper.report.templates import FOLDER, render
from qmoe_core.runtime.files import put_in_place
from qmoe_core.runtime.spreadsheets import defused
from qmoe_core.runtime.store import unfinished

PAGE, TEXT, RECORD = "report.html", "report.md", "report.json"
FORMAT = "qmoe-report"


def refuse_other_folders(folder: Path) -> None:
    """A report only ever replaces a report (or an empty folder).

    Raises:
        ConfigError: something else is there, and would be lost.
    """
    if not folder.exists():
        return
    if folder.is_dir() and (not any(folder.iterdir()) or _is_report(folder)):
        return
    raise ConfigError(
        f"{folder}: is not a report, and is not replaced by one; give --out a folder that does not exist yet"
    )


def _is_report(folder: Path) -> bool:
    try:
        return msgspec.json.decode((folder / RECORD).read_bytes())["format"] == FORMAT
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        return False


def write(report: ReportDocument, folder: Path) -> Path:
    """Write a report: complete, or not at all.

    Raises:
        ConfigError: what is there is not a report, or the folder cannot be written.
    """
    refuse_other_folders(folder)
    folder = folder.resolve()  # a link stays one, and its folder is written
    work = unfinished(folder)
    try:
        work.mkdir(parents=True)
        for name, text in files(report).items():
            path = work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        put_in_place(work, folder)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def files(report: ReportDocument) -> dict[str, str]:
    """Every file of a report by its name in the folder."""
    made = {PAGE: page(report), TEXT: markdown(report), RECORD: record(report)}
    for section in report.sections:
        for table in section.tables:
            made[f"tables/{table.id}.csv"] = comma_separated(table)
        for table in (*([section.ours] if section.ours else []), *section.more):
            made[f"tables/{table.id}.md"] = render("table.md.j2", table=table)
        for figure in section.figures:
            made[f"figures/{figure.id}.svg"] = figure.svg
        made |= {file.name: file.text for file in section.files}
    return made


def record(report: ReportDocument) -> str:
    """The whole report as one JSON document."""
    return msgspec.json.format(msgspec.json.encode(to_json(report)), indent=1).decode()


def to_json(report: ReportDocument) -> dict[str, object]:
    """`qmoe reproduce --json`: everything but the drawings."""
    return {
        "format": FORMAT,
        "title": report.title,
        "summary": list(report.summary),
        "provenance": report.provenance,
        "sections": [
            {
                "id": section.id,
                "title": section.title,
                "paragraphs": list(section.paragraphs),
                "tables": [
                    {
                        "id": table.id,
                        "title": table.title,
                        "columns": [column.title for column in table.columns],
                        "rows": [[_plain(value) for value in row] for row in table.rows],
                        "note": table.note,
                    }
                    for table in section.tables
                ],
            }
            for section in report.sections
        ],
    }


def _plain(value: Value) -> object:
    if isinstance(value, Spread):
        return {"mean": value.mean, "deviation": value.deviation}
    if isinstance(value, Interval):
        return {"value": value.value, "low": value.low, "high": value.high}
    return value


def comma_separated(table: ReportTable) -> str:
    """A table with full precision; a mean ± deviation becomes two columns, an interval three."""
    kinds = [
        next((type(row[i]) for row in table.rows if isinstance(row[i], (Spread, Interval))), None)
        for i in range(len(table.columns))
    ]
    ends = {Spread: ("", " deviation"), Interval: ("", " low", " high"), None: ("",)}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [defused(c.title + end) for c, kind in zip(table.columns, kinds, strict=True) for end in ends[kind]]
    )
    for row in table.rows:
        cells: list[object] = []
        for value, kind in zip(row, kinds, strict=True):
            parts = list(value) if isinstance(value, (Spread, Interval)) else [value]
            cells += [defused(part) for part in parts + [None] * (len(ends[kind]) - len(parts))]
        writer.writerow(cells)
    return out.getvalue()


def markdown(report: ReportDocument) -> str:
    """The report as Markdown; figures are the files beside it."""
    return render("report.md.j2", report=report)


_STYLE = (FOLDER / "report.css").read_text(encoding="utf-8")


def page(report: ReportDocument) -> str:
    """The report as one HTML page that needs nothing else."""
    return render("report.html.j2", report=report, style=_STYLE)
