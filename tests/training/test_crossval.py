from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from qmoe_core import config
from qmoe_core.config import Config
from qmoe_core.datasets import splits
from qmoe_core.engine import PackedExpert, from_tensors
from qmoe_core.errors import Cancelled, ConfigError, DatasetError
from qmoe_core.experts import NAMES
from qmoe_core.runtime.executor import Context
from qmoe_core.runtime.identity import identity
from qmoe_core.runtime.store import Store
from qmoe_core.training import crossval
from qmoe_core.training.crossval import JointTask, Split, Subject, Task
from qmoe_core.training.fit import Scaler


def with_(start: Config, *settings: str) -> Config:
    """A configuration changed as `--set` does."""
    tree = config.to_dict(start)
    for setting in settings:
        key, _, value = setting.partition("=")
        section, _, name = key.partition(".")
        tree[section][name] = msgspec.json.decode(value) if value[0] in "[0123456789" else value
    return msgspec.convert(tree, Config)


def first_split(subject: Subject, settings: Config, seed: int = 42) -> Split:
    return crossval.splits_of(subject, settings, [seed])[0]


# Splits


@pytest.mark.parametrize("protocol", ["official", "random", "grouped"])
def test_inner_validation_divides_the_training_clips_and_never_the_test_clips(
    tiny_subject, tiny_config, protocol
):
    made = crossval.splits_of(tiny_subject, with_(tiny_config, f"evaluation.protocol={protocol}"), [1, 2])

    assert len(made) == 10
    for split in made:
        train, validation = split.inner
        np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), split.fold.train)
        assert not set(split.fold.train) & set(split.fold.test)
        assert set(tiny_subject.labels[train]) == {0, 1, 2}


def test_best_on_test_holds_nothing_out(tiny_subject, tiny_config):
    made = crossval.splits_of(tiny_subject, with_(tiny_config, "evaluation.selection=best-on-test"), [1])

    assert [split.inner for split in made] == [None] * 5


def test_sources_come_before_what_is_made_from_them():
    assert crossval.with_sources(["popcount", "q4"]) == ("fp32", "popcount", "q4")
    assert crossval.with_sources(["popcount", "fp32"]) == ("fp32", "popcount")
    assert crossval.with_sources(["q4"]) == ("q4",)


# What a run depends on


def test_a_tasks_address_is_everything_it_depends_on(tiny_subject, tiny_config):
    split = first_split(tiny_subject, tiny_config)
    task = Task(tiny_subject, "q4", split, tiny_config)
    others = [
        replace(task, expert="q8"),
        replace(task, subject=replace(tiny_subject, fingerprint="another")),
        replace(task, subject=replace(tiny_subject, embedder_id="another")),
        replace(task, config=with_(tiny_config, "expert.dropout=0.5")),
        replace(task, config=with_(tiny_config, "evaluation.selection=best-on-test")),
        replace(task, split=replace(split, seed=1)),
        replace(task, split=replace(split, fold=replace(split.fold, train=split.fold.train[1:]))),
        replace(task, split=replace(split, inner=None)),
    ]

    keys = {config.fingerprint(t.key) for t in [task, *others]}

    assert len(keys) == 1 + len(others)
    assert task.key["code"] == identity("experts")


def test_settings_of_the_router_do_not_train_experts_again(tiny_subject, tiny_config):
    split = first_split(tiny_subject, tiny_config)

    changed = Task(tiny_subject, "q4", split, with_(tiny_config, "router.temperature=0.5"))

    assert changed.key == Task(tiny_subject, "q4", split, tiny_config).key


# What a run keeps


def test_every_entry_keeps_its_configuration_and_figures(tiny_run, tiny_config):
    entries = tiny_run.store.list("experts")

    assert len(entries) == 5 * len(NAMES)
    for entry in entries:
        assert msgspec.convert(entry.metadata["config"], Config) == tiny_config
        assert entry.metadata["protocol"] == "official"
        assert 0.0 <= entry.metadata["f1"] <= 1.0
        assert entry.metadata["seconds"] > 0.0


def test_on_every_clip_the_packed_form_gives_the_label_that_training_gave(tiny_run, tiny_subject):
    for entry in tiny_run.store.list("experts"):
        test = tiny_subject.folds == int(entry.metadata["fold"].removeprefix("official-"))
        weights = from_tensors(entry.tensors, {"name": entry.metadata["expert"]}, "refit.")
        scaler = Scaler(entry.tensors["mean"], entry.tensors["std"])

        logits = PackedExpert(weights).logits(scaler(tiny_subject.embeddings[test]))

        trained = entry.tensors["logits"]
        where = f"{weights.name} {entry.metadata['fold']}"
        np.testing.assert_array_equal(logits.argmax(axis=1), trained.argmax(axis=1), err_msg=where)
        np.testing.assert_allclose(logits, trained, atol=5e-3 * np.abs(trained).max(), err_msg=where)


def test_post_training_experts_are_made_from_the_float_expert_of_their_fold(tiny_run):
    by_place = {(e.metadata["expert"], e.metadata["fold"]): e.tensors for e in tiny_run.store.list("experts")}

    for fold in range(1, 6):
        source = by_place["fp32", f"official-{fold}"]
        ptq8 = by_place["ptq8", f"official-{fold}"]
        for name in ("head.weight", "layers.0.bias", "layers.1.gamma"):
            np.testing.assert_array_equal(ptq8[f"refit.{name}"], source[f"refit.{name}"])
        weights = from_tensors(ptq8, {"name": "ptq8"}, "refit.").layers[0]
        exact = source["refit.layers.0.weight"]
        assert (
            np.abs(weights.matrix * weights.scale[:, None] - exact) <= weights.scale[:, None] * 0.501
        ).all()


# The test fold


@pytest.fixture(scope="module")
def other_test_fold(tiny_subject, tiny_config) -> tuple[Split, Subject]:
    """The first split, and the dataset with other embeddings and labels for its test clips."""
    split = first_split(tiny_subject, tiny_config)
    test = split.fold.test
    rng = np.random.default_rng(0)
    embeddings, labels = tiny_subject.embeddings.copy(), tiny_subject.labels.copy()
    embeddings[test] = rng.normal(size=(len(test), embeddings.shape[1])) * 1000
    labels[test] = (labels[test] + 1) % 3
    return split, replace(tiny_subject, embeddings=embeddings, labels=labels, fingerprint="other test clips")


@pytest.mark.parametrize("name", ["fp32", "q2", "bitnet", "ptq8", "popcount"])
def test_with_inner_validation_the_test_clips_change_nothing_that_is_learnt(
    tiny_subject, tiny_config, other_test_fold, store, name
):
    split, other = other_test_fold

    mine = store.get("experts", _trained(Task(tiny_subject, name, split, tiny_config), store))
    theirs = store.get("experts", _trained(Task(other, name, split, tiny_config), store))

    assert mine.metadata["epochs"] == theirs.metadata["epochs"]
    assert mine.metadata["history"] == theirs.metadata["history"]
    assert mine.tensors.keys() == theirs.tensors.keys()
    for key in mine.tensors.keys() - {"logits"}:
        np.testing.assert_array_equal(mine.tensors[key], theirs.tensors[key], err_msg=key)
    assert not np.array_equal(mine.tensors["logits"], theirs.tensors["logits"])


def _trained(task: Task, store: Store) -> dict[str, object]:
    crossval.run_task(task, str(store.root))
    return task.key


def test_with_best_on_test_they_do(tiny_subject, tiny_config, other_test_fold, store):
    settings = with_(tiny_config, "evaluation.selection=best-on-test")
    split = replace(other_test_fold[0], inner=None)

    mine = store.get("experts", _trained(Task(tiny_subject, "q4", split, settings), store))
    theirs = store.get("experts", _trained(Task(other_test_fold[1], "q4", split, settings), store))

    assert [e["f1"] for e in mine.metadata["history"]] != [e["f1"] for e in theirs.metadata["history"]]
    assert mine.metadata["f1"] == max(
        e["f1"] for e in mine.metadata["history"]
    )  # chosen on what it is scored on


def test_the_router_never_sees_the_test_clips_either(tiny_subject, tiny_config, other_test_fold, store):
    split, other = other_test_fold
    routers = []
    for subject in (tiny_subject, other):
        results = [
            crossval.run_task(Task(subject, name, split, tiny_config), str(store.root))
            for name in ("q4", "bitnet")
        ]
        (mixture,) = crossval.compose(subject, results, ("q4", "bitnet"), tiny_config, store)
        routers.append(mixture.router.to_tensors())

    assert len(store.list("routers")) == 2
    for key, tensor in routers[0].items():
        np.testing.assert_array_equal(tensor, routers[1][key], err_msg=key)


def test_nor_does_a_joint_mixture(tiny_subject, tiny_config, other_test_fold, store):
    split, other = other_test_fold
    entries = []
    for subject in (tiny_subject, other):
        task = JointTask(subject, ("q4", "popcount"), split, tiny_config)
        crossval.run_joint(task, str(store.root))
        entries.append(store.get("joint-mixtures", task.key))

    mine, theirs = entries
    assert mine.metadata["epochs"] == theirs.metadata["epochs"]
    for key in mine.tensors.keys() - {"logits", "router", "router_mc"}:
        np.testing.assert_array_equal(mine.tensors[key], theirs.tensors[key], err_msg=key)


# Cross-validation as a whole


def test_results_come_in_the_order_expert_seed_fold(tiny_subject, tiny_config, store):
    results = crossval.train_experts(
        tiny_subject, ("popcount", "q4"), with_(tiny_config, "expert.epochs=1"), [3, 1], Context(store)
    )

    places = [(r.expert, r.split.seed, r.split.fold.name) for r in results]
    assert places == [
        (expert, seed, f"official-{fold}")
        for expert in ("popcount", "q4")
        for seed in (3, 1)
        for fold in range(1, 6)
    ]
    assert len(store.list("experts")) == 30  # with fp32, which popcount is made from
    for result in results:
        assert result.logits.shape == (6, 3)
        assert set(result.routing_clips) <= set(result.split.fold.train)


def test_cancelling_keeps_what_is_finished_and_the_next_start_goes_on(tiny_subject, tiny_config, store):
    seen = []
    arguments = (tiny_subject, ("q4", "q8"), with_(tiny_config, "expert.epochs=1"), [1])

    with pytest.raises(Cancelled, match="what was finished is kept"):
        crossval.train_experts(
            *arguments,
            Context(
                store,
                progress=lambda title: lambda done, total, message: seen.append((done, total, message)),
                cancelled=lambda: len(seen) == 3,
            ),
        )

    assert [done for done, _, _ in seen] == [1, 2, 3]
    assert {total for _, total, _ in seen} == {10}
    assert seen[0][2].startswith("q4, official-1, seed 1: F1 ")
    assert len(store.list("experts")) == 3
    results = crossval.train_experts(*arguments, Context(store))
    assert [r.cached for r in results] == [True] * 3 + [False] * 7


def test_a_derived_expert_finds_its_source_damaged_and_trains_it_again(
    tiny_subject, tiny_config, store, caplog
):
    split = first_split(tiny_subject, tiny_config)
    source = Task(tiny_subject, "fp32", split, tiny_config)
    crossval.run_task(source, str(store.root))
    before = store.get("experts", source.key)
    tensors = {name: tensor.copy() for name, tensor in before.tensors.items()}
    (before.path / "tensors.safetensors").write_bytes(b"damage")

    result = crossval.run_task(Task(tiny_subject, "ptq8", split, tiny_config), str(store.root))

    assert result.epochs == 0
    again = store.get("experts", source.key)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(again.tensors[name], tensor)
    assert len(store.reports()) == 1
    assert "set aside" in caplog.text


def test_a_mixture_is_what_its_members_said_of_the_test_clips(tiny_subject, tiny_config, tiny_run):
    names = ("bitnet", "q4", "q8")
    results = crossval.train_experts(tiny_subject, NAMES, tiny_config, [42], Context(tiny_run.store))
    assert all(result.cached for result in results)

    mixtures = list(crossval.compose(tiny_subject, results, names, tiny_config, tiny_run.store))

    assert [m.split.fold.name for m in mixtures] == [f"official-{i}" for i in range(1, 6)]
    for mixture in mixtures:
        for position, name in enumerate(names):
            (member,) = [
                r for r in results if r.expert == name and r.split.fold.name == mixture.split.fold.name
            ]
            np.testing.assert_array_equal(mixture.outputs.logits[:, position], member.logits)
        np.testing.assert_array_equal(mixture.test, mixture.split.fold.test)
        members = sum(r.parameters for r in results if r.expert in names) // 5
        assert mixture.parameters > members  # all experts are stored, and the router (claim 17)
        assert all(0.0 <= f1 <= 1.0 for f1 in mixture.f1)


def test_how_a_router_is_used_does_not_change_how_it_is_trained(tiny_subject, tiny_config, tiny_run):
    names = ("bitnet", "q4")
    results = crossval.train_experts(tiny_subject, names, tiny_config, [42], Context(tiny_run.store))
    serving = with_(tiny_config, "router.alpha=100", "router.top_k=2", "router.curiosity=router-mc")

    plain = list(crossval.compose(tiny_subject, results, names, tiny_config, tiny_run.store))
    other = list(crossval.compose(tiny_subject, results, names, serving, tiny_run.store))

    for a, b in zip(plain, other, strict=True):
        np.testing.assert_array_equal(a.outputs.router, b.outputs.router)


# Datasets that do not allow it


@pytest.mark.parametrize(
    ("settings", "folds", "says"),
    [
        ([], None, "the dataset has no official folds; use the protocol `random` or `grouped`"),
        (
            ["evaluation.protocol=random", "evaluation.folds=11"],
            None,
            "11 folds need at least 11 clips in every",
        ),
        (
            ["evaluation.protocol=grouped", "evaluation.folds=6"],
            None,
            "6 folds need at least 6 source recordings",
        ),
        ([], [1, 2], "needs at least three official folds"),
        ([], [1], "all clips are in official fold 1"),
    ],
)
def test_folds_that_cannot_be_made_are_explained(tiny_subject, tiny_config, store, settings, folds, says):
    numbers = None if folds is None else np.resize(folds, 30)
    subject = replace(tiny_subject, folds=numbers)

    with pytest.raises(DatasetError, match=says):
        crossval.train_experts(subject, ("q4",), with_(tiny_config, *settings), [1], Context(store))

    assert store.list() == []


def test_a_fold_without_a_class_to_train_on_is_explained(tiny_subject, tiny_config, store):
    subject = replace(tiny_subject, folds=tiny_subject.labels + 1)

    with pytest.raises(DatasetError, match="tests class hum but has no clip of it to train on"):
        crossval.train_experts(subject, ("q4",), tiny_config, [1], Context(store))


def test_training_that_diverges_keeps_nothing(tiny_subject, tiny_config, store):
    broken = replace(
        tiny_subject, embeddings=tiny_subject.embeddings * np.float32("nan"), fingerprint="not finite"
    )
    task = Task(broken, "fp32", first_split(tiny_subject, tiny_config), tiny_config)

    with pytest.raises(ConfigError, match=r"training diverged; lower expert\.learning_rate"):
        crossval.run_task(task, str(store.root))

    assert store.list() == []


def test_a_leak_is_counted(tiny_subject):
    made = splits.folds(tiny_subject.labels, tiny_subject.sources, None, "random", 5, 42)

    assert splits.leaking_sources(made, tiny_subject.sources) > 0
