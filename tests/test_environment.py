"""The command line where something is not as usual: encodings, closed streams, ports, folders, disks."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile

from dashboard import launch
from qmoe_core import bundles
from qmoe_core.audio import decode, synth
from qmoe_core.errors import AudioError, ConfigError
from qmoe_core.runtime import files, machine_code

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
    assert (told.returncode, told.stderr) == (2, f"qmoe: output: {reason}\n")


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


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The package in another folder, whose kernels anybody may write: no code is kept or read there."""
    package = tmp_path / "site" / "qmoe_core"
    package.mkdir(parents=True)
    for part in (ROOT / "qmoe_core").iterdir():
        if part.name not in machine_code.KERNELS:
            (package / part.name).symlink_to(part)
            continue
        shutil.copytree(part, package / part.name, ignore=shutil.ignore_patterns("__pycache__"))
        kept = package / part.name / "__pycache__"
        kept.mkdir()
        kept.chmod(0o777)
    return package


def compiling(package: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process that makes a kernel ready to be compiled, and prints where numba would keep its code."""
    program = (
        "import pathlib; from qmoe_core.runtime import files, machine_code as m; "
        f"m.PACKAGE = pathlib.Path({str(package)!r}); from qmoe_core.audio import mel_kernel as k; "
        "cache = k._transform._cache; print(getattr(cache, 'cache_path', None))"
    )
    unset = dict.fromkeys(("QMOE_CACHE", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"), "")
    env = os.environ | unset | {"PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=env | environment, capture_output=True, text=True, timeout=300)


@posix
def test_machine_code_goes_where_it_can_be_written(package: Path, tmp_path: Path) -> None:
    home, asked, temporary = tmp_path / "home", tmp_path / "asked", tmp_path / "temporary"
    temporary.mkdir()
    missing = str(tmp_path / "missing")
    for environment, folder in (
        ({"QMOE_CACHE": str(asked), "HOME": missing}, asked / "machine-code"),
        ({"HOME": str(home), "TMPDIR": str(temporary)}, home),
        ({"HOME": missing, "TMPDIR": str(temporary)}, temporary),
    ):
        home.mkdir(exist_ok=True)
        told = compiling(package, **environment)
        assert (told.returncode, told.stderr) == (0, "")
        kept = Path(told.stdout.strip())
        assert kept.is_relative_to(folder)
        owned = next(path for path in kept.parents if "machine-code" in path.name)
        assert owned.stat().st_mode & 0o777 == 0o700
    assert not Path(missing).exists()


@posix
def test_no_place_for_machine_code_is_said(package: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)  # anybody could put a folder of theirs into the place of ours
    told = compiling(package, QMOE_CACHE=str(shared), HOME=str(tmp_path / "missing"), TMPDIR=str(shared))
    assert (told.returncode, told.stdout) == (0, "None\n")
    lines = told.stderr.splitlines()
    assert lines == [
        f"QMOE_CACHE={shared}: compiled code is not kept there, because it cannot be written or belongs to "
        "others",
        "compiled code cannot be kept, so each call takes about 10 s longer; set QMOE_CACHE to a folder that "
        "you, and only you, can write",
    ]


@posix
def test_machine_code_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "machine-code"
    folder.mkdir(0o700)
    assert machine_code.is_safe(folder)
    for mode in (0o770, 0o702):
        folder.chmod(mode)
        assert not machine_code.is_safe(folder)
    folder.chmod(0o700)
    if os.getuid() == 0:
        os.chown(folder, 65534, 65534)
        assert not machine_code.is_safe(folder)
        os.chown(folder, 0, 0)
    tmp_path.chmod(0o777)
    assert not machine_code.is_safe(folder)
    tmp_path.chmod(0o1777)  # as /tmp: others cannot rename what is ours
    assert machine_code.is_safe(folder)


@pytest.mark.parametrize("options", ["", "--experts bitnet"])
@posix
def test_a_full_disk_is_named(options: str, tmp_path: Path) -> None:
    """Files may have 215 KB here: as on a full disk, writing fails in the middle of a file."""
    out = tmp_path / "lab.qmoe"
    told = shell(
        f'ulimit -f 215; qmoe export "$1" --out "$2" {options}',
        bundles.DEFAULT_NAME,
        out,
        TMPDIR=str(tmp_path),
    )
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith(f"qmoe: {tmp_path}")
    assert told.stderr.endswith("(File too large)\n")
    assert told.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []  # nothing half written is left


def test_a_file_that_is_written_has_a_name(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as told, files.named(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert told.value.filename == str(tmp_path / "x")
