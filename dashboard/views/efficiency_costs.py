"""Efficiency: latency, energy, memory and size, as measured on this machine."""

from __future__ import annotations

from typing import Any

import streamlit as st

from dashboard.charts import efficiency as efficiency_charts
from dashboard.session import measured
from dashboard.session.linked import widget
from dashboard.session.measured import Kept
from dashboard.views import tables, widgets, words
from dashboard.views.efficiency_controls import KINDS, PAGE
from dashboard.views.paths import path_times, the_path
from dashboard.views.tables import Column
from qmoe_core import numbers
from qmoe_core.bundles import Bundle
from qmoe_core.evaluation.formats import formats
from qmoe_core.measure.energy import QUOTABLE_BLOCK_S
from qmoe_core.measure.machines import PathTime
from qmoe_core.measure.peers import TORCH_FP32
from qmoe_core.numbers import NBSP, decimals, p_value, three
from qmoe_core.runtime.jobs import Bench

LEVEL = 0.05


def latency_panel(bundle: Bundle, *, cold: bool = False, primary: bool = False) -> None:
    """Measure latency: a quick look, or a figure to quote."""
    name, experts = measured.named(bundle), bundle.experts
    choices = [
        (label, Bench(measure="latency", bundle=name, experts=experts, n=n, cold=cold))
        for label, n in (
            ("Quick: 300 calls of each, under a minute", 300),
            ("To quote: 2,000 calls of each", 2000),
        )
    ]
    measured.panel(choices, primary=primary)


LATENCY_COLUMNS = (
    Column("name", "Expert or engine", tables.expert, words.FORMATS, number=False),
    Column("n", "n", lambda n: f"{n:,}", "Timed calls."),
    Column("p50_us", "median, µs", three, "Half of the calls take at most so long, $t_{0.5}$."),
    Column("p95_us", "p95", three, "95 % of the calls take at most so long, $t_{0.95}$."),
    Column("p99_us", "p99", three, "99 % of the calls take at most so long, $t_{0.99}$."),
    Column("mean_us", "mean", three, r"$\bar t = \frac{1}{n}\sum_j t_j$."),
    Column("std_us", "deviation", three, r"$s = \sqrt{\frac{1}{n-1}\sum_j (t_j - \bar t)^2}$."),
    Column(
        "speedup_vs_fp32",
        f"speed-up on {TORCH_FP32}",
        lambda value: f"{value:.2f}{NBSP}×",
        r"Median over rounds of the ratio of medians, $t^{\mathrm{fp32}}_{0.5} / t_{0.5}$; both met the same "
        "moments.",
    ),
    Column(
        "ci95",
        "95 %",
        lambda pair: f"{pair[0]:.2f}–{pair[1]:.2f}",
        "Bootstrap interval of the speed-up, over rounds.",
    ),
    Column("peer", "best peer", str, "Another engine at the same width.", number=False),
    Column(
        "speedup_vs_peer",
        "speed-up on it",
        lambda value: f"{value:.2f}{NBSP}×",
        r"As the speed-up, $t^{\mathrm{peer}}_{0.5} / t_{0.5}$.",
    ),
)

VARIANCE_COLUMNS = (
    Column("name", "Expert or engine", tables.expert, number=False),
    Column("std_us", "deviation, µs", three, r"$s = \sqrt{\frac{1}{n-1}\sum_j (t_j - \bar t)^2}$."),
    Column(
        "variance_ratio",
        f"variance, to {TORCH_FP32}",
        lambda value: f"{value:.2g}{NBSP}×",
        r"$s^2 / s^2_{\mathrm{fp32}}$: variances, not deviations.",
    ),
    Column(
        "brown_forsythe_p",
        "p",
        p_value,
        "Brown–Forsythe test of equal variances: Levene’s $W$ on $|t_j - \\mathrm{median}|$, two-sided.",
    ),
    Column(
        "p_holm", "Holm", p_value, "The p after Holm’s correction: $\\max_{i \\le j} (m - i + 1)\\,p_{(i)}$."
    ),
    Column("p_bonferroni", "Bonferroni", p_value, "The p times the number of tests, $\\min(1, m\\,p)$."),
)


def the_latency(bundle: Bundle, values: dict[str, Any]) -> None:
    """Times of the whole path; of the head alone distributions, speed-ups and tests."""
    the_path(bundle, measure=False)
    st.subheader("The head alone, from embedding to decision", anchor=False)
    st.toggle(
        "With cold caches",
        key=widget(PAGE, "cold"),
        help="Empties the caches before every call: what a process that is woken up pays.",
    )
    kept = measured.latest("latency-cold" if values["cold"] else "latency", bundle)
    latency_panel(bundle, cold=values["cold"], primary=kept is None)
    if kept is None:
        how = " with cold caches" if values["cold"] else ""
        widgets.empty(
            f"No latency was measured{how} on this machine yet. The run times this bundle’s experts and "
            "mixtures and other engines, in rounds of random order, pinned to one core."
        )
        return
    st.pills(
        "Show",
        list(KINDS),
        selection_mode="multi",
        key=widget(PAGE, "show"),
        format_func=KINDS.__getitem__,
        label_visibility="collapsed",
    )
    wanted = [kind.removesuffix("s") for kind in KINDS if kind in values["show"]]
    rows = [row for kind in wanted for row in kept.report.rows if row["kind"] == kind]
    every = kept.report.rows
    written = [Column(key, "") for key in every[0] if key != "quantiles_us"]
    file = (written, lambda: flat(every))
    tables.table(LATENCY_COLUMNS, rows, name="latency", title="Latency", label="Latency", file=file)
    rounds = kept.report.environment["rounds"]
    widgets.caption(f"n = {kept.n:,} calls of each, {rounds:,} rounds. {kept.basis(bundle)}")
    left, right = st.columns(2, gap="large")
    theme = widgets.theme()
    with left:
        st.subheader("Distributions", anchor=False)
        said = "; ".join(
            f"{row['name']} {three(row['p50_us'])} µs, p95 {three(row['p95_us'])}" for row in rows
        )
        widgets.figure(
            efficiency_charts.distributions(rows, theme),
            alt=f"Share of calls against time. {said}.",
            key="distributions",
        )
        st.caption(
            "Experts in their colours, mixtures dashed, other engines dotted; to the 99.5th percentile."
        )
    with right:
        st.subheader("Speed-ups", anchor=False)
        said = "; ".join(f"{row['name']} {row['speedup_vs_fp32']:.1f}" for row in rows)
        widgets.figure(
            efficiency_charts.speedups(rows, TORCH_FP32, theme),
            alt=f"Times as fast as {TORCH_FP32}. {said}.",
            key="speedups",
        )
        st.caption("Lines are 95 % bootstrap intervals over rounds.")
    the_variances(kept)


def flat(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with intervals as text, for a table."""
    return [row | {"ci95": "–".join(f"{end:.4g}" for end in row["ci95"])} for row in rows]


def the_variances(kept: Kept) -> None:
    """Is one steadier than another? The paper's 82 %, tested properly."""
    st.subheader("Variance of the times", anchor=False)
    rows = kept.report.rows
    base = next(row for row in rows if row["name"] == TORCH_FP32)["std_us"]
    tested = [
        row | {"variance_ratio": (row["std_us"] / base) ** 2}
        for row in rows
        if row["brown_forsythe_p"] is not None
    ]
    differing = [row for row in tested if row["p_holm"] < LEVEL]
    steadier = sum(row["variance_ratio"] < 1 for row in differing)
    st.markdown(
        f"**{words.capital(numbers.number(len(differing)))} of {len(tested)}** differ in variance from "
        f"{TORCH_FP32} at {100 * LEVEL:.0f} % after Holm’s correction, {numbers.number(steadier)} of them "
        "steadier. The paper’s “82 %, p = 0.008” compares a curious mixture with FP32 rather than with the "
        "same mixture without curiosity, is a ratio of deviations, and was not corrected."
    )
    with st.expander("The tests"):
        st.html(tables.html(VARIANCE_COLUMNS, tested, "Tests of equal variance"))
        tables.meanings(VARIANCE_COLUMNS)
        st.caption(
            f"n = {kept.n:,} calls of each. The test takes calls as independent; calls of one round share a "
            "moment, so read small p with care."
        )


def energy_panel(bundle: Bundle, *, primary: bool = False) -> None:
    """Measure energy: blocks of ten seconds, or of a minute for a figure to quote."""
    name, experts = measured.named(bundle), bundle.experts

    def minutes(repetitions: int, block_s: float) -> str:
        return f"about {1.1 * (len(experts) + 2) * repetitions * block_s / 60:.0f} minutes"

    choices = [
        (
            f"{title}: {repetitions} blocks of {block_s:g} s of each, {minutes(repetitions, block_s)}",
            Bench(measure="energy", bundle=name, experts=experts, repetitions=repetitions, block_s=block_s),
        )
        for title, repetitions, block_s in (("Quick", 2, 10.0), ("To quote", 3, QUOTABLE_BLOCK_S))
    ]
    measured.panel(choices, primary=primary)


ENERGY_COLUMNS = (
    Column("name", "Expert or engine", tables.expert, words.FORMATS, number=False),
    Column("source", "how", number=False, meaning="By a meter, or modelled from load and time."),
    Column("n", "n", lambda n: f"{n:,}", "Calls that the energy was divided by."),
    Column(
        "path_mj",
        "path, mJ",
        three,
        r"From waveform to decision: the head’s energy times $t_{path} / t_{head}$, at the same power.",
    ),
    Column(
        "gross_mj",
        "head alone, mJ",
        three,
        r"All that was drawn meanwhile, a call: $E = (P_{cpu} + P_{ram})\,t / n$.",
    ),
    Column("cpu_mj", "processor", three, r"$P_{cpu}\,t/n$: a meter’s, or thermal design power times load."),
    Column("ram_mj", "memory", three, r"$P_{ram}\,t/n$, with $P_{ram}$ always a constant."),
    Column("net_mj", "net of idling", three, r"$E - P_{idle}\,t/n$."),
    Column("co2_ug", "CO₂, µg", three, r"$E \cdot$ g/kWh of the grid."),
    Column("cpu_s_per_million", "CPU-s a million", lambda v: f"{v:,.3g}", r"$10^6\,t_{cpu}/n$."),
    Column(
        "ratio_vs_fp32",
        f"saving on {TORCH_FP32}",
        lambda v: f"{v:.2f}{NBSP}×",
        r"$E_{\mathrm{fp32}}/E$, paired.",
    ),
    Column("ci95", "95 %", lambda pair: f"{pair[0]:.2f}–{pair[1]:.2f}", "Bootstrap interval over blocks."),
)


def the_energy(bundle: Bundle, values: dict[str, Any]) -> None:
    """Energy and CO2 of a call."""
    kept = measured.latest("energy", bundle)
    energy_panel(bundle, primary=kept is None)
    if kept is None:
        widgets.empty(
            "No energy was measured on this machine yet. Experts and an idle machine take turns in blocks; "
            "where the processor has no meter, power is modelled, and every figure says so."
        )
        return
    paths = dict(path_times(bundle))
    rows: list[dict[str, Any]]
    rows, where = kept.report.rows, kept.report.environment
    rows = [{**row, "path_mj": _of_path(row["gross_mj"], paths.get(row["name"]))} for row in rows]
    modelled = all(row["source"] == "modelled" for row in rows)
    memory = sum(row["ram_mj"] for row in rows) / sum(row["gross_mj"] for row in rows)
    word = "modelled" if modelled else "measured"
    st.markdown(
        f"**These figures are {word}.** "
        + (
            "This machine shows no energy meter, so the processor’s power is its thermal design power times "
            "its load. "
            if modelled
            else ""
        )
        + f"The memory’s share, always a constant times the time, is {numbers.percent(memory)} of the "
        "total: energy mostly restates latency, here as in the paper (76 %)."
    )
    file = ([Column(key, "") for key in rows[0] if key != "deployment"], lambda: flat(rows))
    title = "Energy and CO2 of a call"
    tables.table(ENERGY_COLUMNS, rows, name="energy", title=title, label="Energy", file=file)
    widgets.figure(
        efficiency_charts.energy(rows, widgets.theme()),
        alt=f"Energy of the head alone, a call, {word}: "
        + "; ".join(f"{r['name']} {three(r['gross_mj'])} mJ" for r in rows)
        + ".",
        key="energy",
    )
    quotable = "" if where["quotable"] else " Blocks this short are for a first look, not for quoting."
    widgets.caption(
        "The head alone; full colour: processor; pale: memory; tick: net of idling. "
        f"{rows[0]['blocks']} blocks of {where['block_s']:g} s of each, {where['country']} at "
        f"{kept.grid:.0f} g of CO₂ a kWh, {word}. "
        f"{kept.basis(bundle)}{quotable}"
    )


def _of_path(head_mj: float, time: PathTime | None) -> float | None:
    """Energy of a path whose head takes so much; None where its parts were not timed."""
    return None if time is None else head_mj * time.parts_us / time.head_us


MEMORY_COLUMNS = (
    Column("name", "bundle", number=False),
    Column("n", "n", str, "Processes that were started."),
    Column(
        "peak_bytes", "peak, MB", lambda v: f"{v / 1e6:,.0f}", "Largest resident memory of a fresh process."
    ),
    Column(
        "experts_bytes", "of it experts, MB", lambda v: f"{v / 1e6:.2f}", "Packed weights held in memory."
    ),
    Column(
        "seconds",
        "first answer, s",
        decimals(2),
        "From start to the first answer, imports included.",
    ),
)

SIZE_COLUMNS = (
    Column("name", "Expert", tables.expert, words.FORMATS, number=False),
    Column("bits", "bits", str, "Bits that a stored weight takes."),
    Column("bytes", "this bundle’s, kB", lambda v: f"{v / 1e3:,.1f}", "Bytes of the expert’s file."),
    Column("smaller", "smaller than FP32", lambda v: f"{v:.2f}{NBSP}×", r"$B_{\mathrm{fp32}} / B$."),
    Column(
        "paper_shape",
        "at the paper’s shape, kB",
        lambda v: f"{v / 1e3:,.1f}",
        "1536–640–320–50, random weights.",
    ),
    Column("paper_kb", "its Table 7, kB", lambda v: f"{v:,.1f}", "As printed there."),
)


def the_memory(bundle: Bundle, values: dict[str, Any]) -> None:
    """Peak memory of serving, and bytes on disk."""
    st.subheader("Memory of a serving process", anchor=False)
    kept = measured.latest("memory", bundle)
    request = Bench(measure="memory", bundle=measured.named(bundle))
    measured.panel([("Measure: three fresh processes, about half a minute", request)], primary=kept is None)
    if kept is None:
        widgets.empty("No memory was measured on this machine yet.")
    else:
        rows = kept.report.rows
        file = ([Column(key, "") for key in rows[0] if key != "heavy_imports"], rows)
        title = "Memory of serving"
        tables.table(MEMORY_COLUMNS, rows, name="memory", title=title, label="Memory", file=file)
        share = rows[0]["experts_bytes"] / rows[0]["peak_bytes"]
        widgets.caption(
            f"The experts are {numbers.percent(share)} of the peak; the rest is Python and its libraries, "
            f"which is why the paper’s 0.86 to 1.17 GB do not follow the bits. n = {rows[0]['n']} "
            f"processes. {kept.basis(bundle)}"
        )
    st.subheader("Size on disk", anchor=False)
    sizes = measured.latest("size", bundle)
    by_name = {row["name"]: row for row in sizes.report.rows} if sizes else {}
    found = [one for one in formats(bundle) if one.kind == "expert"]
    full = next((one.bytes for one in found if one.name == "fp32"), None)
    rows = [
        {
            "name": one.name,
            "bits": one.bits,
            "bytes": one.bytes,
            "smaller": full / one.bytes if full else None,
            "paper_shape": by_name.get(one.name, {}).get("bytes"),
            "paper_kb": by_name.get(one.name, {}).get("paper_kb"),
        }
        for one in found
    ]
    columns = SIZE_COLUMNS if sizes else SIZE_COLUMNS[:4]
    tables.table(columns, rows, name="size", title="Size of each expert", label="Sizes")
    if sizes is None:
        request = Bench(measure="size", experts=bundle.experts)
        measured.panel([("Compare with the paper’s Table 7: a few seconds", request)])
    st.caption("Counted, not modelled: packed weights, norms, the float head and the file’s header.")
