"""Networks that the user draws: node-link lists in the definition, or a GraphML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from sim.cluster.blocks import VertexBlock
from sim.cluster.choice import hash_paths
from sim.cluster.cluster import Ints, Links
from sim.cluster.fabric import FabricSite, adapter_links
from sim.cluster.hops import Hops, chain, hop, join_links
from sim.errors import ConfigError, Problem
from sim.inputs.named_files import read_named
from sim.inputs.records import GraphFabric
from sim.units import DATA_RATE, TIME, Dimension, QuantityError, parse_fraction, parse_quantity, spell_quantity

Step = tuple[int, float]  # link and share
KINDS = ("node", "storage", "switch")  # of vertices, in the order they are numbered


@dataclass(frozen=True)
class Drawn:
    """An explicit graph; links: adapters up, down; then each edge there and back.

    Vertices are the servers in order of appearance, then the switches. Routes are shortest by hops;
    among equal ones, numbered in vertex order, the destination or a hash chooses, or all are used.
    """

    site: FabricSite
    graph: nx.Graph[int]  # local vertices; edges know their links there and back
    blocks: tuple[VertexBlock, ...]
    links: Links
    rails_joined: bool = True
    _towards: dict[int, tuple[dict[int, int], dict[int, int]]] = field(default_factory=dict, repr=False)

    def hops(self, source: Ints, target: Ints, key: Ints) -> Hops:
        """Paths by breadth-first search, one connection at a time."""
        here, there = self.site.place[source], self.site.place[target]
        rows = self._rows(source, target, here, there, key)
        longest = max((len(row) for row in rows), default=0)
        link, share = np.full((len(rows), longest), -1, np.int64), np.ones((len(rows), longest))
        for i, row in enumerate(rows):
            link[i, : len(row)] = [step[0] for step in row]
            share[i, : len(row)] = [step[1] for step in row]
        first = self.site.first_link
        return chain([hop(first + source), Hops(link, share), hop(first + self.site.n + target)])

    def gates(self, adapter: Ints) -> None:
        """Not known: ways over any graph may part anywhere."""

    def bisection(self) -> float:
        """Largest flow from the first half of the servers to the second."""
        flow: nx.DiGraph[Any] = nx.DiGraph()
        for a, b, data in self.graph.edges(data=True):
            flow.add_edge(a, b, capacity=data["capacity"])
            flow.add_edge(b, a, capacity=data["capacity"])
        half = self.site.n_hosts // 2
        flow.add_edges_from(("from", server) for server in range(half))
        flow.add_edges_from((server, "to") for server in range(half, self.site.n_hosts))
        return float(nx.maximum_flow_value(flow, "from", "to")) if half else float("nan")

    def port_rate(self, radix: int) -> float:
        """Ends of all edges at switches, as drawn: there are exactly the nodes it was drawn for."""
        first = min(block.first for block in self.blocks)
        switched = self.links.source >= first
        return float(self.links.capacity[switched].sum()) / self.site.payload

    def _rows(self, source: Ints, target: Ints, here: Ints, there: Ints, key: Ints) -> list[list[Step]]:
        ends = list(zip(here.tolist(), there.tolist(), strict=True))
        if self.site.routing.kind == "spray":
            return [self._sprayed(a, b) for a, b in ends]
        counts = np.array([self._paths_to(b)[1][a] for a, b in ends], np.int64)
        if self.site.routing.kind == "d_mod_k":
            chosen = (target % counts)[:, None]
        else:
            chosen = hash_paths(self.site.routing, source, target, key, counts)
        return [
            [(link, 1 / len(paths)) for path in paths for link in self._numbered(a, b, path)]
            for (a, b), paths in zip(ends, chosen.tolist(), strict=True)
        ]

    def _paths_to(self, target: int) -> tuple[dict[int, int], dict[int, int]]:
        """Hops to the target and number of shortest paths, by vertex."""
        if target not in self._towards:
            hops = dict(nx.single_source_shortest_path_length(self.graph, target))
            counts = {target: 1}
            for vertex in sorted(hops, key=lambda v: (hops[v], v)):
                nearer = (counts[w] for w in self.graph[vertex] if hops[w] == hops[vertex] - 1)
                counts.setdefault(vertex, sum(nearer))
            self._towards[target] = hops, counts
        return self._towards[target]

    def _next(self, vertex: int, target: int) -> list[int]:
        hops = self._paths_to(target)[0]
        return sorted(w for w in self.graph[vertex] if hops[w] == hops[vertex] - 1)

    def _numbered(self, vertex: int, target: int, number: int) -> list[int]:
        """Links of the number-th shortest path."""
        links = []
        while vertex != target:
            for neighbour in self._next(vertex, target):
                ways = self._paths_to(target)[1][neighbour]
                if number < ways:
                    break
                number -= ways
            links.append(self._link(vertex, neighbour))
            vertex = neighbour
        return links

    def _sprayed(self, source: int, target: int) -> list[Step]:
        """Links of all shortest paths, each with the share of the paths that cross it."""
        counts = self._paths_to(target)[1]
        reached, steps = {source: 1.0}, []
        while set(reached) != {target}:
            behind: dict[int, float] = {}
            for vertex, share in sorted(reached.items()):
                for neighbour in self._next(vertex, target):
                    part = share * counts[neighbour] / counts[vertex]
                    steps.append((self._link(vertex, neighbour), part))
                    behind[neighbour] = behind.get(neighbour, 0.0) + part
            reached = behind
        return steps

    def _link(self, source: int, target: int) -> int:
        edge = 2 * int(self.graph.edges[source, target]["number"]) + (source > target)
        return self.site.first_link + 2 * self.site.n + edge


@dataclass(frozen=True)
class _Vertex:
    name: str
    kind: str  # node, storage or switch


@dataclass(frozen=True)
class _Edge:
    source: str
    target: str
    capacity: float
    latency: float


def build_drawn(fabric: GraphFabric, site: FabricSite) -> Drawn:
    """The network of a node-link list or a GraphML file.

    Raises ConfigError if ends are unknown, servers do not match the nodes, or it is in pieces.
    """
    vertices, edges = _read_graphml(fabric.graphml) if fabric.graphml else _read_lists(fabric)
    _check_servers(vertices, site)
    blocks: list[VertexBlock] = []
    for kind in KINDS:
        names = tuple(vertex.name for vertex in vertices if vertex.kind == kind)
        if names or kind != "storage":
            blocks.append(VertexBlock(kind, "", blocks[-1].end if blocks else site.first_vertex, (len(names),), names))
    every = [name for block in blocks for name in block.names]
    graph = _graph(every, edges)
    _check_joined(graph, every)
    up = adapter_links(site, site.first_vertex + site.place, None)
    return Drawn(site, graph, tuple(blocks), join_links([up, _edge_links(graph, site.first_vertex)]))


def _read_lists(fabric: GraphFabric) -> tuple[list[_Vertex], list[_Edge]]:
    vertices = [_Vertex(node.id, node.kind) for node in fabric.nodes]
    return vertices, [_Edge(e.source, e.target, e.bandwidth * e.efficiency, e.latency) for e in fabric.links]


def _read_graphml(path: str) -> tuple[list[_Vertex], list[_Edge]]:
    """Vertices with `kind` (node, storage or switch) and edges with `bandwidth`, `efficiency` and `latency`."""
    content = BytesIO(read_named(Path(path), "fabric.graphml"))
    try:
        graph = nx.read_graphml(content)
    except (nx.NetworkXException, SyntaxError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"cannot read it as GraphML: {error or type(error).__name__}"
        raise ConfigError(Problem(path, "fabric.graphml", reason)) from None
    if graph.is_directed():  # a cable drawn in both directions is one cable
        graph = nx.DiGraph(graph).to_undirected()
    vertices = [_Vertex(str(name), _kind(data)) for name, data in graph.nodes(data=True)]
    return vertices, [_graphml_edge(str(a), str(b), data) for a, b, data in graph.edges(data=True)]


def _kind(data: dict[str, Any]) -> str:
    return str(data["kind"]) if data.get("kind") in KINDS else "switch"


def _graphml_edge(source: str, target: str, data: dict[str, Any]) -> _Edge:
    """An edge whose quantities are texts with units, or plain numbers in SI."""
    try:
        bandwidth = _quantity(data.get("bandwidth", 0), DATA_RATE)
        efficiency = parse_fraction(data.get("efficiency", 1))
        latency = _quantity(data.get("latency", 0), TIME)
    except QuantityError as error:
        raise ConfigError(Problem("", "fabric.graphml", f"edge {source} - {target}: {error}")) from None
    if bandwidth * efficiency == 0:
        raise ConfigError(Problem("", "fabric.graphml", f"edge {source} - {target} has no bandwidth"))
    return _Edge(source, target, bandwidth * efficiency, latency)


def _quantity(value: object, dimension: Dimension) -> float:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return parse_quantity(spell_quantity(float(str(value)), dimension) if plain else value, dimension)


def _check_servers(vertices: Sequence[_Vertex], site: FabricSite) -> None:
    for kind, wanted, what in (("node", site.n_hosts, "nodes"), ("storage", site.guests, "storage servers on it")):
        n = sum(vertex.kind == kind for vertex in vertices)
        if n != wanted:
            message = f"the graph has {n} vertices of kind {kind}, the cluster has {wanted} {what}"
            raise ConfigError(Problem("", "fabric.nodes", message, f"change {what} or the graph so that they match"))
    names = [vertex.name for vertex in vertices]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(Problem("", "fabric.nodes", f"vertices named twice: {', '.join(twice)}"))


def _graph(names: Sequence[str], edges: Sequence[_Edge]) -> nx.Graph[int]:
    """The graph over local numbers; parallel edges add up."""
    number = {name: i for i, name in enumerate(names)}
    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(range(len(names)))
    for edge in edges:
        _check_ends(edge, number)
        a, b = sorted((number[edge.source], number[edge.target]))
        if graph.has_edge(a, b):
            graph.edges[a, b]["capacity"] += edge.capacity
        else:
            graph.add_edge(a, b, capacity=edge.capacity, latency=edge.latency, number=graph.number_of_edges())
    return graph


def _check_ends(edge: _Edge, known: dict[str, int]) -> None:
    unknown = [end for end in (edge.source, edge.target) if end not in known]
    if unknown or edge.source == edge.target:
        what = f"{unknown[0]!r} is not a vertex" if unknown else "joins a vertex to itself"
        raise ConfigError(Problem("", "fabric.links", f"edge {edge.source} - {edge.target}: {what}"))


def _check_joined(graph: nx.Graph[int], names: Sequence[str]) -> None:
    pieces = [sorted(piece) for piece in nx.connected_components(graph)]
    if len(pieces) > 1:
        apart = ", ".join(names[piece[0]] for piece in pieces[:4])
        message = f"the graph is in {len(pieces)} pieces; vertices of different pieces: {apart}"
        raise ConfigError(Problem("", "fabric.links", message, "add the missing links"))


def _edge_links(graph: nx.Graph[int], first: int) -> Links:
    """Each edge from its lower to its higher vertex, then back."""
    edges = sorted(graph.edges(data=True), key=lambda edge: edge[2]["number"])
    low = np.array([min(a, b) for a, b, _ in edges], np.int64) + first
    high = np.array([max(a, b) for a, b, _ in edges], np.int64) + first
    capacity = np.repeat([float(data["capacity"]) for *_, data in edges], 2)
    latency = np.repeat([float(data["latency"]) for *_, data in edges], 2)
    return Links(capacity, latency, np.stack([low, high], 1).reshape(-1), np.stack([high, low], 1).reshape(-1))
