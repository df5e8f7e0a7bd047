"""Folding, coalescing, skipping and pruning are exact: with or without them a step is the same.

The oracle of every case is the plain engine: each rank, link, microbatch and collective on its own,
every rate allocation checked against the max-min certificate. Times agree to 1e-9 of the step, bytes
and loads to 1e-9 of themselves: sums of floats taken in another order, and nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from equal import assert_same, timelines
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from plans import CASES, LEAF_SPINE, small_experiment

from sim.ask.run.simulate import folding
from sim.ask.run.step import Simulated, simulate_step
from sim.errors import ConfigError, EngineError
from sim.layout.flows import FlowSet
from sim.layout.fold import build_structure, check_equitable, refine
from sim.layout.grid import AXES
from sim.phase import Phase

Ints = NDArray[np.int64]
Column = NDArray[Any]
EXACT = 1e-9
FABRICS = (
    {"kind": "switch"},
    LEAF_SPINE,
    LEAF_SPINE | {"rail_optimized": True},
    LEAF_SPINE | {"leaf_oversubscription": 4.0},
    LEAF_SPINE | {"tiers": 3, "units_per_pod": 2, "cores": 2},
)
SHORTCUTS = ("fold", "coalesce", "skip", "prune")


@cache
def run(case: str, off: tuple[str, ...] = ()) -> Simulated:
    """One step of a case; the plainest of its runs checks every rate allocation."""
    simulation = dict.fromkeys(off, "off") | {"certificate": off == SHORTCUTS}
    return simulate_step(small_experiment(**CASES[case], simulation=simulation))


@pytest.mark.parametrize("case", CASES)
def test_without_any_shortcut_a_step_is_the_same(case: str) -> None:
    assert_same(run(case), run(case, SHORTCUTS))


@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize("case", CASES)
def test_without_one_shortcut_a_step_is_the_same(case: str, shortcut: str) -> None:
    assert_same(run(case), run(case, (shortcut,)))


@pytest.mark.parametrize("case", ["everything beside everything", "slow accelerator in a pipeline"])
def test_with_one_shortcut_a_step_is_the_same(case: str) -> None:
    for kept in SHORTCUTS:
        assert_same(run(case, tuple(each for each in SHORTCUTS if each != kept)), run(case, SHORTCUTS))


@pytest.mark.parametrize("case", CASES)
def test_every_pass_runs_once_in_the_order_of_the_plan(case: str) -> None:
    step = run(case)
    for rank, line in zip(step.job.ranks, timelines(step), strict=True):
        phase, _, microbatch = step.plan.schedule.tables[rank.stage].T
        assert line.backward.tolist() == (phase == Phase.INPUT_GRADIENT).tolist()
        assert line.microbatch.tolist() == microbatch.tolist()


@st.composite
def jobs(draw: st.DrawFn) -> dict[str, Any]:
    """Any small job that the checks let pass."""

    def one_of(*values: Any) -> Any:
        return draw(st.sampled_from(values))

    nodes, accelerators = one_of(1, 2, 4), one_of(2, 4, 8)
    tensor, pipeline, context = one_of(1, 2, 4), one_of(1, 2, 4), one_of(1, 1, 2)
    data = nodes * accelerators // (tensor * pipeline * context)
    virtual = one_of(1, 1, 2) if pipeline > 1 else 1
    rounds = one_of(1, 3, 7, 12)
    overlap = one_of("none", "backward", "full")
    return {
        "nodes": nodes,
        "node": {
            "accelerators": accelerators,
            "local": {"kind": one_of("switch", "switch", "ring", "mesh", "pcie"), "bandwidth": one_of(5e10, 3e11)},
            "nics": {"count": one_of(1, 2, accelerators), "bandwidth": one_of(12.5e9, 25e9)},
        },
        "fabric": one_of(*FABRICS) if nodes > 1 else None,
        "routing": one_of({}, {"kind": "spray"}, {"kind": "ecmp", "queue_pairs": 2, "seed": 4}),
        "model": {"layers": pipeline * virtual + one_of(0, 1, 2), "tied_embeddings": one_of(True, False)},
        "parallelism": {
            "tensor": tensor,
            "pipeline": pipeline,
            "context": context,
            "virtual_stages": virtual,
            "schedule": one_of("1f1b", "gpipe") if virtual == 1 else "1f1b",
            "zero_stage": one_of(0, 1, 2, 3),
            "sequence_parallel": one_of(True, False),
            "placement": one_of("packed", "packed", "random", "round_robin"),
            "order": draw(st.permutations(AXES)),
        },
        "software": {
            "gradient_overlap": one_of(True, False),
            "parameter_prefetch": one_of(True, False),
            "pipeline_overlap": one_of(True, False),
            "tensor_overlap": overlap,
            "scatter_gather": one_of(True, False),
            "host_issue": one_of(0.0, 2e-5),
            "overlap_slowdown": one_of(0.0, 0.1) if overlap == "none" else 0.0,
        },
        "training": {
            "global_batch": max(data, 1) * (rounds * pipeline if virtual > 1 else rounds),
            "recompute": one_of("none", "selective", "full"),
        },
        "degradations": [{"accelerator": "node0/gpu1", "factor": 0.7}] if one_of(True, False, False) else [],
    }


@settings(max_examples=25, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(jobs())
def test_any_job_takes_the_same_without_shortcuts(job: dict[str, Any]) -> None:
    try:
        quick = small_experiment(**job)
    except ConfigError:
        reject()
    slow = small_experiment(**job, simulation=dict.fromkeys(SHORTCUTS, "off") | {"certificate": True})
    assert_same(simulate_step(quick), simulate_step(slow))


class TestShortcutsAreTaken:
    """The equalities above would say nothing if nothing were folded, joined, skipped or left out."""

    def test_ranks_fold_to_their_stages_and_places_in_the_node(self) -> None:
        counts = {case: folding(run(case)) for case in CASES}
        assert counts["256 ranks on rails"]["ranks"] == 256
        assert counts["256 ranks on rails"]["rank_classes"] <= 4
        assert counts["replicas on a switch"]["rank_classes"] == 1
        assert counts["1f1b"]["rank_classes"] == 4
        folded = [case for case, count in counts.items() if 4 * count["rank_classes"] <= count["ranks"]]
        assert len(folded) >= 25

    def test_classes_do_not_grow_with_replicas(self) -> None:
        shape: dict[str, Any] = {
            "fabric": LEAF_SPINE | {"rail_optimized": True},
            "parallelism": {"tensor": 8, "pipeline": 4},
        }
        small, large = (
            folding(simulate_step(small_experiment(nodes=nodes, **shape, training={"global_batch": nodes})))
            for nodes in (16, 128)
        )
        assert large["ranks"] == 8 * small["ranks"] == 1024
        assert {name: large[name] for name in ("rank_classes", "flow_classes")} == {
            name: small[name] for name in ("rank_classes", "flow_classes")
        }

    def test_a_slow_accelerator_splits_only_what_it_touches(self) -> None:
        count = folding(run("256 ranks, one at 60 %"))
        assert 4 < count["rank_classes"] <= 16

    def test_without_folding_every_rank_is_simulated(self) -> None:
        count = folding(run("256 ranks on rails", ("fold",)))
        assert count["rank_classes"] == count["ranks"] == 256

    def test_periods_are_skipped(self) -> None:
        skipped = {case: folding(run(case))["skipped_periods"] for case in CASES}
        assert sum(count > 0 for count in skipped.values()) >= 25
        assert {"1f1b", "slow adapter", "ZeRO 3 beside", "interleaved"} <= {c for c, n in skipped.items() if n}

    def test_nothing_is_skipped_when_it_is_off(self) -> None:
        assert folding(run("1f1b", ("skip",)))["skipped_periods"] == 0

    def test_chains_are_one_event(self) -> None:
        joined, apart = (run("one node, tensor 8", off).trace.events for off in (("skip",), SHORTCUTS))
        assert 10 * joined < apart

    def test_links_that_cannot_be_full_are_left_out(self) -> None:
        kept, all_links = (folding(run("three tiers", off))["links"] for off in ((), ("prune",)))
        assert kept < all_links


def test_a_partition_that_joins_unequal_links_is_refused() -> None:
    """Two classes of links merged by hand: the proof, not the hashing, is what folding rests on."""
    plan = run("slow adapter").plan
    check_equitable(plan.structure, plan.partition)
    with pytest.raises(EngineError, match="folding is not exact"):
        check_equitable(plan.structure, replace(plan.partition, link=merged(plan.partition.link)))


def test_a_partition_that_joins_unequal_ranks_is_refused() -> None:
    plan = run("slow accelerator in a pipeline").plan
    for first, second in combinations(range(1 + int(plan.partition.rank.max())), 2):
        with pytest.raises(EngineError, match="folding is not exact"):
            check_equitable(plan.structure, replace(plan.partition, rank=merged(plan.partition.rank, first, second)))


def test_a_partition_that_joins_unequal_flows_is_refused() -> None:
    plan = run("slow uplink").plan
    sizes = [len(classes) for classes in plan.partition.flow]
    flows = np.concatenate(plan.partition.flow)
    first, second = np.unique(plan.partition.flow[plan.flow_sets["gradient"]])[:2].tolist()
    joined = tuple(np.split(merged(flows, first, second), np.cumsum(sizes)[:-1]))
    with pytest.raises(EngineError, match="folding is not exact"):
        check_equitable(plan.structure, replace(plan.partition, flow=joined))


def test_latencies_of_groups_over_many_nodes_stay_apart() -> None:
    """1.000 and 1.001 us, over 16,000 nodes: a sum of kind, latency and nodes in one float cannot hold both."""
    latency, nodes = np.array([1.000e-6, 1.001e-6, 1.001e-6 + 1e-21]), np.full(3, 16_000)
    nothing = np.zeros(0, dtype=np.int32)
    none = np.zeros(4, dtype=np.int64)
    members = np.arange(6, dtype=np.int32).reshape(3, 2)
    flows = FlowSet("gradient", members, False, none, nothing, np.zeros(0), latency, nodes)
    structure = build_structure(np.zeros(6, dtype=np.int64), np.zeros(0), [flows], np.zeros(0, dtype=np.int64))
    partition = refine(structure)
    assert partition.flow[0].tolist() == [0, 1, 1]
    with pytest.raises(EngineError, match="kind, latency or span"):
        check_equitable(structure, replace(partition, flow=(np.zeros(3, dtype=np.int64),)))


def test_the_plain_partition_is_equitable() -> None:
    plan = run("oversubscribed", ("fold",)).plan
    check_equitable(plan.structure, plan.partition)
    assert len(np.unique(plan.partition.rank)) == plan.grid.n_ranks


def merged(classes: Ints, first: int = 0, second: int = 1) -> Ints:
    """Classes with `second` joined to `first`, numbered from 0 again."""
    return np.unique(np.where(classes == second, first, classes), return_inverse=True)[1]
