"""All links of a torus at once: the message in parts, each going round the dimensions in another order or direction.

A group that is a box of the grid uses both directions of every dimension that closes to a ring, and each direction of
a line only for what comes from that side, so a member takes in (n-1)/n of the message over as many links as it has
rings twice and lines once (bucket algorithm; Jain and Sabharwal, ICS 2010). Parts over dimensions of unequal length are
taken as even. Groups of another form go round in one ring.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from typing_extensions import override

from sim.cluster.cluster import Cluster
from sim.comm.pattern import Floats, Group, HopColumns, Ints, Leg, Loads, Members, Pattern, joined, routed
from sim.comm.ring import ROUNDS, ring_hops
from sim.inputs.records import Node, TorusFabric

Axes = list[tuple[int, bool]]  # places along each dimension, and whether it closes to a ring


class TorusRings(Pattern):
    """All-reduce, all-gather and reduce-scatter in boxes of a torus of accelerators, or of nodes."""

    name = "torus"
    carriers = ("torus",)

    @override
    def serves(self, collective: str, group: Group, node: Node) -> bool:
        return ROUNDS.get(collective, 0) > 0 and (group.nodes == 1 or node.local.kind != "torus")

    @override
    def cost(self, collective: str, message: float, group: Group, node: Node) -> tuple[Leg, ...]:
        """As many turns as a cube of the size has along its dimensions; between nodes as many as a ring."""
        rounds, dimensions = ROUNDS[collective], max(1, len(node.local.shape))
        turns = rounds * dimensions * (group.size ** (1 / dimensions) - 1)
        step = group.local_step(node, node.collectives.ring_hop)
        if group.nodes > 1:
            step = node.collectives.ring_hop_network + group.hop_latency
        return (Leg(turns * step, message * rounds * (group.size - 1) / group.size, self.name),)

    @override
    def loads(self, cluster: Cluster, members: Members, carrier: str) -> Loads:
        axes = [grid_of(cluster, kind) for kind in range(len(cluster.kinds))]
        kinds = cluster.kind_of(members.accelerator)
        parts: list[HopColumns] = []
        others: list[int] = []
        for number, row in enumerate(members.accelerator):
            kind = int(kinds[number, 0])
            hops = box_hops(cluster, kind, axes[kind], row) if (kinds[number] == kind).all() else None
            if hops is None:
                others.append(number)
            else:
                source, target, share = hops
                parts.append((np.full(len(source), number), source, target, share))
        if others:
            rest = np.array(others)
            rings = Members(members.accelerator[rest], members.number[rest], members.offset)
            group, source, target, share = ring_hops(cluster, rings)
            parts.append((rest[group], source, target, share))
        return routed(cluster, members, joined(parts))


def grid_of(cluster: Cluster, kind: int = 0) -> Axes:
    """Dimensions between nodes, then those inside nodes of a kind; a network of another kind is one dimension."""
    fabric, node = cluster.spec.fabric, cluster.kinds[kind].node
    local = node.local
    outer = [(size, True) for size in fabric.shape] if isinstance(fabric, TorusFabric) else [(cluster.n_nodes, False)]
    if local.kind != "torus":
        return [*outer, (node.accelerators, False)]
    return [*outer, *zip(local.shape, local.wrap or (True,) * len(local.shape), strict=True)]


def box_hops(cluster: Cluster, kind: int, axes: Axes, row: Ints) -> tuple[Ints, Ints, Floats] | None:
    """Source, target and share of the hops of a group, in nodes of a kind, that is a box of the grid; else None."""
    here = cluster.kinds[kind].node
    sizes = [size for size, _ in axes]
    node, local = cluster.places.split(row)
    places = np.unravel_index(node * here.accelerators + local, sizes)
    values = [np.unique(place) for place in places]
    widths = [len(value) for value in values]
    if np.prod(widths) != len(row):
        return None
    grid, parts = row.reshape(widths), 0
    hops: list[tuple[Ints, Ints]] = []
    for dimension, ((size, closes), value) in enumerate(zip(axes, values, strict=True)):
        if len(value) < 2:
            continue
        ring = (
            closes
            and len(value) > 2
            and all((after - before) * len(value) == size for before, after in pairwise(value))
        )
        onward = np.roll(grid, -1, dimension)
        if ring and here.local.twisted and size == min(here.local.shape):
            ring = len(row) == here.accelerators  # in a part of the torus it leads out of that part
            onward = _twisted(grid, onward, dimension) if ring else onward
        parts += 2 if ring else 1
        start, end = (grid, onward) if ring else (_without_last(each, dimension) for each in (grid, onward))
        hops += [(start.ravel(), end.ravel()), (end.ravel(), start.ravel())]
    source, target = (np.concatenate(ends) for ends in zip(*hops, strict=True))
    return source, target, np.full(len(source), 1 / parts)


def _twisted(grid: Ints, onward: Ints, dimension: int) -> Ints:
    """The next of each along a short dimension: from its end half of the first long one further on."""
    longest = grid.shape.index(max(grid.shape))
    shifted = np.roll(onward, -(grid.shape[longest] // 2), longest)
    end = np.arange(grid.shape[dimension]) == grid.shape[dimension] - 1
    return np.where(end.reshape([-1 if d == dimension else 1 for d in range(grid.ndim)]), shifted, onward)


def _without_last(grid: Ints, dimension: int) -> Ints:
    return np.delete(grid, -1, dimension)
