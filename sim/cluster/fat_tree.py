"""Leaf-spine(-core) networks, plain or rail-optimized, in closed form.

A unit is the nodes under one leaf (plain), or under one group of rail leaves: adapter i of its nodes
on leaf i. Two tiers: every leaf connects to every spine, so spines join rails. Three tiers: a pod of
units has its own spines (a set for each rail if rail-optimized), and spine s of every pod and rail
connects to the cores of plane s, which join pods and rails. This is the layout of the DGX SuperPOD
reference architectures (NVIDIA RA-11333-001 for H100, RA-09950-001 for A100).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sim.cluster.blocks import VertexBlock
from sim.cluster.choice import choose_paths
from sim.cluster.cluster import Floats, Ints, Links
from sim.cluster.fabric import FabricSite, adapter_links
from sim.cluster.hops import Hops, chain, hop, join_links, uniform_links
from sim.inputs.records import FatTreeFabric


@dataclass(frozen=True)
class FatTreeShape:
    """Counts of a fat-tree that holds a number of nodes, of which the largest has so many adapters."""

    fabric: FatTreeFabric
    n_nodes: int
    adapters: int

    @property
    def rails(self) -> int:
        """Leaves of one unit."""
        return self.adapters if self.fabric.rail_optimized else 1

    @property
    def units(self) -> int:
        """Units, the last of which may be part full."""
        return -(-self.n_nodes // self.fabric.nodes_per_unit)

    @property
    def units_per_pod(self) -> int:
        """Units under one set of spines."""
        return self.fabric.units_per_pod if self.fabric.tiers == 3 else self.units

    @property
    def pods(self) -> int:
        """Sets of units with their own spines."""
        return -(-self.units // self.units_per_pod)

    @property
    def leaves(self) -> int:
        """Leaf switches."""
        return self.units * self.rails

    @property
    def spine_groups(self) -> int:
        """Sets of spines: one with two tiers; one per pod and rail with three."""
        return self.pods * self.rails if self.fabric.tiers == 3 else 1

    @property
    def spines(self) -> int:
        """Spine switches a leaf connects to."""
        return self.fabric.spines

    @property
    def cores(self) -> int:
        """Core switches a spine connects to: the cores of one plane."""
        return self.fabric.cores if self.fabric.tiers == 3 else 0

    def needs_cores(self, radix: int) -> bool:
        """Whether spines of `radix` ports leave leaves apart: those of several pods, or of more rails than they join.

        The DGX SuperPOD reference architectures have two tiers as long as a spine has a port for each leaf
        (RA-11333-001: up to 256 servers of 8 rails, 64 ports).
        """
        apart = self.pods > 1 or (self.rails > 1 and self.leaves > radix)
        return self.fabric.tiers == 3 and apart

    def leaf_at(self, place: Ints, rail: Ints) -> Ints:
        """Leaf of each adapter, by its node and its number there."""
        leaf: Ints = place // self.fabric.nodes_per_unit * self.rails + rail % self.rails
        return leaf

    def group_of(self, leaf: Ints) -> Ints:
        """Spine group of each leaf."""
        if self.fabric.tiers == 2:
            return np.zeros_like(leaf)
        unit, rail = np.divmod(leaf, self.rails)
        return unit // self.units_per_pod * self.rails + rail

    @property
    def leaf_down(self) -> int:
        """Adapters under a full leaf."""
        return self.fabric.nodes_per_unit * self.adapters // self.rails


@dataclass(frozen=True)
class FatTree:
    """A fat-tree; links: adapters up, down; leaf to spine, back; spine to core, back."""

    site: FabricSite
    shape: FatTreeShape
    blocks: tuple[VertexBlock, ...]
    links: Links
    rails_joined: bool = True

    def hops(self, source: Ints, target: Ints, key: Ints) -> Hops:
        """Shortest ways: over the leaf, the spines that both leaves share, or the cores."""
        shape, site = self.shape, self.site
        leaf, other = self._leaf(source), self._leaf(target)
        group, other_group = shape.group_of(leaf), shape.group_of(other)
        path = choose_paths(site.routing, source, target, self._destination(target), key, self._n_paths)
        spine = self._spines(path)
        climbs, crosses = leaf != other, group != other_group
        parts = [hop(site.first_link + source), self._spine_hops(leaf, spine, 0).where(climbs)]
        if shape.cores and crosses.any():
            parts.append(self._core_hops(group, path, 0).where(crosses))
            parts.append(self._core_hops(other_group, path, 1).where(crosses))
        parts.append(self._spine_hops(other, spine, 1).where(climbs))
        return chain([*parts, hop(site.first_link + site.n + target)])

    def gates(self, adapter: Ints) -> tuple[Ints, Ints] | None:
        """The leaf, unless paths are hashed."""
        hashed = self.site.routing.kind == "ecmp"
        return None if hashed else (self._leaf(adapter), self.site.first_link + adapter)

    def bisection(self) -> float:
        """Half of the injection, divided by the oversubscription it has to cross."""
        shape, fabric = replace(self.shape, n_nodes=self.site.n_hosts), self.shape.fabric
        over = max(1.0, fabric.leaf_oversubscription) if shape.units > 1 else 1.0
        over *= max(1.0, fabric.spine_oversubscription) if shape.pods > 1 else 1.0
        return self.site.host_rate(self.links) / 2 / over

    def port_rate(self, radix: int) -> float:
        """Both ends of the cables of each tier that these nodes need, part-full leaves and pods with what they use."""
        shape, fabric = self.shape, self.shape.fabric
        attached = self.site.attached_rate(fabric.link)
        up = self.site.attached_rate(None) / fabric.leaf_oversubscription if shape.leaves > 1 else 0.0
        top = up / fabric.spine_oversubscription if shape.needs_cores(radix) else 0.0
        return attached + 2 * up + 2 * top

    @property
    def _n_paths(self) -> int:
        return self.shape.spines * max(1, self.shape.cores)

    def _spines(self, path: Ints) -> Ints:
        """Spine of each path; sprayed paths visit all spines in turn, of which one round is kept."""
        n = self.shape.spines
        return path[:, :n] if self.site.routing.kind == "spray" else path % n

    def _destination(self, target: Ints) -> Ints:
        """Counts the adapters of a leaf one by one, so that d-mod-k spreads them over its spines."""
        return self.site.place[target] if self.shape.rails > 1 else target

    def _leaf(self, adapter: Ints) -> Ints:
        """Leaf of each adapter."""
        return self.shape.leaf_at(self.site.place[adapter], self.site.rail[adapter])

    def _spine_hops(self, leaf: Ints, spine: Ints, down: int) -> Hops:
        shape = self.shape
        first = self.site.first_link + 2 * self.site.n + down * shape.leaves * shape.spines
        return hop(first + leaf[:, None] * shape.spines + spine, 1 / spine.shape[1])

    def _core_hops(self, group: Ints, path: Ints, down: int) -> Hops:
        shape = self.shape
        bundles = shape.spine_groups * shape.spines * shape.cores
        first = self.site.first_link + 2 * self.site.n + 2 * shape.leaves * shape.spines + down * bundles
        spine, core = path % shape.spines, path // shape.spines
        return hop(first + (group[:, None] * shape.spines + spine) * shape.cores + core, 1 / path.shape[1])


def build_fat_tree(fabric: FatTreeFabric, site: FabricSite) -> FatTree:
    """The fat-tree with as many units and pods as the nodes fill.

    A bundle's capacity follows from the adapters under a full leaf, the oversubscription and the
    number of spines it is divided over, so a part-full unit keeps its switches.
    """
    shape = FatTreeShape(fabric, site.n_places, site.rails)
    leaf_block, spine_block, *core_block = blocks = _blocks(shape, site.first_vertex)
    leaf = shape.leaf_at(site.place, site.rail)
    groups = [adapter_links(site, leaf_block.first + leaf, fabric.link)]
    latency = fabric.link.latency if fabric.link else 0.0
    efficiency = fabric.link.efficiency if fabric.link else site.payload
    leaf_up = _line_rates(shape, site, leaf) * efficiency / fabric.leaf_oversubscription
    groups += _leaf_spine(shape, leaf_block.first, spine_block.first, leaf_up / shape.spines, latency)
    if core_block:
        group = shape.group_of(np.arange(shape.leaves))
        mean_up = np.bincount(group, leaf_up) / np.bincount(group) if len(set(leaf_up.tolist())) > 1 else leaf_up[:1]
        spine_up = mean_up * _leaves_per_spine(shape) / shape.spines / fabric.spine_oversubscription
        spine_up = np.repeat(np.broadcast_to(spine_up, shape.spine_groups), shape.spines)
        groups += _spine_core(shape, spine_block.first, core_block[0].first, spine_up / shape.cores, latency)
    return FatTree(site, shape, tuple(blocks), join_links(groups))


def _line_rates(shape: FatTreeShape, site: FabricSite, leaf: Ints) -> Floats:
    """Line rate of the adapters under each leaf if its unit were full, (leaves,) [B/s].

    Where nodes differ, a full unit has nodes as those that are there on average.
    """
    if site.is_even:
        return np.full(shape.leaves, shape.leaf_down * site.line_rate[0])
    there = np.bincount(np.unique(site.place) // shape.fabric.nodes_per_unit, minlength=shape.units)
    return np.bincount(leaf, site.line_rate, shape.leaves) * shape.fabric.nodes_per_unit / np.repeat(there, shape.rails)


def _leaves_per_spine(shape: FatTreeShape) -> int:
    """Leaves under a spine of a full pod."""
    return shape.units_per_pod


def _blocks(shape: FatTreeShape, first: int) -> list[VertexBlock]:
    rail_optimized, three = shape.rails > 1, shape.fabric.tiers == 3
    leaf = VertexBlock("leaf", "unit{}/leaf{}", first, (shape.units, shape.rails))
    if not three:
        return [leaf, VertexBlock("spine", "spine{}", leaf.end, (shape.spines,))]
    if rail_optimized:
        spine = VertexBlock("spine", "pod{}/rail{}/spine{}", leaf.end, (shape.pods, shape.rails, shape.spines))
    else:
        spine = VertexBlock("spine", "pod{}/spine{}", leaf.end, (shape.pods, shape.spines))
    return [leaf, spine, VertexBlock("core", "plane{}/core{}", spine.end, (shape.spines, shape.cores))]


def _leaf_spine(
    shape: FatTreeShape, first_leaf: int, first_spine: int, capacity: Floats, latency: float
) -> list[Links]:
    """capacity: (leaves,) of a link of each leaf."""
    leaf = np.arange(shape.leaves)[:, None]
    spine = shape.group_of(leaf) * shape.spines + np.arange(shape.spines)
    return _both_ways(first_leaf + leaf, first_spine + spine, capacity, latency)


def _spine_core(
    shape: FatTreeShape, first_spine: int, first_core: int, capacity: Floats, latency: float
) -> list[Links]:
    """capacity: (spines of all groups,) of a link of each spine."""
    spine = np.arange(shape.spine_groups * shape.spines)[:, None]
    core = spine % shape.spines * shape.cores + np.arange(shape.cores)
    return _both_ways(first_spine + spine, first_core + core, capacity, latency)


def _both_ways(low: Ints, high: Ints, capacity: Floats, latency: float) -> list[Links]:
    """Links of (n, 1) lower to (n, k) higher switches and back, of the capacity of each lower one (n,)."""
    links = [uniform_links(low, high, 0.0, latency), uniform_links(high, low, 0.0, latency)]
    each = np.repeat(capacity, high.shape[1])
    return [replace(way, capacity=each) for way in links]
