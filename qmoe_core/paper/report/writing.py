"""A report as files: CSV for machines, Markdown and one self-contained HTML page for people.

The folder is there completely or not at all: everything is written beside it, flushed, and put in its place
in one step; an older report goes as the new one comes. Nothing in the page is fetched from anywhere.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path

import msgspec

from qmoe_core.errors import ConfigError
from qmoe_core.paper.report.document import Figure, Interval, Report, Section, Spread, Table, Value
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


def write(report: Report, folder: Path) -> Path:
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
            path.parent.mkdir(exist_ok=True)
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


def files(report: Report) -> dict[str, str]:
    """Every file of a report by its name in the folder."""
    made = {PAGE: page(report), TEXT: markdown(report), RECORD: record(report)}
    for section in report.sections:
        for table in section.tables:
            made[f"tables/{table.id}.csv"] = comma_separated(table)
        for table in (*([section.ours] if section.ours else []), *section.more):
            made[f"tables/{table.id}.md"] = f"{_markdown_table(table)}\n"
        for figure in section.figures:
            made[f"figures/{figure.id}.svg"] = figure.svg
    return made


def record(report: Report) -> str:
    """The whole report as one JSON document."""
    return msgspec.json.format(msgspec.json.encode(to_json(report)), indent=1).decode()


def to_json(report: Report) -> dict[str, object]:
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


def comma_separated(table: Table) -> str:
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


def markdown(report: Report) -> str:
    """The report as Markdown; figures are the files beside it."""
    parts = [f"# {_plain_markdown(report.title)}", *map(_plain_markdown, report.summary)]
    for section in report.sections:
        parts += [f"## {_plain_markdown(section.title)}", *map(_plain_markdown, section.paragraphs)]
        for table in section.tables:
            if table not in section.large:
                parts.append(f"**{_plain_markdown(table.title)}**\n\n{_markdown_table(table)}")
        parts += [
            f"![{_plain_markdown(f.caption)}](figures/{f.id}.svg)\n\n*{_plain_markdown(f.caption)}*"
            for f in section.figures
        ]
        parts += [f"All rows: [{t.title}](tables/{t.id}.csv)" for t in section.large]
    return "\n\n".join(parts) + "\n"


def _plain_markdown(text: str) -> str:
    """Text that Markdown, and the HTML in it, leaves as it is."""
    for sign in "\\`*_[]<>|#":
        text = text.replace(sign, f"\\{sign}")
    return text


def _markdown_table(table: Table) -> str:
    head = [column.title for column in table.columns]
    rows = [[c.text(value) for c, value in zip(table.columns, row, strict=True)] for row in table.rows]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    written = [
        "| " + " | ".join(cell if line is lines[1] else _plain_markdown(cell) for cell in line) + " |"
        for line in lines
    ]
    return "\n".join(written) + (f"\n\n{_plain_markdown(table.note)}" if table.note else "")


_STYLE = resources.files("qmoe_core.paper.report").joinpath("report.css").read_text(encoding="utf-8")


def page(report: Report) -> str:
    """The report as one HTML page that needs nothing else."""
    links = "".join(f'<li><a href="#{escape(s.id)}">{escape(s.title)}</a></li>' for s in report.sections)
    body = [
        f"<h1>{escape(report.title)}</h1>",
        *(f"<p>{escape(text)}</p>" for text in report.summary),
        f"<nav><ul>{links}</ul></nav>",
        *map(_section, report.sections),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(report.title)}</title><style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _section(section: Section) -> str:
    parts = [f'<section id="{escape(section.id)}"><h2>{escape(section.title)}</h2>']
    parts += [f"<p>{escape(text)}</p>" for text in section.paragraphs]
    shown = [_html_table(table) for table in (section.ours, section.paper) if table is not None]
    if shown:
        parts.append(f'<div class="pair{" two" if _both_narrow(section) else ""}">{"".join(shown)}</div>')
    parts += [_html_table(table) for table in section.more]
    parts += [_html_figure(figure) for figure in section.figures]
    parts += [f'<p class="note">All rows: tables/{escape(t.id)}.csv</p>' for t in section.large]
    return "".join(parts) + "</section>"


def _both_narrow(section: Section) -> bool:
    """Whether two tables fit beside each other on a wide screen."""
    tables = [table for table in (section.ours, section.paper) if table is not None]
    return len(tables) == 2 and all(len(table.columns) <= 7 for table in tables)


def _html_table(table: Table) -> str:
    words = [_of_words([row[i] for row in table.rows]) for i in range(len(table.columns))]
    kinds = [' class="t"' if text else "" for text in words]
    head = "".join(
        f'<th scope="col"{kind}>{escape(column.title)}</th>'
        for column, kind in zip(table.columns, kinds, strict=True)
    )
    rows = []
    for row in table.rows:
        cells = zip(table.columns, row, kinds, strict=True)
        shown = (f"<td{kind}>{escape(column.text(value))}</td>" for column, value, kind in cells)
        rows.append(f"<tr>{''.join(shown)}</tr>")
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<div><div class="scroll" tabindex="0"><table><caption>{escape(table.title)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{note}</div>"
    )


def _of_words(values: Sequence[Value]) -> bool:
    """Whether a column holds words, which stand to the left, rather than numbers, printed or not."""
    return any(isinstance(value, str) and value[:1].isalpha() for value in values)


def _html_figure(figure: Figure) -> str:
    caption = f"<figcaption>{escape(figure.caption)}</figcaption>"
    return f'<figure><div class="scroll">{figure.svg}</div>{caption}</figure>'
