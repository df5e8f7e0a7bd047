"""ZB-H1 (Qi 2023, arXiv 2401.10241, section 2.3): 1F1B whose weight gradients are put off to fill its end.

Stage s puts them off by s microbatches, so that all stages hold as many as the first one under 1F1B. Stages idle for
(p - 1)(F + B - W), where B is the input gradient alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sim.phase import Phase
from sim.schedule.alternate import round_robin
from sim.schedule.table import Ints, ScheduleKind, Task


def _order(stages: int, virtual: int, microbatches: int) -> tuple[Ints, ...]:
    return tuple(np.array(list(_stage(stages, stage, microbatches))) for stage in range(stages))


def _stage(stages: int, stage: int, microbatches: int) -> Iterator[Task]:
    ahead = min(stages - stage - 1, microbatches)
    yield from (Task(Phase.FORWARD, stage, number) for number in range(ahead))
    for number in range(microbatches):
        if number + ahead < microbatches:
            yield Task(Phase.FORWARD, stage, number + ahead)
        yield Task(Phase.INPUT_GRADIENT, stage, number)
        if number >= stage:
            yield Task(Phase.WEIGHT_GRADIENT, stage, number - stage)
    late = range(max(0, microbatches - stage), microbatches)
    yield from (Task(Phase.WEIGHT_GRADIENT, stage, number) for number in late)


def _objections(stages: int, virtual: int, microbatches: int) -> Iterator[tuple[str, str]]:
    if virtual > 1:
        yield f"zb-h1 has no virtual_stages, {virtual} are given", "use schedule: zb-v, breadth-first or 1f1b"


ZB_H1 = ScheduleKind("zb-h1", round_robin, _order, _objections, splits=True, usual=False)
