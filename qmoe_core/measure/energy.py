"""Energy and CO2 of serving, in randomised interleaved blocks, with idle blocks subtracted.

codecarbon reads the processor's energy meter (RAPL) where there is one; then the CPU's share is
*measured*. Elsewhere it multiplies a constant (the processor's thermal design power) with the load, and
the memory's share is always a constant times the time: such figures are *modelled*, restate the time a
thing takes, and say so on every row. CPU-seconds stand beside them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from qmoe_core.errors import Cancelled, ConfigError
from qmoe_core.evaluation.significance import bootstrap_interval
from qmoe_core.measure.latency import Contestant, quiet

IDLE = "idle"
MIN_BLOCK_S = 10.0
QUOTABLE_BLOCK_S = 60.0
KWH_TO_MJ = 3.6e9
"""Millijoules in a kilowatt-hour."""
METERED = frozenset({"intel_rapl", "intel_power_gadget", "windows_emi", "apple_powermetrics"})

Source = Literal["measured", "modelled"]


@dataclass(frozen=True)
class EnergyBlock:
    """One contestant (or nobody: `idle`) running alone for a while; energies in kWh."""

    name: str
    calls: int
    wall_s: float
    cpu_s: float
    cpu_kwh: float
    ram_kwh: float
    grid_g_per_kwh: float
    source: Source

    @property
    def gross_kwh(self) -> float:
        """CPU and memory together."""
        return self.cpu_kwh + self.ram_kwh


@dataclass(frozen=True)
class EnergyRow:
    """Energy of one inference; mJ, and µg of CO2 for the chosen grid.

    gross: all that was drawn while it ran. net: less what the idle machine draws in that time.
    """

    name: str
    source: Source
    n: int
    blocks: int
    block_s: float
    threads: int
    cpu_s_per_million: float
    gross_mj: float
    cpu_mj: float
    ram_mj: float
    net_mj: float
    co2_ug: float
    """Of the gross energy."""
    ratio_vs_fp32: float
    """Gross energy of the baseline over this one's, above 1 is less energy; paired by repetition."""
    ci95: tuple[float, float]
    note: str

    def to_json(self) -> dict[str, Any]:
        """As `qmoe bench energy --json` prints it."""
        return {**self.__dict__, "ci95": list(self.ci95)}


@contextmanager
def _silent() -> Iterator[None]:
    """codecarbon logs at import and start whatever it is told."""
    logger = logging.getLogger("codecarbon")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def track(name: str, country: str, work: Callable[[], int]) -> EnergyBlock:
    """Run `work` (it returns its number of calls) under a fresh offline tracker.

    Args:
        country: three-letter ISO code; decides the grid's carbon intensity.

    Raises:
        ConfigError: codecarbon does not know the country, or is not installed.
    """
    try:
        from codecarbon import OfflineEmissionsTracker
    except ImportError:
        raise ConfigError(
            "energy needs codecarbon, which is not installed: pip install 'qmoe-lab[lab]'"
        ) from None
    with _silent():
        # A tracker that is started again keeps adding to its first measurement, so each block has its own.
        tracker = OfflineEmissionsTracker(
            country_iso_code=country,
            measure_power_secs=1,
            tracking_mode="process",
            output_methods=[],
            log_level="critical",
            allow_multiple_runs=True,
        )
        tracker.start()
        wall, cpu = time.perf_counter(), time.process_time()
        calls = work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        tracker.stop()
    # codecarbon swallows its own exceptions; a tracker that failed has no data, or none of the country.
    data = getattr(tracker, "final_emissions_data", None)
    if data is None or not data.country_name:
        raise ConfigError(
            f"codecarbon could not measure for the country {country}; accepted are codes such as FRA or USA"
        )
    modes = {getattr(hardware, "_mode", None) for hardware in tracker._hardware}
    return EnergyBlock(
        name=name,
        calls=calls,
        wall_s=wall,
        cpu_s=cpu,
        cpu_kwh=data.cpu_energy,
        ram_kwh=data.ram_energy,
        grid_g_per_kwh=1e3 * data.emissions / data.energy_consumed if data.energy_consumed else 0.0,
        source="measured" if modes & METERED else "modelled",
    )


def run_blocks(
    contestants: Sequence[Contestant],
    *,
    repetitions: int = 3,
    block_s: float = MIN_BLOCK_S,
    country: str = "FRA",
    seed: int = 0,
    progress: Callable[[int, int, str], object] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> list[EnergyBlock]:
    """Blocks of every contestant and of idling, in a new random order each repetition.

    Raises:
        ConfigError: blocks too short to measure, an unknown country, no codecarbon.
        Cancelled: `cancelled` said so.
    """
    if block_s < MIN_BLOCK_S:
        raise ConfigError(
            f"energy blocks of {block_s:g} s are too short to measure; accepted is {MIN_BLOCK_S:g} s or more"
        )
    if repetitions < 2:
        raise ConfigError("energy needs at least 2 repetitions for an interval")
    generator = np.random.default_rng(seed)
    calls: dict[str, Callable[[], object] | None] = {IDLE: None} | {c.name: c.call for c in contestants}
    names = list(calls)
    blocks: list[EnergyBlock] = []
    with quiet():
        for _ in range(repetitions):
            for index in generator.permutation(len(names)):
                if cancelled is not None and cancelled():
                    raise Cancelled("the benchmark was stopped")
                call = calls[names[index]]
                blocks.append(track(names[index], country, lambda call=call: _work(call, block_s)))
                if progress is not None:
                    progress(len(blocks), repetitions * len(names), names[index])
    return blocks


def _work(call: Callable[[], object] | None, seconds: float) -> int:
    if call is None:
        time.sleep(seconds)
        return 0
    until, calls = time.perf_counter() + seconds, 0
    while time.perf_counter() < until:
        for _ in range(100):
            call()
        calls += 100
    return calls


def summarise(
    contestants: Sequence[Contestant], blocks: Sequence[EnergyBlock], *, baseline: str
) -> list[EnergyRow]:
    """Energy of one inference of each contestant, and its ratio to the baseline's."""
    idle = [block for block in blocks if block.name == IDLE]
    idle_kw = sum(b.gross_kwh for b in idle) / (sum(b.wall_s for b in idle) / 3600.0) if idle else 0.0
    mine = {c.name: [b for b in blocks if b.name == c.name] for c in contestants}
    per_call = {name: np.array([b.gross_kwh / b.calls for b in found]) for name, found in mine.items()}
    rows = []
    for contestant in contestants:
        found = mine[contestant.name]
        calls, wall = sum(b.calls for b in found), sum(b.wall_s for b in found)
        gross = sum(b.gross_kwh for b in found)
        ratios = per_call[baseline] / per_call[contestant.name]
        rows.append(
            EnergyRow(
                name=contestant.name,
                source=found[0].source,
                n=calls,
                blocks=len(found),
                block_s=wall / len(found),
                threads=1,
                cpu_s_per_million=1e6 * sum(b.cpu_s for b in found) / calls,
                gross_mj=KWH_TO_MJ * gross / calls,
                cpu_mj=KWH_TO_MJ * sum(b.cpu_kwh for b in found) / calls,
                ram_mj=KWH_TO_MJ * sum(b.ram_kwh for b in found) / calls,
                net_mj=KWH_TO_MJ * (gross - idle_kw * wall / 3600.0) / calls,
                co2_ug=1e6 * sum(b.gross_kwh * b.grid_g_per_kwh for b in found) / calls,
                ratio_vs_fp32=float(np.median(ratios)),
                ci95=bootstrap_interval(ratios, lambda resampled: np.median(resampled, axis=1)),
                note=contestant.note,
            )
        )
    return rows


def intensities(countries: Sequence[str]) -> dict[str, float]:
    """Mean carbon intensity of countries' grids, g CO2/kWh, by the country's name; from codecarbon's data.

    Args:
        countries: three-letter codes (ISO 3166).

    Raises:
        ConfigError: codecarbon does not know one, or is not installed.
    """
    try:
        from codecarbon.input import DataSource
    except ImportError:
        raise ConfigError(
            "grid intensities need codecarbon, which is not installed: pip install 'qmoe-lab[lab]'"
        ) from None
    known = DataSource().get_global_energy_mix_data()
    missing = [code for code in countries if code not in known]
    if missing:
        raise ConfigError(f"codecarbon knows no grid of {missing[0]}; accepted are codes such as FRA or USA")
    return {str(known[c]["country_name"]): float(known[c]["carbon_intensity"]) for c in countries}


@dataclass(frozen=True)
class Deployment:
    """Training once against serving for years (the paper's appendix A), grams of CO2."""

    training_g: float
    per_inference_ug: float
    per_day: float
    daily_g: float
    yearly_g: float
    break_even_inferences: float
    """Inferences after which serving has emitted as much as training."""
    break_even_days: float


def deployment(
    training_kwh: float,
    inference_mj: float,
    per_day: float,
    grid_g_per_kwh: float,
    *,
    low_carbon: float = 1.0,
    tasks: int = 1,
) -> Deployment:
    """Emissions of training and of deployment.

    Args:
        training_kwh: energy of the training run.
        inference_mj: energy of one inference, mJ.
        per_day: inferences a day.
        grid_g_per_kwh: the grid's carbon intensity.
        low_carbon: how many times less the grid's intensity is in the hours of the training (A.2: 2 to 5).
        tasks: that share the training; emissions of training are those of one.

    Raises:
        ConfigError: a negative figure, no energy at all for an inference, or no task.
    """
    if min(training_kwh, per_day, grid_g_per_kwh) < 0 or inference_mj <= 0:
        raise ConfigError("energies, inferences a day and grid intensity must be positive numbers")
    if low_carbon <= 0 or tasks < 1:
        raise ConfigError("low-carbon hours must have a part of the grid's intensity, and one task or more")
    per_inference_g = inference_mj / KWH_TO_MJ * grid_g_per_kwh
    training_kwh /= low_carbon * tasks  # as if so much less had been used, on the grid of the deployment
    training_g = training_kwh * grid_g_per_kwh
    break_even = training_kwh * KWH_TO_MJ / inference_mj
    return Deployment(
        training_g=training_g,
        per_inference_ug=1e6 * per_inference_g,
        per_day=per_day,
        daily_g=per_inference_g * per_day,
        yearly_g=per_inference_g * per_day * 365.0,
        break_even_inferences=break_even,
        break_even_days=break_even / per_day if per_day else float("inf"),
    )
