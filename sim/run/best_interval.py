"""The number of steps between saves: given, by a formula, or the best of many simulated lives.

Public: `saving_steps`, `best_saving_steps`, `mean_time_between_stops`.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf, log2, sqrt

from sim.run.faults import count_parts
from sim.run.interval import daly, young
from sim.run.life import live
from sim.run.life_inputs import LifeInputs, Saving, State
from sim.run.saving import CheckpointCosts
from sim.spec.storage import Checkpointing

SEEDS = 6  # lives per interval that is tried
TRIALS = 10
STOPPING = ("stop", "corrupt")


def mean_time_between_stops(inputs: LifeInputs) -> float:
    """Mean time between failures that stop the job [s]; inf if nothing does."""
    modes = [mode for mode in inputs.failures.modes if mode.effect in STOPPING]
    places = [count_parts(mode, inputs.parts, inputs.nodes, sum(map(bool, inputs.blast))) for mode in modes]
    rate = sum(n * parts / mode.mtbf for mode, (n, parts) in zip(modes, places, strict=True))
    if inputs.outages and inputs.failures.log:
        length = max(outage.start for outage in inputs.outages)
        rate += len(inputs.outages) / length * inputs.nodes / inputs.failures.log.nodes if length else 0.0
    return 1 / rate if rate else inf


def saving_steps(inputs: LifeInputs, checkpoint: Checkpointing, costs: CheckpointCosts) -> int:
    """Steps between persistent saves under the policy of `checkpoint`, at least 1."""
    if checkpoint.policy == "fixed" and checkpoint.interval_steps:
        return checkpoint.interval_steps
    if checkpoint.policy == "optimal":
        return best_saving_steps(inputs, costs, checkpoint.keep)
    step = inputs.step_time(State(inputs.replicas, ()))
    return _whole(_interval(inputs, checkpoint, costs) / step, inputs)


def _interval(inputs: LifeInputs, checkpoint: Checkpointing, costs: CheckpointCosts) -> float:
    """Training time between saves [s]; what training waits for is what a save costs in the formulas."""
    mtbf = mean_time_between_stops(inputs)
    if checkpoint.policy == "fixed":
        return checkpoint.interval or inf
    if mtbf == inf:
        return inf
    formula = young if checkpoint.policy == "young" else daly
    return formula(costs.blocking_s, mtbf)


def _whole(steps: float, inputs: LifeInputs) -> int:
    longest = inputs.target_steps if inputs.target_steps < inf else 10**9
    return max(1, round(min(steps, longest)))


def best_saving_steps(inputs: LifeInputs, costs: CheckpointCosts, keep: int, seeds: int = SEEDS) -> int:
    """The steps between saves that lose least time, the same seeds for each candidate.

    Golden-section search over the logarithm, around Young's interval.
    """
    mtbf = mean_time_between_stops(inputs)
    if mtbf == inf:
        return _whole(inf, inputs)
    step = inputs.step_time(State(inputs.replicas, ()))
    peer_steps = inputs.saving.peer_steps if inputs.saving else 0
    shortest = max(1.0, costs.drain_s / step)
    centre = max(shortest, young(max(costs.blocking_s, step / 100), mtbf) / step)
    tried: dict[int, float] = {}

    def badness(position: float) -> float:
        steps = _whole(centre * 2**position, inputs)
        if steps not in tried:
            trial = replace(inputs, saving=Saving(costs, steps, peer_steps, keep))
            tried[steps] = -sum(live(trial, seed).goodput for seed in range(seeds))
        return tried[steps]

    low, high, golden = max(-3.0, log2(shortest / centre)), 3.0, (sqrt(5) - 1) / 2
    for _ in range(TRIALS):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if badness(left) <= badness(right) else (left, high)
    return min(tried, key=lambda steps: (tried[steps], steps))
