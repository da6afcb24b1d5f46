"""`qmoe bench …`: measurements on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from qmoe_core.cli.common import (
    Arguments,
    LazyGroup,
    ProgressBar,
    cell,
    command,
    json_option,
    print_json,
    request_of,
    table,
)

bench = LazyGroup(
    "bench",
    help="measure on this machine",
    example="qmoe bench latency --n 2000",
    loaded={
        "latency": "qmoe_core.cli.bench:latency",
        "path": "qmoe_core.cli.bench:path",
        "energy": "qmoe_core.cli.bench:energy",
        "memory": "qmoe_core.cli.bench:memory",
        "size": "qmoe_core.cli.bench:size",
    },
)


shape_option = click.option(
    "--shape",
    default="1536,640,320,50",
    help="D,hidden,…,C of experts with random weights (default: the paper’s)",
)
experts_option = click.option("--experts", help="such as q4,q8 (default: all)")


@command("latency", help="time of one call of each expert", example="qmoe bench latency --n 2000")
@click.option("--bundle", help="measure a bundle’s own experts instead")
@click.option("--n", type=int, default=2000, help="timed calls of each")
@click.option("--batch", type=int, default=1, help="clips in a call")
@click.option("--cold", is_flag=True, help="empty the caches before every call")
@click.option("--no-peers", "peers", flag_value=False, default=True, help="only torch fp32 beside ours")
@click.option("--figure", metavar="FILE", help="write the distributions as an HTML page")
@shape_option
@experts_option
@json_option
def latency(arguments: Arguments) -> int:
    return _bench("latency", arguments)


@command(
    "energy",
    help="energy of inference, and of training",
    example="qmoe bench energy --block-seconds 60 --country FRA",
)
@click.option("--bundle", help="measure a bundle’s own experts instead")
@click.option("--repetitions", type=int, default=3, help="blocks measured of each expert")
@click.option("--block-seconds", "block_s", type=float, default=10.0, help="60 for a figure to quote")
@click.option("--country", default="FRA", help="grid, three-letter code")
@click.option("--per-day", type=float, default=1000000.0, help="inferences a day of a deployment")
@shape_option
@experts_option
@json_option
def energy(arguments: Arguments) -> int:
    return _bench("energy", arguments)


@command("memory", help="peak memory of a process that serves", example="qmoe bench memory --json")
@click.option("--bundle", multiple=True, help="may be repeated (default: all that are known)")
@shape_option
@experts_option
@json_option
def memory(arguments: Arguments) -> int:
    return _bench("memory", arguments)


@command("size", help="bytes of each packed expert", example="qmoe bench size --shape 1536,640,320,50")
@shape_option
@experts_option
@json_option
def size(arguments: Arguments) -> int:
    return _bench("size", arguments)


@command("path", help="time from waveform to decision, whole path", example="qmoe bench path --n 500 --json")
@click.option("--embedder", multiple=True, help="mn04, ds-cnn, logmel-stats; may be repeated (default: all)")
@click.option("--n", type=int, default=500, help="timed calls of each")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="write the result, to lie beside those of other machines on the Formats page",
)
@json_option
def path(arguments: Arguments) -> int:
    from qmoe_core.measure import machines
    from qmoe_core.measure import path as measured
    from qmoe_core.runtime.executor import Context
    from qmoe_core.runtime.requests import Bench
    from qmoe_core.runtime.store import Store

    names = arguments.embedder or measured.EMBEDDERS
    request = Bench(measure="path", embedders=tuple(names), n=arguments.n)
    report = request.run(Context(Store(), progress=ProgressBar))
    if arguments.out:
        machines.write(report, arguments.out)
    if arguments.json:
        print_json(report.to_json())
        return 0
    flat = [row | row["stages"] for row in report.rows if row["kind"] != "head"]
    columns = (
        "name", "n", "p50_us", "front_end_us", "embedder_us", "head_us", "speedup_vs_peer", "ci95", "note"
    )  # fmt: skip
    print(table([columns] + [[cell(row[column]) for column in columns] for row in flat]))
    print(f"five seconds of sound, one thread; speedups against {measured.BASELINE}")
    return 0


def _bench(what: str, arguments: Arguments) -> int:
    from qmoe_core.measure import bench
    from qmoe_core.runtime.executor import Context
    from qmoe_core.runtime.requests import Bench
    from qmoe_core.runtime.store import Store

    store = Store()
    if what == "memory":
        report = bench.run_memory(arguments.bundle or ())
        bench.keep(report, store)
    else:
        shape = bench.parse_shape(arguments.shape)
        report = request_of(Bench, arguments, measure=what, shape=shape).run(
            Context(store, progress=ProgressBar)
        )
    if getattr(arguments, "figure", None):
        bench.figure(report, Path(arguments.figure))
    if arguments.json:
        print_json(report.to_json())
        return 0
    print(_rows_of(report))
    where = report.environment
    if what == "energy":
        trained = where["training"]
        print(
            f"training ({trained['what']}): {trained['kwh']:.3g} kWh, {trained['source']}; "
            "serving has used as much after"
        )
        print(
            "; ".join(f"{r['name']} {r['deployment']['break_even_inferences']:,.0f}" for r in report.rows)
            + " inferences"
        )
    print(
        f"{where['processor']}, {where['cores']} cores, {', '.join(where['vector_extensions'])}"
        f"{', virtual machine' if where['virtual_machine'] else ''}; load {where['load_average'][0]:.1f}"
    )
    return 0


_BENCH_COLUMNS = {
    "latency": (
        "name",
        "n",
        "p50_us",
        "p95_us",
        "p99_us",
        "mean_us",
        "std_us",
        "speedup_vs_fp32",
        "ci95",
        "speedup_vs_peer",
        "p_holm",
    ),
    "energy": (
        "name",
        "source",
        "n",
        "cpu_s_per_million",
        "gross_mj",
        "cpu_mj",
        "ram_mj",
        "net_mj",
        "co2_ug",
        "ratio_vs_fp32",
        "ci95",
    ),
    "memory": ("name", "n", "peak_bytes", "experts_bytes", "seconds", "heavy_imports"),
    "size": ("name", "parameters", "bytes", "reduction_vs_fp32", "paper_kb"),
}


def _rows_of(report: Any) -> str:
    columns = _BENCH_COLUMNS[report.what.partition("-")[0]]
    return table([columns] + [[cell(row[column]) for column in columns] for row in report.rows])
