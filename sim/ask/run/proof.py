"""Folding by certificate: a step is simulated over a part of the links, then checked against all of them.

Links that it would overload join, with the flows that were on them, until none is left (`plan/rows.py`). What joined
stays in the layout that is kept, so that the next step on it is proved at once.

Public: `Proof`, `ProvedStep`, `proved_step`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sim.ask.run.reuse import keep_layout
from sim.engine.overload import find_overload, moves_of, peak_of_left_out
from sim.engine.trace import Trace
from sim.plan.plan import CutModel, build_plan, with_rows
from sim.programs.ranks import Job, build_job, guilty_rows, whole_links


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


def proved_step(job: Job, run: Callable[[Job], Trace], trace: Trace | None = None) -> ProvedStep:
    """Run a job until no link is overloaded. trace: of the first run, if there was one. Raises Deadlock."""
    trace, rounds = trace or run(job), 1
    while job.plan.rows is not None:
        moves = moves_of(trace)
        found = find_overload(trace, moves)
        if not len(found.link):
            peak = np.maximum(trace.link_peak, peak_of_left_out(trace, moves))
            checked = int(job.table.link_count[job.table.left_out].sum())
            joined = int((~whole_links(job.plan)).sum())
            return ProvedStep(job, replace(trace, link_peak=peak), Proof(rounds, checked, joined))
        plan = job.plan
        layout = with_rows(plan, guilty_rows(plan, job.table, found.link, found.flow))
        keep_layout(plan.experiment, layout)
        job = build_job(build_plan(plan.experiment, plan.cluster, layout, CutModel(plan.architecture, plan.chunks)))
        trace, rounds = run(job), rounds + 1
    return ProvedStep(job, trace, Proof(rounds))
