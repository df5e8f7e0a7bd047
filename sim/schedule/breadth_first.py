"""Breadth-first pipeline (Lamy-Poirier 2022, arXiv 2211.05953): chunks go round the stages as in the interleaved
schedule, but a stage runs all microbatches through one chunk before the next, forward and then back.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sim.phase import Phase
from sim.schedule.alternate import round_robin, without_pipeline
from sim.schedule.table import Ints, ScheduleKind


def _order(stages: int, virtual: int, microbatches: int) -> tuple[Ints, ...]:
    turns = np.tile(np.arange(microbatches), 2 * virtual)
    phases = np.repeat([Phase.FORWARD, Phase.INPUT_GRADIENT], virtual * microbatches)
    rounds = np.repeat([*range(virtual), *reversed(range(virtual))], microbatches)
    return tuple(np.stack([phases, rounds * stages + stage, turns], axis=1) for stage in range(stages))


def _objections(stages: int, virtual: int, microbatches: int) -> Iterator[tuple[str, str]]:
    if stages == 1 and virtual > 1:
        yield without_pipeline(virtual)


BREADTH_FIRST = ScheduleKind("breadth-first", round_robin, _order, _objections, usual=False)
