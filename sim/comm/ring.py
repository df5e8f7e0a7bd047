"""Rings: each byte goes round once, or twice to be summed and handed out (Patarasuk and Yuan, JPDC 69, 2009).

A ring over several nodes with g members in each uses g channels that leave a node at each member in turn: an adapter
carries 1/g of the ring, a local port (g-1)/g. Where nodes have different numbers of members, there are as many channels
as the node with fewest has members, spread evenly over those of each. Where all channels take one exit, one adapter
carries them all.
"""

from __future__ import annotations

import numpy as np
from typing_extensions import override

from sim.cluster.cluster import Cluster
from sim.cluster.rings import rings_inside
from sim.comm.pattern import RING, Group, HopColumns, Ints, Leg, Loads, Members, Pattern, joined, routed
from sim.inputs.records import Node
from sim.ragged import ranges

ROUNDS = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1, "send": 0}  # "send": each member to the next


class Ring(Pattern):
    """All-reduce, all-gather, reduce-scatter; and a send of each member to the next."""

    name = "ring"
    carriers = (RING,)

    @override
    def serves(self, collective: str, group: Group, node: Node) -> bool:
        return collective in ROUNDS

    @override
    def cost(self, collective: str, message: float, group: Group, node: Node) -> tuple[Leg, ...]:
        """2(n-1)/n of the message over every hop in 2(n-1) turns, half of it in one round."""
        rounds = ROUNDS[collective]
        turns = rounds * (group.size - 1) if rounds else 1
        between = min(turns, max(rounds, 1) * (group.nodes - 1))
        start = (turns - between) * group.local_step(node, node.collectives.ring_hop)
        start += between * (node.collectives.ring_hop_network + group.hop_latency)
        size = message * rounds * (group.size - 1) / group.size if rounds else message
        return (Leg(start, size),)

    @override
    def loads(self, cluster: Cluster, members: Members, carrier: str) -> Loads:
        return routed(cluster, members, ring_hops(cluster, members))


def ring_hops(cluster: Cluster, members: Members) -> HopColumns:
    """Hops of each group's ring."""
    member, size = members.accelerator, members.size
    node = cluster.node_of(member)
    n_nodes = 1 + (np.diff(node, axis=1) != 0).sum(axis=1)
    per_node = size // n_nodes
    regular = np.zeros(members.n, dtype=bool)
    parts: list[HopColumns] = []
    turning = np.array([kind.node.nics.ring_exits == "every_rank" for kind in cluster.kinds])
    turns = (n_nodes == 1) | turning[cluster.servers.kind[node]].all(axis=1)
    for width in np.unique(per_node):
        rows = np.flatnonzero((per_node == width) & (n_nodes * width == size) & turns)
        if not len(rows):
            continue
        rows = rows[np.all(np.ptp(node[rows].reshape(len(rows), -1, width), axis=2) == 0, axis=1)]
        regular[rows] = True
        if len(rows):
            parts.append(_regular_ring(cluster, rows, member[rows].reshape(len(rows), -1, width)))
    uneven, rest = np.flatnonzero(~regular & turns), np.flatnonzero(~regular & ~turns)
    if len(uneven):
        parts.append(_uneven_ring(cluster, members, uneven))
    if len(rest):
        parts.append(_plain_ring(rest, member[rest]))
    return joined(parts)


def _plain_ring(rows: Ints, member: Ints) -> HopColumns:
    """One channel through the members in order."""
    group = np.repeat(rows, member.shape[1])
    return group, member.ravel(), np.roll(member, -1, axis=1).ravel(), np.ones(member.size)


def _uneven_ring(cluster: Cluster, members: Members, rows: Ints) -> HopColumns:
    """Channels over members of which nodes have different numbers: as many as the node with fewest has."""
    member = members.accelerator[rows]
    group, _, first, width = Members(member, rows).runs(cluster)
    channels = np.full(len(rows), member.shape[1])
    np.minimum.at(channels, group, width)
    flat, run = member.ravel(), np.repeat(np.arange(len(first)), width)
    place, lanes, own = np.arange(len(flat)) - first[run], channels[group[run]], width[run]
    lane = -(-place * lanes // own)  # the first channel that does not leave before this member
    leaves = (lane < lanes) & (lane * own // lanes == place)
    inside = (own > 1) & (leaves < lanes)  # one channel does not go on from where it leaves
    onward = first[run] + (place + 1) % own
    local = group[run], flat, flat[onward], 1.0 - leaves / lanes
    ends = np.append(group[1:] != group[:-1], True)
    begin = np.searchsorted(group, np.arange(len(rows)))
    after = np.where(ends, begin[group], np.arange(len(first)) + 1)
    here = np.repeat(np.arange(len(first)), channels[group])
    lane = ranges(np.zeros(len(first), dtype=np.int64), channels[group])
    there, lanes = after[here], channels[group[here]]
    source, target = (flat[first[each] + lane * width[each] // lanes] for each in (here, there))
    hops = [tuple(column[inside] for column in local), (group[here], source, target, 1.0 / lanes)]
    return joined([(rows[which], *others) for which, *others in hops])


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
    return joined(hops)


def _local_hops(cluster: Cluster, rows: Ints, member: Ints, share: float) -> HopColumns:
    """Hops inside the nodes; the local network says which rings it runs and with what share."""
    node = cluster.node_of(member[:, :, 0]).ravel()
    local = np.column_stack([cluster.servers.kind[node], cluster.local_index(member).reshape(-1, member.shape[2])])
    group = np.repeat(rows, member.shape[1])
    base = cluster.places.first[node]
    hops: list[HopColumns] = []
    patterns, which = np.unique(local, axis=0, return_inverse=True)
    for number, (kind, *pattern) in enumerate(patterns.tolist()):
        chosen = np.flatnonzero(which.ravel() == number)
        for order, part in rings_inside(cluster.kinds[kind].node.local.kind, pattern):
            ring = np.array(order)
            source = (base[chosen][:, None] + ring[None, :]).ravel()
            target = (base[chosen][:, None] + np.roll(ring, -1)[None, :]).ravel()
            hops.append((np.repeat(group[chosen], len(ring)), source, target, np.full(len(source), share * part)))
    return joined(hops)
