"""`qmoe sweep uncertainty` and `qmoe sweep sets`: does the uncertainty know, and are promises kept?"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from qmoe_core.cli.common import (
    Arguments,
    F,
    ProgressBar,
    command,
    json_option,
    mixing_options,
    mixing_settings,
    needs,
    print_json,
    request_of,
    scheduler_option,
    table,
)

if TYPE_CHECKING:
    from qmoe_core.evaluation.selective import Auroc
    from qmoe_core.runtime.executor import Context
    from qmoe_core.runtime.requests import Train


@command(
    "uncertainty",
    help="how well each uncertainty finds errors and unknown classes, and what limits of doubt keep",
    example="qmoe sweep uncertainty --json",
)
@mixing_options()
@json_option
def uncertainty(arguments: Arguments) -> int:
    from qmoe_core import bundles
    from qmoe_core.evaluation import conformal, ood, selective
    from qmoe_core.evaluation.conformal import Promise

    loaded = bundles.load(arguments.bundle)
    settings = mixing_settings(arguments, loaded)
    errors = selective.finds(loaded, settings) or {}
    held = ood.shipped(loaded.manifest.embedder_id, loaded.classes)
    unknown = ood.together(held) if held else {}
    asked = [Promise(risk=0.05), Promise(risk=0.1), Promise(coverage=0.9), Promise(coverage=0.95)]
    promises = [(one, conformal.kept(loaded, settings, one)) for one in asked]
    if arguments.json:
        kept = [{**asdict(one), **asdict(found)} for one, found in promises if found]
        print_json({"bundle": loaded.name, "errors": errors, "unknown_classes": unknown, "kept": kept})
        return 0
    rows: list[tuple[str, ...]] = [("uncertainty", "AUROC of errors", "95 %", "of unknown classes", "range")]
    for name, found in errors.items():
        other = unknown.get(name)
        more = (f"{other.auroc:.3f}", f"{other.low:.3f}–{other.high:.3f}") if other else ("–", "–")
        rows.append((name, f"{found.auroc:.3f}", f"{found.low:.3f}–{found.high:.3f}", *more))
    print(table(rows))
    head = ("promise", "answered", "wrong of these", "95 %", "sets hold", "95 %", "labels in a set")
    rows = [
        (
            f"risk {one.risk:g}" if one.risk else f"coverage {one.coverage:g}",
            f"{found.answered:.1%}",
            *_interval(found.risk, found.risk_ci95),
            *_interval(found.covered, found.covered_ci95),
            f"{found.size:.2f}",
        )
        for one, found in promises
        if found
    ]
    print("\n" + table([head, *rows]))
    print(
        f"\n{loaded.provenance.clips} clips of {loaded.provenance.dataset}, judged out of fold; limits are "
        "set on other folds than those they are told of; intervals resample recordings. Unknown "
        f"classes: mean, least and largest of {len(held)} sets of classes that were held out."
    )
    return 0


def _interval(value: float, ends: tuple[float, float]) -> tuple[str, str]:
    return f"{value:.1%}", f"{ends[0]:.1%}–{ends[1]:.1%}"


def _training_options(function: F) -> F:
    """A dataset, and what is trained on it (or found in the store)."""
    options = (
        click.argument("dataset", metavar="DATASET"),
        click.option("--embedder", default="logmel-stats", show_default=True, help="as for qmoe embed"),
        click.option("--weights", help="safetensors file for a timm model, or random"),
        click.option("--experts", help="such as q4,q8,bitnet (default: all)"),
        click.option("--moe", multiple=True, metavar="EXPERTS", help="a mixture; may be repeated"),
        click.option("--seeds", type=int, default=3, show_default=True, help="how many"),
        click.option("--workers", type=int, default=0, help="processes (default: one for each core)"),
        click.option("--config", metavar="FILE", help="TOML file"),
        click.option("--set", multiple=True, metavar="KEY=VALUE", help="as for train"),
        scheduler_option,
        json_option,
    )
    for option in reversed(options):
        function = option(function)
    return function


def _training(arguments: Arguments) -> tuple[Train, Context]:
    """What `_training_options` ask for, and where it runs."""
    from qmoe_core.experts.spec import parse_names
    from qmoe_core.runtime.executor import Context
    from qmoe_core.runtime.requests import Train
    from qmoe_core.runtime.store import Store

    needs("torch")
    mixtures = tuple(parse_names(names, setting="--moe") for names in arguments.moe)
    request = request_of(Train, arguments, mixtures=mixtures)
    return request, Context(Store(), progress=ProgressBar).with_workers(request.workers)


@command(
    "sets",
    help="prediction sets of every format: coverage and size over folds and seeds",
    details="DATASET is a folder or name; what was trained before is found in the store.",
    example="qmoe sweep sets esc10 --seeds 3 --moe bitnet,q4,q8",
)
@_training_options
@click.option("--sets", default="threshold", help="threshold or adaptive: how labels join a set")
@click.option("--per-class", is_flag=True, help="sets keep their coverage for every class apart")
def sets(arguments: Arguments) -> int:
    from qmoe_core.evaluation import sets as of_sets
    from qmoe_core.evaluation.conformal import Promise

    request, context = _training(arguments)
    promise = Promise(score=arguments.sets, per_class=arguments.per_class)
    found = of_sets.sets(request, promise, context)
    if arguments.json:
        print_json(
            [
                {"name": one.name, "level": one.level, "inside": one.inside, **asdict(one.kept)}
                for one in found
            ]
        )
        return 0
    rows = [("", "level", "sets hold", "95 %", "inside", "labels in a set")]
    rows += [
        (
            one.name,
            f"{one.level:.0%}",
            *_interval(one.kept.covered, one.kept.covered_ci95),
            "yes" if one.inside else "no",
            f"{one.kept.size:.2f}",
        )
        for one in found
    ]
    print(table(rows))
    print(
        f"\n{found[0].kept.n:,} clips × {request.seeds} seeds; each fold’s sets are set on the others; "
        "intervals resample recordings"
    )
    return 0


@command(
    "noise",
    help="background, rooms, gain, narrow bands, pitch, speed: what is right, and does it know?",
    details="DATASET is a folder or name of recordings; the first 5 s of each are judged.",
    example="qmoe sweep noise esc10 --experts fp32,q4,q1 --seeds 3",
)
@_training_options
@click.option("--risk", type=float, default=0.1, show_default=True, help="that limits promise on clean sound")
@click.option("--clips", type=int, help="only so many, evenly spread (default: all)")
@click.option(
    "--perturb", type=int, default=0, metavar="N", help="also trained with N changed copies, as by train"
)
def noise(arguments: Arguments) -> int:
    from qmoe_core.evaluation import noise as in_noise

    request, context = _training(arguments)
    found = in_noise.noise_sweep(request, arguments.risk, context, arguments.clips)
    if arguments.json:
        print_json(found.to_json())
        return 0
    head = (
        "",
        "",
        "",
        "accuracy",
        "±",
        "ECE",
        "if perfect",
        *in_noise.MEASURES,
        "answered",
        "wrong of these",
    )
    rows = [
        (
            one.kind,
            f"{one.level:g}",
            one.expert + f", {one.copies} copies" * bool(one.copies),
            f"{one.accuracy:.3f}",
            f"{one.accuracy_std:.3f}",
            f"{one.ece:.3f}",
            f"{one.ece_perfect:.3f}",
            *(f"{one.auroc[name][0]:.3f}" if name in one.auroc else "–" for name in in_noise.MEASURES),
            f"{one.answered:.1%}",
            "–" if one.risk_at_threshold is None else f"{one.risk_at_threshold:.1%}",
        )
        for one in found.rows
    ]
    print(table([head, *rows]))
    print(
        f"\n{found.n:,} clips of {found.dataset}, {found.rows[0].runs} runs a cell ({found.protocol} folds × "
        f"{found.seeds} seeds); AUROC of errors; limits promise {found.risk:.0%} errors on clean sound of "
        "other folds, with 95 % confidence."
    )
    return 0


@command(
    "rule",
    help="would a router that learned who is right ask better than a threshold of doubt?",
    details="For a cascade of two experts; bundles are joined as by sweep cascade.",
    example="qmoe sweep rule --bundle esc10-ds-cnn --bundle esc10-mn04 --experts q8,mn04.q8",
)
@click.option("--bundle", multiple=True, help="folder or name; may be repeated (default: the one that ships)")
@click.option("--experts", required=True, help="two, the cheaper one first")
@json_option
def rule(arguments: Arguments) -> int:
    from qmoe_core import bundles
    from qmoe_core.evaluation import cascade, learned_rule

    needs("torch")
    loaded = [bundles.load(name) for name in arguments.bundle or (None,)]
    outputs, data = cascade.joined(loaded)
    experts = tuple(name.strip() for name in arguments.experts.split(",") if name.strip())
    sources = [clip.source for clip in data.clips]
    found = learned_rule.learned_rules(
        data.embeddings, outputs.of(experts), data.labels, data.folds, sources, cascade.costs(loaded)
    )
    if arguments.json:
        print_json(found.to_json())
        return 0
    shares = [f"{name} at {share:.0%}" for share in learned_rule.SHARES for name in ("accuracy", "F1", "ms")]
    rows: list[tuple[str, ...]] = [("", "AUROC of errors", "95 %", "of what is put right", "95 %", *shares)]
    rows += [
        (
            one.name,
            *(cell for found in (one.errors, one.rescued) for cell in _auroc(found)),
            *(
                cell
                for point in one.asking
                for cell in (f"{point.accuracy:.4f}", f"{point.f1:.4f}", f"{point.cost_us / 1e3:.2f}")
            ),
        )
        for one in found.rules
    ]
    print(table(rows))
    (first, second), (low, high) = found.experts, found.accuracy
    print(
        f"\n{found.n:,} clips of {loaded[0].provenance.dataset}, out of fold: {first} alone {low:.4f}, "
        f"{second} alone {high:.4f}; intervals resample recordings"
    )
    return 0


def _auroc(found: Auroc) -> tuple[str, str]:
    return f"{found.auroc:.3f}", f"{found.low:.3f}–{found.high:.3f}"
