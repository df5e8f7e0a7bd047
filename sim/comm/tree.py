"""Trees: a double binary one between nodes, a chain or the switch inside; start-up grows with the logarithm of nodes.

Chunks go up a tree to be summed and down again, half of them over each of two trees. All wait for the node that sends
most: one with two children in one tree is a leaf of the other, and sends the message twice from four nodes on. The
adapters of all nodes are loaded as those of that node, on the links of the ring: trees laid node by node would tell
all nodes apart.
"""

from __future__ import annotations

from math import ceil, log2

from typing_extensions import override

from sim.comm.in_network import through_switch
from sim.comm.pattern import Group, Leg, Pattern
from sim.comm.ring import Ring
from sim.inputs.records import Node

TREE_CORRECTION = (  # for messages from 64 B on, doubling
    1.0, 1.0, 1.0, 1.0, 1.0, 0.9, 0.8, 0.8, 0.8, 0.7, 0.6, 0.6, 0.6, 0.5, 0.6, 0.6, 0.7, 0.7, 0.8, 0.9, 0.9,
)  # fmt: skip


class Tree(Pattern):
    """All-reduce of three members and more."""

    name = "tree"

    @override
    def serves(self, collective: str, group: Group, node: Node) -> bool:
        return collective == "all_reduce" and group.size > 2

    @override
    def cost(self, collective: str, message: float, group: Group, node: Node) -> tuple[Leg, ...]:
        tuning = node.collectives
        levels = ceil(log2(group.nodes)) if group.nodes > 1 else 0
        inside = (group.width - 1) * group.local_step(node, tuning.tree_hop)
        start = 2 * (inside + levels * (tuning.tree_hop_network + group.hop_latency))
        local = 2 * message * (group.size - 1) / group.size
        if group.nodes == 1:
            return (Leg(start, local / tuning.tree_efficiency),)
        if node.local.in_network_reduction and group.width > 1:
            local = through_switch(message, group.width, node)
        network = message * busiest_node(group.nodes)
        return (Leg(start, group.ring_bytes(local, network) / tuning.tree_efficiency),)

    @override
    def believed(self, collective: str, message: float, group: Group, node: Node) -> float:
        """With the correction of the tuner, and between nodes mostly with the traffic of a ring."""
        (tree,) = self.cost(collective, message, group, node)
        expected = tree.size
        if not _sees_tree_traffic(group, node):
            (ring,) = Ring().cost(collective, message, group, node)
            expected = ring.size / node.collectives.tree_efficiency
        return tree.latency + expected / tree_correction(message) / group.rate


def busiest_node(nodes: int) -> float:
    """Bytes that the node with most to send does send, for one byte summed over `nodes`.

    Two binary trees, each for half of the bytes (Sanders, Speck, Träff, Parallel Computing 35, 2009): a node passes
    sums up to its parent and results down to each child.
    """
    return {1: 0.0, 2: 1.0, 3: 1.5}.get(nodes, 2.0)


def _sees_tree_traffic(group: Group, node: Node) -> bool:
    """Whether the tuner expects of a tree between nodes the less traffic that it has.

    It does on two nodes, but caps a tree without the switches' help near the rate of one adapter a channel.
    """
    return group.nodes == 1 or (group.nodes == 2 and node.local.in_network_reduction)


def tree_correction(message: float) -> float:
    """Share of its rate that the tuner expects of a tree for a message (treeCorrectionFactor, LL128)."""
    step = int(log2(max(message, 64.0) / 64))
    return TREE_CORRECTION[step] if step < len(TREE_CORRECTION) else 1.0
