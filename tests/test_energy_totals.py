"""Energy and carbon of published trainings and fleets, by TDP accounting and as modelled."""

from __future__ import annotations

import math
from functools import cache

import pytest

from sim.ask.run.simulate import simulate
from sim.devices.power import Board
from sim.inputs.carbon import Grid
from sim.inputs.energy import PowerSetting, Site
from sim.inputs.load import load_definition, load_experiment
from sim.inputs.records import Accelerator
from sim.metrics.energy import embodied_carbon, tdp_energy
from sim.metrics.energy_plant import efficiency
from sim.metrics.result import EnergyResult, Result

KWH = 3.6e6
EXACT = 1e-9
BLOOM = ("site=jean-zay",)


@cache
def run(name: str, *overrides: str) -> Result:
    return simulate(load_experiment(name, overrides).experiment)


def energy_of(result: Result) -> EnergyResult:
    assert result.energy is not None
    return result.energy


def board(name: str, **setting: float) -> Board:
    record = load_definition("accelerator", name)
    assert isinstance(record, Accelerator)
    return Board(record, PowerSetting.from_si(setting))


@pytest.mark.parametrize(
    ("hours", "watts", "mwh", "grams", "tonnes"),
    [
        (1_082_990, 400, 433.196, 57, 24.7),  # BLOOM (Luccioni 2022, table 3), dynamic part
        (30.84e6, 700, 21_588, 413.7, 8_930),  # Llama 3.1 405B, model card
        (7.0e6, 700, 4_900, 416.3, 2_040),  # Llama 3.1 70B
        (1.46e6, 700, 1_022, 411.0, 420),  # Llama 3.1 8B
        (39.3e6, 700, 27_510, 414.0, 11_390),  # Llama 3.1, all three
    ],
)
def test_board_limits_times_hours_give_what_model_cards_print(
    hours: float, watts: float, mwh: float, grams: float, tonnes: float
) -> None:
    """To 1 %. The intensity of Llama is the one implied by its card, overhead of the site included."""
    joules = tdp_energy(watts, hours * 3600)
    assert joules / KWH / 1000 == pytest.approx(mwh, rel=0.01)
    grid = Grid((grams * 1e-3 / KWH,))
    assert joules * grid.mean(0, 1) / 1000 == pytest.approx(tonnes, rel=0.01)


def test_embodied_carbon_of_bloom() -> None:
    """11.2 t: 7.57 t of servers and 3.64 t of accelerators (Luccioni 2022, section 4.1)."""
    site = load_definition("site", "jean-zay")
    assert isinstance(site, Site)
    assert site.embodied is not None
    seconds = 1_082_990 / 384 * 3600
    assert embodied_carbon(site.embodied, 384, 48, seconds) == pytest.approx(11.2e3, rel=0.01)


def test_the_result_prints_tdp_accounting_beside_the_model() -> None:
    result = run("bloom-176b", *BLOOM)
    energy = energy_of(result)
    assert result.run is not None
    hours = 384 * result.run.elapsed_s / 3600
    assert energy.accelerator_hours == pytest.approx(hours, rel=1e-9)
    assert energy.tdp_kwh == pytest.approx(hours * 0.4, rel=1e-9)


def test_bloom_modelled_draws_what_was_measured_with_its_idle_share() -> None:
    """Luccioni 2022: 433 MWh dynamic (boards at 400 W) and 257 MWh idle in 1,082,990 hours, 638 W an accelerator.

    Metered in section 4: 64 kWh idle of the 64 + 109 that nodes took, 37 %. Nodes, network and storage are compared
    with the 690 MWh within 15 %; the idle share of a node within 5 points.
    """
    energy = energy_of(run("bloom-176b", *BLOOM))
    without_cooling = energy.total_kwh - energy.parts_kwh["cooling"]
    watts = 1000 * without_cooling / energy.accelerator_hours
    assert watts == pytest.approx(1000 * (433_196 + 256_646) / 1_082_990, rel=0.15)
    power = load_experiment("bloom-176b").node.power
    idle = 8 * 60 + sum(draw.idle for draw in (power.host, power.memory, power.nics, power.switches, power.fans))
    share = idle / efficiency(power.supply, idle) / energy.node_power_w
    assert share == pytest.approx(64 / (64 + 109), abs=0.05)


def test_a100_fleet_of_acme() -> None:
    """Percentiles of the power of boards and servers in AcmeTrace (Hu 2024, data at 6d6ac9c).

    Boards: idle 55.7 to 66.4 W (least, 25 %), a plateau of training from 372 to 404 W (75 and 90 %). Servers by
    their management controller: 1,512 W (10 %), 4,284 to 5,452 W (75 and 99 %).
    """
    training = {
        "cluster": "dgx-a100-superpod", "nodes": 32, "workload": "llama2-7b", "parallelism": {"zero_stage": 1},
        "training": {"global_batch": 1024, "sequence_length": 4096, "precision": "bf16"},
    }  # fmt: skip
    energy = energy_of(simulate(load_experiment(training).experiment))
    assert 350 < energy.accelerator_power_w < 404
    assert 4284 < energy.node_power_w < 5452
    a100, node = board("a100-sxm-80gb"), load_experiment(training).node.power
    assert 55.7 <= a100.idle <= 66.4
    idle = 8 * a100.idle + sum(each.idle for each in (node.host, node.memory, node.nics, node.switches, node.fans))
    assert idle / efficiency(node.supply, idle) == pytest.approx(1512, rel=0.1)
    assert math.isfinite(energy.tokens_per_joule)
