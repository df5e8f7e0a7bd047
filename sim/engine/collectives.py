"""What a collective costs before and while it moves bytes: algorithm, start-up, bytes per port.

The algorithms and their step counts are those of NCCL (src/graph/tuning.cc); the one with the least
start-up plus transfer is taken, as NCCL does. A ring all-reduce sends each byte 2(n-1)/n times over
every hop; a double binary tree moves as much with logarithmic start-up; an in-network reduction
moves S(1+1/n) through every port. Time = max(floor, start + ramp*sqrt(S) + bytes/rate).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2, sqrt

from sim.spec.records import Node


@dataclass(frozen=True)
class Cost:
    """Seconds before the flow joins its links, and bytes per unit of its coefficient."""

    latency: float
    size: float
    algorithm: str


@dataclass(frozen=True)
class Group:
    """A communicator: members, servers it spans, hop latency of its path [s], rate alone [B/s]."""

    size: int
    nodes: int
    hop_latency: float
    rate: float


def collective_cost(kind: str, message: float, group: Group, node: Node) -> Cost:
    """The cheapest way to do `kind` with `message` bytes (nccl-tests convention) in `group`."""
    ways = [_ring(kind, message, group, node)]
    if kind == "all_reduce" and group.size > 2:
        ways.append(_tree(message, group, node))
        if node.local.in_network_reduction and group.nodes == 1:
            ways.append(_in_network(message, group, node))
    best = min(ways, key=lambda way: way.latency + way.size / group.rate)
    ramp = node.collectives.ramp * sqrt(message)
    floor = node.collectives.floor - best.size / group.rate
    return Cost(max(best.latency + ramp, floor), best.size, best.algorithm)


def send_cost(message: float, nodes: int, path_latency: float, node: Node) -> Cost:
    """A point-to-point send between two ranks, `path_latency` [s] apart."""
    tuning = node.collectives
    hop = tuning.ring_hop_network if nodes > 1 else tuning.ring_hop
    return Cost(hop + path_latency, message, "send")


def _ring(kind: str, message: float, group: Group, node: Node) -> Cost:
    rounds = {"all_reduce": 2, "send": 0}.get(kind, 1)
    turns = rounds * (group.size - 1) if rounds else 1
    between = min(turns, max(rounds, 1) * (group.nodes - 1))
    start = (turns - between) * node.collectives.ring_hop
    start += between * (node.collectives.ring_hop_network + group.hop_latency)
    size = message * rounds * (group.size - 1) / group.size if rounds else message
    return Cost(start, size, "ring")


def _tree(message: float, group: Group, node: Node) -> Cost:
    tuning = node.collectives
    inside = ceil(group.size / group.nodes) - 1
    levels = ceil(log2(group.nodes)) if group.nodes > 1 else 0
    start = 2 * (inside * tuning.tree_hop + levels * (tuning.tree_hop_network + group.hop_latency))
    size = 2 * message * (group.size - 1) / group.size / tuning.tree_efficiency
    return Cost(start, size, "tree")


def _in_network(message: float, group: Group, node: Node) -> Cost:
    local = node.local
    size = message * (1 + 1 / group.size) * local.efficiency / local.reduction_efficiency
    return Cost(node.collectives.in_network, size, "in-network")
