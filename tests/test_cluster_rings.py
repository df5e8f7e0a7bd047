"""Ring orders inside a node use every link and no link twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from cluster_cases import make_cluster

from sim.cluster.cluster import Cluster, Floats
from sim.cluster.rings import Rings, rings_inside


def local_rings(cluster: Cluster, members: Sequence[int]) -> Rings:
    """Rings over accelerators of the first node."""
    return rings_inside(cluster.node.local.kind, members)


def ring_loads(cluster: Cluster, members: list[int]) -> Floats:
    """Bytes on each link per byte that a ring sends from each member, all rings together."""
    load = np.zeros(cluster.links.n)
    for order, share in local_rings(cluster, members):
        source, target = np.array(order), np.array([*order[1:], order[0]])
        routes = cluster.router.routes(source, target, np.zeros_like(source))
        np.add.at(load, routes.link, routes.share * share)
    return load


def ring_bandwidth(cluster: Cluster, members: list[int]) -> float:
    """Rate at which every member sends over all its rings [B/s]."""
    load = ring_loads(cluster, members)
    used = load > 0
    return float((cluster.links.capacity[used] / load[used]).min())


def test_a_switch_has_one_ring_at_port_rate() -> None:
    cluster = make_cluster()
    assert local_rings(cluster, [3, 1, 2]) == (((3, 1, 2), 1.0),)
    assert ring_bandwidth(cluster, [0, 1, 2, 3, 4, 5, 6, 7]) == 300e9


def test_the_dgx1_runs_six_rings_over_all_its_links() -> None:
    cluster = make_cluster(local="hybrid_cube_mesh")
    rings = local_rings(cluster, range(8))
    assert sum(share for _, share in rings) == pytest.approx(1)
    assert all(sorted(order) == list(range(8)) for order, _ in rings)
    load = ring_loads(cluster, list(range(8)))
    np.testing.assert_allclose(load / cluster.links.capacity, 1 / 300e9)  # every link full at the same time
    assert ring_bandwidth(cluster, list(range(8))) == pytest.approx(300e9)


@pytest.mark.parametrize(
    ("members", "links"),
    [([0, 1, 2, 3], 4), ([4, 5, 6, 7], 4), ([0, 3], 2), ([0, 1], 1), ([0, 1, 4, 5], 2)],
)
def test_parts_of_the_dgx1_run_as_many_rings_as_their_links_allow(members: list[int], links: int) -> None:
    assert ring_bandwidth(make_cluster(local="hybrid_cube_mesh"), members) == pytest.approx(links / 6 * 300e9)


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7, 8])
def test_a_mesh_packs_disjoint_rings(n: int) -> None:
    cluster = make_cluster(local="mesh", accelerators=n)
    rings = (n - 1) // 2 * 2
    assert ring_bandwidth(cluster, list(range(n))) == pytest.approx(rings / (n - 1) * 300e9)


def test_a_ring_is_walked_both_ways() -> None:
    cluster = make_cluster(local="ring", accelerators=5)
    assert local_rings(cluster, [4, 2, 0, 1, 3]) == (((0, 1, 2, 3, 4), 0.5), ((0, 4, 3, 2, 1), 0.5))
    assert ring_bandwidth(cluster, list(range(5))) == 300e9
