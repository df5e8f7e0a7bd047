"""The schedules by name, and the tables they write.

A schedule is a file of its own with a `ScheduleKind`, entered here.

Public: `SCHEDULES`, `course_of`, `ends_of`, `held_of`, `schedule_of`.
"""

from __future__ import annotations

from functools import lru_cache

from sim.errors import PlanError, Problem
from sim.memo import Memo
from sim.schedule.breadth_first import BREADTH_FIRST
from sim.schedule.controllable_memory import V_HALF, V_MIN
from sim.schedule.course import Course
from sim.schedule.dual_pipe_v import DUAL_PIPE_V
from sim.schedule.gpipe import GPIPE
from sim.schedule.one_forward_one_backward import ONE_FORWARD_ONE_BACKWARD
from sim.schedule.own import own_kind
from sim.schedule.table import Ends, Schedule, ScheduleKind
from sim.schedule.zero_bubble import ZB_H1, ZB_H2
from sim.schedule.zero_bubble_v import ZB_V


class _Schedules(dict[str, ScheduleKind]):
    """By name; the text of a table stands for itself (`own.py`)."""

    def __missing__(self, text: str) -> ScheduleKind:
        return own_kind(text)


KINDS = (ONE_FORWARD_ONE_BACKWARD, GPIPE, BREADTH_FIRST, ZB_H1, ZB_H2, ZB_V, V_HALF, V_MIN, DUAL_PIPE_V)
SCHEDULES = _Schedules({kind.name: kind for kind in KINDS})
Held = tuple[tuple[int, ...], ...]
KEPT_TASKS = 2_000_000  # of all tables that are kept at a time: 50 MB
KEPT_ANSWERS = 4096  # a few numbers each

_tables: Memo[Schedule] = Memo(KEPT_TASKS)  # thousands of tasks, shared by plans of a sweep


def course_of(name: str, stages: int, virtual: int) -> Course:
    """Where a schedule places the chunks, `virtual` for each stage."""
    return _course(SCHEDULES[name], stages, virtual)


def schedule_of(name: str, stages: int, virtual: int, microbatches: int) -> Schedule:
    """The table of a schedule that has no objections, the same object each time as long as it is remembered.

    Raises PlanError for a table in which tasks are missing or out of order.
    """
    return _written(SCHEDULES[name], stages, virtual, microbatches)


def ends_of(name: str, stages: int, virtual: int, microbatches: int) -> Ends:
    """`Schedule.ends` of it."""
    return _ends(SCHEDULES[name], stages, virtual, microbatches)


def held_of(name: str, stages: int, virtual: int, microbatches: int, stage: int) -> Held:
    """`Schedule.held` of a stage of it, moment by moment."""
    return _held(SCHEDULES[name], stages, virtual, microbatches, stage)


@lru_cache(maxsize=KEPT_ANSWERS)  # one object for equal courses: it is a key elsewhere
def _course(kind: ScheduleKind, stages: int, virtual: int) -> Course:
    return Course(stages, kind.place(stages, virtual))


def _written(kind: ScheduleKind, stages: int, virtual: int, microbatches: int) -> Schedule:
    def write() -> Schedule:
        tables = tuple(kind.order(stages, virtual, microbatches))
        schedule = Schedule(_course(kind, stages, virtual), kind.phases, tables)
        if (stage := schedule.misplaced()) is not None:
            message = f"stage {stage} does not do each task once, phase after phase and microbatch after microbatch"
            raise PlanError(Problem("", f"schedule {kind.name}", message, "see sim/schedule/table.py"))
        return schedule

    return _tables.get((kind, stages, virtual, microbatches), write, lambda made: sum(map(len, made.tables)))


@lru_cache(maxsize=KEPT_ANSWERS)  # kept longer than tables, which are large
def _ends(kind: ScheduleKind, stages: int, virtual: int, microbatches: int) -> Ends:
    return _written(kind, stages, virtual, microbatches).ends


@lru_cache(maxsize=KEPT_ANSWERS)  # kept longer than tables, which are large
def _held(kind: ScheduleKind, stages: int, virtual: int, microbatches: int, stage: int) -> Held:
    return tuple(map(tuple, _written(kind, stages, virtual, microbatches).held(stage).tolist()))
