"""Clusters for the tests, small enough to compare with networkx, and the oracle itself."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import networkx as nx
import numpy as np

from sim.cluster.build import build_cluster
from sim.cluster.cluster import Cluster, Routes
from sim.inputs.records import ClusterSpec, Degradation
from sim.units import SI

ACCELERATOR = {
    "name": "chip",
    "matrix": {"peak": {"bf16": 3e14}},
    "memory": {"capacity": 8e10, "bandwidth": 2e12},
    "power": {"tdp": 400},
    "sources": {},
}
NIC_RATE = 25e9
LOCAL_RATE = 300e9
SWITCH_FABRIC = {"kind": "switch"}
CABLE = {"bandwidth": 50e9, "latency": 1e-6}


def fat_tree(**changes: Any) -> dict[str, Any]:
    """A small fat-tree: two nodes a unit, four spines."""
    return {"kind": "fat_tree", "nodes_per_unit": 2, "spines": 4} | changes


def dragonfly(**changes: Any) -> dict[str, Any]:
    """Four groups of three routers of two nodes."""
    size = {"groups": 4, "routers_per_group": 3, "nodes_per_router": 2}
    return {"kind": "dragonfly", "local_link": CABLE, "global_link": CABLE} | size | changes


def drawn(edges: list[tuple[str, str]], servers: int) -> dict[str, Any]:
    """An explicit graph; names that start with s are servers."""
    names = list(dict.fromkeys(name for edge in edges for name in edge))
    nodes = [{"id": name, "kind": "node" if name.startswith("s") else "switch"} for name in names]
    assert sum(node["kind"] == "node" for node in nodes) == servers
    links = [{"source": a, "target": b, "bandwidth": 50e9, "latency": 1e-6} for a, b in edges]
    return {"kind": "graph", "nodes": nodes, "links": links}


DIAMOND = [("s0", "a"), ("s1", "d"), ("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]

CASES: dict[str, dict[str, Any]] = {
    "one node": {"nodes": 1, "fabric": None},
    "switch": {"nodes": 3, "fabric": SWITCH_FABRIC},
    "plain 2 tiers": {"nodes": 5, "fabric": fat_tree()},
    "rails 2 tiers": {"nodes": 5, "fabric": fat_tree(rail_optimized=True)},
    "plain 3 tiers": {"nodes": 9, "fabric": fat_tree(tiers=3, units_per_pod=2, cores=3)},
    "rails 3 tiers": {"nodes": 9, "fabric": fat_tree(tiers=3, units_per_pod=2, cores=3, rail_optimized=True)},
    "shared adapters": {"nodes": 4, "nics": 2, "fabric": fat_tree(rail_optimized=True)},
    "many adapters": {"nodes": 4, "accelerators": 2, "nics": 4, "fabric": fat_tree()},
    "pcie": {"nodes": 4, "local": "pcie", "nics": 1, "fabric": fat_tree()},
    "host pcie": {"nodes": 4, "host_rate": 20e9, "fabric": fat_tree()},
    "torus of chips": {"nodes": 24, "accelerators": 1, "local": "none", "nics": 0,
                       "fabric": {"kind": "torus", "shape": [4, 3, 2], "link": CABLE}},
    "torus of servers": {"nodes": 5, "accelerators": 4, "fabric": {"kind": "torus", "shape": [5], "link": CABLE}},
    "diamond": {"nodes": 2, "accelerators": 2, "nics": 1, "fabric": drawn(DIAMOND, 2)},
    "cube mesh": {"nodes": 2, "local": "hybrid_cube_mesh", "nics": 4, "fabric": fat_tree()},
    "mesh": {"nodes": 2, "accelerators": 4, "local": "mesh", "fabric": fat_tree()},
    "ring": {"nodes": 2, "accelerators": 5, "local": "ring", "fabric": fat_tree()},
    "rail only": {"nodes": 3, "fabric": {"kind": "switch", "rail_optimized": True}},
    "dragonfly": {"nodes": 20, "fabric": dragonfly()},
    "mixed, one switch": {"nodes": 4, "sizes": (8, 4, 8, 2)},
    "mixed, plain": {"nodes": 5, "sizes": (4, 8, 2, 8, 1), "host_rate": 20e9, "fabric": fat_tree()},
    "mixed, rails": {"nodes": 5, "sizes": (4, 8, 2, 8, 4), "fabric": fat_tree(tiers=3, cores=3, rail_optimized=True)},
    "mixed, rails apart": {"nodes": 3, "nics": 4, "sizes": (4, 8, 4),
                           "fabric": {"kind": "switch", "rail_optimized": True}},
    "mixed dragonfly": {"nodes": 5, "sizes": (4, 8, 2, 8, 4), "fabric": dragonfly()},
    "mixed diamond": {"nodes": 2, "sizes": (2, 4), "nics": 1, "fabric": drawn(DIAMOND, 2)},
    "no local network": {"nodes": 2, "accelerators": 2, "local": "none", "fabric": SWITCH_FABRIC},
}  # fmt: skip
DETOURS = {"rail only", "dragonfly", "mixed, rails apart", "mixed dragonfly"}  # longer routes than the shortest


def small_cases() -> list[str]:
    """All cases."""
    return list(CASES)


def make_cluster(
    nodes: int = 1,
    fabric: dict[str, Any] | None = None,
    accelerators: int = 8,
    local: str = "switch",
    nics: int | None = None,
    host_rate: float = 0.0,
    routing: dict[str, Any] | None = None,
    degradations: tuple[Degradation, ...] = (),
    sizes: tuple[int, ...] = (),
) -> Cluster:
    """A cluster of round numbers: 300 GB/s local, 25 GB/s adapters, 1 us each way to the wire.

    sizes: accelerators of each node, where each is of a kind of its own.
    """

    def node(accelerators: int) -> dict[str, Any]:
        return {
            "name": "server",
            "accelerator": ACCELERATOR,
            "accelerators": accelerators,
            "local": {"kind": local, "bandwidth": LOCAL_RATE, "latency": 2e-6},
            "nics": {"count": accelerators if nics is None else nics, "bandwidth": NIC_RATE, "latency": 1e-6},
            "host": {"pcie_bandwidth": host_rate},
        }

    kinds = [{"node": node(size), "nodes": 1} for size in sizes] or node(accelerators)
    fabric = fabric or (SWITCH_FABRIC if nodes > 1 else None)
    data = {"name": "case", "nodes": nodes, "node": kinds, "fabric": fabric, "routing": routing or {}}
    return build_cluster(ClusterSpec.model_validate_json(json.dumps(data), context=SI), degradations)


def with_node(cluster: Cluster, **changes: Any) -> Cluster:
    """A cluster with changed fields of its kinds of node, on which no link depends."""
    kinds = tuple(replace(kind, node=kind.node.model_copy(update=changes)) for kind in cluster.kinds)
    return replace(cluster, kinds=kinds)


def all_pairs(cluster: Cluster) -> tuple[Routes, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Routes of every ordered pair of accelerators, with the pairs."""
    source, target = (ends.reshape(-1) for ends in np.indices((cluster.n_accelerators, cluster.n_accelerators)))
    return cluster.router.routes(source, target, np.zeros_like(source)), source, target


def row(routes: Routes, i: int) -> list[tuple[int, float]]:
    """Links and shares of one connection."""
    span = slice(int(routes.start[i]), int(routes.start[i + 1]))
    return list(zip(routes.link[span].tolist(), routes.share[span].tolist(), strict=True))


def shortest(cluster: Cluster, made: nx.DiGraph[str], source: int, relays: bool) -> dict[int, int]:
    """Links of the shortest walk from an accelerator to every vertex; attached edges count nothing.

    Without relays no other accelerator passes anything on; with relays adapters are left out.
    """
    if relays:
        inside = [(a, b) for a, b, data in made.edges(data=True) if data["kind"] != "attached"]
        made = made.edge_subgraph(inside)
    else:
        others = [cluster.vertex_name(a) for a in range(cluster.n_accelerators) if a != source]
        made = made.copy()
        made.remove_edges_from(list(made.out_edges(others)))
    lengths = nx.single_source_dijkstra_path_length(
        made, cluster.vertex_name(source), weight=lambda a, b, data: int(data["kind"] != "attached")
    )
    return {made.nodes[name]["number"]: int(length) for name, length in lengths.items()}
