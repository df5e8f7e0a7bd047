"""A cluster for people and other programs: as a networkx graph, GraphML, node-link data, a summary."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.cluster.cluster import Cluster, Ints

if TYPE_CHECKING:
    import networkx as nx


def graph(cluster: Cluster) -> nx.DiGraph[str]:
    """The cluster as a directed graph over vertex names.

    Vertices have `kind` and `number`; edges have `name`, `kind`, `number`, `capacity` [B/s] and
    `latency` [s]. An edge between an accelerator and its adapter that is no bottleneck has kind
    "attached" and no capacity, which networkx takes as unlimited.
    """
    import networkx as nx  # here and not above: a summary does not wait for it

    names = [block.name(vertex) for block in cluster.blocks for vertex in range(block.first, block.end)]
    made: nx.DiGraph[str] = nx.DiGraph(name=cluster.spec.name)
    for block in cluster.blocks:
        made.add_nodes_from((names[v], {"kind": block.kind, "number": v}) for v in range(block.first, block.end))
    for a, b in attachments(cluster):
        made.add_edge(names[a], names[b], name=f"{names[a]}->{names[b]}", kind="attached", latency=0.0)
    for number, (a, b) in enumerate(zip(cluster.links.source.tolist(), cluster.links.target.tolist(), strict=True)):
        made.add_edge(names[a], names[b], number=number, **_link_data(cluster, number, f"{names[a]}->{names[b]}"))
    return made


def _link_data(cluster: Cluster, number: int, name: str) -> dict[str, Any]:
    capacity, latency = float(cluster.links.capacity[number]), float(cluster.links.latency[number])
    return {"name": name, "kind": cluster.link_kind(number), "capacity": capacity, "latency": latency}


def attachments(cluster: Cluster) -> list[tuple[int, int]]:
    """Vertex pairs, both directions, that are joined without a capacity.

    Accelerator or PCIe and adapter; accelerator and host; adapter and port of a storage server.
    """
    pairs = _adapters(cluster) | _hosts(cluster) | _ports(cluster)
    return sorted(pairs | {(b, a) for a, b in pairs})


def _adapters(cluster: Cluster) -> set[tuple[int, int]]:
    nics = [block for block in cluster.blocks if block.kind == "nic"]
    pairs: set[tuple[int, int]] = set()
    if not nics:
        return pairs
    for server, numbers, block in zip(cluster.servers.kinds, cluster.servers.numbers, nics, strict=True):
        for i, adapter in enumerate(server.adapter.tolist()):
            way = server.exit[i][server.exit[i] >= 0]
            local = int(server.links.target[way[-1]]) if len(way) else i
            vertices = server.vertices(numbers, np.array([local]))[:, 0].tolist()
            pairs |= {(v, block.first + n * server.n_adapters + adapter) for n, v in enumerate(vertices)}
    return pairs


def _hosts(cluster: Cluster) -> set[tuple[int, int]]:
    hosts = [block for block in cluster.blocks if block.kind == "host"]
    nodes = cluster.node_of(np.arange(cluster.n_accelerators)).tolist()
    return {(a, hosts[0].first + node) for a, node in enumerate(nodes)} if hosts else set()


def _ports(cluster: Cluster) -> set[tuple[int, int]]:
    by_kind = {block.kind: block for block in cluster.blocks}
    nics, ports = by_kind.get("storage-nic"), by_kind.get("storage-port")
    if nics is None or ports is None:
        return set()
    return {(nic, ports.first + (nic - nics.first) // nics.shape[1]) for nic in range(nics.first, nics.end)}


def graphml(cluster: Cluster) -> str:
    """The graph as GraphML text."""
    import networkx as nx

    return "\n".join(nx.generate_graphml(graph(cluster)))


def node_link(cluster: Cluster) -> dict[str, Any]:
    """The graph as node-link data, ready for JSON."""
    made = graph(cluster)
    return {
        "directed": True,
        "multigraph": False,
        "graph": dict(made.graph),
        "nodes": [{"id": name, **data} for name, data in made.nodes(data=True)],
        "links": [{"source": a, "target": b, **data} for a, b, data in made.edges(data=True)],
    }


def summary(cluster: Cluster) -> dict[str, Any]:
    """Counts, rates and bisection for a listing.

    vertices: count by kind. links: kind, count, rate [B/s] and latency [s] of each class of equal
    links, in link order. bisection: payload rate between halves of the nodes, one direction [B/s],
    None where there is no fabric.
    """
    fabric = cluster.fabric
    bisection = fabric.bisection() if fabric else float("nan")
    return {
        "name": cluster.spec.name,
        "nodes": cluster.n_nodes,
        "accelerators": cluster.n_accelerators,
        "accelerator": " and ".join(dict.fromkeys(kind.accelerator.name for kind in cluster.kinds)),
        "vertices": _vertex_counts(cluster),
        "links": link_classes(cluster),
        "bisection": bisection if isfinite(bisection) else None,
    }


def _vertex_counts(cluster: Cluster) -> dict[str, int]:
    counts: dict[str, int] = {}
    for block in cluster.blocks:
        counts[block.kind] = counts.get(block.kind, 0) + block.n
    return counts


def link_classes(cluster: Cluster) -> list[dict[str, Any]]:
    """Links of the same kind, rate and latency: kind, count, rate [B/s], latency [s], in link order."""
    links = cluster.links
    rows = np.stack([_blocks_of(cluster, links.source), _blocks_of(cluster, links.target)], axis=1)
    table = np.column_stack([rows, links.capacity, links.latency])
    _, first, counts = np.unique(table, axis=0, return_index=True, return_counts=True)
    return [
        {
            "kind": cluster.link_kind(link),
            "count": count,
            "rate": float(links.capacity[link]),
            "latency": float(links.latency[link]),
        }
        for link, count in sorted(zip(first.tolist(), counts.tolist(), strict=True))
    ]


def _blocks_of(cluster: Cluster, vertices: Ints) -> Ints:
    """Number of the name block each vertex is in."""
    starts = np.array([block.first for block in cluster.blocks if block.n])
    return np.searchsorted(starts, vertices, side="right").astype(np.int64)
