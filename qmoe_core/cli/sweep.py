"""`qmoe sweep …`: one setting varied, everything else kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from qmoe_core.cli.common import (
    Arguments,
    LazyGroup,
    ProgressBar,
    cell,
    command,
    find_bundle_option,
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
    from qmoe_core.evaluation.cascade import CascadeSweep

sweep = LazyGroup(
    "sweep",
    help="what α, the bit width or a strange sound does to everything",
    example="qmoe sweep alpha",
    loaded={
        "alpha": "qmoe_core.cli.sweep:alpha",
        "curiosity": "qmoe_core.cli.sweep:curiosity",
        "cascade": "qmoe_core.cli.sweep:cascade",
        "uncertainty": "qmoe_core.cli.promises:uncertainty",
        "sets": "qmoe_core.cli.promises:sets",
        "rule": "qmoe_core.cli.promises:rule",
        "noise": "qmoe_core.cli.promises:noise",
        "bits": "qmoe_core.cli.sweep:bits",
        "ood": "qmoe_core.cli.sweep:held_out",
        "paths": "qmoe_core.cli.sweep:paths",
        "layers": "qmoe_core.cli.sweep:layers",
    },
)


@command(
    "alpha",
    help="α, over out-of-fold predictions; nothing is trained",
    example="qmoe sweep alpha --alphas 0,0.3,10",
)
@mixing_options(one_alpha=False)
@json_option
def alpha(arguments: Arguments) -> int:
    from qmoe_core import bundles
    from qmoe_core.evaluation import sweep

    loaded = bundles.load(arguments.bundle)
    clips = sweep.judged(loaded)
    alphas = sweep.ALPHAS if arguments.alphas is None else sweep.parse_alphas(arguments.alphas)
    settings = mixing_settings(arguments, loaded)
    predicted = loaded.predict_out_of_fold(settings)
    swept = sweep.alpha_sweep(clips.outputs, clips.labels, settings, alphas, predicted)
    if arguments.json:
        print_json({"bundle": loaded.name, **swept.to_json()})
        return 0
    experts = swept.settings.experts
    head = (
        "α",
        "F1",
        "accuracy",
        "ECE",
        "if perfect",
        "epistemic",
        "experts run",
        "route flips",
        "label flips",
        *experts,
    )
    rows = [
        (
            f"{value:g}",
            f"{swept.f1[i]:.3f}",
            f"{swept.accuracy[i]:.3f}",
            f"{swept.ece[i]:.3f}",
            f"{swept.ece_perfect[i]:.3f}",
            f"{swept.epistemic[i]:.4f}",
            f"{swept.runs[i]:.2f}",
            f"{swept.route_flips[i]:.1%}",
            f"{swept.label_flips[i]:.1%}",
            *(f"{share:.3f}" for share in swept.utilisation[i]),
        )
        for i, value in enumerate(swept.alphas)
    ]
    print(table([head, *rows]))
    print(
        f"{len(clips.labels)} clips of {loaded.name}, out of fold; {swept.settings.curiosity}, "
        f"top {swept.settings.top_k}; {1e3 * swept.seconds:.0f} ms"
    )
    return 0


@command(
    "curiosity",
    help="the strategies side by side: what each finds and costs",
    example="qmoe sweep curiosity --alpha 0.3",
)
@mixing_options()
@json_option
def curiosity(arguments: Arguments) -> int:
    from qmoe_core import bundles
    from qmoe_core.evaluation import distillation

    loaded = bundles.load(arguments.bundle)
    found = distillation.compare(loaded, mixing_settings(arguments, loaded), timed=True)
    if arguments.json:
        print_json(found.to_json())
        return 0
    rows: list[Sequence[str]] = [("", "ρ", "95 % interval", "ρ, all folds", "p50 µs", "p95 µs")]
    for row in found.rows:
        rank, time_ = row.rank, row.latency
        ranks = (
            (f"{rank.within:.3f}", f"{rank.low:.3f}–{rank.high:.3f}", f"{rank.pooled:.3f}") if rank else "–––"
        )
        rows.append((row.name, *ranks, *((cell(time_.p50_us), cell(time_.p95_us)) if time_ else "––")))
    print(table(rows))
    for title, key in (("F1", "f1"), ("agreement", "agreement"), ("experts run", "runs")):
        figures = [(row.name, *(f"{value:.3f}" for value in getattr(row, key))) for row in found.rows]
        print("\n" + table([(title, *(f"α = {alpha:g}" for alpha in found.alphas)), *figures]))
    settings, where = found.settings, found.environment or {}
    print(
        f"\n{'+'.join(settings.experts)}, top {settings.top_k}; {found.clips} clips of {found.bundle}, "
        f"{found.folds} folds, each judged by experts, router and head that had not seen it. ρ: Spearman's, "
        "of what α rewards with the true disagreement, mean over folds; agreement: share of clips that go to "
        "the same experts as with disagreement. "
        f"Latency at α = {settings.alpha:g}: {distillation.CALLS} calls each, "
        f"interleaved, one thread, {where.get('processor')}."
    )
    return 0


@command(
    "cascade",
    help="what asking a further expert costs, and what it is worth",
    details="Bundles of one dataset with different embedders may be joined: the experts of all but the first "
    "are called EMBEDDER.EXPERT.",
    example="qmoe sweep cascade --bundle esc10-ds-cnn --experts q1,q8 --json",
)
@click.option("--bundle", multiple=True, help="folder or name; may be repeated (default: the one that ships)")
@click.option("--experts", help="in the order in which they are asked (default: by cost, q8 of each bundle)")
@json_option
def cascade(arguments: Arguments) -> int:
    from qmoe_core import bundles
    from qmoe_core.evaluation import cascade as cascades
    from qmoe_core.measure import environment
    from qmoe_core.routing.mixing import Settings

    loaded = [bundles.load(name) for name in arguments.bundle or (None,)]
    outputs, data = cascades.joined(loaded)
    path = cascades.costs(loaded)
    if arguments.experts is None:
        experts = tuple(sorted(cascades.default_experts(loaded), key=path.alone))
    else:
        experts = tuple(name.strip() for name in arguments.experts.split(",") if name.strip())
    settings = Settings(experts, curiosity="cascade")
    outputs = outputs.of(experts)
    sources = [clip.source for clip in data.clips]
    found = cascades.cascade_sweep(outputs, data.labels, settings, path, data.folds, sources)
    made = loaded[0].provenance
    document = {
        "dataset": made.dataset,
        "protocol": made.protocol,
        "n": len(data.labels),
        "seeds": 1,
        "bundles": [bundle.name for bundle in loaded],
        "environment": environment.describe(clips=1, heads="one thread", embedders="as they serve"),
        **found.to_json(),
    }
    if arguments.json:
        print_json(document)
    else:
        _print_cascade(found, f"{len(data.labels)} clips of {made.dataset}, {made.protocol} folds")
    return 0


def _print_cascade(found: CascadeSweep, clips: str) -> None:
    head = ("threshold", "asked", "accuracy", "at random", "F1", "cost, ms")
    rows = [
        (
            f"{point.threshold:.4f}",
            f"{point.asked:.1%}",
            f"{point.accuracy:.4f}",
            f"{chance.accuracy:.4f}",
            f"{point.f1:.4f}",
            f"{point.cost_us / 1e3:.3f}",
        )
        for point, chance in zip(found.curve, found.random, strict=True)
    ]
    print(table([head, *rows]))
    singles = [(one.name, f"{one.accuracy:.4f}", f"{one.cost_us / 1e3:.3f}") for one in found.experts]
    oracle = ("oracle", f"{found.oracle.accuracy:.4f}", f"{found.oracle.cost_us / 1e3:.3f}")
    print("\n" + table([("alone", "accuracy", "cost, ms"), *singles, oracle]))

    def interval(ends: tuple[float, float], form: str) -> str:
        return f"(95 % {ends[0]:{form}} to {ends[1]:{form}})"

    equal, above = found.equal_accuracy, found.front_gain
    print(
        f"\nThresholds chosen on other folds to be as good as the best expert, "
        f"{found.best_single.name}: accuracy {equal.accuracy:.4f}, {equal.difference:+.4f} "
        f"{interval(equal.difference_ci95, '+.4f')} from the best, {equal.cost_ratio:.2f} "
        f"{interval(equal.ci95, '.2f')} of the cost of {equal.single}, {equal.over_random:+.4f} "
        f"{interval(equal.over_random_ci95, '+.4f')} above asking as many at random. Most above the front of "
        f"single experts: accuracy {above.accuracy:.4f} at {above.cost_us / 1e3:.3f} ms, {above.gain:+.4f} "
        f"{interval(above.ci95, '+.4f')} above the best of at most that cost. {clips}; intervals over "
        "recordings."
    )


@command("bits", help="F1, size, time and energy of every format", example="qmoe sweep bits --json")
@find_bundle_option
@json_option
def bits(arguments: Arguments) -> int:
    from qmoe_core import bundles
    from qmoe_core.evaluation import formats
    from qmoe_core.measure import bench
    from qmoe_core.runtime.store import Store

    loaded = bundles.load(arguments.bundle)
    store = Store()
    latency, energy = bench.last("latency", store), bench.last("energy", store)
    rows = formats.formats(loaded, latency, energy)
    layers = range(len(loaded.config.expert.hidden))
    grids = [grid for layer in layers for grid in formats.weight_grids(loaded, layer)]
    measured = {what.what: formats.measured_on(what, loaded) for what in (latency, energy) if what}
    if arguments.json:
        print_json(
            {
                "bundle": loaded.name,
                "protocol": loaded.provenance.protocol,
                "selection": loaded.provenance.selection,
                "measured_on": measured,
                "rows": [row.to_json() for row in rows],
                "grids": [
                    {
                        "name": grid.name,
                        "layer": grid.layer,
                        "bits": grid.bits,
                        "levels": grid.levels,
                        "zeros": grid.zeros,
                        "entropy_bits": grid.entropy_bits,
                    }
                    for grid in grids
                ],
            }
        )
        return 0
    zeros = {grid.name: f"{grid.zeros:.1%}" for grid in grids if grid.layer == 0}
    head = ("", "bits", "F1", "± deviation", "% of 16-bit", "bytes", "p50 µs", "p99 µs", "mJ", "zero weights")
    print(
        table(
            [head]
            + [
                (
                    row.name,
                    cell(row.bits),
                    f"{row.f1:.3f}",
                    f"± {row.f1_std:.3f}",
                    cell(row.share_of_16bit and 100.0 * row.share_of_16bit),
                    f"{row.bytes:,}",
                    cell(row.p50_us),
                    cell(row.p99_us),
                    cell(row.energy_mj),
                    zeros.get(row.name, "–"),
                )
                for row in rows
            ]
        )
    )
    for what in ("latency", "energy"):
        print(f"{what}: {measured.get(what) or f'not measured yet, see qmoe bench {what}'}")
    return 0


@command(
    "ood",
    help="train without some classes: does the uncertainty notice them?",
    example="qmoe sweep ood esc10 --held-out dog,rain",
)
@click.argument("dataset", metavar="DATASET")
@click.option(
    "--held-out", required=True, multiple=True, metavar="CLASSES", help="such as dog,rain; may be repeated"
)
@click.option("--embedder", default="logmel-stats", show_default=True, help="as for qmoe embed")
@click.option("--weights", help="safetensors file for a timm model, or random")
@click.option("--experts", default="bitnet,q4,q8", help="of the mixture (default: bitnet,q4,q8)")
@click.option("--workers", type=int, default=0, help="processes (default: one for each core)")
@click.option("--config", metavar="FILE", help="TOML file")
@click.option("--set", multiple=True, metavar="KEY=VALUE", help="as for train")
@scheduler_option
@json_option
def held_out(arguments: Arguments) -> int:
    from qmoe_core.evaluation import ood
    from qmoe_core.routing.mixing import Settings
    from qmoe_core.runtime.executor import Context
    from qmoe_core.runtime.requests import HoldOut
    from qmoe_core.runtime.store import Store

    needs("torch")
    context, reports = Context(Store(), progress=ProgressBar), []
    for names in arguments.held_out:
        request = request_of(HoldOut, arguments, held_out=tuple(name.strip() for name in names.split(",")))
        held = request.run(context)
        reports.append(ood.report(held, Settings.of(request.config.router, request.experts)))
        if not arguments.json:
            _print_held_out(reports[-1])
    if arguments.json:
        documents = [report.to_json() for report in reports]
        print_json(documents[0] if len(documents) == 1 else documents)
    return 0


def _print_held_out(report: Any) -> None:
    rows = [("uncertainty", "AUROC", "95 % interval")]
    rows += [
        (name, f"{found.auroc:.3f}", f"{found.low:.3f}–{found.high:.3f}")
        for name, found in report.detection.items()
    ]
    print(table(rows))
    print(
        f"{report.n_strange} clips of {', '.join(report.held_out)} against {report.n_known} of the other "
        f"{len(report.classes)} classes of {report.dataset}, {report.folds} {report.protocol} folds, "
        f"seed {report.seed}; accuracy on the known clips {report.accuracy:.3f}"
    )


@command(
    "paths",
    help="embedders in formats under heads in formats: F1, bytes, and files to carry",
    example="qmoe sweep paths esc10 --embedder ds-cnn:q4 --experts q4,q2 --out data/paths",
)
@click.argument("dataset", nargs=-1, required=True, metavar="DATASET…")
@click.option("--embedder", multiple=True, default=("ds-cnn:q8",), help="may be repeated")
@click.option("--experts", default="q8,q4,q2,q1", show_default=True, help="formats of the heads")
@click.option("--seeds", type=int, default=1, help="how many seeds, counted from the configuration’s")
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", help="for figures and files")
@json_option
def paths(arguments: Arguments) -> int:
    from qmoe_core.config import Config
    from qmoe_core.experts.spec import parse_names
    from qmoe_core.runtime.executor import Context
    from qmoe_core.runtime.store import Store
    from qmoe_core.training import paths as whole
    from qmoe_core.training.run import seeds_of

    needs("torch")
    config = Config()
    found = whole.sweep(
        arguments.dataset,
        arguments.embedder,
        parse_names(arguments.experts, setting="--experts"),
        config,
        seeds_of(config, arguments.seeds),
        Context(Store(), progress=ProgressBar),
        arguments.out,
    )
    if arguments.json:
        print_json({"rows": [msgspec.to_builtins(path) for path in found]})
        return 0
    names = list(found[0].f1)
    rows = [("", "embedder", "head", "bytes", *(f"F1, {name}" for name in names))]
    for path in found:
        scores = [f"{score.mean:.3f} ± {score.std:.3f} (n = {score.n})" for score in path.f1.values()]
        rows.append((path.name, path.embedder, path.head, f"{path.bytes:,}", *scores))
    print(table(rows))
    return 0


@command(
    "layers",
    help="where bits cost: each layer in few bits, then mixes of formats under a budget",
    details="Float heads are trained on the folds; nothing else is. --keep makes the chosen mix an embedder.",
    example="qmoe sweep layers esc10 --embedder ds-cnn --bytes 120000 --keep mixed",
)
@click.argument("dataset", metavar="DATASET")
@click.option("--embedder", default="ds-cnn", show_default=True, help="ds-cnn or mn04")
@click.option("--bytes", "most_bytes", type=float, help="of the mix’s file, at most")
@click.option("--us", "most_us", type=float, help="of the mix’s network on one clip, at most, µs")
@click.option("--keep", metavar="NAME", help="keep the chosen mix as the embedder ds-cnn:NAME")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="write the result as JSON")
@json_option
def layers(arguments: Arguments) -> int:
    from qmoe_core.runtime.executor import Context
    from qmoe_core.runtime.store import Store
    from qmoe_core.training.paths import sweep_layers

    needs("torch")
    found, kept = sweep_layers(
        arguments.dataset,
        arguments.embedder,
        Context(Store(), progress=ProgressBar),
        most_bytes=arguments.most_bytes,
        most_us=arguments.most_us,
        keep=arguments.keep,
    )
    document = found.to_json()
    if arguments.out:
        arguments.out.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1))
    if arguments.json:
        print_json(document)
        return 0
    print(f"{found.dataset}, {found.embedder}, n = {found.n} clips: float accuracy {found.accuracy:.3f}")
    rows: list[Sequence[str]] = [("layer", "bits", "bytes", "µs", "accuracy", "difference", "cosine")]
    for row in found.rows:
        figures = (f"{row.accuracy:.3f}", f"{row.delta:+.3f}", f"{row.cosine:.3f}")
        rows.append((row.layer, str(row.bits), f"{row.bytes:,}", cell(row.us), *figures))
    print(table(rows))
    print(f"\n{found.measured} mixes measured; the front, and the uniform ones:")
    rows = [("formats of the large layers", "bytes", "µs", "accuracy", "to q8", "95 %", "cosine")]
    for mix in found.mixes:
        low, high = mix.ci95
        figures = (
            f"{mix.accuracy:.4f}",
            f"{mix.delta:+.4f}",
            f"{low:+.4f} to {high:+.4f}",
            f"{mix.cosine:.3f}",
        )
        name = mix.uniform or " ".join(mix.assignment.values())
        rows.append((name, f"{mix.bytes:,}", cell(mix.p50_us), *figures))
    print(table(rows))
    if found.chosen is None:
        print("No mix is within the budget.")
    else:
        print(f"chosen: {' '.join(found.chosen.assignment.values())}, {found.chosen.bytes:,} bytes{kept}")
    return 0
