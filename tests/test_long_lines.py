"""Latency counts: bytes on their way are bounded by the window of a connection, steps in a node by their hop."""

from __future__ import annotations

from typing import Any

import pytest
from plans import job_of, small_experiment

from sim.ask.run.simulate import simulate
from sim.ask.run.step import simulate_step
from sim.comm.pattern import Group
from sim.comm.tuner import PATTERNS
from sim.inputs.load import load_experiment
from sim.programs.ranks import Job

WINDOW = 12 * 2**20
ADAPTER = 25e9


def replicas(latency: float, **nics: Any) -> Job:
    """Two nodes of eight replicas, each over its adapter, `latency` s from adapter to switch and from there on."""
    node = {"nics": {"latency": latency, **nics}}
    return job_of(small_experiment(nodes=2, node=node, training={"global_batch": 16}))


def rates(job: Job, kind: str = "gradient") -> list[float]:
    """What a ring of that kind reaches alone, by its flow and by its communicator [B/s]."""
    flow = next(flow for flow in job.flows if flow.kind == kind)
    return [flow.rate, flow.group.rate]


def test_a_connection_moves_its_window_in_a_round_trip() -> None:
    """A ring over eight adapters has eight connections from node to node."""
    far = 2 * 4e-4  # adapter, switch, adapter
    assert rates(replicas(4e-4)) == pytest.approx([8 * WINDOW / (2 * far)] * 2)
    assert rates(replicas(4e-4, window=1e6)) == pytest.approx([8 * 1e6 / (2 * far)] * 2)


def test_short_lines_are_not_held_back() -> None:
    assert rates(replicas(1e-6)) == pytest.approx([8 * ADAPTER] * 2)
    table = replicas(1e-6).table
    assert (table.link_example >= 0).all()


def test_a_line_of_500_us_halves_a_ring() -> None:
    """Full bandwidth at 20 us, nearly half of it at several hundred (NVIDIA/nccl-tests issue 241)."""

    def network_rate(latency: str) -> float:
        fabric = {"kind": "switch", "rail_optimized": True, "link": {"bandwidth": "200 Gb/s", "latency": latency}}
        cluster = {"name": "two-sites", "nodes": 4, "node": "dgx-a100", "fabric": fabric}
        source = {
            "cluster": cluster,
            "workload": "gpt3-1.3b",
            "training": {"global_batch": 32, "sequence_length": 2048},
        }
        return rates(job_of(load_experiment(source).experiment))[0]

    near, far = network_rate("20 us"), network_rate("500 us")
    assert 0.45 < far / near < 0.6


def test_the_limit_is_no_link_of_the_report() -> None:
    result = simulate(small_experiment(nodes=2, node={"nics": {"latency": 4e-4}}, training={"global_batch": 16}))
    assert result.utilization.links
    assert all(use.name for use in result.utilization.links)


@pytest.mark.parametrize(
    ("pattern", "collective", "steps"),
    [
        ("ring", "all_reduce", 14),
        ("ring", "all_gather", 7),
        ("tree", "all_reduce", 14),
        ("in_network", "all_reduce", 1),
        ("exchange", "all_to_all", 1),
    ],
)
def test_every_pattern_waits_for_the_hops_inside_a_node(pattern: str, collective: str, steps: int) -> None:
    node = job_of(small_experiment()).plan.cluster.node
    (leg,) = PATTERNS[pattern].cost(collective, 8.0, Group(8, 1, 1.0), node)
    assert leg.latency == pytest.approx(steps * 1.0)


def test_a_second_of_latency_inside_the_node_is_felt_by_tensor_parallel_runs() -> None:
    def step(latency: float) -> float:
        local = {"latency": latency}
        return simulate_step(small_experiment(node={"local": local}, parallelism={"tensor": 8})).trace.time

    assert step(1.0) > 100.0
    assert step(0.0) == step(1e-6)  # ring_hop was measured with its hop
