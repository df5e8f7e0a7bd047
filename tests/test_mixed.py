"""Several kinds of node in one cluster: what is true of a job on them whatever they are, and what each of them does.

The oracles are clusters of one kind: kinds that are equal give the same as one, and a step on two kinds lies between
those of the same job on either of them.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
from cluster_cases import NIC_RATE, fat_tree, make_cluster
from hypothesis import given
from hypothesis import strategies as st
from plans import ACCELERATOR, BESIDE, CASES, LEAF_SPINE, Fields, bytes_by_link, small_experiment

from sim.ask.explain.sensitivity import resources_of, sensitivities
from sim.ask.plan.search import search_plans
from sim.ask.run.shares import in_proportion
from sim.ask.run.simulate import simulate
from sim.ask.run.step import Simulated, simulate_step
from sim.ask.scale.scaling import scale
from sim.ask.sweep.sweep_file import load_study
from sim.errors import ConfigError, PlanError
from sim.inputs.load import load_definition, load_experiment
from sim.inputs.records import ClusterSpec, Experiment
from sim.metrics.result import Result
from sim.report.page.run import run_page
from sim.report.text import report_text

EXACT = 1e-9
SHORTCUTS = ("fold", "coalesce", "skip", "prune", "reuse")
OLD: Fields = {**ACCELERATOR, "name": "old-chip", "matrix": {**ACCELERATOR["matrix"], "peak": {"bf16": 1.2e14}},
               "memory": {**ACCELERATOR["memory"], "bandwidth": 1e12}}  # fmt: skip
SLOW: Fields = {
    "accelerator": OLD, "local": {"kind": "switch", "bandwidth": 100e9, "latency": 2e-6},
    "nics": {"count": 8, "bandwidth": 12.5e9, "latency": 2e-6},
    "collectives": {"ring_hop": 2e-6, "ring_hop_network": 6e-6, "tree_hop": 8e-6, "tree_hop_network": 16e-6},
}  # fmt: skip
SEVERAL = [  # jobs that both kinds can run, in 16 bit
    case for case, job in CASES.items() if job.get("nodes", 1) > 1 and not {"node", "accelerator"} & set(job)
]
BASE: Fields = {"nodes": 4, "parallelism": {"tensor": 4}, "training": {"global_batch": 32}, "software": BESIDE}
TWO: dict[str, Any] = {
    "name": "two",
    "node": [{"node": "dgx-h100", "nodes": 2}, {"node": "dgx-a100", "nodes": 2}],
    "fabric": {"kind": "switch"},
}
MODEL = {"kind": "transformer", "layers": 8, "hidden": 2048, "heads": 16, "ffn": 8192, "vocab": 32000}


def step(job: Fields, **changes: Any) -> Simulated:
    return simulate_step(small_experiment(**{**job, **changes}))


def two(*overrides: str, **changes: Any) -> Experiment:
    """Two servers of each of two generations, as people write it."""
    source = {
        "cluster": TWO, "workload": MODEL, "software": "megatron-core", "parallelism": {"tensor": 4},
        "training": {"global_batch": 64, "sequence_length": 1024}, **changes,
    }  # fmt: skip
    return load_experiment(source, overrides).experiment


@cache
def result_of_two() -> Result:
    return simulate(two())


class TestInvariants:
    @pytest.mark.parametrize("case", SEVERAL)
    def test_equal_kinds_are_as_one(self, case: str) -> None:
        plain, split = step(CASES[case]), step(CASES[case], second={})
        assert len(split.cluster.kinds) == 2
        assert split.trace.time == pytest.approx(plain.trace.time, rel=EXACT)
        np.testing.assert_allclose(bytes_by_link(split), bytes_by_link(plain), rtol=EXACT)

    @pytest.mark.parametrize("case", SEVERAL)
    def test_a_step_is_between_those_on_either_kind(self, case: str) -> None:
        fast, mixed, slow = step(CASES[case]), step(CASES[case], second=SLOW), step(CASES[case], node=SLOW)
        assert fast.trace.time * (1 - EXACT) <= mixed.trace.time <= slow.trace.time * (1 + EXACT)
        assert mixed.trace.time > fast.trace.time * (1 + EXACT)

    @pytest.mark.parametrize("shortcut", SHORTCUTS)
    @pytest.mark.parametrize("case", ["1f1b", "ZeRO 3 beside", "oversubscribed", "interleaved", "round robin"])
    def test_without_a_shortcut_it_is_the_same(self, case: str, shortcut: str) -> None:
        with_all = step(CASES[case], second=SLOW)
        without = step(CASES[case], second=SLOW, simulation={shortcut: "off", "certificate": True})
        assert without.trace.time == pytest.approx(with_all.trace.time, rel=EXACT)
        np.testing.assert_allclose(bytes_by_link(without), bytes_by_link(with_all), rtol=1e-7, atol=1e-3)

    def test_energy_cost_and_memory_of_equal_kinds_are_as_of_one(self) -> None:
        more = {**BASE, "prices": "aws-p5", "site": "google-iowa"}
        plain, split = (simulate(small_experiment(**job)) for job in (more, {**more, "second": {}}))
        assert plain.energy
        assert split.energy
        assert split.energy.parts_kwh == pytest.approx(plain.energy.parts_kwh, rel=EXACT)
        assert split.energy.phases_kwh == pytest.approx(plain.energy.phases_kwh, rel=EXACT)
        assert split.cost
        assert plain.cost
        assert split.cost.usd == pytest.approx(plain.cost.usd, rel=EXACT)
        assert split.memory == plain.memory
        assert split.step.mfu == pytest.approx(plain.step.mfu, rel=EXACT)


class TestNetwork:
    def test_parts_are_named_by_their_node(self) -> None:
        cluster = make_cluster(nodes=4, sizes=(8, 4, 8, 2), fabric=fat_tree())
        names = [cluster.vertex_name(a) for a in (0, 7, 8, 11, 12, 21)]
        assert names == ["node0/gpu0", "node0/gpu7", "node1/gpu0", "node1/gpu3", "node2/gpu0", "node3/gpu1"]
        assert [cluster.find_accelerator(name) for name in names] == [0, 7, 8, 11, 12, 21]
        for link in range(cluster.links.n):
            assert cluster.find_link(cluster.link_name(link)) == link
        with pytest.raises(ConfigError, match="node1/gpu4"):
            cluster.find_accelerator("node1/gpu4")

    def test_leaves_have_uplinks_for_the_adapters_under_them(self) -> None:
        """Two nodes of eight and four adapters under a leaf, then two of eight: 12 and 16 adapters, half of it up."""
        cluster = make_cluster(nodes=4, sizes=(8, 4, 8, 8), fabric=fat_tree(leaf_oversubscription=2.0))
        up = [cluster.links.capacity[cluster.find_link(f"unit{unit}/leaf0->spine0")] for unit in (0, 1)]
        assert up == pytest.approx([12 * NIC_RATE / 2 / 4, 16 * NIC_RATE / 2 / 4])
        assert cluster.fabric
        assert cluster.fabric.bisection() == pytest.approx(28 * NIC_RATE / 2 / 2)

    def test_a_ring_over_uneven_nodes_uses_all_adapters_of_the_smallest(self) -> None:
        """Replicas on 8 and 4 boards: four channels, a quarter of the ring each: the rate of four adapters."""
        job = step(BASE, nodes=2, parallelism={}, training={"global_batch": 12}, second={"accelerators": 4}).job
        (gradient,) = (flow for flow in job.flows if flow.kind == "gradient")
        assert gradient.group.network_rate == pytest.approx(4 * 25e9)
        assert (gradient.group.size, gradient.group.nodes, gradient.group.kinds) == (12, 2, (0, 1))

    def test_a_collective_over_kinds_goes_at_the_slower_link_and_starts_as_the_slower_library(self) -> None:
        changed = {"nics": SLOW["nics"], "collectives": SLOW["collectives"]}
        mixed, slow = step(BASE, second=changed).job, step(BASE, node=changed).job
        both, alone = (next(f for f in job.flows if f.kind == "gradient") for job in (mixed, slow))
        assert both.group.rate == pytest.approx(alone.group.rate)
        costs = [job.seconds(job.flows.index(flow), "all_reduce", 1e8) for job, flow in ((mixed, both), (slow, alone))]
        assert costs[0] == pytest.approx(costs[1], rel=EXACT)

    def test_a_part_of_the_second_kind_can_be_slow(self) -> None:
        healthy = step(BASE, second=SLOW).trace.time
        slower = step(BASE, second=SLOW, degradations=[{"accelerator": "node3/gpu5", "factor": 0.5}])
        hidden = step(BASE, second=SLOW, degradations=[{"accelerator": "node0/gpu5", "factor": 0.9}])
        assert slower.trace.time > 1.5 * healthy
        assert hidden.trace.time == pytest.approx(healthy, rel=1e-3)  # still faster than the others


class TestKinds:
    def test_the_report_says_who_waits_for_whom(self) -> None:
        new, old = result_of_two().kinds
        assert (new.node, new.accelerator, new.nodes, new.accelerators) == ("dgx-h100", "h100-sxm", 2, 16)
        assert (old.node, old.accelerator, old.nodes, old.accelerators) == ("dgx-a100", "a100-sxm-80gb", 2, 16)
        assert old.compute_s > 1.5 * new.compute_s
        assert old.waits_for_s.get("dgx-h100", 0.0) < 0.01 * old.compute_s
        assert 0.3 * (old.compute_s - new.compute_s) < new.waits_for_s["dgx-a100"] <= new.waiting_s
        text = report_text(result_of_two())
        assert "Kinds of node" in text
        assert "dgx-h100 waits" in text
        assert result_of_two().setup["cluster"] == "two, 2 x dgx-h100 (h100-sxm) and 2 x dgx-a100 (a100-sxm-80gb)"

    def test_without_overlap_the_fast_kind_waits_for_what_the_slow_one_computes_longer(self) -> None:
        job = {**BASE, "software": {}, "second": {"accelerator": OLD}}
        fast, slow = simulate(small_experiment(**job)).kinds
        longer = slow.compute_s - fast.compute_s
        assert longer > 0.5 * fast.compute_s
        assert list(fast.waits_for_s) == ["second"]
        assert 0.8 * longer < fast.waits_for_s["second"] <= longer  # but for the optimizer, after which nobody waits
        assert slow.waits_for_s.get("server", 0.0) < 0.05 * longer

    def test_a_cluster_of_one_kind_reports_none(self) -> None:
        assert simulate(small_experiment(**BASE)).kinds == ()

    def test_the_peak_is_that_of_all_accelerators(self) -> None:
        result = result_of_two()
        peak = (989.4e12 + 312e12) / 2
        assert result.step.mfu == pytest.approx(result.step.model_tflops_per_accelerator * 1e12 / peak, rel=1e-3)

    def test_the_memory_shown_is_that_of_the_tightest_kind(self) -> None:
        small = {**OLD, "memory": {**ACCELERATOR["memory"], "capacity": 1e8}}
        result = simulate(small_experiment(**{**BASE, "second": {"accelerator": small}}))
        assert (result.memory.capacity_bytes, result.memory.fits) == (1e8, False)
        assert [kind.capacity_bytes for kind in result.kinds] == [8e10, 1e8]

    def test_a_kind_holds_only_the_stages_that_lie_on_it(self) -> None:
        """Stage 1 of two is on the second half of the nodes; the first stage holds more activations."""
        pipeline = {"tensor": 8, "pipeline": 2, "order": ["tensor", "context", "data", "pipeline"]}
        job = {**BASE, "parallelism": pipeline, "model": {"tied_embeddings": False}, "second": SLOW}
        result = simulate(small_experiment(**job))
        first, second = result.kinds
        stages = [sum(parts.values()) for parts in result.memory.by_stage]
        assert [first.memory_bytes, second.memory_bytes] == pytest.approx(stages)

    def test_nodes_draw_what_their_kind_draws(self) -> None:
        """A busy host of 100 W in one kind and 300 W in the other: 400 W for two nodes of each."""
        hosts = ({"power": {"host": {"busy": 100.0}}}, {"power": {"host": {"busy": 300.0}}})
        result = simulate(small_experiment(**{**BASE, "node": hosts[0], "second": hosts[1]}))
        assert result.energy
        hours = result.step.time_s / 3600
        assert result.energy.parts_kwh["host"] == pytest.approx(0.8 * hours)
        assert sum(result.energy.parts_kwh.values()) == pytest.approx(result.energy.total_kwh, rel=EXACT)

    def test_each_kind_has_its_price(self) -> None:
        cluster = {**TWO, "node": [{**TWO["node"][0], "prices": "aws-p5"}, {**TWO["node"][1], "prices": "aws-p4de"}]}
        result = simulate(two(cluster=cluster))
        assert result.cost
        each = [simulate(two(f"prices={name}")) for name in ("aws-p5", "aws-p4de")]
        costs = [other.cost.usd["total"] for other in each if other.cost]
        assert result.cost.usd["total"] == pytest.approx(sum(costs) / 2, rel=EXACT)
        assert "; " in result.cost.basis

    def test_more_of_the_fast_kind_gains_nothing(self) -> None:
        experiment = small_experiment(**{**BASE, "second": SLOW})
        names = [resource.name for resource in resources_of(experiment)]
        assert {"matrix rate of server", "matrix rate of second"} <= set(names)
        found = {each.resource: each.change["step_time"] for each in sensitivities(experiment)}
        assert found["matrix rate of second"] < -0.02
        assert abs(found["matrix rate of server"]) < 1e-3


class TestInput:
    def test_counts_may_be_set(self) -> None:
        experiment = two("cluster.node.0.nodes=4", "cluster.node.1.node.accelerators=4", "training.global_batch=80")
        assert experiment.setup.cluster.nodes == 6
        assert (experiment.setup.accelerators, experiment.setup.data) == (40, 10)
        assert [kind.node.accelerators for kind in experiment.setup.kinds] == [8, 4]

    def test_all_kinds_grow_together(self) -> None:
        setup = two("nodes=8").setup
        assert [(group.nodes, kind.node.name) for group, kind in zip(setup.groups, setup.kinds, strict=True)] == [
            (4, "dgx-h100"), (4, "dgx-a100"),
        ]  # fmt: skip
        curve = scale(two(), [2, 4], "weak")
        assert [point.accelerators for point in curve.points] == [16, 32]

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("nodes=7", "nodes: 7 nodes do not divide over kinds of 2 \\+ 2; use a multiple of 2"),
            ("cluster.nodes=9", "cluster.nodes: 9 nodes, and the kinds are 2 \\+ 2 = 4"),
            ("cluster.node.1.nodes=0", "cluster.node.1.nodes: must be at least 1, not 0"),
            ("cluster.node.1.node=dgx-h10", "cluster.node.1.node: no node is called 'dgx-h10'; did you mean"),
            ("cluster.node.2.nodes=1", "'2' is no entry of it: cluster.node is a list of 2"),
            ("cluster.node.1={name: dgx-h100, nodes: 2}", "cluster.node.1.name: unknown key; known are node, nodes"),
            ("cluster.node.1.node.local.bandwidth=0 B/s", "cluster.node.1.node.local.bandwidth: 8 accelerators a node"),
            ("training.precision=fp8", "a100-sxm-80gb has no matrix rate for fp8"),
            ("power.limit=450 W", "limit 450 W is more than the 400 W of a100-sxm-80gb"),
            ("cluster.fabric={kind: torus, shape: [4], link: {bandwidth: 1 GB/s}}", "a torus joins nodes of one kind"),
            ("cluster.node=[]", "cluster.node: must have at least 1 entries"),
        ],
    )
    def test_what_is_wrong_is_said_at_its_key(self, override: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            two(override)

    def test_rails_that_nothing_joins_need_as_many_adapters(self) -> None:
        rails = "cluster.fabric={kind: switch, rail_optimized: true}"
        two(rails)
        with pytest.raises(ConfigError, match="rails that nothing joins, and nodes with 4 and 8 of them"):
            two(rails, "cluster.node.1.node.nics.count=4")

    def test_failures_of_nodes_of_different_sizes_are_refused(self) -> None:
        ends = ("failures=llama3-h100", "training.tokens=1B")
        two(*ends)
        with pytest.raises(ConfigError, match="failures of nodes with 4 and 8 accelerators in one cluster"):
            two(*ends, "cluster.node.1.node.accelerators=4", "training.global_batch=60")

    def test_plans_are_searched_for_one_kind(self) -> None:
        with pytest.raises(PlanError, match="clusters of one kind of node"):
            search_plans(two(), top=1)

    def test_a_definition_lists_its_kinds(self) -> None:
        spec = load_definition("cluster", TWO)
        assert isinstance(spec, ClusterSpec)
        assert spec.nodes == 4
        assert ClusterSpec.from_si(spec.model_dump(mode="json")) == spec

    def test_what_was_resolved_can_be_loaded_again(self) -> None:
        experiment = two()
        assert load_experiment(experiment).experiment == experiment


class TestShares:
    @given(
        st.lists(st.sampled_from([0.5, 1.0, 1.1, 2.0, 3.0, 7.0]), min_size=1, max_size=4),
        st.integers(0, 12),
        st.integers(0, 3),
    )
    def test_no_other_way_to_share_ends_earlier(self, seconds: list[float], more: int, bubble: int) -> None:
        total = len(seconds) + more
        counts = in_proportion(seconds, total, bubble)
        assert sum(counts) == total
        assert min(counts) >= 1

        def end(shares: tuple[int, ...]) -> float:
            return max((n + bubble) * t for n, t in zip(shares, seconds, strict=True))

        ways = (way for way in product(range(1, total + 1), repeat=len(seconds)) if sum(way) == total)
        assert end(counts) == pytest.approx(min(map(end, ways)), rel=1e-12)

    def test_equal_replicas_have_equal_shares(self) -> None:
        assert in_proportion([2.0] * 4, 32) == (8, 8, 8, 8)
        assert in_proportion([1.0, 2.0], 12) == (8, 4)

    @pytest.mark.parametrize("case", ["1f1b", "ZeRO 1 beside", "interleaved", "oversubscribed", "round robin"])
    def test_in_proportion_a_step_is_quicker(self, case: str) -> None:
        """Replicas lie on nodes of one kind each, half of them twice as fast."""
        job = {**CASES[case], "second": {"accelerator": OLD}}
        whole = job["parallelism"] | {"order": ["tensor", "context", "pipeline", "data"]}
        equal, shared = (step(job, parallelism=whole | {"microbatches": how}) for how in ("equal", "proportional"))
        counts = shared.plan.microbatches
        assert sum(counts) == sum(equal.plan.microbatches) * len(counts)
        assert len(set(counts)) > 1 or case == "round robin"  # where each replica has ranks on both kinds
        assert shared.trace.time <= equal.trace.time * (1 + EXACT)
        assert shared.trace.time < 0.95 * equal.trace.time or case == "round robin"

    @pytest.mark.parametrize("shortcut", SHORTCUTS)
    @pytest.mark.parametrize("case", ["1f1b", "ZeRO 1 beside", "oversubscribed", "hashed pairs"])
    def test_without_a_shortcut_uneven_shares_take_the_same(self, case: str, shortcut: str) -> None:
        job = CASES.get(case, CASES["unequal stages, pairs of hashes"])
        whole = job["parallelism"] | {"order": ["tensor", "context", "pipeline", "data"]}
        shared = {**job, "second": SLOW, "parallelism": whole | {"microbatches": "proportional"}}
        with_all, without = step(shared), step(shared, simulation={shortcut: "off", "certificate": True})
        assert without.plan.microbatches == with_all.plan.microbatches
        assert without.trace.time == pytest.approx(with_all.trace.time, rel=EXACT)

    def test_listed_shares_that_are_equal_are_as_none(self) -> None:
        plain = step(BASE)
        listed = step(BASE, parallelism={"tensor": 4, "microbatches": [4] * 8})
        assert listed.trace.time == plain.trace.time

    def test_every_replica_runs_its_microbatches(self) -> None:
        """Work of each rank class: as many forward and backward passes as its share."""
        counts = (7, 1, 5, 3)
        job = {**BASE, "nodes": 2, "training": {"global_batch": 16}}
        run = step(job, parallelism={"tensor": 4, "microbatches": list(counts)}, simulation={"coalesce": "off"})
        for rank in run.job.ranks:
            assert rank.microbatches == counts[int(run.plan.grid.coordinate["data"][rank.representative])]
        each = step({**job, "nodes": 1, "training": {"global_batch": 8}}, parallelism={"tensor": 8}).trace.time
        assert run.trace.time > each  # the longest of them alone has seven passes on half as many boards

    def test_a_slow_part_gets_less(self) -> None:
        slow = [{"accelerator": "node1/gpu2", "factor": 0.5}]
        job = {**BASE, "nodes": 2, "degradations": slow, "training": {"global_batch": 28}}
        shared = step(job, parallelism={"tensor": 4, "microbatches": "proportional"})
        counts = shared.plan.microbatches
        assert counts[0] == counts[1] == counts[3] > counts[2]

    def test_what_is_asked_of_a_share_is_checked(self) -> None:
        wrong = {
            "parallelism.microbatches=[8, 8]": "2 entries for data 8",
            "parallelism.microbatches=[1, 1, 1, 1, 1, 1, 1, 1]": "8 microbatches of 1 are not global_batch 64",
            "parallelism.microbatches=[0, 8, 8, 8, 8, 8, 8, 16]": "at least 1, not 0",
            "parallelism.microbatches=uneven": "equal, proportional",
        }
        for override, message in wrong.items():
            with pytest.raises(ConfigError, match=message):
                two(override)
        with pytest.raises(ConfigError, match="replicas of zero_stage 3 exchange something in every microbatch"):
            two("parallelism.microbatches=proportional", "parallelism.zero_stage=3")
        with pytest.raises(ConfigError, match="4 microbatches for data 8"):
            two("parallelism.microbatches=proportional", "training.global_batch=4")
        experts = {**MODEL, "moe": {"experts": 8, "top_k": 2, "ffn": 1024}}
        with pytest.raises(ConfigError, match="common experts"):
            two("parallelism.microbatches=proportional", "parallelism.expert=8", workload=experts)

    def test_what_counts_on_equal_replicas_is_refused(self) -> None:
        for override in (
            "training.offload={optimizer: true}",
            "synchronization={kind: local_steps, every: 10, workers: 2}",
        ):
            with pytest.raises(ConfigError, match="takes replicas to have as many microbatches"):
                two("parallelism.microbatches=proportional", override)

    def test_the_page_tells_what_each_kind_does(self) -> None:
        page = run_page(result_of_two(), None, "")
        assert ">Kinds of node<" in page
        assert "2 x dgx-h100 (h100-sxm)" in page

    def test_the_report_says_how_many(self) -> None:
        result = simulate(two("parallelism.microbatches=proportional"))
        assert result.setup["schedule"] == "1f1b, 7 to 9 microbatches of 1"
        assert result.step.time_s < result_of_two().step.time_s
        assert result.manifest["parallelism"]["microbatches"] == "proportional"


def test_nodes_of_other_sizes_and_fabrics_run() -> None:
    """Rail-optimized fat-tree, d-mod-k, hashed and sprayed; eight boards beside four, one adapter for two of them."""
    other = {"accelerators": 4, "nics": {"count": 2, "bandwidth": 50e9}, "accelerator": OLD}
    for routing in ({}, {"kind": "ecmp"}, {"kind": "spray"}):
        job = {**BASE, "parallelism": {"tensor": 2}, "training": {"global_batch": 24}, "routing": routing}
        fabric = LEAF_SPINE | {"rail_optimized": True}
        run = step(job, second=other, fabric=fabric)
        plain = step(job, second=other, fabric=fabric, simulation=dict.fromkeys(SHORTCUTS, "off"))
        assert run.trace.time == pytest.approx(plain.trace.time, rel=EXACT)
        assert run.plan.grid.n_ranks == 24


def test_the_shipped_study_says_what_it_finds() -> None:
    loaded, found = load_study("shares-of-two-generations"), {}
    for point in loaded.points():
        experiment = loaded.base.changed(point.changes)
        kinds = len(experiment.setup.kinds), experiment.setup.node.name
        found[kinds, experiment.parallelism.microbatches] = simulate_step(experiment).trace.time
    mixed, fast, slow = (2, "dgx-h100"), (1, "dgx-h100"), (1, "dgx-a100")
    assert found[mixed, "equal"] == pytest.approx(7.28, abs=0.005)
    assert found[mixed, "proportional"] == pytest.approx(4.65, abs=0.005)
    for how in ("equal", "proportional"):
        assert found[fast, how] == pytest.approx(3.29, abs=0.005)
        assert found[slow, how] == pytest.approx(7.31, abs=0.005)
