"""Direct sums and gatherings: where each two boards of a server have a link of their own, all send to all at once.

Each member sends the n-th part of its message straight to the member that sums it or gathers it, in one step; an
all-reduce takes two. All n-1 links of a board carry the same, while rings on a mesh leave one of seven idle (HCCL on
boards with ports to each peer; microsoft/mscclpp and the all-pairs algorithms of MSCCL).
"""

from __future__ import annotations

from typing_extensions import override

from sim.cluster.cluster import Cluster
from sim.comm.exchange import Exchange
from sim.comm.pattern import Group, Leg, Loads, Members, Pattern
from sim.comm.ring import ROUNDS
from sim.inputs.records import Node

EXCHANGE = Exchange()


class Direct(Pattern):
    """All-reduce, all-gather and reduce-scatter inside a server whose local network is a mesh."""

    name = "direct"
    carriers = EXCHANGE.carriers

    @override
    def serves(self, collective: str, group: Group, node: Node) -> bool:
        return ROUNDS.get(collective, 0) > 0 and group.nodes == 1 and node.local.kind == "mesh"

    @override
    def cost(self, collective: str, message: float, group: Group, node: Node) -> tuple[Leg, ...]:
        """S(n-1)/n leave a member in each round, over its links to all others at once."""
        rounds = ROUNDS[collective]
        start = rounds * group.local_step(node, node.collectives.ring_hop)
        return (Leg(start, rounds * message * (group.size - 1) / group.size, EXCHANGE.name),)

    @override
    def loads(self, cluster: Cluster, members: Members, carrier: str) -> Loads:
        return EXCHANGE.loads(cluster, members, carrier)
