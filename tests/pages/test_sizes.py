"""Pages stay sequences of views: short files, short functions, few levels of nesting."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_LINES, MOST_OF_A_FUNCTION, MOST_LEVELS = 150, 60, 4
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match, ast.FunctionDef, ast.AsyncFunctionDef)


def functions(*folders: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function and method below these folders, with its place."""
    for path in sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for one in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.relative_to(ROOT)}: {one.name}", one


def levels(node: ast.AST) -> int:
    """How many blocks stand inside one another below a node; an `elif` is no deeper than its `if`."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        chained = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, levels(child) + (isinstance(child, BLOCKS) and not chained))
    return deepest


def test_levels_are_counted() -> None:
    nested = "def f():\n if a:\n  for b in c:\n   pass\n elif d:\n  pass\n elif e:\n  pass\n"
    assert levels(ast.parse(nested).body[0]) == 2


def test_pages_are_short() -> None:
    lines = {p.name: p.read_text(encoding="utf-8").count("\n") for p in (ROOT / "pages").glob("*.py")}
    assert len(lines) >= 10
    assert not {name: n for name, n in lines.items() if n >= MOST_LINES}


def test_functions_are_short_and_flat() -> None:
    found = dict(functions("dashboard", "pages"))
    assert len(found) > 400
    lines = {name: (one.end_lineno or 0) - one.lineno + 1 for name, one in found.items()}
    assert not {name: n for name, n in lines.items() if n > MOST_OF_A_FUNCTION}
    deep = {name: n for name, one in found.items() if (n := levels(one)) > MOST_LEVELS}
    assert not deep
