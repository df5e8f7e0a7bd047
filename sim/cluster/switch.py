"""All nodes on one non-blocking switch, or one switch per rail."""

from __future__ import annotations

from dataclasses import dataclass

from sim.cluster.blocks import VertexBlock
from sim.cluster.cluster import Ints, Links
from sim.cluster.fabric import FabricSite, adapter_links
from sim.cluster.hops import Hops, chain, hop
from sim.inputs.records import FabricLink, SwitchFabric


@dataclass(frozen=True)
class Switch:
    """One switch, or one per rail; the adapters' links are the only capacities."""

    site: FabricSite
    blocks: tuple[VertexBlock, ...]
    links: Links
    rails_joined: bool
    cable: FabricLink | None

    def hops(self, source: Ints, target: Ints, key: Ints) -> Hops:
        """Up to the switch and down again."""
        first = self.site.first_link
        return chain([hop(first + source), hop(first + self.site.n + target)])

    def gates(self, adapter: Ints) -> tuple[Ints, Ints]:
        """The one switch, or that of the rail."""
        return self.links.target[adapter], self.site.first_link + adapter

    def bisection(self) -> float:
        """Half of the nodes send at full rate."""
        return self.site.host_rate(self.links) / 2

    def port_rate(self, radix: int) -> float:
        """The ports of the adapters."""
        return self.site.attached_rate(self.cable)


def build_switch(fabric: SwitchFabric, site: FabricSite) -> Switch:
    """One switch for all adapters, or a switch for each rail."""
    n_switches = site.rails if fabric.rail_optimized else 1
    block = VertexBlock("switch", "switch{}", site.first_vertex, (n_switches,))
    links = adapter_links(site, site.first_vertex + site.rail % n_switches, fabric.link)
    return Switch(site, (block,), links, rails_joined=n_switches == 1, cable=fabric.link)
