"""Rows of rate sharing: which flows a link may hold back, where not all of them need to count.

A row is a link restricted to some of its flows, with the capacity of the link. Rates that are max-min fair under rows
are so under the whole links if they overload none of them: each flow has a full row on which nobody is faster, and a
link that is not overloaded has no room beside a full row of it. So a step may be folded over few rows, as long as
what it does is checked against all links afterwards (`engine/overload.py`); links that it would overload join, with
the flows that were on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.cluster.cluster import Cluster
from sim.layout.flows import FlowSet

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
BITS = 40  # of a rate that tell flows apart: coefficients are sums, taken in any order


@dataclass(frozen=True, eq=False)
class Rows:
    """Coefficients that count where rates are shared.

    counts: for each flow set (nnz,) of its coefficients. can_fill: (n_links,) links that may ever hold a flow back.
    """

    counts: tuple[Mask, ...]
    can_fill: Mask

    def left_out(self, sets: Sequence[FlowSet]) -> Mask:
        """Links that may hold a flow back which does not count there, (n_links,)."""
        out = np.zeros(len(self.can_fill), dtype=bool)
        for flow_set, counts in zip(sets, self.counts, strict=True):
            out[flow_set.link[~counts]] = True
        return out & self.can_fill

    def joined(self, more: Sequence[Mask]) -> Rows:
        """These and more of them."""
        return Rows(tuple(old | new for old, new in zip(self.counts, more, strict=True)), self.can_fill)


def whole_rows(sets: Sequence[FlowSet], can_fill: Mask) -> Rows:
    """Every flow on every link that can fill."""
    return Rows(tuple(can_fill[flow_set.link] for flow_set in sets), can_fill)


def first_rows(sets: Sequence[FlowSet], cluster: Cluster, can_fill: Mask) -> Rows:
    """Rows to begin with: all links but those between switches; of these, where a flow alone is held back."""
    near = can_fill & ~_between_switches(cluster)
    counts = []
    for flow_set in sets:
        own = near[flow_set.link]
        rate = cluster.links.capacity[flow_set.link] / flow_set.coefficient
        alone = _least(flow_set, np.where(own, rate, np.inf))
        slower = rate < alone[flow_set.owner] * (1 - 2.0**-BITS)
        counts.append(own | (slower & can_fill[flow_set.link]))
    return Rows(tuple(counts), can_fill)


def _between_switches(cluster: Cluster) -> Mask:
    if cluster.fabric is None or not cluster.fabric.blocks:
        return np.zeros(cluster.links.n, dtype=bool)
    first = cluster.fabric.blocks[0].first
    return (cluster.links.source >= first) & (cluster.links.target >= first)


def rates_alone(flow_set: FlowSet, cluster: Cluster) -> tuple[Floats, Floats]:
    """What the links of a node, and those between nodes, allow each flow alone, (n,) each [B/s], rounded."""
    rate = cluster.links.capacity[flow_set.link] / flow_set.coefficient
    local = flow_set.link < cluster.servers.n_links
    return tuple(_rounded(_least(flow_set, np.where(chosen, rate, np.inf))) for chosen in (local, ~local))  # type: ignore[return-value]


def _least(flow_set: FlowSet, value: Floats) -> Floats:
    """The least of a value of each coefficient over those of each flow, (n,); inf where it has none."""
    least = np.full(flow_set.n, np.inf)
    some = np.diff(flow_set.start) > 0
    if some.any():
        least[some] = np.minimum.reduceat(value, flow_set.start[:-1][some])
    return least


def _rounded(rate: Floats) -> Floats:
    fraction, exponent = np.frexp(rate)
    return np.where(np.isfinite(rate), np.ldexp(np.rint(fraction * 2.0**BITS) / 2.0**BITS, exponent), rate)


def least_rates(sets: Sequence[FlowSet], cluster: Cluster) -> list[tuple[Floats, Floats]]:
    """For each set the rate of each flow alone, and the least that max-min sharing can give it, (n,) each [B/s].

    The least is its part of the tightest link when all flows there are active: each flow gets as much as the slowest
    flow of some full link on its way, and there as much as all others do (Bertsekas & Gallager, sec. 6.5.2).
    """
    total = np.zeros(cluster.links.n)
    for flow_set in sets:
        total += np.bincount(flow_set.link, flow_set.coefficient, cluster.links.n)
    capacity = cluster.links.capacity
    return [
        (
            np.minimum(_least(flow_set, capacity[flow_set.link] / flow_set.coefficient), most),
            np.minimum(_least(flow_set, capacity[flow_set.link] / total[flow_set.link]), most),
        )
        for flow_set, most in ((each, each.most(np.arange(each.n))) for each in sets)
    ]
