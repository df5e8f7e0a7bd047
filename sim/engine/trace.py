"""What happened in a step: one row per executed instruction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.engine.network import FlowTable
from sim.engine.program import Program

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Repeat:
    """Rows first..last-1 happened `times` more, each time `period` s and `shift[stream]` positions later."""

    first: int
    last: int
    times: int
    period: float
    shift: Ints  # (n_streams,) positions per period
    index_shift: int  # loop index per period


@dataclass(frozen=True)
class Trace:
    """Rows in order of completion, times in seconds of the executor's clock.

    stream, position, template, index: (n,) int64. start, end: (n,) float64; start is when the
    instruction began to act. blocker: (n,) row whose completion let it begin, -1 at time 0.
    The clock stands still while periods are skipped, so gaps between rows are true; `unrolled` and
    `time` add the skipped time. flow_ranks: rank classes in each flow class. flow_bytes: bytes of one flow of each class over the step;
    link_peak: largest share of capacity per link class.
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
    flow_bytes: Floats
    link_peak: Floats
    time: float
    events: int

    def weights(self) -> Ints:
        """How often each stored row happened, (n,)."""
        weight = np.ones(len(self.stream), dtype=np.int64)
        for repeat in self.repeats:
            weight[repeat.first : repeat.last] += repeat.times
        return weight

    def offsets(self) -> Floats:
        """Skipped time before each stored row [s], (n,)."""
        offset = np.zeros(len(self.stream))
        for repeat in self.repeats:
            offset[repeat.last :] += repeat.times * repeat.period
        return offset

    def unrolled(self) -> dict[str, NDArray[np.generic]]:
        """All rows, skipped periods included, sorted by (stream, position).

        Keys stream, position, template, index, start, end.
        """
        names = ("stream", "position", "template", "index", "start", "end")
        stored = {name: getattr(self, name) for name in names}
        offset = self.offsets()
        stored["start"], stored["end"] = stored["start"] + offset, stored["end"] + offset
        columns = {name: [column] for name, column in stored.items()}
        for repeat in self.repeats:
            rows = slice(repeat.first, repeat.last)
            turn = np.arange(1, repeat.times + 1).repeat(repeat.last - repeat.first)
            block = {name: np.tile(stored[name][rows], repeat.times) for name in names}
            block["position"] = block["position"] + turn * repeat.shift[block["stream"]]
            block["index"] = block["index"] + turn * repeat.index_shift
            for name in ("start", "end"):
                block[name] = block[name] + turn * repeat.period
            for name in names:
                columns[name].append(block[name])
        whole = {name: np.concatenate(parts) for name, parts in columns.items()}
        order = np.lexsort((whole["position"], whole["stream"]))
        return {name: column[order] for name, column in whole.items()}
