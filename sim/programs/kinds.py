"""The tasks of a stage by kind, and how they fill streams.

Both follow from the schedule and the exchange, whatever the passes cost, so they are worked out once.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from sim.engine.program import Line
from sim.phase import Phase
from sim.programs.exchange import GradientExchange, Traffic
from sim.ragged import ranges
from sim.schedule.table import Ints, Schedule, Task

KEPT = 1024  # stages whose tasks are remembered


class Role(NamedTuple):
    """How a task stands to the exchange; calm: whether none of it can run meanwhile."""

    traffic: Traffic
    calm: bool


@dataclass(frozen=True, eq=False)
class TaskKinds:
    """The tasks of a stage by kind: those of one kind differ in nothing but their microbatch.

    number: (n,) kind of each task. firsts: the first task of each kind, with its role. summed: tasks whose gradients
    are summed beside what follows, in order.
    """

    number: Ints
    microbatch: Ints
    firsts: tuple[tuple[Task, Role], ...]
    summed: tuple[Task, ...]
    lines: dict[tuple[int, ...], Line] = field(default_factory=dict)

    def line(self, widths: tuple[int, ...]) -> Line:
        """What the tasks put into a stream that takes so many instructions of a task of each kind."""
        if widths not in self.lines:
            width = np.array(widths)
            times = np.bincount(self.number, minlength=len(width))
            each = width[self.number]
            which = ranges((np.cumsum(width) - width)[self.number], each)
            index = np.repeat(self.microbatch, each)
            counts = np.repeat(times, width).tolist()
            self.lines[widths] = Line(array("q", which.tobytes()), array("q", index.tobytes()), tuple(counts))
        return self.lines[widths]

    def beat(self, widths: Sequence[int], microbatches: int) -> int:
        """Instructions of so many microbatches from the middle of the step, in a stream of these widths."""
        first = (int(self.microbatch.max()) + 1 - microbatches) // 2
        middle = (self.microbatch >= first) & (self.microbatch < first + microbatches)
        return int(np.array(widths)[self.number[middle]].sum())


@lru_cache(maxsize=KEPT)  # stages and points of a sweep share tables of tasks
def kinds_of(schedule: Schedule, stage: int, exchange: GradientExchange) -> TaskKinds:
    """The kinds of the tasks of a stage."""
    table = schedule.tables[stage]
    phase, chunk, microbatch = table.T
    traffic = exchange.traffic(table)
    place = np.arange(len(table))
    opened = max(np.flatnonzero(traffic & Traffic.WEIGHTS), default=-1)
    closing = min(np.flatnonzero(traffic & Traffic.GRADIENTS), default=len(table))
    calm = (opened < place) & (place < closing)
    keys = ((chunk * len(Phase) + phase) * 4 + traffic) * 2 + calm
    _, firsts, number = np.unique(keys, return_index=True, return_inverse=True)

    def task(at: int) -> Task:
        return Task(Phase(int(phase[at])), int(chunk[at]), int(microbatch[at]))

    return TaskKinds(
        number,
        microbatch,
        tuple((task(at), Role(Traffic(int(traffic[at])), bool(calm[at]))) for at in firsts.tolist()),
        tuple(task(at) for at in np.flatnonzero(traffic & Traffic.GRADIENTS).tolist()),
    )
