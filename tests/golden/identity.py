"""Small results of every part of the computation that cached results depend on, kept in identity.json.

After the version of a part was raised in qmoe_core/runtime/identity.py, from the repository's root:

    python -m tests.golden.identity
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from qmoe_core import config
from qmoe_core.config import Config
from qmoe_core.runtime.identity import PARTS
from qmoe_core.training.crossval import Subject
from tests import tiny

KEPT = Path(__file__).with_name("identity.json")
EXACT, TRAINED = 1e-5, 0.02
"""How far results may be from the kept ones, relative to the largest: computed once, or by many steps that
processors round differently."""

Results = Mapping[str, np.ndarray]


def settings() -> Config:
    return config.load(settings=tiny.SETTINGS)


def subject() -> Subject:
    """60 clips of three classes far apart; every seventh has a wrong label, so that no score is 0 or 1."""
    rng = np.random.default_rng(5)
    labels = np.arange(60) % 3
    embeddings = rng.normal(size=(60, 12)) + 4.0 * np.eye(3, 12)[labels]
    wrong = np.where(np.arange(60) % 7 == 0, (labels + 1) % 3, labels)
    return Subject(
        name="golden",
        fingerprint="golden",
        embedder_id="golden",
        classes=("a", "b", "c"),
        embeddings=embeddings.astype(np.float32),
        labels=wrong,
        sources=tuple(f"recording {i}" for i in range(60)),
        folds=np.arange(60) // 12 + 1,
    )


def outputs():
    """What three experts and a router give for eight clips of four classes, made up."""
    from qmoe_core.routing.mixing import Outputs

    rng = np.random.default_rng(7)
    logits, routing = rng.normal(size=(8, 3, 4)) * 2.0, rng.normal(size=(8, 3))
    return Outputs(("q4", "q8", "bitnet"), logits, routing, routing + 0.3 * rng.normal(size=(5, 8, 3)))


def embedding(home: Path) -> Results:
    from qmoe_core import datasets, embedders
    from qmoe_core.embedders.embed import embed_dataset
    from qmoe_core.runtime.executor import Context
    from qmoe_core.runtime.store import Store

    manifest = datasets.open_dataset(tiny.dataset(home / "data"))
    found = embed_dataset(manifest, embedders.create("logmel-stats"), Context(Store(home / "store")))
    return {"logmel-stats": np.asarray(found[::10, ::16])}


def expert(home: Path) -> Results:
    from qmoe_core.runtime.store import Store
    from qmoe_core.training import crossval

    found: dict[str, np.ndarray] = {}
    store, data, made = Store(home), subject(), settings()
    split = crossval.splits_of(data, made, [0])[0]
    for name in ("fp32", "q4", "bitnet", "popcount"):
        result = crossval.run_task(crossval.Task(data, name, split, made), store.address)
        found[name] = result.logits[:4]
    return found


def quantization(home: Path) -> Results:
    from qmoe_core.embedders.quantization import making
    from qmoe_core.embedders.quantization.inputs import STEP
    from qmoe_core.engine import network_reference
    from qmoe_core.runtime.executor import Context
    from qmoe_core.runtime.store import Store
    from tests.embedders import tiny_network

    store, network = Store(home), tiny_network.network()
    recipe = making.Recipe(effort=0.25, shards=1, batch=8, learning_rate=2e-3)
    keys = tiny_network.kept(store, 2, 16)
    x = tiny_network.inputs(2, 5).astype(np.float32) / STEP
    made = making.make(Context(store), network, ("q2", "q4", "bitnet"), keys, recipe)
    return {name: network_reference.forward(found, x) for name, (found, _) in made.items()}


def router(home: Path) -> Results:
    from qmoe_core.training.routers import fit_router

    data, rng = subject(), np.random.default_rng(9)
    logits = rng.normal(size=(60, 2, 3)) + 2.0 * np.eye(3)[data.labels][:, None, :] * [[1.0], [0.5]]
    made = fit_router(("q4", "q8"), data.embeddings, logits, data.labels, settings(), seed=3)
    return {"logits": made.logits(data.embeddings[:6])}


def joint(home: Path) -> Results:
    from qmoe_core.runtime.store import Store
    from qmoe_core.training import crossval

    data = subject()
    task = crossval.joint_tasks_of(data, ("fp32", "q8"), settings(), [0])[0]
    result = crossval.run_joint(task, Store(home).address)
    return {"logits": result.outputs.logits[:4], "router": result.outputs.router[:4]}


def mixture(home: Path) -> Results:
    from qmoe_core.evaluation.selective import uncertainties
    from qmoe_core.routing import mixing
    from qmoe_core.routing.mixing import Settings
    from qmoe_core.routing.router import Router

    rng = np.random.default_rng(11)
    weights = tuple(rng.normal(size=shape).astype(np.float32) for shape in ((5, 6), (4, 5), (3, 4)))
    biases = tuple(rng.normal(size=w.shape[0]).astype(np.float32) for w in weights)
    made = Router(("q4", "q8", "bitnet"), weights, biases, 0.3, 4)
    z = rng.normal(size=(3, 6)).astype(np.float32)
    found = {"router": made.logits(z), "masks": made.masks(4), "thinned": made.mc_logits(z, 4)}
    said = outputs()
    for curiosity in ("none", "disagreement", "router-mc"):
        for mix in ("probabilities", "logits"):
            chosen = Settings(said.experts, alpha=3.0, top_k=2, curiosity=curiosity, mix=mix)
            mixed = mixing.mix(said, chosen)
            found[f"{curiosity}, {mix}"] = mixed.probabilities
            found[f"{curiosity}, {mix}, routing"] = mixed.routing
    found |= {f"uncertainty {name}": value for name, value in uncertainties(mixed).items()}
    found["mean interest"] = np.array([mixing.mean_interest(said, Settings(said.experts, normalise=True))])
    return found


def scores(home: Path) -> Results:
    from qmoe_core.evaluation.classification import accuracy, weighted_f1

    rng = np.random.default_rng(13)
    labels = rng.choice(4, size=50, p=(0.5, 0.3, 0.15, 0.05))
    given = np.where(rng.random(50) < 0.7, labels, rng.integers(0, 4, 50))
    return {
        "weighted F1": np.array([weighted_f1(labels, given), weighted_f1(labels[:9], given[:9])]),
        "accuracy": np.array([accuracy(labels, given)]),
    }


def engine(home: Path) -> Results:
    from qmoe_core.engine import PackedExpert
    from qmoe_core.experts.spec import NAMES
    from qmoe_core.measure.size import random_expert

    x = np.random.default_rng(15).normal(size=(2, 24)).astype(np.float32)
    return {name: PackedExpert(random_expert(name, (24, 16, 8, 3))).logits(x) for name in NAMES}


def projection(home: Path) -> Results:
    from qmoe_core.evaluation.projection import project

    return {"pca": np.abs(project(subject().embeddings, "pca").points[:6])}  # an axis has no direction


def ternary(home: Path) -> Results:
    from qmoe_core.paper.report import ternary as code
    from qmoe_core.training import crossval

    data, made = subject(), settings()
    split = crossval.splits_of(data, made, [0])[0]
    return {"f1": np.array(code._last_and_best({"one": split}, "one", data, made.expert))}


def sounds(home: Path) -> Results:
    from qmoe_core.embedders.distil.sounds import Maker

    bank = [np.round(20_000 * np.sin(np.arange(9_000) / 20)).astype(np.int16)]
    maker = Maker(np.random.default_rng(3), bank)
    return {f"clip {number}": maker.clip()[::16_000] for number in range(6)}


def student(home: Path) -> Results:
    from qmoe_core.embedders.distil import clips, training
    from qmoe_core.runtime.executor import Context
    from qmoe_core.runtime.store import Store

    rng = np.random.default_rng(17)
    levels = rng.integers(-60, 61, (training.HELD_OUT + 8, 64, 216)).astype(np.int8)
    features = rng.normal(size=(len(levels), 384, 16)).astype(np.float16)
    classifier = {
        f"classifier.{layer}.{part}": rng.normal(size=shape).astype(np.float32) / 8
        for layer, part, shape in (
            (2, "weight", (16, 384)),
            (2, "bias", (16,)),
            (5, "weight", (9, 16)),
            (5, "bias", (9,)),
        )
    }
    recipe = training.Recipe(epochs=(1,), batch=4)
    network = training.fit(Context(Store(home)), clips.Clips(levels, features), classifier, recipe, {})
    tensors = training.to_tensors(network)
    return {name: tensors[f"features.{name}.0.weight"].reshape(-1)[:20] for name in ("0", "8", "16")}


COMPUTE: dict[str, Callable[[Path], Results]] = {
    "embedding": embedding,
    "sounds": sounds,
    "student": student,
    "expert": expert,
    "router": router,
    "joint": joint,
    "mixture": mixture,
    "scores": scores,
    "engine": engine,
    "projection": projection,
    "quantization": quantization,
    "ternary": ternary,
}
TOLERANCE = {
    "quantization": TRAINED,
    "expert": TRAINED,
    "router": TRAINED,
    "joint": TRAINED,
    "ternary": TRAINED,
    "embedding": 1e-3,
    "sounds": 1e-3,
    "student": TRAINED,
}


def problem(part: str, home: Path, kept: Mapping[str, object] | None, version: int) -> str | None:
    """What is to be done where a part's results and its version do not fit together, or None.

    Args:
        home: an empty folder; kept: the part's `version` and `results` in identity.json; version: now.
    """
    rewrite = "run `python -m tests.golden.identity` and commit identity.json"
    if kept is None:
        return f"{part}: there are no golden results; {rewrite}"
    if kept["version"] != version:
        return f"{part}: its version is {version}, the golden results are of {kept['version']}; {rewrite}"
    different = _different(kept["results"], COMPUTE[part](home), TOLERANCE.get(part, EXACT))
    if different:
        return (
            f"{part}: the results changed ({', '.join(different)}), and cached ones would still be found. If "
            f"that is meant, raise PARTS['{part}'].version in qmoe_core/runtime/identity.py, then {rewrite}"
        )
    return None


def _different(kept: object, now: Results, tolerance: float) -> list[str]:
    assert isinstance(kept, dict)
    found = sorted(kept.keys() ^ now.keys())
    for name in kept.keys() & now.keys():
        old, new = np.array(kept[name], float), np.asarray(now[name], float)
        if old.shape != new.shape or np.abs(old - new).max() > tolerance * max(np.abs(old).max(), 1e-3):
            found.append(name)
    return found


def main() -> None:
    document = {}
    for part, compute in COMPUTE.items():
        with tempfile.TemporaryDirectory() as home:
            results = compute(Path(home))
        rounded = {name: np.round(np.asarray(value, float), 7).tolist() for name, value in results.items()}
        document[part] = {"version": PARTS[part].version, "results": rounded}
    KEPT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"{KEPT}: {', '.join(document)}")


if __name__ == "__main__":
    main()
