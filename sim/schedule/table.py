"""A pipeline schedule as a table: which stage has each model chunk, and which tasks each stage does in what order.

What else there is to know of a schedule follows from its table: what a task waits for, how many microbatches a stage
holds, where a step begins and ends, and what repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.phase import Phase
from sim.schedule.course import Course

Ints = NDArray[np.int64]
LEAST_SHARE = 3  # what repeats is a third of a table at least, else it is a coincidence


class Task(NamedTuple):
    """The work of one phase on one microbatch in one model chunk.

    INPUT_GRADIENT is all of the backward pass where no task is a WEIGHT_GRADIENT.
    """

    phase: Phase
    chunk: int  # in model order
    microbatch: int


@dataclass(frozen=True, eq=False)
class Schedule:
    """phases: those that are tasks. tables: tasks of each stage in order, (n, 3) each: phase, chunk, microbatch.

    Microbatches go through each phase of a chunk in their order. Equal only to itself.
    """

    course: Course
    phases: tuple[Phase, ...]
    tables: tuple[Ints, ...]

    @property
    def microbatches(self) -> int:
        """Of a step."""
        return 1 + int(self.tables[0][:, 2].max())

    def tasks(self, stage: int) -> Iterator[Task]:
        """Tasks of a stage in order."""
        return (Task(Phase(phase), chunk, microbatch) for phase, chunk, microbatch in self.tables[stage].tolist())

    def first_chunks(self, stage: int) -> tuple[int, ...]:
        """Chunks of a stage in the order in which microbatches first come to them."""
        return tuple(dict.fromkeys(self.tables[stage][:, 1].tolist()))

    def misplaced(self) -> int | None:
        """The first stage that does not do each task once, phase after phase and microbatch after microbatch.

        The engine counts on that order. None if all do; whether stages block one another is seen when they run.
        """
        for stage, (table, chunks) in enumerate(zip(self.tables, self.course.chunks, strict=True)):
            every = (len(chunks), len(self.phases), self.microbatches)
            column = np.full(len(self.course.stage_of), len(chunks))  # elsewhere
            column[list(chunks)] = np.arange(len(chunks))
            phase, chunk, microbatch = table.T
            place = np.full(every, -1)
            try:
                place[column[chunk], phase, microbatch] = np.arange(len(table))
            except IndexError:
                return stage
            done = len(table) == place.size and place.min() >= 0
            if not done or (np.diff(place, axis=1) < 0).any() or (np.diff(place, axis=2) < 0).any():
                return stage
        return None

    def needs(self, task: Task) -> tuple[Task, ...]:
        """Tasks that must be over before: that of its own microbatch and chunk, and that of the neighbouring chunk."""
        own = (task._replace(phase=Phase(task.phase - 1)),) if task.phase > Phase.FORWARD else ()
        source = self.course.source(task.phase, task.chunk)
        return own if source is None else (*own, task._replace(chunk=source))

    # --- what is held -----------------------------------------------------------------------------

    def held(self, stage: int) -> Ints:
        """Microbatches of each chunk of a stage that it holds at its fullest moments, (moments, chunks).

        A forward task adds one, the last task of its microbatch in the chunk frees it. A moment is left out where
        another holds as many of each chunk. What weight gradients do not need is taken to stay until them.
        """
        table, chunks = self.tables[stage], np.array(self.course.chunks[stage])
        last = self.phases[-1]
        change = (table[:, 0] == Phase.FORWARD).astype(np.int64) - (table[:, 0] == last)
        column = np.searchsorted(chunks, table[:, 1])
        peak = (change == 1) & np.append(change[1:] != 1, True)  # nothing is added next
        counts = np.zeros((len(table), len(chunks)), dtype=np.int64)
        counts[np.arange(len(table)), column] = change
        return _largest(np.cumsum(counts, axis=0)[peak])

    # --- where a step begins and ends -------------------------------------------------------------

    @property
    def ends(self) -> Ends:
        """First and last tasks of the stages."""
        first, last, after = [], [], []
        for table in self.tables:
            place = int(np.flatnonzero(table[:, 0] == Phase.INPUT_GRADIENT)[-1])
            first.append(int(table[0, 1]))
            last.append(int(table[place, 1]))
            after.append(tuple(np.bincount(table[place + 1 :, 1], minlength=len(self.course.stage_of)).tolist()))
        return Ends(tuple(first), tuple(last), tuple(after))

    # --- what repeats -----------------------------------------------------------------------------

    def period(self, stage: int) -> int:
        """Microbatches after which the tasks of a stage are the same again but for their number; 0 if none repeat.

        The smallest step that a third of the table keeps up, twice at least.
        """
        table = self.tables[stage]
        phase, chunk, microbatch = table.T
        middle = len(table) // 2
        alike = np.flatnonzero((phase == phase[middle]) & (chunk == chunk[middle]))
        alike = alike[np.searchsorted(alike, middle) :]
        for place in alike[1:].tolist():
            shift, step = place - middle, int(microbatch[place] - microbatch[middle])
            same = np.all(table[shift:] - table[:-shift] == (0, 0, step), axis=1)
            run = _longest_run(same)
            if run >= shift and (run + shift) * LEAST_SHARE >= len(table):
                return step
        return 0


class Ends(NamedTuple):
    """Where the tasks of each stage begin and end.

    first: chunk of the first task of each stage. last: chunk of its last INPUT_GRADIENT. after: of each stage, how
    many tasks of each chunk come after that.
    """

    first: tuple[int, ...]
    last: tuple[int, ...]
    after: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ScheduleKind:
    """How tables are written. All are given stages and chunks per stage, the latter two microbatches too.

    place: the stage of each chunk. order: the table of each stage. objections: what hinders it, and the way out; none
    if a table can be written. splits: whether weight gradients are tasks of their own. usual: whether plan search tries
    it unasked.
    """

    name: str
    place: Callable[[int, int], tuple[int, ...]]
    order: Callable[[int, int, int], Sequence[Ints]]
    objections: Callable[[int, int, int], Iterator[tuple[str, str]]]
    splits: bool = False
    usual: bool = True

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases that are tasks, in the order in which a microbatch goes through them."""
        return (Phase.FORWARD, Phase.INPUT_GRADIENT, *((Phase.WEIGHT_GRADIENT,) if self.splits else ()))


def _largest(rows: Ints) -> Ints:
    """Rows that no other is at least as large as in all columns, each once."""
    rows = np.array(list(dict.fromkeys(map(tuple, rows.tolist()))))  # a tenth of the time of np.unique
    covers = np.all(rows[:, None] <= rows[None], axis=2)
    np.fill_diagonal(covers, False)
    largest: Ints = rows[~covers.any(axis=1)]
    return largest


def _longest_run(flags: NDArray[np.bool_]) -> int:
    """Length of the longest stretch of true values."""
    breaks = np.flatnonzero(np.concatenate([[True], ~flags, [True]]))
    return int(np.diff(breaks).max()) - 1
