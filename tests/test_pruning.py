"""Weights left out of products: 2:4 sparsity at the rate that it reaches, and blocks with fewer inner columns."""

from __future__ import annotations

from typing import Any

import pytest
from plans import FREE, small_experiment

from sim.ask.run.assumed import assumptions
from sim.ask.run.step import simulate_step
from sim.devices.compute import operation_time
from sim.errors import ConfigError
from sim.graph.operation import Block, Operation, Phase
from sim.inputs.records import Experiment
from sim.metrics.memory import memory_result
from sim.models.family import Architecture
from sim.transforms.derive import block_of

CHIP = {"memory": {"capacity": 8e10, "bandwidth": FREE}, "launch": 0.0}  # arithmetic alone


def job(pruning: dict[str, Any], **fields: Any) -> Experiment:
    training = {"global_batch": 8, "pruning": pruning} | fields.pop("training", {})
    return small_experiment(training=training, **fields)


def layer(pruning: dict[str, Any], **fields: Any) -> Block:
    setup = job(pruning, **fields).setup
    return block_of(Architecture(setup.workload, setup.shard).layers[0], setup.shard)


def products(block: Block) -> list[Operation]:
    return [each for each in (*block.forward, *block.backward) if each.kind == "matmul"]


def test_two_of_three_products_are_faster_by_the_gain() -> None:
    """Forward and gradients of inputs, weight gradients not."""
    dense, sparse = products(layer({})), products(layer({"kind": "2:4", "gain": 1.6}))
    chip = job({}, accelerator=CHIP).setup.accelerator
    for before, after in zip(dense, sparse, strict=True):
        gain = 1.0 if before.phase is Phase.WEIGHT_GRADIENT else 1.6
        assert operation_time(before, chip) / operation_time(after, chip) == pytest.approx(gain)
        assert before.flops == after.flops
    gaining = sum(each.flops for each in sparse if each.gain > 1)
    assert gaining == pytest.approx(2 / 3 * sum(each.flops for each in sparse))


def test_the_gain_by_default_is_that_of_linear_layers_measured() -> None:
    """1.3 for both passes of the linear layers of ViT-L, of which weight gradients gain nothing (PyTorch 2024)."""
    gain = job({"kind": "2:4"}).training.pruning.gain
    assert 3 / (2 / gain + 1) == pytest.approx(1.3, abs=0.02)


def test_weights_are_chosen_anew_in_each_forward_pass() -> None:
    """Read in 2 B, two copies of 9/16 written; products read such a copy."""
    dense, sparse = layer({}), layer({"kind": "2:4"})
    weights = sum(each.n * each.k for each in dense.forward if each.kind == "matmul")
    chosen = [each for each in sparse.forward if each.name.endswith("pruning")]
    assert sum(each.bytes_moved for each in chosen) == (2 + 2 * 2 * 9 / 16) * weights
    traffic = [sum(each.bytes_moved for each in block.forward if each.kind == "matmul") for block in (dense, sparse)]
    assert traffic[0] - traffic[1] == pytest.approx(2 * 7 / 16 * weights)


def test_nothing_is_gained_where_products_gain_nothing() -> None:
    """The kernels that choose weights remain."""
    dense, sparse = (simulate_step(job(each)).trace.time for each in ({}, {"kind": "2:4", "gain": 1.0}))
    assert sparse > dense


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_fewer_columns_are_less_of_everything(share: float) -> None:
    """Work and weights of the block fall with its columns, to those of a model that has no more."""
    pruned, small = job({"kind": "columns", "share": share}), job({}, model={"ffn": round(4096 * (1 - share))})
    assert simulate_step(pruned).trace.time == simulate_step(small).trace.time
    memories = [memory_result(each.setup) for each in (pruned, small)]
    assert memories[0].moments == memories[1].moments
    assert simulate_step(pruned).trace.time < simulate_step(job({})).trace.time


def test_columns_of_experts_are_pruned_too() -> None:
    experts = {"experts": 8, "top_k": 2, "ffn": 512}
    pruned = job({"kind": "columns", "share": 0.5}, model={"moe": experts})
    small = job({}, model={"moe": experts | {"ffn": 256}})
    assert simulate_step(pruned).trace.time == simulate_step(small).trace.time


def test_notes_say_what_is_assumed() -> None:
    notes = [*assumptions(simulate_step(job({"kind": "2:4"}))), *assumptions(simulate_step(job({"kind": "columns"})))]
    assert any("1.5 times the dense rate" in note for note in notes)
    assert any("25% of the inner columns" in note for note in notes)


@pytest.mark.parametrize(
    ("pruning", "fields", "told"),
    [
        ({"kind": "2:4"}, {"training": {"lora": {"rank": 4}}}, "leave lora out"),
        ({"kind": "2:4"}, {"accelerator": {"kind": "asic"}}, "skips no zeros"),
        ({"kind": "2:4", "gain": 3.0}, {}, "training.pruning.gain"),
        ({"kind": "columns", "share": 1.0}, {}, "training.pruning.share"),
    ],
)
def test_what_cannot_be_pruned_is_refused(pruning: dict[str, Any], fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        job(pruning, **fields)
