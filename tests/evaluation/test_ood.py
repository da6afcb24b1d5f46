"""Held-out classes: nobody hears them in training, each of their clips is judged once, all is kept."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from qmoe_core import bundles
from qmoe_core.errors import BundleError, Cancelled, ConfigError, DatasetError
from qmoe_core.evaluation import ood
from qmoe_core.evaluation.ood import HeldOut, hold_out, kept, report, without
from qmoe_core.evaluation.selective import MEASURES
from qmoe_core.routing.mixing import Outputs, Settings
from qmoe_core.runtime.executor import Context
from qmoe_core.runtime.store import Store


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Where `held` is kept."""
    return Store(tmp_path_factory.mktemp("held-out"))


@pytest.fixture(scope="module")
def held(tiny_subject, tiny_config, home: Store) -> HeldOut:
    return hold_out(tiny_subject, ["hiss"], ["q4", "popcount"], tiny_config, Context(home))


def test_a_dataset_without_a_class(tiny_subject) -> None:
    remaining, clips = without(tiny_subject, [tiny_subject.classes[1]])

    first, _, last = tiny_subject.classes
    assert remaining.classes == (first, last)
    assert len(remaining.labels) == len(clips) == 20
    np.testing.assert_array_equal(remaining.labels, np.where(tiny_subject.labels[clips] == 0, 0, 1))
    np.testing.assert_array_equal(remaining.embeddings, tiny_subject.embeddings[clips])
    assert remaining.sources == tuple(tiny_subject.sources[i] for i in clips)
    assert remaining.fingerprint != tiny_subject.fingerprint
    assert remaining.fingerprint != without(tiny_subject, [first])[0].fingerprint


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "name one or more classes"),
        (["hum", "hum"], "each once"),
        (["cow"], "no class cow; tiny has "),
        (["hum", "hiss"], "two must remain"),
    ],
)
def test_classes_that_cannot_be_held_out(tiny_subject, names: list[str], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        without(tiny_subject, names)


def test_every_clip_is_judged_once_by_experts_that_know_two_classes(held: HeldOut, tiny_subject) -> None:
    hiss = tiny_subject.classes.index("hiss")

    assert held.classes == tuple(name for name in tiny_subject.classes if name != "hiss")
    assert sorted([*held.clips, *held.strange_clips]) == list(range(30))
    assert (tiny_subject.labels[held.strange_clips] == hiss).all()
    assert [held.classes[label] for label in held.labels] == [
        tiny_subject.classes[label] for label in tiny_subject.labels[held.clips]
    ]
    assert held.known.logits.shape == (20, 2, 2)
    assert held.strange.logits.shape == (10, 2, 2)
    assert held.strange.router_mc.shape == (4, 10, 2)
    assert held.folds == 5
    judged = [*held.clips, *held.strange_clips]
    names = [tiny_subject.sources[clip] for clip in judged]
    assert len(set(zip(names, held.recordings, strict=True))) == len(set(names)) == 15


def test_known_clips_get_what_cross_validation_says_of_them(
    held: HeldOut, tiny_subject, tiny_config, home: Store
) -> None:
    from qmoe_core.training import crossval

    remaining, _ = without(tiny_subject, ["hiss"])
    results = crossval.train_experts(remaining, ["q4"], tiny_config, [tiny_config.seed], Context(home))

    assert all(result.cached for result in results)
    np.testing.assert_allclose(
        held.known.logits[:, 0], np.concatenate([result.logits for result in results]), rtol=1e-3, atol=1e-3
    )


def test_held_out_clips_meet_the_experts_that_test_their_own_fold(
    tiny_subject, tiny_config, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    met = []
    listen = ood._outputs

    def watched(subject, mixture, embeddings, config, store):
        met.append((mixture.split.fold.name, embeddings))
        return listen(subject, mixture, embeddings, config, store)

    monkeypatch.setattr(ood, "_outputs", watched)
    found = hold_out(tiny_subject, ["hiss"], ["q4"], tiny_config, Context(store))

    folds = tiny_subject.folds
    assert [name for name, _ in met] == [f"official-{fold}" for fold in range(1, 6)]
    assert folds[found.clips].tolist() == np.repeat(range(1, 6), 4).tolist()
    assert folds[found.strange_clips].tolist() == np.repeat(range(1, 6), 2).tolist()
    np.testing.assert_array_equal(met[0][1][-2:], tiny_subject.embeddings[found.strange_clips[:2]])


def test_without_official_folds_they_take_turns(tiny_subject, tiny_config, store: Store) -> None:
    import msgspec

    evaluation = msgspec.structs.replace(tiny_config.evaluation, protocol="random", folds=2)
    config = msgspec.structs.replace(tiny_config, evaluation=evaluation)

    found = hold_out(replace(tiny_subject, folds=None), ["hiss"], ["q1"], config, Context(store))

    assert found.folds == 2
    assert sorted([*found.clips, *found.strange_clips]) == list(range(30))


def test_it_is_kept_and_found_again(held: HeldOut, tiny_subject, home: Store) -> None:
    (found,) = kept(home, tiny_subject.embedder_id, tiny_subject.classes)

    assert found.held_out == ("hiss",)
    np.testing.assert_array_equal(found.strange.logits, held.strange.logits)
    np.testing.assert_array_equal(found.known.router_mc, held.known.router_mc)
    assert report(found) == report(held)
    assert kept(home, "another-embedder", tiny_subject.classes) == []
    assert kept(home, tiny_subject.embedder_id, ("dog", "rain")) == []


def test_the_report_says_what_it_rests_on(held: HeldOut) -> None:
    found = report(held, Settings(("popcount", "q4"), normalise=True))

    assert (found.n_known, found.n_strange, found.folds) == (20, 10, 5)
    assert found.detection.keys() == MEASURES.keys()
    assert {one.positives for one in found.detection.values()} == {10}
    assert all(0.0 <= one.low <= one.high <= 1.0 for one in found.detection.values())
    assert found.to_json()["detection"]["total"]["auroc"] == found.detection["total"].auroc
    with pytest.raises(ConfigError, match="no expert fp32"):
        report(held, Settings(("fp32",)))


def test_an_uncertainty_that_knows_scores_one(held: HeldOut) -> None:
    def said(n: int, p: float) -> Outputs:
        logits = np.log(np.tile([p, 1.0 - p], (n, 2, 1)))
        return Outputs(("q4", "q8"), logits, np.zeros((n, 2)), np.zeros((3, n, 2)))

    sure, unsure = said(20, 0.99), said(10, 0.5)
    found = report(replace(held, known=sure, strange=unsure)).detection

    assert found["total"].auroc == found["doubt"].auroc == 1.0
    assert found["router_variance"].auroc == 0.5


def test_fewer_than_no_workers(tiny_subject, tiny_config, store: Store) -> None:
    with pytest.raises(ConfigError, match="--workers is -1"):
        Context(store).with_workers(-1)


def test_it_can_be_stopped(tiny_subject, tiny_config, store: Store) -> None:
    with pytest.raises(Cancelled):
        hold_out(tiny_subject, ["hum"], ["q4"], tiny_config, Context(store, cancelled=lambda: True))
    assert kept(store, tiny_subject.embedder_id, tiny_subject.classes) == []


def test_what_ships_is_found_for_the_default_bundle_and_for_no_other(
    held: HeldOut, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = report(held)
    (tmp_path / ood.SHIPPED).write_text(json.dumps([known.to_json()]))
    monkeypatch.setattr("qmoe_core.bundles.shipped", lambda: tmp_path)

    assert ood.shipped(held.embedder_id, ("whistle", "hiss", "hum")) == [known]
    assert ood.shipped("another-embedder", ("whistle", "hiss", "hum")) == []
    assert ood.shipped(held.embedder_id, ("whistle", "hiss")) == []
    (tmp_path / ood.SHIPPED).write_text("[{")
    with pytest.raises(BundleError, match="cannot be read"):
        ood.shipped(held.embedder_id, held.classes)
    (tmp_path / ood.SHIPPED).unlink()
    assert ood.shipped(held.embedder_id, held.classes) == []


def test_the_default_bundle_comes_with_every_class_held_out_once() -> None:
    """Renew data/held-out.json (see `ood.shipped`) when the default bundle's embedder changes."""
    loaded = bundles.load()

    found = ood.shipped(loaded.manifest.embedder_id, loaded.classes)

    assert sorted(name for one in found for name in one.held_out) == sorted(loaded.classes)
    for one in found:
        assert (one.n_known, one.n_strange, one.folds, one.protocol) == (320, 80, 5, "official")
        assert one.detection.keys() == MEASURES.keys()
        assert one.detection["total"].low > 0.5
        assert one.detection["total"].auroc > one.detection["router_variance"].auroc
