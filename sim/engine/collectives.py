"""What a collective costs before and while it moves bytes: algorithm, start-up, bytes per port.

Three ways to sum, as in NCCL (src/graph/tuning.cc). A ring sends each byte 2(n-1)/n times over every hop.
A tree (a double binary one between nodes, a chain or the switch inside) sends 2(N-1)/N times between N
nodes, with a start-up that grows with log N. A switch that adds moves S(1+1/n) through every port.
Time = max(floor, start + ramp + bytes/rate); the ramp stands for filling the chunk pipeline and for the
change of protocol (LL, LL128, Simple) with size.

All sizes are in bytes of the ring flow that carries the collective, so that its links are loaded as the
algorithm loads the narrowest of them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import ceil, inf, log2, sqrt
from typing import NamedTuple

from sim.spec.records import CollectiveTuning, Node

ALGORITHMS = ("ring", "tree", "in_network")
TREE_CORRECTION = (  # for messages from 64 B on, doubling
    1.0, 1.0, 1.0, 1.0, 1.0, 0.9, 0.8, 0.8, 0.8, 0.7, 0.6, 0.6, 0.6, 0.5, 0.6, 0.6, 0.7, 0.7, 0.8, 0.9, 0.9,
)  # fmt: skip


class Cost(NamedTuple):
    """Seconds before the flow joins its links, and bytes per unit of its coefficient."""

    latency: float
    size: float
    algorithm: str


@dataclass(frozen=True)
class Group:
    """A communicator: members, servers it spans, hop latency of its path [s].

    `local_rate` is what the links inside the nodes allow its ring alone, `network_rate` those between them [B/s].
    """

    size: int
    nodes: int
    hop_latency: float
    local_rate: float = inf
    network_rate: float = inf

    @property
    def rate(self) -> float:
        """Rate of its ring alone [B/s]."""
        return min(self.local_rate, self.network_rate)

    @property
    def width(self) -> int:
        """Members in the fullest node."""
        return ceil(self.size / self.nodes)

    def ring_bytes(self, local: float, network: float) -> float:
        """Bytes of the ring flow that take as long as `local` at the local and `network` at the network rate."""
        return self.rate * max(local / self.local_rate, network / self.network_rate)


def collective_cost(
    kind: str, message: float, group: Group, node: Node, algorithms: Collection[str] = ALGORITHMS
) -> Cost:
    """The way that NCCL takes for `kind` with `message` bytes (nccl-tests convention) in `group`.

    `algorithms` limits the choice, where one of them can do it.
    """
    ways = _ways(kind, message, group, node)
    ways = [way for way in ways if way[0].algorithm in algorithms] or ways
    if group.nodes > 1:
        ways = [way for way in ways if way[0].algorithm in node.collectives.network_algorithms] or ways
    best, _ = min(ways, key=lambda way: way[0].latency + way[1] / group.rate)
    floor, ramp = floor_and_ramp(node.collectives, group.nodes, message)
    least = floor - best.size / group.rate
    return Cost(max(best.latency + ramp, least), best.size, best.algorithm)


def send_cost(message: float, nodes: int, path_latency: float, node: Node) -> Cost:
    """A point-to-point send between two ranks, `path_latency` [s] apart."""
    tuning = node.collectives
    hop = tuning.ring_hop_network if nodes > 1 else tuning.ring_hop
    return Cost(hop + path_latency, message, "send")


def floor_and_ramp(tuning: CollectiveTuning, nodes: int, message: float) -> tuple[float, float]:
    """Least time of a collective over `nodes` servers and the ramp of `message` bytes [s].

    The best chunk grows with the square root of the message, and with it the time to fill the pipeline,
    until chunks are as large as the library's buffers.
    """
    floor, ramp, limit = tuning.floor, tuning.ramp, tuning.ramp_limit
    if nodes > 1:
        floor = floor if tuning.floor_network is None else tuning.floor_network
        ramp = ramp if tuning.ramp_network is None else tuning.ramp_network
        limit = limit if tuning.ramp_limit_network is None else tuning.ramp_limit_network
    return floor, min(inf if limit is None else limit, ramp * sqrt(message))


def _ways(kind: str, message: float, group: Group, node: Node) -> list[tuple[Cost, float]]:
    """The algorithms there are, each with the bytes that NCCL's tuner takes it to move."""
    if kind == "all_to_all":
        exchange = _exchange(message, group, node)
        return [(exchange, exchange.size)]
    ring = _ring(kind, message, group, node)
    ways = [(ring, ring.size)]
    if kind == "all_reduce" and group.size > 2:
        tree = _tree(message, group, node)
        expected = tree.size if _sees_tree_traffic(group, node) else ring.size / node.collectives.tree_efficiency
        ways.append((tree, expected / tree_correction(message)))
        if node.local.in_network_reduction and group.nodes == 1:
            switch = _in_network(message, group, node)
            ways.append((switch, switch.size))
    return ways


def _sees_tree_traffic(group: Group, node: Node) -> bool:
    """Whether the tuner expects of a tree between nodes the less traffic that it has.

    It does on two nodes, but caps a tree without the switches' help near the rate of one adapter a channel.
    """
    return group.nodes == 1 or (group.nodes == 2 and node.local.in_network_reduction)


def tree_correction(message: float) -> float:
    """Share of its rate that the tuner expects of a tree for a message (treeCorrectionFactor, LL128)."""
    step = int(log2(max(message, 64.0) / 64))
    return TREE_CORRECTION[step] if step < len(TREE_CORRECTION) else 1.0


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
    levels = ceil(log2(group.nodes)) if group.nodes > 1 else 0
    start = 2 * ((group.width - 1) * tuning.tree_hop + levels * (tuning.tree_hop_network + group.hop_latency))
    local = 2 * message * (group.size - 1) / group.size
    if group.nodes == 1:
        return Cost(start, local / tuning.tree_efficiency, "tree")
    if node.local.in_network_reduction and group.width > 1:
        local = _through_switch(message, group.width, node)
    network = 2 * message * (group.nodes - 1) / group.nodes
    return Cost(start, group.ring_bytes(local, network) / tuning.tree_efficiency, "tree")


def _in_network(message: float, group: Group, node: Node) -> Cost:
    return Cost(node.collectives.in_network, _through_switch(message, group.size, node), "in_network")


def _through_switch(message: float, members: int, node: Node) -> float:
    """Bytes of a local ring that take as long as a reduction of `members` in the switch."""
    return message * (1 + 1 / members) * node.local.efficiency / node.local.reduction_efficiency


def _exchange(message: float, group: Group, node: Node) -> Cost:
    """An all-to-all: each member sends 1/n of its message to each other, outside through its own adapter.

    Sends are issued one after the other and overlap. A ring over g members of a node loads an adapter with 1/g
    and a port with (g-1)/g of its bytes.
    """
    near, far, share = group.width - 1, group.size - group.width, message / group.size
    tuning = node.collectives
    start = (near + far) * tuning.ring_hop
    if group.nodes == 1:
        return Cost(start, near * share, "exchange")
    start += tuning.ring_hop_network + group.hop_latency
    return Cost(start, group.ring_bytes(group.width * share, group.width * far * share), "exchange")
