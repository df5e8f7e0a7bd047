"""DualPipeV (deepseek-ai/DualPipe): DualPipe (DeepSeek-AI 2024, arXiv 2412.19437, section 3.2.1), cut in two.

Two chunks a stage, down the stages and up again, so that no weight is held twice as in DualPipe. In most of the table
the forward pass of one chunk stands beside the backward pass of the other; what of the two runs at once is not the
schedule's to say (`parallelism.expert_overlap`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sim.phase import Phase
from sim.schedule.alternate import down_and_up, objections_to_a_v
from sim.schedule.table import Ints, ScheduleKind

F, B, W = Phase.FORWARD, Phase.INPUT_GRADIENT, Phase.WEIGHT_GRADIENT
DOWN, UP = False, True
Step = tuple[Phase, bool]  # a phase of the chunk on the way down, or up (true)


def _order(stages: int, virtual: int, microbatches: int) -> tuple[Ints, ...]:
    return tuple(_table(stages, stage, microbatches) for stage in range(stages))


def _table(stages: int, stage: int, microbatches: int) -> Ints:
    """The steps of a stage, numbered as they come."""
    chunk = {DOWN: stage, UP: 2 * stages - 1 - stage}
    seen: dict[Step, int] = {}
    rows = []
    for step in _steps(stages, stage, microbatches):
        number = seen[step] = seen.get(step, -1) + 1
        rows.append((step[0], chunk[step[1]], number))
    return np.array(rows)


def _steps(stages: int, stage: int, microbatches: int) -> Iterator[Step]:
    """The eight parts of the published schedule; weight gradients are put off in the third and from the sixth on."""
    after, waiting = stages - stage - 1, list[Step]()
    yield from [(F, DOWN)] * (2 * after)
    yield from [(F, DOWN), (F, UP)] * (stage + 1)
    yield from [(B, UP), (W, UP), (F, UP)] * after
    for _ in range(microbatches - 2 * stages + stage + 1):
        yield from ((F, DOWN), (B, UP), (W, UP), (F, UP), (B, DOWN), (W, DOWN))
    for _ in range(after):
        yield from ((B, UP), (W, UP), (F, UP), (B, DOWN), (W, DOWN))
    for turn, side in enumerate([UP, DOWN] * (stage + 1)):
        yield B, side
        if turn > stage:
            waiting.append((W, side))
        else:
            yield W, side
    for _ in range(after):
        yield waiting.pop(0)
        yield B, DOWN
        waiting.append((W, DOWN))
    yield from waiting


def _objections(stages: int, virtual: int, microbatches: int) -> Iterator[tuple[str, str]]:
    yield from objections_to_a_v("dualpipe-v", stages, virtual, microbatches)
    if microbatches < 2 * stages:
        message = f"dualpipe-v needs two microbatches for each of {stages} stages, {microbatches} are given"
        yield message, "raise global_batch, lower microbatch, or use schedule: zb-v"


DUAL_PIPE_V = ScheduleKind("dualpipe-v", down_and_up, _order, _objections, splits=True, usual=False)
