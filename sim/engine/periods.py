"""Advances repeating parts of a program by whole periods, exactly.

A part is a set of streams that depend on one another, by tokens or shared links, in what they do
over and over: one pipeline replica, say. The state of a part is the position of its streams, what is
left of their running actions and how long they ran; tokens and waits follow from it. If the state at
two instants is equal up to a shift of positions, and every stream's program repeats itself with
that shift, the stretch between the two instants happens again and again until some program stops
repeating. Skipping it moves positions and puts off what is running; nothing else can tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from simpy.events import Event, EventPriority

from sim.engine.network import Flow
from sim.engine.trace import Repeat

if TYPE_CHECKING:
    from sim.engine.executor import Alarm, Executor

LOOK_PRIORITY = EventPriority(3)  # after the network has settled
KEPT_SNAPSHOTS = 4
TOLERANCE = 1e-12  # relative to the time of the state
LOOPING = 3  # a template used this often in a stream is part of a loop


@dataclass(frozen=True)
class Snapshot:
    """State of a part at `time` [s], lists by stream of the part; with the rows and bytes so far."""

    time: float
    rows: int
    positions: list[int]
    phases: list[str]
    left: list[float]  # seconds left of the running action
    spent: list[float]  # seconds since it began
    bytes_moved: list[float]  # of the part's flow classes


@dataclass
class Part:
    """Streams that loop together, the stream whose progress sets the beat, and its period."""

    streams: list[int]
    beat: int
    length: int
    flows: list[int]  # flow classes of its loops
    neighbours: list[int]  # streams outside that use links of these classes, or wait for the part
    snapshots: list[Snapshot]


class PeriodSkipper:
    """Looks for a repeated state each time the beat stream of a part ends a period."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.parts = {part.beat: part for part in find_parts(executor)}

    def after(self, stream: int, position: int) -> None:
        """Called when an instruction of `stream` is done; plans a look at the end of the instant."""
        part = self.parts.get(stream)
        if part is not None and position % part.length == 0:
            event = Event(self.executor.env)
            event._ok, event._value = True, part
            event.callbacks.append(self._look)
            self.executor.env.schedule(event, LOOK_PRIORITY)

    def _look(self, event: Event) -> None:
        part: Part = event._value
        now = self._snapshot(part)
        for before in reversed(part.snapshots):
            if _same(before, now) and (times := self._repetitions(part, before, now)) > 0:
                self._skip(part, before, now, times)
                part.snapshots.clear()
                return
        part.snapshots = [*part.snapshots[1 - KEPT_SNAPSHOTS :], now]

    def _snapshot(self, part: Part) -> Snapshot:
        run = self.executor
        clock = run.env.now
        return Snapshot(
            clock,
            run.n_rows,
            [run.position[s] for s in part.streams],
            [_phase(run.timer[s], clock) for s in part.streams],
            [self._left(run.timer[s], clock) for s in part.streams],
            [0.0 if run.timer[s] is None else clock - run.began[s] for s in part.streams],
            [run.network.bytes_moved[flow] for flow in part.flows],
        )

    def _left(self, timer: Alarm | Flow | None, clock: float) -> float:
        """Seconds until the timer rings; for a flow, seconds until it is on its links, then at its present rate."""
        if timer is None:
            return 0.0
        if isinstance(timer, Flow):
            return timer.since - clock if timer.since > clock else timer.left_at(clock) / timer.rate
        return self.executor.rings_at[timer.stream] - clock

    def _repetitions(self, part: Part, before: Snapshot, now: Snapshot) -> int:
        """How many more times the part does what it did between the two states."""
        shifts = {s: (a, b - a) for s, a, b in zip(part.streams, before.positions, now.positions, strict=True) if b > a}
        if not shifts or not self._others_stand_still(part, shifts):
            return 0
        index_shift = self._index_shift(*next((s, first, shift) for s, (first, shift) in shifts.items()))
        return min(self._stream_repetitions(s, first, shift, index_shift) for s, (first, shift) in shifts.items())

    def _index_shift(self, s: int, first: int, shift: int) -> int:
        index = self.executor.indices[s]
        return index[first + shift] - index[first] if first + shift < len(index) else 0

    def _stream_repetitions(self, s: int, first: int, shift: int, index_shift: int) -> int:
        """Whole periods ahead in which the program equals the period from `first`, shifted.

        One instruction beyond the last skipped one must match too: it is the one waiting or running.
        """
        template, index = self.executor.templates[s], np.frombuffer(self.executor.indices[s], np.int64)
        run = _common(template[first + shift :], template[first : len(template) - shift])
        moved = index[first + shift : first + shift + run] - index[first : first + run]
        differing = np.flatnonzero(moved != index_shift)
        run = int(differing[0]) if len(differing) else run
        return max(run - 1, 0) // shift

    def _others_stand_still(self, part: Part, shifts: dict[int, tuple[int, int]]) -> bool:
        """Nobody outside can touch the part before its loop is over.

        Whoever shares links with it, or waits for it, must be waiting for something that only the part
        can signal, and not inside its loop.
        """
        run = self.executor
        looping = self._kinds(shifts)
        own = set(part.streams)
        for s in part.neighbours:
            position = run.position[s]
            if s in shifts or position == len(run.templates[s]):
                continue
            if run.timer[s] is not None:
                return False
            missing = run.missing(s)
            if any(kind in looping for kind, _ in missing):
                return False
            if s not in own and not any(run.makers[kind] in own for kind, _ in missing):
                return False
        return True

    def _kinds(self, shifts: dict[int, tuple[int, int]]) -> set[int]:
        """Kinds of token that the streams signal in a period."""
        run = self.executor
        signals = (run.signals[run.templates[s][p]] for s, (a, n) in shifts.items() for p in range(a, a + n))
        return {signal[0] for signal in signals if signal is not None}

    def _skip(self, part: Part, before: Snapshot, now: Snapshot, times: int) -> None:
        run = self.executor
        period = now.time - before.time
        shift = {s: b - a for s, a, b in zip(part.streams, before.positions, now.positions, strict=True)}
        moving = next((s, a) for s, a in zip(part.streams, before.positions, strict=True) if shift[s])
        index_shift = self._index_shift(*moving, shift[moving[0]])
        run.repeats.append(Repeat(before.rows, now.rows, times, period, shift, index_shift))
        for flow, a, b in zip(part.flows, before.bytes_moved, now.bytes_moved, strict=True):
            run.network.bytes_moved[flow] += times * (b - a)
        kinds = self._kinds({s: (a, shift[s]) for s, a in zip(part.streams, before.positions, strict=True)})
        run.jump(shift, kinds, index_shift, times, period)


def _common(one: list[int], other: list[int]) -> int:
    """How many elements two lists of one length have in common from the start."""
    low, high = 0, len(one) + 1  # so many are common; so many are not
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _phase(timer: Alarm | Flow | None, clock: float) -> str:
    """What a stream is doing: a flow starts up before it moves bytes."""
    if isinstance(timer, Flow):
        return "starting" if timer.since > clock else "moving"
    return "idle" if timer is None else "computing"


def _same(before: Snapshot, now: Snapshot) -> bool:
    if before.phases != now.phases:
        return False
    slack = TOLERANCE * now.time
    pairs = zip(before.left + before.spent, now.left + now.spent, strict=True)
    return all(abs(a - b) <= slack for a, b in pairs)


def find_parts(executor: Executor) -> list[Part]:
    """Parts of the program that have a beat stream: streams joined by what they do in loops."""
    program = executor.program
    loops = [[template for template, count in used.items() if count >= LOOPING] for used in executor.used]
    flows = [{flow for t in templates for flow in executor.flows_of(t)} for templates in loops]
    root = _joined(executor, loops, flows)
    members: dict[int, list[int]] = {}
    for s, templates in enumerate(loops):
        if templates:
            members.setdefault(root[s], []).append(s)
    beats: dict[int, tuple[int, int]] = {}
    for s, length in program.beats.items():
        beats.setdefault(root[s], (s, length))
    return [_part(executor, streams, *beats[r], flows) for r, streams in members.items() if r in beats]


def _part(executor: Executor, streams: list[int], beat: int, length: int, flows: list[set[int]]) -> Part:
    """The part with its flows, and the streams that may touch those or wait for the part."""
    own = sorted(set().union(*(flows[s] for s in streams)))
    met = set().union(*(executor.network.conflicts[flow] for flow in own))
    program = executor.program
    signals = (executor.signals[t] for s in streams for t in executor.used[s])
    kinds = {signal[0] for signal in signals if signal is not None}
    inside = set(streams)
    ranks = {program.streams[s].rank for s in streams}
    neighbours = list(streams)
    for s, used in enumerate(executor.used):
        if s in inside:
            continue
        actions = [program.actions[executor.acts[t]] for t in used]
        touches = any(action.flow in met or not ranks.isdisjoint(action.steals) for action in actions)
        waits = any(kind in kinds for t in used for kind, _ in executor.waits[t])
        if touches or waits:
            neighbours.append(s)
    return Part(streams, beat, length, own, neighbours, [])


def _joined(executor: Executor, loops: list[list[int]], flows: list[set[int]]) -> list[int]:
    """Union of streams that exchange tokens or share links in their loops; root of each stream."""
    parent = list(range(len(loops)))

    def find(s: int) -> int:
        while parent[s] != s:
            parent[s] = parent[parent[s]]
            s = parent[s]
        return s

    looping = set().union(*flows)
    first: dict[tuple[str, int], int] = {}
    for s, templates in enumerate(loops):
        kinds = {signal[0] for t in templates if (signal := executor.signals[t]) is not None}
        kinds |= {kind for t in templates for kind, _ in executor.waits[t]}
        met = {other for flow in flows[s] for other in executor.network.conflicts[flow] & looping}
        keys = [("token", kind) for kind in sorted(kinds)] + [("flow", flow) for flow in sorted(met)]
        for key in keys:
            parent[find(s)] = find(first.setdefault(key, s))
    return [find(s) for s in range(len(loops))]
