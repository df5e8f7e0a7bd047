"""Deduplicated exchange: one copy of a token to each node that has some of its experts, handed on to each such rank.

DeepEP's kernels with forwarding, and HybridEP: a token crosses the network on the rail of its rank, and the rank that
gets it passes it on over the local network, both at the same time, chunk by chunk. So the slower of the two ways counts.
The kernels belong to a software stack and not to the library of a platform.
"""

from __future__ import annotations

from typing_extensions import override

from sim.comm.hierarchical import ACROSS, WITHIN
from sim.comm.pattern import Cost, Group, Leg, Pattern
from sim.graph.operation import Routing
from sim.inputs.records import Node

# Rate of the local network while it passes on what comes from others, over that within one node: 103 for 134 GB/s
# (DeepEP, docs/legacy.md: 43 and 58 GB/s for 16 and 32 ranks, 153 for 8, less what stays on its rank).
FORWARDING = 0.77


class Deduplicated(Pattern):
    """All-to-all of tokens; its cost follows from how they choose, so stacks ask for it by `deduplicated_cost`."""

    name = "deduplicated"
    carriers = (ACROSS, WITHIN, "exchange")  # laid by those they are named after

    @override
    def serves(self, collective: str, group: Group, node: Node) -> bool:
        return collective == "deduplicated"

    @override
    def cost(self, collective: str, message: float, group: Group, node: Node) -> tuple[Leg, ...]:
        return deduplicated_cost(message, group, node, Routing(group.size, group.size)).legs


def deduplicated_cost(message: float, group: Group, node: Node, routing: Routing) -> Cost:
    """The exchange of `message` bytes of tokens of each rank, one copy of each counted [B]."""
    tuning, size = node.collectives, group.size
    local = message * routing.distinct(size)
    if group.nodes == 1:
        start = group.local_step(node, tuning.ring_hop)
        return Cost("deduplicated", (Leg(max(start, tuning.floor), local * (1 - 1 / size), "exchange"),))
    width = max(1.0, size / group.nodes)
    local *= (1 - 1 / width) / FORWARDING
    across = message * routing.distinct(group.nodes) * (1 - 1 / group.nodes)
    start = tuning.ring_hop_network + group.carrier(ACROSS).latency + tuning.ring_hop
    floor = tuning.floor if tuning.floor_network is None else tuning.floor_network
    slower = width > 1 and local / group.carrier(WITHIN).rate > across / group.carrier(ACROSS).rate
    leg = (local, WITHIN) if slower else (across, ACROSS)
    return Cost("deduplicated", (Leg(max(start, floor), *leg),))
