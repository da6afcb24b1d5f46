"""Pages stay sequences of views: short files, and no long functions in them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_LINES = 150
LONGER = {"claims.py", "compare.py", "listen.py", "live.py", "method.py", "sweep.py", "train.py"}
"""Pages that are still longer; whoever shortens one takes it out."""
MOST_OF_A_FUNCTION = 60


def functions(path: Path) -> dict[str, int]:
    """Lines of each function of a file."""
    found = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {one.name: (one.end_lineno or 0) - one.lineno + 1 for one in found if isinstance(one, kinds)}


def test_pages_are_short() -> None:
    lines = {p.name: p.read_text(encoding="utf-8").count("\n") for p in (ROOT / "pages").glob("*.py")}
    assert {name for name, n in lines.items() if n >= MOST_LINES} == LONGER


@pytest.mark.parametrize("page", ["dataset", "efficiency", "formats"])
def test_functions_of_their_views_are_short(page: str) -> None:
    paths = [ROOT / "pages" / f"{page}.py", *(ROOT / "dashboard" / "views").glob(f"{page}*.py")]
    assert len(paths) > 1
    long = {
        f"{p.name}: {name}": n for p in paths for name, n in functions(p).items() if n > MOST_OF_A_FUNCTION
    }
    assert not long
