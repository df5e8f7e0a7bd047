"""1F1B: PipeDream-flush (Narayanan 2021, arXiv 2104.04473, section 2.2.1); interleaved with several chunks a stage."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sim.schedule.alternate import in_turn, round_robin
from sim.schedule.interleaved import interleaved_objections, interleaved_order
from sim.schedule.table import Ints, ScheduleKind


def _order(stages: int, virtual: int, microbatches: int) -> tuple[Ints, ...]:
    """A stage runs one microbatch ahead for each stage after it."""
    if virtual > 1:
        return interleaved_order(stages, virtual, microbatches)
    return in_turn(stages, virtual, microbatches, np.minimum(microbatches, np.arange(stages)[::-1]))


def _objections(stages: int, virtual: int, microbatches: int) -> Iterator[tuple[str, str]]:
    if virtual > 1:
        yield from interleaved_objections(stages, virtual, microbatches)


ONE_FORWARD_ONE_BACKWARD = ScheduleKind("1f1b", round_robin, _order, _objections)
