"""ZB-H1 and ZB-H2 (Qi 2023, arXiv 2401.10241, sections 2.2 and 2.3): weight gradients are put off to fill the end.

Stage s of ZB-H1 runs ahead as 1F1B does and puts weight gradients off by s microbatches, so that all stages hold as
many as the first one under 1F1B, and idle for (p - 1)(F + B - W), where B is the input gradient alone. Those of ZB-H2
do both twice, so that all hold 2p - 1 and idle for (p - 1)(F + B - 2W) between their own first and last task.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from sim.phase import Phase
from sim.schedule.alternate import round_robin
from sim.schedule.table import Ints, ScheduleKind, Task


def _order(stages: int, virtual: int, microbatches: int, *, times: int) -> tuple[Ints, ...]:
    def table(stage: int) -> Ints:
        return np.array(list(_stage(stage, microbatches, times * (stages - stage - 1), times * stage)))

    return tuple(map(table, range(stages)))


def _stage(stage: int, microbatches: int, ahead: int, late: int) -> Iterator[Task]:
    """`ahead` forward tasks come before what repeats; weight gradients are `late` by so many microbatches."""
    ahead = min(ahead, microbatches)
    yield from (Task(Phase.FORWARD, stage, number) for number in range(ahead))
    for number in range(microbatches):
        if number + ahead < microbatches:
            yield Task(Phase.FORWARD, stage, number + ahead)
        yield Task(Phase.INPUT_GRADIENT, stage, number)
        if number >= late:
            yield Task(Phase.WEIGHT_GRADIENT, stage, number - late)
    left = range(max(0, microbatches - late), microbatches)
    yield from (Task(Phase.WEIGHT_GRADIENT, stage, number) for number in left)


def _objections(name: str, stages: int, virtual: int, microbatches: int) -> Iterator[tuple[str, str]]:
    if virtual > 1:
        yield f"{name} has no virtual_stages, {virtual} are given", "use schedule: zb-v, breadth-first or 1f1b"


ZB_H1, ZB_H2 = (
    ScheduleKind(name, round_robin, partial(_order, times=times), partial(_objections, name), splits=True, usual=False)
    for name, times in (("zb-h1", 1), ("zb-h2", 2))
)
