"""Names in the product: a class name stands once, and texts name only files that are in the repository."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
TWICE = {
    "Clips",
    "Format",
    "Heard",
    "Judged",
    "Kept",
    "Levels",
    "Limits",
    "Recipe",
    "Recording",
    "Run",
    "Shard",
    "Shown",
    "Source",
    "SqueezeExcite",
    "Verdict",
    "_Run",
}
"""Class names that still stand twice; whoever renames one takes it out."""
MADE = {"preprocess.py", "report.md"}
"""Files that the program writes, and those of other projects."""


@cache
def modules() -> dict[Path, ast.Module]:
    found = (path for top in ("qmoe_core", "dashboard", "pages") for path in (ROOT / top).rglob("*.py"))
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in found}


def test_each_class_name_stands_once() -> None:
    places = defaultdict(list)
    for path, tree in modules().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(path.relative_to(ROOT).as_posix())
    assert {name for name, where in places.items() if len(where) > 1} <= TWICE


def texts(path: Path) -> str:
    """Docstrings and comments of a module."""
    strings = (node for node in ast.walk(modules()[path]) if isinstance(node, ast.Expr))
    said = [node.value.value for node in strings if isinstance(node.value, ast.Constant)]
    comments = re.findall(r"(?:^|\s)# (.*)", path.read_text(encoding="utf-8"))
    return "\n".join([*map(str, said), *comments])


def test_texts_name_files_that_are_there() -> None:
    names = {path.name for top in ("", "docs", "pages", ".streamlit") for path in (ROOT / top).glob("*.*")}
    names |= {
        p.name for top in ("qmoe_core", "dashboard", "tests", "paper") for p in (ROOT / top).rglob("*.*")
    }
    missing = {
        f"{path.relative_to(ROOT)}: {named}"
        for path in modules()
        for named in re.findall(r"[\w.-]+\.(?:py|md|toml|j2)\b", texts(path))
        if named not in names | MADE
    }
    assert not missing
