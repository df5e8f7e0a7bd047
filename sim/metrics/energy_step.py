"""Energy of the accelerators in one step, from what the engine ran.

Every accelerator of the job draws its waiting power all the time; what it runs adds to that. A
computation brings its whole energy, so its seconds at full speed are taken off the wait. A transfer
adds the energy of the bytes that each member sends and receives. Rows of folded ranks count as often
as there are ranks, rows of skipped periods as often as they happened.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from sim.devices.power import MATRIX, MEMORY
from sim.engine.program import Action
from sim.engine.trace import Trace
from sim.programs.ranks import Job

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
COMMUNICATION, WAITING, IDLE = "communication", "waiting", "idle"
PHASES = (MATRIX, MEMORY, COMMUNICATION, WAITING, IDLE)


@dataclass(frozen=True)
class Activity:
    """What a step did, as far as it takes energy.

    of_row: (n_rows,) action of each row of the trace. matrix, memory: (n_actions,) joules of computation on
    each member of an action; busy: seconds it needs at full speed; sent: bytes that each member sends, and
    receives as many. owner, member: (n,) actions with each of their rank classes.
    """

    trace: Trace
    job: Job
    of_row: Ints
    matrix: Floats
    memory: Floats
    busy: Floats
    sent: Floats
    owner: Ints
    member: Ints
    curves: dict[int, Floats] = field(default_factory=dict, compare=False)  # of `power_levels`, by rank class

    def spread(self, weight: Floats) -> Floats:
        """Sum of `weight`, one for each rank class, over the members of each action, (n_actions,)."""
        total: Floats = np.bincount(self.owner, weight[self.member], len(self.busy)).astype(np.float64)
        return total

    def added(self) -> Floats:
        """Energy that each action adds to the waiting power of each member, (n_actions,) [J]."""
        board = self.job.board
        return self.matrix + self.memory - board.waiting * self.busy + board.per_byte_sent * self.sent


@dataclass(frozen=True)
class StepEnergy:
    """Energy of one step on the accelerators of the job.

    seconds: of the step. phases: joules by phase, all ranks together. ranks: accelerators of the job.
    """

    seconds: float
    phases: dict[str, float]
    ranks: int

    @property
    def watts(self) -> float:
        """Mean power of all accelerators of the job [W]."""
        return sum(self.phases.values()) / self.seconds


def activity_of(trace: Trace, job: Job) -> Activity:
    """What a step did, in arrays."""
    actions = trace.program.actions
    rows = chain.from_iterable([_row(action) for action in actions])
    matrix, memory, busy, sent = np.fromiter(rows, np.float64, 4 * len(actions)).reshape(-1, 4).T
    members = [trace.flow_ranks[action.flow] if action.flow >= 0 else action.ranks for action in actions]
    return Activity(
        trace,
        job,
        trace.actions(),
        matrix,
        memory,
        busy,
        sent,
        np.repeat(np.arange(len(actions)), list(map(len, members))),
        np.fromiter(chain.from_iterable(members), np.int64),
    )


def _row(action: Action) -> tuple[float, float, float, float]:
    if action.flow >= 0:
        return 0.0, 0.0, 0.0, action.size
    matrix = memory = sent = 0.0
    for phase, joules in action.joules:
        if phase == MATRIX:
            matrix = joules
        else:
            memory = joules
    for _, size in action.carried:
        sent += size
    return matrix, memory, action.busy, sent


def highest_mean(activity: Activity) -> float:
    """Mean power over a step of the accelerator that draws most [W]."""
    trace, n = activity.trace, len(activity.job.ranks)
    joules = np.bincount(activity.of_row, trace.weights(), len(activity.busy)) * activity.added()
    of_rank = np.bincount(activity.member, joules[activity.owner], n)
    return activity.job.board.waiting + float(of_rank.max()) / trace.time


def step_energy(activity: Activity) -> StepEnergy:
    """Energy of the accelerators of a job over one step, by phase."""
    trace, job = activity.trace, activity.job
    counts = np.array([rank.count for rank in job.ranks], dtype=np.float64)
    happened = np.bincount(activity.of_row, trace.weights(), len(activity.busy)) * activity.spread(counts)
    ranks = sum(rank.count for rank in job.ranks)
    phases = {
        MATRIX: float(happened @ activity.matrix),
        MEMORY: float(happened @ activity.memory),
        COMMUNICATION: float(happened @ activity.sent) * job.board.per_byte_sent,
        WAITING: job.board.waiting * (ranks * trace.time - float(happened @ activity.busy)),
    }
    return StepEnergy(trace.time, phases, ranks)
