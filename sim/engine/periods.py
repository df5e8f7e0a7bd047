"""Advances repeating parts of a program by whole periods, exactly.

A part is a set of streams that depend on one another, by tokens or shared links, in what they do
over and over: one pipeline replica, say. The state of a part is the position of its streams, what is
left of their running actions and how long they ran; tokens and waits follow from it. If the state at
two instants is equal up to a shift of positions, and every stream's program repeats itself with
that shift, the stretch between the two instants happens again and again until some program stops
repeating. Skipping it moves positions and puts off what is running; nothing else can tell.

Loose parts depend on one another by shared links alone. Those that slow one another repeat together, and what is
skipped of them may meet nobody else. Whether it would have is found out afterwards (`engine/overload.py`): where it
would, they are not skipped next time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import numpy as np

from sim.engine.trace import TOLERANCE, Repeat, Stops

if TYPE_CHECKING:
    from sim.engine.executor import Executor, Runner

LOOK = 1  # rank at the end of an instant: after the network has settled
ASIDE = 0.382  # share of the work of the beat stream after which to look: when a period ends, much else ends as well
KEPT_SNAPSHOTS = 4


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
class Watched:
    """Parts of the program that repeat together, as they run: streams, neighbours, and the last states seen."""

    parts: tuple[int, ...]
    runners: list[Runner]
    neighbours: list[Runner]  # and those of the parts
    signals: frozenset[int]
    snapshots: list[Snapshot] = field(default_factory=list)


class PeriodSkipper:
    """Looks for a repeated state each time the beat stream of a part ends a period.

    Loose parts that slowed one another in the period before repeat together, at the beat of the first of them.
    """

    def __init__(self, executor: Executor, stops: Stops | None) -> None:
        """stops: where loose parts are not skipped; None: nowhere."""
        self.executor, self.stops = executor, stops or {}
        program, network = executor.program, executor.network
        self.are_loose = stops is not None and bool(program.loose)
        self.parts = program.loose if self.are_loose else program.parts
        self.by_beat = {part.beat: number for number, part in enumerate(self.parts)}
        self.watched: dict[tuple[int, ...], Watched] = {}  # by the parts
        self.looked = [-1.0] * len(self.parts)  # when at each of them [s]
        for part in self.parts:
            beat = executor.runners[part.beat]
            beat.look_at = (beat.position // part.length + 1) * part.length
        if self.are_loose:
            network.tell_apart(program.loose_part_of_flow(network.table.n_flows))

    def plan_look(self, runner: Runner) -> None:
        """The beat stream of a part is where a period ends: look while it is at work on what follows."""
        number, env = self.by_beat[runner.number], self.executor.env
        runner.look_at += self.parts[number].length
        settle = partial(self.executor.network.settling.after_all, LOOK)

        def begun() -> None:
            delay = ASIDE * (runner.rings_at - env.now) if runner.is_working else 0.0
            env.timeout(delay).callbacks.append(lambda _: settle(partial(self._look, number)))

        settle(begun)

    def _look(self, number: int) -> None:
        """Skip what a part repeats, with those that it meets."""
        run, since = self.executor, self.looked[number]
        self.looked[number] = run.env.now
        together = self._met_since(number, since)
        if number != together[0] or together[0] < 0:
            return
        watched = self.watched.get(together) or self._watch(together)
        now = Snapshot(
            run.env.now,
            run.n_rows,
            [runner.position for runner in watched.runners],
            [(runner.doing, runner.rings_at, runner.began) for runner in watched.runners],
        )
        for before in reversed(watched.snapshots):
            if _same(before, now) and (times := self._repetitions(watched, before, now)) > 0:
                self._skip(watched, before, now, times)
                return
        watched.snapshots = [*watched.snapshots[1 - KEPT_SNAPSHOTS :], now]

    def _met_since(self, number: int, since: float) -> tuple[int, ...]:
        """A part and all that it met since then, directly or through others; -1 among them if that is no part."""
        found, new, met = {number}, [number], self.executor.network.met
        while new:
            near = {other for other, time in met.get(new.pop(), {}).items() if time >= since}
            new += near - found
            found |= near
        return tuple(sorted(found))

    def _watch(self, together: tuple[int, ...]) -> Watched:
        parts, runners = [self.parts[number] for number in together], self.executor.runners
        streams = [s for part in parts for s in part.streams]
        others = dict.fromkeys(s for part in parts for s in part.neighbours)
        signals = frozenset().union(*(part.signals for part in parts))
        made = Watched(together, [runners[s] for s in streams], [runners[s] for s in others], signals)
        self.watched[together] = made
        return made

    def _repetitions(self, watched: Watched, before: Snapshot, now: Snapshot) -> int:
        """How many more times the parts do what they did between the two states."""
        shifts = _shifts(watched, before, now)
        if not shifts or not self._others_stand_still(watched, shifts):
            return 0
        if self._met_since(watched.parts[0], 2 * before.time - now.time) != watched.parts:
            return 0  # what was under way at the first state must not have been slowed by others either
        index_shift = self._index_shift(shifts)
        times = min(
            _stream_repetitions(self.executor.runners[s], first, shift, index_shift)
            for s, (first, shift) in shifts.items()
        )
        return int(min(times, self._periods_until_stop(watched, now.time, now.time - before.time)))

    def _periods_until_stop(self, watched: Watched, now: float, period: float) -> float:
        """How many periods may be left out until one of the parts meets somebody; they are at work a period before."""
        stops = np.concatenate([np.zeros((0, 2)), *(self.stops[part] for part in watched.parts if part in self.stops)])
        ahead = stops[stops[:, 1] + period >= now, 0]
        return max(0.0, (float(ahead.min()) - now) / period - 1) if len(ahead) else inf

    def _index_shift(self, shifts: Shifts) -> int:
        s, (first, shift) = next(iter(shifts.items()))
        index = self.executor.runners[s].index
        return index[first + shift] - index[first] if first + shift < len(index) else 0

    def _others_stand_still(self, watched: Watched, shifts: Shifts) -> bool:
        """Nobody outside can touch the part before its loop is over.

        Whoever shares links with it, or waits for it, must be waiting for something that only the part
        can signal, and not inside its loop.
        """
        looping = self._kinds(shifts)
        inside = {runner.number for runner in watched.runners}
        for runner in watched.neighbours:
            if runner.number in shifts or runner.position == runner.length:
                continue
            if runner.doing:
                return False
            missing = {kind for kind, _ in self.executor.signals.missing(runner)}
            if missing & looping:
                return False
            if runner.number not in inside and not missing & watched.signals:
                return False
        return True

    def _kinds(self, shifts: Shifts) -> set[int]:
        """Kinds of token that the streams signal in a period."""
        kinds = set[int]()
        for s, (first, shift) in shifts.items():
            runner = self.executor.runners[s]
            kinds |= {runner.heads[number].kind for number in dict.fromkeys(runner.which[first : first + shift])}
        return kinds - {-1}

    def _skip(self, watched: Watched, before: Snapshot, now: Snapshot, times: int) -> None:
        run, shifts = self.executor, _shifts(watched, before, now)
        period, index_shift = now.time - before.time, self._index_shift(shifts)
        shift = {runner.number: 0 for runner in watched.runners} | {s: step for s, (_, step) in shifts.items()}
        streams = run.streams_of(before.rows, now.rows)
        rows = before.rows + np.flatnonzero(np.isin(streams, [s for s, step in shift.items() if step]))
        loose = watched.parts if self.are_loose else ()
        run.repeats.append(Repeat(rows, times, period, shift, index_shift, loose))
        for beat in self.by_beat.keys() & shift.keys():
            run.runners[beat].look_at += times * shift[beat]
        for each in self.watched.values():
            if not set(each.parts).isdisjoint(watched.parts):
                each.snapshots.clear()
        run.jump(shift, self._kinds(shifts), index_shift, times, period)


def _shifts(watched: Watched, before: Snapshot, now: Snapshot) -> Shifts:
    """Streams that moved between two states: where they were, and how many instructions they did."""
    moved = zip(watched.runners, before.positions, now.positions, strict=True)
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
        if what != doing or (
            doing and not (abs(ends - end - period) <= slack and abs(began - begin - period) <= slack)
        ):
            return False
    return True
