"""Whether ranks that went through passes together were slowed alike.

Equal ranks of a group that has its links to itself take equal time for a pass once all have begun, unless collectives
beside it slow one of them and not another at some moment: then a pass has to be cut at its collectives. Until the first
such moment the step is exact, so a step without one is.

Public: `out_of_step`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.engine.category import Category
from sim.engine.trace import TOLERANCE, Trace

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
SLACK = 10 * TOLERANCE  # of the time by then: sums taken in another order


def out_of_step(trace: Trace) -> set[tuple[int, ...]]:
    """Groups of rank classes that went through passes together, but were not slowed alike meanwhile."""
    actions, action = trace.program.actions, trace.actions()
    groups = {each.together for each in actions if each.together}
    if not groups:
        return set()
    passes: dict[int, list[int]] = {}
    slows: dict[int, list[int]] = {}
    for number, each in enumerate(actions):
        if each.together:
            passes.setdefault(each.ranks[0], []).append(number)
        for rank in each.steals if each.category == Category.DATA_COMM else ():
            slows.setdefault(rank, []).append(number)
    rows = _rows_of(action, len(actions))
    found = set()
    for group in groups:
        first, *others = [
            _slowed(*(_spans(trace, rows, table.get(rank, [])) for table in (passes, slows))) for rank in group
        ]
        if any(len(each) != len(first) or np.any(np.abs(each - first) > SLACK * trace.time) for each in others):
            found.add(group)
    return found


def _rows_of(action: Ints, n_actions: int) -> list[Ints]:
    order = np.argsort(action, kind="stable")
    return np.split(order, np.searchsorted(action[order], np.arange(1, n_actions)))


def _spans(trace: Trace, rows: list[Ints], actions: list[int]) -> Floats:
    """Begin and end of all rows of some actions, (n, 2) by begin [s]; those that touch or overlap are one."""
    chosen = np.concatenate([np.zeros(0, dtype=np.int64), *(rows[number] for number in actions)])
    chosen = chosen[np.argsort(trace.start[chosen], kind="stable")]
    begin, end = trace.start[chosen], np.maximum.accumulate(trace.end[chosen])
    first = np.flatnonzero(np.concatenate([[True], begin[1:] > end[:-1] + SLACK * trace.time])[: len(begin)])
    return np.stack([begin[first], end[np.append(first[1:], len(end)) - 1] if len(first) else begin], axis=1)


def _slowed(passes: Floats, slows: Floats) -> Floats:
    """Stretches of passes in which something slows them, and passes themselves, (n, 2) [s]."""
    first = np.searchsorted(slows[:, 1], passes[:, 0], side="right")
    width = np.searchsorted(slows[:, 0], passes[:, 1], side="left") - first
    place = np.repeat(np.arange(len(passes)), width)
    slow = np.arange(width.sum()) - np.repeat(np.cumsum(width) - width, width) + np.repeat(first, width)
    begin = np.maximum(slows[slow, 0], passes[place, 0])
    end = np.minimum(slows[slow, 1], passes[place, 1])
    return np.concatenate([passes, np.stack([begin, end], axis=1)])
