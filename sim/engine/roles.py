"""Which part each pass of a stage plays in the exchange of gradients and weights, and how passes fill streams.

Both follow from the order of the passes and a few switches, whatever the passes cost, so they are worked out once.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.engine.program import Line
from sim.plan.schedule import Order, Pass
from sim.ragged import ranges

KEPT = 1024  # stages whose passes are remembered

Ints = NDArray[np.int64]


class Role(NamedTuple):
    """How a pass stands to the exchange: its part in it, and whether none of it can run meanwhile."""

    part: str
    calm: bool


ROLES = tuple(Role(part, calm) for part in ("plain", "gather", "sum", "sharded") for calm in (False, True))


class Rule(NamedTuple):
    """What the exchange does beside the passes of a stage."""

    sharded: bool = False  # gathers weights before each segment of a pass, and scatters gradients after it
    gathers: bool = False  # sends weights while the first microbatch passes
    sums: bool = False  # sums gradients segment by segment, of the last microbatch
    every: bool = False  # and of all before it

    def roles(self, passes: Order) -> Ints:
        """Number in ROLES of the role of each pass, (n,)."""
        backward, _, microbatch = passes.table.T
        if self.sharded:
            return np.full(len(passes), ROLES.index(Role("sharded", calm=False)))
        last = (microbatch == microbatch.max(initial=0)) | self.every
        sums = (backward == 1) & last & self.sums
        gathers = (backward == 0) & (microbatch == 0) & self.gathers
        opened = max(np.flatnonzero(gathers), default=-1)
        closing = min(np.flatnonzero(sums), default=len(passes))
        place = np.arange(len(passes))
        calm = (opened < place) & (place < closing)
        numbers: Ints = 2 * (gathers + 2 * sums) + calm
        return numbers


@dataclass(frozen=True, eq=False)
class Kinds:
    """The passes of a stage by kind: those of one kind differ in nothing but their microbatch.

    number: (n,) kind of each pass. firsts: the first pass of each kind, with its role. summed: passes whose gradients
    are summed beside what follows, in order.
    """

    number: Ints
    microbatch: Ints
    firsts: tuple[tuple[Pass, Role], ...]
    summed: tuple[Pass, ...]
    lines: dict[tuple[int, ...], Line] = field(default_factory=dict)

    def line(self, widths: tuple[int, ...]) -> Line:
        """What the passes put into a stream that takes so many instructions of a pass of each kind."""
        if widths not in self.lines:
            width = np.array(widths)
            times = np.bincount(self.number, minlength=len(width))
            each = width[self.number]
            which = ranges((np.cumsum(width) - width)[self.number], each)
            index = np.repeat(self.microbatch, each)
            counts = np.repeat(times, width).tolist()
            self.lines[widths] = Line(array("q", which.tobytes()), array("q", index.tobytes()), tuple(counts))
        return self.lines[widths]

    def beat(self, widths: Sequence[int], period: int) -> int:
        """Instructions of `period` passes in the middle of the stage, in a stream of these widths."""
        middle = len(self.number) // 2
        return int(np.array(widths)[self.number[middle + 1 - period : middle + 1]].sum())


@lru_cache(maxsize=KEPT)
def kinds_of(passes: Order, rule: Rule) -> Kinds:
    """The kinds of the passes of a stage."""
    backward, chunk, microbatch = passes.table.T
    roles = rule.roles(passes)
    keys = (2 * chunk + backward) * len(ROLES) + roles
    _, firsts, number = np.unique(keys, return_index=True, return_inverse=True)
    summed = np.flatnonzero(np.isin(roles, [place for place, role in enumerate(ROLES) if role.part == "sum"]))
    return Kinds(
        number,
        microbatch,
        tuple((passes[place], ROLES[roles[place]]) for place in firsts.tolist()),
        tuple(passes[place] for place in summed.tolist()),
    )
