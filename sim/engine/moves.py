"""When flow classes move bytes in a step, and how fast.

Public: `Moves`, `moves_of`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.engine.trace import Trace
from sim.ragged import ranges

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Moves(NamedTuple):
    """When flow classes move bytes: (n,) class, begin, end [s] and rate of one flow [B/s].

    A transfer whose rate changes is several of them.
    """

    flow: Ints
    begin: Floats
    end: Floats
    rate: Floats


def moves_of(trace: Trace) -> Moves:
    """When each flow class moved bytes, periods that were skipped too; inside a chain, for as long as that lasts."""
    row, moves = _stored(trace)
    parts = [moves]
    for repeat in trace.repeats:
        first, last = np.searchsorted(row, [repeat.rows[0], repeat.rows[-1] + 1])
        place = first + np.flatnonzero(np.isin(row[first:last], repeat.rows))
        later = np.repeat(np.arange(1, repeat.times + 1) * repeat.period, len(place))
        flow, begin, end, rate = (np.tile(column[place], repeat.times) for column in moves)
        parts.append(Moves(flow, begin + later, end + later, rate))
    return Moves(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _stored(trace: Trace) -> tuple[Ints, Moves]:
    """The rows of a trace that move bytes, rising, and their moves, in that order."""
    actions, alone, action = trace.program.actions, trace.table.solo_rates(), trace.actions()
    flow = np.array([each.flow for each in actions], dtype=np.int64)
    size, latency = (np.array([getattr(each, name) for each in actions]) for name in ("size", "latency"))
    paced = np.zeros(len(action), dtype=bool)
    paced[trace.paces.row] = True
    row = np.flatnonzero((flow[action] >= 0) & (size[action] > 0) & ~paced)
    act = action[row]
    begin = trace.start[row] + latency[act]
    with np.errstate(divide="ignore"):
        rate = np.minimum(size[act] / (trace.end[row] - begin), alone[flow[act]])
    columns = [(row, flow[act], begin, trace.end[row], rate)]
    columns.append((trace.paces.row, flow[action[trace.paces.row]], *trace.paces[1:]))
    columns.append(_carried(trace, action, alone))
    rows, kind, begin, end, rate = (np.concatenate(column) for column in zip(*columns, strict=True))
    order = np.argsort(rows, kind="stable")
    return rows[order], Moves(kind[order], begin[order], end[order], rate[order])


def _carried(trace: Trace, action: Ints, alone: Floats) -> tuple[Ints, Ints, Floats, Floats, Floats]:
    """Row, flow class, begin, end and rate of what chains carry."""
    carried = [
        (number, kind)
        for number, each in enumerate(trace.program.actions)
        for kind, moved in trace.carried(each)
        if moved > 0
    ]
    which, kinds = np.array(carried, dtype=np.int64).reshape(-1, 2).T
    order = np.argsort(action, kind="stable")
    first = np.searchsorted(action[order], np.arange(len(trace.program.actions) + 1))
    width = first[which + 1] - first[which]
    row, kind = order[ranges(first[which], width)], np.repeat(kinds, width)
    return row, kind, trace.start[row], trace.end[row], alone[kind]
