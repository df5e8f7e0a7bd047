"""Folding by certificate: a step is simulated over a part of the links, then checked against all of them.

Links that it would overload join, with the flows that were on them, until none is left (`layout/rows.py`). What joined
stays in the layout that is kept, so that the next step on it is proved at once.

Public: `Proof`, `ProvedStep`, `proved_step`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sim.ask.run.reuse import keep_layout
from sim.ask.run.size import check_size
from sim.engine.lockstep import out_of_step
from sim.engine.moves import moves_of
from sim.engine.overload import Checked, check_loads, is_certain
from sim.engine.trace import Stops, Trace
from sim.layout.plan import CutModel, build_plan, with_rows
from sim.programs.ranks import Job, build_job, guilty_rows, whole_links
from sim.programs.shape import LOCKED

WORTH = 0.4  # of the instructions
HOPS = 2  # from a group with a slow part to those that are not expected to keep in step
MOST_ROUNDS = 12  # then parts that may share links are simulated as one


@dataclass(frozen=True)
class Proof:
    """How a step that was folded over a part of the links was proved for all of them.

    rounds: how often it was simulated. checked: links that were left out of rate sharing, and looked at in the last
    round; 0 where all had joined. joined: links of which some flows had to count at last.
    """

    rounds: int = 1
    checked: int = 0
    joined: int = 0


@dataclass(frozen=True)
class ProvedStep:
    """A step that is that of all links: the job, folded as it ran, and what happened."""

    job: Job
    trace: Trace
    proof: Proof


def proved_step(job: Job, run: Callable[[Job, Stops | None], Trace]) -> ProvedStep:
    """Run a job until nothing is refuted: no link overloaded, no skipped part that would have met another, no ranks
    that went through passes together but were not slowed alike. Raises Deadlock.

    run: simulates a job; loose parts are not skipped in the stops, and nowhere without any.
    """
    stops: Stops | None = {}
    rounds = 0
    while True:
        trace, rounds = run(job, stops), rounds + 1
        if groups := out_of_step(trace):
            job = replace(job, in_step=job.in_step - {job.ranks[group[0]].flows[LOCKED] for group in groups})
            continue
        if is_certain(trace):
            return ProvedStep(job, trace, Proof(rounds))
        checked = check_loads(trace, moves_of(trace))
        if checked.is_fine:
            n_checked = int(job.table.link_count[job.table.left_out].sum())
            joined = int((~whole_links(job.plan)).sum()) if job.plan.rows is not None else 0
            peak = np.maximum(trace.link_peak, checked.peak)
            return ProvedStep(job, replace(trace, link_peak=peak), Proof(rounds, n_checked, joined))
        if checked.met and stops is not None:  # first: parts that did not see one another may overload any link
            stops = _joined(stops, checked.met) if rounds < MOST_ROUNDS and _gains(trace) else None
        else:
            job, stops = _with_overloaded(job, checked), {}


def _gains(trace: Trace) -> bool:
    """Whether so much was skipped that it is worth further rounds; else all is simulated in the next one."""
    return len(trace.stream) < WORTH * sum(len(stream.which) for stream in trace.program.streams)


def hopeful(job: Job) -> Job:
    """The job with ranks of tensor groups in step wherever that may turn out to be right.

    It seldom does of groups with a slow part in them, and of their neighbours: those that they exchange something with,
    and those of these.
    """
    if job.plan.software.overlap_slowdown == 0:
        return job
    groups = {number: flow.members for number, flow in enumerate(job.flows) if flow.key == LOCKED}
    unlike = {rank for members in groups.values() if not _are_alike(job, members) for rank in members}
    for _ in range(HOPS):
        near = {rank for flow in job.flows if not unlike.isdisjoint(flow.members) for rank in flow.members}
        unlike = {rank for members in groups.values() if not near.isdisjoint(members) for rank in members}
    return replace(job, in_step=frozenset(n for n, members in groups.items() if unlike.isdisjoint(members)))


def _are_alike(job: Job, members: tuple[int, ...]) -> bool:
    """Whether ranks are equally fast, and so is all that they communicate by."""
    speeds = {(job.ranks[m].speed, *(job.flows[flow].rate for flow in job.ranks[m].flows.values())) for m in members}
    return len(speeds) == 1


def _with_overloaded(job: Job, checked: Checked) -> Job:
    """The job with what overloaded its links among the rows; its layout is kept for the next step."""
    plan = job.plan
    layout = with_rows(plan, guilty_rows(plan, job.table, checked.link, checked.flow))
    keep_layout(plan.experiment, layout)
    plan = build_plan(plan.experiment, plan.cluster, layout, CutModel(plan.architecture, plan.chunks))
    check_size(plan)
    return hopeful(build_job(plan))


def _joined(stops: Stops, more: Stops) -> Stops:
    return stops | {part: np.concatenate([stops.get(part, np.zeros((0, 2))), times]) for part, times in more.items()}
