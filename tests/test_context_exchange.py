"""Ranks that share a sequence and exchange heads for positions (DeepSpeed-Ulysses): bytes, work, checks."""

from __future__ import annotations

from typing import Any

import pytest
from equal import assert_same
from plans import small_experiment
from test_shortcuts import SHORTCUTS

from sim.ask.run.reuse import plan_step
from sim.ask.run.step import simulate_step
from sim.errors import ConfigError
from sim.graph.operation import Operation
from sim.inputs.records import Experiment
from sim.phase import Phase

HEADS, KV_HEADS, WIDTH = 16, 8, 64


def job(context: int, length: int = 2048, exchange: str = "all_to_all", **parts: Any) -> Experiment:
    return small_experiment(
        nodes=2,
        model={"heads": HEADS, "kv_heads": KV_HEADS, **parts.pop("model", {})},
        parallelism={"context": context, "context_exchange": exchange, **parts.pop("parallelism", {})},
        training={"global_batch": 16, "sequence_length": length, **parts.pop("training", {})},
        **parts,
    )


def operations(experiment: Experiment, phase: Phase) -> list[Operation]:
    """Of one layer."""
    (piece, *_) = (
        piece
        for chunk in plan_step(experiment).chunks
        for segment in chunk.segments
        for piece in segment.pieces
        if any(each.kind == "attention" for each in piece.passes.by_phase[0].operations)
    )
    return list(piece.passes.by_phase[phase].operations)


def exchanged(experiment: Experiment, phase: Phase) -> list[Operation]:
    return [each for each in operations(experiment, phase) if each.group == "context"]


@pytest.mark.parametrize("context", [2, 4, 8])
@pytest.mark.parametrize("phase", [Phase.FORWARD, Phase.INPUT_GRADIENT])
def test_queries_keys_values_and_output_are_exchanged(phase: Phase, context: int) -> None:
    """Jacobs 2023, section 3.2: 4 N h of a layer and pass for as many key heads as heads, over P ranks."""
    found = exchanged(job(context), phase)
    tokens, element = 2048 / context, 2
    assert {each.collective for each in found} == {"all_to_all"}
    sizes = sorted(each.message for each in found)
    output, inputs = HEADS * WIDTH * tokens * element, (HEADS + 2 * KV_HEADS) * WIDTH * tokens * element
    assert sizes == sorted([output, inputs])


def test_traffic_stays_as_sequence_and_ranks_grow_together() -> None:
    """Jacobs 2023, section 3.2; a ring's grows with the sequence."""

    def sent(context: int, exchange: str) -> float:
        return sum(each.message for each in exchanged(job(context, 1024 * context, exchange), Phase.FORWARD))

    assert sent(2, "all_to_all") == sent(8, "all_to_all")
    assert sent(8, "ring") == 4 * sent(2, "ring")


@pytest.mark.parametrize("phase", [Phase.FORWARD, Phase.INPUT_GRADIENT])
def test_work_is_that_of_a_ring(phase: Phase) -> None:
    flops = [
        sum(each.flops for each in operations(job(4, exchange=exchange), phase) if each.kind != "elementwise")
        for exchange in ("ring", "all_to_all")
    ]
    assert flops[1] == pytest.approx(flops[0], rel=1e-12)


def test_a_kernel_sees_all_positions_of_a_share_of_the_heads() -> None:
    (kernel,) = (each for each in operations(job(4), Phase.FORWARD) if each.kind == "attention")
    assert (kernel.batch, kernel.m, kernel.n) == (HEADS // 4, 2048, 2048)


@pytest.mark.parametrize("zero", [0, 3])
def test_shortcuts_are_exact(zero: int) -> None:
    overlap = {"gradient_overlap": True, "overlap_slowdown": 0.1}
    experiment = job(4, parallelism={"zero_stage": zero}, software=overlap)
    simulation = experiment.simulation.model_copy(update=dict.fromkeys(SHORTCUTS, "off"))
    assert_same(simulate_step(experiment), simulate_step(experiment.model_copy(update={"simulation": simulation})))


def test_one_rank_has_nothing_to_exchange() -> None:
    assert_same(simulate_step(job(1)), simulate_step(job(1, exchange="ring")))


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (
            {"model": {"kv_heads": 2}},
            "all_to_all needs whole heads, kv_heads 2 do not divide over tensor . context = 4",
        ),
        ({"model": {"attention": "unfused"}}, "all_to_all is modelled for fused attention"),
        ({"length": 2050}, "sequence_length 2050 is no multiple of context 4"),
    ],
)
def test_what_is_wrong_is_told(parts: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        job(4, **parts)
