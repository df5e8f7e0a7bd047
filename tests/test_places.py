"""Nodes of different sizes: who is where, placements, groups and rings on a cluster of 8, 4, 8 and 2 accelerators."""

from __future__ import annotations

import numpy as np
import pytest
from cluster_cases import make_cluster
from plans import small_experiment

from sim.cluster.build import build_cluster
from sim.cluster.cluster import Cluster
from sim.layout.flows import collective_flows
from sim.layout.grid import place_ranks, row_of_ranks
from sim.layout.plan import build_plan
from sim.layout.transfers import peer_transfers

SIZES = [8, 4, 8, 2]


def mixed_cluster() -> Cluster:
    """Four nodes on a switch."""
    return make_cluster(nodes=4, sizes=tuple(SIZES))


def test_accelerators_are_numbered_node_by_node() -> None:
    cluster = mixed_cluster()
    every = np.arange(22)
    assert (cluster.n_nodes, cluster.n_accelerators) == (4, 22)
    node, local = cluster.places.split(every)
    assert node.tolist() == [number for number, size in enumerate(SIZES) for _ in range(size)]
    assert local.tolist() == [place for size in SIZES for place in range(size)]
    np.testing.assert_array_equal(cluster.places.at(node, local), every)
    np.testing.assert_array_equal(cluster.node_of(every), node)
    np.testing.assert_array_equal(cluster.local_index(every), local)
    assert cluster.places.sizes.tolist() == SIZES


def test_accelerators_of_some_nodes_are_as_many_as_on_average() -> None:
    assert (mixed_cluster().places.on(4), mixed_cluster().places.on(2)) == (22, 11)


def test_round_robin_passes_over_nodes_that_are_full() -> None:
    cluster = mixed_cluster()
    nodes = cluster.node_of(place_ranks("round_robin", 22, cluster, 0)).tolist()
    assert nodes == [0, 1, 2, 3] * 2 + [0, 1, 2] * 2 + [0, 2] * 4
    assert cluster.node_of(place_ranks("round_robin", 10, cluster, 0)).tolist() == [0, 1] * 4 + [0, 0]


def test_peers_are_on_the_peer_node() -> None:
    """14 ranks on two nodes of eight, one to each in turn: seven on each, which send to the seven of the other."""
    experiment = small_experiment(
        nodes=2, parallelism={"data": 14, "placement": "round_robin"}, training={"global_batch": 14}
    )
    plan = build_plan(experiment, build_cluster(experiment.setup.cluster))
    (flows, _), *others = peer_transfers(plan, np.ones(14)).flows.values()
    assert not others
    sender, receiver = plan.cluster.places.split(plan.grid.accelerator[flows.members.T.astype(np.int64)])[0]
    assert (sender + receiver == 1).all()
    assert sorted(flows.members[:, 1].tolist()) == list(range(14))


@pytest.mark.parametrize("members", [range(22), range(8, 12), [0, 1, 8, 9, 12, 13, 20, 21], [3, 11, 19, 20]])
def test_what_a_ring_sends_arrives(members: list[int]) -> None:
    """Every member sends the ring once, to a member of its own node or over an adapter of it."""
    cluster = mixed_cluster()
    grid = row_of_ranks(cluster.n_accelerators)
    flows, _ = collective_flows("gradient", grid, cluster, np.array([members]), 0)
    load = np.zeros(cluster.links.n)
    load[flows.link] = flows.coefficient
    first = cluster.servers.first_link
    for node, size in enumerate(SIZES):
        there = [m - int(cluster.places.first[node]) for m in members if cluster.node_of(np.array(m)) == node]
        local, mine = cluster.servers.kinds[node].links, load[first[node] : first[node + 1]]
        out, back = mine[local.source < size], mine[local.target < size]
        assert out.sum() == pytest.approx(back.sum())
        assert set(np.flatnonzero(out).tolist()) <= set(there) <= set(range(size))
    assert int(flows.nodes[0]) == len({int(cluster.node_of(np.array(m))) for m in members})
