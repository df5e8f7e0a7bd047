"""Plans: every rank in one group of each kind, every pass once, placements that are placements."""

from __future__ import annotations

from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from plans import small_experiment

from sim.cluster.build import build_cluster
from sim.cluster.cluster import Cluster
from sim.inputs.records import Parallelism
from sim.layout.grid import AXES, RankGrid, build_grid, place_ranks
from sim.layout.pieces import by_stage
from sim.layout.plan import Plan, build_plan
from sim.schedule.catalogue import course_of

SIZES = st.fixed_dictionaries({name: st.integers(1, 4) for name in ("tensor", "context", "pipeline", "data")})
ORDERS = st.permutations(AXES).map(tuple)


def cluster_of(nodes: int = 4) -> Cluster:
    return build_cluster(small_experiment(nodes=nodes, parallelism={"data": 1}).setup.cluster)


BIG = cluster_of(32)


def grid_of(size: dict[str, int], order: tuple[Any, ...] = AXES, placement: Any = "packed", **experts: int) -> RankGrid:
    fields: dict[str, Any] = {**size, "order": order, "placement": placement, **experts}
    return build_grid(Parallelism(**fields), size["data"], BIG, seed=0)


def plan_of(**fields: Any) -> Plan:
    experiment = small_experiment(**fields)
    return build_plan(experiment, build_cluster(experiment.setup.cluster))


class TestGrid:
    @given(SIZES, ORDERS, st.lists(st.sampled_from(AXES), min_size=1, max_size=3, unique=True))
    def test_groups_hold_every_rank_once(self, size: dict[str, int], order: tuple[str, ...], along: list[str]) -> None:
        grid = grid_of(size, order)
        groups = grid.groups(*along)
        assert sorted(groups.ravel().tolist()) == list(range(grid.n_ranks))
        assert groups.shape[1] == np.prod([grid.size[name] for name in along])
        for name in AXES:
            places = grid.coordinate[name][groups]
            if name in along:
                assert all(len(set(row)) == grid.size[name] for row in places.tolist())
            else:
                assert (places == places[:, :1]).all()

    @given(SIZES, ORDERS)
    def test_coordinates_tell_ranks_apart(self, size: dict[str, int], order: tuple[str, ...]) -> None:
        grid = grid_of(size, order)
        places = list(zip(*(grid.coordinate[name].tolist() for name in AXES), strict=True))
        assert len(set(places)) == grid.n_ranks == np.prod(list(size.values()))
        number = sum(grid.mesh.stride[name] * grid.coordinate[name] for name in AXES)
        assert np.array_equal(number, np.arange(grid.n_ranks))

    @given(SIZES, ORDERS)
    def test_the_first_of_the_order_varies_fastest(self, size: dict[str, int], order: tuple[str, ...]) -> None:
        strides = [grid_of(size, order).mesh.stride[name] for name in order]
        assert strides[0] == 1
        assert strides == sorted(strides)

    @given(SIZES, ORDERS, st.integers(-3, 3))
    def test_neighbours_come_back_after_a_round(self, size: dict[str, int], order: tuple[str, ...], by: int) -> None:
        grid = grid_of(size, order)
        there = grid.shifted("pipeline", by)
        assert np.array_equal(there[grid.shifted("pipeline", -by)], np.arange(grid.n_ranks))
        moved = (grid.coordinate["pipeline"] + by) % grid.size["pipeline"]
        assert np.array_equal(grid.coordinate["pipeline"][there], moved)
        assert np.array_equal(grid.coordinate["data"][there], grid.coordinate["data"])

    def test_megatron_s_order(self) -> None:
        """Tensor ranks are neighbours, stages far apart (Narayanan 2021, section 3.2, takeaway 1)."""
        grid = grid_of({"tensor": 4, "context": 1, "pipeline": 2, "data": 3})
        assert grid.groups("tensor")[:2].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
        assert grid.groups("data")[0].tolist() == [0, 4, 8]
        assert grid.groups("pipeline")[0].tolist() == [0, 12]


class TestExperts:
    """Experts see the ranks of a stage anew: expert tensor, expert and expert data ranks (Megatron-Core's order)."""

    SIZE: ClassVar = {"tensor": 4, "context": 2, "pipeline": 2, "data": 3}

    @given(st.permutations(AXES).map(tuple), st.sampled_from([(1, 1), (8, 1), (2, 4), (6, 2), (24, 1), (3, 8)]))
    def test_a_stage_is_divided_whole(self, order: tuple[str, ...], parts: tuple[int, int]) -> None:
        expert, tensor = parts
        grid = grid_of(self.SIZE, order, expert=expert, expert_tensor=tensor)
        copies = 24 // (expert * tensor)
        for axis, size in (("expert", expert), ("expert_tensor", tensor), ("expert_data", copies)):
            groups = grid.groups(axis)
            assert groups.shape == (48 // size, size)
            assert sorted(groups.ravel().tolist()) == list(range(48))
            assert (np.ptp(grid.coordinate["pipeline"][groups], axis=1) == 0).all()
        for a, b in combinations(("expert", "expert_tensor", "expert_data"), 2):
            met = {
                (int(x), int(y)) for x, y in zip(grid.experts.coordinate[a], grid.experts.coordinate[b], strict=True)
            }
            assert len(met) == grid.experts.size[a] * grid.experts.size[b]

    def test_neighbours_hold_different_experts(self) -> None:
        """Of 24 ranks a stage: 8 neighbours share the experts, and each is summed with the ranks 8 and 16 further."""
        grid = grid_of(self.SIZE, expert=8)
        assert grid.groups("expert")[1].tolist() == list(range(8, 16))
        assert grid.groups("expert_data")[1].tolist() == [1, 9, 17]

    def test_the_order_may_name_experts_and_does_not_heed_it(self) -> None:
        named = grid_of(self.SIZE, ("tensor", "expert", "context", "data", "pipeline"), expert=2)
        plain = grid_of(self.SIZE, expert=2)
        assert named.size == plain.size
        np.testing.assert_array_equal(named.groups("expert"), plain.groups("expert"))


PLACEMENTS = ["packed", "round_robin", "random", "random_nodes", "fragmented"]


class TestPlacement:
    @given(st.integers(1, 32), st.sampled_from(PLACEMENTS), st.integers(0, 5))
    def test_every_rank_has_its_own_accelerator(self, n_ranks: int, placement: str, seed: int) -> None:
        cluster = cluster_of()
        where = place_ranks(placement, n_ranks, cluster, seed).tolist()
        assert len(set(where)) == n_ranks
        assert set(where) <= set(range(cluster.n_accelerators))

    @given(st.integers(1, 32))
    def test_no_placement_uses_more_nodes_than_a_packed_one(self, n_ranks: int) -> None:
        cluster = cluster_of()
        nodes = [
            len(set(cluster.node_of(place_ranks(placement, n_ranks, cluster, 1)).tolist())) for placement in PLACEMENTS
        ]
        assert nodes == [-(-n_ranks // 8)] * len(PLACEMENTS)

    def test_round_robin_goes_from_node_to_node(self) -> None:
        assert cluster_of().node_of(place_ranks("round_robin", 32, cluster_of(), 0)).tolist() == [0, 1, 2, 3] * 8

    def test_random_follows_the_seed_only(self) -> None:
        first, again, other = (place_ranks("random", 32, cluster_of(), seed).tolist() for seed in (1, 1, 2))
        assert first == again != other

    def test_shuffled_nodes_stay_whole(self) -> None:
        where = place_ranks("random_nodes", 32, cluster_of(), 3).reshape(4, 8)
        np.testing.assert_array_equal(where - where[:, :1], np.tile(np.arange(8), (4, 1)))
        nodes = (where[:, 0] // 8).tolist()
        assert sorted(nodes) == [0, 1, 2, 3] != nodes

    def test_a_fragmented_job_has_nodes_anywhere_in_the_cluster_in_their_order(self) -> None:
        cluster = cluster_of()
        found = {
            tuple(cluster.node_of(place_ranks("fragmented", 16, cluster, seed))[::8].tolist()) for seed in range(40)
        }
        assert found == {(a, b) for a in range(4) for b in range(a + 1, 4)}

    def test_named_nodes_are_filled_in_the_order_of_their_names(self) -> None:
        cluster = cluster_of()
        packed = place_ranks("packed", 12, cluster, 0, ("node3", "node1"))
        assert packed.tolist() == [*range(24, 32), *range(8, 12)]
        turns = cluster.node_of(place_ranks("round_robin", 4, cluster, 0, ("node3", "node1")))
        assert turns.tolist() == [3, 3, 3, 3]

    def test_an_explicit_list_is_taken_as_it_is(self) -> None:
        grid = grid_of({"tensor": 1, "context": 1, "pipeline": 1, "data": 3}, placement=(9, 2, 30))
        assert grid.accelerator.tolist() == [9, 2, 30]


class TestLayers:
    @given(st.integers(1, 200), st.integers(1, 16), st.integers(1, 6))
    def test_layers_are_kept_and_nearly_even(self, layers: int, stages: int, virtual: int) -> None:
        chunks = course_of("1f1b", stages, virtual).layers(layers)
        assert len(chunks) == stages * virtual
        assert sum(chunks) == layers
        assert max(chunks) - min(chunks) <= 1

    @given(st.integers(1, 200), st.integers(2, 16))
    def test_the_ends_get_no_more_than_the_middle(self, layers: int, stages: int) -> None:
        """They also hold embedding and head (Llama Team 2024, arXiv 2407.21783, section 3.3.2)."""
        chunks = course_of("1f1b", stages, 1).layers(layers)
        middle = chunks[len(chunks) // 2]
        assert chunks[0] <= middle or stages == 2
        assert chunks[-1] <= max(chunks)
        longest = [i for i, count in enumerate(chunks) if count == max(chunks)]
        assert longest == list(range(longest[0], longest[-1] + 1))

    @pytest.mark.parametrize(("pipeline", "virtual"), [(1, 1), (4, 1), (2, 3), (4, 2)])
    def test_chunks_of_a_plan_hold_the_model(self, pipeline: int, virtual: int) -> None:
        plan = plan_of(
            nodes=1,
            model={"layers": 13},
            parallelism={"pipeline": pipeline, "virtual_stages": virtual},
            training={"global_batch": 8 * 4},
        )
        assert sum(chunk.layers for chunk in plan.chunks) == 13
        assert [chunk.number for chunk in plan.chunks] == list(range(pipeline * virtual))
        assert [len(own) for own in by_stage(plan.chunks)] == [virtual] * pipeline
        assert all(chunk.stage == chunk.number % pipeline for chunk in plan.chunks)

    def test_a_tied_table_is_counted_once_on_one_stage_and_twice_on_two(self) -> None:
        """The last stage needs a copy of its own (Narayanan 2021, section 2.2)."""
        table = 32000 * 1024
        one, two = (
            sum(
                segment.parameters
                for chunk in plan_of(parallelism={"pipeline": stages}).chunks
                for segment in chunk.segments
            )
            for stages in (1, 2)
        )
        assert two - one == table


class TestFlows:
    """What groups put on links: every rank of a group sends and receives, sends know their direction."""

    def members(self, plan: Plan, kind: str) -> NDArray[np.int32]:
        return plan.flows[plan.flow_sets[kind]].members

    def test_kinds_of_group(self) -> None:
        plan = plan_of(nodes=2, parallelism={"tensor": 2, "context": 2, "pipeline": 2}, training={"global_batch": 4})
        collectives = {"tensor", "context", "gradient", "embedding"}
        assert set(plan.flow_sets) == collectives | {"forward", "backward"}
        assert self.members(plan, "gradient").shape == (4, 4)  # data 2 times context 2
        assert self.members(plan, "embedding").shape == (8, 2)

    def test_shards_and_replicas_cross(self) -> None:
        """Hybrid sharding: a shard group and a replica group have one rank in common (Zhao 2023, section 3.2.2)."""
        plan = plan_of(nodes=2, parallelism={"zero_stage": 3, "shard_group": 8}, training={"global_batch": 16})
        shards, replicas = self.members(plan, "gradient"), self.members(plan, "replica")
        assert (shards.shape, replicas.shape) == ((2, 8), (8, 2))
        for shard in shards.tolist():
            for replica in replicas.tolist():
                assert len(set(shard) & set(replica)) == 1

    @pytest.mark.parametrize(("virtual", "senders"), [(1, 4), (2, 8)])
    def test_sends_go_to_the_next_stage_and_back(self, virtual: int, senders: int) -> None:
        plan = plan_of(
            parallelism={"tensor": 4, "pipeline": 2, "virtual_stages": virtual}, training={"global_batch": 4}
        )
        forward, backward = self.members(plan, "forward"), self.members(plan, "backward")
        assert forward.shape == (senders, 2)
        assert sorted(backward.tolist()) == sorted(forward[:, ::-1].tolist())
        stage = plan.grid.coordinate["pipeline"]
        assert ((stage[forward[:, 0]] + 1) % 2 == stage[forward[:, 1]]).all()

    def test_a_ring_over_rails_loads_adapters_and_ports_by_its_channels(self) -> None:
        """Eight members a node: an adapter carries an eighth of the ring, a port the other seven eighths."""
        plan = plan_of(nodes=2, training={"global_batch": 16})
        flows = plan.flows[plan.flow_sets["gradient"]]
        kinds = [plan.cluster.link_kind(int(link)) for link in flows.link]
        load = {
            kind: {c for k, c in zip(kinds, flows.coefficient.tolist(), strict=True) if k == kind} for kind in kinds
        }
        assert load == {kind: {7 / 8} for kind in ("gpu-nvswitch", "nvswitch-gpu")} | {
            kind: {1 / 8} for kind in ("nic-switch", "switch-nic")
        }
