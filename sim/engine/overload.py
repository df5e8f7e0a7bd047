"""Whether a step could have happened on links that took no part in its rate sharing.

A trace that overloads none of them is that of all links (`plan/rows.py`). What is on a link is bounded from above: each
flow class while it moves, at its rate alone; those that count in a row of the link, at no more than its capacity. So a
trace that passes is proved, and a link that is suspected for nothing costs time alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.engine.network import FlowTable
from sim.engine.trace import TOLERANCE, Trace
from sim.ragged import ranges

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
SLACK = 1e-9  # of a capacity, as in the certificate of an allocation
AT_ONCE = 4_000_000  # moments that are looked at together


class Moves(NamedTuple):
    """When flow classes move bytes: (n,) class, begin, end [s] and rate of one flow [B/s]; sorted by class."""

    flow: Ints
    begin: Floats
    end: Floats
    rate: Floats


class Overload(NamedTuple):
    """What a check found: (n,) link classes and flow classes that were on them while they were overloaded."""

    link: Ints
    flow: Ints


def find_overload(trace: Trace, moves: Moves) -> Overload:
    """Flows to share rates on links of the trace's table that were left out and might have been overloaded."""
    table, left_out = trace.table, np.flatnonzero(trace.table.left_out)
    alone = table.solo_rates()
    active = (np.bincount(moves.flow, minlength=table.n_flows) > 0) & np.isfinite(alone)
    rate = np.where(active, alone, 0.0)[table.flow]
    weight, inner = table.coefficient * rate, table.inside * rate
    n_links, limit = len(table.capacity), table.capacity * (1 + SLACK)
    inside = np.bincount(table.link, inner, n_links)
    most = np.minimum(inside, table.capacity) + np.bincount(table.link, weight, n_links) - inside
    suspects = left_out[most[left_out] > limit[left_out]]
    links, flows = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    whole = _merged(moves, table.n_flows)
    for entries in _in_turn(table, suspects, whole):
        moments = _moments(table, entries, whole)
        within = _running(moments, inner[entries])
        load = np.minimum(within, table.capacity[moments.link]) + _running(moments, (weight - inner)[entries])
        link, flow = _guilty(moments, whole, table.flow[entries], load > limit[moments.link])
        links.append(link)
        flows.append(flow)
    return Overload(np.concatenate(links), np.concatenate(flows))


def peak_of_left_out(trace: Trace, moves: Moves) -> Floats:
    """Largest share of capacity on links that were left out, (n_links,); 0 elsewhere.

    A transfer counts at its mean rate, so it is exact where rates did not change. A proved step fills no link beyond 1.
    """
    table = trace.table
    peak = np.zeros(len(table.capacity))
    for entries in _in_turn(table, np.flatnonzero(table.left_out), moves):
        moments = _moments(table, entries, moves)
        load = _running(moments, table.coefficient[entries], moves.rate)
        first = np.flatnonzero(np.diff(moments.link, prepend=-1))
        peak[moments.link[first]] = np.maximum.reduceat(load, first) / table.capacity[moments.link[first]]
    return np.minimum(peak, 1.0)


def moves_of(trace: Trace) -> Moves:
    """When each flow class moved bytes, periods that were skipped too; inside a chain, for as long as that lasts."""
    actions = trace.program.actions
    alone = trace.table.solo_rates()
    flow = np.array([action.flow for action in actions], dtype=np.int64)
    size, latency = (np.array([getattr(each, name) for each in actions]) for name in ("size", "latency"))
    carried = [
        (number, kind) for number, each in enumerate(actions) for kind, moved in trace.carried(each) if moved > 0
    ]
    action, begin, end = _every_row(trace)
    chosen = (flow[action] >= 0) & (size[action] > 0)
    act, since, until = action[chosen], begin[chosen] + latency[action[chosen]], end[chosen]
    with np.errstate(divide="ignore"):
        rates = np.minimum(size[act] / (until - since), alone[flow[act]])
    parts = [Moves(flow[act], since, until, rates)]
    if carried:
        which, kinds = np.array(carried, dtype=np.int64).T
        order = np.argsort(action, kind="stable")
        first = np.searchsorted(action[order], np.arange(len(actions) + 1))
        width = first[which + 1] - first[which]
        row, kind = order[ranges(first[which], width)], np.repeat(kinds, width)
        parts.append(Moves(kind, begin[row], end[row], alone[kind]))
    kind = np.concatenate([part.flow for part in parts])
    order = np.argsort(kind, kind="stable")
    starts, ends, rates = (np.concatenate([part[place] for part in parts])[order] for place in (1, 2, 3))
    return Moves(kind[order], starts, ends, rates)


def _every_row(trace: Trace) -> tuple[Ints, Floats, Floats]:
    """Action, start and end of all rows, skipped ones too."""
    acts = trace.actions()
    columns = [(acts, trace.start, trace.end)]
    for repeat in trace.repeats:
        later = np.repeat(np.arange(1, repeat.times + 1) * repeat.period, len(repeat.rows))
        start, end = (np.tile(times[repeat.rows], repeat.times) + later for times in (trace.start, trace.end))
        columns.append((np.tile(acts[repeat.rows], repeat.times), start, end))
    action, start, end = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return action, start, end


def _merged(moves: Moves, n_flows: int) -> Moves:
    """Stretches in which a class moves, each once, whatever number of its flows move; the rate says nothing."""
    n = len(moves.flow)
    flow = np.concatenate([moves.flow, moves.flow])
    end = np.maximum(moves.end * (1 - TOLERANCE), moves.begin)
    time, step = np.concatenate([moves.begin, end]), np.repeat(np.array([1, -1]), n)
    order = np.lexsort((-step, time, flow))
    flow, time, step = flow[order], time[order], step[order]
    running = np.cumsum(step)
    begins, ends = (running == 1) & (step == 1), running == 0
    return Moves(flow[begins], time[begins], time[ends], np.ones(int(begins.sum())))


class Instants(NamedTuple):
    """Begins and ends of moves on links, (n,), by link and time: link class, entry, which move, and 1 or -1."""

    link: Ints
    entry: Ints
    move: Ints
    step: Ints


def _in_turn(table: FlowTable, links: Ints, moves: Moves) -> Iterator[Ints]:
    """Entries of the table on some link classes, so many links at a time that their moments fit."""
    on = np.zeros(len(table.capacity), dtype=bool)
    on[links] = True
    entries = np.flatnonzero(on[table.link])
    entries = entries[np.argsort(table.link[entries], kind="stable")]
    count = np.bincount(moves.flow, minlength=table.n_flows)[table.flow[entries]]
    entries, count = entries[count > 0], count[count > 0]
    turn = np.cumsum(count) // AT_ONCE
    first = np.flatnonzero(np.diff(table.link[entries], prepend=-1))
    turn = np.repeat(turn[first], np.diff(np.append(first, len(entries))))
    for number in np.unique(turn):
        yield entries[turn == number]


def _moments(table: FlowTable, entries: Ints, moves: Moves) -> Instants:
    first = np.searchsorted(moves.flow, np.arange(table.n_flows + 1))
    flow = table.flow[entries]
    width = first[flow + 1] - first[flow]
    move, entry = ranges(first[flow], width), np.repeat(np.arange(len(entries)), width)
    move, entry = np.concatenate([move, move]), np.concatenate([entry, entry])
    step = np.repeat(np.array([-1, 1]), len(move) // 2)
    end = np.maximum(moves.end * (1 - TOLERANCE), moves.begin)
    time = np.concatenate([end, moves.begin])
    place = np.empty(len(time), dtype=np.int64)
    place[np.argsort(time, kind="stable")] = np.arange(len(time))  # ends come first in an instant
    at = np.where(step > 0, move + len(end), move)
    order = np.argsort(table.link[entries][entry] * len(time) + place[at])
    return Instants(table.link[entries][entry][order], entry[order], move[order], step[order])


def _running(moments: Instants, weight: Floats, rate: Floats | None = None) -> Floats:
    """Sum over what moves after each moment, from 0 again at each link."""
    each = weight[moments.entry] * moments.step
    total = np.cumsum(each if rate is None else each * rate[moments.move])
    first = np.flatnonzero(np.diff(moments.link, prepend=-1))
    before = np.concatenate([[0.0], total])[first]
    running: Floats = total - np.repeat(before, np.diff(np.append(first, len(total))))
    return running


def _guilty(moments: Instants, moves: Moves, flow: Ints, over: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Link and flow of each entry that moves at a moment of overload."""
    if not over.any():
        return moments.link[over], moments.link[over]
    count = np.concatenate([[0], np.cumsum(over)])
    begins = np.flatnonzero(moments.step == 1)
    ends = np.flatnonzero(moments.step == -1)
    key = moments.entry * (len(moves.flow) + 1) + moments.move
    begins, ends = begins[np.argsort(key[begins])], ends[np.argsort(key[ends])]
    hit = begins[count[ends] > count[begins]]
    entry = np.unique(moments.entry[hit])
    link = np.zeros(len(flow), dtype=np.int64)
    link[moments.entry[hit]] = moments.link[hit]
    return link[entry], flow[entry]
