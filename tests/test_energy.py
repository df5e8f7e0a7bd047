"""Energy of steps and runs: what must hold for any of them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from sim.ask.run.simulate import simulate
from sim.ask.run.step import prepare_step
from sim.inputs.load import load_experiment
from sim.life.life_inputs import Span, State
from sim.metrics.energy import consumption
from sim.metrics.energy_curve import power_curves
from sim.metrics.energy_plant import efficiency, network_power
from sim.metrics.energy_run import span_energy
from sim.metrics.energy_step import activity_of
from sim.metrics.result import EnergyResult, Result

KWH = 3.6e6
EXACT = 1e-9
KINDS = ("quickstart", "gpt3-175b-a100", "llama3-8b-dgx-h100", "small-graph", "gpt3-175b-energy")
SHORTCUTS = ("fold", "coalesce", "skip", "prune")
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
    added, acts = activity.added(one[0]), activity.of_row
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
    return [r for r in repeat.rows.tolist() if _on(trace, int(acts[r]), 3)]


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
    whole = energy.power["run"]
    assert sum(whole.samples_w) * whole.sample_s == pytest.approx(energy.total_kwh * KWH, rel=EXACT)
    assert whole.low_w < whole.mean_w < whole.peak_w
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


def test_a_limit_in_an_experiment_trades_time_for_energy() -> None:
    """The energy of a 175B training on A100 has its minimum inside the range of limits."""
    runs = {watts: run("gpt3-175b-energy", f"power.limit={watts} W") for watts in (160, 200, 240, 280, 320, 400)}
    time = {watts: result.step.time_s for watts, result in runs.items()}
    spent = {watts: energy_of(result).parts_kwh["accelerators"] for watts, result in runs.items()}
    assert sorted(time.values(), reverse=True) == list(time.values())
    best = min(spent, key=lambda watts: spent[watts])
    assert best not in (160, 400)
    assert time[400] == run("gpt3-175b-a100").step.time_s


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("gpt3-175b-energy", (100, 160, 240)),
        ("llama3-8b-dgx-h100", (120, 200, 400)),  # gathers run beside computation
        ("quickstart", (130, 300)),
        ("leaf-spine-4to1", (130, 300)),
    ],
)
def test_boards_keep_to_their_limit_on_average_and_leave_it_little_and_never_silently(
    name: str, limits: tuple[int, ...]
) -> None:
    """Memory, communication and waiting too; transfers beside computation add a few percent for a while."""
    small = SMALL.get(name, ())
    for limit in limits:
        result = run(name, *small, f"power.limit={limit} W")
        energy = energy_of(result)
        assert energy.accelerator_power_w <= limit * (1 + 1e-5)
        peak = energy.power["accelerator"].peak_w
        assert peak <= limit * 1.03
        told = any("power.limit holds on average" in note for note in result.notes)
        assert told == (peak > limit * 1.001)


def test_what_was_kept_free_for_transfers_is_told() -> None:
    noted = run("llama3-8b-dgx-h100", "power.limit=200 W").notes
    assert any("so that with transfers beside it boards draw 200 W on average" in note for note in noted)
    assert not any("transfers" in note for note in run("llama3-8b-dgx-h100", "power.limit=600 W").notes)
    stated = run("llama3-8b-dgx-h100", "power.limit=200 W")
    assert stated.manifest["power"]["limit"] == 200


@pytest.mark.parametrize("switch", SHORTCUTS)
def test_shortcuts_do_not_move_a_step_under_a_limit(switch: str) -> None:
    limited = ("training.global_batch=16", "power.limit=200 W")
    with_it, without = (run("llama3-8b-dgx-h100", *limited, *off) for off in ((), (f"simulation.{switch}=off",)))
    assert without.step.time_s == pytest.approx(with_it.step.time_s, rel=EXACT)
