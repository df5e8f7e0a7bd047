"""Context ranks that exchange positions for heads: bytes, work, groups, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from plans import small_experiment
from workload_samples import LLAMA, collectives, everything, flops, layer_block, named, wire_bytes

from sim.ask.run.simulate import simulate
from sim.ask.run.step import prepare_step
from sim.errors import ConfigError
from sim.graph.operation import Shard
from sim.layout.plan import job_groups

RANKS, LENGTH = 8, 65536
RING = Shard(context=RANKS, sequence_length=LENGTH)
ELEMENT = 2
QUERY, KEY = LLAMA.hidden, LLAMA.hidden * (LLAMA.kv_heads or LLAMA.heads) // LLAMA.heads


def exchanged(columns: int) -> float:
    """Bytes of a tensor that leave a rank for the others: all but its own heads."""
    return (RANKS - 1) / RANKS * ELEMENT * LENGTH / RANKS * columns


def test_each_tensor_is_exchanged_once_each_way() -> None:
    """Jacobs 2023, section 3.2: 4 exchanges of N h / P a rank and layer forward where all heads have keys."""
    block = layer_block(LLAMA, replace(RING, ulysses=RANKS))
    for passes in (block.forward, block.backward):
        assert [each.collective for each in collectives(passes, "ulysses")] == ["all_to_all"] * 4
        sent = sum(each.message for each in collectives(passes, "ulysses")) * (RANKS - 1) / RANKS
        assert sent == pytest.approx(exchanged(QUERY) * 2 + exchanged(KEY) * 2)
    assert collectives(everything(block), "context") == []


@pytest.mark.parametrize("ulysses", [2, 4])
def test_the_ring_passes_on_the_keys_of_fewer_heads(ulysses: int) -> None:
    block, alone = layer_block(LLAMA, replace(RING, ulysses=ulysses)), layer_block(LLAMA, RING)
    ring = RANKS // ulysses
    there = wire_bytes(alone.forward, RANKS, "context") / (RANKS - 1)
    assert wire_bytes(block.forward, ring, "context") == pytest.approx((ring - 1) * there)
    work, last = named(block.forward, "attention"), named(block.forward, "attention last block")
    assert work.flops == pytest.approx((ring - 1) * last.flops)


@pytest.mark.parametrize("ulysses", [1, 2, 4, 8])
def test_the_work_is_that_of_the_ring(ulysses: int) -> None:
    block, alone = layer_block(LLAMA, replace(RING, ulysses=ulysses)), layer_block(LLAMA, RING)
    assert flops(everything(block)) == pytest.approx(flops(everything(alone)), rel=1e-12)


def test_a_kernel_sees_the_whole_sequence_of_its_heads() -> None:
    kernel = named(layer_block(LLAMA, replace(RING, ulysses=RANKS)).forward, "attention")
    assert (kernel.batch, kernel.m, kernel.n) == (LLAMA.heads // RANKS, LENGTH, LENGTH)
    assert kernel.masked == 1


def test_ranks_that_exchange_are_neighbours_and_rings_cross_them() -> None:
    experiment = small_experiment(
        nodes=2, node={"accelerators": 8, "nics": {"count": 8, "bandwidth": 25e9}},
        parallelism={"tensor": 1, "context": 8, "ulysses": 4, "data": 2}, training={"sequence_length": 512},
    )  # fmt: skip
    plan = prepare_step(experiment).plan
    assert {"context", "ulysses"} <= set(plan.flow_sets)
    groups = job_groups(experiment, plan.model, plan.grid)
    exchanges, rings = groups["ulysses"][0], groups["context"][0]
    assert exchanges.tolist()[0] == [0, 1, 2, 3]
    assert rings.tolist()[0] == [0, 4]
    assert np.array_equal(np.sort(exchanges, axis=None), np.arange(16))
    assert np.array_equal(np.sort(rings, axis=None), np.arange(16))


def test_exchanges_take_as_long_as_their_bytes() -> None:
    """On one switch, where a rank sends 7/8 of each tensor over its port; its sends begin in turn."""
    experiment = small_experiment(
        node={"accelerators": 8, "local": {"kind": "switch", "bandwidth": 100e9, "latency": 0.0}},
        model={"layers": 4, "hidden": 512, "heads": 8},
        parallelism={"tensor": 1, "context": 8, "ulysses": 8, "data": 1},
        training={"global_batch": 1, "microbatch": 1, "sequence_length": 16384},
    )
    start = 7 * experiment.setup.node.collectives.ring_hop
    each = start + 2 * 16384 / 8 * 512 * 7 / 8 / 100e9
    tensors = 2 * 4  # queries, keys, values and output, forward and backward
    assert simulate(experiment).step.breakdown_s["context_comm"] == pytest.approx(4 * tensors * each, rel=1e-9)


def test_documents_lie_whole_on_ranks_that_exchange_all_heads() -> None:
    def packed(ulysses: int) -> None:
        small_experiment(
            node={"accelerators": 4}, model={"heads": 8}, parallelism={"tensor": 1, "context": 4, "ulysses": ulysses},
            training={"sequence_length": 512, "document_length": 128, "global_batch": 4},
        )  # fmt: skip

    packed(4)
    with pytest.raises(ConfigError, match="packed documents over the ranks of a ring"):
        packed(2)


@pytest.mark.parametrize(
    ("parallelism", "model", "told"),
    [
        ({"context": 4, "ulysses": 3}, {}, "context 4 cannot be divided by ulysses 3; use a ulysses of 2 or 4"),
        ({"context": 4, "ulysses": 4}, {"heads": 8, "kv_heads": 2}, "kv_heads of a rank 2 cannot be divided"),
        ({"context": 4, "ulysses": 4}, {"heads": 8, "attention": "unfused"}, "unfused attention exchanges no heads"),
    ],
)
def test_what_cannot_be_is_refused(parallelism: dict[str, int], model: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        small_experiment(
            node={"accelerators": 4}, model=model, parallelism={"tensor": 1, **parallelism},
            training={"sequence_length": 512},
        )  # fmt: skip
    assert any(told in str(problem) for problem in error.value.problems), error.value
