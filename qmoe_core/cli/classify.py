"""`qmoe classify`: classify recordings."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from qmoe_core.cli import streams
from qmoe_core.cli.common import (
    EXIT_USER_ERROR,
    Arguments,
    ProgressBar,
    command,
    json_option,
    mixing_options,
    mixing_settings,
    print_json,
    promise_of,
    promise_options,
    recording,
    table,
)
from qmoe_core.errors import UserError, safe

if TYPE_CHECKING:
    from qmoe_core.batch import Source
    from qmoe_core.decision import Classification
    from qmoe_core.verdicts import Verdict

_KINDS = ("table", "json", "csv", "raven", "audacity")


@command(
    "classify",
    help="judge recordings",
    details="PATH is a recording (WAV, FLAC, Ogg, MP3, or what FFmpeg reads where PyAV is installed; PNG or "
    "JPEG for a bundle of pictures), or a folder, in which all recordings are judged; - reads standard "
    "input. With --out, a run that was stopped goes on where it was.",
    example="qmoe classify recordings --format raven --out verdicts",
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@mixing_options()
@promise_options
@click.option(
    "--format",
    type=click.Choice(_KINDS),
    help="table, json, csv, raven (selection table) or audacity (labels)  [default: table]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="WHERE",
    help="a folder, for a file for every recording, or a name with an ending such as all.csv, for one file",
)
@json_option
def classify(arguments: Arguments) -> int:
    from qmoe_core import batch, bundles, serve
    from qmoe_core.audio import containers, pictures
    from qmoe_core.evaluation import conformal
    from qmoe_core.verdicts import FORMATS, judged, refused

    kind = "json" if arguments.json else arguments.format or "table"
    if arguments.json and arguments.format not in (None, "json"):
        raise UserError(f"--json and --format {arguments.format} are two formats; give one of them")
    loaded = bundles.load(arguments.bundle)
    settings = mixing_settings(arguments, loaded)
    promise = promise_of(arguments)
    limits = conformal.limits(loaded, settings, promise)
    suffixes = pictures.SUFFIXES if serve.judges_pictures(loaded) else containers.SUFFIXES
    inputs = batch.sources(arguments.paths, suffixes)
    if len(inputs) > 1 and arguments.out is None and not FORMATS[kind].several:
        raise UserError(f"--format {kind} is of one recording; give --out and a folder for a file for each")

    walked = any(Path(path).is_dir() for path in arguments.paths)

    def judge(source: Source) -> Verdict:
        try:
            if source.error is not None:
                raise UserError(source.error)
            opened, name = recording(source.path)
            result = serve.classify_file(opened, loaded, settings, name=name)
            result = limits.applied(result) if limits else result
            title = source.path if walked else result.file
            return judged(source.path, result, kind, text(result, title) if kind == "table" else "")
        except UserError as error:
            return refused(source.path, error, kind)

    progress = ProgressBar("judging") if walked or arguments.out else lambda *_: None
    failed = 0

    def verdicts(kept: batch.Kept | None) -> Iterator[Verdict]:
        nonlocal failed
        for verdict in batch.judge_each(inputs, judge, kept, progress):
            if verdict.error is not None:
                failed += 1
                streams.say(f"qmoe: {verdict.error}")
            yield verdict

    if arguments.out is None:
        _print(verdicts(None), kind, single=not walked and len(inputs) == 1)
    else:
        said = msgspec.json.encode([settings, promise])
        run = batch.Run(format=kind, bundle=loaded.digest, settings=said.decode())
        with batch.Kept(arguments.out, run, FORMATS[kind]) as kept:
            done = sum(1 for _ in verdicts(kept))
            kept.finish(inputs)
        streams.say(
            f"qmoe: {len(inputs):,} inputs: {done:,} judged now, {len(inputs) - done:,} before, "
            f"{failed:,} could not be read; {kept.journal} lists them"
        )
    return EXIT_USER_ERROR if failed else 0


def _print(verdicts: Iterator[Verdict], kind: str, *, single: bool) -> None:
    """Verdicts on standard output as they come; a single one as a JSON object, if it could be read."""
    from qmoe_core.verdicts import FORMATS

    if kind == "json" and single:
        for verdict in verdicts:
            if verdict.error is None:
                print_json(verdict.document)
    elif kind == "table":
        for piece in FORMATS[kind].written(verdict for verdict in verdicts if verdict.error is None):
            sys.stdout.write(piece)
    else:
        for piece in FORMATS[kind].written(verdicts):
            sys.stdout.buffer.write(piece.encode())
            sys.stdout.buffer.flush()


def text(result: Classification, title: str) -> str:
    """A verdict as people read it: a sentence, a table of the experts, the windows and the notes."""
    whole, u = result.whole, result.whole.uncertainty
    began = f" (recorded at {result.recorded})" if result.recorded else ""
    rows = [("  expert", "label", "probability", "KL", "routing", "chosen")]
    rows += [
        (
            f"  {expert.name}",
            expert.label or "not run",
            f"{expert.probabilities.max():.3f}" if expert.label else "–",
            f"{expert.disagreement_kl:.4f}" if expert.label else "–",
            f"{expert.routing_probability:.3f}" if expert.in_mixture else "–",
            "yes" if expert.selected else "",
        )
        for expert in whole.experts
    ]
    windows = result.windows if len(result.windows) > 1 else ()
    labels = ", ".join(result.prediction_set or ("no label",))
    return "\n".join(
        [
            f"{safe(title)}: {'no answer; ' if result.abstained else ''}{whole.label}, "
            f"{whole.probability:.0%}{began}",
            *([f"  {result.reason}"] if result.reason else []),
            f"  {len(whole.agreeing)} of {len(whole.known)} experts say {whole.label}; doubt "
            f"{whole.doubt:.3f} (total uncertainty {u.total:.3f} nats, epistemic {u.epistemic:.3f})",
            table(rows),
            *(f"  {w.start_s:7.1f} – {w.end_s:.1f} s: {w.label}, {w.probability:.0%}" for w in windows),
            *([] if result.prediction_set is None else [f"  {result.coverage:.0%} set: {labels}"]),
            *(f"  note: {note}" for note in result.notes),
        ]
    )
