"""The command line where something is not as usual: encodings, closed streams, ports, folders, disks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile

from dashboard import launch
from qmoe_core.audio import decode, synth
from qmoe_core.errors import AudioError, ConfigError

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


@posix
def test_kernels_that_may_not_be_compiled(bark: Path) -> None:
    told = shell('qmoe classify "$1"', bark, NUMBA_DISABLE_JIT="1")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == (
        "qmoe: NUMBA_DISABLE_JIT is set, but the spectrogram's kernel has to be compiled; "
        "unset it, or set it to 0\n"
    )


@pytest.mark.parametrize("port", ["70000", "0", "-1", "http"])
def test_an_impossible_port(port: str) -> None:
    told = shell("qmoe app --no-browser --port $1", port)
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith("qmoe app: Invalid value for '--port'")
    assert told.stderr.count("\n") == 1


def test_a_busy_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        told = shell("qmoe app --no-browser --port $1", port, QMOE_STORE=str(tmp_path))
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith(f"qmoe: port {port} is in use by another program")
    assert "choose another one with --port" in told.stderr
    assert told.stderr.count("\n") == 1


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "no-such-host.invalid"])
def test_an_address_of_another_machine(address: str) -> None:
    with pytest.raises(ConfigError, match=f"--address {address} is not an address of this machine; accepted"):
        launch.check_free(address, 8765)


@posix
def test_a_pipe_is_read(bark: Path) -> None:
    usual = shell('qmoe classify "$1"', bark).stdout
    for line in ('qmoe classify <(cat "$1")', 'cat "$1" | qmoe classify /dev/stdin', 'qmoe classify - <"$1"'):
        told = shell(line, bark)
        assert (told.returncode, told.stderr) == (0, ""), line
        name, _, verdict = told.stdout.partition(": ")
        assert name.startswith(("pipe ", "standard input"))
        assert verdict == usual.partition(": ")[2]
    nothing = shell("qmoe classify <(true)")
    assert nothing.returncode == 2
    assert "is empty (0 bytes)" in nothing.stderr


@posix
def test_a_pipe_without_a_writer_in_a_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(AudioError, match=r"pipe\.wav is not a regular file"):
        decode.load(tmp_path / "pipe.wav")
