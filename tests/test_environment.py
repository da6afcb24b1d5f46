"""The command line where something is not as usual: encodings, closed streams, ports, folders, disks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile

from qmoe_core.audio import decode, synth

ROOT = Path(__file__).parents[1]
QMOE = [sys.executable, "-m", "qmoe_core"]

posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")


@pytest.fixture(scope="module")
def bark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sounds") / "bark.wav"
    soundfile.write(path, synth.render("dog-bark"), decode.SAMPLE_RATE)
    return path


def shell(line: str, *arguments: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of the shell in which `qmoe` is the command line, and "$1", "$2" … are the arguments."""
    script = f'qmoe() {{ {sys.executable} -m qmoe_core "$@"; }}; {line}'
    env = os.environ | {"PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        ["bash", "-c", script, "bash", *map(str, arguments)],
        env=env,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,
    )


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
@posix
def test_a_terminal_that_lacks_characters(encoding: str, bark: Path) -> None:
    told = shell('qmoe classify "$1" && qmoe classify --help', bark, PYTHONIOENCODING=encoding)
    assert (told.returncode, told.stderr) == (0, "")
    assert "bark.wav: dog" in told.stdout
    assert r"\u2013" in told.stdout  # of an expert outside the mixture
    assert r"\u03b1" in told.stdout or "curiosity α" in told.stdout  # of the help


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('qmoe classify "$1" >&-', "Bad file descriptor"),
        ("qmoe --version >&-", "Bad file descriptor"),
        ('qmoe classify "$1" >/dev/full', "No space left on device"),
        ('qmoe classify "$1" --json >/dev/full', "No space left on device"),
        ("qmoe -h >/dev/full", "No space left on device"),
    ],
)
@posix
def test_output_that_cannot_be_written(line: str, reason: str, bark: Path) -> None:
    told = shell(line, bark)
    assert (told.returncode, told.stderr) == (2, f"qmoe: standard output: {reason}\n")


@posix
def test_closed_input_and_error(bark: Path) -> None:
    usual = shell('qmoe classify "$1"', bark)
    for line in ('qmoe classify "$1" <&-', 'qmoe classify "$1" 2>&-', 'qmoe classify "$1" <&- 2>&-'):
        told = shell(line, bark)
        assert (told.returncode, told.stdout, told.stderr) == (0, usual.stdout, ""), line
    nothing = shell("qmoe classify - <&-")
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert nothing.stderr == "qmoe: standard input cannot be read: Bad file descriptor.\n"


@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full", "2>&1 >&- | head -c 0"])
@posix
def test_an_error_that_nobody_can_be_told(where: str) -> None:
    told = shell(f"qmoe classify nothing.wav {where}; exit ${{PIPESTATUS[0]}}")
    assert (told.returncode, told.stdout, told.stderr) == (2, "", "")


@posix
def test_a_reader_that_is_gone(bark: Path) -> None:
    told = shell('qmoe classify "$1" | head -c 0; exit ${PIPESTATUS[0]}', bark)
    assert (told.returncode, told.stderr) == (0, "")
