"""The command line: `qmoe …`.

Results go to stdout (one JSON document with `--json`), progress and logs to stderr. What the user got
wrong is one line on stderr and exit code 2; an interrupted run exits with 130 and keeps what is finished.
Each command is imported when it is asked for.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

import click

from qmoe_core import __version__
from qmoe_core.cli import streams
from qmoe_core.cli.common import EXIT_INTERRUPTED, EXIT_USER_ERROR, EXTRAS, LazyGroup, ProgressBar
from qmoe_core.errors import Cancelled, UserError, safe

__all__ = ["EXIT_INTERRUPTED", "EXIT_USER_ERROR", "ProgressBar", "main", "qmoe"]

_COMPLETION = "_QMOE_COMPLETE"


def _print_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        print(f"qmoe {__version__}")
        context.exit()


qmoe = LazyGroup(
    "qmoe",
    help="What does quantizing a sound classifier cost, and does its uncertainty know?",
    epilog='Completion of commands and options: put `eval "$(_QMOE_COMPLETE=bash_source qmoe)"` '
    "in ~/.bashrc (zsh_source and fish_source for those shells).",
    example="qmoe classify rain.wav --json",
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_print_version,
            help="show the version and exit",
        )
    ],
    loaded={
        "app": "qmoe_core.cli.app:app",
        "classify": "qmoe_core.cli.classify:classify",
        "listen": "qmoe_core.cli.listen:listen",
        "data": "qmoe_core.cli.data:data",
        "models": "qmoe_core.cli.models:models",
        "embed": "qmoe_core.cli.train:embed",
        "train": "qmoe_core.cli.train:train",
        "reproduce": "qmoe_core.cli.paper:reproduce",
        "sweep": "qmoe_core.cli.sweep:sweep",
        "bench": "qmoe_core.cli.bench:bench",
        "export": "qmoe_core.cli.export:export",
        "claims": "qmoe_core.cli.paper:claims",
        "runs": "qmoe_core.cli.runs:runs",
        "store": "qmoe_core.cli.store:store",
    },
)


def _parsed_and_run(arguments: Sequence[str]) -> int:
    """Run a command; what the user typed wrong is one line that names it.

    Raises:
        SystemExit: 2 for a wrong command line, 0 after help.
    """
    try:
        with qmoe.make_context("qmoe", list(arguments)) as context:
            return qmoe.invoke(context)
    except click.exceptions.Exit as ended:
        raise SystemExit(ended.exit_code) from None
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "qmoe"
        text = " ".join(error.format_message().split()).rstrip(".")
        streams.say(f"{path}: {safe(text)}; see {path} --help")
        raise SystemExit(EXIT_USER_ERROR) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0; 2 when the user gave something wrong, or output cannot be written (said in one line on stderr);
        130 when interrupted.
    """
    streams.prepare()
    logging.basicConfig(level=logging.WARNING, format="qmoe: %(message)s")
    arguments = sys.argv[1:] if argv is None else argv
    if _COMPLETION in os.environ:
        from click.shell_completion import shell_complete

        return shell_complete(qmoe, {}, "qmoe", _COMPLETION, os.environ[_COMPLETION])
    try:
        try:
            return _parsed_and_run(arguments)
        finally:
            sys.stdout.flush()
    except UserError as error:
        streams.say(f"qmoe: {safe(' '.join(str(error).split()))}")
        return EXIT_USER_ERROR
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        extra = next((extra for extra, packages in EXTRAS.items() if missing in packages), None)
        if extra is None:
            raise
        streams.say(f"qmoe: this needs {error.name}: pip install 'qmoe-lab[{extra}]'")
        return EXIT_USER_ERROR
    except (Cancelled, KeyboardInterrupt) as error:
        streams.say(f"qmoe: {str(error) or 'stopped; what was finished is kept'}")
        return EXIT_INTERRUPTED
    except OSError as error:
        streams.give_up(sys.stdout)
        if isinstance(error, BrokenPipeError):  # `| head` has seen enough
            return 0
        streams.say(f"qmoe: {safe(str(error.filename or 'output'))}: {error.strerror or error}")
        return EXIT_USER_ERROR
