"""`qmoe reproduce`: train what is missing, measure, and write the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec

from qmoe_core import __version__, bundles, datasets, embedders
from qmoe_core.config import Config, fingerprint, load, to_dict
from qmoe_core.datasets.manifest import Manifest
from qmoe_core.embedders import logmel_stats
from qmoe_core.embedders.embed import embed_dataset
from qmoe_core.embedders.models import ARCHITECTURES
from qmoe_core.engine import from_tensors
from qmoe_core.errors import ConfigError
from qmoe_core.experts.spec import NAMES
from qmoe_core.measure import environment
from qmoe_core.numbers import listed, signed
from qmoe_core.paper.report import (
    accuracy,
    appendix,
    code_files,
    contents,
    cost_tables,
    costs,
    curiosity,
    inference,
    mixtures,
    operations,
    printed,
    protocols,
    roc,
    ternary,
    writing,
)
from qmoe_core.paper.report.costs import Effort, Loaded, Served
from qmoe_core.paper.report.document import ReportDocument, Section
from qmoe_core.paper.report.progress import WholeRun, work_of
from qmoe_core.paper.report.protocols import Scores, Trial
from qmoe_core.paper.report.study import (
    MIXTURES,
    YARDSTICK,
    Study,
)
from qmoe_core.runtime.executor import Context, Progress, silent
from qmoe_core.runtime.identity import described
from qmoe_core.runtime.store import Store
from qmoe_core.training import crossval
from qmoe_core.training.crossval import Subject
from qmoe_core.training.run import seeds_of

Preset = Literal["lab", "paper-code"]
PRESETS: tuple[Preset, ...] = ("lab", "paper-code")

FULL_DATASET = "esc10"
FULL_SEEDS = 3
IN_BOTH = ("fp32", "q4", "q8", "bitnet", "ptq8")
"""What a quick report trains under the leaky protocol."""
CHANGED_ALONE = ("fp32", "q4", "bitnet")
"""What is trained with only the folds, or only the choice of the epoch, changed."""
OF_THE_CODE = tuple(name for name in NAMES if name != "popcount")
"""The paper's code has no popcount model that learns (claim 16)."""
LEFT_OUT = (
    "one seed instead of three",
    "the sound figures are the shipped bundle's out-of-fold outputs, its mixtures sharing the bundle's one "
    "router",
    f"the leaky protocol for {listed(IN_BOTH)} alone, without mixtures",
    "the two parts of the leak",
    "mixtures trained jointly with their experts, as the paper's code does",
    "half as many timed calls, one process for each peak of memory",
    "energy by blocks: time × the power of one block stands in its place",
)


@dataclass(frozen=True)
class ReproductionPlan:
    """What is asked for; see `reproduce`."""

    quick: bool
    preset: Preset
    config: Config
    seeds: tuple[int, ...]
    effort: Effort

    def evaluated(self, protocol: str, selection: str) -> Config:
        """The configuration under another protocol."""
        evaluation = msgspec.structs.replace(self.config.evaluation, protocol=protocol, selection=selection)
        return msgspec.structs.replace(self.config, evaluation=evaluation)

    def trials(self, subject: Subject) -> dict[str, Trial]:
        """What is trained on a dataset, by name."""
        sound = "grouped" if subject.folds is None else "official"
        leaky = IN_BOTH if self.quick else NAMES
        code = load("paper-code")
        if self.quick:
            code = msgspec.structs.replace(code, moe_training="compose")
        of_code = MIXTURES if self.preset == "paper-code" or not self.quick else ()
        made = [
            Trial("sound", self.evaluated(sound, "inner-validation"), NAMES, MIXTURES, self.seeds),
            Trial(
                "leaky",
                self.evaluated("random", "best-on-test"),
                leaky,
                () if self.quick else MIXTURES,
                self.seeds,
            ),
            Trial("paper-code", code, OF_THE_CODE, of_code, self.seeds),
        ]
        if not self.quick:
            changed = (("folds", "random", "inner-validation"), ("epoch", sound, "best-on-test"))
            made += [
                Trial(name, self.evaluated(folds, selection), CHANGED_ALONE, (), self.seeds)
                for name, folds, selection in changed
            ]
        return {trial.name: trial for trial in made}


def reproduce(
    out: Path | str,
    *,
    names: Sequence[str] = (),
    quick: bool = False,
    preset: Preset = "lab",
    embedder: str = "logmel-stats",
    weights: str | None = None,
    config: Config | None = None,
    seeds: int | None = None,
    workers: int = 0,
    fresh: bool = False,
    effort: Effort | None = None,
    published: Path | str | None = None,
    store: Store | None = None,
    progress: Callable[[str], Progress] = silent,
    cancelled: Callable[[], bool] | None = None,
) -> ReportDocument:
    """Train what is missing, measure what is missing, and write a report.

    Args:
        out: the report's folder: complete, or not there; an older report in it is replaced.
        names: datasets (folders or names). None: `esc10`; with `quick` the shipped bundle's own clips, for
            which no recordings are needed.
        quick: leave out what takes long (`LEFT_OUT`).
        preset: what the tables are of: `lab`, or the paper code's training and protocol (`paper-code`).
        embedder, weights: as `embedders.for_dataset`.
        config: training settings of the lab; its protocol is not used.
        seeds: how many; 3, with `quick` 1.
        workers: processes that train; 0 is one for each core.
        fresh: measure again what is kept.
        effort: how long to measure.
        published: folder with the result files of the paper's code, to check the printed values against.
        progress: makes a progress display from a title; cancelled: asked between tasks.

    Raises:
        UserError: in words. Cancelled: what was finished is kept in the store, and nothing is written.
    """
    folder = Path(out)
    writing.refuse_other_folders(folder)
    if preset not in PRESETS:
        raise ConfigError(f"--preset {preset}: accepted is {', '.join(PRESETS)}")
    config = config or Config()
    count = seeds if seeds is not None else 1 if quick else FULL_SEEDS
    numbers = tuple(seeds_of(config, count))
    plan = ReproductionPlan(quick, preset, config, numbers, effort or (costs.QUICK if quick else Effort()))
    files = printed.published(published)
    context = Context(store or Store(), progress=progress, cancelled=cancelled).with_workers(workers)
    if quick and not names:
        studies = [_of_bundle(bundles.load(), plan, context, fresh)]
    else:
        studies = _of_datasets(_opened(names or (FULL_DATASET,), embedder, weights), plan, context, fresh)
    report = assemble(studies, plan, costs.sizes(NAMES, context.store, fresh=fresh), files)
    writing.write(report, folder)
    return report


Opened = Sequence[tuple[Manifest, embedders.Embedder]]
"""Datasets, and what embeds each."""


def _opened(names: Sequence[str], embedder: str, weights: str | None) -> Opened:
    """All datasets and their embedders, before anything is computed on the first.

    Raises:
        UserError: one that is not there, or does not go with the embedder; two of one name.
    """
    found = [datasets.open_dataset(name) for name in names]
    if len({manifest.name for manifest in found}) < len(found):
        raise ConfigError(f"--dataset: {listed([m.name for m in found])}: a dataset is given twice")
    return [(manifest, _embedder_of(manifest, embedder, weights)) for manifest in found]


def _embedder_of(manifest: Manifest, name: str, weights: str | None) -> embedders.Embedder:
    """The embedder that is asked for; statistics of pictures where that one takes sounds alone."""
    if manifest.media == "pictures" and name.partition(":")[0] in ARCHITECTURES:
        name, weights = logmel_stats.NAME, None
    return embedders.for_dataset(manifest, name, weights=weights)


def _of_datasets(opened: Opened, plan: ReproductionPlan, context: Context, fresh: bool) -> list[Study]:
    """Embed all, train trial by trial, then measure; folds that cannot be made are found before the first."""
    subjects = [
        Subject.of(
            manifest, made.id, embed_dataset(manifest, made, context, title=f"embedding {manifest.name}")
        )
        for manifest, made in opened
    ]
    planned = [plan.trials(subject) for subject in subjects]
    steps = [(place, name) for name in planned[0] for place in range(len(subjects))]
    work = {
        (subjects[place].name, name): work_of(planned[place][name], subjects[place]) for place, name in steps
    }
    whole = WholeRun(context.progress, work, len(subjects))
    told = replace(context, progress=whole.progress)
    trained: list[dict[str, Scores]] = [{} for _ in subjects]
    for place, name in steps:  # what the tables are of comes first, on all of them
        whole.begin(subjects[place].name, name)
        trained[place][name] = protocols.train(planned[place][name], subjects[place], told)
    studies = []
    for place, subject in enumerate(subjects):
        whole.begin(subject.name, "costs")
        made = opened[place][1]
        timed = made.name if made.takes == "waveforms" else None
        served = _served(planned[place]["sound"], subject, context.store, timed)
        studies.append(_study(trained[place], planned[place], subject, served, plan, told, fresh))
        whole.measured()
    return studies


def _of_bundle(loaded: bundles.Bundle, plan: ReproductionPlan, context: Context, fresh: bool) -> Study:
    """The shipped clips: sound figures are there already, only the others are trained."""
    subject = protocols.subject_of(loaded)
    trials = plan.trials(subject)
    data = loaded.dataset
    assert data is not None

    def load_served() -> Loaded:
        return Loaded(
            {name: loaded.weights(name) for name in NAMES},
            loaded.standardise(data.embeddings),
            dict.fromkeys(MIXTURES, loaded.router),
        )

    served = Served(
        loaded.digest,
        f"The bundle {loaded.name}, on its own {len(data.labels)} clips",
        load_served,
        None if loaded.embedder.startswith("imported-") else loaded.embedder,
    )
    trained = {
        name: protocols.as_judged(trial, loaded, subject)
        if name == "sound"
        else protocols.train(trial, subject, context)
        for name, trial in trials.items()
    }
    return _study(trained, trials, subject, served, plan, context, fresh)


def _served(trial: Trial, subject: Subject, store: Store, embedder: str | None) -> Served:
    """The experts and routers of the first fold, and the clips that it tests."""
    tasks = crossval.tasks_of(subject, trial.experts, trial.config, trial.seeds[:1])
    first = tasks[0].split.fold.name
    tasks = [task for task in tasks if task.split.fold.name == first]

    def load_served() -> Loaded:
        from qmoe_core.training.fit import Scaler

        results = crossval.train_experts(
            subject, crossval.with_sources(trial.experts), trial.config, trial.seeds[:1], Context(store)
        )
        results = [result for result in results if result.split.fold.name == first]
        entries = {task.expert: store.get(crossval.KIND, task.key) for task in tasks}
        weights = {
            name: from_tensors(entry.tensors, {"name": name}, "refit.")
            for name, entry in entries.items()
            if entry is not None
        }
        split = results[0].split
        scaler = Scaler.of(subject.embeddings[split.fold.train])
        routers = {
            names: next(iter(crossval.compose(subject, results, names, trial.config, store))).router
            for names in trial.mixtures
        }
        return Loaded(weights, scaler(subject.embeddings[split.fold.test]), routers)

    address = fingerprint([[task.key for task in tasks], [list(names) for names in trial.mixtures]])
    words = (
        f"Experts and routers of {subject.name}, {first}, on its {len(tasks[0].split.fold.test)} test clips"
    )
    return Served(address, words, load_served, embedder)


def _study(
    trained: Mapping[str, Scores],
    trials: Mapping[str, Trial],
    subject: Subject,
    served: Served,
    plan: ReproductionPlan,
    context: Context,
    fresh: bool,
) -> Study:
    """What was trained on a dataset, with what it costs."""
    return Study(
        sound=trained["sound"],
        leaky=trained["leaky"],
        between={name: trained[name] for name in ("folds", "epoch") if name in trained},
        code=trained["paper-code"],
        code_ternary=ternary.train(trials["paper-code"], subject, context),
        tables=trained["sound" if plan.preset == "lab" else "paper-code"],
        costs=costs.measure(served, plan.effort, context, fresh=fresh),
        embedder=subject.embedder_id,
        dim=subject.embeddings.shape[1],
        path=served.embedder,
    )


def assemble(
    studies: Sequence[Study],
    plan: ReproductionPlan,
    sizes: costs.Sizes,
    files: printed.Published,
) -> ReportDocument:
    """The report from finished studies, in the order of the paper.

    Args:
        files: what the published result files say, where they are at hand.
    """
    config = plan.config
    alpha = config.router.alpha
    question = mixtures.question(studies)
    sections = [
        contents.equations(studies, alpha),
        _methods(studies, plan),
        accuracy.table_1(studies),
        question,
        accuracy.protocols(studies),
        *(accuracy.code_on_statistics(study) for study in studies[:1]),
        roc.section(studies),
        accuracy.table_2(studies),
        curiosity.table_3(studies, alpha),
        mixtures.alphas(studies),
        curiosity.curiosity(studies, alpha),
        code_files.routing(studies),
        appendix.scenarios(studies, "§5.3"),
        cost_tables.table_4(studies),
        operations.section(studies, config.expert.hidden, config.router.hidden),
        appendix.scenarios(studies, "§5.4"),
        inference.table_5(studies),
        cost_tables.table_6(studies),
        appendix.emissions(studies),
        appendix.recommendations(studies),
        cost_tables.table_7(sizes),
        appendix.sizes_and_costs(studies, sizes),
        printed.section(studies, sizes, files),
    ]
    where = listed([study.name for study in studies])
    return ReportDocument(
        f"The paper’s tables, from our runs on {where}",
        (*_summary(studies), *question.paragraphs[:-1]),
        (contents.contents(sections), *sections),
        {
            "qmoe": __version__,
            "code": described("report"),
            "quick": plan.quick,
            "preset": plan.preset,
            "seeds": list(plan.seeds),
            "config": to_dict(plan.config),
            "embedder": {study.name: study.embedder for study in studies},
            "machine": environment.identity(),
        },
    )


def _summary(studies: Sequence[Study]) -> Iterable[str]:
    found = accuracy.summary(studies)
    study = studies[0]
    q4, fp32 = study.costs.rows["q4"]["p50_us"], study.costs.rows[YARDSTICK]["p50_us"]
    yield (
        "“Uncertainty Makes It Stable: Curiosity-Driven Quantized Mixture-of-Experts” (arXiv 2511.11743), "
        f"Tables 1 to 7, computed again from runs of this lab. On {study.name} ({study.tables.protocol}), "
        f"FP32-Base has a weighted F1 of {found['f1_fp32']:.3f}; the 4-bit expert keeps "
        f"{100 * found['share_q4']:.1f} % of the 16-bit one's and takes {q4:.1f} µs a clip against "
        f"{fp32:.1f} µs."
    )
    yield (
        "Random folds and the best epoch on the test fold, as in the paper's code, add "
        f"{signed(found['leak'])} to the F1 of the same network (95 % interval {signed(found['leak_low'])} "
        f"to {signed(found['leak_high'])}). Each section has our table with the paper's printed one beside "
        "it; the paper's names stand first, ours second."
    )


def _embeddings(studies: Sequence[Study]) -> str:
    """What the experts are trained on; of which dataset, where they differ."""
    names = {f"{study.embedder} ({study.dim:,} numbers a clip)": study.name for study in studies}
    if len(names) == 1:
        return next(iter(names))
    return listed([f"{name} for {dataset}" for name, dataset in names.items()])


def _methods(studies: Sequence[Study], plan: ReproductionPlan) -> Section:
    study = studies[0]
    config = study.tables
    expert = plan.config.expert
    text = [
        f"Embeddings are {_embeddings(studies)}; a "
        f"multilayer perceptron ({'–'.join(map(str, expert.hidden))}, LayerNorm, ReLU, dropout "
        f"{expert.dropout}) is trained in every numeric format with class-weighted cross-entropy and AdamW. "
        + "; ".join(
            f"{s.name} has {len(s.tables.labels):,} clips of {len(set(s.tables.sources)):,} recordings in "
            f"{len(s.tables.classes)} classes"
            for s in studies
        )
        + ".",
        f"The tables are of {config.protocol} (preset {plan.preset}), seed(s) "
        f"{listed([str(s) for s in plan.seeds])}. With inner validation the epoch is chosen on a part of the "
        "training clips, the expert is trained again on all of them, and the test fold is looked at once.",
        f"Times are of one thread on {study.costs.environment['processor']}, "
        f"{study.costs.environment['cores']} cores"
        + (", a virtual machine" if study.costs.environment["virtual_machine"] else "")
        + f"; energy and carbon are {study.costs.source}"
        + (
            " (there is no energy meter here; power is a constant that is guessed from the processor's name)"
            if study.costs.source == "modelled"
            else ""
        )
        + ". Each table says the rest.",
    ]
    if plan.quick:
        text.append(
            "This is the quick form. It leaves out: "
            + "; ".join(LEFT_OUT)
            + ". The full form is qmoe reproduce without --quick."
        )
    return Section("methods", "How this was made", tuple(text))
