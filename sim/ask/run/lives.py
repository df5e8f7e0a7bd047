"""The whole training of an experiment: what a step and a save cost, then lives of the job.

Public: `prepare_life`, `PreparedLife`, `Lived`, `has_life`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import inf

from sim.ask.run.accounts import Accounts
from sim.ask.run.preemption import is_preempted, with_preemption
from sim.ask.run.step import Simulated, Watch, simulate_step
from sim.ask.run.step_times import StepTimes
from sim.ask.run.unfinished import endings, with_ending
from sim.inputs.fault_log import Outage, read_fault_log
from sim.inputs.records import Experiment
from sim.inputs.reliability import Failures
from sim.inputs.setup import Setup
from sim.life.best_interval import Trials, saving_steps
from sim.life.life import life_ahead, live
from sim.life.life_inputs import Life, LifeInputs, Saving, called
from sim.life.rates import expected_by_cause, mean_time_between_stops
from sim.metrics.long_run import LifeSummary, Tally
from sim.metrics.result import BestInterval, IncidentResult, RunResult

MOST_STRIKES = 50_000  # faults of one life, or events that might have been: some ten seconds


@dataclass(frozen=True)
class PreparedLife:
    """Everything that lives of one experiment share; may be sent to other processes."""

    inputs: LifeInputs
    step_times: StepTimes

    def live(self, seed: int) -> Life:
        """One life."""
        return live(self.inputs, seed)

    def lived(self, seed: int, book: Accounts, watch: Watch | None = None) -> Lived:
        """One life, and what it cost; `watch` is entered meanwhile, as in `simulate`."""
        begin, progress = life_ahead(self.inputs, seed)
        with watch(progress) if watch else nullcontext():
            life = begin()
        spent = book.used.spend(life.spans)
        _, cost = book.bill(spent, life.steps, {}, lived=True)
        summary = LifeSummary(
            seed=seed,
            outcome=life.outcome,
            elapsed_s=life.elapsed_s,
            productive_s=life.productive_s,
            steps=life.steps,
            steps_lost=life.steps_lost,
            stops=len(life.incidents),
            checkpoints=life.checkpoints,
            badput_s=life.badput_s,
            failures_by_cause=life.failures_by_cause,
            spent=spent,
            usd=cost.usd["total"] if cost else None,
            notes=self.step_times.doubts({span.state for span in life.spans}),
        )
        return Lived(self, life, summary)

    def result(self, tally: Tally, life: Life) -> RunResult:
        """Lives as the result reports them; `life` is the first of them."""
        inputs, whole = self.inputs, with_ending(tally.result(), self.inputs, self.step_times.healthy_s)
        running = whole.elapsed_s - whole.badput_s["detection"] - whole.badput_s["waiting"]
        saving = inputs.saving
        return replace(
            whole,
            expected_by_cause=expected_by_cause(inputs, whole.elapsed_s, running),
            checkpoint_interval_s=saving.steps * self.step_times.healthy_s if saving else None,
            incidents=tuple(
                IncidentResult(
                    i.time,
                    i.cause,
                    i.component,
                    i.nodes,
                    i.action,
                    i.downtime_s,
                    i.lost_steps,
                    called(i.nodes, life.names),
                )
                for i in life.incidents
            ),
        )

    def endings(self, run: RunResult) -> Iterator[str]:
        """How lives ended that did not reach their last step, for the notes of runs that are over all the same."""
        return endings(run, self.inputs) if run.finished else iter(())

    def best_interval(self) -> BestInterval | None:
        """The best time between saves, by simulation; None if nothing is saved or nothing stops the job."""
        saving = self.inputs.saving
        if saving is None or mean_time_between_stops(self.inputs) == inf:
            return None
        trials = Trials(self.inputs)
        used, best = trials.goodput(saving.steps), trials.best()
        return BestInterval(best * self.step_times.healthy_s, trials.goodput(best), used)


@dataclass(frozen=True)
class Lived:
    """A life, what it came from, and what is kept of it where there are many."""

    prepared: PreparedLife
    life: Life
    summary: LifeSummary

    def result(self) -> RunResult:
        """This one life as the result reports it."""
        tally = Tally()
        tally.add(self.summary)
        return self.prepared.result(tally, self.life)

    def notes(self, run: RunResult) -> tuple[str, ...]:
        """What a reader should know about the life that `run` tells of."""
        return (*self.prepared.endings(run), *self.summary.notes)


def has_life(experiment: Experiment) -> bool:
    """Whether the training is more than its steps: something fails, is saved or cuts it off, and it has an end."""
    training = experiment.training
    ends = (training.tokens, training.samples, training.time_limit) != (None, None, None)
    return ends and (
        experiment.failures is not None
        or experiment.checkpoint is not None
        or training.time_limit is not None
        or is_preempted(experiment.setup.prices)
    )


def prepare_life(experiment: Experiment, step: Simulated | None = None) -> PreparedLife:
    """Simulate a step (unless given) and a save, and gather what a life needs. Raises ConfigError, Deadlock."""
    run = step or simulate_step(experiment)
    times = StepTimes(experiment, run.plan, run.trace.time, run.readings.cluster, run.readings.slots)
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
        blast=run.readings.blast,
        outages=_outages(failures),
        names=tuple(times.cluster.node_name(node) for node in times.slots),
        input_stall_s=run.readings.critical.exposed["input_stall"],
        time_limit_s=experiment.training.time_limit,
        most_strikes=MOST_STRIKES if experiment.simulation.limits == "auto" else inf,
    )
    return PreparedLife(_with_saving(inputs, run, experiment), times)


def _target_steps(setup: Setup) -> float:
    return inf if setup.target_steps is None else float(setup.target_steps)


def _outages(failures: Failures) -> tuple[Outage, ...]:
    return read_fault_log(failures.log) if failures.log else ()


def _with_saving(inputs: LifeInputs, run: Simulated, experiment: Experiment) -> LifeInputs:
    checkpoint = experiment.checkpoint
    if checkpoint is None:
        return inputs
    costs = run.save_costs()
    peer_steps = checkpoint.peer_interval_steps if checkpoint.mode == "in_memory" else 0
    saving = Saving(costs, 1, peer_steps, checkpoint.keep)
    steps = saving_steps(replace(inputs, saving=saving), checkpoint)
    return replace(inputs, saving=replace(saving, steps=steps))
