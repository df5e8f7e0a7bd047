"""The border between hardware and everything above: link arrays, names and routes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from sim.cluster.blocks import VertexBlock, block_of, find_vertex
from sim.cluster.places import Places
from sim.errors import ConfigError, Problem
from sim.inputs.records import Accelerator, ClusterSpec, Node

if TYPE_CHECKING:
    from sim.cluster.fabric import Fabric
    from sim.cluster.server import Server
    from sim.cluster.servers import Servers
    from sim.cluster.storage import StorageSystem

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Routes:
    """Paths of n connections in CSR form.

    Connection i crosses links `link[start[i]:start[i+1]]`, the j-th with the share `share[j]` of its
    bytes (1 on a single path, 1/paths when sprayed or hashed over several). `latency[i]` is the sum
    of link latencies along (the mean of) its path [s]. A single path is in the order it is walked.
    """

    start: Ints  # (n+1,)
    link: Ints  # (nnz,)
    share: Floats  # (nnz,)
    latency: Floats  # (n,) s


@dataclass(frozen=True)
class Links:
    """Every directed capacity. A full-duplex cable is two links.

    capacity is payload rate: line rate times efficiency [B/s]. source and target index vertices.
    Parallel cables between two vertices are one link, so a pair of vertices names a link.
    """

    capacity: Floats  # (n_links,) B/s
    latency: Floats  # (n_links,) s
    source: Ints  # (n_links,)
    target: Ints  # (n_links,)

    @property
    def n(self) -> int:
        """Number of links."""
        return len(self.capacity)

    @property
    def nbytes(self) -> int:
        """Memory of the four arrays."""
        return self.capacity.nbytes + self.latency.nbytes + self.source.nbytes + self.target.nbytes


class Router(Protocol):
    """Routing as a strategy."""

    def routes(self, source: Ints, target: Ints, key: Ints) -> Routes:
        """Paths from accelerator `source[i]` to accelerator `target[i]`; `key[i]` feeds the hash."""

    def gates(self, accelerator: Ints) -> Ints | None:
        """Number of the switch behind each accelerator from which ways to other nodes follow from the target alone.

        None where they do not: hashed, or over another adapter than the accelerator's own.
        """

    def links_to_gate(self, accelerator: Ints) -> Ints:
        """Links from each accelerator to that switch, (n, k), padded with -1."""


@dataclass(frozen=True)
class NodeKind:
    """A kind of node in a cluster."""

    node: Node
    accelerator: Accelerator
    nodes: int  # how many there are


def node_kinds(spec: ClusterSpec) -> tuple[NodeKind, ...]:
    """Kinds of the nodes of a resolved cluster, in the order of their numbers. Raises ConfigError for names."""
    kinds = []
    for group in spec.groups:
        if isinstance(group.node, str):
            raise ConfigError(Problem("", "node", f"node {group.node!r} was not looked up"))
        accelerator = group.node.accelerator
        if isinstance(accelerator, str):
            raise ConfigError(Problem("", "node.accelerator", f"accelerator {accelerator!r} was not looked up"))
        kinds.append(NodeKind(group.node, accelerator, group.nodes))
    return tuple(kinds)


@dataclass(frozen=True)
class Cluster:
    """A built cluster: what exists, in arrays.

    Accelerators are numbered node by node (`places`). Vertices (accelerators, local switches, adapters,
    switches) are numbered once, accelerators first; names are made on demand. `speed[a]` scales the
    arithmetic of accelerator a (1 is healthy).
    """

    spec: ClusterSpec
    kinds: tuple[NodeKind, ...]  # kinds of node, in the order of their numbers
    places: Places  # which node has which accelerators
    links: Links
    speed: Floats  # (n_accelerators,)
    router: Router
    blocks: tuple[VertexBlock, ...]  # names of vertices, in vertex order
    servers: Servers  # the networks inside nodes
    fabric: Fabric | None  # the network between nodes
    storage: StorageSystem | None = None  # servers for checkpoints and training data
    _link_kinds: dict[int, str] = field(default_factory=dict, compare=False, repr=False)  # those asked for so far
    _link_names: dict[int, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def n_nodes(self) -> int:
        """Nodes of the cluster."""
        return self.places.n_nodes

    @property
    def n_accelerators(self) -> int:
        """Accelerators in the cluster."""
        return self.places.n

    @property
    def n_vertices(self) -> int:
        """Vertices: accelerators, local switches, adapters and switches."""
        return self.blocks[-1].end

    @property
    def node(self) -> Node:
        """The kind of server; where there are several, the first (`kinds` has them all)."""
        return self.kinds[0].node

    @property
    def accelerator(self) -> Accelerator:
        """The kind of accelerator; where there are several, the first."""
        return self.kinds[0].accelerator

    @property
    def server(self) -> Server:
        """The network inside a node; where there are several kinds, of the first."""
        return self.servers.kinds[0]

    def kind_of(self, accelerators: Ints) -> Ints:
        """Kind of the node of each accelerator, same shape."""
        kind: Ints = self.servers.kind[self.node_of(accelerators)]
        return kind

    def with_numbers_of(self, spec: ClusterSpec) -> Cluster:
        """The same wiring with nodes and accelerators of other power and speed: those of the resolved `spec`."""
        other = {"name": spec.name, "power": spec.power, "node": spec.node, "sources": spec.sources}
        own = self.spec.model_copy(update=other)
        return replace(self, spec=own, kinds=node_kinds(spec))

    def node_of(self, accelerators: Ints) -> Ints:
        """Node of each accelerator, same shape."""
        return self.places.node_of(accelerators)

    def local_index(self, accelerators: Ints) -> Ints:
        """Number of each accelerator inside its node, same shape."""
        return self.places.split(accelerators)[1]

    def vertex_name(self, vertex: int) -> str:
        """Name of a vertex, as "node3/gpu5", "node3/nic2", "unit0/leaf3", "spine7"."""
        return block_of(self.blocks, vertex).name(vertex)

    def node_name(self, node: int) -> str:
        """Name of a node, as "node3": what its accelerators' names begin with."""
        return self.vertex_name(int(self.places.first[node])).partition("/")[0]

    def vertex_kind(self, vertex: int) -> str:
        """Kind of a vertex: gpu (or the accelerator's kind), nvswitch, pcie, nic, leaf, spine, core, ..."""
        return block_of(self.blocks, vertex).kind

    def link_name(self, link: int) -> str:
        """Name of a link: its ends, as "node3/nic2->unit0/leaf3"."""
        name = self._link_names.get(link)
        if name is None:
            ends = int(self.links.source[link]), int(self.links.target[link])
            name = self._link_names[link] = "->".join(map(self.vertex_name, ends))
        return name

    def link_kind(self, link: int) -> str:
        """Kind of a link: the kinds of its ends, as "nic-leaf"."""
        kind = self._link_kinds.get(link)
        if kind is None:
            ends = int(self.links.source[link]), int(self.links.target[link])
            kind = self._link_kinds[link] = "-".join(map(self.vertex_kind, ends))
        return kind

    def find_accelerator(self, name: str) -> int:
        """Number of the accelerator of that name; ConfigError with the nearest names if there is none."""
        vertex = find_vertex(self.blocks, name, "accelerator")
        if vertex >= self.n_accelerators:
            last = self.vertex_name(self.n_accelerators - 1)
            message = f"{name!r} is a {self.vertex_kind(vertex)}, not an accelerator"
            raise ConfigError(Problem("", "accelerator", message, f"accelerators are named as {last}"))
        return vertex

    def find_link(self, name: str) -> int:
        """Number of the link named "source->target"; ConfigError with the nearest names if there is none."""
        ends = name.split("->")
        if len(ends) != 2:
            example = self.link_name(0) if self.links.n else "a cluster without links"
            raise ConfigError(Problem("", "link", f"{name!r} is not of the form source->target", f"as in {example}"))
        source, target = (find_vertex(self.blocks, end.strip(), "link") for end in ends)
        found = np.flatnonzero((self.links.source == source) & (self.links.target == target))
        if len(found) == 0:
            raise ConfigError(Problem("", "link", f"no link {name!r}", self._links_from(source)))
        return int(found[0])

    def _links_from(self, source: int) -> str:
        leaving = np.flatnonzero(self.links.source == source)
        names = ", ".join(self.link_name(int(link)) for link in leaving[:6])
        return f"from {self.vertex_name(source)} there is {names or 'none'}"
