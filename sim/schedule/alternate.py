"""What schedules have in common: where chunks go, objections, forward and backward tasks in turn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sim.phase import Phase
from sim.schedule.table import Ints


def round_robin(stages: int, virtual: int) -> tuple[int, ...]:
    """Chunks go round the stages."""
    return tuple(chunk % stages for chunk in range(stages * virtual))


def down_and_up(stages: int, virtual: int) -> tuple[int, ...]:
    """Chunks go down the stages and up again."""
    down = tuple(range(stages))
    return tuple(stage for lap in range(virtual) for stage in (down[::-1] if lap % 2 else down))


def objections_to_a_v(name: str, stages: int, virtual: int, microbatches: int) -> Iterator[tuple[str, str]]:
    """It has two chunks a stage, and several stages."""
    if virtual != 2:
        yield f"{name} has two chunks a stage, virtual_stages {virtual} is given", "set virtual_stages to 2"
    elif stages == 1:
        yield without_pipeline(virtual)


def without_pipeline(virtual: int) -> tuple[str, str]:
    """The objection to chunks of one stage, and the way out."""
    return f"virtual_stages {virtual} without a pipeline", "set pipeline to 2 or more, or virtual_stages to 1"


def in_turn(stages: int, virtual: int, microbatches: int, ahead: NDArray[np.int64]) -> tuple[Ints, ...]:
    """The table of each stage: `ahead` (stages,) forward tasks, then backward and forward in turn, then backward.

    Microbatches go in groups of `stages` through each chunk of a stage in turn, if there are several.
    """
    n = microbatches * virtual
    turn, stage, before = np.arange(n), np.arange(stages)[:, None], ahead[:, None]
    group = stages if virtual > 1 else n
    visit = turn // group % virtual
    microbatch = turn // (group * virtual) * group + turn % group
    table = np.empty((stages, 2 * n, 3), dtype=np.int64)
    steady = n - before  # forward tasks that have a backward task after them
    forward = np.where(turn < before, turn, 2 * turn - before)
    backward = np.where(turn < steady, before + 2 * turn + 1, n + turn)
    for phase, place, nth in ((Phase.FORWARD, forward, visit), (Phase.INPUT_GRADIENT, backward, virtual - 1 - visit)):
        table[stage, place, 0] = phase
        table[stage, place, 1] = nth * stages + stage
        table[stage, place, 2] = microbatch
    return tuple(table)
