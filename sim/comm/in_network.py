"""Sums in the switch of a node: S(1+1/n) through every port instead of 2S(n-1)/n (Klenk et al., ISCA 2020).

Every port carries the same, as it does in a ring, so the links of the ring carry it.
"""

from __future__ import annotations

from typing_extensions import override

from sim.comm.pattern import Group, Leg, Pattern
from sim.inputs.records import Node


class InNetwork(Pattern):
    """All-reduce of three members and more behind one switch that adds."""

    name = "in_network"

    @override
    def serves(self, collective: str, group: Group, node: Node) -> bool:
        adds = node.local.in_network_reduction and group.nodes == 1
        return collective == "all_reduce" and group.size > 2 and adds

    @override
    def cost(self, collective: str, message: float, group: Group, node: Node) -> tuple[Leg, ...]:
        return (Leg(group.local_step(node, node.collectives.in_network), through_switch(message, group.size, node)),)


def through_switch(message: float, members: int, node: Node) -> float:
    """Bytes of a local ring that take as long as a reduction of `members` in the switch."""
    return message * (1 + 1 / members) * node.local.efficiency / node.local.reduction_efficiency
