"""What allowed what to begin, walked backwards through skipped periods as if they had been stored."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from sim.engine.trace import Trace

Event = tuple[int, int]  # stored row, and which copy of it: 0 is the stored one


class History:
    """Starts, ends and blockers of all rows of a trace and of their copies, in real time."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        # Few rows are looked at, one by one: views give Python's numbers, and cost nothing to make.
        self.starts, self.ends, self.blockers = trace.start.data, trace.end.data, trace.blocker.data
        repeat = np.full(len(trace.stream), -1)
        for number, each in enumerate(trace.repeats):
            repeat[each.rows] = number
        self.repeat = repeat.data

    @cached_property  # asked for at each step of the walk back
    def stored(self) -> dict[tuple[int, int], int]:
        """Repeated rows by stream and position."""
        rows = np.flatnonzero(np.asarray(self.repeat) >= 0)
        places = zip(self.trace.stream[rows].tolist(), self.trace.position[rows].tolist(), strict=True)
        return dict(zip(places, rows.tolist(), strict=True))

    def last(self, row: int) -> Event:
        """The last copy of a row."""
        return row, self.trace.repeats[self.repeat[row]].times if self.repeat[row] >= 0 else 0

    def gaps(self, rows: list[int]) -> Iterator[tuple[float, Event, int]]:
        """Between the events of one stream: the end of one [s], the next, and how often that happened.

        rows: all stored rows of the stream in order. Gaps inside a period, and from one period to the
        next, happened as often as it was repeated; the last of them stands for all.
        """
        before, first = -1, -1  # the row before, and the first row of the repeat that it is in
        for row in [*rows, -1]:
            repeat, previous = self._repeat_of(row), self._repeat_of(before)
            if repeat >= 0 and repeat == previous:
                times = self.trace.repeats[repeat].times
                yield self.end((before, times)), (row, times), times + 1
            else:
                if previous >= 0:
                    times = self.trace.repeats[previous].times
                    yield self.end((before, times - 1)), (first, times), times
                if row >= 0:
                    yield 0.0 if before < 0 else self.end(self.last(before)), (row, 0), 1
                first = row
            before = row

    def _repeat_of(self, row: int) -> int:
        return self.repeat[row] if row >= 0 else -1

    def start(self, event: Event) -> float:
        """When it began [s]."""
        row, copy = event
        return self.starts[row] + (copy * self._period(row) if copy else 0.0)

    def end(self, event: Event) -> float:
        """When it was done [s]."""
        row, copy = event
        return self.ends[row] + (copy * self._period(row) if copy else 0.0)

    def blocker(self, event: Event) -> Event | None:
        """What allowed it to begin; None at the start of the step."""
        row, copy = event
        before = self.blockers[row]
        if before < 0:
            return None
        if self.repeat[row] == self.repeat[before]:
            return before, copy
        if copy == 0:
            return self.last(before)
        shift = self.trace.repeats[self.repeat[row]].shift.get(int(self.trace.stream[before]), 0)
        place = int(self.trace.stream[before]), int(self.trace.position[before]) + shift
        return (self.stored[place], copy - 1) if place in self.stored else self.last(before)

    def _period(self, row: int) -> float:
        return self.trace.repeats[self.repeat[row]].period
