"""What PyTorch's stacks do otherwise: recomputation, layouts, units of sharding, rings and scales."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from workload_samples import (
    GPT,
    LLAMA,
    SHARD,
    collectives,
    embedding_parameters,
    flops,
    hardware_flops_per_token,
    layer_activation_bytes,
    layer_block,
    layer_parameters,
    model_flops_per_token,
    named,
    with_,
)

from sim.graph.operation import Operation, Shard
from sim.inputs.records import Parallelism, Software, Training
from sim.layout.pieces import Segment, build_chunks
from sim.models.dense import Transformer
from sim.models.family import Architecture
from sim.workload.memory import StageMemory

SPLIT = replace(SHARD, sequence_parallel=True, precision="bf16")
APART = replace(SPLIT, joins_matrices=False)
HIDDEN_BYTES = 2 * 2 * 2048 * 4096


def names(operations: tuple[Operation, ...]) -> list[str]:
    return [operation.name for operation in operations]


def test_recomputation_may_stop_before_the_last_product() -> None:
    full = layer_block(LLAMA, replace(SPLIT, recompute="full"))
    stopped = layer_block(LLAMA, replace(SPLIT, recompute="full", stops_recompute=True))
    last = named(full.forward, "feed-forward down")
    assert flops(full.recompute) - flops(stopped.recompute) == last.flops
    assert names(full.recompute)[: len(stopped.recompute)] == names(stopped.recompute)
    assert stopped.forward == full.forward


def test_recomputation_goes_on_to_a_dropout_that_must_be_masked_again() -> None:
    shard = replace(SHARD, recompute="full")
    assert layer_block(GPT, replace(shard, stops_recompute=True)) == layer_block(GPT, shard)


def test_the_products_of_query_key_and_value_may_be_kept() -> None:
    shard = Shard(recompute="keep_qkv", stops_recompute=True)
    block, full = layer_block(LLAMA, shard), layer_block(LLAMA, replace(shard, recompute="full"))
    assert flops(full.recompute) - flops(block.recompute) == named(block.forward, "qkv").flops
    assert [name for name in names(full.recompute) if name not in names(block.recompute)] == ["qkv"]
    again = hardware_flops_per_token(LLAMA, 2048, "keep_qkv", stops=True) - model_flops_per_token(LLAMA, 2048)
    core = 4.0 * 2048 * LLAMA.hidden
    assert flops(block.recompute) == pytest.approx(2048 * (again / LLAMA.layers - core), rel=1e-12)
    kept = [layer_activation_bytes(LLAMA, replace(shard, recompute=how)) for how in ("full", "keep_qkv", "none")]
    assert kept[1] - kept[0] == 2 * 2048 * (LLAMA.hidden + 2 * 1024)
    assert kept == sorted(kept)
    split = replace(SPLIT, recompute="keep_qkv", keeps_gathered=True)
    assert "qkv gather" in names(layer_block(LLAMA, split).recompute)


def test_hardware_flops_leave_out_what_is_not_computed_again() -> None:
    whole = hardware_flops_per_token(LLAMA, 2048, "full")
    product = 2.0 * LLAMA.layers * LLAMA.hidden * LLAMA.ffn
    assert hardware_flops_per_token(LLAMA, 2048, "full", stops=True) == whole - product
    assert hardware_flops_per_token(LLAMA, 2048, "none", stops=True) == hardware_flops_per_token(LLAMA, 2048, "none")


def test_matrices_apart_do_the_same_work_and_sum_the_gradients_of_their_input() -> None:
    one, apart = layer_block(LLAMA, SPLIT), layer_block(LLAMA, APART)
    assert flops(apart.forward + apart.backward) == flops(one.forward + one.backward)
    products = [each for each in apart.forward if each.kind == "matmul"]
    assert len(products) == 7
    assert named(apart.backward, "qkv gradient sum").bytes_moved == 4 * HIDDEN_BYTES
    assert named(apart.backward, "feed-forward up gradient sum").bytes_moved == 3 * HIDDEN_BYTES
    assert not [each for each in one.backward if each.name.endswith("gradient sum")]


def copies(operations: tuple[Operation, ...]) -> list[str]:
    """Collectives with a copy: of what they gathered (behind them), or of what they are about to sum (before)."""
    found = []
    for before, after in pairwise(operations):
        if before.collective == "all_gather" and after.name == f"{before.name} copy":
            found.append(before.name)
        if after.collective == "reduce_scatter" and before.name == f"{after.name} copy":
            found.append(after.name)
    return found


def test_collectives_along_the_second_dimension_copy() -> None:
    """Each moves the tensor in and out of memory; where several products are summed, that kernel lays it out."""
    block = layer_block(LLAMA, replace(APART, batch_first=True))
    both = block.forward + block.backward
    uncopied = {"qkv gradient reduce", "feed-forward up gradient reduce"}
    assert set(copies(both)) == {each.name for each in collectives(both)} - uncopied
    assert {each.bytes_moved for each in both if each.name.endswith(" copy")} == {2 * HIDDEN_BYTES}
    assert len([each for each in both if each.name.endswith(" copy")]) == len(copies(both))
    joined = layer_block(LLAMA, replace(SPLIT, batch_first=True))
    assert set(copies(joined.backward)) == {each.name for each in collectives(joined.backward)}


def test_what_was_gathered_may_be_kept() -> None:
    again = layer_block(LLAMA, SPLIT)
    kept = layer_block(LLAMA, replace(SPLIT, keeps_gathered=True))
    gone = {each.name for each in collectives(again.backward)} - {each.name for each in collectives(kept.backward)}
    assert gone == {"qkv gather again", "feed-forward up gather again"}


def test_a_sum_of_several_products_is_not_reduced_beside_one() -> None:
    """PyTorch reduces beside a product only its own result, which it then sums itself."""
    beside = replace(SPLIT, tensor_overlap="full", sums_partials=True)
    one, apart = layer_block(LLAMA, beside).backward, layer_block(LLAMA, replace(beside, joins_matrices=False)).backward
    assert named(one, "qkv gradient reduce").hidden_by > 0
    assert named(apart, "qkv gradient reduce").hidden_by == 0
    assert "qkv gradient reduce sum" in names(one)
    assert "qkv gradient reduce sum" not in names(apart)


def test_what_arrives_beside_a_product_is_laid_out_again() -> None:
    """Inputs and gradients of four products; one sequence lies as it should, and fp8 makes a copy anyway."""
    shard = replace(APART, batch_first=True, keeps_gathered=True, tensor_overlap="full", sums_partials=True)
    counts = [
        len([name for name in names(layer_block(LLAMA, each).backward) if name.endswith(" copy")])
        for each in (shard, replace(shard, microbatch=1), replace(shard, precision="fp8"))
    ]
    assert counts == [4, 0, 0]


def test_a_compiled_ring_waits_for_its_traffic_and_merges_in_one_kernel() -> None:
    shard = Shard(context=4, sequence_length=8192, ring_attention="compiled", repeats_keys=True)
    block = layer_block(LLAMA, shard)
    assert {each.hidden_by for each in collectives(block.forward + block.backward, "context")} == {0}
    separate = layer_block(LLAMA, replace(shard, ring_attention="separate"))
    assert sum(each.message for each in collectives(block.backward)) == sum(
        each.message for each in collectives(separate.backward)
    )
    assert named(block.forward, "attention merge").bytes_moved == 3 * 10 * 2048 * LLAMA.hidden


def test_a_scale_found_in_a_split_tensor_is_common_to_all_tensor_ranks() -> None:
    """Seven weights each pass; four inputs forward, two and four gradients backward; joined matrices are one."""
    shard = replace(APART, precision="fp8", fp8_scaling="dynamic")
    block = layer_block(LLAMA, shard)
    forward, backward = (
        [each for each in collectives(part) if each.message == 4] for part in (block.forward, block.backward)
    )
    assert (len(forward), len(backward)) == (7 + 4, 7 + 4)
    assert not [
        each
        for each in collectives(layer_block(LLAMA, replace(shard, fp8_scaling="delayed")).forward)
        if each.message == 4
    ]
    assert collectives(layer_block(LLAMA, replace(shard, tensor=1, sequence_parallel=False)).forward) == []


def segments_of(model: Transformer, *, root: bool) -> tuple[Segment, ...]:
    (chunk,) = build_chunks(Architecture(model, Shard()), Software(name="x", root_unit=root), Parallelism(zero_stage=3))
    return chunk.segments


@pytest.mark.parametrize("tied", [True, False])
def test_the_root_holds_what_is_in_no_layer_and_is_gathered_once(tied: bool) -> None:
    model = with_(LLAMA, layers=4, tied_embeddings=tied)
    root, plain = segments_of(model, root=True), segments_of(model, root=False)
    assert sum(each.parameters for each in root) == sum(each.parameters for each in plain)
    assert sum(each.trained for each in root) == sum(each.trained for each in plain)
    ends = (2 - tied) * embedding_parameters(model) + model.hidden * (2 if model.norm == "layernorm" else 1)
    assert root[0].kept == root[0].parameters - root[0].gathered_again == ends
    assert {each.gathered_again for each in root} == {layer_parameters(model)}


def test_the_root_stays_in_memory() -> None:
    """In the backward pass its weights lie there in 16 bit, and so do its gradients, which wait; no unit of an end."""
    training = Training(global_batch=8, sequence_length=2048)
    parallelism = Parallelism(data=8, zero_stage=3)
    plain, root = (
        StageMemory(Architecture(LLAMA, Shard()), training, parallelism, Software(name="x", root_unit=root)).at(
            (range(32),), [[1]], first=True, last=True
        )["early backward"]["temporary"]
        for root in (False, True)
    )
    ends = 2 * embedding_parameters(LLAMA) + LLAMA.hidden
    assert 2 * ends < root - plain <= (2 + 2) * ends
