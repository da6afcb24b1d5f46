from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from qmoe_core import bundles, config
from qmoe_core.errors import BundleError, Cancelled, ConfigError, DatasetError
from qmoe_core.experts import NAMES
from qmoe_core.runtime.store import Store
from qmoe_core.training.run import TrainingReport
from tests import tiny


def figures(report: TrainingReport) -> dict[str, tuple[float, ...]]:
    return {row.name: row.f1_folds for row in report.rows}


def copy_of(store: Store, folder: Path) -> Store:
    return Store(shutil.copytree(store.root, folder))


def test_a_report_has_a_row_for_every_expert_and_two_for_every_mixture(tiny_run):
    report = tiny_run.report

    names = [row.name for row in report.rows]
    assert names == [
        *NAMES,
        "bitnet+q4+q8",
        "bitnet+q4+q8 curious",
        "fp32+popcount",
        "fp32+popcount curious",
    ]
    assert (report.dataset, report.protocol, report.selection) == ("tiny", "official", "inner-validation")
    assert report.embedder.startswith("logmel-stats-")
    assert (report.trained, report.found, report.leaking_sources) == (5 * len(NAMES), 0, 0)
    for row in report.rows:
        assert len(row.f1_folds) == 5
        assert row.f1_mean == pytest.approx(np.mean(row.f1_folds))
        assert row.f1_std == pytest.approx(np.std(row.f1_folds, ddof=1))


def test_it_learnt_the_tiny_dataset(tiny_run):
    for row in tiny_run.report.rows:
        assert row.f1_mean > 0.6, row


def test_a_second_run_does_nothing_and_says_the_same(tiny_run, tiny_dataset, tiny_config):
    again = tiny.train(
        tiny_dataset,
        mixtures=[("bitnet", "q4", "q8"), ("fp32", "popcount")],
        config=tiny_config,
        workers=1,
        store=tiny_run.store,
    )

    assert (again.trained, again.found) == (0, 5 * len(NAMES))
    assert again.rows == tiny_run.report.rows


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_seed_gives_the_same_to_the_last_bit_whatever_the_workers(
    tiny_run, tiny_dataset, tiny_config, store, workers
):
    experts = ("q1", "bitnet", "popcount")

    report = tiny.train(
        tiny_dataset, experts=experts, mixtures=[experts], config=tiny_config, workers=workers, store=store
    )

    assert report.trained == 20  # with fp32, which popcount is made from
    for name in experts:
        assert figures(report)[name] == figures(tiny_run.report)[name]
    kept = {entry.key: entry for entry in tiny_run.store.list("experts")}
    for entry in store.list("experts"):
        for name, tensor in entry.tensors.items():
            np.testing.assert_array_equal(tensor, kept[entry.key].tensors[name], err_msg=name)
        for fact in ("f1", "accuracy", "epochs", "history", "config"):
            assert entry.metadata[fact] == kept[entry.key].metadata[fact]


def test_another_seed_is_another_run_and_seeds_are_counted_from_the_first(
    tiny_dataset, tiny_config, tiny_run
):
    report = tiny.train(
        tiny_dataset, experts=("q4",), config=tiny_config, seeds=2, workers=1, store=tiny_run.store
    )

    (row,) = report.rows
    assert (report.trained, report.found, report.seeds) == (5, 5, 2)
    assert row.f1_folds[:5] == figures(tiny_run.report)["q4"]
    seeds = {e.metadata["seed"] for e in tiny_run.store.list("experts") if e.metadata["expert"] == "q4"}
    assert seeds == {42, 43}


def test_a_damaged_entry_is_reported_set_aside_and_trained_again(
    tiny_run, tiny_dataset, tiny_config, tmp_path, caplog
):
    store = copy_of(tiny_run.store, tmp_path / "copy")
    (victim,) = [
        e
        for e in store.list("experts")
        if (e.metadata["expert"], e.metadata["fold"], e.metadata["seed"]) == ("q4", "official-2", 42)
    ]
    before = {name: tensor.copy() for name, tensor in victim.tensors.items()}
    path = victim.path / "tensors.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(bytes(data))

    report = tiny.train(tiny_dataset, experts=("q4", "q8"), config=tiny_config, workers=1, store=store)

    assert (report.trained, report.found) == (1, 9)
    assert figures(report)["q4"] == figures(tiny_run.report)["q4"]
    assert [(r.kind, r.key) for r in store.reports()] == [("experts", victim.key)]
    assert "set aside" in caplog.text
    for name, tensor in store.resolve(victim.key).tensors.items():
        np.testing.assert_array_equal(tensor, before[name])


@pytest.mark.parametrize(("protocol", "leaks"), [("random", True), ("grouped", False)])
def test_other_protocols(tiny_run, tiny_dataset, tiny_config, protocol, leaks):
    evaluation = config.EvaluationConfig(protocol=protocol, folds=2)

    report = tiny.train(
        tiny_dataset,
        experts=("q8",),
        config=_with(tiny_config, evaluation=evaluation),
        workers=1,
        store=tiny_run.store,
    )

    assert report.protocol == protocol
    assert len(report.rows[0].f1_folds) == 2
    assert (report.leaking_sources > 0) == leaks


def _with(start: config.Config, **changes: object) -> config.Config:
    import msgspec

    return msgspec.structs.replace(start, **changes)


def test_best_on_test_is_never_worse_on_the_epochs_it_saw(tiny_run, tiny_dataset, tiny_config):
    settings = _with(tiny_config, evaluation=config.EvaluationConfig(selection="best-on-test"))

    report = tiny.train(
        tiny_dataset,
        experts=("q4", "ptq8"),
        mixtures=[("q4", "ptq8")],
        config=settings,
        workers=1,
        store=tiny_run.store,
    )

    assert report.selection == "best-on-test"
    assert report.trained == 15
    for entry in tiny_run.store.list("experts"):
        if entry.fields["selection"] == "best-on-test" and entry.metadata["expert"] == "q4":
            assert entry.metadata["f1"] == max(epoch["f1"] for epoch in entry.metadata["history"])


def test_joint_training_has_its_own_rows_and_is_kept(tiny_run, tiny_dataset, tiny_config):
    settings = _with(tiny_config, moe_training="joint")
    arguments = {
        "experts": ("q4",),
        "mixtures": [("q4", "bitnet")],
        "config": settings,
        "workers": 1,
        "store": tiny_run.store,
    }

    first = tiny.train(tiny_dataset, **arguments)
    second = tiny.train(tiny_dataset, **arguments)

    assert [row.name for row in first.rows] == ["q4", "bitnet", "q4+bitnet", "q4+bitnet curious"]
    assert first.rows == second.rows
    assert len(tiny_run.store.list("joint-mixtures")) == 5
    assert first.rows[2].parameters > first.rows[0].parameters + first.rows[1].parameters


def test_a_bundle_of_derived_experts_alone_has_a_trained_source(
    tiny_run, tiny_dataset, tiny_config, tmp_path
):
    report = tiny.train(
        tiny_dataset,
        experts=("popcount", "ptq8"),
        config=tiny_config,
        workers=1,
        store=tiny_run.store,
        bundle=tmp_path / "derived",
    )

    assert report.bundle == str(tmp_path / "derived")
    assert [row.name for row in report.rows][:2] == ["popcount", "ptq8"]
    loaded = bundles.load(tmp_path / "derived")
    assert loaded.experts == ("popcount", "ptq8")
    assert loaded.settings().experts == ("popcount", "ptq8")
    for name in loaded.experts:
        np.testing.assert_equal(
            *(
                safetensors.numpy.load_file(folder / "experts" / f"{name}.safetensors")
                for folder in (tmp_path / "derived", tiny_run.bundle)
            )
        )


def test_a_bundle_by_name_goes_to_the_users_own(tiny_run, tiny_dataset, tiny_config, tmp_path, monkeypatch):
    report = tiny.train(
        tiny_dataset, experts=("q4",), config=tiny_config, workers=1, store=tiny_run.store, bundle="mine"
    )

    assert report.bundle == str(tmp_path / "store" / "bundles" / "mine")
    assert bundles.load("mine").settings().experts == ("q4",)


# What is wrong is said before anything is trained


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"seeds": 0}, ConfigError, "--seeds is 0; accepted is 1 or more"),
        ({"seeds": 2**32}, ConfigError, "--seeds is 4294967296"),
        ({"workers": -1}, ConfigError, "--workers is -1; accepted is 1 or more"),
        ({"bundle": ".."}, BundleError, "not a name for a bundle"),
        ({"bundle": "."}, BundleError, "not a name for a bundle"),
        ({"bundle": ""}, BundleError, "not a name for a bundle"),
        ({"bundle": ".hidden"}, BundleError, "not a name for a bundle"),
    ],
)
def test_what_is_not_accepted_is_said_first(tiny_dataset, store, arguments, error, says):
    with pytest.raises(error, match=says):
        tiny.train(tiny_dataset, store=store, **arguments)

    assert not store.root.exists()


def test_a_folder_that_holds_something_else_is_not_overwritten(tiny_dataset, store, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("my thesis")

    with pytest.raises(BundleError, match="is not a bundle, and is not replaced by one"):
        tiny.train(tiny_dataset, store=store, bundle=precious)

    assert not store.root.exists()
    assert (precious / "thesis.txt").read_text() == "my thesis"


def test_a_dataset_that_does_not_exist_is_named(store):
    with pytest.raises(DatasetError, match="esc11: no such dataset"):
        tiny.train("esc11", store=store)


def test_cancelling_while_a_bundle_is_made_writes_none(tiny_run, tiny_dataset, tiny_config, tmp_path):
    store = copy_of(tiny_run.store, tmp_path / "copy")
    shutil.rmtree(store.root / "final-experts")
    stages: list[str] = []

    def progress(title: str):
        stages.append(title)
        return lambda done, total, message: None

    with pytest.raises(Cancelled):
        tiny.train(
            tiny_dataset,
            experts=("q4",),
            config=tiny_config,
            workers=1,
            store=store,
            bundle=tmp_path / "never",
            progress=progress,
            cancelled=lambda: stages[-1:] == ["training on all clips"],
        )

    assert not (tmp_path / "never").exists()


def test_a_report_is_one_json_document(tiny_run):
    document = tiny_run.report.to_json()

    assert {"dataset", "embedder", "protocol", "selection", "seconds", "rows"} <= document.keys()
    assert document["rows"][0].keys() == {"name", "parameters", "f1_mean", "f1_std", "f1_folds"}
    assert replace(tiny_run.report, rows=()).to_json()["rows"] == []


def test_an_observer_hears_every_epoch_and_fold_and_changes_nothing(
    tiny_run, tiny_dataset, tiny_config, store
):
    heard: list[dict[str, object]] = []

    report = tiny.train(
        tiny_dataset, experts=("q2",), config=tiny_config, workers=1, store=store, observe=heard.append
    )

    assert figures(report)["q2"] == figures(tiny_run.report)["q2"]
    assert {e.key for e in store.list("experts")} <= {e.key for e in tiny_run.store.list("experts")}
    folds = [event for event in heard if event["event"] == "fold"]
    assert [event["f1"] for event in folds] == list(report.rows[0].f1_folds)
    epochs = [event for event in heard if event["event"] == "epoch"]
    assert len(epochs) == sum(len(e.metadata["history"]) for e in store.list("experts"))
    assert {event["part"] for event in epochs} == {"inner", "refit"}
