"""Low-rank adaptation: frozen matrices without weight gradients, small matrices beside them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from workload_samples import (
    LLAMA,
    SHARD,
    embedding_block,
    everything,
    flops,
    head_block,
    layer_activation_bytes,
    layer_block,
    model_flops_per_token,
)

from sim.ask.run.simulate import simulate
from sim.graph.adapters import LowRank
from sim.inputs.load import load_experiment
from sim.models.family import Architecture
from support import ROOT

ATTENTION = LowRank(rank=16)
EVERYWHERE = LowRank(rank=8, targets=("qkv", "attention_output", "feed_forward_up", "feed_forward_down"), dropout=True)
FULL = replace(SHARD, tensor=1, microbatch=1, precision="bf16")
ADAPTED = replace(FULL, lora=ATTENTION)


def adapter_parameters(lora: LowRank) -> int:
    """Trained parameters of one layer."""
    architecture = Architecture(LLAMA, replace(FULL, lora=lora))
    return architecture.held(architecture.layers[0]).trained


def test_parameters_are_rank_times_both_sides() -> None:
    # Hu 2021, section 4.2: r (d_in + d_out) for each adapted matrix; qkv 4096 -> 6144, output 4096 -> 4096
    assert adapter_parameters(ATTENTION) == 16 * (4096 + 6144) + 16 * (4096 + 4096)


def test_frozen_matrices_have_two_products_and_adapters_three() -> None:
    names = [operation.name for operation in everything(layer_block(LLAMA, ADAPTED)) if operation.kind == "matmul"]
    assert [name for name in names if "weight gradient" in name and "adapter" not in name] == []
    assert sum("adapter" in name and "weight gradient" in name for name in names) == 4
    full, adapted = (flops(everything(layer_block(LLAMA, shard))) for shard in (FULL, ADAPTED))
    trained = 6 * FULL.sequence_length * adapter_parameters(ATTENTION)
    assert adapted == pytest.approx(full * 2 / 3 + trained, rel=1e-12)


@pytest.mark.parametrize("lora", [None, ATTENTION, EVERYWHERE])
@pytest.mark.parametrize("tensor", [1, 4])
def test_model_flops_of_blocks_are_those_per_token(lora: LowRank | None, tensor: int) -> None:
    shard = replace(FULL, lora=lora, tensor=tensor)
    per_rank = LLAMA.layers * layer_block(LLAMA, shard).model_flops + head_block(LLAMA, shard).model_flops
    expected = model_flops_per_token(LLAMA, shard.sequence_length, lora) * shard.sequence_length
    # B of a row-parallel adapter is held by every rank
    assert tensor * per_rank == pytest.approx(expected, rel=1e-12 if tensor == 1 or lora is None else 2e-3)


def test_nothing_goes_back_through_a_frozen_embedding() -> None:
    assert embedding_block(LLAMA, ADAPTED).backward == ()


def test_frozen_layers_keep_less_for_the_backward_pass() -> None:
    full, adapted = (layer_activation_bytes(LLAMA, shard) for shard in (FULL, ADAPTED))
    inner = 2 * FULL.sequence_length * (16 * 2)
    not_kept = 2 * FULL.sequence_length * (LLAMA.hidden + LLAMA.ffn)  # input of up, input of down
    assert adapted == full - not_kept + inner


def test_step_moves_and_updates_adapters_only() -> None:
    overrides = [
        "cluster=dgx-h100-superpod",
        "nodes=2",
        "parallelism={tensor: 8, sequence_parallel: true}",
        "training.global_batch=16",
    ]
    shapes = [
        load_experiment(ROOT / "experiments" / "llama3-8b-dgx-h100.yaml", [*overrides, more]).experiment
        for more in ("training.recompute=none", "training.lora={rank: 16}")
    ]
    full, adapted = (simulate(shape) for shape in shapes)
    assert adapted.step.breakdown_s["optimizer"] < full.step.breakdown_s["optimizer"] / 20
    assert adapted.memory.parts["optimizer"] < full.memory.parts["optimizer"] / 100
    assert adapted.memory.parts["gradients"] < full.memory.parts["gradients"] / 100
    assert adapted.step.breakdown_s["compute"] < 0.85 * full.step.breakdown_s["compute"]


def test_stored_weights_of_frozen_fp8_take_one_byte() -> None:
    overrides = ["training.lora={rank: 16}"]
    path = ROOT / "experiments" / "llama3-8b-dgx-h100.yaml"
    wide, narrow = (
        simulate(load_experiment(path, [*overrides, f"training.precision={precision}"]).experiment).memory.parts
        for precision in ("bf16", "fp8")
    )
    assert narrow["weights"] < 0.52 * wide["weights"]
