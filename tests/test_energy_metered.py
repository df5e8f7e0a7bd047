"""Node power and run energy against the meters of MLPerf Training, one profile of each board for all runs.

Readings: power logs of mlcommons/training_results_v4.0, v4.1 and v5.0, mean over the runs of a submission and over
its nodes, at the plug (AC) or behind the supplies (DC); switches not metered. ResNet-50, SSD, U-Net, DLRM and
Stable Diffusion of the same logs are no transformers and have no workload here. BERT-large is taken as a decoder of
the same sizes whose pass is fp8, 48 sequences at a time. Times to train are not predicted: how many samples a run
takes to converge is chance, so energy is the modelled power over the metered time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil
from statistics import mean
from typing import Any

import pytest

from sim.ask.run.step import prepare_step
from sim.inputs.load import load_experiment
from sim.metrics.energy import Consumption, consumption
from sim.metrics.energy_plant import efficiency
from sim.metrics.energy_run import Levels
from sim.metrics.energy_step import activity_of

IMMERSED = "smc-h100-immersion"
EVERY, VALIDATION = 384, 173  # samples between evaluations, and in one: rules of the LoRA benchmark
# Assumption: around each evaluation nothing computes for 3 s. The meters did not set it, times bound it: those of the
# 8 and 64 node runs, less steps of 0.54 and 0.65 s and evaluations, leave 0 to 5 s for 8 to 16 evaluations a run.
PAUSE_S = 3.0


@dataclass(frozen=True)
class Metered:
    """One submission: what ran, and its meters. kwh: all nodes, one run."""

    name: str
    workload: str
    nodes: int
    watts: float  # mean of a node
    minutes: float
    kwh: float
    side: str = "AC"
    cluster: str = "dgx-h100-superpod"
    node: str = IMMERSED


RUNS = (
    Metered("gpt3-ac", "gpt3", 64, 6850, 56.865, 415.4779),
    Metered("gpt3-dc", "gpt3", 64, 6743, 56.865, 409.0153, "DC"),
    Metered("bert-ac", "bert", 1, 6859, 5.318, 0.6081),
    Metered("bert-dc", "bert", 1, 6704, 5.318, 0.5943, "DC"),
    Metered("lora-1-dc", "lora", 1, 6956, 28.132, 3.2613, "DC"),
    Metered("lora-8-dc", "lora", 8, 5717, 5.304, 4.043, "DC"),
    Metered("lora-64-dc", "lora", 64, 4989, 1.954, 10.3983, "DC"),
    Metered("lora-8-air", "lora", 8, 7106, 5.009, 4.7471, node="dgx-h100"),
    Metered("lora-1-b200", "lora", 1, 9581, 11.224, 1.7923, cluster="dgx-b200-superpod", node="dgx-b200"),
)
BY_NAME = {run.name: run for run in RUNS}


def experiment(run: Metered) -> dict[str, Any]:
    cluster = {"extends": run.cluster, "node": run.node}
    return {"cluster": cluster, "nodes": run.nodes, "software": "nemo", **WORKLOADS[run.workload](run)}


def gpt3(_: Metered) -> dict[str, Any]:
    """The plan of the submission."""
    return {
        "workload": "gpt3-175b",
        "parallelism": {
            "tensor": 4, "pipeline": 8, "virtual_stages": 12, "zero_stage": 1, "sequence_parallel": True,
        },
        "training": {"global_batch": 2048, "sequence_length": 2048, "precision": "fp8"},
    }  # fmt: skip


def bert(_: Metered) -> dict[str, Any]:
    return {
        "workload": {"kind": "transformer", "layers": 24, "hidden": 1024, "heads": 16, "ffn": 4096, "vocab": 30592},
        "training": {"global_batch": 768, "microbatch": 48, "sequence_length": 512, "precision": "fp8"},
    }


def lora(run: Metered) -> dict[str, Any]:
    """As many samples as replicas; plan of NVIDIA's configuration files for as many nodes."""
    tensor, context = (1, 1) if "b200" in run.cluster else (4, 1 if run.nodes == 1 else 2)
    adapters = {"rank": 16, "targets": ["qkv", "attention_output"], "dropout": True}
    training = {"global_batch": max(8, run.nodes), "sequence_length": 8192, "precision": "fp8", "lora": adapters}
    parallelism = {"tensor": tensor, "context": context, "sequence_parallel": tensor > 1}
    return {"workload": "llama2-70b", "parallelism": parallelism, "training": training}


WORKLOADS = {"gpt3": gpt3, "bert": bert, "lora": lora}


@cache
def used(run: Metered) -> tuple[Consumption, int, int]:
    """What the run draws, its replicas, and its samples per step."""
    simulated = prepare_step(load_experiment(experiment(run)).experiment).run()
    spent = consumption(activity_of(simulated.trace, simulated.job), None)
    return spent, simulated.setup.data, simulated.setup.training.global_batch


def node_watts(levels: Levels, phase: str, side: str) -> float:
    """Power of one node of the job in a phase of the run."""
    output = sum(levels.accelerators(phase, levels.nodes).values()) / levels.nodes + levels.plant.base(True)
    return output if side == "DC" else output / efficiency(levels.plant.node.supply, output)


def modelled_watts(run: Metered) -> float:
    """Mean power of a node over a run."""
    spent, replicas, batch = used(run)
    training = node_watts(spent.levels, "training", run.side)
    if run.workload != "lora":
        return training
    pausing = node_watts(spent.levels, "restore", run.side)
    step = spent.levels.step.seconds
    # With frozen weights the backward pass is the input gradients only: as much as the forward pass.
    forward = 0.5 * step / (batch / replicas)
    busy = EVERY / batch * step + ceil(VALIDATION / replicas) * forward
    return (busy * training + PAUSE_S * pausing) / (busy + PAUSE_S)


def power_error(run: Metered) -> float:
    return modelled_watts(run) / run.watts - 1


def energy_error(run: Metered) -> float:
    return modelled_watts(run) * run.nodes * run.minutes / 60 / 1000 / run.kwh - 1


def test_node_power_is_as_metered() -> None:
    """7 % on average, no run off by more than 12 %."""
    errors = [power_error(run) for run in RUNS]
    assert mean(map(abs, errors)) < 0.07
    assert max(map(abs, errors)) < 0.12


def test_run_energy_is_as_metered() -> None:
    errors = [energy_error(run) for run in RUNS]
    assert mean(map(abs, errors)) < 0.08


def test_more_nodes_draw_less_each_because_they_pause_more_often() -> None:
    """LoRA: the fewer steps between two evaluations, the larger the part of the run in which nothing computes."""
    one, eight, many = (modelled_watts(BY_NAME[f"lora-{nodes}-dc"]) for nodes in (1, 8, 64))
    assert one > 1.05 * eight > 1.05**2 * many


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_boards_stay_within_their_limit_and_above_waiting(run: Metered) -> None:
    spent = used(run)[0]
    levels = spent.levels
    assert levels.waiting < levels.step.watts / levels.step.ranks <= spent.tdp / spent.ranks
