"""Whole paths, from waveform to decision: what each part costs, and which path fits a board."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import streamlit as st

from dashboard.charts import paths as path_charts
from dashboard.session import linked, measured
from dashboard.session.linked import Control, widget
from dashboard.views import tables, widgets
from dashboard.views.tables import Column
from dashboard.views.words import Verdict
from qmoe_core import bundles, numbers
from qmoe_core.bundles import Bundle
from qmoe_core.embedders import logmel_stats
from qmoe_core.errors import UserError
from qmoe_core.evaluation import boards
from qmoe_core.evaluation.boards import Board, OnBoard
from qmoe_core.measure import machines
from qmoe_core.measure.bench import BenchReport
from qmoe_core.numbers import NBSP, decimals, three
from qmoe_core.runtime.jobs import Bench

REFERENCE, HERE = "the reference machine", "this machine"
QUICK_N = 200


def embedder_of(bundle: Bundle) -> str:
    """What `qmoe bench path` calls a bundle's embedder."""
    return bundle.embedder.partition("@")[0]


def times(bundle: Bundle, report: BenchReport) -> list[tuple[str, machines.PathTime]]:
    """Of every expert of a bundle whose path was timed."""
    found = [(name, machines.path_time(report, embedder_of(bundle), name)) for name in bundle.experts]
    return [(name, time) for name, time in found if time is not None]


def path_times(bundle: Bundle) -> list[tuple[str, machines.PathTime]]:
    """As `times`, on this machine where it was measured, else on the reference machine."""
    kept = measured.latest("path", bundle)
    return (times(bundle, kept.report) if kept else []) or times(bundle, machines.reference())


def the_path(bundle: Bundle, *, measure: bool = True) -> None:
    """What each part of this bundle's paths takes: here, or on the reference machine.

    Args:
        measure: offer to measure it here.
    """
    st.subheader("From waveform to decision", anchor=False)
    kept = measured.latest("path", bundle)
    report = kept.report if kept else machines.reference()
    shown = times(bundle, report) or times(bundle, report := machines.reference())
    if shown:
        means = [
            sum(getattr(time, f"{part}_us") for _, time in shown)
            for part in ("front_end", "embedder", "head")
        ]
        shares = [numbers.percent(part / sum(means)) for part in means]
        widgets.figure(
            path_charts.stages(shown, widgets.theme()),
            alt="Microseconds from waveform to decision. "
            + "; ".join(
                f"{name}: front end {three(time.front_end_us)}, embedder {three(time.embedder_us)}, "
                f"head {three(time.head_us)}"
                for name, time in shown
            ),
            key="path",
        )
        whose = numbers.ago(kept.at) if kept and report is kept.report else f"Figures of {REFERENCE}"
        widgets.caption(
            f"On average the front end is {shares[0]} of a path, the embedder {bundle.embedder} {shares[1]}, "
            f"the head {shares[2]}. The line is the path timed as one: it meets colder caches. "
            f"{whose[:1].upper()}{whose[1:]}: {machines.described(report)}."
        )
    else:
        widgets.empty(f"Paths of {bundle.embedder} are not timed by qmoe bench path; only heads are.")
    the_roofline(bundle, report)
    if measure:
        request = Bench(measure="path", n=QUICK_N, embedders=("ds-cnn", logmel_stats.NAME))
        measured.panel([("Measure whole paths here: about a minute", request)])


def the_roofline(bundle: Bundle, report: BenchReport) -> None:
    """What limits each layer of the embedder's network."""
    name = embedder_of(bundle)
    drawn = report.environment.get("roofline", {})
    layers = drawn.get("layers", {}).get(name if ":" in name else f"{name}:fp32")
    if not layers:
        return
    with st.expander("What limits each layer"):
        roofs = {key: value / 1e9 for key, value in drawn["roofs"].items()}
        slowest = sorted(layers, key=lambda layer: -layer["us"])[:3]
        widgets.figure(
            path_charts.roofline(drawn["roofs"], layers, widgets.theme()),
            alt="The layers that take longest: "
            + "; ".join(f"{one['name']}, {one['kind']}, {one['us']:.1f} µs" for one in slowest),
            key="roofline",
        )
        widgets.caption(
            f"Layers of {name}, each timed alone; lines: the most that this machine was measured to give, "
            f"{roofs['second-level cache']:.0f} GB/s in the second-level cache, {roofs['memory']:.0f} GB/s "
            f"of memory, {roofs['float32']:.0f} · 10⁹ operations a second in float32 and four times that in "
            "bytes. Layers at the flat line are limited by the vector units, layers under the slope by "
            "what they move; depthwise layers do little with each number they load."
        )


MIX_COLUMNS = (
    Column("formats", "Large layers", number=False, meaning="In order of depth; others have 8 bits."),
    Column("bytes", "size", lambda v: numbers.amount("bytes", v), "Packed file of the network."),
    Column("p50_us", "network, µs", three, "Median of the network alone, one clip."),
    Column("accuracy", "accuracy", decimals(4), "Share of clips judged rightly, out of fold."),
    Column("delta", "to 8 bits", numbers.signed, "Accuracy less that of uniform 8 bits."),
    Column("ci95", "95 %", lambda v: f"{v[0]:+.3f} to {v[1]:+.3f}", "Bootstrap over recordings, paired."),
    Column("cosine", "cosine", decimals(3), "Of the embedding with the float one, mean over clips."),
)


def the_layers() -> None:
    """Where bits cost, as `qmoe sweep layers` found it for the embedder that ships."""
    found = boards.shipped_layers()
    with st.expander("Where bits cost: layer by layer"):
        worst = min(found["rows"], key=lambda row: row["delta"])
        widgets.figure(
            path_charts.layers(found["rows"], widgets.theme()),
            alt="Accuracy lost with one layer in few bits; most with "
            f"{worst['layer']} in {worst['bits']} bit, {worst['delta']:+.3f}.",
            key="layers",
        )
        widgets.caption(
            f"{found['embedder']} on {found['dataset']}, n = {found['n']} clips, out of fold, float accuracy "
            f"{found['accuracy']:.3f}: percentage points with one layer rounded, nothing trained and all "
            "other layers float. From the first layer down; head.0 and head.1 are the classifier's."
        )
        chosen = found["chosen"]
        rows = [
            mix
            | {"formats": _formats(mix["assignment"]), "mark": mix["bytes"] == (chosen or {}).get("bytes")}
            for mix in found["mixes"]
        ]
        tables.table(MIX_COLUMNS, rows, name="mixes", title="Mixes of formats", label="Mixes")
        widgets.caption(
            f"{found['measured']} mixes were measured: the front, and uniform formats. A mix takes layers of "
            "the formats that ship, and was chosen while looking at these clips. "
            "qmoe sweep layers --bytes 120000 --keep NAME makes one an embedder."
        )


def _formats(assignment: dict[str, str]) -> str:
    """`q3 × 4, q2 × 2` for the formats of layers in order."""
    runs = [(name, len(list(group))) for name, group in groupby(assignment.values())]
    return ", ".join(f"{name} × {count}" for name, count in runs)


# --- A board --------------------------------------------------------------------------------------


def board_controls() -> list[Control]:
    """What a person can say of a board; 0 is no limit."""
    return [
        linked.real("flash", 0.0, 1e9, 0.0),
        linked.real("ram", 0.0, 1e9, 0.0),
        linked.real("ms", 0.0, 1e9, 0.0),
        linked.real("speed", 1e-4, 1e4, 1.0),
    ]


def the_board(page: str, values: dict[str, Any], bundle: Bundle) -> None:
    """Flash, memory, time and speed; and the path that fits best, to download."""
    st.subheader("A format for a board", anchor=False)
    columns = st.columns(4)
    for column, (key, label, help) in zip(
        columns,
        (
            ("flash", "Flash, kB", "For the packed weights of embedder and head; 0 is no limit."),
            ("ram", "RAM, kB", "For activations, spectrogram and five seconds of samples; 0 is no limit."),
            ("ms", "Time a clip, ms", "From waveform to decision, for five seconds of sound; 0 is no limit."),
            ("speed", "Speed of the board", "Beside the machine below: 0.25 is a quarter as fast."),
        ),
        strict=True,
    ):
        column.number_input(
            label, min_value=0.0001 if key == "speed" else 0.0, key=widget(page, key), help=help, format="%g"
        )
    report = the_machine(bundle)
    limits = {key: values[key] or None for key in ("flash", "ram", "ms")}
    board = Board(
        limits["flash"] and 1e3 * limits["flash"],
        limits["ram"] and 1e3 * limits["ram"],
        limits["ms"] and 1e3 * limits["ms"],
        values["speed"],
    )
    found = boards.fits(boards.shipped(), board, report)
    if not found:
        widgets.empty("That result has no times of our embedders; measure without --embedder.")
        return
    the_answer(found[0], len([fit for fit in found if not fit.misses]))
    widgets.figure(
        path_charts.board(found, board.flash_bytes, widgets.theme()),
        alt="F1 against bytes: "
        + "; ".join(f"{f.path.name} {f.path.mean_f1:.3f}, {f.path.bytes:,}" for f in found),
        key="board",
    )
    with st.expander("All paths on this board"):
        the_fits(found)
    widgets.caption(
        f"Times: {machines.described(report)}, divided by {values['speed']:g}. A factor is a guess where "
        "processors differ in vector units; qmoe bench path --out FILE on the board measures it. No board "
        "is listed by name: no published figure of one was found that these times could be compared with."
    )


def the_machine(bundle: Bundle) -> BenchReport:
    """The result that times come from: the reference machine's, this one's, or a file's."""
    kept = measured.latest("path", bundle)
    reports = {REFERENCE: machines.reference()} | ({HERE: kept.report} if kept else {})
    with st.expander("Results of other machines"):
        files = st.file_uploader(
            "Files that `qmoe bench path --out FILE` wrote", type=["json"], accept_multiple_files=True
        )
        for file in files or ():
            try:
                reports[file.name] = machines.read(file.getvalue(), file.name)
            except UserError as error:
                widgets.error(error)
        rows = [
            {"machine": name, "where": machines.described(report)} | _medians(report)
            for name, report in reports.items()
        ]
        tables.table(MACHINE_COLUMNS, rows, name="machines", title="Machines", label="Machines")
    names = list(reports)
    chosen = (
        st.selectbox("Compared with", names, index=len(names) - 1 if files else 0)
        if len(names) > 1
        else REFERENCE
    )
    return reports[chosen or REFERENCE]


MACHINE_COLUMNS = (
    Column("machine", "Machine", number=False),
    *(
        Column(name, f"{name}, µs", three, "Median from waveform to decision, five seconds of sound.")
        for name in ("ds-cnn:fp32", "ds-cnn:q8", "ds-cnn:q4", "ds-cnn:q1", "logmel-stats:q8", "mn04:q8")
    ),
    Column("where", "Conditions", number=False),
)


def _medians(report: BenchReport) -> dict[str, float]:
    return {row["name"]: row["p50_us"] for row in report.rows}


def the_answer(best: OnBoard, fitting: int) -> None:
    """The best path in a sentence, and its file."""
    path = best.path
    scores = numbers.listed(
        f"{score.mean:.3f} ± {score.std:.3f} on {name} (n = {score.n})" for name, score in path.f1.items()
    )
    costs = (
        f"{path.bytes / 1e3:.0f} kB of flash ({path.embedder} {path.embedder_bytes / 1e3:.0f}, head "
        f"{path.head} {path.head_bytes / 1e3:.0f}), {path.memory_bytes / 1e3:.0f} kB of RAM, "
        f"{best.us / 1e3:.2f} ms a clip"
    )
    if best.misses:
        sentence = f"Nearest is {path.name}: it needs {numbers.listed(best.misses)}."
        widgets.verdict_block(Verdict("Nothing fits", sentence, refused=True), "")
        return
    sentence = f"The best of {fitting} that fit: {costs}. F1 {scores}."
    widgets.verdict_block(Verdict(path.name, sentence, refused=False), widgets.theme().accent)
    if path.file:
        data = (bundles.shipped() / boards.FOLDER / path.file).read_bytes()
        st.download_button(
            f"Download {path.file}, {len(data) / 1e3:.0f}{NBSP}kB",
            data,
            path.file,
            "application/octet-stream",
            icon=":material/download:",
            on_click="ignore",
        )


FIT_COLUMNS = (
    Column("name", "Path", number=False, meaning="Format of the embedder + format of the head."),
    Column("flash", "flash, kB", decimals(0), "Packed files of embedder and head."),
    Column("ram", "RAM, kB", decimals(0), "Activations, spectrogram and five seconds of 16-bit samples."),
    Column("ms", "a clip, ms", decimals(2), "From waveform to decision, on the board."),
    Column("front_end", "front end, ms", decimals(2), "Waveform to spectrogram."),
    Column("embedder", "embedder, ms", decimals(2), "Spectrogram to embedding."),
    Column("head", "head, ms", decimals(3), "Embedding to decision."),
)


def the_fits(found: Sequence[OnBoard]) -> None:
    """Every path with its figures, and why it does not fit."""
    sets = list(found[0].path.f1)
    rows = []
    for fit in found:
        scale = fit.us / fit.time.us / 1e3
        rows.append(
            {
                "name": fit.path.name,
                "flash": fit.path.bytes / 1e3,
                "ram": fit.path.memory_bytes / 1e3,
                "ms": fit.us / 1e3,
                "front_end": fit.time.front_end_us * scale,
                "embedder": fit.time.embedder_us * scale,
                "head": fit.time.head_us * scale,
                **{name: fit.path.f1[name].mean for name in sets},
                "fits": "; ".join(fit.misses) or "yes",
                "dim": bool(fit.misses),
                "mark": fit is found[0] and not fit.misses,
            }
        )
    columns = [
        *FIT_COLUMNS,
        *(
            Column(name, f"F1, {name}", decimals(3), r"Weighted $F_1 = \frac{2\,TP}{2\,TP+FP+FN}$.")
            for name in sets
        ),
        Column("fits", "fits", number=False, meaning="Whether it fits the board, and if not, why."),
    ]
    tables.table(columns, rows, name="board", title="Paths on the board", label="Paths")
