"""Collectives inside a layer: bytes, groups, and what runs beside what."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
from workload_samples import (
    BLOCKS,
    GPT,
    LLAMA,
    SHARD,
    Build,
    collectives,
    embedding_block,
    everything,
    flops,
    head_block,
    layer_block,
    named,
    wire_bytes,
)

from sim.graph.operation import Operation, Shard

HIDDEN_BYTES = 2 * 2 * 2048 * 12288
SPLIT = replace(SHARD, sequence_parallel=True)


def kinds(operations: tuple[Operation, ...]) -> list[str]:
    return [str(operation.collective) for operation in collectives(operations)]


def beside(operations: tuple[Operation, ...], name: str) -> list[str]:
    """Names of the operations that the collective `name` runs beside."""
    at = [operation.name for operation in operations].index(name)
    return [operation.name for operation in operations[at + 1 : at + 1 + operations[at].hidden_by]]


@pytest.mark.parametrize("build", BLOCKS)
def test_one_tensor_rank_talks_to_nobody(build: Build) -> None:
    assert collectives(everything(build(GPT, Shard()))) == []


def test_a_layer_reduces_the_hidden_state_twice_each_way() -> None:
    block = layer_block(GPT, SHARD)
    assert kinds(block.forward) == kinds(block.backward) == ["all_reduce", "all_reduce"]
    assert {operation.message for operation in collectives(everything(block))} == {HIDDEN_BYTES}


def test_sequence_parallelism_moves_the_same_bytes_forward() -> None:
    forward = layer_block(GPT, SPLIT).forward
    assert kinds(forward) == ["all_gather", "reduce_scatter"] * 2
    assert wire_bytes(forward, 8) == wire_bytes(layer_block(GPT, SHARD).forward, 8)


def test_sequence_parallelism_gathers_once_more_backward() -> None:
    backward = layer_block(GPT, SPLIT).backward
    assert kinds(backward) == ["all_gather", "all_gather", "reduce_scatter"] * 2
    assert wire_bytes(backward, 8) == 1.5 * wire_bytes(layer_block(GPT, SHARD).backward, 8)


def test_sequence_parallelism_splits_norms_dropout_and_residual() -> None:
    whole, split = layer_block(GPT, SHARD).forward, layer_block(GPT, SPLIT).forward
    for name in ("attention norm", "attention residual", "feed-forward norm", "feed-forward residual"):
        assert named(split, name).bytes_moved == named(whole, name).bytes_moved / 8


@pytest.mark.parametrize("shard", [SHARD, SPLIT])
def test_overlap_changes_neither_work_nor_traffic(shard: Shard) -> None:
    for build in BLOCKS:
        plain = build(GPT, shard)
        for overlap in ("backward", "full"):
            other = everything(build(GPT, replace(shard, tensor_overlap=overlap)))
            assert flops(other) == flops(everything(plain))
            assert wire_bytes(other, 8) == wire_bytes(everything(plain), 8)


@pytest.mark.parametrize("shard", [SHARD, SPLIT])
def test_without_overlap_every_collective_is_waited_for(shard: Shard) -> None:
    assert not any(operation.hidden_by for operation in everything(layer_block(GPT, shard)))


def test_backward_overlap_hides_the_reduction_by_the_weight_gradient() -> None:
    block = layer_block(GPT, replace(SHARD, tensor_overlap="backward"))
    assert beside(block.backward, "qkv gradient reduce") == ["qkv weight gradient"]
    assert not any(operation.hidden_by for operation in block.forward)


def test_backward_overlap_hides_the_second_gather_by_the_input_gradient() -> None:
    block = layer_block(GPT, replace(SPLIT, tensor_overlap="backward"))
    assert beside(block.backward, "qkv gather again") == ["qkv input gradient"]
    assert beside(block.backward, "feed-forward down gradient gather") == []


def test_full_overlap_hides_every_layer_collective_by_products() -> None:
    block = layer_block(GPT, replace(SPLIT, tensor_overlap="full", precision="fp8"))
    assert beside(block.forward, "qkv gather") == ["qkv"]
    assert beside(block.forward, "attention output reduce") == ["attention output"]
    exposed = [operation.name for operation in collectives(everything(block)) if not operation.hidden_by]
    assert exposed == ["attention output reduce", "feed-forward down reduce"]  # the last part of each


def test_what_leaves_part_by_part_adds_up_and_ends_after_the_work() -> None:
    block = layer_block(GPT, replace(SPLIT, tensor_overlap="full"))
    early, last = [operation for operation in block.forward if operation.name == "attention output reduce"]
    assert (early.message, last.message) == (0.75 * HIDDEN_BYTES, 0.25 * HIDDEN_BYTES)
    assert (early.hidden_by, last.hidden_by) == (1, 0)
    product = named(block.forward, "attention output")
    assert (product.kernels, product.parts) == (4, 4)
    assert named(block.forward, "qkv").kernels == 8  # a part for each rank


def test_parts_of_a_product_do_the_same_work() -> None:
    whole, parts = (layer_block(GPT, replace(SPLIT, tensor_overlap=how)) for how in ("none", "full"))
    assert flops(everything(whole)) == flops(everything(parts))


def test_vocabulary_is_split_and_joined() -> None:
    embedding, head = embedding_block(GPT, SHARD), head_block(GPT, SHARD)
    assert kinds(everything(embedding)) == ["all_reduce"]
    losses = [operation for operation in collectives(head.forward) if operation.name.startswith("loss")]
    assert [operation.message for operation in losses] == [4 * 2 * 2048] * 3
    assert named(head.backward, "head gradient reduce").message == HIDDEN_BYTES


def test_split_embedding_scatters_forward_and_gathers_backward() -> None:
    embedding = embedding_block(GPT, SPLIT)
    assert (kinds(embedding.forward), kinds(embedding.backward)) == (["reduce_scatter"], ["all_gather"])


def test_ring_sends_every_other_block_of_keys_and_values() -> None:
    block = layer_block(LLAMA, Shard(context=4, sequence_length=8192))
    keys_and_values = 2 * 2 * (8192 // 4) * 8 * 128
    assert wire_bytes(block.forward, 4, "context") == 3 * keys_and_values
    assert wire_bytes(block.backward, 4, "context") == 2 * 3 * keys_and_values


def test_ring_runs_beside_all_but_the_last_block_of_attention() -> None:
    forward = layer_block(LLAMA, Shard(context=4, sequence_length=8192)).forward
    assert beside(forward, "attention ring exchange") == ["attention"]
    work, last = named(forward, "attention"), named(forward, "attention last block")
    assert (work.flops, work.kernels) == (3 * last.flops, 3)


def test_unfused_attention_waits_for_all_keys() -> None:
    forward = layer_block(GPT, replace(SHARD, context=2)).forward
    assert beside(forward, "attention ring exchange") == []


def test_separate_ring_attention_merges_blocks_and_sends_wide_gradients_in_32_bit() -> None:
    """PyTorch: keys as wide as queries, 2 B forward; 2 B and gradients of 4 B backward, which make one turn more."""
    fused = Shard(context=4, sequence_length=8192)
    block = layer_block(LLAMA, replace(fused, ring_attention="separate", repeats_keys=True))
    grouped = layer_block(LLAMA, fused)
    wider = LLAMA.heads / (LLAMA.kv_heads or LLAMA.heads)
    sent = {each.name: each.message for each in collectives(block.forward + block.backward, "context")}
    narrow = {each.name: each.message for each in collectives(grouped.forward + grouped.backward, "context")}
    forward = narrow["attention ring exchange"] * wider
    assert sent["attention ring exchange"] == pytest.approx(forward)
    assert sent["attention backward ring exchange"] == pytest.approx(3 * forward)
    assert sent["attention backward last turn"] == pytest.approx(2 * forward / 3)
    merge = named(block.forward, "attention merge")
    assert merge.bytes_moved == 3 * 46 * 2048 * LLAMA.hidden
    assert not [each for each in grouped.forward if "merge" in each.name]


def test_keys_are_copied_to_every_query_head_only_where_heads_share_them() -> None:
    copies = [each for each in layer_block(LLAMA, Shard(repeats_keys=True)).forward if each.name == "key repetition"]
    width = LLAMA.hidden * (1 + (LLAMA.kv_heads or LLAMA.heads) / LLAMA.heads)
    assert [copy.bytes_moved for copy in copies] == [2 * 2 * 2048 * width]
    assert not [each for each in layer_block(GPT, Shard(repeats_keys=True)).forward if each.name == "key repetition"]


def test_partial_results_are_summed_by_a_kernel_where_the_stack_does_so() -> None:
    shard = replace(SPLIT, tensor_overlap="full", sums_partials=True)
    block = layer_block(GPT, shard)
    sums = [each for each in block.forward + block.backward if each.name.endswith("reduce sum")]
    assert len(sums) == 4
    assert {each.bytes_moved for each in sums} == {HIDDEN_BYTES * (1 + 1 / shard.tensor)}


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(("overlap", "hidden"), [("none", 0), ("backward", 2), ("full", 4)])
def test_only_what_runs_beside_a_product_leaves_partial_results(
    overlap: Literal["none", "backward", "full"], hidden: int, batch_first: bool
) -> None:
    block = layer_block(GPT, replace(SPLIT, tensor_overlap=overlap, sums_partials=True, batch_first=batch_first))
    assert len([each for each in block.forward + block.backward if each.name.endswith("reduce sum")]) == hidden
