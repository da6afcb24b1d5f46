"""`qmoe_core.runtime.typed`: types described once, whatever number of threads asks first."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from qmoe_core.runtime import typed

ROOT = Path(__file__).parents[2]

RACE = """
import sys, threading, msgspec
from qmoe_core.runtime import typed
sys.setswitchinterval(1e-6)
fields = "".join(f"\\n    f{k}: 'int | None' = None" for k in range(9))
for _ in range(100):
    exec(f"class Inner(msgspec.Struct):{fields}")
    exec(f"class Outer(msgspec.Struct):{fields}\\n    inner: 'tuple[Inner, ...]' = ()")
    gate, read = threading.Barrier(4), []
    def use():
        gate.wait()
        read.append(READ)
    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert [outer.inner[0].f3 for outer in read] == [3] * 4
"""


@pytest.mark.parametrize(
    "read",
    [
        "typed.convert({'inner': [{'f3': 3}]}, Outer)",
        """typed.decode(b'{"inner": [{"f3": 3}]}', Outer)""",
    ],
)
def test_four_threads_may_use_a_type_first(read: str) -> None:
    done = subprocess.run([sys.executable, "-c", RACE.replace("READ", read)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_does_not_fit_is_refused() -> None:
    class Point(msgspec.Struct):
        x: int

    assert typed.decode(b'{"x": 1}', Point) == typed.convert({"x": 1}, Point) == Point(1)
    with pytest.raises(msgspec.ValidationError):
        typed.convert({"x": "one"}, Point)
    with pytest.raises(msgspec.DecodeError):
        typed.decode(b"{", Point)


def test_the_product_reads_declared_types_in_no_other_way() -> None:
    direct = re.compile(r"msgspec\.convert\(|msgspec\.\w+\.decode\([^\n]*\btype=|msgspec\.\w+\.Decoder\(")
    sources = [path for room in ("qmoe_core", "dashboard", "pages") for path in (ROOT / room).rglob("*.py")]
    assert len(sources) > 100
    found = {
        f"{path.name}: {line}"
        for path in sources
        if path.name != "typed.py"
        for line in direct.findall(path.read_text("utf-8"))
    }
    assert not found, f"use qmoe_core.runtime.typed: {found}"
