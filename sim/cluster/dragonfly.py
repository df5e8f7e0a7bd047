"""Dragonfly networks: all-to-all in the group, all-to-all between groups, minimal routes.

Kim, Dally, Scott, Abts: Technology-Driven, Highly-Scalable Dragonfly Topology (ISCA 2008).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.cluster.blocks import VertexBlock
from sim.cluster.cluster import Ints, Links
from sim.cluster.fabric import FabricSite, adapter_links
from sim.cluster.hops import Hops, chain, hop, join_links, uniform_links
from sim.errors import ConfigError, Problem
from sim.inputs.records import DragonflyFabric


@dataclass(frozen=True)
class Dragonfly:
    """Routers in groups; links: adapters up, down; router to router in a group; group to group.

    The bundle from group g to group h leaves from router (h's number among the other groups) modulo
    the routers. A route is local, global, local, each part only where it is needed.
    """

    site: FabricSite
    fabric: DragonflyFabric
    blocks: tuple[VertexBlock, ...]
    links: Links
    rails_joined: bool = True

    def hops(self, source: Ints, target: Ints, key: Ints) -> Hops:
        """The one minimal route of each pair; routing strategies make no difference."""
        first, routers = self.site.first_link, self.fabric.routers_per_group
        g, a = np.divmod(router_of(self.fabric, self.site, source), routers)
        h, b = np.divmod(router_of(self.fabric, self.site, target), routers)
        apart = g != h
        leave = np.where(apart, gateway(self.fabric, g, h), b)
        enter = np.where(apart, gateway(self.fabric, h, g), b)
        parts = [hop(first + source), self._local(g, a, leave), self._global(g, h), self._local(h, enter, b)]
        return chain([*parts, hop(first + self.site.n + target)])

    def gates(self, adapter: Ints) -> tuple[Ints, Ints]:
        """The router."""
        return router_of(self.fabric, self.site, adapter), self.site.first_link + adapter

    def bisection(self) -> float:
        """Global links between two halves of the groups."""
        half = self.fabric.groups // 2
        link = self.fabric.global_link
        return half * (self.fabric.groups - half) * link.bandwidth * link.efficiency if half else float("nan")

    def port_rate(self, radix: int) -> float:
        """Adapters, and links between the routers of the groups that hold nodes; of one group, the routers that do."""
        fabric = self.fabric
        routers = -(-self.site.n_places // fabric.nodes_per_router)
        groups = -(-routers // fabric.routers_per_group)
        if groups > 1:  # bundles may end at any router of a group
            routers = fabric.routers_per_group
        local = groups * routers * (routers - 1) * fabric.local_link.bandwidth
        return self.site.attached_rate(None) + local + groups * (groups - 1) * fabric.global_link.bandwidth

    def _local(self, group: Ints, a: Ints, b: Ints) -> Hops:
        routers = self.fabric.routers_per_group
        number = (group * routers + a) * (routers - 1) + _skipped(b, a)
        return hop(np.where(a != b, self.site.first_link + 2 * self.site.n + number, -1))

    def _global(self, g: Ints, h: Ints) -> Hops:
        fabric = self.fabric
        local = fabric.groups * fabric.routers_per_group * (fabric.routers_per_group - 1)
        number = g * (fabric.groups - 1) + _skipped(h, g)
        return hop(np.where(g != h, self.site.first_link + 2 * self.site.n + local + number, -1))


def _skipped(other: Ints, own: Ints) -> Ints:
    """Number of `other` when `own` is left out of the count."""
    return np.where(other > own, other - 1, other)


def router_of(fabric: DragonflyFabric, site: FabricSite, adapter: Ints) -> Ints:
    """Router each adapter is on."""
    return site.place[adapter] // fabric.nodes_per_router


def gateway(fabric: DragonflyFabric, group: Ints, other: Ints) -> Ints:
    """Router of `group` that holds the bundle to the group `other`."""
    return _skipped(other, group) % fabric.routers_per_group


def build_dragonfly(fabric: DragonflyFabric, site: FabricSite) -> Dragonfly:
    """The dragonfly of the given size; ConfigError if the nodes do not fit on it."""
    places = fabric.groups * fabric.routers_per_group * fabric.nodes_per_router
    if site.n_places > places:
        size = f"{fabric.groups} groups of {fabric.routers_per_group} routers"
        message = f"{size} hold {places} nodes, the cluster has {site.n_places}"
        raise ConfigError(Problem("", "fabric.groups", message, "add groups, or ask for fewer nodes"))
    block = VertexBlock("router", "group{}/router{}", site.first_vertex, (fabric.groups, fabric.routers_per_group))
    up = adapter_links(site, block.first + router_of(fabric, site, np.arange(site.n)), None)
    groups = [up, _local_links(fabric, block.first), _global_links(fabric, block.first)]
    return Dragonfly(site, fabric, (block,), join_links(groups))


def _local_links(fabric: DragonflyFabric, first: int) -> Links:
    routers, link = fabric.routers_per_group, fabric.local_link
    a, b = _pairs(routers)
    base = first + np.arange(fabric.groups)[:, None] * routers
    return uniform_links(base + a, base + b, link.bandwidth * link.efficiency, link.latency)


def _global_links(fabric: DragonflyFabric, first: int) -> Links:
    n, routers, link = fabric.groups, fabric.routers_per_group, fabric.global_link
    g, h = _pairs(n)
    source = first + g * routers + gateway(fabric, g, h)
    target = first + h * routers + gateway(fabric, h, g)
    return uniform_links(source, target, link.bandwidth * link.efficiency, link.latency)


def _pairs(n: int) -> tuple[Ints, Ints]:
    """Every one of n with every other, (n*(n-1),) each, ordered by the first."""
    one = np.repeat(np.arange(n), n - 1)
    other = np.tile(np.arange(n - 1), n)
    return one, other + (other >= one)
