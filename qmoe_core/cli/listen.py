"""`qmoe listen`: classify a microphone, a file or standard input window by window."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from qmoe_core.cli.common import (
    POSITIVE,
    Arguments,
    command,
    mixing_options,
    mixing_settings,
    promise_of,
    promise_options,
    recording,
)


@command(
    "listen",
    help="listen to a microphone, a file or standard input, and log",
    details="FILE is a recording; - reads raw samples (default: a microphone).",
    example="qmoe listen street.flac --threshold 0.8 --json",
)
@click.argument("file", required=False, metavar="[FILE]")
@mixing_options()
@click.option("--device", help="number or name of the microphone")
@click.option("--devices", is_flag=True, help="list the microphones of this machine")
@click.option("--rate", type=int, help="Hz, of the microphone or of raw samples")
@click.option(
    "--format",
    type=click.Choice(("s16le", "f32le")),
    default="s16le",
    show_default=True,
    help="of raw samples, mono",
)
@click.option("--speed", type=POSITIVE, help="of a file; 1 is real time (default: no waiting)")
@click.option("--seconds", type=POSITIVE, help="end then (of a microphone)")
@click.option("--threshold", type=float, metavar="P", help="least probability accepted")
@click.option("--class-threshold", multiple=True, metavar="LABEL=P", help="for a class; may be repeated")
@promise_options
@click.option("--abstain", type=float, metavar="DOUBT", help="most doubt accepted, 0 to 1, whatever it keeps")
@click.option(
    "--log",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="also add every detection to this file, as a line of JSON",
)
@click.option("--json", is_flag=True, help="a line of JSON for each detection")
def listen(arguments: Arguments) -> int:
    from qmoe_core import bundles
    from qmoe_core.evaluation import conformal
    from qmoe_core.live import terminal
    from qmoe_core.live.detections import Rules

    if arguments.devices:
        print(terminal.device_list())
        return 0
    loaded = bundles.load(arguments.bundle)
    settings = mixing_settings(arguments, loaded)
    limits = conformal.limits(loaded, settings, promise_of(arguments))
    if arguments.abstain is not None:
        limits = replace(limits or conformal.Limits(), doubt=arguments.abstain, promise="")
    rules = Rules(
        threshold=Rules.threshold if arguments.threshold is None else arguments.threshold,
        thresholds=terminal.parse_thresholds(arguments.class_threshold, loaded.classes),
        limits=limits,
    )

    def remark(sentence: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody reads what is only said by the way
            print(f"qmoe: {sentence}", file=sys.stderr, flush=True)

    show = terminal.printing(arguments.json, live=arguments.file is None)
    keep = terminal.logging_to(arguments.log, remark) if arguments.log else None

    def tell(entry: Any) -> None:
        if keep:
            keep(entry)  # first: whoever reads the output may be gone
        show(entry)

    listening = terminal.Listening(loaded, settings, rules, tell, remark)
    if arguments.file is None:
        pipeline = listening.to_microphone(arguments.device, arguments.rate, arguments.seconds)
    elif arguments.file == "-":
        pipeline = listening.to_stream(sys.stdin.buffer, arguments.rate, arguments.format)
    else:
        source, name = recording(arguments.file)
        pipeline = listening.to_file(source, arguments.speed, name=name)
    print(f"qmoe: {terminal.summary(pipeline)}", file=sys.stderr)
    return 0
