"""Where the time of a step goes, on one rank: exposed time by cause, summing to the step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.engine.category import COMMUNICATION, Category
from sim.engine.program import Action
from sim.engine.trace import Trace
from sim.metrics.history import Event, History
from sim.metrics.result import BREAKDOWN

Ints = NDArray[np.int64]
Cause = tuple[str, float]  # breakdown field with a share or seconds
Wait = tuple[str, float, tuple[int, ...]]  # the same with the rank classes at whose work it is spent
COMPUTING = (Category.COMPUTE, Category.OPTIMIZER)


@dataclass(frozen=True)
class RankTime:
    """Exposed seconds by cause on one rank class, and its communication hidden or not [s]."""

    rank: int
    exposed: dict[str, float]
    comm_total: float

    @property
    def comm_exposed(self) -> float:
        """Seconds in which only communication happens."""
        return sum(self.exposed[name] for name in COMMUNICATION)


def critical_rank(trace: Trace) -> int:
    """The rank class whose own stream is busy longest; the first of equals."""
    streams = trace.program.streams
    busy = np.bincount(trace.stream, (trace.end - trace.start) * trace.weights(), len(streams))
    ranks = [number for number, stream in enumerate(streams) if stream.kind == "compute"]
    most = max(busy[number] for number in ranks)
    return next(streams[number].rank for number in ranks if busy[number] >= most * (1 - 1e-9))


def rank_time(trace: Trace, rank: int) -> RankTime:
    """Divide the step of a rank class: what its stream does, and what it waits for in between.

    A gap is charged to the chain of events that ended it, walked backwards: transfers to their own
    kind of communication, other ranks' work with the collectives inside it to the bubble. Where periods
    were skipped, a gap happened as often as the period; the last time is looked at.
    """
    exposed = dict.fromkeys(BREAKDOWN, 0.0)
    number = next(n for n, s in enumerate(trace.program.streams) if s.kind == "compute" and s.rank == rank)
    rows = np.flatnonzero(trace.stream == number)
    acts, history = trace.actions(), History(trace)
    for begin, event, times in history.gaps(rows.tolist()):
        for cause, seconds, _ in _gap(trace, history, acts, rank, begin, event):
            exposed[cause] += times * seconds
    for cause, seconds in _own(trace, rows):
        exposed[cause] += seconds
    exposed["bubble"] += max(
        0.0, trace.time - max(map(history.end, map(history.last, rows[-1:].tolist())), default=0.0)
    )
    return RankTime(rank, exposed, _comm_total(trace, rank))


def waits_for(trace: Trace, rank: int) -> dict[tuple[int, ...], float]:
    """Seconds in which a rank class waits for the work of other rank classes, by these.

    What it waits for at the end of a step, when it has nothing left to do itself, is not among them.
    """
    number = next(n for n, s in enumerate(trace.program.streams) if s.kind == "compute" and s.rank == rank)
    waits: dict[tuple[int, ...], float] = {}
    acts, history = trace.actions(), History(trace)
    for begin, event, times in history.gaps(np.flatnonzero(trace.stream == number).tolist()):
        for cause, seconds, others in _gap(trace, history, acts, rank, begin, event):
            if cause == "bubble":
                waits[others] = waits.get(others, 0.0) + times * seconds
    return waits


def _own(trace: Trace, rows: Ints) -> Iterator[Cause]:
    """What the stream of a rank does in its `rows`; what slower processors add counts as computation."""
    acts, weight = trace.actions()[rows], trace.weights()[rows]
    times, lasted = np.bincount(acts, weight), np.bincount(acts, weight * (trace.end[rows] - trace.start[rows]))
    for number in np.flatnonzero(times).tolist():
        action, seconds = trace.program.actions[number], float(lasted[number])
        if action.flow >= 0:
            yield action.category, seconds
            continue
        for name, part in action.parts:
            yield name, times.item(number) * part
            seconds -= times.item(number) * part
        yield "compute", seconds


def _gap(trace: Trace, history: History, acts: Ints, rank: int, begin: float, event: Event) -> Iterator[Wait]:
    """Causes of the wait between `begin` and the start of `event`, with the seconds of each."""
    until, blocker = history.start(event), event
    last = history.blocker(event)
    if last is not None and (lead := trace.program.actions[acts[last[0]]].lead) > 0:
        alone = min(lead, until - begin)  # each works as far as it can before it waits for the others, who do as much
        yield "bubble", alone, ()
        begin += alone
    while until > begin:
        before = history.blocker(blocker)
        if before is None:
            yield "bubble", until - begin, ()
            return
        blocker, began = before, history.start(before)
        since = max(begin, began)
        if since < until:
            action = trace.program.actions[acts[blocker[0]]]
            cause, share = _cause(trace, rank, action), _full_speed(action, history.end(blocker) - began)
            yield cause, share * (until - since), action.ranks
            yield "bubble" if cause == "bubble" else "compute", (1 - share) * (until - since), action.ranks
            until = since


def _cause(trace: Trace, rank: int, action: Action) -> str:
    """What an action is to a rank that waits for it: inner collectives of others are their work."""
    shared = action.category in (Category.PIPELINE_COMM, Category.DATA_COMM, Category.HOST_COMM)
    own = rank in members_of(trace, action) or (action.flow < 0 and rank in action.ranks)  # its host, another stream
    return action.category if shared or own else "bubble"


def _full_speed(action: Action, seconds: float) -> float:
    """Share of its time that an action needs anyway; slower processors add the rest."""
    return min(1.0, action.duration / seconds) if action.flow < 0 and seconds > 0 else 1.0


def _comm_total(trace: Trace, rank: int) -> float:
    """Seconds the rank has a collective or send in flight, streams added."""
    actions, acts, weight, seconds = trace.program.actions, trace.actions(), trace.weights(), trace.end - trace.start
    needed = np.array([action.duration for action in actions])[acts]  # slower processors add the rest
    worked = np.bincount(acts, weight * np.minimum(seconds, needed), len(actions)).tolist()
    times = np.bincount(acts, weight, len(actions)).tolist()
    lasted = np.bincount(acts, weight * seconds, len(actions)).tolist()
    total = 0.0
    for number, action in enumerate(actions):
        if action.flow >= 0:
            total += lasted[number] if rank in trace.flow_ranks[action.flow] else 0.0
        elif rank in action.ranks and action.is_computation:
            total += times[number] * action.comm
        elif rank in action.ranks:
            total += worked[number]
    return total


def members_of(trace: Trace, action: Action) -> tuple[int, ...]:
    """Rank classes that take part in a transfer or collective; none for computation."""
    if action.flow >= 0:
        return trace.flow_ranks[action.flow]
    return () if action.is_computation else action.ranks
