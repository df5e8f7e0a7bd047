"""Hierarchical exchange (all-to-all in two steps): first across nodes on the own rail, then inside each node.

A member sends what is for another node to the one in its place there, which hands it on. Fewer and larger messages
leave a node than in a pairwise exchange, and none changes rails between nodes; what comes from other nodes crosses
the local network once more (Rajbhandari et al., DeepSpeed-MoE, ICML 2022; Hwang et al., Tutel, MLSys 2023).
"""

from __future__ import annotations

import numpy as np
from typing_extensions import override

from sim.cluster.cluster import Cluster
from sim.comm.pattern import Group, Ints, Leg, Loads, Members, Pattern, routed
from sim.inputs.records import Node
from sim.ragged import ranges

ACROSS, WITHIN = "hierarchical across", "hierarchical within"


class Hierarchical(Pattern):
    """All-to-all of groups with several members in several nodes."""

    name = "hierarchical"
    carriers = (ACROSS, WITHIN)

    @override
    def serves(self, collective: str, group: Group, node: Node) -> bool:
        return collective == "all_to_all" and group.nodes > 1 and group.size > group.nodes

    @override
    def cost(self, collective: str, message: float, group: Group, node: Node) -> tuple[Leg, ...]:
        """S(N-1)/N leave a member for other nodes, then S(g-1)/g go to the g-1 others of its node."""
        tuning, nodes, width = node.collectives, group.nodes, group.size / group.nodes
        across = (nodes - 1) * tuning.ring_hop + tuning.ring_hop_network + group.carrier(ACROSS).latency
        return (
            Leg(across, message * (nodes - 1) / nodes, ACROSS),
            Leg(group.local_step(node, (group.width - 1) * tuning.ring_hop), message * (width - 1) / width, WITHIN),
        )

    @override
    def loads(self, cluster: Cluster, members: Members, carrier: str) -> Loads:
        """Bytes of each hop, over those that leave a member in a group with as many members in every node."""
        group, _, first, width = members.runs(cluster)
        run = np.repeat(np.arange(len(first)), width)  # of each member
        nodes = np.bincount(group, minlength=members.n)
        begin = np.cumsum(nodes) - nodes
        sender, there = _each_with(np.arange(len(run)), begin[group[run]], nodes[group[run]])
        sender, there = sender[there != run[sender]], there[there != run[sender]]
        receiver = first[there] + np.minimum(sender - first[run[sender]], width[there] - 1)
        if carrier == ACROSS:
            pieces, usual = width[there], (1 - 1 / nodes) * members.size
        else:
            held = 1 + np.bincount(receiver, minlength=len(run))  # members of which it has something to hand on
            sender, receiver = _each_with(np.arange(len(run)), first[run], width[run])
            sender, receiver = sender[sender != receiver], receiver[sender != receiver]
            pieces, usual = held[sender], (1 - nodes / members.size) * members.size
        of, flat = group[run[sender]], members.accelerator.ravel()
        return routed(cluster, members, (of, flat[sender], flat[receiver], pieces / usual[of]))


def _each_with(item: Ints, first: Ints, count: Ints) -> tuple[Ints, Ints]:
    """Each item (n,) with each number from `first` on, `count` of them."""
    return np.repeat(item, count), ranges(first, count)
