"""`qmoe runs …`: what is kept on disk."""

from __future__ import annotations

import time
from typing import Any

import click

from qmoe_core.cli.common import (
    DAYS,
    EXIT_USER_ERROR,
    Arguments,
    LazyGroup,
    command,
    json_option,
    print_json,
    table,
)

runs = LazyGroup(
    "runs",
    help="what is kept on disk",
    example="qmoe runs list",
    params=[
        click.Option(
            ["--store"],
            help="folder, or bucket such as s3://name/prefix "
            "(default: $QMOE_STORE, or the user’s data folder)",
        )
    ],
    loaded={
        "list": "qmoe_core.cli.runs:listing",
        "show": "qmoe_core.cli.runs:show",
        "verify": "qmoe_core.cli.runs:verify",
        "gc": "qmoe_core.cli.runs:gc",
    },
)

_BRIEF = ("expert", "experts", "dataset", "protocol", "fold", "seed", "f1", "embedder")


def _brief(metadata: dict[str, Any]) -> dict[str, Any]:
    return {key: metadata[key] for key in _BRIEF if key in metadata}


@command("list", help="entries of the store", example="qmoe runs list --kind expert")
@click.option("--kind", help="only entries of this kind")
@json_option
def listing(arguments: Arguments) -> int:
    from qmoe_core.runtime.store import Store

    store = Store(arguments.store)
    rows = [
        {"kind": e.kind, "key": e.key, "created": e.created, "bytes": e.size, **_brief(e.metadata)}
        for e in store.list(arguments.kind)
    ]
    if arguments.json:
        print_json(rows)
        return 0
    if not rows:
        print(f"no runs in {store.address}")
        return 0
    lines = [("key", "kind", "bytes", "created", "what")]
    for row in rows:
        created = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["created"]))
        what = " ".join(str(value) for key, value in row.items() if key in _BRIEF)
        lines.append((row["key"][:12], row["kind"], f"{row['bytes']:,}", created, what))
    print(table(lines))
    return 0


@command(
    "show",
    details="KEY is the key, or the beginning of it.",
    help="one entry: its fields, metadata and tensors",
    example="qmoe runs show 3f2a9c",
)
@click.argument("key", metavar="KEY")
@json_option
def show(arguments: Arguments) -> int:
    from qmoe_core.runtime.store import Store

    entry = Store(arguments.store).resolve(arguments.key)
    print_json(
        {
            "kind": entry.kind,
            "key": entry.key,
            "created": entry.created,
            "fields": entry.fields,
            "metadata": entry.metadata,
            "tensors": {name: list(t.shape) for name, t in entry.tensors.items()},
        }
    )
    return 0


@command("verify", help="read every entry; set damaged ones aside", example="qmoe runs verify --json")
@json_option
def verify(arguments: Arguments) -> int:
    from qmoe_core.runtime.store import Store

    store = Store(arguments.store)
    checked = store.verify()
    if arguments.json:
        document: dict[str, Any] = {
            "checked": checked.checked,
            "damaged": [{"path": str(r.path), "reason": r.reason} for r in checked.damaged],
        }
        if checked.others:
            document["other_versions"] = [{"path": str(r.path), "reason": r.reason} for r in checked.others]
        print_json(document)
    else:
        print(
            f"{checked.checked} entries checked, {len(checked.damaged)} damaged and set aside, "
            f"in {store.address}"
        )
        if checked.others:
            print(f"{len(checked.others)} entries of another version left as they are")
        for report in (*checked.damaged, *checked.others):
            print(f"  {report.path}: {report.reason}")
    return EXIT_USER_ERROR if checked.damaged else 0


@command(
    "gc",
    help="remove leftovers of killed processes, and old runs if an age is given",
    example="qmoe runs gc --older-than 90 --dry-run",
)
@click.option("--older-than", type=DAYS, metavar="DAYS", help="also remove runs of at least this age")
@click.option("--dry-run", is_flag=True, help="say what would be removed")
@json_option
def gc(arguments: Arguments) -> int:
    from qmoe_core.runtime.store import Store

    store = Store(arguments.store)
    removed = store.gc(older_than_days=arguments.older_than, dry_run=arguments.dry_run)
    if arguments.json:
        print_json(
            {
                "entries": [entry.key for entry in removed.entries],
                "quarantined": removed.quarantined,
                "unfinished": removed.unfinished,
                "bytes": removed.bytes,
                "dry_run": arguments.dry_run,
            }
        )
    else:
        verb = "would be removed" if arguments.dry_run else "removed"
        print(
            f"{len(removed.entries)} entries, {removed.quarantined} damaged, "
            f"{removed.unfinished} unfinished: "
            f"{removed.bytes:,} bytes {verb} from {store.address}"
        )
    return 0
