"""Faults that no other test noticed when they were put in on purpose; `python -m tests.mutants` does so."""

from __future__ import annotations

import ast
import gc
import io
import os
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dashboard.session import hearing
from qmoe_core import bundles
from qmoe_core.audio import decode
from qmoe_core.bundles.export import archive, graph
from qmoe_core.evaluation.selective import detection
from qmoe_core.experts.layers import PopcountLinear
from qmoe_core.live import log as logs
from qmoe_core.runtime import files
from qmoe_core.runtime.jobs import queue
from qmoe_core.runtime.store import Store
from qmoe_core.training import crossval
from qmoe_core.training.fit import fit_expert

ROOT = Path(__file__).resolve().parents[1]


# Files


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What was flushed to the disk (the file's number), and what was renamed, in order."""
    seen: list[tuple[str, Any]] = []
    fsync, rename, replace = os.fsync, os.rename, Path.replace

    def flushed(descriptor: int) -> None:
        seen.append(("fsync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def renamed(source: Any, target: Any) -> None:
        seen.append(("rename", Path(source)))
        rename(source, target)

    def replaced(self: Path, target: Any) -> Path:
        seen.append(("rename", self))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(Path, "replace", replaced)
    return seen


def test_bundles_and_exports_are_on_the_disk_before_they_take_their_places(
    unflushed: list[str], tmp_path: Path
) -> None:
    bundle = bundles.load()
    packed = archive.export_packed(bundle, tmp_path / "x.qmoe", experts=("q4", "q8"))  # by way of a folder
    graph.export_onnx(bundle, tmp_path / "x.onnx", experts=("q4", "q8"))
    assert packed.is_file()
    assert unflushed == []


def test_an_entry_is_on_the_disk_before_it_takes_its_place(
    events: list[tuple[str, Any]], store: Store
) -> None:
    entry = store.put("experts", {"n": 1}, {"w": np.zeros(3)}, files={"card.json": b"{}"})
    (placed,) = [i for i, (what, _) in enumerate(events) if what == "rename"]
    before = {number for what, number in events[:placed] if what == "fsync"}
    assert {path.stat().st_ino for path in [entry.path, *entry.path.iterdir()]} <= before
    assert ("fsync", entry.path.parent.stat().st_ino) in events[placed:]


@pytest.mark.parametrize("write", [files.write_whole, lambda path, data: queue.write(path, [1])])
def test_a_file_is_on_the_disk_before_it_takes_its_place(
    events: list[tuple[str, Any]], write: Any, tmp_path: Path
) -> None:
    write(tmp_path / "file", b"data")
    assert [what for what, _ in events] == ["fsync", "rename"]
    assert events[0][1] == (tmp_path / "file").stat().st_ino


def test_a_line_of_the_log_is_on_the_disk(events: list[tuple[str, Any]], tmp_path: Path) -> None:
    logs.append(tmp_path / "file", b"line")
    assert events == [("fsync", (tmp_path / "file").stat().st_ino)]


# Memory


class Upload(io.BytesIO):
    """A file as Streamlit gives it."""

    def __init__(self, number: int) -> None:
        super().__init__(b"%d" % number)
        self.name, self.file_id = f"{number}.wav", f"id-{number}"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the sounds that were decoded; nothing is judged."""
    names: list[str] = []

    def load(file: Any, *, name: str, longest_s: float | None) -> decode.Clip:
        names.append(name)
        return decode.from_samples(np.full(2048, 0.1, np.float32), decode.SAMPLE_RATE, name=name)

    session = f"of {id(names)}"  # the caches are a session's own
    monkeypatch.setattr("streamlit.runtime.caching.cache_data_api.get_session_id_or_throw", lambda: session)
    monkeypatch.setattr(hearing.decode, "open_recording", load)
    monkeypatch.setattr(hearing.serve, "observe", lambda clip, bundle, run_all: len([*clip.blocks()]))
    return names


def _hear(number: int) -> None:
    sound = hearing.from_upload(Upload(number))
    hearing._hear(sound.key, "digest", sound, SimpleNamespace())  # type: ignore[arg-type]


def test_heard_sounds_are_let_go(decoded: list[str]) -> None:
    for number in [0, 0, *range(1, 65), 64, 0]:
        _hear(number)
    assert len(decoded) == 66  # 64 are kept, and the first was let go for the last


def test_every_cache_of_the_dashboard_is_bounded() -> None:
    found = 0
    for path in [*(ROOT / "dashboard").rglob("*.py"), *(ROOT / "pages").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.args.args:
                for one in node.decorator_list:
                    if "cache_data" in ast.unparse(one):
                        found += 1
                        assert "max_entries=" in ast.unparse(one), f"{path}: {node.name}"
    assert found > 5


def test_an_upload_leaves_nothing_behind(decoded: list[str]) -> None:
    for number in range(70):
        _hear(number)
    tracemalloc.start()
    try:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(70, 90):
            _hear(number)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 20 * (1 << 18)


# Training


def test_the_epoch_is_chosen_on_clips_that_training_has_not_seen(tiny_subject: Any, tiny_config: Any) -> None:
    split = crossval.splits_of(tiny_subject, tiny_config, [1])[0]
    parts: list[crossval.FoldFit] = []

    def fit(part: crossval.FoldFit) -> tuple[Any, int]:
        parts.append(part)
        return None, 3

    assert split.inner is not None
    crossval.fit_on(tiny_subject, split, tiny_config, fit)
    first, second = parts
    train, held = split.inner
    assert not set(train) & set(held)
    np.testing.assert_array_equal(first.labels, tiny_subject.labels[train])
    assert first.held_out is not None
    assert len(first.z) == len(train)
    assert len(first.held_out[0]) == len(held)
    seen = {row.tobytes() for row in first.z}
    assert not seen & {row.tobytes() for row in first.held_out[0]}
    # The second is trained on all of them, for as long as the first found to be right.
    assert (first.epochs, second.epochs, second.held_out) == (None, 3, None)
    assert len(second.z) == len(split.fold.train)


def test_training_lasts_as_many_epochs_as_it_is_told(tiny_subject: Any, tiny_config: Any) -> None:
    z = tiny_subject.embeddings.astype(np.float32)
    fitted = fit_expert("q4", z, tiny_subject.labels, 3, tiny_config.expert, seed=1, epochs=2)
    assert tiny_config.expert.epochs > 2
    assert (len(fitted.history), fitted.epochs) == (2, 2)


@pytest.mark.parametrize("learning", [True, False])
def test_an_activation_at_the_threshold_is_not_above_it(learning: bool) -> None:
    layer = PopcountLinear(3, 1, 0.25)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1.0, 1.0]]))
        layer.bias.zero_()
    with torch.set_grad_enabled(learning):
        given = layer(torch.tensor([[0.25, 0.5, 0.0]]))
    assert given.item() == -1.0


# Intervals


def test_a_bootstrap_leaves_out_resamples_without_positives() -> None:
    found = detection({"total": np.arange(10.0)}, np.arange(10) == 9)
    assert found is not None
    # With one positive, many resamples are without any: they are left out.
    assert (found["total"].auroc, found["total"].low, found["total"].high) == (1.0, 1.0, 1.0)
    many = detection({"total": np.zeros(10)}, np.arange(10) == 9)
    assert many is not None
    assert (many["total"].low, many["total"].high) == (0.5, 0.5)
