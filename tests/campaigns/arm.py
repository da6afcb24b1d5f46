"""The serving runtime on 64-bit Arm, emulated: the same answers as on this machine, the same integers.

    python -m tests.campaigns arm         (Linux; apt-get install qemu-user-static)

Debian's Python for arm64 and the packages' own Arm wheels (at the versions of constraints.txt) are unpacked
into a temporary folder, the project's wheel beside them, and run by QEMU, program by program: nothing is
installed on this machine, and root is not needed. An emulator is not a board: it shows what is computed, not
how long it takes, and its memory is in x86's order, stricter than Arm's.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import soundfile

from qmoe_core.audio import decode, synth
from tests.golden.test_golden import TOLERANCE

ROOT = Path(__file__).resolve().parents[2]

PROCESSORS = {
    "cortex-a53": "cortex-a53",
    "cortex-a72": "cortex-a72",
    "cortex-a76": "cortex-a76",
    "neoverse-n1": "neoverse-n1",
    "neoverse-v1": "max,sve-default-vector-length=32",
}
"""LLVM's name of a processor, which numba compiles for, and QEMU's. Raspberry Pi 3, 4 and 5; servers without
SVE, and with SVE of 256 bits (QEMU 7 has no processor of that name, but one with all there is)."""
DEFAULT = "cortex-a53,cortex-a76,neoverse-v1"

NATS = 1e-2
"""Of an uncertainty or a divergence: a small probability is a large logarithm."""
SOUND_FORMATS = ("wav", "flac", "ogg", "mp3")
RATES = (decode.SAMPLE_RATE, 44_100, 48_000)
TESTS = ("engine", "golden", "routing", "audio/test_mel.py")
NEED_TORCH = ("engine/test_trained.py",)
PACKAGES = ("python3", "libstdc++6")
"""Of Debian; numpy's wheel expects the C++ library of the system."""


@dataclass
class Result:
    """What came of a check on a processor."""

    processor: str
    check: str
    compared: str = ""
    largest: float | None = None
    failures: list[str] = field(default_factory=list)


class FailedError(Exception):
    """A command that should have succeeded."""


def emulator() -> str | None:
    """QEMU for programs of 64-bit Arm."""
    return shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")


def missing() -> str:
    """What this machine lacks, in a sentence; empty if nothing."""
    if sys.platform != "linux":
        return "this campaign needs Linux: it runs programs of another Linux"
    if platform.machine() == "aarch64":
        return "this machine is 64-bit Arm itself: python -m pytest tests/engine tests/golden"
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            return f"this campaign needs {program} and Debian's sources, for Debian's Python for arm64"
    if emulator() is None:
        return "this campaign needs QEMU: apt-get install qemu-user-static"
    return ""


def run(
    command: list[str], *, cwd: Path, env: dict[str, str] | None = None, ok: tuple[int, ...] = (0,)
) -> str:
    """What a command printed.

    Raises:
        FailedError: another exit code than those in `ok`.
    """
    ended = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if ended.returncode not in ok:
        said = (ended.stderr.strip() or ended.stdout.strip())[-1000:]
        raise FailedError(f"{Path(command[0]).name} … {command[-1]}: exit code {ended.returncode}: {said}")
    return ended.stdout


class Machine:
    """This machine, running the checkout that the wheel was built from; `settings` go to its environment."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.home, self._settings = home, settings
        home.mkdir()

    def python(self, *arguments: str, ok: tuple[int, ...] = (0,)) -> str:
        env = os.environ | {"PYTHONPATH": str(ROOT), "QMOE_STORE": str(self.home / "store")} | self._settings
        return run([sys.executable, *arguments], cwd=self.home, env=env, ok=ok)

    def qmoe(self, *arguments: str) -> str:
        return self.python("-m", "qmoe_core", *arguments)


class Emulated(Machine):
    """An Arm machine with Debian's Python and the wheel, seen by LLVM and QEMU as one of `PROCESSORS`."""

    def __init__(self, home: Path, root: Path, site: Path, processor: str) -> None:
        super().__init__(home)
        qemu = emulator()
        assert qemu is not None
        self._command = [qemu, "-L", str(root), str(interpreter(root))]
        self._env = {
            "HOME": str(home),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(site),
            "PYTHONNOUSERSITE": "1",
            "QMOE_STORE": str(home / "store"),
            "QEMU_CPU": PROCESSORS[processor],
            "NUMBA_CPU_NAME": processor,
            "NUMBA_CPU_FEATURES": "+neon",  # else those that LLVM finds missing: it sees no Arm processor
            "NUMBA_CACHE_DIR": str(home / "cache"),
        }

    def python(self, *arguments: str, ok: tuple[int, ...] = (0,)) -> str:
        return run([*self._command, *arguments], cwd=self.home, env=self._env, ok=ok)


def interpreter(root: Path) -> Path:
    """Python in an unpacked Debian."""
    (found,) = (path for path in (root / "usr/bin").iterdir() if re.fullmatch(r"python3\.\d+", path.name))
    return found


# --- Making it ------------------------------------------------------------------------------------


def unpack_debian(home: Path) -> Path:
    """Debian's Python for arm64, from the sources of this machine, by an apt with a state of its own."""
    state, root = home / "apt", home / "root"
    for folder in (state / "lists/partial", state / "archives/partial", root):
        folder.mkdir(parents=True)
    (state / "status").touch()
    settings = [
        "APT::Architecture=arm64",
        "APT::Architectures::=arm64",
        "APT::Install-Recommends=false",
        "APT::Sandbox::User=root",
        "Acquire::Languages=none",
        "Debug::NoLocking=1",
        f"Dir::State={state}",
        f"Dir::State::lists={state / 'lists'}",
        f"Dir::State::status={state / 'status'}",
        f"Dir::Cache={state}",
        f"Dir::Cache::archives={state / 'archives'}",
    ]
    apt = ["apt-get", "-qq", "--yes", *(part for setting in settings for part in ("-o", setting))]
    run([*apt, "update"], cwd=home, ok=(0, 100))  # sources without arm64 are no matter
    run([*apt, "--download-only", "install", *PACKAGES], cwd=home)
    for package in sorted((state / "archives").glob("*.deb")):
        run(["dpkg-deb", "--extract", str(package), str(root)], cwd=home)
    return root


def install(home: Path, root: Path) -> Path:
    """The project's wheel, what it needs, and the tests' tools, as Arm wheels."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(home), str(ROOT)]
    run(build, cwd=home)
    (wheel,) = home.glob("*.whl")
    site = home / "site"
    platforms = ["manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, 37))]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--target", str(site), "--constraint", str(ROOT / "constraints.txt"), "--only-binary", ":all:"]
    pip += ["--implementation", "cp", "--python-version", interpreter(root).name.removeprefix("python")]
    pip += [part for name in platforms for part in ("--platform", name)]
    run([*pip, str(wheel), "pytest", "pytest-timeout", "hypothesis"], cwd=home)
    return site


def sounds(folder: Path) -> list[Path]:
    """Every synthesised sound as a file, in formats and sample rates by turns."""
    folder.mkdir()
    made = []
    for i, name in enumerate(synth.GALLERY):
        rate = RATES[i % len(RATES)]
        samples = decode.resample(synth.render(name), decode.SAMPLE_RATE, rate)
        made.append(folder / f"{name}.{SOUND_FORMATS[i % len(SOUND_FORMATS)]}")
        soundfile.write(made[-1], np.clip(samples, -1.0, 1.0), rate)
    return made


# --- Comparing ------------------------------------------------------------------------------------


def differences(here: Any, there: Any, where: str = "") -> Iterator[tuple[str, float]]:
    """Every number of two documents, by name, and how far they are apart; infinity where all else differs."""
    if isinstance(here, dict) and isinstance(there, dict) and list(here) == list(there):
        for key, value in here.items():
            yield from differences(value, there[key], f"{where}.{key}" if where else key)
    elif isinstance(here, list) and isinstance(there, list) and len(here) == len(there):
        for i, (one, other) in enumerate(zip(here, there, strict=True)):
            yield from differences(one, other, f"{where}[{i}]")
    elif isinstance(here, float) and isinstance(there, float):
        yield where, abs(here - there)
    elif type(here) is not type(there) or here != there:
        yield f"{where}: {here!r} here, {there!r} on Arm", math.inf


def tolerance(where: str) -> float:
    """Of a number in a document."""
    return TOLERANCE if "probabilit" in where.rpartition(".")[2] else NATS


def compare(result: Result, here: Any, there: Any, name: str) -> None:
    """Note what differs by more than its tolerance, and the largest difference of a probability."""
    for where, apart in differences(here, there):
        if not apart <= tolerance(where):
            result.failures.append(f"{name}: {where}" + (f": {apart:.2g} apart" if apart < math.inf else ""))
        elif tolerance(where) == TOLERANCE:
            result.largest = max(result.largest or 0.0, apart)


def classify(home: Path, here: Machine, arm: Machine) -> Iterator[Result]:
    """`qmoe classify` of files: labels, probabilities, routing, uncertainty."""
    result = Result(arm.home.name, "qmoe classify, nine experts and mixture")
    files = sorted(str(path) for path in (home / "sounds").iterdir())
    said = [json.loads(machine.qmoe("classify", "--json", *files)) for machine in (here, arm)]
    for one, other in zip(*said, strict=True):
        compare(result, one, other, one["file"])
    formats = ", ".join(sorted({Path(file).suffix[1:] for file in files}))
    result.compared = f"{len(files)} sounds ({formats})"
    yield result


def clips(home: Path, here: Machine, arm: Machine) -> Iterator[Result]:
    """The bundle's clips: every expert's label and probabilities; out of fold, what is kept."""
    del home
    said = []
    for machine, tests in ((here, ROOT), (arm, arm.home)):
        path = machine.home / "said.npz"
        program = "import sys; sys.path.insert(0, sys.argv[1]); from tests.campaigns import clips; "
        machine.python("-c", program + "clips.write(sys.argv[2])", str(tests), str(path))
        with np.load(path) as file:
            said.append({name: file[name] for name in file.files})
    for name in ("experts", "mixture", "out_of_fold"):
        one, other = said[0][name], said[1][name]
        labels = one.argmax(axis=-1)
        what = "the bundle's clips, " + name.replace("_", " ")
        apart = float(np.abs(one - other).max())
        result = Result(arm.home.name, what, f"{labels.size} labels", apart)
        if changed := int((labels != other.argmax(axis=-1)).sum()):
            result.failures.append(f"{changed} labels of {name} differ")
        if not apart <= TOLERANCE:
            result.failures.append(f"probabilities of {name} are up to {apart:.2g} apart")
        yield result


def listen(home: Path, here: Machine, arm: Machine) -> Iterator[Result]:
    """`qmoe listen FILE`: the same detections at the same times."""
    file = str(next((home / "sounds").glob("dog-bark.*")))
    result = Result(arm.home.name, "qmoe listen FILE")
    lines = [machine.qmoe("listen", file, "--json").splitlines() for machine in (here, arm)]
    one, other = ([json.loads(line) for line in text] for text in lines)
    compare(result, one, other, "listen")
    result.compared = f"{len(one)} detections"
    if not one:
        result.failures.append("nothing was detected here, so nothing was compared")
    yield result


def export(home: Path, here: Machine, arm: Machine) -> Iterator[Result]:
    """A packed bundle written on either is the same, but for its card, which has times; both open it."""
    result = Result(arm.home.name, "qmoe export --format packed", "1 file, opened on both")
    sound = str(next((home / "sounds").glob("rain.*")))
    written = [machine.home / "carried.qmoe" for machine in (here, arm)]
    for machine, path in zip((here, arm), written, strict=True):
        path.unlink(missing_ok=True)
        machine.qmoe("export", "esc10-ds-cnn", "--format", "packed", "--out", str(path))
    contents = [members(path) for path in written]
    if differing := [name for name, _ in contents[0].items() ^ contents[1].items() if name != "CARD.md"]:
        result.failures.append(f"the files differ in {', '.join(sorted(set(differing)))}")
    for machine in (here, arm):
        known, carried = (
            json.loads(machine.qmoe("classify", sound, "--json", *options))
            for options in ([], ["--bundle", str(written[1])])
        )
        if known != carried:
            result.failures.append(
                f"the exported file says something else than the bundle ({machine.home.name})"
            )
    yield result


def members(path: Path) -> dict[str, bytes]:
    """What is in an exported file."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def tests(home: Path, here: Machine, arm: Machine) -> Iterator[Result]:
    """The project's own tests of kernels and of known sounds, run there."""
    del home, here
    result = Result(arm.home.name, "pytest " + " ".join(TESTS))
    report = arm.home / "report.xml"
    options = ["-q", "-p", "no:cacheprovider", "--timeout", "0", f"--junitxml={report}"]
    skipped = [f"--ignore=tests/{name}" for name in NEED_TORCH]
    arm.python("-m", "pytest", *options, *skipped, *(f"tests/{name}" for name in TESTS), ok=(0, 1))
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    left_out = sum(case.find("skipped") is not None for case in cases)
    result.compared = f"{len(cases) - left_out} tests ({left_out} skipped)"
    for case in cases:
        if case.find("failure") is not None or case.find("error") is not None:
            result.failures.append(f"{case.get('classname')}::{case.get('name')}")
    yield result


Check = Callable[[Path, Machine, Machine], Iterator[Result]]
CHECKS: tuple[Check, ...] = (classify, clips, listen, export, tests)


def campaign(
    processors: tuple[str, ...], checks: tuple[Check, ...] = CHECKS, progress: Callable[[str], object] = print
) -> tuple[str, list[Result]]:
    """Every check on every processor; gives what ran it, and the results."""
    with tempfile.TemporaryDirectory(prefix="qmoe-arm-") as folder:
        home = Path(folder)
        progress("unpacking Debian's Python for arm64")
        root = unpack_debian(home)
        progress("installing the wheel and what it needs")
        site = install(home, root)
        sounds(home / "sounds")
        here, results, said = Machine(home / "here"), [], ""
        for processor in processors:
            arm = Emulated(home / processor, root, site, processor)
            shutil.copytree(ROOT / "tests", arm.home / "tests", ignore=shutil.ignore_patterns("__pycache__"))
            shutil.copy(ROOT / "pyproject.toml", arm.home)
            said = said or describe(arm)
            for check in checks:
                progress(f"{processor}: {(check.__doc__ or '').partition(':')[0]}")
                try:
                    results += check(home, here, arm)
                except FailedError as error:
                    results.append(Result(processor, check.__name__, "–", None, [str(error)]))
        return said, results


def describe(arm: Machine) -> str:
    """What ran it."""
    qemu = emulator()
    assert qemu is not None
    version = re.search(r"version (\S+)", run([qemu, "--version"], cwd=arm.home))
    program = (
        "import platform, llvmlite.binding, numba, numpy\n"
        "from qmoe_core.engine import kernels\n"
        "llvm = '.'.join(map(str, llvmlite.binding.llvm_version_info))\n"
        "print(f'{platform.machine()}, Python {platform.python_version()}, numpy {numpy.__version__}, '"
        " f'numba {numba.__version__}, LLVM {llvm}, kernels: {\", \".join(kernels.available())}')"
    )
    return f"QEMU {version[1] if version else '?'} (no board, no timing): {arm.python('-c', program).strip()}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--processors", default=DEFAULT, help=f"of {', '.join(PROCESSORS)}")


def main(arguments: argparse.Namespace) -> int:
    """The campaign; 1 if anything differed, 2 if something it needs is not here."""
    if lacking := missing():
        print(lacking, file=sys.stderr)
        return 2
    processors = tuple(arguments.processors.split(","))
    if unknown := [name for name in processors if name not in PROCESSORS]:
        print(f"no processor {', '.join(unknown)}; there are {', '.join(PROCESSORS)}", file=sys.stderr)
        return 2
    try:
        said, results = campaign(processors, progress=lambda line: print(line, file=sys.stderr))
    except FailedError as error:
        print(f"the emulated machine could not be made: {error}", file=sys.stderr)
        return 2
    print(f"{said}\n")
    print("| as a | check | compared | largest difference of a probability | failures |")
    print("| --- | --- | --- | --- | --- |")
    for one in results:
        largest = "–" if one.largest is None else f"{one.largest:.1e}"
        print(f"| {one.processor} | {one.check} | {one.compared} | {largest} | {len(one.failures)} |")
        for failure in one.failures[:5]:
            print(failure, file=sys.stderr)
    return int(any(one.failures for one in results))
