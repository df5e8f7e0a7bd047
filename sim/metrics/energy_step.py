"""Energy of the accelerators in one step, from what the engine ran.

Every accelerator of the job draws its waiting power all the time; what it runs adds to that. A
computation brings its whole energy, so its seconds at full speed are taken off the wait. A transfer
adds the energy of the bytes that each member sends and receives. Rows of folded ranks count as often
as there are ranks, rows of skipped periods as often as they happened.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.engine.power import MATRIX, MEMORY
from sim.engine.program import Action
from sim.engine.ranks import Job
from sim.engine.trace import Trace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
COMMUNICATION, WAITING, IDLE = "communication", "waiting", "idle"
PHASES = (MATRIX, MEMORY, COMMUNICATION, WAITING, IDLE)


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


def step_energy(trace: Trace, job: Job) -> StepEnergy:
    """Energy of the accelerators of a job over one step, by phase."""
    counts = np.array([rank.count for rank in job.ranks], dtype=np.float64)
    actions = trace.program.actions
    happened = np.bincount(row_actions(trace), trace.weights(), len(actions)) * spread(trace, counts)
    phases = {phase: float(happened @ _computed(actions, phase)) for phase in (MATRIX, MEMORY)}
    phases[COMMUNICATION] = float(happened @ _sent(actions)) * job.board.per_byte_sent
    ranks = sum(rank.count for rank in job.ranks)
    phases[WAITING] = job.board.waiting * (ranks * trace.time - float(happened @ _busy(actions)))
    return StepEnergy(trace.time, phases, ranks)


def added_joules(trace: Trace, job: Job) -> Floats:
    """Energy that each action adds to the waiting power of each member, (n_actions,) [J]."""
    actions, board = trace.program.actions, job.board
    computed = _computed(actions, MATRIX) + _computed(actions, MEMORY)
    return computed - board.waiting * _busy(actions) + board.per_byte_sent * _sent(actions)


def spread(trace: Trace, weight: Floats) -> Floats:
    """Sum of `weight`, one for each rank class, over the members of each action, (n_actions,)."""
    actions = trace.program.actions
    members = [trace.flow_ranks[action.flow] if action.flow >= 0 else action.ranks for action in actions]
    owner = np.repeat(np.arange(len(actions)), [len(each) for each in members])
    flat = np.array([rank for each in members for rank in each], dtype=np.int64)
    total: Floats = np.bincount(owner, weight[flat], len(actions)).astype(np.float64)
    return total


def row_actions(trace: Trace) -> Ints:
    """Action of each row, (n,)."""
    acts = np.array([template.action for template in trace.program.templates], dtype=np.int64)
    return acts[trace.template]


def _computed(actions: list[Action], phase: str) -> Floats:
    return np.array([sum(joules for name, joules in action.joules if name == phase) for action in actions])


def _busy(actions: list[Action]) -> Floats:
    return np.array([action.busy for action in actions])


def _sent(actions: list[Action]) -> Floats:
    """Bytes that each member of an action sends, and receives as many."""
    return np.array(
        [action.size if action.flow >= 0 else sum(size for _, size in action.carried) for action in actions]
    )
