"""ZeRO-3 with a second copy of the weights for the backward pass (ZeRO++, hpZ): bytes, memory, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from equal import assert_same
from plans import bytes_by_link, small_experiment
from test_shortcuts import SHORTCUTS

from sim.ask.run.step import Simulated, simulate_step
from sim.engine.category import Category
from sim.errors import ConfigError
from sim.inputs.records import Experiment
from sim.metrics.memory import memory_by_stage

NODES, RANKS = 2, 8  # ranks of a node


def job(second_copy: int | None, **parts: Any) -> Experiment:
    parallelism = {"zero_stage": 3, "second_copy": second_copy, **parts.pop("parallelism", {})}
    training = {"global_batch": 48, **parts.pop("training", {})}
    return small_experiment(parallelism=parallelism, training=training, **{"nodes": NODES, **parts})


def parameters(run: Simulated) -> float:
    """Parameters of all segments of the model."""
    return float(sum(each.parameters for chunk in run.plan.chunks for each in chunk.segments))


def test_two_of_three_collectives_leave_the_node() -> None:
    """M a gather and M for gradients: 3 M between nodes, 2 M with hpZ (Wang 2023, arXiv 2306.10209, table 1)."""
    plain, step = (bytes_by_link(simulate_step(job(each))) for each in (None, RANKS))
    links = simulate_step(job(RANKS)).cluster.links
    slow = links.capacity == links.capacity.min()
    assert step[slow] == pytest.approx(plain[slow] * 2 / 3, rel=1e-9)


def test_the_backward_pass_gathers_inside_the_node() -> None:
    """An accelerator sends 7/8 of what it gathers among 8, beside two thirds of what all three had sent."""
    plain, run = simulate_step(job(None)), simulate_step(job(RANKS))
    inside = run.cluster.links.capacity == run.cluster.links.capacity.max()
    gathered = 2 * parameters(run) * (RANKS - 1) / RANKS * run.plan.microbatches[0]
    expected = bytes_by_link(plain)[inside] * 2 / 3 + gathered
    assert bytes_by_link(run)[inside] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("sharers", [2, 4, 8])
def test_memory_holds_a_second_copy(sharers: int) -> None:
    """2 B of each parameter, divided by those that share it; nothing else is held."""
    (plain,), (more,) = (list(memory_by_stage(job(each).setup)) for each in (None, sharers))
    copy = 2 * parameters(simulate_step(job(None))) / sharers
    assert more["weights"] - plain["weights"] == pytest.approx(copy, rel=1e-9)
    assert {key: value for key, value in more.items() if value != plain[key]}.keys() == {"weights"}


def test_it_pays_where_adapters_are_slow() -> None:
    def gain(bandwidth: float) -> float:
        node = {"nics": {"bandwidth": bandwidth}}
        plain, step = (simulate_step(job(each, node=node)).trace.time for each in (None, RANKS))
        return plain / step

    assert 1.5 > gain(1e9) > 1.3 > gain(100e9)


def test_gathers_in_8_bit_read_the_own_eighth_again() -> None:
    """qwZ beside hpZ: the share that is made 8 bit is that of the group that gathers, 1/16 forward and 1/8 backward."""
    runs = [simulate_step(job(each, parallelism={"quantized_gathers": True})) for each in (None, RANKS)]
    both = runs[1]
    busy = [run.readings.critical.exposed[Category.COMPUTE] for run in runs]
    memory = both.setup.accelerator.memory
    layers = sum(both.plan.architecture.held(graph).parameters for graph in both.plan.architecture.layers)
    traffic = 3 * (1 / 8 - 1 / 16) * layers * both.plan.microbatches[0] / (memory.bandwidth * memory.efficiency)
    assert busy[1] - busy[0] == pytest.approx(traffic, rel=0.01)
    slow = both.cluster.links.capacity == both.cluster.links.capacity.min()
    plain16 = bytes_by_link(simulate_step(job(None)))[slow].max()
    crossing = [bytes_by_link(run)[slow].max() for run in runs]
    assert plain16 / 3 < crossing[1] < crossing[0] < plain16
    assert crossing[0] - crossing[1] == pytest.approx(crossing[1] - plain16 / 3, rel=1e-9)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("parallelism", [{}, {"tensor": 2, "pipeline": 2, "second_copy": 2}])
def test_shortcuts_are_exact(parallelism: dict[str, Any], overlap: bool) -> None:
    software = {"gradient_overlap": overlap, "parameter_prefetch": overlap, "overlap_slowdown": 0.1}
    experiment = job(RANKS, parallelism=parallelism, software=software)
    simulation = experiment.simulation.model_copy(update=dict.fromkeys(SHORTCUTS, "off"))
    assert_same(simulate_step(experiment), simulate_step(experiment.model_copy(update={"simulation": simulation})))


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"parallelism": {"zero_stage": 1}}, "zero_stage 1 gathers no weights in its passes; set zero_stage to 3"),
        ({"parallelism": {"second_copy": 3}}, "16 cannot be divided by second_copy 3"),
        ({"parallelism": {"second_copy": 16}}, "all 16 ranks share the first copy already"),
        ({"parallelism": {"shard_group": 4}}, "a second copy beside shard_group is not modelled"),
        ({"training": {"lora": {"rank": 8}}}, "a second copy beside training.lora is not modelled"),
        ({"training": {"offload": {"parameters": True, "optimizer": True}}}, "offload.parameters is not modelled"),
    ],
)
def test_what_is_wrong_is_told(parts: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        job(RANKS, **parts)
