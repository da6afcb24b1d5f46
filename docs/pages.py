"""The pages of `make docs` beside this folder's: the repository's documents, a reference for each package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from griffe import Extension, Object
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "qmoe_core"
DOCUMENTS = (
    *("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"),
    *("CITATION.cff", "LICENSE", "data/ATTRIBUTION.md"),
)


def on_files(files: Files, *, config: Any) -> Files:
    """Add them; nothing of the core is imported."""
    for name in DOCUMENTS:
        files.append(File.generated(config, _place(name), content=(ROOT / name).read_text(encoding="utf-8")))
    for folder in sorted({path.parent for path in CORE.rglob("*.py")}):
        package = ".".join(folder.relative_to(ROOT).parts)
        names = sorted(path.stem for path in folder.glob("*.py") if path.stem not in ("__init__", "__main__"))
        modules = [package, *(f"{package}.{name}" for name in names)]
        text = "\n\n".join([f"# {package}", *(f"::: {module}" for module in modules)])
        files.append(File.generated(config, f"reference/{package}.md", content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links between documents, which in the repository lie in other folders than here."""
    return re.sub(r"\]\((?:\.\./|docs/)?([\w./-]+)\)", lambda link: f"]({_place(link[1])})", markdown)


def _place(name: str) -> str:
    return "index.md" if name == "README.md" else name


class Doctests(Extension):
    """Examples in docstrings are shown as code."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^>>> (?:.+\n?)+",
                lambda found: f"```pycon\n{found[0].rstrip()}\n```\n",
                obj.docstring.value,
                flags=re.M,
            )
