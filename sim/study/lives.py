"""The whole training of an experiment: what a step and a save cost, then lives of the job.

Public: `prepare_life`, `run_life`, `PreparedLife`, `has_life`, `life_result`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from math import ceil, inf
from pathlib import Path

import numpy as np

from sim.cluster.outage import nodes_behind
from sim.errors import ConfigError, Problem
from sim.metrics.breakdown import critical_rank, rank_time
from sim.metrics.result import IncidentResult, RunResult
from sim.run.best_interval import saving_steps
from sim.run.fault_log import Outage, read_fault_log
from sim.run.life import live
from sim.run.life_inputs import Life, LifeInputs, Saving
from sim.run.saving import checkpoint_costs
from sim.spec.records import Experiment
from sim.spec.reliability import Failures
from sim.spec.setup import Setup
from sim.study.preemption import is_preempted, with_preemption
from sim.study.simulate import Simulated, simulate_step
from sim.study.step_times import StepTimes


@dataclass(frozen=True)
class PreparedLife:
    """Everything that lives of one experiment share; may be sent to other processes."""

    inputs: LifeInputs
    step_times: StepTimes

    def live(self, seed: int) -> Life:
        """One life."""
        return live(self.inputs, seed)

    def notes(self, life: Life) -> tuple[str, ...]:
        """What of this life could not be simulated as asked."""
        return self.step_times.doubts({span.state for span in life.spans})


def has_life(experiment: Experiment) -> bool:
    """Whether the training is more than its steps: something fails, is saved or cuts it off, and it has an end."""
    ends = experiment.training.tokens is not None or experiment.training.time_limit is not None
    return ends and (
        experiment.failures is not None
        or experiment.checkpoint is not None
        or experiment.training.time_limit is not None
        or is_preempted(Setup(experiment).prices)
    )


def run_life(experiment: Experiment, seed: int) -> Life:
    """One life of a resolved and checked experiment. Raises ConfigError, Deadlock."""
    return prepare_life(experiment).live(seed)


def prepare_life(experiment: Experiment, step: Simulated | None = None) -> PreparedLife:
    """Simulate a step (unless given) and a save, and gather what a life needs. Raises ConfigError, Deadlock."""
    run = step or simulate_step(experiment)
    times = StepTimes(experiment, run.plan, run.trace.time)
    setup, failures = run.setup, experiment.failures
    if not isinstance(failures, Failures):
        failures = Failures(name="none")
    failures = with_preemption(failures, setup.prices)
    inputs = LifeInputs(
        target_steps=_target_steps(setup),
        nodes=len(times.slots),
        replicas=setup.data,
        ranks=setup.ranks,
        step_time=times,
        failures=failures,
        recovery=experiment.recovery,
        parts={"accelerator": setup.node.accelerators, "nic": setup.node.nics.count, "cable": setup.node.nics.count},
        blast=_blast(times),
        outages=_outages(failures),
        input_stall_s=rank_time(run.trace, critical_rank(run.trace)).exposed["input_stall"],
        time_limit_s=experiment.training.time_limit,
    )
    return PreparedLife(_with_saving(inputs, run, experiment), times)


def _target_steps(setup: Setup) -> float:
    training = setup.training
    if training.tokens is None:
        return inf
    return float(ceil(training.tokens / (training.global_batch * training.sequence_length)))


def _blast(times: StepTimes) -> tuple[tuple[int, ...], ...]:
    """Nodes of the job behind each switch."""
    slot = {node: i for i, node in enumerate(times.slots)}
    return tuple(tuple(slot[node] for node in nodes if node in slot) for nodes in nodes_behind(times.cluster))


def _outages(failures: Failures) -> tuple[Outage, ...]:
    if failures.log is None:
        return ()
    outages = read_fault_log(Path(failures.log.file))
    seen = 1 + max((outage.node for outage in outages), default=-1)
    if seen > failures.log.nodes:
        message = f"{seen} nodes have faults in {failures.log.file}, more than the {failures.log.nodes} observed"
        raise ConfigError(Problem("", "failures.log.nodes", message, f"give at least {seen}"))
    return outages


def _with_saving(inputs: LifeInputs, run: Simulated, experiment: Experiment) -> LifeInputs:
    checkpoint = experiment.checkpoint
    if checkpoint is None:
        return inputs
    costs = checkpoint_costs(run.plan, run.trace.time)
    peer_steps = checkpoint.peer_interval_steps if checkpoint.mode == "in_memory" else 0
    inputs = replace(inputs, saving=Saving(costs, 1, peer_steps, checkpoint.keep))
    return replace(inputs, saving=Saving(costs, saving_steps(inputs, checkpoint, costs), peer_steps, checkpoint.keep))


def life_result(prepared: PreparedLife, lives: list[Life]) -> RunResult:
    """One or many lives as the result reports them: time-to-train by quantile, means of the rest."""
    saving = prepared.inputs.saving
    elapsed = np.array([life.elapsed_s for life in lives])
    quantiles = np.quantile(elapsed, (0.05, 0.5, 0.95)).tolist()
    n = len(lives)
    return RunResult(
        time_to_train_s=dict(zip(("mean", "p5", "p50", "p95"), (float(elapsed.mean()), *quantiles), strict=True)),
        steps=round(sum(life.steps for life in lives) / n),
        goodput=sum(life.productive_s for life in lives) / float(elapsed.sum()),
        badput_s={key: sum(life.badput_s[key] for life in lives) / n for key in lives[0].badput_s},
        failures=round(sum(len(life.incidents) for life in lives) / n),
        checkpoints=round(sum(life.checkpoints for life in lives) / n),
        failures_by_cause={
            cause: sum(life.failures_by_cause.get(cause, 0) for life in lives) / n
            for cause in sorted({cause for life in lives for cause in life.failures_by_cause})
        },
        outcome=Counter(life.outcome for life in lives).most_common(1)[0][0],
        elapsed_s=float(elapsed.mean()),
        steps_lost=sum(life.steps_lost for life in lives) / n,
        checkpoint_interval_s=saving.steps * prepared.step_times.healthy_s if saving else None,
        incidents=tuple(
            IncidentResult(i.time, i.cause, i.component, i.nodes, i.action, i.downtime_s, i.lost_steps)
            for i in lives[0].incidents
        ),
    )
