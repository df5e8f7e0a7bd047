"""Broadcast from the first member of a group along its ring, left open: each other member receives it once."""

from __future__ import annotations

import numpy as np
from typing_extensions import override

from sim.cluster.cluster import Cluster
from sim.comm.pattern import Group, Leg, Loads, Members, Pattern, routed
from sim.comm.ring import ring_hops
from sim.inputs.records import Node


class Broadcast(Pattern):
    """A pipelined broadcast: the whole message over every hop."""

    name = "broadcast"
    carriers = ("broadcast",)

    @override
    def serves(self, collective: str, group: Group, node: Node) -> bool:
        return collective == "broadcast"

    @override
    def cost(self, collective: str, message: float, group: Group, node: Node) -> tuple[Leg, ...]:
        tuning = node.collectives
        between = group.nodes - 1
        start = (group.size - 1 - between) * group.local_step(node, tuning.ring_hop)
        start += between * (tuning.ring_hop_network + group.carrier("broadcast").latency)
        return (Leg(start, message, "broadcast"),)

    @override
    def loads(self, cluster: Cluster, members: Members, carrier: str) -> Loads:
        """The hops of the ring without those back to the node of the root, or to the root itself."""
        group, source, target, share = ring_hops(cluster, members)
        root = members.accelerator[group, 0]
        home, here, there = (cluster.node_of(each) for each in (root, source, target))
        kept = (target != root) & ((there != home) | (here == home))
        group, source, target, share = (each[kept] for each in (group, source, target, share))
        receiver, arrival = np.unique(group * cluster.n_accelerators + target, return_inverse=True)
        received = np.bincount(arrival, share, minlength=len(receiver))
        return routed(cluster, members, (group, source, target, share / received[arrival]))
