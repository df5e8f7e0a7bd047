"""Which instructions of a program are the same period after period, whatever they cost.

Streams of a part repeat themselves with a shift. Their periods are numbered as blocks so that nothing waits for a
later block, and what is in a block waits for the same as in the block before, one period later. So if two blocks
that follow one another end, instruction by instruction, with the same delay, all that follow do as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sim.engine.instructions import Instructions, Ints
from sim.engine.program import Part

LEAST = 4  # blocks that are worth the trouble
FAR = 1 << 40
BEFORE, WITHIN, AFTER, OPEN = 0, 1, 2, 3  # where an instruction is: before all loops, in one, after all, not known


@dataclass(frozen=True, eq=False)
class Loop:
    """Blocks of instructions that repeat themselves.

    rows: (n_rows,) instructions of block 0; stride: (n_rows,) from one block to the next. n_blocks: how many there are;
    awaited: the first that something after the loop waits for. shift: stream -> its stride, for the streams in
    it; index_shift: of the loop indices from block to block.
    """

    rows: Ints
    stride: Ints
    n_blocks: int
    awaited: int
    shift: dict[int, int]
    index_shift: int

    def block(self, number: int) -> Ints:
        """Instructions of a block, (n_rows,)."""
        return self.rows + number * self.stride

    def in_order(self, rows: Ints) -> Loop:
        """The same with the instructions of block 0 in that order."""
        return replace(self, rows=rows, stride=self.stride[np.searchsorted(self.rows, rows)])


@dataclass(frozen=True, eq=False)
class Blocks:
    """Block numbers while they are looked for.

    begin, stride: (n_streams,) first instruction of the stream that repeats itself, and its period; 0 for streams
    that do not. number: (n,) block of each instruction, -FAR and FAR before and behind those of its stream.
    first, last: the blocks that all streams have, `last` excluded.
    """

    begin: Ints
    stride: Ints
    index_shift: int
    number: Ints
    first: int
    last: int


def find_loops(table: Instructions, parts: Sequence[Part]) -> tuple[list[Loop], Ints]:
    """The loops of a program, and where each instruction is with respect to them, (n,): BEFORE, WITHIN or AFTER."""
    found = [blocks for part in parts if (blocks := _blocks_of(table, part)) is not None]
    where = _where(table, found)
    if where is None:
        return [], np.full(table.n, BEFORE)
    return [_loop(table, blocks, where) for blocks in found], where


def _loop(table: Instructions, blocks: Blocks, where: Ints) -> Loop:
    streams = np.flatnonzero(blocks.stride)
    rows = np.flatnonzero(blocks.number == blocks.first)
    n_blocks = blocks.last - blocks.first
    outside = (where[table.row] == AFTER) & (blocks.stride[table.stream[table.until]] > 0)
    numbers = blocks.number[table.until[outside]] - blocks.first
    awaited = int(numbers[(numbers >= 0) & (numbers < n_blocks)].min(initial=n_blocks - 2))
    shift = dict(zip(streams.tolist(), blocks.stride[streams].tolist(), strict=True))
    return Loop(rows, blocks.stride[table.stream[rows]], n_blocks, awaited, shift, blocks.index_shift)


def _where(table: Instructions, found: Sequence[Blocks]) -> Ints | None:
    """Where each instruction is; None if something before a loop waits for something in it or behind it."""
    where = np.full(table.n, OPEN)
    loop = np.full(table.n, -1)
    for number, blocks in enumerate(found):
        mine = blocks.stride[table.stream] > 0
        within = mine & (blocks.number >= blocks.first) & (blocks.number < blocks.last)
        where[mine] = np.where(blocks.number[mine] < blocks.first, BEFORE, AFTER)
        where[within], loop[within] = WITHIN, number
    while len(needed := table.until[(where[table.row] <= WITHIN) & (where[table.until] == OPEN)]):
        where[np.unique(needed)] = BEFORE
    where[where == OPEN] = AFTER
    late = where[table.until] > where[table.row]
    late |= (where[table.row] == WITHIN) & (where[table.until] == WITHIN) & (loop[table.row] != loop[table.until])
    return None if np.any(late) else where


def _blocks_of(table: Instructions, part: Part) -> Blocks | None:
    """The blocks of a part, each of which waits for itself and the one before alone."""
    periods = 1
    for _ in range(3):
        steady = _steady(table, part, periods)
        blocks = steady and _numbered(table, *steady)
        if blocks is None:
            return None
        reach = _reach(table, blocks)
        if reach <= 1:
            return blocks if _is_regular(table, blocks) else None
        periods *= reach
    return None


def _steady(table: Instructions, part: Part, periods: int) -> tuple[Ints, Ints, Ints, int] | None:
    """By stream the first instruction that repeats itself, the stride and how often; and the shift of the indices."""
    n_streams = len(table.first) - 1
    begin, stride, times = (np.zeros(n_streams, dtype=np.int64) for _ in range(3))
    middle, length = int(table.first[part.beat : part.beat + 2].sum()) // 2, part.length * periods
    if middle + length >= table.first[part.beat + 1]:
        return None
    shift = int(table.index[middle + length] - table.index[middle])
    if shift <= 0:
        return None
    for s in part.streams:
        mine = slice(int(table.first[s]), int(table.first[s + 1]))
        if (stretch := _stretch(table.template[mine], table.index[mine], shift)) is not None:
            begin[s], stride[s], times[s] = mine.start + stretch[0], *stretch[1:]
    return (begin, stride, times, shift) if stride[part.beat] else None


def _stretch(template: Ints, index: Ints, shift: int) -> tuple[int, int, int] | None:
    """Where a stream repeats itself with that shift of its indices: first position, stride, how often."""
    middle = len(template) // 2
    again = np.flatnonzero((template[middle:] == template[middle]) & (index[middle:] == index[middle] + shift))
    if not len(again):
        return None
    stride = int(again[0])
    differs = (template[stride:] != template[:-stride]) | (index[stride:] != index[:-stride] + shift)
    breaks = np.flatnonzero(differs)
    place = int(np.searchsorted(breaks, middle))
    first = int(breaks[place - 1]) + 1 if place else 0
    end = int(breaks[place]) if place < len(breaks) else len(differs)
    return first, stride, (end - first) // stride + 1


def _numbered(table: Instructions, begin: Ints, stride: Ints, times: Ints, shift: int) -> Blocks | None:
    """Number the blocks of all streams so that none waits for a later one; None if few are left."""
    owner, offset = table.stream, np.arange(table.n) - begin[table.stream]
    number = np.where(offset < 0, -FAR, offset // np.maximum(stride[owner], 1))
    number[number >= times[owner]] = FAR
    looping = stride[owner] > 0
    steady = looping & (np.abs(number) < FAR)
    ahead = _ahead(table, number, steady, len(stride))
    if ahead is None:
        return None
    number = np.where(steady, number + ahead[owner], number)
    mine = np.flatnonzero(stride)
    first, last = int(ahead[mine].max()), int((ahead + times)[mine].min())
    pairs = looping[table.row] & looping[table.until]
    before, row = number[table.until[pairs]], number[table.row[pairs]]
    while last - first >= LEAST:
        late = int(before[(row < first) & (before >= first)].max(initial=first - 1)) + 1
        early = int(row[(row >= first) & (row < last) & (before >= last)].min(initial=last))
        if (late, early) == (first, last):
            return Blocks(begin + (first - ahead) * stride, stride, shift, number, first, last)
        first, last = late, early
    return None


def _ahead(table: Instructions, number: Ints, steady: np.ndarray, n_streams: int) -> Ints | None:
    """By how much to number the blocks of each stream later, so that nothing waits for a later block.

    The longest paths in the graph of streams (Bellman and Ford); None if there are none.
    """
    pairs = steady[table.row] & steady[table.until]
    row, until = table.row[pairs], table.until[pairs]
    edge, inverse = np.unique(table.stream[row] * n_streams + table.stream[until], return_inverse=True)
    weight = np.full(len(edge), -FAR)
    np.maximum.at(weight, inverse, number[until] - number[row])
    waits, source = edge // n_streams, edge % n_streams
    ahead = np.zeros(n_streams, dtype=np.int64)
    for _ in range(n_streams + 1):
        later = ahead.copy()
        np.maximum.at(later, waits, ahead[source] + weight)
        if np.array_equal(later, ahead):
            return ahead
        ahead = later
    return None


def _inside(table: Instructions, blocks: Blocks) -> np.ndarray:
    """Pairs of which the waiting one is in a block behind the first."""
    mine = (blocks.stride > 0)[table.stream[table.row]]
    return mine & (blocks.number[table.row] > blocks.first) & (blocks.number[table.row] < blocks.last)


def _reach(table: Instructions, blocks: Blocks) -> int:
    """How many blocks back a block waits for."""
    pairs = _inside(table, blocks) & (blocks.stride > 0)[table.stream[table.until]]
    back = blocks.number[table.row[pairs]] - blocks.number[table.until[pairs]]
    return int(back.max(initial=0))


def _is_regular(table: Instructions, blocks: Blocks) -> bool:
    """Whether each block behind the first waits for the same as the next one, a stride later."""
    n_blocks = blocks.last - blocks.first - 1
    for s in np.flatnonzero(blocks.stride).tolist():
        first = int(blocks.begin[s] + blocks.stride[s])
        last = first + n_blocks * int(blocks.stride[s])
        until = table.until[table.begin[first] : table.begin[last]]
        if len(until) % n_blocks:
            return False
        moved = until.reshape(n_blocks, -1)
        if np.any(moved[1:] - moved[:-1] != blocks.stride[table.stream[moved[:-1]]]):
            return False
    return True
