"""One training step, ready to run, or run, with what is read off it.

Public: `prepare_step`, `simulate_step`, `Prepared`, `Simulated`, `Readings`, `Watch`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import inf
from typing import Protocol

import numpy as np

from sim.ask.run.bounds import step_bounds
from sim.ask.run.forward import forward_passes
from sim.ask.run.proof import Proof, ProvedStep, hopeful, proved_step
from sim.ask.run.reuse import plan_step, step_key
from sim.ask.run.shares import shared_out
from sim.ask.run.size import check_size
from sim.ask.run.synchrony import synchronize
from sim.cluster.build import build_cluster
from sim.cluster.cluster import Cluster
from sim.cluster.outage import nodes_behind
from sim.engine.executor import Executor
from sim.engine.network import Network
from sim.engine.trace import Stops, Trace
from sim.errors import Deadlock, PlanError, Problem
from sim.inputs.board import base_power
from sim.inputs.records import Experiment
from sim.inputs.setup import Setup
from sim.inputs.storage import Checkpointing
from sim.layout.plan import Plan
from sim.life.feeding import feed, lost_beside_reads, supply_of
from sim.life.saving import checkpoint_costs
from sim.life.storage_costs import CheckpointCosts, Feeding
from sim.memo import Memo
from sim.metrics.breakdown import RankTime, critical_rank, rank_time
from sim.metrics.energy_step import Activity, activity_of, highest_mean
from sim.metrics.links import link_use
from sim.metrics.memory import memory_key, memory_result, tightest, unknown_memory
from sim.metrics.replay import replay_result
from sim.metrics.result import ForwardPasses, LinkUse, MemoryResult, ReplayResult, Synchrony
from sim.programs.assemble import NO_WAITS, Waits, assemble
from sim.programs.ranks import Job, build_job
from sim.units import POWER, format_quantity

LONG = 300_000  # instructions of which a step takes some seconds
PROBE_S = 3.0  # of a run, from which the rest is estimated
WARM_PERIODS = 8  # beside those in which a pipeline fills, until periods repeat, and those that are not skipped
KEPT_ROWS = 1_000_000  # of all steps that are kept at a time: some 50 MB
LIMIT_KEPT = 1e-6  # share of a power limit that its mean over a step may be above it
OWN_ROWS = 5_000  # what the rest of a step weighs
WHEN_TO_SAVE = {"policy": "fixed", "interval": None, "interval_steps": None}  # what a save does not depend on


_memories: Memo[MemoryResult] = Memo(64)  # points of a sweep with equal plans share them: 7 to 9 % of a point


class Watch(Protocol):
    """Shows how much is done while it is entered, as `fraction` says from 0 to 1; and what is said of a step ahead."""

    def __call__(self, fraction: Callable[[], float], ahead: Runs | None = None) -> AbstractContextManager[None]:
        """To be entered."""
        ...


class Readings:
    """What is read off a simulated step, each when it is first asked for. Nothing here depends on the run clock."""

    def __init__(self, job: Job, trace: Trace) -> None:
        self.job, self.trace = job, trace
        self.saves: dict[Checkpointing, CheckpointCosts] = {}

    @cached_property  # of a step that many points share, as are the seven below
    def critical(self) -> RankTime:
        """Where the time goes on the rank class that is busy longest."""
        return rank_time(self.trace, critical_rank(self.trace))

    @cached_property  # see critical
    def activity(self) -> Activity:
        """What takes energy."""
        return activity_of(self.trace, self.job)

    @cached_property  # see critical
    def replay(self) -> ReplayResult | None:
        """A replay beside what was recorded."""
        return replay_result(self.job, self.trace)

    @cached_property  # see critical
    def memory(self) -> MemoryResult:
        """Memory of all stages; where there are several kinds of node, on the one that has least room."""
        return tightest(list(self.memory_by_kind.values()))

    @cached_property  # see critical
    def memory_by_kind(self) -> dict[int, MemoryResult]:
        """Memory of all stages on each kind of node that has some; shown is the fullest of those that it has."""
        kinds = self.job.plan.experiment.setup.kinds
        ranks = self.job.ranks
        stages = {kind: {rank.stage for rank in ranks if rank.kind == kind} for kind in range(len(kinds))}
        return {kind: self._memory_on(kinds[kind], there) for kind, there in stages.items() if there}

    def _memory_on(self, setup: Setup, stages: set[int]) -> MemoryResult:
        architecture, there = self.job.plan.architecture, sorted(stages)
        if setup.workload.replay:
            return unknown_memory(setup)
        if setup.experiment.simulation.reuse == "off":
            return memory_result(setup, architecture, there)
        key = memory_key(setup), tuple(there)
        return _memories.get(key, lambda: memory_result(setup, architecture, there), lambda _: 1.0)

    @cached_property  # see critical
    def links(self) -> tuple[LinkUse, ...]:
        """How much of each link is used."""
        return link_use(self.trace, self.job.plan.cluster)

    @cached_property  # see critical
    def cluster(self) -> Cluster:
        """The cluster with every switch on its own, and no part slow."""
        return build_cluster(self.job.plan.experiment.setup.cluster)

    @cached_property  # see critical
    def slots(self) -> list[int]:
        """Cluster node of each node of the job."""
        nodes: list[int] = np.unique(self.cluster.node_of(self.job.plan.grid.accelerator)).tolist()
        return nodes

    @cached_property  # see critical
    def blast(self) -> tuple[tuple[int, ...], ...]:
        """Nodes of the job that each switch cuts off (`nodes_behind`), by their place among `slots`."""
        slot = {node: i for i, node in enumerate(self.slots)}
        return tuple(tuple(slot[node] for node in nodes if node in slot) for nodes in nodes_behind(self.cluster))


@dataclass(frozen=True)
class Simulated:
    """A simulated step with everything that led to it."""

    setup: Setup
    cluster: Cluster
    plan: Plan
    job: Job
    trace: Trace
    feeding: Feeding | None
    forward: ForwardPasses | None
    synchrony: Synchrony | None
    readings: Readings
    proof: Proof

    def of(self, experiment: Experiment) -> Simulated:
        """The same step of an experiment that differs in nothing that steps depend on."""
        plan = replace(self.plan, experiment=experiment)
        return replace(self, setup=experiment.setup, plan=plan, job=replace(self.job, plan=plan))

    def save_costs(self) -> CheckpointCosts:
        """What a save costs, whenever it happens. Raises as `checkpoint_costs`."""
        save = self.plan.experiment.checkpoint
        if save is None:
            return checkpoint_costs(self.plan, self.trace.time)
        known, asked = self.readings.saves, save.model_copy(update=WHEN_TO_SAVE)
        if asked not in known:
            known[asked] = checkpoint_costs(self.plan, self.trace.time)
        return known[asked]

    @property
    def rows(self) -> int:
        """Rows of the trace, instructions and ranks, and what the rest weighs: a measure of its size."""
        instructions = sum(len(stream.which) for stream in self.trace.program.streams)
        return OWN_ROWS + len(self.trace.stream) + instructions + self.plan.grid.n_ranks


class Runs:
    """Runs of a step, with what all wait for at its end; the program of a job is made once.

    bounds: what its time lies between [s], if that is `wanted` and proved, and the step takes long.
    """

    def __init__(self, waits: Waits = NO_WAITS) -> None:
        self.waits = waits
        self.job: Job | None = None
        self.executor: Executor | None = None  # of the run to come, or under way
        self.began = inf  # on the clock of the machine [s]
        self.expected = 0.0  # rows of it: parts repeat when the pipeline is full, and not any more when it drains
        self.wanted = False
        self.bounds: tuple[float, float] | None = None

    def prepare(self, job: Job, stops: Stops | None) -> Executor:
        """Everything but the passing of time; stops: see `proved_step`."""
        options, old = job.plan.experiment.simulation, self.executor
        program = old.program if old and job is self.job else assemble(job, self.waits)
        self.release()
        self.job = job
        self.executor = Executor(
            program,
            Network(job.table, check=options.certificate, paces=True),
            flow_ranks=tuple(flow.members for flow in job.flows),
            slowdown=job.plan.software.overlap_slowdown,
            skip=options.skip == "auto",
            stops=stops,
        )
        ends = job.plan.course.stages + WARM_PERIODS
        parts = (program.loose or program.parts) if self.executor.skipper else []
        repeated = (len(program.streams[part.beat].which) / part.length for part in parts)
        self.expected = self.executor.n_instructions * min((1.0, *(ends / periods for periods in repeated)))
        return self.executor

    def run(self, job: Job, stops: Stops | None) -> Trace:
        """Let it happen. Raises Deadlock; PlanError where it was recorded so."""
        executor = self.executor
        if executor is None or executor.rows or job is not self.job:
            executor = self.prepare(job, stops)
        if self.wanted and executor.n_instructions > LONG:
            self.wanted, self.bounds = False, _bounds(job.plan.experiment)
        self.began = time.perf_counter()
        try:
            trace = executor.run()
        except Deadlock as error:
            if job.plan.model.replay is None:
                raise
            message = f"its ranks wait for each other for ever: {error}"
            raise PlanError(
                Problem("", "workload.recording", message, "import traces of one and the same step")
            ) from None
        self.began = inf
        return trace

    def progress(self) -> float:
        """Share of the run under way that is done, 0 to 1."""
        return self.executor.progress() if self.executor else 0.0

    def seconds_left(self) -> float:
        """How long the run under way still takes, as fast as it was so far; 0 in the first seconds of it."""
        rows, taken = self.executor.n_rows if self.executor else 0, time.perf_counter() - self.began
        return taken * max(0.0, self.expected / rows - 1) if rows and taken >= PROBE_S else 0.0

    def release(self) -> None:
        """Let go of all after the runs."""
        if self.executor:
            self.executor.release()


@dataclass(frozen=True)
class Prepared:
    """A step ready to run: everything but the passing of time."""

    setup: Setup
    cluster: Cluster
    plan: Plan
    job: Job
    runs: Runs

    def run(self) -> Simulated:
        """Let it happen, once; again with the wait for input if there is one. Raises PlanError, Deadlock."""
        step, feeding, synchronized = proved_step(self.job, self.runs.run), None, None
        step_s, waits, experiment = step.trace.time, NO_WAITS, self.setup.experiment
        forward = forward_passes(step.job, experiment)
        if forward is not None:
            waits = Waits(compute=forward.teacher_s, other=forward.share_s)
            step_s += forward.teacher_s + forward.share_s
        if experiment.synchronization is not None:
            slow, step = step, self._without_slow_parts(step)
            synchronized = synchronize(slow.job, slow.trace, step.trace.time, sum(waits))
            step_s, waits = synchronized.step_s, synchronized.added_to(waits)
        data, storage = experiment.input, self.cluster.storage
        if data is not None and storage is not None:
            feeding = feed(supply_of(self.plan, data, storage), step_s, experiment.seed)
            slowed = lost_beside_reads(step.job.plan, data, storage, step_s)
            feeding = replace(feeding, slowed_s=slowed)
            waits = waits._replace(input_stall=feeding.stall_s + slowed)
        if waits.named:
            step = proved_step(step.job, Runs(waits).run)
        return Simulated(
            setup=self.setup,
            cluster=self.cluster,
            plan=step.job.plan,
            job=step.job,
            trace=step.trace,
            feeding=feeding,
            forward=forward,
            synchrony=synchronized.synchrony if synchronized else None,
            readings=Readings(step.job, step.trace),
            proof=step.proof,
        )

    def _without_slow_parts(self, step: ProvedStep) -> ProvedStep:
        """The step of workers that wait for nobody and have no slow part: what the others add is a wait."""
        if not self.setup.experiment.degradations:
            return step
        healthy = prepare_step(self.setup.experiment.model_copy(update={"degradations": ()}))
        return proved_step(healthy.job, healthy.runs.run)


def prepare_step(experiment: Experiment) -> Prepared:
    """Build cluster, plan and program of a resolved and checked experiment. Raises PlanError."""
    experiment = shared_out(experiment)
    setup = experiment.setup
    plan = plan_step(experiment)
    check_size(plan)
    job, runs = hopeful(build_job(plan)), Runs()
    runs.prepare(job, {})
    return Prepared(setup, plan.cluster, plan, job, runs)


def _simulate(experiment: Experiment, watch: Watch | None) -> Simulated:
    prepared = prepare_step(experiment)
    with watch(prepared.runs.progress, prepared.runs) if watch else nullcontext():
        simulated = prepared.run()
    prepared.runs.release()
    return simulated


def _bounds(experiment: Experiment) -> tuple[float, float] | None:
    """What is proved of a step time without simulating the step [s]."""
    try:
        bounds = step_bounds(experiment)
    except PlanError:
        return None
    return bounds.lower_s, bounds.upper_s


def _within_limit(experiment: Experiment, simulate: Callable[[Experiment], Simulated]) -> Simulated:
    """The step with every board within its limit on average: less for computation where transfers run beside it.

    What one operation draws is within the limit by itself (`devices/power.py`); this is what several draw at once.
    """
    simulated, limit = simulate(experiment), experiment.power.limit
    if limit is None:
        return simulated
    kept, powers = limit, [kind.accelerator.power for kind in experiment.setup.kinds]
    while (over := highest_mean(simulated.readings.activity) - limit) > LIMIT_KEPT * limit:
        kept -= over
        if kept <= max(base_power(power, power.voltage.slowest) for power in powers):
            message = f"transfers beside computation leave none of {format_quantity(limit, POWER)} for it"
            raise PlanError(Problem("", "power.limit", message, "give more"))
        less = experiment.power.model_copy(update={"limit": kept})
        simulated = simulate(experiment.model_copy(update={"power": less}))
    return simulated if kept == limit else simulated.of(experiment)


_steps: Memo[Simulated] = Memo(KEPT_ROWS)  # points of a sweep that differ between steps alone share their step


def simulate_step(experiment: Experiment, watch: Watch | None = None) -> Simulated:
    """One step of a resolved and checked experiment, run unless it is known. Raises PlanError, Deadlock.

    `watch` is entered while it runs, and given a function that says how much is done.
    """

    experiment = shared_out(experiment)

    def run() -> Simulated:
        return _within_limit(experiment, partial(_simulate, watch=watch))

    if experiment.simulation.reuse == "off":
        return run()
    return _steps.get(step_key(experiment), run, lambda made: made.rows).of(experiment)
