"""Which links the groups of a job load: every collective and every send as one flow.

A pipelined collective moves its chunks in lock-step, so it is one flow: each hop runs at the rate
of the ring, and the load on a link is its coefficient. A ring over several nodes with g members in
each uses g channels that leave a node at each member in turn: an adapter carries 1/g of the ring, a
local port (g-1)/g. Where all channels take one exit, one adapter carries them all. Trees and in-network
reduction load the same ports with other byte counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.cluster.cluster import Cluster
from sim.cluster.rings import rings_inside
from sim.plan.grid import RankGrid
from sim.plan.prune import Covers, covers_of

Ints = NDArray[np.int64]
Index = NDArray[np.int32]
Floats = NDArray[np.float64]
HopColumns = tuple[Ints, Ints, Ints, Floats]  # of ring hops: group, source and target accelerator, share of the ring


@dataclass(frozen=True)
class FlowSet:
    """The flows of one kind of group, one flow per group, CSR over links.

    members: (n, size) ranks. ordered: columns have different roles (a send: sender, receiver).
    start: (n+1,), link and coefficient: (nnz,). latency: (n,) s of the longest hop. nodes: (n,)
    servers that the group spans.
    """

    kind: str
    members: Index
    ordered: bool
    start: Ints
    link: Index
    coefficient: Floats
    latency: Floats
    nodes: Ints

    @property
    def n(self) -> int:
        """Number of flows."""
        return len(self.members)

    @property
    def owner(self) -> Ints:
        """Flow of each non-zero coefficient, (nnz,)."""
        return np.repeat(np.arange(self.n), np.diff(self.start))


def send_flows(
    kind: str, grid: RankGrid, cluster: Cluster, sender: Ints, receiver: Ints, key: int
) -> tuple[FlowSet, Covers]:
    """One flow from each rank of `sender` to its partner in `receiver`."""
    source, target = grid.accelerator[sender], grid.accelerator[receiver]
    routes = cluster.router.routes(source, target, sender + key * grid.n_ranks)
    members = np.stack([sender, receiver], axis=1).astype(np.int32)
    nodes = 1 + (cluster.node_of(source) != cluster.node_of(target)).astype(np.int64)
    link = routes.link.astype(np.int32)
    flows = FlowSet(kind, members, True, routes.start, link, routes.share, routes.latency, nodes)
    return flows, covers_of(routes)


def collective_flows(
    kind: str, grid: RankGrid, cluster: Cluster, groups: Ints, key: int, number: Ints | None = None
) -> tuple[FlowSet, Covers]:
    """One ring flow per group of `groups` (n_groups, size).

    `number` counts them among all groups of their kind, where `groups` are not all of them: hashed paths
    depend on it.
    """
    n_groups, size = groups.shape
    accelerators = np.sort(grid.accelerator[groups], axis=1)
    node = cluster.node_of(accelerators)
    n_nodes = 1 + (np.diff(node, axis=1) != 0).sum(axis=1)
    group, source, target, weight = _ring_edges(cluster, accelerators, node, n_nodes)
    counted = group if number is None else number[group]
    routes = cluster.router.routes(source, target, counted * size + key * grid.n_ranks)
    hop = np.repeat(np.arange(len(group)), np.diff(routes.start))
    load = weight[hop] * routes.share
    start, link, coefficient = sum_loads(group[hop], routes.link, load, n_groups, cluster.links.n)
    latency = np.zeros(n_groups)
    np.maximum.at(latency, group, routes.latency)
    members = groups.astype(np.int32)
    return FlowSet(kind, members, False, start, link, coefficient, latency, n_nodes), covers_of(routes)


def _ring_edges(cluster: Cluster, member: Ints, node: Ints, n_nodes: Ints) -> HopColumns:
    """Hops of each group's ring."""
    n_groups, size = member.shape
    per_node = size // n_nodes
    regular = np.zeros(n_groups, dtype=bool)
    parts: list[HopColumns] = []
    turns = (n_nodes == 1) | (cluster.node.nics.ring_exits == "every_rank")
    for width in np.unique(per_node):
        rows = np.flatnonzero((per_node == width) & (n_nodes * width == size) & turns)
        if not len(rows):
            continue
        rows = rows[np.all(np.ptp(node[rows].reshape(len(rows), -1, width), axis=2) == 0, axis=1)]
        regular[rows] = True
        if len(rows):
            parts.append(_regular_ring(cluster, rows, member[rows].reshape(len(rows), -1, width)))
    rest = np.flatnonzero(~regular)
    if len(rest):
        parts.append(_plain_ring(rest, member[rest]))
    return _joined(parts)


def _plain_ring(rows: Ints, member: Ints) -> HopColumns:
    """One channel through the members in order."""
    group = np.repeat(rows, member.shape[1])
    return group, member.ravel(), np.roll(member, -1, axis=1).ravel(), np.ones(member.size)


def _regular_ring(cluster: Cluster, rows: Ints, member: Ints) -> HopColumns:
    """Channels over (n, nodes, width) members with the same number in every node."""
    nodes, width = member.shape[1:]
    hops = []
    if width > 1:
        share = 1.0 if nodes == 1 else (width - 1) / width
        hops.append(_local_hops(cluster, rows, member, share))
    if nodes > 1:
        onward = np.roll(member, -1, axis=1)
        group = np.repeat(rows, nodes * width)
        hops.append((group, member.ravel(), onward.ravel(), np.full(member.size, 1.0 / width)))
    return _joined(hops)


def _local_hops(cluster: Cluster, rows: Ints, member: Ints, share: float) -> HopColumns:
    """Hops inside the nodes; the local network says which rings it runs and with what share."""
    local = cluster.local_index(member).reshape(-1, member.shape[2])
    group = np.repeat(rows, member.shape[1])
    base = cluster.places.first[cluster.node_of(member[:, :, 0]).ravel()]
    hops: list[HopColumns] = []
    patterns, which = np.unique(local, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        chosen = np.flatnonzero(which.ravel() == number)
        for order, part in rings_inside(cluster.node.local.kind, pattern.tolist()):
            ring = np.array(order)
            source = (base[chosen][:, None] + ring[None, :]).ravel()
            target = (base[chosen][:, None] + np.roll(ring, -1)[None, :]).ravel()
            hops.append((np.repeat(group[chosen], len(ring)), source, target, np.full(len(source), share * part)))
    return _joined(hops)


def _joined(parts: list[HopColumns]) -> HopColumns:
    """Hops of all parts, one part after the other."""
    group, source, target, share = zip(*parts, strict=True)
    return np.concatenate(group), np.concatenate(source), np.concatenate(target), np.concatenate(share)


def sum_loads(owner: Ints, link: Ints, load: Floats, n_owners: int, n_links: int) -> tuple[Ints, Index, Floats]:
    """Sum what each owner puts on each link, (n,) each; CSR by owner: start, link, coefficient."""
    key = owner * n_links + link
    order = np.argsort(key, kind="stable")
    key = key[order]
    first = np.flatnonzero(np.diff(key, prepend=-1))
    load = load[order]
    coefficient = np.add.reduceat(load, first) if len(first) else load
    owner = key[first] // n_links
    start = np.searchsorted(owner, np.arange(n_owners + 1))
    return start, (key[first] % n_links).astype(np.int32), coefficient
