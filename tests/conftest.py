"""What every test may use: a store of its own, a tiny dataset and a run on it, the real recordings."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import hypothesis
import pytest

from tests import tiny

# Python's own start-up module of the tests of other platforms: importing it hides parts of this one.
collect_ignore = ["hidden"]

if TYPE_CHECKING:
    from qmoe_core.config import Config
    from qmoe_core.runtime.store import Store
    from qmoe_core.training.crossval import Subject
    from qmoe_core.training.run import TrainingReport
    from tests.servers import Server

ROOT = Path(__file__).resolve().parent.parent

hypothesis.settings.register_profile("lab", deadline=None)  # a busy machine is no bug
hypothesis.settings.load_profile("lab")


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a test does, or a process that it starts, touches the user's own runs and bundles."""
    monkeypatch.setenv("QMOE_STORE", str(tmp_path / "store"))


@pytest.fixture(autouse=True)
def _own_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of pages make their page the main module, which later tests' child processes would run again."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings beside the repository; skips where it is missing, never in CI."""
    path = Path(os.environ.get("QMOE_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not (path / "esc10" / "meta" / "esc50.csv").is_file():
        message = f"real recordings not found in {path.parent.name}/{path.name}: tests on them are skipped"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture
def serve() -> Iterator[Callable[[bytes], Server]]:
    """Starts a `tests.servers.Server` of some content."""
    from tests.servers import Server

    made: list[Server] = []

    def start(content: bytes) -> Server:
        made.append(Server(content))
        return made[-1]

    yield start
    for server in made:
        server.over.set()
        server.http.shutdown()
        server.http.server_close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    from qmoe_core.runtime.store import Store

    return Store(tmp_path / "store")


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `tests.tiny`."""
    return tiny.dataset(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="session")
def tiny_settings() -> tuple[str, ...]:
    return tiny.SETTINGS


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    from qmoe_core import config

    return config.load(settings=tiny.SETTINGS)


class TinyRun(NamedTuple):
    """A finished training run of all experts and two mixtures, and the bundle it made."""

    report: TrainingReport
    store: Store
    bundle: Path


@pytest.fixture(scope="session")
def tiny_run(tiny_dataset: Path, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    from qmoe_core.runtime.store import Store

    home = tmp_path_factory.mktemp("run")
    store = Store(home / "store")
    report = tiny.train(
        tiny_dataset,
        mixtures=[("bitnet", "q4", "q8"), ("fp32", "popcount")],
        config=tiny_config,
        workers=1,
        bundle=home / "tiny",
        store=store,
    )
    return TinyRun(report, store, home / "tiny")


@pytest.fixture(scope="session")
def tiny_subject(tiny_dataset: Path, tiny_run: TinyRun) -> Subject:
    """The tiny dataset, embedded."""
    from qmoe_core import datasets, embedders
    from qmoe_core.embedders.embed import embed_dataset
    from qmoe_core.runtime.executor import Context
    from qmoe_core.training.crossval import Subject

    manifest, embedder = datasets.open_dataset(tiny_dataset), embedders.create("logmel-stats")
    return Subject.of(manifest, embedder.id, embed_dataset(manifest, embedder, Context(tiny_run.store)))


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, str]]:
    """A server of buckets; the environment by which it is found."""
    from tests import buckets

    with buckets.served() as environment:
        yield environment


@pytest.fixture
def bucket(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty bucket; this process finds it, and those that it starts."""
    from tests import buckets

    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    return buckets.made(s3)


@pytest.fixture
def unflushed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of files that took their place, alone or in a folder, before they were on the disk."""
    flushed: set[int] = set()
    early: list[str] = []
    fsync, rename, replace = os.fsync, os.rename, Path.replace

    def flush(descriptor: int) -> None:
        flushed.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def written() -> set[int]:
        return {path.stat().st_ino for path in tmp_path.rglob("*")}

    def look(source: Any) -> None:
        files = [path for path in (Path(source), *Path(source).rglob("*")) if path.is_file()]
        assert files
        early.extend(str(path) for path in files if path.stat().st_ino not in flushed)

    def renamed(source: Any, target: Any) -> None:
        look(source)
        rename(source, target)

    def replaced(self: Path, target: Any) -> Path:
        look(self)
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "sync", lambda: flushed.update(written()))
    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(Path, "replace", replaced)
    return early
