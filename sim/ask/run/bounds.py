"""Bounds of a step time where the exact one would cost too much: proved, and known in a tenth of a second.

The order of things in a step does not depend on rates, so a step lasts no less if a transfer takes longer. With every
flow at its rate alone it is a lower bound, with every flow at the least rate that max-min sharing can give it an upper
one; so with the least and the most latency of like groups. Nobody meets anybody in either, so both fold to a handful
of ranks.

Public: `StepBounds`, `bounded`, `step_bounds`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import sim
from sim.ask.run.shares import shared_out
from sim.cluster.build import build_cluster
from sim.engine.executor import Executor
from sim.engine.network import FlowTable, Network
from sim.engine.program import Program
from sim.errors import PlanError, Problem
from sim.inputs.load import load_experiment
from sim.inputs.records import Experiment
from sim.layout.plan import Plan, build_plan, loose_layouts
from sim.metrics.result import BoundedResult, Exactness
from sim.programs.assemble import assemble
from sim.programs.ranks import Job, job_of, quotient


def bounded(source: str, overrides: list[str]) -> BoundedResult:
    """The bounds of an experiment by file or name, changed by `key=value` texts. Raises ConfigError, PlanError."""
    began = time.perf_counter()
    experiment = load_experiment(source, overrides).experiment
    bounds = step_bounds(experiment)
    exactness = Exactness("bounds", bounds.lower_s, bounds.upper_s, rounds=0)
    classes = {"ranks": bounds.ranks, "rank_classes": bounds.rank_classes}
    wall = time.perf_counter() - began
    return BoundedResult(experiment.name, bounds.ranks, exactness, classes, wall, experiment.seed, sim.__version__)


@dataclass(frozen=True)
class StepBounds:
    """What the step time is within [s], and how many ranks there are in how many classes that were simulated."""

    lower_s: float
    upper_s: float
    ranks: int
    rank_classes: int


def step_bounds(experiment: Experiment) -> StepBounds:
    """Proved bounds of the step time of a resolved and checked experiment. Raises PlanError."""
    if problems := list(_unbounded(experiment)):
        raise PlanError(problems)
    experiment = shared_out(experiment)
    merge = experiment.simulation.prune == "auto"
    cluster = build_cluster(experiment.setup.cluster, experiment.degradations, merge_sprayed=merge)
    programs = [
        _priced(build_plan(experiment, cluster, layout), rate) for layout, rate in loose_layouts(experiment, cluster)
    ]
    (quick, lower), (slow, upper) = programs
    if _moves(quick) != _moves(slow):
        message = "no bounds are proved where latency decides which algorithm a collective takes"
        raise PlanError(Problem("", "cluster.node.collectives", message, "run it"))
    slowdown = lower.plan.software.overlap_slowdown
    if slowdown > 0:
        slow = Program(slow.script, [each._replace(duration=each.duration / (1 - slowdown)) for each in slow.actions])
    return StepBounds(_seconds(lower, quick), _seconds(upper, slow), lower.plan.grid.n_ranks, len(lower.ranks))


def _moves(program: Program) -> list[tuple[object, ...]]:
    """What each action moves, whatever time it takes."""
    return [(each.flow, each.size, each.carried) for each in program.actions]


def _unbounded(experiment: Experiment) -> Iterator[Problem]:
    """What moves a step in ways that the bounds do not know."""
    if experiment.setup.workload.replay:
        yield Problem("", "workload", "bounds are of steps that are written from a plan, not recorded", "run it")
    if experiment.input is not None:
        yield Problem("", "input", "bounds do not know how long a step waits for its data", "leave it out, or run it")
    if experiment.synchronization is not None:
        message = "bounds do not know how long workers wait for one another"
        yield Problem("", "synchronization", message, "leave it out, or run it")
    for key, given in (("teacher", experiment.teacher), ("training.evaluation", experiment.training.evaluation)):
        if given is not None:
            yield Problem("", key, "bounds do not know passes that go forward alone", "leave it out, or run it")
    if experiment.power.limit is not None:
        message = "bounds do not know what transfers beside computation leave of it"
        yield Problem("", "power.limit", message, "leave it out, or run it")


def _priced(plan: Plan, rate: NDArray[np.float64]) -> tuple[Program, Job]:
    """The program of a step with each flow class at its rate [B/s], and its job."""
    numbers, ones = np.arange(len(rate)), np.ones(len(rate))
    count = np.ones_like(numbers)
    table = FlowTable(len(rate), len(rate), numbers, numbers, ones, rate, count, np.zeros_like(numbers))
    job = job_of(plan, quotient(plan, table))
    return assemble(job), job


def _seconds(job: Job, program: Program) -> float:
    skip = job.plan.experiment.simulation.skip == "auto"
    executor = Executor(program, Network(job.table), flow_ranks=tuple(flow.members for flow in job.flows), skip=skip)
    trace = executor.run()
    executor.release()
    return trace.time
