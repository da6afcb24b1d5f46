"""Claims 19–24, 37, 38 and 42: what was timed, what the energy is made of, which units and ratios add up."""

from __future__ import annotations

import time

import numpy as np

from qmoe_core import engine
from qmoe_core.audio.decode import WINDOW_SAMPLES
from qmoe_core.evaluation.significance import bootstrap_interval
from qmoe_core.measure import bench, energy, size
from qmoe_core.numbers import percent, scientific
from qmoe_core.paper import reference
from qmoe_core.paper.claim import (
    COMMIT,
    Claim,
    ClaimFigure,
    Figures,
    Materials,
    Ruling,
    Series,
    Values,
    ruling,
)
from qmoe_core.paper.tables import DATASETS, full_name, table
from qmoe_core.runtime.system import processor

GRID = 367.0
"""g CO2 a kWh, the paper's own (A.1)."""
MUG_PER_MJ = GRID * 1e6 / energy.KWH_TO_MJ
"""µg CO2 that a millijoule stands for on that grid."""
PHASES = 9
"""Tracked phases whose median counts: on a busy machine single ones tell nothing."""
EMBEDDER = "efficientnet_b3"
"""The paper's, with random weights here: they do not change its time."""
PATHS = 5
TRAINING_G, YEARLY_G = 22.8e-6, 2.4
"""Emissions of FP32-Base's training and of a year of its deployment (A.1)."""
PER_DAY = 1e6
"""Inferences a day of the paper's deployment (A.1)."""


def _here(threads: int) -> str:
    return f"{threads} thread{'s' * (threads != 1)}, {processor()}"


def _phases(m: Materials) -> list[reference.Phase]:
    """Validation phases as the public code times them, with its sizes and its engine."""

    def made() -> list[reference.Phase]:
        validate = reference.validation()
        reference.timed_phase(validate)  # the first tracker of a process imports codecarbon, which is no part
        return [reference.timed_phase(validate) for _ in range(PHASES)]

    return m.once("phases", made)


def _phase_basis(phases: list[reference.Phase]) -> str:
    clips, batch = reference.VALIDATED_CLIPS, reference.BATCH
    return f"n = {len(phases)} phases of {clips} clips, batches of {batch}, torch fp32, {_here(1)}"


def _tracked(m: Materials) -> Figures:
    phases = _phases(m)
    whole, work, runs = (
        np.array([getattr(phase, key) for phase in phases]) for key in ("whole_s", "work_s", "runs")
    )
    low, high = bootstrap_interval(work / whole, lambda resampled: np.median(resampled, axis=1))
    values = {
        "whole_ms": 1e3 * float(np.median(whole)),
        "inference_ms": 1e3 * float(np.median(work / runs)) / reference.VALIDATED_CLIPS,
        "share": float(np.median(work / whole)),
        "share_low": low,
        "share_high": high,
        "printed_ms": float(table(4).row(model="FP32-Base")["latency"].value or 0.0),
    }
    return Figures(values, _phase_basis(phases))


def _judge_tracked(v: Values) -> Ruling:
    ours = (
        f"Timed as the code does, validating one fold takes {v['whole_ms']:,.0f} ms (divided by 5, as its "
        f"script of the tables does: {v['whole_ms'] / 5.0:,.0f} ms), of which "
        f"{percent(v['share'], 0)} (95 %: {percent(v['share_low'], 0)}–{percent(v['share_high'], 0)}) is "
        f"inference; one inference takes {v['inference_ms']:.4f} ms, the paper prints "
        f"{v['printed_ms']:,.0f} ms."
    )
    return ruling(
        v["share_low"] > 0.5 and v["inference_ms"] > 0.5 * v["printed_ms"],
        ours,
        "What is timed is mostly inference, and one inference takes about what is printed.",
        "What is timed is a phase that validates a whole fold, with its profiler and tracker; neither the "
        "figure nor its deviation is that of an inference.",
    )


def _profiled(m: Materials) -> Figures:
    phases = _phases(m)
    runs = np.array([phase.runs for phase in phases], float)
    around = np.array([phase.profiled_s / phase.work_s for phase in phases])
    low, high = bootstrap_interval(around, lambda resampled: np.median(resampled, axis=1))
    values = {
        "runs": float(runs.max()),
        "once": float((runs == 1.0).sum()),
        "phases": float(len(phases)),
        "pass_ms": 1e3 * float(np.median([phase.work_s / phase.runs for phase in phases])),
        "around": float(np.median(around)),
        "around_low": low,
        "around_high": high,
    }
    return Figures(values, _phase_basis(phases))


def _judge_profiled(v: Values) -> Ruling:
    ours = (
        f"The profiler ran the pass of {v['pass_ms']:.1f} ms once in {v['once']:.0f} of {v['phases']:.0f} "
        f"phases (at most {v['runs']:.0f} times), and the time around it is {v['around']:.2f} times the pass "
        f"(95 %: {v['around_low']:.2f}–{v['around_high']:.2f}). The figures that the curiosity phase also "
        "draws are not in this."
    )
    return ruling(
        v["runs"] == 1.0 and v["around_high"] < 1.5,
        ours,
        "The profiler runs the pass once and adds less than half to its time.",
        "The time printed is that of the pass and of the process that samples its memory, and the profiler "
        "repeats what is too short for five samples: it is not that of one pass.",
    )


def _units(_: Materials) -> Figures:
    rows = table(3)
    per_unit = rows.values("co2") / rows.values("energy")
    values = {
        "ratio": float(np.median(per_unit)),
        "ratio_low": float(per_unit.min()),
        "ratio_high": float(per_unit.max()),
        "expected": MUG_PER_MJ,
        "grid": GRID,
    }
    return Figures(values, f"Table 3, {len(rows.rows)} mixtures; {GRID:.0f} g CO2/kWh (A.1)")


def _judge_units(v: Values) -> Ruling:
    implied = v["ratio"] / v["expected"] * v["grid"]
    ours = (
        f"The table has {v['ratio']:.0f} µg for each mJ ({v['ratio_low']:.0f}–{v['ratio_high']:.0f}); on "
        f"a grid of {v['grid']:.0f} g/kWh a millijoule is {v['expected']:.3f} µg. In the printed units "
        f"the grid would emit {scientific(implied)} g/kWh; read as Wh and mg, as kWh × 1000 is, it is "
        f"{v['ratio']:.0f} g/kWh."
    )
    return ruling(
        abs(v["ratio"] / v["expected"] - 1.0) < 0.1,
        ours,
        "Energy and CO2 agree with each other in the units printed.",
        "Energy (mJ) is Wh of a whole run and CO2 (µg) is mg: neither is per inference, and both are "
        "called so.",
    )


def _correlated(m: Materials) -> Figures:
    rows = table(3)
    printed_energy, printed_co2 = rows.values("energy"), rows.values("co2")
    ratio = printed_co2 / printed_energy
    carbon = table(6)
    seconds = carbon.values("co2") / carbon.values("rate")
    by_time = np.corrcoef(np.log(seconds), np.log(carbon.values("co2")))[0, 1]
    kept = bench.last("energy", m.store)
    if kept is not None:
        gross, ram = (sum(row[key] * row["n"] for row in kept.rows) for key in ("gross_mj", "ram_mj"))
        share, measured = (
            ram / gross,
            f"the energy benchmark kept here ({sum(r['n'] for r in kept.rows):,} calls)",
        )
    else:
        block = energy.track("busy", "FRA", lambda: _busy(m, 2.0))
        share, measured = block.ram_kwh / block.gross_kwh, f"short form: {block.calls:,} calls in 2 s"
    values = {
        "r": float(np.corrcoef(printed_energy, printed_co2)[0, 1]),
        "ratio_spread": float(ratio.std(ddof=1) / ratio.mean()),
        "time_share": float(by_time**2),
        "ram_share": float(share),
    }
    names = [full_name(row["model"].printed) for row in carbon.rows]
    picture = ClaimFigure(
        "points",
        "duration, s (CO2 / rate)",
        "CO2 as printed",
        tuple(
            Series(name, [s], [c])
            for name, s, c in zip(names, seconds.tolist(), carbon.values("co2").tolist(), strict=True)
        ),
        log="xy",
    )
    return Figures(values, f"Tables 3 and 6; RAM: {measured}, modelled by codecarbon, {_here(1)}", picture)


def _busy(m: Materials, seconds: float) -> int:
    expert, fold = m.bundle.expert("fp32"), np.ascontiguousarray(m.z[:1])
    until, calls = time.perf_counter() + seconds, 0
    while time.perf_counter() < until:
        expert.logits(fold)
        calls += 1
    return calls


def _judge_correlated(v: Values) -> Ruling:
    ours = (
        f"r = {v['r']:.4f} over Table 3, whose CO2 is its energy times one number (it varies by "
        f"{percent(v['ratio_spread'], 1)}). Duration alone explains {percent(v['time_share'], 1)} of the "
        f"CO2 in Table 6, and a constant for the memory is {percent(v['ram_share'], 0)} of the energy that "
        "the tracker reports here."
    )
    return ruling(
        v["r"] > 0.9,
        ours,
        "They do, and cannot but: CO2 is the energy times a constant, and the energy is constants times "
        "time, so the correlation says nothing of the models except how long they trained.",
        "The two columns are not strongly correlated.",
    )


def _saving(_: Materials) -> Figures:
    savings, energies = {}, {}
    for key, dataset in DATASETS.items():
        four, eight = (table(2).row(bits=bits, dataset=dataset)["energy"].value for bits in ("4", "8"))
        assert four is not None
        assert eight is not None
        savings[key], energies[key] = 1.0 - four / eight, (four, eight)
    four, eight = energies["esc50"]
    # Half a unit of the last printed digit either way.
    low, high = 1.0 - (four + 5e-4) / (eight - 5e-4), 1.0 - (four - 5e-4) / (eight + 5e-4)
    inverse = eight / four - 1.0
    values = {"claimed": 0.41, **savings, "esc50_low": low, "esc50_high": high, "inverse": inverse}
    picture = ClaimFigure(
        "bars",
        "",
        "energy, as printed",
        tuple(
            Series(
                f"{bits}-bit",
                list(DATASETS.values()),
                [table(2).row(bits=bits, dataset=d)["energy"].value or 0.0 for d in DATASETS.values()],
            )
            for bits in ("4", "8")
        ),
    )
    return Figures(values, "Table 2, 5 folds a figure", picture)


def _judge_saving(v: Values) -> Ruling:
    ours = (
        f"{percent(v['esc50'], 0)} on ESC-50 ({percent(v['esc50_low'], 0)}–{percent(v['esc50_high'], 0)} "
        f"with rounding), {percent(v['quinn'], 0)} on Quinn and {percent(v['urban8k'], 0)} on UrbanSound8K; "
        f"8-bit takes {percent(v['inverse'], 0)} more than 4-bit on ESC-50."
    )
    return ruling(
        v["esc50_low"] <= v["claimed"] <= v["esc50_high"],
        ours,
        "The saving is that of the two printed energies.",
        "41 % is how much more 8-bit takes, not how much 4-bit saves, and two of three datasets show nothing "
        "of it.",
    )


def _break_even(_: Materials) -> Figures:
    per_inference_g = YEARLY_G / (PER_DAY * 365.0)
    plan = energy.deployment(TRAINING_G / GRID, per_inference_g / GRID * energy.KWH_TO_MJ, PER_DAY, GRID)
    most, least = (
        table(3).row(model=name)["co2"].value for name in ("BitNet-Q4/8/16-QMoE", "BitNet-Q8PTQ-QMoE")
    )
    assert most is not None
    assert least is not None
    values = {
        "claimed": 1000.0,
        "break_even": plan.break_even_inferences,
        "for_ten_thousand": 1e4 * plan.break_even_inferences,
        "single_yearly_g": plan.yearly_g,
        "mixture_saving_kg": (most - least) * 1e-6 * PER_DAY * 365.0 / 1e3,
    }
    inferences = np.geomspace(1e2, 1e9, 22)
    picture = ClaimFigure(
        "lines",
        "inferences served",
        "g CO2",
        (
            Series("deployment", inferences.tolist(), (per_inference_g * inferences).tolist()),
            Series("training", inferences.tolist(), [TRAINING_G] * len(inferences)),
        ),
        log="xy",
    )
    return Figures(values, "§5.3 and A.1; FP32-Base, 1 M inferences a day", picture)


def _judge_break_even(v: Values) -> Ruling:
    ours = (
        f"Deployment has emitted as much as training after {v['break_even']:,.0f} inferences, and 10,000 "
        f"times as much after {v['for_ten_thousand'] / 1e6:,.0f} million. For the same million inferences "
        f"a day the paper gives {v['single_yearly_g']:.1f} g a year for one model and a difference of "
        f"{v['mixture_saving_kg']:,.0f} kg a year between two others."
    )
    return ruling(
        v["for_ten_thousand"] <= v["claimed"],
        ours,
        "At the volume claimed deployment does outweigh training ten thousand times.",
        "At 1,000 inferences deployment has emitted less than training did, by the paper’s own figures.",
    )


def _a_year(_: Materials) -> Figures:
    values = {"claimed": 1e4, "ratio": YEARLY_G / TRAINING_G, "per_day": PER_DAY}
    return Figures(values, "A.1; FP32-Base, 1 M inferences a day for a year")


def _judge_a_year(v: Values) -> Ruling:
    ours = (
        f"2.4 g a year are {v['ratio']:,.0f} times the 22.8 µg of the training. Both figures are in the "
        "paper’s units (claim 21); their ratio does not depend on those."
    )
    return ruling(
        v["ratio"] > v["claimed"],
        ours,
        "At that volume deployment dominates by far, so that the cost of an inference is what counts.",
        "At that volume deployment does not dominate by four orders of magnitude.",
    )


def _touched(m: Materials) -> Figures:
    """Time of the parts of one clip's way, waveform to logits, with the paper's embedder."""
    from qmoe_core import embedders

    embedder = embedders.create(EMBEDDER, weights="random")
    noise = np.random.default_rng(0).normal(0.0, 0.1, (1, WINDOW_SAMPLES)).astype(np.float32)
    head = engine.PackedExpert(size.random_expert("fp32"))
    z = np.zeros((1, head.dim), np.float32)
    parts: dict[str, list[float]] = {"embedding": [], "head": []}
    for call in (lambda: embedder.embed(noise), lambda: head.logits(z)):
        call()
    for _ in range(PATHS):
        for name, call in (("embedding", lambda: embedder.embed(noise)), ("head", lambda: head.logits(z))):
            started = time.perf_counter()
            call()
            parts[name].append(time.perf_counter() - started)
    embedding, heads = (np.array(times) for times in parts.values())
    share = heads / (heads + embedding)
    low, high = bootstrap_interval(share, lambda s: np.median(s, axis=1))
    values = {
        "embedding_ms": 1e3 * float(np.median(embedding)),
        "head_ms": 1e3 * float(np.median(heads)),
        "share": float(np.median(share)),
        "share_low": low,
        "share_high": high,
    }
    return Figures(values, f"n = {PATHS} clips of 5 s, batch 1, {_here(1)}; {EMBEDDER} with random weights")


def _judge_touched(v: Values) -> Ruling:
    ours = (
        f"From waveform to logits the embedder takes {v['embedding_ms']:,.0f} ms and the float classifier "
        f"{v['head_ms']:.3f} ms: {percent(v['share'], 2)} of the path (95 %: {percent(v['share_low'], 2)}–"
        f"{percent(v['share_high'], 2)}) is what the formats of the paper change."
    )
    return ruling(
        v["share_high"] > 0.5,
        ours,
        "Most of the path is the classifier, so its cost is about that of classifying a sound.",
        "What is measured begins after the embedder, which stays in float and is nearly all of the work; "
        "whatever the format of the classifier is, time and energy from the sound on hardly change.",
    )


def _peak_memory(_: Materials) -> Figures:
    weights, peak = 1e3 * table(7).values("kilobytes"), 1e9 * table(4).values("ram")
    values = {
        "weights_mb": weights.max() / 1e6,
        "peak_gb": peak.min() / 1e9,
        "share": weights.max() / peak.min(),
    }
    return Figures({key: float(value) for key, value in values.items()}, "Tables 4 and 7, all models")


def _judge_peak_memory(v: Values) -> Ruling:
    ours = (
        f"The largest weights of Table 7 are {v['weights_mb']:.2f} MB, the smallest peak of Table 4 is "
        f"{v['peak_gb']:.2f} GB: at most {percent(v['share'], 1)} of it are weights."
    )
    return ruling(
        v["share"] < 0.5,
        ours,
        "Weights are a small part of every peak that is printed, so that a smaller model saves next to none "
        "of it.",
        "Weights may be most of the peak.",
    )


CLAIMS = (
    Claim(
        19,
        "latency",
        "reproduction",
        "Table 4’s latency, 1,163 to 1,335 ms, is inference latency.",
        f"§5.4, Tables 2–4; {COMMIT}",
        "Time a fold’s validation as the public code does (400 clips of 1,536 numbers, batches of 64, torch, "
        "memory_profiler every 0.01 s, a fresh emissions tracker), and see how much of it is inference.",
        "1,254 ± 42 ms for FP32-Base",
        "A phase that is mostly inference, of which one takes at least half of what is printed.",
        "experiment",
        _tracked,
        _judge_tracked,
    ),
    Claim(
        20,
        "latency",
        "reproduction",
        "Latency and peak memory are those of one pass over the validation clips.",
        f"§5.4, Table 4; {COMMIT}",
        "Run the pass under memory_profiler as the code does, count how often it runs it, and time both.",
        "one run of memory_profiler around the phase",
        "A profiler that runs the phase once and adds less than half to its time.",
        "experiment",
        _profiled,
        _judge_profiled,
    ),
    Claim(
        21,
        "latency",
        "arithmetic",
        "Energy is in millijoules and CO2 in micrograms, per inference.",
        "§5.3, Tables 2, 3 and 6",
        "Divide Table 3’s CO2 by its energy and compare with what a millijoule emits on the paper’s grid.",
        "0.207–0.621 mJ, 76–228 µg per inference",
        "A ratio of the two columns that is the grid’s intensity in the printed units.",
        "arithmetic",
        _units,
        _judge_units,
    ),
    Claim(
        22,
        "latency",
        "arithmetic",
        "CO2 emissions correlate strongly with energy (r = 0.97).",
        "§5.3",
        "Recompute r and the ratio of the two columns; see how much of the CO2 duration alone explains, "
        "and how much of a tracker’s energy is a constant for the memory.",
        "r = 0.97",
        "A correlation of the two columns below 0.9.",
        "experiment",
        _correlated,
        _judge_correlated,
    ),
    Claim(
        23,
        "latency",
        "arithmetic",
        "4-bit quantization saves 41 % of the energy of 8-bit.",
        "Abstract, §1, §5.2, B.1, Table 2",
        "Recompute the saving from the printed energies of each dataset, with the range that rounding "
        "allows.",
        "41 % (0.034 against 0.048)",
        "Energies in Table 2 whose ratio gives 41 % within rounding.",
        "arithmetic",
        _saving,
        _judge_saving,
    ),
    Claim(
        24,
        "latency",
        "arithmetic",
        "Deployment emits 10,000 times what training does for models that serve more than 1,000 inferences.",
        "Abstract, §1, A.1",
        "From the training’s 22.8 µg and the deployment’s 2.4 g a year at a million inferences a day, "
        "compute the emissions of an inference and the volume at which both are equal.",
        "10,000× beyond 1,000 inferences",
        "Emissions of which 1,000 inferences are 10,000 times those of the training.",
        "arithmetic",
        _break_even,
        _judge_break_even,
    ),
    Claim(
        37,
        "latency",
        "arithmetic",
        "At a million inferences a day, a year of deployment emits over 10,000 times what training does.",
        "Abstract, A.1",
        "Divide the two figures of A.1.",
        "22.8 µg and 2.4 g, “105,000×”",
        "Figures of A.1 whose ratio is below 10,000.",
        "arithmetic",
        _a_year,
        _judge_a_year,
    ),
    Claim(
        38,
        "latency",
        "reproduction",
        "The latency, energy and CO2 called “per inference” are those of classifying a sound.",
        "§5.2–5.4; what an inference takes in is in §3.1 and Figure 1",
        "Time the way of a clip from waveform to logits with the paper’s embedder and a float classifier of "
        "its sizes, and see which share the classifier is.",
        "latency, energy and CO2 “per inference”",
        "A share of the classifier above one half, by an interval.",
        "experiment",
        _touched,
        _judge_touched,
    ),
    Claim(
        42,
        "latency",
        "arithmetic",
        "Peak memory is dominated by the framework rather than by weights.",
        "§5.4, Table 4",
        "Divide the largest weights of Table 7 by the smallest peak of Table 4.",
        "0.86–1.17 GB for 1.2 to 5.0 M parameters",
        "Weights that are half of a peak or more.",
        "arithmetic",
        _peak_memory,
        _judge_peak_memory,
    ),
)
