"""What can be asked for, by a command or as a job: typed, immutable, and the same JSON on disk.

A command makes the request from its options, a page from its controls; both run it with `run`. What a request
needs (torch, the datasets) is imported when it is checked or run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec
import numpy as np

from qmoe_core.config import Config
from qmoe_core.experts.spec import NAMES, parse_names
from qmoe_core.runtime.executor import Context

if TYPE_CHECKING:
    from qmoe_core.datasets import Manifest
    from qmoe_core.embedders import Embedder
    from qmoe_core.evaluation.ood import HeldOut
    from qmoe_core.measure.bench import BenchReport
    from qmoe_core.paper.claims import Finding
    from qmoe_core.training.crossval import Subject
    from qmoe_core.training.run import TrainingReport

DEFAULT_MIXTURE = ("bitnet", "q4", "q8")


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="what"):
    """What is to be done."""

    def checked(self) -> Self:
        """The request with full paths.

        Raises:
            UserError: it cannot work.
        """
        return self


class _OnDataset(_Request, frozen=True, kw_only=True):
    """What trains on a dataset.

    Attributes:
        dataset: folder or name; embedder, weights: as in `embedders.for_dataset`.
        experts: names; config: settings, by default the paper's.
        perturb: changed copies of each clip to train on too, see `training.perturbed`.
        workers: processes; 0 is one for each core.
    """

    dataset: str
    embedder: str = "logmel-stats"
    weights: str | None = None
    experts: tuple[str, ...] = NAMES
    config: Config = Config()
    perturb: int = 0
    workers: int = 0

    def subject(self, embedder_id: str = "not embedded") -> tuple[Subject, Manifest]:
        """The dataset as far as it is known before it is embedded."""
        from qmoe_core import datasets
        from qmoe_core.training import perturbed
        from qmoe_core.training.crossval import Subject

        manifest = datasets.open_dataset(self.dataset)
        perturbed.check(manifest, self.perturb)
        subject = Subject.of(manifest, embedder_id, np.empty((len(manifest), 0), np.float32))
        copies = np.empty((self.perturb, len(manifest), 0), np.float16) if self.perturb else None
        return replace(subject, copies=copies), manifest

    def checked(self) -> Self:
        from qmoe_core.training import crossval

        parse_names(self.experts)
        crossval.splits_of(self.trained_on(self.subject()[0]), self.config, [self.config.seed])
        folder = Path(self.dataset).expanduser()
        # The job may run elsewhere.
        return msgspec.structs.replace(self, dataset=str(folder.resolve())) if folder.is_dir() else self

    def trained_on(self, subject: Subject) -> Subject:
        """The part of the dataset that experts are trained on."""
        return subject

    def embedded(self, context: Context) -> tuple[Subject, Manifest, Embedder]:
        """The dataset, embedded (or found in the store), and what embedded it."""
        from qmoe_core import datasets, embedders

        manifest = datasets.open_dataset(self.dataset)
        made = embedders.for_dataset(manifest, self.embedder, weights=self.weights)
        return self.embedded_by(made, manifest, context), manifest, made

    def embedded_by(self, embedder: Embedder, manifest: Manifest, context: Context) -> Subject:
        """The dataset as one embedder gives it, with the changed copies that are asked for."""
        from qmoe_core.embedders.embed import embed_dataset
        from qmoe_core.training import perturbed
        from qmoe_core.training.crossval import Subject

        perturbed.check(manifest, self.perturb)
        subject = Subject.of(manifest, embedder.id, embed_dataset(manifest, embedder, context))
        if not self.perturb:
            return subject
        return replace(subject, copies=perturbed.copies(manifest, embedder, self.perturb, context))


class Train(_OnDataset, frozen=True, kw_only=True, tag="train"):
    """Train and evaluate.

    Attributes:
        further: embedders beside `embedder`; see `training.behind.resolve`.
        mixtures: lists of experts; where a bundle is written and none is given, bitnet, q4 and q8 as far as
            they are among the experts.
        seeds: how many, counted from `config.seed`.
        bundle: name or folder of a bundle to write.
        scheduler: see `dask_cluster.connected`.
    """

    further: tuple[str, ...] = ()
    mixtures: tuple[tuple[str, ...], ...] = ()
    seeds: int = 1
    bundle: str | None = None
    scheduler: str | None = None

    @property
    def embedders(self) -> tuple[str, ...]:
        """All that are asked for."""
        return (self.embedder, *self.further)

    def __str__(self) -> str:
        what = "all experts" if set(self.experts) == set(NAMES) else ", ".join(self.experts)
        return f"Train {what} on {Path(self.dataset).name}"

    def checked(self) -> Self:
        from qmoe_core import bundles
        from qmoe_core.runtime import dask_cluster
        from qmoe_core.training import run

        for names in self.mixtures:
            parse_names(names, setting="mixture")
        run.experts_of(self)
        if self.bundle is not None:
            bundles.destination(self.bundle)
        if self.scheduler is not None:
            dask_cluster.check_address(self.scheduler)
        return super().checked()

    def run(self, context: Context) -> TrainingReport:
        """As `training.run.train`, which says what it raises."""
        from qmoe_core.runtime import dask_cluster
        from qmoe_core.training import run

        with dask_cluster.connected(self.scheduler):
            return run.train(self, context.with_workers(self.workers))


class HoldOut(_OnDataset, frozen=True, kw_only=True, tag="hold-out"):
    """Leave classes out and see whether the uncertainty notices."""

    held_out: tuple[str, ...]
    experts: tuple[str, ...] = DEFAULT_MIXTURE

    def __str__(self) -> str:
        return f"Hold {', '.join(self.held_out)} out of {Path(self.dataset).name}"

    def trained_on(self, subject: Subject) -> Subject:
        from qmoe_core.evaluation import ood

        return ood.without(subject, self.held_out)[0]

    def run(self, context: Context) -> HeldOut:
        """As `evaluation.ood.hold_out`, after embedding."""
        from qmoe_core.evaluation import ood

        context = context.with_workers(self.workers)
        subject, _, _ = self.embedded(context)
        title = f"training without {', '.join(self.held_out)}"
        return ood.hold_out(subject, self.held_out, self.experts, self.config, context, title)


class Bench(_Request, frozen=True, kw_only=True, tag="bench"):
    """Measure this machine.

    Attributes:
        bundle: measure a bundle's own experts; else random weights of `shape` (D, hidden
            sizes, C; None is the paper's).
        n: timed calls of each (latency); batch: embeddings a call; cold: empty the caches before each;
            peers: also other runtimes, else only torch.
        repetitions, block_s, country: of energy, see `energy.run_blocks`.
        per_day: inferences a day of the deployment that is compared with training.
        embedders: whose whole paths are timed (path), see `measure.path.EMBEDDERS`.
    """

    measure: Literal["latency", "path", "energy", "memory", "size"]
    bundle: str | None = None
    experts: tuple[str, ...] = NAMES
    shape: tuple[int, ...] | None = None
    n: int = 2000
    batch: int = 1
    cold: bool = False
    peers: bool = True
    repetitions: int = 3
    block_s: float = 10.0
    country: str = "FRA"
    per_day: float = 1e6
    embedders: tuple[str, ...] = ("ds-cnn", "logmel-stats")

    def __str__(self) -> str:
        return f"Measure {self.measure}"

    def checked(self) -> Self:
        from qmoe_core import bundles

        parse_names(self.experts)
        if self.bundle is not None:
            bundles.find(self.bundle)
        return self

    def run(self, context: Context) -> BenchReport:
        """As `measure.bench.run`; the report is kept for the pages."""
        from qmoe_core.measure import bench

        report = bench.run(self, context)
        bench.keep(report, context.store)
        return report


class Claims(_Request, frozen=True, kw_only=True, tag="claims"):
    """Put claims of the paper to the test; `only` as in `paper.claims.run`."""

    only: tuple[int, ...] | None = None

    def __str__(self) -> str:
        if self.only is None:
            return "Check all claims"
        return f"Check claim {self.only[0]}" if len(self.only) == 1 else f"Check {len(self.only)} claims"

    def run(self, context: Context) -> list[Finding]:
        """As `paper.claims.run`."""
        from qmoe_core.paper import claims

        found = claims.run(
            self.only, context.store, progress=context.progress("claims"), cancelled=context.cancelled
        )
        return list(found)


Request = Train | HoldOut | Bench | Claims


def document(request: Request, context: Context) -> dict[str, Any]:
    """Run a request; what it found, as the command that does the same prints it with `--json`."""
    if isinstance(request, Claims):
        return {"claims": [finding.to_json() for finding in request.run(context)]}
    if isinstance(request, HoldOut):
        from qmoe_core.evaluation import ood

        return ood.report(request.run(context)).to_json()
    return request.run(context).to_json()
