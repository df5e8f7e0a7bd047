"""ZeRO-3 that gathers weights as 8-bit integers (ZeRO++): bytes, kernels, memory, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from equal import assert_same
from plans import bytes_by_link, small_experiment
from test_base_weights import stored
from test_shortcuts import SHORTCUTS

from sim.ask.run.step import simulate_step
from sim.engine.category import Category
from sim.errors import ConfigError
from sim.inputs.records import Experiment
from sim.metrics.memory import memory_by_stage
from sim.models.family import QUANTIZED_BYTES


def job(quantized: bool, **parts: Any) -> Experiment:
    parallelism = {"zero_stage": 3, "quantized_gathers": quantized, **parts.pop("parallelism", {})}
    training = {"global_batch": 8, **parts.pop("training", {})}
    return small_experiment(parallelism=parallelism, training=training, **parts)


def test_matrices_move_in_a_byte_and_their_scales() -> None:
    """0.5 M instead of M for each gather (Wang 2023, arXiv 2306.10209, table 1), of what layers multiply by."""
    plain, step = (simulate_step(job(quantized)) for quantized in (False, True))
    saved = (2 - QUANTIZED_BYTES) * stored(step) * 2 * step.plan.microbatches[0] * 7 / 8
    assert (bytes_by_link(plain) - bytes_by_link(step)).max() == pytest.approx(saved, rel=1e-6)


def test_kernels_pay_for_it() -> None:
    """Each gather, forward and backward: the own eighth read in 2 B and written in one, the whole the other way."""
    plain, step = (simulate_step(job(quantized)) for quantized in (False, True))
    busy = [run.readings.critical.exposed[Category.COMPUTE] for run in (plain, step)]
    memory, launches = step.setup.accelerator.memory, 4 * 2 * step.setup.accelerator.launch
    layers = sum(plain.plan.architecture.held(graph).parameters for graph in plain.plan.architecture.layers)
    traffic = 2 * 3 * (1 + 1 / 8) * layers / (memory.bandwidth * memory.efficiency)
    assert traffic * (1 - 1e-6) <= busy[1] - busy[0] <= 1.6 * traffic + 4 * launches


def test_memory_is_as_before() -> None:
    """What came is made 16 bit again."""
    one, other = (list(memory_by_stage(job(quantized).setup)) for quantized in (False, True))
    assert one == other


def test_it_pays_where_adapters_are_slow() -> None:
    def gain(bandwidth: float) -> float:
        times = [
            simulate_step(job(each, nodes=4, node={"nics": {"bandwidth": bandwidth}}, training={"global_batch": 32}))
            for each in (False, True)
        ]
        return times[0].trace.time / times[1].trace.time

    assert gain(1e9) > 1.2 > gain(100e9)


def test_shortcuts_are_exact() -> None:
    experiment = job(True, nodes=2, training={"global_batch": 48}, software={"gradient_overlap": True})
    simulation = experiment.simulation.model_copy(update=dict.fromkeys(SHORTCUTS, "off"))
    assert_same(simulate_step(experiment), simulate_step(experiment.model_copy(update={"simulation": simulation})))


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"parallelism": {"zero_stage": 1}}, "zero_stage 1 gathers no weights in its passes; set zero_stage to 3"),
        ({"training": {"lora": {"rank": 8}}}, "weights beside adapters in 8 bit are not modelled"),
    ],
)
def test_what_is_wrong_is_told(parts: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        job(True, **parts)
