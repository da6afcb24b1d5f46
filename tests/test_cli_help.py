"""Every command explains itself: its help shows an example, and the example is accepted."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from qmoe_core import cli

ROOT = Path(__file__).resolve().parent.parent


def commands(
    command: click.Command = cli.qmoe, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """All commands and groups with what is typed for them."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, (*path, name))


ALL = list(commands())


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) or "qmoe" for path, _ in ALL])
def test_help_shows_an_example_that_is_accepted(path, command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([*path, "--help"])

    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert shown.startswith(" ".join(["usage: qmoe", *path]))
    example = shown.partition("\nExample:\n")[2].splitlines()[0]
    assert example.startswith(" ".join(["  qmoe", *path]))

    context = click.Context(cli.qmoe, info_name="qmoe")
    words = shlex.split(example)[1:]
    found: click.Command | None = cli.qmoe
    while isinstance(found, click.Group):
        found = found.get_command(context, words.pop(0))
    assert found is not None
    found.make_context(example, words, parent=None)  # raises what the user would be told
    if not isinstance(command, click.Group):
        assert found is command


def test_options_say_what_they_do():
    unsaid = [
        f"{' '.join(path)} {parameter.opts[0]}"
        for path, command in ALL
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert unsaid == []


def test_the_shell_completes_commands_and_options():
    asked = {"_QMOE_COMPLETE": "bash_complete", "COMP_WORDS": "qmoe sweep al", "COMP_CWORD": "2"}
    ended = subprocess.run(
        [sys.executable, "-m", "qmoe_core"],
        env=os.environ | asked | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.split() == ["plain,alpha"]


def test_one_command_is_imported_without_the_others():
    program = (
        "import sys; from qmoe_core import cli\n"
        "try: cli.main(['classify', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted(m for m in sys.modules if m.startswith('qmoe_core.cli.')), file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )

    assert (
        ended.stderr.strip() == "['qmoe_core.cli.classify', 'qmoe_core.cli.common', 'qmoe_core.cli.streams']"
    )
