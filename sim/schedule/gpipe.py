"""GPipe (Huang 2019, arXiv 1811.06965): all microbatches forward, then all backward."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sim.schedule.alternate import in_turn, round_robin, without_pipeline
from sim.schedule.table import Ints, ScheduleKind


def _order(stages: int, virtual: int, microbatches: int) -> tuple[Ints, ...]:
    return in_turn(stages, virtual, microbatches, np.full(stages, microbatches * virtual))


def _objections(stages: int, virtual: int, microbatches: int) -> Iterator[tuple[str, str]]:
    if virtual > 1:
        yield f"gpipe has no virtual_stages, {virtual} are given", "use schedule: 1f1b"
    if virtual > 1 and stages == 1:
        yield without_pipeline(virtual)


GPIPE = ScheduleKind("gpipe", round_robin, _order, _objections)
