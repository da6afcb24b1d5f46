"""What the commands of `qmoe` share: how a command is declared, its common options, and its output."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO, TypeVar

import click
import msgspec

from qmoe_core.errors import AudioError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

# Which extra of the package brings what the base install, made for serving, leaves out.
EXTRAS = {
    "lab": [
        "codecarbon",
        "jinja2",
        "librosa",
        "pandas",
        "plotly",
        "pooch",
        "requests",
        "scipy",
        "sklearn",
        "streamlit",
        "timm",
        "torch",
        "torchvision",
    ],
    "bench": ["onnx", "onnxruntime"],
    "cluster": ["dask", "distributed"],
}

Arguments = SimpleNamespace
"""What a command was given: one attribute for each of its options and arguments."""

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R", bound=msgspec.Struct)


class _Documented(click.Command):
    """A command whose help begins with `usage:` and ends with an example."""

    def __init__(self, *args: Any, example: str, **settings: Any) -> None:
        settings.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        super().__init__(*args, **settings)
        self.example = example

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, " ".join(self.collect_usage_pieces(ctx)), prefix="usage: ")

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_paragraph()
        formatter.write(f"Example:\n  {self.example}\n")
        super().format_epilog(ctx, formatter)


class Command(_Documented):
    """Passes everything that the user gave as one `Arguments`; on a cluster where a scheduler is named."""

    def invoke(self, ctx: click.Context) -> int:
        assert self.callback is not None
        of_the_group = ctx.parent.params if ctx.parent is not None else {}
        arguments = Arguments(**of_the_group, **ctx.params)
        if getattr(arguments, "scheduler", None) is None:
            return self.callback(arguments)
        from qmoe_core.runtime import dask_cluster

        with dask_cluster.connected(arguments.scheduler):
            return self.callback(arguments)


class LazyGroup(_Documented, click.Group):
    """A group whose commands are imported when one of them is asked for.

    Args:
        loaded: where each command is: `module:attribute`.
    """

    def __init__(self, *args: Any, loaded: dict[str, str], **settings: Any) -> None:
        super().__init__(*args, no_args_is_help=False, **settings)
        self.loaded = loaded

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.loaded)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.loaded:
            return None
        module, _, attribute = self.loaded[cmd_name].partition(":")
        return getattr(import_module(module), attribute)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.loaded:
            ctx.fail(f"there is no command {args[0]!r}; accepted is {', '.join(self.loaded)}")
        return super().resolve_command(ctx, args)


def command(
    name: str, *, help: str, example: str, details: str = ""
) -> Callable[[Callable[[Arguments], int]], Command]:
    """Declare a command; its function takes `Arguments` and returns the exit code.

    Args:
        name: what the user types.
        help: one line, also in the list of commands.
        example: a command line that works.
        details: what the arguments are, in the help of the command alone.
    """
    text = f"{help}\n\n{details}" if details else help
    return click.command(name, cls=Command, help=text, short_help=help, example=example)


class _Positive(click.ParamType):
    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not 0.0 < number < float("inf"):
            self.fail(f"{value!r} is no number above 0", param, ctx)
        return number


class _Days(click.ParamType):
    name = "days"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            days = float(value)
        except ValueError:
            days = -1.0
        if not 0.0 <= days < float("inf"):
            self.fail(f"{value!r} days; accepted is 0 or more", param, ctx)
        return days


POSITIVE = _Positive()
"""A number above 0."""
DAYS = _Days()
"""A number of days, 0 or more."""

json_option = click.option("--json", is_flag=True, help="one JSON document on standard output")
find_bundle_option = click.option("--bundle", help="bundle folder or name (default: the one that ships)")
scheduler_option = click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="of a Dask cluster that takes the work, such as tcp://10.0.0.5:8786 (default: this machine)",
)


def mixing_options(*, one_alpha: bool = True) -> Callable[[F], F]:
    """The options of the mixture; with `one_alpha=False`, several values of α."""
    alpha = (
        click.option("--alpha", type=float, help="curiosity α, 0 to 1000")
        if one_alpha
        else click.option("--alphas", help="such as 0,0.3,10 (default: 51 values from 0 to 1000)")
    )
    options = (
        find_bundle_option,
        alpha,
        click.option("--top-k", type=int, help="how many experts answer"),
        click.option("--curiosity", help="disagreement, distilled, router-mc, none or cascade"),
        click.option("--normalise", is_flag=True, help="divide d_i by its mean over the default set"),
        click.option("--mc-samples", type=int, help="MC-dropout passes of the router"),
        click.option("--experts", help="experts in the mixture, such as bitnet,q4,q8"),
        click.option("--ask-above", type=float, help="doubt above which cascade asks on, 0 to 1"),
        click.option("--cheap", help="expert that `distilled` asks first (default: the mixture’s cheapest)"),
    )

    def add(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def mixing_settings(arguments: Arguments, loaded: Any) -> Any:
    """The settings of a bundle's mixture, as changed by `mixing_options`."""
    from qmoe_core.experts.spec import parse_names

    changes: dict[str, Any] = {
        "alpha": getattr(arguments, "alpha", None),
        "top_k": arguments.top_k,
        "curiosity": arguments.curiosity,
        "mc_samples": arguments.mc_samples,
        "cheap": arguments.cheap,
        "ask_above": arguments.ask_above,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    if arguments.normalise:
        changes["normalise"] = True
    if arguments.experts is not None:
        changes["experts"] = parse_names(arguments.experts, setting="--experts")
    return loaded.settings(**changes)


SETS_HELP = "of prediction sets: threshold or adaptive, a coverage (0.95), or both, such as adaptive:0.9"


def promise_options(function: F) -> F:
    """The options of what answers and prediction sets are to keep."""
    options = (
        click.option("--risk", type=float, help="share of errors among answers, at most; 1 answers all"),
        click.option("--coverage", type=float, help="share of clips to answer, at least; 1 answers all"),
        click.option("--sets", default="threshold", help=SETS_HELP),
        click.option("--per-class", is_flag=True, help="sets keep their coverage for every class apart"),
    )
    for option in reversed(options):
        function = option(function)
    return function


def promise_of(arguments: Arguments) -> Any:
    """What `promise_options` ask for.

    Raises:
        ConfigError: a value that is not accepted.
    """
    from qmoe_core.evaluation.conformal import Promise, sets_asked

    score, of_sets = sets_asked(arguments.sets)
    return Promise(arguments.risk, arguments.coverage, score, arguments.per_class, of_sets)


def request_of(kind: type[R], arguments: Arguments, **given: Any) -> R:
    """A request made of the options that have the names of its fields, and of what is given besides.

    What was neither given nor typed keeps the request's default. A configuration is read from `--config` and
    `--set`, experts from their names.

    Raises:
        ConfigError: an expert or a setting that does not exist.
    """
    from qmoe_core import config
    from qmoe_core.experts.spec import parse_names

    typed = {name: getattr(arguments, name, None) for name in kind.__struct_fields__} | given
    fields = {name: value for name, value in typed.items() if value is not None}
    if "experts" in fields:
        fields["experts"] = parse_names(fields["experts"], setting="--experts")
    if hasattr(arguments, "set") and "config" not in given:
        fields["config"] = config.load(arguments.config, arguments.set)
    return kind(**fields)


class ProgressBar:
    """A line on stderr that counts; plain lines every ten percent where stderr is not a terminal."""

    def __init__(self, title: str, stream: TextIO | None = None) -> None:
        self.title = title
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.started = time.monotonic()
        self.shown = -1
        self.width = 0

    def __call__(self, done: int, total: int, message: str) -> None:
        share = done / total if total else 1.0
        seconds = time.monotonic() - self.started
        if self.live:
            bar = "█" * round(24 * share) + "░" * (24 - round(24 * share))
            line = f"{self.title} {bar} {done}/{total}  {seconds:.0f} s  {message}"[:118]
            self.stream.write("\r" + line.ljust(self.width))
            self.width = len(line)
            if done == total:
                self.stream.write("\n")
        elif int(10 * share) > self.shown:
            self.shown = int(10 * share)
            self.stream.write(f"{self.title}: {done}/{total} after {seconds:.0f} s ({message})\n")
        self.stream.flush()


def recording(file: str) -> tuple[str | bytes, str | None]:
    """What a recording named on the command line is read from, and what to call it where it has no name.

    `-` is standard input. A pipe, such as `<(command)` of a shell makes, is read to its end, up to what an
    upload may have; in a folder of sounds it would be refused, since nobody may ever write to it.

    Raises:
        AudioError: standard input or the pipe cannot be read.
    """
    from qmoe_core.audio import decode

    name = "standard input" if file == "-" else f"pipe {decode.display_name(file)}"
    try:
        if file == "-":
            return sys.stdin.buffer.read(decode.MAX_BYTES + 1), name
        if Path(file).is_fifo():
            with Path(file).open("rb") as pipe:
                return pipe.read(decode.MAX_BYTES + 1), name
    except OSError as error:
        raise AudioError(f"{name} cannot be read: {error.strerror or error}.") from None
    return file, None


def print_json(document: object) -> None:
    """Write a document to standard output."""
    encoded = msgspec.json.encode(document)
    if len(encoded) < 1 << 20:  # nobody reads more, and indenting takes as much memory again
        encoded = msgspec.json.format(encoded, indent=2)
    sys.stdout.buffer.write(encoded + b"\n")
    sys.stdout.buffer.flush()


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell; the first is left-aligned, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def cell(value: object) -> str:
    """A figure as it stands in a table; a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, (list, tuple)):
        return "–".join(cell(part) for part in value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def needs(package: str) -> None:
    """What a base install lacks is said at once, not after the minutes that it can do without."""
    if find_spec(package) is None:
        raise ModuleNotFoundError(name=package)
