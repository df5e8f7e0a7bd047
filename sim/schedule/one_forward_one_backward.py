"""1F1B: PipeDream-flush (Narayanan 2021, arXiv 2104.04473, section 2.2.1), and interleaved with several chunks a stage
(section 2.2.2)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sim.schedule.alternate import in_turn, round_robin, without_pipeline
from sim.schedule.table import Ints, ScheduleKind


def _order(stages: int, virtual: int, microbatches: int) -> tuple[Ints, ...]:
    """A stage runs one microbatch ahead for each stage after it; interleaved, two chunks for each, and all but one of
    its chunks for a group; all there are if they are one group (Megatron-LM, schedules.py)."""
    everything, after = microbatches * virtual, np.arange(stages)[::-1]
    if virtual == 1:
        return in_turn(stages, virtual, microbatches, np.minimum(everything, after))
    ahead = everything if microbatches == stages else 2 * after + (virtual - 1) * stages
    return in_turn(stages, virtual, microbatches, np.minimum(everything, ahead + 0 * after))


def _objections(stages: int, virtual: int, microbatches: int) -> Iterator[tuple[str, str]]:
    if virtual > 1 and stages == 1:
        yield without_pipeline(virtual)
    elif virtual > 1 and microbatches % stages:
        message = f"{microbatches} microbatches a replica are no multiple of pipeline {stages}"
        yield f"{message}, as the interleaved schedule needs", "change global_batch or virtual_stages"


ONE_FORWARD_ONE_BACKWARD = ScheduleKind("1f1b", round_robin, _order, _objections)
