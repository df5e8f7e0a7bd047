"""A pattern that the simulator does not have: all-gather in one step, each member to each other at once."""

from __future__ import annotations

from typing_extensions import override

from sim.cluster.cluster import Cluster
from sim.comm.exchange import Exchange
from sim.comm.pattern import Group, Leg, Loads, Members, Pattern
from sim.inputs.records import Node


class Direct(Pattern):
    """Bruck and others, IEEE TPDS 8 (1997): the same bytes as a ring, one start-up instead of n-1."""

    name = "direct"
    carriers = ("direct",)

    @override
    def serves(self, collective: str, group: Group, node: Node) -> bool:
        return collective == "all_gather"

    @override
    def cost(self, collective: str, message: float, group: Group, node: Node) -> tuple[Leg, ...]:
        start = node.collectives.ring_hop + group.carrier("direct").latency
        return (Leg(start, message * (group.size - 1) / group.size, "direct"),)

    @override
    def loads(self, cluster: Cluster, members: Members, carrier: str) -> Loads:
        return Exchange().loads(cluster, members, carrier)
