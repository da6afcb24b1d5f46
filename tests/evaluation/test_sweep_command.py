"""`qmoe sweep` as a process: design.md's documents, tables for people, mistakes in one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qmoe_core import bundles
from qmoe_core.evaluation.sweep import ALPHAS, alpha_sweep, judged
from qmoe_core.experts.spec import NAMES
from qmoe_core.measure import bench
from qmoe_core.runtime.store import Store

ROOT = Path(__file__).resolve().parent.parent.parent


def _qmoe(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-m", "qmoe_core", "sweep", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def _document(*arguments: object, cwd: Path) -> dict:
    done = _qmoe(*arguments, "--json", cwd=cwd)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_alpha_over_the_default_bundle(tmp_path: Path) -> None:
    found = _document("alpha", cwd=tmp_path)

    loaded = bundles.load()
    clips = judged(loaded)
    expected = alpha_sweep(clips.outputs, clips.labels, loaded.settings())
    assert found["alphas"] == list(ALPHAS)
    assert found["clips"] == 400
    assert found["f1"] == expected.f1.tolist()
    assert found["epistemic"] == expected.epistemic.tolist()
    assert found["flips"] == expected.flips.tolist()
    assert list(found["utilisation"]) == list(loaded.settings().experts)
    np.testing.assert_allclose(np.sum(list(found["utilisation"].values()), axis=0), 1.0)
    assert found["flips"][0] == 0.0
    assert found["seconds"] > 0.0


def test_alpha_with_every_option(tiny_run, tmp_path: Path) -> None:
    options = ["--bundle", tiny_run.bundle, "--alphas", "0,0.3, 1000", "--experts", "q1,popcount,fp32"]
    options += ["--curiosity", "router-mc", "--top-k", 2, "--normalise", "--mc-samples", 3]

    found = _document("alpha", *options, cwd=tmp_path)

    loaded = bundles.load(tiny_run.bundle)
    settings = loaded.settings(
        experts=("q1", "popcount", "fp32"), curiosity="router-mc", top_k=2, normalise=True, mc_samples=3
    )
    clips = judged(loaded)
    expected = alpha_sweep(clips.outputs, clips.labels, settings, [0.0, 0.3, 1000.0]).to_json()
    assert {**found, "seconds": 0, "bundle": ""} == {**expected, "seconds": 0, "bundle": ""}


def test_alpha_as_a_table(tiny_run, tmp_path: Path) -> None:
    done = _qmoe("alpha", "--bundle", tiny_run.bundle, "--alphas", "0,10", cwd=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    head, first, second, note = done.stdout.splitlines()
    assert head.split()[-3:] == ["bitnet", "q4", "q8"]
    assert (first.split()[0], second.split()[0]) == ("0", "10")
    assert "30 clips of tiny, out of fold; disagreement, top 1" in note


def test_bits(tiny_run, tmp_path: Path) -> None:
    found = _document("bits", "--bundle", tiny_run.bundle, cwd=tmp_path)

    rows = {row["name"]: row for row in found["rows"]}
    assert set(NAMES) < rows.keys()
    assert len(rows["q4"]["f1_folds"]) == 5
    assert rows["q4"]["p50_us"] is None
    assert found["measured_on"] == {}
    assert (found["protocol"], found["selection"]) == ("official", "inner-validation")
    zeros = {(grid["name"], grid["layer"]): grid["zeros"] for grid in found["grids"]}
    assert len(zeros) == 2 * len(NAMES)
    assert zeros["q1", 0] == 0.0 < zeros["q2", 0]


def test_bits_with_what_was_measured_last(tiny_run, tmp_path: Path, store: Store) -> None:
    row = {"name": "q4", "p50_us": 5.25, "p95_us": 6.0, "p99_us": 7.5, "std_us": 0.5}
    where = {"processor": "Some CPU", "threads": 1, "shape": [9, 8, 7]}
    bench.keep(bench.BenchReport("latency", where, [row]), store)

    found = _document("bits", "--bundle", tiny_run.bundle, cwd=tmp_path)
    table = _qmoe("bits", "--bundle", tiny_run.bundle, cwd=tmp_path).stdout.splitlines()

    assert next(row for row in found["rows"] if row["name"] == "q4")["p99_us"] == 7.5
    assert found["measured_on"]["latency"].startswith("Some CPU, 1 thread, network 9–8–7 (this bundle has")
    assert next(line for line in table if line.startswith("q4")).split()[7:9] == ["5.25", "7.5"]
    assert table[-1] == "energy: not measured yet, see qmoe bench energy"


def test_ood(tiny_dataset: Path, tiny_settings: tuple[str, ...], tmp_path: Path) -> None:
    settings = [part for setting in tiny_settings for part in ("--set", setting)]
    arguments = ["ood", tiny_dataset, "--held-out", "hum", "--experts", "q1,q4", "--workers", 1]

    done = _qmoe(*arguments, *settings, "--json", cwd=tmp_path)
    again = _qmoe(*arguments, *settings, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["held_out"], found["n_known"], found["n_strange"], found["folds"]) == (["hum"], 20, 10, 5)
    assert found["protocol"] == "official"
    assert 0.0 <= found["detection"]["total"]["auroc"] <= 1.0
    assert "training without hum: 10/10" in again.stderr
    assert "10 clips of hum against 20 of the other 2 classes of tiny, 5 official folds" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["alpha", "--alphas", "0,much"], "--alphas 0,much: expected numbers with commas between"),
        (["alpha", "--alphas", "0,1001"], "alphas: accepted is one or more numbers from 0 to 1000"),
        (["alpha", "--experts", "q5"], "--experts: there is no expert 'q5'"),
        (["alpha", "--bundle", "nothing"], "nothing: not a bundle"),
        (
            ["alpha", "--curiosity", "cat"],
            "curiosity is 'cat'; accepted is disagreement, distilled, router-mc, none",
        ),
        (["bits", "--bundle", "nothing"], "nothing: not a bundle"),
        (["ood", "nowhere", "--held-out", "dog"], "nowhere: no such dataset"),
        (["width"], "width"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = _qmoe(*arguments, cwd=tmp_path)

    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert message in line


def test_a_bundle_without_a_dataset(tiny_run, tmp_path: Path) -> None:
    copy = tmp_path / "bare"
    shutil.copytree(tiny_run.bundle, copy)
    manifest = json.loads((copy / bundles.MANIFEST).read_text())
    del manifest["files"][bundles.DATASET_FILE]
    (copy / bundles.MANIFEST).write_text(json.dumps(manifest | {"clips": []}))

    done = _qmoe("alpha", "--bundle", copy, cwd=tmp_path)

    assert done.returncode == 2
    assert "carries no out-of-fold predictions, which a sweep needs" in done.stderr
