"""Does a test notice? Every fault of the table is put into a copy of the tree, and the tests named there run.

    python -m tests.mutants [--only NAME] [--json] [--state FILE]

What was found is kept, so that a run that was stopped goes on; a change of the fault, of the file or of the
tests makes it run again. Exit code 0 when all were caught, 1 otherwise. The tree itself is never touched.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.mutants.table import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
CAUGHT, SURVIVED, ERROR = "caught", "survived", "error"
LIMIT_S = 900.0


def place(mutant: Mutant, root: Path = ROOT) -> tuple[Path, str]:
    """The file of a fault, and its text with the fault in it.

    Raises:
        ValueError: the old text is not there exactly once.
    """
    path = root / mutant.file
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if (count := text.count(mutant.old)) != 1:
        raise ValueError(f"{mutant.name}: {mutant.file} has the old text {count} times, expected once")
    return path, text.replace(mutant.old, mutant.new)


def identity(mutant: Mutant) -> str:
    """Changes with the fault, the file that it is put into, and the tests that must notice."""
    digest = hashlib.sha256(repr(mutant).encode())
    for name in (mutant.file, *(test.partition("::")[0] for test in mutant.tests)):
        digest.update((ROOT / name).read_bytes() if (ROOT / name).is_file() else b"")
    return digest.hexdigest()


def copy(to: Path) -> None:
    """The files that git knows, and those that it does not ignore, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, to / name)


def run(tests: tuple[str, ...], tree: Path) -> tuple[int, str]:
    """pytest's exit code, and the end of what it printed."""
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.setdefault("QMOE_SHARED_DATA", str(ROOT.parent / "shared" / "data"))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return 1, f"did not end within {LIMIT_S:g} s"
    return done.returncode, (done.stdout + done.stderr)[-2000:]


def judge(mutant: Mutant, tree: Path, sound: dict[tuple[str, ...], tuple[int, str]]) -> dict[str, Any]:
    """Whether the tests notice a fault.

    Args:
        tree: a copy; as it was afterwards.
        sound: how the tests end without a fault, by their names; added to.
    """
    started = time.monotonic()

    def found(result: str, why: str = "") -> dict[str, Any]:
        seconds = round(time.monotonic() - started, 1)
        return {"name": mutant.name, "result": result, "seconds": seconds, "why": why}

    try:
        path, text = place(mutant, tree)
    except ValueError as error:
        return found(ERROR, str(error))
    if mutant.tests not in sound:
        sound[mutant.tests] = run(mutant.tests, tree)
    if sound[mutant.tests][0] != 0:
        return found(ERROR, f"the tests do not pass without the fault: {sound[mutant.tests][1]}")
    before = path.read_bytes()
    try:
        path.write_text(text, encoding="utf-8")
        code, said = run(mutant.tests, tree)
    finally:
        path.write_bytes(before)
    if code == 1:
        return found(CAUGHT)
    return found(SURVIVED) if code == 0 else found(ERROR, f"pytest ended with {code}: {said}")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.split("\n")[0])
    parser.add_argument("--only", action="append", metavar="NAME", help="of the table; may be repeated")
    parser.add_argument("--json", action="store_true", help="one document on standard output")
    parser.add_argument(
        "--state", type=Path, default=Path(tempfile.gettempdir()) / "qmoe-mutants.json", metavar="FILE"
    )
    arguments = parser.parse_args()
    names = [mutant.name for mutant in MUTANTS]
    if unknown := set(arguments.only or ()) - set(names):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    chosen = [mutant for mutant in MUTANTS if not arguments.only or mutant.name in arguments.only]
    state = json.loads(arguments.state.read_text()) if arguments.state.is_file() else {}
    results, sound = [], dict[tuple[str, ...], tuple[int, str]]()
    with tempfile.TemporaryDirectory(prefix="qmoe-mutants-") as folder:
        tree = Path(folder) / "tree"
        copy(tree)
        for mutant in chosen:
            key = identity(mutant)
            if key not in state or state[key]["result"] == ERROR:
                state[key] = judge(mutant, tree, sound)
                arguments.state.write_text(json.dumps(state, indent=1))
            results.append(state[key])
            one = state[key]
            print(
                f"{one['result']:9} {one['name']}  {one['seconds']} s {one['why']}",
                file=sys.stderr,
                flush=True,
            )
    counts = {result: sum(r["result"] == result for r in results) for result in (CAUGHT, SURVIVED, ERROR)}
    if arguments.json:
        print(
            json.dumps({"listed": len(MUTANTS), "run": len(results), **counts, "results": results}, indent=1)
        )
    else:
        print(f"{len(results)} faults: " + ", ".join(f"{count} {result}" for result, count in counts.items()))
    return 0 if counts[CAUGHT] == len(results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
