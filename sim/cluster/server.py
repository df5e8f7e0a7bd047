"""The inside of a node: its links and the paths between its accelerators, as one template.

Nodes of a kind are equal, so its template is built once and numbered out (`servers.py`): link l of the n-th of them is
n * n_links + l after the first. Local vertices are the accelerators, then the node's switch, then the parts of its PCIe
(`pcie.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from sim.cluster.blocks import VertexBlock
from sim.cluster.cables import Cable, as_links, link_table
from sim.cluster.cluster import Ints, Links
from sim.cluster.pcie import PcieTree, line_rate
from sim.cluster.slice import torus_cables
from sim.errors import ConfigError, Problem
from sim.inputs.records import LocalNetwork, Node

# NVLinks between the eight V100 of a DGX-1, doubled where the pair has two: `nvidia-smi topo -m` as
# printed in "DGX-1 with Tesla V100 System Architecture" (NVIDIA WP-08437), figure 4.
CUBE_MESH_LINKS = {
    (0, 1): 1, (0, 2): 1, (0, 3): 2, (0, 4): 2, (1, 2): 2, (1, 3): 1, (1, 5): 2, (2, 3): 2,
    (2, 6): 1, (3, 7): 1, (4, 5): 1, (4, 6): 1, (4, 7): 2, (5, 6): 2, (5, 7): 1, (6, 7): 2,
}  # fmt: skip
CUBE_MESH_PORTS = 6  # NVLinks of one V100


class Numbers(NamedTuple):
    """How many nodes of a kind there are, and the first numbers of these, their accelerators and their other parts."""

    nodes: int
    node: int
    accelerator: int
    part: int


@dataclass(frozen=True)
class Server:
    """The network inside one node.

    Adapters are as many as rails: where a node has more adapters than accelerators, those of one
    accelerator are one bundle. `exit` and `entry` are the links on the way from an accelerator to its
    adapter and back, none where that way is not a bottleneck; `down` and `up` those to the memory of the host and back.
    """

    node: Node
    parts: tuple[tuple[str, int], ...]  # kinds of the local vertices behind the accelerators, and how many of each
    links: Links  # of one node, between local vertices
    path: Ints  # (accelerators, accelerators, longest path) local links, -1 where shorter
    exit: Ints  # (accelerators, longest way) local links, -1 where shorter
    entry: Ints  # (accelerators, longest way) local links, -1 where shorter
    down: Ints  # (accelerators, longest way) local links, -1 where shorter
    up: Ints  # (accelerators, longest way) local links, -1 where shorter
    adapter: Ints  # (accelerators,) adapter of each accelerator
    n_adapters: int
    adapter_rate: float  # B/s payload of one adapter or bundle, per direction

    @property
    def n_accelerators(self) -> int:
        """Accelerators in the node."""
        return self.node.accelerators

    @property
    def n_vertices(self) -> int:
        """Accelerators and switches of the node, without adapters."""
        return self.n_accelerators + sum(count for _, count in self.parts)

    @property
    def connected(self) -> bool:
        """Whether accelerators reach one another inside the node."""
        return self.node.local.kind != "none"

    def vertices(self, numbers: Numbers, local: Ints) -> Ints:
        """Cluster vertices (nodes, k) of local vertices (k,) in every node."""
        n = self.n_accelerators
        counts = np.array([n, *(count for _, count in self.parts)])
        count, first = (np.repeat(each, counts)[local] for each in (counts, np.cumsum(counts) - counts))
        begin = np.where(local < n, numbers.accelerator, numbers.part - n * numbers.nodes) + first * numbers.nodes
        vertices: Ints = begin + np.arange(numbers.nodes)[:, None] * count + (local - first)
        return vertices

    def accelerator_block(self, numbers: Numbers, kind: str) -> VertexBlock:
        """Names of the accelerators (of that kind) of all nodes."""
        shape = (numbers.nodes, self.n_accelerators)
        return VertexBlock(kind, f"node{{}}/{kind}{{}}", numbers.accelerator, shape, start=numbers.node)

    def part_blocks(self, numbers: Numbers) -> list[VertexBlock]:
        """Names of the local switches of all nodes."""
        blocks, first = [], numbers.part
        for part, count in self.parts:
            shape = (numbers.nodes, count) if count > 1 else (numbers.nodes,)
            name = f"node{{}}/{part}" + "{}" * (count > 1)
            blocks.append(VertexBlock(part, name, first, shape, start=numbers.node))
            first = blocks[-1].end
        return blocks

    def cluster_links(self, numbers: Numbers) -> Links:
        """The template's links, for all nodes."""
        links = self.links
        return Links(
            np.tile(links.capacity, numbers.nodes),
            np.tile(links.latency, numbers.nodes),
            self.vertices(numbers, links.source).reshape(-1),
            self.vertices(numbers, links.target).reshape(-1),
        )


def build_server(node: Node) -> Server:
    """The template of a node record. Raises ConfigError where its local network cannot be built."""
    n, n_adapters = node.accelerators, min(node.nics.count, node.accelerators)
    adapter = np.arange(n) * n_adapters // n
    cables, parts = _local_cables(node)
    path = _paths(n, sum(count for _, count in parts), cables)
    ports = host = np.full((n, 0), -1), np.full((n, 0), -1)
    if node.pcie is not None and line_rate(node) > 0:
        tree = PcieTree(node, node.pcie, adapter, n + len(parts), len(cables))
        if node.local.kind == "pcie":
            path = tree.paths()
        cables, parts, ports = [*cables, *tree.cables], (*parts, *tree.parts), (tree.exits(), tree.entries())
        host = tree.to_memory(), tree.from_memory()
    elif "pcie" in dict(parts):
        ports = host = _ports(n, 0)
    elif node.host.pcie_bandwidth > 0:
        ports = host = _ports(n, len(cables))
        cables += _star(n, n + len(parts), node.host.pcie_bandwidth, 0.0)
        parts = (*parts, ("pcie", 1))
    return Server(
        node=node,
        parts=parts,
        links=as_links(cables),
        path=path,
        exit=ports[0],
        entry=ports[1],
        down=host[0],
        up=host[1],
        adapter=adapter,
        n_adapters=n_adapters,
        adapter_rate=node.nics.bandwidth * node.nics.efficiency * _adapters_per_rail(node),
    )


def _adapters_per_rail(node: Node) -> int:
    """How many adapters one bundle holds, as many for each accelerator; 0 where there are none."""
    return max(1, node.nics.count // node.accelerators) if node.nics.count else 0


def without_adapters(server: Server) -> Server:
    """The same node for a network that joins accelerators, or the switch they share, directly.

    Raises ConfigError if several accelerators share no switch.
    """
    n = server.n_accelerators
    exits = np.full((n, 0), -1), np.full((n, 0), -1)
    if n > 1:
        local = server.node.local.kind
        if local not in ("switch", "pcie") or (local == "pcie" and server.node.pcie is not None):
            message = f"a torus of nodes with {n} accelerators attaches to their switch; there is none"
            raise ConfigError(Problem("", "node.local.kind", message, "use switch, or one accelerator per node"))
        exits = _ports(n, 0)
    return replace(server, exit=exits[0], entry=exits[1], adapter=np.zeros(n, np.int64), n_adapters=1)


def _local_cables(node: Node) -> tuple[list[Cable], tuple[tuple[str, int], ...]]:
    local, n = node.local, node.accelerators
    rate = local.bandwidth * local.efficiency
    if local.kind == "none" or n == 1:
        return [], ()
    if local.bandwidth <= 0:
        raise ConfigError(Problem("", "node.local.bandwidth", f"a {local.kind} network needs a bandwidth above 0"))
    if local.kind == "pcie" and node.pcie is not None:
        return [], ()
    if local.kind == "torus":
        return torus_cables(local, n, rate), ()
    if local.kind in ("switch", "pcie"):
        return _star(n, n, rate, local.latency / 2), (("nvswitch" if local.kind == "switch" else "pcie", 1),)
    return _direct(pair_widths(local, n), rate, local.latency), ()


def pair_widths(local: LocalNetwork, n: int) -> dict[tuple[int, int], float]:
    """Directly joined pairs (i < j) of n accelerators, with the share of an accelerator's rate each gets."""
    if local.kind == "mesh":
        return {(i, j): 1 / (n - 1) for i in range(n) for j in range(i + 1, n)}
    if local.kind == "ring":
        return {(0, 1): 1.0} if n == 2 else {(min(i, (i + 1) % n), max(i, (i + 1) % n)): 0.5 for i in range(n)}
    if n != 8:
        message = f"a hybrid_cube_mesh joins 8 accelerators, not {n}"
        raise ConfigError(Problem("", "node.accelerators", message, "use mesh, ring or switch"))
    return {pair: width / CUBE_MESH_PORTS for pair, width in CUBE_MESH_LINKS.items()}


def _star(n: int, centre: int, rate: float, latency: float) -> list[Cable]:
    """Accelerator to centre, then centre to accelerator: links 0..n-1 and n..2n-1."""
    up = [Cable(i, centre, rate, latency) for i in range(n)]
    return up + [Cable(centre, i, rate, latency) for i in range(n)]


def _ports(n: int, first: int) -> tuple[Ints, Ints]:
    up = np.arange(first, first + n)[:, None]
    return up, up + n


def _direct(widths: dict[tuple[int, int], float], rate: float, latency: float) -> list[Cable]:
    both = [(*ends, width) for pair, width in sorted(widths.items()) for ends in (pair, pair[::-1])]
    return [Cable(i, j, rate * width, latency) for i, j, width in both]


def _paths(n: int, n_switches: int, cables: Sequence[Cable]) -> Ints:
    """Local links of the shortest path of each pair of accelerators, wide links preferred, padded with -1."""
    leaving: list[list[int]] = [[] for _ in range(n + n_switches)]
    for k in sorted(range(len(cables)), key=lambda k: (-cables[k].capacity, k)):
        leaving[cables[k].source].append(k)
    return link_table([path for source in range(n) for path in _walks(cables, leaving, source, n)]).reshape(n, n, -1)


def _walks(cables: Sequence[Cable], leaving: Sequence[Sequence[int]], source: int, n: int) -> list[list[int]]:
    """Shortest path by hops from `source` to each of n accelerators as link numbers; [] where there is none."""
    path: dict[int, list[int]] = {source: []}
    queue = deque([source])
    while queue and len(path) < len(leaving):
        here = queue.popleft()
        for k in leaving[here]:
            if cables[k].target not in path:
                path[cables[k].target] = [*path[here], k]
                queue.append(cables[k].target)
    return [path.get(target, []) for target in range(n)]
