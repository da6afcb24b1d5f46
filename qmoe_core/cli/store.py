"""`qmoe store …`: the store as one file, to be kept elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from qmoe_core.cli.common import Arguments, LazyGroup, ProgressBar, command, json_option, print_json

store = LazyGroup(
    "store",
    help="the store as one file, to be kept elsewhere",
    example="qmoe store backup lab.zip",
    params=[
        click.Option(["--store"], help="folder, or bucket (default: $QMOE_STORE, or the user’s data folder)")
    ],
    loaded={"backup": "qmoe_core.cli.store:backup", "restore": "qmoe_core.cli.store:restore"},
)


@command(
    "backup",
    help="write entries, bundles, datasets and logs into one file",
    example="qmoe store backup lab.zip",
)
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@json_option
def backup(arguments: Arguments) -> int:
    from qmoe_core.runtime.store import Store
    from qmoe_core.runtime.store import backup as backups

    store = Store(arguments.store)
    saved = backups.save(store, arguments.file, ProgressBar("writing"))
    for sentence in saved.left_out:
        print(f"qmoe: left out: {sentence}", file=sys.stderr)
    if arguments.json:
        print_json({"path": str(saved.path), "store": store.address, **_fields(saved)})
    else:
        print(f"{saved.path}: {saved.entries} entries, {saved.files} files, {saved.bytes:,} bytes")
    return 0


@command(
    "restore",
    help="check such a file, and put its contents into the store",
    example="qmoe store restore lab.zip",
)
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@json_option
def restore(arguments: Arguments) -> int:
    from qmoe_core.runtime.store import Store
    from qmoe_core.runtime.store import backup as backups

    store = Store(arguments.store)
    restored = backups.restore(store, arguments.file, ProgressBar("reading"))
    if arguments.json:
        print_json({"path": str(arguments.file), "store": store.address, **_fields(restored)})
    else:
        print(
            f"{store.address}: {restored.written} entries, bundles and files restored, "
            f"{restored.unchanged} were there"
        )
    return 0


def _fields(found: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(found).items() if name != "path"}
