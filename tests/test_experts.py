"""Layers of experts, latent attention, windows: sizes, work, exchange, memory, overlap and what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from sim.ask.run.simulate import simulate
from sim.ask.run.step import Simulated, simulate_step
from sim.comm.deduplicated import deduplicated_cost
from sim.comm.pattern import Cost
from sim.errors import ConfigError
from sim.graph.operation import Operation, Shard, TokenRouting
from sim.graph.work import Writer
from sim.inputs.load import load_definition, load_experiment
from sim.layout.state import distinct_bytes, needed_bytes, saved_bytes
from sim.models.dense import Transformer
from sim.models.family import Architecture
from sim.transforms.derive import block_of
from sim.transforms.recompute import kept
from sim.transforms.reduction import gradient_group

EXACT = 1e-9
SMALL: Mapping[str, Any] = {
    "kind": "transformer", "layers": 4, "hidden": 1024, "heads": 16, "kv_heads": 4, "ffn": 2048, "vocab": 32000,
    "activation": "swiglu", "norm": "rmsnorm", "positions": "rotary", "bias": False, "tied_embeddings": False,
    "moe": {"experts": 16, "top_k": 2, "ffn": 512, "shared_experts": 1, "first_dense": 1},
}  # fmt: skip
JOB: Mapping[str, Any] = {
    "cluster": "dgx-h100-superpod",
    "nodes": 2,
    "software": "megatron-moe",
    "workload": SMALL,
    "parallelism": {"expert": 8, "zero_stage": 1},
    "training": {"sequence_length": 1024, "global_batch": 64},
}


def model(**changes: Any) -> Transformer:
    """The small one, with `changes`."""
    found = load_definition("workload", {**SMALL, **changes})
    assert isinstance(found, Transformer)
    return found


def shipped(name: str) -> Transformer:
    found = load_definition("workload", name)
    assert isinstance(found, Transformer)
    return found


def run(*changes: str) -> Simulated:
    return simulate_step(load_experiment(JOB, changes).experiment)


def refused(*changes: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_experiment(JOB, changes)
    return str(caught.value)


class TestSize:
    @pytest.mark.parametrize(
        ("name", "billions"),
        [
            ("mixtral-8x7b", 12.9), ("mixtral-8x22b", 39.2), ("qwen3-235b-a22b", 22.2), ("qwen3-30b-a3b", 3.35),
            ("dbrx", 36.5), ("deepseek-v3", 37.55), ("gpt-oss-120b", 5.71), ("grok-1", 83.8),
        ],
    )  # fmt: skip
    def test_active_parameters(self, name: str, billions: float) -> None:
        """Mistral, Qwen and Databricks count the input embedding; of DeepSeek-V3 37 is 36.6 without and 37.6 with it,
        of gpt-oss 5.1 is without it."""
        active = Architecture(shipped(name), Shard()).active_parameters
        assert active / 1e9 == pytest.approx(billions, rel=6e-3)

    def test_without_the_embedding_gpt_oss_has_its_published_active_size(self) -> None:
        """Model card (arXiv 2508.10925), table 1: 5.13 billion."""
        model = Architecture(shipped("gpt-oss-120b"), Shard())
        assert (model.active_parameters - model.table.parameters) / 1e9 == pytest.approx(5.13, rel=6e-3)

    @pytest.mark.parametrize(("expert", "sharers"), [(2, 1), (8, 1), (4, 2), (1, 2)])
    def test_ranks_of_experts_hold_all_of_them(self, expert: int, sharers: int) -> None:
        whole = Architecture(model(), Shard())
        part = Architecture(model(), Shard(expert=expert, expert_tensor=sharers))
        apart = part.whole.parameters - part.whole.experts
        mine = 3 * 1024 * 512 * 16 * 3
        assert part.whole.experts * expert * sharers == mine
        assert apart == whole.whole.parameters - mine
        assert part.flops[0] == pytest.approx(whole.flops[0] * 1.0, rel=EXACT)  # of the tokens of one rank

    def test_every_second_layer(self) -> None:
        kinds = [model(moe={**SMALL["moe"], "first_dense": 0, "every": 2}).layer_kind(n)[0] for n in range(4)]
        assert kinds == [False, True, False, True]

    def test_a_second_token_is_a_layer_a_projection_and_the_same_head(self) -> None:
        """DeepSeek-AI 2024, 4.2: 11.5 billion of its own beside copies of embedding and head."""
        one, two = (
            Architecture(shipped("deepseek-v3").model_copy(update={"predicted_tokens": n}), Shard()) for n in (0, 1)
        )
        own = two.whole.parameters - one.whole.parameters - one.table.parameters
        assert own / 1e9 == pytest.approx(11.5, rel=0.01)

    def test_latent_experts_are_narrower(self) -> None:
        narrow = Architecture(model(moe={**SMALL["moe"], "latent": 256}), Shard(expert=2))
        assert narrow.whole.experts * 4 == Architecture(model(), Shard(expert=2)).whole.experts


class TestWork:
    @pytest.mark.parametrize(("name", "layer", "gigaflops"), [("mixtral-8x7b", 0, 4441.3), ("deepseek-v3", 3, 13073)])
    def test_a_layer_and_the_head_do_what_a_trace_counts(self, name: str, layer: int, gigaflops: float) -> None:
        """Of 4,096 tokens in PyTorch 2.14 on the meta device, where attention counts half of its scores."""
        found = Architecture(shipped(name), Shard(sequence_length=4096))
        graphs = [graph for graph in (found.layers[layer], found.last) if graph]
        work = [(each.name, each.products(Writer(graph, found.shard))) for graph in graphs for each in graph.operators]
        total = sum(flops * (0.5 if operator == "attention" else 1) for operator, flops in work)
        assert total / 1e9 == pytest.approx(gigaflops, rel=1e-3)

    def test_products_of_few_rows_run_at_a_lower_rate(self) -> None:
        def rate(experts: int) -> float:
            done = run(f"workload.moe.experts={experts}", "parallelism.expert=1", "training.microbatch=4")
            graph, shard = done.plan.architecture.layers[1], done.plan.architecture.shard
            up = next(each for each in block_of(graph, shard).forward if each.name == "experts up")
            return up.flops / done.job.board.run(up).seconds

        assert rate(256) < 0.8 * rate(4)

    def test_imbalance_delays_all(self) -> None:
        even, uneven = run(), run("workload.moe.imbalance=2")
        assert uneven.trace.time > even.trace.time
        assert uneven.plan.architecture.undivided.flops[0] >= even.plan.architecture.undivided.flops[0]

    def test_a_capacity_pads_and_drops(self) -> None:
        rows = {c: forward(model(moe={**SMALL["moe"], "capacity_factor": c}), "experts up") for c in (0.5, 1.0, 1.25)}
        assert rows[0.5].flops / rows[1.0].flops == pytest.approx(0.5, rel=0.01)
        assert rows[1.25].flops / rows[1.0].flops == pytest.approx(1.25, rel=0.01)

    def test_a_window_of_the_whole_sequence_is_none(self) -> None:
        full, wide, narrow = (forward(model(window=window), "attention").flops for window in (None, 1024, 128))
        assert wide == full
        assert 2 * 128 / 1024 < narrow / full < 3 * 128 / 1024  # half of it over half of all, and tiles at both edges

    def test_windows_alternate_with_full_layers(self) -> None:
        kinds = [shipped("gpt-oss-120b").layer_kind(number)[1] for number in range(4)]
        assert kinds == [True, False, True, False]


def forward(found: Transformer, name: str, **changes: Any) -> Operation:
    """One operation of the forward pass of the last layer."""
    shard = replace(Shard(sequence_length=1024), **changes)
    return next(each for each in block_of(Architecture(found, shard).layers[-1], shard).forward if each.name == name)


class TestRouting:
    @pytest.mark.parametrize(("groups", "limit"), [(1, 1), (4, 2), (2, 1), (4, 4)])
    @pytest.mark.parametrize("parts", [1, 2, 4, 8])
    def test_distinct_parts_are_those_of_all_choices(self, groups: int, limit: int, parts: int) -> None:
        experts, chosen = 8, 2
        met = []
        for drawn in combinations(range(groups), limit):
            pool = [expert for expert in range(experts) if expert * groups // experts in drawn]
            met += [len({expert * parts // experts for expert in choice}) for choice in combinations(pool, chosen)]
        routing = TokenRouting(experts, chosen, groups, limit)
        assert routing.distinct(parts) == pytest.approx(sum(met) / len(met), rel=EXACT)


class TestExchange:
    @pytest.mark.parametrize("changes", [(), ("parallelism.tensor=2", "parallelism.sequence_parallel=true")])
    @pytest.mark.parametrize("sharers", [1, 2])
    def test_gradients_of_experts_have_a_group_of_their_own(self, changes: tuple[str, ...], sharers: int) -> None:
        done = run(*changes, "parallelism.expert=4", f"parallelism.expert_tensor={sharers}")
        graph = done.plan.architecture.layers[-1]
        groups = {weight.name: gradient_group(graph, weight) for weight in graph.weights()}
        mine = {name for name, group in groups.items() if group == "expert_gradient"}
        assert mine == {"experts up", "experts down"}
        size = done.plan.flows[done.plan.flow_sets["expert_gradient"]].members.shape[1]
        assert size == 16 // (4 * sharers)

    def test_one_copy_for_each_expert(self) -> None:
        operations = expert_operations("all_to_all")
        assert [each.name for each in operations] == ["dispatch", "combine"]
        assert operations[1].message == 1024 * 2 * 1024 * 2

    def test_one_copy_of_each_token(self) -> None:
        operations = expert_operations("deduplicated")
        assert operations[1].message == 1024 * 1024 * 2
        assert {each.routing for each in operations} == {TokenRouting(16, 2)}

    def test_8_bit_halves_the_way_out(self) -> None:
        wide, narrow = (
            run("parallelism.dispatcher=deduplicated", f"software.experts.dispatch_8_bit={on}")
            for on in ("false", "true")
        )
        shards = [each.plan.architecture for each in (wide, narrow)]
        first, second = ([op for op in block_of(a.layers[-1], a.shard).forward if op.group == "expert"] for a in shards)
        assert second[0].message < 0.53 * first[0].message
        assert second[1].message == first[1].message

    def test_ranks_that_share_experts_gather_and_sum(self) -> None:
        done = run("parallelism.expert=4", "parallelism.expert_tensor=2")
        found = done.plan.architecture
        kinds = Counter(
            each.collective for each in block_of(found.layers[-1], found.shard).forward if each.group == "expert_tensor"
        )
        assert kinds == {"all_gather": 1, "reduce_scatter": 1}

    @pytest.mark.parametrize(
        ("ranks", "dispatch", "combine"), [(8, 153, 158), (16, 43, 43), (32, 58, 57), (64, 51, 50)]
    )
    def test_deepep_has_its_published_rates(self, ranks: int, dispatch: float, combine: float) -> None:
        """DeepEP, docs/legacy.md: 4,096 tokens of 7,168, 8 of 256 experts in 4 of 8 groups, on H800: logical GB/s."""
        routing = TokenRouting(256, 8, 8, 4)
        node = {"extends": "dgx-h100", "local": {"bandwidth": "200 GB/s"}}
        for width, published in ((1 + 4 / 128, dispatch), (2, combine)):
            found = rate(node, ranks, 4096 * 7168 * width, routing)
            assert found / 1e9 == pytest.approx(published, rel=0.1)

    @pytest.mark.parametrize(("ranks", "dispatch"), [(16, 76.8), (32, 57.7), (64, 50.6)])
    def test_hybridep_has_its_published_rates(self, ranks: int, dispatch: float) -> None:
        """DeepEP, docs/README_Hybrid-EP.md: bf16, the kernel alone, best of 4 to 16 processors, 8 experts a rank."""
        found = rate("dgx-h100", ranks, 4096 * 7168 * 2, TokenRouting(8 * ranks, 8))
        assert found / 1e9 == pytest.approx(dispatch, rel=0.1)


def rate(node: object, ranks: int, message: float, routing: TokenRouting) -> float:
    """Bytes of tokens a second as DeepEP counts them: one copy to each rank in a node, or to each node, its own too."""
    source = {
        **JOB,
        "cluster": {"extends": "dgx-h100-superpod", "node": node},
        "nodes": ranks // 8,
        "workload": {**SMALL, "moe": {"experts": 8 * ranks, "top_k": 2, "ffn": 512}},
        "parallelism": {"expert": ranks},
    }
    job = simulate_step(load_experiment(source).experiment).job
    group = job.flows[job.ranks[0].flows["expert"]].group
    cost: Cost = deduplicated_cost(message, group, job.plan.cluster.node, routing)
    parts = group.nodes if group.nodes > 1 else ranks
    return message * routing.distinct(parts) / cost.seconds(group)


def expert_operations(dispatcher: str) -> list[Operation]:
    found = run(f"parallelism.dispatcher={dispatcher}").plan.architecture
    return [each for each in block_of(found.layers[-1], found.shard).forward if each.group == "expert"]


class TestOverlap:
    @pytest.mark.parametrize("dispatcher", ["all_to_all", "deduplicated"])
    def test_hides_what_it_can(self, dispatcher: str) -> None:
        plan = f"parallelism.dispatcher={dispatcher}"
        slow = "software={extends: megatron-moe, overlap_slowdown: 0, host_issue: 0 s}"
        times = {
            how: run(plan, slow, f"parallelism.expert_overlap={how}").trace.time
            for how in ("none", "shared", "microbatch")
        }
        assert times["microbatch"] < times["none"]
        assert times["shared"] < times["none"]

    def test_the_same_is_computed_and_sent(self) -> None:
        alone, beside = (run(f"parallelism.expert_overlap={how}").plan.architecture for how in ("none", "microbatch"))
        for name in ("forward", "backward"):
            first, second = (getattr(block_of(each.layers[-1], each.shard), name) for each in (alone, beside))
            assert Counter(each._replace(hidden_by=0) for each in first) == Counter(
                each._replace(hidden_by=0) for each in second
            )


class TestShortcuts:
    OFF = (
        "simulation.fold=off",
        "simulation.coalesce=off",
        "simulation.skip=off",
        "simulation.prune=off",
        "simulation.reuse=off",
    )
    PLANS = (
        (),
        ("parallelism.dispatcher=deduplicated", "parallelism.expert=16"),
        ("parallelism.pipeline=2", "parallelism.expert_overlap=microbatch"),
        (
            "parallelism={tensor: 2, sequence_parallel: true, expert: 4, expert_tensor: 2, zero_stage: 1}",
            "training.microbatch=2",
        ),
        ("parallelism.zero_stage=3", "parallelism.expert=4"),
        ("parallelism.zero_stage=0", "parallelism.expert=4", "parallelism.expert_overlap=shared"),
    )  # fmt: skip

    @pytest.mark.parametrize("plan", PLANS)
    def test_none_moves_a_step(self, plan: tuple[str, ...]) -> None:
        small = "training.global_batch=32"
        assert run(small, *plan).trace.time == pytest.approx(run(small, *plan, *self.OFF).trace.time, rel=EXACT)


class TestMemory:
    def test_optimizer_of_experts_is_shared_by_their_replicas(self) -> None:
        """14 B a parameter: 4 B of each moment and a master copy, 2 B of the weight, over 16 ranks or 16/expert."""
        for expert in (2, 8, 16):
            done = run(f"parallelism.expert={expert}")
            whole, parts = done.plan.architecture.whole, done.readings.memory.parts
            apart = (whole.parameters - whole.experts) / 16 + whole.experts / (16 / expert)
            assert parts["optimizer"] == pytest.approx(12 * apart, rel=EXACT)

    def test_every_byte_of_the_state_is_saved_once(self) -> None:
        done = run("parallelism.expert=8", "cluster.storage=local-nvme", "checkpoint.interval=1 h")
        save = done.plan.experiment.checkpoint
        assert save is not None
        every = done.plan.architecture.undivided.whole.parameters * 14
        assert distinct_bytes(done.plan, save).sum() == pytest.approx(every, rel=EXACT)
        assert saved_bytes(done.plan, save).sum() == pytest.approx(every, rel=EXACT)
        assert needed_bytes(done.plan, save).sum() > every

    def test_a_layer_of_deepseek_keeps_254_kb_a_token_beside_attention(self) -> None:
        """4h of norm and stream, 2h + 6f for each of 8 experts, 6f of the shared one; and scores of the router."""
        found = Architecture(shipped("deepseek-v3"), Shard(sequence_length=4096, expert=64))
        names = ("attention stream", "feed-forward norm", "sort by expert", "experts", "shared")
        work = Writer(found.layers[5], found.shard)
        size = sum(work.bytes(each) for each in kept(work) if each.name.startswith(names))
        assert size == 4096 * (4 * 7168 + 8 * (2 * 7168 + 6 * 2048) + 6 * 2048)

    def test_rows_for_each_expert_are_kept(self) -> None:
        """Input, both halves and their product, once more for each expert of a token."""
        few, more = (Architecture(model(moe={**SMALL["moe"], "top_k": k}), Shard(sequence_length=1024)) for k in (2, 4))
        sizes = [each.held(each.layers[-1]).kept for each in (few, more)]
        row = 2 * (1024 + 3 * 512)
        assert sizes[1] - sizes[0] == pytest.approx(2 * 1024 * row, rel=0.01)


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            (("parallelism.expert=32", "nodes=4"), "experts 16"),
            (("parallelism.tensor=2",), "sequence_parallel"),
            (("training.recompute=alternate",), "alternate recomputation of layers of experts"),
            (("workload.moe.top_k=17",), "17 of 16 experts"),
            (("workload.moe.groups=4",), "give both"),
            (("workload.moe.first_dense=4",), "none of 4 layers has experts"),
            (("parallelism.expert_tensor=3",), "expert_tensor"),
            (("workload.window=64", "parallelism.context=2"), "window"),
            (("parallelism.shard_group=4",), "shard groups of experts"),
        ],
    )
    def test_says_what_is_wrong(self, changes: tuple[str, ...], words: str) -> None:
        assert words in refused(*changes)

    def test_dense_models_have_none_to_divide(self) -> None:
        with pytest.raises(ConfigError, match="has no experts"):
            load_experiment({**JOB, "workload": "llama3-8b"})


class TestReport:
    def test_says_sizes_and_what_was_assumed(self) -> None:
        result = simulate(load_experiment(JOB).experiment)
        assert result.setup["active_parameters"] < result.setup["parameters"]  # type: ignore[operator]
        assert any("spread evenly over experts" in note for note in result.notes)

    def test_imbalance_that_is_said_is_not_assumed(self) -> None:
        result = simulate(load_experiment(JOB, ["workload.moe.imbalance=1.2"]).experiment)
        assert not any("spread evenly" in note for note in result.notes)
