"""`qmoe models …`: list, download and make embedders' weights."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from qmoe_core.cli.common import (
    Arguments,
    LazyGroup,
    ProgressBar,
    cell,
    command,
    json_option,
    needs,
    print_json,
    table,
)
from qmoe_core.errors import ConfigError, UserError

models = LazyGroup(
    "models",
    help="embedders and their weights",
    example="qmoe models list",
    loaded={
        "list": "qmoe_core.cli.models:listing",
        "download": "qmoe_core.cli.models:download",
        "make": "qmoe_core.cli.models:make",
        "quantize": "qmoe_core.cli.models:quantize",
    },
)


@command("list", help="embedders, and whether their weights are here", example="qmoe models list --json")
@json_option
def listing(arguments: Arguments) -> int:
    from qmoe_core.embedders import models as weights

    rows = weights.known()
    if arguments.json:
        print_json([row.to_json() for row in rows])
        return 0
    head = ("name", "numbers", "Hz", "on disk", "licence", "state")
    lines = [
        (r.name, cell(r.dim), cell(r.sample_rate_hz), cell(r.bytes), r.licence or "–", r.state) for r in rows
    ]
    print(table([head, *lines]))
    print("any model of timm can be named too; qmoe models download NAME fetches its weights")
    return 0


@command(
    "download",
    help="fetch a model’s weights, or take those of a file; what is stopped goes on the next time",
    details="NAME is mn04 or a model of timm. A file may be .safetensors, or .pt with tensors only.",
    example="qmoe models download mn04",
)
@click.argument("name", metavar="NAME")
@click.option("--from", "file", metavar="FILE", help="weights that you have: .pt or .safetensors")
@click.option("--url", help="another address of the same file")
@json_option
def download(arguments: Arguments) -> int:
    from qmoe_core.embedders import models as weights

    name = arguments.name
    if arguments.file is None and name == "mn04":
        said = weights.MN04
        print(f"{said['title']}\nlicence: {said['licence']}\ncite: {said['citation']}", file=sys.stderr)
    path = weights.download(name, file=arguments.file, url=arguments.url, progress=ProgressBar("downloading"))
    if arguments.json:
        print_json({"name": name, "path": str(path)})
    else:
        print(f"{name}: {path}")
    return 0


@command(
    "make",
    help="train ds-cnn anew, on sounds that are made up and labelled by mn04",
    details="Takes an hour or two; what is stopped goes on the next time. Needs mn04 (qmoe models download "
    "mn04) and the Debian packages espeak-ng, fluidsynth, fluid-soundfont-gm and sonic-pi-samples.",
    example="qmoe models make ds-cnn --out ds-cnn.safetensors",
)
@click.argument("name", metavar="NAME", type=click.Choice(["ds-cnn"]))
@click.option("--clips", type=click.IntRange(1024), help="sounds to train on (default: 40,000)")
@click.option("--epochs", help="times that each is seen, a cycle of the learning rate (default: 8,5)")
@click.option("--seed", type=int, help="of sounds and training (default: 1)")
@click.option("--workers", type=click.IntRange(0), default=0, help="processes (default: one for each core)")
@click.option("--out", metavar="FILE", help="where the weights go (default: used from now on)")
@json_option
def make(arguments: Arguments) -> int:
    from qmoe_core.embedders import models as weights

    needs("torch")
    teacher = weights.path("mn04")
    if teacher is None:
        raise UserError("ds-cnn is trained on what mn04 gives: qmoe models download mn04 first")
    from qmoe_core.embedders.distil import bank, training
    from qmoe_core.runtime.executor import Context
    from qmoe_core.runtime.store import Store

    given = {key: getattr(arguments, key) for key in ("clips", "seed")}
    given["epochs"] = None if arguments.epochs is None else _cycles(arguments.epochs)
    recipe = training.Recipe(**{key: value for key, value in given.items() if value is not None})
    for licence in (*bank.LICENCES, f"teacher: mn04 ({weights.MN04['licence']})"):
        print(licence, file=sys.stderr)
    epochs: list[dict] = []
    context = Context(Store(), progress=ProgressBar, observe=epochs.append).with_workers(arguments.workers)
    network = training.make(context, teacher, recipe)
    path = weights.keep_made(training.to_tensors(network), training.about(recipe), arguments.out)
    if arguments.json:
        print_json(
            {"name": arguments.name, "path": str(path), "recipe": training.about(recipe), "epochs": epochs}
        )
    else:
        print(f"{arguments.name}: {path} ({Path(path).stat().st_size:,} bytes)")
    return 0


def _cycles(text: str) -> tuple[int, ...]:
    """
    Raises:
        ConfigError: not whole numbers from 1 on.
    """
    cycles = tuple(int(part) if part.strip().isdecimal() else 0 for part in text.split(","))
    if min(cycles) < 1:
        raise ConfigError(f"--epochs is {text!r}; accepted are whole numbers from 1 on, such as 8,5")
    return cycles


@command(
    "quantize",
    help="make ds-cnn or mn04 in number formats, trained to give what the float network gives",
    details="Formats are trained on sounds that are made up, on two cores within two hours for all of them; "
    "ptq8 and q16 are calibrated only. What is stopped goes on the next time. Embedders are then called "
    "ds-cnn:q4 and so on. Needs the Debian packages espeak-ng, fluidsynth, fluid-soundfont-gm and "
    "sonic-pi-samples.",
    example="qmoe models quantize ds-cnn --formats q8,q4",
)
@click.argument("name", metavar="NAME", type=click.Choice(["ds-cnn", "mn04"]))
@click.option("--formats", help="such as q8,q4,bitnet (default: all)")
@click.option("--effort", type=click.FloatRange(0, 10), default=1.0, help="times the training (default: 1)")
@click.option("--shards", type=click.IntRange(2, 1000), default=61, help="256 sounds each (default: 61)")
@click.option("--workers", type=click.IntRange(0), default=0, help="processes (default: one for each core)")
@click.option("--out", metavar="DIR", help="where the files go (default: used from now on)")
@json_option
def quantize(arguments: Arguments) -> int:
    needs("torch")
    from qmoe_core.embedders import models as weights
    from qmoe_core.embedders.quantization import inputs, making
    from qmoe_core.runtime.executor import Context
    from qmoe_core.runtime.store import Store

    formats = making.parse(arguments.formats)
    network = weights.network(arguments.name)
    context = Context(Store(), progress=ProgressBar).with_workers(arguments.workers)
    shards = inputs.make(context, arguments.name, arguments.shards)
    made = making.make(context, network, formats, shards, making.Recipe(effort=arguments.effort))
    rows = []
    for format, (quantized, facts) in made.items():
        path = weights.keep_quantized(quantized, format, arguments.out)
        row = {"name": f"{arguments.name}:{format}", "path": str(path), "bytes": path.stat().st_size}
        rows.append({**row, "explained": facts["explained"]})
    if arguments.json:
        print_json(rows)
        return 0
    head = ("name", "bytes", "of the float embedding’s variance", "file")
    lines = [(r["name"], cell(r["bytes"]), f"{r['explained']:.1%}", r["path"]) for r in rows]
    print(table([head, *lines]))
    return 0
