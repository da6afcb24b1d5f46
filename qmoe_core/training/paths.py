"""F1 of whole paths on data sets, and the files of those worth carrying: what `qmoe sweep paths` makes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from qmoe_core import datasets, embedders
from qmoe_core.audio.decode import WINDOW_S
from qmoe_core.bundles.bundling import FinalTask, run_final, summary
from qmoe_core.bundles.export import path_file
from qmoe_core.config import Config
from qmoe_core.embedders import models
from qmoe_core.embedders.embed import embed_dataset
from qmoe_core.embedders.learned import LearnedEmbedder
from qmoe_core.engine import network_storage, storage
from qmoe_core.engine.packed_network import PackedNetwork
from qmoe_core.errors import ConfigError
from qmoe_core.evaluation import boards, layers
from qmoe_core.evaluation.boards import Score
from qmoe_core.experts.spec import NAMES
from qmoe_core.runtime.executor import Context
from qmoe_core.training import crossval
from qmoe_core.training.fit import Scaler


def sweep(
    names: Sequence[str],
    made_of: Sequence[str],
    experts: Sequence[str],
    config: Config,
    seeds: Sequence[int],
    context: Context,
    folder: Path | None = None,
) -> list[boards.Path]:
    """Cross-validate every head on every embedder.

    Args:
        names: data sets; files are trained on the first.
        made_of: embedders, networks of ours in formats, such as `ds-cnn:q4`.
        experts: formats of the heads.
        folder: gets the figures, and the files of paths that no smaller one equals in mean F1; such files
            of an earlier sweep are removed.

    Raises:
        UserError: a data set or embedder that cannot be had, or that has no network.
        Cancelled: what was trained is kept in the store.
    """
    manifests = [datasets.open_dataset(name) for name in names]
    found: list[boards.Path] = []
    files: dict[str, bytes] = {}
    heads: dict[str, path_file.PathFile] = {}
    for name in made_of:
        embedder = embedders.create(name)
        if not isinstance(embedder, LearnedEmbedder):
            raise ConfigError(f"--embedder {name}: has no network; accepted are ds-cnn and mn04 in a format")
        f1: dict[str, dict[str, Score]] = {expert: {} for expert in experts}
        for manifest in manifests:
            subject = crossval.Subject.of(manifest, embedder.id, embed_dataset(manifest, embedder, context))
            results = crossval.train_experts(
                subject, experts, config, seeds, context, f"{name}, {manifest.name}"
            )
            for expert in experts:
                figures = summary([result.f1 for result in results if result.expert == expert])
                f1[expert][manifest.name] = Score(figures["mean"], figures["std"], int(figures["n"]))
            if manifest is manifests[0]:
                heads = {
                    expert: _carried(embedder, subject, expert, results, config, context)
                    for expert in experts
                }
        for expert, whole in heads.items():
            path = _described(embedder, whole, f1[expert])
            found.append(path)
            files[path.name] = path_file.dumps(whole)
    found = _marked(found)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for before in folder.glob("*.path"):
            before.unlink()
        for path in found:
            if path.file:
                (folder / path.file).write_bytes(files[path.name])
        (folder / boards.FIGURES).write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
    return found


def _marked(found: Sequence[boards.Path]) -> list[boards.Path]:
    """The smallest first, with a file for those that no smaller one equals in mean F1."""
    best, marked = -1.0, []
    for path in sorted(found, key=lambda path: (path.bytes, -path.mean_f1)):
        worth = round(path.mean_f1, 3) > best
        best = max(best, round(path.mean_f1, 3))
        marked.append(msgspec.structs.replace(path, file=f"{path.name}.path" if worth else ""))
    return marked


def sweep_layers(
    dataset: str,
    name: str,
    context: Context,
    *,
    most_bytes: float | None = None,
    most_us: float | None = None,
    keep: str | None = None,
) -> tuple[layers.LayerSweep, str]:
    """`evaluation.layers.sweep` of an embedder on a data set with folds, by float heads trained on them.

    Args:
        name: `ds-cnn` or `mn04`; keep: the chosen mix becomes the embedder `name:keep`.

    Returns:
        What was found, and where the mix was kept, for a sentence's end.

    Raises:
        UserError: no such data set or embedder; a name that is one of a format.
        Cancelled: heads that were trained are kept in the store.
    """
    if keep is not None and (keep in NAMES or not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", keep)):
        raise ConfigError(f"--keep {keep}: accepted is a name of small letters and digits, no format's")
    manifest, embedder = datasets.open_dataset(dataset), embedders.create(name)
    if not isinstance(embedder, LearnedEmbedder) or embedder.network.input is not None:
        raise ConfigError(f"--embedder {name}: accepted are ds-cnn and mn04, in float")
    config = Config()
    subject = crossval.Subject.of(manifest, embedder.id, embed_dataset(manifest, embedder, context))
    results = crossval.train_experts(subject, ("fp32",), config, [config.seed], context)
    judge = layers.judge_of(manifest, embedder, layers.heads_of(subject, results, config, context))
    found, network = layers.sweep(judge, manifest.name, context, most_bytes=most_bytes, most_us=most_us)
    if keep is None or network is None:
        return found, ""
    return found, f"; kept as {name}:{keep}, {models.keep_quantized(network, keep, None)}"


def _carried(
    embedder: LearnedEmbedder,
    subject: crossval.Subject,
    expert: str,
    results: Sequence[crossval.FoldResult],
    config: Config,
    context: Context,
) -> path_file.PathFile:
    """The path with a head that was trained on all clips."""
    epochs = round(float(np.median([result.epochs for result in results if result.expert == expert])))
    head = run_final(FinalTask(subject, expert, epochs, epochs, config), context.store.address)
    scaler = Scaler.of(subject.embeddings)
    return path_file.PathFile(embedder.network, head, scaler.mean, scaler.std, subject.classes)


def _described(embedder: LearnedEmbedder, whole: path_file.PathFile, f1: dict[str, Score]) -> boards.Path:
    samples = round(WINDOW_S * embedder.sample_rate)
    levels = embedder.front_end.levels(np.zeros(samples, np.float32))
    scratch = PackedNetwork(whole.network).workspace_bytes(levels.shape[-1])
    return boards.Path(
        embedder=embedder.name,
        embedder_id=embedder.id,
        head=whole.head.name,
        embedder_bytes=len(network_storage.dumps(whole.network)),
        head_bytes=len(storage.dump("qmoe-expert", whole.head.name, storage.to_tensors(whole.head))),
        memory_bytes=scratch + levels.nbytes + boards.SAMPLES_BYTES * samples,
        f1=f1,
    )
