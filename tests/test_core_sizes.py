"""No function of the core is long or deeply nested."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1] / "qmoe_core"
MOST_LINES = 60
DEEPEST = 4
LARGER = {
    "bundles/__init__.py: save",
    "bundles/bundling.py: make",
    "bundles/export/graph.py: export_onnx",
    "datasets/esc.py: scan",
    "datasets/folder.py: scan",
    "engine/avx2.py: _forward_with",
    "engine/avx2.py: _product_of",
    "engine/avx2.py: _table_product",
    "engine/avx2.py: look_up",
    "engine/convolution.py: _run_of",
    "evaluation/cascade.py: cascade_sweep",
    "routing/mixing.py: decide",
    "routing/mixing.py: mix",
    "routing/router.py: _forward",
}
"""Functions that are still larger; whoever divides one takes it out."""
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match, ast.FunctionDef)


def depth(node: ast.AST) -> int:
    """How many blocks lie in each other below a node; `elif` is no further one."""
    deepest = 0
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                chained = name == "orelse" and isinstance(node, ast.If) and isinstance(child, ast.If)
                further = isinstance(child, BLOCKS) and not (chained and len(value) == 1)
                deepest = max(deepest, depth(child) + further)
    return deepest


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    found = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return (node for node in found if isinstance(node, ast.FunctionDef))


def test_functions_of_the_core_are_small() -> None:
    large = {
        f"{path.relative_to(ROOT).as_posix()}: {function.name}"
        for path in ROOT.rglob("*.py")
        for function in functions(path)
        if (function.end_lineno or 0) - function.lineno >= MOST_LINES or depth(function) > DEEPEST
    }
    assert large <= LARGER


def test_depth_counts_blocks_and_not_elif() -> None:
    assert depth(ast.parse("for i in x:\n    if i:\n        pass\n    elif x:\n        pass")) == 2
    assert depth(ast.parse("if x:\n    pass\nelse:\n    for i in x:\n        pass")) == 2
