"""All nodes of a cluster: which kind each is of, and paths inside them, whatever their kinds.

Nodes of a kind follow one another. Their links come first in a cluster, node after node, and so do their adapters in
a fabric.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sim.cluster.blocks import VertexBlock
from sim.cluster.cluster import Ints, Links, Mask
from sim.cluster.hops import Hops, join_links
from sim.cluster.server import Numbers, Server


@dataclass(frozen=True, eq=False)
class Servers:
    """Templates by kind, and how many nodes there are of each."""

    kinds: tuple[Server, ...]
    nodes: tuple[int, ...]

    @cached_property  # (n_nodes,), read by every route
    def kind(self) -> Ints:
        """Kind of each node, (n_nodes,)."""
        return np.repeat(np.arange(len(self.kinds)), self.nodes)

    @cached_property  # as above
    def first_link(self) -> Ints:
        """First link of each node, and the number of all of them, (n_nodes + 1,)."""
        return self._starts([server.links.n for server in self.kinds])

    @cached_property  # as above
    def first_adapter(self) -> Ints:
        """First adapter of each node, and the number of all of them, (n_nodes + 1,)."""
        return self._starts([server.n_adapters for server in self.kinds])

    def _starts(self, counts: Sequence[int]) -> Ints:
        """First number of each node, (n_nodes + 1,), where each has as many as its kind."""
        starts = np.zeros(len(self.kind) + 1, dtype=np.int64)
        np.cumsum(np.array(counts)[self.kind], out=starts[1:])
        return starts

    @property
    def n_links(self) -> int:
        """Links inside nodes."""
        return int(self.first_link[-1])

    @cached_property  # as above
    def connected(self) -> Mask:
        """Whether the accelerators of each node reach one another inside it, (n_nodes,)."""
        return np.array([server.connected for server in self.kinds])[self.kind]

    @property
    def all_joined(self) -> bool:
        """Whether that holds of all nodes in which there are several."""
        return all(server.connected or server.n_accelerators == 1 for server in self.kinds)

    def hops(self, node: Ints, source: Ints, target: Ints) -> Hops:
        """Paths inside node[i] from its accelerator source[i] to target[i]; empty where they are the same."""
        link = self._links(node, lambda server, rows: server.path[source[rows], target[rows]])
        return Hops(link, np.ones(link.shape))

    def exits(self, node: Ints, local: Ints) -> Ints:
        """Links on the way from an accelerator of each node to its adapter, (n, k), padded with -1."""
        return self._links(node, lambda server, rows: server.exit[local[rows]])

    def entries(self, node: Ints, local: Ints) -> Ints:
        """Links on the way back, (n, k), padded with -1."""
        return self._links(node, lambda server, rows: server.entry[local[rows]])

    def downs(self, node: Ints, local: Ints) -> Ints:
        """Links on the way from an accelerator of each node to the memory of its host, (n, k), padded with -1."""
        return self._links(node, lambda server, rows: server.down[local[rows]])

    def ups(self, node: Ints, local: Ints) -> Ints:
        """Links on the way back, (n, k), padded with -1."""
        return self._links(node, lambda server, rows: server.up[local[rows]])

    def rail(self, node: Ints, local: Ints) -> Ints:
        """Number inside its node of the adapter of each accelerator, (n,)."""
        if len(self.kinds) == 1:
            return self.kinds[0].adapter[local]
        rail = np.zeros(len(node), dtype=np.int64)
        for server, rows in self._by_kind(node):
            rail[rows] = server.adapter[local[rows]]
        return rail

    def adapter(self, node: Ints, local: Ints) -> Ints:
        """Adapter of each accelerator, among all of the cluster, (n,)."""
        return self.first_adapter[node] + self.rail(node, local)

    def on_rail(self, node: Ints, rail: Ints, wanted: Ints) -> Ints:
        """Accelerator of each node on a rail: that in the place `wanted` if it is on it, else the first, (n,)."""
        if len(self.kinds) == 1:
            return wanted
        found = np.zeros(len(node), dtype=np.int64)
        for server, rows in self._by_kind(node):
            place = np.minimum(wanted[rows], server.n_accelerators - 1)
            first = np.searchsorted(server.adapter, rail[rows])
            found[rows] = np.where(server.adapter[place] == rail[rows], place, first)
        return found

    def _by_kind(self, node: Ints) -> list[tuple[Server, Ints]]:
        """Rows whose node is of each kind."""
        kind = self.kind[node]
        return [(server, np.flatnonzero(kind == number)) for number, server in enumerate(self.kinds)]

    def _links(self, node: Ints, local: Callable[[Server, Ints | slice], Ints]) -> Ints:
        """Cluster links (n, k) of what `local` says of some rows of a kind, -1 kept."""
        if len(self.kinds) == 1:
            found = local(self.kinds[0], slice(None))
        else:
            parts = [(rows, local(server, rows)) for server, rows in self._by_kind(node)]
            found = np.full((len(node), max(part.shape[1] for _, part in parts)), -1)
            for rows, part in parts:
                found[rows, : part.shape[1]] = part
        return np.where(found >= 0, found + self.first_link[node][:, None], -1)

    @cached_property  # read for each block and each list of links
    def numbers(self) -> tuple[Numbers, ...]:
        """First numbers of each kind: accelerators of all nodes first, then the other parts kind by kind."""
        node = accelerator = 0
        part = sum(server.n_accelerators * n for server, n in zip(self.kinds, self.nodes, strict=True))
        found = []
        for server, n in zip(self.kinds, self.nodes, strict=True):
            found.append(Numbers(n, node, accelerator, part))
            node, accelerator = node + n, accelerator + n * server.n_accelerators
            part += n * (server.n_vertices - server.n_accelerators)
        return tuple(found)

    def blocks(self, kinds: Sequence[str]) -> list[VertexBlock]:
        """Name blocks of the accelerators, of these kinds, and of the local switches of all nodes."""
        each = list(zip(self.kinds, self.numbers, strict=True))
        accelerators = [server.accelerator_block(n, kind) for (server, n), kind in zip(each, kinds, strict=True)]
        return [*accelerators, *(block for server, n in each for block in server.part_blocks(n))]

    def adapter_blocks(self, first: int) -> list[VertexBlock]:
        """Name blocks of the adapters, from vertex `first` on."""
        blocks = []
        for server, (n, node, *_) in zip(self.kinds, self.numbers, strict=True):
            blocks.append(VertexBlock("nic", "node{}/nic{}", first, (n, server.n_adapters), start=node))
            first = blocks[-1].end
        return blocks

    def links(self) -> Links:
        """Links inside all nodes."""
        return join_links([server.cluster_links(n) for server, n in zip(self.kinds, self.numbers, strict=True)])
