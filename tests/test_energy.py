"""Energy: what must hold for any run, and published totals of whole trainings."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.engine.power import Board, Work
from sim.errors import ConfigError
from sim.metrics.energy import consumption, embodied_carbon, tdp_energy
from sim.metrics.energy_curve import power_curves
from sim.metrics.energy_plant import efficiency, network_power
from sim.metrics.energy_run import span_energy
from sim.metrics.energy_step import activity_of
from sim.metrics.result import EnergyResult, Result
from sim.run.life_inputs import Span, State
from sim.spec.carbon import Grid, grid_of
from sim.spec.energy import PowerSetting, Site, Supply
from sim.spec.load import load_definition, load_experiment
from sim.spec.records import Accelerator
from sim.study.simulate import prepare_step, simulate
from sim.workload.operation import Operation

KWH = 3.6e6
EXACT = 1e-9
KINDS = ("quickstart", "gpt3-175b-a100", "llama3-8b-dgx-h100", "small-graph", "gpt3-175b-energy")
SHORTCUTS = ("fold", "coalesce", "skip", "prune")
BLOOM = ("site=jean-zay",)
SMALL: dict[str, tuple[str, ...]] = {
    "slow-gpu": ("training.global_batch=64", "workload.layers=8"),
    "leaf-spine-4to1": ("training.global_batch=8", "workload.layers=20", "parallelism.virtual_stages=1"),
    "small-graph": (),
}


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


# --- conservation -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_parts_phases_and_power_over_time_all_sum_to_the_total(name: str) -> None:
    result = run(name)
    energy = energy_of(result)
    assert sum(energy.parts_kwh.values()) == pytest.approx(energy.total_kwh, rel=EXACT)
    assert sum(energy.phases_kwh.values()) == pytest.approx(energy.parts_kwh["accelerators"], rel=EXACT)
    site = energy.power["site"]
    integral = sum(site.samples_w) * site.sample_s
    assert integral == pytest.approx(energy.step_kwh * KWH, rel=EXACT)
    seconds = result.run.elapsed_s if result.run else result.step.time_s
    assert energy.mean_power_w * seconds == pytest.approx(energy.total_kwh * KWH, rel=EXACT)


@pytest.mark.parametrize("switch", SHORTCUTS)
@pytest.mark.parametrize("name", SMALL)
def test_shortcuts_do_not_move_the_energy(name: str, switch: str) -> None:
    """Nor the power over time, but for a coalesced chain of operations, whose power is its mean."""
    steps = ("simulation.coalesce=off",) if switch != "coalesce" else ()
    with_it, without = (energy_of(run(name, *SMALL[name], *steps, *off)) for off in ((), (f"simulation.{switch}=off",)))
    assert without.total_kwh == pytest.approx(with_it.total_kwh, rel=EXACT)
    for phase, kwh in with_it.phases_kwh.items():
        assert without.phases_kwh[phase] == pytest.approx(kwh, rel=1e-8, abs=EXACT * with_it.total_kwh)
    spread = 1e-7 if steps else 0.2
    for level in ("job", "site"):
        assert without.power[level].samples_w == pytest.approx(with_it.power[level].samples_w, rel=spread)


def test_power_over_time_is_that_of_every_row_in_turn() -> None:
    """The slow way: add up the rows of one rank class at each moment."""
    simulated = prepare_step(load_experiment("gpt3-175b-a100", ("training.global_batch=256",)).experiment).run()
    trace, job = simulated.trace, simulated.job
    activity = activity_of(trace, job)
    one = np.zeros((1, len(job.ranks)))
    one[0, 3] = 1
    curve = power_curves(activity, one, samples=50)[0]
    added, acts = activity.added(), activity.of_row
    edges = np.linspace(0, trace.time, 51)
    slow = np.full(50, job.board.waiting)
    rows = [(trace.start[r], trace.end[r], added[acts[r]]) for r in range(len(acts)) if _on(trace, int(acts[r]), 3)]
    for repeat in trace.repeats:
        for r in repeat_rows(trace, repeat, acts):
            for turn in range(1, repeat.times + 1):
                later = turn * repeat.period
                rows.append((trace.start[r] + later, trace.end[r] + later, added[acts[r]]))
    for start, end, joules in rows:
        if end > start:
            inside = np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], start), 0, None)
            slow += joules * inside / (end - start) / (edges[1] - edges[0])
    assert curve == pytest.approx(slow, rel=1e-7)


def _on(trace: Any, act: int, rank: int) -> bool:
    action = trace.program.actions[act]
    return rank in (trace.flow_ranks[action.flow] if action.flow >= 0 else action.ranks)


def repeat_rows(trace: Any, repeat: Any, acts: Any) -> list[int]:
    return [r for r in trace.repeated_rows(repeat).tolist() if _on(trace, int(acts[r]), 3)]


def test_idle_hardware_is_counted_once() -> None:
    """Nodes without a job add their idle power and nothing else; accelerators left over in a node likewise."""
    job = ("cluster=dgx-h100-superpod", "parallelism.tensor=1", "parallelism.data=8", "training.tokens=1B")
    alone, beside = run("quickstart", *job, "nodes=1"), run("quickstart", *job, "nodes=3")
    assert beside.run is not None
    hours = beside.run.elapsed_s / 3600
    node = load_experiment("quickstart", job).node
    idle = 8 * 70 + 350 + 120 + 200 + 250 + 350
    extra = energy_of(beside).parts_kwh
    added = sum(extra[part] - energy_of(alone).parts_kwh[part] for part in extra if part not in ("network", "storage"))
    assert added * 1000 / hours == pytest.approx(2 * idle / efficiency(node.power.supply, idle), rel=1e-6)
    half = run("quickstart", *job, "nodes=1", "parallelism.data=4")
    assert half.run is not None
    assert energy_of(half).phases_kwh["idle"] * 1000 / (half.run.elapsed_s / 3600) == pytest.approx(4 * 70)


def test_a_node_has_as_many_ports_with_and_without_merged_spines() -> None:
    full, merged = (
        prepare_step(load_experiment("gpt3-175b-a100", (f"simulation.prune={way}",)).experiment).cluster
        for way in ("off", "auto")
    )
    assert network_power(merged) == pytest.approx(network_power(full), rel=EXACT)


# --- boards -----------------------------------------------------------------------------------

PRODUCT = Operation("product", "matmul", flops=2.0 * 8192**3, bytes_moved=6 * 8192.0**2, m=8192, n=8192, k=8192)
STREAM = Operation("stream", "elementwise", bytes_moved=4e9)
NAMES = ("h100-sxm", "a100-sxm-80gb", "b200", "v100-sxm2-16gb", "a40", "tpu-v4", "h200")


def power(work: Work) -> float:
    return work.joules / work.seconds


@pytest.mark.parametrize("name", NAMES)
def test_large_products_come_near_the_limit_and_streams_stay_below(name: str) -> None:
    free = board(name)
    precision = "fp16" if free.accelerator.matrix.peak.bf16 is None else "bf16"
    product = power(free.run(Operation("p", "matmul", PRODUCT.flops, 6e8, precision, m=8192, n=8192, k=8192)))
    tdp = free.accelerator.power.tdp
    assert 0.85 * tdp < product <= tdp * (1 + 1e-6)
    assert free.idle < free.waiting < power(free.run(STREAM)) < product


@pytest.mark.parametrize("name", NAMES)
def test_the_stock_limit_changes_nothing(name: str) -> None:
    free, limited = board(name), board(name, limit=board(name).accelerator.power.tdp)
    for operation in (STREAM, Operation("vector", "elementwise", flops=1e9, bytes_moved=1.0, precision="fp32")):
        assert limited.run(operation) == free.run(operation)


def test_a_limit_slows_arithmetic_and_spares_memory() -> None:
    free, limited = board("h100-sxm"), board("h100-sxm", limit=560.0)
    assert limited.run(STREAM).seconds == free.run(STREAM).seconds
    slow, fast = limited.run(PRODUCT), free.run(PRODUCT)
    assert slow.seconds > 1.05 * fast.seconds
    assert slow.joules < fast.joules
    assert power(slow) == pytest.approx(560.0, rel=1e-6)


def test_energy_of_a_product_is_least_inside_the_range_of_limits() -> None:
    joules = {limit: board("h100-sxm", limit=float(limit)).run(PRODUCT).joules for limit in range(150, 701, 25)}
    best = min(joules, key=lambda limit: joules[limit])
    assert 0.5 <= best / 700 <= 0.75
    assert joules[150] > 1.1 * joules[best]
    assert joules[700] > 1.1 * joules[best]


def test_a_lower_clock_saves_energy_and_takes_time() -> None:
    free, clocked = board("a100-sxm-80gb"), board("a100-sxm-80gb", clock=1.0e9)
    assert clocked.run(PRODUCT).seconds > free.run(PRODUCT).seconds
    assert clocked.run(PRODUCT).joules < free.run(PRODUCT).joules
    assert clocked.run(STREAM).seconds == free.run(STREAM).seconds
    assert clocked.waiting < free.waiting


@given(st.floats(1e6, 1e15), st.floats(1e3, 1e11), st.floats(100.0, 700.0), st.floats(100.0, 700.0))
def test_power_stays_within_the_limit_and_time_falls_with_it(flops: float, moved: float, a: float, b: float) -> None:
    """Unless the slowest clock draws more still: then the board can do no better."""
    operation = Operation("any", "attention", flops=flops, bytes_moved=moved, precision="bf16")
    low, high = sorted((a, b))
    tight, loose = board("h100-sxm", limit=low), board("h100-sxm", limit=high)
    slowest = board("h100-sxm", clock=0.12 * 1.98e9).run(operation)
    assert power(tight.run(operation)) <= max(low, power(slowest)) * (1 + 1e-6)
    assert tight.run(operation).seconds >= loose.run(operation).seconds * (1 - 1e-9)


def test_a_limit_in_an_experiment_trades_time_for_energy() -> None:
    """The energy of a 175B training on A100 has its minimum inside the range of limits."""
    runs = {watts: run("gpt3-175b-energy", f"power.limit={watts} W") for watts in (160, 200, 240, 280, 320, 400)}
    time = {watts: result.step.time_s for watts, result in runs.items()}
    spent = {watts: energy_of(result).parts_kwh["accelerators"] for watts, result in runs.items()}
    assert sorted(time.values(), reverse=True) == list(time.values())
    best = min(spent, key=lambda watts: spent[watts])
    assert best not in (160, 400)
    assert time[400] == run("gpt3-175b-a100").step.time_s


# --- the run ----------------------------------------------------------------------------------


def test_a_run_without_faults_is_its_steps() -> None:
    result = run("gpt3-175b-a100")
    assert result.run is not None
    assert energy_of(result).total_kwh == pytest.approx(result.run.steps * energy_of(result).step_kwh, rel=EXACT)


def test_a_life_with_failures_accounts_for_every_second() -> None:
    """Waiting, restarts and spares draw power too, less than training."""
    lived = run("llama3-405b-54-days")
    energy = energy_of(lived)
    assert lived.run is not None
    assert lived.run.failures > 100
    assert sum(energy.parts_kwh.values()) == pytest.approx(energy.total_kwh, rel=EXACT)
    assert sum(energy.phases_kwh.values()) == pytest.approx(energy.parts_kwh["accelerators"], rel=EXACT)
    training = energy.states_w["training"]
    assert energy.step_kwh * lived.run.steps < energy.total_kwh < training * lived.run.elapsed_s / KWH
    assert training - energy.states_w["checkpoint_blocking"] > 4e6  # a swing of megawatts at each save
    assert energy.states_w["waiting"] < energy.states_w["detection"] < training


def test_spans_add_up_and_down_nodes_draw_nothing() -> None:
    simulated = prepare_step(load_experiment("gpt3-175b-a100").experiment).run()
    levels = consumption(activity_of(simulated.trace, simulated.job), None).levels
    state = State(8, ())
    whole = span_energy([Span(0, 100, "training", 100, 128, 0, 0, state)], levels)
    parts = span_energy(
        [Span(0, 40, "training", 40, 128, 0, 0, state), Span(40, 100, "redo", 60, 128, 0, 0, state)], levels
    )
    assert parts.joules == pytest.approx(whole.joules, rel=EXACT)
    down = span_energy([Span(0, 100, "waiting", 100, 127, 0, 1, state)], levels)
    up = span_energy([Span(0, 100, "waiting", 100, 127, 1, 0, state)], levels)
    spare = levels.plant.unused(1) + levels.plant.base(False)
    assert (up.joules - down.joules) / 100 == pytest.approx(
        spare / efficiency(levels.plant.node.supply, spare), rel=1e-6
    )


# --- site -------------------------------------------------------------------------------------


def test_overhead_that_does_not_fall_with_the_load_weighs_more_on_an_idle_cluster() -> None:
    site = {"pue": 1.5, "fixed_overhead": 0.4}
    simulated = prepare_step(load_experiment("quickstart").experiment).run()
    plant = consumption(activity_of(simulated.trace, simulated.job), Site.from_si({"name": "s"} | site)).levels.plant
    assert plant.cooling(plant.rated) == pytest.approx(0.5 * plant.rated)
    idle = plant.draw(0.0, 0, 1)
    assert idle["cooling"] > 0.5 * (sum(idle.values()) - idle["cooling"])


def test_supplies_are_best_at_half_load() -> None:
    supply = Supply.from_si({"rated": 1000, "at_10": 0.9, "at_20": 0.94, "at_50": 0.96, "at_100": 0.91})
    assert efficiency(supply, 500) == 0.96 > efficiency(supply, 1000) > efficiency(supply, 10) == 0.9
    assert efficiency(supply, 350) == pytest.approx(0.95)


def test_grid_by_the_hour(tmp_path: Path) -> None:
    file = tmp_path / "grid.csv"
    file.write_text("hour,g_per_kwh\n0,100\n1,300\n2,200\n")
    grid = grid_of(Site(name="s", carbon_file=str(file), start_hour=1))
    assert grid is not None
    gram = 1e-3 / KWH
    assert grid.mean(0, 3600) == pytest.approx(300 * gram)
    assert grid.mean(0, 3 * 3600) == pytest.approx(200 * gram)
    assert grid.mean(7, 7 + 9 * 3600) == pytest.approx(200 * gram)
    assert grid.mean(1800, 5400) == pytest.approx(250 * gram)
    assert grid.mean(5400, 5400) == pytest.approx(200 * gram)
    hours = [float(value) for value in np.random.default_rng(1).uniform(0, 1, 24)]
    many = Grid(tuple(hours))
    assert many.mean(0, 86400 * 5) == pytest.approx(float(np.mean(hours)))


@pytest.mark.parametrize(
    ("text", "message"), [("hour,g\n0,much\n", "grid.csv:2"), ("hour,g\n", "no hours"), (None, "cannot be read")]
)
def test_a_broken_grid_file_is_told(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "grid.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        grid_of(Site(name="s", carbon_file=str(file)))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("power.limit=900 W", "more than the 400 W"),
        ("power.limit=20 W", "no more than"),
        ("power.clock=3 GHz", "is not between"),
        ("cluster.node.accelerator.power.waiting=500 W", "is not between idle"),
        ("prices=own-a100 prices.pay=spot", "has no price for spot"),
        ("prices=aws-p4d prices.pay=purchase", "no price of purchase"),
        ("site=jean-zay site.carbon_file=x.csv", "constant carbon_intensity is given too"),
    ],
)
def test_settings_that_cannot_be_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_experiment("gpt3-175b-a100", override.replace(" p", "\np").replace(" s", "\ns").split("\n"))


# --- published totals -------------------------------------------------------------------------


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
