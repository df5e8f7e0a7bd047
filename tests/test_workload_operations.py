"""Operations of a transformer: FLOPs, shapes, traffic and collectives of one rank."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workload_samples import (
    BLOCKS,
    GPT,
    LLAMA,
    SHARD,
    Build,
    Recompute,
    collectives,
    everything,
    flops,
    hardware_flops_per_token,
    head_block,
    layer_activation_bytes,
    layer_block,
    layer_parameters,
    model_flops_per_token,
    named,
    traffic,
    with_,
)

from sim.graph.operation import Phase, Shard
from sim.inputs.records import Software
from sim.models.dense import Transformer
from sim.record import Precision
from sim.workload.optimizer import optimizer_step

# --- FLOPs ------------------------------------------------------------------------------------


def model_step_flops(model: Transformer, shard: Shard) -> float:
    """All matrix products of one microbatch on all tensor ranks."""
    layer, head = layer_block(model, shard), head_block(model, shard)
    return shard.tensor * (model.layers * flops(everything(layer)) + flops(everything(head)))


def test_full_recomputation_executes_narayanan_equation_3() -> None:
    s, layers, h, v = 2048, 96, 12288, 51200
    expected = 96 * 2 * s * layers * h**2 * (1 + s / (6 * h) + v / (16 * layers * h))
    shard = replace(SHARD, recompute="full")
    assert model_step_flops(GPT, shard) == pytest.approx(expected, rel=1e-9)
    assert 2 * s * hardware_flops_per_token(GPT, s, "full") == pytest.approx(expected, rel=1e-9)


def test_model_flops_are_korthikanti_appendix_a() -> None:
    s, layers, h, v = 2048, 96, 12288, 51200
    expected = 72 * 2 * s * layers * h**2 * (1 + s / (6 * h) + v / (12 * layers * h))
    blocks = layers * layer_block(GPT, SHARD).model_flops + head_block(GPT, SHARD).model_flops
    assert 8 * blocks == pytest.approx(expected, rel=1e-9)
    assert 2 * s * model_flops_per_token(GPT, s) == pytest.approx(expected, rel=1e-9)


def test_selective_recomputation_adds_the_attention_core() -> None:
    block = layer_block(GPT, replace(SHARD, recompute="selective"))
    names = [operation.name for operation in block.recompute]
    assert names == ["scores", "softmax", "attention dropout", "context"]
    assert hardware_flops_per_token(GPT, 2048, "selective") == pytest.approx(
        model_step_flops(GPT, replace(SHARD, recompute="selective")) / (2 * 2048), rel=1e-9
    )


@pytest.mark.parametrize("recompute", ["none", "selective"])
def test_flash_attention_needs_no_recomputation_outside_its_kernel(recompute: Recompute) -> None:
    shard = replace(SHARD, recompute=recompute)
    assert layer_block(with_(GPT, attention="flash"), shard).recompute == ()


def test_full_recomputation_repeats_exactly_the_forward_pass() -> None:
    block = layer_block(GPT, replace(SHARD, recompute="full"))
    assert block.recompute == tuple(each._replace(phase=Phase.RECOMPUTE) for each in block.forward)
    assert len(collectives(block.recompute)) == 2


@pytest.mark.parametrize("model", [GPT, LLAMA])
@pytest.mark.parametrize("build", [layer_block, head_block])
def test_backward_products_do_twice_the_forward_work(model: Transformer, build: Build) -> None:
    block = build(model, SHARD)
    assert flops(block.backward) == pytest.approx(2 * flops(block.forward), rel=1e-12)


@given(
    tensor=st.sampled_from([1, 2, 4, 8]),
    context=st.sampled_from([1, 2, 4]),
    microbatch=st.integers(1, 4),
    sequence_parallel=st.booleans(),
    precision=st.sampled_from(get_args(Precision)),
    model=st.sampled_from([GPT, LLAMA]),
)
def test_work_of_all_ranks_does_not_depend_on_the_split(
    tensor: int, context: int, microbatch: int, sequence_parallel: bool, precision: str, model: Transformer
) -> None:
    whole = Shard(microbatch=microbatch, precision=precision)
    part = replace(whole, tensor=tensor, context=context, sequence_parallel=sequence_parallel)
    for build in BLOCKS:
        one, many = build(model, whole), build(model, part)
        for kind in ("matmul", "attention"):
            assert tensor * context * flops(everything(many), kind) == pytest.approx(flops(everything(one), kind))
        assert tensor * context * many.model_flops == pytest.approx(one.model_flops)


def test_causal_flash_attention_computes_about_half() -> None:
    forward = layer_block(LLAMA, replace(SHARD, sequence_length=8192)).forward
    full = 4 * 2 * 8192**2 * 4096 / 8
    assert flops(forward, "attention") == pytest.approx(0.508 * full, rel=1e-2)


def test_packed_documents_cost_what_as_many_short_sequences_do() -> None:
    packed = layer_block(LLAMA, replace(SHARD, sequence_length=4096, document_length=256, microbatch=1))
    apart = layer_block(LLAMA, replace(SHARD, sequence_length=256, microbatch=16))
    for one, other in ((packed.forward, apart.forward), (packed.backward, apart.backward)):
        assert flops(one, "attention") == pytest.approx(flops(other, "attention"), rel=1e-12)
        assert flops(one, "matmul") == pytest.approx(flops(other, "matmul"), rel=1e-12)
    assert packed.model_flops == pytest.approx(apart.model_flops, rel=1e-12)


def test_flash_backward_is_five_products_against_two() -> None:
    block = layer_block(LLAMA, SHARD)
    assert flops(block.backward, "attention") == pytest.approx(2.5 * flops(block.forward, "attention"))


# --- shapes -----------------------------------------------------------------------------------


def test_products_of_a_gpt_layer_have_megatron_shapes() -> None:
    tokens, h = 2 * 2048, 12288
    shapes = [(o.name, o.batch, o.m, o.n, o.k) for o in layer_block(GPT, SHARD).forward if o.kind == "matmul"]
    assert shapes == [
        ("qkv", 1, tokens, 3 * h // 8, h),
        ("scores", 2 * 12, 2048, 2048, 128),
        ("context", 2 * 12, 2048, 128, 2048),
        ("attention output", 1, tokens, h, h // 8),
        ("feed-forward up", 1, tokens, 4 * h // 8, h),
        ("feed-forward down", 1, tokens, h, 4 * h // 8),
    ]


@pytest.mark.parametrize("model", [GPT, LLAMA])
def test_each_operation_says_what_it_is_for(model: Transformer) -> None:
    block = layer_block(model, replace(SHARD, recompute="full"))
    assert {each.phase for each in block.forward} == {Phase.FORWARD}
    assert {each.phase for each in block.recompute} == {Phase.RECOMPUTE}
    gradients = [each for each in block.backward if each.phase is Phase.WEIGHT_GRADIENT]
    assert {each.phase for each in block.backward} == {Phase.INPUT_GRADIENT, Phase.WEIGHT_GRADIENT}
    assert flops(gradients) == flops(each for each in block.forward if each.batch == 1)  # one product for each matrix
    assert {each.phase for each in optimizer_step(1.0, Software(name="any"))} == {Phase.OPTIMIZER}


@pytest.mark.parametrize("fused", [True, False])
def test_a_weight_gradient_is_added_up_in_its_own_phase(fused: bool) -> None:
    backward = layer_block(GPT, replace(SHARD, fused_accumulation=fused)).backward
    gradients = [each.kind for each in backward if each.phase is Phase.WEIGHT_GRADIENT]
    assert gradients == (["matmul"] if fused else ["matmul", "elementwise"]) * 4


def test_grouped_keys_and_gate_change_the_columns() -> None:
    forward = layer_block(LLAMA, replace(SHARD, tensor=1)).forward
    assert named(forward, "qkv").n == (32 + 2 * 8) * 128
    assert named(forward, "feed-forward up").n == 2 * 14336


def test_multi_query_keys_are_copied_to_every_tensor_rank() -> None:
    single = with_(LLAMA, kv_heads=1)
    assert named(layer_block(single, SHARD).forward, "qkv").n == (4 + 2) * 128


def test_head_dimension_may_differ_from_width_over_heads() -> None:
    wide = with_(LLAMA, head_dim=256)
    assert named(layer_block(wide, replace(SHARD, tensor=1)).forward, "attention output").k == 32 * 256


@pytest.mark.parametrize("model", [GPT, LLAMA])
def test_layer_products_use_each_matrix_weight_once(model: Transformer) -> None:
    shard = Shard(precision="bf16")
    dense = [o for o in layer_block(model, shard).forward if o.kind == "matmul" and o.batch == 1]
    biases = sum(o.n for o in dense) if model.bias else 0
    norms = 2 * model.hidden * (2 if model.norm == "layernorm" else 1)
    assert sum(o.n * o.k for o in dense) + biases + norms == layer_parameters(model)


# --- traffic ----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", get_args(Precision))
@pytest.mark.parametrize("activation", ["gelu", "swiglu", "geglu", "relu", "squared_relu"])
@pytest.mark.parametrize("attention", ["flash", "unfused"])
@pytest.mark.parametrize("fused", [True, False])
def test_every_kernel_moves_bytes(precision: str, activation: str, attention: str, fused: bool) -> None:
    model = with_(LLAMA, activation=activation, attention=attention, dropout=True, bias=True)
    shard = replace(SHARD, precision=precision, recompute="full", fused_kernels=fused, context=2)
    for build in BLOCKS:
        for operation in everything(build(model, shard)):
            if operation.name in ("attention dropout", "attention backward dropout") and attention == "flash":
                continue  # arithmetic inside the kernel of attention
            assert operation.kernels >= 1
            assert (operation.message if operation.kind == "collective" else operation.bytes_moved) > 0


def test_elementwise_bytes_of_a_gpt_layer() -> None:
    """Per element of s b h: norms 4, layout 12/t, context 4/t, residuals 7, activation 16/t."""
    n = 2 * 2048 * 12288
    memory = [o for o in layer_block(GPT, SHARD).forward if o.kind == "elementwise" and o.name != "softmax"]
    expected = n * (2 * 4 + 2 * 7 + (12 + 4 + 16) / 8)
    assert traffic(o for o in memory if o.name != "attention dropout") == pytest.approx(expected)


def test_scores_take_4_bytes_in_softmax_and_5_in_dropout() -> None:
    forward, scores = layer_block(GPT, SHARD).forward, 2 * 12 * 2048**2
    assert named(forward, "softmax").bytes_moved == 4 * scores
    assert named(forward, "attention dropout").bytes_moved == 5 * scores


@pytest.mark.parametrize("model", [GPT, LLAMA])
def test_separate_kernels_move_more_and_launch_more(model: Transformer) -> None:
    fused, eager = (everything(layer_block(model, replace(SHARD, fused_kernels=flag))) for flag in (True, False))
    assert traffic(eager) > traffic(fused)
    assert sum(o.kernels for o in eager) > sum(o.kernels for o in fused)
    assert flops(eager) == pytest.approx(flops(fused))


@pytest.mark.parametrize("fused", [True, False])
def test_wider_gradients_cost_a_read_and_a_write(fused: bool) -> None:
    shard = replace(SHARD, fused_kernels=fused)
    wide, narrow = (traffic(layer_block(GPT, shard, gradient_bytes=width).backward) for width in (4, 2))
    assert wide - narrow == pytest.approx(2 * 2 * 12 * 12288**2 / 8)


def test_fp8_multiplies_in_8_bit_and_casts_but_attends_in_16() -> None:
    shard = replace(SHARD, precision="fp8")
    forward = layer_block(GPT, shard).forward
    assert {o.precision for o in forward if o.kind == "matmul" and o.batch == 1} == {"fp8"}
    assert named(forward, "scores").precision == "bf16"
    assert {o.precision for o in head_block(GPT, shard).forward} >= {"bf16"}


def test_fp8_casts_what_no_norm_has_cast_and_transposes_for_weight_gradients() -> None:
    tokens, hidden = 2 * 2048, 12288
    block = layer_block(GPT, replace(SHARD, precision="fp8"))
    assert not [o for o in block.forward if o.name == "qkv input cast"]  # by the norm
    assert named(block.forward, "attention output input cast").bytes_moved == 4 * tokens * hidden / 8
    assert named(block.backward, "qkv input transpose").bytes_moved == 2 * tokens * hidden
    split = layer_block(GPT, replace(SHARD, precision="fp8", sequence_parallel=True))
    assert named(split.backward, "attention output gradient cast").bytes_moved == 3 * tokens * hidden / 8
    assert named(split.backward, "attention output gradient transpose").bytes_moved == 2 * tokens * hidden
    assert named(split.forward, "qkv gather").message == tokens * hidden  # 1 B each


def test_dynamic_scaling_reads_each_tensor_once_more_and_casts_weights_at_each_use() -> None:
    shard = replace(SHARD, precision="fp8", fp8_scaling="dynamic")
    block = layer_block(GPT, shard)
    name = "attention output input cast"
    delayed = named(layer_block(GPT, replace(shard, fp8_scaling="delayed")).forward, name)
    assert named(block.forward, name).bytes_moved == delayed.bytes_moved * 6 / 4
    assert len([o for o in everything(block) if o.name.endswith("weight cast")]) == 8


def test_current_scaling_reads_tensors_once_more_but_casts_weights_once_a_step() -> None:
    shard = replace(SHARD, precision="fp8", fp8_scaling="current")
    block, name = layer_block(GPT, shard), "attention output input cast"
    dynamic = layer_block(GPT, replace(shard, fp8_scaling="dynamic"))
    assert named(block.forward, name) == named(dynamic.forward, name)
    assert not [o for o in everything(block) if o.name.endswith(("weight cast", "maximum"))]


@pytest.mark.parametrize(("scaling", "scales"), [("current", 0), ("dynamic", 2)])
def test_a_norm_that_finds_the_scale_cannot_cast(scaling: Literal["current", "dynamic"], scales: int) -> None:
    shard = replace(SHARD, precision="fp8", sequence_parallel=True, fp8_scaling=scaling)
    forward = layer_block(GPT, shard).forward
    assert named(forward, "qkv input cast").bytes_moved == 3 * 2 * 2048 * 12288 / 8
    names = ("qkv input maximum", "feed-forward up input maximum")
    assert len([o for o in forward if o.name in names]) == scales


def test_copies_of_sharded_units_move_their_bytes_per_parameter() -> None:
    block = layer_block(GPT, replace(SHARD, gather_copy=4.0, gather_copy_again=5.0, reduce_copy=6.0))
    parameters = layer_parameters(GPT, 8)
    assert named(block.forward, "weights copied").bytes_moved == 4 * parameters
    assert named(block.recompute, "weights copied").bytes_moved == 5 * parameters
    assert named(block.backward, "gradients copied").bytes_moved == 6 * parameters


def test_alternate_recomputation_repeats_key_output_and_up() -> None:
    shard = replace(SHARD, tensor=1, precision="bf16", recompute="alternate")
    block = layer_block(LLAMA, shard)
    again = [o.name for o in block.recompute if o.kind == "matmul"]
    assert again == ["qkv", "attention output", "feed-forward up"]
    extra = hardware_flops_per_token(LLAMA, 2048, "alternate") - model_flops_per_token(LLAMA, 2048)
    assert flops(block.recompute) == pytest.approx(extra / LLAMA.layers * 2 * 2048, rel=1e-12)
    kept = {how: layer_activation_bytes(LLAMA, replace(shard, recompute=how)) for how in ("none", "alternate", "full")}
    assert kept["full"] < kept["alternate"] < 0.6 * kept["none"]


def test_32_bit_doubles_the_traffic_of_16_bit_products() -> None:
    half, full = (named(layer_block(GPT, replace(SHARD, precision=p)).forward, "qkv") for p in ("bf16", "tf32"))
    assert full.bytes_moved == 2 * half.bytes_moved


@pytest.mark.parametrize(
    ("kernels", "forward", "backward"), [("vocabulary_parallel", 38, 14), ("eager", 14, 22), ("compiled", 2, 4)]
)
def test_the_loss_moves_what_its_kernels_read_and_write(kernels: str, forward: int, backward: int) -> None:
    block, logits = head_block(GPT, replace(SHARD, cross_entropy=kernels)), 2 * 2048 * 51200 / 8  # type: ignore[arg-type]
    assert named(block.forward, "cross-entropy").bytes_moved == forward * logits
    assert named(block.backward, "cross-entropy backward").bytes_moved == backward * logits


def test_optimizer_moves_its_bytes_per_parameter() -> None:
    software = Software(name="stack", optimizer_bytes=42.0)
    (step,) = optimizer_step(1e9, software)
    assert step.bytes_moved == 42e9
    assert optimizer_step(1e9, software, "fp8")[0].bytes_moved == 46e9
