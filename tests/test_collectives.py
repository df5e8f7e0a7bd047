"""Collectives end to end through the engine against closed forms: ring, tree, in-network; one node and many.

Ring: Patarasuk and Yuan, JPDC 69 (2009), section 3: all-reduce moves 2 (n-1)/n of the message through
every port in 2 (n-1) steps, each half of it (reduce-scatter, all-gather) half as much.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, log2, sqrt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import Fields, job_of, run_collectives, small_experiment

from sim.ask.run.step import simulate_step
from sim.ask.validate.collectives import find_curves, predict_curve
from sim.comm.pattern import Group
from sim.comm.tree import busiest_node, tree_correction
from sim.comm.tuner import collective_cost, floor_and_ramp, send_cost
from sim.inputs.records import CollectiveTuning, Node
from sim.metrics.breakdown import rank_time
from sim.programs.ranks import Job

MIB = 2.0**20
HOP, NETWORK_HOP = 1e-6, 3e-6  # start-up per ring step inside a node and between nodes
NVLINK, NIC = 300e9, 25e9
PATH = 2e-6  # adapter, switch, adapter: 1 us each way from memory to wire
ROUNDS = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1}
RINGS_ONLY = {"tree_efficiency": 1e-3}
EXACT = 1e-9  # the engine adds the same terms in another order


def job(nodes: int, members: int, node: Fields | None = None, **others: Any) -> Job:
    """A data-parallel job over `members` accelerators of each of `nodes` nodes."""
    server = {"collectives": RINGS_ONLY, **(node or {}), "accelerators": members}
    server["nics"] = {"count": members, **server.get("nics", {})}
    return job_of(small_experiment(nodes=nodes, node=server, training={"global_batch": nodes * members}, **others))


class TestRingInOneNode:
    @pytest.mark.parametrize("kind", ROUNDS)
    @pytest.mark.parametrize("n", [2, 3, 8])
    def test_ring(self, kind: str, n: int) -> None:
        size = 64 * MIB
        expected = ROUNDS[kind] * (n - 1) * (HOP + size / n / NVLINK)
        assert run_collectives(job(1, n), [("gradient", kind, size)]) == pytest.approx(expected, rel=EXACT)

    def test_one_after_another(self) -> None:
        steps = [("gradient", "reduce_scatter", MIB), ("gradient", "all_gather", MIB)]
        both = run_collectives(job(1, 8), steps)
        assert both == pytest.approx(run_collectives(job(1, 8), [("gradient", "all_reduce", MIB)]), rel=EXACT)

    def test_floor_and_ramp(self) -> None:
        """Time = max(floor, start + ramp sqrt(S) + bytes / rate), as nccl-tests curves are fitted."""
        slow = job(1, 8, {"collectives": RINGS_ONLY | {"floor": 1e-3, "ramp": 1e-8}})
        assert run_collectives(slow, [("gradient", "all_gather", 1e3)]) == pytest.approx(1e-3, rel=EXACT)
        large = 2.0**32
        expected = 7 * HOP + 1e-8 * sqrt(large) + 7 / 8 * large / NVLINK
        assert run_collectives(slow, [("gradient", "all_gather", large)]) == pytest.approx(expected, rel=EXACT)

    def test_two_rings_of_a_cable_ring_halve_the_load(self) -> None:
        """A ring of cables carries both directions at once: half of the rate each way, half of the bytes."""
        cables = job(1, 4, {"local": {"kind": "ring", "bandwidth": NVLINK, "latency": 0.0}})
        expected = 6 * HOP + 2 * 3 / 4 * MIB / NVLINK
        assert run_collectives(cables, [("gradient", "all_reduce", MIB)]) == pytest.approx(expected, rel=EXACT)


class TestRingOverNodes:
    @pytest.mark.parametrize("kind", ROUNDS)
    @pytest.mark.parametrize("n", [2, 5, 16])
    def test_one_member_in_each_node(self, kind: str, n: int) -> None:
        size = 256 * MIB
        expected = ROUNDS[kind] * (n - 1) * (NETWORK_HOP + PATH + size / n / NIC)
        assert run_collectives(job(n, 1), [("gradient", kind, size)]) == pytest.approx(expected, rel=EXACT)

    @pytest.mark.parametrize("kind", ROUNDS)
    @pytest.mark.parametrize("nodes", [2, 4])
    def test_rails_add_up(self, kind: str, nodes: int) -> None:
        """Eight channels leave a node through eight adapters: 200 GB/s, less than a port of the switch."""
        n, size = 8 * nodes, 1024 * MIB
        between = ROUNDS[kind] * (nodes - 1)
        start = between * (NETWORK_HOP + PATH) + (ROUNDS[kind] * (n - 1) - between) * HOP
        expected = start + ROUNDS[kind] * (n - 1) / n * size / (8 * NIC)
        assert run_collectives(job(nodes, 8), [("gradient", kind, size)]) == pytest.approx(expected, rel=EXACT)

    @pytest.mark.parametrize("nic", [10e9, 25e9, 37.5e9, 50e9, 100e9])
    def test_bus_bandwidth_is_that_of_the_narrower_of_adapters_and_switch(self, nic: float) -> None:
        """A port carries 7 of 8 channels (the eighth leaves the node there), an adapter one."""
        rails = job(4, 8, {"nics": {"bandwidth": nic}})
        size = 2.0**34  # start-up is 1e-5 of the time
        seconds = run_collectives(rails, [("gradient", "all_reduce", size)])
        bus = 2 * 31 / 32 * size / seconds
        assert bus == pytest.approx(min(NVLINK * 8 / 7, 8 * nic), rel=1e-3)
        assert bus <= min(NVLINK * 8 / 7, 8 * nic)

    @pytest.mark.parametrize("adapters", [1, 2, 4])
    def test_fewer_adapters_carry_more_channels(self, adapters: int) -> None:
        shared = job(2, 8, {"nics": {"count": adapters, "bandwidth": NIC}})
        size = 2.0**32
        start = 2 * (NETWORK_HOP + PATH) + 28 * HOP
        expected = start + 2 * 15 / 16 * size / (adapters * NIC)
        assert run_collectives(shared, [("gradient", "all_reduce", size)]) == pytest.approx(expected, rel=EXACT)

    def test_an_oversubscribed_leaf_halves_the_rate_of_rings_that_cross_it(self) -> None:
        """Two nodes a leaf, 4:1: the eight channels leave a leaf once each, over 2 * 8 * 25 / 4 GB/s."""
        fabric = {"kind": "fat_tree", "nodes_per_unit": 2, "spines": 1, "leaf_oversubscription": 4.0}
        wide, narrow = job(4, 8, fabric=fabric | {"leaf_oversubscription": 1.0}), job(4, 8, fabric=fabric)
        step = [("gradient", "all_gather", 2.0**34)]
        assert run_collectives(narrow, step) == pytest.approx(2 * run_collectives(wide, step), rel=1e-3)


class TestGradientExchange:
    """The same through a whole step: replicas that sum gradients after the last backward pass."""

    @pytest.mark.parametrize(("zero_stage", "kinds"), [(0, 2), (1, 2)])
    def test_exposed_time_is_that_of_the_ring(self, zero_stage: int, kinds: int) -> None:
        """ZeRO 1 scatters and gathers: what an all-reduce does in one (Rajbhandari 2020, section 7.1)."""
        experiment = small_experiment(
            node={"collectives": RINGS_ONLY}, parallelism={"zero_stage": zero_stage},
            model={"positions": "rotary", "bias": False, "vocab": 51200},
        )  # fmt: skip
        run = simulate_step(experiment)
        weights = 4 * (12 * 1024**2 + 4 * 1024) + 51200 * 1024 + 2 * 1024
        assert sum(s.parameters for s in run.plan.chunks[0].segments) == weights
        expected = kinds * 7 * (HOP + 2 * weights / 8 / NVLINK)  # two bytes a gradient, two a weight
        assert rank_time(run.trace, 0).exposed["data_comm"] == pytest.approx(expected, rel=EXACT)

    def test_replicas_of_tensor_groups_each_use_their_own_rail(self) -> None:
        """Two nodes, tensor 8: eight all-reduces of two ranks at once, each at the rate of its adapter."""
        experiment = small_experiment(nodes=2, node={"collectives": RINGS_ONLY}, parallelism={"tensor": 8})
        run = simulate_step(experiment)
        size = 2.0 * sum(s.parameters for s in run.plan.chunks[0].segments)
        expected = 2 * (NETWORK_HOP + PATH) + size / NIC
        assert rank_time(run.trace, 0).exposed["data_comm"] == pytest.approx(expected, rel=EXACT)

    def test_two_groups_on_one_adapter_take_twice_as_long(self) -> None:
        node = {"collectives": RINGS_ONLY, "nics": {"count": 4}}
        run = simulate_step(small_experiment(nodes=2, node=node, parallelism={"tensor": 8}))
        size = 2.0 * sum(s.parameters for s in run.plan.chunks[0].segments)
        expected = 2 * (NETWORK_HOP + PATH) + 2 * size / NIC
        assert rank_time(run.trace, 0).exposed["data_comm"] == pytest.approx(expected, rel=EXACT)


TUNING = {"ring_hop": 1e-6, "ring_hop_network": 4e-6, "tree_hop": 2e-6, "tree_hop_network": 5e-6, "in_network": 8e-6}


def server(in_network: bool = False) -> Node:
    node = small_experiment().cluster.node  # type: ignore[union-attr]
    assert isinstance(node, Node)
    local = node.local.model_copy(update={"in_network_reduction": in_network, "reduction_efficiency": 0.8})
    return node.model_copy(update={"collectives": CollectiveTuning.from_si(TUNING), "local": local})


def parent(place: int, nodes: int) -> int | None:
    """The tree that NCCL builds (src/graph/trees.cc): odd places are leaves, and place 0 is the root."""
    bit = place & -place
    above = (place ^ bit) | (bit << 1)
    return None if place == 0 else above if above < nodes else place ^ bit


def busiest_of_two_trees(nodes: int) -> float:
    """Most bytes that a node sends for one byte: half goes up and down this tree, half another one.

    The second is mirrored, or shifted by one place if nodes are odd in number.
    """
    sends = [0] * nodes
    order = list(range(nodes))
    for node_at in (order, order[::-1] if nodes % 2 == 0 else order[1:] + order[:1]):
        for place, node in enumerate(node_at):
            above = parent(place, nodes)
            if above is not None:
                sends[node] += 1
                sends[node_at[above]] += 1
    return max(sends) / 2


def test_the_busiest_node_of_a_double_tree() -> None:
    counted = [busiest_of_two_trees(nodes) for nodes in range(1, 200)]
    assert counted == [busiest_node(nodes) for nodes in range(1, 200)]
    assert counted[:5] == [0, 1, 1.5, 2, 2]


def test_a_tree_over_four_nodes_against_a_run() -> None:
    """310.1 GB/s of bus bandwidth at 4 GiB on four P5en instances (stas00/ml-engineering, network/README.md).

    With the mean of all nodes, 2 (N-1)/N, it would be 436.
    """
    found = next(each for each in find_curves() if each.curve.name == "p5en-h200-32")
    forced = replace(found, curve=found.curve.model_copy(update={"algorithm": "tree", "rows": ((2**32, 310.1),)}))
    (point,) = predict_curve(forced).points
    assert point.predicted == pytest.approx(point.measured, rel=0.06)


class TestChoice:
    """NCCL takes the algorithm with the least start-up plus transfer (src/graph/tuning.cc)."""

    def test_small_messages_take_the_tree_and_large_ones_the_ring(self) -> None:
        group = Group(size=512, nodes=64, hop_latency=2e-6, network_rate=200e9)
        small, large = (collective_cost("all_reduce", size, group, server()) for size in (1e4, 1e10))
        assert (small.algorithm, large.algorithm) == ("tree", "ring")
        assert small.latency == pytest.approx(2 * (7 * 2e-6 + 6 * 7e-6))

    def test_in_network_reduction_moves_half(self) -> None:
        """S (1 + 1/n) through a port instead of 2 S (n-1)/n (NVIDIA NVLS; Klenk et al., ISCA 2020)."""
        group = Group(size=8, nodes=1, hop_latency=0.0, local_rate=300e9)
        cost = collective_cost("all_reduce", 1e9, group, server(in_network=True))
        assert (cost.algorithm, cost.latency) == ("in_network", 8e-6)
        assert cost.size == pytest.approx(1e9 * (1 + 1 / 8) / 0.8)

    def test_in_network_reduction_ends_at_the_node(self) -> None:
        group = Group(size=16, nodes=2, hop_latency=1e-6, local_rate=300e9, network_rate=300e9)
        assert collective_cost("all_reduce", 1e9, group, server(in_network=True)).algorithm != "in_network"

    @pytest.mark.parametrize("kind", ["all_gather", "reduce_scatter"])
    def test_half_collectives_are_rings(self, kind: str) -> None:
        group = Group(size=512, nodes=64, hop_latency=2e-6, network_rate=200e9)
        assert collective_cost(kind, 1e3, group, server(in_network=True)).algorithm == "ring"

    def test_a_tree_over_two_nodes_beats_the_wire(self) -> None:
        """Between two nodes a tree sends the message once, where a ring sends it 1.875 times."""
        group = Group(size=16, nodes=2, hop_latency=0.0, local_rate=400e9, network_rate=200e9)
        cost = collective_cost("all_reduce", 1e10, group, server(in_network=True))
        assert cost.algorithm == "tree"
        assert cost.size / group.rate == pytest.approx(1e10 / 200e9 / 0.92)

    def test_without_switches_that_add_two_nodes_take_the_ring(self) -> None:
        """NCCL expects at most 23.6 GB/s a channel of a tree on Ampere, less than its ring has."""
        group = Group(size=16, nodes=2, hop_latency=0.0, local_rate=400e9, network_rate=200e9)
        assert collective_cost("all_reduce", 1e10, group, server()).algorithm == "ring"

    def test_from_three_nodes_on_the_tuner_takes_tree_traffic_for_ring_traffic(self) -> None:
        """Forced, a tree over three nodes is quicker than the ring; NCCL takes the ring (NVIDIA/nccl issue 1801).

        234.4 GB/s over three partitions of four: 1.54 times the message leave the busiest of them.
        """
        group = Group(size=12, nodes=3, hop_latency=0.0, local_rate=700e9, network_rate=200e9)
        chosen, forced = (
            collective_cost("all_reduce", 1e11, group, server(), a) for a in (("ring", "tree"), ("tree",))
        )
        assert (chosen.algorithm, forced.algorithm) == ("ring", "tree")
        assert forced.size / chosen.size == pytest.approx(1.5 / (2 * 11 / 12) / 0.92)

    def test_a_tree_inside_narrow_nodes_is_held_back_by_their_ports(self) -> None:
        group = Group(size=16, nodes=2, hop_latency=0.0, local_rate=100e9, network_rate=200e9)
        cost = collective_cost("all_reduce", 1e10, group, server(), ("tree",))
        assert cost.size / group.rate == pytest.approx(2 * 15 / 16 * 1e10 / 100e9 / 0.92)

    def test_the_tuner_expects_less_of_trees_in_the_middle(self) -> None:
        assert [tree_correction(size) for size in (1.0, 64 * 1024, 2**20, 2**26, 2**30)] == [1.0, 0.6, 0.6, 0.9, 1.0]

    def test_between_nodes_floor_and_ramp_are_their_own(self) -> None:
        tuning = CollectiveTuning.from_si(
            {"floor": 1e-6, "ramp": 1e-9, "floor_network": 5e-6, "ramp_network": 2e-9, "ramp_limit_network": 1e-5}
        )
        assert floor_and_ramp(tuning, 1, 1e6) == pytest.approx((1e-6, 1e-6))
        assert floor_and_ramp(tuning, 2, 1e6) == pytest.approx((5e-6, 2e-6))
        assert floor_and_ramp(tuning, 2, 1e10) == pytest.approx((5e-6, 1e-5))
        same = CollectiveTuning.from_si({"floor": 1e-6, "ramp": 1e-9})
        assert floor_and_ramp(same, 2, 1e6) == pytest.approx((1e-6, 1e-6))

    @given(
        size=st.floats(1.0, 1e11),
        nodes=st.integers(1, 64),
        width=st.integers(1, 8),
        rate=st.floats(1e9, 1e12),
        in_network=st.booleans(),
    )
    def test_the_choice_is_that_of_the_tuner(
        self, size: float, nodes: int, width: int, rate: float, in_network: bool
    ) -> None:
        """The least of start and believed bytes; ports wide enough not to matter between nodes."""
        n, node = nodes * width, server(in_network)
        if n < 2:
            return
        group = Group(n, nodes, 2e-6, local_rate=rate) if nodes == 1 else Group(n, nodes, 2e-6, 1e18, rate)
        cost = collective_cost("all_reduce", size, group, node)
        moved = 2 * size * (n - 1) / n / rate
        levels = ceil(log2(nodes)) if nodes > 1 else 0
        tree_start = 2 * ((width - 1) * 2e-6 + levels * 7e-6)
        tree = moved if nodes == 1 else size * busiest_of_two_trees(nodes) / rate
        expected = tree if nodes == 1 or (nodes == 2 and in_network) else moved
        believed = {"ring": 2 * (nodes - 1) * 6e-6 + 2 * (n - nodes) * 1e-6 + moved}
        if n > 2:
            believed["tree"] = tree_start + expected / 0.92 / tree_correction(size)
            if in_network and nodes == 1:
                believed["in_network"] = 8e-6 + size * (1 + 1 / n) / 0.8 / rate
        assert believed[cost.algorithm] == pytest.approx(min(believed.values()), rel=EXACT)
        actual = tree_start + tree / 0.92 if cost.algorithm == "tree" else believed[cost.algorithm]
        assert cost.latency + cost.size / group.rate == pytest.approx(actual, rel=EXACT)

    def test_a_send_is_one_hop(self) -> None:
        near, far = send_cost(1e6, 1, 1e-6, server()), send_cost(1e6, 2, 3e-6, server())
        assert [near.latency, far.latency] == pytest.approx([2e-6, 7e-6])
        assert near.size == far.size == 1e6

    def test_choice_is_the_engine_s(self) -> None:
        """Through the engine: a tree over 16 nodes for a small message, quicker than the ring."""
        node = {"collectives": {"tree_hop_network": 5e-6, "tree_efficiency": 0.92}, "accelerators": 1}
        both = job_of(small_experiment(nodes=16, node=node | {"nics": {"count": 1}}, training={"global_batch": 16}))
        expected = 2 * 4 * (5e-6 + PATH) + 2 * 1e4 / 0.92 / NIC
        assert run_collectives(both, [("gradient", "all_reduce", 1e4)]) == pytest.approx(expected, rel=EXACT)
