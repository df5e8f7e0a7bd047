"""The part of a step before anybody meets, worked out without a clock.

Until two flows are on one link, or a collective slows computation beside it, all happens when the timetable says.
Whatever has ended by then is done; the clock begins there, with what is under way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from math import ceil, inf
from weakref import WeakKeyDictionary

import numpy as np

from sim.engine.instructions import Instructions, Ints
from sim.engine.meetings import first_meeting
from sim.engine.network import Network
from sim.engine.program import NOT_YET, Action, Program, Script, Stream
from sim.engine.timetable import Floats, Skip, Times, Timetable, timetable_of
from sim.engine.trace import Repeat

_timetables: WeakKeyDictionary[Script, Timetable | None] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class HeadStart:
    """What is done when the clock begins, at `until` [s]; infinite if all is.

    stream, position, start, end, blocker: (n,) as in a trace. done: (n_streams,) instructions that each stream has
    done. reached: kind of token -> the highest index signalled. under_way: stream, begin [s] and blocker of what has
    begun, in that order of time. moved: flow classes that have moved bytes.
    """

    until: float
    stream: Ints
    position: Ints
    start: Floats
    end: Floats
    blocker: Ints
    repeats: tuple[Repeat, ...]
    done: list[int]
    reached: dict[int, int]
    under_way: list[tuple[int, float, int]]
    moved: set[int]


def head_start(program: Program, network: Network, steals: bool, skip: bool) -> HeadStart | None:
    """The head start of a program; None if it has none.

    steals: whether collectives slow what they run beside. skip: whether loops may be cut short.
    """
    if steals and any(_steals_at_once(program, stream) for stream in program.streams):
        return None
    timetable = _timetable(program.script)
    if timetable is None:
        return None
    actions = program.actions
    lasts = [_alone(action, network.solo) for action in actions]
    flow = np.array([action.flow for action in actions], dtype=np.int64)
    latency = np.array([action.latency for action in actions])
    times = timetable.times(lasts, None if skip else [0] * len(timetable.loops))
    act = timetable.action[times.rows]
    until = first_meeting(times, flow[act], latency[act], network.table)
    if steals:
        stealing = np.array([bool(action.steals) for action in actions])
        until = min(until, float(times.start[stealing[act]].min(initial=inf)))
    whole = {each.loop: _whole(times, each, until) for each in times.skips}
    if any(whole[each.loop] < each.times for each in times.skips):
        times = timetable.times(lasts, [whole.get(loop, 0) for loop in timetable.loops], until)
    return _so_far(program, timetable, times, until) if until > 0 else None


def _steals_at_once(program: Program, stream: Stream) -> bool:
    """Whether a stream begins with a collective that slows computation, as soon as the step begins."""
    first = next((program.templates[number] for number in stream.table), None)
    return first is not None and not first.waits and bool(program.actions[first.action].steals)


def _timetable(script: Script) -> Timetable | None:
    """The timetable of a script, made once."""
    if script not in _timetables:
        _timetables[script] = timetable_of(script)
    return _timetables[script]


def _alone(action: Action, solo: Sequence[float]) -> float:
    """How long an action lasts with nobody near [s]."""
    if action.flow < 0:
        return action.duration
    return action.latency + (action.size / solo[action.flow] if action.size > 0 else 0.0)


def _whole(times: Times, skip: Skip, until: float) -> int:
    """How many of the skipped blocks have ended before `until`."""
    left = until - float(times.end[skip.places].max())
    return skip.times if left > skip.times * skip.period else max(0, ceil(left / skip.period) - 1)


def _so_far(program: Program, timetable: Timetable, times: Times, until: float) -> HeadStart:
    """What of it has ended before `until`, in the order of time."""
    table = timetable.table
    ended, begun = times.end < until, times.start < until
    done = np.flatnonzero(ended)
    done = done[np.argsort(times.end[done], kind="stable")]
    place = np.full(table.n + 1, -1)  # row of the trace by instruction
    place[times.rows[done]] = np.arange(len(done))
    repeats, last = [], times.rows.copy()
    for skip in times.skips:
        rows = times.rows[skip.places]
        later = rows + skip.times * skip.loop.stride
        place[later] = place[rows]
        last[skip.places] = later
        shift = skip.loop.shift
        repeats.append(Repeat(np.sort(place[rows]), skip.times, skip.period, shift, skip.loop.index_shift))
    stream = table.stream[times.rows]
    positions = np.zeros(len(program.streams), dtype=np.int64)
    np.maximum.at(positions, stream[done], table.position[last[done]] + 1)
    under_way = np.flatnonzero(begun & ~ended)
    under_way = under_way[np.argsort(times.start[under_way], kind="stable")]
    blocker = place[times.because]
    columns = stream[under_way], times.start[under_way], blocker[under_way]
    return HeadStart(
        until=until,
        stream=stream[done],
        position=table.position[times.rows[done]],
        start=times.start[done],
        end=times.end[done],
        blocker=blocker[done],
        repeats=tuple(repeats),
        done=positions.tolist(),
        reached=_reached(table, last[done]),
        under_way=list(zip(*(column.tolist() for column in columns), strict=True)),
        moved=_moved(program, timetable, times.rows[done]),
    )


def _reached(table: Instructions, rows: Ints) -> dict[int, int]:
    """The highest index signalled of each kind of token once these instructions have ended."""
    highest = np.full(int(table.kind[rows].max(initial=-1)) + 2, NOT_YET)
    np.maximum.at(highest, table.kind[rows], table.at[rows])
    return {kind: index for kind, index in enumerate(highest[:-1].tolist()) if index > NOT_YET}


def _moved(program: Program, timetable: Timetable, rows: Ints) -> set[int]:
    """Flow classes of these instructions that move bytes."""
    happened = np.zeros(len(program.actions), dtype=bool)
    happened[timetable.action[rows]] = True
    acts = compress(program.actions, happened.tolist())
    return {action.flow for action in acts if action.flow >= 0 and action.size > 0}
