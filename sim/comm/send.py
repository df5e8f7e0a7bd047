"""A send from one rank to another: one path, all of the message on each of its links."""

from __future__ import annotations

import numpy as np
from typing_extensions import override

from sim.cluster.cluster import Cluster
from sim.comm.pattern import Group, Leg, Loads, Members, Pattern
from sim.inputs.records import Node


class Send(Pattern):
    """From the first to the second of two members, in the order given; a pair is no group, so no tuner chooses it."""

    name = "send"
    carriers = ("send",)

    @override
    def serves(self, collective: str, group: Group, node: Node) -> bool:
        return False

    @override
    def cost(self, collective: str, message: float, group: Group, node: Node) -> tuple[Leg, ...]:
        tuning = node.collectives
        hop = tuning.ring_hop_network if group.nodes > 1 else tuning.ring_hop
        return (Leg(hop + group.hop_latency, message, "send"),)

    @override
    def loads(self, cluster: Cluster, members: Members, carrier: str) -> Loads:
        source, target = np.ascontiguousarray(members.accelerator.T)
        routes = cluster.router.routes(source, target, members.number + members.offset)
        return Loads(routes.start, routes.link.astype(np.int32), routes.share, routes.latency, routes)
