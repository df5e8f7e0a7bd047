"""ZB-V (Qi 2023, arXiv 2401.10241, section 6): two chunks a stage, down the stages and up again.

Stages hold no more than the first one under 1F1B, all alike. They idle only until the first microbatch is there, if
forward, input and weight gradient take equally long.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from sim.phase import Phase
from sim.schedule.alternate import down_and_up, objections_to_a_v
from sim.schedule.table import Ints, ScheduleKind

F, B, W = Phase.FORWARD, Phase.INPUT_GRADIENT, Phase.WEIGHT_GRADIENT
Step = tuple[Phase, bool]  # a phase of the chunk on the way down, or up (true)
DOWN, UP = False, True


def _order(stages: int, virtual: int, microbatches: int) -> tuple[Ints, ...]:
    return tuple(_table(stages, stage, microbatches) for stage in range(stages))


def _table(stages: int, stage: int, microbatches: int) -> Ints:
    """The steps of a stage, numbered as they come; those of microbatches that there are not are left out."""
    chunk = {DOWN: stage, UP: 2 * stages - 1 - stage}
    seen: dict[Step, int] = {}
    rows = []
    for step in _steps(stages, stage, max(microbatches, 2 * stages - 1)):
        number = seen[step] = seen.get(step, -1) + 1
        if number < microbatches:
            rows.append((step[0], chunk[step[1]], number))
    return np.array(rows)


def _steps(stages: int, stage: int, microbatches: int) -> Iterator[Step]:
    """Warm-up, what repeats, and the end, where weight gradients that were put off fill the waits."""
    after = stages - stage
    yield from [(F, DOWN)] * (2 * after - 1)
    yield from [(F, UP), (F, DOWN)] * stage
    yield from [(F, UP), (B, UP), (W, UP)] * after
    for turn in range(microbatches - stages):
        if turn + 2 * stages - stage - 1 < microbatches:
            yield F, DOWN
        yield from ((B, DOWN), (W, DOWN), (F, UP), (B, UP), (W, UP))
    yield from [(B, DOWN), (B, UP)] * stage
    yield from [(B, DOWN), (W, DOWN)] * after
    yield from [(W, UP)] * stage
    yield from [(W, DOWN)] * stage


ZB_V = ScheduleKind("zb-v", down_and_up, _order, partial(objections_to_a_v, "zb-v"), splits=True, usual=False)
