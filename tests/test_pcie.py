"""PCIe inside a node: which links a way crosses, what rings reach, and what is refused.

Measured all-reduces stand in experiments/collectives/pcie.yaml and are compared in test_collective_curves.py.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from cluster_cases import ACCELERATOR
from plans import small_experiment

from sim.ask.run.simulate import simulate
from sim.ask.validate.collectives import communicator
from sim.cluster.build import build_cluster
from sim.cluster.cluster import Cluster
from sim.cluster.server import Server, build_server
from sim.errors import ConfigError
from sim.inputs.load import load_definition
from sim.inputs.records import ClusterSpec, Node
from sim.units import SI

LINE = 25e9  # a board's link, of which payload reaches four fifths
PEERS, STAGED = 0.8 * LINE, 0.64 * LINE


def node(boards: int = 8, nics: int = 2, **pcie: Any) -> Node:
    """A server of PCIe boards."""
    local = {"kind": "pcie", "bandwidth": LINE, "efficiency": 0.8, "latency": 1e-6}
    record = {"name": "server", "accelerator": ACCELERATOR, "accelerators": boards, "local": local, "pcie": pcie}
    record |= {"nics": {"count": nics, "bandwidth": 12.5e9}}
    return Node.model_validate_json(json.dumps(record), context=SI)


def cluster(*arguments: Any, **pcie: Any) -> Cluster:
    """One such server."""
    return build_cluster(ClusterSpec(name="one", nodes=1, node=node(*arguments, **pcie)))


def way(server: Server, row: Any) -> list[str]:
    """Kinds of the vertices that a row of links passes."""
    kinds = ["board"] * server.n_accelerators + [kind for kind, count in server.parts for _ in range(count)]
    links = row[row >= 0]
    assert all(server.links.target[a] == server.links.source[b] for a, b in pairwise(links))
    return [kinds[server.links.source[links[0]]], *(kinds[v] for v in server.links.target[links])]


def ring(boards: int, *arguments: Any, **pcie: Any) -> float:
    """What an all-reduce over the first `boards` reaches [B/s of bus bandwidth]."""
    return communicator(cluster(*arguments, **pcie), boards, "all_reduce").rate


class TestWays:
    """Each way is a walk over the links of the template, up and down the tree."""

    def test_peers_on_one_switch_leave_it_alone(self) -> None:
        server = build_server(node(switches=2))
        assert way(server, server.path[0, 3]) == ["board", "pcie", "board"]
        assert way(server, server.path[0, 4]) == ["board", "pcie", "root", "socket", "root", "pcie", "board"]

    def test_without_peer_access_data_pass_through_memory(self) -> None:
        server = build_server(node(switches=2, peer_access="none"))
        staged = ["board", "pcie", "root", "memory", "root", "pcie", "board"]
        assert way(server, server.path[0, 3]) == way(server, server.path[0, 4]) == staged

    @pytest.mark.parametrize(("access", "memories"), [("all", 0), ("socket", 2), ("switch", 2), ("none", 2)])
    def test_sockets_are_crossed_once(self, access: str, memories: int) -> None:
        server = build_server(node(sockets=2, socket_bandwidth=2e10, peer_access=access))
        passed = way(server, server.path[1, 6])
        assert (passed.count("memory"), passed.count("socket")) == (memories, 2)

    def test_adapters_sit_at_the_switch_of_their_boards_or_at_a_root_port(self) -> None:
        at_switch, at_root = build_server(node(switches=2)), build_server(node(switches=2, adapters="root"))
        assert way(at_switch, at_switch.exit[7]) == ["board", "pcie"]
        assert way(at_root, at_root.exit[7]) == ["board", "pcie", "root", "socket"]

    def test_an_adapter_of_another_socket_is_reached_across(self) -> None:
        server = build_server(node(8, 1, sockets=2, socket_bandwidth=2e10))
        assert way(server, server.exit[7]) == ["board", "root", "socket", "socket"]
        assert way(server, server.entry[7]) == ["socket", "socket", "root", "board"]

    def test_two_ways_of_a_pair_cross_the_same_cables(self) -> None:
        server = build_server(node(6, switches=3, sockets=2, socket_bandwidth=2e10, peer_access="switch"))
        for i in range(6):
            for j in range(i):
                assert way(server, server.path[i, j]) == way(server, server.path[j, i])[::-1]

    def test_names_say_which_part_it_is(self) -> None:
        built = cluster(sockets=2, socket_bandwidth=2e10)
        assert built.find_link("node0/socket0->node0/socket1") >= 0
        assert built.find_link("node0/gpu3->node0/root3") >= 0


class TestRates:
    """A ring runs at its slowest link: capacity over the hops that cross it in that direction."""

    def test_boards_on_root_ports_of_their_own_run_at_their_links(self) -> None:
        assert ring(8) == pytest.approx(PEERS)

    def test_staging_takes_its_share_of_the_line(self) -> None:
        assert ring(8, peer_access="none") == pytest.approx(STAGED)

    def test_two_staged_boards_on_an_uplink_halve_it(self) -> None:
        """Slower than two boards on two uplinks (NVIDIA/nccl issue 1309)."""
        assert ring(2, switches=4, peer_access="none") == pytest.approx(STAGED / 2)
        assert ring(8, switches=4, peer_access="none") == pytest.approx(STAGED / 2)
        assert ring(8, switches=4) == pytest.approx(PEERS)

    def test_the_link_between_sockets_holds_a_ring_back_that_crosses_it(self) -> None:
        assert ring(8, sockets=2, socket_bandwidth=1e10) == pytest.approx(1e10)
        assert ring(4, sockets=2, socket_bandwidth=1e10) == pytest.approx(PEERS)

    def test_bridges_help_their_pair_alone(self) -> None:
        bridges = {"bandwidth": 300e9, "efficiency": 0.7}
        assert ring(2, bridges=bridges) == pytest.approx(210e9)
        assert ring(3, bridges=bridges) == pytest.approx(PEERS)

    def test_an_uplink_of_another_rate(self) -> None:
        assert ring(8, switches=2, uplink=LINE / 2) == pytest.approx(PEERS / 2)

    def test_a_plain_pcie_node_is_one_switch_as_ever(self) -> None:
        plain = node().model_copy(update={"pcie": None})
        assert communicator(build_cluster(ClusterSpec(name="one", nodes=1, node=plain)), 8, "all_reduce").rate == PEERS


class TestAdapters:
    """An accelerator has whole adapters, and as many as all others."""

    def test_seven_boards_beside_eight_adapters_use_seven(self) -> None:
        server = build_server(node(7, 8))
        assert (server.n_adapters, server.adapter_rate) == (7, 12.5e9)
        assert build_server(node(8, 32)).adapter_rate == 4 * 12.5e9

    def test_three_boards_share_two_adapters(self) -> None:
        assert build_server(node(3, 2)).adapter.tolist() == [0, 0, 1]

    def test_what_is_left_over_is_noted(self) -> None:
        seven = {"accelerators": 7, "nics": {"count": 8}}
        notes = simulate(small_experiment(nodes=2, node=seven, training={"global_batch": 14})).notes
        assert any("1 of 8 adapters" in note for note in notes)
        assert not any(
            "adapters" in note for note in simulate(small_experiment(nodes=2, training={"global_batch": 16})).notes
        )


@pytest.mark.parametrize(
    ("pcie", "key"),
    [
        ({"sockets": 2}, "cluster.node.pcie.socket_bandwidth"),
        ({"switches": 9}, "cluster.node.pcie.switches"),
        ({"sockets": 9, "socket_bandwidth": 1e9}, "cluster.node.pcie.sockets"),
    ],
)
def test_a_tree_that_cannot_be_built_is_refused(pcie: dict[str, Any], key: str) -> None:
    local = {"kind": "pcie", "bandwidth": LINE}
    with pytest.raises(ConfigError, match=key):
        small_experiment(node={"local": local, "pcie": pcie})


def test_a_tree_beside_nvlink_needs_the_rate_of_its_boards() -> None:
    with pytest.raises(ConfigError, match="a PCIe tree beside a switch"):
        small_experiment(node={"pcie": {"switches": 4}})


@pytest.mark.parametrize("name", ["pcie-8x-a100", "pcie-8x-4090", "pcie-2x-4090", "pcie-8x-l40s", "g5-48xlarge"])
def test_servers_of_the_catalogue_reach_less_than_their_line(name: str) -> None:
    spec = load_definition("cluster", name)
    assert isinstance(spec, ClusterSpec)
    built = build_cluster(spec)
    rate = communicator(built, built.node.accelerators, "all_reduce").rate
    assert 0.25 * built.node.local.bandwidth < rate < built.node.local.bandwidth
    assert np.all(built.links.capacity > 0)
