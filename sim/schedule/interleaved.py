"""Interleaved 1F1B (Narayanan 2021, arXiv 2104.04473, section 2.2.2): several chunks a stage, groups of microbatches.

It is what 1f1b is with more than one chunk a stage.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sim.schedule.alternate import in_turn, without_pipeline
from sim.schedule.table import Ints


def interleaved_order(stages: int, virtual: int, microbatches: int) -> tuple[Ints, ...]:
    """A stage runs two tasks ahead for each stage after it, and all but one of its chunks for a group of microbatches;
    all there are if they are one group (Megatron-LM, schedules.py)."""
    everything, after = microbatches * virtual, np.arange(stages)[::-1]
    ahead = np.full(stages, everything) if microbatches == stages else 2 * after + (virtual - 1) * stages
    return in_turn(stages, virtual, microbatches, np.minimum(everything, ahead))


def interleaved_objections(stages: int, virtual: int, microbatches: int) -> Iterator[tuple[str, str]]:
    """It needs a pipeline, and whole groups."""
    if stages == 1:
        yield without_pipeline(virtual)
    elif microbatches % stages:
        message = f"{microbatches} microbatches a replica are no multiple of pipeline {stages}"
        yield f"{message}, as the interleaved schedule needs", "change global_batch or virtual_stages"
