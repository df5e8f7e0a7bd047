"""What happened in a step: one row per executed instruction."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.engine.network import FlowTable
from sim.engine.program import Action, Program

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Stops = dict[int, Floats]  # number of a loose part -> (n, 2) when it met others, from and to [s]
TOLERANCE = 1e-12  # of the time by now: what began or ended so much earlier or later did so at once


@dataclass(frozen=True)
class Repeat:
    """Stored rows, one period of some streams, happened `times` more, each time `period` s later.

    rows: (n,) rising. shift: for each of these streams the positions per period; index_shift: loop index per period.
    loose: numbers of the loose parts that were skipped, none if they were of the other kind.
    """

    rows: Ints
    times: int
    period: float
    shift: dict[int, int]
    index_shift: int
    loose: tuple[int, ...] = ()


class Paces(NamedTuple):
    """Stretches of even rate of transfers whose rate changed: (n,) row, rising, begin, end [s] and rate [B/s]."""

    row: Ints
    begin: Floats
    end: Floats
    rate: Floats


@dataclass(frozen=True)
class Trace:
    """Rows in order of completion, times in seconds.

    stream, position, template, index: (n,) int64. start, end: (n,) float64; start is when the
    instruction began to act. blocker: (n,) row whose completion let it begin, -1 at time 0.
    Rows of skipped periods are not stored; `repeats` says where they belong. flow_ranks: rank classes
    in each flow class. link_peak: largest share of capacity per link class. paces: kept if the network was asked to.
    """

    program: Program
    table: FlowTable
    flow_ranks: tuple[tuple[int, ...], ...]
    stream: Ints
    position: Ints
    template: Ints
    index: Ints
    start: Floats
    end: Floats
    blocker: Ints
    repeats: tuple[Repeat, ...]
    link_peak: Floats
    time: float
    events: int
    paces: Paces

    def actions(self) -> Ints:
        """Number of the action of each row, (n,)."""
        return np.array([template.action for template in self.program.templates], dtype=np.int64)[self.template]

    def carried(self, action: Action) -> list[tuple[int, float]]:
        """Bytes inside an action by flow class; of a flow of several rank classes those of the first, as they are one.

        Members of a group that go through a chain together have an action each.
        """
        if not self.flow_ranks:
            return list(action.carried)
        return [(flow, size) for flow, size in action.carried if self.flow_ranks[flow][:1] == action.ranks[:1]]

    def weights(self) -> Ints:
        """How often each stored row happened, (n,)."""
        return self._weights

    @cached_property  # asked for by breakdown, energy, links and pictures
    def _weights(self) -> Ints:
        weight = np.ones(len(self.stream), dtype=np.int64)
        for repeat in self.repeats:
            weight[repeat.rows] += repeat.times
        return weight

    def unrolled(self) -> dict[str, NDArray[np.generic]]:
        """All rows, skipped periods included, sorted by (stream, position).

        Keys stream, position, template, index, start, end.
        """
        names = ("stream", "position", "template", "index", "start", "end")
        columns = {name: [getattr(self, name)] for name in names}
        for repeat in self.repeats:
            rows = repeat.rows
            turn = np.arange(1, repeat.times + 1).repeat(len(rows))
            block = {name: np.tile(getattr(self, name)[rows], repeat.times) for name in names}
            step = np.array([repeat.shift[s] for s in self.stream[rows].tolist()], dtype=np.int64)
            block["position"] = block["position"] + turn * np.tile(step, repeat.times)
            block["index"] = block["index"] + turn * repeat.index_shift
            for name in ("start", "end"):
                block[name] = block[name] + turn * repeat.period
            for name in names:
                columns[name].append(block[name])
        whole = {name: np.concatenate(parts) for name, parts in columns.items()}
        order = np.lexsort((whole["position"], whole["stream"]))
        return {name: column[order] for name, column in whole.items()}
