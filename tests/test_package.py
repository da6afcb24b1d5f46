"""What ships: sizes, imports, and a wheel that works far from its checkout."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile

from qmoe_core import bundles, cli
from qmoe_core.audio import synth
from qmoe_core.audio.decode import SAMPLE_RATE

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "qmoe_core"
HEAVY = {"torch", "timm", "librosa", "scipy", "sklearn", "pandas"}
SERVING = [
    "audio/decode.py",
    "audio/mel.py",
    "audio/synth.py",
    "bundles/__init__.py",
    "serve.py",
    "decision.py",
    "config.py",
    "errors.py",
    "runtime/store/__init__.py",
    "cli/__init__.py",
    "cli/common.py",
    "cli/classify.py",
    "cli/listen.py",
    "embedders/ds_cnn.py",
    "embedders/learned.py",
    "embedders/logmel_stats.py",
    "embedders/models.py",
    "experts/spec.py",
]


def tracked() -> list[str]:
    """Files that git tracks."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name]


def imports(path: Path, *, everywhere: bool) -> set[str]:
    """Top-level packages that a module imports: when it is imported itself, or anywhere in it."""

    def statements(body: list[ast.stmt]) -> Iterator[ast.AST]:
        for node in body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                continue
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            yield node
            for field in ("body", "orelse", "finalbody"):
                yield from statements(getattr(node, field, []))

    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if everywhere else statements(tree.body):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_the_core_never_imports_the_dashboard():
    for path in sorted(PACKAGE.rglob("*.py")):
        assert not imports(path, everywhere=True) & {"streamlit", "dashboard", "pages"}, path


def test_one_module_knows_the_operating_system():
    only_somewhere = {"fcntl", "grp", "msvcrt", "pwd", "resource", "termios", "winreg"}
    paths = [path for folder in ("qmoe_core", "dashboard", "pages") for path in (ROOT / folder).rglob("*.py")]

    for path in {*paths} - {PACKAGE / "runtime" / "system.py"}:
        assert not imports(path, everywhere=True) & only_somewhere, path
        assert "sys.platform" not in path.read_text(encoding="utf-8"), path


def test_serving_imports_nothing_heavy():
    modules = [PACKAGE / name for name in SERVING]
    modules += [*(PACKAGE / "engine").glob("*.py"), *(PACKAGE / "routing").glob("*.py")]

    for path in modules:
        assert not imports(path, everywhere=False) & HEAVY, path


def test_a_job_that_waits_for_its_turn_imports_nothing_heavy():
    """Each job is a process, and visitors may have several wait."""
    heavy = {*HEAVY, "numba", "soundfile", "qmoe_core.training", "qmoe_core.embedders"}
    code = "import sys, qmoe_core.runtime.jobs.worker; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert heavy & set(run.stdout.split()) == set()


def test_every_module_says_what_it_is():
    for path in [
        *PACKAGE.rglob("*.py"),
        *(ROOT / "dashboard").rglob("*.py"),
        *(ROOT / "pages").rglob("*.py"),
    ]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree) or not tree.body, path


def test_the_default_bundle_is_at_most_eight_megabytes():
    folder = bundles.find()

    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 8_000_000


def test_the_recordings_it_was_trained_on_are_credited():
    text = (bundles.shipped() / "ATTRIBUTION.md").read_text(encoding="utf-8")

    assert "Piczak" in text
    assert "freesound" in text.lower()


def test_there_are_no_recordings_in_the_repository():
    sounds = (".wav", ".flac", ".ogg", ".mp3", ".m4a", ".aif", ".aiff", ".opus", ".webm")

    assert [name for name in tracked() if name.lower().endswith(sounds)] == []


def test_nothing_is_read_by_unpickling_or_evaluating():
    # Tasks travel to the machines of one's own cluster pickled, as Dask's all do; see SECURITY.md.
    for path in {*PACKAGE.rglob("*.py")} - {PACKAGE / "runtime" / "dask_cluster.py"}:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not imports(path, everywhere=True) & {"pickle", "joblib", "dill", "shelve", "marshal"}, path
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), f"{path}:{node.lineno}"
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert ast.unparse(node.value) == "False", path


# The wheel


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built from a copy of it and unpacked: what an installation would hold."""
    if importlib.util.find_spec("hatchling") is None or importlib.util.find_spec("build") is None:
        message = "building a wheel needs hatchling and build: pip install hatchling build"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    home = tmp_path_factory.mktemp("wheel")
    source = home / "source"
    source.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("qmoe_core", "dashboard", "pages", "data", ".streamlit"):
        shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source / file)
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(home), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = home.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(home / "site")
    return home / "site"


def elsewhere(unpacked: Path, home: Path) -> dict[str, str]:
    """The environment of somebody who has installed the wheel, and nothing of the checkout."""
    return os.environ | {"PYTHONPATH": str(unpacked), "QMOE_STORE": str(home / "store")}


@pytest.mark.slow
def test_the_wheel_holds_the_app_and_nothing_beside_the_package(unpacked):
    inside = unpacked / "qmoe_core" / "_app"

    for name in (
        "dashboard/app.py",
        "pages/listen.py",
        "data/esc10-ds-cnn/bundle.json",
        "data/ATTRIBUTION.md",
        ".streamlit/config.toml",
    ):
        assert (inside / name).is_file(), name
    for path in (ROOT / "data").rglob("*"):
        if path.is_file():
            assert (inside / "data" / path.relative_to(ROOT / "data")).read_bytes() == path.read_bytes()
    assert {p.name for p in unpacked.iterdir() if not p.name.endswith(".dist-info")} == {"qmoe_core"}
    assert not list(unpacked.rglob("tests"))
    assert (unpacked / "qmoe_core" / "py.typed").is_file()
    (entry_points,) = unpacked.glob("*.dist-info/entry_points.txt")
    assert "qmoe = qmoe_core.cli:main" in entry_points.read_text()


@pytest.mark.slow
def test_the_wheel_classifies_from_any_directory(unpacked, tmp_path):
    soundfile.write(tmp_path / "rain.wav", synth.render("rain"), SAMPLE_RATE)

    ended = subprocess.run(
        [sys.executable, "-m", "qmoe_core", "classify", "rain.wav", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=elsewhere(unpacked, tmp_path),
        check=False,
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    document = json.loads(ended.stdout)
    assert document["bundle"] == "esc10-ds-cnn"
    assert document["prediction"]["label"] in document["classes"]


@pytest.mark.slow
def test_the_wheel_opens_the_dashboard_from_any_directory(unpacked, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "qmoe_core",
            "app",
            "--no-browser",
            "--port",
            str(port),
            "--address",
            "127.0.0.1",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env=elsewhere(unpacked, tmp_path) | {"PYTHONUNBUFFERED": "1", "QMOE_TOKEN": "known"},
    ) as server:
        try:
            said = ""
            for line in server.stdout:  # ends when the server does
                said += line
                if "token=" in line:
                    break
            else:
                pytest.fail(f"the dashboard ended: {said}")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=60) as answer:
                assert answer.read() == b"ok"
            assert f"http://127.0.0.1:{port}/?token=known" in said
            asked = urllib.request.Request(
                f"http://127.0.0.1:{port}/", headers={"Cookie": f"qmoe_token_{port}=known"}
            )
            with urllib.request.urlopen(asked, timeout=60) as page:
                assert b"<title>" in page.read()
        finally:
            server.terminate()
            server.stdout.read()


# The base install


def test_the_base_install_has_all_that_serving_imports():
    distributions = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    base = {re.match(r"[\w-]+", text)[0].replace("-", "_") for text in distributions}
    modules = [PACKAGE / name for name in SERVING]
    modules += [path for folder in ("engine", "routing", "live") for path in (PACKAGE / folder).glob("*.py")]

    for path in modules:
        others = imports(path, everywhere=False) - sys.stdlib_module_names - {"qmoe_core", "llvmlite"}
        assert others <= base, path


@pytest.mark.parametrize(
    ("missing", "command", "extra"),
    [("streamlit", ["app", "--no-browser"], "lab"), ("torch", ["bench", "latency", "--n", "100"], "lab")],
)
def test_what_the_base_install_lacks_is_named(monkeypatch, capsys, missing, command, extra):
    monkeypatch.setitem(sys.modules, missing, None)  # as if it were not installed

    assert cli.main(command) == cli.EXIT_USER_ERROR
    assert f"this needs {missing}: pip install 'qmoe-lab[{extra}]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [("train", "nowhere"), ("reproduce", "--out", "x"), ("sweep", "ood", "x", "--held-out", "dog")]
)
def test_what_needs_the_lab_says_so_before_it_starts(command, monkeypatch, capsys) -> None:
    """Not after all recordings were embedded, for which a base install suffices."""
    monkeypatch.setattr("qmoe_core.cli.common.find_spec", lambda name: None)
    assert cli.main(list(command)) == cli.EXIT_USER_ERROR
    assert capsys.readouterr().err == "qmoe: this needs torch: pip install 'qmoe-lab[lab]'\n"
