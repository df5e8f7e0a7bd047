"""Deduplicated exchange: one copy of a token to each node that has some of its experts, handed on to each such rank.

DeepEP's kernels with forwarding, and HybridEP: a token crosses the network on the rail of its rank, and the rank that
gets it passes it on over the local network, both at once, chunk by chunk. So the slower of the two ways counts.
The kernels belong to a software stack and not to the library of a platform.
"""

from __future__ import annotations

from typing_extensions import override

from sim.comm.hierarchical import ACROSS, WITHIN
from sim.comm.pattern import Cost, Group, Leg, Pattern
from sim.graph.operation import TokenRouting
from sim.inputs.records import Node

# Rates of such kernels over those of the links, less what stays on its rank. Inside a node 134 of 165 GB/s on H800
# (DeepEP, docs/legacy.md, 8 ranks) and 643 of 706 on B200 (DeepEP, docs/README_Hybrid-EP.md); forwarded what came over
# the network 107 of 165 on H800 and 221 of 372 on H100 (16 ranks, 8 processors); over the network 44 of 48 GB/s on
# both (64 ranks).
INSIDE, FORWARDED, ACROSS_NODES = 0.86, 0.65, 0.91


class Deduplicated(Pattern):
    """All-to-all of tokens; its cost follows from how they choose, so stacks ask for it by `deduplicated_cost`."""

    name = "deduplicated"
    carriers = (ACROSS, WITHIN, "exchange")  # laid by those they are named after

    @override
    def serves(self, collective: str, group: Group, node: Node) -> bool:
        return collective == "deduplicated"

    @override
    def cost(self, collective: str, message: float, group: Group, node: Node) -> tuple[Leg, ...]:
        return deduplicated_cost(message, group, node, TokenRouting(group.size, group.size)).legs


def deduplicated_cost(message: float, group: Group, node: Node, routing: TokenRouting) -> Cost:
    """The exchange of `message` bytes of tokens of each rank, one copy of each counted [B]."""
    tuning = node.collectives
    local = message * routing.distinct(group.size)
    if group.nodes == 1:
        start = group.local_step(node, tuning.ring_hop)
        size = local * (1 - 1 / group.size) / INSIDE
        return Cost("deduplicated", (Leg(max(start, tuning.floor), size, "exchange"),))
    width = max(1.0, group.size / group.nodes)
    local *= (1 - 1 / width) / FORWARDED
    across = message * routing.distinct(group.nodes) * (1 - 1 / group.nodes) / ACROSS_NODES
    start = tuning.ring_hop_network + group.carrier(ACROSS).latency + tuning.ring_hop
    floor = tuning.floor if tuning.floor_network is None else tuning.floor_network
    slower = width > 1 and local / group.carrier(WITHIN).rate > across / group.carrier(ACROSS).rate
    leg = (local, WITHIN) if slower else (across, ACROSS)
    return Cost("deduplicated", (Leg(max(start, floor), *leg),))
