"""Claims 19–24: what was timed, what the energy is made of, and which of its units and ratios add up."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np

from qmoe_core.evaluation.significance import bootstrap_interval
from qmoe_core.measure import bench, energy
from qmoe_core.numbers import percent, scientific
from qmoe_core.paper import reference
from qmoe_core.paper.claim import (
    Claim,
    Figures,
    Materials,
    Picture,
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
PER_DAY = 1e6
"""Inferences a day of the paper's deployment (A.1)."""


def _here(threads: int) -> str:
    return f"{threads} thread{'s' * (threads != 1)}, {processor()}"


def _validation_s(m: Materials) -> np.ndarray:
    """Seconds for the float expert to judge the test clips of one fold, [runs]."""
    expert = m.bundle.expert("fp32")
    fold = np.ascontiguousarray(m.z[: len(m.z) // 5])
    expert.logits(fold)
    runs = []
    for _ in range(30):
        started = time.perf_counter()
        expert.logits(fold)
        runs.append(time.perf_counter() - started)
    return np.array(runs)


def _tracked(m: Materials) -> Figures:
    fold = np.ascontiguousarray(m.z[: len(m.z) // 5])
    expert = m.bundle.expert("fp32")
    expert.logits(fold)
    # The first tracker of a process also imports codecarbon, which is no part of the phase.
    energy.track("warm-up", "FRA", lambda: 1)
    whole, work = np.array([reference.tracked_phase(lambda: expert.logits(fold)) for _ in range(PHASES)]).T
    low, high = bootstrap_interval(work / whole, lambda resampled: np.median(resampled, axis=1))
    values = {
        "whole_ms": 1e3 * float(np.median(whole)),
        "inference_ms": 1e3 * float(np.median(work)) / len(fold),
        "share": float(np.median(work / whole)),
        "share_low": low,
        "share_high": high,
        "printed_ms": float(table(4).row(model="FP32-Base")["latency"].value or 0.0),
    }
    return Figures(values, f"n = {len(whole)} phases of {len(fold)} clips, {_here(1)}")


def _judge_tracked(v: Values) -> Ruling:
    ours = (
        f"Timed as the code does, validating one fold takes {v['whole_ms']:,.0f} ms, of which "
        f"{percent(v['share'], 1)} (95 %: {percent(v['share_low'], 1)}–{percent(v['share_high'], 1)}) is "
        f"inference; one inference takes {v['inference_ms']:.4f} ms, the paper prints "
        f"{v['printed_ms']:,.0f} ms."
    )
    return ruling(
        v["share"] > 0.5,
        ours,
        "Most of what is timed is inference.",
        "What is timed is a phase of validation with its profiler and tracker; inference is a small part of "
        "it, so neither the figure nor its deviation is that of an inference.",
    )


def _profiled(m: Materials) -> Figures:
    seconds = float(np.median(_validation_s(m)))
    starts = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        starts.append(time.perf_counter() - started)
    values = {
        "runs": float(reference.profiler_runs(seconds)),
        "phase_ms": 1e3 * seconds,
        "process_ms": 1e3 * float(np.median(starts)),
    }
    return Figures(values, f"n = 30 phases of {len(m.z) // 5} clips and 3 process starts, {_here(1)}")


def _judge_profiled(v: Values) -> Ruling:
    spent = v["runs"] * v["process_ms"]
    ours = (
        f"A phase of {v['phase_ms']:.2f} ms is run {v['runs']:.0f} times by the profiler’s rule, each "
        f"time beside a new process; {v['runs']:.0f} starts of a bare one take {spent:,.0f} ms here, "
        f"{spent / v['phase_ms']:,.0f}× the phase. The figures that the curiosity phase also draws are "
        "not in this."
    )
    return ruling(
        v["runs"] == 1.0,
        ours,
        "The profiler runs the phase once, so that it is timed as it is.",
        "The profiler repeats whatever is short, and how often depends on how short it is: the time "
        "printed is not that of one pass.",
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
    picture = Picture(
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
    savings = {}
    for key, dataset in DATASETS.items():
        four, eight = (table(2).row(bits=bits, dataset=dataset)["energy"].value for bits in ("4", "8"))
        assert four is not None
        assert eight is not None
        savings[key] = 1.0 - four / eight
        if key == "esc50":
            # Half a unit of the last printed digit either way.
            low, high = 1.0 - (four + 5e-4) / (eight - 5e-4), 1.0 - (four - 5e-4) / (eight + 5e-4)
            inverse = eight / four - 1.0
    values = {"claimed": 0.41, **savings, "esc50_low": low, "esc50_high": high, "inverse": inverse}
    picture = Picture(
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
        f"with "
        f"rounding), {percent(v['quinn'], 0)} on Quinn and {percent(v['urban8k'], 0)} on UrbanSound8K; 8-bit "
        f"takes "
        f"{percent(v['inverse'], 0)} more than 4-bit on ESC-50."
    )
    return ruling(
        v["esc50_low"] <= v["claimed"] <= v["esc50_high"],
        ours,
        "The saving is that of the two printed energies.",
        "41 % is how much more 8-bit takes, not how much 4-bit saves, and two of three datasets show nothing "
        "of it.",
    )


def _break_even(_: Materials) -> Figures:
    training_g, yearly_g = 22.8e-6, 2.4
    per_inference_g = yearly_g / (PER_DAY * 365.0)
    plan = energy.deployment(training_g / GRID, per_inference_g / GRID * energy.KWH_TO_MJ, PER_DAY, GRID)
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
    picture = Picture(
        "lines",
        "inferences served",
        "g CO2",
        (
            Series("deployment", inferences.tolist(), (per_inference_g * inferences).tolist()),
            Series("training", inferences.tolist(), [training_g] * len(inferences)),
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


CLAIMS = (
    Claim(
        19,
        "latency",
        "Table 4’s latency, 1,163 to 1,335 ms, is inference latency.",
        "§5.4, Tables 2–4",
        "Time a fold’s validation as the public code does, with a fresh emissions tracker around it, and "
        "look how much of it is inference.",
        "1,254 ± 42 ms for FP32-Base",
        "experiment",
        _tracked,
        _judge_tracked,
    ),
    Claim(
        20,
        "latency",
        "Latency and peak memory are those of one pass over the validation clips.",
        "§5.4, Table 4; public code",
        "Time the pass and apply the profiler’s rule of repeating what is short; time the process that it "
        "starts for each run.",
        "one run of memory_profiler around the phase",
        "experiment",
        _profiled,
        _judge_profiled,
    ),
    Claim(
        21,
        "latency",
        "Energy is in millijoules and CO2 in micrograms, per inference.",
        "§5.3, Tables 2, 3 and 6",
        "Divide Table 3’s CO2 by its energy and compare with what a millijoule emits on the paper’s grid.",
        "0.207–0.621 mJ, 76–228 µg per inference",
        "arithmetic",
        _units,
        _judge_units,
    ),
    Claim(
        22,
        "latency",
        "CO2 emissions correlate strongly with energy (r = 0.97).",
        "§5.3",
        "Recompute r and the ratio of the two columns; see how much of the CO2 duration alone explains, "
        "and how much of a tracker’s energy is a constant for the memory.",
        "r = 0.97",
        "experiment",
        _correlated,
        _judge_correlated,
    ),
    Claim(
        23,
        "latency",
        "4-bit quantization saves 41 % of the energy of 8-bit.",
        "Abstract, §1, §5.2, B.1, Table 2",
        "Recompute the saving from the printed energies of each dataset, with the range that rounding "
        "allows.",
        "41 % (0.034 against 0.048)",
        "arithmetic",
        _saving,
        _judge_saving,
    ),
    Claim(
        24,
        "latency",
        "Deployment emits 10,000 times what training does for models that serve more than 1,000 inferences.",
        "Abstract, §1, A.1",
        "From the training’s 22.8 µg and the deployment’s 2.4 g a year at a million inferences a day, "
        "compute the emissions of an inference and the volume at which both are equal.",
        "10,000× beyond 1,000 inferences",
        "arithmetic",
        _break_even,
        _judge_break_even,
    ),
)
