"""Where each board-second of a fleet went, and what it drew: sums over time that do not grow with it.

Public: `BoardTally`, `BOARD_STATES`, `NodeDraw`, `PowerAccount`, `FleetSeries`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

BOARD_STATES = ("running", "loading", "saving", "blocked", "idle", "down", "off")
RUNNING, LOADING, SAVING, BLOCKED, IDLE, DOWN, OFF = range(len(BOARD_STATES))
BINS = 512
SERIES = ("busy", "queued_jobs", "queued_boards", "down", "stranded", "watts")


@dataclass(frozen=True)
class NodeDraw:
    """Power of a sort of node [W]: of a busy board over an idle one, of a whole idle node, of one asleep."""

    board: float
    idle: float
    asleep: float


@dataclass
class PowerAccount:
    """Energy at the meter of the site. overhead: site power of a cluster power [W to W].

    carbon, price: means between two times, kg/J and USD/J; None if unknown.
    """

    draws: Sequence[NodeDraw]
    overhead: Callable[[float], float]
    carbon: Callable[[float, float], float] | None = None
    joules: float = 0.0
    busy_joules: float = 0.0  # what boards at work added, before the overhead of the site
    kilograms: float = 0.0

    def add(self, start: float, end: float, watts: float, busy: float) -> None:
        """The cluster drew `watts` from start to end, `busy` of them for boards at work."""
        joules = self.overhead(watts) * (end - start)
        self.joules += joules
        self.busy_joules += busy * (end - start)
        if self.carbon is not None:
            self.kilograms += joules * self.carbon(start, end)


class FleetSeries:
    """Means over equal spans of time, at most `BINS` of them: when they are full, pairs of them are joined."""

    def __init__(self, names: Sequence[str] = SERIES, width: float = 60.0) -> None:
        self.names, self.width = tuple(names), width
        self.sums = [[0.0] * BINS for _ in names]
        self.until = 0.0

    def add(self, start: float, end: float, values: Sequence[float]) -> None:
        """Values held from start to end [s]; spans come in order."""
        while end > self.width * BINS:
            self._join()
        self.until = end
        first, last = int(start / self.width), min(int(end / self.width), BINS - 1)
        for column, value in zip(self.sums, values, strict=True):
            if not value:
                continue
            if first == last:
                column[first] += value * (end - start)
                continue
            column[first] += value * ((first + 1) * self.width - start)
            for number in range(first + 1, last):
                column[number] += value * self.width
            column[last] += value * (end - last * self.width)

    def _join(self) -> None:
        self.width *= 2
        for number, column in enumerate(self.sums):
            halved = [a + b for a, b in zip(column[::2], column[1::2], strict=True)]
            self.sums[number] = halved + [0.0] * (BINS - len(halved))

    def means(self) -> dict[str, list[float]]:
        """Of each series the mean in each span that was reached; the last may be a part of a span."""
        n = min(BINS, int(self.until / self.width) + (self.until % self.width > 0))
        spans = [min(self.width, self.until - number * self.width) for number in range(n)]
        return {
            name: [value / span for value, span in zip(column, spans, strict=False)]
            for name, column in zip(self.names, self.sums, strict=True)
        }


class BoardTally:
    """Boards by state and sort of node, and the time that they were in it.

    counts, seconds: (n_sorts, n_states) boards and board-seconds. Shares of boards count as such.
    """

    def __init__(self, boards: Sequence[int]) -> None:
        self.counts = [[0.0] * len(BOARD_STATES) for _ in boards]
        self.seconds = [[0.0] * len(BOARD_STATES) for _ in boards]
        for row, total in zip(self.counts, boards, strict=True):
            row[IDLE] = float(total)
        self.time = 0.0

    def move(self, sort: int, boards: float, before: int, after: int) -> None:
        """Boards change their state now."""
        row = self.counts[sort]
        row[before] -= boards
        row[after] += boards

    def advance(self, now: float, blocked: bool) -> None:
        """Count the time until now; idle boards are blocked while jobs wait."""
        span = now - self.time
        for row, sums in zip(self.counts, self.seconds, strict=True):
            for state, boards in enumerate(row):
                if boards:
                    sums[BLOCKED if blocked and state == IDLE else state] += boards * span
        self.time = now

    def now(self, state: int) -> float:
        """Boards in a state now."""
        return sum(row[state] for row in self.counts)

    def total(self, state: str) -> float:
        """Board-seconds in a state."""
        return sum(row[BOARD_STATES.index(state)] for row in self.seconds)
