"""Energy arithmetic on made-up blocks, and one real (short) block through codecarbon."""

from __future__ import annotations

import math

import pytest

from qmoe_core.errors import ConfigError
from qmoe_core.measure import energy
from qmoe_core.measure.energy import IDLE, EnergyBlock, deployment, summarise
from qmoe_core.measure.latency import Contestant

HOUR = 3600.0


def block(name: str, calls: int, cpu_w: float, ram_w: float, wall_s: float = 36.0) -> EnergyBlock:
    hours = wall_s / HOUR
    return EnergyBlock(
        name, calls, wall_s, wall_s, cpu_w * hours / 1e3, ram_w * hours / 1e3, 100.0, "modelled"
    )


def test_net_energy_is_gross_less_what_idling_draws() -> None:
    blocks = [block(IDLE, 0, 1.0, 10.0), block("x", 1000, 5.0, 10.0), block("torch fp32", 500, 5.0, 10.0)] * 2
    made = [Contestant(name, "expert", lambda: None) for name in ("torch fp32", "x")]
    base, x = summarise(made, blocks, baseline="torch fp32")
    assert x.gross_mj == pytest.approx(15.0 * 36.0 / 1000 * 1e3)
    assert x.cpu_mj == pytest.approx(5.0 * 36.0 / 1000 * 1e3)
    assert x.cpu_mj + x.ram_mj == pytest.approx(x.gross_mj)
    assert x.net_mj == pytest.approx(4.0 * 36.0 / 1000 * 1e3)
    assert x.co2_ug == pytest.approx(x.gross_mj / 3.6e9 * 100.0 * 1e6)
    assert x.ratio_vs_fp32 == pytest.approx(2.0)
    assert base.ratio_vs_fp32 == 1.0
    assert x.source == "modelled"
    assert x.n == 2000


def test_deployment_breaks_even_where_serving_has_used_what_training_did() -> None:
    d = deployment(training_kwh=1e-3, inference_mj=0.5, per_day=1e6, grid_g_per_kwh=367.0)
    assert d.break_even_inferences == pytest.approx(1e-3 * 3.6e9 / 0.5)
    assert d.per_inference_ug * d.break_even_inferences * 1e-6 == pytest.approx(d.training_g)
    assert d.yearly_g == pytest.approx(365 * d.daily_g)
    assert d.break_even_days == pytest.approx(d.break_even_inferences / 1e6)
    assert math.isinf(deployment(1e-3, 0.5, 0.0, 367.0).break_even_days)


@pytest.mark.parametrize("arguments", [(-1.0, 0.5, 1.0, 1.0), (1.0, 0.0, 1.0, 1.0), (1.0, 0.5, -1.0, 1.0)])
def test_deployment_refuses_nonsense(arguments: tuple[float, float, float, float]) -> None:
    with pytest.raises(ConfigError, match="positive"):
        deployment(*arguments)


def test_blocks_too_short_to_measure_are_refused() -> None:
    with pytest.raises(ConfigError, match="too short"):
        energy.run_blocks([], block_s=1.0)


def test_a_real_block_has_energy_time_and_a_grid() -> None:
    pytest.importorskip("codecarbon")
    spun = energy.track("spin", "FRA", lambda: sum(1 for _ in range(2_000_000)))
    assert spun.calls == 2_000_000
    assert spun.ram_kwh > 0.0
    assert spun.cpu_s > 0.0
    assert 10.0 < spun.grid_g_per_kwh < 200.0
    assert spun.source in ("measured", "modelled")
