"""Why a training did not come to its end, and what would help it there.

Public: `with_ending`, `endings`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import inf

from sim.ask.run.preemption import CAUSE
from sim.life.life import HOPELESS
from sim.life.life_inputs import LifeInputs
from sim.life.rates import mean_time_between_stops
from sim.metrics.result import RunResult
from sim.report import human


def with_ending(run: RunResult, inputs: LifeInputs, healthy_s: float) -> RunResult:
    """`run` with what became of lives that did not reach their last step; healthy_s: a step without faults.

    A time limit is an end that was asked for, unless nothing was done until then.
    """
    why, hopeless = tuple(endings(run, inputs)), run.steps == 0 or inputs.time_limit_s is None
    given_up = run.outcomes.keys() & {"no_spares", "too_many_faults"}
    if given_up or ("time_limit" in run.outcomes and hopeless):
        return replace(run, finished=False, why_unfinished=why, what_helps=tuple(_remedies(run, inputs, healthy_s)))
    return run


def endings(run: RunResult, inputs: LifeInputs) -> Iterator[str]:
    """How lives ended that did not reach their last step."""
    target, limit = inputs.target_steps, inputs.time_limit_s
    limited = f"the time limit of {human.duration(limit)}" if limit else f"{HOPELESS} times the time without faults"
    reasons = {
        "time_limit": f"at {limited}",
        "no_spares": "when no spare was left to wait for",
        "too_many_faults": f"with fault {inputs.most_strikes:,.0f}",
    }
    for outcome, reason in reasons.items():
        if outcome in run.outcomes and (target < inf or outcome != "time_limit"):
            who = "the run" if run.seeds == 1 else f"{run.outcomes[outcome]} of {run.seeds} lives"
            wanted = f" of {human.count(int(target))}" if target < inf else ""
            mean = "" if run.seeds == 1 else " (mean of all lives)"
            yield f"{who} ended {reason}, after {human.count(run.steps)}{wanted} steps{mean}"


def _remedies(run: RunResult, inputs: LifeInputs, healthy_s: float) -> Iterator[str]:
    """What would help, with the numbers that say so."""
    between, saving, recovery = mean_time_between_stops(inputs), inputs.saving, inputs.recovery
    stops = f"something stops the job every {human.duration(between)} on average"
    if between < inf and saving is None:
        whole = "" if inputs.target_steps == inf else f" of {human.duration(inputs.target_steps * healthy_s)}"
        yield f"save the state (checkpoint): {stops}, and without a save the whole training{whole} begins anew"
    elif saving is not None and (cycle := saving.steps * healthy_s + saving.costs.blocking_s) > 0.5 * between:
        yield f"save more often than every {human.duration(cycle)} (checkpoint.interval), or faster: {stops}"
    restart = recovery.detect.mean + recovery.diagnose.mean + recovery.reschedule.mean + recovery.initialise
    restart += recovery.initialise_per_rank * inputs.ranks + (saving.costs.restore_s if saving else 0.0)
    if restart > 0.5 * between:
        yield f"restart faster (recovery): {stops}, and a restart takes {human.duration(restart)}"
    if "too_many_faults" in run.outcomes:
        yield "give failures their own mtbf, that of one part, not of all together (simulation.limits: off goes on)"
    if "no_spares" in run.outcomes:
        yield "keep spares (recovery.warm_spares or cold_spares), or wait or shrink when they run out (when_short)"
    if run.failures_by_cause.get(CAUSE):
        yield "pay for nodes that are not taken away (prices.pay: on_demand)"
    if between < inf:
        yield "use fewer nodes, or nodes that fail less often: each adds its failures to those of the job"
