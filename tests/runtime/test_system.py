"""What a system lacks is done another way: locks, processors, processes, memory, swaps, names."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from qmoe_core import cli
from qmoe_core.audio import synth
from qmoe_core.audio.decode import SAMPLE_RATE
from qmoe_core.runtime import system
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
HIDDEN = ROOT / "tests" / "hidden"


def elsewhere(store: Path) -> dict[str, str]:
    """The environment of a Python that lacks what `tests/hidden` hides."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HIDDEN), str(ROOT)]),
        "QMOE_STORE": str(store),
        "CUDA_VISIBLE_DEVICES": "",
    }


def run(store: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        env=elsewhere(store),
        cwd=ROOT,
        check=False,
        timeout=200,
    )


# Whole programs on a system that has none of it


def test_what_is_hidden_is_hidden(tmp_path: Path) -> None:
    """Or the tests below prove nothing."""
    ended = run(
        tmp_path,
        "-c",
        "import os, signal, ctypes; from pathlib import Path; from qmoe_core.runtime import system\n"
        "print(system.fcntl, system.resource, hasattr(os, 'sched_getaffinity'), hasattr(os, 'nice'),"
        " hasattr(signal, 'SIGKILL'), hasattr(ctypes.CDLL(None), 'renameat2'))\n"
        "try:\n    Path('/proc/cpuinfo').read_text()\nexcept OSError: print('no proc')",
    )
    assert ended.stdout.split()[:6] == ["None", "None", "False", "False", "False", "False"], ended.stderr
    assert "no proc" in ended.stdout


def test_classify_elsewhere(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "rain.wav", synth.render("rain"), SAMPLE_RATE)
    ended = run(tmp_path / "store", "-m", "qmoe_core", "classify", str(tmp_path / "rain.wav"), "--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["prediction"]["label"] == "rain"


def test_validate_and_train_elsewhere(tmp_path: Path, tiny_dataset: Path) -> None:
    """With worker processes, and into a bundle."""
    checked = run(tmp_path / "store", "-m", "qmoe_core", "data", "validate", str(tiny_dataset), "--json")
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["errors"] == 0

    settings = [part for setting in tiny.SETTINGS for part in ("--set", setting)]
    bundle = tmp_path / "made"
    command = ["-m", "qmoe_core", "train", str(tiny_dataset), "--experts", "q1", "--moe", "fp32,q1"]
    command += ["--workers", "2", "--bundle", str(bundle), "--json", *settings]
    trained = run(tmp_path / "store", *command)
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout)["rows"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".made")] == []


PAGE = """
import sys, time
from pathlib import Path
from streamlit.testing.v1 import AppTest
from qmoe_core import config
from qmoe_core.runtime import jobs, system

if __name__ == "__main__":
    app = AppTest.from_file(str(Path("dashboard/app.py").resolve()), default_timeout=120).run()
    app.switch_page("../pages/train.py").run()
    assert not app.exception, app.exception
    request = jobs.Train(
        dataset=sys.argv[1], experts=("q1",), config=config.load(settings=sys.argv[2:]), workers=1
    )
    job = jobs.submit(request)
    assert system.lives(job.folder / jobs.ALIVE)
    while (now := jobs.get(job.id)).active:
        time.sleep(0.05)
    assert now.state == "done", (now.error, now.log())
    while system.lives(job.folder / jobs.ALIVE):  # it ends after it said how it went
        time.sleep(0.05)
    app.run()
    assert not app.exception, app.exception
    print("trained", system.peak_bytes() > 1_000_000)
"""


def test_the_page_and_a_job_elsewhere(tmp_path: Path, tiny_dataset: Path) -> None:
    (tmp_path / "page.py").write_text(PAGE)
    ended = run(tmp_path / "store", str(tmp_path / "page.py"), str(tiny_dataset), *tiny.SETTINGS)
    assert ended.stdout.split()[-2:] == ["trained", "True"], ended.stderr


# Each by itself


def test_processors_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = system.cores()
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert system.cores() == expected  # as psutil tells

    monkeypatch.setattr(system, "_other_affinity", lambda: None)  # macOS
    assert system.cores() == os.cpu_count()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert system.cores() == 1


HOLDER = """
import sys
from pathlib import Path
from qmoe_core.runtime import system
if sys.argv[2] == "soft":
    system.fcntl = None
with system.locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["flock", "soft"])
def test_a_lock_is_held_by_one_until_its_process_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "soft":
        monkeypatch.setattr(system, "fcntl", None)
    path = tmp_path / "sub" / "lock"
    command = [sys.executable, "-c", HOLDER, str(path), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(system.Taken), system.locked(path):
            pass
        holder.kill()
    with system.locked(path), pytest.raises(system.Taken), system.locked(path):
        pass
    with system.locked(path):
        pass


@pytest.mark.parametrize("kind", ["flock", "named"])
def test_a_process_apart_lives_until_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "named":
        monkeypatch.setattr(system, "fcntl", None)
    before, after = tmp_path / "work", tmp_path / "done"
    before.mkdir()
    with (tmp_path / "log").open("wb") as log, system.start_apart(before / "alive") as start:
        assert system.lives(before / "alive")
        before.rename(after)
        assert system.lives(after / "alive")
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        process = start(after / "alive", command, env=dict(os.environ), output=log)
    assert system.lives(after / "alive")
    process.kill()
    process.wait()
    assert not system.lives(after / "alive")


def test_a_number_given_to_another_process_is_not_the_same_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "fcntl", None)
    alive = tmp_path / "alive"
    alive.write_text(f"{os.getpid()} 12.00")
    assert not system.lives(alive)
    alive.write_text("nonsense")
    assert not system.lives(alive)
    assert not system.lives(tmp_path / "missing")


def test_the_peak_is_told_in_every_way(tmp_path: Path) -> None:
    """Of /proc, of `resource`, and of psutil, all of one process that has had 64 MB."""
    program = (
        "import builtins; from pathlib import Path; from qmoe_core.runtime import system\n"
        "held = bytearray(64 << 20); held[::4096] = bytes([1]) * len(held[::4096])\n"
        "told = [system.peak_bytes()]\n"
        "Path.open = lambda *a, **k: (_ for _ in ()).throw(FileNotFoundError())\n"
        "told.append(system.peak_bytes()); system.resource = None; told.append(system.peak_bytes())\n"
        "print(*told)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    told = [int(number) for number in ended.stdout.split()]
    assert len(told) == 3
    assert min(told) > 64 << 20
    # On Linux `resource` begins with the peak of the process that started this one.
    assert max(told[0], told[2]) < 400 << 20


def test_folders_are_swapped_or_it_is_said_that_they_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / "name").write_text(folder.name)
    if sys.platform == "linux":
        assert system.swap(one, other)
        assert (one / "name").read_text() == "other"
    monkeypatch.setattr(system.ctypes, "CDLL", lambda *_, **__: object())
    assert not system.swap(one, other)
    monkeypatch.setattr(system, "WINDOWS", True)
    assert not system.swap(one, other)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_memory_that_is_free_goes_back_to_the_system() -> None:
    """After a block of 20 MB was freed, glibc would put those of 10 MB into its heap, where they stay."""
    code = """
import ctypes
from qmoe_core.runtime import system

names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
info = type("Info", (ctypes.Structure,), {"_fields_": [(name, ctypes.c_size_t) for name in names]})
libc = ctypes.CDLL(None)
libc.mallinfo2.restype = info
system.keep_memory_low()
large = bytearray(20 << 20)
del large
before = libc.mallinfo2().hblks
block = bytearray(10 << 20)
print(libc.mallinfo2().hblks - before)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "1\n"


def test_signals_and_niceness_that_do_not_exist_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not system.on_signal("SIGNOTHING", None)
    monkeypatch.delattr(os, "nice", raising=False)
    system.be_nice(5)


def test_an_append_that_does_not_fit_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system.append(tmp_path / "log", b"one\n", flush=True)
    system.append(tmp_path / "log", b"two\n")
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"
    monkeypatch.setattr(os, "write", lambda descriptor, data: len(data) - 1)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        system.append(tmp_path / "log", b"three\n")


# Windows' paths


@pytest.mark.parametrize(
    "name",
    [
        "C:rain.wav",
        r"C:\rain.wav",
        r"..\rain.wav",
        r"a\b.wav",
        "a/b.wav",
        "nul.wav",
        "COM1",
        "..",
        "",
        r"\\host\x",
    ],
)
def test_names_that_lead_elsewhere_on_some_system(name: str) -> None:
    assert not system.is_plain_name(name)


@pytest.mark.parametrize(
    "name", ["rain.wav", "2024-01-01T10:00.wav", "Hund 1.wav", "nullify.wav", "comic.wav"]
)
def test_names_that_do_not(name: str) -> None:
    assert system.is_plain_name(name)


@pytest.mark.parametrize(
    "command",
    [
        ("classify", r"C:\sounds\dog.wav"),
        ("classify", r"\\server\share\dog.wav"),
        ("classify", "--bundle", r"C:\bundles\mine", r"dog.wav"),
        ("data", "validate", r"C:\sounds"),
        ("data", "validate", r"C:\sounds:categories"),
        ("train", r"D:\sounds\ESC-10"),
        ("train", "esc10", "--bundle", "C:mine"),
        ("data", "import", r"C:\tables\features.csv", "--name", "mine"),
        ("listen", r"C:\sounds\dog.wav"),
        ("runs", "--store", r"\\?\C:\nothing", "show", "abc"),
    ],
)
def test_windows_paths_get_a_sentence(
    command: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert cli.main(command) == cli.EXIT_USER_ERROR
    said = capsys.readouterr().err
    assert said.startswith("qmoe: ")
    assert said.count("\n") == 1
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("name", [r"C:\windows\x.wav", "C:x.wav", r"..\..\x.wav", "nul.wav"])
def test_a_table_names_files_of_one_folder_only(tmp_path: Path, name: str) -> None:
    from qmoe_core import datasets

    root = tiny.dataset(tmp_path / "tiny")
    table = root / "meta" / "esc50.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    first = lines[1].partition(",")[0]
    table.write_text("\n".join([lines[0], lines[1].replace(first, name), *lines[2:]]), encoding="utf-8")
    found = datasets.validate(root)
    assert [p.message for p in found.errors if "plain name" in p.message], found.problems


@pytest.mark.parametrize(
    "name", [r"ESC-50\audio\x.wav", "C:/x.wav", "a/C:x.wav", "a/nul.wav", "a/x.wav:stream"]
)
def test_an_archive_with_such_names_is_refused(name: str) -> None:
    from qmoe_core.datasets import download
    from qmoe_core.errors import DatasetError

    with pytest.raises(DatasetError, match="a path that is refused"):
        download._parts(name, download.source("esc50"))
