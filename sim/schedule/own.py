"""A schedule of the user's own as text: the tasks of each stage in order, which stand for themselves wherever the name
of a schedule does.

`mine.csv: F0.0 F0.1 B0.0 B0.1; F1.0 B1.0 F1.1 B1.1` has two stages; F, B and W are the phases, followed by chunk and
microbatch. It is part of the input, so whoever has the input has the schedule.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from sim.phase import Phase
from sim.schedule.course import Course
from sim.schedule.table import Ints, Schedule, ScheduleKind, Task

LETTERS = {Phase.FORWARD: "F", Phase.INPUT_GRADIENT: "B", Phase.WEIGHT_GRADIENT: "W"}
PHASES = {letter: phase for phase, letter in LETTERS.items()}
AFTER_NAME, BETWEEN_STAGES = ": ", "; "


def is_own(text: str) -> bool:
    """Whether it is a table rather than a name."""
    return AFTER_NAME in text


def short_name(schedule: str) -> str:
    """What to call a schedule in reports: a table by its file."""
    return schedule.partition(AFTER_NAME)[0]


def own_text(name: str, stages: list[list[Task]]) -> str:
    """The text of a table."""
    rows = (" ".join(f"{LETTERS[task.phase]}{task.chunk}.{task.microbatch}" for task in tasks) for tasks in stages)
    return name + AFTER_NAME + BETWEEN_STAGES.join(rows)


@lru_cache(maxsize=64)  # one object for equal texts: tables are remembered by it
def own_kind(text: str) -> ScheduleKind:
    """The schedule of a text. Raises KeyError for the name of no schedule."""
    if not is_own(text):
        raise KeyError(text)
    name, _, table = text.partition(AFTER_NAME)
    stages = [list(map(_task, row.split())) for row in table.split(BETWEEN_STAGES)]
    schedule = own_schedule(stages)
    splits = schedule.phases[-1] is Phase.WEIGHT_GRADIENT

    def objections(pipeline: int, virtual: int, microbatches: int) -> Iterator[tuple[str, str]]:
        asked = {"pipeline": pipeline, "virtual_stages": virtual, "microbatches a replica": microbatches}
        chunks = len(schedule.course.stage_of) // len(stages)
        for (what, value), there in zip(asked.items(), (len(stages), chunks, schedule.microbatches), strict=True):
            if value != there:
                way_out = "change global_batch or the table" if "micro" in what else f"set {what} to {there}"
                yield f"the table {name} is for {what} {there}, not {value}", way_out

    def order(pipeline: int, virtual: int, microbatches: int) -> tuple[Ints, ...]:
        return schedule.tables

    return ScheduleKind(name, lambda *_: schedule.course.stage_of, order, objections, splits, usual=False)


def own_schedule(stages: list[list[Task]]) -> Schedule:
    """The schedule with these tasks, whose chunks are each on one stage."""
    where = {task.chunk: stage for stage, tasks in enumerate(stages) for task in tasks}
    course = Course(len(stages), tuple(where[chunk] for chunk in sorted(where)))
    phases = tuple(sorted({task.phase for tasks in stages for task in tasks}))
    return Schedule(course, phases, tuple(np.array(tasks, dtype=np.int64).reshape(-1, 3) for tasks in stages))


def blocked_at(schedule: Schedule) -> dict[int, int]:
    """Stages that wait for one another for ever, each with the number of the task that never begins."""
    queues = [list(schedule.tasks(stage)) for stage in range(schedule.course.stages)]
    place, over, moved = [0] * len(queues), set[Task](), True
    while moved:
        moved = False
        for stage, queue in enumerate(queues):
            while place[stage] < len(queue) and all(need in over for need in schedule.needs(queue[place[stage]])):
                over.add(queue[place[stage]])
                place[stage], moved = place[stage] + 1, True
    return {stage: at for stage, at in enumerate(place) if at < len(queues[stage])}


def _task(text: str) -> Task:
    chunk, _, microbatch = text[1:].partition(".")
    return Task(PHASES[text[0]], int(chunk), int(microbatch))
