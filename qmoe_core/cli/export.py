"""`qmoe export`: a bundle as one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qmoe_core.cli.common import Arguments, command, json_option, print_json

if TYPE_CHECKING:
    from qmoe_core.bundles import Bundle


@command(
    "export",
    help="a bundle as one file, to be carried",
    example="qmoe export trained --out lab.qmoe --format packed",
)
@click.argument("bundle", metavar="BUNDLE")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE", help="to write")
@click.option(
    "--format",
    type=click.Choice(("packed", "onnx", "path")),
    default="packed",
    help="packed: for this program, with its card; onnx: waveform to decision, for ONNX Runtime; path: "
    "embedder and one expert, as bits and nothing else",
)
@click.option("--experts", help="to take along, such as bitnet,q4 (default: all; onnx: the mixture)")
@json_option
def export(arguments: Arguments) -> int:
    from qmoe_core import bundles
    from qmoe_core.bundles import export as exports
    from qmoe_core.experts.spec import parse_names

    loaded = bundles.load(arguments.bundle)
    experts = None if arguments.experts is None else parse_names(arguments.experts, setting="--experts")
    if arguments.format == "path":
        return _path(loaded, arguments, experts or ())
    write = exports.export_onnx if arguments.format == "onnx" else exports.export_packed
    path = write(loaded, arguments.out, experts=experts)
    size, folder = path.stat().st_size, sum(file.bytes for file in loaded.manifest.files.values())
    usual = loaded.settings().experts if arguments.format == "onnx" else loaded.experts
    names = [name for name in loaded.experts if name in (experts or usual)]
    packed = sum(map(loaded.expert_bytes, names)) + loaded.manifest.files[bundles.ROUTER_FILE].bytes
    if arguments.json:
        print_json(
            {
                "file": str(path),
                "format": arguments.format,
                "bytes": size,
                "experts": names,
                "packed_bytes": packed,
                "bundle": loaded.name,
                "bundle_bytes": folder,
                "digest": loaded.digest,
            }
        )
    else:
        print(
            f"{path}: {arguments.format}, {size:,} bytes with {', '.join(names)}; packed, these and the "
            f"router have {packed:,}, and the whole bundle {loaded.name} {folder:,}"
        )
    return 0


def _path(bundle: Bundle, arguments: Arguments, experts: Sequence[str]) -> int:
    """One expert's whole path."""
    from qmoe_core.bundles.export.path_file import export_path
    from qmoe_core.errors import BundleError

    if len(experts) != 1:
        raise BundleError(f"--format path: name one expert with --experts, such as {bundle.experts[0]}")
    size = export_path(bundle, arguments.out, expert=experts[0]).stat().st_size
    if arguments.json:
        print_json({"file": str(arguments.out), "format": "path", "bytes": size, "experts": list(experts)})
    else:
        print(f"{arguments.out}: {bundle.embedder} and {experts[0]}, {size:,} bytes")
    return 0
