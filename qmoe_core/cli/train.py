"""`qmoe embed` and `qmoe train`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from qmoe_core.cli import streams
from qmoe_core.cli.common import (
    Arguments,
    ProgressBar,
    command,
    json_option,
    needs,
    print_json,
    request_of,
    scheduler_option,
    table,
)
from qmoe_core.errors import safe

if TYPE_CHECKING:
    from qmoe_core.datasets.manifest import Manifest


@command(
    "embed",
    help="embed a dataset",
    details="DATASET is a folder or name, with options behind a colon: esc50:categories.",
    example="qmoe embed esc10 --embedder logmel-stats",
)
@click.argument("dataset", metavar="DATASET")
@click.option(
    "--embedder",
    default="logmel-stats",
    help="logmel-stats, efficientnet_b3, any timm name; variants behind @, such as @no-normalisation",
)
@click.option("--weights", help="safetensors file for a timm model, or random")
@scheduler_option
@json_option
def embed(arguments: Arguments) -> int:
    from qmoe_core import datasets, embedders
    from qmoe_core.embedders.embed import embed_dataset
    from qmoe_core.runtime.executor import Context
    from qmoe_core.runtime.store import Store

    manifest = _noted(datasets.open_dataset(arguments.dataset))
    embedder = embedders.for_dataset(manifest, arguments.embedder, weights=arguments.weights)
    started = time.perf_counter()
    context = Context(Store(), progress=ProgressBar)
    embeddings = embed_dataset(manifest, embedder, context, title=f"embedding with {embedder.id}")
    seconds = time.perf_counter() - started
    document = {
        "dataset": manifest.name,
        "embedder": embedder.id,
        "clips": len(manifest),
        "dim": embedder.dim,
        "seconds": seconds,
        "finite": bool((embeddings == embeddings).all()),
    }
    if arguments.json:
        print_json(document)
    else:
        print(
            f"{manifest.name}: {len(manifest)} clips × {embedder.dim} numbers with {embedder.id}, "
            f"{seconds:.1f} s"
        )
    return 0


def _noted(manifest: Manifest) -> Manifest:
    """Says on standard error what was left out of a dataset or guessed."""
    for note in manifest.notes:
        streams.say(f"qmoe: {manifest.name}: {safe(note)}")
    return manifest


@command(
    "train",
    help="train and evaluate experts and mixtures",
    details="DATASET is a folder or name, with options behind a colon: esc50:categories.",
    example="qmoe train esc10 --experts q4,q8 --moe bitnet,q4,q8 --seeds 3",
)
@click.argument("dataset", metavar="DATASET")
@click.option(
    "--embedder",
    multiple=True,
    default=("logmel-stats",),
    show_default=True,
    help="as for qmoe embed; repeated, experts stand behind each",
)
@click.option("--weights", help="safetensors file for a timm model, or random")
@click.option(
    "--experts", help="such as q4,q8,bitnet (default: all); q4+q8 is ds-cnn or mn04 in 4 bits under 8"
)
@click.option("--moe", multiple=True, metavar="EXPERTS", help="a mixture; may be repeated")
@click.option("--protocol", help="official, random or grouped")
@click.option("--selection", help="of the epoch: inner-validation, best-on-test or setting")
@click.option("--seeds", type=int, default=1, help="how many seeds, counted from the configuration’s")
@click.option("--workers", type=int, default=0, help="processes (default: one for each core)")
@click.option(
    "--perturb",
    type=int,
    default=0,
    metavar="N",
    help="train on N changed copies of each clip too: noise, rooms, distance, narrow bands, pitch, speed",
)
@click.option("--config", metavar="FILE", help="TOML file")
@click.option("--set", multiple=True, metavar="KEY=VALUE", help="such as router.temperature=0.5")
@click.option("--bundle", metavar="NAME", help="write a bundle: a name, or a folder")
@scheduler_option
@json_option
def train(arguments: Arguments) -> int:
    from qmoe_core import config as configuration
    from qmoe_core import datasets
    from qmoe_core.experts.spec import parse_names
    from qmoe_core.runtime.executor import Context
    from qmoe_core.runtime.requests import Train
    from qmoe_core.runtime.store import Store

    needs("torch")
    settings = list(arguments.set)
    if arguments.protocol:
        settings.append(f"evaluation.protocol={arguments.protocol}")
    if arguments.selection:
        settings.append(f"evaluation.selection={arguments.selection}")
    asked = arguments.protocol or arguments.config or any("evaluation.protocol" in text for text in settings)
    if _noted(datasets.open_dataset(arguments.dataset)).folds is None and not asked:
        settings.append("evaluation.protocol=grouped")
        print(
            f"{arguments.dataset} has no folds of its own: they are grouped by recording (--protocol)",
            file=sys.stderr,
        )
    request = request_of(
        Train,
        arguments,
        embedder=arguments.embedder[0],
        further=tuple(arguments.embedder[1:]),
        mixtures=tuple(parse_names(text, setting="--moe") for text in arguments.moe),
        config=configuration.load(arguments.config, settings),
    )
    report = request.run(Context(Store(), progress=ProgressBar))
    if arguments.json:
        print_json(report.to_json())
        return 0
    print(
        f"{report.dataset}: {report.embedder}, {report.protocol} folds, epoch by {report.selection}, "
        f"{report.seeds} seed(s), weighted F1 on test folds"
    )
    rows = [("", "parameters", "F1", "± deviation", "n")]
    rows += [
        (r.name, f"{r.parameters:,}", f"{r.f1_mean:.3f}", f"± {r.f1_std:.3f}", str(len(r.f1_folds)))
        for r in report.rows
    ]
    print(table(rows))
    print(
        f"{report.seconds:.1f} s, of it {report.compose_seconds:.1f} s for mixtures; "
        f"{report.trained} tasks trained, {report.found} found in the store"
    )
    if report.leaking_sources:
        print(
            f"{report.leaking_sources} source recordings have clips on both sides of a fold: F1 is too high"
        )
    if report.bundle:
        print(f"bundle written: {report.bundle}")
    return 0
