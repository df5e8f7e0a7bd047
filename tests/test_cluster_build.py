"""Capacities, sizes, degradations and refusals of built clusters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from cluster_cases import CABLE, CASES, DIAMOND, NIC_RATE, dragonfly, drawn, fat_tree, make_cluster, row, small_cases
from plans import small_experiment

from sim.cluster.build import merged
from sim.cluster.cluster import Cluster
from sim.cluster.export import graph, graphml, node_link, summary
from sim.errors import ConfigError
from sim.inputs.records import Degradation, FatTreeFabric


def capacity(cluster: Cluster, kind: str) -> float:
    """Capacity of all links of a kind together [B/s]."""
    chosen = [k for k in range(cluster.links.n) if cluster.link_kind(k) == kind]
    return float(cluster.links.capacity[chosen].sum())


@pytest.mark.parametrize("rails", [False, True])
def test_oversubscription_is_capacity_down_over_capacity_up(rails: bool) -> None:
    fabric = fat_tree(
        tiers=3, units_per_pod=3, cores=2, rail_optimized=rails, leaf_oversubscription=2, spine_oversubscription=7
    )
    cluster = make_cluster(nodes=12, fabric=fabric)
    assert capacity(cluster, "nic-leaf") == pytest.approx(12 * 8 * NIC_RATE)
    assert capacity(cluster, "nic-leaf") / capacity(cluster, "leaf-spine") == pytest.approx(2)
    assert capacity(cluster, "leaf-spine") / capacity(cluster, "spine-core") == pytest.approx(7)
    assert capacity(cluster, "core-spine") == capacity(cluster, "spine-core")
    assert summary(cluster)["bisection"] == pytest.approx(6 * 8 * NIC_RATE / 14)


@pytest.mark.parametrize("case", small_cases())
def test_every_cable_has_a_way_back_of_the_same_capacity(case: str) -> None:
    links = make_cluster(**CASES[case]).links
    there = {(a, b): c for a, b, c in zip(links.source.tolist(), links.target.tolist(), links.capacity, strict=True)}
    assert all(there[b, a] == c for (a, b), c in there.items())


def test_a_part_full_unit_keeps_its_switches() -> None:
    full, part = (make_cluster(nodes=n, fabric=fat_tree()) for n in (4, 3))
    assert capacity(full, "leaf-spine") == capacity(part, "leaf-spine")


def test_more_adapters_than_accelerators_are_bundles() -> None:
    cluster = make_cluster(**CASES["many adapters"])
    assert cluster.server.n_adapters == 2
    assert cluster.links.capacity[cluster.find_link("node0/nic1->unit0/leaf0")] == 2 * NIC_RATE


def test_a_local_network_gives_every_accelerator_its_rate() -> None:
    for case in ("cube mesh", "mesh", "ring"):
        cluster = make_cluster(**CASES[case])
        leaving = np.bincount(cluster.server.links.source, cluster.server.links.capacity)
        np.testing.assert_allclose(leaving, 300e9)


def test_sixteen_thousand_nodes_fit_in_memory_and_resize() -> None:
    fabric = fat_tree(tiers=3, rail_optimized=True, nodes_per_unit=32, units_per_pod=32, spines=32, cores=4)
    for nodes in (1, 16, 1000, 16384):
        cluster = make_cluster(nodes=nodes, fabric=fabric)
        assert cluster.links.nbytes < 60e6
        last = np.array([cluster.n_accelerators - 1])
        routes = cluster.router.routes(np.array([7]), last, np.zeros(1, np.int64))
        assert len(routes.link) == {1: 0, 16: 2, 1000: 4, 16384: 6}[nodes]
    assert cluster.n_accelerators == 131072
    assert cluster.vertex_name(131071) == "node16383/gpu7"


@pytest.mark.parametrize(
    ("nodes", "fabric", "expected"),
    [
        (65, {"kind": "torus", "shape": (4, 4, 4), "link": CABLE}, "4 x 4 x 4 holds 64 nodes, the cluster has 65"),
        (25, dragonfly(), "hold 24 nodes, the cluster has 25"),
        (3, drawn(DIAMOND, 2), "2 vertices of kind node, the cluster has 3 nodes"),
        (2, drawn([("s0", "a"), ("s1", "b")], 2), "in 2 pieces"),
        (1, drawn([("s0", "s0")], 1), "joins a vertex to itself"),
        (1, {"kind": "graph", "graphml": "missing.graphml"}, "missing.graphml: fabric.graphml: no such file"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_with_numbers(nodes: int, fabric: dict[str, Any], expected: str) -> None:
    accelerators = 1 if fabric["kind"] == "torus" else 8
    with pytest.raises(ConfigError, match=expected):
        make_cluster(nodes=nodes, fabric=fabric, accelerators=accelerators)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"local": "hybrid_cube_mesh", "accelerators": 6}, "joins 8 accelerators, not 6"),
        ({"nodes": 2, "nics": 0}, "adapters with a bandwidth"),
        ({"nodes": 4, "local": "mesh", "fabric": {"kind": "torus", "shape": (4,), "link": CABLE}}, "there is none"),
    ],
)
def test_a_node_that_cannot_be_wired_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        make_cluster(**changes)


def test_degradations_slow_what_they_name_and_nothing_else() -> None:
    slow = (
        Degradation(accelerator="node1/gpu3", factor=0.5),
        Degradation(link="node0/nic0->switch0", factor=0.25),
        Degradation(link="node1/nic2<->switch0", factor=0.1),
    )
    cluster, healthy = (make_cluster(nodes=2, degradations=d) for d in (slow, ()))
    assert {int(a): float(cluster.speed[a]) for a in np.flatnonzero(cluster.speed != 1)} == {11: 0.5}
    ratio = cluster.links.capacity / healthy.links.capacity
    assert {cluster.link_name(int(k)): float(ratio[k]) for k in np.flatnonzero(ratio != 1)} == pytest.approx(
        {"node0/nic0->switch0": 0.25, "node1/nic2->switch0": 0.1, "switch0->node1/nic2": 0.1}
    )


def test_a_degradation_of_an_unknown_part_is_refused() -> None:
    with pytest.raises(ConfigError, match="node0/gpu0 to node0/gpu7"):
        make_cluster(degradations=(Degradation(accelerator="node0/gpu8", factor=0.5),))


@pytest.mark.parametrize("case", small_cases())
def test_exports_hold_every_part(case: str) -> None:
    cluster = make_cluster(**CASES[case])
    made = graph(cluster)
    assert made.number_of_nodes() == cluster.n_vertices
    data = json.loads(json.dumps(node_link(cluster), allow_nan=False))
    read: nx.Graph[str] = nx.parse_graphml(graphml(cluster))
    for nodes, edges in ((data["nodes"], data["links"]), (read.nodes, read.edges)):
        assert (len(nodes), len(edges)) == (cluster.n_vertices, made.number_of_edges())
    assert sum(links["count"] for links in summary(cluster)["links"]) == cluster.links.n


def test_the_bisection_of_a_drawn_network_is_its_smallest_cut() -> None:
    tree = drawn([("s0", "a"), ("s1", "a"), ("a", "b"), ("b", "s2"), ("b", "s3")], 4)
    assert summary(make_cluster(nodes=4, fabric=tree))["bisection"] == 50e9


def test_parallel_edges_add_up() -> None:
    cluster = make_cluster(nodes=2, fabric=drawn([("s0", "a"), ("a", "s0"), ("a", "s1")], 2))
    assert cluster.links.capacity[cluster.find_link("s0->a")] == 100e9


@pytest.mark.parametrize("directed", [False, True])
def test_a_network_is_read_from_graphml(tmp_path: Path, directed: bool) -> None:
    made: nx.Graph[str] = nx.DiGraph() if directed else nx.Graph()
    for name in ("left", "hub", "right"):
        made.add_node(name, kind="switch" if name == "hub" else "node")
    for a, b in (("left", "hub"), ("hub", "right"), *([("hub", "left"), ("right", "hub")] if directed else [])):
        made.add_edge(a, b, bandwidth="200 Gb/s", efficiency=0.5, latency="2 us")
    path = tmp_path / "net.graphml"
    nx.write_graphml(made, path)
    cluster = make_cluster(nodes=2, fabric={"kind": "graph", "graphml": str(path)})
    link = cluster.find_link("left->hub")
    assert (cluster.links.capacity[link], cluster.links.latency[link]) == (12.5e9, 2e-6)
    routes = cluster.router.routes(np.array([0]), np.array([8]), np.zeros(1, np.int64))
    assert [cluster.link_name(k) for k, _ in row(routes, 0)] == [
        "node0/nic0->left",
        "left->hub",
        "hub->right",
        "right->node1/nic0",
    ]


def test_a_graphml_edge_without_a_unit_says_which(tmp_path: Path) -> None:
    made: nx.Graph[str] = nx.Graph()
    made.add_node("left", kind="node")
    made.add_edge("left", "hub", bandwidth="200")
    nx.write_graphml(made, tmp_path / "net.graphml")
    with pytest.raises(ConfigError, match="edge left - hub"):
        make_cluster(nodes=1, fabric={"kind": "graph", "graphml": str(tmp_path / "net.graphml")})


@pytest.mark.parametrize(
    ("link", "spines"), [("node7/nic3<->unit0/leaf3", 1), ("unit1/leaf3->spine0", 8), ("pod0/spine1<->plane1/core0", 8)]
)
def test_only_a_slow_link_above_the_leaves_keeps_spines_apart(link: str, spines: int) -> None:
    """Where flows spread evenly, a slow cable of a node is slow on its way to all spines alike."""
    fabric = {"kind": "fat_tree", "nodes_per_unit": 4, "spines": 8}
    spec = small_experiment(
        nodes=8, fabric=fabric, routing={"kind": "spray"}, training={"global_batch": 64}
    ).setup.cluster
    drawn = merged(spec, [link]).fabric
    assert isinstance(drawn, FatTreeFabric)
    assert drawn.spines == spines
