"""How devices of a recorded step were occupied, as HolisticTraceAnalysis defines it.

Busy time is the union of what ran; of it, time in which something computed; the rest moved data. Overlap is the part of
collectives beside which something computed (Holistic Trace Analysis, docs: temporal breakdown, kernel breakdown,
communication computation overlap).

Public: `Occupancy`, `occupancy_of`, `occupancy_line`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.imports.kineto_file import COLLECTIVE, DeviceActivity

Floats = NDArray[np.float64]


class Occupancy(NamedTuple):
    """Times of the devices of a rank [us]."""

    span: float  # from the first begin to the last end
    computing: float  # union of what computes
    communicating: float  # union of collectives
    moving: float  # union of copies
    idle: float
    other: float  # busy, but nothing computes
    overlap: float  # computing beside a collective
    kinds: dict[str, float]  # computation, communication, memory, and those that overlap: exclusive times

    @property
    def overlap_share(self) -> float:
        """Part of the time of collectives beside which something computes."""
        return self.overlap / self.communicating if self.communicating else 0.0


def occupancy_of(activities: Iterable[DeviceActivity]) -> Occupancy:
    """What HolisticTraceAnalysis says of the same kernels and copies."""
    sorts: dict[str, list[tuple[float, float]]] = {"computation": [], "communication": [], "memory": []}
    for each in activities:
        kind = (
            "memory"
            if each.category != "kernel"
            else "communication"
            if COLLECTIVE.search(each.name)
            else "computation"
        )
        sorts[kind].append((each.start, each.end))
    unions = {kind: _union(np.array(spans, np.float64).reshape(-1, 2)) for kind, spans in sorts.items()}
    every = _union(np.concatenate(list(unions.values())))
    span = float(every[-1, 1] - every[0, 0]) if len(every) else 0.0
    computing, communicating, moving = (_length(unions[kind]) for kind in sorts)
    both = (
        _length(unions["computation"])
        + communicating
        - _length(_union(np.concatenate([unions["computation"], unions["communication"]])))
    )
    busy = _length(every)
    return Occupancy(span, computing, communicating, moving, span - busy, busy - computing, both, _exclusive(unions))


def _union(spans: Floats) -> Floats:
    """Disjoint spans that cover the same, rising, (n, 2)."""
    if not len(spans):
        return np.zeros((0, 2))
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    reach = np.maximum.accumulate(spans[:, 1])
    first = np.concatenate([[True], spans[1:, 0] > reach[:-1]])
    return np.stack([spans[first, 0], reach[np.concatenate([first[1:], [True]])]], axis=1)


def _length(spans: Floats) -> float:
    return float((spans[:, 1] - spans[:, 0]).sum())


def _exclusive(unions: dict[str, Floats]) -> dict[str, float]:
    """Time in which exactly these kinds run, by their names joined."""
    edges = np.unique(np.concatenate([spans.ravel() for spans in unions.values()]))
    middles, widths = (edges[:-1] + edges[1:]) / 2, np.diff(edges)
    mask = np.zeros(len(middles), np.int64)
    for bit, spans in enumerate(unions.values()):
        inside = np.searchsorted(spans[:, 0], middles, "right") > np.searchsorted(spans[:, 1], middles, "right")
        mask |= inside.astype(np.int64) << bit
    names = list(unions)
    return {
        " and ".join(name for bit, name in enumerate(names) if which >> bit & 1): float(widths[mask == which].sum())
        for which in range(1, 1 << len(names))
        if (mask == which).any()
    }


def occupancy_line(rank: int, each: Occupancy) -> str:
    """What the devices of a rank did, in one line."""
    shares = (each.computing / each.span, each.other / each.span, each.idle / each.span) if each.span else (0.0,) * 3
    text = "rank {}: devices compute {:.1%}, move data alone {:.1%}, idle {:.1%} of {:.6g} ms".format(
        rank, *shares, each.span / 1e3
    )
    if each.communicating:
        text += f"; {each.overlap_share:.1%} of {each.communicating / 1e3:.4g} ms of collectives beside computation"
    return text
