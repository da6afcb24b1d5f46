"""What it costs: Table 4 (time and memory), Table 6 (carbon of training), Table 7 (sizes)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qmoe_core.experts.spec import EXPERTS
from qmoe_core.numbers import listed
from qmoe_core.paper import tables as paper
from qmoe_core.paper.report import charts
from qmoe_core.paper.report.costs import Sizes
from qmoe_core.paper.report.document import (
    Figure,
    Interval,
    ReportTable,
    Section,
    Spread,
    Value,
    columns_of,
)
from qmoe_core.paper.report.study import (
    MODELS,
    YARDSTICK,
    Study,
    machine_of,
    of_all,
    printed,
    runs_of,
    spread,
    was_busy,
)

PAPER_SCHEMES = {"ternary": "Ternary", "sign": "Popcount", "float": "None"}


def table_4(studies: Sequence[Study]) -> Section:
    """Latency with its variance, and memory, fastest first."""
    several = len(studies) > 1
    rows: list[tuple[Value, ...]] = []
    for study in studies:
        costs = study.costs
        for model in sorted(of_all([study]), key=lambda m: costs.rows[m.ours]["mean_us"]):
            row = costs.rows[model.ours]
            rows.append(
                (
                    model.paper,
                    model.ours,
                    *([study.name] if several else []),
                    study.tables.parameters[model.ours] / 1e6,
                    Spread(row["mean_us"], row["std_us"]),
                    row["std_us"] ** 2,
                    *(row["p50_us"], row["p99_us"]),
                    None if costs.embedding_us is None else costs.embedding_us + row["p50_us"],
                    Interval(row["speedup_vs_fp32"], *row["ci95"]),
                    spread(np.divide(costs.peaks[model.ours], 1e6)),
                    float(study.tables.f1(model.ours).mean()),
                )
            )
    columns = columns_of(
        f"Model; Here; {'Dataset; ' if several else ''}Params:2:M; Latency:1:µs; Variance:1:µs²; "
        "p50:1:µs; p99:1:µs; Path from the waveform:0:µs; Speedup [95 %]:2; RAM:0:MB; F1-Score"
    )
    study = studies[0]
    costs = study.costs
    fastest = min(of_all([study]), key=lambda m: costs.rows[m.ours]["p50_us"])
    slowest = max(of_all([study]), key=lambda m: costs.rows[m.ours]["p50_us"])
    torch = costs.rows["torch fp32"]["p50_us"]
    peaks = [float(np.mean(costs.peaks[m.ours])) / 1e6 for m in of_all([study])]
    text = (
        f"Classifying a clip's embedding takes {costs.rows[fastest.ours]['p50_us']:.1f} µs with "
        f"{fastest.paper} (the fastest), {costs.rows[YARDSTICK]['p50_us']:.1f} µs with FP32-Base, "
        f"{costs.rows[slowest.ours]['p50_us']:.1f} µs with {slowest.paper} (the slowest) and {torch:.1f} µs "
        f"with FP32-Base in PyTorch: medians of {costs.rows[YARDSTICK]['n']:,} calls each in one "
        "interleaved race. The paper's latencies differ by 15 % between all models, which is what a "
        "constant overhead of over a second leaves of any difference." + was_busy(costs),
        f"A fresh process that loads a model and runs it has a peak of {min(peaks):.0f} to {max(peaks):.0f} "
        "MB, nearly all of it interpreter and compiler; the files themselves have "
        f"{min(costs.files.values()) / 1e3:.0f} to {max(costs.files.values()) / 1e3:,.0f} kB. The paper's "
        "0.86 to 1.17 GB are those of its training process.",
    )
    note = (
        f"{costs.served}. Latency of the classifier alone: mean ± deviation and variance of single calls, "
        "with whatever the system interrupted; speed-up: ratio to FP32-Base's median within each round, "
        "median over rounds, bootstrap interval over rounds. RAM: peak resident size of "
        f"{len(next(iter(costs.peaks.values())))} fresh process(es). "
        + "; ".join(f"{s.name}: {machine_of(s.costs)}" for s in studies)
    )
    return Section(
        "table-4",
        "Latency and memory (Table 4)",
        text,
        ReportTable("table-4", "Table 4, from our runs", columns, tuple(rows), note),
        printed(4),
        figures=(_latency_figure(study),),
    )


def _latency_figure(study: Study) -> Figure:
    costs = study.costs
    marks = []
    for model in sorted(of_all([study]), key=lambda m: costs.rows[m.ours]["p50_us"]):
        row = costs.rows[model.ours]
        times = costs.times[model.ours].ravel() / 1e3
        low = float(np.quantile(times, 0.01))
        marks.append(
            (model.paper, [charts.Mark(row["p50_us"], low, row["p99_us"], 1 if model.is_mixture else 0)])
        )
    return Figure(
        "latency",
        charts.intervals(
            marks, "µs a clip: median, 1st to 99th percentile", series=("single", "mixture"), logarithmic=True
        ),
        f"Time of one call on {study.name}: median with the 1st and 99th percentile of "
        f"{costs.rows[YARDSTICK]['n']:,} calls. {machine_of(costs)}.",
    )


def table_6(studies: Sequence[Study]) -> Section:
    """Carbon of training, least first."""
    study = studies[0]
    costs, code = study.costs, study.code
    rate = 1e6 * costs.training_kw / 3600.0 * costs.grid_g_per_kwh
    emitted: dict[str, Spread] = {}
    rows: list[tuple[Value, ...]] = []
    for model in MODELS:
        seconds = code.seconds.get(model.ours)
        if seconds is None:
            continue
        source = None if model.is_mixture else EXPERTS[model.experts[0]].derived_from
        if source is not None:  # what it is made from is trained first
            seconds = list(np.add(seconds, code.seconds[source]))
        co2 = emitted[model.ours] = spread(np.multiply(seconds, rate))
        f1 = float(code.f1(model.ours).mean())
        rows.append(
            (model.paper, model.ours, code.parameters[model.ours] / 1e6, co2, rate, spread(seconds), f1)
        )
    order = np.argsort([emitted[str(row[1])].mean for row in rows], kind="stable")
    rows = [rows[i] for i in order]
    columns = columns_of("Model; Here; Params:2:M; CO2:1:µg; Rate:1:µg/s; Training:2:s; F1")
    serving = costs.energies[YARDSTICK]
    training = emitted[YARDSTICK]
    even = training.mean / serving.co2_ug
    per_year = serving.co2_ug * 1e-6 * 1e6 * 365
    text = (
        f"Training FP32-Base on one fold emits {training.mean:,.0f} µg of CO2 and one inference with it "
        f"{serving.co2_ug:.4f} µg, both {costs.source}: serving has emitted as much after {even:,.0f} "
        f"inferences, and a million a day emit {per_year:,.1f} g a year. The paper says deployment "
        "dominates after 1,000 inferences; its own figures give 3,468 (claim 24).",
        "The rate is the same for every model because power is "
        + (
            "a constant here: without an energy meter, carbon is time under another name, and its "
            "correlation with energy or time says nothing (claim 22)."
            if costs.source == "modelled"
            else "taken from one block for all."
        ),
    )
    note = (
        "CO2 of training one fold: its seconds × the power of a process that trains "
        f"({1e3 * costs.training_kw:.1f} W, {costs.source}) × {costs.grid_g_per_kwh:.0f} g/kWh. "
        f"{runs_of(code)}, preset paper-code, n = {len(next(iter(code.seconds.values())))} folds. "
        f"Trained with one thread a task on {listed(code.processors)}; power and grid are of "
        f"{machine_of(costs)}. The paper's column headed µg is in mg (claim 21)."
    )
    return Section(
        "table-6",
        "Carbon of training (Table 6)",
        text,
        ReportTable("table-6", "Table 6, from our runs", columns, tuple(rows), note),
        printed(6),
    )


def table_7(sizes: Sizes) -> Section:
    """Files at the paper's shape, with the printed kilobytes beside."""
    yardstick = sizes.experts[YARDSTICK]["bytes"]
    rows: list[tuple[Value, ...]] = []
    differences: dict[str, float] = {}
    said: dict[str, float] = {}
    for row in paper.table(7).rows:
        value = row["kilobytes"].value
        if value is not None:
            said[paper.full_name(row["model"].printed)] = value
    for model in MODELS:
        missing = [name for name in model.experts if name not in sizes.experts]
        if missing or model.curious:
            continue
        size = sum(sizes.experts[name]["bytes"] for name in model.experts)
        count = sum(sizes.experts[name]["parameters"] for name in model.experts)
        if model.is_mixture:
            size += sizes.router_bytes
            count += sizes.router_bytes // 4
        spec = EXPERTS[model.experts[0]]
        scheme = "Hetero." if model.is_mixture else PAPER_SCHEMES.get(spec.format, "Linear")
        in_paper = said.get(model.paper) if model.ours != "ptq8" else None
        if model.ours == "popcount":
            in_paper = said.get("Q8-Base-PTQ")
        if in_paper is not None:
            differences[model.paper] = size / 1e3 / in_paper - 1.0
        bits = "Mix" if model.is_mixture else str(spec.bits)
        rows.append((model.paper, model.ours, scheme, bits, count, size / 1e3, yardstick / size, in_paper))
    columns = columns_of("Model; Here; Quant.; Bits; Params:0; Files:1:kB; Reduction:2:×; Paper:1:kB")
    far = [name for name, gap in differences.items() if abs(gap) > 0.05]
    q4, q8 = sizes.experts["q4"]["bytes"], sizes.experts["q8"]["bytes"]
    bitnet = sizes.experts["bitnet"]["bytes"]
    text = (
        f"Written to disk, a 4-bit expert is {yardstick / q4:.2f} times smaller than FP32 and "
        f"{sizes.experts['q16']['bytes'] / q4:.2f} times smaller than 16 bits; the ternary one is "
        f"{q8 / bitnet:.2f} times smaller than 8 bits, not 16 (claim 18). {len(differences) - len(far)} of "
        f"{len(differences)} sizes are within 5 % of the paper's"
        + (f"; {listed(far)} differ more." if far else "."),
        "A mixture's files are all of its experts and the router. The paper's 5.67 MB for a mixture stands "
        "for a model with 1,415,687 parameters, which is less than two experts have.",
    )
    note = (
        "Bytes of the files at the paper's shape, 1536–640–320–50, with packed weights, norms, float head "
        "and scaler (1 kB = 1,000 bytes); they do not depend on training. Eq. 4's expert stands beside the "
        "paper's Q8-PTQ, whose size is that of its popcount model (claim 16); the 8-bit ptq8 has no printed "
        "size. With and without curiosity a mixture is the same files."
    )
    return Section(
        "table-7",
        "Sizes (Table 7)",
        text,
        ReportTable("table-7", "Table 7, from our files", columns, tuple(rows), note),
        printed(7),
    )
