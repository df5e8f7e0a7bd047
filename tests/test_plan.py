"""Plans: every rank in one group of each kind, every pass once, placements that are placements."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, product
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from plans import small_experiment

from sim.cluster.build import build_cluster
from sim.cluster.cluster import Cluster
from sim.plan.grid import AXES, RankGrid, build_grid, place_ranks
from sim.plan.plan import Plan, build_plan
from sim.plan.schedule import Pass, layers_per_chunk, period, stage_order
from sim.spec.records import Parallelism
from sim.spec.setup import Setup

SIZES = st.fixed_dictionaries({name: st.integers(1, 4) for name in ("tensor", "context", "pipeline", "data")})
ORDERS = st.permutations(AXES).map(tuple)


def cluster_of(nodes: int = 4) -> Cluster:
    return build_cluster(Setup(small_experiment(nodes=nodes, parallelism={"data": 1})).cluster)


BIG = cluster_of(32)


def grid_of(size: dict[str, int], order: tuple[Any, ...] = AXES, placement: Any = "packed", **experts: int) -> RankGrid:
    fields: dict[str, Any] = {**size, "order": order, "placement": placement, **experts}
    return build_grid(Parallelism(**fields), size["data"], BIG, seed=0)


def plan_of(**fields: Any) -> Plan:
    experiment = small_experiment(**fields)
    return build_plan(experiment, build_cluster(Setup(experiment).cluster))


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


class TestPlacement:
    @given(st.integers(1, 32), st.sampled_from(["packed", "round_robin", "random"]), st.integers(0, 5))
    def test_every_rank_has_its_own_accelerator(self, n_ranks: int, placement: str, seed: int) -> None:
        cluster = cluster_of()
        where = place_ranks(placement, n_ranks, cluster, seed).tolist()
        assert len(set(where)) == n_ranks
        assert set(where) <= set(range(cluster.n_accelerators))

    @given(st.integers(1, 32))
    def test_no_placement_uses_more_nodes_than_a_packed_one(self, n_ranks: int) -> None:
        cluster = cluster_of()
        nodes = [
            len(set(cluster.node_of(place_ranks(placement, n_ranks, cluster, 1)).tolist()))
            for placement in ("packed", "round_robin", "random")
        ]
        assert nodes == [-(-n_ranks // 8)] * 3

    def test_round_robin_goes_from_node_to_node(self) -> None:
        assert cluster_of().node_of(place_ranks("round_robin", 32, cluster_of(), 0)).tolist() == [0, 1, 2, 3] * 8

    def test_random_follows_the_seed_only(self) -> None:
        first, again, other = (place_ranks("random", 32, cluster_of(), seed).tolist() for seed in (1, 1, 2))
        assert first == again != other

    def test_an_explicit_list_is_taken_as_it_is(self) -> None:
        grid = grid_of({"tensor": 1, "context": 1, "pipeline": 1, "data": 3}, placement=(9, 2, 30))
        assert grid.accelerator.tolist() == [9, 2, 30]


class TestLayers:
    @given(st.integers(1, 200), st.integers(1, 16), st.integers(1, 6))
    def test_layers_are_kept_and_nearly_even(self, layers: int, stages: int, virtual: int) -> None:
        chunks = layers_per_chunk(layers, stages, virtual)
        assert len(chunks) == stages * virtual
        assert sum(chunks) == layers
        assert max(chunks) - min(chunks) <= 1

    @given(st.integers(1, 200), st.integers(2, 16))
    def test_the_ends_get_no_more_than_the_middle(self, layers: int, stages: int) -> None:
        """They also hold embedding and head (Llama Team 2024, arXiv 2407.21783, section 3.3.2)."""
        chunks = layers_per_chunk(layers, stages, 1)
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
        chunks = [chunk for stage in plan.chunks for chunk in stage]
        assert sum(chunk.layers for chunk in chunks) == 13
        assert sorted(chunk.number for chunk in chunks) == list(range(pipeline * virtual))
        assert all(chunk.number == chunk.virtual * pipeline + chunk.stage for chunk in chunks)

    def test_a_tied_table_is_counted_once_on_one_stage_and_twice_on_two(self) -> None:
        """The last stage needs a copy of its own (Narayanan 2021, section 2.2)."""
        table = 32000 * 1024
        one, two = (
            sum(
                segment.parameters
                for stage in plan_of(parallelism={"pipeline": stages}).chunks
                for chunk in stage
                for segment in chunk.segments
            )
            for stages in (1, 2)
        )
        assert two - one == table


@st.composite
def schedules(draw: st.DrawFn) -> tuple[str, int, int, int]:
    """Schedule, stages, chunks a stage, microbatches that the checks let pass."""
    schedule, stages = draw(st.sampled_from(["gpipe", "1f1b"])), draw(st.integers(1, 8))
    virtual = draw(st.integers(1, 4)) if schedule == "1f1b" and stages > 1 else 1
    rounds = draw(st.integers(1, 5))
    return schedule, stages, virtual, rounds * stages if virtual > 1 else draw(st.integers(1, 24))


class TestOrder:
    @given(schedules())
    def test_every_pass_happens_once(self, case: tuple[str, int, int, int]) -> None:
        _, stages, virtual, microbatches = case
        for stage in range(stages):
            order = stage_order(*case[:3], stage, microbatches)
            everything = product((False, True), range(virtual), range(microbatches))
            assert Counter(order) == Counter(Pass(*each) for each in everything)

    @given(schedules())
    def test_backward_follows_forward(self, case: tuple[str, int, int, int]) -> None:
        _, stages, _, microbatches = case
        for stage in range(stages):
            order = stage_order(*case[:3], stage, microbatches)
            place = {each: i for i, each in enumerate(order)}
            assert all(place[each] > place[each._replace(backward=False)] for each in order if each.backward)

    @given(schedules())
    def test_microbatches_go_through_each_chunk_in_order(self, case: tuple[str, int, int, int]) -> None:
        _, stages, virtual, microbatches = case
        for stage in range(stages):
            order = stage_order(*case[:3], stage, microbatches)
            for backward in (False, True):
                for chunk in range(virtual):
                    line = [each.microbatch for each in order if (each.backward, each.chunk) == (backward, chunk)]
                    assert line == list(range(microbatches))

    @given(schedules())
    def test_the_pipeline_cannot_block(self, case: tuple[str, int, int, int]) -> None:
        """Run the orders against one another: some stage can always go on, until all passes are done."""
        schedule, stages, virtual, microbatches = case
        orders = [stage_order(schedule, stages, virtual, stage, microbatches) for stage in range(stages)]
        done: set[tuple[bool, int, int]] = set()  # backward, chunk of the model, microbatch
        position = [0] * stages
        last = stages * virtual - 1
        moved = True
        while moved:
            moved = False
            for stage, order in enumerate(orders):
                while position[stage] < len(order) and ready(order[position[stage]], stage, stages, last, done):
                    each = order[position[stage]]
                    done.add((each.backward, each.chunk * stages + stage, each.microbatch))
                    position[stage] += 1
                    moved = True
        assert position == [len(order) for order in orders]

    @given(st.integers(1, 8), st.integers(1, 24))
    def test_warm_up_of_1f1b(self, stages: int, microbatches: int) -> None:
        """Stage s runs p - s - 1 microbatches ahead, or all there are (Narayanan 2021, section 2.2.1)."""
        for stage in range(stages):
            order = list(stage_order("1f1b", stages, 1, stage, microbatches))
            first_backward = next(i for i, each in enumerate(order) if each.backward)
            assert first_backward == min(stages - stage - 1, microbatches - 1) + 1

    @given(st.integers(2, 8), st.integers(2, 4), st.integers(2, 5))
    def test_warm_up_of_the_interleaved_schedule(self, stages: int, virtual: int, rounds: int) -> None:
        """2 (p - s - 1) + (v - 1) p chunks ahead (Megatron-LM, forward_backward_pipelining_with_interleaving)."""
        for stage in range(stages):
            order = list(stage_order("1f1b", stages, virtual, stage, rounds * stages))
            first_backward = next(i for i, each in enumerate(order) if each.backward)
            ahead = min(2 * (stages - stage - 1) + (virtual - 1) * stages, rounds * stages * virtual - 1)
            assert first_backward == ahead + 1

    def test_gpipe_runs_all_forward_first(self) -> None:
        order = list(stage_order("gpipe", 4, 1, 2, 3))
        assert [each.backward for each in order] == [False] * 3 + [True] * 3

    @given(schedules())
    def test_the_steady_state_has_the_period_that_is_said(self, case: tuple[str, int, int, int]) -> None:
        schedule, stages, virtual, microbatches = case
        assume(schedule == "1f1b" and microbatches >= 4 * stages)
        passes, step = period(stages, virtual)
        for stage in range(stages):
            order = list(stage_order(schedule, stages, virtual, stage, microbatches))
            steady = order[stages * virtual * 2 : -stages * virtual * 2]
            for here, later in zip(steady, steady[passes:], strict=False):
                assert later == here._replace(microbatch=here.microbatch + step)


def ready(each: Pass, stage: int, stages: int, last: int, done: set[tuple[bool, int, int]]) -> bool:
    """Whether the input of a pass is there: the chunk before it, or after it on the way back."""
    chunk = each.chunk * stages + stage
    if not each.backward:
        return chunk == 0 or (False, chunk - 1, each.microbatch) in done
    return (False, chunk, each.microbatch) in done and (chunk == last or (True, chunk + 1, each.microbatch) in done)


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
        assert np.array_equal(backward, forward[:, ::-1])
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
