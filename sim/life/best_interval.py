"""The number of steps between saves: given, by a formula, or the best of many simulated lives.

Public: `saving_steps`, `Trials`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil, inf, log2, sqrt

from sim.inputs.storage import Checkpointing
from sim.life.interval import daly, young
from sim.life.life import live
from sim.life.life_inputs import LifeInputs, State
from sim.life.rates import mean_time_between_stops

SEEDS = 6  # lives per interval that is tried, at most
STOPS = 600  # failures that all of them see, about: what an interval costs is known well enough then
TRIALS = 10


def saving_steps(inputs: LifeInputs, checkpoint: Checkpointing) -> int:
    """Steps between persistent saves under the policy of `checkpoint`, at least 1. inputs: with what a save costs."""
    if checkpoint.policy == "fixed" and checkpoint.interval_steps:
        return checkpoint.interval_steps
    if checkpoint.policy == "optimal":
        return Trials(inputs).best()
    step = inputs.step_time(State(inputs.replicas, ()))
    return _whole(_interval(inputs, checkpoint) / step, inputs)


def _interval(inputs: LifeInputs, checkpoint: Checkpointing) -> float:
    """Training time between saves [s]; what training waits for is what a save costs in the formulas."""
    mtbf = mean_time_between_stops(inputs)
    if checkpoint.policy == "fixed":
        return checkpoint.interval or inf
    if mtbf == inf or inputs.saving is None:
        return inf
    formula = young if checkpoint.policy == "young" else daly
    return formula(inputs.saving.costs.blocking_s, mtbf)


def _whole(steps: float, inputs: LifeInputs) -> int:
    longest = inputs.target_steps if inputs.target_steps < inf else 10**9
    return max(1, round(min(steps, longest)))


@dataclass
class Trials:
    """Lives that differ in nothing but the steps between saves, under the same seeds.

    inputs: with what a save costs. Lives are cut short where they would see more failures than it takes to tell.
    """

    inputs: LifeInputs
    tried: dict[int, float] = field(default_factory=dict)  # steps between saves, and mean goodput

    def goodput(self, steps: int) -> float:
        """Mean goodput with a save every `steps` steps."""
        if steps not in self.tried:
            seeds, saving = self._seeds(), self.inputs.saving
            assert saving is not None
            trial = replace(self.inputs, saving=replace(saving, steps=steps), time_limit_s=self._limit())
            self.tried[steps] = sum(live(trial, seed).goodput for seed in range(seeds)) / seeds
        return self.tried[steps]

    def best(self) -> int:
        """Steps between saves at which goodput is best.

        Golden-section search over the logarithm, around Young's interval.
        """
        inputs, saving = self.inputs, self.inputs.saving
        mtbf = mean_time_between_stops(inputs)
        if saving is None or mtbf == inf:
            return _whole(inf, inputs)
        step = inputs.step_time(State(inputs.replicas, ()))
        shortest = max(1.0, saving.costs.drain_s / step)
        centre = max(shortest, young(max(saving.costs.blocking_s, step / 100), mtbf) / step)
        low, high, golden = max(-3.0, log2(shortest / centre)), 3.0, (sqrt(5) - 1) / 2
        for _ in range(TRIALS):
            left, right = high - golden * (high - low), low + golden * (high - low)
            better = [self.goodput(_whole(centre * 2**place, inputs)) for place in (left, right)]
            low, high = (low, right) if better[0] >= better[1] else (left, high)
        return min(self.tried, key=lambda steps: (-self.tried[steps], steps))

    def _limit(self) -> float | None:
        """Seconds after which a trial ends."""
        known, enough = self.inputs.time_limit_s, STOPS * mean_time_between_stops(self.inputs)
        return min(known or inf, enough) if known or enough < inf else None

    def _seeds(self) -> int:
        """Lives of each trial: fewer where one life sees many failures."""
        inputs = self.inputs
        length = min(inputs.target_steps * inputs.step_time(State(inputs.replicas, ())), self._limit() or inf)
        return min(SEEDS, max(1, ceil(STOPS / max(1.0, length / mean_time_between_stops(inputs)))))
