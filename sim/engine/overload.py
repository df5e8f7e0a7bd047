"""Whether a step could have happened where links were not looked at, or parts did not see one another.

Rates are shared over a part of the links (`layout/rows.py`), and in periods that were skipped a part is not seen by
others (`engine/periods.py`). What happened is right as long as no link is overloaded: each flow has a full link, or row
of it, on which none of those simulated with it is faster, and a link that is not overloaded has no room for others
beside them; so the rates are those of all together. By induction over the events a trace is exact until the first
overload. A chain counts what it carries at the rate alone for as long as it lasts, so a link may be suspected for
nothing, which costs time alone.

Public: `Checked`, `check_loads`, `is_certain`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.engine.moves import Moves
from sim.engine.network import FlowTable
from sim.engine.trace import TOLERANCE, Stops, Trace
from sim.ragged import ranges

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
SLACK = 1e-9  # of a capacity, as in the certificate of an allocation
AT_ONCE = 4_000_000  # moments that are looked at together
ENOUGH = 10_000  # moves on overloaded links
MOST_LINKS = 1 << 16  # of them, so that numpy sorts their numbers by digits


class Checked(NamedTuple):
    """What a check found.

    peak: (n_links,) largest share of capacity of links that were looked at, 0 elsewhere. link, flow: (n,) classes of
    overloaded links that were left out, and of flows that were on them then. met: when loose parts were on a link that
    was overloaded while one of them was skipped.
    """

    peak: Floats
    link: Ints
    flow: Ints
    met: Stops

    @property
    def is_fine(self) -> bool:
        """Whether the trace is proved."""
        return not len(self.link) and not self.met


class Instants(NamedTuple):
    """Begins and ends of moves on links, (n,), by link and time: place of the link, which move, 1 or -1, and load after
    it [B/s]; ends come first in an instant.
    """

    place: Ints
    move: Ints
    step: Ints
    load: Floats


def is_certain(trace: Trace) -> bool:
    """Whether there is nothing to check: all links took part, and nothing was skipped that may meet others."""
    return not trace.table.left_out.any() and not any(repeat.loose for repeat in trace.repeats)


def check_loads(trace: Trace, moves: Moves) -> Checked:
    """The loads on all links that were left out, and on those that several loose parts share if some were skipped."""
    table = trace.table
    part_of = trace.program.loose_part_of_flow(table.n_flows)
    left_out = np.flatnonzero(table.left_out)
    shared = _shared(table, part_of) if any(repeat.loose for repeat in trace.repeats) else left_out[:0]
    peak, guilty = np.zeros(len(table.capacity)), [np.zeros((2, 0), dtype=np.int64)]
    for links in _in_turn(table, np.concatenate([shared, left_out]), moves):
        moments = _moments(table, links, moves)
        first = np.flatnonzero(np.diff(moments.place, prepend=-1))
        if len(first):
            peak[links[moments.place[first]]] = np.maximum.reduceat(moments.load, first)
        over = moments.load > table.capacity[links[moments.place]] * (1 + SLACK)
        place, move = _guilty(moments, over)
        guilty.append(np.stack([links[place], move]))
        if len(place) > ENOUGH:
            break  # refuted, and so widely that the rest will be looked at again
    link, move = np.concatenate(guilty, axis=1)
    own = link >= table.n_shared
    pairs = np.unique(np.stack([link[own], moves.flow[move[own]]]), axis=1)
    times = np.unique(move[~own])
    parts, span = part_of[moves.flow[times]], np.stack([moves.begin[times], moves.end[times]], axis=1)
    met = {part: span[parts == part] for part in np.unique(parts[parts >= 0]).tolist()}
    return Checked(np.minimum(peak / table.capacity, 1.0), pairs[0], pairs[1], met)


def _shared(table: FlowTable, part_of: Ints) -> Ints:
    """Link classes among those that share rates on which several parts have flows."""
    on = table.link < table.n_shared
    link, part = table.link[on], part_of[table.flow[on]]
    least, most = np.full(table.n_shared, len(part_of)), np.full(table.n_shared, -1)
    np.minimum.at(least, link, part)
    np.maximum.at(most, link, part)
    return np.flatnonzero(least < most)


def _in_turn(table: FlowTable, links: Ints, moves: Moves) -> Iterator[Ints]:
    """Some link classes, so many at a time that their moments fit."""
    count = np.bincount(moves.flow, minlength=table.n_flows)[table.flow]
    on = np.bincount(table.link, count, len(table.capacity))[links]
    links, on = links[on > 0], on[on > 0]
    turn = np.maximum(np.cumsum(on) // AT_ONCE, np.arange(len(links)) // MOST_LINKS)
    for number in np.unique(turn):
        yield links[turn == number]


def _moments(table: FlowTable, links: Ints, moves: Moves) -> Instants:
    place = np.full(len(table.capacity), -1)
    place[links] = np.arange(len(links))
    entries = np.flatnonzero(place[table.link] >= 0)
    entries = entries[np.argsort(table.flow[entries], kind="stable")]
    first = np.searchsorted(table.flow[entries], np.arange(table.n_flows + 1))
    chosen = np.flatnonzero(np.diff(first)[moves.flow])
    begin = moves.begin[chosen]
    end = np.maximum(moves.end[chosen] * (1 - TOLERANCE), begin)
    order = np.argsort(np.concatenate([end, begin]), kind="stable")
    move, step = chosen[order % len(chosen)] if len(chosen) else chosen, np.where(order < len(chosen), -1, 1)
    width = np.diff(first)[moves.flow[move]]
    entry = entries[ranges(first[moves.flow[move]], width)]
    at = place[table.link[entry]].astype(np.uint16)
    by_link = np.argsort(at, kind="stable")
    link, move, step = at[by_link].astype(np.int64), np.repeat(move, width)[by_link], np.repeat(step, width)[by_link]
    change = table.coefficient[entry[by_link]] * moves.rate[move] * step
    return Instants(link, move, step, _summed(change, link))


def _summed(change: Floats, place: Ints) -> Floats:
    """Running sums, from 0 again where the place changes."""
    total = np.cumsum(change)
    first = np.flatnonzero(np.diff(place, prepend=-1))
    before = np.concatenate([[0.0], total])[first]
    summed: Floats = total - np.repeat(before, np.diff(np.append(first, len(total))))
    return summed


def _guilty(moments: Instants, over: Mask) -> tuple[Ints, Ints]:
    """Place and number of each move that is under way at a moment of overload on a link."""
    if not over.any():
        return moments.place[over], moments.move[over]
    bad = np.zeros(1 + int(moments.place[-1]), dtype=bool)
    bad[moments.place[over]] = True
    on = bad[moments.place]
    place, move, step = moments.place[on], moments.move[on], moments.step[on]
    count = np.concatenate([[0], np.cumsum(over[on])])
    key = place * (1 + int(move.max())) + move
    begins, ends = np.flatnonzero(step == 1), np.flatnonzero(step == -1)
    begins, ends = begins[np.argsort(key[begins])], ends[np.argsort(key[ends])]
    hit = begins[count[ends] > count[begins]]
    return place[hit], move[hit]
