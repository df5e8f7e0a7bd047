"""When the first two flows meet on a link, if all last as long as they do alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from sim.engine.network import FlowTable
from sim.engine.timetable import Skip, Times
from sim.engine.trace import TOLERANCE
from sim.ragged import ranges

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Chosen = NDArray[np.bool_] | Ints


@dataclass(frozen=True, eq=False)
class Loads:
    """What is on links that can be full: the link, and from when to when [s], (n,) each."""

    link: Ints
    start: Floats
    end: Floats

    def of(self, chosen: Chosen) -> Loads:
        """Some of them."""
        return Loads(self.link[chosen], self.start[chosen], self.end[chosen])

    def later(self, delay: float) -> Loads:
        """The same at a later time."""
        return Loads(self.link, self.start + delay, self.end + delay)


def first_meeting(times: Times, flow: Ints, latency: Floats, table: FlowTable) -> float:
    """Seconds until two flows are on one link at a time, infinite if that never happens; too early at worst.

    flow: (n,) flow class of each row of `times`, or -1; latency: (n,) its start-up [s]. Flows that meet for no longer
    than rounding errors do not count.
    """
    rows = np.flatnonzero(flow >= 0)
    first, links, _ = table.by_flow
    width = (first[1:] - first[:-1])[flow[rows]]
    entry = ranges(first[flow[rows]], width)
    row = np.repeat(rows, width)
    end = times.end[row]
    loads = Loads(links[entry], (times.start + latency)[row], end - TOLERANCE * end)
    meeting = _first_among(loads)
    for skip in times.skips:
        repeated = np.zeros(len(times.rows), dtype=bool)
        repeated[skip.places] = True
        meeting = min(meeting, _first_with_skipped(loads, repeated[row], skip))
    return meeting


def _first_among(loads: Loads) -> float:
    """The first time at which one begins before the one before it on its link has ended."""
    order = np.lexsort((loads.start, loads.link))
    link, start, end = loads.link[order], loads.start[order], loads.end[order]
    meets = (link[1:] == link[:-1]) & (start[1:] < end[:-1])
    return float(start[1:][meets].min(initial=inf))


def _first_with_skipped(loads: Loads, repeated: Chosen, skip: Skip) -> float:
    """The same for the copies of repeated loads, with each other and with all loads."""
    train, period = loads.of(repeated), skip.period
    if not len(train.link):
        return inf
    turn = Loads(train.link, train.start % period, train.start % period + train.end - train.start)
    twice = [np.concatenate(pair) for pair in zip(vars(turn).values(), vars(turn.later(period)).values(), strict=True)]
    if _first_among(Loads(*twice)) < inf:
        return float(train.start.min()) + period
    return _first_beside(_while_there(loads, train, skip), train, skip)


def _while_there(loads: Loads, train: Loads, skip: Skip) -> Loads:
    """Loads on links while copies are there."""
    n_links = 1 + int(max(loads.link.max(), train.link.max()))
    since, until = np.full(n_links, inf), np.full(n_links, -inf)
    np.minimum.at(since, train.link, train.start + skip.period)
    np.maximum.at(until, train.link, train.end + skip.times * skip.period)
    return loads.of((loads.end > since[loads.link]) & (loads.start < until[loads.link]))


def _first_beside(loads: Loads, train: Loads, skip: Skip) -> float:
    """The first time at which a load meets a copy: pairs of both on one link, and the copies that could be meant."""
    train = train.of(np.argsort(train.link, kind="stable"))
    first, last = (np.searchsorted(train.link, loads.link, side) for side in ("left", "right"))
    width = last - first
    each = np.repeat(np.arange(len(width)), width)
    other = ranges(first, width)
    start, end = loads.start[each], loads.end[each]
    since = np.maximum(np.floor((start - train.end[other]) / skip.period) + 1, 1)
    until = np.minimum(np.ceil((end - train.start[other]) / skip.period) - 1, skip.times)
    meets = since <= until
    begins = np.maximum(start, train.start[other] + since * skip.period)
    return float(begins[meets].min(initial=inf))
