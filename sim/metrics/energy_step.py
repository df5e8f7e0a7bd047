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

    def added(self, weight: Floats) -> Floats:
        """Energy that each action adds to the waiting power of its members, (n_actions,) [J].

        weight: how many of each rank class take part, (n_rank_classes,).
        """
        computed = self.spread(weight) * (self.matrix + self.memory)
        return computed - self.spread(weight * self.waiting) * self.busy + self.transfers(weight)

    def transfers(self, weight: Floats) -> Floats:
        """Energy of the bytes that members send and receive, (n_actions,) [J]."""
        return self.spread(weight * self.per_byte_sent) * self.sent

    @property
    def kind(self) -> Ints:
        """Kind of the nodes of each rank class, (n_rank_classes,)."""
        return np.array([rank.kind for rank in self.job.ranks])

    @property
    def per_byte_sent(self) -> Floats:
        """Energy of a byte that a rank class sends and one that it receives, (n_rank_classes,) [J/B]."""
        joules: Floats = np.array([board.per_byte_sent for board in self.job.boards])[self.kind]
        return joules

    @property
    def waiting(self) -> Floats:
        """Power of a board of each rank class while it waits, (n_rank_classes,) [W]."""
        watts: Floats = np.array([board.waiting for board in self.job.boards])[self.kind]
        return watts


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
    happened = np.bincount(activity.of_row, trace.weights(), len(activity.busy))

    def of_rank(each: Floats) -> Floats:
        total: Floats = np.bincount(activity.member, (happened * each)[activity.owner], n).astype(np.float64)
        return total

    computed = of_rank(activity.matrix + activity.memory) - activity.waiting * of_rank(activity.busy)
    joules = computed + activity.per_byte_sent * of_rank(activity.sent)
    return float((activity.waiting + joules / trace.time).max())


def step_energy(activity: Activity) -> StepEnergy:
    """Energy of the accelerators of a job over one step, by phase."""
    trace, job, waiting = activity.trace, activity.job, activity.waiting
    counts = np.array([rank.count for rank in job.ranks], dtype=np.float64)
    times = np.bincount(activity.of_row, trace.weights(), len(activity.busy))
    happened = times * activity.spread(counts)
    busy = times * activity.spread(counts * waiting)
    phases = {
        MATRIX: float(happened @ activity.matrix),
        MEMORY: float(happened @ activity.memory),
        COMMUNICATION: float(times @ activity.transfers(counts)),
        WAITING: float(counts @ waiting) * trace.time - float(busy @ activity.busy),
    }
    return StepEnergy(trace.time, phases, sum(rank.count for rank in job.ranks))
