"""Advances repeating parts of a program by whole periods, exactly.

A part is a set of streams that depend on one another, by tokens or shared links, in what they do
over and over: one pipeline replica, say. The state of a part is the position of its streams, what is
left of their running actions and how long they ran; tokens and waits follow from it. If the state at
two instants is equal up to a shift of positions, and every stream's program repeats itself with
that shift, the stretch between the two instants happens again and again until some program stops
repeating. Skipping it moves positions and puts off what is running; nothing else can tell.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from simpy.events import Event, EventPriority

from sim.engine.trace import Repeat

if TYPE_CHECKING:
    from sim.engine.executor import Executor, Head, Runner

LOOK_PRIORITY = EventPriority(3)  # after the network has settled
ASIDE = 0.382  # share of the work of the beat stream after which to look: when a period ends, much else ends as well
KEPT_SNAPSHOTS = 4
TOLERANCE = 1e-12  # relative to the time of the state
LOOPING = 3  # a template used this often in a stream is part of a loop


Shifts = dict[int, tuple[int, int]]  # stream -> position at the first state, instructions from it to the second


@dataclass(frozen=True)
class Snapshot:
    """State of a part at `time` [s], stream by stream: positions, what is done, when that ends and began [s].

    rows: how many there are so far.
    """

    time: float
    rows: int
    positions: list[int]
    states: list[tuple[int, float, float]]


@dataclass
class Part:
    """Streams that loop together, the stream whose progress sets the beat, and its period."""

    runners: list[Runner]
    beat: int
    length: int
    neighbours: list[Runner]  # of it and of others that use links of its loops, or wait for the part
    snapshots: list[Snapshot] = field(default_factory=list)


class PeriodSkipper:
    """Looks for a repeated state each time the beat stream of a part ends a period."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.parts = {part.beat: part for part in find_parts(executor)}
        for part in self.parts.values():
            executor.runners[part.beat].look_at = part.length

    def plan_look(self, runner: Runner) -> None:
        """The beat stream of a part is where a period ends: look at the end of the instant."""
        part, env = self.parts[runner.number], self.executor.env
        runner.look_at += part.length
        event = Event(env)
        event._ok, event._value = True, part
        event.callbacks.append(self._look)
        delay = ASIDE * (runner.rings_at - env.now) if runner.is_working else 0.0
        env.schedule(event, LOOK_PRIORITY, delay)

    def _look(self, event: Event) -> None:
        part: Part = event._value
        now = Snapshot(
            self.executor.env.now,
            self.executor.n_rows,
            [runner.position for runner in part.runners],
            [(runner.doing, runner.rings_at, runner.began) for runner in part.runners],
        )
        for before in reversed(part.snapshots):
            if _same(before, now) and (times := self._repetitions(part, before, now)) > 0:
                self._skip(part, before, now, times)
                part.snapshots.clear()
                return
        part.snapshots = [*part.snapshots[1 - KEPT_SNAPSHOTS :], now]

    def _repetitions(self, part: Part, before: Snapshot, now: Snapshot) -> int:
        """How many more times the part does what it did between the two states."""
        shifts = _shifts(part, before, now)
        if not shifts or not self._others_stand_still(part, shifts):
            return 0
        index_shift = self._index_shift(shifts)
        return min(
            _stream_repetitions(self.executor.runners[s], first, shift, index_shift)
            for s, (first, shift) in shifts.items()
        )

    def _index_shift(self, shifts: Shifts) -> int:
        s, (first, shift) = next(iter(shifts.items()))
        index = self.executor.runners[s].index
        return index[first + shift] - index[first] if first + shift < len(index) else 0

    def _others_stand_still(self, part: Part, shifts: Shifts) -> bool:
        """Nobody outside can touch the part before its loop is over.

        Whoever shares links with it, or waits for it, must be waiting for something that only the part
        can signal, and not inside its loop.
        """
        looping = self._kinds(shifts)
        own = {kind for runner in part.runners for kind in _signals(runner)}
        inside = {runner.number for runner in part.runners}
        for runner in part.neighbours:
            if runner.number in shifts or runner.position == runner.length:
                continue
            if runner.doing:
                return False
            missing = {kind for kind, _ in self.executor.missing(runner)}
            if missing & looping:
                return False
            if runner.number not in inside and not missing & own:
                return False
        return True

    def _kinds(self, shifts: Shifts) -> set[int]:
        """Kinds of token that the streams signal in a period."""
        kinds = set[int]()
        for s, (first, shift) in shifts.items():
            runner = self.executor.runners[s]
            kinds |= {runner.heads[number].kind for number in dict.fromkeys(runner.which[first : first + shift])}
        return kinds - {-1}

    def _skip(self, part: Part, before: Snapshot, now: Snapshot, times: int) -> None:
        run, shifts = self.executor, _shifts(part, before, now)
        period, index_shift = now.time - before.time, self._index_shift(shifts)
        shift = {runner.number: 0 for runner in part.runners} | {s: step for s, (_, step) in shifts.items()}
        run.repeats.append(Repeat(before.rows, now.rows, times, period, shift, index_shift))
        run.runners[part.beat].look_at += times * shift[part.beat]
        run.jump(shift, self._kinds(shifts), index_shift, times, period)


def _shifts(part: Part, before: Snapshot, now: Snapshot) -> Shifts:
    """Streams that moved between two states: where they were, and how many instructions they did."""
    moved = zip(part.runners, before.positions, now.positions, strict=True)
    return {runner.number: (first, last - first) for runner, first, last in moved if last > first}


def _stream_repetitions(runner: Runner, first: int, shift: int, index_shift: int) -> int:
    """Whole periods ahead in which the program equals the period from `first`, shifted.

    One instruction beyond the last skipped one must match too: it is the one waiting or running.
    """
    which, index = np.asarray(runner.which), np.asarray(runner.index)
    last = len(which) - shift
    differs = which[first + shift :] != which[first:last]
    differs |= index[first + shift :] - index[first:last] != index_shift
    differing = np.flatnonzero(differs)
    run = int(differing[0]) if len(differing) else last - first
    return max(run - 1, 0) // shift


def _same(before: Snapshot, now: Snapshot) -> bool:
    """Whether two states are equal but for the positions: all do the same, and that began and ends a period later."""
    period, slack = now.time - before.time, TOLERANCE * now.time
    for (what, end, begin), (doing, ends, began) in zip(before.states, now.states, strict=True):
        if what != doing or (doing and (abs(ends - end - period) > slack or abs(began - begin - period) > slack)):
            return False
    return True


def _signals(runner: Runner) -> set[int]:
    """Kinds of token that a stream signals."""
    return {head.kind for head in runner.heads} - {-1}


def _flows(heads: list[Head]) -> set[int]:
    """Flow classes that instructions move bytes of."""
    return {flow for head in heads for flow, _ in head.action.carried} | {head.flow for head in heads} - {-1}


def find_parts(executor: Executor) -> list[Part]:
    """Parts of the program that have a beat stream: streams joined by what they do in loops."""
    runners, beats = executor.runners, executor.program.beats
    loops = [
        [head for head, count in zip(runner.heads, runner.counts, strict=True) if count >= LOOPING]
        for runner in runners
    ]
    flows = [_flows(heads) for heads in loops]
    root = _joined(loops, flows, executor.network.conflicts)
    members: dict[int, list[int]] = {}
    for s, heads in enumerate(loops):
        if heads:
            members.setdefault(root[s], []).append(s)
    first: dict[int, int] = {}
    for s in beats:
        first.setdefault(root[s], s)
    return [
        Part([runners[s] for s in streams], first[r], beats[first[r]], _neighbours(executor, streams, flows))
        for r, streams in members.items()
        if r in first
    ]


def _neighbours(executor: Executor, streams: list[int], flows: list[set[int]]) -> list[Runner]:
    """The streams of a part, and those that may touch the flows of its loops or wait for it."""
    runners, inside = executor.runners, set(streams)
    met = {flow for s in streams for own in flows[s] for flow in executor.network.conflicts[own]}
    kinds = {kind for s in streams for kind in _signals(runners[s])}
    ranks = {executor.program.streams[s].rank for s in streams}
    neighbours = [runners[s] for s in streams]
    for runner in runners:
        if runner.number in inside:
            continue
        touches = any(head.flow in met or not ranks.isdisjoint(head.action.steals) for head in runner.heads)
        if touches or any(kind in kinds for head in runner.heads for kind, _ in head.waits):
            neighbours.append(runner)
    return neighbours


def _joined(loops: list[list[Head]], flows: list[set[int]], conflicts: tuple[frozenset[int], ...]) -> list[int]:
    """Union of streams that exchange tokens or share links in their loops; root of each stream."""
    parent = list(range(len(loops)))

    def find(s: int) -> int:
        while parent[s] != s:
            parent[s] = parent[parent[s]]
            s = parent[s]
        return s

    looping = set().union(*flows)
    first: dict[int, int] = {}  # token kind, or -1 less a flow class -> the first stream that has to do with it
    for s, heads in enumerate(loops):
        keys = [head.kind for head in heads if head.kind >= 0]
        keys += [kind for head in heads for kind, _ in head.waits]
        keys += [-1 - other for flow in flows[s] for other in conflicts[flow] if other in looping]
        for key in keys:
            other = first.setdefault(key, s)
            if other != s:
                parent[find(s)] = find(other)
    return [find(s) for s in range(len(loops))]
