"""`qmoe data …`: list, check, download and import datasets."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from qmoe_core.cli.common import (
    EXIT_USER_ERROR,
    Arguments,
    LazyGroup,
    ProgressBar,
    command,
    json_option,
    print_json,
    table,
)
from qmoe_core.errors import UserError

data = LazyGroup(
    "data",
    help="datasets",
    example="qmoe data list",
    loaded={
        "list": "qmoe_core.cli.data:listing",
        "validate": "qmoe_core.cli.data:validate",
        "download": "qmoe_core.cli.data:download",
        "import": "qmoe_core.cli.data:importing",
    },
)


@command("list", help="datasets that can be named", example="qmoe data list --json")
@json_option
def listing(arguments: Arguments) -> int:
    from qmoe_core import datasets

    rows = []
    for name, path in datasets.available().items():
        try:
            manifest = datasets.open_dataset(path)
        except UserError as error:
            rows.append(
                {
                    "name": name,
                    "path": str(path),
                    "clips": 0,
                    "classes": 0,
                    "folds": None,
                    "problem": str(error),
                }
            )
            continue
        folds = None if manifest.folds is None else len(set(manifest.folds.tolist()))
        rows.append(
            {
                "name": name,
                "path": str(path),
                "clips": len(manifest),
                "classes": len(manifest.classes),
                "folds": folds,
                "problem": None,
            }
        )
    if arguments.json:
        print_json(rows)
        return 0
    if not rows:
        print("No dataset found; looked in " + ", ".join(str(home) for home in datasets.homes()))
        return 0
    head = [("name", "clips", "classes", "folds", "path")]
    print(
        table(
            head
            + [
                (
                    r["name"],
                    str(r["clips"]),
                    str(r["classes"]),
                    str(r["folds"] or "–"),
                    r["problem"] or r["path"],
                )
                for r in rows
            ]
        )
    )
    return 0


@command(
    "validate", help="everything that is wrong with a dataset, at once", example="qmoe data validate esc10"
)
@click.argument("path", metavar="FOLDER-OR-NAME")
@json_option
def validate(arguments: Arguments) -> int:
    from qmoe_core import datasets

    found = datasets.validate(arguments.path, decode=True, progress=ProgressBar("reading"))
    manifest, errors = found.manifest, len(found.errors)
    warnings = len(found.problems) - errors
    folds = None if manifest.folds is None else len(set(manifest.folds.tolist()))
    if arguments.json:
        print_json(
            {
                "path": arguments.path,
                "media": manifest.media,
                "files": found.files,
                "clips": len(manifest),
                "classes": len(manifest.classes),
                "folds": folds,
                "errors": errors,
                "warnings": warnings,
                "problems": [
                    {"severity": p.severity, "file": p.file, "message": p.message} for p in found.problems
                ],
            }
        )
    else:
        for problem in found.problems:
            print(f"{problem.severity}: {problem}")
        print(
            f"{arguments.path}: {errors} errors, {warnings} warnings; {found.files} files read, "
            f"{len(manifest)} clips ({manifest.media}), {len(manifest.classes)} classes, "
            f"{folds or 'no'} official folds"
        )
    return EXIT_USER_ERROR if errors else 0


@command(
    "download",
    help="fetch a dataset (esc50, urbansound8k or quinn); what is stopped goes on the next time",
    example="qmoe data download esc50",
)
@click.argument("name", metavar="NAME")
@click.option("--url", help="another address of the same archive")
@json_option
def download(arguments: Arguments) -> int:
    from qmoe_core import datasets
    from qmoe_core.datasets import download as downloads

    source = downloads.source(arguments.name)
    print(f"{source.title}\nlicence: {source.licence}\ncite: {source.citation}", file=sys.stderr)
    path = downloads.download(
        source,
        url=arguments.url,
        progress=ProgressBar("downloading"),
        unpacking=ProgressBar("unpacking"),
    )
    clips = len(datasets.open_dataset(path))
    if arguments.json:
        print_json({"name": source.name, "path": str(path), "clips": clips, "licence": source.licence})
    else:
        print(f"{source.name}: {clips} clips in {path}")
    return 0


@command(
    "import",
    help="take ready embeddings: the paper’s CSV",
    details="CSV has the columns folder, name, label, category, class_id, 0 … D−1.",
    example="qmoe data import embeddings.csv --name mine",
)
@click.argument("csv", metavar="CSV")
@click.option("--name", help="of the dataset (default: the file’s)")
@click.option("--skip-bad", is_flag=True, help="leave out rows that cannot be used")
@json_option
def importing(arguments: Arguments) -> int:
    from qmoe_core import datasets
    from qmoe_core.datasets import imported

    made = imported.import_csv(
        Path(arguments.csv),
        datasets.kept(),
        arguments.name,
        skip_bad=arguments.skip_bad,
        progress=ProgressBar("reading"),
    )
    manifest = datasets.open_dataset(made.root)
    if arguments.json:
        print_json(
            {
                "name": manifest.name,
                "path": str(made.root),
                "rows": made.rows,
                "dim": made.dim,
                "dtype": made.dtype,
                "classes": list(manifest.classes),
                "skipped": made.skipped,
                "unused_columns": list(made.unused),
            }
        )
        return 0
    for what, count in made.skipped.items():
        print(f"left out: {count} rows with {what}")
    if made.unused:
        print(f"columns not used: {', '.join(made.unused)}")
    print(
        f"{manifest.name}: {made.rows} clips × {made.dim} numbers ({made.dtype}), "
        f"{len(manifest.classes)} classes; qmoe train {manifest.name}"
    )
    return 0
