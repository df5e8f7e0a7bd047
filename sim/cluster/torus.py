"""Tori of one to three dimensions, routed dimension by dimension, the shorter way round."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from sim.cluster.blocks import VertexBlock
from sim.cluster.cluster import Ints, Links, Mask
from sim.cluster.fabric import FabricSite
from sim.cluster.hops import Hops, chain, hop, join_links, uniform_links
from sim.errors import ConfigError, Problem
from sim.inputs.records import TorusFabric


@dataclass(frozen=True)
class Torus:
    """A node at each point, numbered row by row; per dimension links forward, then backward.

    A dimension of two nodes has one link each way, a dimension of one has none. At half way round,
    even coordinates go forward and odd ones backward, so that both directions carry the same.
    """

    site: FabricSite
    fabric: TorusFabric
    links: Links
    blocks: tuple[VertexBlock, ...] = ()
    rails_joined: bool = True

    def hops(self, source: Ints, target: Ints, key: Ints) -> Hops:
        """Dimension-ordered paths between nodes; routing strategies make no difference."""
        shape = self.fabric.shape
        here = np.stack(np.unravel_index(source, shape))
        there = np.stack(np.unravel_index(target, shape))
        parts = [hop(np.full(len(source), -1))]
        for dimension, size in enumerate(shape):
            if size > 1:
                parts += self._along(dimension, here, there[dimension])
                here[dimension] = there[dimension]
        return chain(parts)

    def gates(self, adapter: Ints) -> tuple[Ints, Ints]:
        """The node itself."""
        return adapter, np.full(len(adapter), -1)

    def bisection(self) -> float:
        """Links cut by a plane across the longest dimension."""
        longest = max(self.fabric.shape)
        if longest == 1:
            return float("nan")
        cuts = 1 if longest == 2 else 2
        return cuts * self.site.n / longest * self.fabric.link.bandwidth * self.fabric.link.efficiency

    def port_rate(self, radix: int) -> float:
        """Nodes are joined without switches."""
        return 0.0

    def _along(self, dimension: int, here: Ints, goal: Ints) -> list[Hops]:
        size = self.fabric.shape[dimension]
        start = here[dimension].copy()
        ahead = (goal - start) % size
        forward = (2 * ahead < size) | ((2 * ahead == size) & ((start % 2 == 0) | (size == 2)))
        steps = np.where(forward, ahead, size - ahead)
        first = self._first(dimension) + np.where(forward, 0, self.site.n)
        return [self._step(dimension, here, (start + np.where(forward, t, -t)) % size, first, t < steps)
                for t in range(size // 2)]  # fmt: skip

    def _step(self, dimension: int, here: Ints, position: Ints, first: Ints, active: Mask) -> Hops:
        point = [position if d == dimension else here[d] for d in range(len(here))]
        return hop(np.where(active, first + np.ravel_multi_index(point, self.fabric.shape), -1))

    def _first(self, dimension: int) -> int:
        """Number of the first forward link along a dimension."""
        before = self.fabric.shape[:dimension]
        return self.site.first_link + self.site.n * sum(_directions(size) for size in before)


def _directions(size: int) -> int:
    return min(size - 1, 2)


def build_torus(fabric: TorusFabric, site: FabricSite) -> Torus:
    """The torus of the given shape; ConfigError if it does not hold the nodes exactly."""
    shape, n = fabric.shape, prod(fabric.shape)
    if n != site.n_places:
        text = " x ".join(str(size) for size in shape)
        message = f"a torus of {text} holds {n} nodes, the cluster has {site.n_places}"
        raise ConfigError(Problem("", "fabric.shape", message, "change nodes or shape so that they match"))
    capacity = fabric.link.bandwidth * fabric.link.efficiency
    grid = site.endpoint.reshape(shape)
    groups = [uniform_links(grid[:0], grid[:0], capacity, fabric.link.latency)]
    for dimension, size in enumerate(shape):
        for step in (-1, 1)[: _directions(size)]:
            groups.append(uniform_links(grid, np.roll(grid, step, dimension), capacity, fabric.link.latency))
    return Torus(site, fabric, join_links(groups))
