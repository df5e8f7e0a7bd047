"""What a step takes to simulate, known once its ranks are folded: a job that no memory holds is refused at once.

Public: `check_size`.
"""

from __future__ import annotations

import os

import numpy as np

from sim.errors import PlanError, Problem
from sim.layout.plan import Plan
from sim.units import DATA, format_quantity

PER_TASK = 3  # instructions: the begin of a pass, the pass, what is sent after it
INSTRUCTION_BYTES = 60  # template and index, twice, and a row of the trace for one in seven
RANK_BYTES = 20_000  # streams, templates and actions of a rank class, and its flows
MOST_MEMORY = 0.5  # of that of the machine


def check_size(plan: Plan) -> None:
    """Raise PlanError if the program of a folded plan does not fit into half of the memory of this machine."""
    needed, here = _bytes_of(plan), MOST_MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed <= here:
        return
    classes = len(plan.partition.representatives())
    message = (
        f"{classes:,} of {plan.grid.n_ranks:,} ranks are unlike all others, which takes "
        f"{format_quantity(needed, DATA)} of memory to simulate; half of this machine are {format_quantity(here, DATA)}"
    )
    way_out = (
        "ranks on whole nodes (packed, random_nodes) are alike more often, run --bounds tells what the step is within"
    )
    raise PlanError(Problem("", "parallelism.placement", message, way_out))


def _bytes_of(plan: Plan) -> float:
    """Memory that the program of a plan takes: who shares links with whom, a bit a pair, and its instructions."""
    representatives = plan.partition.representatives()
    flows = 1 + max((int(classes.max()) for classes in plan.partition.flow if len(classes)), default=-1)
    tasks = np.array([len(table) for table in plan.schedule.tables])
    stages = plan.grid.coordinate["pipeline"][representatives]
    instructions = PER_TASK * float(tasks[stages].sum())
    return flows**2 / 8 + INSTRUCTION_BYTES * instructions + RANK_BYTES * len(representatives)
