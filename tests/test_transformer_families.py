"""Encoders, encoder-decoders, vision, diffusion and state space models, plain networks: size, work, memory, and rules.

FLOPs are those of traces made with PyTorch 2.14 on the meta device, of the models of torchvision, Transformers 5.24
and diffusers: forward pass, multiply and add counted apart, attention in full.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.ask.run.simulate import simulate
from sim.devices.compute import length_share
from sim.errors import ConfigError
from sim.graph.operation import Operation, Phase, Shard
from sim.graph.work import Writer
from sim.inputs.load import load_definition, load_experiment
from sim.models.family import Architecture, Workload
from sim.transforms.derive import block_of

BF16 = Shard(precision="bf16", sequence_length=512)
NAMES = ("bert-large", "t5-11b", "vit-b16", "mamba2-2.7b", "flux-1-dev")
SPLIT = ("bert-large", "t5-11b", "vit-b16", "flux-1-dev")  # families whose matrices tensor ranks share
FLUX = {"extends": "flux-1-dev", "kind": "diffusion_transformer", "image": 256}
MLP = {"kind": "mlp", "inputs": 784, "hidden": [512, 512, 256], "outputs": 10}


def model(name: str, **changes: object) -> Workload:
    workload = load_definition("workload", name)
    assert isinstance(workload, Workload)
    return workload.model_copy(update=changes)


def experiment(workload: Any, **changes: object) -> dict[str, Any]:
    """A run of eight boards, with sequences where the model has tokens."""
    kind = workload["kind"] if isinstance(workload, dict) else model(workload).kind
    tokens = kind in ("encoder", "encoder_decoder", "state_space")
    training = {
        "global_batch": 64,
        "microbatch": 2,
        "precision": "bf16",
        **({"sequence_length": 512} if tokens else {}),
    }
    return {"cluster": "dgx-h100", "workload": workload, "training": training, "software": "nemo", **changes}


def forward_flops(workload: Workload, shard: Shard) -> float:
    """Products of one forward pass as a model counts them [FLOP]."""
    architecture = Architecture(workload, shard)
    pieces = [architecture.first, *architecture.layers, architecture.last]
    works = [Writer(graph, shard) for graph in pieces if graph]
    return sum(operator.products(work) for work in works for operator in work.graph.operators)


def operations(workload: Workload, shard: Shard, number: int = 0) -> tuple[Operation, ...]:
    """Forward and backward operations of a layer."""
    block = block_of(Architecture(workload, shard).layers[number], shard)
    return (*block.forward, *block.backward)


def kept(workload: Workload, shard: Shard, number: int = 0) -> int:
    """What a layer keeps [B]."""
    architecture = Architecture(workload, shard)
    return architecture.held(architecture.layers[number]).kept


def named(found: tuple[Operation, ...], name: str) -> list[Operation]:
    return [each for each in found if each.name == name]


# --- work ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "shard", "gflop"),
    [
        ("bert-large", {"masked": 1.0}, replace(BF16, microbatch=8), 2945),
        ("t5-11b", {"heads": 16, "head_dim": 64, "ffn": 4096, "target_length": 128}, replace(BF16, microbatch=4), 1973),
        ("vit-b16", {}, replace(BF16, microbatch=32), 1124),
        ("flux-1-dev", {"guidance": False, "image": 256, "text_tokens": 256}, BF16, 6807),
    ],
)
def test_forward_flops_are_those_of_a_trace(name: str, changes: dict[str, Any], shard: Shard, gflop: float) -> None:
    assert forward_flops(model(name, **changes), shard) / 1e9 == pytest.approx(gflop, rel=1e-3)


def test_a_scan_does_the_work_of_a_trace_with_scores_made_once_for_a_group() -> None:
    """Mamba-2 of 1.3B, 4 layers, 2,048 tokens: 914 GFLOP, with scores for each of 64 heads, and sums over chunks."""
    shard = replace(BF16, sequence_length=2048)
    scores, passing = 2 * 2048 * 256 * 128, 2 * 2 * 64 * 9 * 9 * 8192
    found = forward_flops(model("mamba2-2.7b", layers=4, hidden=2048), shard) + 4 * (63 * scores + passing)
    assert found / 1e9 == pytest.approx(914.6, rel=1e-3)


def test_only_masked_positions_go_through_the_head_of_an_encoder() -> None:
    shard, all_of_them, some = (
        replace(BF16, microbatch=8),
        model("bert-large", masked=1.0),
        model("bert-large", masked=0.125),
    )
    head = 2 * 8 * 512 * 1024 * (1024 + 30522)
    assert forward_flops(all_of_them, shard) - forward_flops(some, shard) == pytest.approx(
        head * (1 - 0.125), rel=1e-12
    )


def test_padding_left_out_shrinks_rows_and_scores_by_the_sum_of_squares() -> None:
    """Two sequences of 128 and 384 of 512 positions: half of the rows, and 128^2 + 384^2 scores."""
    packed = model("bert-large", computed=0.5)
    shard = replace(BF16, microbatch=2, document_length=(128**2 + 384**2) // 512)
    found = operations(packed, shard)
    (attention,) = named(found, "attention")
    assert attention.flops == 4 * 16 * 64 * (128**2 + 384**2)
    (product,) = named(found, "feed-forward up")
    assert product.m == 512


def test_bidirectional_attention_computes_all_scores_and_causal_about_half() -> None:
    both = replace(BF16, microbatch=2)
    (encoder,) = named(operations(model("bert-large"), both), "attention")
    assert (encoder.flops, encoder.masked) == (4 * 2 * 16 * 512**2 * 64, 0.0)
    assert length_share(encoder) == 512 / (512 + 128)  # causal rows start and finish for half as many keys
    assert length_share(encoder._replace(masked=1.0, seen=0.5)) == 512 / (512 + 2 * 128)
    decoder = named(operations(model("t5-11b", attention="flash"), both, 24), "attention")
    assert [each.masked for each in decoder] == [1.0, 0.0]
    assert decoder[0].flops == 4 * 2 * 128 * 114**2 * 128  # tiles on the diagonal are all there is
    assert decoder[1].flops == 4 * 2 * 128 * 114 * 512 * 128


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_gradients_double_the_work_but_for_data(precision: str) -> None:
    """Patches have no gradient, all else has one and its weights too."""
    shard, vision = replace(BF16, microbatch=4, precision=precision), model("vit-b16")
    patches = 2 * 4 * 196 * 768 * 768
    assert Architecture(vision, shard).flops[0] == 3 * forward_flops(vision, shard) - patches


@pytest.mark.parametrize("name", NAMES)
def test_products_of_the_passes_add_up_to_the_flops_of_the_model(name: str) -> None:
    """Kernels of unfused attention do what the model counts; those of a scan leave out half and make some again."""
    workload, shard = model(name), replace(BF16, microbatch=2)
    if name == "mamba2-2.7b":
        found = named(operations(workload, shard), "scan result")[0].flops
        full = 2 * 2 * 512 * 80 * 64 * (128 + 256)
        assert 0.5 < found / full < 1
        return
    workload = workload.model_copy(update={"attention": "unfused"})
    architecture = Architecture(workload, shard)
    for graph in architecture.graphs:
        block = block_of(graph, shard)
        work = sum(each.flops for each in (*block.forward, *block.backward) if each.kind == "matmul")
        assert work == pytest.approx(block.model_flops, rel=1e-12)


# --- tensor ranks ---------------------------------------------------------------------------------


@given(st.sampled_from(SPLIT), st.sampled_from([2, 4]))
def test_tensor_ranks_together_hold_the_model_and_its_copies(name: str, tensor: int) -> None:
    workload = model(name, **({"vocab": 30528} if name == "bert-large" else {}))  # which four ranks divide
    alone, shared = (Architecture(workload, replace(BF16, tensor=count)) for count in (1, tensor))
    graphs = [each for each in (alone.first, *alone.layers, alone.last) if each]
    copies = sum(
        graph.elements(weight)
        for graph in graphs
        for weight in graph.weights()
        if not any(map(graph.is_split, weight.axes))
    )
    assert tensor * shared.whole.parameters == alone.whole.parameters + (tensor - 1) * copies


@pytest.mark.parametrize("name", ["bert-large", "t5-11b"])
def test_sequence_parallelism_splits_rows_outside_products(name: str) -> None:
    workload = model(name, **({"target_length": 128} if name == "t5-11b" else {}))
    plain, split = (replace(BF16, tensor=4, microbatch=2, sequence_parallel=on) for on in (False, True))
    for number in (0, -1):
        assert kept(workload, split, number) < kept(workload, plain, number)
        whole, shared = (
            {each.name: each.flops for each in operations(workload, shard, number) if each.kind == "matmul"}
            for shard in (plain, split)
        )
        assert whole == shared
    gathers = [each for each in operations(workload, split) if each.collective == "all_gather"]
    assert gathers
    assert not [each for each in operations(workload, plain) if each.collective == "all_gather"]


# --- memory ---------------------------------------------------------------------------------------


def test_an_encoder_layer_keeps_what_a_decoder_layer_does() -> None:
    """Korthikanti 2022, equation 1: s b h (34 + 5 a s / h), wherever the norms stand."""
    elements = 4 * 512 * 1024
    unfused = model("bert-large", attention="unfused")
    assert kept(unfused, replace(BF16, microbatch=4)) == elements * (34 + 5 * 16 * 512 / 1024)
    assert kept(unfused, replace(BF16, microbatch=4, recompute="full")) == elements * 2


def test_what_the_encoder_made_is_kept_once_and_carried_along() -> None:
    workload, shard = model("t5-11b", dropout=False), replace(BF16, microbatch=2)
    seen, targets = 2 * 2 * 512 * 1024, 2 * 2 * 114 * 1024
    assert kept(workload, shard, 24) - kept(workload, shard, 25) == seen
    assert Architecture(workload, shard).message_bytes == seen + targets
    assert kept(workload, replace(shard, recompute="full"), 25) == targets


def test_conditions_of_a_sample_are_kept_by_who_made_them() -> None:
    workload, shard = model("flux-1-dev"), replace(BF16, microbatch=2, recompute="full")
    stream, conditions = 2 * 2 * (4096 + 512) * 3072, 2 * 2 * 3072
    assert kept(workload, shard) == kept(workload, shard, -1) == stream
    assert Architecture(workload, shard).message_bytes == stream + conditions


def test_fused_scans_keep_what_the_projection_made_and_their_result() -> None:
    """Per token: hidden in and normed, gate, input and steps of the scan, its result; 2 B each."""
    columns = 2560 * 2 + 5120 + (5120 + 2 * 128) + 80 + 5120
    assert kept(model("mamba2-2.7b"), BF16) == 2 * 512 * columns


def test_a_frozen_encoder_runs_forward_and_has_no_gradient() -> None:
    """T5-XXL's encoder: 24 layers of 4 x 4096^2 and 3 x 4096 x 10240."""
    encoder = {"layers": 24, "heads": 64, "head_dim": 64, "ffn": 10240}
    source = experiment({**FLUX, "text_encoder": encoder}, parallelism={"zero_stage": 1})
    workload = load_experiment(source).experiment.setup.workload
    shard = replace(BF16, microbatch=2)
    without, with_encoder = Architecture(model("flux-1-dev", image=256), shard), Architecture(workload, shard)
    frozen = 24 * (4 * 4096**2 + 3 * 4096 * 10240 + 2 * 4096)
    assert with_encoder.whole.parameters - without.whole.parameters == frozen
    assert with_encoder.whole.trained == without.whole.trained
    tokens = 2 * 512
    scores = 24 * 4 * 2 * 64 * 512**2 * 64
    assert with_encoder.flops[0] - without.flops[0] == 2 * tokens * (frozen - 24 * 2 * 4096) + scores
    memory = simulate(load_experiment(source).experiment).memory.parts
    plain = simulate(load_experiment({**source, "workload": FLUX}).experiment)
    assert memory["weights"] - plain.memory.parts["weights"] == 2 * frozen
    assert memory["optimizer"] == plain.memory.parts["optimizer"]


# --- state space --------------------------------------------------------------------------------


def test_patterns_repeat_until_there_are_enough_layers() -> None:
    hybrid = model("mamba2-2.7b", layers=7, pattern="M-M*", heads=32, kv_heads=8, head_dim=128, ffn=10240)
    names = [graph.name for graph in Architecture(hybrid, BF16).layers]
    kinds = {"M": "state space layer", "-": "feed-forward layer", "*": "attention layer"}
    assert names == [kinds[each] for each in "M-M*M-M"]
    layers = {graph.name: graph.parameters() for graph in Architecture(hybrid, BF16).graphs}
    assert layers["attention layer"] == 2560 * (2 * 32 + 2 * 8) * 128 + 2560
    assert layers["feed-forward layer"] == 3 * 2560 * 10240 + 2560


def test_a_short_sequence_is_one_chunk() -> None:
    shard = replace(BF16, sequence_length=64, microbatch=3)
    (scores,) = named(operations(model("mamba2-2.7b"), shard), "scan scores")
    assert (scores.batch, scores.m, scores.n, scores.k) == (3, 64, 64, 128)


# --- plain networks -----------------------------------------------------------------------------


def test_a_plain_network_has_its_matrices_and_biases() -> None:
    result = simulate(load_experiment(experiment(MLP)).experiment)
    layers = ((784, 512), (512, 512), (512, 256), (256, 10))
    assert result.setup["parameters"] == sum(inputs * columns + columns for inputs, columns in layers)
    assert result.step.tokens_per_s is None


def test_only_equal_hidden_layers_are_one_graph_and_data_have_no_gradient() -> None:
    workload = load_experiment(experiment({**MLP, "hidden": [512, 512, 512]})).experiment.setup.workload
    architecture = Architecture(workload, BF16)
    first, second, third = architecture.layers
    assert second is third is not first
    gradients = [each.phase for each in operations(workload, BF16) if each.kind == "matmul"]
    assert Phase.INPUT_GRADIENT not in gradients
    assert Phase.WEIGHT_GRADIENT in gradients


# --- everything downstream ----------------------------------------------------------------------

PLANS = [
    ("bert-large", {"tensor": 2, "sequence_parallel": True, "pipeline": 2}),
    ("t5-11b", {"tensor": 4, "pipeline": 2, "zero_stage": 1}),
    ("vit-b16", {"tensor": 2, "pipeline": 2}),
    ("flux-1-dev", {"tensor": 2, "pipeline": 2, "zero_stage": 1}),
    ("mamba2-2.7b", {"pipeline": 4, "virtual_stages": 2}),
    (MLP, {"pipeline": 2, "zero_stage": 1}),
]


@pytest.mark.parametrize(("workload", "parallelism"), PLANS)
def test_families_run_split_and_in_stages(workload: Any, parallelism: dict[str, Any]) -> None:
    result = simulate(load_experiment(experiment(workload, parallelism=parallelism)).experiment)
    assert 0 < result.step.mfu < 1
    assert sum(result.memory.parts.values()) == pytest.approx(result.memory.peak_bytes_per_accelerator, rel=1e-9)
    assert result.trust is not None


@pytest.mark.parametrize("workload", [*NAMES, MLP])
@pytest.mark.parametrize("software", ["pytorch-ddp", "fsdp-compile", "teaching", "llm-c", "megatron-core"])
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_families_run_under_any_stack(workload: Any, software: str, recompute: str) -> None:
    source = experiment(workload, software=software, parallelism={"zero_stage": 3})
    source["training"]["recompute"] = recompute
    result = simulate(load_experiment(source).experiment)
    assert result.step.time_s > 0
    assert result.step.hfu >= result.step.mfu


@pytest.mark.parametrize(
    ("workload", "change", "words"),
    [
        ("bert-large", "parallelism.tensor=3", "heads 16 cannot be divided by tensor 3"),
        ("bert-large", "parallelism.context=2", "lies on one rank"),
        ("bert-large", "training.sequence_length=1024", "more than max_positions 512"),
        ("bert-large", "training.recompute=alternate", "use none, selective or full"),
        ("bert-large", "training.lora={rank: 8}", "trained whole"),
        ("bert-large", "workload.heads=15", "do not divide hidden"),
        ("t5-11b", "parallelism={tensor: 4, sequence_parallel: true}", "target_length 114"),
        ("t5-11b", "training.document_length=128", "leave it out"),
        ("vit-b16", "workload.image=230", "do not fill an image"),
        ("vit-b16", "training.sequence_length=197", "have no tokens"),
        ("vit-b16", "parallelism={tensor: 4, sequence_parallel: true}", "no multiple of tensor 4"),
        ("mamba2-2.7b", "parallelism.tensor=2", "set tensor to 1"),
        ("mamba2-2.7b", "workload.pattern=MX", "no layer is called X"),
        ("mamba2-2.7b", 'workload.pattern="M*"', "heads is not given"),
        ("mamba2-2.7b", "workload.groups=3", "do not divide 80 heads"),
        ("flux-1-dev", "parallelism={tensor: 2, sequence_parallel: true}", "not modelled"),
        ("flux-1-dev", "workload.image=1000", "use a multiple of 16"),
        (MLP, "parallelism.tensor=2", "data and pipeline parallel only"),
        (MLP, "training.recompute=selective", "use none or full"),
        (MLP, "training.lora={rank: 8}", "leave it out"),
    ],
)
def test_what_does_not_suit_a_family_is_said(workload: Any, change: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(experiment(workload), [change])
    assert words in str(caught.value)
