"""`qmoe classify`: classify recordings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmoe_core.errors import UserError, safe

if TYPE_CHECKING:
    from qmoe_core.decision import Classification


import click

from qmoe_core.cli import streams
from qmoe_core.cli.common import (
    EXIT_USER_ERROR,
    Arguments,
    command,
    json_option,
    mixing_options,
    mixing_settings,
    print_json,
    recording,
    table,
)


@command(
    "classify",
    help="judge recordings",
    details="FILE is WAV, FLAC, Ogg, MP3, or what FFmpeg reads where PyAV is installed (PNG or JPEG for a "
    "bundle of pictures); - reads standard input.",
    example="qmoe classify rain.wav --json",
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@mixing_options()
@json_option
def classify(arguments: Arguments) -> int:
    from qmoe_core import bundles, serve
    from qmoe_core.audio.fitness import NothingToJudge

    loaded = bundles.load(arguments.bundle)
    settings = mixing_settings(arguments, loaded)
    documents: list[dict[str, Any]] = []
    failed = False
    for file in arguments.files:
        document: dict[str, Any] = {"path": file, "error": None, "reason": None}
        try:
            source, name = recording(file)
            result = serve.classify_file(source, loaded, settings, name=name)
            document |= result.to_json()
            if not arguments.json:
                _print_classification(result)
        except NothingToJudge as refused:  # read and found wanting: an answer, not an error
            fitness = refused.fitness.to_json()
            document |= {"prediction": None, "reason": safe(str(refused)), "fitness": fitness}
            if not arguments.json:
                print(safe(str(refused)))
        except UserError as error:
            streams.say(f"qmoe: {safe(str(error))}")
            failed = True
            document |= {"prediction": None, "error": safe(str(error))}
        documents.append(document)
    if arguments.json:
        if len(documents) > 1:
            print_json(documents)
        elif not failed:
            print_json(documents[0])
    return EXIT_USER_ERROR if failed else 0


def _print_classification(result: Classification) -> None:
    whole, u = result.whole, result.whole.uncertainty
    print(f"{result.file}: {whole.label}, {whole.probability:.0%}")
    agreeing = len(whole.agreeing)
    print(
        f"  {agreeing} of {len(whole.experts)} experts say {whole.label}; uncertainty {u.total:.3f} nats "
        f"(aleatoric {u.aleatoric:.3f}, epistemic {u.epistemic:.3f})"
    )
    rows = [("  expert", "label", "probability", "KL", "routing", "chosen")]
    rows += [
        (
            f"  {expert.name}",
            expert.label,
            f"{expert.probabilities.max():.3f}",
            f"{expert.disagreement_kl:.4f}",
            f"{expert.routing_probability:.3f}" if expert.in_mixture else "–",
            "yes" if expert.selected else "",
        )
        for expert in whole.experts
    ]
    print(table(rows))
    if len(result.windows) > 1:
        for window in result.windows:
            print(f"  {window.start_s:7.1f} – {window.end_s:.1f} s: {window.label}, {window.probability:.0%}")
    for note in result.notes:
        print(f"  note: {note}")
