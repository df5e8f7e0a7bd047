"""When everything in a program happens as long as nobody meets: longest paths instead of a clock.

An instruction begins when all that it waits for has ended, and while no two flows are on one link and no collective
slows computation beside it, each lasts as long as it does alone. What waits for what is a matter of the program alone,
so a table of it serves all programs of one structure. Loops are followed until they repeat themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from sim.engine.instructions import Instructions, Ints, instructions_of
from sim.engine.loops import AFTER, BEFORE, Loop, find_loops
from sim.engine.program import Script
from sim.engine.trace import TOLERANCE

Floats = NDArray[np.float64]
Step = tuple[int, int, int, int]  # an instruction, two that it waits for (or the place of a longer list), its action
LONGEST = 200_000  # instructions: to make a table of more takes longer than to run them


@dataclass(frozen=True, eq=False)
class Piece:
    """Instructions in an order in which each comes after what it waits for."""

    rows: Ints
    steps: list[Step]


@dataclass(frozen=True)
class Skip:
    """Blocks of a loop that were not followed: `times` after block `after`, each `period` s later than the one before.

    places: where the instructions of block `after` are among those that were followed.
    """

    loop: Loop
    after: int
    times: int
    period: float
    places: slice


@dataclass(frozen=True)
class Times:
    """When instructions happen: rows, start, end, because (n,) each, and what was skipped.

    because: the one that it waited for last, n of all instructions where it waited for nothing.
    """

    rows: Ints
    start: Floats
    end: Floats
    because: Ints
    skips: tuple[Skip, ...]


@dataclass(eq=False)
class Timetable:
    """What waits for what in a program, in pieces that can be followed one after the other."""

    table: Instructions
    loops: list[Loop]
    action: Ints  # of each instruction, (n,)
    before: Piece
    after: Piece
    many: list[tuple[int, ...]]  # of instructions that wait for more than two
    blocks: list[dict[int, Piece]]  # of each loop, those that were followed before

    def times(self, durations: Sequence[float], limits: Sequence[int] | None = None, until: float = inf) -> Times:
        """Follow all that begins before `until` [s]; what begins later may be said to begin never.

        durations: of the actions [s]. limits: how many blocks may be skipped in each loop, no matter how many if
        absent.
        """
        n = self.table.n
        walk = Walk([-1.0] * (n + 1), [inf] * n + [0.0], [n] * (n + 1), durations, self.many)
        walk.follow(self.before)
        skips = []
        for number, loop in enumerate(self.loops):
            skip = self._turns(walk, number, limits[number] if limits else loop.n_blocks, until)
            skips += [skip] if skip else []
        walk.follow(self.after)
        rows = np.concatenate(walk.rows)
        start, end, because = walk.of(rows.tolist())
        return Times(rows, start, end, because, tuple(skips))

    def _turns(self, walk: Walk, number: int, limit: int, until: float) -> Skip | None:
        """Follow a loop block by block; where a block repeats the one before, go on at the last that is needed."""
        loop, block, skip, before = self.loops[number], 0, None, list[int]()
        while block < loop.n_blocks:
            piece = self._block(number, block)
            walk.follow(piece)
            rows = piece.rows.tolist()
            if until < inf and min(walk.start[row] for row in rows) >= until:
                break
            times = min(loop.awaited - block, limit)
            if skip is None and block and times > 0 and (period := walk.delay(before, rows)) is not None:
                skip = Skip(loop, block, times, period, walk.last_piece())
                block += times
                walk.put_off(rows, self._block(number, block).rows.tolist(), times * period)
            before, block = rows, block + 1
        return skip

    def _block(self, number: int, block: int) -> Piece:
        """The piece of a block, made once."""
        made = self.blocks[number]
        if block not in made:
            made[block] = _piece(self.table, self.action, self.loops[number].block(block), self.many)
        return made[block]


@dataclass(eq=False)
class Walk:
    """Times so far, by instruction and one more for those that wait for nothing."""

    start: list[float]
    end: list[float]
    because: list[int]
    durations: Sequence[float]
    many: list[tuple[int, ...]]
    rows: list[Ints] = field(default_factory=list)  # that have been followed, piece by piece

    def follow(self, piece: Piece) -> None:
        """Set the times of a piece. Of two that end at once, the one that began later is said to be waited for."""
        self.rows.append(piece.rows)
        start, end, because, durations = self.start, self.end, self.because, self.durations
        for row, last, other, action in piece.steps:
            time = end[last]
            if other < 0:
                last = max(self.many[~other], key=lambda each: (end[each], start[each]))
                time = end[last]
            elif end[other] > time or (end[other] == time and start[other] > start[last]):
                last = other
                time = end[other]
            start[row] = time
            because[row] = last
            end[row] = time + durations[action]

    def last_piece(self) -> slice:
        """Where the instructions of the last piece are among all that have been followed."""
        followed = sum(map(len, self.rows))
        return slice(followed - len(self.rows[-1]), followed)

    def delay(self, before: list[int], now: list[int]) -> float | None:
        """By how much a block is later than the one before, if all of it is [s]."""
        end = self.end
        delays = [end[b] - end[a] for a, b in zip(before, now, strict=True)]
        least, most = min(delays), max(delays)
        return most if least > 0 and most - least <= TOLERANCE * end[now[-1]] else None

    def put_off(self, rows: list[int], later: list[int], delay: float) -> None:
        """Set the times of a block to those of an earlier one and `delay` s."""
        for a, b in zip(rows, later, strict=True):
            self.start[b], self.end[b] = self.start[a] + delay, self.end[a] + delay

    def of(self, rows: list[int]) -> tuple[Floats, Floats, Ints]:
        """Start, end and because of these instructions."""
        get = itemgetter(*rows, rows[-1])  # never one alone, which would come without a tuple
        start, end = (np.fromiter(get(each), np.float64, len(rows)) for each in (self.start, self.end))
        return start, end, np.fromiter(get(self.because), np.int64, len(rows))


def timetable_of(script: Script) -> Timetable | None:
    """The table of a script; None if it cannot be made, or not soon."""
    size = sum(len(stream.which) for stream in script.streams)
    table = instructions_of(script) if 0 < size <= LONGEST else None
    if table is None:
        return None
    loops, where = find_loops(table, script.parts)
    first, last = (_order(table, np.flatnonzero(where == side)) for side in (BEFORE, AFTER))
    ordered = [loop.in_order(turn) for loop in loops if (turn := _order(table, loop.rows)) is not None]
    if first is None or last is None or len(ordered) < len(loops):
        return None
    action = np.array([template.action for template in script.templates], dtype=np.int64)[table.template]
    many: list[tuple[int, ...]] = []
    before, after = (_piece(table, action, rows, many) for rows in (first, last))
    return Timetable(table.narrow(), ordered, action.astype(np.int32), before, after, many, [{} for _ in loops])


def _piece(table: Instructions, action: Ints, rows: Ints, many: list[tuple[int, ...]]) -> Piece:
    begin, width = table.begin[rows], table.begin[rows + 1] - table.begin[rows]
    until = np.append(table.until, table.n)  # what waits for nothing waits for instruction n
    last = np.where(width > 0, until[begin], table.n)
    other = np.where(width > 1, until[np.minimum(begin + 1, len(until) - 1)], table.n)
    for place in np.flatnonzero(width > 2).tolist():
        many.append(tuple(table.until[begin[place] : begin[place] + width[place]].tolist()))
        other[place] = ~(len(many) - 1)
    steps = list(zip(rows.tolist(), last.tolist(), other.tolist(), action[rows].tolist(), strict=True))
    return Piece(rows, steps)


def _order(table: Instructions, rows: Ints) -> Ints | None:
    """These instructions in an order in which each comes after those among them that it waits for (Kahn 1962)."""
    place = np.full(table.n, -1)
    place[rows] = np.arange(len(rows))
    pairs = (place[table.row] >= 0) & (place[table.until] >= 0)
    row, until = place[table.row[pairs]], place[table.until[pairs]]
    missing = np.bincount(row, minlength=len(rows))
    by_source = np.argsort(until, kind="stable")
    first = np.searchsorted(until[by_source], np.arange(len(rows) + 1)).tolist()
    waiting, ready = row[by_source].tolist(), np.flatnonzero(missing == 0).tolist()[::-1]
    left, order = missing.tolist(), list[int]()
    while ready:
        done = ready.pop()
        order.append(done)
        for each in waiting[first[done] : first[done + 1]]:
            left[each] -= 1
            if not left[each]:
                ready.append(each)
    return rows[np.array(order, dtype=np.int64)] if len(order) == len(rows) else None
