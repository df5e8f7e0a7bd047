"""Routes: closed forms against the graph, balance, hashing, spraying."""

from __future__ import annotations

from itertools import pairwise, permutations
from typing import Any

import numpy as np
import pytest
from cluster_cases import CASES, DETOURS, all_pairs, fat_tree, make_cluster, row, shortest, small_cases
from hypothesis import given
from hypothesis import strategies as st

from sim.cluster.cluster import Cluster, Routes
from sim.cluster.export import attachments, graph


def balances(cluster: Cluster, routes: Routes, i: int) -> tuple[list[int], list[int]]:
    """Vertices that one whole unit of the bytes leaves, and those it reaches; all others must balance."""
    left: dict[int, float] = {}
    for link, share in row(routes, i):
        for vertex, sign in ((int(cluster.links.source[link]), 1.0), (int(cluster.links.target[link]), -1.0)):
            left[vertex] = left.get(vertex, 0.0) + sign * share
    assert all(min(abs(value - whole) for whole in (-1, 0, 1)) < 1e-12 for value in left.values())
    return [v for v, value in left.items() if value > 0.5], [v for v, value in left.items() if value < -0.5]


@pytest.mark.parametrize("routing", ["d_mod_k", "ecmp", "spray"])
@pytest.mark.parametrize("case", small_cases())
def test_all_bytes_leave_the_source_and_reach_the_target(case: str, routing: str) -> None:
    cluster = make_cluster(**CASES[case], routing={"kind": routing, "queue_pairs": 7})
    routes, source, target = all_pairs(cluster)
    joined = set(attachments(cluster)) | {(v, v) for v in range(cluster.n_vertices)}
    for i, (a, b) in enumerate(zip(source.tolist(), target.tolist(), strict=True)):
        departures, arrivals = balances(cluster, routes, i)
        if a == b:
            assert departures == arrivals == []
            continue
        ends = [a, *arrivals], [*departures, b]
        assert any(all(pair in joined for pair in zip(ends[0], some, strict=True)) for some in permutations(ends[1]))


@pytest.mark.parametrize("case", [case for case in small_cases() if case not in DETOURS])
def test_routes_are_walks_of_the_graph_of_shortest_length(case: str) -> None:
    cluster = make_cluster(**CASES[case])
    routes, source, target = all_pairs(cluster)
    made, joined = graph(cluster), set(attachments(cluster))
    chips = range(cluster.n_accelerators)
    far = [shortest(cluster, made, a, relays="torus" in case) for a in chips]
    near = [shortest(cluster, made, a, relays=True) for a in chips] if cluster.server.connected else far
    for i, (a, b) in enumerate(zip(source.tolist(), target.tolist(), strict=True)):
        same_node = cluster.node_of(a) == cluster.node_of(b)
        walk = [link for link, _ in row(routes, i)]
        assert len(walk) == (near if same_node else far)[a][b]
        ends = [(int(cluster.links.source[link]), int(cluster.links.target[link])) for link in walk]
        assert all(made.has_edge(cluster.vertex_name(u), cluster.vertex_name(v)) for u, v in ends)
        assert all(p[1] == q[0] or (p[1], q[0]) in joined for p, q in pairwise(ends))


@pytest.mark.parametrize("case", small_cases())
def test_latency_is_the_mean_over_the_links(case: str) -> None:
    cluster = make_cluster(**CASES[case], routing={"kind": "spray"})
    routes, source, _ = all_pairs(cluster)
    latencies = [sum(share * cluster.links.latency[link] for link, share in row(routes, i)) for i in range(len(source))]
    np.testing.assert_allclose(routes.latency, latencies, atol=1e-15)


def names(cluster: Cluster, source: str, target: str) -> list[str]:
    a, b = (np.array([cluster.find_accelerator(name)]) for name in (source, target))
    routes = cluster.router.routes(a, b, np.zeros(1, np.int64))
    return [cluster.link_name(link) for link, _ in row(routes, 0)]


def test_a_rail_stays_on_its_leaf_inside_a_unit() -> None:
    cluster = make_cluster(**CASES["rails 2 tiers"])
    assert names(cluster, "node0/gpu2", "node1/gpu2") == ["node0/nic2->unit0/leaf2", "unit0/leaf2->node1/nic2"]


def test_two_tiers_join_rails_at_the_spines() -> None:
    cluster = make_cluster(**CASES["rails 2 tiers"])
    assert names(cluster, "node0/gpu2", "node1/gpu5") == [
        "node0/nic2->unit0/leaf2",
        "unit0/leaf2->spine1",
        "spine1->unit0/leaf5",
        "unit0/leaf5->node1/nic5",
    ]


def test_three_tiers_join_rails_and_pods_at_the_cores_of_one_plane() -> None:
    cluster = make_cluster(**CASES["rails 3 tiers"])
    assert names(cluster, "node0/gpu2", "node6/gpu2") == [
        "node0/nic2->unit0/leaf2",
        "unit0/leaf2->pod0/rail2/spine2",
        "pod0/rail2/spine2->plane2/core1",
        "plane2/core1->pod1/rail2/spine2",
        "pod1/rail2/spine2->unit3/leaf2",
        "unit3/leaf2->node6/nic2",
    ]


def test_without_a_spine_data_changes_rail_inside_the_source_node() -> None:
    cluster = make_cluster(**CASES["rail only"])
    assert names(cluster, "node0/gpu2", "node1/gpu5") == [
        "node0/gpu2->node0/nvswitch",
        "node0/nvswitch->node0/gpu5",
        "node0/nic5->switch5",
        "switch5->node1/nic5",
    ]


def test_a_modelled_host_link_is_crossed_at_both_ends() -> None:
    cluster = make_cluster(**CASES["host pcie"])
    walk = names(cluster, "node0/gpu2", "node1/gpu5")
    assert (walk[0], walk[-1]) == ("node0/gpu2->node0/pcie", "node1/pcie->node1/gpu5")
    assert cluster.links.capacity[cluster.find_link(walk[0])] == 20e9


def loads(cluster: Cluster, source: Any, target: Any, kind: str) -> np.ndarray[Any, Any]:
    """Connections on each link of a kind."""
    routes = cluster.router.routes(source, target, np.zeros_like(source))
    load = np.bincount(routes.link, routes.share, minlength=cluster.links.n)
    return load[[k for k in range(cluster.links.n) if cluster.link_kind(k) == kind]]


@pytest.mark.parametrize("rails", [False, True])
def test_d_mod_k_gives_every_uplink_the_same_under_a_shift(rails: bool) -> None:
    fabric = fat_tree(tiers=3, units_per_pod=4, nodes_per_unit=4, cores=2, rail_optimized=rails)
    cluster = make_cluster(nodes=64, fabric=fabric)
    source = np.arange(cluster.n_accelerators)
    target = (source + cluster.n_accelerators // 2) % cluster.n_accelerators
    for kind in ("leaf-spine", "spine-leaf", "spine-core", "core-spine"):
        assert len(set(loads(cluster, source, target, kind).tolist())) == 1


def ecmp_links(seed: int, pairs: int = 1, key: int = 0) -> list[int]:
    routing = {"kind": "ecmp", "seed": seed, "queue_pairs": pairs}
    cluster = make_cluster(nodes=16, fabric=fat_tree(), routing=routing)
    source = np.arange(cluster.n_accelerators // 2)
    keys = np.full_like(source, key)
    return [int(link) for link in cluster.router.routes(source, source + len(source), keys).link]


def test_ecmp_repeats_for_a_seed_and_changes_with_seed_and_key() -> None:
    assert ecmp_links(1) == ecmp_links(1)
    assert ecmp_links(1) != ecmp_links(2)
    assert ecmp_links(1) != ecmp_links(1, key=5)


def test_ecmp_collides_and_more_queue_pairs_even_it_out() -> None:
    worst = []
    for pairs in (1, 16):
        cluster = make_cluster(nodes=16, fabric=fat_tree(), routing={"kind": "ecmp", "queue_pairs": pairs})
        source = np.arange(cluster.n_accelerators)
        worst.append(loads(cluster, source, (source + 64) % 128, "leaf-spine").max())
    assert worst[0] > worst[1] > 4  # sixteen connections over four spines


def test_ecmp_ignores_which_other_connections_are_asked() -> None:
    cluster = make_cluster(nodes=8, fabric=fat_tree(), routing={"kind": "ecmp", "queue_pairs": 2})
    source, target, key = np.arange(8), np.arange(8) + 40, np.arange(8)
    together = cluster.router.routes(source, target, key)
    for i in range(8):
        alone = cluster.router.routes(source[i : i + 1], target[i : i + 1], key[i : i + 1])
        assert row(alone, 0) == row(together, i)


@given(st.sampled_from(["plain 2 tiers", "rails 3 tiers", "diamond"]), st.integers(0, 2**31))
def test_spray_shares_sum_to_one_on_every_layer(case: str, pick: int) -> None:
    cluster = make_cluster(**CASES[case], routing={"kind": "spray"})
    there = int(cluster.places.sizes[0])
    source = np.array([pick % there])
    target = np.array([cluster.n_accelerators - 1 - pick // 8 % there])
    routes = cluster.router.routes(source, target, np.zeros(1, np.int64))
    layers: dict[str, float] = {}
    for link, share in row(routes, 0):
        layers[cluster.link_kind(link)] = layers.get(cluster.link_kind(link), 0.0) + share
    expected = {kind: 3.0 - 1 for kind in layers if kind == "switch-switch"}  # two layers of the diamond
    assert layers == pytest.approx(dict.fromkeys(layers, 1.0) | expected)
