from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from qmoe_core import bundles, embedders, engine, serve
from qmoe_core.bundles import Bundle
from qmoe_core.errors import BundleError, ConfigError
from qmoe_core.experts import NAMES
from qmoe_core.routing.mixing import Settings
from qmoe_core.runtime import system


@pytest.fixture
def folder(tiny_run, tmp_path) -> Path:
    """A copy of the tiny bundle, to be damaged."""
    return Path(shutil.copytree(tiny_run.bundle, tmp_path / "copy"))


def read_everything(path: Path) -> Bundle:
    """Load a bundle and all that it loads lazily."""
    bundle = bundles.load(path)
    serve.embedder_of(bundle)
    bundle.outputs(np.zeros((1, len(bundle.mean)), np.float32)).all()
    assert bundle.dataset is not None
    return bundle


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Edit a bundle's description."""
    manifest = json.loads((path / "bundle.json").read_text())
    change(manifest)
    (path / "bundle.json").write_text(json.dumps(manifest))


def replace_tensors(path: Path, name: str, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Edit a file's tensors, with a checksum that fits: what somebody does who makes a bundle by hand."""
    file = path / name
    tensors = dict(safetensors.numpy.load_file(file))
    change(tensors)
    safetensors.numpy.save_file(tensors, file)
    data = file.read_bytes()
    record = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    rewrite(path, lambda manifest: manifest["files"].update({name: record}))


# What a bundle is


def test_it_comes_back_as_it_was_made(tiny_run, tiny_subject, tiny_config):
    bundle = read_everything(tiny_run.bundle)

    assert bundle.name == "tiny"
    assert bundle.classes == tiny_subject.classes
    assert bundle.experts == NAMES
    assert bundle.config == tiny_config
    assert bundle.settings() == Settings.of(tiny_config.router, ("bitnet", "q4", "q8"))
    assert bundle.provenance.dataset == "tiny"
    assert bundle.provenance.dataset_fingerprint == tiny_subject.fingerprint
    assert bundle.provenance.clips == 30
    assert (bundle.provenance.protocol, bundle.provenance.selection) == ("official", "inner-validation")
    bundle.verify()


def test_its_figures_are_those_of_the_run(tiny_run):
    f1 = bundles.load(tiny_run.bundle).provenance.f1

    for row in tiny_run.report.rows:
        assert f1[row.name]["mean"] == pytest.approx(row.f1_mean)
        assert f1[row.name]["std"] == pytest.approx(row.f1_std)
        assert f1[row.name]["n"] == len(row.f1_folds)


def test_the_data_that_travels_is_the_dataset(tiny_run, tiny_subject):
    data = bundles.load(tiny_run.bundle).dataset

    assert data is not None
    np.testing.assert_allclose(data.embeddings, tiny_subject.embeddings, rtol=2e-3, atol=1e-3)
    assert data.embeddings.dtype == np.float16
    np.testing.assert_array_equal(data.labels, tiny_subject.labels)
    np.testing.assert_array_equal(data.folds, tiny_subject.folds)
    assert [clip.source for clip in data.clips] == list(tiny_subject.sources)
    assert data.outputs.experts == NAMES
    assert data.outputs.logits.shape == (30, len(NAMES), 3)
    assert data.outputs.router_mc.shape == (4, 30, len(NAMES))


def test_out_of_fold_predictions_are_what_the_folds_said(tiny_run, tiny_subject):
    data = bundles.load(tiny_run.bundle).dataset
    assert data is not None

    for position, name in enumerate(NAMES):
        entries = [e for e in tiny_run.store.list("experts") if e.metadata["expert"] == name]
        for entry in entries:
            test = tiny_subject.folds == int(entry.metadata["fold"].removeprefix("official-"))
            np.testing.assert_allclose(
                data.outputs.logits[test, position], entry.tensors["logits"], rtol=1e-6
            )


def test_every_expert_learnt_something_of_what_it_was_trained_on(tiny_run):
    bundle = bundles.load(tiny_run.bundle)
    data = bundle.dataset
    assert data is not None

    said = bundle.outputs(data.embeddings).all().logits.argmax(axis=2)

    for position, name in enumerate(NAMES):
        assert (said[:, position] == data.labels).mean() > 0.8, name


def test_a_clip_is_judged_alike_alone_and_in_a_batch(tiny_run):
    bundle = bundles.load(tiny_run.bundle)
    data = bundle.dataset
    assert data is not None

    together = bundle.outputs(data.embeddings).all()
    for i in (0, 13, 29):
        alone = bundle.outputs(data.embeddings[i : i + 1]).all()
        np.testing.assert_allclose(alone.logits[0], together.logits[i], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(alone.router[0], together.router[i], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(alone.router_mc[:, 0], together.router_mc[:, i], rtol=1e-4, atol=1e-5)


def test_fewer_mc_passes_are_the_first_of_more(tiny_run):
    bundle = bundles.load(tiny_run.bundle)
    z = np.zeros((2, len(bundle.mean)), np.float32)

    few, many = (bundle.outputs(z, mc_samples=n).all() for n in (3, 50))

    assert many.router_mc.shape == (50, 2, len(NAMES))
    np.testing.assert_allclose(many.router_mc[:3], few.router_mc, rtol=1e-5, atol=1e-6)
    assert bundle.outputs(z).router_mc.shape[0] == bundle.config.router.mc_samples


def test_an_expert_is_read_once_and_an_unknown_one_is_named(tiny_run):
    bundle = bundles.load(tiny_run.bundle)

    assert bundle.expert("q4") is bundle.expert("q4")
    with pytest.raises(BundleError, match="no expert 'q5'; there are fp32, q1"):
        bundle.expert("q5")


def test_settings_that_are_not_accepted_are_refused(tiny_run):
    bundle = bundles.load(tiny_run.bundle)

    assert bundle.settings(alpha=10.0, top_k=2).alpha == 10.0
    with pytest.raises(ConfigError, match="alpha"):
        bundle.settings(alpha=-1.0)


def test_the_reference_is_the_dataset_mixed_the_same_way(tiny_run):
    bundle = bundles.load(tiny_run.bundle)
    settings = bundle.settings(normalise=True, alpha=1.0)

    reference = bundle.reference(settings)

    assert reference is not None
    assert reference.probabilities.shape == (30, 3)
    assert reference.interest.mean() == pytest.approx(1.0)


def test_without_a_dataset_it_serves_all_the_same(tiny_run, folder):
    (folder / "dataset.safetensors").unlink()
    rewrite(folder, lambda m: (m["files"].pop("dataset.safetensors"), m.update(clips=[])))
    bundle = bundles.load(folder)

    assert bundle.dataset is None
    assert bundle.reference(bundle.settings()) is None
    assert bundle.mean_interest(bundle.settings(normalise=True)) == 1.0
    bundle.verify()


# Damage


FILES = ["bundle.json", "router.safetensors", "dataset.safetensors"] + [
    f"experts/{name}.safetensors" for name in NAMES
]


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(bytes(data))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def deleted(path: Path) -> None:
    path.unlink()


def replaced_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("file", FILES[1:])
@pytest.mark.parametrize("damage", [truncated, flipped, emptied, deleted, replaced_by_a_folder])
def test_every_damaged_file_is_named(folder, file, damage):
    damage(folder / file)

    for read in (read_everything, lambda path: bundles.load(path).verify()):
        with pytest.raises(BundleError) as raised:
            read(folder)
        assert str(folder / file) in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("damage", [truncated, emptied, deleted, replaced_by_a_folder])
def test_a_damaged_description_is_named(folder, damage):
    damage(folder / "bundle.json")

    with pytest.raises(BundleError, match="copy"):
        bundles.load(folder)


def test_an_undamaged_expert_serves_though_another_is_damaged(folder):
    flipped(folder / "experts" / "q4.safetensors")
    bundle = bundles.load(folder)

    assert bundle.expert("q8").name == "q8"
    with pytest.raises(BundleError, match=r"q4\.safetensors"):
        bundle.expert("q4")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update(version=2), "written by a newer qmoe"),
        (lambda m: m.update(version=0), "not a bundle this program reads"),
        (lambda m: m.update(format="zip"), "not a bundle this program reads"),
        (lambda m: m.update(extra=1), "unknown field `extra`"),
        (lambda m: m.pop("classes"), "missing required field `classes`"),
        (lambda m: m.update(classes=["hum"]), "at least two classes"),
        (lambda m: m.update(classes=["hum", "hum", "hiss"]), "different names"),
        (lambda m: m.update(mixture=["q5"]), "mixture: there is no expert 'q5'"),
        (lambda m: m["experts"].remove("q4"), "names experts that the bundle does not have"),
        (lambda m: m.update(mixture=[]), "mixture"),
        (lambda m: m.update(experts=[]), "experts"),
        (lambda m: m.update(experts=[*NAMES, "q5"]), "q5"),
        (lambda m: m.update(experts=[*NAMES, "q4"]), "twice"),
        (lambda m: m["config"]["router"].update(temperature=-1.0), "temperature"),
        (lambda m: m["files"].pop("router.safetensors"), "does not list router.safetensors"),
        (lambda m: m.update(dim=-1), "mean"),
        (lambda m: m["provenance"].update(seeds=[]), "says nothing of seeds"),
        (lambda m: m["provenance"]["f1"]["q4"].pop("std"), "mean, std and n of an F1"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(folder, change, says):
    rewrite(folder, change)

    with pytest.raises(BundleError) as raised:
        bundles.load(folder)

    assert says in str(raised.value)
    assert str(folder) in str(raised.value)


def test_other_classes_than_the_experts_were_trained_on(folder):
    rewrite(folder, lambda m: m["classes"].append("silence"))
    bundle = bundles.load(folder)

    with pytest.raises(BundleError, match=r"fp32\.safetensors: takes .* gives 3 classes"):
        bundle.expert("fp32")
    with pytest.raises(BundleError, match=r"dataset\.safetensors: the tensor oof_logits has shape"):
        _ = bundle.dataset


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe{}",
        b'{"version": "new"}',
        b'{"x":' + b"[" * 500_000,
        b"\x00" * 64,
    ],
    ids=["empty", "null", "list", "open", "utf16", "text", "deep", "zeros"],
)
def test_a_description_that_is_none_is_refused(folder, content):
    (folder / "bundle.json").write_bytes(content)

    with pytest.raises(BundleError, match=r"bundle\.json"):
        bundles.load(folder)


def test_an_oversized_description_is_not_even_read(folder):
    with (folder / "bundle.json").open("wb") as file:
        file.truncate(1 << 33)  # eight sparse gigabytes

    with pytest.raises(BundleError, match=r"bundle\.json: larger than"):
        bundles.load(folder)


@pytest.mark.parametrize(
    "name",
    ["../secret.txt", "/etc/hostname", "experts/../../secret.txt", "experts/q4.safetensors/../../x", "."],
)
def test_a_description_cannot_point_outside_of_its_folder(folder, name):
    (folder.parent / "secret.txt").write_text("secret")
    rewrite(folder, lambda m: m["files"].update({name: {"bytes": 6, "sha256": "0" * 64}}))

    with pytest.raises(BundleError, match=r"bundle\.json.*lists"):
        bundles.load(folder)


@pytest.mark.parametrize("name", ["../q4", "/tmp/q4", "q4/../../q4", "", "Q4"])
def test_an_expert_cannot_be_named_as_a_path(folder, name):
    rewrite(folder, lambda m: m.update(experts=[name, *NAMES]))

    with pytest.raises(BundleError, match=r"bundle\.json"):
        bundles.load(folder)


@pytest.mark.parametrize("name", ["/tmp/b", "../b", "..", ".", "b/", ""])
def test_a_bundle_cannot_be_named_as_a_path(folder, name):
    """Some of its experts were exported by way of a folder of that name, wherever it led."""
    rewrite(folder, lambda m: m.update(name=name))

    with pytest.raises(BundleError, match="is a path"):
        bundles.load(folder)


@pytest.mark.parametrize("file", ["bundle.json", "router.safetensors", "experts/q4.safetensors"])
def test_nobody_waits_for_a_pipe(folder, file):
    (folder / file).unlink()
    os.mkfifo(folder / file)

    with pytest.raises(BundleError, match=r"not a file|not a bundle"):
        bundles.load(folder).expert("q4")
    with pytest.raises(BundleError, match="not a bundle"):
        bundles.load(folder / file)


@pytest.mark.parametrize("kind", ["BF16", "F8_E4M3", "F4"])
def test_numbers_that_numpy_has_no_type_for(folder, kind):
    values = bytes(8)
    head = json.dumps(
        {"mean": {"dtype": kind, "shape": [4 if kind == "BF16" else 8], "data_offsets": [0, 8]}}
    )
    if kind == "F4":
        head = head.replace("[8]", "[16]")
    data = len(head).to_bytes(8, "little") + head.encode() + values
    (folder / "router.safetensors").write_bytes(data)
    record = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    rewrite(folder, lambda m: m["files"].update({"router.safetensors": record}))

    with pytest.raises(BundleError, match="not a safetensors file that can be read"):
        bundles.load(folder)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("router.safetensors", lambda t: t.pop("mean")),
        ("router.safetensors", lambda t: t.update(std=np.zeros_like(t["std"]))),
        ("router.safetensors", lambda t: t.update(std=np.full_like(t["std"], 1e-30))),
        ("router.safetensors", lambda t: t.update(mean=np.full_like(t["mean"], -1e30))),
        ("router.safetensors", lambda t: t.update(mean=t["mean"] * np.nan)),
        ("router.safetensors", lambda t: t.update(mean=t["mean"][:-1])),
        ("router.safetensors", lambda t: t.pop("bias1")),
        ("router.safetensors", lambda t: t.update(weight0=t["weight0"].ravel())),
        ("router.safetensors", lambda t: t.update(weight0=t["weight0"][:, :-1])),
        ("router.safetensors", lambda t: t.update(weight2=t["weight2"] * np.inf)),
        ("dataset.safetensors", lambda t: t.pop("folds")),
        ("dataset.safetensors", lambda t: t.update(labels=t["labels"][1:])),
        ("dataset.safetensors", lambda t: t.update(labels=t["labels"] + 1)),
        ("dataset.safetensors", lambda t: t.update(labels=t["labels"] - 1)),
        ("dataset.safetensors", lambda t: t.update(oof_router=t["oof_router"] * np.nan)),
        ("experts/q4.safetensors", lambda t: t.pop("head.bias")),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_tensors_that_do_not_fit_are_refused_though_their_checksum_fits(folder, file, change):
    replace_tensors(folder, file, change)

    with pytest.raises(BundleError) as raised:
        read_everything(folder)

    assert str(folder / file) in str(raised.value)


def test_another_version_of_the_embedder_is_named_with_the_bundle(folder):
    rewrite(folder, lambda m: m.update(embedder_id="logmel-stats-00000000"))
    bundle = bundles.load(folder)

    with pytest.raises(BundleError) as raised:
        serve.embedder_of(bundle)

    for part in ("logmel-stats-00000000", embedders.create("logmel-stats").id, str(folder), "qmoe train"):
        assert part in str(raised.value)


# Finding


def test_a_bundle_is_found_by_folder_or_name(tiny_run, monkeypatch):
    monkeypatch.setattr(bundles, "made", lambda: tiny_run.bundle.parent)

    assert bundles.find(tiny_run.bundle) == tiny_run.bundle
    assert bundles.find("tiny") == tiny_run.bundle
    assert bundles.names()[0] == bundles.DEFAULT_NAME
    assert "tiny" in bundles.names()


@pytest.mark.parametrize(
    "name", ["nothing", "", ".", "..", "../tiny", "a/b", "x\0y", "x" * 5000, "~nobody", "line\nfeed"]
)
def test_a_bundle_that_is_none_is_named_with_those_there_are(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(BundleError, match=r"not a bundle; accepted is a folder with a bundle\.json"):
        bundles.find(name)


def test_unfinished_writing_is_no_bundle(tiny_run, tmp_path, monkeypatch):
    shutil.copytree(tiny_run.bundle, tmp_path / "bundles" / ".tiny-abc123")
    monkeypatch.setattr(bundles, "made", lambda: tmp_path / "bundles")

    assert ".tiny-abc123" not in bundles.names()
    with pytest.raises(BundleError):
        bundles.find(".tiny-abc123")


# Writing


def save_again(bundle: Bundle, folder: Path, **changes: Any) -> Path:
    arguments: dict[str, Any] = {
        "title": bundle.title,
        "classes": bundle.classes,
        "mixture": tuple(bundle.manifest.mixture),
        "embedder": bundle.embedder,
        "embedder_id": bundle.manifest.embedder_id,
        "config": bundle.config,
        "provenance": bundle.provenance,
        "experts": {
            name: engine.load(bundle.path / "experts" / f"{name}.safetensors") for name in bundle.experts
        },
        "router": bundle.router,
        "mean": bundle.mean,
        "std": bundle.std,
        "dataset": bundle.dataset,
    }
    return bundles.save(folder, **(arguments | changes))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_saved_again_it_is_the_same_but_for_its_name(tiny_run, tmp_path):
    bundle = bundles.load(tiny_run.bundle)

    again = save_again(bundle, tmp_path / "deep" / "tiny")

    mine, theirs = files(again), files(tiny_run.bundle)
    assert mine.keys() == theirs.keys()
    for name in theirs.keys() - {"bundle.json"}:
        np.testing.assert_equal(
            safetensors.numpy.load(mine[name]), safetensors.numpy.load(theirs[name]), err_msg=name
        )
    read_everything(again)


def test_everybody_may_read_what_was_written(tiny_run):
    for path in [tiny_run.bundle, *tiny_run.bundle.rglob("*")]:
        assert path.stat().st_mode & 0o044 == 0o044, path


def test_a_bundle_of_the_same_name_is_replaced_whole(tiny_run, folder):
    bundle = bundles.load(tiny_run.bundle)
    experts = {"q4": engine.load(folder / "experts" / "q4.safetensors")}
    (folder / "experts" / "left-over.safetensors").write_bytes(b"old")

    save_again(
        bundle,
        folder,
        title="second",
        mixture=("q4",),
        experts=experts,
        router=_router_of(bundle),
        dataset=None,
    )

    assert bundles.load(folder).title == "second"
    assert set(files(folder)) == {"bundle.json", "router.safetensors", "experts/q4.safetensors"}
    assert [p.name for p in folder.parent.iterdir() if p.name.startswith(".")] == []


def _router_of(bundle: Bundle):
    from dataclasses import replace

    router = bundle.router
    return replace(
        router,
        experts=("q4",),
        weights=(*router.weights[:-1], router.weights[-1][:1]),
        biases=(*router.biases[:-1], router.biases[-1][:1]),
    )


def test_when_writing_fails_the_old_bundle_stays(tiny_run, folder, monkeypatch):
    bundle, before = bundles.load(tiny_run.bundle), files(folder)
    save, calls = engine.save, []

    def failing(weights: engine.ExpertWeights, path: Path) -> None:
        calls.append(path)
        if len(calls) == 5:
            raise OSError(28, "No space left on device")
        save(weights, path)

    monkeypatch.setattr(engine, "save", failing)
    with pytest.raises(BundleError, match="copy: the bundle could not be written"):
        save_again(bundle, folder)

    assert files(folder) == before
    assert [p.name for p in folder.parent.iterdir()] == ["copy"]


def test_when_the_last_step_fails_the_old_bundle_is_put_back(tiny_run, folder, monkeypatch):
    """Where folders cannot be swapped in one step."""
    bundle, before = bundles.load(tiny_run.bundle), files(folder)
    monkeypatch.setattr(system, "swap", lambda one, other: False)
    rename, refused = Path.rename, []

    def failing(self: Path, target: Path) -> Path:
        if target == folder and not refused:
            refused.append(self)
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(BundleError, match="Permission denied"):
        save_again(bundle, folder)

    assert files(folder) == before
    assert [p.name for p in folder.parent.iterdir()] == ["copy"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_not_a_bundle_is_never_replaced(tiny_run, tmp_path, kind):
    precious = tmp_path / "precious"
    if kind == "file":
        precious.write_text("my thesis")
    else:
        precious.mkdir()
        (precious / "thesis.txt").write_text("my thesis")
    before = files(precious) if kind == "folder" else precious.read_text()

    with pytest.raises(BundleError, match="precious: is not a bundle, and is not replaced by one"):
        save_again(bundles.load(tiny_run.bundle), precious)

    assert (files(precious) if kind == "folder" else precious.read_text()) == before


def test_an_empty_folder_may_become_a_bundle(tiny_run, tmp_path):
    (tmp_path / "new").mkdir()

    read_everything(save_again(bundles.load(tiny_run.bundle), tmp_path / "new"))


# The bundle that ships


@pytest.fixture(scope="module")
def default() -> Bundle:
    return bundles.load()


def test_the_default_is_whole_and_fits_this_program(default):
    default.verify()

    assert default.name == bundles.DEFAULT_NAME
    # q3 came after it was trained.
    assert default.experts == tuple(name for name in NAMES if name != "q3" or name in default.experts)
    assert len(default.classes) == 10
    assert serve.embedder_of(default).dim == len(default.mean)


def test_the_default_carries_its_dataset_with_attribution(default):
    data = default.dataset

    assert data.embeddings.shape == (400, len(default.mean))
    assert np.bincount(data.labels).tolist() == [40] * 10
    assert sorted(set(data.folds.tolist())) == [1, 2, 3, 4, 5]
    assert data.outputs.logits.shape == (400, len(default.experts), 10)
    assert default.provenance.licence
    assert "Piczak" in default.provenance.citation


def test_the_defaults_figures_are_what_it_says_out_of_fold(default):
    from qmoe_core.evaluation.classification import weighted_f1

    data = default.dataset
    for position, name in enumerate(default.experts):
        predicted = data.outputs.logits[:, position].argmax(axis=1)
        folds = [
            weighted_f1(data.labels[data.folds == fold], predicted[data.folds == fold])
            for fold in range(1, 6)
        ]
        figure = default.provenance.f1[name]
        assert np.mean(folds) == pytest.approx(figure["mean"], abs=2 * figure["std"] / np.sqrt(5)), name


def test_on_every_clip_of_the_default_set_all_kernels_give_the_same_label(default):
    z = default.standardise(default.dataset.embeddings)

    for name in default.experts:
        weights = engine.load(default.path / "experts" / f"{name}.safetensors")
        reference = engine.PackedExpert(weights, "numpy").logits(z)
        served = default.expert(name).logits(z)
        np.testing.assert_array_equal(served.argmax(axis=1), reference.argmax(axis=1), err_msg=name)
        np.testing.assert_allclose(served, reference, atol=1e-3 * np.abs(reference).max(), err_msg=name)
