"""The files beside the code: what documents refer to exists, and what runs elsewhere says what it should."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

from qmoe_core import __version__, cli

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "deploy").glob("*.md"))
    if path.is_file()
]
TOP = "qmoe_core|dashboard|pages|tests|docs|deploy|data|[.]github|[.]streamlit|[.]ci"


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def names_of(path: Path) -> frozenset[str]:
    """Functions, classes, methods and module-level names of a Python file: `f`, `C`, `C.f`."""

    def names(body: list[ast.stmt], before: str = "") -> set[str]:
        found: set[str] = set()
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(before + node.name)
            elif isinstance(node, ast.ClassDef):
                found |= {before + node.name} | names(node.body, f"{before}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found |= {
                    before + one.id for t in targets for one in ast.walk(t) if isinstance(one, ast.Name)
                }
        return found

    return frozenset(names(ast.parse(path.read_text(encoding="utf-8")).body))


def missing(text: str, base: Path) -> list[str]:
    """What a Markdown document refers to and what does not exist.

    Checked are links to files, paths in code spans that begin with a folder of this repository, the test or
    name after `::`, and commands `python -m MODULE`.
    """
    wrong = [
        link
        for link in re.findall(r"\]\(([^)\s]+)\)", text)
        if not re.match(r"[a-z]+:|#", link) and not (base / unquote(link.partition("#")[0])).exists()
    ]
    for span in re.findall(r"`([^`\n]+)`", text):
        found = re.fullmatch(rf"((?:{TOP})/[\w./-]*)(?:::([\w.]+))?", span)
        if found:
            path, name = ROOT / found[1], found[2]
            if not path.exists() or (name and name not in names_of(path)):
                wrong.append(span)
    for module in re.findall(r"python -m ((?:tests|dashboard|qmoe_core)[\w.]*)", text):
        path = ROOT / module.replace(".", "/")
        if not (path.with_suffix(".py").exists() or (path / "__main__.py").exists()):
            wrong.append(f"python -m {module}")
    return wrong


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_what_documents_refer_to_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert missing(text, path.parent) == []
    assert not re.search(r"^(<{7}|>{7}) ", text, re.MULTILINE), "both sides of a merge"


@pytest.mark.parametrize(
    "text",
    [
        "[a](docs/nowhere.md)",
        "`tests/test_nowhere.py`",
        "`tests/test_project.py::test_nothing`",
        "`qmoe_core/errors.py::Nobody`",
        "python -m tests.nowhere",
    ],
)
def test_a_reference_to_nothing_is_found(text: str) -> None:
    assert len(missing(text, ROOT)) == 1


def test_every_promise_names_its_test() -> None:
    table = read("SECURITY.md").partition("| threat |")[2].partition("\n\n")[0]
    rows = [line.rsplit("|", 2)[-2] for line in table.splitlines()[2:]]

    assert len(rows) > 20
    assert [row for row in rows if not re.search(r"`tests/[\w/]+[.]py", row)] == []


# Continuous integration


def workflow() -> dict[str, Any]:
    return yaml.safe_load(read(".github/workflows/ci.yml"))


def test_all_systems_and_both_pythons_run_everything() -> None:
    (job,) = workflow()["jobs"].values()
    matrix = job["strategy"]["matrix"]
    systems = {name.partition("-")[0]: name for name in matrix["os"]}

    assert systems.keys() == {"ubuntu", "macos", "windows"}
    # Images of macOS 14 and later are arm64, but for those that say otherwise.
    assert re.fullmatch(r"macos-(1[4-9]|2\d|latest)", systems["macos"])
    assert matrix["python"] == ["3.11", "3.13"]
    assert "exclude" not in matrix
    assert {row["os"] for row in matrix["include"]} <= {*matrix["os"]}
    assert job["runs-on"] == "${{ matrix.os }}"
    assert not job.get("continue-on-error")
    said = "\n".join(step["run"] for step in job["steps"] if "run" in step and "if" not in step)
    for command in ("ruff check .", "ruff format --check .", "pyright", "python -m pytest"):
        assert re.search(rf"^{re.escape(command)}( |$)", said, re.MULTILINE), command


def test_hooks_need_no_network() -> None:
    (repository,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]

    assert repository["repo"] == "local"
    assert [hook["language"] for hook in repository["hooks"]] == ["system", "system"]
    assert [shlex.split(hook["entry"])[:2] for hook in repository["hooks"]] == [
        [".venv/bin/ruff", "check"],
        [".venv/bin/ruff", "format"],
    ]


# Packages and containers


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load(read("CITATION.cff"))

    assert cited["version"] == __version__
    assert cited["license"] == tomllib.loads(read("pyproject.toml"))["project"]["license"]
    assert cited["preferred-citation"]["doi"].endswith("2511.11743")


def test_no_package_index_is_named() -> None:
    for name in ("Dockerfile", "compose.yaml", ".pre-commit-config.yaml", ".github/workflows/ci.yml"):
        assert not re.search(r"https?://(?!localhost)", read(name)), name


def test_the_image_is_built_from_what_the_wheel_needs() -> None:
    kept = {line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")}
    project = tomllib.loads(read("pyproject.toml"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], project["project"]["readme"]}
    needed |= {*project["project"]["license-files"], "pyproject.toml", "constraints.txt"}

    assert kept == needed


def test_the_container_is_nobody_in_particular_and_asks_for_a_verdict() -> None:
    text = read("Dockerfile").replace("\\\n", " ")
    last = text.rpartition("\nFROM ")[2]
    health = re.search(r"^HEALTHCHECK .*", last, re.MULTILINE)

    assert re.search(r"^USER (?!root)\w+$", last, re.MULTILINE)
    assert health
    assert "qmoe classify" in health[0]
    assert health[0].count("health.wav") == 1
    assert "'health.wav'" in last.partition("HEALTHCHECK")[0]  # made by the container itself
    ports = yaml.safe_load(read("compose.yaml"))["services"]["lab"]["ports"]
    assert [port.startswith("127.0.0.1:") for port in ports] == [True]


def test_the_container_gets_a_verdict_on_the_sound_that_it_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (made,) = re.findall(r'python -c "(import soundfile;[^"]+)"', read("Dockerfile"))
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, "-c", made], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)

    assert cli.main(["classify", "health.wav", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prediction"]["label"] == "rain"


def test_the_unit_is_hardened_as_promised_and_watched() -> None:
    lines = read("deploy/qmoe-lab.service").splitlines()
    promised = re.findall(r"`((?:ProtectHome|NoNewPrivileges|MemoryMax)=\w*)`", read("SECURITY.md"))

    assert len(promised) == 3
    assert [one for one in promised if not any(line.startswith(one) for line in lines)] == []
    assert "Type=notify" in lines
    assert any(re.fullmatch(r"WatchdogSec=\d+", line) for line in lines)
    (start,) = (line for line in lines if line.startswith("ExecStart="))
    assert "qmoe app --public" in start
    assert any(line.startswith("User=") for line in lines)
