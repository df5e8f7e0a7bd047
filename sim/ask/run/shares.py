"""Microbatches in proportion: as many for each replica as it runs while the others run theirs.

Public: `shared_out`, `in_proportion`.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heapreplace

import numpy as np
from numpy.typing import NDArray

from sim.ask.run.reuse import plan_step
from sim.errors import PlanError, Problem
from sim.inputs.records import Experiment
from sim.programs.costs import Costs, Place
from sim.programs.ranks import Job, RankClass, build_job
from sim.schedule.catalogue import SCHEDULES

Floats = NDArray[np.float64]
MANY = 100  # rounds of a pipeline, more than any schedule wants at least


def shared_out(experiment: Experiment) -> Experiment:
    """A resolved and checked experiment with the microbatches of each replica listed, where they are in proportion."""
    if experiment.parallelism.microbatches != "proportional":
        return experiment
    job = build_job(plan_step(_with(experiment, "equal")))
    training, unit = experiment.training, _unit(experiment)
    total, rest = divmod(training.global_batch // training.microbatch, unit)
    data = experiment.setup.data
    if rest or total < data:
        message = (
            f"{total * unit + rest} microbatches over {data} replicas in steps of {unit}, as the schedule wants them"
        )
        raise PlanError(Problem("", "parallelism.microbatches", message, "change global_batch, or the schedule"))
    bubble = (job.plan.course.stages - 1) / unit
    counts = tuple(unit * n for n in in_proportion(replica_seconds(job).tolist(), total, bubble))
    return _with(experiment, "equal" if len(set(counts)) == 1 else counts)


def _unit(experiment: Experiment) -> int:
    """Of how many microbatches the schedule of a replica wants a multiple: one, or as many as it has stages."""
    plan = experiment.parallelism
    objections = SCHEDULES[plan.schedule].objections
    refused = list(objections(plan.pipeline, plan.virtual_stages, plan.pipeline * MANY + 1))
    return plan.pipeline if refused else 1


def _with(experiment: Experiment, microbatches: str | tuple[int, ...]) -> Experiment:
    parallelism = experiment.parallelism.model_copy(update={"microbatches": microbatches})
    return experiment.model_copy(update={"parallelism": parallelism})


def replica_seconds(job: Job) -> Floats:
    """Seconds that the slowest stage of each replica takes for one microbatch with nobody on its links, (data,)."""
    grid, costs = job.plan.grid, Costs(job)
    each = np.array([_stage_seconds(costs, rank) for rank in job.ranks])
    seconds = np.zeros(grid.size["data"])
    np.maximum.at(seconds, grid.coordinate["data"], each[job.plan.partition.rank])
    return seconds


def _stage_seconds(costs: Costs, rank: RankClass) -> float:
    """All passes of a microbatch through the chunks of a rank."""
    chunks = [chunk.number for chunk in costs.job.plan.chunks if chunk.stage == rank.stage]
    phases = costs.job.plan.phases
    return sum(costs.chain(Place(rank.number, phase, chunk)).seconds for chunk in chunks for phase in phases)


def in_proportion(seconds: Sequence[float], total: int, bubble: float = 0.0) -> tuple[int, ...]:
    """How `total` microbatches are shared so that the last of the replicas ends as early as may be; each has one.

    seconds: of a microbatch on each. bubble: microbatches that each waits while its pipeline fills and drains. Each in
    turn goes to the replica that would end first with it: of equal pieces of work, no other way ends earlier.
    """
    pace = np.array(seconds)
    free = (total + bubble * len(pace)) / float((1 / pace).sum())
    counts = np.maximum(1, np.floor(free / pace - bubble).astype(np.int64))
    while counts.sum() > total:  # some have one, though they should have none
        ends = np.where(counts > 1, (counts + bubble) * pace, -1.0)
        counts[int(ends.argmax())] -= 1
    heap = [((n + 1 + bubble) * t, number) for number, (n, t) in enumerate(zip(counts.tolist(), seconds, strict=True))]
    heapify(heap)
    for _ in range(total - int(counts.sum())):
        number = heap[0][1]
        counts[number] += 1
        heapreplace(heap, ((int(counts[number]) + 1 + bubble) * seconds[number], number))
    return tuple(counts.tolist())
