"""Patterns of communication: what goes out comes in, nothing beats its bytes over the links, counts are right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cluster_cases import CASES, NIC_RATE, dragonfly, fat_tree, make_cluster, with_node
from hypothesis import given
from hypothesis import strategies as st
from own_pattern import Direct
from plans import BESIDE, Fields, bytes_by_link, job_of, run_collectives, small_experiment

from sim.ask.plan.chain import build_chain
from sim.ask.run.step import simulate_step
from sim.cluster.cluster import Cluster, Floats
from sim.comm import exchange
from sim.comm.hierarchical import ACROSS, WITHIN
from sim.comm.pattern import Carrier, Group, Members
from sim.comm.tuner import PATTERNS, carriers, collective_cost, layer_of
from sim.errors import EngineError, PlanError
from sim.graph.operation import Block, Operation
from sim.inputs.load import load_experiment
from sim.inputs.records import Degradation, Experiment, Node
from sim.layout.flows import collective_flows
from sim.layout.grid import row_of_ranks
from sim.layout.pieces import sequence_of
from sim.layout.plan import CutModel
from sim.metrics.breakdown import rank_time
from sim.programs.chains import run_alone
from sim.programs.ranks import Job, groups_of
from sim.transforms.derive import block_of

EXACT = 1e-9
OVERSUBSCRIBED = dict.fromkeys(("leaf_oversubscription", "spine_oversubscription"), 2.0)
SPREAD: dict[str, dict[str, Any]] = {
    **{name: case for name, case in CASES.items() if name != "one node"},
    "narrow rails": {"nodes": 9, "fabric": CASES["rails 3 tiers"]["fabric"] | OVERSUBSCRIBED},
    "sprayed": {"nodes": 5, "fabric": fat_tree(), "routing": {"kind": "spray"}},
    "hashed": {"nodes": 5, "fabric": fat_tree(), "routing": {"kind": "ecmp", "queue_pairs": 2}},
    "small dragonfly": {"nodes": 20, "accelerators": 2, "fabric": dragonfly()},
}  # fmt: skip
OWN = ["ring", "exchange", ACROSS, WITHIN, "broadcast"]


def members_of(cluster: Cluster, rows: list[list[int]]) -> Members:
    return Members(np.array(rows), np.arange(len(rows)))


def loads_on(cluster: Cluster, carrier: str, rows: list[list[int]]) -> Floats:
    """Load of each group on each link, (groups, links), per byte of the size of its flow."""
    loads = layer_of(carrier).loads(cluster, members_of(cluster, rows), carrier)
    table = np.zeros((len(rows), cluster.links.n))
    table[np.repeat(np.arange(len(rows)), np.diff(loads.start)), loads.link] = loads.coefficient
    return table


def all_members(cluster: Cluster) -> list[list[int]]:
    return [list(range(cluster.n_accelerators))]


def passed_on(cluster: Cluster, load: Floats) -> tuple[Floats, Floats]:
    """What leaves and what reaches each vertex over links, (n_vertices,) each."""
    links = cluster.links
    out, back = (np.bincount(ends, load, cluster.n_vertices) for ends in (links.source, links.target))
    return out.astype(np.float64), back.astype(np.float64)


def seconds_of(cluster: Cluster, kind: str, message: float, only: str) -> float:
    """A collective of all accelerators alone, run by one pattern."""
    names = carriers([kind], cluster.node, cluster.n_accelerators)
    grid, rows = row_of_ranks(cluster.n_accelerators), np.array(all_members(cluster))
    sets = [collective_flows("all", grid, cluster, rows, 0, carrier=name)[0] for name in names]
    (group,) = groups_of(sets, np.array([0]), cluster)
    return collective_cost(kind, message, group, cluster.node, (only,)).seconds(group)


@pytest.mark.parametrize("window", [np.inf, 1e4])
@pytest.mark.parametrize("case", ["narrow rails", "hashed", "small dragonfly"])
def test_groups_have_what_the_links_of_each_allow_it_alone(case: str, window: float) -> None:
    """One by one, link by link."""
    cluster = make_cluster(**SPREAD[case])
    cluster = with_node(cluster, nics=cluster.node.nics.model_copy(update={"window": window}))
    grid = row_of_ranks(cluster.n_accelerators)
    rows = np.arange(cluster.n_accelerators // 2 * 2).reshape(2, -1).T.reshape(-1, 4 if case == "hashed" else 2)
    names = carriers(["all_to_all", "all_reduce"], cluster.node, rows.shape[1])
    sets = [collective_flows("all", grid, cluster, rows, 0, carrier=name)[0] for name in names]
    asked = np.arange(len(rows))[::-2]
    for number, group in zip(asked.tolist(), groups_of(sets, asked, cluster), strict=True):
        for flow_set in sets:
            crossed = slice(flow_set.start[number], flow_set.start[number + 1])
            local, network = [np.inf], [float(flow_set.most(np.array([number]))[0])]
            for link, share in zip(
                flow_set.link[crossed].tolist(), flow_set.coefficient[crossed].tolist(), strict=True
            ):
                inside = link < cluster.servers.n_links
                (local if inside else network).append(cluster.links.capacity[link] / share)
            if flow_set is sets[0]:
                assert (group.local_rate, group.network_rate) == (min(local), min(network))
                assert (group.size, group.hop_latency) == (rows.shape[1], flow_set.latency[number])
            else:
                laid = group.carrier(flow_set.carrier)
                assert (laid.rate, laid.latency) == (min(local + network), flow_set.latency[number])


def with_patterns(cluster: Cluster, *names: str) -> Cluster:
    tuning = cluster.node.collectives.model_copy(update={"patterns": names})
    return with_node(cluster, collectives=tuning)


class TestLoads:
    @pytest.mark.parametrize("case", SPREAD)
    @pytest.mark.parametrize("carrier", OWN)
    def test_switches_pass_on_what_they_get(self, case: str, carrier: str) -> None:
        """Every vertex between the accelerators (and the adapters beside them) sends on what arrives."""
        cluster = make_cluster(**SPREAD[case])
        if carrier == WITHIN and cluster.places.sizes[0] == 1:
            return  # no pairs in a node
        out, back = passed_on(cluster, loads_on(cluster, carrier, all_members(cluster))[0])
        for block in cluster.blocks:
            if block.kind in ("leaf", "spine", "core", "router", "switch", "nvswitch"):
                np.testing.assert_allclose(out[block.first : block.end], back[block.first : block.end])

    @pytest.mark.parametrize("case", [case for case in SPREAD if case not in ("rail only", "host pcie", "pcie")])
    @pytest.mark.parametrize("carrier", ["ring", "exchange", ACROSS])
    def test_members_send_as_much_as_they_receive(self, case: str, carrier: str) -> None:
        """All together, for several accelerators may share an adapter; where nodes are uneven, adapters of a ring."""
        cluster = make_cluster(**SPREAD[case])
        out, back = passed_on(cluster, loads_on(cluster, carrier, all_members(cluster))[0])
        assert out.sum() == pytest.approx(back.sum())
        uneven = len(cluster.kinds) > 1
        nics = [block for block in cluster.blocks if block.kind == "nic" and not (uneven and carrier == ACROSS)]
        for block in [*nics, *(block for block in cluster.blocks if block.first == 0 and not uneven)]:
            np.testing.assert_allclose(out[block.first : block.end], back[block.first : block.end])

    def test_a_member_of_an_exchange_sends_its_bytes(self) -> None:
        """Of 39 parts that a member sends, 7 stay in its node and 32 leave over its adapter."""
        cluster = make_cluster(**CASES["plain 2 tiers"])
        out, _ = passed_on(cluster, loads_on(cluster, "exchange", all_members(cluster))[0])
        np.testing.assert_allclose(out[:40], 7 / 39)
        nic = next(block for block in cluster.blocks if block.kind == "nic")
        np.testing.assert_allclose(out[nic.first : nic.end], 32 / 39)

    def test_a_broadcast_reaches_each_other_member_once(self) -> None:
        cluster = make_cluster(nodes=4, fabric=fat_tree())
        out, back = passed_on(cluster, loads_on(cluster, "broadcast", all_members(cluster))[0])
        nic = next(block for block in cluster.blocks if block.kind == "nic")
        received = back[:32] + back[nic.first : nic.end]
        assert received[0] == 0
        np.testing.assert_allclose(received[1:], 1)
        np.testing.assert_allclose(out[nic.first : nic.end], [1 / 8] * 24 + [0] * 8)

    def test_a_hierarchical_exchange_stays_on_its_rail(self) -> None:
        """Across four nodes a member sends a third to its place in each other; then 1/7 to each of its node."""
        cluster = make_cluster(nodes=4, fabric=fat_tree(rail_optimized=True, nodes_per_unit=2))
        across = loads_on(cluster, ACROSS, all_members(cluster))[0]
        leaf_up = cluster.find_link("unit0/leaf3->spine0")
        spines = np.flatnonzero(cluster.links.source == cluster.links.source[leaf_up])
        up = [link for link in spines if "spine" in cluster.link_name(int(link)).split("->")[1]]
        assert across[up].sum() == pytest.approx(2 * 2 / 3)  # two nodes behind the leaf, two of three peers beyond
        local = cluster.server.links.n
        assert across[: 4 * local].sum() == 0
        within = loads_on(cluster, WITHIN, all_members(cluster))[0]
        np.testing.assert_allclose(within[: 4 * local], 1)

    def test_uneven_nodes_hand_on_all_that_crosses(self) -> None:
        """Members 0 to 7 of one node and two of another: what the two get for the eight, they share out."""
        cluster = make_cluster(nodes=2)
        rows = [[*range(8), 8, 9]]
        across, within = (loads_on(cluster, carrier, rows)[0] for carrier in (ACROSS, WITHIN))
        group = Group(10, 2, 0.0, others=(Carrier(ACROSS, 1.0, 0.0), Carrier(WITHIN, 1.0, 0.0)))
        first, second = PATTERNS["hierarchical"].cost("all_to_all", 10.0, group, cluster.node)
        nic = next(block for block in cluster.blocks if block.kind == "nic")
        out, _ = passed_on(cluster, across * first.size)
        np.testing.assert_allclose(out[nic.first : nic.end], [2] * 8 + [8] * 2 + [0] * 6)
        handed, _ = passed_on(cluster, within * second.size)
        np.testing.assert_allclose(handed[:10], [7 * 2] + [7 * 2] + [7 * 1] * 6 + [1 + 1, 1 + 7])


class TestCounting:
    @pytest.mark.parametrize("case", SPREAD)
    def test_counted_pairs_are_those_that_are_walked(self, case: str) -> None:
        cluster = make_cluster(**SPREAD[case])
        rng = np.random.default_rng(5)
        size = min(12, cluster.n_accelerators)
        rows = [sorted(rng.choice(cluster.n_accelerators, size, replace=False).tolist()) for _ in range(7)]
        rows.append(list(range(size)))
        walked = exchange._walked(cluster, members_of(cluster, rows))
        expected = np.zeros((len(rows), cluster.links.n))
        np.add.at(expected, (walked.group, walked.link), walked.pairs / (size - 1))
        if case == "hashed":
            assert cluster.router.gates(np.arange(cluster.n_accelerators)) is None
        np.testing.assert_allclose(loads_on(cluster, "exchange", rows), expected, atol=1e-12)
        counted = layer_of("exchange").loads(cluster, members_of(cluster, rows), "exchange")
        np.testing.assert_allclose(counted.latency, walked.latency, rtol=1e-12)

    def test_pairs_are_walked_in_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = make_cluster(**SPREAD["hashed"])
        whole = loads_on(cluster, "exchange", all_members(cluster))
        monkeypatch.setattr(exchange, "BLOCK", 100)
        np.testing.assert_allclose(loads_on(cluster, "exchange", all_members(cluster)), whole)

    def test_more_hashed_pairs_than_memory_holds_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exchange, "MOST_PAIRS", 1000)
        with pytest.raises(PlanError, match="use d_mod_k or spray"):
            loads_on(make_cluster(**SPREAD["hashed"]), "exchange", [list(range(40))])


class TestBounds:
    @pytest.mark.parametrize("case", SPREAD)
    @pytest.mark.parametrize("pattern", ["exchange", "hierarchical"])
    def test_all_to_all_is_never_faster_than_the_bisection(self, case: str, pattern: str) -> None:
        """Each half of the members sends a quarter of all bytes to the other half."""
        cluster = with_patterns(make_cluster(**SPREAD[case]), "ring", "exchange", "hierarchical")
        assert cluster.fabric is not None
        n, size, across = cluster.n_accelerators, 1e12, cluster.fabric.bisection()
        if not np.isnan(across):
            halves = (cluster.n_nodes // 2, cluster.n_nodes - cluster.n_nodes // 2)
            crossing = size * halves[0] * halves[1] / cluster.n_nodes**2 * n
            most = across * 2 * max(halves) / cluster.n_nodes  # of the larger half, where they are not equal
            assert seconds_of(cluster, "all_to_all", size, pattern) >= crossing / most * (1 - EXACT)

    @pytest.mark.parametrize(("over", "line_rate_ms"), [(1.0, 24.0), (2.0, 38.4), (8.0, 153.6)])
    def test_through_oversubscribed_leaves(self, over: float, line_rate_ms: float) -> None:
        """16 DGX H100, four a leaf, 1.28 GB a rank: 32 x 96 x 10 MB over 32 x 50 GB/s / over leave each leaf.

        With a full leaf 120 x 10 MB leave a rank over 50 GB/s. Payload has 96 % of the line rate.
        """
        job = expert_job(over)
        flow = next(number for number, each in enumerate(job.flows) if each.kind == "expert")
        seconds = run_collectives(job, [("expert", "all_to_all", 1.28e9)])
        (leg,) = job.cost(flow, "all_to_all", 1.28e9).legs
        assert seconds - leg.latency == pytest.approx(line_rate_ms / 1e3 / 0.96, rel=EXACT)
        assert seconds > line_rate_ms / 1e3

    @pytest.mark.parametrize("pattern", ["exchange", "hierarchical"])
    def test_a_slow_uplink_holds_back_all_that_crosses_it(self, pattern: str) -> None:
        """One of two leaves, one spine: 16 members send 16 of 32 parts up, at half the rate of their adapters."""
        uplink = Degradation(link="unit0/leaf0->spine0", factor=0.5)
        fabric, names = fat_tree(spines=1), ("ring", "exchange", "hierarchical")
        healthy, slow = (
            with_patterns(make_cluster(nodes=4, fabric=fabric, degradations=parts), *names) for parts in ((), (uplink,))
        )
        crossing = 16 * 16 * 1e9 / (16 * NIC_RATE / 2)
        fast, late = (seconds_of(cluster, "all_to_all", 32e9, pattern) for cluster in (healthy, slow))
        second = 7 / 8 * 32e9 / 300e9 if pattern == "hierarchical" else 0.0
        assert late == pytest.approx(crossing + second, rel=1e-3)
        assert fast == pytest.approx(24e9 / NIC_RATE + second, rel=1e-3)

    def test_healthy_links_take_the_own_adapter(self) -> None:
        """S (n - g)/n through the adapter, S (g - 1)/n through the port (g members in a node)."""
        cluster = make_cluster(nodes=4)  # without start-up but for the wire
        assert seconds_of(cluster, "all_to_all", 32e9, "exchange") == pytest.approx(2e-6 + 24e9 / NIC_RATE)
        inside = seconds_of(make_cluster(), "all_to_all", 8e9, "exchange")
        assert inside == pytest.approx(2e-6 + 7e9 / 300e9)


def expert_job(over: float, patterns: tuple[str, ...] = ("ring", "exchange")) -> Job:
    """All 128 ranks of 16 DGX H100 as one expert group, leaves of four nodes `over` times oversubscribed."""
    fabric = {"kind": "fat_tree", "nodes_per_unit": 4, "spines": 4, "leaf_oversubscription": over}
    source = {
        "cluster": {"extends": "dgx-h100", "nodes": 16, "fabric": fabric, "routing": {"kind": "spray"}},
        "workload": "gpt3-1.3b",
        "training": {"global_batch": 128, "sequence_length": 2048},
    }
    return job_of(as_experts(load_experiment(source).experiment, 128, patterns))


def as_experts(experiment: Experiment, expert: int, patterns: tuple[str, ...]) -> Experiment:
    """The experiment with expert groups, which no model asks for yet."""
    cluster = experiment.cluster
    assert not isinstance(cluster, str)
    assert isinstance(cluster.node, Node)
    tuning = cluster.node.collectives.model_copy(update={"patterns": patterns})
    node = cluster.node.model_copy(update={"collectives": tuning})
    return experiment.model_copy(
        update={
            "cluster": cluster.model_copy(update={"node": node}),
            "parallelism": experiment.parallelism.model_copy(update={"expert": expert}),
        }
    )


class TestInJobs:
    def small_job(self, patterns: tuple[str, ...], simulation: Fields | None = None) -> Job:
        experiment = small_experiment(nodes=4, fabric=fat_tree(leaf_oversubscription=2.0), simulation=simulation or {},
                                      training={"global_batch": 32}, software=BESIDE)  # fmt: skip
        return job_of(as_experts(experiment, 16, patterns))

    @pytest.mark.parametrize("fold", ["auto", "off"])
    def test_two_exchanges_share_their_uplinks(self, fold: str) -> None:
        """Two groups of 16 on four nodes: each half of a group behind a leaf sends 8 of 16 parts through it."""
        job = self.small_job(("ring", "exchange"), {"fold": fold})
        flow = next(number for number, each in enumerate(job.flows) if each.kind == "expert")
        seconds = run_collectives(job, [("expert", "all_to_all", 16e9)])
        (leg,) = job.cost(flow, "all_to_all", 16e9).legs
        assert job.plan.grid.groups("expert").tolist() == [list(range(16)), list(range(16, 32))]
        assert seconds - leg.latency == pytest.approx(8 * 1e9 / 25e9, rel=EXACT)  # groups of two nodes a leaf

    def test_legs_of_a_hierarchical_exchange_follow_one_another(self) -> None:
        job = self.small_job(("ring", "exchange", "hierarchical"))
        rank, flow = job.ranks[0], job.ranks[0].flows["expert"]
        cost = job.cost(flow, "all_to_all", 1e6)
        assert cost.algorithm == "hierarchical"  # fewer sends, each of them late
        exchange_ = Operation("a2a", "collective", collective="all_to_all", group="expert", message=1e6)
        work = Operation("product", "elementwise", bytes_moved=1e6)
        hidden = Operation("a2a", "collective", collective="all_to_all", group="expert", message=1e6, hidden_by=1)
        timed = job.timed(rank, sequence_of((exchange_, work, hidden, work, work)))
        assert [each.carrier for each in timed] == [
            "expert hierarchical across", "expert hierarchical within", "",
            "expert hierarchical across", "expert hierarchical within", "", "",
        ]  # fmt: skip
        assert [each.hidden_by for each in timed] == [0, 0, 0, 2, 1, 0, 0]
        seconds, busy = run_alone(timed, 0.0).seconds, timed[2].seconds
        both = job.seconds(flow, "all_to_all", 1e6)
        assert sum(each.seconds for each in timed[:2]) == pytest.approx(both)
        assert seconds == pytest.approx(both + busy + max(both, busy) + busy)
        assert run_collectives(job, [("expert", "all_to_all", 1e6)]) == pytest.approx(both, rel=EXACT)

    @pytest.mark.parametrize("patterns", [("ring", "exchange"), ("ring", "exchange", "hierarchical")])
    @pytest.mark.parametrize("hidden", [0, 2])
    def test_a_step_with_exchanges_needs_no_shortcut(
        self, patterns: tuple[str, ...], hidden: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Tokens go to the experts and back in every layer: the same with all shortcuts and with none."""

        def layer(*given: Any, **named: Any) -> Block:
            block = block_of(*given, **named)
            if block.name != "layer":
                return block
            tokens = Operation("tokens", "collective", collective="all_to_all", group="expert", message=2e6)
            there = (tokens, tokens._replace(message=3e6, hidden_by=hidden))
            forward = (*block.forward[:3], *there, *block.forward[3:])
            return replace(block, forward=forward, backward=(*there, *block.backward))

        monkeypatch.setattr("sim.layout.pieces.block_of", layer)
        times, moved = [], []
        for switch in ("auto", "off"):
            shortcuts = dict.fromkeys(("fold", "coalesce", "skip", "prune", "foresee"), switch)
            experiment = small_experiment(
                nodes=4, fabric=fat_tree(leaf_oversubscription=2.0), training={"global_batch": 32}, software=BESIDE,
                parallelism={"pipeline": 2, "data": 8, "tensor": 2, "sequence_parallel": True},
                simulation={**shortcuts, "reuse": "off", "certificate": True},
            )  # fmt: skip
            run = simulate_step(as_experts(experiment, 8, patterns))
            times.append(run.trace.time)
            moved.append(bytes_by_link(run))
            assert rank_time(run.trace, 0).exposed["expert_comm"] > 0
        assert times[0] == pytest.approx(times[1], rel=EXACT)
        np.testing.assert_allclose(moved[0].sum(), moved[1].sum(), rtol=EXACT)

    def test_carriers_of_one_group_do_not_crowd_each_other(self) -> None:
        """A group runs one collective at a time, so its exchange has the links to itself beside its own ring."""
        experiment = small_experiment(nodes=1, training={"global_batch": 8})
        job = job_of(as_experts(experiment, 8, ("ring", "exchange")))
        flow = job.ranks[0].flows["expert"]
        assert ("exchange", job.ranks[0].flows["expert exchange"]) in job.flows[flow].others
        kinds = {job.flows[number].kind for number in job.rivals(flow)}
        assert kinds == {"gradient"}

    def test_the_search_knows_the_carriers_of_a_chain(self) -> None:
        job = self.small_job(("ring", "exchange", "hierarchical"))
        experiment, cluster = job.plan.experiment, job.plan.cluster
        chain = build_chain(experiment, cluster, job.plan.course.sends)
        flow = chain.ranks[0].flows["expert"]
        found = {carrier: chain.flows[number].carrier for carrier, number in chain.flows[flow].others}
        assert found == {carrier: carrier for carrier in ("exchange", ACROSS, WITHIN)}
        one = chain.job(job, experiment, job.plan.shard, CutModel(job.plan.architecture, job.plan.chunks))
        assert one.seconds(flow, "all_to_all", 1e9) <= job.seconds(job.ranks[0].flows["expert"], "all_to_all", 1e9)

    def test_gradients_of_experts_are_summed_by_those_that_hold_the_same(self) -> None:
        job = self.small_job(("ring", "exchange"))
        copies = job.plan.flows[job.plan.flow_sets["expert_gradient"]].members
        assert copies.tolist() == [[rank, rank + 16] for rank in range(16)]


class TestOwnPattern:
    def test_a_pattern_of_ones_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One more entry in the registry, named in the platform file; nothing else is told of it."""
        monkeypatch.setitem(PATTERNS, "direct", Direct())
        tuning = {"ring_hop": 1e-6, "ring_hop_network": 3e-6}
        experiment = small_experiment(nodes=4, node={"collectives": tuning}, training={"global_batch": 32})
        job = job_of(as_experts(experiment, 1, ("ring", "direct")))
        flow = next(number for number, each in enumerate(job.flows) if each.kind == "gradient")
        assert job.cost(flow, "all_gather", 1e6).algorithm == "direct"
        assert job.cost(flow, "reduce_scatter", 1e6).algorithm == "ring"
        seconds = run_collectives(job, [("gradient", "all_gather", 1e6)])
        assert seconds == pytest.approx(1e-6 + 2e-6 + 24 / 32 * 1e6 / NIC_RATE, rel=EXACT)

    def test_a_library_without_a_way_is_told(self) -> None:
        cluster = with_patterns(make_cluster(), "tree")
        with pytest.raises(PlanError, match=r"node.collectives.patterns: none of tree runs all_gather; add ring"):
            collective_cost("all_gather", 1.0, Group(8, 1, 0.0), cluster.node)

    def test_links_that_were_not_laid_are_missed(self) -> None:
        with pytest.raises(EngineError, match="no links laid for exchange"):
            Group(8, 1, 0.0).rate_of("exchange")


@given(st.integers(2, 40), st.integers(1, 4), st.integers(0, 2**31))
def test_an_exchange_counts_every_pair_once(size: int, groups: int, seed: int) -> None:
    """Over all members, what reaches accelerators and adapters is one message less the part that stays."""
    cluster = make_cluster(**CASES["plain 2 tiers"])
    rng = np.random.default_rng(seed)
    rows = [sorted(rng.choice(40, size, replace=False).tolist()) for _ in range(groups)]
    nic = next(block for block in cluster.blocks if block.kind == "nic")
    for number, load in enumerate(loads_on(cluster, "exchange", rows)):
        out, back = passed_on(cluster, load)
        for table in (out, back):
            own = table[:40] + table[nic.first : nic.end]
            np.testing.assert_allclose(own[rows[number]], 1)
            assert own.sum() == pytest.approx(size)
