"""Parts of a layer that are computed again: what they save, what they cost, and measured pairs of runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from plans import small_experiment

from sim.ask.run.step import simulate_step
from sim.ask.validate.validate import find_measured, predict_one
from sim.errors import ConfigError
from sim.graph.operation import RecomputePart, Shard
from sim.graph.work import Writer
from sim.inputs.document import reference_markdown
from sim.inputs.load import load_experiment
from sim.models.family import Architecture, Workload
from sim.transforms.derive import block_of, kept_bytes, repeated_flops
from sim.transforms.recompute import PARTS
from support import ROOT

SHARD = Shard(sequence_length=2048, microbatch=1)
TOKENS = 2048
PAIRS = {  # TFLOP/s with these parts again over that with the attention core
    ("feed_forward",): 593.6 / 704, ("feed_forward", "attention"): 586.8 / 704, ("attention", "norm"): 702 / 704,
}  # fmt: skip


def model(name: str) -> Workload:
    source = {
        "cluster": "dgx-h100-superpod", "nodes": 32, "workload": name, "parallelism": {"zero_stage": 1},
        "training": {"global_batch": 256, "sequence_length": 2048},
    }  # fmt: skip
    return load_experiment(source).experiment.setup.workload


def layer(name: str, *parts: RecomputePart, shard: Shard = SHARD) -> Writer:
    """The last layer of a model, with these parts again."""
    shard = replace(shard, recompute=parts or "none")
    return Writer(Architecture(model(name), shard).layers[-1], shard)


def saved(name: str, *parts: RecomputePart, shard: Shard = SHARD) -> int:
    """Bytes a token that these parts save."""
    return (kept_bytes(layer(name, shard=shard)) - kept_bytes(layer(name, *parts, shard=shard))) // TOKENS


def test_norms_and_activations_save_what_they_write() -> None:
    """Llama 3 8B: two norms of 4,096 columns; gate times up of 14,336 (2 B each)."""
    assert saved("llama3-8b", "norm") == 2 * 2 * 4096
    assert saved("llama3-8b", "activation") == 2 * 14336
    assert saved("llama3-8b", "norm", "activation") == 2 * (2 * 4096 + 14336)


def test_parts_in_8_bit_save_the_copies_that_products_read() -> None:
    fp8 = replace(SHARD, precision="fp8")
    assert saved("llama3-8b", "norm", shard=fp8) == 2 * 4096
    assert saved("llama3-8b", "activation", shard=fp8) == 14336


def test_a_feed_forward_block_keeps_its_input_alone() -> None:
    """Up and gate, and what they become: 3 x 14,336; its own input stays. All of its products run again."""
    assert saved("llama3-8b", "feed_forward") == 2 * 3 * 14336
    assert repeated_flops(layer("llama3-8b", "feed_forward")) == 2.0 * TOKENS * 3 * 4096 * 14336
    assert repeated_flops(layer("llama3-8b", "norm", "activation", "attention")) == 0


def test_activations_of_experts_save_as_much_for_each_expert_that_a_token_chose() -> None:
    """DeepSeek-V3: 8 experts and a shared one of 2,048 columns; 2fk bytes."""
    assert saved("deepseek-v3", "activation") == 2 * 2048 * (8 + 1)


def test_up_projections_of_latent_attention_save_queries_keys_and_values() -> None:
    """128 heads: queries of 192, keys of 192 and values of 128; the 64 columns that keys share are kept instead."""
    shard = replace(SHARD, recompute=("up_projection",))
    assert saved("deepseek-v3", "up_projection") == 2 * 128 * (192 + 192 + 128) - 2 * 64
    work = Writer(Architecture(model("deepseek-v3"), shard).layers[-1], shard)
    assert repeated_flops(work) == 2.0 * TOKENS * 128 * (1536 * 192 + 512 * (128 + 128))


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
@pytest.mark.parametrize("tensor", [1, 4])
def test_what_runs_again_has_been_kept_or_made(tensor: int, precision: Any) -> None:
    """Every tensor that a repeated operator reads is kept, made before it, or handed to the layer; costs add up."""
    shard = replace(SHARD, tensor=tensor, sequence_parallel=tensor > 1, precision=precision)
    for parts in (("norm",), ("activation",), ("norm", "activation"), ("feed_forward",), ("feed_forward", "norm")):
        graph = Architecture(model("llama3-8b"), shard).layers[-1]
        again = block_of(graph, replace(shard, recompute=parts))
        plain = block_of(graph, shard)
        assert again.forward == plain.forward
        assert again.backward == plain.backward
        assert again.recompute
        assert {each.name for each in again.recompute} <= {each.name for each in plain.forward}


@pytest.mark.parametrize("parts", PAIRS)
def test_ratios_of_megatron_bridge_are_met_within_five_points(parts: tuple[str, ...]) -> None:
    """Llama 3 70B on 32 H100 in fp8 (Megatron-Bridge, skill on activation recomputation)."""
    source = {
        "cluster": "dgx-h100-superpod", "nodes": 4, "workload": "llama3-70b",
        "software": {"extends": "megatron-core", "fp8_scaling": "current"},
        "parallelism": {
            "tensor": 4, "pipeline": 4, "virtual_stages": 5, "sequence_parallel": True, "zero_stage": 1,
        },
        "training": {"global_batch": 32, "sequence_length": 4096, "precision": "fp8"},
    }  # fmt: skip
    times = [
        simulate_step(load_experiment(source, [f"training.recompute=[{', '.join(how)}]"]).experiment).trace.time
        for how in (("attention",), parts)
    ]
    assert times[0] / times[1] == pytest.approx(PAIRS[parts], abs=0.05)


def test_measured_runs_are_rows_of_the_validation() -> None:
    runs = find_measured([ROOT / "experiments" / "validation" / "megatron_bridge_recompute.yaml"])
    rows = [predict_one(run) for run in runs]
    assert len(rows) == 4
    assert all(abs(row.error) < 0.1 for row in rows)


@pytest.mark.parametrize(
    ("recompute", "told"),
    [
        ([], "an empty list names no part; set it to none"),
        (["norm", "norm"], "these appear twice: norm"),
        (["up_projection"], "no latent attention"),
        (["norms"], "training.recompute"),
    ],
)
def test_wrong_lists_are_refused(recompute: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        small_experiment(training={"recompute": tuple(recompute)})


def test_each_part_is_told_in_the_reference() -> None:
    assert all(part in reference_markdown() for part in PARTS)
