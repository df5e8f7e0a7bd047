"""Advances a repeating program by whole periods, exactly.

The state of a run is the position of every stream and what is left of every running action; tokens
and waits follow from the positions. If the state at two instants is equal up to a shift of
positions, and every stream's program repeats itself with that shift, the stretch between the two
instants happens again and again until some program stops repeating. Skipping it moves positions
and the clock and touches nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from simpy.events import Event

from sim.engine.network import Flow
from sim.engine.trace import Repeat

if TYPE_CHECKING:
    from sim.engine.executor import Executor

LOOK_PRIORITY = 3  # after the network has settled
KEPT_SNAPSHOTS = 4
TOLERANCE = 1e-12  # relative to the time of the state


@dataclass(frozen=True)
class Snapshot:
    """State at clock `time`, with the rows and bytes so far."""

    time: float
    rows: int
    positions: list[int]
    phases: list[int]
    left: list[float]  # per stream: seconds or bytes left of the running action
    bytes_moved: list[float]


class PeriodSkipper:
    """Looks for a repeated state each time the beat stream ends a period."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        assert executor.program.beat is not None
        self.stream, self.length = executor.program.beat
        self.snapshots: list[Snapshot] = []
        self.skipped = 0
        self._arrays: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # type: ignore[type-arg]

    def after(self, stream: int, position: int) -> None:
        """Called when an instruction of `stream` is done; plans a look at the end of the instant."""
        if stream == self.stream and position % self.length == 0:
            event = Event(self.executor.env)
            event._ok, event._value = True, None
            event.callbacks.append(self._look)  # type: ignore[union-attr]
            self.executor.env.schedule(event, LOOK_PRIORITY)  # type: ignore[arg-type]

    def _look(self, _: Event) -> None:
        now = self._snapshot()
        for before in reversed(self.snapshots):
            if self._same(before, now) and (times := self._repetitions(before, now)) > 0:
                self._skip(before, now, times)
                self.snapshots.clear()
                return
        self.snapshots = [*self.snapshots[1 - KEPT_SNAPSHOTS :], now]

    def _snapshot(self) -> Snapshot:
        run = self.executor
        clock = run.env.now
        left = [self._left(timer, clock) for timer in run.timer]
        bytes_moved = list(run.network.bytes_moved)
        return Snapshot(clock, len(run.rows), list(run.position), list(run.phase), left, bytes_moved)

    def _left(self, timer: Event | Flow | None, clock: float) -> float:
        """Seconds until the timer rings; for a flow, seconds at its present rate."""
        if timer is None:
            return 0.0
        if isinstance(timer, Flow):
            return timer.left_at(clock) / timer.rate
        return self.executor.rings_at[timer._value] - clock

    def _same(self, before: Snapshot, now: Snapshot) -> bool:
        if before.phases != now.phases:
            return False
        slack = TOLERANCE * now.time
        return all(abs(a - b) <= slack for a, b in zip(before.left, now.left, strict=True))

    def _program(self, stream: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
        if stream not in self._arrays:
            run = self.executor
            self._arrays[stream] = np.array(run.templates[stream]), np.array(run.indices[stream])
        return self._arrays[stream]

    def _repetitions(self, before: Snapshot, now: Snapshot) -> int:
        """How many more times all streams do what they did between the two states."""
        shifts = {s: b - a for s, (a, b) in enumerate(zip(before.positions, now.positions, strict=True)) if b > a}
        if not shifts or not self._still_streams_unaffected(shifts, now):
            return 0
        index_shift = self._index_shift(before, shifts)
        return min(self._stream_repetitions(s, now.positions[s], shift, index_shift) for s, shift in shifts.items())

    def _index_shift(self, before: Snapshot, shifts: dict[int, int]) -> int:
        s, shift = next(iter(shifts.items()))
        _, index = self._program(s)
        first = before.positions[s]
        return int(index[first + shift] - index[first]) if first + shift < len(index) else 0

    def _stream_repetitions(self, s: int, position: int, shift: int, index_shift: int) -> int:
        """Whole periods ahead of `position` in which the program equals its last period, shifted.

        One instruction beyond the last skipped one must match too: it is the one waiting or running.
        """
        template, index = self._program(s)
        first = position - shift
        equal = (template[first + shift :] == template[first : len(template) - shift]) & (
            index[first + shift :] - index[first : len(index) - shift] == index_shift
        )
        run = int(np.argmin(equal)) if not equal.all() else len(equal)
        return max(run - 1, 0) // shift

    def _still_streams_unaffected(self, shifts: dict[int, int], now: Snapshot) -> bool:
        """A stream that stands still must wait for a kind of token that the moving streams do not signal."""
        run = self.executor
        moving = {
            run.signals[run.templates[s][p]] // (1 << 32)
            for s, shift in shifts.items()
            for p in range(now.positions[s] - shift, now.positions[s])
        }
        for s, position in enumerate(now.positions):
            if s in shifts or position == len(run.templates[s]):
                continue
            waits = run.waits[run.templates[s][position]]
            if any((wait + run.indices[s][position]) // (1 << 32) in moving for wait in waits):
                return False
        return True

    def _skip(self, before: Snapshot, now: Snapshot, times: int) -> None:
        run = self.executor
        period = now.time - before.time
        shift = np.array(now.positions) - np.array(before.positions)
        moving = int(np.argmax(shift > 0))
        index_shift = self._index_shift(before, {moving: int(shift[moving])})
        run.repeats.append(Repeat(before.rows, now.rows, times, period, shift, index_shift))
        self.skipped += times
        for kind, (a, b) in enumerate(zip(before.bytes_moved, now.bytes_moved, strict=True)):
            run.network.bytes_moved[kind] += times * (b - a)
        run.jump(shift.tolist(), times, period)
