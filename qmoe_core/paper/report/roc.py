"""ROC curves, as the paper's code draws them for every fold: how well each class is told from all others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qmoe_core.evaluation.selective import auroc
from qmoe_core.numbers import listed
from qmoe_core.paper.report import charts
from qmoe_core.paper.report.curiosity import SHOWN, slug
from qmoe_core.paper.report.document import Figure, ReportTable, Section, Value, columns_of
from qmoe_core.paper.report.mixtures import by_alpha
from qmoe_core.paper.report.protocols import Scores
from qmoe_core.paper.report.study import MODELS, YARDSTICK, Study, has, runs_of, spread
from qmoe_core.routing.uncertainty import softmax

DRAWN = (YARDSTICK, "bitnet", SHOWN)
POINTS = 101


def probabilities(scores: Scores, name: str) -> np.ndarray | None:
    """Class distributions of an expert or a mixture without curiosity, [S, n, C]; None where none is kept."""
    if name in scores.mixed:
        return by_alpha(scores, name, (0.0,))[0].probabilities
    return softmax(scores.logits[name]) if name in scores.logits else None


def areas(scores: Scores, q: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of every class against all others, of each seed and fold, [S × F, C].

    NaN for a class that a fold has no clips of, or nothing else.
    """
    found = []
    for of_seed, own in zip(q, scores.folds, strict=True):
        for fold in np.unique(own):
            tested = own == fold
            actual = scores.labels[tested]
            row = []
            for label in range(len(scores.classes)):
                positive = actual == label
                mixed = 0 < positive.sum() < positive.size
                row.append(auroc(of_seed[tested, label], positive) if mixed else np.nan)
            found.append(row)
    return np.array(found)


def curve(scores: Scores, q: np.ndarray, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates over all pairs of clip and class, of all folds and seeds, [points]."""
    from sklearn.metrics import roc_curve

    actual = np.arange(len(scores.classes)) == scores.labels[:, None]
    wrong, right, _ = roc_curve(np.broadcast_to(actual, q.shape).ravel(), q.ravel())
    at = np.linspace(0.0, 1.0, points) ** 3  # most happens where few are wrong
    return at, np.interp(at, wrong, right)


def section(studies: Sequence[Study]) -> Section:
    """Areas under the curve of every model and class, and curves of three models on every dataset."""
    rows: list[tuple[Value, ...]] = []
    classes: list[tuple[Value, ...]] = []
    figures: list[Figure] = []
    text: list[str] = []
    for study in studies:
        scores = study.tables
        told = {model.ours: q for model in MODELS if has(study, model)
                if (q := probabilities(scores, model.ours)) is not None}  # fmt: skip
        of_class = {name: areas(scores, q) for name, q in told.items()}
        for model in (model for model in MODELS if model.ours in told):
            macro = spread(np.nanmean(of_class[model.ours], axis=1))
            rows.append((model.paper, model.ours, study.name, macro))
        drawn = [name for name in DRAWN if name in told]
        for place, name in enumerate(scores.classes):
            mean = [float(np.nanmean(of_class[one][:, place])) for one in drawn]
            classes.append((name, study.name, *mean, *[None] * (len(DRAWN) - len(mean))))
        figures.append(_figure(study, {name: curve(scores, told[name]) for name in drawn}))
        worst = int(np.nanargmin(np.nanmean(of_class[YARDSTICK], axis=0)))
        text.append(
            f"On {study.name} the mean area under the ROC curve over classes is "
            + listed([f"{np.nanmean(of_class[name]):.3f} for {name}" for name in drawn])
            + f"; the class that {YARDSTICK} tells worst is {scores.classes[worst]} "
            f"({np.nanmean(of_class[YARDSTICK][:, worst]):.3f})."
        )
    note = (
        "Each class against all others on the clips of a fold, averaged over classes: mean ± deviation over "
        "folds and seeds. Mixtures without curiosity. " + "; ".join(runs_of(s.tables) for s in studies)
    )
    return Section(
        "roc",
        "ROC curves",
        tuple(text),
        ReportTable(
            "roc", "Area under the ROC curve", columns_of("Model; Here; Dataset; AUROC"), tuple(rows), note
        ),
        more=(
            ReportTable(
                "roc-classes",
                "The same by class",
                columns_of("Class; Dataset; " + "; ".join(DRAWN)),
                tuple(classes),
            ),
        ),
        figures=tuple(figures),
    )


def _figure(study: Study, curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    return Figure(
        f"roc-{slug(study.name)}",
        charts.curves(list(curves.values()), "false positive rate", series=list(curves)),
        f"ROC curves on {study.name} over all pairs of clip and class, out of fold; the vertical axis is the "
        "true positive rate.",
    )
