"""V-Half and V-Min (Qi 2024, arXiv 2405.15362, section 3): a block of tasks that repeats, in less memory than 1F1B.

Two chunks a stage, down the stages and up again. A block says when each stage does the six tasks of a microbatch, as if
all took equally long; the next microbatch does the same six of these times later. A stage holds chunks for as long as
they are under way, so a block that is slow from stage to stage takes memory. A fast one leaves no room for tasks that
take longer than others.
"""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np

from sim.phase import Phase
from sim.schedule.alternate import down_and_up, objections_to_a_v
from sim.schedule.table import Ints, ScheduleKind

BEAT = 6  # tasks of a microbatch on a stage, three of each of two chunks
Offsets = tuple[int, int, int, int]  # from a stage to the next: forward down and up, input gradient down and up
V_HALF_OFFSETS: Offsets = (2, 1, 2, 1)
V_MIN_OFFSETS: Offsets = (1, 1, 1, 1)
PHASES = np.repeat([Phase.FORWARD, Phase.INPUT_GRADIENT, Phase.WEIGHT_GRADIENT], 2)


def _order(stages: int, virtual: int, microbatches: int, *, offsets: Offsets) -> tuple[Ints, ...]:
    """Tasks in the order of their times."""
    block, turns = _block(stages, offsets), np.arange(microbatches)
    tables = []
    for stage in range(stages):
        near, far = stage, 2 * stages - 1 - stage
        times = block[:, stage, None] + BEAT * turns
        chunks = np.array([near, far, far, near, far, near])
        rows = np.stack(np.broadcast_arrays(PHASES[:, None], chunks[:, None], turns), axis=-1).reshape(-1, 3)
        tables.append(rows[np.argsort(times.ravel())])
    return tuple(tables)


def _block(stages: int, offsets: Offsets) -> Ints:
    """Times of the six tasks of the first microbatch on each stage, (6, stages), as `_order` names them.

    The earliest at which no two tasks of a stage meet, now or later.
    """
    stage, last = np.arange(stages), stages - 1
    down, up, back_down, back_up = offsets
    for waits in product(range(BEAT), repeat=3):
        turn = last * (down + up) + 1 + waits[0]
        loss = turn + 1 + waits[1]
        again = loss + last * (back_down + back_up) + 1 + waits[2]
        times = (down * stage, turn - up * stage, loss + back_down * stage, again - back_up * stage)
        if all(np.all((one - other) % BEAT) for i, one in enumerate(times) for other in times[:i]):
            break
    block = np.array(times)
    for gradient in (2, 3):  # the weight gradient comes in the first gap after the input gradient
        block = np.concatenate([block, _first_gaps(block, block[gradient])[None]])
    return block


def _first_gaps(block: Ints, after: Ints) -> Ints:
    """The first time after `after` on each stage at which none of the tasks of a block comes, (stages,)."""
    later = after + np.arange(1, BEAT + 1)[:, None]
    taken = ((later[:, None] - block) % BEAT == 0).any(axis=1)
    first: Ints = np.take_along_axis(later, taken.argmin(axis=0)[None], axis=0)[0]
    return first


V_HALF, V_MIN = (
    ScheduleKind(name, down_and_up, partial(_order, offsets=offsets), partial(objections_to_a_v, name), True, False)
    for name, offsets in (("v-half", V_HALF_OFFSETS), ("v-min", V_MIN_OFFSETS))
)
