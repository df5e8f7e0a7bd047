"""What a failed switch takes down, and the cluster that is left when it takes nothing down.

Public: `switch_vertices`, `nodes_behind`, `without_switch`.
"""

from __future__ import annotations

import numpy as np

from sim.cluster.cluster import Cluster, Ints
from sim.inputs.records import ClusterSpec, FatTreeFabric, GraphFabric


def switch_vertices(cluster: Cluster) -> Ints:
    """Vertices of the switches between nodes, ascending, (n,)."""
    return _fabric_vertices(cluster, but=("node", "storage"))


def nodes_behind(cluster: Cluster) -> tuple[tuple[int, ...], ...]:
    """For each of `switch_vertices` the nodes that lose the network, or an adapter's way into it, if it fails.

    A node with one of its adapters cut off counts: a job that spans its adapters cannot go on.
    """
    switches, vertices = switch_vertices(cluster).tolist(), _fabric_vertices(cluster)
    if not switches:
        return ()
    attached = _directly_attached(cluster, vertices)
    behind = _behind(cluster, vertices, attached)
    return tuple(tuple(sorted(attached[switch] | behind.get(switch, set()))) for switch in switches)


def _fabric_vertices(cluster: Cluster, but: tuple[str, ...] = ()) -> Ints:
    blocks = cluster.fabric.blocks if cluster.fabric else ()
    ranges = [np.arange(block.first, block.end) for block in blocks if block.kind not in but]
    return np.concatenate([np.zeros(0, np.int64), *ranges])


def _directly_attached(cluster: Cluster, vertices: Ints) -> dict[int, set[int]]:
    """Nodes with an adapter that has no other neighbour than the vertex."""
    assert cluster.fabric is not None
    links, nodes = cluster.fabric.links, _node_of_adapter(cluster)
    leaving = nodes[links.source] >= 0
    adapter, target = links.source[leaving], links.target[leaving]
    alone = np.bincount(adapter, minlength=cluster.n_vertices)[adapter] == 1
    attached: dict[int, set[int]] = {vertex: set() for vertex in vertices.tolist()}
    for node, vertex in zip(nodes[adapter[alone]].tolist(), target[alone].tolist(), strict=True):
        attached[vertex].add(node)
    return attached


def _node_of_adapter(cluster: Cluster) -> Ints:
    """Node of each vertex that is an adapter, else -1, (n_vertices,)."""
    found = np.full(cluster.n_vertices, -1)
    for block in cluster.blocks:
        if block.kind == "nic":
            found[block.first : block.end] = block.start + np.arange(block.n) // block.shape[-1]
    found[found >= cluster.n_nodes] = -1
    return found


def _behind(cluster: Cluster, vertices: Ints, attached: dict[int, set[int]]) -> dict[int, set[int]]:
    """Nodes that a single vertex joins to the largest rest, by that vertex."""
    import networkx as nx

    assert cluster.fabric is not None
    links = cluster.fabric.links
    both = np.isin(links.source, vertices) & np.isin(links.target, vertices)
    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(vertices.tolist())
    graph.add_edges_from(zip(links.source[both].tolist(), links.target[both].tolist(), strict=True))
    behind = {}
    for vertex in nx.articulation_points(graph):
        rest = graph.subgraph(set(graph) - {vertex})
        parts = [set().union(*(attached[v] for v in part)) for part in nx.connected_components(rest)]
        behind[vertex] = set().union(*sorted(parts, key=lambda part: (len(part), min(part, default=-1)))[:-1])
    return behind


def without_switch(cluster: Cluster, vertex: int) -> ClusterSpec | None:
    """The cluster without a switch that others replace; None where that cannot be said.

    A fat-tree loses the share of one spine (core) in the bundles of all leaves (spines); the slowest
    part of a job that spans the cluster is what counts. A drawn graph loses the vertex.
    """
    fabric = cluster.spec.fabric
    if isinstance(fabric, FatTreeFabric):
        thinner = _thinner(fabric, cluster.vertex_kind(vertex))
    elif isinstance(fabric, GraphFabric) and fabric.nodes:
        name = cluster.vertex_name(vertex)
        nodes = tuple(node for node in fabric.nodes if node.id != name)
        links = tuple(link for link in fabric.links if name not in (link.source, link.target))
        return cluster.spec.model_copy(update={"fabric": fabric.model_copy(update={"nodes": nodes, "links": links})})
    else:
        return None
    return cluster.spec.model_copy(update={"fabric": thinner}) if thinner else None


def _thinner(fabric: FatTreeFabric, kind: str) -> FatTreeFabric | None:
    """The bundles of the other switches keep their capacity; there is one bundle less."""
    count, over = {"spine": ("spines", "leaf_oversubscription"), "core": ("cores", "spine_oversubscription")}[kind]
    n = getattr(fabric, count)
    if n < 2:
        return None
    return fabric.model_copy(update={count: n - 1, over: getattr(fabric, over) * n / (n - 1)})
